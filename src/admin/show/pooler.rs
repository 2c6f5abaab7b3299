//! PgBouncer's tables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::super::{Console, VERSION};
use super::{Col, int4, maybe, text};
use crate::civil::utc;
use crate::config::{ConfigRow, PoolMode, Route, show_config};
use crate::pool::{DatabaseSnapshot, PoolSnapshot, ServerSnapshot};
use crate::session::ClientSnapshot;

pub(super) const POOLS: &[Col<PoolSnapshot>] = &[
    text("database", |p| p.database.to_string()),
    text("user", |p| p.user.to_string()),
    int4("cl_active", |p| p.cl_active as u64),
    int4("cl_waiting", |p| p.cl_waiting as u64),
    int4("cl_active_cancel_req", |p| p.cl_active_cancel_req as u64),
    int4("cl_waiting_cancel_req", |_| 0),
    int4("sv_active", |p| p.sv_active as u64),
    int4("sv_active_cancel", |_| 0),
    int4("sv_being_canceled", |_| 0),
    int4("sv_idle", |p| p.sv_idle as u64),
    int4("sv_used", |_| 0),
    int4("sv_tested", |p| p.sv_tested as u64),
    int4("sv_login", |p| p.sv_login as u64),
    int4("maxwait", |p| p.maxwait.as_secs()),
    int4("maxwait_us", |p| u64::from(p.maxwait.subsec_micros())),
    text("pool_mode", |_| mode(PoolMode::Session)),
    maybe("load_balance_hosts", |_| None),
    text("route", |p| p.route.to_string()),
    text("node", |p| joined(p.nodes.iter())),
];

pub(super) fn pools(console: &Console) -> Vec<PoolSnapshot> {
    console.pools.pools()
}

/// A database, and what of it stands in the configuration.
pub(super) struct Database {
    pub(super) now: DatabaseSnapshot,
    pub(super) server_lifetime: Option<Duration>,
    pub(super) pool_mode: PoolMode,
}

pub(super) const DATABASES: &[Col<Database>] = &[
    text("name", |d| d.now.name.to_string()),
    maybe("host", |d| {
        let hosts = joined(d.now.nodes.iter().map(|node| &node.host));
        (!hosts.is_empty()).then_some(hosts)
    }),
    int4("port", |d| {
        d.now.nodes.first().map_or(0, |node| u64::from(node.port))
    }),
    text("database", |d| d.now.dbname.clone()),
    maybe("force_user", |_| None),
    int4("pool_size", |d| d.now.pool_size as u64),
    int4("min_pool_size", |_| 0),
    int4("reserve_pool_size", |_| 0),
    int4("server_lifetime", |d| {
        d.server_lifetime.map_or(0, |t| t.as_secs())
    }),
    text("pool_mode", |d| mode(d.pool_mode)),
    maybe("load_balance_hosts", |_| None),
    int4("max_connections", |_| 0),
    int4("current_connections", |d| d.now.current_connections as u64),
    int4("max_client_connections", |_| 0),
    int4("current_client_connections", |d| {
        d.now.current_client_connections as u64
    }),
    int4("paused", |d| u64::from(d.now.paused)),
    int4("disabled", |d| u64::from(d.now.disabled)),
    text("cluster", |d| d.now.cluster.to_string()),
    text("route", |d| d.now.route.to_string()),
    text("node", |d| {
        joined(d.now.nodes.iter().map(|node| &node.name))
    }),
    // Only the lead's writers are kept from running on two nodes at once.
    text("writers", |d| {
        match d.now.route {
            Route::Lead => "one node",
            Route::Read => "none",
            Route::Any => "many nodes",
        }
        .to_owned()
    }),
];

/// Several in one column, as PgBouncer has hosts.
fn joined(things: impl Iterator<Item = impl ToString>) -> String {
    let words: Vec<String> = things.map(|thing| thing.to_string()).collect();
    words.join(",")
}

pub(super) fn databases(console: &Console) -> Vec<Database> {
    let config = console.config();
    let of = |now: DatabaseSnapshot| Database {
        server_lifetime: config.general.server_lifetime,
        pool_mode: config
            .databases
            .get(&now.name)
            .map_or(PoolMode::Session, |database| database.pool_mode),
        now,
    };
    console.pools.databases().into_iter().map(of).collect()
}

fn mode(mode: PoolMode) -> String {
    match mode {
        PoolMode::Session => "session".to_owned(),
    }
}

/// A client or server connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Socket {
    kind: char,
    user: String,
    database: String,
    state: &'static str,
    addr: Option<IpAddr>,
    port: u16,
    local_addr: Option<IpAddr>,
    local_port: u16,
    connect_time: SystemTime,
    request_time: SystemTime,
    wait_us: u64,
    close_needed: bool,
    link: Option<u64>,
    remote_pid: Option<i32>,
    application_name: String,
    id: u64,
    in_transaction: bool,
    node: String,
    route: String,
}

impl From<ClientSnapshot> for Socket {
    fn from(client: ClientSnapshot) -> Self {
        Self {
            kind: 'C',
            user: client.user.to_string(),
            database: client.database.to_string(),
            state: client.state,
            addr: client.addr,
            port: client.port,
            local_addr: client.local_addr,
            local_port: client.local_port,
            connect_time: client.connect_time,
            request_time: client.request_time,
            wait_us: client.wait_us,
            close_needed: client.close_needed,
            link: client.link,
            remote_pid: client.remote_pid,
            application_name: client.application_name,
            id: client.id,
            in_transaction: client.in_transaction,
            node: String::new(),
            route: String::new(),
        }
    }
}

impl From<ServerSnapshot> for Socket {
    fn from(server: ServerSnapshot) -> Self {
        Self {
            kind: 'S',
            user: server.user.to_string(),
            database: server.database.to_string(),
            state: server.state,
            addr: server.addr,
            port: server.port,
            local_addr: server.local_addr,
            local_port: server.local_port,
            connect_time: server.connect_time,
            request_time: server.request_time,
            wait_us: 0,
            close_needed: server.close_needed,
            link: server.link,
            remote_pid: Some(server.remote_pid),
            application_name: server.application_name,
            id: server.id,
            in_transaction: false,
            node: server.node.to_string(),
            route: server.route.to_string(),
        }
    }
}

impl Socket {
    /// PgBouncer shows a pointer here; ours says which side and which id.
    fn link(&self) -> String {
        let other = if self.kind == 'C' { 'S' } else { 'C' };
        self.link
            .map_or_else(String::new, |id| format!("{other}-{id}"))
    }
}

pub(super) const SOCKET: &[Col<Socket>] = &[
    text("type", |s| s.kind.to_string()),
    text("user", |s| s.user.clone()),
    text("database", |s| s.database.clone()),
    text("replication", |_| "none".to_owned()),
    text("state", |s| s.state.to_owned()),
    text("addr", |s| address(s.addr)),
    int4("port", |s| u64::from(s.port)),
    text("local_addr", |s| address(s.local_addr)),
    int4("local_port", |s| u64::from(s.local_port)),
    text("connect_time", |s| utc(s.connect_time)),
    text("request_time", |s| utc(s.request_time)),
    int4("wait", |s| s.wait_us / 1_000_000),
    int4("wait_us", |s| s.wait_us % 1_000_000),
    int4("close_needed", |s| u64::from(s.close_needed)),
    text("ptr", |s| format!("{}-{}", s.kind, s.id)),
    text("link", Socket::link),
    int4("remote_pid", |s| {
        s.remote_pid.map_or(0, |pid| u64::from(pid.unsigned_abs()))
    }),
    text("tls", |_| String::new()),
    text("application_name", |s| s.application_name.clone()),
    int4("prepared_statements", |_| 0),
    int4("id", |s| s.id),
];

pub(super) const CLIENT: &[Col<Socket>] =
    &[int4("in_transaction", |s| u64::from(s.in_transaction))];

pub(super) const SERVER: &[Col<Socket>] = &[
    text("node", |s| s.node.clone()),
    text("route", |s| s.route.clone()),
];

/// PgBouncer's buffer positions: a session that waits holds no buffer here.
pub(super) const BUFFERS: &[Col<Socket>] = &[
    int4("recv_pos", |_| 0),
    int4("pkt_pos", |_| 0),
    int4("pkt_remain", |_| 0),
    int4("send_pos", |_| 0),
    int4("send_remain", |_| 0),
    int4("pkt_avail", |_| 0),
    int4("send_avail", |_| 0),
];

fn address(addr: Option<IpAddr>) -> String {
    addr.map_or_else(|| "unix".to_owned(), |addr| addr.to_string())
}

pub(super) fn clients(console: &Console) -> Vec<Socket> {
    console
        .clients
        .list()
        .into_iter()
        .map(Socket::from)
        .collect()
}

pub(super) fn servers(console: &Console) -> Vec<Socket> {
    console
        .pools
        .servers()
        .into_iter()
        .map(Socket::from)
        .collect()
}

pub(super) fn sockets(console: &Console) -> Vec<Socket> {
    let mut all = clients(console);
    all.append(&mut servers(console));
    all
}

pub(super) fn active_sockets(console: &Console) -> Vec<Socket> {
    let mut all = sockets(console);
    all.retain(|socket| socket.state == "active");
    all
}

/// A user who has clients or servers now, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    name: String,
    servers: u64,
    clients: u64,
}

pub(super) const USERS: &[Col<User>] = &[
    text("name", |u| u.name.clone()),
    text("pool_size", |_| String::new()),
    text("reserve_pool_size", |_| String::new()),
    text("pool_mode", |_| String::new()),
    int4("max_user_connections", |_| 0),
    int4("current_connections", |u| u.servers),
    int4("max_user_client_connections", |_| 0),
    int4("current_client_connections", |u| u.clients),
];

pub(super) fn users(console: &Console) -> Vec<User> {
    let mut by_name: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for client in console.clients.list() {
        by_name.entry(client.user.to_string()).or_default().1 += 1;
    }
    for server in console.pools.servers() {
        by_name.entry(server.user.to_string()).or_default().0 += 1;
    }
    by_name
        .into_iter()
        .map(|(name, (servers, clients))| User {
            name,
            servers,
            clients,
        })
        .collect()
}

/// Name and value: LISTS.
pub(super) const LISTS: &[Col<(&'static str, u64)>] =
    &[text("list", |l| l.0.to_owned()), int4("items", |l| l.1)];

pub(super) fn lists(console: &Console) -> Vec<(&'static str, u64)> {
    let clients = console.clients.list();
    let login = clients.iter().filter(|c| c.state == "login").count();
    let most = console.config().general.max_client_conn;
    [
        ("databases", console.config().databases.len()),
        ("users", users(console).len()),
        ("peers", 0),
        ("pools", console.pools.pools().len()),
        ("peer_pools", 0),
        ("free_clients", most.saturating_sub(clients.len())),
        ("used_clients", clients.len()),
        ("login_clients", login),
        ("free_servers", 0),
        ("used_servers", console.pools.servers().len()),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ]
    .map(|(name, items)| (name, items as u64))
    .to_vec()
}

pub(super) const CONFIG: &[Col<ConfigRow>] = &[
    text("key", |s| s.key.clone()),
    text("value", |s| s.value.clone()),
    text("default", |s| s.default.clone()),
    text("changeable", |s| yes_no(s.changeable)),
];

pub(super) fn config(console: &Console) -> Vec<ConfigRow> {
    show_config(&console.config())
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

pub(super) const STATE: &[Col<(&'static str, bool)>] = &[
    text("key", |s| s.0.to_owned()),
    text("value", |s| yes_no(s.1)),
];

pub(super) fn state(console: &Console) -> Vec<(&'static str, bool)> {
    let paused = console.pools.is_paused();
    vec![
        ("active", !paused),
        ("paused", paused),
        ("suspended", false),
    ]
}

/// One column: `pgbouncer_exporter` refuses more.
pub(super) const VERSION_COLUMN: &[Col<()>] = &[text("version", |()| VERSION.to_owned())];

pub(super) fn version(_: &Console) -> Vec<()> {
    vec![()]
}
