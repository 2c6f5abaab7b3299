//! What the control plane needs of the pools, as a trait: so that it is tested without clients.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::Epoch;
use crate::config::{ClusterName, NodeConfig, NodeName};
use crate::pool::{DrainStatus, HoldOwner, Pools, Released, Routes};
use crate::relay::StopReason;

/// The new lead, as the gate opens for it.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The lead.
    pub lead: &'a Arc<NodeConfig>,
    /// Under which decision.
    pub epoch: Epoch,
    /// Told to sessions that have a server elsewhere.
    pub reason: StopReason,
    /// Held clients per millisecond.
    pub per_ms: Option<u32>,
}

/// See the methods of [`Pools`]; nothing here waits for a client.
pub trait Gates: Send + Sync + std::fmt::Debug {
    /// [`Pools::hold`].
    fn hold(&self, cluster: &ClusterName, owner: HoldOwner);
    /// [`Pools::close_to_newcomers`].
    fn close_to_newcomers(&self, cluster: &ClusterName);
    /// [`Pools::dbnames`].
    fn dbnames(&self, cluster: &ClusterName) -> Vec<String>;
    /// [`Pools::resume`].
    fn resume(&self, cluster: &ClusterName, per_ms: Option<u32>);
    /// [`Pools::open`].
    fn open(&self, cluster: &ClusterName, opening: Opening<'_>) -> Released;
    /// [`Pools::refuse`].
    fn refuse(&self, cluster: &ClusterName, why: &str);
    /// [`Pools::publish_routes`].
    fn publish_routes(&self, cluster: &ClusterName, routes: Routes) -> bool;
    /// [`Pools::drain_status`].
    fn drain_status(&self, cluster: &ClusterName, node: &NodeName) -> DrainStatus;
    /// [`Pools::drain_changes`].
    fn drain_changes(&self, cluster: &ClusterName) -> watch::Receiver<u64>;
    /// [`Pools::forget_departed`].
    fn forget_departed(&self, cluster: &ClusterName, node: &NodeName, pids: &[i32]);
    /// [`Pools::cancel_blockers`].
    fn cancel_blockers(&self, cluster: &ClusterName, node: &NodeName);
    /// [`Pools::stop_sessions`].
    fn stop_sessions(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason);
    /// [`Pools::stop_blockers`].
    fn stop_blockers(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason);
    /// [`Pools::prewarm`].
    fn prewarm(
        &self,
        cluster: &ClusterName,
        target: &Arc<NodeConfig>,
    ) -> Pin<Box<dyn Future<Output = usize> + Send>>;
    /// [`Pools::close_idle`].
    fn close_idle(&self, cluster: &ClusterName, node: &NodeName);
    /// Backends that the pools have on a node.
    fn backend_pids(&self, node: &NodeName) -> Vec<i32>;
    /// [`Pools::pulse`].
    fn pulse(&self, cluster: &ClusterName, node: &NodeName) -> BTreeMap<u64, u64>;
}

impl Gates for Pools {
    fn hold(&self, cluster: &ClusterName, owner: HoldOwner) {
        Self::hold(self, cluster, owner);
    }

    fn close_to_newcomers(&self, cluster: &ClusterName) {
        Self::close_to_newcomers(self, cluster);
    }

    fn dbnames(&self, cluster: &ClusterName) -> Vec<String> {
        Self::dbnames(self, cluster)
    }

    fn resume(&self, cluster: &ClusterName, per_ms: Option<u32>) {
        Self::resume(self, cluster, per_ms);
    }

    fn open(&self, cluster: &ClusterName, o: Opening<'_>) -> Released {
        Self::open(self, cluster, o.lead, o.epoch, o.reason, o.per_ms)
    }

    fn refuse(&self, cluster: &ClusterName, why: &str) {
        Self::refuse(self, cluster, why);
    }

    fn publish_routes(&self, cluster: &ClusterName, routes: Routes) -> bool {
        Self::publish_routes(self, cluster, routes)
    }

    fn drain_status(&self, cluster: &ClusterName, node: &NodeName) -> DrainStatus {
        Self::drain_status(self, cluster, node)
    }

    fn drain_changes(&self, cluster: &ClusterName) -> watch::Receiver<u64> {
        let _ = cluster;
        Self::drain_changes(self)
    }

    fn forget_departed(&self, cluster: &ClusterName, node: &NodeName, pids: &[i32]) {
        Self::forget_departed(self, cluster, node, pids);
    }

    fn cancel_blockers(&self, cluster: &ClusterName, node: &NodeName) {
        Self::cancel_blockers(self, cluster, node);
    }

    fn stop_sessions(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason) {
        Self::stop_sessions(self, cluster, node, reason);
    }

    fn stop_blockers(&self, cluster: &ClusterName, node: &NodeName, reason: StopReason) {
        Self::stop_blockers(self, cluster, node, reason);
    }

    fn prewarm(
        &self,
        cluster: &ClusterName,
        target: &Arc<NodeConfig>,
    ) -> Pin<Box<dyn Future<Output = usize> + Send>> {
        let (pools, cluster, target) = (self.clone(), cluster.clone(), Arc::clone(target));
        Box::pin(async move { Self::prewarm(&pools, &cluster, &target).await })
    }

    fn close_idle(&self, cluster: &ClusterName, node: &NodeName) {
        Self::close_idle(self, cluster, node);
    }

    fn backend_pids(&self, node: &NodeName) -> Vec<i32> {
        let servers = self.servers().into_iter().filter(|s| s.node == *node);
        servers.map(|s| s.remote_pid).collect()
    }

    fn pulse(&self, cluster: &ClusterName, node: &NodeName) -> BTreeMap<u64, u64> {
        Self::pulse(self, cluster, node)
    }
}
