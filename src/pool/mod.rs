//! Server connections and who may have one.
//!
//! [`Pools`] is the seam between the planes: the session takes a server from it
//! ([`Pool::checkout`]), the control plane commands it (`command.rs`), the console asks it
//! (`operator.rs`, `snapshot.rs`).

mod balance;
mod checkout;
mod command;
mod database;
mod drain;
mod gate;
mod info;
mod janitor;
mod lease;
mod open;
mod operator;
mod queue;
mod request;
mod route;
mod routed;
mod server;
mod shared;
mod snapshot;

pub use checkout::Pool;
pub use database::Database;
pub use drain::{Blocker, DrainStatus, HoldOwner, Released};
pub use info::{CancelInFlight, ServerInfo, StartupParams};
pub use janitor::ROUND as JANITOR_ROUND;
pub use lease::Lease;
pub use operator::VerbError;
pub use request::{CheckoutError, ClientTag, PoolKey, Request};
pub use route::{RouteNode, Routes, Standing};
pub use server::{DialError, Server};
pub use snapshot::{DatabaseSnapshot, PoolSnapshot, ServerSnapshot, StatsSnapshot};

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::auth::{Kdf, UserList};
use crate::cluster::Reports;
use crate::config::{ClusterName, Config, DatabaseConfig, DatabaseName, UserName};
use crate::net::Stream;
use crate::wire::startup::CancelRequest;

use gate::{ClusterGate, lock};
use server::Dialer;
use shared::Shared;

/// All pools of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pools(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    users: watch::Receiver<Arc<UserList>>,
    /// Rung whenever a pause, a drain or a `WAIT_CLOSE` may have come further.
    bell: Arc<watch::Sender<u64>>,
    rooms: Mutex<Rooms>,
}

#[derive(Debug, Default)]
struct Rooms {
    gates: HashMap<ClusterName, Arc<ClusterGate>>,
    databases: BTreeMap<DatabaseName, Arc<Database>>,
    pools: HashMap<PoolKey, Arc<Pool>>,
    /// Pools of databases that left the configuration. Their sessions and backends are seen by a
    /// hold and a drain until the last is gone.
    removed: Vec<Arc<Pool>>,
}

impl Pools {
    /// Pools for a configuration; every gate is closed until the control plane opens it. `ids` is
    /// the one count for clients and servers.
    pub fn new(
        config: watch::Receiver<Arc<Config>>,
        users: watch::Receiver<Arc<UserList>>,
        reports: Reports,
        kdf: Kdf,
        ids: Arc<AtomicU64>,
    ) -> Self {
        let shared = Arc::new(Shared::new(config, reports, kdf, ids));
        let bell = Arc::new(watch::Sender::new(0));
        let pools = Self(Arc::new(Inner {
            shared,
            users,
            bell,
            rooms: Mutex::default(),
        }));
        pools.apply_config();
        pools
    }

    /// Takes over what a new configuration says of databases. Those that are gone end as KILL does.
    pub fn apply_config(&self) {
        let config = self.config();
        let mut rooms = lock(&self.0.rooms);
        for name in config.clusters.keys() {
            let gate = || Arc::new(ClusterGate::new(name.clone(), Arc::clone(&self.0.bell)));
            rooms.gates.entry(name.clone()).or_insert_with(gate);
        }
        // Its pools would keep the gate of the old cluster, servers of the old database, or sessions
        // that no hold sees.
        let mut moved = Vec::new();
        for (name, wanted) in &config.databases {
            match rooms.databases.get(name) {
                Some(known) if known.config() == *wanted => {}
                Some(known) => {
                    let before = known.config();
                    if !is_same_place(&before, wanted) {
                        moved.push(name.clone());
                    }
                    known.set_config(Arc::clone(wanted));
                    known.next_generation();
                }
                None => {
                    let database = Database::new(Arc::clone(wanted), Arc::clone(&self.0.shared));
                    rooms.databases.insert(name.clone(), Arc::new(database));
                }
            }
        }
        rooms
            .databases
            .retain(|name, _| config.databases.contains_key(name));
        let gone = rooms.pools.extract_if(|key, _| {
            !config.databases.contains_key(&key.database) || moved.contains(&key.database)
        });
        let gone: Vec<_> = gone.map(|(_, pool)| pool).collect();
        rooms.removed.extend(gone.iter().cloned());
        drop(rooms);
        for pool in gone {
            pool.remove();
        }
        for pool in self.all() {
            pool.close_stale();
        }
    }

    /// The database, if the configuration has it.
    pub fn database(&self, name: &DatabaseName) -> Option<Arc<Database>> {
        lock(&self.0.rooms).databases.get(name).cloned()
    }

    /// The pool of a user in a database; made on first use. Call only for users who have proven who
    /// they are: a pool costs memory.
    pub fn pool(&self, database: &Arc<Database>, user: &UserName) -> Option<Arc<Pool>> {
        let key = PoolKey {
            database: database.name.clone(),
            user: user.clone(),
        };
        let mut rooms = lock(&self.0.rooms);
        if let Some(pool) = rooms.pools.get(&key) {
            return Some(Arc::clone(pool));
        }
        let gate = Arc::clone(rooms.gates.get(&database.config().cluster)?);
        let pool = Pool::new(
            key.clone(),
            Arc::clone(database),
            gate,
            Arc::clone(&self.0.shared),
        );
        let pool = Arc::new(pool);
        rooms.pools.insert(key, Arc::clone(&pool));
        Some(pool)
    }

    /// Sends a cancel request for the query that a server runs, and waits until the server has
    /// taken it (it closes the connection).
    pub fn cancel_request(&self, info: &Arc<ServerInfo>) -> impl Future<Output = ()> + use<> {
        let in_flight = CancelInFlight::new(info);
        let Dialer { options, limit, .. } = self.shared().dialer();
        let info = Arc::clone(info);
        async move {
            let mut packet = BytesMut::new();
            let key = &info.key;
            CancelRequest {
                pid: key.pid,
                key: key.key.clone(),
            }
            .encode(&mut packet);
            let send = async {
                let mut stream = Stream::connect(&info.node.host, info.node.port, &options).await?;
                stream.write_all(&packet).await?;
                let mut nothing = [0];
                stream.read(&mut nothing).await.map(|_| ())
            };
            if !matches!(tokio::time::timeout(limit, send).await, Ok(Ok(()))) {
                tracing::debug!(pid = info.pid, "a cancel request did not reach its server");
            }
            drop(in_flight);
        }
    }

    /// Clients that have a server, over all databases.
    pub fn servers_in_use(&self) -> usize {
        self.all().iter().map(|pool| pool.lock().leased.len()).sum()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    fn config(&self) -> Arc<Config> {
        self.0.shared.config()
    }

    fn users(&self) -> Arc<UserList> {
        Arc::clone(&self.0.users.borrow())
    }

    fn bell(&self) -> &Arc<watch::Sender<u64>> {
        &self.0.bell
    }

    fn gate(&self, cluster: &ClusterName) -> Option<Arc<ClusterGate>> {
        lock(&self.0.rooms).gates.get(cluster).cloned()
    }

    /// A copy of the list: no lock is held while the pools are visited.
    fn all(&self) -> Vec<Arc<Pool>> {
        let rooms = lock(&self.0.rooms);
        let all = rooms.pools.values().chain(&rooms.removed);
        let mut pools: Vec<_> = all.cloned().collect();
        drop(rooms);
        pools.sort_by(|a, b| (&a.key.database, &a.key.user).cmp(&(&b.key.database, &b.key.user)));
        pools
    }

    /// Removed pools that nobody uses any more.
    fn forget_removed(&self) {
        let mut rooms = lock(&self.0.rooms);
        rooms.removed.retain(|pool| !pool.lock().is_deserted());
    }

    /// The cluster's pools. A pool made after this call finds the gate as it is by then.
    fn of_cluster(&self, cluster: &ClusterName) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        pools.retain(|pool| pool.gate.name == *cluster);
        pools
    }

    fn database_list(&self) -> Vec<Arc<Database>> {
        lock(&self.0.rooms).databases.values().cloned().collect()
    }
}

/// Do clients of both find the same there?
fn is_same_place(before: &DatabaseConfig, after: &DatabaseConfig) -> bool {
    before.cluster == after.cluster && before.dbname == after.dbname && before.route == after.route
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
