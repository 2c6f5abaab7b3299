//! What a console statement that was not carried out answers: an ERROR as PostgreSQL shapes it.

use crate::config::nearest;
use crate::control::Refusal;
use crate::pool::VerbError;

/// One ERROR: the console goes on after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    pub(super) sqlstate: &'static str,
    pub(super) message: String,
    pub(super) detail: Option<String>,
    pub(super) hint: Option<String>,
    /// Where in the query string, in bytes from its start.
    pub(super) at: Option<usize>,
}

impl Failure {
    pub(super) fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self {
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            at: None,
        }
    }

    /// 42601 at a place of the query string.
    pub(super) fn syntax(message: impl Into<String>, at: usize) -> Self {
        Self {
            at: Some(at),
            ..Self::new("42601", message)
        }
    }

    /// 57014: the user's cancel request ended it.
    pub(super) fn cancelled() -> Self {
        Self::new("57014", "canceling statement due to user request")
    }

    /// 08P01: the client's messages make no sense.
    pub(super) fn protocol(message: impl Into<String>) -> Self {
        Self::new("08P01", message)
    }

    pub(super) fn detail(self, detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..self
        }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl From<VerbError> for Failure {
    fn from(error: VerbError) -> Self {
        let sqlstate = match &error {
            VerbError::NoSuchDatabase(_) => "3D000",
            VerbError::AlreadyPaused | VerbError::NotPaused(_) | VerbError::PoolerNotPaused => {
                "55000"
            }
            VerbError::NoSuchClient => "22023",
        };
        Self::new(sqlstate, error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self {
            sqlstate: refusal.sqlstate,
            message: refusal.message,
            detail: refusal.detail,
            hint: refusal.hint,
            at: None,
        }
    }
}

/// Long input is not repeated in full.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let head: String = text.chars().take(MOST).collect();
    format!("{head}...")
}

/// The word of the console that was probably meant.
pub(super) fn probably<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let known: Vec<String> = known.map(str::to_lowercase).collect();
    nearest(word, known.iter().map(String::as_str)).map(str::to_uppercase)
}
