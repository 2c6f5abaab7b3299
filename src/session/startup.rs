//! From accept to a proven login.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::auth::{AuthError, ClientLogin};
use crate::config::{Config, DatabaseName, UserName};
use crate::net::{Ends, Stream};
use crate::pool::{Database, Pool};
use crate::wire::startup::{EncryptionOffer, FirstPacket, ProtocolVersion, StartupMessage};
use crate::wire::{ErrorResponse, SqlState, StartupError, message};

use super::clients::{Newcomer, RegisterError};
use super::end::linger;
use super::{Context, Registered, cancel};

/// The console's databases: ours, and the name that PgBouncer's tools use.
const CONSOLES: [&str; 2] = ["pgsluice", "pgbouncer"];
/// PostgreSQL's lengths (`be-secure.c`, protocol 3.0 and 3.2).
const CANCEL_KEY_LEN: usize = 4;
const LONG_CANCEL_KEY_LEN: usize = 32;

/// A client that has proven who it is.
#[derive(Debug)]
pub struct Login {
    /// Its connection.
    pub stream: Stream,
    /// What it sent ahead of its turn.
    pub received: BytesMut,
    /// Its entry in the registry.
    pub client: Registered,
    /// Its startup packet.
    pub startup: StartupMessage,
    /// Where it wants to go.
    pub target: Target,
}

/// Where a login goes.
#[derive(Debug)]
pub enum Target {
    /// To a server.
    Pool(Arc<Pool>),
    /// To the admin console.
    Console(ConsoleRights),
}

/// What a user may do on the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleRights {
    /// Everything (`admin_users`).
    Admin,
    /// SHOW (`stats_users`).
    Stats,
}

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// Closed before a startup packet: a port check, not worth a line in the log.
    #[error("closed before login")]
    ClosedEarly,
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error("{0}")]
    Refused(ErrorResponse),
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// `client_login_timeout`
    #[error("login took longer than {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

/// Takes a new connection to a proven login, within `client_login_timeout`. `None`: there will be
/// none, and the client was told why.
pub async fn greet(context: &Context, mut stream: Stream, ends: Ends) -> Option<Login> {
    let mut received = BytesMut::new();
    let limit = context.config.borrow().general.client_login_timeout;
    let conversation = converse(context, &mut stream, ends, &mut received);
    let result = match limit {
        Some(limit) => timeout(limit, conversation)
            .await
            .unwrap_or(Err(GreetError::TimedOut(limit))),
        None => conversation.await,
    };
    match result {
        Ok(Some((client, startup, target))) => Some(Login {
            stream,
            received,
            client,
            startup,
            target,
        }),
        Ok(None) => None,
        Err(error) => {
            if !matches!(error, GreetError::ClosedEarly) {
                let error = one_line(&error.to_string());
                tracing::info!(peer = %ends, error, "login failed");
            }
            let words = error.words();
            if !words.is_empty() {
                linger(stream, &words).await;
            }
            None
        }
    }
}

/// Names are a stranger's here: they must not forge lines in the log.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

type Proven = (Registered, StartupMessage, Target);

/// `None`: it was a cancel request, and is done with.
async fn converse(
    context: &Context,
    stream: &mut Stream,
    ends: Ends,
    received: &mut BytesMut,
) -> Result<Option<Proven>, GreetError> {
    let startup = match first_packets(stream, received).await? {
        FirstPacket::Startup(startup) => startup,
        FirstPacket::Cancel(request) => {
            cancel::carry_out(context, &request).await;
            return Ok(None);
        }
        FirstPacket::SslRequest | FirstPacket::GssEncRequest => return Ok(None),
    };
    negotiate(stream, &startup).await?;
    let config = Arc::clone(&context.config.borrow());
    let identity = Identity::of(&startup)?;
    let client = register(context, &config, ends, &identity, &startup)?;
    let admitted = identity.is_console && is_owner(stream, &identity.user);
    if !admitted {
        let users = Arc::clone(&context.users.borrow());
        let login = ClientLogin {
            user: identity.user.as_str(),
            auth_type: config.general.auth_type,
            verifier: users.get(identity.user.as_str()),
        };
        context
            .authenticator
            .authenticate(stream, received, login)
            .await?;
    }
    let target = identity.target(context, &config, admitted)?;
    if let Target::Pool(pool) = &target
        && pool.is_read_only()
        && startup.get("replication").is_some()
    {
        // Its commands are none that a guard could read.
        let message = "replication connections are not possible on a read-only route";
        let code = SqlState::READ_ONLY_SQL_TRANSACTION;
        return Err(refused(code, message.to_owned()));
    }
    if config.general.log_connections {
        tracing::info!(
            client = client.id, peer = %client.ends, user = %identity.user,
            database = %identity.database, "login"
        );
    }
    Ok(Some((client, startup, target)))
}

/// Answers encryption requests, each at most once, and returns the packet after them.
async fn first_packets(
    stream: &mut Stream,
    received: &mut BytesMut,
) -> Result<FirstPacket, GreetError> {
    let mut offer = EncryptionOffer::FRESH;
    let mut fresh = true;
    loop {
        if let Some(packet) = FirstPacket::take(received, offer)? {
            match packet {
                FirstPacket::SslRequest => offer.ssl = false,
                FirstPacket::GssEncRequest => offer.gss = false,
                FirstPacket::Cancel(_) | FirstPacket::Startup(_) => return Ok(packet),
            }
            stream.write_all(b"N").await?;
            fresh = false;
            continue;
        }
        if stream.read_buf(received).await? == 0 {
            // Some drivers hang up after `N` and come again.
            let silent = received.is_empty() || !fresh;
            return Err(if silent {
                GreetError::ClosedEarly
            } else {
                StartupError::Length.into()
            });
        }
    }
}

/// Tells a client that speaks something newer what we speak (manual, 55.2.1).
async fn negotiate(stream: &mut Stream, startup: &StartupMessage) -> Result<(), GreetError> {
    if let Some(version) = startup.negotiated() {
        let mut out = BytesMut::new();
        message::negotiate_protocol_version(version, &startup.protocol_options, &mut out);
        stream.write_all(&out).await?;
    }
    Ok(())
}

/// Who the client says it is. Fixed from here on.
struct Identity {
    user: UserName,
    database: DatabaseName,
    is_console: bool,
}

impl Identity {
    fn of(startup: &StartupMessage) -> Result<Self, GreetError> {
        let text = |bytes: &Bytes, what: &str| {
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| {
                GreetError::Refused(ErrorResponse::fatal(
                    SqlState::INVALID_AUTHORIZATION,
                    format!("{what} name is not valid UTF-8"),
                ))
            })
        };
        let user = UserName::new(&text(&startup.user, "user")?);
        let database = DatabaseName::new(&text(&startup.database, "database")?);
        let is_console = CONSOLES.contains(&database.as_str());
        Ok(Self {
            user,
            database,
            is_console,
        })
    }

    /// What the proven user may reach.
    fn target(
        &self,
        context: &Context,
        config: &Config,
        admitted: bool,
    ) -> Result<Target, GreetError> {
        if self.is_console {
            return self.console_rights(config, admitted).map(Target::Console);
        }
        let database = context.pools.database(&self.database).ok_or_else(|| {
            refused(
                SqlState::INVALID_CATALOG_NAME,
                format!("no such database: {}", self.database),
            )
        })?;
        if database.is_disabled() {
            let message = format!("database \"{}\" is disabled", self.database);
            return Err(refused(SqlState::CANNOT_CONNECT_NOW, message));
        }
        self.pool(context, &database)
    }

    fn pool(&self, context: &Context, database: &Arc<Database>) -> Result<Target, GreetError> {
        let pool = context.pools.pool(database, &self.user).ok_or_else(|| {
            let message = format!("database \"{}\" has no cluster", self.database);
            refused(SqlState::INVALID_CATALOG_NAME, message)
        })?;
        Ok(Target::Pool(pool))
    }

    fn console_rights(&self, config: &Config, admitted: bool) -> Result<ConsoleRights, GreetError> {
        let general = &config.general;
        if admitted || general.admin_users.contains(&self.user) {
            Ok(ConsoleRights::Admin)
        } else if general.stats_users.contains(&self.user) {
            Ok(ConsoleRights::Stats)
        } else {
            let message = format!("user \"{}\" is not allowed on the console", self.user);
            Err(refused(SqlState::INSUFFICIENT_PRIVILEGE, message))
        }
    }
}

fn refused(code: SqlState, message: String) -> GreetError {
    GreetError::Refused(ErrorResponse::fatal(code, message))
}

fn register(
    context: &Context,
    config: &Config,
    ends: Ends,
    identity: &Identity,
    startup: &StartupMessage,
) -> Result<Registered, GreetError> {
    let application_name = startup.get("application_name");
    let long_key = startup.version >= ProtocolVersion::V3_2;
    let newcomer = Newcomer {
        database: identity.database.clone(),
        user: identity.user.clone(),
        application_name: application_name.map_or_else(String::new, |name| {
            String::from_utf8_lossy(name).into_owned()
        }),
        ends,
        key_len: if long_key {
            LONG_CANCEL_KEY_LEN
        } else {
            CANCEL_KEY_LEN
        },
    };
    let limit = (!identity.is_console).then_some(config.general.max_client_conn);
    context.clients.register(newcomer, limit).map_err(|error| {
        let code = match error {
            RegisterError::Full => SqlState::TOO_MANY_CONNECTIONS,
            RegisterError::NoRandom => SqlState::SYSTEM_ERROR,
        };
        refused(code, error.to_string())
    })
}

/// PgBouncer's rule: who runs the pooler may administer it over the Unix socket, under the
/// console's own name.
fn is_owner(stream: &Stream, user: &UserName) -> bool {
    CONSOLES.contains(&user.as_str())
        && stream.peer_uid() == Some(rustix::process::geteuid().as_raw())
}

impl GreetError {
    /// What the client is told; empty where PostgreSQL says nothing.
    fn words(&self) -> BytesMut {
        let mut out = BytesMut::new();
        match self {
            Self::Io(_) | Self::ClosedEarly => {}
            Self::Startup(error) => error.encode_answer(&mut out),
            Self::Refused(error) => error.encode(&mut out),
            Self::Auth(error) => {
                if let Some(error) = error.client_facing() {
                    error.encode(&mut out);
                }
            }
            Self::TimedOut(_) => {
                ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, "client_login_timeout")
                    .detail("The login was not completed in time.")
                    .encode(&mut out);
            }
        }
        out
    }
}
