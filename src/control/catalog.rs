//! Which tables and functions of an extension a node has, and whether our role may use them. Asked
//! of the system catalogs, which everybody may read: to try and fail would fill the server's log.

use std::collections::BTreeMap;

use super::node_link::{LinkError, NodeLink, field};

/// May a table be read, a function be called?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// There is none.
    Absent,
    /// There is, but not for our role.
    Denied,
    /// Yes.
    Granted,
}

/// What a node has of what we can use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Catalog(BTreeMap<String, bool>);

const USABLE: &str = "SELECT n.nspname || '.' || c.relname, \
      has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'pglogical' AND c.relname IN \
        ('subscription', 'local_sync_status', 'conflict_history') \
      OR n.nspname = 'bdr' AND c.relname IN \
        ('local_node_summary', 'node_slots', 'subscription_summary', 'stat_subscription', \
         'conflict_history_summary', 'tables') \
    UNION ALL SELECT n.nspname || '.' || p.proname || '()', \
      bool_or(has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')) \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
    WHERE n.nspname = 'bdr' AND p.proname IN \
        ('get_raft_status', 'get_node_sub_receive_lsn', 'get_node_sub_apply_lsn', \
         'wait_for_apply_queue', 'get_configured_camo_partner', 'get_configured_camo_partner_of', \
         'is_camo_partner_connected', 'is_camo_partner_ready', 'camo_transactions_resolved') \
      OR n.nspname = 'pg_catalog' AND p.proname = 'pg_replication_origin_progress' \
    GROUP BY 1";

impl Catalog {
    /// Asks the node.
    pub(super) async fn read(link: &NodeLink) -> Result<Self, LinkError> {
        let mut found = BTreeMap::new();
        for row in link.rows(USABLE, &[]).await? {
            found.insert(
                field(&row, 0)?,
                field::<Option<bool>>(&row, 1)?.unwrap_or(false),
            );
        }
        Ok(Self(found))
    }

    /// Of `schema.table` or `schema.function()`.
    pub(super) fn access(&self, name: &str) -> Access {
        match self.0.get(name) {
            None => Access::Absent,
            Some(false) => Access::Denied,
            Some(true) => Access::Granted,
        }
    }

    /// Can it be used?
    pub(super) fn grants(&self, name: &str) -> bool {
        self.access(name) == Access::Granted
    }

    /// Is it there to be used? An error if it is there for others.
    pub(super) fn needs(&self, name: &str, grant: &str) -> Result<bool, LinkError> {
        match self.access(name) {
            Access::Absent => Ok(false),
            Access::Granted => Ok(true),
            Access::Denied => Err(denied(&format!("may not use {name}: {grant}"))),
        }
    }
}

/// As the server would have said it.
pub(super) fn denied(what: &str) -> LinkError {
    LinkError::Server {
        sqlstate: "42501".to_owned(),
        message: format!("the monitor's role {what}"),
    }
}
