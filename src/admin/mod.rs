//! The admin console: PgBouncer's commands and ours, over the simple and the extended protocol.
//!
//! [`serve`] talks to one console client after authentication. `command` holds one row per
//! command, `show` one declaration per column; `exec` carries commands out; `driver` answers what
//! drivers send unasked.

mod answer;
mod command;
mod connection;
mod driver;
mod exec;
mod extended;
mod failure;
mod lex;
mod members;
mod operation;
mod pattern;
mod plan;
mod session;
mod show;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};

pub use command::Privilege;

use crate::config::{Config, DatabaseName, UserName};
use crate::control::Handle;
use crate::pool::Pools;
use crate::session::Clients;
use crate::wire::{BackendKey, ErrorResponse, MessageError};
use show::Sampler;

/// How long a console that is stopped has to take its last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What SHOW VERSION and `--version` say. PgBouncer's number comes first: monitoring reads the
/// first `x.y.z` and chooses its columns by it.
pub const VERSION: &str = concat!(
    "PgBouncer 1.25.2 compatible (pgsluice ",
    env!("CARGO_PKG_VERSION"),
    ")"
);

/// `server_version` of the console. Old enough that no psql warns of a server newer than itself,
/// new enough that drivers take it.
const SERVER_VERSION: &str = concat!("14.0 (pgsluice ", env!("CARGO_PKG_VERSION"), ")");

/// The parts that the console reads and commands.
#[derive(Debug)]
pub struct Console {
    pools: Pools,
    clients: Clients,
    control: Handle,
    config: watch::Receiver<Arc<Config>>,
    requests: mpsc::Sender<Request>,
    sampler: Mutex<Sampler>,
}

/// What only the composition root can do.
#[derive(Debug)]
pub enum Request {
    /// RELOAD: answers with notices, or with what is wrong in the new configuration.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
    /// SHUTDOWN.
    Shutdown(ShutdownMode),
}

/// How an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// At once.
    Immediate,
    /// When no client has a server.
    WaitForServers,
    /// When no client is left.
    WaitForClients,
}

impl Console {
    /// Builds the console of an instance.
    pub fn new(
        pools: Pools,
        clients: Clients,
        control: Handle,
        config: watch::Receiver<Arc<Config>>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self {
            pools,
            clients,
            control,
            config,
            requests,
            sampler: Mutex::default(),
        }
    }

    /// Ends a stats period at `now`: averages are those of the last period. To be called every
    /// `stats_period` (60 s).
    pub fn sample(&self, now: Instant) {
        let totals = self.pools.stats();
        self.sampler().sample(now, totals);
    }

    fn sampler(&self) -> MutexGuard<'_, Sampler> {
        // A sampler has no invariant that a panic could break.
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }
}

/// An authenticated console client.
#[derive(Debug)]
pub struct ConsoleLogin {
    /// Who.
    pub user: UserName,
    /// Name by which the client asked for the admin database.
    pub database: DatabaseName,
    /// What the user may do.
    pub privilege: Privilege,
    /// Cancel key that the session layer registered.
    pub key: BackendKey,
    /// Changes at every cancel request for this key. A change while no statement runs is
    /// forgotten.
    pub cancelled: watch::Receiver<u64>,
}

/// A console connection broke.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Reading or writing failed.
    #[error("console connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The client sent what is no message.
    #[error("console client broke the protocol: {0}")]
    Message(#[from] MessageError),
}

/// Serves one console client from `AuthenticationOk` (sent by the caller) to its end, or until
/// `stop` gives the last words for it. `leftover` is what the client sent beyond its
/// authentication.
///
/// # Errors
/// The connection broke; a client that just leaves is no error.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    leftover: BytesMut,
    console: &Console,
    login: ConsoleLogin,
    stop: impl Future<Output = ErrorResponse>,
) -> Result<(), ConsoleError> {
    let mut session = session::Session::new(stream, leftover, console, login);
    let words = tokio::select! {
        result = session.run() => return result,
        words = stop => words,
    };
    // A client that does not read is not waited for.
    tokio::time::timeout(LAST_WORDS, session.end(&words))
        .await
        .unwrap_or(Ok(()))
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
