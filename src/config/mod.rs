//! Text → one immutable, checked [`Config`]. Pure: reading the file is the caller's business.

mod names;

pub use names::{ClusterName, DatabaseName, NodeName, UserName};

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything an instance needs to know. Built only by the parsers in this module, so a `Config`
/// that exists is valid: every database's cluster exists, every cluster has a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where clients come in.
    pub listen: Listen,
    /// Instance-wide settings.
    pub general: General,
    /// Clusters by name.
    pub clusters: BTreeMap<ClusterName, Arc<ClusterConfig>>,
    /// Databases by the name that clients use.
    pub databases: BTreeMap<DatabaseName, Arc<DatabaseConfig>>,
}

/// `[listen]`: sockets. Restart needed to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// TCP addresses; `*` means all. Empty: no TCP.
    pub address: Vec<String>,
    /// TCP port, and the number in the Unix socket's name.
    pub port: u16,
    /// `listen(2)` backlog.
    pub backlog: u32,
    /// Directory of the Unix socket `.s.PGSQL.<port>`; `None`: no Unix socket.
    pub unix_socket_dir: Option<PathBuf>,
    /// Permission bits of the Unix socket.
    pub unix_socket_mode: u32,
}

/// How a client proves who it is (PgBouncer's `auth_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// No proof; the user must be in the user list.
    Trust,
    /// Password in clear.
    Plain,
    /// MD5, or SCRAM where the stored secret is a SCRAM one (PgBouncer's rule).
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
}

/// `[pgsluice]`: instance-wide settings. Zero in the file means "off" and is `None` here.
#[derive(Debug, Clone, PartialEq)]
pub struct General {
    /// Worker threads of the data plane.
    pub workers: usize,
    /// Directory of the durable records (lead, epoch, events).
    pub state_dir: PathBuf,
    /// Client authentication.
    pub auth_type: AuthType,
    /// PgBouncer's `userlist.txt`.
    pub auth_file: Option<PathBuf>,
    /// Users who may do everything on the console.
    pub admin_users: Vec<UserName>,
    /// Users who may only SHOW on the console.
    pub stats_users: Vec<UserName>,
    /// Most client connections at a time (the console is exempt).
    pub max_client_conn: usize,
    /// Servers per (database, user) where the database does not say.
    pub default_pool_size: usize,
    /// Longest time a client may wait for a server.
    pub query_wait_timeout: Option<Duration>,
    /// Time from accept to ReadyForQuery, waits for a server not counted.
    pub client_login_timeout: Option<Duration>,
    /// An idle server older than this is closed.
    pub server_lifetime: Option<Duration>,
    /// A server idle for longer than this is closed.
    pub server_idle_timeout: Option<Duration>,
    /// Dial and login of a server must end within this.
    pub server_connect_timeout: Duration,
    /// Pause after a failed server login before the next try.
    pub server_login_retry: Duration,
    /// Sent before a server is given to another client. Empty: nothing is sent.
    pub server_reset_query: String,
    /// How long a cancel request may wait for its session's server.
    pub cancel_wait_timeout: Option<Duration>,
    /// TCP keepalive on both sides.
    pub tcp_keepalive: bool,
    /// Seconds of idle before the first probe; `None`: the kernel's.
    pub tcp_keepidle: Option<Duration>,
    /// Between probes; `None`: the kernel's.
    pub tcp_keepintvl: Option<Duration>,
    /// Probes before the peer is given up; `None`: the kernel's.
    pub tcp_keepcnt: Option<u32>,
    /// `TCP_USER_TIMEOUT`; `None`: the kernel's.
    pub tcp_user_timeout: Option<Duration>,
    /// How long SHUTDOWN WAIT_FOR_* may take before the rest is closed; `None`: no bound.
    pub shutdown_timeout: Option<Duration>,
}

/// How the members of a cluster replicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationKind {
    /// Found out by asking the nodes.
    Auto,
    /// Native logical replication (publications and subscriptions), PostgreSQL 16 and later.
    Logical,
    /// The pglogical extension.
    Pglogical,
    /// Streaming replication of a physical standby.
    Physical,
}

/// Who performs `pg_promote` on a physical standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// Somebody else (Patroni, repmgr, an operator): we wait until it is writable.
    Wait,
    /// We call `pg_promote(false)`.
    PgPromote,
}

/// `[clusters.NAME]`: nodes that hold the same data, one of them lead.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    /// Its name.
    pub name: ClusterName,
    /// How its members replicate.
    pub replication: ReplicationKind,
    /// Who promotes a physical target.
    pub promote: Promote,
    /// Login of the control connections.
    pub monitor: MonitorLogin,
    /// Between two probes of a node.
    pub monitor_interval: Duration,
    /// Deadline of each step of a probe.
    pub monitor_timeout: Duration,
    /// Failed probes before a node is down.
    pub fall: u32,
    /// Good probes before a node is up.
    pub rise: u32,
    /// Preflight refuses a switchover when the target lags more than this many bytes.
    pub switchover_lag_max_bytes: u64,
    /// Preflight refuses when the clocks of both nodes differ by more.
    pub clock_skew_max: Duration,
    /// How long sessions may take to reach their safe point.
    pub drain_timeout: Duration,
    /// What to do with those that did not.
    pub on_drain_timeout: OnDrainTimeout,
    /// How long the target may take to replay the captured LSN.
    pub catchup_timeout: Duration,
    /// Table with one marker row per node, e.g. `public.pgsluice_marker`; `None`: dual nudge.
    pub marker_table: Option<String>,
    /// How many held clients may be released per millisecond; `None`: all at once.
    pub release_per_ms: Option<u32>,
    /// Members, in the file's order.
    pub nodes: Vec<NodeConfig>,
}

/// What happens to sessions that did not reach their safe point within `drain_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrainTimeout {
    /// Give up: everybody goes on at the old lead.
    Abort,
    /// Cancel the running statements, then give up if that did not help.
    Cancel,
    /// Close the sessions with 57P01.
    Terminate,
}

/// Login of the monitor's and the gate's own connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorLogin {
    /// Role; `pg_monitor` is enough.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// The database that the clients use.
    pub dbname: String,
}

/// May a node become lead?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    /// By switchover and by failover.
    Auto,
    /// Only when an operator names it.
    Manual,
    /// Never (logical standby, witness).
    Never,
}

/// One PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeName,
    /// Host name, address, or a directory starting with `/` for a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Higher is preferred as lead.
    pub priority: i32,
    /// May it become lead?
    pub candidate: Candidate,
}

/// PgBouncer's pool modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A server belongs to a session from login to disconnect.
    Session,
}

/// Which node of the cluster a database's clients get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The lead.
    Lead,
}

/// `[databases.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// The name that clients use.
    pub name: DatabaseName,
    /// The cluster that holds it.
    pub cluster: ClusterName,
    /// Its name on the nodes.
    pub dbname: String,
    /// When a server is given back.
    pub pool_mode: PoolMode,
    /// Which node.
    pub route: Route,
    /// Servers per user; `None`: `default_pool_size`.
    pub pool_size: Option<usize>,
}

/// A string that never shows itself.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself: for the one who must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}
