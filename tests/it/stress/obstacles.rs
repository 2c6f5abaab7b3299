//! What else an operator may find in the way of a move: told before a client is touched, or given
//! up so that no client notices, and out of the way once it is cured.

use std::process::{Command as Process, Stdio};

use tokio::task::JoinHandle;

use crate::harness::client::{APP, DATABASE, MONITOR, SUPERUSER, connect_named, simple};
use crate::harness::ledger::Nature;
use crate::harness::node::{NodeSpec, Release, bin};
use crate::harness::pair::Kind;
use crate::harness::stage::{Refused, Stage, StageSpec};
use crate::harness::{eventually, measured};
use crate::switchover::stage;

/// A table that the writers do not know.
const SIDE: &str = "CREATE TABLE side (id bigint PRIMARY KEY, text text);";

async fn on_stage(spec: StageSpec) -> Stage {
    Stage::start(StageSpec {
        schema: SIDE.to_owned(),
        cluster: "catchup_timeout = \"1s\"\n".to_owned(),
        ..spec
    })
    .await
}

/// Not begun, or given up; nobody was told to reconnect, and all go on where they were.
async fn is_refused(stage: &Stage, clauses: &str) -> Refused {
    stage.workload.begin("refused", Nature::Planned);
    let before = stage.workload.reconnects();
    let refused = stage.switchover("n2", clauses).await.unwrap_err();
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), before, "{refused:?}");
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    refused
}

fn prepares(node: &mut NodeSpec) {
    node.settings.push_str("max_prepared_transactions = 5\n");
}

#[tokio::test]
async fn a_prepared_transaction_is_not_left_behind() {
    let spec = StageSpec {
        adjust: Some(prepares),
        ..stage(Kind::Native)
    };
    let stage = on_stage(spec).await;
    let client = stage.proxy.connect_as(APP).await.unwrap();
    let prepare = "BEGIN; INSERT INTO side VALUES (1); PREPARE TRANSACTION 'one'";
    simple(&client, prepare).await.unwrap();
    let refused = is_refused(&stage, "").await;
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    let words = "1 prepared transactions are open on \"n1\"";
    assert!(refused.text.contains(words), "{refused:?}");
    simple(&client, "COMMIT PREPARED 'one'").await.unwrap();

    // One that is prepared while the move waits for it to end.
    simple(&client, "BEGIN; INSERT INTO side VALUES (2)")
        .await
        .unwrap();
    let meanwhile = async {
        stage.reaches("drain").await;
        simple(&client, "PREPARE TRANSACTION 'two'").await.unwrap();
    };
    let (refused, ()) = tokio::join!(is_refused(&stage, "DRAIN TIMEOUT '1min'"), meanwhile);
    let words = "a transaction was prepared since the preflight";
    assert!(refused.text.contains(words), "{refused:?}");
    simple(&client, "COMMIT PREPARED 'two'").await.unwrap();

    stage.ready("n2").await;
    stage.moves_to("n2").await;
    let rows = stage.pair.n2.scalar("SELECT count(*) FROM side").await;
    assert_eq!(rows.as_deref(), Some("2"));
    stage.proves(1).await;
}

fn large(rows: u32) -> String {
    format!("INSERT INTO side SELECT i, repeat('x', 40) FROM generate_series(1, {rows}) i")
}

async fn has_all_of_it(stage: &Stage, rows: u32) {
    // The first that a client asks the new lead.
    let client = stage.proxy.connect_as(APP).await.unwrap();
    let count = simple(&client, "SELECT count(*) FROM side").await.unwrap();
    assert_eq!(count[0][0], Some(rows.to_string()));
}

#[tokio::test]
async fn a_large_transaction_just_before_is_there_when_clients_are_released() {
    let stage = on_stage(stage(Kind::Native)).await;
    let client = stage.proxy.connect_as(APP).await.unwrap();
    simple(&client, &large(200_000)).await.unwrap();
    stage.workload.begin("moved", Nature::Planned);
    let mut refusals = Vec::new();
    // Whoever is too far behind is told so, and nobody is held for it.
    while let Err(refused) = stage.switchover("n2", "").await {
        assert_eq!(refused.sqlstate, "55000", "{refused:?}");
        let known = ["lags", "apply is stuck or too slow", "is in state"];
        let known = known.iter().any(|words| refused.text.contains(words));
        assert!(known, "{refused:?}");
        refusals.push(refused);
        assert!(refusals.len() < 100, "{refusals:?}");
    }
    has_all_of_it(&stage, 200_000).await;
    stage.workload.all_served().await;
    measured(&format!(
        "a large transaction before: {} refusals",
        refusals.len()
    ));
    stage.proves(1).await;
}

#[tokio::test]
async fn a_large_transaction_that_ends_in_the_drain_is_waited_for() {
    let stage = on_stage(stage(Kind::Pglogical)).await;
    let client = stage.proxy.connect_as(APP).await.unwrap();
    simple(&client, "BEGIN").await.unwrap();
    simple(&client, &large(50_000)).await.unwrap();
    stage.workload.begin("moved", Nature::Planned);
    let clauses = "DRAIN TIMEOUT '1min' CATCHUP TIMEOUT '1min'";
    let moving = stage.begin_switchover("n2", clauses);
    stage.reaches("drain").await;
    simple(&client, "COMMIT").await.unwrap();
    let phases = moving.end().await.unwrap();
    has_all_of_it(&stage, 50_000).await;
    stage.workload.all_served().await;
    measured(&format!("a large transaction in the drain: {phases:?}"));
    stage.proves(1).await;
}

#[tokio::test]
async fn a_locked_table_on_the_target_is_found_before_a_client_is_held() {
    let stage = on_stage(stage(Kind::Native)).await;
    let stall = stage.pair.stall_apply("n2").await;
    let refused = is_refused(&stage, "").await;
    let words = "apply is stuck or too slow";
    assert!(refused.text.contains(words), "{refused:?}");
    assert_eq!(stage.workload.current().failures.len(), 0);
    stall.end().await;
    stage.ready("n2").await;
    stage.moves_to("n2").await;
    stage.proves(1).await;
}

#[tokio::test]
async fn a_subscription_that_is_disabled_in_the_middle_ends_the_move() {
    let stage = on_stage(stage(Kind::Native)).await;
    let blocker = stage.idle_in_transaction().await;
    let lab = stage.pair.lab();
    let meanwhile = async {
        stage.reaches("drain").await;
        lab.link("n1", "n2").disable().await;
        simple(&blocker, "COMMIT").await.unwrap();
    };
    let (refused, ()) = tokio::join!(is_refused(&stage, "DRAIN TIMEOUT '1min'"), meanwhile);
    let words = "aborted in phase catch_up: catch_up timed out";
    assert!(refused.text.contains(words), "{refused:?}");
    let refused = is_refused(&stage, "").await;
    assert!(refused.text.contains("is disabled"), "{refused:?}");
    lab.link("n1", "n2").enable().await;
    stage.ready("n2").await;
    stage.moves_to("n2").await;
    stage.proves(1).await;
}

#[tokio::test]
async fn a_conflict_that_stops_apply_ends_the_move_and_its_cure_lets_it_happen() {
    let stage = on_stage(stage(Kind::Native)).await;
    let blocker = stage.idle_in_transaction().await;
    let lab = stage.pair.lab();
    let meanwhile = async {
        stage.reaches("drain").await;
        let conflict = lab.conflict("n1", "n2").await;
        simple(&blocker, "COMMIT").await.unwrap();
        conflict
    };
    let refused = is_refused(&stage, "DRAIN TIMEOUT '1min'");
    let (refused, conflict) = tokio::join!(refused, meanwhile);
    let words = "aborted in phase catch_up: catch_up timed out";
    assert!(refused.text.contains(words), "{refused:?}");
    let refused = is_refused(&stage, "").await;
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    stage.proxy.event("apply_error", "n2").await;
    conflict.cure().await;
    stage.ready("n2").await;
    stage.moves_to("n2").await;
    stage.proves(1).await;
}

/// Writes on the lead that do not come through us, without end.
fn direct_writer(stage: &Stage) -> JoinHandle<()> {
    let port = stage.pair.n1.port();
    tokio::spawn(async move {
        let login = connect_named(port, APP, DATABASE, "nightly");
        let (client, _driver) = login.await.unwrap();
        for id in 0_u64.. {
            // In a transaction most of the time, as a job is.
            let sql =
                format!("BEGIN; INSERT INTO side VALUES ({id}); SELECT pg_sleep(0.05); COMMIT");
            simple(&client, &sql).await.unwrap();
        }
    })
}

#[tokio::test]
async fn a_busy_direct_writer_is_named_and_does_not_hang_the_gate() {
    let stage = on_stage(stage(Kind::Native)).await;
    let writer = direct_writer(&stage);
    let dry = "SWITCHOVER main TO n2 DRY RUN";
    eventually("it is warned of", async || {
        let rows = stage.proxy.admin(dry).await.unwrap_or_default();
        let text = format!("{rows:?}");
        text.contains("a direct session writes on \\\"n1\\\"") && text.contains("nightly")
    })
    .await;
    for target in ["n2", "n1", "n2"] {
        stage.moves_to(target).await;
        assert!(!writer.is_finished(), "it went on");
    }
    writer.abort();
    let _ = writer.await;
    stage.proves(3).await;
}

/// Barman's slots: one that is read by `pg_receivewal`, and one that nobody reads. Neither is the
/// target's, whose own word counts.
#[tokio::test]
async fn backups_of_a_physical_pair_are_not_waited_for() {
    let stage = Stage::start(StageSpec {
        cluster: "promote = \"pg_promote\"\nslot_retained_max = \"1MB\"\n".to_owned(),
        schema: format!(
            "GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO {};",
            MONITOR.user
        ),
        ..stage(Kind::Physical)
    })
    .await;
    let n1 = &stage.pair.n1;
    for slot in ["barman", "forgotten"] {
        n1.query(&format!(
            "SELECT pg_create_physical_replication_slot('{slot}', true)"
        ))
        .await;
    }
    let archive = stage.proxy.directory().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let mut receiver = Process::new(bin(Release::Pg15, "pg_receivewal"))
        .args(["-h", "127.0.0.1", "-p", &n1.port().to_string()])
        .args(["-U", SUPERUSER.user, "-S", "barman", "-D"])
        .arg(&archive)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'barman'";
    eventually("Barman reads", || n1.holds(active)).await;
    let fill = "CREATE TABLE fill AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)";
    n1.query(fill).await;
    stage.proxy.event("slot_retains_wal", "n1").await;
    stage.moves_to("n2").await;
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    stage.proves(1).await;
}
