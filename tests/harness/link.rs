//! How one node gets the changes of another, in each of the ways that pgsluice knows: links made,
//! cut off, mended and watched with SQL.

use super::client::{DATABASE, MONITOR};
use super::eventually;
use super::node::Node;
use super::pair::Kind;

/// Changes that are made on `from` are applied on `to`.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    pub kind: Kind,
    pub from: &'a Node,
    pub to: &'a Node,
}

/// Rows that are there when a link is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Copied to the target, whose tables are empty.
    Copy,
    /// Both nodes have the same.
    Keep,
}

/// When an apply worker of pglogical dies, its manager may miss that and look again only minutes
/// later. Enabling what is enabled changes nothing and wakes the manager.
const WAKE_PGLOGICAL: &str = "\
SELECT pglogical.alter_subscription_enable(subscription_name, true) \
FROM pglogical.show_subscription_status() WHERE status = 'down'";

/// What a node needs before links start or end at it. Its tables are there.
pub async fn prepare(kind: Kind, node: &Node) {
    match kind {
        Kind::Physical => {}
        Kind::Native => {
            node.query("CREATE PUBLICATION pub FOR ALL TABLES").await;
        }
        Kind::Pglogical => {
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
    }
}

impl Link<'_> {
    /// Name of the subscription; its slot ends with it.
    pub fn name(&self) -> String {
        format!("{}_from_{}", self.to.name(), self.from.name())
    }

    /// Makes a logical link. A physical one is made with its standby.
    pub async fn create(&self, rows: Rows) {
        let (name, dsn) = (self.name(), self.from.link_dsn(self.to));
        let copy = rows == Rows::Copy;
        let sql = match self.kind {
            Kind::Physical => return,
            Kind::Native => format!(
                "CREATE SUBSCRIPTION {name} CONNECTION '{dsn}' PUBLICATION pub \
                 WITH (copy_data = {copy}, origin = none)"
            ),
            Kind::Pglogical => format!(
                "SELECT pglogical.create_subscription('{name}', '{dsn}', '{{default}}', \
                 false, {copy}, '{{}}')"
            ),
        };
        self.to.query(&sql).await;
    }

    /// Waits until changes flow and the rows are copied. pglogical makes its slot in the background,
    /// and nothing before that is replicated.
    pub async fn ready(&self) {
        let sql = match self.kind {
            Kind::Physical => return,
            Kind::Native => format!(
                "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel \
                 JOIN pg_subscription ON oid = srsubid WHERE subname = '{}'",
                self.name()
            ),
            Kind::Pglogical => format!(
                "SELECT status = 'replicating' \
                 AND NOT EXISTS (SELECT FROM pglogical.local_sync_status \
                     JOIN pglogical.subscription ON sub_id = sync_subid \
                     WHERE sub_name = subscription_name AND sync_status <> 'r') \
                 FROM pglogical.show_subscription_status('{}')",
                self.name()
            ),
        };
        let what = format!("{} is ready", self.name());
        eventually(&what, || self.to.holds(&sql)).await;
    }

    /// No more changes are sent; they wait at the source.
    pub async fn disable(&self) {
        let sql = match self.kind {
            Kind::Native => format!("ALTER SUBSCRIPTION {} DISABLE", self.name()),
            Kind::Pglogical => format!(
                "SELECT pglogical.alter_subscription_disable('{}', true)",
                self.name()
            ),
            Kind::Physical => return self.to.set("primary_conninfo", "''").await,
        };
        self.to.query(&sql).await;
        let idle = format!(
            "SELECT NOT active FROM pg_replication_slots WHERE {}",
            self.slot()
        );
        eventually("nothing is sent", || self.from.holds(&idle)).await;
    }

    /// They are sent again.
    pub async fn enable(&self) {
        let sql = match self.kind {
            Kind::Native => format!("ALTER SUBSCRIPTION {} ENABLE", self.name()),
            Kind::Pglogical => format!(
                "SELECT pglogical.alter_subscription_enable('{}', true)",
                self.name()
            ),
            Kind::Physical => return self.to.reset("primary_conninfo").await,
        };
        self.to.query(&sql).await;
    }

    /// Ends the link for good, whether the source lives or not; a slot that is left there is
    /// removed by [`drop_slot`](Self::drop_slot).
    pub async fn drop_subscription(&self) {
        let name = self.name();
        match self.kind {
            Kind::Physical => {}
            Kind::Native => {
                for sql in [
                    format!("ALTER SUBSCRIPTION {name} DISABLE"),
                    format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
                    format!("DROP SUBSCRIPTION {name}"),
                ] {
                    self.to.query(&sql).await;
                }
            }
            Kind::Pglogical => {
                let sql = format!("SELECT pglogical.drop_subscription('{name}', true)");
                self.to.query(&sql).await;
            }
        }
    }

    /// Removes the slot on the source, once nobody reads from it.
    pub async fn drop_slot(&self) {
        drop_slot(self.from, &self.slot()).await;
    }

    /// Condition on `pg_replication_slots` of the source.
    pub fn slot(&self) -> String {
        slot(self.kind, self.from.name(), self.to.name())
    }

    /// Waits until the target has everything that the source had committed before the call: changes
    /// are applied in the order of their commits.
    pub async fn catch_up(&self) {
        let name = self.from.name();
        let n = self
            .from
            .scalar(&format!("{} RETURNING n", touch(name)))
            .await
            .expect("a row per node");
        let arrived = format!("SELECT n >= {n} FROM harness_sync WHERE node = '{name}'");
        eventually(
            &format!("{} has what {name} has", self.to.name()),
            async || {
                let there = self.to.holds(&arrived).await;
                if !there && self.kind == Kind::Pglogical {
                    self.to.holds(WAKE_PGLOGICAL).await;
                }
                there
            },
        )
        .await;
    }

    /// Ids of the processes on the target that apply what comes this way.
    pub async fn apply_pids(&self) -> Vec<u32> {
        let name = self.name();
        let condition = match self.kind {
            Kind::Physical => "backend_type = 'startup'".to_owned(),
            Kind::Native => format!(
                "pid IN (SELECT pid FROM pg_stat_subscription \
                 WHERE subname = '{name}' AND relid IS NULL)"
            ),
            Kind::Pglogical => format!(
                "backend_type IN (SELECT format('pglogical apply %s:%s', d.oid, sub_id) \
                 FROM pglogical.subscription, pg_database d \
                 WHERE sub_name = '{name}' AND d.datname = current_database())"
            ),
        };
        self.to.pids_where(&condition).await
    }

    /// Ids of the processes on the source that send what goes this way.
    pub async fn sender_pids(&self) -> Vec<u32> {
        let condition = format!(
            "pid IN (SELECT active_pid FROM pg_replication_slots WHERE {})",
            self.slot()
        );
        self.from.pids_where(&condition).await
    }
}

/// A change on the node of that name that all its targets get.
pub fn touch(name: &str) -> String {
    format!("UPDATE harness_sync SET n = n + 1 WHERE node = '{name}'")
}

/// Condition on `pg_replication_slots` of `from` for the slot that `to` reads.
pub fn slot(kind: Kind, from: &str, to: &str) -> String {
    match kind {
        Kind::Physical => format!("slot_name = '{to}'"),
        Kind::Native | Kind::Pglogical => format!("slot_name LIKE '%{to}\\_from\\_{from}'"),
    }
}

/// Removes the slots of that condition, once nobody reads from them.
pub async fn drop_slot(node: &Node, condition: &str) {
    let active =
        format!("SELECT count(*) = 0 FROM pg_replication_slots WHERE active AND {condition}");
    eventually("the slot is idle", || node.holds(&active)).await;
    let sql = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE {condition}"
    );
    node.query(&sql).await;
}
