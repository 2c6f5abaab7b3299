//! The proof of the proof: a switchover that skips a step loses or overlaps something, and the
//! ledger says so. The same play with the step taken is clean.
//!
//! Needs a program with the feature `planted-bugs`; `make test` runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../harness/mod.rs"]
mod harness;

use std::path::PathBuf;

use harness::client::{APP, DATABASE};
use harness::eventually;
use harness::ledger::{Nature, Verdict, Work, slow_commit, slow_write};
use harness::pair::Kind;
use harness::raw::{RawConn, query};
use harness::stage::{Stage, StageSpec};

async fn stage(bug: Option<&'static str>) -> Stage {
    let spec = StageSpec {
        environment: bug
            .map(|bug| ("PGSLUICE_PLANTED_BUG", bug))
            .into_iter()
            .collect(),
        schema: slow_commit(),
        ..StageSpec::new(
            Kind::Pglogical,
            PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")),
        )
    };
    Stage::start(spec).await
}

/// Apply stands still when the switchover comes to its gate.
async fn behind(bug: Option<&'static str>) -> (Verdict, Work) {
    let stage = stage(bug).await;
    stage.workload.begin("behind", Nature::Planned);
    let (moving, stall) = stage.meets_stalled_apply("CATCHUP TIMEOUT '300ms'").await;
    assert_eq!(moving.end().await.is_ok(), bug.is_some());
    // The counter of the write that is not applied must have been written again.
    let lead = stage.proxy.lead().await.unwrap();
    let again = format!("SELECT count(*) > 0 FROM ledger WHERE key = 0 AND node = '{lead}'");
    eventually("it is written again", || {
        stage.pair.node(&lead).holds(&again)
    })
    .await;
    stage.workload.all_served().await;
    stall.end().await;
    stage.verdict().await
}

/// A commit is under way when the switchover comes to its drain.
async fn busy(bug: Option<&'static str>) -> (Verdict, Work) {
    let mut stage = stage(bug).await;
    let delay = stage.delay_commits().await;
    let (mut client, _) = RawConn::login(stage.proxy.port(), APP, DATABASE).await;
    client.send(&query(&slow_write(-1))).await;
    stage.in_doubt.push(-1);
    stage.runs(&slow_write(-1)).await;
    stage.workload.begin("busy", Nature::Planned);
    let moving = stage.begin_switchover("n2", "DRAIN TIMEOUT '1min'");
    if bug.is_some() {
        moving.end().await.unwrap();
        stage.workload.all_served().await;
        delay.end().await;
    } else {
        stage.reaches("drain").await;
        delay.end().await;
        moving.end().await.unwrap();
        stage.workload.all_served().await;
    }
    client.read_until_ready(1).await;
    stage.verdict().await
}

/// The decision cannot be recorded when the switchover comes to its commit.
async fn unrecorded(bug: Option<&'static str>) -> (Verdict, Work) {
    let stage = stage(bug).await;
    stage.break_the_store();
    stage.workload.begin("unrecorded", Nature::Planned);
    stage.switchover("n2", "").await.unwrap_err();
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    stage.workload.all_served().await;
    stage.verdict().await
}

#[tokio::test]
async fn a_gate_that_is_not_waited_for_is_caught() {
    let (verdict, work) = behind(None).await;
    assert!(verdict.is_clean(0), "{verdict:?}");
    assert_eq!(work.missing_at_release(), 0);
    let (verdict, work) = behind(Some("skip-gate")).await;
    assert!(verdict.lost_updates > 0, "{verdict:?}");
    assert!(work.missing_at_release() > 0);
}

#[tokio::test]
async fn backends_that_are_not_waited_for_are_caught() {
    let (verdict, _) = busy(None).await;
    assert!(verdict.is_clean(1), "{verdict:?}");
    let (verdict, _) = busy(Some("skip-backends")).await;
    assert!(verdict.overlap > 0, "{verdict:?}");
}

#[tokio::test]
async fn a_release_before_the_record_is_caught() {
    let (verdict, _) = unrecorded(None).await;
    assert!(verdict.is_clean(0), "{verdict:?}");
    let (verdict, _) = unrecorded(Some("open-early")).await;
    assert_eq!(verdict.lead_changes, 1, "the record says 0: {verdict:?}");
}
