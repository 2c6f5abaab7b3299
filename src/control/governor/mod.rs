//! The task of one cluster: observation or command in, decision, action, view out.

mod operations;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::coordination::{CommitError, Store};
use super::driver::{Ended, Message};
use super::events::{Journal, News};
use super::gates::{Gates, Opening};
use super::members::Members;
use super::monitor::Observation;
use super::record::Record;
use super::routing::Routing;
use super::verdict::{Stance, first_lead, stance};
use super::watchkeeper::{Thresholds, Watchkeeper};
use super::{Outcome, Refusal, Report, SwitchoverRequest};
use crate::cluster::{ClusterView, Epoch, Observed, OperationView, Wanted};
use crate::config::{EventKind, NodeName};
use crate::pool::HoldOwner;
use crate::relay::StopReason;

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

/// What we last told the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GateState {
    /// Never opened, or not since everything was stopped: to serve is to open.
    Closed,
    /// Open at the recorded lead.
    Open,
    /// Held; it was open before, so that parked sessions may go on.
    Held,
    /// Clients are refused.
    Refusing,
}

#[derive(Debug)]
struct Running {
    view: OperationView,
    messages: mpsc::Sender<Message>,
    progress: watch::Receiver<Report>,
    reply: Option<Reply<Report>>,
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
    dry_runs: JoinSet<()>,
    all_down: bool,
    watchkeeper: Watchkeeper,
    /// When the last operation ended.
    decided_at: Option<Instant>,
    routing: Routing,
}

impl Governor {
    /// Takes over a cluster with what is recorded of it.
    pub(super) fn new(
        members: Members,
        record: Option<Record>,
        out: Outputs,
        process_began: Instant,
    ) -> Self {
        out.gates.hold(&members.config.name, HoldOwner::NoLead);
        Self {
            watchkeeper: Watchkeeper::new(Thresholds::of(&members.config)),
            members,
            record,
            out,
            process_began,
            gate: GateState::Closed,
            unusable_since: Some(process_began),
            running: None,
            operations: JoinSet::new(),
            dry_runs: JoinSet::new(),
            all_down: false,
            decided_at: None,
            routing: Routing::default(),
        }
    }

    /// Decides until the consoles and monitors are gone.
    pub(super) async fn run(
        mut self,
        mut observations: mpsc::Receiver<Observation>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(ended) = self.operations.join_next() => self.ended(ended).await,
                Some(command) = commands.recv() => self.command(command).await,
                observation = observations.recv() => match observation {
                    Some(observation) => self.observe(observation),
                    None => return,
                },
                () = progress(&mut self.running) => {}
                Some(_) = self.dry_runs.join_next() => {}
                _ = tick.tick() => {}
            }
            if self.running.is_none() {
                self.choose_first_lead().await;
                self.take_stance();
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

    fn observe(&mut self, observation: Observation) {
        if self.decided_at.is_some_and(|at| observation.began < at) {
            // It may say of the new lead what was true before its promotion.
            return;
        }
        let lead = self.record.as_ref().map(|r| r.node.clone());
        for name in self.members.note(observation, lead.as_ref()) {
            self.tell_change(&name);
            self.tell_operation(&name);
        }
        let down = |m: &super::members::Member| m.observed == Observed::Down;
        let all_down = self.members.nodes.iter().all(down);
        if all_down && !self.all_down {
            self.tell(
                EventKind::AllNodesDown,
                None,
                false,
                "no node answers".to_owned(),
            );
        }
        self.all_down = all_down;
    }

    fn tell_change(&self, name: &NodeName) {
        let Some(member) = self.members.get(name) else {
            return;
        };
        let (kind, success) = match member.observed {
            Observed::Up => (EventKind::NodeUp, true),
            Observed::Down => (EventKind::NodeDown, false),
            Observed::Recovering => (EventKind::NodeRecovering, false),
            Observed::Unknown => (EventKind::NodeUnknown, false),
        };
        self.tell(kind, Some(name), success, member.reason.clone());
    }

    /// A running operation hears of the loss of a node it needs.
    fn tell_operation(&self, name: &NodeName) {
        let (Some(running), Some(member)) = (&self.running, self.members.get(name)) else {
            return;
        };
        // By probes alone: that a target lags is the gate's business. One that is starting up was
        // gone in between.
        if !matches!(
            member.health.observed(),
            Observed::Down | Observed::Recovering
        ) {
            return;
        }
        let why = member.reason.clone();
        let message = if *name == running.view.target {
            Message::TargetLost(why)
        } else if self.record.as_ref().is_some_and(|r| r.node == *name) {
            Message::LeadLost(why)
        } else {
            return;
        };
        // A full queue: the operation's own connection to the node finds the same.
        let _ = running.messages.try_send(message);
    }

    async fn choose_first_lead(&mut self) {
        if self.record.is_some() {
            return;
        }
        let Some(node) = first_lead(&self.members.nominees()) else {
            return;
        };
        let record = Record {
            cluster: self.members.config.name.clone(),
            epoch: Epoch(1),
            node: node.clone(),
            since: SystemTime::now(),
            reason: "initial".to_owned(),
            previous: None,
        };
        match self.out.store.commit(record.clone(), None).await {
            Ok(()) => {
                self.record = Some(record);
                let detail = "highest priority of the nodes that are up".to_owned();
                self.tell(EventKind::LeadChosen, Some(&node), true, detail);
            }
            Err(CommitError::Superseded(_)) => self.adopt().await,
            Err(error) => {
                tracing::error!(cluster = %record.cluster, %error, "the lead cannot be recorded");
            }
        }
    }

    /// The recorded lead is kept; clients are served by it, held, or refused.
    fn take_stance(&mut self) {
        let lead = self.record.as_ref().and_then(|r| self.members.get(&r.node));
        let usable = lead.is_some_and(super::members::Member::is_usable_lead);
        if usable {
            self.unusable_since = None;
        } else if self.unusable_since.is_none() {
            self.unusable_since = Some(Instant::now());
        }
        let unusable_for = self.unusable_since.map(|since| since.elapsed());
        let named = lead.map(|m| (&m.config.name, m.reason.as_str()));
        let wanted = stance(named, unusable_for);
        self.apply(&wanted);
    }

    fn apply(&mut self, wanted: &Stance) {
        let cluster = self.members.config.name.clone();
        let gates = Arc::clone(&self.out.gates);
        let next = match (wanted, self.gate) {
            (Stance::Serve, GateState::Open)
            | (Stance::Hold, GateState::Closed | GateState::Held)
            | (Stance::Refuse(_), GateState::Refusing) => return,
            (Stance::Serve, GateState::Held) => {
                gates.resume(&cluster);
                GateState::Open
            }
            (Stance::Serve, GateState::Closed | GateState::Refusing) => {
                let Some(record) = &self.record else {
                    return;
                };
                let Some(lead) = self.members.get(&record.node) else {
                    return;
                };
                let opening = Opening {
                    lead: &Arc::new(lead.config.clone()),
                    epoch: record.epoch,
                    reason: StopReason::Failover,
                    per_ms: self.members.config.release_per_ms,
                };
                gates.open(&cluster, opening);
                GateState::Open
            }
            (Stance::Hold, GateState::Open) => {
                // It is the monitor that gets no answer: who still gets one is left alone. No lead
                // moves without an operation, and that holds and stops for itself.
                gates.close_to_newcomers(&cluster);
                GateState::Held
            }
            (Stance::Hold, GateState::Refusing) => {
                gates.hold(&cluster, HoldOwner::NoLead);
                GateState::Closed
            }
            (Stance::Refuse(why), _) => {
                gates.refuse(&cluster, why);
                GateState::Refusing
            }
        };
        let (kind, success, detail) = match wanted {
            Stance::Serve => (EventKind::ClientsServed, true, String::new()),
            Stance::Hold => (
                EventKind::ClientsHeld,
                false,
                "the lead is not available".to_owned(),
            ),
            Stance::Refuse(why) => (EventKind::ClientsRefused, false, why.clone()),
        };
        let lead = self.record.as_ref().map(|r| r.node.clone());
        self.tell(kind, lead.as_ref(), success, detail);
        self.gate = next;
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
        let view = self.members.view(self.record.as_ref(), operation);
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
