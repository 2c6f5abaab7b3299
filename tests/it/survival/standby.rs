//! Standbys: never lead by themselves, made eligible by an operator, and kept away from clients when
//! they were promoted behind our back.

use super::{FAST, READ, Scene, SceneSpec, leads, may_promote, quiet, refuses, served_by, told};
use crate::harness::eventually;
use crate::harness::ledger::{Nature, rows_written_by};
use crate::harness::pair::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_never_leads_until_an_operator_makes_it_eligible() {
    let cluster = format!("{FAST}hold_timeout = \"1s\"\n");
    let mut spec = SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster);
    spec.mesh = spec.mesh.standby("n5", &["n1", "n2"]);
    spec.keys = vec![("n5", "candidate = \"never\"")];
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    scene.proxy.node_is("n5", "observed", "up").await;
    let refused = scene.console("SWITCHOVER main TO n5").await;
    refused.refused(&["55000", "must not become lead", "SET NODE n5 ELIGIBLE"]);
    scene
        .workload
        .begin("all but the standby", Nature::Unplanned);
    scene.mesh.node_mut("n2").kill9();
    scene.proxy.node_is("n2", "observed", "down").await;
    scene.mesh.node_mut("n1").kill9();
    let why = told(&scene.proxy, "failover_barred", "\"n5\"").await;
    assert!(
        why.contains("\"n5\" is configured with candidate = \"never\""),
        "{why}"
    );
    refuses(&scene.proxy).await;
    scene
        .console("FAILOVER main TO n5 ACCEPT LOSS")
        .await
        .refused(&["must not become lead"]);
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));

    scene.console("SET NODE n5 ELIGIBLE").await.ok();
    scene.workload.outage("n1").await;
    leads(&scene.proxy, "n5").await;
    scene.proxy.restart().await;
    scene.workload.all_served().await;
    let n5 = scene.proxy.node("n5").await;
    assert_eq!(
        (n5["role"].as_str(), n5["candidate"].as_str()),
        ("lead", "auto")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_somebody_promoted_gets_no_clients() {
    let cluster = format!("{FAST}promote = \"pg_promote\"\n");
    let mut spec = SceneSpec::new(Kind::Physical, &["n1", "n2"], &cluster);
    spec.mesh.schema.push_str(&may_promote());
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    eventually("reads go to n2", async || {
        served_by(&scene.proxy, READ).await.as_deref() == Some("n2")
    })
    .await;
    scene.mesh.node("n2").query("SELECT pg_promote()").await;
    scene.mesh.promoted("n2");
    scene.proxy.event("unexpected_primary", "n2").await;
    eventually("it is fenced", async || {
        !scene.proxy.node("n2").await["fence"].is_empty()
    })
    .await;
    for _ in 0..5 {
        assert_eq!(served_by(&scene.proxy, READ).await.as_deref(), Some("n1"));
    }
    scene
        .console("SWITCHOVER main TO n2")
        .await
        .refused(&["is fenced"]);
    scene.workload.all_served().await;
    assert!(
        rows_written_by(scene.mesh.node("n2"), "n2")
            .await
            .is_empty()
    );

    scene.mesh.rebuild("n2", "n1").await;
    scene.ready("n2").await;
    assert_eq!(scene.proxy.node("n2").await["role"], "shadow");
    scene.workload.begin("killed", Nature::Unplanned);
    scene.mesh.node_mut("n1").kill9();
    scene.workload.outage("n1").await;
    leads(&scene.proxy, "n2").await;
    let (verdict, work, _) = scene.verdict(&["n2"]).await;
    assert!(verdict.is_clean_but_for_losses(1), "{verdict:?}");
    quiet(&work);
}
