//! The console's commands about clusters and nodes, with psql, in front of a pair.

use crate::harness::client::{APP, DATABASE, connect, connect_named, simple};
use crate::harness::eventually;
use crate::harness::proxy::{ADMIN, CLUSTER, NamedRow, Proxy};
use crate::harness::raw::{RawConn, trace};
use crate::tool::{Said, console, start_console, start_psql};
use crate::twins::{pair, twins};

async fn say(proxy: &Proxy, sql: &str) -> Said {
    console(proxy, ADMIN, sql).await
}

async fn node(proxy: &Proxy, name: &str) -> NamedRow {
    let rows = proxy.admin("SHOW NODES").await.unwrap();
    let mut found = rows.into_iter().filter(|row| row["node"] == name);
    found.next().expect("the node")
}

async fn phase(proxy: &Proxy, wanted: &str) {
    eventually(&format!("phase {wanted}"), async || {
        let rows = proxy.admin("SHOW CLUSTERS").await.unwrap();
        rows[0]["phase"] == wanted
    })
    .await;
}

#[tokio::test]
async fn nodes_and_their_replication_are_shown_as_the_servers_see_them() {
    let proxy = twins("shown").await;
    let nodes = say(&proxy, "SHOW NODES").await.rows();
    let roles: Vec<_> = nodes
        .iter()
        .map(|n| (n["node"].as_str(), n["role"].as_str(), n["wanted"].as_str()))
        .collect();
    assert_eq!(roles, [("n1", "lead", "ready"), ("n2", "shadow", "ready")]);
    assert_ne!(nodes[0]["system_identifier"], nodes[1]["system_identifier"]);
    eventually("replication is known", async || {
        proxy.admin("SHOW REPLICATION").await.unwrap().len() == 2
    })
    .await;
    let links = say(&proxy, "SHOW REPLICATION").await.rows();
    for (source, target) in [("n1", "n2"), ("n2", "n1")] {
        let link = links
            .iter()
            .find(|l| l["source"] == source && l["target"] == target)
            .unwrap();
        assert_eq!(
            (link["kind"].as_str(), link["state"].as_str()),
            ("pglogical", "streaming")
        );
        let there = format!(
            "SELECT active FROM pg_replication_slots WHERE slot_name = '{}'",
            link["slot"]
        );
        assert!(pair().await.node(source).holds(&there).await, "{link:?}");
        assert!(link["replay_lsn"].contains('/'), "{link:?}");
    }
}

#[tokio::test]
async fn what_is_wanted_of_a_node() {
    let mut proxy = twins("wanted").await;
    for command in ["DRAIN", "MAINT", "FENCE"] {
        let why = say(&proxy, &format!("{command} n1")).await;
        why.refused(&[
            "55000",
            "node \"n1\" is the lead",
            "SWITCHOVER main TO another node first",
        ]);
    }
    say(&proxy, "DRAIN n3")
        .await
        .refused(&["42704", "node \"n3\" does not exist"]);
    for (command, wanted) in [("DRAIN", "drain"), ("MAINT", "maint"), ("FENCE", "fenced")] {
        assert_eq!(
            say(&proxy, &format!("{command} n2")).await.ok().trim(),
            command
        );
        assert_eq!(node(&proxy, "n2").await["wanted"], wanted);
        let why = say(&proxy, "SWITCHOVER main TO n2").await;
        why.refused(&[
            "55000",
            &format!("node \"n2\" is set to {wanted}"),
            "READY n2; first",
        ]);
    }
    // An operator's word outlives the instance.
    proxy.restart().await;
    proxy.serving().await;
    assert_eq!(node(&proxy, "n2").await["wanted"], "fenced");
    say(&proxy, "READY n2").await.ok();
    assert_eq!(node(&proxy, "n2").await["wanted"], "ready");
    eventually("n2 is up", async || {
        node(&proxy, "n2").await["observed"] == "up"
    })
    .await;

    say(&proxy, "SWITCHOVER main TO n1")
        .await
        .refused(&["55000", "node \"n1\" is the lead already"]);
    say(&proxy, "SWITCHOVER main TO n9")
        .await
        .refused(&["42704", "not a member"]);
    say(&proxy, "SWITCHOVER east TO n2")
        .await
        .refused(&["42704", "cluster \"east\" does not exist"]);
    say(&proxy, "ABORT SWITCHOVER main")
        .await
        .refused(&["55000", "no switchover is running"]);
    say(&proxy, "SWITCHOVER main TO n2 DRAIN TIMEOUT 'soon'")
        .await
        .refused(&["22023", "invalid DRAIN TIMEOUT"]);
    say(&proxy, "FAILOVER main TO n2")
        .await
        .refused(&["55000", "SWITCHOVER"]);
    let clusters = proxy.admin("SHOW CLUSTERS").await.unwrap();
    assert_eq!(
        (clusters[0]["lead"].as_str(), clusters[0]["epoch"].as_str()),
        ("n1", "1")
    );
}

#[tokio::test]
async fn a_switchover_is_looked_at_and_done() {
    let proxy = twins("moved").await;
    let (blocker, end) = connect_named(proxy.port(), APP, DATABASE, "nightly")
        .await
        .unwrap();
    let (_idle, idle_end) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    simple(&blocker, "BEGIN; SELECT 1").await.unwrap();

    let found = say(&proxy, "SWITCHOVER main TO n2 DRY RUN").await.rows();
    assert!(
        found.iter().any(|row| row["level"] == "blocker"
            && row["finding"].contains("\"nightly\" idle in transaction")),
        "{found:?}"
    );
    assert!(
        found.last().unwrap()["finding"].contains("can begin; nothing was changed"),
        "{found:?}"
    );
    assert_eq!(proxy.admin("SHOW SWITCHOVER").await.unwrap(), []);

    let moved = say(&proxy, "SWITCHOVER main TO n2 DRAIN TIMEOUT '100ms' CATCHUP TIMEOUT '30s' ON DRAIN TIMEOUT terminate").await;
    let rows = moved.rows();
    let phases: Vec<&str> = rows.iter().map(|row| row["phase"].as_str()).collect();
    for wanted in [
        "preflight",
        "drain",
        "quiesce",
        "catch_up",
        "commit",
        "release",
        "total",
    ] {
        assert!(phases.contains(&wanted), "{wanted}: {phases:?}");
    }
    assert!(
        rows.iter().all(|row| row["ms"].parse::<f64>().is_ok()),
        "{rows:?}"
    );
    let total = &rows.last().unwrap()["detail"];
    assert!(total.contains("lead n1 -> n2, epoch 2"), "{total}");
    for (driver, detail) in [
        (end, "did not reach a safe point"),
        (idle_end, "The lead of the cluster has moved"),
    ] {
        let error = driver.await.unwrap().unwrap_err();
        let db = error.as_db_error().unwrap();
        assert_eq!(db.code().code(), "57P01");
        assert!(db.detail().unwrap().contains(detail), "{db:?}");
    }
    let cluster = &proxy.admin("SHOW CLUSTERS").await.unwrap()[0];
    let columns =
        ["cluster", "lead", "previous", "epoch", "operation"].map(|c| cluster[c].as_str());
    assert_eq!(columns, [CLUSTER, "n2", "n1", "2", ""]);
    let shown = say(&proxy, "SHOW SWITCHOVER").await.rows();
    assert!(
        shown.iter().all(|row| row["outcome"] == "completed"),
        "{shown:?}"
    );
    let events = say(&proxy, "SHOW EVENTS").await.rows();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str()).collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == "operation_started")
            .count(),
        1,
        "{kinds:?}"
    );
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0]["id"].parse::<u64>().unwrap() < pair[1]["id"].parse().unwrap())
    );
    let database = &proxy.admin("SHOW DATABASES").await.unwrap()[0];
    assert_eq!(database["port"], pair().await.n2.port().to_string());
}

/// Every way out of a drain but through.
#[tokio::test]
async fn a_switchover_is_given_up() {
    let proxy = twins("given-up").await;
    let (blocker, _) = connect_named(proxy.port(), APP, DATABASE, "nightly")
        .await
        .unwrap();
    let (idle, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    simple(&blocker, "BEGIN; SELECT 1").await.unwrap();

    let late = say(
        &proxy,
        "SWITCHOVER main TO n2 DRAIN TIMEOUT '100ms' ON DRAIN TIMEOUT abort",
    )
    .await;
    late.refused(&[
        "55006",
        "aborted in phase drain",
        "\"nightly\" idle in transaction",
        "KILL_CLIENT",
        "still \"n1\"",
    ]);

    let moving = start_console(&proxy, ADMIN, "SWITCHOVER main TO n2 DRAIN TIMEOUT '60s'");
    phase(&proxy, "drain").await;
    let second = say(&proxy, "SWITCHOVER main TO n2").await;
    second.refused(&["55006", "cluster \"main\" is busy", "ABORT SWITCHOVER main"]);
    say(&proxy, "DRAIN n2").await.refused(&["55006", "busy"]);
    // Neither axis lifts the other's hold.
    say(&proxy, "RESUME")
        .await
        .refused(&["55000", "pooler is not paused"]);
    let shown = proxy.admin("SHOW SWITCHOVER").await.unwrap();
    assert_eq!(shown[0]["outcome"], "running", "{shown:?}");
    assert_eq!(
        say(&proxy, "ABORT SWITCHOVER main").await.ok().trim(),
        "ABORT SWITCHOVER"
    );
    moving
        .said()
        .await
        .refused(&["aborted in phase drain", "still \"n1\""]);

    let interrupted = start_console(&proxy, ADMIN, "SWITCHOVER main TO n2 DRAIN TIMEOUT '60s'");
    phase(&proxy, "drain").await;
    interrupted.interrupt();
    interrupted
        .said()
        .await
        .refused(&["aborted in phase drain", "still \"n1\""]);
    let shown = proxy.admin("SHOW SWITCHOVER").await.unwrap();
    assert_eq!(shown[0]["outcome"], "aborted", "{shown:?}");
    simple(&idle, "SELECT 1")
        .await
        .expect("an abort leaves no trace");
    simple(&blocker, "SELECT 1")
        .await
        .expect("an abort leaves no trace");
}

/// PAUSE and a switchover's hold are two axes: neither lifts the other.
#[tokio::test]
async fn a_pause_and_a_switchover_do_not_lift_each_other() {
    let proxy = twins("axes").await;
    say(&proxy, "PAUSE").await.ok();
    let held = start_psql(&proxy, APP, "SHOW port");
    eventually("a client waits", async || {
        let rows = proxy.admin("SHOW POOLS").await.unwrap();
        rows.iter().any(|row| row["cl_waiting"] == "1")
    })
    .await;
    let moved = say(&proxy, "SWITCHOVER main TO n2").await.rows();
    assert!(
        moved.last().unwrap()["detail"].contains("1 client held"),
        "{moved:?}"
    );
    assert!(held.is_running(), "the pause is the operator's");
    say(&proxy, "RESUME").await.ok();
    let port = pair().await.n2.port().to_string();
    assert!(held.said().await.ok().contains(&port));

    let (blocker, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    simple(&blocker, "BEGIN").await.unwrap();
    let moving = start_console(&proxy, ADMIN, "SWITCHOVER main TO n1 DRAIN TIMEOUT '60s'");
    phase(&proxy, "drain").await;
    let paused = start_console(&proxy, ADMIN, "PAUSE");
    eventually("paused", async || {
        let rows = proxy.admin("SHOW STATE").await.unwrap();
        rows.iter()
            .any(|row| row["key"] == "paused" && row["value"] == "yes")
    })
    .await;
    say(&proxy, "RESUME").await.ok();
    paused.said().await.refused(&["the pause was lifted"]);
    let held = start_psql(&proxy, APP, "SHOW port");
    eventually("a client waits", async || {
        let rows = proxy.admin("SHOW POOLS").await.unwrap();
        rows.iter().any(|row| row["cl_waiting"] == "1")
    })
    .await;
    assert!(
        held.is_running() && moving.is_running(),
        "the hold is the switchover's"
    );
    simple(&blocker, "COMMIT").await.unwrap();
    moving.said().await.ok();
    let port = pair().await.n1.port().to_string();
    assert!(held.said().await.ok().contains(&port));
}

#[tokio::test]
async fn on_drain_timeout_cancel_ends_the_statement_and_not_the_session() {
    let proxy = twins("cancelled").await;
    let (busy, end) = connect_named(proxy.port(), APP, DATABASE, "report")
        .await
        .unwrap();
    let query = tokio::spawn(async move { (simple(&busy, "SELECT pg_sleep(300)").await, busy) });
    let runs = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'report' AND wait_event = 'PgSleep'";
    eventually("the report runs", || async {
        pair().await.n1.holds(runs).await
    })
    .await;
    let moved = say(
        &proxy,
        "SWITCHOVER main TO n2 DRAIN TIMEOUT '100ms' ON DRAIN TIMEOUT cancel",
    )
    .await;
    assert!(moved.rows().last().unwrap()["detail"].contains("lead n1 -> n2"));
    let (result, _client) = query.await.unwrap();
    assert_eq!(
        result.unwrap_err().code().unwrap().code(),
        "57014",
        "the statement was cancelled"
    );
    let error = end.await.unwrap().unwrap_err();
    assert_eq!(
        error.code().unwrap().code(),
        "57P01",
        "then the session was moved"
    );
    proxy.serving().await;
}

/// A console that is lost in the middle of a switchover does not decide where the lead is.
#[tokio::test]
async fn a_switchover_goes_on_without_its_console() {
    let proxy = twins("lost").await;
    let (blocker, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    simple(&blocker, "BEGIN").await.unwrap();
    let lost = start_console(&proxy, ADMIN, "SWITCHOVER main TO n2 DRAIN TIMEOUT '60s'");
    phase(&proxy, "drain").await;
    drop(lost);
    eventually("its loss is logged", async || {
        proxy.log().contains("it goes on")
    })
    .await;
    simple(&blocker, "COMMIT").await.unwrap();
    eventually("the lead has moved", async || {
        proxy.lead().await.as_deref() == Some("n2")
    })
    .await;
}

/// Nobody who sits still is forgotten, whenever it was parked: each is told, and hung up on.
#[tokio::test]
async fn each_idle_session_is_told_of_each_move() {
    const SESSIONS: usize = 40;
    let proxy = twins("idle").await;
    for target in ["n2", "n1", "n2", "n1"] {
        let mut sessions = Vec::new();
        for number in 0..SESSIONS {
            let (mut session, _) = RawConn::login(proxy.port(), APP, DATABASE).await;
            if number % 2 == 0 {
                session.query("SELECT 1").await;
            }
            sessions.push(session);
        }
        say(&proxy, &format!("SWITCHOVER main TO {target}"))
            .await
            .ok();
        for mut session in sessions {
            let told = session.read_to_end().await;
            assert_eq!(trace(&told), "E:57P01", "moving to {target}");
        }
    }
}
