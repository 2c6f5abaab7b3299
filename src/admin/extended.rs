//! The extended protocol: Parse, Bind, Describe, Execute, Close, Flush (manual section 55.2.3).
//! After an error everything up to Sync is skipped.

use std::collections::HashMap;
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{self, Formats, Value};
use super::failure::Failure;
use super::plan::{Statement, plan};
use super::session::{Session, Stop, columns, utf8};
use crate::wire::RawMessage;
use crate::wire::message::{bare, command_complete, parameter_description};
use crate::wire::tag::{client, server};

/// Most named statements, and most portals, of one console client.
const MOST_NAMES: usize = 256;

/// A statement after Parse; `None`: the query was empty.
pub(super) type Prepared = Option<Arc<Statement>>;

/// A statement after Bind.
#[derive(Debug)]
pub(super) struct Portal {
    statement: Prepared,
    formats: Formats,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    NotRun,
    /// It ran; these rows were not asked for yet.
    Rows(IntoIter<Vec<Value>>, String),
    Done,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    pub(super) async fn extended(&mut self, message: RawMessage) -> Result<(), Stop> {
        let body = Reader(message.body);
        let done = match message.tag {
            client::PARSE => self.parse(body),
            client::BIND => self.bind(body),
            client::DESCRIBE => self.describe(body),
            client::EXECUTE => self.run_portal(body).await,
            client::CLOSE => self.close(body),
            client::FLUSH => self.connection.flush().await.map_err(Stop::Broken),
            other => {
                let message = format!("invalid frontend message type {other}");
                return Err(Failure::protocol(message).into());
            }
        };
        if let Err(Stop::Failed(failure)) = done {
            answer::error(&failure, &mut self.connection.output);
            self.skip_to_sync = true;
            // A client may wait for the error before it sends Sync.
            return Ok(self.connection.flush().await?);
        }
        done
    }

    fn parse(&mut self, mut body: Reader) -> Result<(), Stop> {
        let name = body.text()?;
        let query = body.text()?;
        let mut planned = plan(&query)?.into_iter();
        let statement = planned.next();
        if planned.next().is_some() {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(Failure::new("42601", message).into());
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Failure::new("42P05", message).into());
        }
        bound(&self.statements, &name)?;
        self.statements.insert(name, statement.map(Arc::new));
        bare(server::PARSE_COMPLETE, &mut self.connection.output);
        Ok(())
    }

    fn bind(&mut self, mut body: Reader) -> Result<(), Stop> {
        let portal = body.text()?;
        let name = body.text()?;
        let statement = self.prepared(&name)?;
        for _ in 0..body.count()? {
            body.count()?;
        }
        let parameters = body.count()?;
        if parameters > 0 {
            let message = format!(
                "bind message supplies {parameters} parameters, but prepared statement \"{name}\" requires 0"
            );
            return Err(Failure::protocol(message).into());
        }
        let mut formats = Vec::new();
        for _ in 0..body.count()? {
            match body.count()? {
                0 => formats.push(0),
                1 => formats.push(1),
                other => {
                    let message = format!("unsupported format code: {other}");
                    return Err(Failure::new("22023", message).into());
                }
            }
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            let message = format!("cursor \"{portal}\" already exists");
            return Err(Failure::new("42P03", message).into());
        }
        bound(&self.portals, &portal)?;
        let portal_of_it = Portal {
            statement,
            formats: Formats(formats),
            progress: Progress::NotRun,
        };
        self.portals.insert(portal, portal_of_it);
        bare(server::BIND_COMPLETE, &mut self.connection.output);
        Ok(())
    }

    fn describe(&mut self, mut body: Reader) -> Result<(), Stop> {
        let kind = body.byte()?;
        let name = body.text()?;
        let (statement, formats) = match kind {
            b'S' => {
                let statement = self.prepared(&name)?;
                parameter_description(&[], &mut self.connection.output);
                (statement, Formats::default())
            }
            b'P' => {
                let portal = self.portals.get(&name).ok_or_else(|| no_portal(&name))?;
                (portal.statement.clone(), portal.formats.clone())
            }
            other => return Err(bad_kind(other).into()),
        };
        let out = &mut self.connection.output;
        match statement.as_deref().and_then(columns) {
            Some(columns) => answer::row_description(&columns, &formats, out),
            None => bare(server::NO_DATA, out),
        }
        Ok(())
    }

    async fn run_portal(&mut self, mut body: Reader) -> Result<(), Stop> {
        let name = body.text()?;
        let most = body.word()?;
        // Out of the map while it runs; a portal that failed is gone.
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        let Some(statement) = portal.statement.clone() else {
            bare(server::EMPTY_QUERY, &mut self.connection.output);
            self.portals.insert(name, portal);
            return Ok(());
        };
        let (mut rows, tag) = match portal.progress {
            Progress::Rows(rows, tag) => (rows, tag),
            Progress::NotRun => {
                self.connection.begin_statement();
                let answer = self.execute(&statement).await?;
                self.write_notices(&answer.notices);
                let rows = answer.rows.unwrap_or_default();
                (rows.into_iter(), answer.tag.into_owned())
            }
            Progress::Done => {
                let message = format!("portal \"{name}\" cannot be run");
                return Err(Failure::new("55000", message).into());
            }
        };
        let most = if most == 0 { usize::MAX } else { most as usize };
        for row in rows.by_ref().take(most) {
            answer::data_row(&row, &portal.formats, &mut self.connection.output);
            self.connection.flush_if_full().await?;
        }
        portal.progress = if rows.len() > 0 {
            bare(server::PORTAL_SUSPENDED, &mut self.connection.output);
            Progress::Rows(rows, tag)
        } else {
            command_complete(&tag, &mut self.connection.output);
            Progress::Done
        };
        self.portals.insert(name, portal);
        Ok(())
    }

    fn close(&mut self, mut body: Reader) -> Result<(), Stop> {
        let kind = body.byte()?;
        let name = body.text()?;
        // Closing what does not exist is no error.
        match kind {
            b'S' => drop(self.statements.remove(&name)),
            b'P' => drop(self.portals.remove(&name)),
            other => return Err(bad_kind(other).into()),
        }
        bare(server::CLOSE_COMPLETE, &mut self.connection.output);
        Ok(())
    }

    fn prepared(&self, name: &str) -> Result<Prepared, Failure> {
        self.statements.get(name).cloned().ok_or_else(|| {
            let message = format!("prepared statement \"{name}\" does not exist");
            Failure::new("26000", message)
        })
    }
}

fn bound<T>(names: &HashMap<String, T>, name: &str) -> Result<(), Failure> {
    if names.len() < MOST_NAMES || names.contains_key(name) {
        return Ok(());
    }
    Err(Failure::new(
        "53400",
        format!("a console client may keep {MOST_NAMES} statements and portals"),
    ))
}

fn no_portal(name: &str) -> Failure {
    Failure::new("34000", format!("portal \"{name}\" does not exist"))
}

fn bad_kind(kind: u8) -> Failure {
    Failure::protocol(format!("invalid subtype {kind} of Describe or Close"))
}

/// Reads the fields of a message body.
struct Reader(Bytes);

impl Reader {
    fn text(&mut self) -> Result<String, Failure> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.0.split_to(end.ok_or_else(short)?);
        self.0.advance(1);
        utf8(&text).map(str::to_owned)
    }

    fn byte(&mut self) -> Result<u8, Failure> {
        self.0.try_get_u8().map_err(|_| short())
    }

    fn count(&mut self) -> Result<u16, Failure> {
        self.0.try_get_u16().map_err(|_| short())
    }

    fn word(&mut self) -> Result<u32, Failure> {
        self.0.try_get_u32().map_err(|_| short())
    }
}

fn short() -> Failure {
    Failure::protocol("insufficient data left in message")
}
