//! One probe loop per node: logs in, asks, tells the Director what it saw.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::facts::{NodeFacts, facts};
use super::node_link::{LinkError, NodeLink};
use super::verdict::Seen;
use crate::config::{ClusterConfig, NodeConfig, NodeName};

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
