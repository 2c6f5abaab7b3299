//! What can go wrong with the nodes of a cluster and between them: the view that
//! [`Pair`](super::pair::Pair) and [`Mesh`](super::mesh::Mesh) give of themselves. Each fault is a
//! value; it ends with that value, or by the verb that says so.

use std::sync::Arc;

use tokio_postgres::Client;

use super::address::{Door, INSTANCES};
use super::client::DATABASE;
use super::cut::{Course, Cut, Flow};
use super::link::{Link, touch};
use super::node::Node;
use super::pair::Kind;
use super::process::Frozen;
use super::workspace::Workspace;

/// The nodes of a cluster and who replicates to whom.
#[derive(Debug)]
pub struct Lab<'a> {
    pub kind: Kind,
    pub nodes: Vec<&'a Node>,
    pub links: Vec<Link<'a>>,
}

/// With whom a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every instance of pgsluice, and nobody else.
    Pgsluice,
    /// This instance of pgsluice alone.
    Instance(u8),
    /// The other nodes, in both roles: it sends changes and it asks for them.
    Nodes,
    /// The network is gone.
    All,
}

/// Seen from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Both,
    /// Only what goes to the node.
    Towards,
    /// Only what comes from it.
    From,
}

/// Stalled apply.
#[derive(Debug)]
pub enum Stall {
    /// A table that every change passes is locked on the target.
    Locked(Client),
    /// Replay is paused on the standby.
    Paused(Client),
}

/// A row on the target that stops apply, since the source's row of the same key cannot come in.
#[derive(Debug)]
pub struct Conflict {
    target: Client,
    key: i64,
}

impl Stall {
    /// Apply goes on.
    pub async fn end(self) {
        match self {
            Self::Locked(client) => client.batch_execute("ROLLBACK").await.expect("unlock"),
            Self::Paused(client) => client
                .batch_execute("SELECT pg_wal_replay_resume()")
                .await
                .expect("resume"),
        }
    }
}

impl Conflict {
    /// Removes the row in the way: the source's comes in at the next try.
    pub async fn cure(self) {
        let sql = format!("DELETE FROM harness_conflict WHERE key = {}", self.key);
        self.target.batch_execute(&sql).await.expect("a cure");
    }
}

impl<'a> Lab<'a> {
    /// The node of that name.
    pub fn node(&self, name: &str) -> &'a Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node {name} here"))
    }

    /// The link of these nodes.
    pub fn link(&self, from: &str, to: &str) -> Link<'a> {
        let ends = |link: &&Link<'_>| link.from.name() == from && link.to.name() == to;
        *self
            .links
            .iter()
            .find(ends)
            .unwrap_or_else(|| panic!("nothing flows from {from} to {to}"))
    }

    fn workspace(&self) -> &Arc<Workspace> {
        self.nodes.first().expect("a node").workspace()
    }

    /// What that node says or hears vanishes, also on connections that exist.
    pub fn silence(&self, name: &str, part: Part, way: Way) -> Cut {
        Cut::silence(self.workspace(), &self.flows(name, part, way))
    }

    /// Connections with that node are refused, and those that exist break when used.
    pub fn refuse(&self, name: &str, part: Part) -> Cut {
        let doors: Vec<Door> = self
            .doors(name, part)
            .into_iter()
            .map(|(door, _)| door)
            .collect();
        Cut::refuse(self.workspace(), &doors)
    }

    /// These two nodes hear nothing of each other; everybody else goes on.
    pub fn part(&self, one: &str, other: &str) -> Cut {
        let (one, other) = (self.node(one), self.node(other));
        let doors = [one.door_for(other), other.door_for(one)];
        Cut::silence(self.workspace(), &Flow::both(&doors))
    }

    /// Packets with that node: those of several nodes, put together, make one [`Cut`].
    pub fn flows(&self, name: &str, part: Part, way: Way) -> Vec<Flow> {
        let mut flows = Vec::new();
        for (door, towards) in self.doors(name, part) {
            let from = match towards {
                Course::In => Course::Out,
                Course::Out => Course::In,
            };
            if way != Way::From {
                flows.push(Flow {
                    door,
                    course: towards,
                });
            }
            if way != Way::Towards {
                flows.push(Flow { door, course: from });
            }
        }
        flows
    }

    /// Doors that the node's packets pass, and the course of those that go towards it.
    fn doors(&self, name: &str, part: Part) -> Vec<(Door, Course)> {
        let node = self.node(name);
        let instances = match part {
            Part::Pgsluice | Part::All => 0..INSTANCES,
            Part::Instance(number) => number..number + 1,
            Part::Nodes => 0..0,
        };
        let mut doors: Vec<_> = instances
            .map(|instance| (node.door(instance), Course::In))
            .collect();
        if matches!(part, Part::Nodes | Part::All) {
            for other in self.nodes.iter().filter(|other| other.name() != name) {
                doors.push((node.door_for(other), Course::In));
                doors.push((other.door_for(node), Course::Out));
            }
        }
        doors
    }

    /// Waits until every target has everything that its sources had committed before the call.
    pub async fn catch_up(&self) {
        for link in &self.links {
            link.catch_up().await;
        }
    }

    /// From now on nothing is applied on that node, while it can be read and written as before.
    pub async fn stall_apply(&self, to: &str) -> Stall {
        let client = self.node(to).connect(DATABASE).await;
        if self.kind == Kind::Physical {
            client
                .batch_execute("SELECT pg_wal_replay_pause()")
                .await
                .expect("pause");
            return Stall::Paused(client);
        }
        client
            .batch_execute("BEGIN; LOCK TABLE harness_sync IN EXCLUSIVE MODE")
            .await
            .expect("lock");
        // Changes are applied in order: all that comes after this one waits behind it.
        for link in self.links.iter().filter(|link| link.to.name() == to) {
            link.from.query(&touch(link.from.name())).await;
        }
        Stall::Locked(client)
    }

    /// Stops native apply from one node on another by an insert that meets a row of the same key.
    pub async fn conflict(&self, from: &str, to: &str) -> Conflict {
        assert_eq!(self.kind, Kind::Native, "others resolve it by themselves");
        let target = self.node(to).connect(DATABASE).await;
        // A transaction with an origin is nobody's own change: it is not replicated.
        target
            .batch_execute(
                "SELECT pg_replication_origin_create('harness') WHERE NOT EXISTS \
                     (SELECT FROM pg_replication_origin WHERE roname = 'harness');\
                 SELECT pg_replication_origin_session_setup('harness')",
            )
            .await
            .expect("an origin");
        let key = "INSERT INTO harness_conflict (node) VALUES ('target') RETURNING key";
        let key: i64 = target.query_one(key, &[]).await.expect("a row").get(0);
        let insert = format!("INSERT INTO harness_conflict VALUES ({key}, 'source')");
        self.node(from).query(&insert).await;
        Conflict { target, key }
    }

    /// Freezes the workers that apply on `to` what comes from `from`.
    pub async fn freeze_apply(&self, from: &str, to: &str) -> Frozen {
        Frozen::freeze(self.link(from, to).apply_pids().await)
    }

    /// Freezes the walsenders on `from` that send to `to`.
    pub async fn freeze_sender(&self, from: &str, to: &str) -> Frozen {
        Frozen::freeze(self.link(from, to).sender_pids().await)
    }
}
