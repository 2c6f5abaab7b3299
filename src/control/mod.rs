//! The control plane: watch, decide, act.
//!
//! [`Handle`] is what the console has of it.

pub mod switchover;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cluster::{ClusterView, Epoch, Wanted};
use crate::config::{ClusterName, NodeName, OnDrainTimeout};
use crate::pool::Blocker;

/// Asks the Director. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle;

/// `SWITCHOVER cluster TO node ...`; what is `None` comes from the cluster's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverRequest {
    /// The new lead.
    pub target: NodeName,
    /// `DRAIN TIMEOUT`.
    pub drain_timeout: Option<Duration>,
    /// `CATCHUP TIMEOUT`.
    pub catchup_timeout: Option<Duration>,
    /// `ON DRAIN TIMEOUT`.
    pub on_drain_timeout: Option<OnDrainTimeout>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The new lead holds.
    Completed,
    /// Given up in `phase`: the old lead holds.
    Aborted {
        /// Phase of the state machine.
        phase: &'static str,
        /// Why.
        why: String,
    },
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// `switchover` or `failover`.
    pub kind: &'static str,
    /// Cluster.
    pub cluster: ClusterName,
    /// Lead before.
    pub from: Option<NodeName>,
    /// Target.
    pub to: NodeName,
    /// Epoch that holds after it.
    pub epoch: Epoch,
    /// When it began.
    pub started: SystemTime,
    /// How it ended.
    pub outcome: Outcome,
    /// Name and length of each phase, in order.
    pub phases: Vec<(&'static str, Duration)>,
    /// Clients that waited at the gate when it opened.
    pub held: usize,
    /// Sessions that were told to reconnect.
    pub stopped: usize,
    /// Who was in the way.
    pub blockers: Vec<Blocker>,
    /// What preflight found worth a word.
    pub warnings: Vec<String>,
    /// Failover: WAL bytes that the target may lack.
    pub estimated_loss_bytes: Option<u64>,
}

/// A request that was not carried out, told as PostgreSQL tells errors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// SQLSTATE, five characters.
    pub sqlstate: &'static str,
    /// Primary message.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Rises by one; goes on after a restart.
    pub id: u64,
    /// When.
    pub time: SystemTime,
    /// Cluster it happened in.
    pub cluster: Option<ClusterName>,
    /// Node it is about.
    pub node: Option<NodeName>,
    /// e.g. `node_down`, `switchover_completed`.
    pub kind: String,
    /// Did it go well?
    pub success: bool,
    /// Free text.
    pub detail: String,
}

impl Handle {
    /// All clusters, in name order.
    pub fn views(&self) -> Vec<Arc<ClusterView>> {
        unimplemented!()
    }

    /// All that `DRY RUN` does: who would block, what would be refused. Changes nothing.
    pub async fn preflight(
        &self,
        cluster: &ClusterName,
        request: SwitchoverRequest,
    ) -> Result<Report, Refusal> {
        let _ = (cluster, request);
        unimplemented!()
    }

    /// Moves the lead. Returns when it is done or given up; dropping the future does not abort.
    pub async fn switchover(
        &self,
        cluster: &ClusterName,
        request: SwitchoverRequest,
    ) -> Result<Report, Refusal> {
        let _ = (cluster, request);
        unimplemented!()
    }

    /// Gives up a running switchover. Refused from the commit phase on.
    pub async fn abort(&self, cluster: &ClusterName) -> Result<(), Refusal> {
        let _ = cluster;
        unimplemented!()
    }

    /// Unplanned move. `accept_loss`: also when the target is known to lack something, or nothing
    /// is known.
    pub async fn failover(
        &self,
        cluster: &ClusterName,
        target: &NodeName,
        accept_loss: bool,
    ) -> Result<Report, Refusal> {
        let _ = (cluster, target, accept_loss);
        unimplemented!()
    }

    /// READY, DRAIN, MAINT, FENCE. The lead cannot be drained: that is a switchover.
    pub async fn set_wanted(&self, node: &NodeName, wanted: Wanted) -> Result<(), Refusal> {
        let _ = (node, wanted);
        unimplemented!()
    }

    /// The latest events, oldest first.
    pub fn events(&self) -> Vec<Event> {
        unimplemented!()
    }

    /// The running operation's report so far, else the last one, per cluster in name order.
    pub fn operations(&self) -> Vec<Report> {
        unimplemented!()
    }
}
