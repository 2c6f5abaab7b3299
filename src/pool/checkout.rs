//! One pool: the servers of a (database, user), and the queue of clients that wait for one.
//!
//! A client joins the queue, and takes what it needs itself when it stands in front: an idle
//! server, or the right to open one. Nothing is ever handed over through a channel, so nothing can
//! be lost when a client leaves the queue at any moment. Only this file moves a server between
//! idle, leased and closing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::auth::Verifier;
use crate::cluster::{Epoch, Fact};
use crate::config::{DatabaseName, NodeConfig, UserName};
use crate::relay::{Meter, OrderCell};

use super::database::Database;
use super::gate::{Admission, ClusterGate, Departed, Dialing, Operator, lock};
use super::server::{Dial, DialError, Server, ServerInfo, StartupParams};
use super::shared::Shared;
use super::snapshot::StatsSnapshot;

/// Whose server connections these are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Database as clients name it.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
}

/// Who asks, for lists and for naming a blocker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTag {
    /// Unique among clients and servers.
    pub id: u64,
    /// Its address, `unix` for a Unix socket.
    pub addr: String,
    /// From its startup packet.
    pub application_name: String,
}

/// What a client needs.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub client: Arc<ClientTag>,
    /// What the server must have been started with.
    pub params: StartupParams,
    /// How to log in if a server must be opened.
    pub secret: Option<Verifier>,
    /// Where the session takes its orders from.
    pub order: Arc<OrderCell>,
}

/// Why a client got no server.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The cluster cannot be served: 57P03.
    #[error("{0}")]
    Refused(Arc<str>),
    /// The server refused the login in its own words.
    #[error(transparent)]
    Login(DialError),
}

/// See the module's text.
#[derive(Debug)]
pub struct Pool {
    pub(super) key: PoolKey,
    pub(super) database: Arc<Database>,
    pub(super) gate: Arc<ClusterGate>,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Last in, first out: the warmest is used, the coldest can age.
    pub(super) idle: Vec<Idle>,
    pub(super) leased: HashMap<u64, Leased>,
    pub(super) dialing: usize,
    pub(super) queue: VecDeque<Place>,
    next_place: u64,
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

/// What a server that is not idle is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A session has it.
    Session,
    /// It is being made fit for the next.
    Reset,
    /// Its session ended in the middle of something; the backend is being waited for.
    Burial,
}

#[derive(Debug)]
pub(super) struct Leased {
    pub(super) info: Arc<ServerInfo>,
    pub(super) client: Arc<ClientTag>,
    pub(super) order: Arc<OrderCell>,
    pub(super) meter: Arc<Meter>,
    pub(super) since: SystemTime,
    pub(super) phase: Use,
}

#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    pub(super) since: Instant,
    turn: Arc<Notify>,
}

impl State {
    pub(super) fn servers(&self) -> usize {
        self.idle.len() + self.leased.len() + self.dialing
    }

    fn is_front(&self, number: u64) -> bool {
        self.queue
            .front()
            .is_some_and(|place| place.number == number)
    }

    fn leave(&mut self, number: u64) {
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
        let permit = OpenPermit {
            pool: Arc::clone(self),
            _dialing: Dialing::new(&self.gate),
        };
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
            params: request.params.clone(),
        }
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
        server: Server,
        request: &Request,
        permit: OpenPermit,
    ) -> Option<Lease> {
        let mut state = self.lock();
        state.retry_at = None;
        let fits = match self.gate.admit(self.database.operator()) {
            Admission::Open { lead, .. } => lead.name == server.info.node.name,
            Admission::Hold | Admission::Refuse(_) => false,
        };
        let current = server.info.generation == self.database.generation();
        let lease = if fits && current {
            Some(self.lease(&mut state, server, request))
        } else {
            close_all(vec![server]);
            None
        };
        drop(state);
        drop(permit);
        lease
    }

    /// Enters a lease into the books.
    fn lease(self: &Arc<Self>, state: &mut State, server: Server, request: &Request) -> Lease {
        let meter = Arc::new(Meter::new(self.gate.bell()));
        let leased = Leased {
            info: Arc::clone(&server.info),
            client: Arc::clone(&request.client),
            order: Arc::clone(&request.order),
            meter: Arc::clone(&meter),
            since: SystemTime::now(),
            phase: Use::Session,
        };
        state.leased.insert(server.info.id, leased);
        state.totals.server_assignments += 1;
        let pool = Arc::clone(self);
        let booking = Booking {
            pool,
            info: Arc::clone(&server.info),
            fate: Fate::Abrupt,
        };
        Lease {
            server,
            meter,
            booking,
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

/// A client's place in the queue, given up when dropped.
struct Queued {
    pool: Arc<Pool>,
    number: u64,
    turn: Arc<Notify>,
    since: Instant,
}

impl Queued {
    fn join(pool: &Arc<Pool>) -> Self {
        let mut state = pool.lock();
        let number = state.next_place;
        state.next_place += 1;
        let (turn, since) = (Arc::new(Notify::new()), Instant::now());
        state.queue.push_back(Place {
            number,
            since,
            turn: Arc::clone(&turn),
        });
        drop(state);
        Self {
            pool: Arc::clone(pool),
            number,
            turn,
            since,
        }
    }

    /// Back to the place where it stood: before all that came later.
    fn rejoin(&self) {
        let mut state = self.pool.lock();
        let place = Place {
            number: self.number,
            since: self.since,
            turn: Arc::clone(&self.turn),
        };
        let at = state
            .queue
            .partition_point(|other| other.number < self.number);
        state.queue.insert(at, place);
        state.wake_front();
    }

    async fn wait(&self, until: Option<Instant>) {
        match until {
            Some(until) => {
                let _ = tokio::time::timeout_at(until.into(), self.turn.notified()).await;
            }
            None => self.turn.notified().await,
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.leave(self.number);
        state.wake_front();
    }
}

/// The right to open one server, counted against the pool's size while it lives.
struct OpenPermit {
    pool: Arc<Pool>,
    _dialing: Dialing,
}

impl Drop for OpenPermit {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.dialing -= 1;
        state.wake_front();
    }
}

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// In the middle of something, as far as we know: the backend may still be running.
    Abrupt,
    /// At a safe point, or seen to be gone: nothing of it is left.
    Clean,
    /// Off the books already: the server is idle, or another client's by now.
    Returned,
}

/// A server in a client's hands.
#[derive(Debug)]
pub struct Lease {
    /// The connection.
    pub server: Server,
    /// What the session shows of itself.
    pub meter: Arc<Meter>,
    booking: Booking,
}

/// The pool's entry of a lease; dropping it strikes the entry out.
#[derive(Debug)]
struct Booking {
    pool: Arc<Pool>,
    info: Arc<ServerInfo>,
    fate: Fate,
}

impl Lease {
    fn come_home(self) -> std::io::Result<Self> {
        let Self {
            server,
            meter,
            mut booking,
        } = self;
        // Until a client has sent something, there is nothing that could still be running.
        booking.fate = Fate::Clean;
        let server = server.come_home()?;
        booking.fate = Fate::Abrupt;
        Ok(Self {
            server,
            meter,
            booking,
        })
    }

    /// Gives a server back from a safe point: reset, then idle; or closed, if it is not wanted any
    /// more or does not come out of its reset as it should.
    pub async fn release(self) {
        let Self {
            mut server,
            meter,
            booking,
        } = self;
        booking.turn_to(Use::Reset);
        let config = booking.pool.shared.config();
        let general = &config.general;
        let wanted = booking.is_wanted(general.server_lifetime) && server.info.params.is_reusable();
        // A server that got nothing from its client is as it was.
        let query = if meter.read().received == 0 {
            ""
        } else {
            &general.server_reset_query
        };
        let fit = if wanted {
            server
                .reset(query, general.cancel_wait_timeout)
                .await
                .map(|()| true)
        } else {
            Ok(false)
        };
        match fit {
            Ok(true) => booking.give_back(server),
            Ok(false) => booking.close(server).await,
            Err(error) => {
                let node = &booking.info.node.name;
                tracing::warn!(%node, pid = booking.info.pid, %error, "closing server");
                booking.close(server).await;
            }
        }
    }

    /// Ends a server that stands at a safe point.
    pub async fn close(self) {
        let Self {
            server, booking, ..
        } = self;
        booking.close(server).await;
    }

    /// The server hung up first: its backend is gone.
    pub fn lost(self) {
        let Self { mut booking, .. } = self;
        booking.fate = Fate::Clean;
    }

    /// Ends a server in the middle of something. Its place in the pool is free only when its
    /// backend is gone or a minute is over; until then it is known as departed.
    pub async fn bury(self, at_boundary: bool) {
        let Self {
            server,
            mut booking,
            ..
        } = self;
        booking.turn_to(Use::Burial);
        if server.bury(at_boundary).await {
            booking.fate = Fate::Clean;
        }
    }
}

impl Booking {
    fn turn_to(&self, phase: Use) {
        if let Some(leased) = self.pool.lock().leased.get_mut(&self.info.id) {
            leased.phase = phase;
        }
        self.pool.gate.ring();
    }

    fn is_wanted(&self, lifetime: Option<Duration>) -> bool {
        let database = &self.pool.database;
        // PAUSE is complete when there are no servers at all.
        database.operator() == Operator::Open
            && self.info.generation == database.generation()
            && lifetime.is_none_or(|lifetime| self.info.opened.elapsed() < lifetime)
            && self.pool.gate.keeps(&self.info.node.name)
    }

    fn give_back(mut self, server: Server) {
        self.fate = Fate::Clean;
        let mut state = self.pool.lock();
        // Looked at again under the lock: RECONNECT, PAUSE or a switchover may have come meanwhile.
        if self.is_wanted(None) {
            self.strike(&mut state);
            self.fate = Fate::Returned;
            state.idle.push(Idle {
                server,
                since: Instant::now(),
            });
            state.wake_front();
        } else {
            drop(state);
            close_all(vec![server]);
        }
    }

    async fn close(mut self, server: Server) {
        self.fate = Fate::Clean;
        server.close().await;
    }

    /// Takes the lease off the books and keeps its counters.
    fn strike(&self, state: &mut State) {
        if let Some(leased) = state.leased.remove(&self.info.id) {
            state.totals.add(&leased.meter.read());
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        // Another lease of the same server has the same entry: it must not be struck out here.
        if self.fate != Fate::Returned {
            let mut state = self.pool.lock();
            self.strike(&mut state);
            state.wake_front();
        }
        match self.fate {
            Fate::Clean | Fate::Returned => self.pool.gate.ring(),
            Fate::Abrupt => self.pool.gate.depart(Departed {
                node: self.info.node.name.clone(),
                pid: self.info.pid,
            }),
        }
    }
}
