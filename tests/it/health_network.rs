//! What lies between pgsluice and a node: each fault is judged by the step that it stops.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::harness::address::Door;
use crate::harness::bounce::{Bounce, Direction, Weather};
use crate::harness::client::{APP, APP_MD5, simple};
use crate::harness::cut::{Cut, Flow};
use crate::harness::eventually;
use crate::harness::layout::{Cluster, Layout, Member};
use crate::harness::node::{Node, NodeSpec, Release};
use crate::harness::pair::Kind;
use crate::harness::privilege::{Need, may};
use crate::harness::proxy::Proxy;
use crate::harness::raw::RawConn;
use crate::harness::workspace::Workspace;
use crate::health::{MONITORS, told};

/// Each step has a limit of its own, and between two failures there is time to see the first.
const STEPS: &str = "monitor_interval = \"200ms\"\nmonitor_fast_interval = \"1500ms\"\n\
                     monitor_connect_timeout = \"400ms\"\nmonitor_login_timeout = \"500ms\"\n\
                     monitor_timeout = \"600ms\"\nfall = 3\nrise = 1\n";
/// For what is slow and works.
const PATIENT: &str = "monitor_interval = \"200ms\"\nrise = 1\n";

/// One server.
pub(crate) async fn server() -> Node {
    Node::create(&Workspace::create(), NodeSpec::new("n1", Release::Pg15)).await
}

pub(crate) fn door(port: u16) -> Door {
    Door::new(Ipv4Addr::LOCALHOST, port)
}

/// An instance with a cluster of one node, and a database, for each way to the server; all three
/// have the way's name.
pub(crate) async fn instance(node: &Node, ways: &[(&'static str, Door, &str)]) -> Proxy {
    let mut layout = Layout::default();
    for (name, door, settings) in ways {
        let member = Member {
            name,
            door: *door,
            keys: String::new(),
        };
        layout = layout
            .cluster(Cluster {
                name: (*name).to_owned(),
                kind: Kind::Native,
                members: vec![member],
                marker: false,
                settings: format!("lead_note = false\n{settings}"),
            })
            .database(name, name, "");
    }
    let binary = env!("CARGO_BIN_EXE_pgsluice").into();
    let proxy = Proxy::serve(node.workspace(), "proxy", binary, &layout).await;
    for (name, ..) in ways {
        proxy.node_is(name, "observed", "up").await;
    }
    proxy
}

/// Every reason that is shown for the node until it is down.
async fn reasons(proxy: &Proxy, node: &str) -> BTreeSet<String> {
    let reasons = RefCell::new(BTreeSet::new());
    eventually(&format!("{node} is down"), async || {
        let row = proxy.node(node).await;
        let down = row["observed"] == "down";
        reasons.borrow_mut().insert(row["reason"].clone());
        down
    })
    .await;
    reasons.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_network_is_judged_by_the_step_that_it_stops() {
    if !may(Need::Packets) {
        return;
    }
    let node = server().await;
    let (hole, half) = (Bounce::to(node.port()).await, Bounce::to(node.port()).await);
    let (crumbs, slow) = (Bounce::to(node.port()).await, Bounce::to(node.port()).await);
    let paced = format!("{STEPS}release_per_ms = 1\n");
    let ways = [
        ("hole", door(hole.port()), paced.as_str()),
        ("half", door(half.port()), STEPS),
        ("crumbs", door(crumbs.port()), PATIENT),
        ("slow", door(slow.port()), PATIENT),
        ("silent", node.door(0), STEPS),
        ("refused", node.door(1), STEPS),
    ];
    let proxy = instance(&node, &ways).await;
    let old = proxy.connect_to("hole", APP).await.unwrap();
    crumbs.set(Weather::Crumbs);
    slow.set(Weather::Slow(Duration::from_millis(50)));
    hole.set(Weather::BlackHole);
    half.set_way(Direction::ToClient, Weather::HalfClosed);
    let workspace = node.workspace();
    let silent = Cut::silence(workspace, &Flow::both(&[node.door(0)]));
    let refused = Cut::refuse(workspace, &[node.door(1)]);

    let (of_hole, of_half, of_silent, of_refused) = tokio::join!(
        reasons(&proxy, "hole"),
        reasons(&proxy, "half"),
        reasons(&proxy, "silent"),
        reasons(&proxy, "refused")
    );
    for (reasons, step) in [
        (&of_hole, "query took longer than 600ms"),
        (&of_hole, "login took longer than 500ms"),
        (&of_silent, "query took longer than 600ms"),
        (&of_silent, "connect took longer than 400ms"),
        (&of_half, "closed"),
        (&of_refused, "refused"),
    ] {
        assert!(
            reasons.iter().any(|why| why.contains(step)),
            "{step}: {reasons:?}"
        );
    }
    for name in ["hole", "half", "silent", "refused"] {
        assert_eq!(told(&proxy, "node_down", name).await.len(), 1, "{name}");
    }

    // Whoever comes now waits, more of them than are let through in a moment.
    let port = proxy.port();
    let arrive = |_| tokio::spawn(RawConn::login(port, APP, "hole"));
    let newcomers: Vec<_> = (0..10).map(arrive).collect();
    eventually("they wait", async || {
        let pools = proxy.admin("SHOW POOLS").await.unwrap();
        pools
            .iter()
            .any(|pool| pool["database"] == "hole" && pool["cl_waiting"] == "10")
    })
    .await;
    hole.set(Weather::Clear);
    half.set(Weather::Clear);
    silent.heal();
    refused.heal();
    for newcomer in newcomers {
        newcomer.await.unwrap();
    }
    for (name, ..) in ways {
        proxy.node_is(name, "observed", "up").await;
        proxy.node_is(name, "reason", "").await;
    }
    simple(&old, "SELECT 1")
        .await
        .expect("nobody has touched it");
    for name in ["crumbs", "slow"] {
        assert_eq!(told(&proxy, "node_down", name).await.len(), 0, "{name}");
        let client = proxy.connect_to(name, APP).await.unwrap();
        simple(&client, "SELECT 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_probe_is_a_doubt_and_no_fall() {
    let node = server().await;
    let bounce = Bounce::to(node.port()).await;
    // The next probe but one would be in an hour, if there were no doubt.
    let settings = "monitor_interval = \"1h\"\nmonitor_fast_interval = \"1500ms\"\nfall = 3\n\
                    rise = 1\n";
    let proxy = instance(&node, &[("n1", door(bounce.port()), settings)]).await;
    let client = proxy.connect_to("n1", APP).await.unwrap();
    // Nobody listens there.
    bounce.retarget(1);
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {MONITORS}");
    node.query(&end).await;
    // A client that cannot log in is a reason to look.
    let newcomer = tokio::spawn(RawConn::login(proxy.port(), APP_MD5, "n1"));
    eventually("the doubt is shown", async || {
        let row = proxy.node("n1").await;
        assert_eq!(row["observed"], "up");
        !row["reason"].is_empty()
    })
    .await;
    bounce.retarget(node.port());
    proxy.node_is("n1", "reason", "").await;
    assert_eq!(told(&proxy, "node_down", "n1").await.len(), 0);
    simple(&client, "SELECT 1").await.unwrap();
    newcomer.await.unwrap();
}
