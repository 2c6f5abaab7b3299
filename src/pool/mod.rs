//! Server connections and who may have one.
//!
//! This file is the seam between the planes: [`Pools`] is what the control plane commands and the
//! console asks.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::cluster::Epoch;
use crate::config::{ClusterName, DatabaseName, NodeName, UserName};
use crate::relay::StopReason;

/// All pools of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pools;

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

/// The control plane's side. Nothing here waits for a client or a server.
impl Pools {
    /// Closes the gate of a cluster. From the return of this call on no client is given a server;
    /// sessions that have one are told to park; logins in progress are given up and wait.
    pub fn hold(&self, cluster: &ClusterName, owner: HoldOwner) {
        let _ = (cluster, owner);
        unimplemented!()
    }

    /// Takes a hold back: the gate opens as it was before, parked sessions go on where they were.
    pub fn resume(&self, cluster: &ClusterName) {
        let _ = cluster;
        unimplemented!()
    }

    /// Opens the gate at `lead` under `epoch`: all sessions that have a server on another node are
    /// stopped for `reason` (they never go on), idle servers there are closed, held clients are let
    /// through, at most `per_ms` of them per millisecond.
    pub fn open(
        &self,
        cluster: &ClusterName,
        lead: &NodeName,
        epoch: Epoch,
        reason: StopReason,
        per_ms: Option<u32>,
    ) -> Released {
        let _ = (cluster, lead, epoch, reason, per_ms);
        unimplemented!()
    }

    /// Nobody can be served: logins are refused with 57P03 and `why`, until the next `hold`/`open`.
    pub fn refuse(&self, cluster: &ClusterName, why: &str) {
        let _ = (cluster, why);
        unimplemented!()
    }

    /// Where the sessions with a server on `node` stand.
    pub fn drain_status(&self, cluster: &ClusterName, node: &NodeName) -> DrainStatus {
        let _ = (cluster, node);
        unimplemented!()
    }

    /// Changes its value whenever the answer of [`Pools::drain_status`] may have changed.
    pub fn drain_changes(&self, cluster: &ClusterName) -> watch::Receiver<u64> {
        let _ = cluster;
        unimplemented!()
    }

    /// These departed backends were seen to be gone.
    pub fn forget_departed(&self, cluster: &ClusterName, node: &NodeName, pids: &[i32]) {
        let _ = (cluster, node, pids);
        unimplemented!()
    }

    /// Sends a cancel request to every blocker's backend.
    pub fn cancel_blockers(&self, cluster: &ClusterName, node: &NodeName) {
        let _ = (cluster, node);
        unimplemented!()
    }

    /// Stops every session with a server on `node` now, and closes idle servers there.
    pub fn stop_sessions(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason) {
        let _ = (cluster, node, reason);
        unimplemented!()
    }

    /// Stops the sessions that have not parked.
    pub fn stop_blockers(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason) {
        let _ = (cluster, node, reason);
        unimplemented!()
    }

    /// Logs server connections in on `node`, one for each that the cluster's pools have on the lead
    /// now, with the same startup parameters. Returns how many stand ready. Failures only mean fewer.
    pub async fn prewarm(&self, cluster: &ClusterName, node: &NodeName) -> usize {
        let _ = (cluster, node);
        unimplemented!()
    }

    /// Closes what [`Pools::prewarm`] opened on `node`.
    pub fn close_idle(&self, cluster: &ClusterName, node: &NodeName) {
        let _ = (cluster, node);
        unimplemented!()
    }
}

/// The operator's verbs could not be done. Texts are PgBouncer's where tools match them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerbError {
    /// The database is not in the configuration (3D000).
    #[error("no such database: {0}")]
    NoSuchDatabase(DatabaseName),
    /// Already paused (55000).
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// Not paused (55000).
    #[error("{0} is not paused")]
    NotPaused(String),
    /// `KILL_CLIENT` of an unknown id (22023).
    #[error("client not found")]
    NoSuchClient,
}

/// The operator's side. `None` means all databases.
impl Pools {
    /// New work waits from now on. Complete when no client has a server: [`Pools::paused`].
    pub fn pause(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let _ = database;
        unimplemented!()
    }

    /// RECONNECT and PAUSE as one act: no session gets a new server in between, and sessions are
    /// stopped with 57P01 at their safe point.
    pub fn reconnect_and_pause(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let _ = database;
        unimplemented!()
    }

    /// Waits until the pause is complete, or was lifted (`false`). Cancel safe.
    pub async fn paused(&self, database: Option<&DatabaseName>) -> bool {
        let _ = database;
        unimplemented!()
    }

    /// Lifts a pause.
    pub fn resume_operator(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let _ = database;
        unimplemented!()
    }

    /// Servers open now are closed when their session ends; idle ones at once.
    pub fn reconnect(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let _ = database;
        unimplemented!()
    }

    /// Waits until no server from before the last RECONNECT is left. Cancel safe.
    pub async fn closed(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let _ = database;
        unimplemented!()
    }

    /// PAUSE, and every client and server of it is closed at once.
    pub fn kill(&self, database: Option<&DatabaseName>) -> Result<(), VerbError> {
        let _ = database;
        unimplemented!()
    }

    /// New logins are refused (`true`) or taken again.
    pub fn disable(&self, database: &DatabaseName, disabled: bool) -> Result<(), VerbError> {
        let _ = (database, disabled);
        unimplemented!()
    }
}

/// One row of SHOW POOLS.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSnapshot {
    /// Database.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
    /// Clients with a server.
    pub cl_active: usize,
    /// Clients that wait for one.
    pub cl_waiting: usize,
    /// Cancel requests being forwarded.
    pub cl_active_cancel_req: usize,
    /// Servers with a client.
    pub sv_active: usize,
    /// Servers ready for a client.
    pub sv_idle: usize,
    /// Servers being reset.
    pub sv_tested: usize,
    /// Servers logging in.
    pub sv_login: usize,
    /// Longest wait of a waiting client.
    pub maxwait: Duration,
}

/// One row of SHOW DATABASES.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseSnapshot {
    /// Name.
    pub name: DatabaseName,
    /// Host and port of the current lead, if there is one.
    pub host: Option<(String, u16)>,
    /// Cluster.
    pub cluster: ClusterName,
    /// Name on the node.
    pub dbname: String,
    /// Servers per user.
    pub pool_size: usize,
    /// Servers open now.
    pub current_connections: usize,
    /// Clients now.
    pub current_client_connections: usize,
    /// PAUSE.
    pub paused: bool,
    /// DISABLE.
    pub disabled: bool,
}

/// One row of SHOW SERVERS.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSnapshot {
    /// Unique among clients and servers.
    pub id: u64,
    /// Database.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
    /// `active`, `idle`, `tested`, `new`.
    pub state: &'static str,
    /// Node it is connected to.
    pub node: NodeName,
    /// Remote address; `None` for a Unix socket.
    pub addr: Option<IpAddr>,
    /// Remote port.
    pub port: u16,
    /// Our address.
    pub local_addr: Option<IpAddr>,
    /// Our port.
    pub local_port: u16,
    /// When it was opened.
    pub connect_time: SystemTime,
    /// When it was last given to a client.
    pub request_time: SystemTime,
    /// Will it be closed at its release?
    pub close_needed: bool,
    /// The client that has it.
    pub link: Option<u64>,
    /// Backend pid.
    pub remote_pid: i32,
    /// `application_name` of its startup packet.
    pub application_name: String,
}

/// Totals of a database since start (SHOW STATS); times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatsSnapshot {
    /// Times a client was given a server.
    pub server_assignments: u64,
    /// Transactions.
    pub xacts: u64,
    /// Queries.
    pub queries: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Time in transactions.
    pub xact_time_us: u64,
    /// Time in queries.
    pub query_time_us: u64,
    /// Time clients waited for a server.
    pub wait_time_us: u64,
    /// Client logins.
    pub client_logins: u64,
}

/// The readers' side.
impl Pools {
    /// SHOW POOLS.
    pub fn pools(&self) -> Vec<PoolSnapshot> {
        unimplemented!()
    }

    /// SHOW DATABASES.
    pub fn databases(&self) -> Vec<DatabaseSnapshot> {
        unimplemented!()
    }

    /// SHOW SERVERS.
    pub fn servers(&self) -> Vec<ServerSnapshot> {
        unimplemented!()
    }

    /// SHOW STATS: totals by database.
    pub fn stats(&self) -> Vec<(DatabaseName, StatsSnapshot)> {
        unimplemented!()
    }

    /// Is everything paused by the operator?
    pub fn is_paused(&self) -> bool {
        unimplemented!()
    }
}
