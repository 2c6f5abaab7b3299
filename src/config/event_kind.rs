//! The kinds of events: vocabulary of the journal, of `SHOW EVENTS` and of `event_notifications`.

use super::field::words;

/// What happened. `docs/events.md` says of each when it comes and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A node is proven up.
    NodeUp,
    /// A node is proven down.
    NodeDown,
    /// A node answers, but is starting up or has not caught up.
    NodeRecovering,
    /// Nothing is proven of a node.
    NodeUnknown,
    /// A node is back that was down; the detail says for how many seconds.
    NodeRecovery,
    /// A node goes up and down too often to be trusted.
    NodeFlapping,
    /// All connection slots of a node are used.
    NodeFull,
    /// A node refuses to write.
    NodeReadOnly,
    /// A node has no space left.
    NodeDiskFull,
    /// A node takes connections, but logins do not end.
    NodeLoginsStuck,
    /// A node refuses the monitor's login.
    MonitorRefused,
    /// Another database system answers at a node's address.
    NodeIdentityChanged,
    /// A node takes writes that should not.
    UnexpectedPrimary,
    /// A node must not be used until an operator says so.
    NodeFenced,
    /// An operator said what he wants of a node.
    NodeWanted,
    /// A node was added.
    NodeAdded,
    /// A node was removed.
    NodeRemoved,
    /// A node may become lead from now on.
    NodeEligible,
    /// The configuration alone decides again whether a node may become lead.
    NodePermanentCandidate,
    /// A node that came back does not become a shadow.
    RecoveryStuck,
    /// A node is being prepared for maintenance.
    MaintenanceBegun,
    /// A node may be stopped.
    MaintenanceSafe,
    /// A node's maintenance has ended.
    MaintenanceEnded,
    /// A maintenance was begun and never ended.
    MaintenanceForgotten,
    /// The first lead of a cluster was chosen.
    LeadChosen,
    /// The record of who leads cannot be read.
    RecordLost,
    /// The record of who leads is older than what the nodes say.
    RecordOutdated,
    /// Clients are served.
    ClientsServed,
    /// Clients wait.
    ClientsHeld,
    /// Clients are refused.
    ClientsRefused,
    /// No node of a cluster answers.
    AllNodesDown,
    /// The lead is down, and no node may take over.
    FailoverBarred,
    /// A switchover or failover has begun.
    OperationStarted,
    /// A step takes longer than it should.
    OperationSlow,
    /// A switchover moved the lead.
    SwitchoverCompleted,
    /// A switchover was given up; the lead is as before.
    SwitchoverAborted,
    /// A switchover was not begun.
    SwitchoverRefused,
    /// A failover moved the lead.
    FailoverCompleted,
    /// A failover was given up.
    FailoverAborted,
    /// A failover was not begun.
    FailoverRefused,
    /// A node no longer receives what another writes.
    ReplicationBroken,
    /// A node receives again what another writes.
    ReplicationRestored,
    /// A node lags by more than the limit.
    ReplicationLag,
    /// A slot keeps back more WAL than the limit.
    SlotRetainsWal,
    /// Replication met a conflict.
    ReplicationConflict,
    /// Replication met an error and tries again.
    ApplyError,
    /// A node of a BDR group sees no leader of the group's consensus.
    ConsensusLost,
    /// It sees one again.
    ConsensusRestored,
    /// The nodes that serve a route have changed.
    RouteChanged,
    /// The notification command failed, or events were not told.
    NotificationFailed,
    /// The configuration was read again.
    Reloaded,
}
words!(EventKind {
    NodeUp = "node_up",
    NodeDown = "node_down",
    NodeRecovering = "node_recovering",
    NodeUnknown = "node_unknown",
    NodeRecovery = "node_recovery",
    NodeFlapping = "node_flapping",
    NodeFull = "node_full",
    NodeReadOnly = "node_read_only",
    NodeDiskFull = "node_disk_full",
    NodeLoginsStuck = "node_logins_stuck",
    MonitorRefused = "monitor_refused",
    NodeIdentityChanged = "node_identity_changed",
    UnexpectedPrimary = "unexpected_primary",
    NodeFenced = "node_fenced",
    NodeWanted = "node_wanted",
    NodeAdded = "node_added",
    NodeRemoved = "node_removed",
    NodeEligible = "node_eligible",
    NodePermanentCandidate = "node_permanent_candidate",
    RecoveryStuck = "recovery_stuck",
    MaintenanceBegun = "maintenance_begun",
    MaintenanceSafe = "maintenance_safe",
    MaintenanceEnded = "maintenance_ended",
    MaintenanceForgotten = "maintenance_forgotten",
    LeadChosen = "lead_chosen",
    RecordLost = "record_lost",
    RecordOutdated = "record_outdated",
    ClientsServed = "clients_served",
    ClientsHeld = "clients_held",
    ClientsRefused = "clients_refused",
    AllNodesDown = "all_nodes_down",
    FailoverBarred = "failover_barred",
    OperationStarted = "operation_started",
    OperationSlow = "operation_slow",
    SwitchoverCompleted = "switchover_completed",
    SwitchoverAborted = "switchover_aborted",
    SwitchoverRefused = "switchover_refused",
    FailoverCompleted = "failover_completed",
    FailoverAborted = "failover_aborted",
    FailoverRefused = "failover_refused",
    ReplicationBroken = "replication_broken",
    ReplicationRestored = "replication_restored",
    ReplicationLag = "replication_lag",
    SlotRetainsWal = "slot_retains_wal",
    ReplicationConflict = "replication_conflict",
    ApplyError = "apply_error",
    ConsensusLost = "consensus_lost",
    ConsensusRestored = "consensus_restored",
    RouteChanged = "route_changed",
    NotificationFailed = "notification_failed",
    Reloaded = "reloaded",
});
