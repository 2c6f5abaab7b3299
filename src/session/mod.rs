//! One client connection from its first byte to its last.
//!
//! [`greet`] takes it to a proven [`Login`]; [`serve`] is the rest of the data path on one screen.
//! Which of a database and the console a login goes to is the listener's business.

mod cancel;
mod clients;
mod end;
mod startup;
mod wait;

pub use clients::{Client, ClientSnapshot, Clients, Link, Registered, Stage};
pub use end::linger;
pub use startup::{ConsoleRights, Login, Target, greet};
pub use wait::dismissed;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::auth::{Authenticator, UserList};
use crate::cluster::{Fact, Reports};
use crate::config::Config;
use crate::net::Stream;
use crate::pool::{ClientTag, Lease, Pool, Pools, Request, StartupParams};
use crate::relay::{Cause, Guard, Leftover, RelayEnd, Scratch, StopReason, relay};
use crate::wire::message::{self, Authentication, RawMessage, TxStatus};
use crate::wire::{ErrorResponse, SqlState, tag};

use end::last_words;
use wait::wait_for_server;

/// What sessions of one worker thread share.
#[derive(Debug)]
pub struct Context {
    /// All pools.
    pub pools: Pools,
    /// All clients.
    pub clients: Clients,
    /// The configuration that holds.
    pub config: watch::Receiver<Arc<Config>>,
    /// Checks clients.
    pub authenticator: Arc<Authenticator>,
    /// Secrets of users.
    pub users: watch::Receiver<Arc<UserList>>,
    /// Where facts go.
    pub reports: Reports,
    /// This worker's read buffer.
    pub scratch: Scratch,
}

/// A login to a database: everything from here to the last byte.
///
/// `AuthenticationOk` comes with the server and not before: libpq tries the next host of its list
/// on 57P03 only as long as it has not been let in.
///
/// wait for a server → welcome → relay → give the server back, tell the client why, hang up.
pub async fn serve(context: &Context, login: Login, pool: Arc<Pool>) {
    let Login {
        stream,
        received,
        client,
        startup,
        ..
    } = login;
    let request = Request {
        client: Arc::new(ClientTag {
            id: client.id,
            addr: client.ends.to_string(),
            application_name: client.application_name.clone(),
        }),
        params: StartupParams::new(startup.session_params()),
        secret: context.users.borrow().get(client.user.as_str()).cloned(),
        order: Arc::clone(&client.order),
    };
    drop(startup);
    let limit = context.config.borrow().general.query_wait_timeout;
    // Boxed, like everything before and after the relay: an idle session's task holds no more than
    // the relay needs.
    let arrival = Box::pin(arrive(&pool, request, &client, (stream, received), limit)).await;
    let Some((mut stream, received, mut lease)) = arrival else {
        return;
    };
    let guard = pool
        .is_read_only()
        .then(|| Box::new(Guard::new(&lease.server.parameters)));
    drop(pool);
    let (order, meter) = (&client.order, Arc::clone(&lease.meter));
    let ends = (&mut stream, lease.server.stream());
    let end = relay(ends, (received, guard), order, &meter, &context.scratch).await;
    Box::pin(finish(context, client, stream, lease, end)).await;
}

/// Waits for a server and welcomes the client. `None`: there is none, and the client was told why.
async fn arrive(
    pool: &Arc<Pool>,
    request: Request,
    client: &Client,
    (mut stream, mut received): (Stream, BytesMut),
    limit: Option<Duration>,
) -> Option<(Stream, Bytes, Lease)> {
    client.set_stage(Stage::Waiting);
    let waited = wait_for_server(pool, &request, client, &mut stream, &mut received, limit).await;
    let lease = match waited {
        Ok(lease) => lease,
        Err(refusal) => {
            refusal.tell(client, stream).await;
            return None;
        }
    };
    pool.count_login();
    client.set_link(Link {
        server: Arc::clone(&lease.server.info),
        meter: Arc::clone(&lease.meter),
    });
    let welcome = welcome(client, &lease);
    if let Err(error) = stream.write_all(&welcome).await {
        tracing::info!(client = client.id, %error, "client left before it was welcomed");
        client.clear_link();
        lease.release().await;
        return None;
    }
    let early = if received.is_empty() {
        Bytes::new()
    } else {
        received.freeze()
    };
    Some((stream, early, lease))
}

/// A login that cannot be served: the client is told to try the next host.
pub async fn turn_away(login: Login, why: &'static str) {
    let mut words = BytesMut::new();
    ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, why).encode(&mut words);
    linger(login.stream, &words).await;
}

/// Tells a client that it is in, and no more: what comes next is the console's.
pub async fn admit(stream: &mut Stream) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    Authentication::Ok.encode(&mut out);
    stream.write_all(&out).await
}

/// What the server said at its login, with a cancel key of our own.
fn welcome(client: &Client, lease: &Lease) -> BytesMut {
    let mut out = BytesMut::with_capacity(1024);
    Authentication::Ok.encode(&mut out);
    // Equal startup parameters cause equal notices, so every client of the server hears them.
    for body in &lease.server.notices {
        let notice = RawMessage {
            tag: tag::server::NOTICE,
            body: body.clone(),
        };
        notice.encode(&mut out);
    }
    out.extend_from_slice(&lease.server.parameters);
    client.key.encode(&mut out);
    message::ready_for_query(TxStatus::Idle, &mut out);
    out
}

/// The server first, since somebody may be waiting for it; the client's last words beside it.
async fn finish(
    context: &Context,
    client: Registered,
    stream: Stream,
    lease: Lease,
    end: RelayEnd,
) {
    client.clear_link();
    let node = lease.server.info.node.name.clone();
    if let Cause::ServerLost(_) = end.cause {
        context.reports.tell(Fact::ServerLost {
            node: node.clone(),
            sqlstate: None,
        });
    }
    end::log(context, &client, &node, &end);
    let words = last_words(&end, &node);
    let server = end.server;
    let stopped = match end.cause {
        Cause::Stopped(reason) => Some(reason),
        _ => None,
    };
    let client_side = async move {
        // Without an error to deliver there is nothing to wait for.
        if let Some(words) = words {
            linger(stream, &words).await;
        }
        drop(client);
    };
    tokio::join!(settle(lease, server, stopped), client_side);
}

async fn settle(lease: Lease, server: Leftover, stopped: Option<StopReason>) {
    match (server, stopped) {
        (Leftover::Safe, Some(StopReason::Switchover | StopReason::Failover)) => {
            lease.close().await;
        }
        (Leftover::Safe, _) => lease.release().await,
        // A lost node's backends may never be seen to end, and no switchover waits for these.
        (Leftover::Unreachable, _) | (Leftover::Busy { .. }, Some(StopReason::NodeLost)) => {
            lease.abandon();
        }
        (Leftover::Busy { at_boundary }, _) => lease.bury(at_boundary).await,
        (Leftover::Gone, _) => lease.lost(),
    }
}
