//! The shared truth about a cluster: one writer (the Director), many readers.
//!
//! A [`ClusterView`] is immutable and replaced whole. The data plane reports what it saw through
//! [`Reports`] and never calls the control plane.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

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
    /// What is wrong although it is up: `full`, `monitor refused`, `logins stuck`, `read-only`, or
    /// empty.
    pub condition: &'static str,
    /// Why it must not be used, if it is fenced whatever the operator wants.
    pub fence: Option<String>,
    /// MAINTENANCE BEGIN was given, then.
    pub maintenance_since: Option<SystemTime>,
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
    /// What BDR or PGD says of it, where it is one of theirs.
    pub bdr: Option<BdrView>,
}

/// A node as BDR or PGD has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BdrView {
    /// Its name in the group.
    pub name: String,
    /// `data`, `standby`, `subscriber-only`, `witness`: changes when a standby is promoted.
    pub kind: String,
    /// e.g. `ACTIVE`.
    pub state: String,
    /// e.g. `RAFT_FOLLOWER`; `None`: not told.
    pub raft: Option<String>,
    /// Does it know a leader of the group's consensus? `None`: not told.
    pub has_raft_leader: Option<bool>,
}

/// How far behind its origin a consumer is, in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Not told.
    Unknown,
    /// It has everything that was seen at the origin.
    Nothing,
    /// Then there was something at the origin that the consumer has not confirmed yet.
    Since(Instant),
}

impl Behind {
    /// How long ago that was. It is as exact as the origin is probed often.
    pub fn age(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(Duration::ZERO),
            Self::Since(then) => Some(now.saturating_duration_since(then)),
        }
    }
}

/// One direction of replication as seen at its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkView {
    /// Where the data comes from.
    pub from: NodeName,
    /// Where it goes.
    pub to: NodeName,
    /// `logical`, `pglogical`, `physical`, `bdr`.
    pub kind: &'static str,
    /// Slot at the origin, if any.
    pub slot: String,
    /// `pg_stat_replication.state` (`streaming`, `catchup`, ...), or why there is none: `disabled`,
    /// `disconnected`, `hidden`; or `copying` while a first copy is not complete.
    pub state: String,
    /// Sent by the origin.
    pub sent_lsn: Option<Lsn>,
    /// Replayed at the target, as the origin knows it.
    pub replay_lsn: Option<Lsn>,
    /// Bytes not yet replayed.
    pub lag_bytes: Option<u64>,
    /// WAL that the slot keeps back, in bytes.
    pub retained_bytes: Option<u64>,
    /// The same as `lag_bytes` in time.
    pub behind: Behind,
    /// Insert position at the origin (of a standby: its replay position).
    pub origin_lsn: Option<Lsn>,
    /// Received at the target.
    pub write_lsn: Option<Lsn>,
    /// Durable at the target.
    pub flush_lsn: Option<Lsn>,
    /// `logical` or `physical`.
    pub slot_type: Option<String>,
    /// Does somebody read from the slot?
    pub active: bool,
    /// `pg_replication_slots.wal_status`.
    pub wal_status: Option<String>,
    /// WAL bytes that may be written before the slot is in danger; `None`: no limit.
    pub safe_wal_bytes: Option<u64>,
    /// At the target; empty for a standby.
    pub subscription: String,
    /// Of a subscription.
    pub enabled: Option<bool>,
    /// Tables whose first copy is not complete.
    pub pending_tables: Option<u64>,
    /// Errors while applying, since the target's statistics began.
    pub apply_errors: Option<u64>,
    /// Errors while copying tables.
    pub sync_errors: Option<u64>,
    /// Conflicts at the target.
    pub conflicts: Option<u64>,
}

#[cfg(test)]
impl LinkView {
    /// A streaming link of which nothing else is known, for tests.
    pub(crate) fn streaming(from: &str, to: &str) -> Self {
        Self {
            from: NodeName::new(from),
            to: NodeName::new(to),
            kind: "logical",
            slot: "s".to_owned(),
            state: "streaming".to_owned(),
            sent_lsn: None,
            replay_lsn: None,
            lag_bytes: None,
            retained_bytes: None,
            behind: Behind::Unknown,
            origin_lsn: None,
            write_lsn: None,
            flush_lsn: None,
            slot_type: None,
            active: true,
            wal_status: None,
            safe_wal_bytes: None,
            subscription: "sub".to_owned(),
            enabled: Some(true),
            pending_tables: None,
            apply_errors: None,
            sync_errors: None,
            conflicts: None,
        }
    }
}

/// Whom a slot feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotOwner {
    /// A member of the cluster.
    Member(NodeName),
    /// BDR: a peer that is no member, the group, or the decoding worker.
    Bdr(String),
    /// Nobody whom we know: a backup tool, a change data capture.
    Foreign,
    /// Some member has not told what it reads from.
    Unknown,
}

/// A replication slot of a node, whoever it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotView {
    /// Where it is.
    pub node: NodeName,
    /// Its name.
    pub slot: String,
    /// Whom it feeds.
    pub owner: SlotOwner,
    /// `logical` or `physical`.
    pub slot_type: Option<String>,
    /// Output plugin of a logical slot.
    pub plugin: Option<String>,
    /// Database of a logical slot.
    pub database: Option<String>,
    /// Ends with its session.
    pub temporary: bool,
    /// Does somebody read from it?
    pub active: bool,
    /// From there it keeps WAL.
    pub restart_lsn: Option<Lsn>,
    /// Of a logical slot.
    pub confirmed_lsn: Option<Lsn>,
    /// WAL that it keeps back, in bytes.
    pub retained_bytes: Option<u64>,
    /// `pg_replication_slots.wal_status`.
    pub wal_status: Option<String>,
    /// WAL bytes that may be written before it is in danger; `None`: no limit.
    pub safe_wal_bytes: Option<u64>,
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
    /// How clients of the lead are treated: `served`, `held`, `refused`.
    pub clients: &'static str,
    /// Why, if they are not served.
    pub clients_why: String,
    /// Name of the running operation and its phase, e.g. (`switchover`, `drain`).
    pub operation: Option<OperationView>,
    /// Members in configuration order.
    pub nodes: Vec<NodeView>,
    /// Replication between them.
    pub links: Vec<LinkView>,
    /// All slots of all members.
    pub slots: Vec<SlotView>,
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
    /// A server told a client something that is a reason to look at its node.
    ServerSaid {
        /// The node.
        node: NodeName,
        /// 25006, 53100, 57P01, 57P02 or 57P03.
        sqlstate: String,
    },
    /// A server told a client that it is no standby any more.
    Promoted {
        /// The node.
        node: NodeName,
    },
}

impl Fact {
    /// Which node it is about.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::DialFailed { node, .. }
            | Self::ServerLost { node, .. }
            | Self::ServerSaid { node, .. }
            | Self::Promoted { node } => node,
        }
    }
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
