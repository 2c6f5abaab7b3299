//! What readers see of the pools: rows of SHOW POOLS, DATABASES, SERVERS, STATS.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::config::{ClusterName, DatabaseName, NodeConfig, NodeName, Route, UserName};
use crate::relay::Reading;

use super::Pools;
use super::checkout::{Pool, State};
use super::gate::Operator;
use super::lease::Use;

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
    /// Which node its clients get.
    pub route: Route,
    /// Nodes that it has servers on, in name order.
    pub nodes: Vec<NodeName>,
}

/// One row of SHOW DATABASES.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseSnapshot {
    /// Name.
    pub name: DatabaseName,
    /// Which node its clients get.
    pub route: Route,
    /// Nodes that newcomers go to now.
    pub nodes: Vec<Arc<NodeConfig>>,
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
    /// PAUSE of it, or of everything.
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
    /// Of its database.
    pub route: Route,
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

impl StatsSnapshot {
    pub(super) fn add(&mut self, reading: &Reading) {
        self.xacts += reading.xacts;
        self.queries += reading.queries;
        self.received += reading.received;
        self.sent += reading.sent;
        self.xact_time_us += reading.xact_us;
        self.query_time_us += reading.query_us;
    }

    fn merge(&mut self, other: &Self) {
        self.server_assignments += other.server_assignments;
        self.xacts += other.xacts;
        self.queries += other.queries;
        self.received += other.received;
        self.sent += other.sent;
        self.xact_time_us += other.xact_time_us;
        self.query_time_us += other.query_time_us;
        self.wait_time_us += other.wait_time_us;
        self.client_logins += other.client_logins;
    }
}

/// The readers' side.
impl Pools {
    /// SHOW POOLS.
    pub fn pools(&self) -> Vec<PoolSnapshot> {
        self.all().iter().map(|pool| pool.snapshot()).collect()
    }

    /// SHOW DATABASES.
    pub fn databases(&self) -> Vec<DatabaseSnapshot> {
        let pools = self.all();
        let default_size = self.config().general.default_pool_size;
        let rows = self.database_list().into_iter().map(|database| {
            let config = database.config();
            let of_database = || {
                pools
                    .iter()
                    .filter(|pool| pool.key.database == database.name)
            };
            DatabaseSnapshot {
                name: database.name.clone(),
                route: config.route,
                nodes: self.ways_in(&database),
                cluster: config.cluster.clone(),
                dbname: config.dbname.clone(),
                pool_size: config.pool_size.unwrap_or(default_size),
                current_connections: of_database().map(|pool| pool.lock().servers()).sum(),
                current_client_connections: of_database().map(|pool| pool.clients()).sum(),
                paused: database.operator() == Operator::Paused,
                disabled: database.is_disabled(),
            }
        });
        rows.collect()
    }

    /// SHOW SERVERS.
    pub fn servers(&self) -> Vec<ServerSnapshot> {
        self.all()
            .iter()
            .flat_map(|pool| pool.server_rows())
            .collect()
    }

    /// SHOW STATS: totals by database.
    pub fn stats(&self) -> Vec<(DatabaseName, StatsSnapshot)> {
        let pools = self.all();
        let rows = self.database_list().into_iter().map(|database| {
            let mut sum = StatsSnapshot {
                client_logins: database.logins.load(Ordering::Relaxed),
                ..StatsSnapshot::default()
            };
            for pool in pools
                .iter()
                .filter(|pool| pool.key.database == database.name)
            {
                sum.merge(&pool.lock().stats());
            }
            (database.name.clone(), sum)
        });
        rows.collect()
    }

    /// Is everything paused by the operator?
    pub fn is_paused(&self) -> bool {
        self.shared().is_paused()
    }
}

impl State {
    fn stats(&self) -> StatsSnapshot {
        let mut sum = self.totals;
        for leased in self.leased.values() {
            sum.add(&leased.meter.read());
        }
        sum
    }

    fn in_use(&self, phase: Use) -> usize {
        self.leased
            .values()
            .filter(|leased| leased.phase == phase)
            .count()
    }
}

impl Pool {
    fn clients(&self) -> usize {
        let state = self.lock();
        state.in_use(Use::Session) + state.queue.len() + state.dialing
    }

    fn snapshot(&self) -> PoolSnapshot {
        let state = self.lock();
        let maxwait = state.queue.front().map(|place| place.since.elapsed());
        let idle = state.idle.iter().map(|idle| &idle.server.info);
        let infos = idle.chain(state.leased.values().map(|leased| &leased.info));
        let nodes: BTreeSet<NodeName> = infos.map(|info| info.node.name.clone()).collect();
        PoolSnapshot {
            database: self.key.database.clone(),
            user: self.key.user.clone(),
            cl_active: state.in_use(Use::Session),
            cl_waiting: state.queue.len() + state.dialing,
            cl_active_cancel_req: state
                .leased
                .values()
                .filter(|leased| leased.info.is_being_cancelled())
                .count(),
            sv_active: state.in_use(Use::Session),
            sv_idle: state.idle.len(),
            sv_tested: state.in_use(Use::Reset),
            sv_login: state.dialing,
            maxwait: maxwait.unwrap_or_default(),
            route: self.route,
            nodes: nodes.into_iter().collect(),
        }
    }

    fn server_rows(&self) -> Vec<ServerSnapshot> {
        let generation = self.database.generation();
        let state = self.lock();
        let row = |info: &super::ServerInfo, state: &'static str| ServerSnapshot {
            id: info.id,
            database: self.key.database.clone(),
            user: self.key.user.clone(),
            state,
            node: info.node.name.clone(),
            route: self.route,
            addr: info.ends.remote_ip(),
            port: info.ends.remote.map_or(info.node.port, |addr| addr.port()),
            local_addr: info.ends.local.map(|addr| addr.ip()),
            local_port: info.ends.local_port(),
            connect_time: info.opened_at,
            request_time: info.opened_at,
            close_needed: info.generation != generation,
            link: None,
            remote_pid: info.pid,
            application_name: info.params.application_name(),
        };
        let idle = state.idle.iter().map(|idle| row(&idle.server.info, "idle"));
        let leased = state.leased.values().map(|leased| ServerSnapshot {
            link: (leased.phase == Use::Session).then_some(leased.client.id),
            request_time: leased.since,
            ..row(&leased.info, leased.phase.word())
        });
        idle.chain(leased).collect()
    }
}

impl Use {
    /// PgBouncer's word for it in SHOW SERVERS.
    fn word(self) -> &'static str {
        match self {
            Self::Session => "active",
            Self::Reset => "tested",
            Self::Burial => "being_canceled",
        }
    }
}
