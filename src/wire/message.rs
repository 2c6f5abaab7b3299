//! Typed messages: taking whole ones from a buffer under a limit, and reading and writing those
//! of login and console (manual, section 55.7).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::HEADER;
pub use super::rows::{
    ColumnType, command_complete, data_row, parameter_description, row_description,
};
use super::startup::ProtocolVersion;
use super::tag::server as tag;

/// Why a message could not be taken or understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The length word is below 4 or above what is allowed here.
    #[error("invalid length {length} of message type {tag:#04x}")]
    Length {
        /// Type byte.
        tag: u8,
        /// The length word.
        length: u32,
    },
    /// The body is not what its type promises.
    #[error("malformed message of type {0:#04x}")]
    Malformed(u8),
}

/// A whole message, its body not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// Type byte.
    pub tag: u8,
    /// What follows the length word.
    pub body: Bytes,
}

impl RawMessage {
    /// Takes one whole message from the front of `buf`, `None` if it is not complete. A body of
    /// more than `limit` bytes is refused as soon as its header is there, so a caller that reads
    /// no more while a message is complete never holds more than the limit and one read.
    pub fn take(buf: &mut BytesMut, limit: usize) -> Result<Option<Self>, MessageError> {
        let Some(total) = Self::complete(buf, limit)? else {
            return Ok(None);
        };
        let mut body = buf.split_to(total).freeze();
        let tag = body.first().copied().unwrap_or_default();
        body.advance(HEADER);
        Ok(Some(Self { tag, body }))
    }

    /// Length of the message at the front of `buf`, header included; `None` if it is not
    /// complete. The same limit as in [`Self::take`].
    pub fn complete(buf: &[u8], limit: usize) -> Result<Option<usize>, MessageError> {
        let Some(&[tag, a, b, c, d]) = buf.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        let body_len = length
            .checked_sub(4)
            .map(|l| l as usize)
            .filter(|l| *l <= limit);
        let total = HEADER + body_len.ok_or(MessageError::Length { tag, length })?;
        Ok((buf.len() >= total).then_some(total))
    }

    /// Appends it as it came.
    pub fn encode(&self, out: &mut BytesMut) {
        write_message(self.tag, out, |out| out.put_slice(&self.body));
    }
}

/// What a server asks for, or says, under type `R`.
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Done.
    Ok,
    /// `AuthenticationCleartextPassword`.
    CleartextPassword,
    /// `AuthenticationMD5Password`.
    Md5Password {
        /// To be hashed with the password.
        salt: [u8; 4],
    },
    /// `AuthenticationSASL`: mechanisms, the server's favourite first.
    Sasl(Vec<Bytes>),
    /// `AuthenticationSASLContinue`.
    SaslContinue(Bytes),
    /// `AuthenticationSASLFinal`.
    SaslFinal(Bytes),
    /// Kerberos, GSSAPI, SSPI, and what does not exist yet: read, never written.
    Unsupported(u32),
}

impl std::fmt::Debug for Authentication {
    /// Names only: salts and SASL data do not belong into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => f.write_str("Ok"),
            Self::CleartextPassword => f.write_str("CleartextPassword"),
            Self::Md5Password { .. } => f.write_str("Md5Password"),
            Self::Sasl(mechanisms) => f.debug_tuple("Sasl").field(mechanisms).finish(),
            Self::SaslContinue(_) => f.write_str("SaslContinue"),
            Self::SaslFinal(_) => f.write_str("SaslFinal"),
            Self::Unsupported(code) => f.debug_tuple("Unsupported").field(code).finish(),
        }
    }
}

impl Authentication {
    /// Reads the body of a message of type `R`.
    pub fn parse(mut body: Bytes) -> Result<Self, MessageError> {
        let malformed = MessageError::Malformed(tag::AUTHENTICATION);
        let code = body.try_get_u32().map_err(|_| malformed)?;
        match code {
            0 | 3 if !body.is_empty() => Err(malformed),
            0 => Ok(Self::Ok),
            3 => Ok(Self::CleartextPassword),
            5 => {
                let salt = body[..].try_into().map_err(|_| malformed)?;
                Ok(Self::Md5Password { salt })
            }
            10 => parse_mechanisms(&body).map(Self::Sasl).ok_or(malformed),
            11 => Ok(Self::SaslContinue(body)),
            12 => Ok(Self::SaslFinal(body)),
            other => Ok(Self::Unsupported(other)),
        }
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut BytesMut) {
        write_message(tag::AUTHENTICATION, out, |out| match self {
            Self::Ok => out.put_u32(0),
            Self::CleartextPassword => out.put_u32(3),
            Self::Md5Password { salt } => {
                out.put_u32(5);
                out.put_slice(salt);
            }
            Self::Sasl(mechanisms) => {
                out.put_u32(10);
                for mechanism in mechanisms {
                    out.put_slice(mechanism);
                    out.put_u8(0);
                }
                out.put_u8(0);
            }
            Self::SaslContinue(data) => {
                out.put_u32(11);
                out.put_slice(data);
            }
            Self::SaslFinal(data) => {
                out.put_u32(12);
                out.put_slice(data);
            }
            Self::Unsupported(code) => out.put_u32(*code),
        });
    }
}

/// `BackendKeyData`: names a backend to a cancel request.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendKey {
    /// Process id.
    pub pid: u32,
    /// Secret: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub key: Bytes,
}

impl std::fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendKey")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl BackendKey {
    /// Reads the body of a `BackendKeyData`.
    pub fn parse(mut body: Bytes) -> Result<Self, MessageError> {
        let malformed = MessageError::Malformed(tag::BACKEND_KEY_DATA);
        let pid = body.try_get_u32().map_err(|_| malformed)?;
        if !(4..=super::MAX_CANCEL_KEY).contains(&body.len()) {
            return Err(malformed);
        }
        Ok(Self {
            pid,
            key: Bytes::copy_from_slice(&body),
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut BytesMut) {
        write_message(tag::BACKEND_KEY_DATA, out, |out| {
            out.put_u32(self.pid);
            out.put_slice(&self.key);
        });
    }
}

/// Status byte of a `ReadyForQuery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    /// `I`: in no transaction.
    Idle,
    /// `T`: in one.
    InTransaction,
    /// `E`: in one that failed.
    Failed,
}

impl TxStatus {
    /// Reads the byte; `None` if no PostgreSQL sends it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The byte.
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Appends a `ReadyForQuery`.
pub fn ready_for_query(status: TxStatus, out: &mut BytesMut) {
    write_message(tag::READY_FOR_QUERY, out, |out| {
        out.put_u8(status.as_byte());
    });
}

/// Reads the body of a `ReadyForQuery`.
pub fn parse_ready_for_query(body: &[u8]) -> Result<TxStatus, MessageError> {
    match body {
        [status] => TxStatus::from_byte(*status),
        _ => None,
    }
    .ok_or(MessageError::Malformed(tag::READY_FOR_QUERY))
}

/// Appends a `ParameterStatus`, in the bytes given. They come from a parsed message or from us and
/// hold no NUL byte; one that does anyway is left out whole.
pub fn parameter_status(name: &[u8], value: &[u8], out: &mut BytesMut) {
    if name.contains(&0) || value.contains(&0) {
        return;
    }
    write_message(tag::PARAMETER_STATUS, out, |out| {
        out.put_slice(name);
        out.put_u8(0);
        out.put_slice(value);
        out.put_u8(0);
    });
}

/// Reads the body of a `ParameterStatus`: name and value.
pub fn parse_parameter_status(body: &Bytes) -> Result<(Bytes, Bytes), MessageError> {
    let malformed = MessageError::Malformed(tag::PARAMETER_STATUS);
    let mut parts = body.split(|&b| b == 0);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(value), Some([]), None) => {
            Ok((body.slice_ref(name), body.slice_ref(value)))
        }
        _ => Err(malformed),
    }
}

/// Appends a `NegotiateProtocolVersion`: the version that the session goes on with, and the
/// protocol options that we do not know.
pub fn negotiate_protocol_version(
    version: ProtocolVersion,
    unknown_options: &[Bytes],
    out: &mut BytesMut,
) {
    write_message(tag::NEGOTIATE_PROTOCOL_VERSION, out, |out| {
        out.put_u32(version.code());
        out.put_u32(unknown_options.len() as u32);
        for option in unknown_options {
            out.put_slice(option);
            out.put_u8(0);
        }
    });
}

/// Appends a message without body: `EmptyQueryResponse`, `ParseComplete`, `BindComplete`,
/// `CloseComplete`, `NoData`, `PortalSuspended`.
pub fn bare(tag: u8, out: &mut BytesMut) {
    write_message(tag, out, |_| {});
}

/// Appends type byte, length word and what `body` appends.
pub fn write_message(tag: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    // What we write ourselves is far below 2 GiB.
    let length = (out.len() - start) as u32;
    if let Some(word) = out.get_mut(start..start + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

/// Names, each NUL-terminated, and an empty one at the end.
fn parse_mechanisms(body: &Bytes) -> Option<Vec<Bytes>> {
    let list = body.strip_suffix(b"\0")?;
    if list.is_empty() {
        return Some(Vec::new());
    }
    let names = list.strip_suffix(b"\0")?.split(|&b| b == 0);
    names
        .map(|n| (!n.is_empty()).then(|| body.slice_ref(n)))
        .collect()
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
