//! Automatic failover: how long clients are without a lead, and what they lose.

// On threads of their own: what kills a server blocks until it is gone, and the writers' clocks run.
use std::time::Duration;

use crate::harness::lab::{Part, Way};
use crate::harness::ledger::{Nature, Work};
use crate::harness::pair::Kind;
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

/// The fast profile, as it comes.
const FAST: &str = "failover = \"auto\"\nprofile = \"fast\"\n";

/// The bounds.
const KILLED: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(3);

fn automatic(kind: Kind) -> StageSpec {
    StageSpec {
        cluster: FAST.to_owned(),
        ..stage(kind)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_lead_is_replaced_within_a_second() {
    let mut stage = Stage::start(automatic(Kind::Native)).await;
    stage.ready("n2").await;
    stage.workload.begin("killed", Nature::Unplanned);
    stage.pair.n1.kill9();
    let outage = stage.workload.outage("n1").await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    assert!(outage.first < KILLED, "{outage:?}");
    stage.proxy.event("failover_completed", "n2").await;
    goes_on(&stage.workload.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_falls_silent_is_replaced_within_three_seconds() {
    let stage = Stage::start(automatic(Kind::Native)).await;
    stage.ready("n2").await;
    stage.workload.begin("silent", Nature::Unplanned);
    let cut = stage.pair.lab().silence("n1", Part::All, Way::Both);
    let outage = stage.workload.outage("n1").await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    assert!(outage.first < SILENT, "{outage:?}");
    cut.heal();
    goes_on(&stage.workload.stop().await);
}

/// Nothing but the fault was noticed, and each writer wrote after it.
fn goes_on(work: &Work) {
    let errors: Vec<_> = work.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
}
