//! What an answering node tells of itself: its state, its slots and walsenders, its subscriptions.

use std::time::Duration;

use tokio::time::Instant;

use super::node_link::{LinkError, NodeLink, field, lsn_field};
use super::replication::{Consumer, consumers};
use crate::config::ClusterConfig;
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
    /// Slots and walsenders.
    pub senders: Vec<Sender>,
    /// Subscriptions, or what it follows as a standby.
    /// `None`: our role may not see them.
    pub consumers: Option<Vec<Consumer>>,
}

/// A slot, a walsender, or both, at an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    /// `None`: a walsender without a slot.
    pub slot: Option<String>,
    /// Does somebody read from it?
    pub active: bool,
    /// `pg_stat_replication.state`.
    pub state: Option<String>,
    /// Confirmed by the consumer: replayed, or for an idle slot flushed.
    pub replay: Option<Lsn>,
    /// From there the slot keeps WAL.
    pub restart: Option<Lsn>,
}

const STATE: &str = "SELECT pg_is_in_recovery(), \
    current_setting('transaction_read_only') = 'on', \
    current_setting('server_version_num')::int4, \
    (SELECT system_identifier::text FROM pg_control_system()), \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
      ELSE pg_current_wal_insert_lsn() END::text";

const SENDERS: &str = "SELECT s.slot_name::text, coalesce(s.active, true), r.state, \
    coalesce(r.replay_lsn, s.confirmed_flush_lsn)::text, s.restart_lsn::text \
    FROM pg_replication_slots s FULL JOIN pg_stat_replication r ON r.pid = s.active_pid \
    WHERE s.database IS NULL OR s.database = current_database() LIMIT 200";

/// Asks all of it, on one connection.
pub(super) async fn facts(link: &NodeLink, config: &ClusterConfig) -> Result<NodeFacts, LinkError> {
    let began = Instant::now();
    let row = link.row(STATE, &[]).await?;
    let took = began.elapsed();
    let mut senders = Vec::new();
    for row in link.rows(SENDERS, &[]).await? {
        senders.push(Sender {
            slot: field(&row, 0)?,
            active: field(&row, 1)?,
            state: field(&row, 2)?,
            replay: lsn_field(&row, 3)?,
            restart: lsn_field(&row, 4)?,
        });
    }
    // What a role may not see costs the view a link, not the node its health.
    let consumers = match consumers(link, config.replication).await {
        Ok(consumers) => Some(consumers),
        Err(error) if error.is_fatal() => return Err(error),
        Err(_) => None,
    };
    Ok(NodeFacts {
        took,
        in_recovery: field(&row, 0)?,
        read_only: field(&row, 1)?,
        version: u32::try_from(field::<i32>(&row, 2)?).unwrap_or_default(),
        system_identifier: field::<Option<&str>>(&row, 3)?.and_then(|text| text.parse().ok()),
        lsn: lsn_field(&row, 4)?,
        senders,
        consumers,
    })
}
