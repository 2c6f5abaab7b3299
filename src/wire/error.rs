//! SQLSTATEs, errors and notices: those we write and those we read (manual, section 55.8).

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};

use super::message::write_message;
use super::tag::server::{ERROR, NOTICE};

/// Five characters that say what kind of error it is (manual, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

macro_rules! sqlstates {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: Self = Self(*$code);)*
        }
    };
}

sqlstates! {
    /// `successful_completion`: what a notice carries.
    SUCCESS = b"00000";
    /// `warning`.
    WARNING = b"01000";
    /// `connection_does_not_exist`.
    CONNECTION_DOES_NOT_EXIST = b"08003";
    /// `connection_failure`: the server is gone.
    CONNECTION_FAILURE = b"08006";
    /// `transaction_resolution_unknown`: it was gone while a COMMIT was under way.
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    /// `protocol_violation`.
    PROTOCOL_VIOLATION = b"08P01";
    /// `feature_not_supported`.
    FEATURE_NOT_SUPPORTED = b"0A000";
    /// `invalid_parameter_value`.
    INVALID_PARAMETER_VALUE = b"22023";
    /// `active_sql_transaction`.
    ACTIVE_SQL_TRANSACTION = b"25001";
    /// `read_only_sql_transaction`.
    READ_ONLY_SQL_TRANSACTION = b"25006";
    /// `invalid_sql_statement_name`.
    INVALID_SQL_STATEMENT_NAME = b"26000";
    /// `invalid_authorization_specification`.
    INVALID_AUTHORIZATION = b"28000";
    /// `invalid_password`.
    INVALID_PASSWORD = b"28P01";
    /// `invalid_cursor_name`.
    INVALID_CURSOR_NAME = b"34000";
    /// `invalid_catalog_name`: no such database.
    INVALID_CATALOG_NAME = b"3D000";
    /// `insufficient_privilege`.
    INSUFFICIENT_PRIVILEGE = b"42501";
    /// `syntax_error`.
    SYNTAX_ERROR = b"42601";
    /// `undefined_object`.
    UNDEFINED_OBJECT = b"42704";
    /// `disk_full`.
    DISK_FULL = b"53100";
    /// `too_many_connections`.
    TOO_MANY_CONNECTIONS = b"53300";
    /// `configuration_limit_exceeded`.
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    /// `program_limit_exceeded`.
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    /// `object_not_in_prerequisite_state`.
    NOT_IN_PREREQUISITE_STATE = b"55000";
    /// `query_canceled`.
    QUERY_CANCELED = b"57014";
    /// `admin_shutdown`: ended on purpose.
    ADMIN_SHUTDOWN = b"57P01";
    /// `crash_shutdown`.
    CRASH_SHUTDOWN = b"57P02";
    /// `cannot_connect_now`: try the next host.
    CANNOT_CONNECT_NOW = b"57P03";
    /// `idle_session_timeout`.
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// `system_error`: an error outside PostgreSQL.
    SYSTEM_ERROR = b"58000";
    /// `config_file_error`.
    CONFIG_FILE_ERROR = b"F0000";
    /// `internal_error`.
    INTERNAL_ERROR = b"XX000";
}

impl SqlState {
    /// Takes five letters or digits; `None` for anything else.
    pub fn parse(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter()
            .all(u8::is_ascii_alphanumeric)
            .then_some(Self(code))
    }

    /// That of an `ErrorResponse` of which only the beginning of the body may be there. The code
    /// stands in front of the texts, so that a short beginning has it.
    pub fn of_error(mut body: &[u8]) -> Option<Self> {
        loop {
            let (&field, rest) = body.split_first()?;
            let end = rest.iter().position(|&byte| byte == 0)?;
            if field == b'C' {
                return Self::parse(rest.get(..end)?);
            }
            body = rest.get(end + 1..)?;
        }
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The command failed.
    Error,
    /// The session ends.
    Fatal,
    /// For the operator's eyes.
    Warning,
    /// For information.
    Notice,
}

impl Severity {
    /// As it stands in a message.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// An error of ours, for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    /// [`Severity::Error`] or [`Severity::Fatal`].
    pub severity: Severity,
    /// What kind.
    pub code: SqlState,
    /// Primary message: one line, lower case, no period.
    pub message: Cow<'static, str>,
    /// DETAIL: whole sentences.
    pub detail: Option<Cow<'static, str>>,
    /// HINT: what to do about it, whole sentences.
    pub hint: Option<Cow<'static, str>>,
}

impl ErrorResponse {
    /// Ends the command.
    pub fn error(code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self {
            severity: Severity::Error,
            code,
            message,
            detail: None,
            hint: None,
        }
    }

    /// Ends the session.
    pub fn fatal(code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            severity: Severity::Fatal,
            ..Self::error(code, message)
        }
    }

    /// Adds a DETAIL.
    #[must_use]
    pub fn detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..self
        }
    }

    /// Adds a HINT.
    #[must_use]
    pub fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_fields(ERROR, self, out);
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.severity.as_str(),
            self.code,
            self.message
        )
    }
}

/// A notice of ours, for a client. The same fields as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeResponse(ErrorResponse);

impl NoticeResponse {
    /// For information.
    pub fn notice(message: impl Into<Cow<'static, str>>) -> Self {
        let body = ErrorResponse::error(SqlState::SUCCESS, message);
        Self(ErrorResponse {
            severity: Severity::Notice,
            ..body
        })
    }

    /// A warning.
    pub fn warning(message: impl Into<Cow<'static, str>>) -> Self {
        let body = ErrorResponse::error(SqlState::WARNING, message);
        Self(ErrorResponse {
            severity: Severity::Warning,
            ..body
        })
    }

    /// Adds a DETAIL.
    #[must_use]
    pub fn detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(self.0.detail(detail))
    }

    /// Adds a HINT.
    #[must_use]
    pub fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self(self.0.hint(hint))
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_fields(NOTICE, &self.0, out);
    }
}

/// A server's error or notice as far as we understand it. Nothing is taken for granted: a server
/// that leaves a field out (CVE-2026-6666) is as good a source as any other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// `V`, or else `S`.
    pub severity: Option<String>,
    /// `C`, if it is one.
    pub code: Option<SqlState>,
    /// `M`.
    pub message: Option<String>,
    /// `D`.
    pub detail: Option<String>,
    /// `H`.
    pub hint: Option<String>,
    /// Are all fields terminated and the mandatory ones there? Only then may the body be passed
    /// on as it came.
    pub well_formed: bool,
}

impl Report {
    /// Reads the body of an `ErrorResponse` or `NoticeResponse`. Text that is not UTF-8 (its
    /// encoding is the database's) is made readable, so pass on the body and not this.
    pub fn parse(body: &[u8]) -> Self {
        let mut report = Self::default();
        let mut localized = None;
        let mut rest = body;
        let terminated = loop {
            let Some((&field, after)) = rest.split_first() else {
                break false;
            };
            if field == 0 {
                break after.is_empty();
            }
            let Some(end) = after.iter().position(|&b| b == 0) else {
                break false;
            };
            let (value, after) = after.split_at(end);
            let text = || Some(String::from_utf8_lossy(value).into_owned());
            match field {
                b'S' => localized = text(),
                b'V' => report.severity = text(),
                b'C' => report.code = SqlState::parse(value),
                b'M' => report.message = text(),
                b'D' => report.detail = text(),
                b'H' => report.hint = text(),
                _ => {}
            }
            rest = after.get(1..).unwrap_or_default();
        };
        let complete = localized.is_some() && report.code.is_some() && report.message.is_some();
        report.well_formed = terminated && complete;
        report.severity = report.severity.or(localized);
        report
    }

    /// The same as a FATAL error of ours, with `58000` where the server gave no SQLSTATE.
    pub fn into_fatal(self) -> ErrorResponse {
        let message = self.message.filter(|m| !m.is_empty());
        let message = message.unwrap_or_else(|| "server sent an error without message".to_owned());
        ErrorResponse {
            severity: Severity::Fatal,
            code: self.code.unwrap_or(SqlState::SYSTEM_ERROR),
            message: message.into(),
            detail: self.detail.map(Cow::from),
            hint: self.hint.map(Cow::from),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.as_deref().unwrap_or("ERROR");
        let message = self.message.as_deref().unwrap_or("(no message)");
        match self.code {
            Some(code) => write!(f, "{severity} {code}: {message}"),
            None => write!(f, "{severity}: {message}"),
        }
    }
}

fn encode_fields(tag: u8, error: &ErrorResponse, out: &mut BytesMut) {
    write_message(tag, out, |out| {
        let severity = error.severity.as_str();
        for (field, text) in [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(error.code.as_str())),
            (b'M', Some(&*error.message)),
            (b'D', error.detail.as_deref()),
            (b'H', error.hint.as_deref()),
        ] {
            if let Some(text) = text {
                out.put_u8(field);
                put_text(text, out);
            }
        }
        out.put_u8(0);
    });
}

/// Appends text as a C string. A NUL byte would end it early and put what follows out of step, so
/// it becomes a space.
pub(super) fn put_text(text: &str, out: &mut BytesMut) {
    for (i, part) in text.split('\0').enumerate() {
        if i > 0 {
            out.put_u8(b' ');
        }
        out.put_slice(part.as_bytes());
    }
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(out: &BytesMut) -> &[u8] {
        out.get(5..).unwrap_or_default()
    }

    #[test]
    fn errors_read_as_they_were_written() {
        let error = ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, "going\0down")
            .detail("A switchover is under way.")
            .hint("Connect again.");
        let mut out = BytesMut::new();
        error.encode(&mut out);
        assert_eq!(out.first(), Some(&b'E'));
        assert_eq!(
            body(&out),
            b"SFATAL\0VFATAL\0C57P01\0Mgoing down\0DA switchover is under way.\0HConnect again.\0\0"
        );
        let report = Report::parse(body(&out));
        assert!(report.well_formed);
        assert_eq!(report.to_string(), "FATAL 57P01: going down");
    }

    #[test]
    fn a_code_is_read_from_the_beginning_of_an_error() {
        let body = b"SERROR\0VERROR\0C53100\0Mno space\0\0";
        let code = |body: &[u8]| SqlState::of_error(body).map(|code| code.to_string());
        for (length, expected) in [
            (body.len(), Some("53100")),
            (21, Some("53100")),
            (20, None),
            (14, None),
            (0, None),
        ] {
            assert_eq!(code(&body[..length]).as_deref(), expected, "{length}");
        }
        assert_eq!(code(b"\0"), None);
        assert_eq!(code(b"C531\0"), None);
        assert_eq!(code(b"SERROR\0MC53100\0\0"), None);
    }

    #[test]
    fn notices_are_notices() {
        let mut out = BytesMut::new();
        NoticeResponse::notice("hello")
            .hint("Wave.")
            .encode(&mut out);
        assert_eq!(out.first(), Some(&b'N'));
        assert_eq!(body(&out), b"SNOTICE\0VNOTICE\0C00000\0Mhello\0HWave.\0\0");
        out.clear();
        NoticeResponse::warning("look out")
            .detail("There.")
            .encode(&mut out);
        assert_eq!(
            body(&out),
            b"SWARNING\0VWARNING\0C01000\0Mlook out\0DThere.\0\0"
        );
    }

    #[test]
    fn a_server_may_leave_anything_out() {
        // body, SQLSTATE and message of what the client is told, may the body be passed on?
        let none = "server sent an error without message";
        let cases: &[(&[u8], &str, &str, bool)] = &[
            (b"", "58000", none, false),
            (b"\0", "58000", none, false),
            (b"Monly this\0\0", "58000", "only this", false),
            (b"SFATAL\0Mno code\0\0", "58000", "no code", false),
            (b"VFATAL\0C57P03\0Mno S\0\0", "57P03", "no S", false),
            (b"SFATAL\0C57P03\0Mnot ended\0", "57P03", "not ended", false),
            (b"SFATAL\0C57P03\0Mnot terminated", "57P03", none, false),
            (
                b"SFATAL\0C57P03\0Mtrailing\0\0x",
                "57P03",
                "trailing",
                false,
            ),
            (
                b"SFATAL\0C57\0Mshort code\0\0",
                "58000",
                "short code",
                false,
            ),
            (b"SFATAL\0C57P03\0Mgood\0\0", "57P03", "good", true),
        ];
        for (body, code, message, well_formed) in cases {
            let report = Report::parse(body);
            assert_eq!(report.well_formed, *well_formed, "{body:?}");
            let error = report.into_fatal();
            assert_eq!(
                (error.code.as_str(), &*error.message),
                (*code, *message),
                "{body:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Report::parse(&body).to_string();
        }
    }
}
