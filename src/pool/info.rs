//! What everybody may know of a server connection, and the cancel requests on their way to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::config::NodeConfig;
use crate::net::Ends;
use crate::wire::message::BackendKey;

/// Startup parameters besides user and database, in the client's order. A server is given only to
/// clients with equal ones: they decide what RESET ALL and DISCARD ALL go back to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct StartupParams(Arc<[(Bytes, Bytes)]>);

impl StartupParams {
    /// Takes them over.
    pub fn new(params: Vec<(Bytes, Bytes)>) -> Self {
        Self(params.into())
    }

    /// Name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Bytes, Bytes)> {
        self.0.iter()
    }

    /// May another client have the server afterwards? A walsender is one client's own.
    pub fn is_reusable(&self) -> bool {
        !self
            .0
            .iter()
            .any(|(name, _)| name.as_ref() == b"replication")
    }

    /// `application_name`, for people.
    pub fn application_name(&self) -> String {
        let named = self
            .0
            .iter()
            .find(|(name, _)| name.as_ref() == b"application_name");
        named.map_or_else(String::new, |(_, value)| {
            String::from_utf8_lossy(value).into_owned()
        })
    }
}

/// What everybody may know of a server connection.
#[derive(Debug)]
pub struct ServerInfo {
    /// Unique among clients and servers.
    pub id: u64,
    /// The node.
    pub node: Arc<NodeConfig>,
    /// RECONNECT's count when it was opened.
    pub generation: u64,
    /// Backend's process id, as `pg_stat_activity` has it.
    pub pid: i32,
    /// What a cancel request to the backend needs.
    pub key: BackendKey,
    /// Both ends of the socket.
    pub ends: Ends,
    /// What it was started with.
    pub params: StartupParams,
    /// When it was opened.
    pub opened: Instant,
    /// The same for people.
    pub opened_at: SystemTime,
    pub(super) cancels: AtomicUsize,
    pub(super) cancels_done: Notify,
}

/// A cancel request on its way to the server. While one lives, the server is not given to anybody
/// else: the cancel could hit the next client's query.
#[derive(Debug)]
pub struct CancelInFlight(Arc<ServerInfo>);

impl CancelInFlight {
    /// Call while the session still holds the server.
    pub fn new(info: &Arc<ServerInfo>) -> Self {
        info.cancels.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(info))
    }
}

impl Drop for CancelInFlight {
    fn drop(&mut self) {
        if self.0.cancels.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.cancels_done.notify_waiters();
        }
    }
}

impl ServerInfo {
    /// Waits until no cancel request is on its way. Cancel safe.
    pub(super) async fn cancels_over(&self) {
        loop {
            let done = self.cancels_done.notified();
            if self.cancels.load(Ordering::Acquire) == 0 {
                return;
            }
            done.await;
        }
    }

    /// Is a cancel request on its way?
    pub fn is_being_cancelled(&self) -> bool {
        self.cancels.load(Ordering::Acquire) > 0
    }
}
