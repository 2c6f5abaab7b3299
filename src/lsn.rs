//! Positions in a node's write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A WAL position. Only comparable with positions of the same node (and timeline).
///
/// Text form `X/X` as `pg_lsn` has it (PostgreSQL manual, section 8.20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to `self`; 0 if `earlier` is ahead.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not `X/X` with one to eight hexadecimal digits on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

fn half(digits: &str) -> Result<u64, ParseLsnError> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain {
        return Err(ParseLsnError);
    }
    u32::from_str_radix(digits, 16)
        .map(u64::from)
        .map_err(|_| ParseLsnError)
}

#[cfg(test)]
mod tests {
    use super::Lsn;

    #[test]
    fn prints_and_parses_what_postgresql_prints() {
        for text in ["0/0", "0/16B3748", "1/0", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(
                text.parse::<Lsn>().map(|l| l.to_string()),
                Ok(text.to_owned())
            );
        }
        assert!(Lsn(0x1_0000_0000) > "0/FFFFFFFF".parse().unwrap_or_default());
    }

    #[test]
    fn refuses_anything_else() {
        for text in [
            "",
            "/",
            "0/",
            "/0",
            "0",
            "0/+1",
            "0/123456789",
            "G/0",
            "0/0/0",
            " 0/0",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was taken");
        }
    }
}
