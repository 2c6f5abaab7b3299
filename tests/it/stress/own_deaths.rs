//! pgsluice dies, or stands still, in the middle of a move; see also `crash.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::deaths::{Phase, Stuck, on_stage};
use crate::harness::ledger::{Nature, check_copies};
use crate::harness::pair::Kind;
use crate::harness::stage::Stage;
use crate::switchover::stage;

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_record_the_old_lead_rules() {
    let mut stage = on_stage("").await;
    for phase in [Phase::Prewarm, Phase::Quiesce] {
        stage
            .workload
            .begin(&format!("{phase:?}"), Nature::Unplanned);
        let stuck = Stuck::in_phase(&mut stage, phase, "n2").await;
        stage.proxy.restart().await;
        assert_eq!(stage.proxy.recorded_lead().as_deref(), Some("n1"));
        // Nobody is told any more.
        stuck.refused().await;
        stage.workload.all_served().await;
        stage.ready("n2").await;
    }
    stage.moves_to("n2").await;
    stage.proves(1).await;
}

/// The standby is promoted while nobody watches: the record knows nothing of it, and nobody but the
/// recorded lead is written.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_waits_for_a_promotion_it_does_not_follow_it() {
    let mut stage = Stage::start(stage(Kind::Physical)).await;
    stage.workload.begin("killed", Nature::Unplanned);
    let moving = stage.begin_switchover("n2", "");
    stage.reaches("promote").await;
    stage.proxy.kill9();
    moving.end().await.unwrap_err();
    stage.pair.n2.query("SELECT pg_promote()").await;
    stage.proxy.restart().await;
    stage.workload.all_served().await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    stage.proxy.event("unexpected_primary", "n2").await;
    let refused = stage.switchover("n2", "").await.unwrap_err();
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    stage.workload.begin("afterwards", Nature::Planned);
    stage.workload.all_served().await;
    let Stage { pair, workload, .. } = stage;
    let work = workload.stop().await;
    let verdict = check_copies(&[&pair.n1], &work, &BTreeSet::new()).await;
    assert!(verdict.is_clean(0), "{verdict:?}");
    assert_eq!(work.errors().count(), 0, "{:?}", work.errors().next());
}

/// As long as a machine that is moved, or a process that is swapped in.
const STANDSTILL: Duration = Duration::from_secs(2);

async fn stands_still(stage: &Stage) {
    stage.proxy.freeze();
    tokio::time::sleep(STANDSTILL).await;
    stage.proxy.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_standstill_a_move_goes_on_or_is_given_up_and_nobody_is_hurt() {
    let mut stage = on_stage("").await;
    // Longer than the phase may take: whatever it finds when it goes on, it ends.
    stage.workload.begin("at the gate", Nature::Planned);
    let (moving, stall) = stage.meets_stalled_apply("CATCHUP TIMEOUT '1s'").await;
    stage.reaches("catch_up").await;
    stands_still(&stage).await;
    let refused = moving.end().await.unwrap_err();
    let phase = "was aborted in phase catch_up";
    assert!(refused.text.contains(phase), "{refused:?}");
    stall.end().await;
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), 0, "an abort leaves no trace");
    stage.pair.catch_up().await;
    stage.ready("n2").await;

    // Shorter: it goes on where it was.
    stage.workload.begin("draining", Nature::Planned);
    let stuck = Stuck::in_phase(&mut stage, Phase::Drain, "n2").await;
    stands_still(&stage).await;
    stuck.goes_on().await;
    stage.workload.all_served().await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));

    // Anywhere.
    let mut lead = "n2".to_owned();
    let mut moves = 1;
    for _ in 0..3 {
        let target = if lead == "n1" { "n2" } else { "n1" };
        stage.ready(target).await;
        stage.workload.begin("anywhere", Nature::Planned);
        let moving = stage.begin_switchover(target, "");
        // Where it is by then does not matter.
        tokio::task::yield_now().await;
        stands_still(&stage).await;
        let said = moving.end().await.is_ok();
        let now = stage.proxy.lead().await.unwrap();
        assert_eq!(said, now == target, "what it said is what is");
        moves += u64::from(now != lead);
        lead = now;
        stage.workload.all_served().await;
    }
    stage.proves(moves).await;
}
