//! Rolling restarts and upgrades: `MAINTENANCE BEGIN` says when a node can be stopped, `MAINTENANCE END`
//! when it is fit again, and clients notice nothing but a reconnect.

use super::{FAST, READ, Scene, SceneSpec, but_for_copied_rows, leads, quiet, timed, told};
use crate::harness::client::{APP, connect, simple};
use crate::harness::ledger::Nature;
use crate::harness::link::Rows;
use crate::harness::pair::Kind;
use crate::harness::proxy::ADMIN;
use crate::tool::start_console;

/// What a script does with each node, the lead first.
async fn restarts(scene: &mut Scene, node: &'static str, heir: &str) {
    let led = scene.proxy.lead().await.as_deref() == Some(node);
    let (said, took) = timed(&scene.proxy, &format!("MAINTENANCE BEGIN {node}")).await;
    let steps = said.rows();
    println!("MAINTENANCE BEGIN {node}: {took:?}: {steps:?}");
    assert_eq!(steps[0]["step"] == "switchover", led, "{steps:?}");
    let last = steps.last().unwrap();
    assert_eq!(last["step"], "safe", "{steps:?}");
    leads(&scene.proxy, heir).await;
    assert_eq!(scene.proxy.node(node).await["wanted"], "maint");
    told(&scene.proxy, "maintenance_safe", "can be stopped").await;
    let second = scene.console(&format!("MAINTENANCE BEGIN {heir}")).await;
    second.refused(&["ERROR"]);
    scene.mesh.node_mut(node).stop();
    scene.workload.all_served().await;
    let (early, _) = timed(
        &scene.proxy,
        &format!("MAINTENANCE END {node} TIMEOUT '300ms'"),
    )
    .await;
    early.refused(&["55000", "is not fit to serve yet"]);
    scene.mesh.node_mut(node).start().await;
    scene.mesh.node(node).set("work_mem", "'8MB'").await;
    let (said, took) = timed(&scene.proxy, &format!("MAINTENANCE END {node}")).await;
    println!("MAINTENANCE END {node}: {took:?}: {:?}", said.rows());
    let row = scene.proxy.node(node).await;
    assert_eq!(
        (row["wanted"].as_str(), row["observed"].as_str()),
        ("ready", "up")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_all_nodes_costs_clients_no_error() {
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], FAST)).await;
    scene.ready("n2").await;
    scene.workload.begin("rolling restart", Nature::Planned);
    restarts(&mut scene, "n1", "n2").await;
    restarts(&mut scene, "n2", "n1").await;
    scene.workload.all_served().await;
    let (verdict, work, _) = scene.verdict(&["n1", "n2"]).await;
    println!(
        "rolling restart: {verdict:?}, reconnects {}",
        work.reconnects()
    );
    assert!(verdict.is_clean(2), "{verdict:?}");
    assert_eq!(work.missing_at_release(), 0);
    quiet(&work);
}

/// An upgrade may make another server of it: it is the node when its maintenance ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_makes_the_nodes_anew_one_after_the_other() {
    let spec = SceneSpec::new(Kind::Native, &["n1", "n2"], FAST);
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    scene.workload.begin("rolling upgrade", Nature::Planned);
    let mut ids = Vec::new();
    for (node, other) in [("n2", "n1"), ("n1", "n2")] {
        ids.push(scene.proxy.node(node).await["system_identifier"].clone());
        scene
            .console(&format!("MAINTENANCE BEGIN {node}"))
            .await
            .ok();
        leads(&scene.proxy, other).await;
        scene.mesh.reinit(node).await;
        scene.mesh.link(other, node, Rows::Copy).await;
        scene.mesh.link(node, other, Rows::Keep).await;
        // It returns when the rows are copied, however early it is said.
        scene.console(&format!("MAINTENANCE END {node}")).await.ok();
        let now = scene.proxy.node(node).await;
        assert_eq!(now["fence"], "", "{now:?}");
        ids.push(now["system_identifier"].clone());
        scene.ready(node).await;
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "other servers than before: {ids:?}");
    scene.workload.all_served().await;
    let (verdict, work, _) = scene.verdict(&["n1", "n2"]).await;
    println!(
        "rolling upgrade: {verdict:?}, reconnects {}",
        work.reconnects()
    );
    let verdict = but_for_copied_rows(&verdict);
    assert!(verdict.is_clean(1), "{verdict:?}");
    quiet(&work);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_is_refused_or_given_up_where_it_would_hurt() {
    let spec = SceneSpec::new(Kind::Native, &["n1", "n2", "n3"], FAST);
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    scene.ready("n3").await;
    // Somebody reads there: he is waited for.
    let (reader, _) = connect(scene.proxy.port(), APP, READ).await.unwrap();
    simple(&reader, "BEGIN; SELECT 1").await.unwrap();
    let on = simple(&reader, "SHOW pgsluice_test.node").await.unwrap()[0][0]
        .clone()
        .unwrap();
    let other = if on == "n2" { "n3" } else { "n2" };
    let begin = format!("MAINTENANCE BEGIN {on} TIMEOUT '500ms'");
    let waits = start_console(&scene.proxy, ADMIN, &begin);
    scene.proxy.node_is(&on, "wanted", "drain").await;
    let refused = scene.console(&format!("MAINTENANCE BEGIN {other}")).await;
    refused.refused(&["55006", &format!("\"{on}\"")]);
    simple(&reader, "SELECT 1").await.expect("left alone");
    assert!(waits.is_running(), "his transaction is not over");
    simple(&reader, "COMMIT").await.unwrap();
    waits.said().await.ok();

    // Apply stands still on another node: what only this one has would be missing there.
    scene.console(&format!("MAINTENANCE END {on}")).await.ok();
    scene.ready(&on).await;
    let stall = scene.mesh.lab().stall_apply(other).await;
    scene
        .console(&begin)
        .await
        .refused(&["55000", "not safe to stop"]);
    stall.end().await;
    scene.console(&format!("MAINTENANCE BEGIN {on}")).await.ok();
    // Through a restart of pgsluice.
    scene.proxy.restart().await;
    scene.proxy.serving().await;
    assert_eq!(scene.proxy.node(&on).await["wanted"], "maint");
    let refused = scene.console(&format!("MAINTENANCE BEGIN {other}")).await;
    refused.refused(&["55006"]);
    scene.console(&format!("MAINTENANCE END {on}")).await.ok();
}
