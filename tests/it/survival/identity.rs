//! A node that is lost for good, and what answers at its address afterwards.

use super::{
    FAST, READ, Scene, SceneSpec, but_for_copied_rows, leads, quiet, refuses, served_by, told,
};
use crate::harness::client::DATABASE;
use crate::harness::eventually;
use crate::harness::ledger::Nature;
use crate::harness::link::Rows;
use crate::harness::pair::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_lost_for_good_is_removed_and_another_one_takes_its_place() {
    let cluster = format!("{FAST}permanent_after = \"2s\"\n");
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], &cluster)).await;
    scene.ready("n2").await;
    scene.workload.begin("lost", Nature::Unplanned);
    scene.mesh.node_mut("n1").kill9();
    scene.workload.outage("n1").await;
    leads(&scene.proxy, "n2").await;
    told(&scene.proxy, "node_permanent_candidate", "REMOVE NODE n1;").await;

    // An empty server at its address is not the node, and gets nobody.
    scene.mesh.node_mut("n1").reinit().await;
    scene.proxy.event("node_identity_changed", "n1").await;
    let fence = scene.proxy.node("n1").await["fence"].clone();
    assert!(fence.contains("system_identifier"), "{fence}");
    scene
        .console("SWITCHOVER main TO n1")
        .await
        .refused(&["55000", "is fenced"]);
    assert_eq!(served_by(&scene.proxy, READ).await.as_deref(), Some("n2"));

    // Also by an instance that never saw the old one.
    scene.proxy.restart().await;
    scene.workload.all_served().await;
    eventually("it is fenced again", async || {
        !scene.proxy.node("n1").await["fence"].is_empty()
    })
    .await;
    scene
        .console("REMOVE NODE n2")
        .await
        .refused(&["55000", "is the lead"]);
    let advice = scene.console("REMOVE NODE n1").await.rows();
    println!("REMOVE NODE n1: {advice:?}");
    assert!(advice.iter().all(|row| row["node"] == "n2"), "{advice:?}");
    for row in &advice {
        scene.mesh.node("n2").query(&row["sql"]).await;
    }
    let left = "SELECT (SELECT count(*) FROM pg_subscription) + \
                (SELECT count(*) FROM pg_replication_slots) = 0";
    assert!(
        scene.mesh.node("n2").holds(left).await,
        "nothing is left of n1 on n2"
    );
    scene.proxy.restart().await;
    let nodes = scene.proxy.admin("SHOW NODES").await.unwrap();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    scene.workload.all_served().await;

    // The mesh forgets the links as well.
    scene.mesh.promoted("n1");
    scene.mesh.promoted("n2");
    a_third_node_joins(&mut scene).await;
    scene.workload.begin("moves", Nature::Planned);
    scene.console("SWITCHOVER main TO n5").await.ok();
    scene.workload.all_served().await;
    leads(&scene.proxy, "n5").await;
    let copies = ["n2", "n5"];
    let (verdict, work, _) = scene.verdict(&copies).await;
    println!("permanent loss: {verdict:?}");
    let verdict = but_for_copied_rows(&verdict);
    assert!(verdict.is_clean_but_for_losses(2), "{verdict:?}");
    quiet(&work);
}

/// The lead is lost while its rows are still copied: the newcomer must not take over.
async fn a_third_node_joins(scene: &mut Scene) {
    scene.mesh.add(Kind::Native.node("n5")).await;
    let newcomer = scene.mesh.node("n5").connect(DATABASE).await;
    // Its copy of the rows waits.
    newcomer
        .batch_execute("BEGIN; LOCK TABLE ledger IN SHARE MODE")
        .await
        .unwrap();
    scene.mesh.link("n2", "n5", Rows::Copy).await;
    scene.mesh.link("n5", "n2", Rows::Keep).await;
    let door = scene.mesh.node("n5").door(0);
    let (host, port) = (door.ip().to_owned(), door.port());
    let add = |node: &str, port: u16| {
        format!("ADD NODE {node} TO main HOST '{host}' PORT '{port}' PRIORITY '90'")
    };
    scene
        .console(&add("n2", port))
        .await
        .refused(&["42710", "is a member"]);
    scene.console(&add("n5", port)).await.ok();
    scene
        .console(&add("n6", port))
        .await
        .refused(&["42710", "has this address"]);
    eventually("rows are copied", async || {
        let links = scene.proxy.admin("SHOW REPLICATION").await.unwrap();
        links
            .iter()
            .any(|l| l["target"] == "n5" && l["state"] == "copying")
    })
    .await;
    scene
        .workload
        .begin("lost while copying", Nature::Unplanned);
    scene.mesh.node_mut("n2").kill9();
    told(
        &scene.proxy,
        "failover_barred",
        "\"n5\" was not seen to have everything",
    )
    .await;
    scene
        .console("SWITCHOVER main TO n5")
        .await
        .refused(&["55000"]);
    scene.mesh.node_mut("n2").start().await;
    scene.workload.all_served().await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n2"));
    newcomer.batch_execute("ROLLBACK").await.unwrap();
    scene.mesh.lab().link("n2", "n5").ready().await;
    scene.mesh.lab().link("n5", "n2").ready().await;
    scene.ready("n5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_made_anew_takes_part_when_an_operator_says_ready() {
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], FAST)).await;
    scene.ready("n2").await;
    scene.workload.begin("rebuilt", Nature::Planned);
    scene.mesh.reinit("n2").await;
    scene.mesh.link("n1", "n2", Rows::Copy).await;
    scene.mesh.link("n2", "n1", Rows::Keep).await;
    scene.mesh.ready().await;
    scene.proxy.event("node_identity_changed", "n2").await;
    scene
        .console("SWITCHOVER main TO n2")
        .await
        .refused(&["is fenced"]);
    scene.console("READY n2").await.ok();
    scene.ready("n2").await;
    scene.proxy.restart().await;
    scene.ready("n2").await;
    scene.workload.begin("moves", Nature::Planned);
    scene.console("SWITCHOVER main TO n2").await.ok();
    scene.workload.all_served().await;
    let (verdict, ..) = scene.verdict(&["n1", "n2"]).await;
    let verdict = but_for_copied_rows(&verdict);
    assert!(verdict.is_clean(1), "{verdict:?}");
}

/// Whatever answers there has none of the clients' data.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_whose_address_another_server_has_taken_serves_nobody() {
    let cluster = "profile = \"fast\"\nhold_timeout = \"1s\"\n";
    let mut scene = Scene::start(SceneSpec::new(Kind::Native, &["n1", "n2"], cluster)).await;
    scene.ready("n2").await;
    scene.workload.begin("lost", Nature::Unplanned);
    scene.mesh.node_mut("n1").reinit().await;
    scene.proxy.event("node_identity_changed", "n1").await;
    refuses(&scene.proxy).await;
    scene.console("FAILOVER main TO n2 ACCEPT LOSS").await.ok();
    let outage = scene.workload.outage("n1").await;
    println!("another server on the lead's address: {outage:?}");
    leads(&scene.proxy, "n2").await;
    let (verdict, ..) = scene.verdict(&["n2"]).await;
    assert!(verdict.is_clean_but_for_losses(1), "{verdict:?}");
}
