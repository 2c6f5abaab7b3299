//! Somebody else promotes a physical standby: whoever became primary is followed.

use super::{Scene, SceneSpec, leads, told};
use crate::harness::eventually;
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;

const AUTO: &str = "failover = \"auto\"\nprofile = \"fast\"\n";

async fn promote(scene: &Scene, node: &str) {
    scene.mesh.node(node).query("SELECT pg_promote()").await;
    let primary = "SELECT NOT pg_is_in_recovery()";
    let node = scene.mesh.node(node);
    eventually("it is primary", || node.holds(primary)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_after_the_primary_was_stopped_is_followed() {
    let mut scene = Scene::start(SceneSpec::new(Kind::Physical, &["n1", "n2"], AUTO)).await;
    scene.ready("n2").await;
    scene.workload.begin("moved", Nature::Unplanned);
    scene.mesh.node_mut("n1").stop();
    told(&scene.proxy, "failover_barred", "nobody has promoted yet").await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));
    promote(&scene, "n2").await;
    scene.mesh.promoted("n2");
    let outage = scene.workload.outage("n1").await;
    println!("promoted by somebody else: {outage:?}");
    leads(&scene.proxy, "n2").await;
    scene.mesh.rebuild("n1", "n2").await;
    scene.ready("n1").await;
    let (verdict, ..) = scene.verdict(&["n2"]).await;
    assert!(verdict.is_clean(1), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_as_standby_is_not_waited_for() {
    // Not by the lead's being down, but by what it says of itself.
    let cluster = format!("{AUTO}failover_confirm = \"10min\"\n");
    let mut scene = Scene::start(SceneSpec::new(Kind::Physical, &["n1", "n2"], &cluster)).await;
    scene.ready("n2").await;
    scene.workload.begin("moved", Nature::Unplanned);
    scene.mesh.node_mut("n1").stop();
    promote(&scene, "n2").await;
    scene.mesh.promoted("n2");
    scene.mesh.rebuild("n1", "n2").await;
    let outage = scene.workload.outage("n1").await;
    println!("demoted: {outage:?}");
    leads(&scene.proxy, "n2").await;
    scene.ready("n1").await;
    let (verdict, ..) = scene.verdict(&["n2"]).await;
    assert!(verdict.is_clean(1), "{verdict:?}");
}
