//! Pools of `route = "read"` and `route = "any"`: which node a newcomer gets, and what becomes of the
//! sessions when the control plane publishes other [`Routes`].
//!
//! They are no traffic of the lead: no hold, drain or release of a switchover touches them, except
//! that whoever falls back to the lead comes in through its gate. They are as tight as a hold is
//! (see `gate.rs`): the routes are changed first, then every pool is locked once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use crate::config::{ClusterName, NodeConfig, NodeName, ReadFallback, Route};
use crate::relay::{Order, StopReason};

use super::Pools;
use super::balance::{Candidate, Turns};
use super::checkout::{Pool, State};
use super::database::Database;
use super::gate::{Admission, ClusterState, Operator, lock};
use super::lease::Use;
use super::route::{Lagging, Routes, Stay, Way, Wish};

/// What a database on a route remembers.
#[derive(Debug, Default)]
pub(super) struct RouteMemory {
    turns: Turns,
    /// Turned away for their lag.
    lagging: Lagging,
}

/// Counts a session on a node while it lives: what least-connections goes by.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    pub(super) fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// May a newcomer be given a server now, and of which node?
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Open(Arc<NodeConfig>),
    Hold,
    /// Not before this: nobody else is willing.
    Later(Instant),
    Refuse(Arc<str>),
}

/// The control plane's side.
impl Pools {
    /// Replaces what `route = "read"` and `route = "any"` of a cluster go by. From the return of this
    /// call on nobody is given a server on a node that is not fit; sessions on a node that is lost
    /// are told to stop now, on one that is only unfit to stop at their safe point. `true`: there is
    /// a database that goes by them.
    pub fn publish_routes(&self, cluster: &ClusterName, routes: Routes) -> bool {
        let Some(gate) = self.gate(cluster) else {
            return false;
        };
        let is_routed = |database: &Arc<Database>| {
            let config = database.config();
            config.cluster == *cluster && config.route != Route::Lead
        };
        gate.set_routes(routes);
        // Also when they are what they were: time is a part of it.
        for pool in self.of_cluster(cluster) {
            if pool.is_routed() {
                pool.review();
            }
        }
        self.database_list().iter().any(is_routed)
    }
}

/// The readers' side.
impl Pools {
    /// Nodes that a newcomer of the database would go to now.
    pub(super) fn ways_in(&self, database: &Database) -> Vec<Arc<NodeConfig>> {
        let config = database.config();
        let Some(gate) = self.gate(&config.cluster) else {
            return Vec::new();
        };
        let lead = || match gate.state() {
            ClusterState::Open { lead, .. } => vec![lead],
            ClusterState::Held { .. } | ClusterState::Refusing { .. } => Vec::new(),
        };
        let routes = gate.routes().filter(|_| config.route != Route::Lead);
        let Some(routes) = routes else {
            return if config.route == Route::Lead {
                lead()
            } else {
                Vec::new()
            };
        };
        let here = self.config();
        database.with_wish(
            config.route,
            here.general.datacenter.as_deref(),
            |wish, _| match routes.way(wish, |_| false) {
                Way::Among(nodes) => nodes.iter().map(|one| Arc::clone(&one.node)).collect(),
                Way::ToLead => lead(),
                Way::Wait | Way::Refused(_) => Vec::new(),
            },
        )
    }
}

impl Database {
    /// Asks the routes on behalf of this database.
    fn with_wish<T>(
        &self,
        route: Route,
        here: Option<&str>,
        ask: impl FnOnce(Wish<'_>, &mut Turns) -> T,
    ) -> T {
        let config = self.config();
        let mut memory = lock(&self.route_memory);
        let RouteMemory { turns, lagging } = &mut *memory;
        let wish = Wish {
            route,
            config: &config,
            here,
            lagging,
        };
        ask(wish, turns)
    }
}

impl Pool {
    /// Does it go by the routes, and not by the lead's gate?
    pub(super) fn is_routed(&self) -> bool {
        self.route != Route::Lead
    }

    /// Its sessions cannot write.
    pub fn is_read_only(&self) -> bool {
        self.route == Route::Read
    }

    /// A newcomer of this pool would be counted on the node.
    pub(super) fn seat(&self, node: &NodeName) -> Option<Seat> {
        self.is_routed()
            .then(|| Seat::take(&self.gate.sessions(node)))
    }

    /// Chooses a node. Whoever gets one takes it: a choice that is not made use of would cost that
    /// node its turn.
    pub(super) fn choose(&self, state: &State, now: Instant) -> Entry {
        let operator = self.database.operator();
        let Some(routes) = self.gate.routes() else {
            return Entry::Hold;
        };
        if operator == Operator::Paused {
            return Entry::Hold;
        }
        let willing = |name: &NodeName| state.retry_at(name, now);
        let way =
            self.with_wish(
                |wish, turns| match routes.way(wish, |name| willing(name).is_some()) {
                    Way::Among(nodes) => {
                        let clock = SystemTime::now();
                        let sessions =
                            |name: &NodeName| self.gate.sessions(name).load(Ordering::Acquire);
                        let candidates: Vec<Candidate<'_>> = nodes
                            .iter()
                            .map(|one| one.candidate(sessions(&one.node.name), clock))
                            .collect();
                        let balance = wish.config.balance;
                        let picked = turns.pick(&candidates, balance, routes.slowstart);
                        let picked = nodes.iter().find(|one| Some(&one.node.name) == picked);
                        picked.map_or(Some(Entry::Hold), |one| {
                            Some(Entry::Open(Arc::clone(&one.node)))
                        })
                    }
                    Way::Refused(why) => Some(Entry::Refuse(why)),
                    Way::Wait => Some(Entry::Hold),
                    Way::ToLead => None,
                },
            );
        let entry = way.unwrap_or_else(|| match self.gate.admit(operator) {
            Admission::Open { lead, .. } => match willing(&lead.name) {
                Some(later) => Entry::Later(later),
                None => Entry::Open(lead),
            },
            Admission::Hold => Entry::Hold,
            Admission::Refuse(why) => Entry::Refuse(why),
        });
        match (entry, state.next_retry(now)) {
            // Somebody may be willing again by then.
            (Entry::Hold, Some(later)) => Entry::Later(later),
            (entry, _) => entry,
        }
    }

    /// May a newcomer who was sent to the node still have it?
    pub(super) fn may_enter(&self, name: &NodeName) -> bool {
        let operator = self.database.operator();
        let open_at = |name: &NodeName| match self.gate.admit(operator) {
            Admission::Open { lead, .. } => lead.name == *name,
            Admission::Hold | Admission::Refuse(_) => false,
        };
        if !self.is_routed() {
            return open_at(name);
        }
        let (Operator::Open, Some(routes)) = (operator, self.gate.routes()) else {
            return false;
        };
        let is_fit = self.with_wish(|wish, _| routes.is_fit(wish, name));
        is_fit || self.falls_back() && open_at(name) && routes.is_lead(name)
    }

    /// Is a server on the node worth keeping?
    pub(super) fn keeps(&self, name: &NodeName) -> bool {
        if self.is_routed() {
            self.stay(name) == Stay::Yes
        } else {
            self.gate.keeps(name)
        }
    }

    fn stay(&self, name: &NodeName) -> Stay {
        match self.gate.routes() {
            Some(routes) => self.with_wish(|wish, _| routes.stay(wish, name, Instant::now())),
            None => Stay::Yes,
        }
    }

    fn falls_back(&self) -> bool {
        self.is_read_only() && self.database.config().read_fallback == ReadFallback::Lead
    }

    /// The routes may have changed.
    fn review(&self) {
        if let Some(routes) = self.gate.routes().filter(|_| self.is_read_only()) {
            let config = self.database.config();
            let mut memory = lock(&self.database.route_memory);
            let lagging = routes.lagging(&config, &memory.lagging, Instant::now());
            if lagging != memory.lagging {
                let nodes: Vec<&str> = lagging.keys().map(NodeName::as_str).collect();
                let database = &self.key.database;
                tracing::info!(%database, ?nodes, "nodes too far behind for reads");
                memory.lagging = lagging;
            }
        }
        let state = self.lock();
        let sessions = state.leased.values();
        for leased in sessions.filter(|leased| leased.phase == Use::Session) {
            match self.stay(&leased.info.node.name) {
                Stay::Yes => {}
                Stay::Leave => leased.order.raise(Order::StopWhenSafe(StopReason::Unfit)),
                Stay::End => leased.order.raise(Order::StopNow(StopReason::NodeLost)),
            }
        }
        drop(state);
        // Wakes the queue, too.
        self.close_idle_if(|idle| !self.keeps(&idle.server.info.node.name));
    }

    fn with_wish<T>(&self, ask: impl FnOnce(Wish<'_>, &mut Turns) -> T) -> T {
        let here = self.shared.config();
        let here = here.general.datacenter.as_deref();
        self.database.with_wish(self.route, here, ask)
    }
}
