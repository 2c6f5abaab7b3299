//! The task of one cluster: observation or command in, decision, action, view out.

mod memory;
mod operations;
mod stance;
mod successions;
mod topology;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::coordination::Store;
use super::driver::{Ended, Message};
use super::events::{Journal, News};
use super::gates::Gates;
use super::health::Now;
use super::members::Members;
use super::record::{AddedNode, Record};
use super::routing::Routing;
use super::watchkeeper::{Thresholds, Watchkeeper};
use super::{Outcome, Refusal, Report, SwitchoverRequest};
use crate::cluster::{ClusterView, Fact, OperationView, Wanted};
use crate::config::{Candidate, EventKind, NodeName};
use crate::pool::HoldOwner;

use memory::Memory;
use stance::GateState;
use successions::Successions;
use watched::{Monitors, Watched};

/// How often time alone is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Where an answer to a console goes; it may have left.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a console asks.
#[derive(Debug)]
pub(super) enum Command {
    /// DRY RUN.
    Preflight(SwitchoverRequest, Reply<Report>),
    /// SWITCHOVER.
    Switchover(SwitchoverRequest, Reply<Report>),
    /// ABORT SWITCHOVER.
    Abort(Reply<()>),
    /// FAILOVER; `true`: ACCEPT LOSS.
    Failover(NodeName, bool, Reply<Report>),
    /// READY, DRAIN, MAINT, FENCE.
    SetWanted(NodeName, Wanted, Reply<()>),
    /// SET NODE ... ELIGIBLE.
    SetCandidate(NodeName, Candidate, Reply<()>),
    /// ADD NODE.
    AddNode(NodeName, AddedNode, Reply<()>),
    /// REMOVE NODE.
    RemoveNode(NodeName, Reply<RemovedNode>),
    /// MAINTENANCE BEGIN of a node that does not lead.
    BeginMaintenance(NodeName, Reply<()>),
    /// Have all sessions left this node? The answer is how many have not within `drain_timeout`.
    Emptied(NodeName, Reply<usize>),
    /// Does every other member have what this node wrote?
    HandedOver(NodeName, Duration, Reply<Vec<NodeName>>),
    /// MAINTENANCE END, said then: done if the node was seen to be fit since. Else why it is not.
    EndMaintenance(NodeName, Instant, Reply<Option<String>>),
    /// What traffic saw.
    Saw(Fact),
}

/// What an operator has to do on the other nodes after REMOVE NODE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedNode {
    /// SQL to be run, with the node that it is for; pgsluice does not run it.
    pub advice: Vec<(NodeName, String)>,
}

/// What decisions act on.
#[derive(Debug)]
pub(super) struct Outputs {
    /// The pools.
    pub gates: Arc<dyn Gates>,
    /// The records.
    pub store: Arc<dyn Store>,
    /// The events.
    pub journal: Journal,
    /// For readers.
    pub view: watch::Sender<Arc<ClusterView>>,
    /// The running or last operation.
    pub operation: watch::Sender<Option<Report>>,
}

#[derive(Debug)]
struct Running {
    view: OperationView,
    messages: mpsc::Sender<Message>,
    progress: watch::Receiver<Report>,
    reply: Option<Reply<Report>>,
    /// Nobody asked for it.
    automatic: bool,
}

/// The deciding task of one cluster.
#[derive(Debug)]
pub(super) struct Governor {
    members: Members,
    record: Option<Record>,
    out: Outputs,
    process_began: Instant,
    gate: GateState,
    unusable_since: Option<Instant>,
    running: Option<Running>,
    operations: JoinSet<Ended>,
    /// Questions of consoles that hold up nothing here.
    asides: JoinSet<()>,
    monitors: Monitors,
    watchkeeper: Watchkeeper,
    routing: Routing,
    watched: Watched,
    succession: Successions,
    memory: Memory,
    /// When the last operation ended.
    decided_at: Option<Instant>,
}

impl Governor {
    /// Takes over a cluster with what is recorded of it, and begins to watch its nodes.
    pub(super) fn new(
        members: Members,
        record: Option<Record>,
        out: Outputs,
        process_began: Instant,
    ) -> Self {
        out.gates.hold(&members.config.name, HoldOwner::NoLead);
        Self {
            watchkeeper: Watchkeeper::new(Thresholds::of(&members.config)),
            monitors: Monitors::of(&members),
            members,
            record,
            out,
            process_began,
            gate: GateState::Closed,
            unusable_since: Some(process_began),
            running: None,
            operations: JoinSet::new(),
            asides: JoinSet::new(),
            routing: Routing::default(),
            watched: Watched::default(),
            succession: Successions::default(),
            memory: Memory::default(),
            decided_at: None,
        }
    }

    /// Decides until the consoles are gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(ended) = self.operations.join_next() => self.ended(ended).await,
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                Some(observation) = self.monitors.observed() => self.observe(observation),
                () = progress(&mut self.running) => {}
                Some(_) = self.asides.join_next() => {}
                Some(done) = self.memory.written() => self.note_left(done),
                _ = tick.tick() => self.watch_the_clock(),
            }
            self.keep_identities().await;
            if self.running.is_none() {
                self.remember().await;
                self.choose_first_lead().await;
                self.succeed();
            }
            if self.running.is_none() {
                self.take_stance();
                self.leave_notes();
            }
            self.publish();
            self.tell_of_replication();
        }
    }

    fn tell_of_replication(&mut self) {
        let view = Arc::clone(&self.out.view.borrow());
        for found in self.watchkeeper.note(&view, Instant::now().into_std()) {
            self.tell(found.kind, Some(&found.node), found.success, found.detail);
        }
    }

    /// Time since this process began to watch.
    fn now(&self) -> Now {
        self.process_began.elapsed()
    }

    fn lead_name(&self) -> Option<NodeName> {
        self.record.as_ref().map(|r| r.node.clone())
    }

    fn publish(&mut self) {
        let operation = self.running.as_ref().map(|running| {
            let mut view = running.view.clone();
            if let Outcome::Running { phase } = running.progress.borrow().outcome {
                view.phase = phase;
            }
            view
        });
        if let Some(running) = &self.running {
            let report = running.progress.borrow().clone();
            self.out.operation.send_replace(Some(report));
        }
        let mut view = self
            .members
            .view(self.record.as_ref(), operation, self.now());
        (view.clients, view.clients_why) = self.treatment();
        self.publish_routes(&view);
        self.out.view.send_if_modified(|shown| {
            let modified = **shown != view;
            if modified {
                *shown = Arc::new(view);
            }
            modified
        });
    }

    fn publish_routes(&mut self, view: &ClusterView) {
        let config = &self.members.config;
        let nodes = self.members.nodes.iter().map(|member| &member.config);
        let now = Instant::now().into_std();
        let routes = self.routing.routes(view, config, nodes, now);
        let concerns_somebody = self.out.gates.publish_routes(&config.name, routes);
        if let Some(change) = self.routing.change()
            && concerns_somebody
        {
            self.tell(EventKind::RouteChanged, None, true, change);
        }
    }

    fn tell(&self, kind: EventKind, node: Option<&NodeName>, success: bool, detail: String) {
        self.out.journal.tell(News {
            cluster: Some(self.members.config.name.clone()),
            node: node.cloned(),
            kind,
            success,
            detail,
        });
    }
}

async fn progress(running: &mut Option<Running>) {
    let changed = match running {
        Some(running) => running.progress.changed().await,
        None => std::future::pending().await,
    };
    if changed.is_err() {
        // The operation is about to be joined.
        std::future::pending::<()>().await;
    }
}
