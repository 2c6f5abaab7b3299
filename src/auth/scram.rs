//! The server's half of SCRAM-SHA-256 (RFC 5802, RFC 7677; manual, section 55.3), without channel
//! binding. Pure: the nonce is an argument.
//!
//! As strict as PostgreSQL's `auth-scram.c`, and in its words. The user name inside the exchange
//! is ignored: the one of the startup packet counts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::wire::{ErrorResponse, SqlState};

/// The mechanism that we offer.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// Iterations where we choose them (PostgreSQL's and PgBouncer's default).
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// Most iterations that a stored secret may ask for.
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// Random bytes in our nonce (`SCRAM_RAW_NONCE_LEN`).
pub const NONCE_BYTES: usize = 18;

const SALT_BYTES: usize = 16;
const MAX_SALT_BYTES: usize = 1024;

type Key = [u8; 32];

/// What proves a password without being one: salt, iterations, and the two derived keys.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ScramVerifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramVerifier(****)")
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Not what RFC 5802 allows; says what.
    #[error("malformed scram message: {0}")]
    Malformed(&'static str),
    /// Well formed, and more than we do; says what.
    #[error("unsupported scram feature: {0}")]
    Unsupported(&'static str),
    /// The proof does not fit the verifier.
    #[error("wrong password")]
    WrongProof,
}

impl ScramError {
    /// What PostgreSQL would say; `None` for a wrong proof, where the user's name is needed.
    pub fn client_facing(self) -> Option<ErrorResponse> {
        match self {
            Self::Malformed(detail) => Some(
                ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message")
                    .detail(detail),
            ),
            Self::Unsupported(message) => Some(ErrorResponse::fatal(
                SqlState::FEATURE_NOT_SUPPORTED,
                message,
            )),
            Self::WrongProof => None,
        }
    }
}

impl ScramVerifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` as `pg_authid` holds it;
    /// `None` if the text is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        if !iterations.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let iterations = iterations
            .parse()
            .ok()
            .filter(|i| (1..=MAX_ITERATIONS).contains(i))?;
        let salt = STANDARD.decode(salt).ok()?;
        if !(1..=MAX_SALT_BYTES).contains(&salt.len()) {
            return None;
        }
        let (stored_key, server_key) = (decode_key(stored_key)?, decode_key(server_key)?);
        Some(Self {
            iterations,
            salt,
            stored_key,
            server_key,
        })
    }

    /// Derives it from a password. Slow on purpose (PBKDF2): not for an I/O thread.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let password = Zeroizing::new(normalize(password));
        let mut salted = Zeroizing::new(Key::default());
        pbkdf2::pbkdf2_hmac::<Sha256>(&password, salt, iterations, &mut *salted);
        let client_key = Zeroizing::new(hmac(&salted, &[b"Client Key"]));
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(*client_key).into(),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// Looks like a user's own, is always the same for the same user, and fits no password: for
    /// users who do not exist. `secret` is the instance's; with several instances, or across
    /// restarts, it must be the same or the salt gives the pretence away.
    pub fn mock(secret: &[u8; 32], user: &str) -> Self {
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt: Self::salt_for(secret, user),
            // A hash value whose origin nobody knows.
            stored_key: hmac(secret, &[b"stored key", user.as_bytes()]),
            server_key: hmac(secret, &[b"server key", user.as_bytes()]),
        }
    }

    /// The salt of users whose password is stored in clear. The same as in [`Self::mock`], so that
    /// the two cannot be told apart.
    pub fn salt_for(secret: &[u8; 32], user: &str) -> Vec<u8> {
        let mut salt = hmac(secret, &[b"salt", user.as_bytes()]).to_vec();
        salt.truncate(SALT_BYTES);
        salt
    }

    /// Salt and iterations, for who must derive the same keys from a password.
    pub fn parameters(&self) -> (&[u8], u32) {
        (&self.salt, self.iterations)
    }

    /// Do both come from the same password? Takes the same time whatever the answer.
    pub fn fits(&self, other: &Self) -> bool {
        self.stored_key.ct_eq(&other.stored_key).into()
    }
}

/// An exchange after the client's first message.
pub struct Exchange<'a> {
    verifier: &'a ScramVerifier,
    gs2_header: &'static [u8],
    nonce: Vec<u8>,
    /// `client-first-message-bare "," server-first-message ","`.
    auth_message: Vec<u8>,
    server_first: std::ops::Range<usize>,
}

impl std::fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange(****)")
    }
}

impl<'a> Exchange<'a> {
    /// Takes the client's first message. `server_nonce` must be fresh random bytes.
    pub fn begin(
        client_first: &[u8],
        server_nonce: &[u8; NONCE_BYTES],
        verifier: &'a ScramVerifier,
    ) -> Result<Self, ScramError> {
        let first = ClientFirst::parse(client_first)?;
        Ok(Self::with_nonce(
            &first,
            STANDARD.encode(server_nonce).as_bytes(),
            verifier,
        ))
    }

    fn with_nonce(first: &ClientFirst<'_>, ours: &[u8], verifier: &'a ScramVerifier) -> Self {
        let nonce = [first.nonce, ours].concat();
        let mut auth_message = [first.bare, b",r=", &nonce].concat();
        let salt = STANDARD.encode(&verifier.salt);
        auth_message.extend_from_slice(format!(",s={salt},i={}", verifier.iterations).as_bytes());
        let server_first = first.bare.len() + 1..auth_message.len();
        auth_message.push(b',');
        Self {
            verifier,
            gs2_header: first.gs2_header,
            nonce,
            auth_message,
            server_first,
        }
    }

    /// What to send in `AuthenticationSASLContinue`.
    pub fn server_first(&self) -> &[u8] {
        self.auth_message
            .get(self.server_first.clone())
            .unwrap_or_default()
    }

    /// Checks the client's final message; on success what to send in `AuthenticationSASLFinal`.
    pub fn finish(mut self, client_final: &[u8]) -> Result<Vec<u8>, ScramError> {
        let last = ClientFinal::parse(client_final)?;
        if last.channel_binding != STANDARD.encode(self.gs2_header).as_bytes() {
            return Err(ScramError::Malformed(
                "Unexpected SCRAM channel-binding attribute in client-final-message.",
            ));
        }
        if !bool::from(last.nonce.ct_eq(&self.nonce)) {
            return Err(ScramError::Malformed("Nonce does not match."));
        }
        self.auth_message.extend_from_slice(last.without_proof);
        let signature = hmac(&self.verifier.stored_key, &[&self.auth_message]);
        let mut client_key = Zeroizing::new(last.proof);
        for (key, signature) in client_key.iter_mut().zip(signature) {
            *key ^= signature;
        }
        let presented: Key = Sha256::digest(*client_key).into();
        if !bool::from(presented.ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::WrongProof);
        }
        let signature = hmac(&self.verifier.server_key, &[&self.auth_message]);
        Ok(format!("v={}", STANDARD.encode(signature)).into_bytes())
    }
}

/// `gs2-header client-first-message-bare`.
struct ClientFirst<'a> {
    gs2_header: &'static [u8],
    bare: &'a [u8],
    nonce: &'a [u8],
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        use ScramError::{Malformed, Unsupported};
        check_text(message)?;
        let mut parts = message.splitn(3, |&b| b == b',');
        let gs2_header: &[u8] = match parts.next() {
            Some(b"n") => b"n,,",
            // The client could bind and believes that we cannot. It is right.
            Some(b"y") => b"y,,",
            Some(flag) if flag.starts_with(b"p") => {
                return Err(Malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM \
                     message includes channel binding data.",
                ));
            }
            _ => return Err(Malformed("Unexpected channel-binding flag.")),
        };
        match parts.next() {
            Some(b"") => {}
            Some(identity) if identity.starts_with(b"a") => {
                return Err(Unsupported(
                    "client uses authorization identity, but it is not supported",
                ));
            }
            _ => return Err(Malformed("Unexpected attribute in client-first-message.")),
        }
        let bare = parts
            .next()
            .ok_or(Malformed("Comma expected, but found end of string."))?;
        let mut attributes = bare.split(|&b| b == b',');
        if bare.starts_with(b"m") {
            return Err(Unsupported(
                "client requires an unsupported SCRAM extension",
            ));
        }
        expect(attributes.next(), b"n=", "Attribute \"n\" expected.")?;
        let nonce = expect(attributes.next(), b"r=", "Attribute \"r\" expected.")?;
        if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) {
            return Err(Malformed("Nonce is empty or has non-printable characters."));
        }
        attributes.try_for_each(optional_extension)?;
        Ok(Self {
            gs2_header,
            bare,
            nonce,
        })
    }
}

/// `channel-binding "," nonce ["," extensions] "," proof`.
struct ClientFinal<'a> {
    without_proof: &'a [u8],
    channel_binding: &'a [u8],
    nonce: &'a [u8],
    proof: Key,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        use ScramError::Malformed;
        check_text(message)?;
        let proof_at = message.iter().rposition(|&b| b == b',');
        let (without_proof, proof) = proof_at
            .and_then(|at| Some((message.get(..at)?, message.get(at + 1..)?)))
            .ok_or(Malformed("Attribute \"r\" expected."))?;
        let mut attributes = without_proof.split(|&b| b == b',');
        let channel_binding = expect(attributes.next(), b"c=", "Attribute \"c\" expected.")?;
        let nonce = expect(attributes.next(), b"r=", "Attribute \"r\" expected.")?;
        attributes.try_for_each(optional_extension)?;
        let proof = expect(Some(proof), b"p=", "Attribute \"p\" expected at the end.")?;
        let malformed = Malformed("Malformed proof in client-final-message.");
        let decoded = Zeroizing::new(STANDARD.decode(proof).map_err(|_| malformed)?);
        let proof = decoded[..].try_into().map_err(|_| malformed)?;
        Ok(Self {
            without_proof,
            channel_binding,
            nonce,
            proof,
        })
    }
}

fn check_text(message: &[u8]) -> Result<(), ScramError> {
    if message.is_empty() {
        return Err(ScramError::Malformed("The message is empty."));
    }
    if message.contains(&0) {
        return Err(ScramError::Malformed(
            "Message length does not match input length.",
        ));
    }
    Ok(())
}

/// The value of the attribute that must come here.
fn expect<'a>(
    attribute: Option<&'a [u8]>,
    prefix: &[u8],
    otherwise: &'static str,
) -> Result<&'a [u8], ScramError> {
    attribute
        .and_then(|a| a.strip_prefix(prefix))
        .ok_or(ScramError::Malformed(otherwise))
}

/// Extensions may be ignored, except the mandatory one and a proof that is not at the end.
fn optional_extension(attribute: &[u8]) -> Result<(), ScramError> {
    match attribute {
        [b'm' | b'p', b'=', ..] => Err(ScramError::Malformed("Unexpected attribute.")),
        [name, b'=', ..] if name.is_ascii_alphabetic() => Ok(()),
        _ => Err(ScramError::Malformed(
            "Attribute expected, but found invalid character.",
        )),
    }
}

/// As PostgreSQL does: a password that `SASLprep` refuses is taken as it is.
fn normalize(password: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(password).ok();
    let prepared = text.and_then(|t| stringprep::saslprep(t).ok());
    prepared.map_or_else(|| password.to_vec(), |p| p.into_owned().into_bytes())
}

fn decode_key(text: &str) -> Option<Key> {
    let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
    decoded[..].try_into().ok()
}

#[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
