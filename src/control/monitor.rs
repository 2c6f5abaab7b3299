//! One probe loop per node: logs in, asks, tells the Director what it saw.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::checks;
use super::facts::{NodeFacts, facts};
use super::health::{Logins, Seen};
use super::member::Kick;
use super::node_link::{Deadlines, LinkError, NodeLink};
use crate::config::{ClusterConfig, NodeConfig, NodeName};

/// Each so many probes a new login is tried besides the connection that is there.
const LOGIN_EVERY: u32 = 10;
/// Between two probes, whatever rings: bounds what a storm of facts can cause.
const PAUSE_LEAST: std::time::Duration = std::time::Duration::from_millis(20);

/// One probe's result.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    /// Of which node.
    pub node: NodeName,
    /// When the probe began: what happened later it does not know.
    pub began: Instant,
    /// What it says about the node's health.
    pub seen: Seen,
    /// Does it take new logins too?
    pub logins: Logins,
    /// What the node told, if it answered.
    pub facts: Option<NodeFacts>,
}

/// Probes until the Director is gone.
pub(super) async fn watch(
    config: Arc<ClusterConfig>,
    node: NodeConfig,
    kick: Arc<Kick>,
    observations: mpsc::Sender<Observation>,
) {
    let mut doubt = Doubt::new(&config);
    let mut link = None;
    let mut probes: u32 = 0;
    loop {
        let began = Instant::now();
        probes = probes.wrapping_add(1);
        let had_link = link.is_some();
        let mut observation = Box::pin(probe(&config, &node, &mut link)).await;
        let asked = kick.take_logins() || doubt.about_logins;
        let due = asked || probes.is_multiple_of(LOGIN_EVERY);
        if had_link && due && observation.seen == Seen::Answers {
            observation.logins = Box::pin(try_login(&config, &node, &mut link)).await;
        }
        doubt.note(&observation);
        if observations.send(observation).await.is_err() {
            return;
        }
        let interval = if doubt.is_in_doubt() {
            config.monitor_fast_interval
        } else {
            config.monitor_interval
        };
        tokio::select! {
            () = sleep_until(began + interval) => {}
            () = rung(&kick, &doubt) => {}
        }
        sleep_until(began + PAUSE_LEAST).await;
    }
}

/// Equal results in a row; until there are enough of them, one looks more often.
struct Doubt {
    enough: u32,
    good: bool,
    streak: u32,
    about_logins: bool,
}

impl Doubt {
    fn new(config: &ClusterConfig) -> Self {
        Self {
            enough: config.fall.max(config.rise),
            good: false,
            streak: 0,
            about_logins: false,
        }
    }

    fn note(&mut self, observation: &Observation) {
        let good = observation.seen == Seen::Answers;
        if good == self.good {
            self.streak = self.streak.saturating_add(1);
        } else {
            (self.good, self.streak) = (good, 1);
        }
        self.about_logins = matches!(observation.logins, Logins::Fail(_));
    }

    /// It failed, and whether it is down is being found out.
    fn is_confirming(&self) -> bool {
        !self.good && (1..self.enough).contains(&self.streak)
    }

    fn is_in_doubt(&self) -> bool {
        self.streak < self.enough || self.about_logins
    }
}

/// Facts make a probe come at once, but not those that confirm its failure: they are as far apart as
/// an operator has said, however many clients meet the same fault.
async fn rung(kick: &Kick, doubt: &Doubt) {
    if doubt.is_confirming() {
        return std::future::pending().await;
    }
    kick.rung().await;
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
        Ok(facts) => match checks::run(config, node).await {
            Ok(()) => (Seen::Answers, Some(facts)),
            Err(why) => (Seen::Fails(why), Some(facts)),
        },
        Err(error) => (seen_of(&error), None),
    };
    Observation {
        node: node.name.clone(),
        began,
        seen,
        logins: Logins::Untried,
        facts,
    }
}

fn seen_of(error: &LinkError) -> Seen {
    match error.sqlstate() {
        Some(sqlstate) => Seen::of_server_error(sqlstate, error.to_string()),
        None => Seen::Fails(error.to_string()),
    }
}

async fn attempt(
    config: &ClusterConfig,
    node: &NodeConfig,
    link: &mut Option<NodeLink>,
) -> Result<NodeFacts, LinkError> {
    if link.as_ref().is_none_or(NodeLink::is_closed) {
        *link = Some(open(config, node).await?);
    }
    let Some(open) = link else {
        return Err(LinkError::Broken("not connected".to_owned()));
    };
    let told = facts(open, config).await?;
    if told.spoilt {
        *link = None;
    }
    Ok(told.facts)
}

/// A new login beside the old one, which it replaces when it is answered.
async fn try_login(
    config: &ClusterConfig,
    node: &NodeConfig,
    link: &mut Option<NodeLink>,
) -> Logins {
    match open(config, node).await {
        Ok(fresh) => {
            *link = Some(fresh);
            Logins::Taken
        }
        Err(error) => Logins::Fail(seen_of(&error)),
    }
}

async fn open(config: &ClusterConfig, node: &NodeConfig) -> Result<NodeLink, LinkError> {
    Box::pin(NodeLink::open(node, &config.monitor, Deadlines::of(config))).await
}
