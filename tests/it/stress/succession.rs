//! The lead dies in the middle of a move, and nobody has to decide anything.

use super::deaths::{Phase, Stuck, on_stage};
use crate::harness::ledger::Nature;
use crate::harness::measured;

/// Falls of the test's own making are no flapping, and one failover follows the other.
const AUTOMATIC: &str = "failover = \"auto\"\nprofile = \"fast\"\nflap_limit = 0\n\
                         failover_min_interval = 0\n";

/// With the sessions parked there is nothing that the target does not have: the move is given up, a
/// failover to the same target follows, and not one commit is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_dies_in_the_middle_of_a_move_is_replaced_by_the_target() {
    let mut stage = on_stage(AUTOMATIC).await;
    let rounds = [(Phase::Drain, "n1", "n2"), (Phase::Quiesce, "n2", "n1")];
    for (phase, lead, target) in rounds {
        stage.ready(target).await;
        let stuck = Stuck::in_phase(&mut stage, phase, target).await;
        stage.pair.catch_up().await;
        stage
            .workload
            .begin(&format!("{phase:?}"), Nature::Unplanned);
        stage.pair.node_mut(lead).kill9();
        let refused = stuck.refused().await;
        assert_eq!(refused.sqlstate, "55000", "{phase:?}: {refused:?}");
        let outage = stage.workload.outage(lead).await;
        measured(&format!("lead killed in {phase:?}: {outage:?}"));
        assert_eq!(stage.proxy.lead().await.as_deref(), Some(target));
        stage.proxy.event("switchover_aborted", target).await;
        stage.proxy.event("failover_completed", target).await;
        stage.pair.node_mut(lead).start().await;
        stage.pair.catch_up().await;
    }
    stage.ready("n2").await;
    stage.moves_to("n2").await;
    stage.proves(3).await;
}
