//! Nodes that cannot write: no room for tables, no room for WAL, or told not to.

use crate::harness::client::{APP, simple};
use crate::harness::disk::{DiskSpec, Holds};
use crate::harness::eventually;
use crate::harness::ledger::Nature;
use crate::harness::node::NodeSpec;
use crate::harness::privilege::{Need, may};
use crate::harness::proxy::CLUSTER;
use crate::harness::stage::{Stage, StageSpec};
use crate::health::{fast, guarded, leads_on, told};

const ROWS: &str = "CREATE TABLE rows (i bigint PRIMARY KEY);";

fn small_tables(node: &mut NodeSpec) {
    small(node, Holds::Tables, 16);
}

fn small_wal(node: &mut NodeSpec) {
    small(node, Holds::Wal, 64);
    node.settings.push_str("restart_after_crash = off\n");
}

fn small(node: &mut NodeSpec, holds: Holds, megabytes: u32) {
    if node.name == "n1" {
        node.disk = Some(DiskSpec { holds, megabytes });
    }
}

fn sqlstate<T>(result: Result<T, tokio_postgres::Error>) -> String {
    let error = result.err().expect("an error");
    let code = error.code().map(|code| code.code().to_owned());
    code.unwrap_or_else(|| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_without_room_for_tables_is_told_and_goes_on_reading() {
    if !may(Need::Mounts) {
        return;
    }
    let spec = StageSpec {
        adjust: Some(small_tables),
        schema: ROWS.to_owned(),
        writers: 0,
        ..fast()
    };
    let stage = Stage::start(spec).await;
    stage.ready("n2").await;
    let client = stage.proxy.connect_as(APP).await.unwrap();
    simple(&client, "INSERT INTO rows VALUES (0)")
        .await
        .unwrap();
    stage.pair.n1.disk().fill();
    let more = "INSERT INTO rows SELECT generate_series(1, 100000)";
    assert_eq!(sqlstate(simple(&client, more).await), "53100");
    stage.proxy.event("node_disk_full", "n1").await;
    let rows = simple(&client, "SELECT count(*) FROM rows").await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("1"), "reads go on");
    assert_eq!(sqlstate(simple(&client, more).await), "53100");
    let row = stage.proxy.node("n1").await;
    assert_eq!((&*row["observed"], &*row["role"]), ("up", "lead"));
    leads_on(&stage.proxy).await;
    let told = told(&stage.proxy, "node_disk_full", "n1").await;
    assert_eq!(told.len(), 1, "not each time");

    stage.pair.n1.disk().free();
    simple(&client, more).await.unwrap();
    stage.pair.catch_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_without_room_for_wal_panics_and_is_replaced() {
    if !may(Need::Mounts) {
        return;
    }
    let mut stage = guarded(StageSpec {
        adjust: Some(small_wal),
        ..fast()
    })
    .await;
    let inside = stage.pair.n1.connect("app").await;
    stage.workload.begin("no room for WAL", Nature::Unplanned);
    stage.pair.n1.disk().fill();
    // In steps that replication keeps up with: a target that is far behind would not be taken.
    let sent = "SELECT count(*) = 0 FROM pg_stat_replication \
                WHERE pg_current_wal_lsn() - replay_lsn > 2000000";
    let more = "SELECT pg_logical_emit_message(false, '', repeat('x', 500000))";
    while simple(&inside, more).await.is_ok() {
        while let Ok(rows) = simple(&inside, sent).await
            && rows[0][0].as_deref() != Some("t")
        {
            tokio::task::yield_now().await;
        }
    }
    stage.pair.n1.ended().await;
    stage.workload.outage("n1").await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    stage.proxy.event("node_down", "n1").await;
    stage.proxy.event("failover_completed", "n2").await;
}

/// Noticed by what a client is told: the next probe would be in an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_was_set_read_only_is_told_and_stays_lead() {
    let spec = StageSpec {
        cluster: "failover = \"auto\"\nmonitor_interval = \"1h\"\n\
                  monitor_fast_interval = \"100ms\"\nprofile = \"standard\"\n"
            .to_owned(),
        writers: 0,
        schema: ROWS.to_owned(),
        ..fast()
    };
    let stage = Stage::start(spec).await;
    // Nobody asks by the clock: what `Stage::ready` waits for never comes.
    stage.proxy.may_lead(CLUSTER, "n2").await;
    let client = stage.proxy.connect_as(APP).await.unwrap();
    let proxy = &stage.proxy;
    stage
        .pair
        .n1
        .set("default_transaction_read_only", "on")
        .await;
    let write = "INSERT INTO rows SELECT max(i) + 1 FROM (VALUES (0)) v (i)";
    eventually("writes are refused", async || {
        let _ = simple(&client, "DELETE FROM rows").await;
        let refused = simple(&client, write).await;
        refused.is_err_and(|error| error.code().is_some_and(|code| code.code() == "25006"))
    })
    .await;
    proxy.node_is("n1", "condition", "read-only").await;
    proxy.event("node_read_only", "n1").await;
    assert_eq!(proxy.node("n1").await["observed"], "up");
    simple(&client, "SELECT * FROM rows").await.unwrap();
    leads_on(proxy).await;
    let refused = stage.switchover("n2", "DRY RUN").await.unwrap_err();
    assert!(
        refused.text.contains("lead \"n1\" is read-only"),
        "{refused:?}"
    );

    stage.pair.n1.reset("default_transaction_read_only").await;
    eventually("writes are taken", async || {
        simple(&client, "DELETE FROM rows").await.is_ok()
    })
    .await;
    // No error is told any more: what asks the lead anew is an operator's question.
    simple(&client, write).await.unwrap();
    let moved = stage.switchover("n2", "").await;
    assert!(moved.is_ok(), "{moved:?}");
    assert_eq!(proxy.lead().await.as_deref(), Some("n2"));
}
