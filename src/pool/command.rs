//! The control plane's side of the pools. Nothing here waits for a client or a server, except
//! [`Pools::prewarm`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::Verifier;
use crate::cluster::Epoch;
use crate::config::{ClusterName, NodeConfig, NodeName, UserName};
use crate::relay::{Activity, HoldId, Order, StopReason};

use super::Pools;
use super::checkout::{Idle, Pool, close_all};
use super::drain::{Blocker, DrainStatus, HoldOwner, Released};
use super::gate::{ClusterGate, Dialing, Pace};
use super::info::StartupParams;
use super::lease::{Leased, Use};
use super::server::{Dial, Server};

/// Logins to the target at a time while it is warmed: a fork each, so not all at once.
const PREWARM_PARALLEL: usize = 16;

/// The control plane's side.
impl Pools {
    /// Closes the gate of a cluster. From the return of this call on no client is given a server;
    /// sessions that have one are told to park; logins in progress are given up and wait.
    pub fn hold(&self, cluster: &ClusterName, owner: HoldOwner) {
        let Some(gate) = self.gate(cluster) else {
            return;
        };
        let id = gate.close(owner);
        self.for_leased(cluster, |leased| leased.order.raise(Order::Park(id)));
    }

    /// Closes the gate of a cluster to newcomers. Sessions that have a server go on as long as it
    /// answers them.
    pub fn close_to_newcomers(&self, cluster: &ClusterName) {
        if let Some(gate) = self.gate(cluster) {
            gate.close(HoldOwner::NoLead);
        }
    }

    /// Names of the cluster's databases on its nodes, as clients use them now.
    pub fn dbnames(&self, cluster: &ClusterName) -> Vec<String> {
        let databases = self
            .database_list()
            .into_iter()
            .map(|database| database.config());
        let of_cluster = databases.filter(|config| config.cluster == *cluster);
        let mut names: Vec<String> = of_cluster.map(|config| config.dbname.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Takes a hold back: the gate opens as it was before, parked sessions go on where they were,
    /// held clients are let through, at most `per_ms` of them per millisecond.
    pub fn resume(&self, cluster: &ClusterName, per_ms: Option<u32>) {
        let Some(gate) = self.gate(cluster) else {
            return;
        };
        if gate.reopen(Pace::new(self.held(cluster), per_ms)) {
            self.for_leased(cluster, |leased| leased.order.lift_park());
            self.wake(cluster);
        }
    }

    /// Opens the gate at `lead` under `epoch`: all sessions that have a server on another node are
    /// stopped for `reason` (they never go on), idle servers there are closed, held clients are let
    /// through, at most `per_ms` of them per millisecond.
    pub fn open(
        &self,
        cluster: &ClusterName,
        lead: &Arc<NodeConfig>,
        epoch: Epoch,
        reason: StopReason,
        per_ms: Option<u32>,
    ) -> Released {
        let Some(gate) = self.gate(cluster) else {
            return Released::default();
        };
        // From here on nobody is given a server on another node, also if there was no hold before.
        let hold = match gate.hold_id() {
            Some(id) => id,
            None => gate.close(HoldOwner::NoLead),
        };
        let mut stopped = 0;
        self.for_leased(cluster, |leased| {
            if leased.is_on(&lead.name) {
                leased.order.lift_park();
            } else {
                leased.order.raise(stop_for(leased, hold, reason));
                stopped += 1;
            }
        });
        let waiting = self.held(cluster);
        gate.open(Arc::clone(lead), epoch, Pace::new(waiting, per_ms));
        // After the gate has opened: a server that comes out of its reset now is not kept.
        self.close_idle_if(cluster, |idle| idle.server.info.node.name != lead.name);
        self.wake(cluster);
        Released {
            held: waiting,
            stopped,
        }
    }

    /// Nobody can be served: logins are refused with 57P03 and `why`, until the next `hold` or
    /// `open`.
    pub fn refuse(&self, cluster: &ClusterName, why: &str) {
        let Some(gate) = self.gate(cluster) else {
            return;
        };
        gate.refuse(why);
        self.wake(cluster);
    }

    /// Where the sessions with a server on `node` stand.
    pub fn drain_status(&self, cluster: &ClusterName, node: &NodeName) -> DrainStatus {
        let Some(gate) = self.gate(cluster) else {
            return DrainStatus::default();
        };
        let hold = gate.hold_id();
        let mut status = DrainStatus {
            dialing: gate.dialing.load(Ordering::Acquire),
            ..DrainStatus::default()
        };
        for pool in self.lead_pools(cluster) {
            let state = pool.lock();
            status.held += state.queue.len();
            for leased in state.leased.values().filter(|leased| leased.is_on(node)) {
                match leased.phase {
                    Use::Session if leased.is_parked(hold) => {
                        status.parked_pids.push(leased.info.pid);
                    }
                    Use::Session => status.blockers.push(pool.blocker(leased)),
                    // It runs the reset query, and is idle or closed when that is over.
                    Use::Reset => status.parked_pids.push(leased.info.pid),
                    Use::Burial => status.departed_pids.push(leased.info.pid),
                }
            }
        }
        status.departed_pids.extend(gate.departed_on(node));
        status
    }

    /// How much each session with a server on `node` has been answered, in bytes, by the server's
    /// id: whose figure rises still gets answers.
    pub fn pulse(&self, cluster: &ClusterName, node: &NodeName) -> BTreeMap<u64, u64> {
        let mut pulse = BTreeMap::new();
        for pool in self.of_cluster(cluster) {
            let state = pool.lock();
            let there = state.leased.values().filter(|leased| leased.is_on(node));
            pulse.extend(there.map(|leased| (leased.info.id, leased.meter.read().sent)));
        }
        pulse
    }

    /// Changes its value whenever the answer of [`Pools::drain_status`] may have changed.
    pub fn drain_changes(&self) -> watch::Receiver<u64> {
        self.bell().subscribe()
    }

    /// These departed backends were seen to be gone.
    pub fn forget_departed(&self, cluster: &ClusterName, node: &NodeName, pids: &[i32]) {
        if let Some(gate) = self.gate(cluster) {
            gate.forget(node, pids);
        }
    }

    /// Sends a cancel request to every blocker's backend.
    pub fn cancel_blockers(&self, cluster: &ClusterName, node: &NodeName) {
        let hold = self.gate(cluster).and_then(|gate| gate.hold_id());
        self.for_leased(cluster, |leased| {
            if leased.is_blocker(node, hold) {
                let request = self.cancel_request(&leased.info);
                tokio::spawn(request);
            }
        });
    }

    /// Stops every session with a server on `node` now, and closes idle servers there.
    /// The node is given up: that is for whoever is on it, whatever the route.
    pub fn stop_sessions(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason) {
        for pool in self.of_cluster(cluster) {
            pool.for_sessions(|leased| {
                if leased.is_on(node) {
                    leased.order.raise(Order::StopNow(reason));
                }
            });
            pool.close_idle_if(|idle| idle.server.info.node.name == *node);
        }
    }

    /// Stops the sessions that have not parked.
    pub fn stop_blockers(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason) {
        let hold = self.gate(cluster).and_then(|gate| gate.hold_id());
        self.for_leased(cluster, |leased| {
            if leased.is_blocker(node, hold) {
                leased.order.raise(Order::StopNow(reason));
            }
        });
    }

    /// Logs server connections in on `target`, one for each that the cluster's pools have on the
    /// lead now, with the same startup parameters. Returns how many stand ready. Failures only mean
    /// fewer: the clients will open their own.
    pub async fn prewarm(&self, cluster: &ClusterName, target: &Arc<NodeConfig>) -> usize {
        let Some(gate) = self.gate(cluster) else {
            return 0;
        };
        let mut logins = JoinSet::new();
        let mut ready = 0;
        for pool in self.lead_pools(cluster) {
            for (params, count) in pool.params_elsewhere(&target.name) {
                for _ in 0..count {
                    if logins.len() >= PREWARM_PARALLEL {
                        ready += count_ready(logins.join_next().await.as_ref());
                    }
                    let warm = self.warm(&pool, &gate, target, params.clone());
                    logins.spawn(warm);
                }
            }
        }
        while let Some(done) = logins.join_next().await {
            ready += count_ready(Some(&done));
        }
        ready
    }

    fn warm(
        &self,
        pool: &Arc<Pool>,
        gate: &Arc<ClusterGate>,
        target: &Arc<NodeConfig>,
        params: StartupParams,
    ) -> impl Future<Output = bool> + use<> {
        let dial = Dial {
            node: Arc::clone(target),
            generation: pool.database.generation(),
            dbname: pool.database.dbname(),
            user: pool.key.user.to_string(),
            secret: self.secret_of(&pool.key.user),
            params,
            read_only: false,
        };
        let (id, dialer) = (self.shared().next_id(), self.shared().dialer());
        let (pool, dialing) = (Arc::clone(pool), Dialing::new(gate));
        async move {
            let server = Server::dial(id, dial, &dialer).await;
            drop(dialing);
            match server {
                Ok(server) => {
                    pool.add_idle(server);
                    true
                }
                Err(error) => {
                    tracing::info!(%error, "prewarm: a login failed");
                    false
                }
            }
        }
    }

    /// Closes idle servers on `node`.
    pub fn close_idle(&self, cluster: &ClusterName, node: &NodeName) {
        self.close_idle_if(cluster, |idle| idle.server.info.node.name == *node);
    }

    fn close_idle_if(&self, cluster: &ClusterName, doomed: impl Fn(&Idle) -> bool) {
        for pool in self.lead_pools(cluster) {
            pool.close_idle_if(&doomed);
        }
    }

    /// Locks every pool of the lead's traffic once and shows each server that a session has.
    fn for_leased(&self, cluster: &ClusterName, mut act: impl FnMut(&Leased)) {
        for pool in self.lead_pools(cluster) {
            pool.for_sessions(&mut act);
        }
    }

    /// The pools that a hold, a drain and a release are about.
    fn lead_pools(&self, cluster: &ClusterName) -> Vec<Arc<Pool>> {
        let mut pools = self.of_cluster(cluster);
        pools.retain(|pool| !pool.is_routed());
        pools
    }

    fn held(&self, cluster: &ClusterName) -> usize {
        self.lead_pools(cluster)
            .iter()
            .map(|pool| pool.lock().queue.len())
            .sum()
    }

    fn wake(&self, cluster: &ClusterName) {
        for pool in self.of_cluster(cluster) {
            pool.wake();
        }
    }

    pub(super) fn secret_of(&self, user: &UserName) -> Option<Verifier> {
        self.users().get(user.as_str()).cloned()
    }
}

fn count_ready(done: Option<&Result<bool, tokio::task::JoinError>>) -> usize {
    usize::from(matches!(done, Some(Ok(true))))
}

/// A parked session stands at a safe point and may finish what it is telling its client. After a
/// planned move all are; whoever is not must not run a statement once others are released.
fn stop_for(leased: &Leased, hold: HoldId, reason: StopReason) -> Order {
    match reason {
        StopReason::Switchover if leased.is_parked(Some(hold)) => Order::StopWhenSafe(reason),
        other => Order::StopNow(other),
    }
}

impl Leased {
    fn is_on(&self, node: &NodeName) -> bool {
        self.info.node.name == *node
    }

    fn is_parked(&self, hold: Option<HoldId>) -> bool {
        hold.is_some_and(|hold| self.meter.is_parked(hold))
    }

    fn is_blocker(&self, node: &NodeName, hold: Option<HoldId>) -> bool {
        self.phase == Use::Session && self.is_on(node) && !self.is_parked(hold)
    }
}

impl Pool {
    fn for_sessions(&self, act: impl FnMut(&Leased)) {
        let state = self.lock();
        let sessions = state.leased.values();
        sessions
            .filter(|leased| leased.phase == Use::Session)
            .for_each(act);
    }

    fn blocker(&self, leased: &Leased) -> Blocker {
        let (activity, age) = leased.meter.activity();
        Blocker {
            client_id: leased.client.id,
            addr: leased.client.addr.clone(),
            database: self.key.database.clone(),
            user: self.key.user.clone(),
            application_name: leased.client.application_name.clone(),
            state: match activity {
                Activity::Idle => "idle",
                Activity::Active => "active",
                Activity::IdleInTransaction => "idle in transaction",
            },
            age,
            backend_pid: leased.info.pid,
        }
    }

    /// Startup parameters of the servers on other nodes than `node`, with how many there are.
    fn params_elsewhere(&self, node: &NodeName) -> HashMap<StartupParams, usize> {
        let state = self.lock();
        let idle = state.idle.iter().map(|idle| &idle.server.info);
        let infos = idle.chain(state.leased.values().map(|leased| &leased.info));
        let mut counts = HashMap::new();
        let elsewhere = infos.filter(|info| info.node.name != *node);
        for info in elsewhere.filter(|info| info.params.is_reusable()) {
            *counts.entry(info.params.clone()).or_insert(0) += 1;
        }
        counts
    }

    pub(super) fn close_idle_if(&self, doomed: impl Fn(&Idle) -> bool) {
        let mut state = self.lock();
        let (out, kept) = state.idle.drain(..).partition(doomed);
        state.idle = kept;
        state.wake_front();
        drop(state);
        let out: Vec<Idle> = out;
        close_all(out.into_iter().map(|idle| idle.server).collect());
    }
}
