//! One probe loop per node: logs in, asks, tells the Director what it saw.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::node_link::{LinkError, NodeLink, field, lsn_field};
use super::replication::{Consumer, consumers};
use super::verdict::Seen;
use crate::config::{ClusterConfig, NodeConfig, NodeName};
use crate::lsn::Lsn;

/// One probe's result.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    /// Of which node.
    pub node: NodeName,
    /// When the probe began: what happened later it does not know.
    pub began: Instant,
    /// What it says about the node's health.
    pub seen: Seen,
    /// What the node told, if it answered.
    pub facts: Option<NodeFacts>,
}

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

/// Probes until the Director is gone. `kick` asks for a probe at once.
pub(super) async fn watch(
    config: Arc<ClusterConfig>,
    node: NodeConfig,
    kick: Arc<Notify>,
    observations: mpsc::Sender<Observation>,
) {
    let quick = (config.monitor_interval / 4)
        .max(Duration::from_millis(100))
        .min(config.monitor_interval);
    let doubt_ends = config.fall.max(config.rise);
    let mut link = None;
    // Equal results in a row; until there are enough of them, one is in doubt.
    let mut streak: (bool, u32) = (false, 0);
    loop {
        let began = Instant::now();
        let observation = probe(&config, &node, &mut link).await;
        let good = observation.facts.is_some();
        streak = match streak {
            (before, count) if before == good => (good, count.saturating_add(1)),
            _ => (good, 1),
        };
        if observations.send(observation).await.is_err() {
            return;
        }
        let interval = if streak.1 < doubt_ends {
            quick
        } else {
            config.monitor_interval
        };
        let rest = interval.saturating_sub(began.elapsed());
        // Kicked or not, the next probe comes; the pause bounds what a storm of facts can cause.
        let _ = timeout(rest, kick.notified()).await;
        tokio::time::sleep_until(began + Duration::from_millis(20)).await;
    }
}

/// One probe on the connection that is left from the last one, or a new one.
pub(super) async fn probe(
    config: &ClusterConfig,
    node: &NodeConfig,
    link: &mut Option<NodeLink>,
) -> Observation {
    let began = Instant::now();
    let result = attempt(config, node, link).await;
    if result.as_ref().is_err_and(LinkError::is_fatal) {
        *link = None;
    }
    let (seen, facts) = match result {
        Ok(facts) => (Seen::Answers, Some(facts)),
        Err(error) if error.sqlstate() == Some("57P03") => {
            (Seen::Starting(error.to_string()), None)
        }
        Err(error) => (Seen::Fails(error.to_string()), None),
    };
    Observation {
        node: node.name.clone(),
        began,
        seen,
        facts,
    }
}

async fn attempt(
    config: &ClusterConfig,
    node: &NodeConfig,
    link: &mut Option<NodeLink>,
) -> Result<NodeFacts, LinkError> {
    if link.as_ref().is_none_or(NodeLink::is_closed) {
        let fresh = NodeLink::open(node, &config.monitor, config.monitor_timeout);
        *link = Some(Box::pin(fresh).await?);
    }
    match link {
        Some(link) => facts(link, config).await,
        None => Err(LinkError::Broken("not connected".to_owned())),
    }
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

async fn facts(link: &NodeLink, config: &ClusterConfig) -> Result<NodeFacts, LinkError> {
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
