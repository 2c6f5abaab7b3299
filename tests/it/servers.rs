//! The harness itself: servers come up, replicate both ways, fall, and come back.

use crate::harness::bounce::{Bounce, Weather};
use crate::harness::client::{APP, APP_MD5, APP_PLAIN, APP_TRUST, DATABASE, Login};
use crate::harness::eventually;
use crate::harness::node::{Node, NodeSpec, Release};
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::raw::{self, RawConn};
use crate::harness::workspace::Workspace;

#[tokio::test]
async fn a_logical_pair_replicates_both_ways_and_again_after_a_crash() {
    for kind in [Kind::Pglogical, Kind::Native] {
        let schema = "CREATE TABLE t (id int PRIMARY KEY, v text);".to_owned();
        let mut pair = Pair::start(
            kind,
            PairSpec {
                schema,
                ..PairSpec::default()
            },
        )
        .await;
        pair.n1.query("INSERT INTO t VALUES (1, 'from n1')").await;
        pair.n2.query("INSERT INTO t VALUES (2, 'from n2')").await;
        pair.catch_up().await;
        let all = "SELECT string_agg(v, ', ' ORDER BY id) FROM t";
        for node in pair.nodes() {
            assert_eq!(
                node.scalar(all).await.as_deref(),
                Some("from n1, from n2"),
                "{kind:?}"
            );
        }

        pair.n1.kill9();
        pair.n2.query("INSERT INTO t VALUES (3, 'alone')").await;
        pair.n1.start().await;
        pair.catch_up().await;
        let all = pair.n1.scalar(all).await;
        assert_eq!(all.as_deref(), Some("from n1, from n2, alone"), "{kind:?}");
        let ids = "SELECT system_identifier FROM pg_control_system()";
        assert_ne!(
            pair.n1.scalar(ids).await,
            pair.n2.scalar(ids).await,
            "two nodes, two ids"
        );
    }
}

#[tokio::test]
async fn a_physical_pair_follows_its_primary() {
    let pair = Pair::physical(PairSpec::default()).await;
    assert!(pair.n2.holds("SELECT pg_is_in_recovery()").await);
    assert!(
        pair.n1
            .holds("SELECT active FROM pg_replication_slots WHERE slot_name = 'n2'")
            .await
    );
}

#[tokio::test]
async fn each_role_is_asked_for_what_its_name_says() {
    let workspace = Workspace::create();
    let node = Node::create(&workspace, NodeSpec::new("n1", Release::Pg15)).await;
    // AuthenticationOk is R0; 3 asks for a password in clear, 5 for MD5, 10 to 12 are SCRAM.
    let cases: [(Login, &str); 4] = [
        (APP, "R10 R11 R12 R0"),
        (APP_MD5, "R5 R0"),
        (APP_PLAIN, "R3 R0"),
        (APP_TRUST, "R0"),
    ];
    for (login, expected) in cases {
        let (mut conn, messages) = RawConn::login(node.port(), login, DATABASE).await;
        let trace = raw::trace(&messages);
        assert!(
            trace.starts_with(&format!("{expected} S")),
            "{}: {trace}",
            login.user
        );
        assert!(trace.ends_with("K ZI"), "{}: {trace}", login.user);
        assert_eq!(conn.query("SELECT 1/0").await, "E:22012 ZI");
        let prepared = [
            raw::parse("", "SELECT $1::text"),
            raw::bind("", "", &["x"]),
            raw::execute("", 0),
            raw::sync(),
        ];
        conn.send_slowly(&prepared.concat()).await;
        assert_eq!(raw::trace(&conn.read_until_ready(1).await), "1 2 D C ZI");
        conn.send(&raw::terminate()).await;
        assert_eq!(raw::trace(&conn.read_to_end().await), "");
    }
}

#[tokio::test]
async fn a_frozen_node_says_nothing_and_a_thawed_one_goes_on() {
    let workspace = Workspace::create();
    let mut node = Node::create(&workspace, NodeSpec::new("n1", Release::Pg15)).await;
    let (mut conn, _) = RawConn::login(node.port(), APP, DATABASE).await;
    node.freeze();
    conn.send(&raw::query("SELECT 1")).await;
    assert!(conn.is_silent(std::time::Duration::from_millis(100)).await);
    node.thaw();
    assert_eq!(raw::trace(&conn.read_until_ready(1).await), "T D C ZI");
    node.stop();
    assert_eq!(raw::trace(&conn.read_to_end().await), "E:57P01");
    node.start().await;
    assert!(node.holds("SELECT true").await);
}

#[tokio::test]
async fn the_relay_crumbles_and_resets() {
    let workspace = Workspace::create();
    let node = Node::create(&workspace, NodeSpec::new("n1", Release::Pg15)).await;
    let bounce = Bounce::to(node.port()).await;
    bounce.set(Weather::Crumbs);
    let (mut conn, _) = RawConn::login(bounce.port(), APP, DATABASE).await;
    assert_eq!(conn.query("SELECT 1").await, "T D C ZI");
    bounce.reset();
    assert!(conn.read().await.is_none());
    let gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'";
    eventually("the server noticed", || node.holds(gone)).await;
}
