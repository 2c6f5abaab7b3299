//! The test lab: each fault does on real servers what it says, and ends when it is told to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error};

use crate::harness::address::Door;
use crate::harness::bounce::{Bounce, Direction, Weather};
use crate::harness::client::{
    APP, CONNECT_TIMEOUT, DATABASE, MONITOR, SUPERUSER, connect_at, simple,
};
use crate::harness::crowd::Crowd;
use crate::harness::disk::{DiskSpec, Holds};
use crate::harness::eventually;
use crate::harness::lab::{Lab, Part, Way};
use crate::harness::layout::{Cluster, Layout};
use crate::harness::ledger::{self, Workload, WorkloadSpec, check_copies, rows_written_by};
use crate::harness::link::Rows;
use crate::harness::mesh::{Mesh, MeshSpec};
use crate::harness::node::{Node, NodeSpec, Release};
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::privilege::{Need, may};
use crate::harness::process::{Frozen, Process};
use crate::harness::proxy::{CLUSTER, Proxy};
use crate::harness::raw::{RawConn, query, trace};
use crate::harness::workspace::Workspace;

/// How long silence is listened to.
const A_WHILE: Duration = Duration::from_millis(300);

/// A login at that door is served.
async fn serves(door: Door) -> bool {
    connect_at(door.into(), SUPERUSER, DATABASE).await.is_ok()
}

/// A login at that door is refused by the network, and not by a wait that ended.
async fn refuses(door: Door) -> bool {
    let begun = Instant::now();
    let refused = connect_at(door.into(), SUPERUSER, DATABASE).await.err();
    refused.is_some_and(|error| error.code().is_none()) && begun.elapsed() < CONNECT_TIMEOUT
}

/// A login at that door hears nothing.
async fn says_nothing(door: Door) -> bool {
    is_silent(connect_at(door.into(), SUPERUSER, DATABASE)).await
}

async fn session(door: Door) -> Client {
    let login = connect_at(door.into(), APP, DATABASE).await;
    login.unwrap().0
}

async fn is_silent<T>(answer: impl Future<Output = T>) -> bool {
    tokio::time::timeout(A_WHILE, answer).await.is_err()
}

fn sqlstate<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("an error");
    error
        .code()
        .map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

fn n1() -> NodeSpec {
    NodeSpec::new("n1", Release::Pg15)
}

async fn started(spec: NodeSpec) -> Node {
    Node::create(&Workspace::create(), spec).await
}

/// Nothing that is done on one node comes to the other one any more.
async fn is_stalled(lab: &Lab<'_>, from: &str, to: &str) -> bool {
    is_silent(lab.link(from, to).catch_up()).await
}

#[tokio::test]
async fn a_node_cut_off_from_pgsluice_goes_on_replicating() {
    if !may(Need::Packets) {
        return;
    }
    let pair = Pair::native(PairSpec::default()).await;
    let lab = pair.lab();
    let door = pair.n1.door(0);
    assert!(serves(door).await);
    let old = session(door).await;

    let cut = lab.silence("n1", Part::Pgsluice, Way::Both);
    assert!(says_nothing(door).await);
    let answer = old.simple_query("SELECT 1");
    tokio::pin!(answer);
    assert!(is_silent(&mut answer).await, "an old connection too");
    assert!(serves(pair.n2.door(0)).await);
    lab.catch_up().await;
    cut.heal();
    assert!(answer.await.is_ok(), "TCP tries again");
    assert!(serves(door).await);

    let cut = lab.silence("n1", Part::Instance(0), Way::Both);
    assert!(says_nothing(door).await);
    assert!(serves(pair.n1.door(1)).await);
    cut.heal();

    let cut = lab.refuse("n1", Part::Pgsluice);
    assert!(refuses(door).await);
    assert!(old.simple_query("SELECT 1").await.is_err());
    assert!(old.is_closed());
    lab.catch_up().await;
    cut.heal();
    assert!(serves(door).await);
}

#[tokio::test]
async fn nodes_cut_off_from_each_other_go_on_serving() {
    if !may(Need::Packets) {
        return;
    }
    let pair = Pair::native(PairSpec::default()).await;
    let lab = pair.lab();
    let cut = lab.silence("n1", Part::Nodes, Way::Both);
    assert!(is_stalled(&lab, "n1", "n2").await);
    assert!(is_stalled(&lab, "n2", "n1").await);
    for node in pair.nodes() {
        assert!(serves(node.door(0)).await);
    }
    cut.heal();
    lab.catch_up().await;

    let cut = lab.part("n1", "n2");
    assert!(is_stalled(&lab, "n1", "n2").await);
    cut.heal();
    lab.catch_up().await;

    let cut = lab.silence("n1", Part::All, Way::Both);
    assert!(is_stalled(&lab, "n1", "n2").await);
    assert!(says_nothing(pair.n1.door(0)).await);
    assert!(serves(pair.n2.door(0)).await);
    assert!(pair.n1.holds("SELECT true").await, "the test gets in");
    cut.heal();
    lab.catch_up().await;
}

/// A statement that runs although its answer never comes: the worst of partitions.
#[tokio::test]
async fn one_way_is_cut_and_the_other_is_not() {
    if !may(Need::Packets) {
        return;
    }
    let pair = Pair::native(PairSpec::default()).await;
    let lab = pair.lab();
    for (way, runs) in [(Way::From, true), (Way::Towards, false)] {
        let client = session(pair.n1.door(0)).await;
        let cut = lab.silence("n1", Part::Pgsluice, way);
        let insert = format!("INSERT INTO harness_conflict (node) VALUES ('{way:?}')");
        let answer = client.simple_query(&insert);
        assert!(is_silent(answer).await);
        let there = format!("SELECT count(*) = 1 FROM harness_conflict WHERE node = '{way:?}'");
        if runs {
            eventually("it ran", || pair.n1.holds(&there)).await;
        } else {
            assert!(!pair.n1.holds(&there).await);
        }
        cut.heal();
    }
}

#[tokio::test]
async fn what_died_with_the_test_leaves_no_cut_and_no_mount() {
    if !may(Need::Packets) || !may(Need::Mounts) {
        return;
    }
    let disk = DiskSpec {
        holds: Holds::Tables,
        megabytes: 8,
    };
    let node = started(NodeSpec {
        disk: Some(disk),
        ..n1()
    })
    .await;
    let lab = Lab {
        kind: Kind::Native,
        nodes: vec![&node],
        links: Vec::new(),
    };
    let cut = lab.silence("n1", Part::Pgsluice, Way::Both);
    let root = node.workspace().root().to_owned();
    assert!(mounted(&root));
    let table = cut.table().to_owned();
    assert!(tables().contains(&table));
    // The watchdog sees the end of its input, as it does when the test's process ends.
    node.workspace().abandon();
    eventually("the watchdog cleaned up", async || {
        !mounted(&root) && !tables().contains(&table) && !root.exists()
    })
    .await;
}

fn mounted(root: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    mounts.contains(&root.display().to_string())
}

fn tables() -> String {
    crate::harness::workspace::run(std::process::Command::new("nft").args(["list", "tables"]))
}

#[tokio::test]
async fn tables_that_cannot_grow_are_an_error_and_reads_go_on() {
    if !may(Need::Mounts) {
        return;
    }
    let disk = DiskSpec {
        holds: Holds::Tables,
        megabytes: 8,
    };
    let node = started(NodeSpec {
        disk: Some(disk),
        ..n1()
    })
    .await;
    let table = "CREATE TABLE t AS SELECT generate_series(1, 1000) i";
    node.query(table).await;
    node.disk().fill();
    let client = node.connect(DATABASE).await;
    let more = "INSERT INTO t SELECT generate_series(1, 100000)";
    assert_eq!(sqlstate(simple(&client, more).await), "53100");
    assert!(node.holds("SELECT count(*) = 1000 FROM t").await);
    // What needs no room goes on, commits as well.
    simple(&client, "DELETE FROM t WHERE i = 1").await.unwrap();
    node.disk().free();
    simple(&client, more).await.unwrap();
}

#[tokio::test]
async fn a_server_without_room_for_wal_panics() {
    if !may(Need::Mounts) {
        return;
    }
    for holds in [Holds::Wal, Holds::Everything] {
        let disk = DiskSpec {
            holds,
            megabytes: 64,
        };
        let mut node = started(NodeSpec {
            disk: Some(disk),
            settings: "restart_after_crash = off\n".to_owned(),
            ..n1()
        })
        .await;
        let client = node.connect(DATABASE).await;
        node.disk().fill();
        // Messages fill WAL and nothing else.
        let more = "SELECT pg_logical_emit_message(false, '', repeat('x', 1000000)) \
                    FROM generate_series(1, 40)";
        assert!(simple(&client, more).await.is_err());
        node.ended().await;
        let log = std::fs::read_to_string(node.log()).unwrap();
        assert!(
            log.contains("PANIC") && log.contains("No space left"),
            "{log}"
        );
        node.disk().free();
        node.start().await;
        assert!(node.holds("SELECT true").await, "{holds:?}");
    }
}

#[tokio::test]
async fn who_comes_when_all_connections_are_taken_is_refused() {
    let node = started(NodeSpec {
        settings: "max_connections = 12\nmax_wal_senders = 4\n".to_owned(),
        ..n1()
    })
    .await;
    let crowd = Crowd::fill(&node).await;
    assert!(crowd.len() > 4, "{}", crowd.len());
    for login in [APP, MONITOR] {
        assert_eq!(sqlstate(node.connect_as(login, DATABASE).await), "53300");
    }
    assert!(node.holds("SELECT true").await, "a superuser gets in");
    crowd.leave();
    eventually("there is room", async || {
        node.connect_as(APP, DATABASE).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn one_process_is_frozen_and_the_others_go_on() {
    let node = started(n1()).await;
    let (mut victim, _) = RawConn::login(node.port(), APP, DATABASE).await;
    let (mut other, _) = RawConn::login(node.port(), APP, DATABASE).await;
    let pid = victim.value("SELECT pg_backend_pid()").await.unwrap();
    let frozen = Frozen::freeze(vec![pid.parse().unwrap()]);
    victim.send(&query("SELECT 1")).await;
    assert!(victim.is_silent(A_WHILE).await);
    assert_eq!(other.query("SELECT 1").await, "T D C ZI");
    frozen.thaw();
    assert_eq!(trace(&victim.read_until_ready(1).await), "T D C ZI");

    let frozen = node.freeze_process(Process::Checkpointer).await;
    let client = node.connect(DATABASE).await;
    assert!(is_silent(simple(&client, "CHECKPOINT")).await);
    assert_eq!(other.query("CREATE TEMP TABLE t (i int)").await, "C ZI");
    frozen.thaw();

    node.freeze_postmaster();
    assert!(says_nothing(node.door(0)).await);
    assert_eq!(other.query("SELECT 1").await, "T D C ZI");
    node.thaw();

    node.freeze_children();
    other.send(&query("SELECT 1")).await;
    assert!(other.is_silent(A_WHILE).await);
    assert!(serves(node.door(0)).await, "a new one");
    node.thaw();
    assert_eq!(trace(&other.read_until_ready(1).await), "T D C ZI");
}

#[tokio::test]
async fn a_killed_postmaster_takes_idle_sessions_along() {
    let mut node = started(n1()).await;
    let (mut idle, _) = RawConn::login(node.port(), APP, DATABASE).await;
    let (mut frozen, _) = RawConn::login(node.port(), APP, DATABASE).await;
    let pid = frozen.value("SELECT pg_backend_pid()").await.unwrap();
    let pid = Frozen::freeze(vec![pid.parse().unwrap()]);
    node.kill_postmaster();
    assert!(refuses(node.door(0)).await);
    assert_eq!(trace(&idle.read_to_end().await), "E:57P01");
    assert!(frozen.is_silent(A_WHILE).await, "one that cannot notice");
    node.start().await;
    assert!(
        node.holds("SELECT true").await,
        "it started past the orphan"
    );
    drop(pid);
}

#[tokio::test]
async fn native_replication_is_stopped_at_each_of_its_stations() {
    stops_at_each_station(Kind::Native).await;
}

#[tokio::test]
async fn pglogical_replication_is_stopped_at_each_of_its_stations() {
    stops_at_each_station(Kind::Pglogical).await;
}

#[tokio::test]
async fn physical_replication_is_stopped_at_each_of_its_stations() {
    stops_at_each_station(Kind::Physical).await;
}

async fn stops_at_each_station(kind: Kind) {
    let pair = Pair::start(kind, PairSpec::default()).await;
    let lab = pair.lab();
    let link = lab.link("n1", "n2");

    let frozen = lab.freeze_apply("n1", "n2").await;
    assert!(is_stalled(&lab, "n1", "n2").await, "apply");
    frozen.thaw();
    lab.catch_up().await;

    let frozen = lab.freeze_sender("n1", "n2").await;
    assert!(is_stalled(&lab, "n1", "n2").await, "sender");
    frozen.thaw();
    lab.catch_up().await;

    let stall = lab.stall_apply("n2").await;
    assert!(is_stalled(&lab, "n1", "n2").await, "stall");
    stall.end().await;
    lab.catch_up().await;

    link.disable().await;
    assert!(is_stalled(&lab, "n1", "n2").await, "disabled");
    link.enable().await;
    lab.catch_up().await;
}

#[tokio::test]
async fn an_insert_conflict_stops_native_apply_until_it_is_cured() {
    let pair = Pair::native(PairSpec::default()).await;
    let lab = pair.lab();
    let conflict = lab.conflict("n1", "n2").await;
    let failed = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats";
    eventually("apply fails", || pair.n2.holds(failed)).await;
    assert!(is_stalled(&lab, "n1", "n2").await);
    lab.link("n2", "n1").catch_up().await;
    conflict.cure().await;
    lab.catch_up().await;
    for node in pair.nodes() {
        let rows = node
            .scalar("SELECT string_agg(node, ',') FROM harness_conflict")
            .await;
        assert_eq!(rows.as_deref(), Some("source"));
    }
}

#[tokio::test]
async fn a_clock_is_wrong_and_changes_while_the_server_runs() {
    let spec = |name| NodeSpec {
        clock_error_ms: Some(-3000),
        ..NodeSpec::new(
            name,
            if name == "n1" {
                Release::Pg15
            } else {
                Release::Pg17
            },
        )
    };
    let workspace = Workspace::create();
    for name in ["n1", "n2"] {
        let mut node = Node::create(&workspace, spec(name)).await;
        assert_off_by(&node, -3.0).await;
        let client = node.connect(DATABASE).await;
        node.set_clock(2500);
        assert_off_by(&node, 2.5).await;
        simple(
            &client,
            "CREATE TABLE t (i int); CHECKPOINT; SELECT pg_sleep(0.01)",
        )
        .await
        .unwrap();
        node.kill9();
        node.start().await;
        assert_off_by(&node, 2.5).await;
    }
}

/// Within the half second that a busy machine may take for the question.
async fn assert_off_by(node: &Node, seconds: f64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let clock = "SELECT extract(epoch FROM clock_timestamp())";
    let shown: f64 = node.scalar(clock).await.unwrap().parse().unwrap();
    let off = shown - now.unwrap().as_secs_f64();
    assert!((off - seconds).abs() < 0.5, "{off}");
}

#[tokio::test]
async fn the_relay_holds_ends_and_half_closes() {
    let node = started(n1()).await;
    let bounce = Bounce::to(node.port()).await;
    let connect = || RawConn::login(bounce.port(), SUPERUSER, DATABASE);

    let (mut conn, _) = connect().await;
    bounce.set_way(Direction::ToClient, Weather::Held);
    conn.send(&query("CREATE TABLE t (i int)")).await;
    let there = "SELECT to_regclass('t') IS NOT NULL";
    eventually("the statement ran", || node.holds(there)).await;
    assert!(conn.is_silent(A_WHILE).await, "its answer is held");
    bounce.set(Weather::Clear);
    assert_eq!(trace(&conn.read_until_ready(1).await), "C ZI");

    bounce.set_way(Direction::ToServer, Weather::HalfClosed);
    assert_eq!(conn.read().await, None, "the server said goodbye");
    bounce.set(Weather::Clear);

    let (mut conn, hello) = connect().await;
    let said: usize = hello.iter().map(|message| message.body.len() + 5).sum();
    bounce.set_way(Direction::ToClient, Weather::EndsAfter(said + 3));
    conn.send(&query("SELECT 1")).await;
    assert_eq!(conn.read_bytes_to_end().await.len(), 3);
}

#[tokio::test]
async fn a_native_mesh_grows_and_a_node_comes_back_empty() {
    grows_and_loses_a_node(Kind::Native).await;
}

#[tokio::test]
async fn a_pglogical_mesh_grows_and_a_node_comes_back_empty() {
    grows_and_loses_a_node(Kind::Pglogical).await;
}

async fn grows_and_loses_a_node(kind: Kind) {
    let spec = MeshSpec::masters(kind, &["n1", "n2"]).standby("n5", &["n1", "n2"]);
    let mut mesh = Mesh::start(MeshSpec {
        schema: "CREATE TABLE t (node text PRIMARY KEY);".to_owned(),
        ..spec
    })
    .await;
    let insert = async |mesh: &Mesh, name: &str| {
        let sql = format!("INSERT INTO t VALUES ('{name}')");
        mesh.node(name).query(&sql).await;
    };
    insert(&mesh, "n1").await;
    insert(&mesh, "n2").await;
    mesh.catch_up().await;
    assert_eq!(rows(&mesh, "n5").await, "n1 n2");

    mesh.add(kind.node("n3")).await;
    for from in ["n1", "n2"] {
        let rows = if from == "n1" { Rows::Copy } else { Rows::Keep };
        mesh.link(from, "n3", rows).await;
        mesh.link("n3", from, Rows::Keep).await;
    }
    mesh.ready().await;
    insert(&mesh, "n3").await;
    mesh.catch_up().await;
    for name in ["n1", "n2", "n3"] {
        assert_eq!(rows(&mesh, name).await, "n1 n2 n3", "{name}");
    }
    assert_eq!(rows(&mesh, "n5").await, "n1 n2", "nothing flows there");
    mesh.remove("n3").await;

    let id = "SELECT system_identifier FROM pg_control_system()";
    let (before, port) = (mesh.node("n1").scalar(id).await, mesh.node("n1").port());
    mesh.reinit("n1").await;
    assert_ne!(mesh.node("n1").scalar(id).await, before);
    assert_eq!(mesh.node("n1").port(), port);
    assert_eq!(rows(&mesh, "n1").await, "");
    mesh.link("n2", "n1", Rows::Copy).await;
    mesh.link("n1", "n2", Rows::Keep).await;
    mesh.ready().await;
    mesh.catch_up().await;
    assert_eq!(rows(&mesh, "n1").await, "n1 n2 n3");
}

/// The table `t` of a node.
async fn rows(mesh: &Mesh, name: &str) -> String {
    let all = "SELECT string_agg(node, ' ' ORDER BY node) FROM t";
    mesh.node(name).scalar(all).await.unwrap_or_default()
}

#[tokio::test]
async fn an_old_primary_comes_back_as_a_standby() {
    let mut mesh = Mesh::start(MeshSpec {
        schema: "CREATE TABLE t (node text PRIMARY KEY);".to_owned(),
        ..MeshSpec::masters(Kind::Physical, &["n1", "n2", "n3"])
    })
    .await;
    mesh.node_mut("n1").kill9();
    mesh.node("n2").query("SELECT pg_promote()").await;
    mesh.promoted("n2");
    mesh.follow("n3", "n2").await;
    mesh.node("n2").query("INSERT INTO t VALUES ('n2')").await;
    mesh.rebuild("n1", "n2").await;
    mesh.catch_up().await;
    for name in ["n1", "n3"] {
        assert_eq!(rows(&mesh, name).await, "n2", "{name}");
        assert!(mesh.node(name).holds("SELECT pg_is_in_recovery()").await);
    }
}

fn pgsluice() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pgsluice"))
}

#[tokio::test]
async fn the_ledger_says_how_long_a_failover_took_and_what_it_lost() {
    let mut mesh = Mesh::start(MeshSpec {
        schema: ledger::schema(),
        ..MeshSpec::masters(Kind::Native, &["n1", "n2"])
    })
    .await;
    let layout = Layout::default()
        .cluster(Cluster::new(CLUSTER, &mesh.lab(), 0))
        .database(DATABASE, CLUSTER, "");
    let proxy = Proxy::serve(&mesh.workspace, "proxy", pgsluice(), &layout).await;
    proxy.serving().await;
    proxy.node_is("n2", "observed", "up").await;
    let workload = Workload::start(WorkloadSpec {
        port: proxy.port(),
        login: APP,
        dbname: DATABASE.to_owned(),
        writers: 4,
        think: Duration::from_millis(2),
    })
    .await;
    mesh.catch_up().await;
    mesh.lab().link("n1", "n2").disable().await;
    workload.all_served().await;

    workload.strike("n1 killed", || mesh.node_mut("n1").kill9());
    assert_eq!(workload.current().outage("n1"), None, "nobody is served");
    let command = format!("FAILOVER {CLUSTER} TO n2 ACCEPT LOSS");
    eventually("the failover is accepted", async || {
        proxy.admin(&command).await.is_ok()
    })
    .await;
    let outage = workload.outage("n1").await;
    assert!(Duration::ZERO < outage.first && outage.first <= outage.last);
    workload.all_served().await;
    let work = workload.stop().await;
    let verdict = check_copies(&[mesh.node("n2")], &work, &BTreeSet::new()).await;
    // What n1 wrote since the link was off; each of four writers wrote.
    assert!(verdict.lost_everywhere >= 4, "{verdict:?}");
    assert!(verdict.is_clean_but_for_losses(1), "{verdict:?}");
    assert!(!verdict.is_clean(1));

    // The lost ones are on n1, and come when it does.
    mesh.node_mut("n1").start().await;
    mesh.lab().link("n1", "n2").enable().await;
    mesh.catch_up().await;
    let late: BTreeSet<i64> = rows_written_by(mesh.node("n2"), "n1").await;
    let copies = [mesh.node("n1"), mesh.node("n2")];
    let verdict = check_copies(&copies, &work, &late).await;
    assert_eq!(
        (verdict.lost, verdict.lost_everywhere),
        (0, 0),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn one_instance_serves_two_shards_and_sees_what_the_lab_does() {
    if !may(Need::Packets) {
        return;
    }
    let workspace = Workspace::create();
    let shard = |names| Mesh::start_in(&workspace, MeshSpec::masters(Kind::Native, names));
    let (first, second) = tokio::join!(shard(&["n1", "n2"]), shard(&["n3", "n4"]));
    let quick = "monitor_interval = \"100ms\"\nmonitor_timeout = \"200ms\"\n";
    let layout = Layout::default()
        .cluster(Cluster::new("shard1", &first.lab(), 0).settings(quick))
        .cluster(
            Cluster::new("shard2", &second.lab(), 0)
                .settings(quick)
                .keys("n3", "priority = 1"),
        )
        .database("s1", "shard1", "")
        .database("s2", "shard2", "");
    let proxy = Proxy::serve(&workspace, "proxy", pgsluice(), &layout).await;
    for (database, cluster, lead) in [("s1", "shard1", "n1"), ("s2", "shard2", "n4")] {
        eventually("served", async || {
            proxy.connect_to(database, APP).await.is_ok()
        })
        .await;
        let client = proxy.connect_to(database, APP).await.unwrap();
        let who = simple(&client, "SHOW pgsluice_test.node").await.unwrap();
        assert_eq!(who[0][0].as_deref(), Some(lead));
        assert_eq!(proxy.lead_of(cluster).await.as_deref(), Some(lead));
    }

    let cut = first.lab().silence("n2", Part::Pgsluice, Way::Both);
    proxy.node_is("n2", "observed", "down").await;
    assert_eq!(proxy.node("n3").await["observed"], "up");
    first.catch_up().await;
    cut.heal();
    proxy.node_is("n2", "observed", "up").await;
    assert!(!proxy.events().await.is_empty());

    let client = proxy.connect_to("s1", APP).await.unwrap();
    proxy.freeze();
    assert!(is_silent(simple(&client, "SELECT 1")).await);
    proxy.thaw();
    simple(&client, "SELECT 1").await.unwrap();
}
