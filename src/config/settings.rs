//! ONE row per setting: name, type, default, reloadable, doc. The row is the struct's field, and
//! drives parsing, defaults, `SHOW CONFIG`, suggestions, the diff for RELOAD and the reference in
//! `docs/settings.md`. To add a setting, add its row.

use std::path::PathBuf;
use std::time::Duration;

use super::kind::{Bare, Kind, Value};
use super::names::{ClusterName, DatabaseName, NodeName, UserName};
use super::row::{Fallback, Reload, Row, Section, Setting, Values, section};
use super::{
    AuthType, Balance, Candidate, CommandTemplate, EventFilter, FailoverPolicy, LogLevel,
    OnDrainTimeout, PoolMode, Profile, Promote, ReadFallback, ReplicationKind, Route, Secret,
};

use Fallback::{Required, Text, Unset};
use Reload::{Live, Restart};

const PORT: Kind = Kind::Integer {
    min: 1,
    max: 65_535,
};
const MANY: i64 = 1_000_000;

section! {
    /// Where clients come in. A change needs a restart.
    Listen "listen" {} {
        /// TCP addresses; `*` means all. Empty: no TCP.
        address [pgbouncer "listen_addr"]: Vec<String> = Kind::List, Text("127.0.0.1"), Restart;
        /// TCP port, and the number in the Unix socket's name. 0, for tests: the kernel chooses.
        port [pgbouncer "listen_port"]: u16 = Kind::Integer { min: 0, max: 65_535 }, Text("6432"), Restart;
        /// Backlog of `listen(2)`; the kernel caps it at `net.core.somaxconn`. Higher than
        /// PgBouncer's 128, so that a reconnect storm after a switchover is not refused.
        backlog [pgbouncer "listen_backlog"]: u32 =
            Kind::Integer { min: 1, max: 65_535 }, Text("4096"), Restart;
        /// Directory of the Unix socket `.s.PGSQL.<port>`. Empty: no Unix socket.
        unix_socket_dir: Option<PathBuf> = Kind::Text, Text("/tmp"), Restart;
        /// Permission bits of the Unix socket.
        unix_socket_mode: u32 = Kind::Mode, Text("0777"), Restart;
    }
}

section! {
    /// Instance-wide settings.
    General "pgsluice" {} {
        /// Worker threads of the data plane; 0: one per core.
        workers: usize = Kind::Integer { min: 0, max: 1024 }, Text("0"), Restart;
        /// Directory of the durable records (lead, epoch, events).
        state_dir: PathBuf = Kind::Name, Text("/var/lib/pgsluice"), Restart;
        /// Least important messages that are logged.
        log_level: LogLevel =
            Kind::Choice { words: LogLevel::WORDS, later: &[] }, Text("info"), Restart;
        /// Log a client's login.
        log_connections: bool = Kind::Flag, Text("true"), Live;
        /// Log a client's end, with the reason.
        log_disconnections: bool = Kind::Flag, Text("true"), Live;
        /// How a client proves who it is.
        auth_type: AuthType = Kind::Choice {
            words: AuthType::WORDS,
            later: &["any", "cert", "hba", "ldap", "pam"],
        }, Text("scram-sha-256"), Live;
        /// The user list, in the format of PgBouncer's `userlist.txt`. Needed: without it nobody
        /// can log in.
        auth_file: Option<PathBuf> = Kind::Name, Unset("none"), Live;
        /// Users who may do everything on the console.
        admin_users: Vec<UserName> = Kind::List, Text(""), Live;
        /// Users who may only SHOW on the console.
        stats_users: Vec<UserName> = Kind::List, Text(""), Live;
        /// Most client connections at a time (the console is exempt).
        max_client_conn: usize = Kind::Integer { min: 1, max: MANY }, Text("100"), Live;
        /// Servers per (database, user) where the database does not say.
        default_pool_size: usize = Kind::Integer { min: 1, max: MANY }, Text("20"), Live;
        /// Longest time a client may wait for a server.
        query_wait_timeout: Option<Duration> = Kind::time_or_off(1), Text("120s"), Live;
        /// Time from accept to ReadyForQuery, waits for a server not counted.
        client_login_timeout: Option<Duration> = Kind::time_or_off(1), Text("60s"), Live;
        /// A server older than this is closed once it is idle.
        server_lifetime: Option<Duration> = Kind::time_or_off(1000), Text("1h"), Live;
        /// A server idle for longer than this is closed.
        server_idle_timeout: Option<Duration> = Kind::time_or_off(1000), Text("10min"), Live;
        /// Dial and login of a server must end within this.
        server_connect_timeout: Duration = Kind::time(1), Text("15s"), Live;
        /// Pause after a failed server login before the next try. PgBouncer's is 15s; clients
        /// that are held while a node comes up would wait that long for nothing.
        server_login_retry: Duration = Kind::time(1), Text("1s"), Live;
        /// Sent before a server is given to another client. Empty: nothing is sent.
        server_reset_query: String = Kind::Text, Text("DISCARD ALL"), Live;
        /// How long a cancel request may wait for its session's server.
        cancel_wait_timeout: Option<Duration> = Kind::time_or_off(1), Text("10s"), Live;
        /// TCP keepalive on both sides. A change of this and of the next four holds for new
        /// connections.
        tcp_keepalive: bool = Kind::Flag, Text("true"), Live;
        /// Idle time before the first probe; off: the kernel's (2 hours, PgBouncer's default). A
        /// pooler that moves clients off dead nodes must notice that a peer is dead.
        tcp_keepidle: Option<Duration> = Kind::Time {
            min: Duration::from_secs(1),
            max: Duration::from_secs(32_767),
            off: true,
            bare: Bare::Seconds,
        }, Text("15s"), Live;
        /// Time between probes; off: the kernel's.
        tcp_keepintvl: Option<Duration> = Kind::Time {
            min: Duration::from_secs(1),
            max: Duration::from_secs(32_767),
            off: true,
            bare: Bare::Seconds,
        }, Text("5s"), Live;
        /// Unanswered probes before the peer is given up; 0: the kernel's.
        tcp_keepcnt: Option<u32> = Kind::Integer { min: 0, max: 127 }, Text("3"), Live;
        /// How long sent data may stay unacknowledged before the peer is given up; off: the
        /// kernel's (about 15 minutes, PgBouncer's default).
        tcp_user_timeout: Option<Duration> = Kind::Time {
            min: Duration::from_millis(100),
            max: Duration::from_hours(24),
            off: true,
            bare: Bare::Milliseconds,
        }, Text("20s"), Live;
        /// How long `SHUTDOWN WAIT_FOR_CLIENTS` or `WAIT_FOR_SERVERS` may take before the rest is
        /// closed; off: no bound. Under Kubernetes, less than the grace period.
        shutdown_timeout: Option<Duration> = Kind::time_or_off(1), Text("0"), Live;
        /// Program that is run at events, one run after another, without a shell. `%n` stands for
        /// the node's id, `%e` for the event, `%s` for its success (1 or 0), `%t` for its time, `%d`
        /// for its detail, `%c` for the conninfo and `%a` for the name of the next available node,
        /// `%p` for the id of the lead before, `%%` for `%`. It is shown in `SHOW CONFIG`: a
        /// secret belongs into the program. See [events](events.md).
        event_notification_command: Option<CommandTemplate> = Kind::Command, Text(""), Live;
        /// Events at which it is run, by our names or by repmgr's; empty: all.
        event_notifications: EventFilter = Kind::Events, Text(""), Live;
        /// When it has not ended by then, it is killed with all that it started.
        event_notification_timeout: Duration = Kind::time(1), Text("30s"), Live;
        /// Where this instance stands. Clients of `route = "read"` and `route = "any"` get a node of
        /// the same datacenter, and one of another only when no node is left here. Empty: all nodes
        /// are equally near.
        datacenter: Option<String> = Kind::Text, Text(""), Live;
    }
}

section! {
    /// Nodes that hold the same data, one of them lead.
    ClusterConfig "clusters.NAME" {
        /// Its name.
        name: ClusterName;
        /// Login of the control connections.
        monitor: MonitorLogin;
        /// Members, in the file's order.
        nodes: Vec<NodeConfig>;
    } {
        /// How its members replicate; `auto`: found out by asking the nodes.
        replication: ReplicationKind =
            Kind::Choice { words: ReplicationKind::WORDS, later: &[] }, Text("auto"), Restart;
        /// Who promotes a physical standby that is to be lead: `wait` until somebody else did, or
        /// `pg_promote` it.
        promote: Promote =
            Kind::Choice { words: Promote::WORDS, later: &[] }, Text("wait"), Restart;
        /// Who decides that a lead is lost: pgsluice (`auto`: fresh probes must confirm it, sessions
        /// on the lead must be silent too, and the new lead must have been seen to follow), or an
        /// operator (`manual`: `FAILOVER` on the console).
        failover: FailoverPolicy =
            Kind::Choice { words: FailoverPolicy::WORDS, later: &[] }, Text("manual"), Restart;
        /// What the timings below are when the file does not say: `standard`, or `fast` for nodes
        /// on a quiet network of their own, where a killed lead is replaced within a second and a
        /// silent one within three.
        profile: Profile =
            Kind::Choice { words: Profile::WORDS, later: &[] }, Text("standard"), Restart;
        /// Time between two probes of a node.
        monitor_interval: Duration =
            Kind::time(10), Unset("`1s`; profile `fast`: `300ms`"), Restart;
        /// The same while a node's state is in doubt: after a first failure, and until it is proven
        /// up.
        monitor_fast_interval: Duration =
            Kind::time(10), Unset("a quarter of `monitor_interval`, at least `100ms`"), Restart;
        /// Deadline of a probe's connect.
        monitor_connect_timeout: Duration =
            Kind::time(10), Unset("`2s`; profile `fast`: `400ms`"), Restart;
        /// Deadline of a probe's login, once it is connected.
        monitor_login_timeout: Duration =
            Kind::time(10), Unset("`2s`; profile `fast`: `500ms`"), Restart;
        /// Deadline of each query of a probe, of a check command and of an HTTP check.
        monitor_timeout: Duration =
            Kind::time(10), Unset("`2s`; profile `fast`: `400ms`"), Restart;
        /// Failed probes before a node is down.
        fall: u32 = Kind::Integer { min: 1, max: 100 }, Unset("`3`"), Restart;
        /// Good probes before a node is up.
        rise: u32 = Kind::Integer { min: 1, max: 100 }, Text("2"), Restart;
        /// repmgr's name and unit of `monitor_interval`: seconds.
        monitor_interval_secs: Option<u32> =
            Kind::Integer { min: 1, max: 86_400 }, Unset("`monitor_interval`"), Restart;
        /// repmgr's: how often a node that did not answer is tried again before it is down. Sets
        /// `fall`, which counts the first failure too, to one more.
        reconnect_attempts: Option<u32> =
            Kind::Integer { min: 1, max: 99 }, Unset("`fall`"), Restart;
        /// repmgr's: seconds between these tries. Sets `monitor_fast_interval`.
        reconnect_interval: Option<u32> =
            Kind::Integer { min: 1, max: 3600 }, Unset("`monitor_fast_interval`"), Restart;
        /// A program that must say yes (exit status 0) besides the probe's own queries, run without a
        /// shell. It is given HAProxy's four arguments behind its own: `NOT_USED`, `NOT_USED`, the
        /// node's host and its port.
        check_command: Option<CommandTemplate> = Kind::Command, Text(""), Restart;
        /// An HTTP check besides the probe's own queries: `:PORT/path`, asked of the node's host, or
        /// `http://host:port/path`. Any status from 200 to 299 is a yes (Patroni's REST API:
        /// `:8008/health`).
        check_http: Option<String> = Kind::Text, Text(""), Restart;
        /// A node that falls so often within `flap_window` is flapping: it is neither a target nor
        /// read from until it was well for `flap_hold`. 0: no guard.
        flap_limit: usize = Kind::Integer { min: 0, max: 100 }, Text("3"), Restart;
        /// See `flap_limit`.
        flap_window: Duration = Kind::time(1000), Text("10min"), Restart;
        /// See `flap_limit`.
        flap_hold: Duration = Kind::time(1000), Text("1min"), Restart;
        /// How long clients wait for a lead before they are told to try elsewhere (57P03).
        hold_timeout: Duration = Kind::time(1), Text("30s"), Restart;
        /// An automatic failover does not begin before the lead was down for so long.
        failover_confirm: Option<Duration> = Kind::time_or_off(1), Text("0"), Restart;
        /// An automatic failover takes no target that may lack more than this of the lead's WAL, by
        /// the last that was seen of both.
        failover_lag_max_bytes [key "failover_lag_max"]: u64 =
            Kind::Size { max: 1 << 44 }, Text("16MB"), Restart;
        /// No automatic failover follows another before this is over, so that two sick nodes do not
        /// throw the clients to and fro. `FAILOVER` by hand is not bound by it.
        failover_min_interval: Option<Duration> = Kind::time_or_off(1), Text("1min"), Restart;
        /// How long a node that is back may take until it replicates both ways and has caught up,
        /// before the event `recovery_stuck` tells.
        recovery_timeout: Option<Duration> = Kind::time_or_off(1), Text("30s"), Restart;
        /// A node that is down for so long is told as `node_permanent_candidate`: see REMOVE NODE.
        permanent_after: Option<Duration> = Kind::time_or_off(1), Text("1h"), Restart;
        /// Keep a note of lead and epoch on the nodes, as a setting of the monitor's own role
        /// (`ALTER ROLE CURRENT_USER SET application_name`): an instance whose `state_dir` was
        /// lost or restored from an old copy then notices, and does not fail back.
        lead_note: bool = Kind::Flag, Text("true"), Restart;
        /// A switchover is refused when the target lags by more.
        switchover_lag_max_bytes [key "switchover_lag_max"]: u64 =
            Kind::Size { max: 1 << 44 }, Text("16MB"), Restart;
        /// A switchover is refused when the clocks of both nodes differ by more.
        clock_skew_max: Duration = Kind::time(1), Text("500ms"), Restart;
        /// How long sessions may take to reach their safe point.
        drain_timeout: Duration = Kind::time(1), Text("5s"), Restart;
        /// What becomes of sessions that did not reach it: `abort` the switchover (everybody goes
        /// on at the old lead), `cancel` their statements, or `terminate` them.
        on_drain_timeout: OnDrainTimeout =
            Kind::Choice { words: OnDrainTimeout::WORDS, later: &[] }, Text("abort"), Restart;
        /// How long the target may take to replay what the old lead wrote.
        catchup_timeout: Duration = Kind::time(1), Text("10s"), Restart;
        /// Table with one marker row per node, such as `public.pgsluice_marker`; empty: none,
        /// the gate nudges both nodes instead.
        marker_table: Option<String> = Kind::Relation, Text(""), Restart;
        /// An event tells when a slot of a node, whoever it is for, keeps back more WAL than this;
        /// 0: never.
        slot_retained_max: Option<u64> = Kind::Size { max: 1 << 50 }, Text("10GB"), Restart;
        /// An event tells when a node is behind another one for longer than this; 0: never.
        replication_lag_alert: Option<Duration> = Kind::time_or_off(1), Text("1min"), Restart;
        /// How many held clients are released per millisecond; 0: all at once.
        release_per_ms: Option<u32> = Kind::Integer { min: 0, max: MANY }, Text("0"), Restart;
        /// A node that has just come up gets its share of new sessions of `route = "read"` and
        /// `route = "any"` little by little, and the whole of it after this time; off: at once.
        slowstart: Option<Duration> = Kind::time_or_off(1), Text("0"), Restart;
    }
}

section! {
    /// Login of the monitor's and the gate's own connections, a part of the cluster:
    /// `monitor = { user = "pgsluice", password = "${PGSLUICE_PASSWORD}", dbname = "app" }`.
    MonitorLogin "clusters.NAME.monitor" {} {
        /// Role; a login role with `pg_monitor` is enough.
        user: String = Kind::Name, Required, Restart;
        /// Its password. Better from the environment or a file than in the configuration.
        password: Option<Secret> = Kind::Secret, Unset("none"), Restart;
        /// The database that the clients use.
        dbname: String = Kind::Name, Required, Restart;
    }
}

section! {
    /// One PostgreSQL server: `n1 = { host = "10.0.0.1", port = 5432, priority = 100 }`. Names
    /// are unique over all clusters.
    NodeConfig "clusters.NAME.nodes.NODE" {
        /// Its name.
        name: NodeName;
    } {
        /// Host name, address, or a directory starting with `/` for a Unix socket.
        host: String = Kind::Host, Required, Restart;
        /// Port.
        port: u16 = PORT, Text("5432"), Restart;
        /// Higher is preferred as lead.
        priority: i32 = Kind::Integer { min: -MANY, max: MANY }, Text("100"), Restart;
        /// What the notification command gets for `%n`; unique in the cluster. Without it a node that
        /// is added in the middle of the file changes the ids of those after it.
        id: u32 = Kind::Integer { min: 1, max: MANY }, Unset("its place in the file, from 1 on"), Restart;
        /// May it become lead? `auto`: by switchover and failover; `manual`: only when an operator
        /// names it; `never`: it is a logical standby or a witness.
        candidate: Candidate =
            Kind::Choice { words: Candidate::WORDS, later: &[] }, Text("auto"), Restart;
        /// Its share of the sessions of `route = "read"` and `route = "any"`, in proportion to the
        /// weights of the others. 0: none, except as the lead that reads fall back to.
        weight: u32 = Kind::Integer { min: 0, max: 1000 }, Text("100"), Restart;
        /// Where it stands, to be compared with `datacenter` of `[pgsluice]`.
        datacenter: Option<String> = Kind::Text, Text(""), Restart;
    }
}

section! {
    /// What clients connect to, by the name that they use.
    DatabaseConfig "databases.NAME" {
        /// The name that clients use.
        name: DatabaseName;
    } {
        /// The cluster that holds it.
        cluster: ClusterName = Kind::Name, Required, Live;
        /// Its name on the nodes.
        dbname: String = Kind::Name, Unset("the name that clients use"), Live;
        /// When a server is given back: in `session` mode when its client leaves.
        pool_mode: PoolMode = Kind::Choice {
            words: PoolMode::WORDS,
            later: &["transaction", "statement"],
        }, Text("session"), Live;
        /// Which node of the cluster its clients get. `lead`: the lead. `read`: a node that follows
        /// the lead closely; sessions are read-only, and cannot change that. `any`: a node that
        /// takes writes, lead or not, where conflicts are the application's business. A change ends
        /// the sessions.
        route: Route = Kind::Choice { words: Route::WORDS, later: &[] }, Text("lead"), Live;
        /// How sessions of `route = "read"` and `"any"` are spread over the nodes: in turn, or to
        /// the one with the fewest of them, both in proportion to the weights.
        balance: Balance = Kind::Choice { words: Balance::WORDS, later: &[] }, Text("round-robin"), Live;
        /// A node that is behind the lead by more serves no reads.
        read_lag_max: u64 = Kind::Size { max: 1 << 44 }, Text("16MB"), Live;
        /// A node that is behind the lead by more than this time serves no reads, nor does one of
        /// which that is not known; off: only bytes count.
        read_lag_max_time: Option<Duration> = Kind::time_or_off(1), Text("0"), Live;
        /// When no node is fit for reads: `lead`, the lead serves them (still read-only); `refuse`,
        /// clients are refused with 57P03, at which libpq tries the next host of its list.
        read_fallback: ReadFallback =
            Kind::Choice { words: ReadFallback::WORDS, later: &[] }, Text("lead"), Live;
        /// Servers per user, over all nodes together.
        pool_size: Option<usize> =
            Kind::Integer { min: 1, max: MANY }, Unset("`default_pool_size`"), Live;
    }
}

impl NodeConfig {
    /// A node that the file does not have, with the defaults for what is not said.
    pub fn at(name: &NodeName, host: &str, port: u16, priority: i32) -> Option<Self> {
        let mut values = Values::default();
        values.put("host", Value::Text(host.to_owned()));
        values.put("port", Value::Integer(i64::from(port)));
        values.put("priority", Value::Integer(i64::from(priority)));
        // It has none of its own: where one is wanted, it is the node's place in the cluster.
        values.put("id", Value::Integer(0));
        for row in Self::rows() {
            if let Some(default) = row.default() {
                values.put_if_absent(row.key, default);
            }
        }
        Self::build(values, name.clone())
    }
}

/// All rows, with the path of their section.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static Row)> {
    fn of<S: Section>() -> impl Iterator<Item = (&'static str, &'static Row)> {
        S::rows().map(|row| (S::PATH, row))
    }
    of::<Listen>()
        .chain(of::<General>())
        .chain(of::<ClusterConfig>())
        .chain(of::<MonitorLogin>())
        .chain(of::<NodeConfig>())
        .chain(of::<DatabaseConfig>())
}
