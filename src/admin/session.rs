//! One console client: greeting, the message loop, the simple protocol.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{self, Answer, Column, Formats, Value};
use super::connection::Connection;
use super::driver::{Constant, Driver};
use super::extended::{Portal, Prepared};
use super::failure::Failure;
use super::plan::{Action, Statement, plan};
use super::{Console, ConsoleError, ConsoleLogin, SERVER_VERSION, exec};
use crate::control::Refusal;
use crate::pool::VerbError;
use crate::wire::message::{bare, command_complete, parameter_status, ready_for_query};
use crate::wire::tag::{client, server};
use crate::wire::{BackendKey, ErrorResponse, NoticeResponse, RawMessage, SqlState, TxStatus};

pub(super) struct Session<'c, S> {
    pub(super) console: &'c Console,
    pub(super) login: ConsoleLogin,
    pub(super) connection: Connection<S>,
    pub(super) in_transaction: bool,
    /// After an error in the extended protocol: everything up to Sync is skipped.
    pub(super) skip_to_sync: bool,
    pub(super) statements: HashMap<String, Prepared>,
    pub(super) portals: HashMap<String, Portal>,
}

/// Why a statement gave no answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// Tell the client.
    Failed(Failure),
    /// Nobody is there to be told.
    ClientLeft,
    /// The connection broke.
    Broken(ConsoleError),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<VerbError> for Stop {
    fn from(error: VerbError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.into())
    }
}

impl From<ConsoleError> for Stop {
    fn from(error: ConsoleError) -> Self {
        Self::Broken(error)
    }
}

/// Does the session go on?
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl<'c, S: AsyncRead + AsyncWrite + Unpin> Session<'c, S> {
    pub(super) fn new(
        stream: S,
        leftover: BytesMut,
        console: &'c Console,
        login: ConsoleLogin,
    ) -> Self {
        Self {
            connection: Connection::new(stream, leftover, login.cancelled.clone()),
            console,
            login,
            in_transaction: false,
            skip_to_sync: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
        }
    }

    pub(super) async fn run(&mut self) -> Result<(), ConsoleError> {
        self.greet();
        self.ready().await?;
        loop {
            let message = match self.connection.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(error) => {
                    if let ConsoleError::Message(error) = &error {
                        self.fatal(error.to_string()).await?;
                    }
                    return Err(error);
                }
            };
            match self.handle(message).await {
                Ok(Next::GoOn) => {}
                Ok(Next::End) | Err(Stop::ClientLeft) => return Ok(()),
                Err(Stop::Broken(error)) => return Err(error),
                Err(Stop::Failed(failure)) => return self.fatal(failure.message).await,
            }
        }
    }

    /// Parameters that drivers need before they talk.
    fn greet(&mut self) {
        let user = self.login.user.to_string();
        let superuser = if self.login.privilege == super::Privilege::Admin {
            "on"
        } else {
            "off"
        };
        let out = &mut self.connection.output;
        for (name, value) in [
            ("server_version", SERVER_VERSION),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("default_transaction_read_only", "off"),
            ("in_hot_standby", "off"),
            ("is_superuser", superuser),
            ("session_authorization", user.as_str()),
            ("application_name", ""),
        ] {
            parameter_status(name.as_bytes(), value.as_bytes(), out);
        }
        self.login.key.encode(out);
    }

    async fn handle(&mut self, message: RawMessage) -> Result<Next, Stop> {
        match message.tag {
            client::TERMINATE => return Ok(Next::End),
            client::SYNC => {
                self.skip_to_sync = false;
                if !self.in_transaction {
                    self.portals.clear();
                }
                self.ready().await?;
            }
            _ if self.skip_to_sync => {}
            client::QUERY => self.simple_query(&message.body).await?,
            client::FUNCTION_CALL => {
                let failure = Failure::new("0A000", "the console has no functions to call");
                answer::error(&failure, &mut self.connection.output);
                self.ready().await?;
            }
            // Left over from a COPY that the client believed in; PostgreSQL ignores them as well.
            client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL => {}
            _ => self.extended(message).await?,
        }
        Ok(Next::GoOn)
    }

    /// Statements in order, answered in order, up to the first that fails.
    async fn simple_query(&mut self, body: &Bytes) -> Result<(), Stop> {
        self.connection.begin_statement();
        self.statements.remove("");
        self.portals.remove("");
        let planned = body
            .strip_suffix(b"\0")
            .ok_or_else(|| Failure::protocol("invalid string in message"))
            .and_then(utf8)
            .and_then(plan);
        match planned {
            Err(failure) => answer::error(&failure, &mut self.connection.output),
            Ok(statements) if statements.is_empty() => {
                bare(server::EMPTY_QUERY, &mut self.connection.output);
            }
            Ok(statements) => {
                for statement in &statements {
                    match self.execute(statement).await {
                        Ok(answer) => self.write(statement, answer).await?,
                        Err(Stop::Failed(failure)) => {
                            answer::error(&failure, &mut self.connection.output);
                            break;
                        }
                        Err(stop) => return Err(stop),
                    }
                }
            }
        }
        Ok(self.ready().await?)
    }

    async fn write(&mut self, statement: &Statement, answer: Answer) -> Result<(), Stop> {
        self.write_notices(&answer.notices);
        if let (Some(columns), Some(rows)) = (columns(statement), &answer.rows) {
            let formats = Formats::default();
            answer::row_description(&columns, &formats, &mut self.connection.output);
            for row in rows {
                answer::data_row(row, &formats, &mut self.connection.output);
                self.connection.flush_if_full().await?;
            }
        }
        command_complete(&answer.tag, &mut self.connection.output);
        Ok(())
    }

    pub(super) fn write_notices(&mut self, notices: &[NoticeResponse]) {
        for notice in notices {
            notice.encode(&mut self.connection.output);
        }
    }

    /// Carries one statement out.
    pub(super) async fn execute(&mut self, statement: &Statement) -> Result<Answer, Stop> {
        match &statement.action {
            Action::Driver(driver) => Ok(self.answer_driver(driver)),
            Action::Command(verb, command) => {
                if verb.privilege > self.login.privilege {
                    return Err(Failure::new("42501", "admin access needed").into());
                }
                exec::run(self, verb, command, &statement.text).await
            }
        }
    }

    fn answer_driver(&mut self, driver: &Driver) -> Answer {
        match driver {
            Driver::Begin(tag) => {
                self.in_transaction = true;
                Answer::tag(tag)
            }
            Driver::End(tag) => {
                self.in_transaction = false;
                Answer::tag(tag)
            }
            Driver::Ignored(tag) => Answer::tag(tag),
            Driver::Deallocate(name, tag) => {
                match name {
                    Some(name) => drop(self.statements.remove(name)),
                    None => self.statements.clear(),
                }
                Answer::tag(tag)
            }
            Driver::Row(tag, row) => {
                let row = row.iter().map(|(_, value)| self.constant(value)).collect();
                Answer::rows(tag, vec![row])
            }
        }
    }

    fn constant(&self, constant: &Constant) -> Value {
        match constant {
            Constant::Text(text) => Value::Text(text.clone()),
            Constant::Int(number) => Value::Int4(*number),
            Constant::Bool(yes) => Value::Bool(*yes),
            Constant::Null => Value::Null,
            Constant::User => Value::Text(self.login.user.to_string()),
            Constant::Database => Value::Text(self.login.database.to_string()),
            Constant::Pid => {
                let BackendKey { pid, .. } = self.login.key;
                Value::Int4(pid.cast_signed())
            }
        }
    }

    pub(super) async fn ready(&mut self) -> Result<(), ConsoleError> {
        let status = if self.in_transaction {
            TxStatus::InTransaction
        } else {
            TxStatus::Idle
        };
        ready_for_query(status, &mut self.connection.output);
        self.connection.flush().await
    }

    async fn fatal(&mut self, message: String) -> Result<(), ConsoleError> {
        let words = ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, message);
        self.end(&words).await
    }

    /// Last words, behind all that was answered. Also after [`run`](Self::run) was dropped: the
    /// output always holds whole messages, or the rest of one.
    pub(super) async fn end(&mut self, words: &ErrorResponse) -> Result<(), ConsoleError> {
        words.encode(&mut self.connection.output);
        self.connection.flush().await
    }
}

/// The result set that a statement will answer, if it answers one.
pub(super) fn columns(statement: &Statement) -> Option<Vec<Column>> {
    match &statement.action {
        Action::Driver(Driver::Row(_, row)) => {
            let column = |(name, value): &(String, Constant)| {
                Column::new(name.clone(), exec::constant_type(value))
            };
            Some(row.iter().map(column).collect())
        }
        Action::Driver(_) => None,
        Action::Command(_, command) => exec::columns(command),
    }
}

pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes)
        .map_err(|_| Failure::new("22021", "invalid byte sequence for encoding \"UTF8\""))
}
