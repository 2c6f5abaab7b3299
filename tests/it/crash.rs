//! pgsluice dies in the middle of a switchover, or a client in the middle of its commit.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::client::{APP, DATABASE};
use crate::harness::eventually;
use crate::harness::ledger::{Nature, slow_commit, slow_write};
use crate::harness::node::{Release, bin};
use crate::harness::pair::Kind;
use crate::harness::raw::{RawConn, query};
use crate::harness::stage::{Delay, Stage, StageSpec};
use crate::harness::workspace::signal;
use crate::switchover::stage;

/// Kills pgsluice and starts it again; gives the lead that rules afterwards.
async fn reborn(stage: &mut Stage) -> String {
    stage.proxy.restart().await;
    stage.workload.all_served().await;
    stage.proxy.lead().await.unwrap()
}

#[tokio::test]
async fn whenever_pgsluice_dies_the_recorded_lead_rules() {
    let mut stage = Stage::start(stage(Kind::Pglogical)).await;

    stage.workload.begin("while draining", Nature::Unplanned);
    let blocker = stage.idle_in_transaction().await;
    let moving = stage.begin_switchover("n2", "DRAIN TIMEOUT '1min'");
    stage.reaches("drain").await;
    assert_eq!(reborn(&mut stage).await, "n1");
    moving.end().await.unwrap_err();
    drop(blocker);

    stage.workload.begin("at the gate", Nature::Unplanned);
    let (moving, stall) = stage.meets_stalled_apply("CATCHUP TIMEOUT '1min'").await;
    stage.reaches("catch_up").await;
    assert_eq!(reborn(&mut stage).await, "n1");
    moving.end().await.unwrap_err();
    stall.end().await;
    stage.pair.catch_up().await;

    stage.workload.begin("at the commit", Nature::Unplanned);
    stage.ready("n2").await;
    let pipe = stage.stop_the_store();
    let moving = stage.begin_switchover("n2", "");
    stage.reaches("commit").await;
    stage.proxy.kill9();
    std::fs::remove_file(pipe).unwrap();
    assert_eq!(reborn(&mut stage).await, "n1");
    moving.end().await.unwrap_err();

    stage.workload.begin("at the release", Nature::Unplanned);
    stage.ready("n2").await;
    let moving = stage.begin_switchover("n2", "");
    while stage.proxy.recorded_lead().as_deref() != Some("n2") {
        tokio::task::yield_now().await;
    }
    assert_eq!(reborn(&mut stage).await, "n2");
    // It may have been told of it or not.
    let _ = moving.end().await;

    stage.ready("n1").await;
    let phases = stage.moves_to("n1").await;
    let total: f64 = phases.last().unwrap()["ms"].parse().unwrap();
    let (mut lead, mut changes) = ("n1".to_owned(), 2);
    for twelfth in (2..=14).step_by(2) {
        let target = if lead == "n1" { "n2" } else { "n1" };
        stage.ready(target).await;
        stage.workload.begin("somewhere", Nature::Unplanned);
        let moving = stage.begin_switchover(target, "");
        // Anywhere in it is right; where it was this time does not matter.
        let moment = Duration::from_secs_f64(total / 1000.0 * f64::from(twelfth) / 12.0);
        tokio::time::sleep(moment).await;
        let now = reborn(&mut stage).await;
        let answered = moving.end().await.is_ok();
        assert!(now == target || !answered, "told that the lead has moved");
        changes += u64::from(now != lead);
        lead = now;
    }
    stage.proves(changes).await;
}

#[tokio::test]
async fn a_commit_whose_client_was_killed_is_waited_for() {
    let spec = StageSpec {
        schema: slow_commit(),
        ..stage(Kind::Pglogical)
    };
    let mut stage = Stage::start(spec).await;

    let delay = stage.delay_commits().await;
    let mut client = Command::new(bin(Release::Pg15, "psql"))
        .args(["-h", "127.0.0.1", "-U", APP.user, "-d", DATABASE])
        .args(["-p", &stage.proxy.port().to_string()])
        .args(["-c", &slow_write(-1)])
        .env("PGPASSWORD", APP.password)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    stage.in_doubt.push(-1);
    stage.runs(&slow_write(-1)).await;
    signal(&[client.id()], "KILL");
    client.wait().unwrap();
    moves_after(&stage, "n2", "drain", delay).await;

    // A connection that is reset instead of closed: nobody is there any more to read the answer.
    let delay = stage.delay_commits().await;
    slow_client(&mut stage, -2).await.reset();
    stage.workload.begin("aborted", Nature::Planned);
    let moving = stage.begin_switchover("n1", "");
    stage.reaches("quiesce").await;
    stage.abort().await;
    moving.end().await.unwrap_err();
    stage.workload.all_served().await;
    moves_after(&stage, "n1", "quiesce", delay).await;

    // Nor is anybody there who knew of it when pgsluice itself is killed.
    let delay = stage.delay_commits().await;
    let client = slow_client(&mut stage, -3).await;
    stage.workload.begin("pgsluice killed", Nature::Unplanned);
    stage.proxy.restart().await;
    drop(client);
    stage.workload.all_served().await;
    stage.ready("n2").await;
    moves_after(&stage, "n2", "quiesce", delay).await;

    let committed = "SELECT count(*) = 3 FROM ledger WHERE id < 0";
    for node in stage.pair.nodes() {
        eventually("each commit ran to its end", || node.holds(committed)).await;
    }
    stage.proves(3).await;
}

/// A client in the middle of its commit.
async fn slow_client(stage: &mut Stage, id: i64) -> RawConn {
    let (mut client, _) = RawConn::login(stage.proxy.port(), APP, DATABASE).await;
    client.send(&query(&slow_write(id))).await;
    stage.in_doubt.push(id);
    stage.runs(&slow_write(id)).await;
    client
}

/// The lead moves, but not before the commit is done that holds it up in that phase.
async fn moves_after(stage: &Stage, target: &str, phase: &str, delay: Delay) {
    stage.workload.begin(target, Nature::Planned);
    let moving = stage.begin_switchover(target, "");
    stage.reaches(phase).await;
    delay.end().await;
    moving.end().await.unwrap();
    stage.workload.all_served().await;
}
