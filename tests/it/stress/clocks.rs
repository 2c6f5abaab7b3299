//! Clocks that differ: with last-update-wins the next write of a client must not look older than
//! its last one.

use crate::harness::ledger::Nature;
use crate::harness::measured;
use crate::harness::node::NodeSpec;
use crate::harness::pair::Kind;
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

/// Within `clock_skew_max`.
const BEHIND_MS: i64 = 200;

fn adjustable(node: &mut NodeSpec) {
    if node.name == "n2" {
        node.clock_error_ms = Some(0);
    }
}

#[tokio::test]
async fn a_target_whose_clock_is_behind_is_waited_for_and_no_write_loses_against_an_older_one() {
    let spec = StageSpec {
        adjust: Some(adjustable),
        ..stage(Kind::Pglogical)
    };
    let stage = Stage::start(spec).await;
    // Not from the beginning: the pair's own rows are younger than that, and would win.
    stage.pair.n2.set_clock(-BEHIND_MS);
    let mut waits = Vec::new();
    for target in ["n2", "n1", "n2"] {
        stage.ready(target).await;
        let phases = stage.moves_to(target).await;
        let catch_up = phases
            .iter()
            .find(|row| row["phase"] == "catch_up")
            .unwrap();
        waits.push(catch_up["ms"].parse::<f64>().unwrap());
    }
    measured(&format!(
        "catch_up with a clock 200 ms behind: {waits:?} ms"
    ));
    assert!(waits[0] > 150.0 && waits[2] > 150.0, "{waits:?}");

    // Too far behind: refused before a client is touched.
    stage.moves_to("n1").await;
    let before = stage.workload.reconnects();
    stage.workload.begin("refused", Nature::Planned);
    stage.pair.n2.set_clock(-3000);
    let refused = stage.switchover("n2", "").await.unwrap_err();
    assert_eq!(refused.sqlstate, "55000", "{refused:?}");
    assert!(
        refused.text.contains("the clocks of the nodes are"),
        "{refused:?}"
    );
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), before);
    stage.pair.n2.set_clock(0);
    stage.ready("n2").await;
    stage.moves_to("n2").await;
    stage.proves(5).await;
}
