//! We log in to a server.
//!
//! A server is not trusted to be well-behaved: every message has a limit, the conversation has
//! one, and the SCRAM iterations have one.

use std::io;

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::kdf::{Kdf, KdfClosed};
use super::scram::MECHANISM;
use super::secret::Verifier;
use crate::wire::message::{parse_parameter_status, parse_ready_for_query};
use crate::wire::startup::encode_startup;
use crate::wire::tag::server as tag;
use crate::wire::{
    Authentication, BackendKey, ErrorResponse, MAX_LOGIN_MESSAGE, MessageError, ProtocolVersion,
    RawMessage, Report, SqlState, StartupError, TxStatus, frontend,
};

/// Longest SASL message that we take: PostgreSQL's are about a hundred bytes (CVE-2026-6665).
const MAX_SASL_DATA: usize = 4096;
/// Most messages of one login. PostgreSQL sends about twenty.
const MAX_MESSAGES: usize = 1000;
/// Most bytes of one login.
const MAX_TOTAL: usize = 1 << 20;

/// As whom we log in, and for what.
#[derive(Debug, Clone, Copy)]
pub struct ServerLogin<'a> {
    /// User name, the same as in `params`.
    pub user: &'a str,
    /// All parameters of the startup packet, `user` and `database` included, in order.
    pub params: &'a [(Bytes, Bytes)],
    /// What we know of the password. A SCRAM secret cannot log in: it proves, it does not tell.
    pub secret: Option<&'a Verifier>,
}

/// What a server tells us when it lets us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    /// `ParameterStatus` in the server's order and bytes.
    pub params: Vec<(Bytes, Bytes)>,
    /// `NoticeResponse` bodies as they came.
    pub notices: Vec<Bytes>,
    /// For cancel requests; PostgreSQL always sends it, some servers that resemble it do not.
    pub key: Option<BackendKey>,
}

/// Why we are not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The server said no, in its own words.
    #[error("server refused the login: {report}")]
    Refused {
        /// Body of the `ErrorResponse` as it came.
        raw: Bytes,
        /// The same, understood.
        report: Box<Report>,
    },
    /// The server wants a proof that we cannot give; says which.
    #[error("server asks for {0}, for which there is no usable secret of user \"{1}\"")]
    NoSecret(&'static str, String),
    /// Kerberos and the like, or SASL without SCRAM-SHA-256.
    #[error("server asks for an authentication method that is not supported")]
    UnsupportedMethod,
    /// SCRAM failed on our side: a bad message, too many iterations, or the server does not know
    /// the password either.
    #[error("scram exchange with the server failed: {0}")]
    Scram(String),
    /// A message that does not belong here.
    #[error("unexpected message of type {0:#04x} from the server during login")]
    Unexpected(u8),
    /// A message that is too long or not what its type promises.
    #[error("server login failed: {0}")]
    Message(#[from] MessageError),
    /// More messages or bytes than a login has.
    #[error("server sent too much during login")]
    TooMuch,
    /// Bytes behind the first `ReadyForQuery`.
    #[error("server sent data after login without being asked")]
    Unsolicited,
    /// Our parameters do not make a startup packet.
    #[error("parameters do not fit a startup packet: {0}")]
    Startup(#[from] StartupError),
    /// The server hung up.
    #[error("server closed the connection during login")]
    Closed,
    /// The connection broke.
    #[error("connection to the server broke during login: {0}")]
    Io(#[from] io::Error),
    /// The instance goes down.
    #[error(transparent)]
    Kdf(#[from] KdfClosed),
}

impl LoginError {
    /// The server's own SQLSTATE, if it refused with one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Self::Refused { report, .. } => report.code,
            _ => None,
        }
    }

    /// Would the same login fail again for the same reason? Then whoever waits for it must hear
    /// so. Else it is the server's trouble of the moment (it starts, stops, is full, is broken),
    /// and trying again makes sense.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { report, .. } => report.code.is_some_and(|code| {
                let class = code.as_str().get(..2).unwrap_or_default();
                !matches!(class, "08" | "53" | "57" | "58" | "XX")
            }),
            Self::NoSecret(..) | Self::UnsupportedMethod | Self::Scram(_) | Self::Startup(_) => {
                true
            }
            Self::Unexpected(_)
            | Self::Message(_)
            | Self::TooMuch
            | Self::Unsolicited
            | Self::Closed
            | Self::Io(_)
            | Self::Kdf(_) => false,
        }
    }

    /// What a client that waits for this server hears. A refusal is the server's, as far as it
    /// can be understood; all else is told to the log, not to the client.
    pub fn client_facing(&self) -> Option<ErrorResponse> {
        Some(match self {
            Self::Refused { report, .. } => (**report).clone().into_fatal(),
            _ => ErrorResponse::fatal(SqlState::SYSTEM_ERROR, "server login failed"),
        })
    }

    /// Appends the same as a message: a sound refusal byte for byte as the server sent it.
    pub fn encode_for_client(&self, out: &mut BytesMut) {
        match self {
            Self::Refused { raw, report } if report.well_formed => {
                RawMessage {
                    tag: tag::ERROR,
                    body: raw.clone(),
                }
                .encode(out);
            }
            _ => {
                if let Some(error) = self.client_facing() {
                    error.encode(out);
                }
            }
        }
    }
}

/// Sends the startup packet and talks until the server is ready. The deadline is the caller's; on
/// any error, and when this future is dropped, the connection is good for nothing any more.
pub async fn login<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: ServerLogin<'_>,
    kdf: &Kdf,
) -> Result<ServerHello, LoginError> {
    let mut out = BytesMut::new();
    let params = login
        .params
        .iter()
        .map(|(name, value)| (&name[..], &value[..]));
    encode_startup(ProtocolVersion::V3_0, params, &mut out)?;
    let mut talk = Conversation {
        stream,
        buf: BytesMut::new(),
        messages: 0,
        bytes: 0,
    };
    talk.send(&out).await?;
    prove(&mut talk, login, kdf).await?;

    let mut hello = ServerHello {
        params: Vec::new(),
        notices: Vec::new(),
        key: None,
    };
    loop {
        let message = talk.next().await?;
        match message.tag {
            tag::PARAMETER_STATUS => hello.params.push(parse_parameter_status(&message.body)?),
            tag::NOTICE => hello.notices.push(message.body),
            tag::BACKEND_KEY_DATA if hello.key.is_none() => {
                hello.key = Some(BackendKey::parse(message.body)?);
            }
            tag::READY_FOR_QUERY => {
                if parse_ready_for_query(&message.body)? != TxStatus::Idle {
                    return Err(LoginError::Unexpected(message.tag));
                }
                let done = talk.buf.is_empty();
                return if done {
                    Ok(hello)
                } else {
                    Err(LoginError::Unsolicited)
                };
            }
            other => return Err(LoginError::Unexpected(other)),
        }
    }
}

/// Answers the server's authentication requests up to its `AuthenticationOk`.
async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    talk: &mut Conversation<'_, S>,
    login: ServerLogin<'_>,
    kdf: &Kdf,
) -> Result<(), LoginError> {
    let no_secret = |method| LoginError::NoSecret(method, login.user.to_owned());
    let mut out = BytesMut::new();
    match talk.authentication().await? {
        Authentication::Ok => return Ok(()),
        Authentication::CleartextPassword => {
            let Some(Verifier::Plain(password)) = login.secret else {
                return Err(no_secret("a password in clear"));
            };
            frontend::password_message(password.expose().as_bytes(), &mut out)?;
        }
        Authentication::Md5Password { salt } => {
            let response = login.secret.and_then(|s| s.md5_response(login.user, salt));
            let response = response.ok_or_else(|| no_secret("an MD5 password"))?;
            frontend::password_message(response.as_bytes(), &mut out)?;
        }
        Authentication::Sasl(mechanisms) => {
            if !mechanisms.iter().any(|m| m == MECHANISM.as_bytes()) {
                return Err(LoginError::UnsupportedMethod);
            }
            let Some(Verifier::Plain(password)) = login.secret else {
                return Err(no_secret(MECHANISM));
            };
            scram(talk, password.expose().as_bytes(), kdf).await?;
        }
        Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
            return Err(LoginError::Unexpected(tag::AUTHENTICATION));
        }
        Authentication::Unsupported(_) => return Err(LoginError::UnsupportedMethod),
    }
    if !out.is_empty() {
        talk.send(&out).await?;
    }
    match talk.authentication().await? {
        Authentication::Ok => Ok(()),
        _ => Err(LoginError::Unexpected(tag::AUTHENTICATION)),
    }
}

/// Both proofs of SCRAM: ours, and the server's that it knows the password too.
async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
    talk: &mut Conversation<'_, S>,
    password: &[u8],
    kdf: &Kdf,
) -> Result<(), LoginError> {
    let failed = |error: io::Error| LoginError::Scram(error.to_string());
    let mut exchange = ScramSha256::new(password, ChannelBinding::unsupported());
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(MECHANISM, exchange.message(), &mut out)?;
    talk.send(&out).await?;

    let Authentication::SaslContinue(challenge) = talk.authentication().await? else {
        return Err(LoginError::Unexpected(tag::AUTHENTICATION));
    };
    check_sasl(&challenge)?;
    // PBKDF2, with the server's iterations (the library stops at 100 000).
    let (mut exchange, result) = kdf
        .run(move || {
            let result = exchange.update(&challenge);
            (exchange, result)
        })
        .await?;
    result.map_err(failed)?;
    out.clear();
    frontend::sasl_response(exchange.message(), &mut out)?;
    talk.send(&out).await?;

    let Authentication::SaslFinal(proof) = talk.authentication().await? else {
        return Err(LoginError::Unexpected(tag::AUTHENTICATION));
    };
    check_sasl(&proof)?;
    exchange.finish(&proof).map_err(failed)
}

fn check_sasl(data: &Bytes) -> Result<(), LoginError> {
    if data.len() > MAX_SASL_DATA {
        return Err(LoginError::Scram("message is too long".to_owned()));
    }
    Ok(())
}

struct Conversation<'a, S> {
    stream: &'a mut S,
    buf: BytesMut,
    messages: usize,
    bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, S> {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), LoginError> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The next message; an `ErrorResponse` is the end wherever it comes.
    async fn next(&mut self) -> Result<RawMessage, LoginError> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(LoginError::TooMuch);
        }
        loop {
            if let Some(message) = RawMessage::take(&mut self.buf, MAX_LOGIN_MESSAGE)? {
                if message.tag == tag::ERROR {
                    let report = Box::new(Report::parse(&message.body));
                    return Err(LoginError::Refused {
                        raw: message.body,
                        report,
                    });
                }
                return Ok(message);
            }
            self.buf.reserve(4096);
            let read = self.stream.read_buf(&mut self.buf).await?;
            if read == 0 {
                return Err(LoginError::Closed);
            }
            self.bytes += read;
            if self.bytes > MAX_TOTAL {
                return Err(LoginError::TooMuch);
            }
        }
    }

    /// The next authentication request. Notices may come before it; they are not kept, since
    /// nobody has proven anything yet.
    async fn authentication(&mut self) -> Result<Authentication, LoginError> {
        loop {
            let message = self.next().await?;
            match message.tag {
                tag::AUTHENTICATION => return Ok(Authentication::parse(message.body)?),
                tag::NOTICE => {}
                other => return Err(LoginError::Unexpected(other)),
            }
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
