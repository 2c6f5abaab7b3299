//! Owns the decisions: one task per cluster takes observations and commands, decides, acts, and
//! publishes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::coordination::{Store, StoreError};
use super::events::Journal;
use super::gates::Gates;
use super::governor::{Command, Governor, Outputs};
use super::members::{Member, Members};
use super::{Handle, monitor};
use crate::cluster::{Fact, ViewReader, Wanted};
use crate::config::{ClusterConfig, Config, NodeName};

/// Observations that may wait for the Director.
const OBSERVATIONS: usize = 64;
/// Commands of consoles that may wait.
const COMMANDS: usize = 64;

/// What the Director is given.
#[derive(Debug)]
pub struct Setup {
    /// The configuration.
    pub config: Arc<Config>,
    /// The pools.
    pub gates: Arc<dyn Gates>,
    /// What the data plane saw.
    pub facts: mpsc::Receiver<Fact>,
    /// Where decisions are kept.
    pub store: Arc<dyn Store>,
    /// Where events go.
    pub journal: Journal,
}

/// Owns the tasks of the control plane; they end when it is dropped.
#[derive(Debug)]
pub struct Director {
    tasks: JoinSet<()>,
}

/// What a console reaches of one cluster.
#[derive(Debug, Clone)]
pub(super) struct ClusterHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) view: ViewReader,
    pub(super) operation: watch::Receiver<Option<super::Report>>,
}

impl Director {
    /// Reads what was decided before and starts to watch. All gates are held when this returns; each
    /// opens when its recorded lead was proven up.
    pub async fn spawn(setup: Setup) -> Result<(Self, Handle), StoreError> {
        let wanted = setup.store.wanted().await?;
        let mut tasks = JoinSet::new();
        let mut clusters = BTreeMap::new();
        let mut members_of = BTreeMap::new();
        let mut kicks = BTreeMap::new();
        for (name, config) in &setup.config.clusters {
            let record = setup.store.load(name).await?;
            let members = members(config, &wanted);
            for member in &members.nodes {
                kicks.insert(member.config.name.clone(), Arc::clone(&member.kick));
                members_of.insert(member.config.name.clone(), name.clone());
            }
            let (sender, observations) = mpsc::channel(OBSERVATIONS);
            for member in &members.nodes {
                let (config, node) = (Arc::clone(config), member.config.clone());
                let kick = Arc::clone(&member.kick);
                tasks.spawn(Box::pin(monitor::watch(config, node, kick, sender.clone())));
            }
            let view = Arc::new(members.view(record.as_ref(), None));
            let (view_sender, view) = watch::channel(view);
            let (operation_sender, operation) = watch::channel(None);
            let (commands, received) = mpsc::channel(COMMANDS);
            let outputs = Outputs {
                gates: Arc::clone(&setup.gates),
                store: Arc::clone(&setup.store),
                journal: setup.journal.clone(),
                view: view_sender,
                operation: operation_sender,
            };
            let governor = Governor::new(members, record, outputs, Instant::now());
            tasks.spawn(Box::pin(governor.run(observations, received)));
            clusters.insert(
                name.clone(),
                ClusterHandle {
                    commands,
                    view,
                    operation,
                },
            );
        }
        tasks.spawn(pass_facts_on(setup.facts, kicks));
        let handle = Handle::new(clusters, members_of, setup.journal);
        Ok((Self { tasks }, handle))
    }

    /// Ends all tasks. Gates stay as they are; the records say what holds.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

fn members(config: &Arc<ClusterConfig>, wanted: &BTreeMap<NodeName, Wanted>) -> Members {
    let member = |node: &crate::config::NodeConfig| {
        let word = wanted.get(&node.name).copied().unwrap_or_default();
        Member::new(node.clone(), word)
    };
    Members {
        nodes: config.nodes.iter().map(member).collect(),
        config: Arc::clone(config),
    }
}

/// What traffic saw is a reason to look, never a verdict.
async fn pass_facts_on(
    mut facts: mpsc::Receiver<Fact>,
    kicks: BTreeMap<NodeName, Arc<tokio::sync::Notify>>,
) {
    while let Some(fact) = facts.recv().await {
        let (Fact::DialFailed { node, .. } | Fact::ServerLost { node, .. }) = &fact;
        if let Some(kick) = kicks.get(node) {
            tracing::debug!(?fact, "probing at once");
            kick.notify_one();
        }
    }
}
