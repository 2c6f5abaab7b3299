//! One pool: the servers of a (database, user), and the queue of clients that wait for one.
//!
//! A client joins the queue, and takes what it needs itself when it stands in front: an idle
//! server, or the right to open one. Nothing is ever handed over through a channel, so nothing can
//! be lost when a client leaves the queue at any moment. Only this file and `lease.rs` move a
//! server between idle, leased and closing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cluster::{Epoch, Fact};
use crate::config::{NodeConfig, NodeName, Route};

use super::database::Database;
use super::gate::{Admission, ClusterGate, lock};
use super::info::StartupParams;
use super::lease::{Lease, Leased};
use super::queue::{OpenPermit, Place, Queued};
use super::request::{CheckoutError, PoolKey, Request};
use super::routed::Entry;
use super::server::Server;
use super::shared::Shared;
use super::snapshot::StatsSnapshot;

/// See the module's text.
#[derive(Debug)]
pub struct Pool {
    pub(super) key: PoolKey,
    /// For life: a database whose route changes gets other pools.
    pub(super) route: Route,
    pub(super) database: Arc<Database>,
    pub(super) gate: Arc<ClusterGate>,
    pub(super) shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Last in, first out: the warmest is used, the coldest can age.
    pub(super) idle: Vec<Idle>,
    pub(super) leased: HashMap<u64, Leased>,
    pub(super) dialing: usize,
    pub(super) queue: VecDeque<Place>,
    pub(super) next_place: u64,
    /// What the last server of this pool told and was told at its login, for the next to share.
    pub(super) last_parameters: Bytes,
    pub(super) last_params: StartupParams,
    /// Its database left the configuration: nobody is let in any more.
    pub(super) removed: bool,
    /// After a failed dial nobody tries that node again before this.
    pub(super) retries: BTreeMap<NodeName, Instant>,
    /// Of sessions that are over.
    pub(super) totals: StatsSnapshot,
}

#[derive(Debug)]
pub(super) struct Idle {
    pub(super) server: Server,
    pub(super) since: Instant,
}

impl State {
    /// Is there nobody left who has, or waits for, or opens a server?
    pub(super) fn is_deserted(&self) -> bool {
        self.servers() == 0 && self.queue.is_empty()
    }

    pub(super) fn servers(&self) -> usize {
        self.idle.len() + self.leased.len() + self.dialing
    }

    /// When the node may be tried again, if not now.
    pub(super) fn retry_at(&self, node: &NodeName, now: Instant) -> Option<Instant> {
        self.retries.get(node).copied().filter(|at| *at > now)
    }

    /// When the first of those that failed may be tried again.
    pub(super) fn next_retry(&self, now: Instant) -> Option<Instant> {
        self.retries.values().copied().filter(|at| *at > now).min()
    }

    fn is_front(&self, number: u64) -> bool {
        self.queue
            .front()
            .is_some_and(|place| place.number == number)
    }

    pub(super) fn leave(&mut self, number: u64) {
        self.queue.retain(|place| place.number != number);
    }

    pub(super) fn wake_front(&self) {
        if let Some(place) = self.queue.front() {
            place.turn.notify_one();
        }
    }
}

/// What the client in front may do.
enum Turn {
    Take(Lease),
    Open {
        node: Arc<NodeConfig>,
        /// Of the lead.
        epoch: Option<Epoch>,
        permit: OpenPermit,
    },
    Wait(Option<Instant>),
    Refused(Arc<str>),
}

impl Pool {
    pub(super) fn new(
        key: PoolKey,
        database: Arc<Database>,
        gate: Arc<ClusterGate>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            key,
            route: database.config().route,
            database,
            gate,
            shared,
            state: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits for a server, in order. There is no limit of time here: that is the caller's.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue; nothing is lost.
    pub async fn checkout(self: &Arc<Self>, request: &Request) -> Result<Lease, CheckoutError> {
        let began = Instant::now();
        let queued = Queued::join(self);
        loop {
            match self.turn(&queued, request) {
                Turn::Take(lease) => match lease.come_home() {
                    Ok(lease) => {
                        self.lock().totals.wait_time_us += micros(began.elapsed());
                        return Ok(lease);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an idle server could not move to this worker");
                        queued.rejoin();
                    }
                },
                Turn::Open {
                    node,
                    epoch,
                    permit,
                } => match self.open(request, node, epoch, permit).await {
                    Ok(Some(lease)) => {
                        self.lock().totals.wait_time_us += micros(began.elapsed());
                        return Ok(lease);
                    }
                    Ok(None) => queued.rejoin(),
                    Err(error) => return Err(error),
                },
                Turn::Wait(until) => queued.wait(until).await,
                Turn::Refused(why) => return Err(CheckoutError::Refused(why)),
            }
        }
    }

    fn turn(self: &Arc<Self>, queued: &Queued, request: &Request) -> Turn {
        let mut doomed = Vec::new();
        let mut state = self.lock();
        let turn = self.turn_locked(&mut state, queued.number, request, &mut doomed);
        if matches!(turn, Turn::Take(_) | Turn::Open { .. } | Turn::Refused(_)) {
            state.leave(queued.number);
            state.wake_front();
        }
        drop(state);
        close_all(doomed);
        turn
    }

    fn turn_locked(
        self: &Arc<Self>,
        state: &mut State,
        number: u64,
        request: &Request,
        doomed: &mut Vec<Server>,
    ) -> Turn {
        if !state.is_front(number) {
            return Turn::Wait(None);
        }
        if state.removed {
            return Turn::Refused(Arc::from("the database was removed from the configuration"));
        }
        let limit = self.database.pool_size();
        let is_full = |state: &State| limit > 0 && state.servers() >= limit;
        let now = Instant::now();
        let (node, epoch) = if self.is_routed() {
            if is_full(state) && state.idle.is_empty() {
                return Turn::Wait(None);
            }
            match self.choose(state, now) {
                Entry::Open(node) => (node, None),
                Entry::Hold => return Turn::Wait(None),
                Entry::Later(later) => return Turn::Wait(Some(later)),
                Entry::Refuse(why) => return Turn::Refused(why),
            }
        } else {
            let (lead, epoch) = match self.gate.admit(self.database.operator()) {
                Admission::Open { lead, epoch } => (lead, epoch),
                Admission::Hold => return Turn::Wait(None),
                Admission::Refuse(why) => return Turn::Refused(why),
            };
            if let Err(later) = self.gate.pass(now) {
                return Turn::Wait(Some(later));
            }
            (lead, Some(epoch))
        };
        if let Some(server) = self.take_idle(state, &node, request, doomed) {
            return Turn::Take(self.lease(state, server, request));
        }
        if let Some(retry_at) = state.retry_at(&node.name, now) {
            return Turn::Wait(Some(retry_at));
        }
        if is_full(state) {
            // A full pool makes room by closing the coldest server that fits nobody in front.
            if state.idle.is_empty() {
                return Turn::Wait(None);
            }
            doomed.push(state.idle.remove(0).server);
        }
        state.dialing += 1;
        let permit = OpenPermit::new(self, &node.name);
        Turn::Open {
            node,
            epoch,
            permit,
        }
    }

    fn take_idle(
        &self,
        state: &mut State,
        node: &NodeConfig,
        request: &Request,
        doomed: &mut Vec<Server>,
    ) -> Option<Server> {
        let generation = self.database.generation();
        loop {
            let at = state.idle.iter().rposition(|idle| {
                let info = &idle.server.info;
                info.node.name == node.name
                    && info.generation == generation
                    && info.params == request.params
            })?;
            let server = state.idle.remove(at).server;
            if server.is_quiet() {
                return Some(server);
            }
            self.shared.reports.tell(Fact::ServerLost {
                node: server.info.node.name.clone(),
                sqlstate: None,
            });
            doomed.push(server);
        }
    }

    /// A client has logged in.
    pub fn count_login(&self) {
        self.database.count_login();
    }

    pub(super) fn wake(&self) {
        self.lock().wake_front();
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Says goodbye to servers that stand at a safe point, without waiting for it.
pub(super) fn close_all(servers: Vec<Server>) {
    for server in servers {
        tokio::spawn(server.close());
    }
}
