//! The lead's record: lost, or brought back from an old copy, it never brings the lead back to where it
//! was.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{FAST, Scene, SceneSpec, events, leads, proxy, refuses, served_by, told, writers};
use crate::harness::client::DATABASE;
use crate::harness::eventually;
use crate::harness::lab::{Part, Way};
use crate::harness::ledger::{Nature, schema};
use crate::harness::mesh::{Mesh, MeshSpec};
use crate::harness::pair::Kind;
use crate::harness::proxy::Proxy;
use crate::harness::workspace::run;

/// n2 leads after a failover, n1 is shadow; `old` is a copy of the records from before.
async fn failed_over(cluster: &str, old: &Path) -> Scene {
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], cluster)).await;
    scene.ready("n2").await;
    copy(&state(&scene.proxy), &scene.proxy.directory().join(old));
    scene.workload.begin("killed", Nature::Unplanned);
    scene.mesh.node_mut("n1").kill9();
    scene.workload.outage("n1").await;
    scene.mesh.node_mut("n1").start().await;
    scene.ready("n1").await;
    scene
}

fn state(proxy: &Proxy) -> std::path::PathBuf {
    proxy.directory().join("state")
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "-T"]).args([from, to]));
}

fn wipe(proxy: &Proxy) {
    fs::remove_dir_all(state(proxy)).unwrap();
    fs::create_dir(state(proxy)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_lost_is_remembered_by_the_nodes() {
    let mut scene = failed_over(FAST, Path::new("old")).await;
    for round in 1..=2 {
        scene.proxy.kill9();
        wipe(&scene.proxy);
        scene.proxy.restart().await;
        scene.workload.all_served().await;
        leads(&scene.proxy, "n2").await;
        told(
            &scene.proxy,
            "record_lost",
            "the nodes remember lead \"n2\", epoch 2",
        )
        .await;
        let chosen = events(&scene.proxy, "lead_chosen").await;
        assert_eq!(chosen.len(), 1, "round {round}: {chosen:?}");
        assert_eq!(chosen[0]["node"], "n2");
    }
    assert_eq!(scene.proxy.recorded_lead().as_deref(), Some("n2"));
    let (verdict, ..) = scene.verdict(&["n2"]).await;
    assert_eq!(verdict.lead_changes, 1, "never n1: {verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_from_an_old_copy_does_not_hold() {
    let mut scene = failed_over(FAST, Path::new("old")).await;
    for n1_is_back in [true, false] {
        if !n1_is_back {
            scene.mesh.node_mut("n1").kill9();
        }
        scene.proxy.kill9();
        fs::remove_dir_all(state(&scene.proxy)).unwrap();
        copy(&scene.proxy.directory().join("old"), &state(&scene.proxy));
        if !n1_is_back {
            // It has been away while the nodes were told who leads, as far as it knows.
            scene.mesh.node_mut("n1").start().await;
        }
        assert_eq!(
            scene.proxy.recorded_lead().as_deref(),
            Some("n1"),
            "the old one"
        );
        scene.proxy.restart().await;
        scene.workload.all_served().await;
        leads(&scene.proxy, "n2").await;
        told(
            &scene.proxy,
            "record_outdated",
            "the record here says \"n1\", epoch 1",
        )
        .await;
    }
    let (verdict, ..) = scene.verdict(&["n2"]).await;
    assert_eq!(verdict.lead_changes, 1, "never n1: {verdict:?}");
}

/// It might remember something newer than those that can be asked.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_while_a_node_cannot_be_asked_what_it_remembers() {
    let cluster = format!("{FAST}hold_timeout = \"1s\"\n");
    let mut scene = failed_over(&cluster, Path::new("old")).await;
    let cut = scene.mesh.lab().silence("n2", Part::All, Way::Both);
    scene.proxy.kill9();
    wipe(&scene.proxy);
    scene.proxy.restart().await;
    told(&scene.proxy, "record_lost", "epoch 2").await;
    refuses(&scene.proxy).await;
    assert_eq!(events(&scene.proxy, "lead_chosen").await, []);
    scene
        .console("FAILOVER main TO n1")
        .await
        .refused(&["55000"]);
    refuses(&scene.proxy).await;
    scene.console("FAILOVER main TO n1 ACCEPT LOSS").await.ok();
    eventually("clients are served by n1", async || {
        served_by(&scene.proxy, DATABASE).await.as_deref() == Some("n1")
    })
    .await;
    cut.heal();
    scene.proxy.node_is("n2", "observed", "up").await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));
    let epoch = &scene.proxy.admin("SHOW CLUSTERS").await.unwrap()[0]["epoch"];
    assert_eq!(epoch, "3", "above what the nodes remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_for_the_first_time_with_a_node_down() {
    let spec = MeshSpec {
        schema: schema(),
        ..MeshSpec::masters(Kind::Native, &["n1", "n2"])
    };
    let mut mesh = Mesh::start(spec).await;
    mesh.node_mut("n1").kill9();
    let proxy = proxy(&mesh, FAST, &[]).await;
    let workload = writers(&proxy, 2).await;
    leads(&proxy, "n2").await;
    mesh.node_mut("n1").start().await;
    proxy.node_is("n1", "observed", "up").await;
    workload.all_served().await;
    assert_eq!(
        proxy.lead().await.as_deref(),
        Some("n2"),
        "however preferred n1 is"
    );
}
