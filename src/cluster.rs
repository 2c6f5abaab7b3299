//! The shared truth about a cluster: one writer (the Director), many readers.
//!
//! A [`ClusterView`] is immutable and replaced whole. The data plane reports what it saw through
//! [`Reports`] and never calls the control plane.

use std::fmt;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

use crate::config::{Candidate, ClusterName, NodeName};
use crate::lsn::Lsn;

/// Number of the decision "cluster → lead": rises by one at every change, never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the operator wants of a node (HAProxy's administrative state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// Serve when it can.
    #[default]
    Ready,
    /// No new work; not a switchover target.
    Drain,
    /// Out of service; not probed for eligibility.
    Maint,
    /// Must not be used until an operator says READY.
    Fenced,
}

/// What the monitor sees (HAProxy's operational state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Observed {
    /// Never proven either way.
    #[default]
    Unknown,
    /// Proven by `rise` good probes.
    Up,
    /// `fall` probes failed.
    Down,
    /// Answers, but is starting up or not caught up.
    Recovering,
}

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Gets the read/write traffic.
    Lead,
    /// Eligible, stands ready.
    Shadow,
    /// Not eligible.
    Standby,
}

/// One node as readers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Host and port from the configuration.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Preference as lead.
    pub priority: i32,
    /// May it become lead?
    pub candidate: Candidate,
    /// Lead, shadow or standby.
    pub role: Role,
    /// The operator's word.
    pub wanted: Wanted,
    /// The monitor's finding.
    pub observed: Observed,
    /// Since when.
    pub since: SystemTime,
    /// Why it is so: text of the last error, or empty.
    pub reason: String,
    /// `server_version_num`, once known.
    pub server_version: Option<u32>,
    /// `pg_control_system().system_identifier`, once known.
    pub system_identifier: Option<u64>,
    /// In recovery (a physical standby)?
    pub in_recovery: Option<bool>,
    /// Its own WAL insert (or replay) position at the last probe.
    pub lsn: Option<Lsn>,
    /// Round trip of the last good probe in microseconds.
    pub probe_us: Option<u64>,
}

/// One direction of replication as seen at its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkView {
    /// Where the data comes from.
    pub from: NodeName,
    /// Where it goes.
    pub to: NodeName,
    /// `logical`, `pglogical`, `physical`.
    pub kind: &'static str,
    /// Slot at the origin, if any.
    pub slot: String,
    /// `pg_stat_replication.state`, or why there is none.
    pub state: String,
    /// Insert position at the origin.
    pub sent_lsn: Option<Lsn>,
    /// Replayed at the target, as the origin knows it.
    pub replay_lsn: Option<Lsn>,
    /// Bytes not yet replayed.
    pub lag_bytes: Option<u64>,
    /// The same in time; `None`: not known.
    pub lag: Option<Duration>,
    /// WAL that the slot keeps back, in bytes.
    pub retained_bytes: Option<u64>,
}

/// A snapshot of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    /// Its name.
    pub name: ClusterName,
    /// The decision that holds.
    pub epoch: Epoch,
    /// The lead by record; `None` until the first decision.
    pub lead: Option<NodeName>,
    /// When that was decided.
    pub lead_since: Option<SystemTime>,
    /// Why: `initial`, `switchover`, `failover`.
    pub lead_reason: String,
    /// The lead before.
    pub previous: Option<NodeName>,
    /// Name of the running operation and its phase, e.g. (`switchover`, `drain`).
    pub operation: Option<OperationView>,
    /// Members in configuration order.
    pub nodes: Vec<NodeView>,
    /// Replication between them.
    pub links: Vec<LinkView>,
}

/// The operation that runs in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationView {
    /// `switchover` or `failover`.
    pub kind: &'static str,
    /// Phase of the state machine.
    pub phase: &'static str,
    /// Where it goes.
    pub target: NodeName,
    /// When it began.
    pub since: SystemTime,
}

/// Reads the current [`ClusterView`] and waits for the next.
pub type ViewReader = watch::Receiver<std::sync::Arc<ClusterView>>;

/// A fact that the data plane saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A node could not be reached or refused the login for a reason of its own.
    DialFailed {
        /// The node.
        node: NodeName,
        /// What happened.
        error: String,
    },
    /// An established server connection died without our doing.
    ServerLost {
        /// The node.
        node: NodeName,
        /// What the server said last, if anything: SQLSTATE.
        sqlstate: Option<String>,
    },
}

/// Where facts go. Never blocks: when the control plane is behind, a fact is dropped, since its
/// own probes will find the same.
#[derive(Debug, Clone)]
pub struct Reports(mpsc::Sender<Fact>);

impl Reports {
    /// A channel for at most `capacity` unread facts.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<Fact>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self(sender), receiver)
    }

    /// Tells one fact.
    pub fn tell(&self, fact: Fact) {
        // A full or closed channel loses nothing that a probe will not see.
        let _ = self.0.try_send(fact);
    }
}
