//! `config/worldwide.toml` as it is, with other addresses: two shards of two masters and a node for
//! disaster recovery each, behind one instance. What happens to one shard is nobody's business in
//! the other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::client::{APP, MONITOR, connect, simple};
use crate::harness::layout::{Cluster, Layout};
use crate::harness::ledger::{Nature, Workload, WorkloadSpec, check_copies, schema};
use crate::harness::mesh::{Mesh, MeshSpec};
use crate::harness::node::project;
use crate::harness::pair::Kind;
use crate::harness::proxy::{ADMIN, NamedRow, Proxy};
use crate::harness::workspace::Workspace;
use crate::harness::{eventually, measured};

/// A node's name in the file, its address there, and which server stands for it.
const NODES: [(&str, &str, &str); 6] = [
    ("s1_fra", "10.1.0.1", "n1"),
    ("s1_iad", "10.2.0.1", "n2"),
    ("s1_sin", "10.3.0.1", "n3"),
    ("s2_fra", "10.1.0.2", "n4"),
    ("s2_iad", "10.2.0.2", "n5"),
    ("s2_sin", "10.3.0.2", "n6"),
];

/// What the file leaves to its reader.
const CHOSEN: &str = "slowstart = \"30s\"\nfailover = \"auto\"\nprofile = \"fast\"\n";

fn pgsluice() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pgsluice"))
}

struct World {
    shards: [Mesh; 2],
    proxy: Proxy,
    writers: [Workload; 2],
}

impl World {
    async fn start() -> Self {
        let workspace = Workspace::create();
        let (one, two) = tokio::join!(
            shard(&workspace, ["n1", "n2"], "n3"),
            shard(&workspace, ["n4", "n5"], "n6")
        );
        let shards = [one, two];
        let proxy = Proxy::configured(&workspace, "proxy", pgsluice(), |proxy| {
            example(&shards, proxy)
        })
        .await;
        for (name, _, _) in NODES {
            proxy.node_is(name, "observed", "up").await;
        }
        for (cluster, target) in [("shard1", "s1_iad"), ("shard2", "s2_fra")] {
            proxy.ready(cluster, target).await;
        }
        let writers = [
            writers(&proxy, "shard1").await,
            writers(&proxy, "shard2").await,
        ];
        Self {
            shards,
            proxy,
            writers,
        }
    }

    /// Its node, by the server's own word.
    async fn served_by(&self, database: &str) -> Option<String> {
        let client = self.proxy.connect_to(database, APP).await.ok()?;
        let rows = simple(&client, "SHOW pgsluice_test.node").await.ok()?;
        rows.into_iter().next()?.into_iter().next()?
    }

    /// Ends that shard's writers and shows that all its copies have the same, and what the writers
    /// were told.
    async fn proves(shard: &Mesh, writers: Workload, lead_changes: u64) {
        let work = writers.stop().await;
        shard.catch_up().await;
        let copies: Vec<_> = shard.nodes().iter().collect();
        let verdict = check_copies(&copies, &work, &BTreeSet::new()).await;
        assert!(verdict.is_clean(lead_changes), "{verdict:?}");
        let errors: Vec<_> = work.errors().collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

async fn shard(workspace: &Arc<Workspace>, masters: [&'static str; 2], dr: &'static str) -> Mesh {
    let spec = MeshSpec {
        schema: schema(),
        ..MeshSpec::masters(Kind::Native, &masters).standby(dr, &masters)
    };
    let small = "shared_buffers = 16MB\nmax_connections = 60\nautovacuum = off\n";
    Mesh::start_in(workspace, spec.settings(small)).await
}

/// The example, with the addresses, secrets and files of this test.
fn example(shards: &[Mesh; 2], proxy: &Proxy) -> String {
    let file = project().join("config/worldwide.toml");
    let mut text = std::fs::read_to_string(file).unwrap();
    let directory = proxy.directory().display();
    let mut replace = |from: &str, to: &str| {
        assert!(text.contains(from), "the example has {from:?}");
        text = text.replace(from, to);
    };
    for (place, (_, address, server)) in NODES.into_iter().enumerate() {
        let door = shards[place / 3].node(server).door(0);
        let to = format!("host = \"{}\", port = {}", door.ip(), door.port());
        replace(&format!("host = \"{address}\""), &to);
    }
    replace("${PGSLUICE_MONITOR_PASSWORD}", MONITOR.password);
    replace("slowstart = \"30s\"\n", CHOSEN);
    let listen = format!(
        "address = [\"127.0.0.1\"]\nport = {}\nunix_socket_dir = \"{directory}\"\n",
        proxy.port()
    );
    replace("address = [\"0.0.0.0\"]\n", &listen);
    replace(
        "/etc/pgsluice/userlist.txt",
        &format!("{directory}/userlist.txt"),
    );
    let admin = format!(
        "admin_users = [\"{}\"]\nstate_dir = \"{directory}/state\"",
        ADMIN.user
    );
    replace("admin_users = [\"postgres\"]", &admin);
    text
}

async fn writers(proxy: &Proxy, database: &str) -> Workload {
    eventually("it is served", async || {
        proxy.connect_to(database, APP).await.is_ok()
    })
    .await;
    Workload::start(WorkloadSpec {
        port: proxy.port(),
        login: APP,
        dbname: database.to_owned(),
        writers: 4,
        think: Duration::from_millis(5),
    })
    .await
}

async fn clusters(proxy: &Proxy) -> Vec<NamedRow> {
    proxy.admin("SHOW CLUSTERS").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_shards_move_at_the_same_time() {
    let world = World::start().await;
    let ways = [("s1_iad", "s2_fra"), ("s1_fra", "s2_iad")];
    for (one, two) in ways.into_iter().cycle().take(4) {
        for writers in &world.writers {
            writers.begin("moved", Nature::Planned);
        }
        world.proxy.ready("shard1", one).await;
        world.proxy.ready("shard2", two).await;
        let (to_one, to_two) = (
            format!("SWITCHOVER shard1 TO {one}"),
            format!("SWITCHOVER shard2 TO {two}"),
        );
        let moves = tokio::join!(world.proxy.admin(&to_one), world.proxy.admin(&to_two));
        moves.0.unwrap();
        moves.1.unwrap();
        let shown: Vec<_> = clusters(&world.proxy)
            .await
            .into_iter()
            .map(|mut row| (row.remove("cluster"), row.remove("lead")))
            .collect();
        let row = |cluster: &str, lead: &str| (Some(cluster.to_owned()), Some(lead.to_owned()));
        assert_eq!(shown, [row("shard1", one), row("shard2", two)]);
        for writers in &world.writers {
            writers.all_served().await;
        }
    }
    let World {
        shards,
        proxy: _proxy,
        writers,
    } = world;
    for (shard, writers) in shards.iter().zip(writers) {
        World::proves(shard, writers, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_loses_its_masters_troubles_no_other_and_its_last_node_only_reads() {
    let mut world = World::start().await;
    // What is far away serves reads, half as many as the master there.
    let mut readers = Vec::new();
    for _ in 0..6 {
        let client = world.proxy.connect_to("shard1_ro", APP).await.unwrap();
        let rows = simple(&client, "SHOW pgsluice_test.node").await.unwrap();
        readers.push((rows[0][0].clone().unwrap(), client));
    }
    let on = |node: &str| readers.iter().filter(|(name, _)| name == node).count();
    assert_eq!((on("n1"), on("n2"), on("n3")), (0, 4, 2));

    world.writers[1].begin("the other shard's fault", Nature::Planned);
    world.writers[0].begin("lead killed", Nature::Unplanned);
    world.shards[0].node_mut("n1").kill9();
    let outage = world.writers[0].outage("n1").await;
    measured(&format!("shard 1: {outage:?}"));
    assert_eq!(
        world.proxy.lead_of("shard1").await.as_deref(),
        Some("s1_iad")
    );

    // Nobody is left who may lead without being asked.
    world.writers[0].begin("the other one too", Nature::Unplanned);
    world.shards[0].node_mut("n2").kill9();
    world.proxy.event("failover_barred", "s1_iad").await;
    let events = world.proxy.events().await;
    let barred = events.iter().rfind(|e| e["type"] == "failover_barred");
    let detail = &barred.unwrap()["detail"];
    let words = "\"s1_sin\" is configured with candidate = \"manual\"";
    assert!(detail.contains(words), "{detail}");
    assert_eq!(
        world.proxy.lead_of("shard1").await.as_deref(),
        Some("s1_iad")
    );
    eventually("the last node serves reads", async || {
        world.served_by("shard1_ro").await.as_deref() == Some("n3")
    })
    .await;
    for (node, client) in &readers {
        let lives = simple(client, "SELECT 1").await.is_ok();
        assert_eq!(lives, node == "n3", "a reader on {node}");
    }

    // The other shard has neither heard nor felt anything of it.
    world.writers[1].all_served().await;
    let calm = world.writers[1].current();
    assert_eq!((calm.reconnects, calm.failures.len()), (0, 0), "{calm:?}");
    measured(&format!(
        "shard 2 meanwhile: longest write {:?}",
        calm.longest.iter().max()
    ));

    world.shards[0].node_mut("n2").start().await;
    world.writers[0].all_served().await;
    let [one, two] = world.writers;
    World::proves(&world.shards[1], two, 0).await;
    let work = one.stop().await;
    assert_eq!(work.errors().count(), 0, "{:?}", work.errors().next());
}

/// Several masters are written at a time: whose node dies moves inside the datacenter, and crosses
/// over only when nobody is left there.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_any_master_move_inside_their_datacenter_first() {
    let workspace = Workspace::create();
    let spec = MeshSpec::masters(Kind::Native, &["n1", "n2", "n3"]);
    let mut mesh = Mesh::start_in(&workspace, spec).await;
    let cluster = Cluster::new("main", &mesh.lab(), 0)
        .settings("profile = \"fast\"\nfailover = \"auto\"\n")
        .keys("n1", "datacenter = \"here\"")
        .keys("n2", "datacenter = \"here\"")
        .keys("n3", "datacenter = \"there\"");
    let mut layout =
        Layout::default()
            .cluster(cluster)
            .database("any", "main", "route = \"any\"\n");
    layout.general = "datacenter = \"here\"\n".to_owned();
    let proxy = Proxy::serve(&workspace, "proxy", pgsluice(), &layout).await;
    for node in ["n1", "n2", "n3"] {
        proxy.node_is(node, "observed", "up").await;
    }
    let where_is = async || {
        let (client, _driver) = connect(proxy.port(), APP, "any").await.ok()?;
        let rows = simple(&client, "SHOW pgsluice_test.node").await.ok()?;
        let node = rows.into_iter().next()?.into_iter().next()??;
        Some((node, client))
    };
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(where_is().await.unwrap());
    }
    let on = |node: &str| sessions.iter().filter(|(name, _)| name == node).count();
    assert_eq!((on("n1"), on("n2"), on("n3")), (3, 3, 0));

    mesh.node_mut("n2").kill9();
    for (node, client) in sessions {
        let lives = simple(&client, "SELECT 1").await.is_ok();
        assert_eq!(lives, node == "n1", "a session on {node}");
        if !lives {
            let (moved, _client) = where_is().await.expect("served at once");
            assert_eq!(moved, "n1");
        }
    }
    mesh.node_mut("n1").kill9();
    eventually("the other datacenter serves", async || {
        where_is().await.is_some_and(|(node, _)| node == "n3")
    })
    .await;
}
