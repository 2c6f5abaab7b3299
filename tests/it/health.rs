//! A node's health, and what clients feel of it: connection slots used up, and processes that are
//! frozen. Nobody is moved who still gets answers.

use std::cell::RefCell;
use std::time::Duration;

use crate::harness::client::{APP_MD5, DATABASE, simple};
use crate::harness::crowd::Crowd;
use crate::harness::eventually;
use crate::harness::node::NodeSpec;
use crate::harness::pair::Kind;
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, ProxySpec};
use crate::harness::raw::RawConn;
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

/// Of the monitor's own connections to a node.
pub(crate) const MONITORS: &str = "application_name = 'pgsluice'";

/// Automatic failover, with the timings of the fast profile.
pub(crate) const FAST: &str = "failover = \"auto\"\nprofile = \"fast\"\n";

/// A native pair under writers whose lead is replaced when it is lost, and n2 ready for it.
pub(crate) async fn guarded(spec: StageSpec) -> Stage {
    let stage = Stage::start(StageSpec { writers: 4, ..spec }).await;
    stage.ready("n2").await;
    stage
}

pub(crate) fn fast() -> StageSpec {
    StageSpec {
        cluster: FAST.to_owned(),
        ..stage(Kind::Native)
    }
}

/// Details of the events of that type that tell of that node.
pub(crate) async fn told(proxy: &Proxy, kind: &str, node: &str) -> Vec<String> {
    let events = proxy.events().await.into_iter();
    events
        .filter(|event| event["type"] == kind && event["node"] == node)
        .map(|mut event| event.remove("detail").unwrap())
        .collect()
}

/// Nobody has moved the lead from n1, or begun to, and it was never down.
pub(crate) async fn leads_on(proxy: &Proxy) {
    assert_eq!(proxy.lead().await.as_deref(), Some("n1"));
    for kind in ["node_down", "clients_held", "failover_barred"] {
        assert_eq!(told(proxy, kind, "n1").await, Vec::<String>::new());
    }
    let events = proxy.events().await;
    let begun = events.iter().find(|e| e["type"] == "operation_started");
    assert_eq!(begun, None);
}

/// A client that comes just now, of a user who has no server yet: it must log in to the node.
pub(crate) fn newcomer(proxy: &Proxy) -> tokio::task::JoinHandle<RawConn> {
    let port = proxy.port();
    tokio::spawn(async move { RawConn::login(port, APP_MD5, DATABASE).await.0 })
}

/// It is served by that node.
pub(crate) async fn served_by(newcomer: tokio::task::JoinHandle<RawConn>, node: &str) {
    let mut client = newcomer.await.unwrap();
    let name = client.value("SHOW pgsluice_test.node").await;
    assert_eq!(name.as_deref(), Some(node));
}

fn few_connections(node: &mut NodeSpec) {
    if node.name == "n1" {
        node.settings.push_str("max_connections = 30\n");
    }
}

/// Whoever leaves makes room for one more: filled until n1 is seen to be full.
async fn fill(proxy: &Proxy, stage: &Stage) -> Vec<Crowd> {
    let crowds = RefCell::new(Vec::new());
    eventually("n1 is full", async || {
        let crowd = Crowd::fill(&stage.pair.n1).await;
        crowds.borrow_mut().push(crowd);
        proxy.node("n1").await["condition"] == "full"
    })
    .await;
    crowds.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_whose_connections_are_all_taken_keeps_its_sessions() {
    let stage = guarded(StageSpec {
        adjust: Some(few_connections),
        ..fast()
    })
    .await;
    let crowd = fill(&stage.proxy, &stage).await;
    stage.proxy.event("node_full", "n1").await;
    let row = stage.proxy.node("n1").await;
    assert_eq!((&*row["observed"], &*row["role"]), ("up", "lead"));
    assert!(row["reason"].contains("SQLSTATE 53300"), "{row:?}");
    let newcomer = newcomer(&stage.proxy);
    stage.workload.all_served().await;
    assert!(!newcomer.is_finished(), "it waits for room");
    drop(crowd);
    served_by(newcomer, "n1").await;
    stage.proxy.node_is("n1", "condition", "").await;
    assert_eq!(stage.proxy.node("n1").await["reason"], "");
    leads_on(&stage.proxy).await;
    let work = stage.workload.stop().await;
    let errors: Vec<_> = work.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_starts_before_a_full_lead_waits_for_room() {
    let stage = guarded(StageSpec {
        adjust: Some(few_connections),
        ..fast()
    })
    .await;
    let crowd = fill(&stage.proxy, &stage).await;
    let spec = ProxySpec {
        name: "late",
        // Of its own mind: not told by the nodes who leads.
        cluster: format!("{FAST}lead_note = false\n"),
        door: Some(1),
        ..ProxySpec::new(env!("CARGO_BIN_EXE_pgsluice").into())
    };
    let late = Proxy::start(&stage.pair, spec).await;
    late.node_is("n1", "condition", "full").await;
    late.node_is("n2", "observed", "up").await;
    let row = late.node("n1").await;
    assert_eq!(row["observed"], "unknown", "nothing is proven");
    assert!(row["reason"].contains("SQLSTATE 53300"), "{row:?}");
    late.event("node_full", "n1").await;
    assert_eq!(
        late.recorded_lead(),
        None,
        "n2 is not taken for want of n1's answer"
    );
    let newcomer = newcomer(&late);
    drop(crowd);
    served_by(newcomer, "n1").await;
    assert_eq!(late.lead().await.as_deref(), Some("n1"));
    let row = late.node("n1").await;
    assert_eq!((&*row["observed"], &*row["condition"]), ("up", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_postmaster_costs_no_session_its_lead() {
    let stage = guarded(fast()).await;
    let (proxy, n1) = (&stage.proxy, &stage.pair.n1);
    let inside = n1.connect(DATABASE).await;
    n1.freeze_postmaster();
    let newcomer = newcomer(proxy);
    proxy.node_is("n1", "condition", "logins stuck").await;
    proxy.event("node_logins_stuck", "n1").await;
    let row = proxy.node("n1").await;
    assert_eq!(row["observed"], "up");
    assert!(row["reason"].contains("login took longer than"), "{row:?}");
    stage.workload.all_served().await;
    assert!(!newcomer.is_finished(), "it waits");
    n1.thaw();
    served_by(newcomer, "n1").await;
    proxy.node_is("n1", "condition", "").await;
    leads_on(proxy).await;

    // Without a connection of its own the monitor is blind; who is served is not.
    n1.freeze_postmaster();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {MONITORS}");
    simple(&inside, &end).await.unwrap();
    proxy.event("failover_barred", "n1").await;
    let barred = told(proxy, "failover_barred", "n1").await;
    assert!(
        barred[0].contains("sessions on the lead still get answers"),
        "{barred:?}"
    );
    assert_eq!(proxy.node("n1").await["observed"], "down");
    stage.workload.all_served().await;
    assert_eq!(proxy.lead().await.as_deref(), Some("n1"));
    let calm = stage.workload.current();
    assert_eq!((calm.failures.len(), calm.reconnects), (0, 0), "{calm:?}");

    stage.workload.strike("sessions silent too", || n1.freeze());
    stage.workload.outage("n1").await;
    assert_eq!(proxy.lead().await.as_deref(), Some("n2"));
    proxy.event("failover_completed", "n2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_frozen_in_part_is_left_alone_and_as_a_whole_is_lost() {
    let stage = guarded(fast()).await;
    let (proxy, n1) = (&stage.proxy, &stage.pair.n1);
    let helpers = [
        n1.freeze_process(Process::Checkpointer).await,
        n1.freeze_process(Process::WalWriter).await,
    ];
    stage.workload.all_served().await;
    stage.workload.all_served().await;
    drop(helpers);
    leads_on(proxy).await;

    // All sessions hang, and new ones are served: the monitor loses one probe, and looks again.
    let known = n1.pids_where(MONITORS).await;
    n1.freeze_children();
    served_by(newcomer(proxy), "n1").await;
    eventually("the monitor logged in again", async || {
        let now = n1.pids_where(MONITORS).await;
        now.iter().any(|pid| !known.contains(pid))
    })
    .await;
    proxy.node_is("n1", "reason", "").await;
    n1.thaw();
    stage.workload.all_served().await;
    leads_on(proxy).await;
    let calm = stage.workload.current();
    assert_eq!((calm.failures.len(), calm.reconnects), (0, 0), "{calm:?}");

    stage.ready("n2").await;
    stage.workload.strike("frozen", || n1.freeze());
    let outage = stage.workload.outage("n1").await;
    assert_eq!(proxy.lead().await.as_deref(), Some("n2"));
    // The bound for silence.
    assert!(outage.first < Duration::from_secs(3), "{outage:?}");
}
