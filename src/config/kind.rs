//! The types of settings: what text each accepts, how each is shown. TOML, the console's `SET` and
//! the reference share this one reading of `10s`, `16MB` and `0777`.

use std::fmt;
use std::time::Duration;

use super::units::{SIZE_UNITS, TIME_UNITS, human, split_unit, unit_of};
use super::{Secret, command, event_filter, shell_words};

/// The longest time that a setting may be: a month is surely a mistake of unit.
pub(super) const LONGEST: Duration = Duration::from_hours(30 * 24);

/// Unit of a time that is written as a bare number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    /// PgBouncer's rule for all but one setting.
    Seconds,
    /// PgBouncer's `tcp_user_timeout`.
    Milliseconds,
}

/// The type of a setting, with its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true`, `false`, `1`, `0`.
    Flag,
    /// A whole number.
    Integer { min: i64, max: i64 },
    /// A time. `off`: zero is accepted, whatever the range, and means "off".
    Time {
        min: Duration,
        max: Duration,
        off: bool,
        bare: Bare,
    },
    /// Bytes.
    Size { max: u64 },
    /// Any text.
    Text,
    /// Text that must not be empty.
    Name,
    /// A host name, an address, or the directory of a Unix socket.
    Host,
    /// Name of a table, with or without its schema.
    Relation,
    /// Texts; a string is split at commas as PgBouncer does.
    List,
    /// Permission bits in octal.
    Mode,
    /// One of `words`; those in `later` are known, but not there yet.
    Choice {
        words: &'static [&'static str],
        later: &'static [&'static str],
    },
    /// A command line, as one text or as a list of its words.
    Command,
    /// Kinds of events.
    Events,
    /// Text that is never shown.
    Secret,
}

/// A setting's value, before it is a field of a struct.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Nothing: "off", or not given.
    Off,
    Flag(bool),
    Integer(i64),
    Time(Duration),
    Size(u64),
    Text(String),
    List(Vec<String>),
    Secret(Secret),
}

/// Why a text is not a value. It never holds the text: that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The text does not have the form; what the form is.
    #[error("expected {0}")]
    Expected(String),
    /// What the range is.
    #[error("out of range: expected {0}")]
    Range(String),
    /// No such unit; those that there are.
    #[error("wrong unit: use one of {0}")]
    Unit(&'static str),
    /// A word for something that this version does not do; what it does.
    #[error("not supported yet (supported: {0})")]
    Later(String),
    /// PostgreSQL's protocol ends a string with a zero byte.
    #[error("contains a zero byte")]
    ZeroByte,
    /// It has the form, but no meaning; what is wrong.
    #[error("{0}")]
    Meaning(String),
    /// A secret must not be empty.
    #[error("is empty; leave the key out if there is no password")]
    EmptySecret,
}

impl Fault {
    /// With what stood there instead, which must not be a secret.
    pub(super) fn explain(&self, shown: &str) -> String {
        match self {
            Self::Expected(_) => format!("{self}, not {shown}"),
            Self::Range(_) | Self::Later(_) => format!("{shown} is {self}"),
            Self::Unit(_) => format!("{shown} has a {self}"),
            Self::Meaning(what) => what.clone(),
            Self::ZeroByte | Self::EmptySecret => format!("{shown} {self}"),
        }
    }
}

/// Reads a time as the file has it: `10s`, `300ms`, `5min`, a bare number of seconds. For the
/// console's TIMEOUT clauses; the error says what was expected.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    match Kind::time(0).parse(text) {
        Ok(Value::Time(time)) => Ok(time),
        Ok(_) => Err(Kind::time(0).expected().to_string()),
        Err(fault) => Err(fault.explain(&format!("{text:?}"))),
    }
}

impl Kind {
    /// A time from `min` milliseconds on.
    pub(super) const fn time(min: u64) -> Self {
        Self::Time {
            min: Duration::from_millis(min),
            max: LONGEST,
            off: false,
            bare: Bare::Seconds,
        }
    }

    /// A time from `min` milliseconds on, or zero for "off".
    pub(super) const fn time_or_off(min: u64) -> Self {
        Self::Time {
            min: Duration::from_millis(min),
            max: LONGEST,
            off: true,
            bare: Bare::Seconds,
        }
    }

    /// Must TOML give it in quotes? (A number there would be read with another meaning.)
    pub(super) fn is_textual(self) -> bool {
        !matches!(
            self,
            Self::Flag | Self::Integer { .. } | Self::Time { .. } | Self::Size { .. }
        )
    }

    /// Reads the text.
    pub(super) fn parse(self, text: &str) -> Result<Value, Fault> {
        if text.contains('\0') {
            return Err(Fault::ZeroByte);
        }
        match self {
            Self::Flag => match text {
                "true" | "1" => Ok(Value::Flag(true)),
                "false" | "0" => Ok(Value::Flag(false)),
                _ => Err(self.expected()),
            },
            Self::Integer { min, max } => {
                let number: i64 = text.parse().map_err(|_| self.expected())?;
                if (min..=max).contains(&number) {
                    Ok(Value::Integer(number))
                } else {
                    Err(Fault::Range(self.to_string()))
                }
            }
            Self::Time {
                min,
                max,
                off,
                bare,
            } => {
                let time = self.time_of(text, bare)?;
                if (off && time.is_zero()) || (min..=max).contains(&time) {
                    Ok(Value::Time(time))
                } else {
                    Err(Fault::Range(self.to_string()))
                }
            }
            Self::Size { max } => {
                let size = self.size_of(text)?;
                if size <= max {
                    Ok(Value::Size(size))
                } else {
                    Err(Fault::Range(self.to_string()))
                }
            }
            Self::List | Self::Events => self.parse_list(split_list(text)),
            Self::Command => {
                let words = shell_words::split(text).map_err(Fault::Meaning)?;
                self.parse_list(words)
            }
            Self::Mode => match i64::from_str_radix(text, 8) {
                Ok(mode @ 0..=0o777) => Ok(Value::Integer(mode)),
                _ => Err(self.expected()),
            },
            Self::Choice { words, later } => self.choose(text, words, later),
            Self::Secret if text.is_empty() => Err(Fault::EmptySecret),
            Self::Secret => Ok(Value::Secret(Secret::new(text.to_owned()))),
            Self::Text | Self::Name | Self::Host | Self::Relation => {
                if self.accepts_text(text) {
                    Ok(Value::Text(text.to_owned()))
                } else {
                    Err(self.expected())
                }
            }
        }
    }

    /// May TOML give it as a list of texts?
    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::List | Self::Command | Self::Events)
    }

    /// Reads the texts of a list.
    pub(super) fn parse_list(self, list: Vec<String>) -> Result<Value, Fault> {
        if list.iter().any(|text| text.contains('\0')) {
            return Err(Fault::ZeroByte);
        }
        match self {
            Self::Command if list.is_empty() => return Ok(Value::Off),
            Self::Command => command::check(&list).map_err(Fault::Meaning)?,
            Self::Events => event_filter::check(&list).map_err(Fault::Meaning)?,
            _ if list.iter().any(String::is_empty) => return Err(Self::Name.expected()),
            _ => {}
        }
        Ok(Value::List(list))
    }

    /// As `SHOW CONFIG` shows it: PgBouncer's form, so that its tools can read it.
    pub(super) fn show(self, value: &Value) -> String {
        match (self, value) {
            (Self::Integer { .. } | Self::Time { .. } | Self::Size { .. }, Value::Off) => {
                "0".to_owned()
            }
            (
                Self::Time {
                    bare: Bare::Milliseconds,
                    ..
                },
                Value::Time(time),
            ) => time.as_millis().to_string(),
            (_, Value::Off) => String::new(),
            (_, Value::Flag(flag)) => u8::from(*flag).to_string(),
            (Self::Mode, Value::Integer(mode)) => format!("{mode:04o}"),
            (_, Value::Integer(number)) => number.to_string(),
            (_, Value::Time(time)) => time.as_secs_f64().to_string(),
            (_, Value::Size(size)) => size.to_string(),
            (_, Value::Text(text)) => text.clone(),
            (Self::Command, Value::List(words)) => shell_words::join(words),
            (_, Value::List(list)) => list.join(","),
            (_, Value::Secret(_)) => "****".to_owned(),
        }
    }

    /// What was expected, said once for all faults of form.
    pub(super) fn expected(self) -> Fault {
        Fault::Expected(self.to_string())
    }

    fn time_of(self, text: &str, bare: Bare) -> Result<Duration, Fault> {
        let (number, unit) = split_unit(text).ok_or_else(|| self.expected())?;
        let factor = match (unit, bare) {
            ("", Bare::Seconds) => 1.0,
            ("", Bare::Milliseconds) => 0.001,
            _ => unit_of(TIME_UNITS, unit).ok_or(Fault::Unit("ms, s, min, h, d"))?,
        };
        Duration::try_from_secs_f64(number * factor).map_err(|_| Fault::Range(self.to_string()))
    }

    fn size_of(self, text: &str) -> Result<u64, Fault> {
        let (number, unit) = split_unit(text).ok_or_else(|| self.expected())?;
        let factor = match unit {
            "" => 1,
            _ => unit_of(SIZE_UNITS, unit).ok_or(Fault::Unit("B, kB, MB, GB, TB"))?,
        };
        // The cast saturates, and what saturates is far out of range.
        Ok((number * factor as f64) as u64)
    }

    fn choose(self, text: &str, words: &[&str], later: &[&str]) -> Result<Value, Fault> {
        if later.contains(&text) {
            let now: Vec<String> = quoted(words, later);
            Err(Fault::Later(now.join(", ")))
        } else if words.contains(&text) {
            Ok(Value::Text(text.to_owned()))
        } else {
            Err(self.expected())
        }
    }

    fn accepts_text(self, text: &str) -> bool {
        match self {
            Self::Name => !text.is_empty(),
            Self::Host => {
                !text.is_empty() && !text.contains(|c: char| c == ',' || c.is_whitespace())
            }
            Self::Relation => is_relation(text),
            _ => true,
        }
    }
}

/// What it accepts, for messages and the reference.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Time {
                min,
                max,
                off,
                bare,
            } => {
                let (min, max) = (human(*min), human(*max));
                write!(f, "a time from {min} to {max}")?;
                f.write_str(if *off { ", 0 for off" } else { "" })?;
                match bare {
                    Bare::Seconds => f.write_str(" (\"10s\"; a bare number is seconds)"),
                    Bare::Milliseconds => f.write_str(" (\"10s\"; a bare number is milliseconds)"),
                }
            }
            Self::Size { max } => {
                write!(
                    f,
                    "a size up to {}TB (\"16MB\"; a bare number is bytes)",
                    max >> 40
                )
            }
            Self::Text => f.write_str("a text in quotes"),
            Self::Name => f.write_str("a text in quotes that is not empty"),
            Self::Host => f.write_str("one host name, address or socket directory in quotes"),
            Self::Relation => f.write_str("\"table\" or \"schema.table\" in lower case, or \"\""),
            Self::List => f.write_str("a list of texts"),
            Self::Command => f.write_str("a command line in quotes, or a list of its words"),
            Self::Events => f.write_str("a list of kinds of events (events.md has them all)"),
            Self::Mode => f.write_str("permission bits in octal in quotes (\"0770\")"),
            Self::Choice { words, later } => f.write_str(&quoted(words, later).join(" or ")),
            Self::Secret => f.write_str("a text, \"${VARIABLE}\" or \"file:/path\" in quotes"),
        }
    }
}

fn quoted(words: &[&str], later: &[&str]) -> Vec<String> {
    words
        .iter()
        .filter(|word| !later.contains(word))
        .map(|word| format!("\"{word}\""))
        .collect()
}

fn split_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Unquoted identifiers only: the name becomes part of SQL. Empty stands for "none".
fn is_relation(text: &str) -> bool {
    let is_identifier = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && part.len() <= 63
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    text.is_empty() || (text.split('.').count() <= 2 && text.split('.').all(is_identifier))
}
