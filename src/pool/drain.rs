//! What the control plane is told of a hold: who holds, who is in the way, what a release did.

use std::time::Duration;

use crate::config::{DatabaseName, UserName};

/// Who closed a cluster's gate. An operator's PAUSE is another axis and never shows here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldOwner {
    /// A planned switchover.
    Switchover,
    /// No node may be lead just now (start, failover in progress).
    NoLead,
}

/// A session that has not reached its safe point.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocker {
    /// Our id of the client (SHOW CLIENTS.id).
    pub client_id: u64,
    /// The client's address, `unix` for a Unix socket.
    pub addr: String,
    /// Database as the client named it.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
    /// From its startup packet.
    pub application_name: String,
    /// `active` or `idle in transaction` or `streaming`.
    pub state: &'static str,
    /// How long it has been in that state.
    pub age: Duration,
    /// Its backend on the node.
    pub backend_pid: i32,
}

/// How far the sessions of a cluster are on their way to the safe point.
#[derive(Debug, Clone, Default)]
pub struct DrainStatus {
    /// Not there yet.
    pub blockers: Vec<Blocker>,
    /// Parked at the safe point: backends that must be seen idle.
    pub parked_pids: Vec<i32>,
    /// Backends whose connection ended in the middle of something; may still be running.
    pub departed_pids: Vec<i32>,
    /// Logins to the node in progress.
    pub dialing: usize,
    /// Clients that wait at the gate.
    pub held: usize,
}

/// What a release did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    /// Clients that waited at the gate and were let through.
    pub held: usize,
    /// Sessions that were told to reconnect (57P01).
    pub stopped: usize,
}
