//! One process of a server, or some, frozen while the others go on.

use super::node::Node;
use super::workspace::signal;

/// Kinds of processes, as `pg_stat_activity` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    Checkpointer,
    WalWriter,
    /// Sends changes to a subscriber or a standby.
    WalSender,
    /// Applies changes: the apply workers of logical replication, the startup process of a standby.
    Apply,
    /// Sessions of clients.
    Backend,
}

/// Frozen processes. They go on when this is dropped.
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<u32>,
}

impl Process {
    /// Holds for its rows of `pg_stat_activity`.
    fn condition(self) -> &'static str {
        match self {
            Self::Checkpointer => "backend_type = 'checkpointer'",
            Self::WalWriter => "backend_type = 'walwriter'",
            Self::WalSender => "backend_type = 'walsender'",
            // "logical replication worker" in 15, "logical replication apply worker" later.
            Self::Apply => {
                "(backend_type LIKE 'logical replication%worker' \
                 OR backend_type LIKE 'pglogical apply %' OR backend_type = 'startup')"
            }
            Self::Backend => "backend_type = 'client backend' AND pid <> pg_backend_pid()",
        }
    }
}

impl Frozen {
    /// Freezes these processes.
    pub fn freeze(pids: Vec<u32>) -> Self {
        assert!(!pids.is_empty(), "nothing to freeze");
        signal(&pids, "STOP");
        Self { pids }
    }

    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// They go on.
    pub fn thaw(self) {
        drop(self);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal(&self.pids, "CONT");
    }
}

impl Node {
    /// Ids of its processes of that kind.
    pub async fn pids(&self, process: Process) -> Vec<u32> {
        let condition = process.condition();
        self.pids_where(condition).await
    }

    /// Ids of its processes whose row of `pg_stat_activity` fulfils this condition.
    pub async fn pids_where(&self, condition: &str) -> Vec<u32> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE {condition}");
        let rows = self.query(&sql).await;
        rows.into_iter()
            .flatten()
            .map(|pid| pid.and_then(|pid| pid.parse().ok()).expect("a pid"))
            .collect()
    }

    /// Freezes its processes of that kind; panics when there is none.
    pub async fn freeze_process(&self, process: Process) -> Frozen {
        let pids = self.pids(process).await;
        assert!(!pids.is_empty(), "{} has no {process:?}", self.name());
        Frozen::freeze(pids)
    }
}
