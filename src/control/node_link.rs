//! A control connection to one node: every step has a deadline, and the task that drives the
//! connection ends with it.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};

use crate::config::{MonitorLogin, NodeConfig};

/// What our own connections are called in `pg_stat_activity`.
pub(super) const APPLICATION_NAME: &str = "pgsluice";

/// Why a node did not answer as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// No answer in time. The connection must not be used again.
    #[error("{what} took longer than {after:?}")]
    Timeout {
        /// `connect` or `query`.
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

/// A connection of our own to one node's database.
#[derive(Debug)]
pub(super) struct NodeLink {
    client: Client,
    driver: JoinHandle<()>,
    deadline: Duration,
}

impl NodeLink {
    /// Connects and logs in within `deadline`, which then also holds for each query.
    pub(super) async fn open(
        node: &NodeConfig,
        login: &MonitorLogin,
        deadline: Duration,
    ) -> Result<Self, LinkError> {
        let mut config = tokio_postgres::Config::new();
        if node.host.starts_with('/') {
            config.host_path(&node.host);
        } else {
            config.host(&node.host);
        }
        config
            .port(node.port)
            .user(&login.user)
            .dbname(&login.dbname);
        config
            .application_name(APPLICATION_NAME)
            .connect_timeout(deadline);
        if let Some(password) = &login.password {
            config.password(password.expose());
        }
        let connect = Box::pin(config.connect(NoTls));
        let (client, connection) =
            timeout(deadline, connect)
                .await
                .map_err(|_| LinkError::Timeout {
                    what: "connect",
                    after: deadline,
                })??;
        let driver = tokio::spawn(async move {
            // Its end is seen by the next query as a closed connection.
            let _ = connection.await;
        });
        let link = Self {
            client,
            driver,
            deadline,
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
        timeout(self.deadline, self.client.query_typed(sql, &typed))
            .await
            .map_err(|_| LinkError::Timeout {
                what: "query",
                after: self.deadline,
            })?
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
        timeout(self.deadline, self.client.batch_execute(&sql))
            .await
            .map_err(|_| LinkError::Timeout {
                what: "query",
                after: self.deadline,
            })?
            .map_err(LinkError::from)
    }
}

impl Drop for NodeLink {
    fn drop(&mut self) {
        self.driver.abort();
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
