//! Two nodes `n1` and `n2` that hold the same data, in each of the ways that pgsluice knows.

use std::sync::Arc;

use tokio_postgres::Client;

use super::client::{APP, APP_MD5, APP_PLAIN, APP_TRUST, DATABASE, MONITOR};
use super::eventually;
use super::node::{Node, NodeSpec, Release};
use super::workspace::Workspace;

/// How a pair replicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL 15 with pglogical both ways, last update wins: the nearest thing to BDR.
    Pglogical,
    /// PostgreSQL 17, publications and subscriptions with `origin = none` both ways.
    Native,
    /// PostgreSQL 15, streaming from n1 to n2.
    Physical,
}

/// What a pair shall be, besides its kind.
#[derive(Debug, Clone, Default)]
pub struct PairSpec {
    /// Tables, created on both nodes before replication starts (in schema public, each with a
    /// primary key).
    pub schema: String,
    /// Flush to disk.
    pub fsync: bool,
    /// More lines for the configuration of both nodes.
    pub settings: String,
}

/// Two started nodes, replicating.
#[derive(Debug)]
pub struct Pair {
    pub n1: Node,
    pub n2: Node,
    pub kind: Kind,
    pub workspace: Arc<Workspace>,
}

/// Stalled apply.
#[derive(Debug)]
pub struct Stall {
    lock: Client,
}

impl Stall {
    /// Apply goes on.
    pub async fn end(self) {
        self.lock.batch_execute("ROLLBACK").await.expect("unlock");
    }
}

/// When an apply worker of pglogical dies, its manager may miss that and look again only minutes
/// later. Enabling what is enabled changes nothing and wakes the manager.
const WAKE_PGLOGICAL: &str = "\
SELECT pglogical.alter_subscription_enable(subscription_name, true) \
FROM pglogical.show_subscription_status() WHERE status = 'down'";

/// `harness_sync` shows how far replication has come; `pgsluice_marker` is for pgsluice itself.
const TABLES: &str = "\
CREATE TABLE harness_sync (node text PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
INSERT INTO harness_sync (node) VALUES ('n1'), ('n2');
CREATE TABLE pgsluice_marker (node text PRIMARY KEY, n bigint NOT NULL DEFAULT 0, at timestamptz);
INSERT INTO pgsluice_marker (node) VALUES ('n1'), ('n2');
";

impl Pair {
    /// See [`Kind::Pglogical`].
    pub async fn pglogical(spec: PairSpec) -> Self {
        Self::start(Kind::Pglogical, spec).await
    }

    /// See [`Kind::Native`].
    pub async fn native(spec: PairSpec) -> Self {
        Self::start(Kind::Native, spec).await
    }

    /// See [`Kind::Physical`].
    pub async fn physical(spec: PairSpec) -> Self {
        Self::start(Kind::Physical, spec).await
    }

    /// Starts both nodes and waits until a change made on either arrives on the other.
    pub async fn start(kind: Kind, spec: PairSpec) -> Self {
        let workspace = Workspace::create();
        let node_spec = |name| NodeSpec {
            release: if kind == Kind::Native {
                Release::Pg17
            } else {
                Release::Pg15
            },
            pglogical: kind == Kind::Pglogical,
            fsync: spec.fsync,
            settings: spec.settings.clone(),
            ..NodeSpec::new(name, Release::Pg15)
        };
        let schema = format!("{TABLES}{}\n{}", spec.schema, grants());
        let pair = if kind == Kind::Physical {
            let n1 = Node::create(&workspace, node_spec("n1")).await;
            n1.query(&schema).await;
            let n2 = Node::standby_of(&n1, node_spec("n2"), "n2").await;
            Self {
                n1,
                n2,
                kind,
                workspace,
            }
        } else {
            let (n1, n2) = tokio::join!(
                Node::create(&workspace, node_spec("n1")),
                Node::create(&workspace, node_spec("n2"))
            );
            tokio::join!(n1.query(&schema), n2.query(&schema));
            let pair = Self {
                n1,
                n2,
                kind,
                workspace,
            };
            pair.subscribe().await;
            pair
        };
        pair.catch_up().await;
        pair
    }

    /// Both nodes, n1 first.
    pub fn nodes(&self) -> [&Node; 2] {
        [&self.n1, &self.n2]
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes()
            .into_iter()
            .find(|node| node.name() == name)
            .expect("n1 or n2")
    }

    /// The node of that name, to stop and to start it.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        if self.n1.name() == name {
            &mut self.n1
        } else {
            &mut self.n2
        }
    }

    /// Waits until each node has everything that the other had committed before the call: changes
    /// are applied in the order of their commits.
    pub async fn catch_up(&self) {
        match self.kind {
            Kind::Physical => self.follow(&self.n1, &self.n2).await,
            Kind::Native | Kind::Pglogical => {
                tokio::join!(
                    self.follow(&self.n1, &self.n2),
                    self.follow(&self.n2, &self.n1)
                );
            }
        }
    }

    /// From now on nothing is applied on the node `to`, while it can be read and written as before.
    pub async fn stall_apply(&self, to: &str) -> Stall {
        let lock = self.node(to).connect(DATABASE).await;
        lock.batch_execute("BEGIN; LOCK TABLE harness_sync IN EXCLUSIVE MODE")
            .await
            .expect("lock");
        // Changes are applied in order: all that comes after this one waits behind it.
        let from = if to == "n1" { "n2" } else { "n1" };
        let touch = format!("UPDATE harness_sync SET n = n + 1 WHERE node = '{from}'");
        self.node(from).query(&touch).await;
        Stall { lock }
    }

    async fn follow(&self, from: &Node, to: &Node) {
        let name = from.name();
        let n = from
            .scalar(&format!(
                "UPDATE harness_sync SET n = n + 1 WHERE node = '{name}' RETURNING n"
            ))
            .await
            .expect("a row per node");
        let arrived = format!("SELECT n >= {n} FROM harness_sync WHERE node = '{name}'");
        eventually(&format!("{} has what {name} has", to.name()), async || {
            let there = to.holds(&arrived).await;
            if !there && self.kind == Kind::Pglogical {
                to.holds(WAKE_PGLOGICAL).await;
            }
            there
        })
        .await;
    }

    async fn subscribe(&self) {
        let pairs = [(&self.n1, &self.n2), (&self.n2, &self.n1)];
        match self.kind {
            Kind::Physical => {}
            Kind::Native => {
                for node in self.nodes() {
                    node.query("CREATE PUBLICATION pub FOR ALL TABLES").await;
                }
                for (from, to) in pairs {
                    to.query(&format!(
                        "CREATE SUBSCRIPTION {to}_from_{from} CONNECTION '{dsn}' PUBLICATION pub \
                         WITH (copy_data = false, origin = none)",
                        to = to.name(),
                        from = from.name(),
                        dsn = from.dsn(DATABASE),
                    ))
                    .await;
                }
            }
            Kind::Pglogical => {
                for node in self.nodes() {
                    node.query(&format!(
                        "CREATE EXTENSION pglogical;\
                         SELECT pglogical.create_node('{name}', '{dsn}');\
                         SELECT pglogical.replication_set_add_all_tables('default', '{{public}}');\
                         GRANT USAGE ON SCHEMA pglogical TO {monitor};\
                         GRANT SELECT ON ALL TABLES IN SCHEMA pglogical TO {monitor}",
                        name = node.name(),
                        dsn = node.dsn(DATABASE),
                        monitor = MONITOR.user,
                    ))
                    .await;
                }
                for (from, to) in pairs {
                    to.query(&format!(
                        "SELECT pglogical.create_subscription('{to}_from_{from}', '{dsn}', \
                         '{{default}}', false, false, '{{}}')",
                        to = to.name(),
                        from = from.name(),
                        dsn = from.dsn(DATABASE),
                    ))
                    .await;
                }
                // The slot is made in the background, and nothing before it is replicated.
                let ready = "SELECT bool_and(status = 'replicating') \
                             FROM pglogical.show_subscription_status()";
                for node in self.nodes() {
                    eventually("pglogical replicates", || node.holds(ready)).await;
                }
            }
        }
    }
}

/// Applications may do all with the data; the monitor has its marker.
fn grants() -> String {
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public \
         TO {}, {}, {}, {};\
         GRANT USAGE, CREATE ON SCHEMA public TO {0}, {1}, {2}, {3};\
         GRANT SELECT, UPDATE ON pgsluice_marker TO {};",
        APP.user, APP_MD5.user, APP_PLAIN.user, APP_TRUST.user, MONITOR.user,
    )
}
