//! The test lab: each fault does on real servers what it says, and ends when it is told to.

use std::time::Duration;

use tokio_postgres::{Client, Error};

use crate::harness::address::Door;
use crate::harness::bounce::{Bounce, Direction, Weather};
use crate::harness::client::{APP, DATABASE, MONITOR, SUPERUSER, connect_at, simple};
use crate::harness::crowd::Crowd;
use crate::harness::disk::{DiskSpec, Holds};
use crate::harness::eventually;
use crate::harness::lab::{Lab, Part, Way};
use crate::harness::link::Rows;
use crate::harness::mesh::{Mesh, MeshSpec};
use crate::harness::node::{Node, NodeSpec, Release};
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::privilege::{Need, may};
use crate::harness::process::{Frozen, Process};
use crate::harness::raw::{RawConn, query, trace};
use crate::harness::workspace::Workspace;

/// How long silence is listened to.
const A_WHILE: Duration = Duration::from_millis(300);

/// How a login ended.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Served,
    Refused,
    Silence,
}

async fn login(door: Door) -> Answer {
    let login = connect_at(door.into(), SUPERUSER, DATABASE);
    match tokio::time::timeout(A_WHILE, login).await {
        Ok(Ok(_)) => Answer::Served,
        Ok(Err(error)) => {
            assert!(error.as_db_error().is_none(), "not the server: {error:?}");
            Answer::Refused
        }
        Err(_) => Answer::Silence,
    }
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
    assert_eq!(login(door).await, Answer::Served);
    let old = session(door).await;

    let cut = lab.silence("n1", Part::Pgsluice, Way::Both);
    assert_eq!(login(door).await, Answer::Silence);
    let answer = old.simple_query("SELECT 1");
    tokio::pin!(answer);
    assert!(is_silent(&mut answer).await, "an old connection too");
    assert_eq!(login(pair.n2.door(0)).await, Answer::Served);
    lab.catch_up().await;
    cut.heal();
    assert!(answer.await.is_ok(), "TCP tries again");
    assert_eq!(login(door).await, Answer::Served);

    let cut = lab.silence("n1", Part::Instance(0), Way::Both);
    assert_eq!(login(door).await, Answer::Silence);
    assert_eq!(login(pair.n1.door(1)).await, Answer::Served);
    cut.heal();

    let cut = lab.refuse("n1", Part::Pgsluice);
    assert_eq!(login(door).await, Answer::Refused);
    assert!(old.simple_query("SELECT 1").await.is_err());
    assert!(old.is_closed());
    lab.catch_up().await;
    cut.heal();
    assert_eq!(login(door).await, Answer::Served);
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
        assert_eq!(login(node.door(0)).await, Answer::Served);
    }
    cut.heal();
    lab.catch_up().await;

    let cut = lab.silence("n1", Part::All, Way::Both);
    assert!(is_stalled(&lab, "n1", "n2").await);
    assert_eq!(login(pair.n1.door(0)).await, Answer::Silence);
    assert_eq!(login(pair.n2.door(0)).await, Answer::Served);
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
    assert_eq!(login(node.door(0)).await, Answer::Silence);
    assert_eq!(other.query("SELECT 1").await, "T D C ZI");
    node.thaw();

    node.freeze_children();
    other.send(&query("SELECT 1")).await;
    assert!(other.is_silent(A_WHILE).await);
    assert_eq!(login(node.door(0)).await, Answer::Served, "a new one");
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
    assert_eq!(login(node.door(0)).await, Answer::Refused);
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
async fn replication_is_stopped_at_each_of_its_stations() {
    for kind in [Kind::Native, Kind::Pglogical, Kind::Physical] {
        let pair = Pair::start(kind, PairSpec::default()).await;
        let lab = pair.lab();
        let link = lab.link("n1", "n2");

        let frozen = lab.freeze_apply("n1", "n2").await;
        assert!(is_stalled(&lab, "n1", "n2").await, "{kind:?}: apply");
        frozen.thaw();
        lab.catch_up().await;

        let frozen = lab.freeze_sender("n1", "n2").await;
        assert!(is_stalled(&lab, "n1", "n2").await, "{kind:?}: sender");
        frozen.thaw();
        lab.catch_up().await;

        let stall = lab.stall_apply("n2").await;
        assert!(is_stalled(&lab, "n1", "n2").await, "{kind:?}: stall");
        stall.end().await;
        lab.catch_up().await;

        link.disable().await;
        assert!(is_stalled(&lab, "n1", "n2").await, "{kind:?}: disabled");
        link.enable().await;
        lab.catch_up().await;
    }
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
async fn a_logical_standby_joins_a_pair_and_a_node_comes_back_empty() {
    let spec = MeshSpec::masters(Kind::Native, &["n1", "n2"]).standby("n5", &["n1", "n2"]);
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

    mesh.add(Kind::Native.node("n3")).await;
    for from in ["n1", "n2"] {
        let rows = if from == "n1" { Rows::Copy } else { Rows::Keep };
        mesh.link(from, "n3", rows).await;
        mesh.link("n3", from, Rows::Keep).await;
    }
    mesh.lab().link("n1", "n3").ready().await;
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
    mesh.lab().link("n2", "n1").ready().await;
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
