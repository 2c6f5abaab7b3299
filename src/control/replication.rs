//! How a pair of nodes replicates: which kind, which slot, and the row of `pg_stat_replication`
//! that speaks for the target.

use tokio_postgres::Row;

use super::bdr::{self, BdrNode, BdrSlot};
use super::catalog::Catalog;
use super::node_link::{LinkError, NodeLink, field, lsn_field};
use crate::config::ReplicationKind;
use crate::lsn::Lsn;

/// The kind of one link, once it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// Native logical replication.
    Logical,
    /// The pglogical extension.
    Pglogical,
    /// A physical standby.
    Physical,
    /// BDR or PGD.
    Bdr,
}

impl LinkKind {
    /// As the console has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Logical => "logical",
            Self::Pglogical => "pglogical",
            Self::Physical => "physical",
            Self::Bdr => "bdr",
        }
    }
}

/// A consumer on the target: what reads from a slot of some origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Consumer {
    /// Its kind.
    pub kind: LinkKind,
    /// Subscription name; empty for a physical standby, and where BDR does not tell it.
    pub subscription: String,
    /// Slot at the origin; `None` for a standby without one, and with BDR, where the origin tells.
    pub slot: Option<String>,
    /// BDR's name of the origin; `None`: not told.
    pub origin: Option<String>,
    /// BDR's name of the node that consumes.
    pub node: Option<String>,
    /// A disabled subscription applies nothing.
    pub enabled: bool,
    /// Tables whose first copy is not complete: the gate would open without their rows.
    pub pending_tables: i64,
    /// Filled in for readers only.
    pub stats: ApplyStats,
}

/// What went wrong while a consumer applied; what is `None` is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ApplyStats {
    /// Errors of the apply worker.
    pub apply_errors: Option<u64>,
    /// Errors of first copies.
    pub sync_errors: Option<u64>,
    /// Conflicts.
    pub conflicts: Option<u64>,
}

impl Consumer {
    /// One of which nothing is known yet.
    pub(super) fn of(kind: LinkKind) -> Self {
        Self {
            kind,
            subscription: String::new(),
            slot: None,
            origin: None,
            node: None,
            enabled: true,
            pending_tables: 0,
            stats: ApplyStats::default(),
        }
    }

    /// Itself with its slot, if this BDR origin has one for it.
    fn fed_by(mut self, origin: &str, slots: &[(String, BdrSlot)]) -> Option<Self> {
        if self.origin.as_deref().is_some_and(|name| name != origin) {
            return None;
        }
        let peer = BdrSlot::Peer(self.node.clone()?);
        let (slot, _) = slots.iter().find(|(_, what)| *what == peer)?;
        self.slot = Some(slot.clone());
        self.origin = Some(origin.to_owned());
        Some(self)
    }
}

/// The row of `pg_stat_replication` on the origin that belongs to a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SenderRow {
    /// `streaming`, `catchup`, ...; `None`: hidden from our role.
    pub state: Option<String>,
    /// Applied at the target, as it told the origin.
    pub replay: Option<Lsn>,
    /// Applied and durable at the target.
    pub flush: Option<Lsn>,
    /// Bytes between the origin's insert position and `replay`.
    pub lag: Option<i64>,
}

const NATIVE: &str = "SELECT s.subname::text, s.subslotname::text, s.subenabled, \
    (SELECT count(*) FROM pg_subscription_rel r WHERE r.srsubid = s.oid AND r.srsubstate <> 'r') \
    FROM pg_subscription s \
    WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    ORDER BY 1";

const PGLOGICAL: &str = "SELECT s.sub_name::text, s.sub_slot_name::text, s.sub_enabled, \
    (SELECT count(*) FROM pglogical.local_sync_status l \
      WHERE l.sync_subid = s.sub_id AND l.sync_status <> 'r') \
    FROM pglogical.subscription s ORDER BY 1";

/// What the role needs to see pglogical, for messages.
const PGLOGICAL_GRANT: &str = "GRANT USAGE ON SCHEMA pglogical and SELECT on the tables in it";

/// All consumers of a node that a setting allows, whatever their origin.
pub(super) async fn consumers(
    node: &NodeLink,
    wanted: ReplicationKind,
) -> Result<Vec<Consumer>, LinkError> {
    let catalog = Catalog::read(node).await?;
    let recovery = node.yes("SELECT pg_is_in_recovery()", &[]).await?;
    let bdr = if !recovery && wanted.may_be(ReplicationKind::Bdr) {
        bdr::local(node, &catalog).await?
    } else {
        None
    };
    consumers_of(node, wanted, &catalog, bdr.as_ref()).await
}

/// The same, with what is known of the node already.
pub(super) async fn consumers_of(
    node: &NodeLink,
    wanted: ReplicationKind,
    catalog: &Catalog,
    bdr: Option<&BdrNode>,
) -> Result<Vec<Consumer>, LinkError> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('primary_slot_name', true)";
    let row = node.row(sql, &[]).await?;
    if field(&row, 0)? {
        let slot = field::<Option<&str>>(&row, 1)?.unwrap_or_default();
        let standby = Consumer {
            slot: (!slot.is_empty()).then(|| slot.to_owned()),
            ..Consumer::of(LinkKind::Physical)
        };
        let physical = wanted.may_be(ReplicationKind::Physical);
        return Ok(physical.then_some(standby).into_iter().collect());
    }
    if let Some(bdr) = bdr {
        // Its subscriptions are pglogical's too, in BDR 3.
        return bdr::consumers(node, catalog, bdr).await;
    }
    let mut found = Vec::new();
    if wanted.may_be(ReplicationKind::Logical) {
        for row in node.rows(NATIVE, &[]).await? {
            found.push(consumer(LinkKind::Logical, &row)?);
        }
    }
    let tables = ["pglogical.subscription", "pglogical.local_sync_status"];
    if wanted.may_be(ReplicationKind::Pglogical)
        && catalog.needs(tables[0], PGLOGICAL_GRANT)?
        && catalog.needs(tables[1], PGLOGICAL_GRANT)?
    {
        for row in node.rows(PGLOGICAL, &[]).await? {
            found.push(consumer(LinkKind::Pglogical, &row)?);
        }
    }
    Ok(found)
}

fn consumer(kind: LinkKind, row: &Row) -> Result<Consumer, LinkError> {
    Ok(Consumer {
        subscription: field(row, 0)?,
        slot: field(row, 1)?,
        enabled: field(row, 2)?,
        pending_tables: field(row, 3)?,
        ..Consumer::of(kind)
    })
}

// The counters of conflicts came with PostgreSQL 18.
const NATIVE_STATS: &str = "SELECT subname::text, apply_error_count, sync_error_count, \
    (SELECT sum(value::int8)::int8 FROM jsonb_each_text(to_jsonb(s)) WHERE key LIKE 'confl\\_%') \
    FROM pg_stat_subscription_stats s";

/// What went wrong while they applied, where the node tells.
pub(super) async fn add_stats(
    node: &NodeLink,
    version: u32,
    catalog: &Catalog,
    consumers: &mut [Consumer],
) -> Result<(), LinkError> {
    let kinds: Vec<LinkKind> = consumers.iter().map(|c| c.kind).collect();
    if kinds.contains(&LinkKind::Bdr) {
        return bdr::stats(node, catalog, consumers).await;
    }
    if kinds.contains(&LinkKind::Logical) && version >= 150_000 {
        for row in node.rows(NATIVE_STATS, &[]).await? {
            let name: Option<&str> = field(&row, 0)?;
            let stats = ApplyStats {
                apply_errors: count(&row, 1)?,
                sync_errors: count(&row, 2)?,
                conflicts: count(&row, 3)?,
            };
            let mut named = consumers.iter_mut();
            if let Some(consumer) = named.find(|c| Some(c.subscription.as_str()) == name) {
                consumer.stats = stats;
            }
        }
    }
    if kinds.contains(&LinkKind::Pglogical) && catalog.grants("pglogical.conflict_history") {
        // pglogical 3; bounded, since it is asked with every probe.
        let sql = "SELECT count(*) FROM (SELECT FROM pglogical.conflict_history LIMIT 10000) c";
        let conflicts = count(&node.row(sql, &[]).await?, 0)?;
        let pglogical = |c: &&mut Consumer| c.kind == LinkKind::Pglogical;
        for consumer in consumers.iter_mut().filter(pglogical) {
            consumer.stats.conflicts = conflicts;
        }
    }
    Ok(())
}

fn count(row: &Row, index: usize) -> Result<Option<u64>, LinkError> {
    let number: Option<i64> = field(row, index)?;
    Ok(number.and_then(|n| u64::try_from(n).ok()))
}

/// Which of a target's consumers read from this origin: those whose slot it has; with BDR it says
/// itself for whom each slot is. A physical standby without a slot is taken as it is.
pub(super) async fn of_origin(
    origin: &NodeLink,
    consumers: Vec<Consumer>,
) -> Result<Vec<Consumer>, LinkError> {
    let sql = "SELECT slot_name::text FROM pg_replication_slots \
               WHERE database IS NULL OR database = current_database()";
    let mut slots = Vec::new();
    for row in origin.rows(sql, &[]).await? {
        slots.push(field::<String>(&row, 0)?);
    }
    let peers = if consumers.iter().any(|c| c.kind == LinkKind::Bdr) {
        let catalog = Catalog::read(origin).await?;
        match bdr::local(origin, &catalog).await? {
            Some(node) => Some((node.name, bdr::slots(origin).await?)),
            None => None,
        }
    } else {
        None
    };
    let here = |c: Consumer| match (c.kind, &c.slot, &peers) {
        (LinkKind::Bdr, _, Some((name, slots))) => c.fed_by(name, slots),
        (LinkKind::Bdr, _, None) => None,
        (_, Some(slot), _) => slots.contains(slot).then_some(c),
        (kind, None, _) => (kind == LinkKind::Physical).then_some(c),
    };
    Ok(consumers.into_iter().filter_map(here).collect())
}

const COLUMNS: &str = "r.state, r.replay_lsn::text, r.flush_lsn::text, \
    CASE WHEN pg_is_in_recovery() THEN NULL \
    ELSE pg_wal_lsn_diff(pg_current_wal_insert_lsn(), r.replay_lsn)::int8 END";

/// The sender rows of a consumer; a working link has exactly one. Joined by slot, never by
/// `application_name`, which anybody may choose.
pub(super) async fn sender_rows(
    origin: &NodeLink,
    consumer: &Consumer,
) -> Result<Vec<SenderRow>, LinkError> {
    let rows = if let Some(slot) = &consumer.slot {
        let sql = format!(
            "SELECT {COLUMNS} FROM pg_replication_slots s \
             JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = $1"
        );
        origin.rows(&sql, &[slot]).await?
    } else {
        // Without a slot only a lone physical walsender can be told apart.
        let sql = format!(
            "SELECT {COLUMNS} FROM pg_stat_replication r WHERE NOT EXISTS \
             (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid)"
        );
        origin.rows(&sql, &[]).await?
    };
    rows.iter().map(sender_row).collect()
}

fn sender_row(row: &Row) -> Result<SenderRow, LinkError> {
    Ok(SenderRow {
        state: field(row, 0)?,
        replay: lsn_field(row, 1)?,
        flush: lsn_field(row, 2)?,
        lag: field(row, 3)?,
    })
}

/// The last position of the origin's WAL that the target has received, where the kind tells. Of
/// pglogical it is the last that was applied.
pub(super) async fn received(
    target: &NodeLink,
    consumer: &Consumer,
) -> Result<Option<Lsn>, LinkError> {
    let rows = match (consumer.kind, &consumer.slot, &consumer.origin) {
        (LinkKind::Physical, _, _) => {
            let sql = "SELECT pg_last_wal_receive_lsn()::text";
            target.rows(sql, &[]).await?
        }
        (LinkKind::Logical, _, _) => {
            let sql = "SELECT received_lsn::text FROM pg_stat_subscription \
                       WHERE subname = $1 AND relid IS NULL AND received_lsn IS NOT NULL LIMIT 1";
            target.rows(sql, &[&consumer.subscription]).await?
        }
        (LinkKind::Bdr, _, Some(origin)) => return bdr::received(target, origin).await,
        (LinkKind::Pglogical, Some(slot), _) => {
            let function = "pg_catalog.pg_replication_origin_progress()";
            if !Catalog::read(target).await?.grants(function) {
                return Ok(None);
            }
            // pglogical names the origin after the slot.
            let sql = "SELECT pg_replication_origin_progress(roname, false)::text \
                       FROM pg_replication_origin WHERE roname = $1";
            target.rows(sql, &[slot]).await?
        }
        (LinkKind::Bdr | LinkKind::Pglogical, _, _) => Vec::new(),
    };
    rows.first().map_or(Ok(None), |row| lsn_field(row, 0))
}
