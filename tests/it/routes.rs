//! `route = "read"` and `route = "any"`: who is served by which node, and what becomes of sessions when
//! a node is no longer fit.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use crate::harness::client::{APP, DATABASE, connect, simple};
use crate::harness::eventually;
use crate::harness::layout::{Cluster, Layout};
use crate::harness::mesh::{Mesh, MeshSpec};
use crate::harness::pair::Kind;
use crate::harness::proxy::{CLUSTER, Proxy};

/// Databases: the lead's, two read routes with different fallbacks, and any.
const READ: &str = "app_ro";
const STRICT: &str = "app_strict";
const ANY: &str = "app_any";

/// Three nodes that replicate, and pgsluice in front of them.
struct Scene {
    mesh: Mesh,
    proxy: Proxy,
}

/// A client, and how its connection ends.
struct Session {
    client: Client,
    end: JoinHandle<Result<(), Error>>,
}

fn pgsluice() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pgsluice"))
}

fn three(kind: Kind) -> MeshSpec {
    MeshSpec {
        schema: "CREATE TABLE word (k int PRIMARY KEY, v text NOT NULL DEFAULT repeat('x', 2000));"
            .to_owned(),
        ..MeshSpec::masters(kind, &["n1", "n2", "n3"])
    }
}

impl Scene {
    /// `keys`: of the nodes n2 and n3; `general`: lines of the instance.
    async fn start(spec: MeshSpec, keys: [&str; 2], general: &str) -> Self {
        let mesh = Mesh::start(spec).await;
        let cluster = Cluster::new(CLUSTER, &mesh.lab(), 0)
            .settings("monitor_interval = \"200ms\"\nmonitor_timeout = \"1s\"\n")
            .keys("n1", "datacenter = \"here\"")
            .keys("n2", keys[0])
            .keys("n3", keys[1]);
        let read = "route = \"read\"\nread_lag_max = \"128kB\"\n";
        let mut layout = Layout::default()
            .cluster(cluster)
            .database(DATABASE, CLUSTER, "")
            .database(READ, CLUSTER, read)
            .database(
                STRICT,
                CLUSTER,
                &format!("{read}read_fallback = \"refuse\"\n"),
            )
            .database(ANY, CLUSTER, "route = \"any\"\n");
        layout.general = format!("server_login_retry = \"3s\"\n{general}");
        let proxy = Proxy::serve(&mesh.workspace, "proxy", pgsluice(), &layout).await;
        proxy.serving().await;
        let scene = Self { mesh, proxy };
        for name in ["n2", "n3"] {
            scene.proxy.node_is(name, "observed", "up").await;
        }
        scene
    }

    async fn session(&self, database: &str) -> Session {
        let login = connect(self.proxy.port(), APP, database).await;
        let (client, end) = login.unwrap_or_else(|error| panic!("{database}: {error:?}"));
        Session { client, end }
    }

    /// Waits until newcomers of the database go to these nodes.
    async fn goes_to(&self, database: &str, nodes: &str) {
        eventually(&format!("{database} goes to {nodes:?}"), async || {
            self.database(database).await["node"] == nodes
        })
        .await;
    }

    async fn database(&self, name: &str) -> BTreeMap<String, String> {
        let rows = self.proxy.admin("SHOW DATABASES").await.unwrap();
        let mut rows = rows.into_iter();
        rows.find(|row| row["name"] == name).expect("a row")
    }

    /// Where the sessions of so many logins come.
    async fn spread(&self, database: &str, logins: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..logins {
            let session = self.session(database).await;
            *counts.entry(session.node().await).or_default() += 1;
        }
        counts
    }

    /// More than the lag limit, on n1; no more at a time than n3 takes at once.
    async fn write_much(&self) {
        let sql = "INSERT INTO word (k) SELECT (SELECT coalesce(max(k), 0) FROM word) + i \
                   FROM generate_series(1, 20) i";
        for _ in 0..5 {
            self.mesh.node("n1").query(sql).await;
            self.mesh.lab().link("n1", "n3").catch_up().await;
        }
    }
}

impl Session {
    /// The node it is on.
    async fn node(&self) -> String {
        let who = simple(&self.client, "SHOW pgsluice_test.node").await;
        who.unwrap()[0][0].clone().unwrap()
    }

    async fn lives(&self) -> bool {
        !self.end.is_finished() && simple(&self.client, "SELECT 1").await.is_ok()
    }

    /// What it was told at its end.
    async fn told(self) -> (String, String) {
        let end = tokio::time::timeout(crate::harness::PATIENCE, self.end).await;
        let error = end.expect("an end in time").unwrap().expect_err("an error");
        let db = error.as_db_error().expect("words of the other side");
        let detail = db.detail().unwrap_or_default().to_owned();
        (db.code().code().to_owned(), detail)
    }
}

fn count(counts: &BTreeMap<String, usize>, node: &str) -> usize {
    counts.get(node).copied().unwrap_or_default()
}

#[tokio::test]
async fn reads_are_spread_by_weight_and_the_lead_gets_none() {
    let scene = Scene::start(three(Kind::Native), ["weight = 300", "weight = 100"], "").await;
    scene.goes_to(STRICT, "n2,n3").await;
    let counts = scene.spread(READ, 300).await;
    for (node, due) in [("n1", 0), ("n2", 225), ("n3", 75)] {
        let got = count(&counts, node);
        assert!(
            got.abs_diff(due) * 20 <= due,
            "{node}: {got} of {due}: {counts:?}"
        );
    }
    // All that it has to choose from, and what it does not promise.
    let shown = scene.database(ANY).await;
    assert_eq!(
        (shown["node"].as_str(), shown["writers"].as_str()),
        ("n1,n2,n3", "many nodes")
    );
    let shown = scene.database(READ).await;
    assert_eq!(
        (shown["route"].as_str(), shown["writers"].as_str()),
        ("read", "none")
    );
    let counts = scene.spread(ANY, 50).await;
    assert_eq!(
        [
            count(&counts, "n1"),
            count(&counts, "n2"),
            count(&counts, "n3")
        ],
        [10, 30, 10]
    );
    // They write where they are.
    let session = scene.session(ANY).await;
    let sql = "INSERT INTO word (k) VALUES (-1); DELETE FROM word WHERE k = -1";
    simple(&session.client, sql).await.unwrap();
    let servers = scene.proxy.admin("SHOW SERVERS").await.unwrap();
    assert!(
        servers
            .iter()
            .any(|s| s["database"] == READ && s["node"] == "n3" && s["route"] == "read")
    );
}

#[tokio::test]
async fn a_node_that_lags_gets_no_reads_and_its_sessions_move() {
    let scene = Scene::start(three(Kind::Native), ["", ""], "").await;
    scene.goes_to(STRICT, "n2,n3").await;
    let (mut moving, mut staying) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let session = scene.session(STRICT).await;
        let all = if session.node().await == "n2" {
            &mut moving
        } else {
            &mut staying
        };
        all.push(session);
    }
    assert_eq!((moving.len(), staying.len()), (2, 2));
    let writer = scene.session(DATABASE).await;
    // One of them is in the middle of a transaction: it may finish that.
    let busy = moving.pop().unwrap();
    simple(&busy.client, "BEGIN; SELECT 1").await.unwrap();

    let lab = scene.mesh.lab();
    let stall = lab.stall_apply("n2").await;
    scene.write_much().await;
    scene.goes_to(STRICT, "n3").await;
    let counts = scene.spread(STRICT, 20).await;
    assert_eq!(count(&counts, "n3"), 20, "{counts:?}");
    for session in moving {
        let (code, detail) = session.told().await;
        assert_eq!(code, "57P01");
        assert!(detail.contains("no longer fit for this route"), "{detail}");
    }
    simple(&busy.client, "SELECT 1").await.unwrap();
    simple(&busy.client, "COMMIT").await.unwrap();
    assert_eq!(busy.told().await.0, "57P01");
    for session in &staying {
        assert!(session.lives().await);
    }
    assert!(writer.lives().await);

    stall.end().await;
    scene.goes_to(STRICT, "n2,n3").await;
}

#[tokio::test]
async fn a_killed_node_ends_its_own_sessions_only_and_the_fallback_says_what_comes_then() {
    let mut scene = Scene::start(three(Kind::Native), ["", ""], "").await;
    scene.goes_to(STRICT, "n2,n3").await;
    let writer = scene.session(DATABASE).await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(scene.session(READ).await);
    }
    let mut on_n3 = Vec::new();
    for reader in readers {
        if reader.node().await == "n3" {
            on_n3.push(reader);
        }
    }
    assert_eq!(on_n3.len(), 2);
    scene.mesh.node_mut("n2").kill9();
    // Nobody waits for the monitor: who is sent to n2 goes on to n3 at once.
    let counts = scene.spread(READ, 6).await;
    assert_eq!(count(&counts, "n3"), 6, "{counts:?}");
    scene.goes_to(STRICT, "n3").await;
    for reader in &on_n3 {
        assert!(reader.lives().await);
    }

    scene.mesh.node_mut("n3").kill9();
    let counts = scene.spread(READ, 3).await;
    assert_eq!(count(&counts, "n1"), 3, "{counts:?}");
    let fallback = scene.session(READ).await;
    let write = simple(&fallback.client, "INSERT INTO word (k) VALUES (-7)").await;
    let code = write.unwrap_err().code().map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("25006"), "the lead, but read-only");
    scene.goes_to(STRICT, "").await;
    let error = connect(scene.proxy.port(), APP, STRICT)
        .await
        .expect_err("a refusal");
    let db = error.as_db_error().expect("words");
    assert_eq!(db.code().code(), "57P03");
    assert!(db.message().contains("no node is fit for reads"), "{db}");
    assert!(db.message().contains("\"n1\" is the lead"), "{db}");
    assert!(writer.lives().await);

    let events = scene.proxy.events().await;
    let told = |event: &BTreeMap<String, String>| {
        event["type"] == "route_changed" && event["detail"] == "reads: no node; any: n1"
    };
    assert!(events.iter().any(told), "{events:?}");
    scene.mesh.node_mut("n2").start().await;
    scene.goes_to(STRICT, "n2").await;
    assert!(fallback.lives().await, "the lead is as good as any");
}

#[tokio::test]
async fn an_operator_takes_a_node_out_of_the_routes() {
    let scene = Scene::start(three(Kind::Native), ["", ""], "").await;
    scene.goes_to(STRICT, "n2,n3").await;
    let on = async |database: &str, node: &str| {
        loop {
            let session = scene.session(database).await;
            if session.node().await == node {
                return session;
            }
        }
    };
    let (read, any) = (on(READ, "n2").await, on(ANY, "n2").await);
    simple(&any.client, "BEGIN; SELECT 1").await.unwrap();
    scene.proxy.admin("DRAIN n2").await.unwrap();
    assert_eq!(read.told().await.0, "57P01");
    assert!(any.lives().await, "it has not come to its safe point");
    scene.proxy.admin("MAINT n2").await.unwrap();
    let (code, _) = any.told().await;
    assert!(code == "57P01" || code == "08006", "{code}");
    scene.goes_to(ANY, "n1,n3").await;
    scene.proxy.admin("READY n2").await.unwrap();
    scene.goes_to(ANY, "n1,n2,n3").await;
    // The operator's own verbs are for them as for all.
    let paused = on(READ, "n3").await;
    scene
        .proxy
        .admin(&format!("RECONNECT {READ}; PAUSE {READ}"))
        .await
        .unwrap();
    assert_eq!(paused.told().await.0, "57P01");
    scene.proxy.admin(&format!("RESUME {READ}")).await.unwrap();
    scene.proxy.admin(&format!("DISABLE {READ}")).await.unwrap();
    let refused = connect(scene.proxy.port(), APP, READ)
        .await
        .expect_err("a refusal");
    assert!(refused.to_string().contains("disabled") || refused.as_db_error().is_some());
}

#[tokio::test]
async fn a_switchover_leaves_reads_alone_unless_their_node_is_no_longer_for_them() {
    let scene = Scene::start(three(Kind::Native), ["", ""], "").await;
    scene.goes_to(STRICT, "n2,n3").await;
    let mut readers = Vec::new();
    for database in [READ, READ, STRICT, STRICT] {
        let session = scene.session(database).await;
        simple(&session.client, "BEGIN; SELECT 1").await.unwrap();
        let node = session.node().await;
        readers.push((database, node, session));
    }
    // In a transaction they would hold up a drain, if it were about them.
    let command = format!("SWITCHOVER {CLUSTER} TO n2 DRAIN TIMEOUT '2s'");
    eventually("n2 leads", async || {
        scene.proxy.admin(&command).await.is_ok()
    })
    .await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n2"));
    scene.goes_to(STRICT, "n1,n3").await;
    for (database, node, session) in readers {
        simple(&session.client, "COMMIT").await.unwrap();
        // The new lead stands in for reads, unless they are to be kept away from it.
        if database == STRICT && node == "n2" {
            assert_eq!(session.told().await.0, "57P01");
        } else {
            assert!(session.lives().await, "{database} on {node}");
        }
    }
}

#[tokio::test]
async fn nodes_of_the_own_datacenter_come_first() {
    let keys = ["datacenter = \"here\"", "datacenter = \"there\""];
    let scene = Scene::start(three(Kind::Native), keys, "datacenter = \"here\"").await;
    scene.goes_to(STRICT, "n2").await;
    let counts = scene.spread(READ, 6).await;
    assert_eq!(count(&counts, "n2"), 6, "{counts:?}");
    let counts = scene.spread(ANY, 6).await;
    assert_eq!(
        [count(&counts, "n1"), count(&counts, "n2")],
        [3, 3],
        "{counts:?}"
    );
    scene.proxy.admin("DRAIN n2").await.unwrap();
    scene.goes_to(READ, "n3").await;
    scene.goes_to(ANY, "n1").await;
}

#[tokio::test]
async fn standbys_serve_reads_and_only_the_primary_any() {
    let scene = Scene::start(three(Kind::Physical), ["", ""], "").await;
    scene.goes_to(STRICT, "n2,n3").await;
    let counts = scene.spread(READ, 10).await;
    assert_eq!(
        [count(&counts, "n2"), count(&counts, "n3")],
        [5, 5],
        "{counts:?}"
    );
    scene.goes_to(ANY, "n1").await;
    let lab = scene.mesh.lab();
    let stall = lab.stall_apply("n2").await;
    scene.write_much().await;
    scene.goes_to(STRICT, "n3").await;
    stall.end().await;
    scene.goes_to(STRICT, "n2,n3").await;
}
