//! The control plane: watch, decide, act.
//!
//! [`Handle`] is what the console has of it.

mod applied;
mod bdr;
mod catalog;
mod checks;
mod child;
pub mod coordination;
mod director;
mod driver;
mod dry_run;
pub mod events;
mod facts;
mod failover;
mod gate_lsn;
pub mod gates;
mod governor;
mod handover;
mod hands;
mod health;
mod lag;
mod lead_note;
mod links;
mod maintenance;
mod member;
mod members;
mod monitor;
mod node_link;
pub mod notify;
mod placeholders;
#[cfg(feature = "planted-bugs")]
mod planted;
mod preflight;
mod quiesce;
mod record;
mod refusals;
mod replication;
mod report;
mod requests;
mod routing;
mod succession;
pub mod switchover;
mod trails;
mod verdict;
mod watchkeeper;

pub use director::{Director, Setup};
pub use governor::RemovedNode;
pub use maintenance::{Step, Steps};
pub use record::{AddedNode, Record};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use self::director::ClusterHandle;
use self::events::Journal;
use self::governor::{Command, Reply};
use crate::cluster::{ClusterView, Epoch, ViewReader, Wanted};
use crate::config::{Candidate, ClusterName, EventKind, NodeName, OnDrainTimeout};
use crate::pool::Blocker;

/// Asks the Director. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clusters: BTreeMap<ClusterName, ClusterHandle>,
    journal: Journal,
}

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
    /// It is in `phase` now.
    Running {
        /// Phase of the state machine.
        phase: &'static str,
    },
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
    /// What happened.
    pub kind: EventKind,
    /// Did it go well?
    pub success: bool,
    /// Free text.
    pub detail: String,
}

impl Handle {
    fn new(clusters: BTreeMap<ClusterName, ClusterHandle>, journal: Journal) -> Self {
        let shared = Shared { clusters, journal };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// A control plane without clusters, for tests of those who ask it.
    #[cfg(test)]
    pub(crate) fn without_clusters() -> Self {
        Self::new(BTreeMap::new(), Journal::in_memory())
    }

    /// All clusters, in name order.
    pub fn views(&self) -> Vec<Arc<ClusterView>> {
        let clusters = self.shared.clusters.values();
        clusters.map(|c| Arc::clone(&c.view.borrow())).collect()
    }

    /// All that `DRY RUN` does: who would block, what would be refused. Changes nothing.
    pub async fn preflight(
        &self,
        cluster: &ClusterName,
        request: SwitchoverRequest,
    ) -> Result<Report, Refusal> {
        self.ask(cluster, |reply| Command::Preflight(request, reply))
            .await
    }

    /// Moves the lead. Returns when it is done or given up; dropping the future does not abort.
    pub async fn switchover(
        &self,
        cluster: &ClusterName,
        request: SwitchoverRequest,
    ) -> Result<Report, Refusal> {
        self.ask(cluster, |reply| Command::Switchover(request, reply))
            .await
    }

    /// Gives up a running switchover. Refused from the commit phase on.
    pub async fn abort(&self, cluster: &ClusterName) -> Result<(), Refusal> {
        self.ask(cluster, Command::Abort).await
    }

    /// Unplanned move. `accept_loss`: also when the target is known to lack something, or nothing
    /// is known.
    pub async fn failover(
        &self,
        cluster: &ClusterName,
        target: &NodeName,
        accept_loss: bool,
    ) -> Result<Report, Refusal> {
        let target = target.clone();
        self.ask(cluster, |reply| {
            Command::Failover(target, accept_loss, reply)
        })
        .await
    }

    /// READY, DRAIN, MAINT, FENCE. The lead cannot be drained: that is a switchover.
    pub async fn set_wanted(&self, node: &NodeName, wanted: Wanted) -> Result<(), Refusal> {
        let cluster = self.cluster_of(node)?;
        let node = node.clone();
        self.ask(&cluster, |reply| Command::SetWanted(node, wanted, reply))
            .await
    }

    /// SET NODE ... ELIGIBLE: whether a node may become lead, whatever the file says.
    pub async fn set_candidate(
        &self,
        node: &NodeName,
        candidate: Candidate,
    ) -> Result<(), Refusal> {
        let cluster = self.cluster_of(node)?;
        let node = node.clone();
        self.ask(&cluster, |reply| {
            Command::SetCandidate(node, candidate, reply)
        })
        .await
    }

    /// ADD NODE: kept besides the file until REMOVE NODE. It is a shadow when it was proven and
    /// replicates.
    pub async fn add_node(&self, node: &NodeName, added: AddedNode) -> Result<(), Refusal> {
        if let Ok(cluster) = self.cluster_of(node) {
            return Err(refusals::is_member(&cluster, node));
        }
        let (cluster, node) = (added.cluster.clone(), node.clone());
        self.ask(&cluster, |reply| Command::AddNode(node, added, reply))
            .await
    }

    /// REMOVE NODE: it is no member any more, also after a restart. Gives what an operator has to
    /// do on the others.
    pub async fn remove_node(&self, node: &NodeName) -> Result<RemovedNode, Refusal> {
        let cluster = self.cluster_of(node)?;
        let node = node.clone();
        self.ask(&cluster, |reply| Command::RemoveNode(node, reply))
            .await
    }

    /// Which cluster a node is a member of.
    fn cluster_of(&self, node: &NodeName) -> Result<ClusterName, Refusal> {
        let has = |view: &Arc<ClusterView>| view.nodes.iter().any(|n| n.name == *node);
        let found = self.views().into_iter().find(has);
        found.map_or_else(
            || Err(refusals::no_such_node(node)),
            |view| Ok(view.name.clone()),
        )
    }

    /// The latest events, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.shared.journal.latest()
    }

    /// The running operation's report so far, else the last one, per cluster in name order.
    pub fn operations(&self) -> Vec<Report> {
        let clusters = self.shared.clusters.values();
        clusters
            .filter_map(|c| c.operation.borrow().clone())
            .collect()
    }

    /// The view of one cluster, to be waited on.
    pub fn watch(&self, cluster: &ClusterName) -> Option<ViewReader> {
        self.shared.clusters.get(cluster).map(|c| c.view.clone())
    }

    /// Every console has a reply of its own.
    async fn ask<T>(
        &self,
        cluster: &ClusterName,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Refusal> {
        let Some(found) = self.shared.clusters.get(cluster) else {
            return Err(refusals::no_such_cluster(cluster));
        };
        let (reply, answer) = oneshot::channel();
        let sent = found.commands.send(command(reply)).await;
        sent.map_err(|_| refusals::gone())?;
        answer.await.unwrap_or_else(|_| Err(refusals::gone()))
    }
}
