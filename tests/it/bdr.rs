//! The profile of BDR and PGD, on a pair that looks like one: `tests/fixtures/bdr_stub.sql` puts
//! views and functions of their names over native replication. What that cannot prove is said in
//! `docs/bdr.md`.

use std::fs;
use std::path::PathBuf;

use crate::harness::client::MONITOR;
use crate::harness::eventually;
use crate::harness::ledger::Nature;
use crate::harness::node::Node;
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::proxy::{CLUSTER, NamedRow, Proxy, ProxySpec};
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

const STUB: &str = include_str!("../fixtures/bdr_stub.sql");

fn stub() -> String {
    format!("{STUB}\nGRANT bdr_monitor TO {};", MONITOR.user)
}

/// What PGD 5 has and BDR 3.6 has not, or not under that name.
const OLD: &str = "\
DROP FUNCTION bdr.wait_for_apply_queue(text, pg_lsn);
DROP FUNCTION bdr.get_node_sub_receive_lsn(name, boolean);
DROP FUNCTION bdr.get_node_sub_apply_lsn(name);
DROP FUNCTION bdr.get_configured_camo_partner();
DROP FUNCTION bdr.is_camo_partner_connected();
DROP FUNCTION bdr.is_camo_partner_ready();
DROP FUNCTION bdr.camo_transactions_resolved();
DROP FUNCTION bdr.get_raft_status();
DROP VIEW bdr.subscription_summary, bdr.stat_subscription, bdr.tables, bdr.local_node_summary;
DROP TABLE bdr.conflict_history_summary;
CREATE VIEW bdr.local_node_summary AS
    SELECT node_name, node_group_name, peer_state_name FROM bdr.node_summary WHERE node_name = bdr.stub_self();
GRANT SELECT ON bdr.local_node_summary TO bdr_monitor;
";

async fn pair() -> Pair {
    let pair = Pair::native(PairSpec {
        schema: stub(),
        ..PairSpec::default()
    })
    .await;
    for node in pair.nodes() {
        group_slot(node).await;
    }
    pair
}

async fn group_slot(node: &Node) {
    node.query("SELECT pg_create_logical_replication_slot('bdr_app_group', 'pgoutput')")
        .await;
}

async fn proxy(pair: &Pair) -> Proxy {
    let spec = ProxySpec {
        cluster: "replication = \"auto\"\nmonitor_interval = \"100ms\"\n".to_owned(),
        ..ProxySpec::new(PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")))
    };
    let proxy = Proxy::start(pair, spec).await;
    proxy.serving().await;
    proxy
}

async fn both_stream(proxy: &Proxy) -> Vec<NamedRow> {
    eventually("both directions stream", async || {
        let links = proxy.admin("SHOW REPLICATION").await.unwrap();
        links.len() == 2 && links.iter().all(|link| link["state"] == "streaming")
    })
    .await;
    proxy.admin("SHOW REPLICATION").await.unwrap()
}

/// Lines of a server's log that a probe of something absent or forbidden would leave.
fn noise(node: &Node) -> Vec<String> {
    let log = fs::read_to_string(node.log()).unwrap();
    let noisy = |line: &&str| {
        line.contains("ERROR")
            && (line.contains("bdr") || line.contains("permission") || line.contains("exist"))
    };
    log.lines().filter(noisy).map(str::to_owned).collect()
}

async fn set(node: &Node, key: &str, value: &str) {
    let sql = format!("UPDATE bdr.stub SET value = {value} WHERE key = '{key}'");
    node.query(&sql).await;
}

async fn dry_run(proxy: &Proxy) -> Result<Vec<NamedRow>, String> {
    let sql = format!("SWITCHOVER {CLUSTER} TO n2 DRY RUN");
    proxy.admin(&sql).await.map_err(|error| {
        let db = error.as_db_error().unwrap();
        format!("{} {}", db.message(), db.detail().unwrap_or_default())
    })
}

#[tokio::test]
async fn a_group_is_found_and_shown_as_it_names_itself() {
    let mut pair = pair().await;
    let proxy = proxy(&pair).await;
    for link in both_stream(&proxy).await {
        let from = &link["source"];
        assert_eq!(link["kind"], "bdr", "{link:?}");
        assert_eq!(link["slot"], format!("{}_from_{from}", link["target"]));
        assert_eq!(link["subscription"], link["slot"], "{link:?}");
        assert_eq!(
            (link["enabled"].as_str(), link["conflicts"].as_str()),
            ("yes", "0")
        );
        assert_eq!(link["apply_errors"], "0", "{link:?}");
    }
    let slots = proxy.admin("SHOW SLOTS").await.unwrap();
    let owner = |node: &str, slot: &str| {
        let found = slots
            .iter()
            .find(|s| s["node"] == node && s["slot"] == slot);
        found.unwrap()["owner"].clone()
    };
    assert_eq!(owner("n1", "n2_from_n1"), "n2");
    assert_eq!(owner("n1", "bdr_app_group"), "bdr group");

    // Conflicts are counted at the node that met them.
    let conflict = "INSERT INTO bdr.conflict_history_summary (local_time) VALUES (now()), (now() - interval '1 day')";
    pair.n2.query(conflict).await;
    eventually("the conflict is shown and told", async || {
        let links = proxy.admin("SHOW REPLICATION").await.unwrap();
        let events = proxy.admin("SHOW EVENTS").await.unwrap();
        links
            .iter()
            .any(|l| l["target"] == "n2" && l["conflicts"] == "1")
            && events
                .iter()
                .any(|e| e["type"] == "replication_conflict" && e["node"] == "n2")
    })
    .await;

    // A logical standby, and its promotion.
    for (kind, state) in [("standby", "STANDBY"), ("data", "ACTIVE")] {
        set(&pair.n2, "kind", &format!("'{kind}'")).await;
        set(&pair.n2, "state", &format!("'{state}'")).await;
        eventually(&format!("n2 is shown as {kind}"), async || {
            let nodes = proxy.admin("SHOW NODES").await.unwrap();
            let n2 = nodes.iter().find(|n| n["node"] == "n2").unwrap();
            n2["bdr_node"] == "beta"
                && (n2["kind"].as_str(), n2["bdr_state"].as_str()) == (kind, state)
                && (n2["raft_state"].as_str(), n2["raft_has_leader"].as_str())
                    == ("RAFT_FOLLOWER", "yes")
        })
        .await;
    }
    for node in pair.nodes() {
        assert_eq!(noise(node), Vec::<String>::new());
    }

    // What beta has received and applied of alpha is asked of beta.
    pair.n1.kill9();
    let sql = format!("FAILOVER {CLUSTER} TO n2 ACCEPT LOSS");
    eventually("the failover is accepted", async || {
        proxy.admin(&sql).await.is_ok()
    })
    .await;
    assert_eq!(proxy.lead().await.as_deref(), Some("n2"));
    assert_eq!(noise(&pair.n2), Vec::<String>::new());
}

#[tokio::test]
async fn what_bdr_says_of_a_node_refuses_a_switchover() {
    let pair = pair().await;
    let proxy = proxy(&pair).await;
    both_stream(&proxy).await;
    eventually("nothing is refused", async || dry_run(&proxy).await.is_ok()).await;

    let camo = [("camo_partner", "'alpha'")];
    for (node, changes, refusal) in [
        (
            &pair.n2,
            vec![("kind", "'standby'"), ("state", "'STANDBY'")],
            "of kind standby",
        ),
        (
            &pair.n2,
            vec![("kind", "'subscriber-only'")],
            "of kind subscriber-only",
        ),
        (
            &pair.n2,
            vec![("state", "'PARTING'")],
            "\"beta\" is in state PARTING",
        ),
        (
            &pair.n1,
            vec![("state", "'PART_START'")],
            "\"alpha\" is in state PART_START",
        ),
        (
            &pair.n2,
            vec![camo[0], ("camo_ready", "'false'")],
            "CAMO partner \"alpha\" of BDR node \"beta\" is not ready",
        ),
        (
            &pair.n1,
            vec![camo[0], ("camo_connected", "'false'")],
            "of BDR node \"alpha\" is not ready",
        ),
        (
            &pair.n1,
            vec![("camo_resolved", "'false'")],
            "CAMO transactions that are not decided",
        ),
    ] {
        for (key, value) in &changes {
            set(node, key, value).await;
        }
        let why = dry_run(&proxy).await.unwrap_err();
        assert!(why.contains(refusal), "{changes:?}: {why}");
        for (key, value) in [
            ("kind", "'data'"),
            ("state", "'ACTIVE'"),
            ("camo_partner", "NULL"),
            ("camo_ready", "'true'"),
            ("camo_connected", "'true'"),
            ("camo_resolved", "'true'"),
        ] {
            set(node, key, value).await;
        }
        dry_run(&proxy).await.unwrap();
    }

    // CAMO that is ready, and a group without a leader: replication works without one.
    for node in pair.nodes() {
        set(node, "camo_partner", "'somebody'").await;
        set(node, "raft", "'RAFT_CANDIDATE'").await;
        node.query("CREATE TABLE outside (id int PRIMARY KEY)")
            .await;
    }
    let found = dry_run(&proxy).await.unwrap();
    for warning in [
        "\"beta\" sees no consensus (RAFT_CANDIDATE)",
        "1 tables on \"n1\" are not replicated: public.outside",
    ] {
        assert!(
            found
                .iter()
                .any(|f| f["level"] == "warning" && f["finding"].contains(warning)),
            "{warning}: {found:?}"
        );
    }

    // A peer that the lead does not feed.
    pair.n1.query("ALTER VIEW bdr.node_slots RENAME TO node_slots_gone; CREATE VIEW bdr.node_slots AS SELECT * FROM bdr.node_slots_gone WHERE is_group_slot; GRANT SELECT ON bdr.node_slots TO bdr_monitor").await;
    let why = dry_run(&proxy).await.unwrap_err();
    assert!(
        why.contains("\"n2\" does not replicate from \"n1\""),
        "{why}"
    );
}

#[tokio::test]
async fn a_role_that_may_not_look_is_told_which_grant_it_lacks() {
    let pair = pair().await;
    let proxy = proxy(&pair).await;
    both_stream(&proxy).await;
    pair.n2
        .query(&format!("REVOKE bdr_monitor FROM {}", MONITOR.user))
        .await;
    eventually("the link cannot be seen", async || {
        let links = proxy.admin("SHOW REPLICATION").await.unwrap();
        links.iter().all(|link| link["target"] != "n2")
    })
    .await;
    let why = dry_run(&proxy).await.unwrap_err();
    assert!(why.contains("GRANT bdr_monitor"), "{why}");
    // The node itself is none the worse, and its log says nothing.
    let nodes = proxy.admin("SHOW NODES").await.unwrap();
    assert!(
        nodes.iter().all(|node| node["observed"] != "down"),
        "{nodes:?}"
    );
    // A probe may have been on its way when the role lost its grant; none after it fails.
    let probed = async || {
        let sql = format!(
            "SELECT max(query_start) FROM pg_stat_activity WHERE usename = '{}'",
            MONITOR.user
        );
        pair.n2.scalar(&sql).await
    };
    let noise_before = noise(&pair.n2);
    for _ in 0..5 {
        let before = probed().await;
        eventually("it is probed again", async || probed().await != before).await;
    }
    assert_eq!(noise(&pair.n2), noise_before);
}

#[tokio::test]
async fn the_lead_of_a_group_moves_under_writers_and_nothing_is_lost() {
    let spec = StageSpec {
        cluster: "replication = \"bdr\"\n".to_owned(),
        schema: stub(),
        ..stage(Kind::Native)
    };
    let stage = Stage::start(spec).await;
    for target in ["n2", "n1", "n2", "n1"] {
        stage.moves_to(target).await;
    }
    // The target's own word was asked for.
    for (node, peer) in [(&stage.pair.n2, "alpha"), (&stage.pair.n1, "beta")] {
        let log = fs::read_to_string(node.log()).unwrap();
        assert!(log.contains(&format!("waiting for the queue of {peer}")));
        assert_eq!(noise(node), Vec::<String>::new());
    }
    stage.proves(4).await;
}

#[tokio::test]
async fn an_old_bdr_with_the_bare_views_moves_and_fails_over_too() {
    let spec = StageSpec {
        cluster: "replication = \"auto\"\n".to_owned(),
        schema: format!("{}\n{OLD}", stub()),
        marker: false,
        ..stage(Kind::Native)
    };
    let mut stage = Stage::start(spec).await;
    let links = both_stream(&stage.proxy).await;
    assert!(links.iter().all(|link| link["kind"] == "bdr"), "{links:?}");
    stage.moves_to("n2").await;
    stage.moves_to("n1").await;
    for node in stage.pair.nodes() {
        assert_eq!(noise(node), Vec::<String>::new());
    }

    // Nothing there tells what is applied: the operator reads which grant or view is missing.
    stage.workload.begin("killed", Nature::Unplanned);
    stage.pair.n1.kill9();
    eventually("the failover is refused for that", async || {
        let sql = format!("FAILOVER {CLUSTER} TO n2 ACCEPT LOSS");
        match stage.proxy.admin(&sql).await {
            Err(error) => error
                .as_db_error()
                .and_then(|db| db.detail().map(|detail| detail.contains("bdr_monitor")))
                .unwrap_or(false),
            Ok(_) => panic!("it cannot know"),
        }
    })
    .await;
    stage.pair.n2.query(
        "CREATE VIEW bdr.subscription_summary AS SELECT subname AS sub_name, 'alpha'::name AS origin_name, \
           'beta'::name AS target_name, subenabled AS sub_enabled, NULL::pg_lsn AS receive_commit_lsn, \
           NULL::pg_lsn AS last_xact_replay_lsn FROM pg_subscription; \
         GRANT SELECT ON bdr.subscription_summary TO bdr_monitor",
    )
    .await;
    eventually("the failover is accepted", async || {
        let sql = format!("FAILOVER {CLUSTER} TO n2 ACCEPT LOSS");
        stage.proxy.admin(&sql).await.is_ok()
    })
    .await;
    stage.workload.all_served().await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    let work = stage.workload.stop().await;
    assert_eq!(work.errors().count(), 0, "{:?}", work.errors().next());
}
