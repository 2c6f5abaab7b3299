//! Who is connected: for SHOW CLIENTS, `KILL_CLIENT`, limits and cancel requests.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use dashmap::DashMap;
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::config::{DatabaseName, UserName};
use crate::net::Ends;
use crate::pool::{CancelInFlight, ServerInfo};
use crate::relay::{Activity, Meter, Order, OrderCell, StopReason};
use crate::wire::message::BackendKey;
use crate::wire::startup::CancelRequest;

/// All clients of an instance. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    by_id: DashMap<u64, Arc<Client>>,
    /// Those that `max_client_conn` counts.
    counted: AtomicUsize,
    ids: Arc<AtomicU64>,
}

/// One client, from its startup packet on.
#[derive(Debug)]
pub struct Client {
    /// Unique among clients and servers.
    pub id: u64,
    /// Database as it named it.
    pub database: DatabaseName,
    /// User as it named itself.
    pub user: UserName,
    /// From its startup packet.
    pub application_name: String,
    /// Both ends of its socket.
    pub ends: Ends,
    /// What it must present to cancel.
    pub key: BackendKey,
    /// What it is told from outside.
    pub order: Arc<OrderCell>,
    /// Rung by a cancel request while it waits, or talks to the console. Only then it exists.
    cancelled: Mutex<Option<watch::Sender<u64>>>,
    came: SystemTime,
    began: Instant,
    stage: AtomicU8,
    /// Microseconds from `began` to the last change of the stage.
    stage_since_us: AtomicU64,
    link: Mutex<Option<Link>>,
}

/// The server that a client has.
#[derive(Debug, Clone)]
pub struct Link {
    /// The server.
    pub server: Arc<ServerInfo>,
    /// What the session shows of itself.
    pub meter: Arc<Meter>,
}

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Proving who it is.
    Login = 0,
    /// Waiting for a server.
    Waiting = 1,
    /// Has a server.
    Linked = 2,
    /// Talks to the console.
    Console = 3,
}

/// What a newcomer tells of itself.
#[derive(Debug)]
pub struct Newcomer {
    /// Database.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
    /// Application.
    pub application_name: String,
    /// Socket.
    pub ends: Ends,
    /// Bytes of its cancel key: 4 in protocol 3.0, 32 in 3.2 (as PostgreSQL).
    pub key_len: usize,
}

/// A registered client; dropping it strikes it out.
#[derive(Debug)]
pub struct Registered {
    clients: Clients,
    client: Arc<Client>,
    counted: bool,
}

impl std::ops::Deref for Registered {
    type Target = Arc<Client>;

    fn deref(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.clients.0.by_id.remove(&self.client.id);
        if self.counted {
            self.clients.0.counted.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Why a newcomer was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// `max_client_conn`.
    #[error("no more connections allowed (max_client_conn)")]
    Full,
    /// The system has no random bytes for a cancel key.
    #[error("no random bytes")]
    NoRandom,
}

/// One row of SHOW CLIENTS.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientSnapshot {
    /// Unique among clients and servers.
    pub id: u64,
    /// Database.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
    /// `active`, `idle`, `waiting`, `login`.
    pub state: &'static str,
    /// Remote address; `None` for a Unix socket.
    pub addr: Option<IpAddr>,
    /// Remote port.
    pub port: u16,
    /// Our address.
    pub local_addr: Option<IpAddr>,
    /// Our port.
    pub local_port: u16,
    /// When it came.
    pub connect_time: SystemTime,
    /// When its last request came.
    pub request_time: SystemTime,
    /// How long it has been waiting for a server, in microseconds.
    pub wait_us: u64,
    /// Will be closed at the next safe point?
    pub close_needed: bool,
    /// The server it has.
    pub link: Option<u64>,
    /// Backend pid of that server.
    pub remote_pid: Option<i32>,
    /// From its startup packet.
    pub application_name: String,
    /// In a transaction?
    pub in_transaction: bool,
}

impl Clients {
    /// A registry that takes its ids from `ids`, the one count for clients and servers.
    pub fn new(ids: Arc<AtomicU64>) -> Self {
        Self(Arc::new(Registry {
            ids,
            ..Registry::default()
        }))
    }

    /// Registers a client. `limit`: so many may be counted at a time; `None` for the console,
    /// which must be reachable when nothing else is.
    pub fn register(
        &self,
        newcomer: Newcomer,
        limit: Option<usize>,
    ) -> Result<Registered, RegisterError> {
        if let Some(limit) = limit {
            let room = |count| (count < limit).then_some(count + 1);
            let counted = &self.0.counted;
            counted
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, room)
                .map_err(|_| RegisterError::Full)?;
        }
        let id = self.0.ids.fetch_add(1, Ordering::Relaxed);
        let mut secret = vec![0; newcomer.key_len];
        if getrandom::fill(&mut secret).is_err() {
            if limit.is_some() {
                self.0.counted.fetch_sub(1, Ordering::AcqRel);
            }
            return Err(RegisterError::NoRandom);
        }
        let client = Arc::new(Client {
            id,
            database: newcomer.database,
            user: newcomer.user,
            application_name: newcomer.application_name,
            ends: newcomer.ends,
            key: BackendKey {
                pid: pid_of(id),
                key: Bytes::from(secret),
            },
            order: Arc::default(),
            cancelled: Mutex::new(None),
            came: SystemTime::now(),
            began: Instant::now(),
            stage: AtomicU8::new(Stage::Login as u8),
            stage_since_us: AtomicU64::new(0),
            link: Mutex::new(None),
        });
        self.0.by_id.insert(id, Arc::clone(&client));
        Ok(Registered {
            clients: self.clone(),
            client,
            counted: limit.is_some(),
        })
    }

    /// SHOW CLIENTS, oldest first.
    pub fn list(&self) -> Vec<ClientSnapshot> {
        let mut rows: Vec<_> = self
            .0
            .by_id
            .iter()
            .map(|client| client.snapshot())
            .collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        self.0.by_id.len()
    }

    /// `KILL_CLIENT`: `false` if there is none with that id.
    pub fn kill(&self, id: u64) -> bool {
        match self.0.by_id.get(&id) {
            Some(client) => {
                client.order.raise(Order::StopNow(StopReason::KillClient));
                true
            }
            None => false,
        }
    }

    /// Gives every client an order.
    pub fn order_all(&self, order: Order) {
        for client in &self.0.by_id {
            client.order.raise(order);
        }
    }

    /// Gives an order to every client that waits for a server.
    pub fn order_waiting(&self, order: Order) {
        let waits = |client: &Arc<Client>| client.stage() == Stage::Waiting;
        for client in self.0.by_id.iter().filter(|client| waits(client)) {
            client.order.raise(order);
        }
    }

    /// The client that a cancel request names, if it knows the key.
    pub fn named_by(&self, request: &CancelRequest) -> Option<Arc<Client>> {
        let named = self
            .0
            .by_id
            .iter()
            .find(|client| client.key.pid == request.pid)?;
        let knows: bool = named.key.key.ct_eq(&request.key).into();
        knows.then(|| Arc::clone(&named))
    }
}

/// Process ids are positive 31-bit numbers in PostgreSQL's messages and views.
fn pid_of(id: u64) -> u32 {
    (id % 0x7FFF_FFFF) as u32 + 1
}

/// The data under these locks is whole whatever happened to the thread that held one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// A cancel request came for it while it has no server.
    pub fn cancel(&self) {
        if let Some(cancelled) = lock(&self.cancelled).as_ref() {
            cancelled.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Changes with each cancel request that comes from now on, until the client has a server.
    pub fn cancellations(&self) -> watch::Receiver<u64> {
        let mut cancelled = lock(&self.cancelled);
        cancelled
            .get_or_insert_with(|| watch::Sender::new(0))
            .subscribe()
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Login,
            1 => Stage::Waiting,
            2 => Stage::Linked,
            _ => Stage::Console,
        }
    }

    /// Moves it on.
    pub fn set_stage(&self, stage: Stage) {
        let since = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stage_since_us.store(since, Ordering::Relaxed);
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// It was given a server.
    pub fn set_link(&self, link: Link) {
        *lock(&self.link) = Some(link);
        *self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.set_stage(Stage::Linked);
    }

    /// It gives its server up. A cancel request that got hold of the server before this is known to
    /// the server, which will wait for it.
    pub fn clear_link(&self) {
        *lock(&self.link) = None;
    }

    /// For a cancel request: the server, if it is running a query of this client just now.
    pub fn running(&self) -> Option<(Arc<ServerInfo>, CancelInFlight)> {
        let link = lock(&self.link);
        let link = link.as_ref()?;
        let (activity, _) = link.meter.activity();
        (activity == Activity::Active)
            .then(|| (Arc::clone(&link.server), CancelInFlight::new(&link.server)))
    }

    fn snapshot(&self) -> ClientSnapshot {
        let link = lock(&self.link).clone();
        let stage = self.stage();
        let activity = link.as_ref().map(|link| link.meter.activity());
        let now = SystemTime::now();
        let quiet = activity.map_or_else(Default::default, |(_, age)| age);
        let in_stage_us = u64::try_from(self.began.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .saturating_sub(self.stage_since_us.load(Ordering::Relaxed));
        ClientSnapshot {
            id: self.id,
            database: self.database.clone(),
            user: self.user.clone(),
            state: match stage {
                Stage::Login => "login",
                Stage::Waiting => "waiting",
                Stage::Linked | Stage::Console => "active",
            },
            addr: self.ends.remote_ip(),
            port: self.ends.remote_port(),
            local_addr: self.ends.local.map(|addr| addr.ip()),
            local_port: self.ends.local_port(),
            connect_time: self.came,
            request_time: now.checked_sub(quiet).unwrap_or(now),
            wait_us: if stage == Stage::Waiting {
                in_stage_us
            } else {
                0
            },
            close_needed: !matches!(self.order.get(), Order::GoOn | Order::Park(_)),
            link: link.as_ref().map(|link| link.server.id),
            remote_pid: link.as_ref().map(|link| link.server.pid),
            application_name: self.application_name.clone(),
            in_transaction: activity.is_some_and(|(what, _)| what == Activity::IdleInTransaction),
        }
    }
}
