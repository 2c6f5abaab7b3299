//! Which nodes serve `route = "read"` and `route = "any"`: what the control plane publishes of a
//! cluster, and what that means for one database. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{DatabaseConfig, NodeConfig, NodeName, ReadFallback, Route};

use super::balance::Candidate;

/// How a node stands to a route, the limits of a database left aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It takes newcomers.
    Fit,
    /// It is the lead: for reads it stands in when nobody is fit.
    Lead,
    /// It takes no newcomers, and its sessions leave at their safe point. Why.
    Unfit(Arc<str>),
    /// It is of no use, and its sessions end at once. Why.
    Lost(Arc<str>),
}

/// A node as the routes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteNode {
    /// Where it is, its weight and datacenter.
    pub node: Arc<NodeConfig>,
    /// Since when it has been up.
    pub up_since: SystemTime,
    /// To `route = "read"`.
    pub reads: Standing,
    /// To `route = "any"`.
    pub writes: Standing,
    /// Bytes behind the lead; `None`: not known.
    pub lag_bytes: Option<u64>,
    /// Time behind the lead; `None`: not known.
    pub lag: Option<Duration>,
}

/// What the control plane publishes of a cluster: immutable, replaced whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// All nodes of the cluster.
    pub nodes: Vec<RouteNode>,
    /// Of the cluster.
    pub slowstart: Option<Duration>,
    /// A node that is too far behind for so long loses its sessions: two probes have seen it.
    pub confirm: Duration,
    /// Some node was not proven either way yet: nobody is refused.
    pub undecided: bool,
    /// Nobody is fit for `route = "any"`, and has not been for so long that clients are refused.
    pub any_is_hopeless: bool,
}

/// What becomes of those who have a server on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// They stay.
    Yes,
    /// They leave at their safe point.
    Leave,
    /// They end at once.
    End,
}

/// Where newcomers go.
#[derive(Debug, PartialEq)]
pub(super) enum Way<'a> {
    /// To one of these.
    Among(Vec<&'a RouteNode>),
    /// To the lead, if its gate is open.
    ToLead,
    /// Nowhere yet.
    Wait,
    /// Nowhere: 57P03.
    Refused(Arc<str>),
}

/// A database on a route, and which nodes it has turned away for their lag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) route: Route,
    pub(super) config: &'a DatabaseConfig,
    /// Where we stand.
    pub(super) here: Option<&'a str>,
    pub(super) lagging: &'a Lagging,
}

/// Nodes that a database has turned away for their lag, and since when.
pub(super) type Lagging = BTreeMap<NodeName, Instant>;

impl Routes {
    /// Where newcomers go; `avoid`: who has just not let one in.
    pub(super) fn way(&self, wish: Wish<'_>, avoid: impl Fn(&NodeName) -> bool) -> Way<'_> {
        let fit = self
            .nodes
            .iter()
            .filter(|one| one.node.weight > 0 && one.standing(wish) == Standing::Fit);
        let fit: Vec<&RouteNode> = fit.collect();
        let willing: Vec<&RouteNode> = fit
            .iter()
            .copied()
            .filter(|one| !avoid(&one.node.name))
            .collect();
        if !willing.is_empty() {
            return Way::Among(nearest(willing, wish.here));
        }
        match (wish.route, wish.config.read_fallback) {
            (Route::Read, ReadFallback::Lead) => Way::ToLead,
            (Route::Read, ReadFallback::Refuse) if fit.is_empty() && !self.undecided => {
                Way::Refused(self.why("no node is fit for reads", wish))
            }
            (Route::Any, _) if fit.is_empty() && self.any_is_hopeless => {
                Way::Refused(self.why("no node takes writes", wish))
            }
            _ => Way::Wait,
        }
    }

    /// May those who are on the node stay? One that has just fallen behind may catch up at once: a
    /// burst of writes must not send everybody away from everywhere.
    pub(super) fn stay(&self, wish: Wish<'_>, name: &NodeName, now: Instant) -> Stay {
        let found = self.find(name);
        let is_followed = found.is_some_and(|one| one.reads == Standing::Fit);
        let lagging = wish.lagging.get(name);
        let is_certain = lagging.is_some_and(|since| now - *since >= self.confirm);
        match found.map(|one| one.standing(wish)) {
            Some(Standing::Unfit(_)) if wish.route == Route::Read && is_followed && !is_certain => {
                Stay::Yes
            }
            Some(Standing::Fit) => Stay::Yes,
            // It has everything; moving them would cost each an error, and gain nothing.
            Some(Standing::Lead) if wish.config.read_fallback == ReadFallback::Lead => Stay::Yes,
            Some(Standing::Lead | Standing::Unfit(_)) => Stay::Leave,
            Some(Standing::Lost(_)) | None => Stay::End,
        }
    }

    /// Is the node fit for newcomers of this database?
    pub(super) fn is_fit(&self, wish: Wish<'_>, name: &NodeName) -> bool {
        let found = self.find(name).filter(|one| one.node.weight > 0);
        found.is_some_and(|one| one.standing(wish) == Standing::Fit)
    }

    /// Is it the lead?
    pub(super) fn is_lead(&self, name: &NodeName) -> bool {
        self.find(name)
            .is_some_and(|one| one.reads == Standing::Lead)
    }

    /// Those that are too far behind for reads of a database, or nobody knows how far, and since
    /// when. One that was turned away comes back when it is behind by half the limit at most: at the
    /// limit itself it would come and go.
    pub(super) fn lagging(
        &self,
        config: &DatabaseConfig,
        before: &Lagging,
        now: Instant,
    ) -> Lagging {
        let lags = |one: &&RouteNode| {
            let share = if before.contains_key(&one.node.name) {
                2
            } else {
                1
            };
            one.is_behind(
                config.read_lag_max / u64::from(share),
                config.read_lag_max_time.map(|most| most / share),
            )
        };
        let since = |name: &NodeName| before.get(name).copied().unwrap_or(now);
        let behind = self.nodes.iter().filter(|one| one.reads == Standing::Fit);
        behind
            .filter(lags)
            .map(|one| (one.node.name.clone(), since(&one.node.name)))
            .collect()
    }

    fn find(&self, name: &NodeName) -> Option<&RouteNode> {
        self.nodes.iter().find(|one| one.node.name == *name)
    }

    fn why(&self, what: &str, wish: Wish<'_>) -> Arc<str> {
        let why = |one: &RouteNode| {
            let why = match one.standing(wish) {
                Standing::Fit => Arc::from("has weight 0"),
                Standing::Lead => Arc::from("is the lead"),
                Standing::Unfit(why) | Standing::Lost(why) => why,
            };
            format!("\"{}\" {why}", one.node.name)
        };
        let all: Vec<String> = self.nodes.iter().map(why).collect();
        Arc::from(format!("{what}: {}", all.join(", ")))
    }
}

impl RouteNode {
    /// With the database's limits.
    fn standing(&self, wish: Wish<'_>) -> Standing {
        match wish.route {
            Route::Any => self.writes.clone(),
            Route::Lead | Route::Read if self.reads != Standing::Fit => self.reads.clone(),
            Route::Lead | Route::Read => {
                let config = wish.config;
                if self.lag_bytes.is_none() {
                    Standing::Unfit(Arc::from("is behind the lead by nobody knows how much"))
                } else if wish.lagging.contains_key(&self.node.name)
                    || self.is_behind(config.read_lag_max, config.read_lag_max_time)
                {
                    Standing::Unfit(Arc::from("is too far behind the lead"))
                } else {
                    Standing::Fit
                }
            }
        }
    }

    /// By more than that, or is it not known?
    fn is_behind(&self, bytes: u64, time: Option<Duration>) -> bool {
        let late = |most| self.lag.is_none_or(|lag| lag > most);
        self.lag_bytes.is_none_or(|lag| lag > bytes) || time.is_some_and(late)
    }

    /// As the choice wants it.
    pub(super) fn candidate(&self, sessions: usize, now: SystemTime) -> Candidate<'_> {
        Candidate {
            name: &self.node.name,
            weight: self.node.weight,
            sessions,
            // A clock that was set back: it has only just come up.
            up_for: now.duration_since(self.up_since).unwrap_or_default(),
        }
    }
}

/// Those of our own datacenter; all, if there are none or we have none.
fn nearest<'a>(nodes: Vec<&'a RouteNode>, here: Option<&str>) -> Vec<&'a RouteNode> {
    let near: Vec<&RouteNode> = nodes
        .iter()
        .copied()
        .filter(|one| here.is_some() && one.node.datacenter.as_deref() == here)
        .collect();
    if near.is_empty() { nodes } else { near }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
