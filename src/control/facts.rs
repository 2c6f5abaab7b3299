//! What an answering node tells of itself: its state, its slots and walsenders, its subscriptions.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;

use super::bdr::{self, BdrNode, BdrSlot};
use super::catalog::Catalog;
use super::lead_note::LeadNote;
use super::node_link::{LinkError, NodeLink, field, lsn_field};
use super::replication::{Consumer, add_stats, consumers_of};
use crate::config::{ClusterConfig, ReplicationKind};
use crate::lsn::Lsn;

/// What an answering node told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeFacts {
    /// Round trip of the first query.
    pub took: Duration,
    /// A physical standby?
    pub in_recovery: bool,
    /// Would a write be refused?
    pub read_only: bool,
    /// `server_version_num`.
    pub version: u32,
    /// Of `pg_control_system()`.
    pub system_identifier: Option<u64>,
    /// Insert or, in recovery, replay position.
    pub lsn: Option<Lsn>,
    /// In recovery: the last position that was received.
    pub received: Option<Lsn>,
    /// What our role remembers there of the lead.
    pub note: Option<LeadNote>,
    /// Slots and walsenders.
    pub senders: Vec<Sender>,
    /// Subscriptions, or what it follows as a standby.
    /// `None`: our role may not see them.
    pub consumers: Option<Vec<Consumer>>,
    /// Its place in a BDR or PGD group.
    pub bdr: Option<BdrNode>,
    /// How many probes ago it told the three above; 0: just now, as far as it tells them.
    pub probes_ago: u32,
}

impl NodeFacts {
    /// If it has just not told how it replicates, what it told before holds for `most` probes.
    pub(super) fn complete_from(&mut self, before: &Self, most: u32) {
        if self.probes_ago > 0 && before.probes_ago < most {
            self.senders.clone_from(&before.senders);
            self.consumers.clone_from(&before.consumers);
            self.bdr.clone_from(&before.bdr);
            self.probes_ago = before.probes_ago.saturating_add(1);
        }
    }
}

/// A slot, a walsender, or both, at an origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sender {
    /// `None`: a walsender without a slot.
    pub slot: Option<String>,
    /// `logical` or `physical`.
    pub slot_type: Option<String>,
    /// Output plugin.
    pub plugin: Option<String>,
    /// Database of a logical slot.
    pub database: Option<String>,
    /// Ends with its session.
    pub temporary: bool,
    /// Does somebody read from it?
    pub active: bool,
    /// Is there a walsender?
    pub sends: bool,
    /// `pg_stat_replication.state`; `None` with a walsender: hidden from our role.
    pub state: Option<String>,
    /// Sent.
    pub sent: Option<Lsn>,
    /// Received by the consumer.
    pub write: Option<Lsn>,
    /// Durable at the consumer.
    pub flush: Option<Lsn>,
    /// Confirmed by the consumer: replayed, or for an idle slot flushed.
    pub replay: Option<Lsn>,
    /// From there the slot keeps WAL.
    pub restart: Option<Lsn>,
    /// Of a logical slot.
    pub confirmed: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// WAL bytes that may be written before the slot is in danger.
    pub safe_wal: Option<i64>,
    /// What BDR uses the slot for.
    pub bdr: Option<BdrSlot>,
}

const STATE: &str = "SELECT pg_is_in_recovery(), \
    current_setting('transaction_read_only') = 'on', \
    current_setting('server_version_num')::int4, \
    (SELECT system_identifier::text FROM pg_control_system()), \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
      ELSE pg_current_wal_insert_lsn() END::text, \
    pg_last_wal_receive_lsn()::text, \
    (SELECT c FROM pg_roles r, unnest(r.rolconfig) c WHERE r.rolname = current_user \
      AND c LIKE 'application_name=%')";

// wal_status and safe_wal_size came with PostgreSQL 13.
const SENDERS: &str = "SELECT s.slot_name::text, s.slot_type, s.plugin::text, s.database::text, \
    coalesce(s.temporary, false), coalesce(s.active, true), r.pid IS NOT NULL, r.state, \
    r.sent_lsn::text, r.write_lsn::text, r.flush_lsn::text, \
    coalesce(r.replay_lsn, s.confirmed_flush_lsn)::text, s.restart_lsn::text, \
    s.confirmed_flush_lsn::text, to_jsonb(s)->>'wal_status', \
    (to_jsonb(s)->>'safe_wal_size')::int8 \
    FROM pg_replication_slots s FULL JOIN pg_stat_replication r ON r.pid = s.active_pid \
    ORDER BY 1 LIMIT 200";

/// What a node told, and whether the connection may be used again.
pub(super) struct Told {
    /// The facts.
    pub facts: NodeFacts,
    /// A question about replication was not answered: what comes now would be its answer.
    pub spoilt: bool,
}

/// Asks all of it, on one connection. Only the first question says whether the node lives.
pub(super) async fn facts(link: &NodeLink, config: &ClusterConfig) -> Result<Told, LinkError> {
    let began = Instant::now();
    let row = link.row(STATE, &[]).await?;
    let took = began.elapsed();
    let mut facts = NodeFacts {
        took,
        in_recovery: field(&row, 0)?,
        read_only: field(&row, 1)?,
        version: u32::try_from(field::<i32>(&row, 2)?).unwrap_or_default(),
        system_identifier: field::<Option<&str>>(&row, 3)?.and_then(|text| text.parse().ok()),
        lsn: lsn_field(&row, 4)?,
        received: lsn_field(&row, 5)?,
        note: field::<Option<&str>>(&row, 6)?.and_then(LeadNote::parse),
        senders: Vec::new(),
        consumers: None,
        bdr: None,
        probes_ago: 0,
    };
    // What a role may not see, and what an extension does not answer, costs the view a link, not
    // the node its health.
    let mut spoilt = false;
    if let Err(error) = replication(link, config, &mut facts).await {
        if error.ends_the_session() {
            return Err(error);
        }
        spoilt = error.is_fatal();
        facts.probes_ago = u32::from(error.is_of_the_node());
        tracing::debug!(%error, "replication is not told");
    }
    Ok(Told { facts, spoilt })
}

async fn replication(
    link: &NodeLink,
    config: &ClusterConfig,
    facts: &mut NodeFacts,
) -> Result<(), LinkError> {
    for row in link.rows(SENDERS, &[]).await? {
        facts.senders.push(sender(&row)?);
    }
    let catalog = Catalog::read(link).await?;
    let wanted = config.replication;
    if !facts.in_recovery && wanted.may_be(ReplicationKind::Bdr) {
        facts.bdr = bdr::local(link, &catalog).await?;
    }
    if facts.bdr.is_some() {
        for (name, what) in bdr::slots(link).await? {
            let mut senders = facts.senders.iter_mut();
            if let Some(sender) = senders.find(|s| s.slot.as_ref() == Some(&name)) {
                sender.bdr = Some(what);
            }
        }
    }
    let mut consumers = consumers_of(link, wanted, &catalog, facts.bdr.as_ref()).await?;
    match add_stats(link, facts.version, &catalog, &mut consumers).await {
        Err(error) if error.is_of_the_node() => return Err(error),
        _ => {}
    }
    facts.consumers = Some(consumers);
    Ok(())
}

fn sender(row: &Row) -> Result<Sender, LinkError> {
    Ok(Sender {
        slot: field(row, 0)?,
        slot_type: field(row, 1)?,
        plugin: field(row, 2)?,
        database: field(row, 3)?,
        temporary: field(row, 4)?,
        active: field(row, 5)?,
        sends: field(row, 6)?,
        state: field(row, 7)?,
        sent: lsn_field(row, 8)?,
        write: lsn_field(row, 9)?,
        flush: lsn_field(row, 10)?,
        replay: lsn_field(row, 11)?,
        restart: lsn_field(row, 12)?,
        confirmed: lsn_field(row, 13)?,
        wal_status: field(row, 14)?,
        safe_wal: field(row, 15)?,
        bdr: None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{NodeFacts, Sender};

    #[test]
    fn what_was_told_of_replication_outlives_some_probes_that_did_not_tell_it() {
        let told = |senders: usize, probes_ago| NodeFacts {
            took: Duration::ZERO,
            in_recovery: false,
            read_only: false,
            version: 170_000,
            system_identifier: None,
            lsn: None,
            received: None,
            note: None,
            senders: vec![Sender::default(); senders],
            consumers: None,
            bdr: None,
            probes_ago,
        };
        let mut shown = told(2, 0);
        for (senders, probes_ago, expected) in [
            (0, 1, (2, 1)),
            (0, 1, (2, 2)),
            // Three in a row: it is not known any more.
            (0, 1, (0, 1)),
            (3, 0, (3, 0)),
            // All slots were dropped: that was told.
            (0, 0, (0, 0)),
        ] {
            let mut next = told(senders, probes_ago);
            next.complete_from(&shown, 2);
            assert_eq!((next.senders.len(), next.probes_ago), expected);
            shown = next;
        }
    }
}
