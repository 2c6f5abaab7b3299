//! What a client sends before the first typed message: encryption requests, cancel, startup
//! (manual, section 55.7; behaviour as in PostgreSQL's `backend_startup.c`).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::{ErrorResponse, SqlState};
use super::{MAX_CANCEL_KEY, MAX_STARTUP_PACKET};

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion {
    /// 3, for all that is alive.
    pub major: u16,
    /// 0 or 2; 9999 is sent by clients that test the negotiation.
    pub minor: u16,
}

impl ProtocolVersion {
    /// What everybody speaks.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// Longer cancel keys; nothing else differs.
    pub const V3_2: Self = Self { major: 3, minor: 2 };
    /// The newest that we speak.
    pub const LATEST: Self = Self::V3_2;

    /// As it stands in a packet.
    pub const fn code(self) -> u32 {
        (self.major as u32) << 16 | self.minor as u32
    }

    const fn from_code(code: u32) -> Self {
        Self {
            major: (code >> 16) as u16,
            minor: code as u16,
        }
    }
}

const CANCEL_REQUEST: u32 = ProtocolVersion {
    major: 1234,
    minor: 5678,
}
.code();
const SSL_REQUEST: u32 = ProtocolVersion {
    major: 1234,
    minor: 5679,
}
.code();
const GSSENC_REQUEST: u32 = ProtocolVersion {
    major: 1234,
    minor: 5680,
}
.code();
/// Parameters with this prefix are options of the protocol itself, not of the session.
const PROTOCOL_OPTION_PREFIX: &[u8] = b"_pq_.";

/// The first packet of a connection, or the one after an encryption request was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// Wants TLS: answer `S` or `N`.
    SslRequest,
    /// Wants GSSAPI encryption: answer `N`.
    GssEncRequest,
    /// Wants a query cancelled: no answer, ever.
    Cancel(CancelRequest),
    /// Wants a session.
    Startup(StartupMessage),
}

/// Which encryption requests may still come. PostgreSQL takes each at most once and none inside
/// an encrypted connection; a repeated one reads as an unknown protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncryptionOffer {
    /// `SSLRequest`.
    pub ssl: bool,
    /// `GSSENCRequest`.
    pub gss: bool,
}

impl EncryptionOffer {
    /// A fresh plain connection.
    pub const FRESH: Self = Self {
        ssl: true,
        gss: true,
    };
    /// Inside TLS.
    pub const ENCRYPTED: Self = Self {
        ssl: false,
        gss: false,
    };
}

/// Names a backend and proves the right to cancel its query.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// Process id from `BackendKeyData`.
    pub pid: u32,
    /// Secret from `BackendKeyData`: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub key: Bytes,
}

impl std::fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// Who wants what session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// What the client speaks.
    pub version: ProtocolVersion,
    /// All parameters but protocol options, `user` and `database` included, in the client's order
    /// and in its bytes: nothing says that they are UTF-8.
    pub params: Vec<(Bytes, Bytes)>,
    /// Names of the protocol options (`_pq_.`); we know none.
    pub protocol_options: Vec<Bytes>,
    /// The user; never empty.
    pub user: Bytes,
    /// The database; the user's name if the client gave none.
    pub database: Bytes,
}

/// Why a first packet is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Shorter than a version or longer than [`MAX_STARTUP_PACKET`]; also what HTTP or a typed
    /// message looks like.
    #[error("invalid length of startup packet")]
    Length,
    /// A cancel request without key, or with one that is too long.
    #[error("invalid length of cancel request packet")]
    CancelLength,
    /// Not protocol 3, or an encryption request that is not allowed (any more).
    #[error("unsupported frontend protocol {}.{}", .0.major, .0.minor)]
    Protocol(ProtocolVersion),
    /// Bytes behind an encryption request, sent before its answer: somebody between the client and
    /// us may have put them there to be taken for encrypted ones (CVE-2021-3935, CVE-2021-23214).
    #[error("received unencrypted data after {0}")]
    Unencrypted(&'static str),
    /// Names and values do not end where the packet ends.
    #[error("invalid startup packet layout")]
    Layout,
    /// No user name, or an empty one.
    #[error("no user name in startup packet")]
    NoUser,
}

impl FirstPacket {
    /// Takes one packet from the front of `buf`; `None` if it is not complete. The length is
    /// judged as soon as it is there, so `buf` never needs to hold more than the limit.
    pub fn take(buf: &mut BytesMut, offer: EncryptionOffer) -> Result<Option<Self>, StartupError> {
        let Some(&length) = buf.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if !(8..=MAX_STARTUP_PACKET + 4).contains(&length) {
            return Err(StartupError::Length);
        }
        if buf.len() < length {
            return Ok(None);
        }
        let mut packet = buf.split_to(length).freeze();
        packet.advance(4);
        let code = packet.try_get_u32().map_err(|_| StartupError::Length)?;
        match code {
            CANCEL_REQUEST => CancelRequest::parse(packet).map(|c| Some(Self::Cancel(c))),
            SSL_REQUEST if offer.ssl && !buf.is_empty() => {
                Err(StartupError::Unencrypted("SSL request"))
            }
            SSL_REQUEST if offer.ssl => Ok(Some(Self::SslRequest)),
            GSSENC_REQUEST if offer.gss && !buf.is_empty() => {
                Err(StartupError::Unencrypted("GSSAPI encryption request"))
            }
            GSSENC_REQUEST if offer.gss => Ok(Some(Self::GssEncRequest)),
            _ => StartupMessage::parse(ProtocolVersion::from_code(code), &packet)
                .map(|s| Some(Self::Startup(s))),
        }
    }
}

impl CancelRequest {
    fn parse(mut packet: Bytes) -> Result<Self, StartupError> {
        let pid = packet
            .try_get_u32()
            .map_err(|_| StartupError::CancelLength)?;
        if packet.is_empty() || packet.len() > MAX_CANCEL_KEY {
            return Err(StartupError::CancelLength);
        }
        // A key of its own, not a window into the read buffer that would keep it alive.
        Ok(Self {
            pid,
            key: Bytes::copy_from_slice(&packet),
        })
    }

    /// Appends the packet. A key over [`MAX_CANCEL_KEY`] is cut there; no server gives one.
    pub fn encode(&self, out: &mut BytesMut) {
        let key = self.key.get(..MAX_CANCEL_KEY).unwrap_or(&self.key);
        out.put_u32(12 + key.len() as u32);
        out.put_u32(CANCEL_REQUEST);
        out.put_u32(self.pid);
        out.put_slice(key);
    }
}

impl StartupMessage {
    fn parse(version: ProtocolVersion, body: &Bytes) -> Result<Self, StartupError> {
        if version.major != 3 {
            return Err(StartupError::Protocol(version));
        }
        let (mut params, mut protocol_options) = (Vec::new(), Vec::new());
        let mut rest = &body[..];
        loop {
            let (name, after_name) = split_cstr(rest).ok_or(StartupError::Layout)?;
            if name.is_empty() {
                if !after_name.is_empty() {
                    return Err(StartupError::Layout);
                }
                break;
            }
            let (value, after_value) = split_cstr(after_name).ok_or(StartupError::Layout)?;
            if name.starts_with(PROTOCOL_OPTION_PREFIX) {
                protocol_options.push(Bytes::copy_from_slice(name));
            } else {
                params.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
            }
            rest = after_value;
        }
        let user = last(&params, b"user").filter(|u| !u.is_empty());
        let user = user.ok_or(StartupError::NoUser)?.clone();
        let database = last(&params, b"database").filter(|d| !d.is_empty());
        let database = database.unwrap_or(&user).clone();
        Ok(Self {
            version,
            params,
            protocol_options,
            user,
            database,
        })
    }

    /// Value of a parameter; of several with the same name the last one counts.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        last(&self.params, name.as_bytes())
    }

    /// What a server is to be started with besides user and database.
    pub fn session_params(&self) -> Vec<(Bytes, Bytes)> {
        let session = |(name, _): &&(Bytes, Bytes)| name != "user" && name != "database";
        self.params.iter().filter(session).cloned().collect()
    }

    /// Must the answer begin with `NegotiateProtocolVersion`? Then the session goes on in the
    /// version given here.
    pub fn negotiated(&self) -> Option<ProtocolVersion> {
        let newer = self.version > ProtocolVersion::LATEST;
        (newer || !self.protocol_options.is_empty())
            .then(|| self.version.min(ProtocolVersion::LATEST))
    }
}

/// Appends a `StartupMessage`. A name or value with a NUL byte in it, or an empty name, would end
/// the packet early, so such a pair is refused.
pub fn encode_startup<'a>(
    version: ProtocolVersion,
    params: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    out: &mut BytesMut,
) -> Result<(), StartupError> {
    let start = out.len();
    out.put_u32(0);
    out.put_u32(version.code());
    for (name, value) in params {
        if name.is_empty() || name.contains(&0) || value.contains(&0) {
            out.truncate(start);
            return Err(StartupError::Layout);
        }
        out.put_slice(name);
        out.put_u8(0);
        out.put_slice(value);
        out.put_u8(0);
    }
    out.put_u8(0);
    let length = out.len() - start;
    if length > MAX_STARTUP_PACKET + 4 {
        out.truncate(start);
        return Err(StartupError::Length);
    }
    if let Some(word) = out.get_mut(start..start + 4) {
        word.copy_from_slice(&(length as u32).to_be_bytes());
    }
    Ok(())
}

impl StartupError {
    /// Appends what PostgreSQL answers before it closes: nothing to a wrong length, an error in
    /// the format of protocol 2 to a client of that age, an `ErrorResponse` else.
    pub fn encode_answer(&self, out: &mut BytesMut) {
        match (self.client_facing(), self) {
            (Some(error), Self::Protocol(version)) if version.major < 3 => {
                // Protocol 2: type byte and text, no length.
                out.put_u8(b'E');
                out.put_slice(format!("FATAL:  {}\n\0", error.message).as_bytes());
            }
            (Some(error), Self::Unencrypted(_)) => {
                // The request itself is answered first.
                out.put_u8(b'N');
                error.encode(out);
            }
            (Some(error), _) => error.encode(out),
            (None, _) => {}
        }
    }

    /// PostgreSQL's words for it; `None` where PostgreSQL closes without a word.
    pub fn client_facing(&self) -> Option<ErrorResponse> {
        match self {
            Self::Length | Self::CancelLength => None,
            Self::Protocol(version) => Some(ErrorResponse::fatal(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!(
                    "unsupported frontend protocol {}.{}: server supports 3.0 to {}.{}",
                    version.major,
                    version.minor,
                    ProtocolVersion::LATEST.major,
                    ProtocolVersion::LATEST.minor
                ),
            )),
            Self::Unencrypted(request) => Some(
                ErrorResponse::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("received unencrypted data after {request}"),
                )
                .detail(
                    "This could be either a client-software bug or evidence of an attempted \
                     man-in-the-middle attack.",
                ),
            ),
            Self::Layout => Some(ErrorResponse::fatal(
                SqlState::PROTOCOL_VIOLATION,
                "invalid startup packet layout: expected terminator as last byte",
            )),
            Self::NoUser => Some(ErrorResponse::fatal(
                SqlState::INVALID_AUTHORIZATION,
                "no PostgreSQL user name specified in startup packet",
            )),
        }
    }
}

fn last<'a>(params: &'a [(Bytes, Bytes)], name: &[u8]) -> Option<&'a Bytes> {
    params
        .iter()
        .rev()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value)
}

/// A NUL-terminated string and what comes after it; `None` without terminator.
fn split_cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
