//! Who takes over from a lost lead, who does not, and when.

use super::{FAST, Scene, SceneSpec, events, leads, told};
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn of_three_nodes_the_preferred_one_takes_over() {
    let mut spec = SceneSpec::new(Kind::Native, &["n1", "n2", "n3"], FAST);
    spec.keys = vec![("n3", "priority = 95")];
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    scene.ready("n3").await;
    scene.workload.begin("killed", Nature::Unplanned);
    scene.mesh.node_mut("n1").kill9();
    scene.workload.outage("n1").await;
    leads(&scene.proxy, "n3").await;
}

/// `candidate`, an operator's word and maintenance: none of these is passed over, however lost the
/// lead is.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_over_who_must_not() {
    let mut spec = SceneSpec::new(Kind::Native, &["n1", "n2", "n3"], FAST);
    spec.keys = vec![("n2", "candidate = \"manual\"")];
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    scene.ready("n3").await;
    scene.workload.begin("killed", Nature::Unplanned);
    scene.console("MAINTENANCE BEGIN n3").await.ok();
    scene.mesh.node_mut("n1").kill9();
    let why = told(&scene.proxy, "failover_barred", "\"n3\"").await;
    assert!(
        why.contains("\"n2\" is configured with candidate = \"manual\""),
        "{why}"
    );
    assert!(
        why.contains("\"n3\" was taken out of service by an operator"),
        "{why}"
    );
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));
    scene.console("DRAIN n3").await.ok();
    scene.console("FENCE n3").await.ok();
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));
    scene.console("READY n3").await.ok();
    scene.workload.outage("n1").await;
    leads(&scene.proxy, "n3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_waits_for_its_confirmation_and_for_the_pause_after_another() {
    const CONFIRM: Duration = Duration::from_secs(3);
    let cluster = format!("{FAST}failover_confirm = \"3s\"\nfailover_min_interval = \"20s\"\n");
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster)).await;
    scene.ready("n2").await;
    scene.workload.begin("first", Nature::Unplanned);
    scene.mesh.node_mut("n1").kill9();
    let outage = scene.workload.outage("n1").await;
    println!("confirm 3 s: {outage:?}");
    assert!(outage.first >= CONFIRM, "{outage:?}");
    assert_eq!(events(&scene.proxy, "failover_barred").await, []);
    scene.mesh.node_mut("n1").start().await;
    scene.ready("n1").await;

    scene.workload.begin("second", Nature::Unplanned);
    scene.mesh.node_mut("n2").kill9();
    told(&scene.proxy, "failover_barred", "the next try is in").await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n2"));
    let outage = scene.workload.outage("n2").await;
    println!("second failure within 20 s: {outage:?}");
    leads(&scene.proxy, "n1").await;
    assert_eq!(
        events(&scene.proxy, "failover_barred").await.len(),
        1,
        "told once"
    );
}
