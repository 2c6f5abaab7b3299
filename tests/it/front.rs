//! One node that all tests of the data plane share, and an instance of its own for each test.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::harness::client::{DATABASE, MONITOR};
use crate::harness::node::{Node, NodeSpec, Release};
use crate::harness::proxy::{ADMIN, CLUSTER, Proxy, STATS};
use crate::harness::workspace::{Workspace, random};

/// Ends with the process: the workspace's watchdog sees to it.
static NODE: OnceCell<Shared> = OnceCell::const_new();

#[derive(Debug)]
struct Shared {
    node: Node,
    workspace: Arc<Workspace>,
}

/// What an instance shall be. The texts are lines of TOML.
#[derive(Debug, Clone)]
pub(crate) struct FrontSpec {
    /// `auth_type`
    pub(crate) auth: &'static str,
    /// `[pgsluice]`
    pub(crate) general: &'static str,
    /// `[databases.app]`
    pub(crate) database: &'static str,
    /// Behind `[databases.app]`, with headers of their own.
    pub(crate) more: &'static str,
    /// Host and port of the node, where it is another one than the shared node, or reached another
    /// way.
    pub(crate) node: Option<(String, u16)>,
}

impl Default for FrontSpec {
    fn default() -> Self {
        Self {
            auth: "trust",
            general: "",
            database: "pool_size = 20",
            more: "",
            node: None,
        }
    }
}

/// The shared node. Tests leave its settings alone and never stop it.
pub(crate) async fn node() -> &'static Node {
    &shared().await.node
}

/// An instance in front of the shared node, or of the one that `spec` names.
pub(crate) async fn front(spec: FrontSpec) -> Proxy {
    let Shared { node, workspace } = shared().await;
    let (host, port) = spec
        .node
        .clone()
        .unwrap_or_else(|| ("127.0.0.1".to_owned(), node.port()));
    let name = format!("proxy-{:08x}", random() as u32);
    Proxy::configured(workspace, &name, binary(), |proxy| {
        configuration(proxy, &spec, &host, port)
    })
    .await
}

/// An instance as most tests want it.
pub(crate) async fn plain_front() -> Proxy {
    front(FrontSpec::default()).await
}

/// A node of the test's own, to be killed and changed.
pub(crate) async fn own_node(settings: &str) -> Node {
    let workspace = Workspace::create();
    let spec = NodeSpec {
        settings: settings.to_owned(),
        ..NodeSpec::new("n1", Release::Pg15)
    };
    Node::create(&workspace, spec).await
}

/// An instance in front of a node of the test's own.
pub(crate) async fn front_of(node: &Node, spec: FrontSpec) -> Proxy {
    front(FrontSpec {
        node: Some(("127.0.0.1".to_owned(), node.port())),
        ..spec
    })
    .await
}

pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pgsluice"))
}

async fn shared() -> &'static Shared {
    NODE.get_or_init(|| async {
        let workspace = Workspace::create();
        let node = Node::create(&workspace, NodeSpec::new("n1", Release::Pg15)).await;
        node.query(
            "GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE EXTENSION IF NOT EXISTS plpgsql",
        )
        .await;
        Shared { node, workspace }
    })
    .await
}

fn configuration(proxy: &Proxy, spec: &FrontSpec, host: &str, port: u16) -> String {
    let directory = proxy.directory().display();
    let FrontSpec {
        auth,
        general,
        database,
        more,
        ..
    } = spec;
    format!(
        "[listen]\n\
         address = [\"127.0.0.1\"]\n\
         port = {listen}\n\
         unix_socket_dir = \"{directory}\"\n\
         [pgsluice]\n\
         state_dir = \"{directory}/state\"\n\
         auth_type = \"{auth}\"\n\
         auth_file = \"{directory}/userlist.txt\"\n\
         admin_users = [\"{admin}\"]\n\
         stats_users = [\"{stats}\"]\n\
         {general}\n\
         [clusters.{CLUSTER}]\n\
         replication = \"physical\"\n\
         monitor = {{ user = \"{monitor}\", password = \"{password}\", dbname = \"{DATABASE}\" }}\n\
         lead_note = false\n\
         [clusters.{CLUSTER}.nodes]\n\
         n1 = {{ host = \"{host}\", port = {port} }}\n\
         [databases.{DATABASE}]\n\
         cluster = \"{CLUSTER}\"\n\
         {database}\n\
         {more}\n",
        listen = proxy.port(),
        admin = ADMIN.user,
        stats = STATS.user,
        monitor = MONITOR.user,
        password = MONITOR.password,
    )
}
