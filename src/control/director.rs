//! Owns the decisions: one task per cluster takes observations and commands, decides, acts, and
//! publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Handle;
use super::coordination::{Store, StoreError};
use super::events::Journal;
use super::gates::Gates;
use super::governor::{Command, Governor, Outputs};
use super::members::Members;
use crate::cluster::{Fact, ViewReader};
use crate::config::Config;

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
        let kept = setup.store.nodes().await?;
        let mut tasks = JoinSet::new();
        let mut clusters = BTreeMap::new();
        for (name, config) in &setup.config.clusters {
            let record = setup.store.load(name).await?;
            let members = Members::new(config, &kept);
            let view = Arc::new(members.view(record.as_ref(), None, Duration::ZERO));
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
            tasks.spawn(Box::pin(governor.run(received)));
            clusters.insert(
                name.clone(),
                ClusterHandle {
                    commands,
                    view,
                    operation,
                },
            );
        }
        let ears = clusters.values().map(|c| c.commands.clone()).collect();
        tasks.spawn(pass_facts_on(setup.facts, ears));
        let handle = Handle::new(clusters, setup.journal);
        Ok((Self { tasks }, handle))
    }

    /// Ends all tasks. Gates stay as they are; the records say what holds.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Each cluster knows which nodes are its own.
async fn pass_facts_on(mut facts: mpsc::Receiver<Fact>, ears: Vec<mpsc::Sender<Command>>) {
    while let Some(fact) = facts.recv().await {
        for ear in &ears {
            // Who is behind loses nothing that a probe will not see.
            let _ = ear.try_send(Command::Saw(fact.clone()));
        }
    }
}
