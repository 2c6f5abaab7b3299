//! A cluster of any number of nodes and any links between them: a pair with a logical standby, one
//! primary with several standbys, the shards of the Worldwide layout.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::lab::Lab;
use super::link::{self, Link, Rows, prepare};
use super::node::{Node, NodeSpec};
use super::pair::{Kind, tables};
use super::workspace::Workspace;

/// Names of a source and a target.
pub type Edge = (&'static str, &'static str);

/// What a mesh shall be.
#[derive(Debug, Clone)]
pub struct MeshSpec {
    pub kind: Kind,
    /// Names are unique in the workspace.
    pub nodes: Vec<NodeSpec>,
    /// Of a physical mesh, each standby is the target of one edge, and the first node is the primary.
    pub edges: Vec<Edge>,
    /// Tables, created on all nodes before replication starts (in schema public, each with a
    /// primary key).
    pub schema: String,
}

impl MeshSpec {
    /// Masters that replicate to each other; physical: the first one is primary of the others.
    pub fn masters(kind: Kind, names: &[&'static str]) -> Self {
        let mut edges = Vec::new();
        for &from in names {
            for &to in names.iter().filter(|&&to| to != from) {
                edges.push((from, to));
            }
        }
        if kind == Kind::Physical {
            edges.retain(|(from, _)| Some(from) == names.first());
        }
        Self {
            kind,
            nodes: names.iter().map(|name| kind.node(name)).collect(),
            edges,
            schema: String::new(),
        }
    }

    /// One node more, which gets the changes of these and gives none.
    #[must_use]
    pub fn standby(mut self, name: &'static str, of: &[&'static str]) -> Self {
        self.nodes.push(self.kind.node(name));
        self.edges.extend(of.iter().map(|&from| (from, name)));
        self
    }

    /// More lines for the configuration of all nodes so far.
    #[must_use]
    pub fn settings(mut self, lines: &str) -> Self {
        for node in &mut self.nodes {
            node.settings.push_str(lines);
        }
        self
    }

    /// The node of that name, to change what it shall be.
    pub fn node(&mut self, name: &str) -> &mut NodeSpec {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("no node {name} here"))
    }
}

/// Started nodes, replicating.
#[derive(Debug)]
pub struct Mesh {
    pub kind: Kind,
    pub workspace: Arc<Workspace>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    schema: String,
}

impl Mesh {
    /// In a workspace of its own.
    pub async fn start(spec: MeshSpec) -> Self {
        Self::start_in(&Workspace::create(), spec).await
    }

    /// Starts all nodes and waits until changes flow along every edge.
    pub async fn start_in(workspace: &Arc<Workspace>, spec: MeshSpec) -> Self {
        let mut mesh = Self {
            kind: spec.kind,
            workspace: Arc::clone(workspace),
            nodes: Vec::new(),
            edges: spec.edges,
            schema: tables(&spec.schema),
        };
        if spec.kind == Kind::Physical {
            mesh.start_physical(spec.nodes).await;
        } else {
            mesh.start_logical(spec.nodes).await;
        }
        mesh.lab().catch_up().await;
        mesh
    }

    async fn start_physical(&mut self, specs: Vec<NodeSpec>) {
        for spec in specs {
            let source = self.edges.iter().find(|(_, to)| *to == spec.name);
            let node = if let Some(&(from, name)) = source {
                Node::standby_of(self.node(from), spec, name).await
            } else {
                let node = Node::create(&self.workspace, spec).await;
                node.query(&self.schema).await;
                node
            };
            self.nodes.push(node);
        }
    }

    async fn start_logical(&mut self, specs: Vec<NodeSpec>) {
        let mut starting = JoinSet::new();
        for (place, spec) in specs.into_iter().enumerate() {
            let (workspace, schema) = (Arc::clone(&self.workspace), self.schema.clone());
            let kind = self.kind;
            starting.spawn(async move {
                let node = Node::create(&workspace, spec).await;
                node.query(&schema).await;
                prepare(kind, &node).await;
                (place, node)
            });
        }
        let mut started = starting.join_all().await;
        started.sort_by_key(|(place, _)| *place);
        self.nodes = started.into_iter().map(|(_, node)| node).collect();
        let lab = self.lab();
        for link in &lab.links {
            link.create(Rows::Keep).await;
        }
        self.ready().await;
    }

    /// Waits until every link is ready: what was committed before may not be replicated.
    pub async fn ready(&self) {
        for link in &self.lab().links {
            link.ready().await;
        }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node {name} here"))
    }

    /// The node of that name, to stop and to start it.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node {name} here"))
    }

    /// What can go wrong with it.
    pub fn lab(&self) -> Lab<'_> {
        let link = |(from, to): &Edge| Link {
            kind: self.kind,
            from: self.node(from),
            to: self.node(to),
        };
        Lab {
            kind: self.kind,
            nodes: self.nodes.iter().collect(),
            links: self.edges.iter().map(link).collect(),
        }
    }

    pub async fn catch_up(&self) {
        self.lab().catch_up().await;
    }

    /// Starts one more node with the same tables, empty, and no link yet.
    pub async fn add(&mut self, spec: NodeSpec) {
        assert_ne!(self.kind, Kind::Physical, "see add_standby");
        let node = Node::create(&self.workspace, spec).await;
        self.make_tables(&node).await;
        self.nodes.push(node);
    }

    /// Starts one more standby of `primary`.
    pub async fn add_standby(&mut self, spec: NodeSpec, primary: &'static str) {
        let name = spec.name;
        let node = Node::standby_of(self.node(primary), spec, name).await;
        self.nodes.push(node);
        self.edges.push((primary, name));
    }

    /// Makes a link, and does not wait for it: see [`ready`](Self::ready).
    pub async fn link(&mut self, from: &'static str, to: &'static str, rows: Rows) {
        self.edges.push((from, to));
        self.lab().link(from, to).create(rows).await;
    }

    /// Ends a link. The source may be dead: then its slot stays there.
    pub async fn unlink(&mut self, from: &'static str, to: &'static str) {
        let alive = self.node_mut(from).is_running();
        let link = self.lab().link(from, to);
        link.drop_subscription().await;
        if alive {
            link.drop_slot().await;
        }
        self.edges.retain(|edge| *edge != (from, to));
    }

    /// A node is gone for good: killed, and forgotten by all others.
    pub async fn remove(&mut self, name: &str) {
        self.node_mut(name).kill9();
        self.forget(name).await;
        self.nodes.retain(|node| node.name() != name);
    }

    /// The node loses its data and comes back empty under the same address: another system
    /// identifier, the same tables without a row, no link.
    pub async fn reinit(&mut self, name: &str) {
        self.node_mut(name).reinit().await;
        self.forget(name).await;
        let node = self.node(name);
        if self.kind != Kind::Physical {
            self.make_tables(node).await;
        }
    }

    /// The node is made anew as a standby of `primary`, under the same address.
    pub async fn rebuild(&mut self, name: &'static str, primary: &'static str) {
        let (node, primary_node) = self.two(name, primary);
        node.become_standby_of(primary_node, name).await;
        self.edges.retain(|(_, to)| *to != name);
        self.edges.push((primary, name));
    }

    /// A standby follows another primary from now on.
    pub async fn follow(&mut self, name: &'static str, primary: &'static str) {
        let (node, primary_node) = self.two(name, primary);
        node.follow(primary_node, name).await;
        self.edges.retain(|(_, to)| *to != name);
        self.edges.push((primary, name));
    }

    /// What was promoted has no source any more.
    pub fn promoted(&mut self, name: &str) {
        self.edges.retain(|(_, to)| *to != name);
    }

    /// All links that start or end at the node are ended at their other end.
    async fn forget(&mut self, name: &str) {
        for edge in self.edges.clone() {
            let (from, to) = edge;
            if from == name {
                self.lab().link(from, to).drop_subscription().await;
            } else if to == name && self.node_mut(from).is_running() {
                let slot = link::slot(self.kind, from, to);
                link::drop_slot(self.node(from), &slot).await;
            }
        }
        self.edges.retain(|(from, to)| *from != name && *to != name);
    }

    async fn make_tables(&self, node: &Node) {
        node.query(&self.schema).await;
        // Rows come with the copy.
        let all = "SELECT string_agg(format('%I', tablename), ', ') \
                   FROM pg_tables WHERE schemaname = 'public'";
        let all = node.scalar(all).await.expect("tables");
        node.query(&format!("TRUNCATE {all}")).await;
        prepare(self.kind, node).await;
    }

    /// One node to change, another one to look at.
    fn two(&mut self, name: &str, other: &str) -> (&mut Node, &Node) {
        let (mut found, mut looked_at) = (None, None);
        for node in &mut self.nodes {
            if node.name() == name {
                found = Some(node);
            } else if node.name() == other {
                looked_at = Some(&*node);
            }
        }
        (found.expect("a node"), looked_at.expect("another node"))
    }
}
