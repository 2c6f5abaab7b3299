//! What a statement must not say on a read-only route: PostgreSQL itself refuses writes in a
//! read-only transaction, but lets any session leave read-only mode. So this is about the ways out,
//! and about what read-only mode does not cover. Pure.
//!
//! | way out | refused |
//! |---|---|
//! | `BEGIN`, `START`, `SET` ... `READ WRITE` | those words |
//! | the settings themselves, by `SET`, `RESET`, `set_config` | except to `on` |
//! | code that has transactions of its own | `DO`, `CALL` |
//! | functions that run a text as SQL | by name |
//! | `COMMIT PREPARED` and the like, `ALTER SYSTEM`, `LOAD`, `COPY ... PROGRAM` | always |
//! | large objects before PostgreSQL 16 | functions that write them, by name |
//! | what the server would cut differently than we do | see [`Doubt`], and encodings |
//! | a hidden way out with a transaction behind it | nothing may follow the end of one |

use super::lexer::{Doubt, Lexer, Token};

/// Settings that decide whether a session can write.
const MODE: [&str; 2] = ["transaction_read_only", "default_transaction_read_only"];
/// Settings that decide how a text is cut.
const STRINGS: &str = "standard_conforming_strings";
const ENCODING: &str = "client_encoding";
/// Functions that run a text as SQL, or write large objects without asking for the mode.
const FUNCTIONS: [&str; 21] = [
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
    "crosstab",
    "crosstab2",
    "crosstab3",
    "crosstab4",
    "crosstabn",
    "connectby",
    "xpath_table",
    "lo_creat",
    "lo_create",
    "lo_import",
    "lo_from_bytea",
    "lo_put",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
    "lowrite",
];
const DBLINK: &[u8] = b"dblink";

/// What a text was cut by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// `standard_conforming_strings`.
    pub(super) standard_strings: bool,
    /// No byte of a character beyond ASCII looks like ASCII.
    pub(super) plain_encoding: bool,
}

/// What a text that is not refused means for what comes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    /// It ends a transaction.
    pub(super) ends: bool,
}

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Doubt(#[from] Doubt),
    #[error("{0}")]
    Way(&'static str),
}

/// May this text be run?
pub(super) fn judge(text: &[u8], reading: Reading) -> Result<Passed, Refused> {
    if !reading.plain_encoding && !text.is_ascii() {
        return Err(Refused::Way(
            "a text in a client_encoding that hides quotes",
        ));
    }
    let mut lexer = Lexer::new(text, reading.standard_strings);
    let mut statement = Statement::default();
    let mut ended = false;
    while let Some(token) = lexer.next()? {
        if token == Token::Sign(b';') {
            ended |= statement.close()?;
            statement = Statement::default();
            continue;
        }
        if ended {
            return Err(Refused::Way("a statement behind the end of a transaction"));
        }
        statement.take(token)?;
    }
    ended |= statement.close()?;
    Ok(Passed { ends: ended })
}

/// An encoding whose name, letters and digits alone, is one of these has ASCII bytes only where
/// ASCII is meant. The others (SJIS, BIG5, GBK, UHC, GB18030, JOHAB) exist for clients only.
pub(super) fn is_plain_encoding(name: &[u8]) -> bool {
    const KNOWN: [&str; 8] = [
        "utf8", "unicode", "sqlascii", "latin", "iso8859", "win1", "koi8", "euc",
    ];
    let plain: Vec<u8> = name
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(u8::to_ascii_lowercase)
        .collect();
    KNOWN
        .iter()
        .any(|known| plain.starts_with(known.as_bytes()))
}

/// What the first word of a statement makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Verb {
    #[default]
    None,
    /// `BEGIN`, `START`.
    Begin,
    /// `COMMIT`, `END`, `ROLLBACK`, `ABORT`.
    End,
    Set,
    Reset,
    Alter,
    Prepare,
    Copy,
    Other,
}

/// What must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Awaited {
    #[default]
    Anything,
    /// `=` or `TO` behind the name of a setting.
    Equals(Value),
    /// A value.
    Value(Value),
    /// The end of the statement, behind such a value.
    Close,
    /// `(`, a plain literal and `,` behind `set_config`.
    Arguments,
    SettingName,
    Comma,
}

/// A value that is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    On,
    PlainEncoding,
}

const SETTING: Refused = Refused::Way("a change of a setting that keeps the session read-only");

/// A statement so far.
#[derive(Debug, Default)]
struct Statement {
    verb: Verb,
    awaited: Awaited,
    /// The last token was the word READ.
    read: bool,
    /// The last token names one of [`FUNCTIONS`].
    function: bool,
    words: u32,
    /// `ROLLBACK TO`.
    to: bool,
}

impl Statement {
    fn take(&mut self, token: Token<'_>) -> Result<(), Refused> {
        if let Some(done) = self.take_awaited(token) {
            return done;
        }
        if std::mem::take(&mut self.function) && token == Token::Sign(b'(') {
            return Err(Refused::Way(
                "a function that can get around read-only mode",
            ));
        }
        let read = std::mem::take(&mut self.read);
        match token {
            Token::Word(word) => {
                self.name(word, <[u8]>::eq_ignore_ascii_case)?;
                self.word(word, read)
            }
            // The server folds no quoted name, but a setting's name in any case.
            Token::Quoted(name) if matches!(self.verb, Verb::Set | Verb::Reset) => {
                self.name(name, <[u8]>::eq_ignore_ascii_case)
            }
            Token::Quoted(name) => self.name(name, |a, b| a == b),
            Token::Text(_) | Token::Literal | Token::Number(_) | Token::Sign(_) => Ok(()),
        }
    }

    /// The statement is over. `true`: it ends a transaction.
    fn close(&self) -> Result<bool, Refused> {
        match self.awaited {
            Awaited::Anything | Awaited::Close => Ok(self.verb == Verb::End && !self.to),
            _ => Err(SETTING),
        }
    }

    fn take_awaited(&mut self, token: Token<'_>) -> Option<Result<(), Refused>> {
        let is = |token: Token<'_>, word: &str| match token {
            Token::Word(text) => text.eq_ignore_ascii_case(word.as_bytes()),
            _ => false,
        };
        let next = match (self.awaited, token) {
            (Awaited::Anything, _) => return None,
            (Awaited::Equals(value), Token::Sign(b'=')) => Some(Awaited::Value(value)),
            (Awaited::Equals(value), _) if is(token, "to") => Some(Awaited::Value(value)),
            (
                Awaited::Value(value),
                Token::Word(text) | Token::Text(text) | Token::Number(text),
            ) => value.allows(text).then_some(Awaited::Close),
            (Awaited::Arguments, Token::Sign(b'(')) => Some(Awaited::SettingName),
            (Awaited::SettingName, Token::Text(name)) => {
                (!is_guarded(name)).then_some(Awaited::Comma)
            }
            (Awaited::Comma, Token::Sign(b',')) => Some(Awaited::Anything),
            _ => None,
        };
        Some(match next {
            Some(next) => {
                self.awaited = next;
                Ok(())
            }
            None => Err(SETTING),
        })
    }

    /// A name, whatever it stands for.
    fn name(&mut self, name: &[u8], eq: impl Fn(&[u8], &[u8]) -> bool) -> Result<(), Refused> {
        let is = |known: &str| eq(name, known.as_bytes());
        let begins = |known: &[u8]| name.get(..known.len()).is_some_and(|head| eq(head, known));
        self.function = FUNCTIONS.iter().any(|known| is(known)) || begins(DBLINK);
        if is("set_config") {
            self.awaited = Awaited::Arguments;
        } else if self.verb == Verb::Reset && is_guarded(name) {
            return Err(SETTING);
        } else if self.verb == Verb::Set && is_guarded(name) {
            let is_encoding = is(ENCODING);
            let value = if is_encoding {
                Value::PlainEncoding
            } else {
                Value::On
            };
            self.awaited = Awaited::Equals(value);
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8], after_read: bool) -> Result<(), Refused> {
        let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        self.words += 1;
        if self.verb == Verb::None {
            self.verb = verb(word)?;
            return Ok(());
        }
        self.read = is("read");
        let second = self.words == 2;
        match self.verb {
            Verb::Begin | Verb::Set if after_read && is("write") => Err(Refused::Way("READ WRITE")),
            // SET [SESSION | LOCAL] NAMES
            Verb::Set if is("names") && self.words <= 3 => {
                self.awaited = Awaited::Value(Value::PlainEncoding);
                Ok(())
            }
            Verb::Alter if second && is("system") => Err(Refused::Way("ALTER SYSTEM")),
            Verb::Prepare if second && is("transaction") => {
                Err(Refused::Way("PREPARE TRANSACTION"))
            }
            Verb::End if is("prepared") => Err(Refused::Way("the end of a prepared transaction")),
            Verb::End if is("to") => {
                self.to = true;
                Ok(())
            }
            Verb::Copy if is("program") => Err(Refused::Way("COPY with a program")),
            _ => Ok(()),
        }
    }
}

impl Value {
    fn allows(self, text: &[u8]) -> bool {
        let is = |known: &&str| text.eq_ignore_ascii_case(known.as_bytes());
        match self {
            Self::On => ["on", "true", "yes", "1"].iter().any(is),
            Self::PlainEncoding => is_plain_encoding(text),
        }
    }
}

fn verb(word: &[u8]) -> Result<Verb, Refused> {
    let refused = |what| Err(Refused::Way(what));
    match word.to_ascii_lowercase().as_slice() {
        b"begin" | b"start" => Ok(Verb::Begin),
        b"commit" | b"end" | b"rollback" | b"abort" => Ok(Verb::End),
        b"set" => Ok(Verb::Set),
        b"reset" => Ok(Verb::Reset),
        b"alter" => Ok(Verb::Alter),
        b"prepare" => Ok(Verb::Prepare),
        b"copy" => Ok(Verb::Copy),
        b"do" => refused("DO"),
        b"call" => refused("CALL"),
        b"load" => refused("LOAD"),
        _ => Ok(Verb::Other),
    }
}

fn is_guarded(name: &[u8]) -> bool {
    MODE.iter()
        .chain([&STRINGS, &ENCODING])
        .any(|guarded| name.eq_ignore_ascii_case(guarded.as_bytes()))
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
