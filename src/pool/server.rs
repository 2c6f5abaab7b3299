//! One server connection: dial, log in, reset, close.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::auth::server::{LoginError, ServerLogin, login};
use crate::auth::{Kdf, Verifier};
use crate::config::NodeConfig;
use crate::net::{Stream, TcpOptions};
use crate::wire::message::{self, RawMessage, TxStatus};
use crate::wire::{frontend, tag};

use super::info::{ServerInfo, StartupParams};

/// Terminate has no body.
const TERMINATE: &[u8] = b"X\0\0\0\x04";
/// A server that will not answer its reset query within this is not worth keeping.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last words of a connection may take to reach a server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long we wait for a backend in the middle of something to end after we hung up.
const BURY_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest message that may come in answer to a reset query.
const RESET_MESSAGE_MAX: usize = 65_536;

/// A logged-in server connection. Whoever owns the value owns the connection.
#[derive(Debug)]
pub struct Server {
    stream: Stream,
    home: runtime::Id,
    /// What everybody may know.
    pub info: Arc<ServerInfo>,
    /// The `ParameterStatus` messages of the login, ready to be sent to a client. They hold after
    /// each reset as well: a reset goes back to what the login set. Servers of a pool share them.
    pub parameters: Bytes,
    /// Bodies of the login's notices, as they came.
    pub notices: Vec<Bytes>,
}

/// How connections are opened.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// Socket options.
    pub options: TcpOptions,
    /// Where passwords are hashed.
    pub kdf: Kdf,
    /// `server_connect_timeout`.
    pub limit: Duration,
}

/// What a login needs to know.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Where.
    pub node: Arc<NodeConfig>,
    /// RECONNECT's count.
    pub generation: u64,
    /// The node's name of the database.
    pub dbname: String,
    /// User.
    pub user: String,
    /// How we prove to be that user.
    pub secret: Option<Verifier>,
    /// Everything else of the startup packet.
    pub params: StartupParams,
    /// The session cannot write.
    pub read_only: bool,
}

/// Every transaction of a read-only session begins as it says.
const READ_ONLY: (&str, &str) = ("default_transaction_read_only", "on");

impl Dial {
    fn startup(&self) -> Vec<(Bytes, Bytes)> {
        let own = |name: &'static str, value: &str| {
            (
                Bytes::from_static(name.as_bytes()),
                Bytes::copy_from_slice(value.as_bytes()),
            )
        };
        let mut params = vec![own("user", &self.user), own("database", &self.dbname)];
        params.extend(self.params.iter().cloned());
        if self.read_only {
            // Behind the client's own, `options` included: PostgreSQL takes the last (postinit.c,
            // process_startup_options), and RESET goes back to it.
            params.push(own(READ_ONLY.0, READ_ONLY.1));
        }
        params
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The node was not reached.
    #[error("cannot connect to node \"{node}\"")]
    Connect {
        /// Its name.
        node: String,
        /// Why.
        source: io::Error,
    },
    /// It was reached, but the login did not end well.
    #[error("login to node \"{node}\" failed")]
    Login {
        /// Its name.
        node: String,
        /// Why.
        source: LoginError,
    },
    /// It let us in without a cancel key, as PostgreSQL never does. Without the backend's process
    /// id nobody can tell whether it is idle, so such a server is not used.
    #[error("node \"{node}\" gave no cancel key at login")]
    NoKey {
        /// Its name.
        node: String,
    },
    /// `server_connect_timeout`.
    #[error("node \"{node}\" did not answer a login within {} s", limit.as_secs_f32())]
    TimedOut {
        /// Its name.
        node: String,
        /// The limit.
        limit: Duration,
    },
}

impl DialError {
    /// Will the same login be refused again, whoever tries? A node that cannot be reached, or that
    /// is starting, stopping or full, is worth waiting for.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut { .. } => false,
            Self::NoKey { .. } => true,
            Self::Login { source, .. } => source.is_final(),
        }
    }
}

impl Server {
    /// Connects and logs in.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; a backend that was being started ends by itself
    /// without having run a statement.
    pub async fn dial(id: u64, dial: Dial, dialer: &Dialer) -> Result<Self, DialError> {
        let node = dial.node.name.to_string();
        let limit = dialer.limit;
        match timeout(limit, Self::dial_unbounded(id, dial, dialer)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::TimedOut { node, limit }),
        }
    }

    async fn dial_unbounded(id: u64, dial: Dial, dialer: &Dialer) -> Result<Self, DialError> {
        let node = || dial.node.name.to_string();
        let mut stream = Stream::connect(&dial.node.host, dial.node.port, &dialer.options)
            .await
            .map_err(|source| DialError::Connect {
                node: node(),
                source,
            })?;
        let who = ServerLogin {
            user: &dial.user,
            params: &dial.startup(),
            secret: dial.secret.as_ref(),
        };
        let hello = login(&mut stream, who, &dialer.kdf)
            .await
            .map_err(|source| DialError::Login {
                node: node(),
                source,
            })?;
        let key = hello.key.ok_or_else(|| DialError::NoKey { node: node() })?;
        let info = ServerInfo {
            id,
            ends: stream.ends(),
            node: dial.node,
            generation: dial.generation,
            pid: key.pid.cast_signed(),
            key,
            params: dial.params,
            opened: Instant::now(),
            opened_at: SystemTime::now(),
            cancels: AtomicUsize::new(0),
            cancels_done: Notify::new(),
        };
        Ok(Self {
            stream,
            home: runtime::Handle::current().id(),
            info: Arc::new(info),
            parameters: encode_parameters(&hello.params),
            notices: hello.notices,
        })
    }

    /// The stream, for the relay.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Registers the connection with the runtime of the calling task, if it is not already.
    pub fn come_home(mut self) -> io::Result<Self> {
        let here = runtime::Handle::current().id();
        if self.home != here {
            self.stream = self.stream.detach()?.attach()?;
            self.home = here;
        }
        Ok(self)
    }

    /// An idle server has nothing to say: anything readable (its last words, an end of file) means
    /// that it is of no use any more.
    pub fn is_quiet(&self) -> bool {
        self.stream.is_quiet()
    }

    /// Makes the server fit for another client: waits for cancel requests on their way, sends the
    /// reset query, and takes nothing but its plain success for an answer.
    pub async fn reset(
        &mut self,
        query: &str,
        cancel_wait: Option<Duration>,
    ) -> Result<(), ResetError> {
        let cancels = self.info.cancels_over();
        match cancel_wait {
            Some(limit) => timeout(limit, cancels)
                .await
                .map_err(|_| ResetError::CancelPending)?,
            None => cancels.await,
        }
        if query.is_empty() {
            return Ok(());
        }
        timeout(RESET_TIMEOUT, self.run_reset(query))
            .await
            .map_err(|_| ResetError::TimedOut)?
    }

    async fn run_reset(&mut self, query: &str) -> Result<(), ResetError> {
        let mut buffer = BytesMut::new();
        frontend::query(query, &mut buffer)?;
        self.stream.write_all(&buffer).await?;
        buffer.clear();
        let mut complete = false;
        loop {
            while let Some(answer) = RawMessage::take(&mut buffer, RESET_MESSAGE_MAX)? {
                let ready = self.take_reset_answer(&answer)?;
                complete |= answer.tag == tag::server::COMMAND_COMPLETE;
                if ready {
                    // Anything behind the end of the answer was not asked for; and without a
                    // completed command it answers something that was asked before.
                    return if complete && buffer.is_empty() {
                        Ok(())
                    } else {
                        Err(ResetError::Unexpected('?'))
                    };
                }
            }
            if self.stream.read_buf(&mut buffer).await? == 0 {
                return Err(ResetError::Closed);
            }
        }
    }

    /// `true`: that was the end of it.
    fn take_reset_answer(&mut self, answer: &RawMessage) -> Result<bool, ResetError> {
        let unexpected = Err(ResetError::Unexpected(char::from(answer.tag)));
        match answer.tag {
            tag::server::PARAMETER_STATUS => {
                let (name, value) = message::parse_parameter_status(&answer.body)?;
                self.set_parameter(&name, &value);
                Ok(false)
            }
            tag::server::COMMAND_COMPLETE | tag::server::NOTICE => Ok(false),
            tag::server::READY_FOR_QUERY => match message::parse_ready_for_query(&answer.body)? {
                TxStatus::Idle => Ok(true),
                TxStatus::InTransaction | TxStatus::Failed => unexpected,
            },
            _ => unexpected,
        }
    }

    /// The server told a parameter's value. After a reset that is what it was, unless the server's
    /// configuration has changed.
    fn set_parameter(&mut self, name: &[u8], value: &[u8]) {
        let mut parameters = decode_parameters(&self.parameters);
        let value = Bytes::copy_from_slice(value);
        match parameters.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) if *old == value => return,
            Some((_, old)) => *old = value,
            None => parameters.push((Bytes::copy_from_slice(name), value)),
        }
        self.parameters = encode_parameters(&parameters);
    }

    /// Ends a connection that stands at a safe point: Terminate, then close.
    pub async fn close(mut self) {
        let goodbye = async {
            self.stream.write_all(TERMINATE).await?;
            self.stream.shutdown().await
        };
        // A server that is gone already needs no goodbye.
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }

    /// Ends a connection in the middle of something: hangs up, then reads until the backend has
    /// ended, for at most a minute. `true`: the backend is gone. `at_boundary`: what was sent to it
    /// ends where a message ends, so that it will understand a Terminate.
    pub async fn bury(mut self, at_boundary: bool) -> bool {
        let wait = async {
            if at_boundary {
                self.stream.write_all(TERMINATE).await?;
            }
            self.stream.shutdown().await?;
            let mut chunk = vec![0; 65_536];
            while self.stream.read(&mut chunk).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        matches!(timeout(BURY_TIMEOUT, wait).await, Ok(Ok(())))
    }
}

fn encode_parameters(parameters: &[(Bytes, Bytes)]) -> Bytes {
    let mut out = BytesMut::new();
    for (name, value) in parameters {
        message::parameter_status(name, value, &mut out);
    }
    out.freeze()
}

/// What the messages say, as far as they are whole.
fn decode_parameters(encoded: &Bytes) -> Vec<(Bytes, Bytes)> {
    let mut buffer = BytesMut::from(&encoded[..]);
    let mut parameters = Vec::new();
    while let Ok(Some(message)) = RawMessage::take(&mut buffer, RESET_MESSAGE_MAX) {
        parameters.extend(message::parse_parameter_status(&message.body));
    }
    parameters
}

/// Why a server is not fit for another client.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// Reading or writing failed.
    #[error("connection failed during reset")]
    Io(#[from] io::Error),
    /// An answer is longer or shorter than it can be.
    #[error("malformed answer to the reset query")]
    Malformed(#[from] message::MessageError),
    /// End of file.
    #[error("server closed the connection during reset")]
    Closed,
    /// Anything but plain success.
    #[error("unexpected message '{0}' in answer to the reset query")]
    Unexpected(char),
    /// No answer.
    #[error("reset query timed out")]
    TimedOut,
    /// A cancel request was still on its way.
    #[error("cancel request still in flight")]
    CancelPending,
}
