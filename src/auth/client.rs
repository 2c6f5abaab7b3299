//! A client proves who it is.
//!
//! Identity is fixed when this begins: nothing that the client sends here can change it
//! (CVE-2026-107350), a second startup packet least of all. Users who do not exist go through the
//! same motions as those who do.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

use super::kdf::{Kdf, KdfClosed};
use super::scram::{self, Exchange, ScramError, ScramVerifier};
use super::secret::Verifier;
use crate::config::{AuthType, Secret, UserName};
use crate::wire::tag::client::PASSWORD;
use crate::wire::{
    Authentication, ErrorResponse, MAX_AUTH_MESSAGE, MessageError, RawMessage, SqlState,
};

/// Who wants in, and how that is to be proven.
#[derive(Debug, Clone, Copy)]
pub struct ClientLogin<'a> {
    /// From the startup packet.
    pub user: &'a str,
    /// `auth_type`.
    pub auth_type: AuthType,
    /// The stored secret; `None` for a user who does not exist.
    pub verifier: Option<&'a Verifier>,
}

/// Checks clients. One per instance; remembers what it derived from passwords stored in clear, so
/// that the second login of a user costs no PBKDF2.
#[derive(Debug)]
pub struct Authenticator {
    mock_secret: InstanceSecret,
    kdf: Kdf,
    derived: Mutex<HashMap<UserName, Derived>>,
}

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The user did not prove who it is. The client hears the same whatever the reason.
    #[error("password authentication failed for user \"{user}\": {reason}")]
    Rejected {
        /// Who wanted in.
        user: String,
        /// For the log only.
        reason: RejectReason,
    },
    /// Something else than the answer that was asked for.
    #[error("expected password response, got message type {0}")]
    Unexpected(u8),
    /// A length out of bounds.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The right type and wrong contents; says what.
    #[error("malformed password response: {0}")]
    Malformed(&'static str),
    /// A SCRAM exchange against the rules.
    #[error(transparent)]
    Scram(ScramError),
    /// The client hung up.
    #[error("client closed the connection during authentication")]
    Closed,
    /// The connection broke.
    #[error("connection broke during authentication: {0}")]
    Io(#[from] io::Error),
    /// No random bytes to be had.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// The instance goes down.
    #[error(transparent)]
    Kdf(#[from] KdfClosed),
}

/// Why [`AuthError::Rejected`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// Not in the user list.
    #[error("no such user")]
    UnknownUser,
    /// It is not the password.
    #[error("wrong password")]
    WrongPassword,
    /// An empty one, which is never right.
    #[error("empty password")]
    EmptyPassword,
    /// Nothing is stored.
    #[error("user has no password")]
    NoPassword,
    /// What is stored cannot be used with `auth_type`, e.g. an MD5 secret with SCRAM.
    #[error("stored secret does not serve this auth_type")]
    UnusableSecret,
}

impl AuthError {
    /// What the client hears before the connection is closed; `None`: nothing.
    pub fn client_facing(&self) -> Option<ErrorResponse> {
        let violation = |m: String| Some(ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, m));
        match self {
            Self::Rejected { user, .. } => Some(ErrorResponse::fatal(
                SqlState::INVALID_PASSWORD,
                format!("password authentication failed for user \"{user}\""),
            )),
            Self::Unexpected(tag) => violation(format!(
                "expected password response, got message type {tag}"
            )),
            Self::Message(_) => violation("invalid password packet size".to_owned()),
            Self::Malformed(message) => violation((*message).to_owned()),
            Self::Scram(error) => error.client_facing(),
            Self::Closed | Self::Io(_) => None,
            Self::Random(_) => Some(ErrorResponse::fatal(
                SqlState::INTERNAL_ERROR,
                "could not generate random salt",
            )),
            Self::Kdf(_) => Some(ErrorResponse::fatal(
                SqlState::CANNOT_CONNECT_NOW,
                "the pooler is shutting down",
            )),
        }
    }
}

impl Authenticator {
    /// `mock_secret` decides the salts that unknown users are shown; give every instance of a
    /// service the same one, and keep it over restarts.
    pub fn new(mock_secret: [u8; 32], kdf: Kdf) -> Self {
        Self {
            mock_secret: InstanceSecret(mock_secret),
            kdf,
            derived: Mutex::default(),
        }
    }

    /// Talks to the client until it has proven who it is, up to and without `AuthenticationOk`:
    /// that is the caller's to send when there is something behind it. (libpq tries its next host
    /// on a 57P03 only before it.)
    ///
    /// `buf` may hold bytes that were read already; bytes that belong to what comes later stay in
    /// it. A failure is *not* told to the client here: see [`AuthError::client_facing`].
    pub async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        buf: &mut BytesMut,
        login: ClientLogin<'_>,
    ) -> Result<(), AuthError> {
        let mut talk = Conversation { stream, buf, login };
        match (login.auth_type, login.verifier) {
            (AuthType::Trust, Some(_)) => Ok(()),
            (AuthType::Trust, None) => Err(talk.rejected(RejectReason::UnknownUser)),
            (AuthType::Plain, _) => self.cleartext(&mut talk).await,
            (AuthType::ScramSha256, _) | (AuthType::Md5, Some(Verifier::Scram(_))) => {
                self.scram(&mut talk).await
            }
            (AuthType::Md5, _) => md5(&mut talk).await,
        }
    }

    async fn cleartext<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        talk: &mut Conversation<'_, S>,
    ) -> Result<(), AuthError> {
        let password = talk.ask(&Authentication::CleartextPassword).await?;
        let password = Zeroizing::new(one_cstr(&password)?.to_vec());
        let reason = talk.mismatch();
        if password.is_empty() {
            return Err(talk.rejected(RejectReason::EmptyPassword));
        }
        let ClientLogin { user, verifier, .. } = talk.login;
        let plain_fits = verifier.and_then(|v| v.fits_password(user, &password));
        // Everybody pays for one derivation, so that the time says nothing about who exists and
        // how the secret is stored.
        let scram = match verifier {
            Some(Verifier::Scram(stored)) => stored.clone(),
            _ => ScramVerifier::mock(&self.mock_secret.0, user),
        };
        let work = move || {
            let (salt, iterations) = scram.parameters();
            ScramVerifier::derive(&password, salt, iterations).fits(&scram)
        };
        let scram_fits = self.kdf.run(work).await?;
        if plain_fits.unwrap_or(scram_fits) {
            Ok(())
        } else {
            Err(talk.rejected(reason))
        }
    }

    async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        talk: &mut Conversation<'_, S>,
    ) -> Result<(), AuthError> {
        let user = talk.login.user;
        let verifier = match talk.login.verifier {
            Some(Verifier::Scram(stored)) => Some(stored.clone()),
            Some(Verifier::Plain(password)) => Some(self.derived(user, password).await?),
            _ => None,
        };
        let known = verifier.is_some();
        let verifier = verifier.unwrap_or_else(|| ScramVerifier::mock(&self.mock_secret.0, user));

        let offer = Authentication::Sasl(vec![scram::MECHANISM.into()]);
        let initial = talk.ask(&offer).await?;
        let client_first = sasl_initial_response(&initial)?;
        let mut nonce = [0; scram::NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(AuthError::Random)?;
        let exchange =
            Exchange::begin(client_first, &nonce, &verifier).map_err(AuthError::Scram)?;

        let challenge = exchange.server_first().to_vec();
        let client_final = talk
            .ask(&Authentication::SaslContinue(challenge.into()))
            .await?;
        match exchange.finish(&client_final) {
            // A mock fits nothing; should it ever, the user still does not exist.
            Ok(server_final) if known => {
                talk.send(&Authentication::SaslFinal(server_final.into()))
                    .await
            }
            Ok(_) | Err(ScramError::WrongProof) => Err(talk.rejected(talk.mismatch())),
            Err(error) => Err(AuthError::Scram(error)),
        }
    }

    /// The verifier of a password that is stored in clear, derived at most once per user and
    /// password.
    async fn derived(&self, user: &str, password: &Secret) -> Result<ScramVerifier, AuthError> {
        if let Some(verifier) = self.remembered(user, password) {
            return Ok(verifier);
        }
        let wanted = password.clone();
        let salt = ScramVerifier::salt_for(&self.mock_secret.0, user);
        let work = move || {
            ScramVerifier::derive(wanted.expose().as_bytes(), &salt, scram::DEFAULT_ITERATIONS)
        };
        let verifier = self.kdf.run(work).await?;
        let derived = Derived {
            password: password.clone(),
            verifier: verifier.clone(),
        };
        self.lock().insert(UserName::new(user), derived);
        Ok(verifier)
    }

    fn remembered(&self, user: &str, password: &Secret) -> Option<ScramVerifier> {
        let derived = self.lock();
        derived
            .get(user)
            .filter(|d| d.password == *password)
            .map(|d| d.verifier.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UserName, Derived>> {
        self.derived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct InstanceSecret([u8; 32]);

impl std::fmt::Debug for InstanceSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InstanceSecret(****)")
    }
}

impl Drop for InstanceSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What was derived, and from what: the user list may change.
#[derive(Debug)]
struct Derived {
    password: Secret,
    verifier: ScramVerifier,
}

struct Conversation<'a, S> {
    stream: &'a mut S,
    buf: &'a mut BytesMut,
    login: ClientLogin<'a>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, S> {
    async fn send(&mut self, request: &Authentication) -> Result<(), AuthError> {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Sends a request and waits for the body of the answer.
    async fn ask(&mut self, request: &Authentication) -> Result<Zeroizing<Vec<u8>>, AuthError> {
        self.send(request).await?;
        loop {
            if let Some(body) = take_response(self.buf)? {
                return Ok(body);
            }
            self.buf.reserve(1024);
            if self.stream.read_buf(self.buf).await? == 0 {
                return Err(AuthError::Closed);
            }
        }
    }

    fn rejected(&self, reason: RejectReason) -> AuthError {
        AuthError::Rejected {
            user: self.login.user.to_owned(),
            reason,
        }
    }

    /// What it means if the proof does not fit.
    fn mismatch(&self) -> RejectReason {
        match (self.login.verifier, self.login.auth_type) {
            (None, _) => RejectReason::UnknownUser,
            (Some(Verifier::NoPassword), _) => RejectReason::NoPassword,
            (Some(Verifier::Md5(_)), AuthType::ScramSha256) => RejectReason::UnusableSecret,
            (Some(_), _) => RejectReason::WrongPassword,
        }
    }
}

async fn md5<S: AsyncRead + AsyncWrite + Unpin>(
    talk: &mut Conversation<'_, S>,
) -> Result<(), AuthError> {
    let mut salt = [0; 4];
    getrandom::fill(&mut salt).map_err(AuthError::Random)?;
    let response = talk.ask(&Authentication::Md5Password { salt }).await?;
    let response = one_cstr(&response)?;
    let expected = talk
        .login
        .verifier
        .and_then(|v| v.md5_response(talk.login.user, salt));
    let fits =
        expected.is_some_and(|e| bool::from(subtle::ConstantTimeEq::ct_eq(e.as_bytes(), response)));
    if fits {
        Ok(())
    } else {
        Err(talk.rejected(talk.mismatch()))
    }
}

/// Takes the body of a password message and wipes it from the buffer. The type is judged at its
/// first byte: a startup packet, whose first byte is 0, is never waited for.
fn take_response(buf: &mut BytesMut) -> Result<Option<Zeroizing<Vec<u8>>>, AuthError> {
    match buf.first() {
        None => return Ok(None),
        Some(&PASSWORD) => {}
        Some(&other) => return Err(AuthError::Unexpected(other)),
    }
    let Some(total) = RawMessage::complete(buf, MAX_AUTH_MESSAGE)? else {
        return Ok(None);
    };
    let message = buf.get_mut(..total).unwrap_or_default();
    let body = Zeroizing::new(message.get(5..).unwrap_or_default().to_vec());
    message.zeroize();
    buf.advance(total);
    Ok(Some(body))
}

/// A `PasswordMessage`: one string, terminated where the message ends.
fn one_cstr(body: &[u8]) -> Result<&[u8], AuthError> {
    let text = body.strip_suffix(b"\0").filter(|t| !t.contains(&0));
    text.ok_or(AuthError::Malformed("invalid password packet size"))
}

/// The SASL data of a `SASLInitialResponse`. PostgreSQL would take a length of -1 for "none" and
/// ask again; no client needs that, and CVE-2026-6664 came of it.
fn sasl_initial_response(body: &[u8]) -> Result<&[u8], AuthError> {
    let malformed = AuthError::Malformed("invalid SASLInitialResponse message");
    let end = body.iter().position(|&b| b == 0);
    let Some((mechanism, rest)) = end.and_then(|at| body.split_at_checked(at)) else {
        return Err(malformed);
    };
    if mechanism != scram::MECHANISM.as_bytes() {
        let message = "client selected an invalid SASL authentication mechanism";
        return Err(AuthError::Malformed(message));
    }
    match rest.split_first_chunk::<5>() {
        Some((&[0, a, b, c, d], data))
            if u32::from_be_bytes([a, b, c, d]) as usize == data.len() =>
        {
            Ok(data)
        }
        _ => Err(malformed),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
