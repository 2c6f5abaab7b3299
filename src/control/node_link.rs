//! A control connection to one node: every step has a deadline, and the task that drives the
//! connection ends with it.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Connection, NoTls, Row};

use crate::config::{ClusterConfig, MonitorLogin, NodeConfig};
use crate::net::{Stream, TcpOptions};

/// What our own connections are called in `pg_stat_activity`.
pub(super) const APPLICATION_NAME: &str = "pgsluice";

/// Why a node did not answer as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// No answer in time. The connection must not be used again.
    #[error("{what} took longer than {after:?}")]
    Timeout {
        /// `connect`, `login` or `query`.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The server said no.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Server {
        /// Its code.
        sqlstate: String,
        /// Its primary message.
        message: String,
    },
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Broken(String),
    /// The answer was not of the shape that was asked for.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

impl LinkError {
    /// May the connection go on being used?
    pub(super) fn is_fatal(&self) -> bool {
        !matches!(self, Self::Server { .. } | Self::Unexpected(_))
    }

    /// Has the server ended the connection, or is it gone?
    pub(super) fn ends_the_session(&self) -> bool {
        match self {
            Self::Broken(_) => true,
            Self::Server { sqlstate, .. } => sqlstate.starts_with("57P"),
            Self::Timeout { .. } | Self::Unexpected(_) => false,
        }
    }

    /// Does it say something of the node, and not only of what our role may ask there or of what an
    /// extension answers?
    pub(super) fn is_of_the_node(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Broken(_) => true,
            Self::Server { sqlstate, .. } => {
                matches!(sqlstate.get(..2), Some("08" | "53" | "57" | "58"))
            }
            Self::Unexpected(_) => false,
        }
    }

    /// The server's code, if it spoke.
    pub(super) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for LinkError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::Server {
                sqlstate: db.code().code().to_owned(),
                message: db.message().to_owned(),
            },
            None => Self::Broken(with_sources(&error)),
        }
    }
}

/// How long each step of a control connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// Until the socket is connected.
    pub connect: Duration,
    /// Then, until the role is logged in.
    pub login: Duration,
    /// Each query.
    pub query: Duration,
}

impl Deadlines {
    /// As configured for a cluster.
    pub(super) fn of(config: &ClusterConfig) -> Self {
        Self {
            connect: config.monitor_connect_timeout,
            login: config.monitor_login_timeout,
            query: config.monitor_timeout,
        }
    }

    /// For operations: a probe in doubt must be quick, a switchover need not.
    pub(super) fn patient(config: &ClusterConfig) -> Self {
        const LEAST: Duration = Duration::from_secs(2);
        let quick = Self::of(config);
        Self {
            connect: quick.connect.max(LEAST),
            login: quick.login.max(LEAST),
            query: quick.query.max(LEAST),
        }
    }
}

/// A connection of our own to one node's database.
#[derive(Debug)]
pub(super) struct NodeLink {
    client: Client,
    driver: JoinHandle<()>,
    deadline: Duration,
}

impl NodeLink {
    /// Connects and logs in, each step within its own deadline.
    pub(super) async fn open(
        node: &NodeConfig,
        login: &MonitorLogin,
        deadlines: Deadlines,
    ) -> Result<Self, LinkError> {
        let options = TcpOptions::default();
        let connect = Stream::connect(&node.host, node.port, &options);
        let stream = within("connect", deadlines.connect, connect)
            .await?
            .map_err(|e| LinkError::Broken(with_sources(&e)))?;
        let config = login_config(login);
        let logging_in = Box::pin(config.connect_raw(stream, NoTls));
        let (client, connection) = within("login", deadlines.login, logging_in).await??;
        let link = Self {
            client,
            driver: tokio::spawn(drive(connection)),
            deadline: deadlines.query,
        };
        link.settle().await?;
        Ok(link)
    }

    /// Runs one statement; every parameter is text and cast in the statement. One round trip.
    pub(super) async fn rows(&self, sql: &str, params: &[&str]) -> Result<Vec<Row>, LinkError> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = params
            .iter()
            .map(|text| (text as &(dyn ToSql + Sync), Type::TEXT))
            .collect();
        let query = self.client.query_typed(sql, &typed);
        within("query", self.deadline, query)
            .await?
            .map_err(LinkError::from)
    }

    /// The only row of an answer that has exactly one.
    pub(super) async fn row(&self, sql: &str, params: &[&str]) -> Result<Row, LinkError> {
        let mut rows = self.rows(sql, params).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            (None, _) => Err(LinkError::Unexpected("no row".to_owned())),
            (Some(_), false) => Err(LinkError::Unexpected("several rows".to_owned())),
        }
    }

    /// A yes or no.
    pub(super) async fn yes(&self, sql: &str, params: &[&str]) -> Result<bool, LinkError> {
        let row = self.row(sql, params).await?;
        Ok(field::<Option<bool>>(&row, 0)?.unwrap_or(false))
    }

    /// Did the connection end?
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Our statements must neither wait for a synchronous standby nor outlive our patience.
    async fn settle(&self) -> Result<(), LinkError> {
        let sql = format!(
            "SET synchronous_commit = local; SET statement_timeout = {}; SET lock_timeout = 1000; \
             SET search_path = pg_catalog, public; SET default_transaction_isolation = 'read committed'",
            self.deadline.as_millis().max(1)
        );
        within("query", self.deadline, self.client.batch_execute(&sql))
            .await?
            .map_err(LinkError::from)
    }
}

impl Drop for NodeLink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn within<T>(
    what: &'static str,
    after: Duration,
    step: impl Future<Output = T>,
) -> Result<T, LinkError> {
    let timed_out = |_| LinkError::Timeout { what, after };
    timeout(after, step).await.map_err(timed_out)
}

fn login_config(login: &MonitorLogin) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&login.user)
        .dbname(&login.dbname)
        .application_name(APPLICATION_NAME);
    if let Some(password) = &login.password {
        config.password(password.expose());
    }
    config
}

/// Moves the connection's bytes until it ends, which the next query sees as a closed connection.
async fn drive(connection: Connection<Stream, NoTlsStream>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a control connection ended");
    }
}

/// One column, with the type it must have.
pub(super) fn field<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, LinkError> {
    row.try_get(index)
        .map_err(|e| LinkError::Unexpected(with_sources(&e)))
}

/// An LSN that the statement cast to text; `None` for NULL.
pub(super) fn lsn_field(row: &Row, index: usize) -> Result<Option<crate::lsn::Lsn>, LinkError> {
    match field::<Option<&str>>(row, index)? {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(lsn) => Ok(Some(lsn)),
            Err(_) => Err(LinkError::Unexpected(format!(
                "\"{text}\" is not a WAL position"
            ))),
        },
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::LinkError;

    #[test]
    fn a_session_that_is_ended_is_told_from_one_that_may_not_ask() {
        for (sqlstate, of_the_node, ends) in [
            ("57P01", true, true),
            ("57P02", true, true),
            ("57014", true, false),
            ("53200", true, false),
            ("58030", true, false),
            ("42501", false, false),
            ("42P01", false, false),
            ("55000", false, false),
            ("XX000", false, false),
            ("", false, false),
        ] {
            let error = LinkError::Server {
                sqlstate: sqlstate.to_owned(),
                message: String::new(),
            };
            assert_eq!(error.is_of_the_node(), of_the_node, "{sqlstate}");
            assert_eq!(error.ends_the_session(), ends, "{sqlstate}");
        }
        assert!(LinkError::Broken(String::new()).is_of_the_node());
    }
}
