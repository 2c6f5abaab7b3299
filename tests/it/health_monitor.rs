//! What the monitor is told without asking, and what becomes of a node that does not let it in.

use std::fs;

use crate::harness::client::{APP, MONITOR, simple};
use crate::harness::eventually;
use crate::harness::layout::{Cluster, Layout};
use crate::harness::ledger::Nature;
use crate::harness::node::Node;
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::proxy::{CLUSTER, Proxy, ProxySpec};
use crate::harness::stage::{Stage, StageSpec};
use crate::health::{FAST, MONITORS, fast, guarded, leads_on, told};
use crate::switchover::stage;

/// No probe of its own accord once a node is proven: what is seen then, something has told.
const BY_EVIDENCE: &str = "failover = \"auto\"\nprofile = \"standard\"\nmonitor_interval = \"1h\"\n\
                           monitor_fast_interval = \"100ms\"\n";

/// A line in front of all others of `pg_hba.conf`, or none any more.
async fn reject_monitor(node: &Node, reject: bool) {
    let file = node.scalar("SHOW hba_file").await.unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let line = format!("host all {} all reject\n", MONITOR.user);
    let text = text.replace(&line, "");
    fs::write(&file, if reject { line + &text } else { text }).unwrap();
    node.query("SELECT pg_reload_conf()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_the_monitor_is_alive() {
    let stage = guarded(StageSpec {
        cluster: format!("{FAST}monitor_interval = \"100ms\"\n"),
        ..fast()
    })
    .await;
    let (proxy, n1) = (&stage.proxy, &stage.pair.n1);
    let password = format!("ALTER ROLE pgsluice PASSWORD '{}'", MONITOR.password);
    for (fault, cure, why) in [
        (
            "ALTER ROLE pgsluice PASSWORD 'another'",
            password.as_str(),
            "SQLSTATE 28P01",
        ),
        (
            "ALTER ROLE pgsluice NOLOGIN",
            "ALTER ROLE pgsluice LOGIN",
            "SQLSTATE 28000",
        ),
        (
            "GRANT CONNECT ON DATABASE app TO app; REVOKE CONNECT ON DATABASE app FROM PUBLIC",
            "GRANT CONNECT ON DATABASE app TO PUBLIC",
            "SQLSTATE 42501",
        ),
        ("reject", "admit", "SQLSTATE 28000"),
    ] {
        match fault {
            "reject" => reject_monitor(n1, true).await,
            sql => drop(n1.query(sql).await),
        }
        proxy.node_is("n1", "condition", "monitor refused").await;
        let row = proxy.node("n1").await;
        assert_eq!(row["observed"], "up", "{fault}");
        assert!(row["reason"].contains(why), "{fault}: {row:?}");
        // Without its old connection it hears nothing but that.
        let end =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {MONITORS}");
        n1.query(&end).await;
        stage.workload.all_served().await;
        proxy.node_is("n1", "condition", "monitor refused").await;
        match cure {
            "admit" => reject_monitor(n1, false).await,
            sql => drop(n1.query(sql).await),
        }
        proxy.node_is("n1", "condition", "").await;
        proxy.node_is("n1", "reason", "").await;
    }
    let told = told(proxy, "monitor_refused", "n1").await;
    let (over, began): (Vec<_>, Vec<_>) = told.iter().partition(|text| *text == "it is over");
    assert_eq!((began.len(), over.len()), (4, 4), "{told:?}");

    // What it may not see any more costs the view a link, and the node nothing.
    n1.query("REVOKE pg_monitor FROM pgsluice").await;
    proxy.node_is("n2", "replication", "hidden").await;
    let row = proxy.node("n1").await;
    assert_eq!((&*row["observed"], &*row["condition"]), ("up", ""));
    n1.query("GRANT pg_monitor TO pgsluice").await;
    proxy.node_is("n2", "replication", "streaming").await;
    leads_on(proxy).await;
    let work = stage.workload.stop().await;
    let errors: Vec<_> = work.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_let_the_monitor_in_is_not_proven() {
    let pair = Pair::native(PairSpec::default()).await;
    pair.n1
        .query("ALTER ROLE pgsluice PASSWORD 'another'")
        .await;
    let spec = ProxySpec {
        cluster: FAST.to_owned(),
        ..ProxySpec::new(env!("CARGO_BIN_EXE_pgsluice").into())
    };
    let proxy = Proxy::start(&pair, spec).await;
    proxy.node_is("n1", "condition", "monitor refused").await;
    proxy.node_is("n2", "observed", "up").await;
    let row = proxy.node("n1").await;
    assert_eq!(row["observed"], "unknown");
    assert!(
        row["reason"].contains("password authentication failed"),
        "{row:?}"
    );
    proxy.event("monitor_refused", "n1").await;
    assert_eq!(proxy.recorded_lead(), None, "n1 may yet be the better one");
    let cure = format!("ALTER ROLE pgsluice PASSWORD '{}'", MONITOR.password);
    pair.n1.query(&cure).await;
    proxy.serving().await;
    assert_eq!(proxy.lead().await.as_deref(), Some("n1"));
}

/// A promoted standby says so with the next answer to any session; to an idle one, as the monitor's
/// is between two probes, it says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_seen_with_the_next_answer_to_a_client() {
    let pair = Pair::physical(PairSpec::default()).await;
    let cluster = Cluster::new(CLUSTER, &pair.lab(), 0).settings(BY_EVIDENCE);
    let layout = Layout::default()
        .cluster(cluster)
        .database("app", CLUSTER, "")
        .database("reads", CLUSTER, "route = \"read\"\n");
    let binary = env!("CARGO_BIN_EXE_pgsluice").into();
    let proxy = Proxy::serve(&pair.workspace, "proxy", binary, &layout).await;
    proxy.serving().await;
    proxy.node_is("n2", "in_recovery", "yes").await;
    proxy.node_is("n2", "observed", "up").await;
    let client = proxy.connect_to("reads", APP).await.unwrap();
    let standby = "SELECT pg_is_in_recovery()";
    assert_eq!(
        simple(&client, standby).await.unwrap()[0][0].as_deref(),
        Some("t")
    );
    pair.n2.query("SELECT pg_promote()").await;
    // It may be ended for it: n2 follows no more.
    let _ = simple(&client, standby).await;
    proxy.node_is("n2", "in_recovery", "no").await;
    // Nobody here has asked for it.
    proxy.event("unexpected_primary", "n2").await;
    proxy.node_is("n2", "observed", "recovering").await;
    assert_eq!(proxy.lead().await.as_deref(), Some("n1"));
}

/// What a node told before is not forgotten because it was cut short this time: a failover needs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_cut_short_makes_no_node_lose_its_links() {
    let pair = Pair::native(PairSpec::default()).await;
    let spec = ProxySpec {
        cluster: "monitor_interval = \"20ms\"\nmonitor_fast_interval = \"20ms\"\n".to_owned(),
        ..ProxySpec::new(env!("CARGO_BIN_EXE_pgsluice").into())
    };
    let proxy = Proxy::start(&pair, spec).await;
    proxy.serving().await;
    proxy.node_is("n2", "observed", "up").await;
    let inside = pair.n1.connect("app").await;
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {MONITORS}");
    let mut ended = 0;
    while ended < 100 {
        ended += simple(&inside, &end).await.unwrap().len();
    }
    proxy.node_is("n1", "reason", "").await;
    let events = proxy.events().await.into_iter();
    let lost = ["replication_broken", "node_recovering"];
    let lost: Vec<_> = events
        .filter(|event| lost.contains(&&*event["type"]))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_see_makes_the_monitor_look_at_once() {
    // Nobody asks by the clock: what `Stage::ready` waits for never comes.
    let mut stage = Stage::start(StageSpec {
        cluster: BY_EVIDENCE.to_owned(),
        writers: 4,
        ..stage(Kind::Native)
    })
    .await;
    stage.proxy.may_lead(CLUSTER, "n2").await;
    let client = stage.proxy.connect_as(APP).await.unwrap();
    let pid = simple(&client, "SELECT pg_backend_pid()").await.unwrap();
    let pid = pid[0][0].clone().unwrap();
    let asked = format!("SELECT max(query_start)::text FROM pg_stat_activity WHERE {MONITORS}");
    let before = stage.pair.n1.scalar(&asked).await;
    let end = format!("SELECT pg_terminate_backend({pid})");
    stage.pair.n1.query(&end).await;
    eventually("n1 is asked", async || {
        stage.pair.n1.scalar(&asked).await != before
    })
    .await;
    stage.workload.all_served().await;
    leads_on(&stage.proxy).await;
    assert_eq!(stage.proxy.node("n1").await["reason"], "");

    stage.proxy.may_lead(CLUSTER, "n2").await;
    stage.workload.begin("killed", Nature::Unplanned);
    stage.pair.n1.kill9();
    stage.workload.outage("n1").await;
    stage.proxy.node_is("n1", "observed", "down").await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
}
