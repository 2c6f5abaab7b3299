//! Both nodes down: clients wait, then are sent elsewhere; whoever comes back first serves only if it
//! led.

use std::time::Instant;

use super::{AGAIN, FAST, Scene, SceneSpec, events, kill_at_once, leads, quiet, refuses, told};
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn when_both_nodes_were_down_only_the_lead_is_served_by_itself() {
    let cluster = format!("{FAST}{AGAIN}hold_timeout = \"1s\"\n");
    let mut spec = SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster);
    for node in &mut spec.mesh.nodes {
        node.fsync = true;
    }
    let mut scene = Scene::start(spec).await;
    for first in ["shadow", "lead", "both"] {
        scene.ready("n2").await;
        scene
            .workload
            .begin(&format!("{first} first"), Nature::Unplanned);
        let before = events(&scene.proxy, "all_nodes_down").await.len();
        kill_at_once(&mut scene, &["n1", "n2"]);
        refuses(&scene.proxy).await;
        let all_down = events(&scene.proxy, "all_nodes_down").await.len();
        assert_eq!(all_down, before + 1, "told once");
        match first {
            "shadow" => {
                scene.mesh.node_mut("n2").start().await;
                scene.proxy.node_is("n2", "observed", "up").await;
                let why = "\"n2\" was not seen to have everything when the lead was lost";
                told(&scene.proxy, "failover_barred", why).await;
                refuses(&scene.proxy).await;
                assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));
                scene.mesh.node_mut("n1").start().await;
            }
            "lead" => {
                scene.mesh.node_mut("n1").start().await;
                scene.workload.all_served().await;
                scene.mesh.node_mut("n2").start().await;
            }
            _ => {
                scene.mesh.node_mut("n2").start().await;
                scene.mesh.node_mut("n1").start().await;
            }
        }
        let back = Instant::now();
        scene.workload.all_served().await;
        println!(
            "both down, {first} first: all served {:?} after",
            back.elapsed()
        );
        leads(&scene.proxy, "n1").await;
    }
    scene.ready("n2").await;
    let (verdict, work, _) = scene.verdict(&["n1", "n2"]).await;
    assert!(verdict.is_clean(0), "{verdict:?}");
    quiet(&work);
}

/// The lead is gone for good, and the operator says that the shadow's copy shall hold.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_lead_stays_away_an_operator_decides() {
    let cluster = format!("{FAST}hold_timeout = \"1s\"\n");
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster)).await;
    scene.ready("n2").await;
    scene.workload.begin("both", Nature::Unplanned);
    scene.mesh.node_mut("n2").kill9();
    scene.mesh.node_mut("n1").kill9();
    refuses(&scene.proxy).await;
    scene.mesh.node_mut("n2").start().await;
    scene.proxy.node_is("n2", "observed", "up").await;
    refuses(&scene.proxy).await;
    let said = scene.console("FAILOVER main TO n2 ACCEPT LOSS").await;
    assert!(
        said.err.contains("WARNING"),
        "what may be lost is said: {said:?}"
    );
    said.ok();
    scene.workload.outage("n1").await;
    leads(&scene.proxy, "n2").await;
}
