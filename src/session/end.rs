//! How a session is told that it is over.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::NodeName;
use crate::net::Stream;
use crate::relay::{Cause, InFlight, RelayEnd, StopReason};
use crate::wire::{ErrorResponse, SqlState};

use super::{Client, Context};

/// How long a client may take to read its last words and hang up.
const LINGER: Duration = Duration::from_secs(5);
/// How much of what it still sends is read meanwhile.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Delivers the last words: they are written, our side is closed, and what the client still sends
/// is read away until it hangs up. Closing with its bytes unread would send a reset, and a reset
/// takes the words with it (RFC 1122, 4.2.2.13).
pub async fn linger(mut stream: Stream, words: &[u8]) {
    let deliver = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        // On the heap: an array here would be part of every session's task for life.
        let mut sink = vec![0; 4096];
        let mut left = LINGER_BYTES_MAX;
        loop {
            let read = stream.read(&mut sink).await?;
            left = left.saturating_sub(read);
            if read == 0 || left == 0 {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    // Neither a client that is gone nor one that does not listen can be told anything.
    let _ = timeout(LINGER, deliver).await;
}

/// What a client is told at the end of a relay; `None`: nothing, because nothing can be put into
/// its stream, or because it knows.
pub(super) fn last_words(end: &RelayEnd, node: &NodeName) -> Option<BytesMut> {
    if !end.client_at_boundary {
        return None;
    }
    let words = match &end.cause {
        // PostgreSQL closes without a word too when a length makes no sense.
        Cause::ClientLeft | Cause::ClientLost(_) | Cause::ClientBroke(_) => return None,
        Cause::ServerLost(_) if end.told => return None,
        Cause::ServerLost(_) => lost_words(end.in_flight, node),
        Cause::ServerBroke(_) => ErrorResponse::fatal(
            SqlState::PROTOCOL_VIOLATION,
            format!("node \"{node}\" sent a message that makes no sense"),
        ),
        Cause::Stopped(StopReason::Failover | StopReason::NodeLost)
            if end.in_flight != InFlight::Nothing =>
        {
            lost_words(end.in_flight, node)
        }
        Cause::Stopped(reason) => stop_words(*reason),
        Cause::LeftReadOnly => ErrorResponse::fatal(
            SqlState::READ_ONLY_SQL_TRANSACTION,
            "terminating connection because it cannot be kept read-only",
        )
        .detail("Sessions of this database are read-only (route = \"read\").")
        .hint("Connect to a database with another route."),
    };
    let mut out = BytesMut::new();
    words.encode(&mut out);
    Some(out)
}

fn lost_words(in_flight: InFlight, node: &NodeName) -> ErrorResponse {
    let message = format!("connection to node \"{node}\" was lost (server conn crashed?)");
    match in_flight {
        InFlight::Nothing => ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, message),
        InFlight::Lost => ErrorResponse::fatal(SqlState::CONNECTION_FAILURE, message)
            .detail("The transaction was not committed."),
        InFlight::Unknown => {
            ErrorResponse::fatal(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, message)
                .detail("It is not known whether the statement under way was committed.")
                .hint("Check before you repeat it.")
        }
    }
}

/// What a client that is stopped on purpose is told. Every driver knows 57P01 as "reconnect".
pub(super) fn stop_words(reason: StopReason) -> ErrorResponse {
    let terminating = "terminating connection due to administrator command";
    let (message, detail) = match reason {
        StopReason::Switchover => (
            terminating,
            "The lead of the cluster has moved to another node (switchover).",
        ),
        StopReason::Failover => (
            terminating,
            "The node was given up and another one has taken over (failover).",
        ),
        StopReason::DrainTimeout => (
            terminating,
            "The session did not reach a safe point in time for a switchover.",
        ),
        StopReason::Reconnect => ("database configuration changed", "RECONNECT was given."),
        StopReason::Kill => ("database removed", "KILL was given."),
        StopReason::KillClient => ("admin forced disconnect", "KILL_CLIENT was given."),
        StopReason::Shutdown => ("server shutting down", "The pooler is shutting down."),
        StopReason::Unfit => (
            terminating,
            "The node is no longer fit for this route: it is too far behind the lead, or drained.",
        ),
        StopReason::NodeLost => (
            terminating,
            "The node is out of service; this route goes to another one.",
        ),
        StopReason::DatabaseRemoved => (
            "database removed",
            "The database is no longer in the pooler's configuration.",
        ),
    };
    ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, message)
        .detail(detail)
        .hint("Connect again.")
}

/// One line for the log.
pub(super) fn log(context: &Context, client: &Client, node: &NodeName, end: &RelayEnd) {
    let (id, user, database) = (client.id, &client.user, &client.database);
    match &end.cause {
        Cause::ClientLeft => {
            if context.config.borrow().general.log_disconnections {
                tracing::info!(client = id, %user, %database, "client left");
            }
        }
        Cause::ServerLost(_) | Cause::ServerBroke(_) => {
            tracing::warn!(client = id, %user, %database, %node, cause = ?end.cause, "server lost");
        }
        cause => tracing::info!(client = id, %user, %database, %node, ?cause, "client closed"),
    }
}
