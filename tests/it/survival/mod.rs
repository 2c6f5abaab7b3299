//! The cluster survives: what operators and clients see when nodes fail, come back, are replaced and
//! are maintained. Each test is a scenario.

#![allow(
    clippy::print_stdout,
    reason = "figures for docs/scenarios.md, with --nocapture"
)]

mod both_down;
mod collapse;
mod demoted;
mod failover;
mod identity;
mod maintenance;
mod memory;
mod partition;
mod reads;
mod returns;
mod sessions;
mod standby;
mod succession;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::client::{APP, DATABASE, MONITOR, connect, simple};
use crate::harness::eventually;
use crate::harness::layout::{Cluster, Layout};
use crate::harness::ledger::{self, Verdict, Work, Workload, WorkloadSpec, check_copies};
use crate::harness::mesh::{Mesh, MeshSpec};
use crate::harness::pair::Kind;
use crate::harness::proxy::{ADMIN, CLUSTER, NamedRow, Proxy};
use crate::harness::workspace::{children, signal};
use crate::tool::{Said, console, start_console};

/// A lead is replaced by itself, and quickly.
pub(crate) const FAST: &str = "failover = \"auto\"\nprofile = \"fast\"\n";
/// Nobody waits for a pause after a failover, and nobody is flapping.
pub(crate) const AGAIN: &str = "failover_min_interval = \"0\"\nflap_limit = 0\n";
/// The database whose sessions only read.
pub(crate) const READ: &str = "app_ro";

/// Nodes, pgsluice in front of them, and clients that write all the time.
pub(crate) struct SceneSpec {
    pub(crate) mesh: MeshSpec,
    /// Lines of `[clusters.main]`.
    pub(crate) cluster: String,
    /// More keys for nodes.
    pub(crate) keys: Vec<(&'static str, &'static str)>,
    pub(crate) writers: usize,
}

impl SceneSpec {
    /// Masters that replicate to each other; see [`MeshSpec::masters`].
    pub(crate) fn new(kind: Kind, names: &[&'static str], cluster: &str) -> Self {
        Self {
            mesh: MeshSpec {
                schema: ledger::schema(),
                ..MeshSpec::masters(kind, names)
            },
            cluster: cluster.to_owned(),
            keys: Vec::new(),
            writers: 4,
        }
    }
}

/// See [`SceneSpec`].
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) proxy: Proxy,
    pub(crate) workload: Workload,
}

/// pgsluice in front of a mesh.
pub(crate) async fn proxy(mesh: &Mesh, cluster: &str, keys: &[(&'static str, &str)]) -> Proxy {
    let mut shown = Cluster::new(CLUSTER, &mesh.lab(), 0).settings(cluster);
    for (node, keys) in keys {
        shown = shown.keys(node, keys);
    }
    let layout = Layout::default()
        .cluster(shown)
        .database(DATABASE, CLUSTER, "")
        .database(READ, CLUSTER, "route = \"read\"\n");
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_pgsluice"));
    Proxy::serve(&mesh.workspace, "proxy", binary, &layout).await
}

/// Writers that come through pgsluice.
pub(crate) async fn writers(proxy: &Proxy, writers: usize) -> Workload {
    Workload::start(WorkloadSpec {
        port: proxy.port(),
        login: APP,
        dbname: DATABASE.to_owned(),
        writers,
        think: Duration::from_millis(5),
    })
    .await
}

impl Scene {
    pub(crate) async fn start(spec: SceneSpec) -> Self {
        let mesh = Mesh::start(spec.mesh).await;
        let proxy = proxy(&mesh, &spec.cluster, &spec.keys).await;
        proxy.serving().await;
        let workload = writers(&proxy, spec.writers).await;
        Self {
            mesh,
            proxy,
            workload,
        }
    }

    /// Waits until the node may become lead, and its probes have told.
    pub(crate) async fn ready(&self, node: &str) {
        self.proxy.ready(CLUSTER, node).await;
    }

    /// By psql, as operators say it.
    pub(crate) async fn console(&self, sql: &str) -> Said {
        console(&self.proxy, ADMIN, sql).await
    }

    /// Ends the writers; what these copies say of what they were told.
    pub(crate) async fn verdict(self, copies: &[&str]) -> (Verdict, Work, Proxy) {
        self.verdict_but(copies, &BTreeSet::new()).await
    }

    /// The same, with writes of a failed lead that arrived only after a failover.
    pub(crate) async fn verdict_but(
        self,
        copies: &[&str],
        late: &BTreeSet<i64>,
    ) -> (Verdict, Work, Proxy) {
        let work = self.workload.stop().await;
        if copies.len() > 1 {
            self.mesh.catch_up().await;
        }
        let nodes: Vec<_> = copies.iter().map(|name| self.mesh.node(name)).collect();
        let verdict = check_copies(&nodes, &work, late).await;
        (verdict, work, self.proxy)
    }
}

/// Kills nodes, and pgsluice as `proxy`, in this order, with one signal for all their processes: no
/// failover fits in between.
pub(crate) fn kill_at_once(scene: &mut Scene, victims: &[&str]) {
    let nodes = || victims.iter().filter(|name| **name != "proxy");
    let postmasters: Vec<u32> = nodes().map(|name| scene.mesh.node(name).pid()).collect();
    // Frozen first, so that they start no more children while they are listed.
    signal(&postmasters, "STOP");
    let all = victims.iter().flat_map(|name| match *name {
        "proxy" => vec![scene.proxy.pid()],
        node => {
            let postmaster = scene.mesh.node(node).pid();
            let mut pids = children(postmaster);
            pids.push(postmaster);
            pids
        }
    });
    let all: Vec<u32> = all.collect();
    signal(&all, "KILL");
    for name in nodes() {
        scene.mesh.node_mut(name).kill9();
    }
    if victims.contains(&"proxy") {
        scene.proxy.kill9();
    }
    let there = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    while all.iter().any(there) {
        std::thread::yield_now();
    }
}

/// Waits until that node leads.
pub(crate) async fn leads(proxy: &Proxy, node: &str) {
    eventually(&format!("{node} leads"), async || {
        proxy.lead().await.as_deref() == Some(node)
    })
    .await;
}

/// Events of that kind so far.
pub(crate) async fn events(proxy: &Proxy, kind: &str) -> Vec<NamedRow> {
    let mut rows = proxy.events().await;
    rows.retain(|row| row["type"] == kind);
    rows
}

/// Waits until an event of that kind says these words; gives its detail.
pub(crate) async fn told(proxy: &Proxy, kind: &str, words: &str) -> String {
    let find = async || {
        let rows = events(proxy, kind).await;
        let mut details = rows
            .into_iter()
            .map(|mut row| row.remove("detail").unwrap());
        details.find(|detail| detail.contains(words))
    };
    eventually(&format!("{kind} says {words:?}"), async || {
        find().await.is_some()
    })
    .await;
    find().await.unwrap()
}

/// Waits until newcomers are sent elsewhere.
pub(crate) async fn refuses(proxy: &Proxy) {
    eventually("newcomers are told 57P03", async || {
        match connect(proxy.port(), APP, DATABASE).await {
            Ok((client, _)) => {
                let served = simple(&client, "SELECT 1").await;
                assert!(served.is_err(), "nobody may be served");
                false
            }
            Err(error) => error.code().is_some_and(|code| code.code() == "57P03"),
        }
    })
    .await;
}

/// The node that serves a newcomer.
pub(crate) async fn served_by(proxy: &Proxy, database: &str) -> Option<String> {
    let client = proxy.connect_to(database, APP).await.ok()?;
    let rows = simple(&client, "SHOW pgsluice_test.node").await.ok()?;
    rows[0][0].clone()
}

/// A command on the console that takes its time, and how long it took.
pub(crate) async fn timed(proxy: &Proxy, sql: &str) -> (Said, Duration) {
    let began = Instant::now();
    let said = start_console(proxy, ADMIN, sql).said().await;
    (said, began.elapsed())
}

/// For `promote = "pg_promote"`.
pub(crate) fn may_promote() -> String {
    let monitor = MONITOR.user;
    format!("GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO {monitor};")
}

/// Of rows that came with a copy: they have its time, not that of their commit, and seem to overlap.
pub(crate) fn but_for_copied_rows(verdict: &Verdict) -> Verdict {
    Verdict {
        overlap: 0,
        ..verdict.clone()
    }
}

/// Nothing was noticed but what was done to the servers.
pub(crate) fn quiet(work: &Work) {
    let errors: Vec<_> = work.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
}
