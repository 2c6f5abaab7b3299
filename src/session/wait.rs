//! A client waits for a server: connected, in order, and heard.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use crate::net::Stream;
use crate::pool::{CheckoutError, DialError, Lease, Pool, Request};
use crate::relay::{Order, OrderCell, StopReason};
use crate::wire::{ErrorResponse, SqlState};

use super::Client;
use super::end::{linger, stop_words};

/// A client that waits has not been told that it may send anything. What it sends all the same is
/// kept up to this.
const EARLY_BYTES_MAX: usize = 65_536;

/// Why a wait ended without a server.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The client left.
    Gone,
    /// `query_wait_timeout`.
    TimedOut,
    /// A cancel request.
    Cancelled,
    /// An order.
    Stopped(StopReason),
    /// The pool said no.
    Checkout(CheckoutError),
}

impl From<CheckoutError> for Refusal {
    fn from(error: CheckoutError) -> Self {
        Self::Checkout(error)
    }
}

/// Waits for a server, for the client's leaving, for an order and for a cancel request, whichever
/// is first.
pub(super) async fn wait_for_server(
    pool: &Arc<Pool>,
    request: &Request,
    client: &Client,
    stream: &mut Stream,
    received: &mut BytesMut,
    limit: Option<Duration>,
) -> Result<Lease, Refusal> {
    let time_is_up = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut cancelled = client.cancellations();
    tokio::select! {
        biased;
        lease = pool.checkout(request) => Ok(lease?),
        () = leaving(stream, received) => Err(Refusal::Gone),
        reason = stopped(&client.order) => Err(Refusal::Stopped(reason)),
        _ = cancelled.changed() => Err(Refusal::Cancelled),
        () = time_is_up => Err(Refusal::TimedOut),
    }
}

/// Returns when the client closes its connection.
async fn leaving(stream: &mut Stream, received: &mut BytesMut) {
    while received.len() < EARLY_BYTES_MAX {
        match stream.read_buf(received).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    std::future::pending::<()>().await;
}

/// What a console is told when an order to stop comes.
pub async fn dismissed(client: &Client) -> ErrorResponse {
    let reason = stopped(&client.order).await;
    tracing::info!(client = client.id, ?reason, "console closed");
    stop_words(reason)
}

/// Returns when an order to stop comes. Parking is for those who have a server.
async fn stopped(order: &OrderCell) -> StopReason {
    std::future::poll_fn(|cx| {
        order.register(cx.waker());
        match order.get() {
            Order::GoOn | Order::Park(_) => Poll::Pending,
            Order::StopWhenSafe(reason) | Order::StopNow(reason) => Poll::Ready(reason),
        }
    })
    .await
}

impl Refusal {
    /// Says it to the client and hangs up.
    pub(super) async fn tell(self, client: &Client, stream: Stream) {
        if let Self::Gone = self {
            tracing::info!(
                client = client.id,
                "client left while it waited for a server"
            );
            return;
        }
        let mut words = BytesMut::new();
        match &self {
            // In the server's own words and encoding.
            Self::Checkout(CheckoutError::Login(DialError::Login { source, .. })) => {
                source.encode_for_client(&mut words);
            }
            other => other.words().encode(&mut words),
        }
        tracing::info!(
            client = client.id, database = %client.database, user = %client.user,
            reason = ?self, "client got no server"
        );
        linger(stream, &words).await;
    }

    fn words(&self) -> ErrorResponse {
        match self {
            Self::Gone | Self::TimedOut => {
                ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, "query_wait_timeout")
                    .detail("No server connection became available in time.")
            }
            Self::Cancelled => ErrorResponse::fatal(
                SqlState::QUERY_CANCELED,
                "canceling statement due to user request",
            ),
            // It has not been let in: 57P03 sends it to the next host of its list.
            Self::Stopped(StopReason::Shutdown) => {
                ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, "pooler is shutting down")
            }
            Self::Stopped(reason) => stop_words(*reason),
            Self::Checkout(CheckoutError::Refused(why)) => {
                ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, why.to_string())
            }
            Self::Checkout(CheckoutError::Login(error)) => {
                ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, error.to_string())
            }
        }
    }
}
