//! pgsluice dies in the middle of a switchover, or a client in the middle of its commit.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::abort::{idle_in_transaction, stuck_at_the_gate};
use crate::harness::client::{APP, DATABASE};
use crate::harness::eventually;
use crate::harness::ledger::{Nature, SLOW_COMMIT};
use crate::harness::node::{Release, bin};
use crate::harness::pair::Kind;
use crate::harness::raw::{RawConn, query};
use crate::harness::stage::{Stage, StageSpec};
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
    let blocker = idle_in_transaction(&stage).await;
    let moving = stage.begin_switchover("n2", "DRAIN TIMEOUT '1min'");
    stage.reaches("drain").await;
    assert_eq!(reborn(&mut stage).await, "n1");
    moving.end().await.unwrap_err();
    drop(blocker);

    stage.workload.begin("at the gate", Nature::Unplanned);
    let (moving, stall) = stuck_at_the_gate(&stage, "CATCHUP TIMEOUT '1min'").await;
    assert_eq!(reborn(&mut stage).await, "n1");
    moving.end().await.unwrap_err();
    stall.end().await;
    stage.pair.catch_up().await;

    stage.ready("n2").await;
    let phases = stage.moves_to("n2").await;
    let total: f64 = phases.last().unwrap()["ms"].parse().unwrap();
    let (mut lead, mut changes) = ("n2".to_owned(), 1);
    for twelfth in 3..=13 {
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
        schema: SLOW_COMMIT.to_owned(),
        ..stage(Kind::Pglogical)
    };
    let mut stage = Stage::start(spec).await;

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
    stage.moves_to("n2").await;

    // A connection that is reset instead of closed: nobody is there any more to read the answer.
    let (mut client, _) = RawConn::login(stage.proxy.port(), APP, DATABASE).await;
    client.send(&query(&slow_write(-2))).await;
    stage.in_doubt.push(-2);
    stage.runs(&slow_write(-2)).await;
    client.reset();
    stage.moves_to("n1").await;

    // Nor is anybody there who knew of it when pgsluice itself is killed.
    let (mut client, _) = RawConn::login(stage.proxy.port(), APP, DATABASE).await;
    client.send(&query(&slow_write(-3))).await;
    stage.in_doubt.push(-3);
    stage.runs(&slow_write(-3)).await;
    stage.workload.begin("pgsluice killed", Nature::Unplanned);
    stage.proxy.restart().await;
    stage.ready("n2").await;
    stage.switchover("n2", "").await.unwrap();
    stage.workload.all_served().await;

    let committed = "SELECT count(*) = 3 FROM ledger WHERE id < 0";
    for node in stage.pair.nodes() {
        eventually("each commit ran to its end", || node.holds(committed)).await;
    }
    stage.proves(3).await;
}

fn slow_write(id: i64) -> String {
    format!("INSERT INTO ledger (id, writer, key, value) VALUES ({id}, 99, {id}, 1)")
}
