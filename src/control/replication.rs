//! How a pair of nodes replicates: which kind, which slot, and the row of `pg_stat_replication`
//! that speaks for the target.

use tokio_postgres::Row;

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
}

impl LinkKind {
    /// As the console has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Logical => "logical",
            Self::Pglogical => "pglogical",
            Self::Physical => "physical",
        }
    }
}

/// A consumer on the target: what reads from a slot of some origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Consumer {
    /// Its kind.
    pub kind: LinkKind,
    /// Subscription name; empty for a physical standby.
    pub subscription: String,
    /// Slot at the origin; `None` for a standby without one.
    pub slot: Option<String>,
    /// A disabled subscription applies nothing.
    pub enabled: bool,
    /// Tables whose first copy is not complete: the gate would open without their rows.
    pub pending_tables: i64,
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

/// All consumers of a node that a setting allows, whatever their origin.
pub(super) async fn consumers(
    node: &NodeLink,
    wanted: ReplicationKind,
) -> Result<Vec<Consumer>, LinkError> {
    let sql = "SELECT pg_is_in_recovery(), to_regclass('pglogical.subscription') IS NOT NULL, \
               current_setting('primary_slot_name', true)";
    let row = node.row(sql, &[]).await?;
    let (in_recovery, has_pglogical) = (field::<bool>(&row, 0)?, field::<bool>(&row, 1)?);
    let mut found = Vec::new();
    if in_recovery {
        if matches!(wanted, ReplicationKind::Auto | ReplicationKind::Physical) {
            let slot = field::<Option<&str>>(&row, 2)?.unwrap_or_default();
            found.push(Consumer {
                kind: LinkKind::Physical,
                subscription: String::new(),
                slot: (!slot.is_empty()).then(|| slot.to_owned()),
                enabled: true,
                pending_tables: 0,
            });
        }
        return Ok(found);
    }
    if matches!(wanted, ReplicationKind::Auto | ReplicationKind::Logical) {
        for row in node.rows(NATIVE, &[]).await? {
            found.push(consumer(LinkKind::Logical, &row)?);
        }
    }
    if has_pglogical && matches!(wanted, ReplicationKind::Auto | ReplicationKind::Pglogical) {
        for row in node.rows(PGLOGICAL, &[]).await? {
            found.push(consumer(LinkKind::Pglogical, &row)?);
        }
    }
    Ok(found)
}

fn consumer(kind: LinkKind, row: &Row) -> Result<Consumer, LinkError> {
    Ok(Consumer {
        kind,
        subscription: field(row, 0)?,
        slot: field(row, 1)?,
        enabled: field(row, 2)?,
        pending_tables: field(row, 3)?,
    })
}

/// Which of a target's consumers read from this origin: those whose slot it has. A physical
/// standby without a slot is taken as it is.
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
    let here = |c: &Consumer| c.slot.as_ref().is_none_or(|slot| slots.contains(slot));
    let logical_without_slot = |c: &Consumer| c.slot.is_none() && c.kind != LinkKind::Physical;
    let ours = consumers
        .into_iter()
        .filter(|c| here(c) && !logical_without_slot(c));
    Ok(ours.collect())
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

// Without pg_read_all_stats the workers are hidden: then the answer is no.
const BUSY_WORKERS: &str = "SELECT pg_has_role('pg_read_all_stats', 'USAGE') AND count(*) = 0 FROM pg_stat_activity \
    WHERE datname = current_database() AND (backend_type LIKE 'pglogical apply%' \
      OR backend_type LIKE 'logical replication %worker') \
    AND coalesce(wait_event_type, '') NOT IN ('Activity', 'Extension')";

const REPLAYED: &str = "SELECT coalesce(pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn(), \
    NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL))";

/// Failover: has the target applied all that it received? Asks the target alone; the origin may
/// be dead.
///
/// A logical apply worker receives and applies in one loop and sleeps (wait event of type Activity,
/// pglogical: Extension) only when its socket is empty. One that has ended keeps nothing:
/// an unfinished transaction is not carried over to the next worker. Ask twice: it may be
/// between two messages.
pub(super) async fn has_applied_all(target: &NodeLink, kind: LinkKind) -> Result<bool, LinkError> {
    match kind {
        LinkKind::Physical => target.yes(REPLAYED, &[]).await,
        LinkKind::Logical | LinkKind::Pglogical => target.yes(BUSY_WORKERS, &[]).await,
    }
}

/// The last position of the origin's WAL that the target has received, where the kind tells.
pub(super) async fn received(
    target: &NodeLink,
    consumer: &Consumer,
) -> Result<Option<Lsn>, LinkError> {
    let rows = match consumer.kind {
        LinkKind::Physical => {
            let sql = "SELECT pg_last_wal_receive_lsn()::text";
            target.rows(sql, &[]).await?
        }
        LinkKind::Logical => {
            let sql = "SELECT received_lsn::text FROM pg_stat_subscription \
                       WHERE subname = $1 AND relid IS NULL AND received_lsn IS NOT NULL LIMIT 1";
            target.rows(sql, &[&consumer.subscription]).await?
        }
        LinkKind::Pglogical => Vec::new(),
    };
    rows.first().map_or(Ok(None), |row| lsn_field(row, 0))
}
