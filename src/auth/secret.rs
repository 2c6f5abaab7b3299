//! Stored secrets and PgBouncer's `userlist.txt` (its manual, "Authentication file format").

use std::collections::HashMap;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::scram::ScramVerifier;
use crate::config::{Secret, UserName};

/// Longest user name in bytes (PgBouncer's `MAX_USERNAME` less its terminator).
pub const MAX_USER: usize = 127;
/// Longest secret in bytes (PgBouncer's `MAX_PASSWORD` less its terminator).
pub const MAX_SECRET: usize = 2047;
/// Most users in one file.
pub const MAX_USERS: usize = 1_000_000;

/// What a user must prove to know. Never shows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verifier {
    /// Nothing is stored: no password is right.
    NoPassword,
    /// The password itself.
    Plain(Secret),
    /// `md5` and the hex of `md5(password ‖ user)`.
    Md5(Secret),
    /// A SCRAM-SHA-256 secret.
    Scram(ScramVerifier),
}

impl Verifier {
    /// Tells the kinds apart as PgBouncer and PostgreSQL do (`get_password_type`); what looks
    /// like neither hash is a password.
    pub fn from_text(text: &str) -> Self {
        if text.is_empty() {
            return Self::NoPassword;
        }
        if text
            .strip_prefix("md5")
            .is_some_and(|hex| hex.len() == 32 && is_lower_hex(hex))
        {
            return Self::Md5(Secret::new(text.to_owned()));
        }
        ScramVerifier::parse(text)
            .map_or_else(|| Self::Plain(Secret::new(text.to_owned())), Self::Scram)
    }

    /// The answer to an MD5 challenge (`md5` and 32 hex digits), if the secret can give it.
    pub(super) fn md5_response(&self, user: &str, salt: [u8; 4]) -> Option<Zeroizing<String>> {
        let inner = match self {
            Self::Plain(password) => md5_secret(password.expose().as_bytes(), user),
            Self::Md5(stored) => Zeroizing::new(stored.expose().to_owned()),
            Self::NoPassword | Self::Scram(_) => return None,
        };
        let inner = inner.strip_prefix("md5")?;
        Some(md5_hex(&[inner.as_bytes(), &salt]))
    }

    /// Is `password` the one that is stored in clear or as MD5? `None` if neither is stored.
    /// Takes the same time for every password of a length.
    pub(super) fn fits_password(&self, user: &str, password: &[u8]) -> Option<bool> {
        match self {
            Self::Plain(stored) => Some(stored.expose().as_bytes().ct_eq(password).into()),
            Self::Md5(stored) => {
                let presented = md5_secret(password, user);
                Some(
                    stored
                        .expose()
                        .as_bytes()
                        .ct_eq(presented.as_bytes())
                        .into(),
                )
            }
            Self::NoPassword | Self::Scram(_) => None,
        }
    }
}

/// All users of a `userlist.txt`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserList {
    users: HashMap<UserName, Verifier>,
    duplicates: Vec<(usize, UserName)>,
}

/// Where a `userlist.txt` is wrong. Never quotes a line: it holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct UserListError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub kind: UserListErrorKind,
}

/// What may be wrong in a `userlist.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserListErrorKind {
    /// Something else than a quote, a comment or nothing at the start of a line.
    #[error("expected a user name in double quotes")]
    UserExpected,
    /// A quoted user name and nothing quoted after it.
    #[error("expected a secret in double quotes after the user name")]
    SecretExpected,
    /// A quote that is not closed on its line.
    #[error("double quote is not closed")]
    NotClosed,
    /// `""` as a user name.
    #[error("user name is empty")]
    UserEmpty,
    /// Longer than [`MAX_USER`].
    #[error("user name is too long")]
    UserTooLong,
    /// Longer than [`MAX_SECRET`].
    #[error("secret is too long")]
    SecretTooLong,
    /// More than [`MAX_USERS`].
    #[error("too many users")]
    TooManyUsers,
}

impl UserList {
    /// Reads the text of a file: a line is `"user" "secret"`, in which `""` stands for one quote;
    /// what follows on the line is ignored. Lines beginning with `;` or `#` are comments
    /// (PgBouncer knows only `;`).
    pub fn parse(text: &str) -> Result<Self, UserListError> {
        let mut list = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let at = |kind| UserListError {
                line: line_number,
                kind,
            };
            let line = line.trim_ascii_start();
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            let (user, secret) = parse_line(line).map_err(at)?;
            if list.users.len() == MAX_USERS {
                return Err(at(UserListErrorKind::TooManyUsers));
            }
            let user = UserName::new(&user);
            if list
                .users
                .insert(user.clone(), Verifier::from_text(&secret))
                .is_some()
            {
                list.duplicates.push((line_number, user));
            }
        }
        Ok(list)
    }

    /// What a user must prove; `None` for somebody unknown.
    pub fn get(&self, user: &str) -> Option<&Verifier> {
        self.users.get(user)
    }

    /// Lines that name a user for a second time, for a warning. As with PgBouncer the last
    /// line counts.
    pub fn duplicates(&self) -> &[(usize, UserName)] {
        &self.duplicates
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Is there nobody?
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

fn parse_line(line: &str) -> Result<(String, Zeroizing<String>), UserListErrorKind> {
    use UserListErrorKind as Kind;
    let rest = line.strip_prefix('"').ok_or(Kind::UserExpected)?;
    let (user, rest) = quoted(rest).ok_or(Kind::NotClosed)?;
    if user.is_empty() {
        return Err(Kind::UserEmpty);
    }
    if user.len() > MAX_USER {
        return Err(Kind::UserTooLong);
    }
    let rest = rest
        .trim_ascii_start()
        .strip_prefix('"')
        .ok_or(Kind::SecretExpected)?;
    let (secret, _) = quoted(rest).ok_or(Kind::NotClosed)?;
    let secret = Zeroizing::new(secret);
    if secret.len() > MAX_SECRET {
        return Err(Kind::SecretTooLong);
    }
    Ok((user, secret))
}

/// The text up to the closing quote, unescaped, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    // Never grows, so no copy of a secret is left behind in freed memory.
    let mut value = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `md5` and the hex of `md5(password ‖ user)`, as `pg_authid` holds it.
fn md5_secret(password: &[u8], user: &str) -> Zeroizing<String> {
    md5_hex(&[password, user.as_bytes()])
}

fn md5_hex(parts: &[&[u8]]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut text = Zeroizing::new(String::with_capacity(35));
    text.push_str("md5");
    for byte in hash.finalize() {
        for digit in [byte >> 4, byte & 0xF] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_file_as_pgbouncer_reads_it() {
        let text = format!(
            "; comment\n\n  # another\n\"a\" \"plain\"\n\t\"b\"\t\"md5{}\" ignored \"x\"\r\n\
             \"c\"\"d\" \"with \"\" quote\"\n\"e\" \"\"\n\"f\"\"{SCRAM}\"\n\"a\" \"later\"",
            "0123456789abcdef".repeat(2)
        )
        .replace("\"f\"\"", "\"f\" \"");
        let list = UserList::parse(&text).unwrap();
        assert_eq!(list.len(), 5);
        assert_eq!(
            list.get("a"),
            Some(&Verifier::Plain(Secret::new("later".into())))
        );
        assert!(matches!(list.get("b"), Some(Verifier::Md5(_))));
        let quoted = Verifier::Plain(Secret::new("with \" quote".into()));
        assert_eq!(list.get("c\"d"), Some(&quoted));
        assert_eq!(list.get("e"), Some(&Verifier::NoPassword));
        assert!(matches!(list.get("f"), Some(Verifier::Scram(_))));
        assert_eq!(list.get("nobody"), None);
        assert_eq!(list.duplicates(), [(9, UserName::new("a"))]);
    }

    #[test]
    fn mistakes_name_their_line_and_no_secret() {
        use UserListErrorKind as Kind;
        let cases = [
            ("user secret".to_owned(), Kind::UserExpected),
            ("\"user".to_owned(), Kind::NotClosed),
            ("\"user\"".to_owned(), Kind::SecretExpected),
            ("\"user\" hunter2".to_owned(), Kind::SecretExpected),
            ("\"user\" \"hunter2".to_owned(), Kind::NotClosed),
            ("\"user\" \"hunter2\"\"".to_owned(), Kind::NotClosed),
            ("\"\" \"hunter2\"".to_owned(), Kind::UserEmpty),
            (
                format!("\"{}\" \"hunter2\"", "u".repeat(128)),
                Kind::UserTooLong,
            ),
            (
                format!("\"u\" \"hunter2{}\"", "x".repeat(2041)),
                Kind::SecretTooLong,
            ),
        ];
        for (line, kind) in cases {
            let error = UserList::parse(&format!("\"ok\" \"ok\"\n{line}\n")).unwrap_err();
            assert_eq!(error, UserListError { line: 2, kind });
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn what_only_resembles_a_hash_is_a_password() {
        for text in [
            "md5",
            "md5xyz",
            &format!("md5{}", "A".repeat(32)),
            "SCRAM-SHA-256$",
            "x",
        ] {
            assert_eq!(
                Verifier::from_text(text),
                Verifier::Plain(Secret::new(text.into()))
            );
        }
        for broken in [
            SCRAM.replace("4096", "0"),
            SCRAM.replace("4096", "+1"),
            SCRAM.replace("4096", "1000001"),
            SCRAM.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
            SCRAM.replace("W22Z", "*22Z"),
            SCRAM.replace("qY=:", "qY=;"),
            SCRAM.replace("2dU=", "2dU"),
        ] {
            assert!(
                matches!(Verifier::from_text(&broken), Verifier::Plain(_)),
                "{broken}"
            );
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let text = format!(
            "\"a\" \"hunter2\"\n\"b\" \"md5{}\"\n\"c\" \"{SCRAM}\"",
            "0".repeat(32)
        );
        let shown = format!("{:?}", UserList::parse(&text).unwrap());
        for secret in ["hunter2", "0000", "WG5d", "W22Z", "87, 110"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn md5_agrees_with_the_client_library(
            user in "\\PC{1,10}", password in "\\PC{1,10}", salt in any::<[u8; 4]>()
        ) {
            let expected = postgres_protocol::authentication::md5_hash(
                user.as_bytes(), password.as_bytes(), salt);
            let plain = Verifier::Plain(Secret::new(password.clone()));
            prop_assert_eq!(&**plain.md5_response(&user, salt).unwrap(), &expected);
            let stored = Verifier::from_text(&md5_secret(password.as_bytes(), &user));
            prop_assert_eq!(&**stored.md5_response(&user, salt).unwrap(), &expected);
            prop_assert_eq!(stored.fits_password(&user, password.as_bytes()), Some(true));
            prop_assert_eq!(stored.fits_password(&user, b"\x00"), Some(false));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[\"; #a-z\n\t]{0,60}") {
            let _ = UserList::parse(&text);
        }
    }
}
