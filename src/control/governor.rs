//! The task of one cluster: observation or command in, decision, action, view out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::coordination::{CommitError, Store};
use super::driver::{self, Ended, Message, Operation};
use super::events::{Journal, News};
use super::gates::{Gates, Opening};
use super::members::Members;
use super::monitor::Observation;
use super::record::{Record, wanted_word};
use super::verdict::{Stance, first_lead, stance};
use super::{Outcome, Refusal, Report, SwitchoverRequest, dry_run, requests};
use crate::cluster::{ClusterView, Epoch, Observed, OperationView, Wanted};
use crate::config::NodeName;
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
    dbnames: Vec<String>,
    process_began: Instant,
    gate: GateState,
    unusable_since: Option<Instant>,
    running: Option<Running>,
    operations: JoinSet<Ended>,
    dry_runs: JoinSet<()>,
    all_down: bool,
    /// When the last operation ended.
    decided_at: Option<Instant>,
}

impl Governor {
    /// Takes over a cluster with what is recorded of it.
    pub(super) fn new(
        members: Members,
        record: Option<Record>,
        out: Outputs,
        dbnames: Vec<String>,
        process_began: Instant,
    ) -> Self {
        out.gates.hold(&members.config.name, HoldOwner::NoLead);
        Self {
            members,
            record,
            out,
            dbnames,
            process_began,
            gate: GateState::Closed,
            unusable_since: Some(process_began),
            running: None,
            operations: JoinSet::new(),
            dry_runs: JoinSet::new(),
            all_down: false,
            decided_at: None,
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
            self.tell("all_nodes_down", None, false, "no node answers".to_owned());
        }
        self.all_down = all_down;
    }

    fn tell_change(&self, name: &NodeName) {
        let Some(member) = self.members.get(name) else {
            return;
        };
        let (kind, success) = match member.observed {
            Observed::Up => ("node_up", true),
            Observed::Down => ("node_down", false),
            Observed::Recovering => ("node_recovering", false),
            Observed::Unknown => ("node_unknown", false),
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
                self.tell("lead_chosen", Some(&node), true, detail);
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
        let waited = self.unusable_since.map(|since| since.elapsed());
        let named = lead.map(|m| (&m.config.name, m.reason.as_str()));
        let wanted = stance(named, waited);
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
                let opening = Opening {
                    lead: &record.node,
                    epoch: record.epoch,
                    reason: StopReason::Failover,
                    per_ms: self.members.config.release_per_ms,
                };
                gates.open(&cluster, opening);
                GateState::Open
            }
            (Stance::Hold, GateState::Open) => {
                gates.hold(&cluster, HoldOwner::NoLead);
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
            Stance::Serve => ("clients_served", true, String::new()),
            Stance::Hold => (
                "clients_held",
                false,
                "the lead is not available".to_owned(),
            ),
            Stance::Refuse(why) => ("clients_refused", false, why.clone()),
        };
        let lead = self.record.as_ref().map(|r| r.node.clone());
        self.tell(kind, lead.as_ref(), success, detail);
        self.gate = next;
    }

    fn publish(&self) {
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
        self.out.view.send_if_modified(|shown| {
            let modified = **shown != view;
            if modified {
                *shown = Arc::new(view);
            }
            modified
        });
    }

    fn tell(&self, kind: &'static str, node: Option<&NodeName>, success: bool, detail: String) {
        self.out.journal.tell(News {
            cluster: Some(self.members.config.name.clone()),
            node: node.cloned(),
            kind: kind.to_owned(),
            success,
            detail,
        });
    }
}

// Operations.
impl Governor {
    // A reply that nobody waits for any more is dropped; the deed is done all the same.
    async fn command(&mut self, command: Command) {
        match command {
            Command::Switchover(request, reply) => {
                match self.free().and_then(|()| self.switchover(&request)) {
                    Ok(operation) => self.start(operation, reply),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
            Command::Preflight(request, reply) => match self.switchover(&request) {
                Ok(operation) => {
                    self.dry_runs.spawn(async move {
                        let _ = reply.send(Box::pin(dry_run::run(operation)).await);
                    });
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Command::Failover(target, accept_loss, reply) => {
                match self
                    .free()
                    .and_then(|()| self.failover(&target, accept_loss))
                {
                    Ok(operation) => self.start(operation, reply),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
            Command::Abort(reply) => self.abort(reply),
            Command::SetWanted(node, wanted, reply) => {
                let result = self.set_wanted(&node, wanted).await;
                drop(reply.send(result));
            }
        }
    }

    fn free(&self) -> Result<(), Refusal> {
        match &self.running {
            None => Ok(()),
            Some(running) => Err(requests::busy(&self.members.config.name, &running.view)),
        }
    }

    fn switchover(&self, request: &SwitchoverRequest) -> Result<Operation, Refusal> {
        let parties = requests::parties(&self.members, self.record.as_ref(), &request.target)?;
        let plan = requests::switchover_plan(&parties, &self.members.config, request)?;
        Ok(self.operation(plan, &parties, None))
    }

    fn failover(&self, target: &NodeName, accept_loss: bool) -> Result<Operation, Refusal> {
        let parties = requests::parties(&self.members, self.record.as_ref(), target)?;
        let plan = requests::failover_plan(&parties, &self.members.config);
        let terms = requests::terms(&parties, &self.members, accept_loss);
        Ok(self.operation(plan, &parties, Some(terms)))
    }

    fn operation(
        &self,
        plan: super::switchover::Plan,
        parties: &requests::Chosen<'_>,
        terms: Option<super::failover::Terms>,
    ) -> Operation {
        Operation {
            config: Arc::clone(&self.members.config),
            gates: Arc::clone(&self.out.gates),
            store: Arc::clone(&self.out.store),
            journal: self.out.journal.clone(),
            plan,
            from: parties.from.config.clone(),
            to: parties.to.config.clone(),
            dbnames: self.dbnames.clone(),
            terms,
            process_began: self.process_began,
        }
    }

    fn start(&mut self, operation: Operation, reply: Reply<Report>) {
        let report = driver::first_report(&operation);
        let view = OperationView {
            kind: report.kind,
            phase: "preflight",
            target: report.to.clone(),
            since: report.started,
        };
        let text = format!("{} to \"{}\" begins", report.kind, report.to);
        self.tell("operation_started", Some(&report.to), true, text);
        let (progress_sender, progress) = watch::channel(report);
        let (messages, received) = mpsc::channel(16);
        self.operations
            .spawn(Box::pin(driver::run(operation, received, progress_sender)));
        self.running = Some(Running {
            view,
            messages,
            progress,
            reply: Some(reply),
        });
    }

    fn abort(&mut self, reply: Reply<()>) {
        let cluster = self.members.config.name.clone();
        let Some(running) = &self.running else {
            drop(reply.send(Err(requests::nothing_to_abort(&cluster))));
            return;
        };
        let (answer, possible) = oneshot::channel();
        let view = running.view.clone();
        if running.messages.try_send(Message::Abort(answer)).is_err() {
            drop(reply.send(Err(requests::too_late(&cluster, &view))));
            return;
        }
        self.dry_runs.spawn(async move {
            let result = match possible.await {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(requests::too_late(&cluster, &view)),
            };
            let _ = reply.send(result);
        });
    }

    async fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let mut reply = self.running.take().and_then(|running| running.reply);
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // The record says what holds; everything else is made new from it.
                tracing::error!(%error, "an operation ended unexpectedly");
                self.out
                    .gates
                    .hold(&self.members.config.name, HoldOwner::NoLead);
                self.gate = GateState::Closed;
                self.adopt().await;
                let refusal = requests::broken(&self.members.config.name);
                if let Some(reply) = reply.take() {
                    drop(reply.send(Err(refusal)));
                }
                return;
            }
        };
        let failover = ended.report.kind == "failover";
        if let Some(record) = ended.record.clone() {
            self.members.take_writes(&record.node);
            self.decided_at = Some(Instant::now());
            self.record = Some(record);
            self.gate = GateState::Open;
        } else if ended.adopt || (failover && ended.report.phases.len() > 1) {
            // Sessions were stopped: whoever is lead by record, its gate must be opened anew.
            self.gate = GateState::Closed;
        }
        if ended.adopt {
            self.adopt().await;
        }
        self.out.operation.send_replace(Some(ended.report.clone()));
        self.publish();
        if let Some(reply) = reply {
            let result = ended.refusal.map_or(Ok(ended.report), Err);
            drop(reply.send(result));
        }
    }

    /// Takes what the store holds for true.
    async fn adopt(&mut self) {
        match self.out.store.load(&self.members.config.name).await {
            Ok(record) => self.record = record,
            Err(error) => {
                tracing::error!(%error, "the recorded lead cannot be read: nobody is served");
                self.record = None;
            }
        }
    }

    async fn set_wanted(&mut self, node: &NodeName, wanted: Wanted) -> Result<(), Refusal> {
        let lead = self.record.as_ref().is_some_and(|r| r.node == *node);
        if lead && wanted != Wanted::Ready {
            return Err(requests::is_lead(&self.members.config.name, node));
        }
        if self
            .running
            .as_ref()
            .is_some_and(|r| r.view.target == *node)
        {
            self.free()?;
        }
        let kept = self.out.store.set_wanted(node.clone(), wanted).await;
        kept.map_err(|e| requests::not_kept(&e.to_string()))?;
        if let Some(member) = self.members.get_mut(node) {
            member.wanted = wanted;
        }
        let text = format!("set to {} by an operator", wanted_word(wanted));
        self.tell("node_wanted", Some(node), true, text);
        Ok(())
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
