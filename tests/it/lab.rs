//! The test lab: each fault does on real servers what it says, and ends when it is told to.

use std::time::Duration;

use crate::harness::address::Door;
use crate::harness::client::{APP, DATABASE, SUPERUSER, connect_at};
use crate::harness::crowd::Crowd;
use crate::harness::cut::{Cut, Flow};
use crate::harness::disk::{DiskSpec, Holds};
use crate::harness::eventually;
use crate::harness::lab::{Part, Way};
use crate::harness::link::Rows;
use crate::harness::mesh::{Mesh, MeshSpec};
use crate::harness::node::{Node, NodeSpec, Release};
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::privilege::{Need, may};
use crate::harness::process::{Frozen, Process};
use crate::harness::workspace::Workspace;

/// How long silence is listened to.
const A_WHILE: Duration = Duration::from_millis(300);

/// How a login at that door ended.
#[derive(Debug, PartialEq, Eq)]
enum Login {
    Served,
    Refused,
    Silence,
}

async fn login(door: Door) -> Login {
    match tokio::time::timeout(A_WHILE, connect_at(door.into(), SUPERUSER, DATABASE)).await {
        Ok(Ok(_)) => Login::Served,
        Ok(Err(_)) => Login::Refused,
        Err(_) => Login::Silence,
    }
}

async fn node(spec: NodeSpec) -> Node {
    Node::create(&Workspace::create(), spec).await
}

fn spec() -> NodeSpec {
    NodeSpec::new("n1", Release::Pg15)
}

#[tokio::test]
async fn a_node_cut_off_from_pgsluice_goes_on_replicating() {
    if !may(Need::Packets) {
        return;
    }
    let pair = Pair::native(PairSpec::default()).await;
    let lab = pair.lab();
    let door = pair.n1.door(0);
    assert_eq!(login(door).await, Login::Served);
    let (session, _driver) = connect_at(door.into(), APP, DATABASE).await.unwrap();

    let cut = lab.silence("n1", Part::Pgsluice, Way::Both);
    assert_eq!(login(door).await, Login::Silence);
    let answer = session.simple_query("SELECT 1");
    tokio::pin!(answer);
    let silent = tokio::time::timeout(A_WHILE, &mut answer).await.is_err();
    assert!(silent, "an old connection is silent as well");
    assert_eq!(login(pair.n2.door(0)).await, Login::Served);
    lab.catch_up().await;
    cut.heal();
    assert!(answer.await.is_ok(), "TCP tries again");
    assert_eq!(login(door).await, Login::Served);
}
