//! One pool: the servers of a (database, user), and the queue of clients that wait for one.
//!
//! A client joins the queue, and takes what it needs itself when it stands in front: an idle
//! server, or the right to open one. Nothing is ever handed over through a channel, so nothing can
//! be lost when a client leaves the queue at any moment. Only this file and `lease.rs` move a
//! server between idle, leased and closing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cluster::{Epoch, Fact};
use crate::config::NodeConfig;

use super::database::Database;
use super::gate::{Admission, ClusterGate, Dialing, lock};
use super::info::StartupParams;
use super::lease::{Lease, Leased};
use super::queue::{OpenPermit, Place, Queued};
use super::request::{CheckoutError, PoolKey, Request};
use super::server::{Dial, Server};
use super::shared::Shared;
use super::snapshot::StatsSnapshot;

/// See the module's text.
#[derive(Debug)]
pub struct Pool {
    pub(super) key: PoolKey,
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
    last_parameters: Bytes,
    last_params: StartupParams,
    /// Its database left the configuration: nobody is let in any more.
    pub(super) removed: bool,
    /// After a failed dial nobody tries again before this.
    retry_at: Option<Instant>,
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
        lead: Arc<NodeConfig>,
        epoch: Epoch,
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
                    lead,
                    epoch,
                    permit,
                } => match self.open(request, lead, epoch, permit).await {
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
        let (lead, epoch) = match self.gate.admit(self.database.operator()) {
            Admission::Open { lead, epoch } => (lead, epoch),
            Admission::Hold => return Turn::Wait(None),
            Admission::Refuse(why) => return Turn::Refused(why),
        };
        let now = Instant::now();
        if let Err(later) = self.gate.pass(now) {
            return Turn::Wait(Some(later));
        }
        if let Some(server) = self.take_idle(state, &lead, request, doomed) {
            return Turn::Take(self.lease(state, server, request));
        }
        if let Some(retry_at) = state.retry_at.filter(|retry_at| *retry_at > now) {
            return Turn::Wait(Some(retry_at));
        }
        let limit = self.database.pool_size();
        if limit > 0 && state.servers() >= limit {
            // A full pool makes room by closing the coldest server that fits nobody in front.
            if state.idle.is_empty() {
                return Turn::Wait(None);
            }
            doomed.push(state.idle.remove(0).server);
        }
        state.dialing += 1;
        let permit = OpenPermit::new(self, Dialing::new(&self.gate));
        Turn::Open {
            lead,
            epoch,
            permit,
        }
    }

    fn take_idle(
        &self,
        state: &mut State,
        lead: &NodeConfig,
        request: &Request,
        doomed: &mut Vec<Server>,
    ) -> Option<Server> {
        let generation = self.database.generation();
        loop {
            let at = state.idle.iter().rposition(|idle| {
                let info = &idle.server.info;
                info.node.name == lead.name
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

    /// Opens a server and leases it. `None`: the gate moved meanwhile, or the node was not reached;
    /// the client goes back to its place.
    async fn open(
        self: &Arc<Self>,
        request: &Request,
        lead: Arc<NodeConfig>,
        epoch: Epoch,
        permit: OpenPermit,
    ) -> Result<Option<Lease>, CheckoutError> {
        let node = lead.name.clone();
        let dial = self.dial_for(request, lead);
        let config = self.shared.config();
        let general = &config.general;
        let dialer = self.shared.dialer();
        let mut moves = self.gate.bell().subscribe();
        let server = tokio::select! {
            result = Server::dial(self.shared.next_id(), dial, &dialer) => result,
            () = self.gate_moved(&mut moves, epoch) => return Ok(None),
        };
        match server {
            Ok(server) => Ok(self.lease_opened(server, request, permit)),
            Err(error) if error.is_final() => Err(CheckoutError::Login(error)),
            Err(error) => {
                tracing::warn!(%node, error = %Chain(&error), "server login failed");
                self.shared.reports.tell(Fact::DialFailed {
                    node,
                    error: Chain(&error).to_string(),
                });
                self.lock().retry_at = Some(Instant::now() + general.server_login_retry);
                Ok(None)
            }
        }
    }

    fn dial_for(&self, request: &Request, lead: Arc<NodeConfig>) -> Dial {
        Dial {
            node: lead,
            generation: self.database.generation(),
            dbname: self.database.dbname(),
            user: self.key.user.to_string(),
            secret: request.secret.clone(),
            params: self.shared_params(&request.params),
        }
    }

    /// Clients of a pool mostly ask for the same: then they share one copy.
    fn shared_params(&self, wanted: &StartupParams) -> StartupParams {
        let mut state = self.lock();
        if state.last_params != *wanted {
            state.last_params = wanted.clone();
        }
        state.last_params.clone()
    }

    /// Returns when the gate is no longer open under `epoch`.
    async fn gate_moved(&self, moves: &mut tokio::sync::watch::Receiver<u64>, epoch: Epoch) {
        loop {
            match self.gate.admit(self.database.operator()) {
                Admission::Open { epoch: now, .. } if now == epoch => {}
                _ => return,
            }
            if moves.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The last look at the gate, under the pool's lock, is what makes a hold tight.
    fn lease_opened(
        self: &Arc<Self>,
        mut server: Server,
        request: &Request,
        permit: OpenPermit,
    ) -> Option<Lease> {
        let mut state = self.lock();
        state.retry_at = None;
        if state.last_parameters == server.parameters {
            server.parameters = state.last_parameters.clone();
        } else {
            state.last_parameters = server.parameters.clone();
        }
        let fits = match self.gate.admit(self.database.operator()) {
            Admission::Open { lead, .. } => lead.name == server.info.node.name,
            Admission::Hold | Admission::Refuse(_) => false,
        };
        let current = server.info.generation == self.database.generation();
        let lease = if fits && current && !state.removed {
            Some(self.lease(&mut state, server, request))
        } else {
            close_all(vec![server]);
            None
        };
        drop(state);
        drop(permit);
        lease
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

/// An error with its causes, for a log line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
