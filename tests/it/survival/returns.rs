//! A node that was lost comes back: it takes part once replication runs both ways, and the lead stays
//! where it is.

use std::collections::BTreeSet;

use super::{FAST, Scene, SceneSpec, events, leads, quiet, told};
use crate::harness::eventually;
use crate::harness::ledger::{Nature, rows_written_by};
use crate::harness::pair::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_back_is_recovering_until_it_replicates_both_ways() {
    let cluster = format!("{FAST}recovery_timeout = \"2s\"\n");
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster)).await;
    scene.ready("n2").await;
    scene.workload.begin("killed", Nature::Unplanned);
    scene.mesh.lab().link("n2", "n1").disable().await;
    scene.mesh.node_mut("n1").kill9();
    scene.workload.outage("n1").await;
    let arrived = rows_written_by(scene.mesh.node("n2"), "n1").await;
    scene.mesh.node_mut("n1").start().await;

    let why = told(
        &scene.proxy,
        "recovery_stuck",
        "does not replicate from the lead",
    )
    .await;
    println!("subscription of n1 disabled: {why}");
    assert_eq!(scene.proxy.node("n1").await["observed"], "recovering");
    let off = "ALTER SUBSCRIPTION n2_from_n1 DISABLE";
    scene.mesh.node("n2").query(off).await;
    eventually("the other direction is seen to have ended", async || {
        let links = scene.proxy.admin("SHOW REPLICATION").await.unwrap();
        let back = links.iter().find(|link| link["source"] == "n1");
        back.is_none_or(|link| link["state"] != "streaming")
    })
    .await;
    scene.mesh.lab().link("n2", "n1").enable().await;
    let reason = "the lead does not replicate from it";
    scene.proxy.node_is("n1", "reason", reason).await;
    assert_eq!(scene.proxy.node("n1").await["observed"], "recovering");
    assert_eq!(events(&scene.proxy, "node_recovery").await, [], "not yet");

    scene.mesh.lab().link("n1", "n2").enable().await;
    scene.proxy.node_is("n1", "observed", "up").await;
    let text = told(
        &scene.proxy,
        "node_recovery",
        "node \"n1\" has recovered after",
    )
    .await;
    let seconds = text.split(' ').rev().nth(1).and_then(|n| n.parse().ok());
    assert!(
        seconds.is_some_and(|n: u64| (2..=90).contains(&n)),
        "{text}"
    );
    assert_eq!(scene.proxy.node("n1").await["role"], "shadow");
    assert_eq!(
        events(&scene.proxy, "recovery_stuck").await.len(),
        1,
        "told once"
    );

    // Through restarts of pgsluice, whether it can say goodbye or not.
    scene.proxy.signal("QUIT");
    scene.proxy.ended().await;
    scene.proxy.restart().await;
    scene.workload.all_served().await;
    leads(&scene.proxy, "n2").await;
    scene.proxy.restart().await;
    scene.workload.all_served().await;
    leads(&scene.proxy, "n2").await;
    scene.mesh.catch_up().await;
    let all = rows_written_by(scene.mesh.node("n2"), "n1").await;
    let late: BTreeSet<i64> = &all - &arrived;
    let (verdict, work, _) = scene.verdict_but(&["n2", "n1"], &late).await;
    println!("{} late", late.len());
    assert_eq!((verdict.lost, verdict.overlap), (0, 0), "{verdict:?}");
    assert_eq!(verdict.lead_changes, 1, "no failback: {verdict:?}");
    quiet(&work);
}
