//! A switchover that is given up, in each phase where it can be: everybody goes on at the old lead
//! and has noticed nothing, and whoever was in the way is treated as the operator said.

use tokio_postgres::error::SqlState;

use crate::harness::client::{APP, simple};
use crate::harness::ledger::Nature;
use crate::harness::pair::{Kind, Stall};
use crate::harness::stage::{Command, Stage};
use crate::switchover::stage;

async fn stuck_at_the_gate(stage: &Stage, clauses: &str) -> (Command, Stall) {
    let (moving, stall) = stage.meets_stalled_apply(clauses).await;
    stage.reaches("catch_up").await;
    (moving, stall)
}

#[tokio::test]
async fn a_client_idle_in_its_transaction_is_named_and_nobody_notices() {
    let stage = Stage::start(stage(Kind::Pglogical)).await;
    let blocker = stage.idle_in_transaction().await;

    stage.workload.begin("timed out", Nature::Planned);
    let refused = stage.switchover("n2", "DRAIN TIMEOUT '300ms'").await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.sqlstate, "55006", "{refused:?}");
    assert!(refused.text.contains("idle in transaction"), "{refused:?}");
    stage.workload.all_served().await;

    stage.workload.begin("aborted", Nature::Planned);
    let moving = stage.begin_switchover("n2", "DRAIN TIMEOUT '1min'");
    stage.reaches("drain").await;
    stage.abort().await;
    let refused = moving.end().await.unwrap_err();
    assert!(refused.text.contains("operator"), "{refused:?}");
    stage.workload.all_served().await;

    simple(&blocker, "SELECT 2; COMMIT").await.unwrap();
    let work = stage.proves(0).await;
    assert_eq!(work.reconnects(), 0, "an abort leaves no trace");
}

#[tokio::test]
async fn a_target_that_does_not_catch_up_is_not_waited_for_for_ever() {
    let stage = Stage::start(stage(Kind::Pglogical)).await;

    stage.workload.begin("timed out", Nature::Planned);
    let (moving, stall) = stuck_at_the_gate(&stage, "CATCHUP TIMEOUT '500ms'").await;
    let refused = moving.end().await.unwrap_err();
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    assert!(refused.text.contains("has applied"), "{refused:?}");
    stage.workload.all_served().await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    stall.end().await;
    stage.pair.catch_up().await;

    stage.workload.begin("aborted", Nature::Planned);
    let (moving, stall) = stuck_at_the_gate(&stage, "CATCHUP TIMEOUT '1min'").await;
    stage.abort().await;
    let refused = moving.end().await.unwrap_err();
    assert!(refused.text.contains("operator"), "{refused:?}");
    stage.workload.all_served().await;
    stall.end().await;
    stage.pair.catch_up().await;
    assert_eq!(stage.workload.reconnects(), 0, "an abort leaves no trace");

    stage.moves_to("n2").await;
    stage.proves(1).await;
}

#[tokio::test]
async fn a_node_that_is_killed_while_the_gate_is_closed_ends_the_switchover() {
    let mut stage = Stage::start(stage(Kind::Pglogical)).await;

    stage.workload.begin("target killed", Nature::Planned);
    let (moving, stall) = stuck_at_the_gate(&stage, "CATCHUP TIMEOUT '1min'").await;
    stage.pair.n2.kill9();
    drop(stall);
    let refused = moving.end().await.unwrap_err();
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), 0, "an abort leaves no trace");
    stage.pair.n2.start().await;
    stage.pair.catch_up().await;
    stage.ready("n2").await;

    stage.workload.begin("lead killed", Nature::Unplanned);
    let (moving, stall) = stuck_at_the_gate(&stage, "CATCHUP TIMEOUT '1min'").await;
    stage.pair.n1.kill9();
    let refused = moving.end().await.unwrap_err();
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    stall.end().await;
    stage.pair.n1.start().await;
    stage.workload.all_served().await;
    stage.proves(0).await;
}

const SOON: &str = "DRAIN TIMEOUT '100ms' ON DRAIN TIMEOUT";

#[tokio::test]
async fn whoever_is_in_the_way_is_treated_as_the_operator_said() {
    let stage = Stage::start(stage(Kind::Native)).await;

    stage.workload.begin("cancelled in vain", Nature::Planned);
    let blocker = stage.idle_in_transaction().await;
    let clauses = format!("{SOON} cancel");
    let refused = stage.switchover("n2", &clauses).await.unwrap_err();
    assert_eq!(refused.sqlstate, "55006", "{refused:?}");
    stage.workload.all_served().await;
    simple(&blocker, "SELECT 2; COMMIT").await.unwrap();

    stage.workload.begin("cancelled", Nature::Planned);
    let busy = stage.proxy.connect_as(APP).await.unwrap();
    let sleeping = async { simple(&busy, "SELECT pg_sleep(600)").await };
    let moving = async {
        stage.runs("SELECT pg_sleep(600)").await;
        stage.switchover("n2", &clauses).await
    };
    let (slept, moved) = tokio::join!(sleeping, moving);
    moved.unwrap();
    assert_eq!(slept.unwrap_err().code().map(SqlState::code), Some("57014"));
    assert!(
        simple(&busy, "SELECT 1").await.is_err(),
        "told to reconnect"
    );
    stage.workload.all_served().await;

    stage.workload.begin("terminated", Nature::Planned);
    let blocker = stage.idle_in_transaction().await;
    let clauses = format!("{SOON} terminate");
    stage.switchover("n1", &clauses).await.unwrap();
    assert!(simple(&blocker, "COMMIT").await.is_err());
    stage.workload.all_served().await;
    stage.proves(2).await;
}

#[tokio::test]
async fn a_decision_that_cannot_be_recorded_is_not_made() {
    let stage = Stage::start(stage(Kind::Pglogical)).await;
    let in_the_way = stage.break_the_store();
    stage.workload.begin("not recorded", Nature::Planned);
    let refused = stage.switchover("n2", "").await.unwrap_err();
    assert!(refused.text.contains("not recorded"), "{refused:?}");
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), 0, "an abort leaves no trace");
    std::fs::remove_dir(in_the_way).unwrap();
    stage.moves_to("n2").await;
    stage.proves(1).await;
}
