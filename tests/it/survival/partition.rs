//! A partition between the nodes, both of which pgsluice reaches.

use super::{FAST, Scene, SceneSpec, events, leads, quiet, refuses, told};
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_hear_nothing_of_each_other_move_nobody() {
    let cluster = format!("{FAST}hold_timeout = \"1s\"\n");
    let mut spec = SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster);
    spec.mesh = spec
        .mesh
        .settings("wal_sender_timeout = 2s\nwal_receiver_timeout = 2s\n");
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    scene.workload.begin("partition", Nature::Planned);
    let cut = scene.mesh.lab().part("n1", "n2");
    scene.proxy.node_is("n2", "observed", "recovering").await;
    scene.workload.all_served().await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));
    scene
        .console("SWITCHOVER main TO n2")
        .await
        .refused(&["55000"]);
    assert_eq!(events(&scene.proxy, "failover_completed").await, []);
    scene.workload.all_served().await;

    // Now the lead is lost too, with all that never arrived.
    scene.workload.begin("lost", Nature::Unplanned);
    scene.mesh.node_mut("n1").kill9();
    told(&scene.proxy, "failover_barred", "\"n2\" was").await;
    refuses(&scene.proxy).await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));
    cut.heal();
    scene.mesh.node_mut("n1").start().await;
    scene.workload.all_served().await;
    leads(&scene.proxy, "n1").await;
    scene.ready("n2").await;
    let (verdict, work, _) = scene.verdict(&["n1", "n2"]).await;
    assert!(verdict.is_clean(0), "{verdict:?}");
    quiet(&work);
}
