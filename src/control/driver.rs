//! Carries out what the state machine asks for: one operation from its start to its report.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::coordination::Store;
use super::events::{Journal, News};
use super::failover::Terms;
use super::gates::{Gates, Opening};
use super::hands::{self, Hands, Outcome as TaskEnd, Prepared};
use super::record::Record;
use super::report::{aborted, completed, first_report, new_record, refused, summary};
use super::switchover::{Action, Answer, End, Event, Kind, Machine, Plan, Task, Ticket};
use super::{Outcome, Refusal, Report};
use crate::cluster::Epoch;
use crate::config::{ClusterConfig, EventKind, NodeConfig};
use crate::pool::{HoldOwner, Released};
use crate::relay::StopReason;

/// What an operation needs to know and to have.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    /// Settings of the cluster.
    pub config: Arc<ClusterConfig>,
    /// The pools.
    pub gates: Arc<dyn Gates>,
    /// Where the decision becomes durable.
    pub store: Arc<dyn Store>,
    /// Where its steps are told.
    pub journal: Journal,
    /// What is to be done.
    pub plan: Plan,
    /// The lead by record.
    pub from: NodeConfig,
    /// The target.
    pub to: Arc<NodeConfig>,
    /// Names on the nodes of the databases of this cluster.
    pub dbnames: Vec<String>,
    /// Of a failover.
    pub terms: Option<Terms>,
    /// When this process began to watch.
    pub process_began: Instant,
}

/// What an operation is told while it runs.
#[derive(Debug)]
pub(super) enum Message {
    /// Give up; the answer is whether it was still possible.
    Abort(oneshot::Sender<bool>),
    /// The lead is down.
    LeadLost(String),
    /// The target is down.
    TargetLost(String),
}

/// How an operation ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// What it did.
    pub report: Report,
    /// The record that holds, if it was written.
    pub record: Option<Record>,
    /// It was not even begun.
    pub refusal: Option<Refusal>,
    /// Somebody else's decision is in the store.
    pub adopt: bool,
}

type Running = Pin<Box<dyn Future<Output = TaskEnd> + Send>>;

struct Driver {
    operation: Operation,
    machine: Machine,
    origin: Instant,
    report: Report,
    progress: watch::Sender<Report>,
    current: Option<(Ticket, Running)>,
    nudge: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    hands: Option<Hands>,
    record: Option<Record>,
    written: bool,
    refusal: Option<Refusal>,
    adopt: bool,
}

/// Runs an operation to its end.
pub(super) async fn run(
    operation: Operation,
    mut messages: mpsc::Receiver<Message>,
    progress: watch::Sender<Report>,
) -> Ended {
    let origin = Instant::now();
    let mut changes = operation.gates.drain_changes(&operation.config.name);
    let (machine, actions) = Machine::start(operation.plan.clone(), origin.elapsed());
    let mut driver = Driver {
        report: first_report(&operation),
        operation,
        machine,
        origin,
        progress,
        current: None,
        nudge: None,
        hands: None,
        record: None,
        written: false,
        refusal: None,
        adopt: false,
    };
    driver.carry_out(actions);
    while let Some(wake) = driver.machine.wake() {
        let event = tokio::select! {
            biased;
            Some(message) = messages.recv() => driver.message(message),
            end = poll_current(&mut driver.current) => driver.task_ended(end),
            () = poll_nudge(&mut driver.nudge) => {
                driver.nudge = None;
                continue;
            }
            Ok(()) = changes.changed() => Event::DrainChanged,
            () = tokio::time::sleep_until(origin + wake) => Event::Tick,
        };
        let actions = driver.machine.step(event, origin.elapsed());
        driver.carry_out(actions);
        driver.show();
    }
    driver.ended()
}

async fn poll_current(current: &mut Option<(Ticket, Running)>) -> (Ticket, TaskEnd) {
    match current {
        Some((ticket, task)) => {
            let ticket = *ticket;
            let end = task.as_mut().await;
            *current = None;
            (ticket, end)
        }
        None => std::future::pending().await,
    }
}

async fn poll_nudge(nudge: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match nudge {
        Some(nudge) => nudge.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    fn message(&mut self, message: Message) -> Event {
        match message {
            Message::Abort(reply) => {
                // Nobody waiting for the answer any more changes nothing.
                let _ = reply.send(self.machine.may_abort());
                Event::Abort
            }
            Message::LeadLost(why) => Event::LeadLost(why),
            Message::TargetLost(why) => Event::TargetLost(why),
        }
    }

    fn task_ended(&mut self, (ticket, end): (Ticket, TaskEnd)) -> Event {
        let answer = match end {
            TaskEnd::Answer(answer) => answer,
            TaskEnd::Prepared(Prepared {
                hands,
                findings,
                warnings,
                loss,
            }) => {
                self.report.warnings = warnings;
                self.report.estimated_loss_bytes = loss;
                self.hands = Some(hands);
                Answer::Cleared(findings)
            }
            TaskEnd::Captured(captured) => {
                if let Some(hands) = &mut self.hands {
                    hands.captured = Some(captured);
                }
                Answer::Done
            }
            TaskEnd::Looked(began, answer) => {
                if let Some(hands) = &mut self.hands {
                    hands.quiesce_began = Some(began);
                }
                answer
            }
            TaskEnd::Refused(refused) => {
                let why = refused.why.clone();
                self.refusal = Some(self.refusal_of(&why, refused.hint));
                Answer::Failed(why)
            }
        };
        if answer == Answer::Done && self.machine.task() == Task::Persist {
            self.written = true;
        }
        Event::Answer(ticket, answer)
    }

    fn refusal_of(&self, why: &str, hint: Option<&str>) -> Refusal {
        let plan = &self.operation.plan;
        Refusal {
            sqlstate: "55000",
            message: format!(
                "{} of cluster \"{}\" to \"{}\" is refused",
                plan.kind.name(),
                self.operation.config.name,
                plan.to
            ),
            detail: Some(why.to_owned()),
            hint: hint.map(str::to_owned),
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let operation = self.operation.clone();
        let (gates, cluster) = (&operation.gates, &operation.config.name);
        let from = &operation.plan.from;
        for action in actions {
            match action {
                Action::Begin(ticket, task) => {
                    let running = self.begin(task);
                    self.current = Some((ticket, running));
                }
                Action::CancelBlockers => gates.cancel_blockers(cluster, from),
                Action::StopBlockers => {
                    gates.stop_blockers(cluster, from, StopReason::DrainTimeout);
                }
                // Before they go on, and are none any more.
                Action::NameBlockers => {
                    self.report.blockers = gates.drain_status(cluster, from).blockers;
                }
                Action::Nudge => self.nudge(),
                Action::ClosePrewarmed => gates.close_idle(cluster, &operation.plan.to),
                Action::Resume => self.resume(),
                Action::Adopt => self.adopt = true,
                Action::Warn(text) => {
                    self.tell(EventKind::OperationSlow, false, text.clone());
                    self.report.warnings.push(text);
                }
                Action::Report => {}
            }
        }
    }

    fn resume(&self) {
        let (gates, cluster) = (&self.operation.gates, &self.operation.config.name);
        match self.operation.plan.kind {
            Kind::Switchover => gates.resume(cluster, None),
            // The Director looks at the recorded lead again when this operation has ended.
            Kind::Failover => {}
        }
    }

    fn begin(&mut self, task: Task) -> Running {
        let operation = &self.operation;
        let (gates, cluster) = (&operation.gates, &operation.config.name);
        let ready = |answer| -> Running { Box::pin(std::future::ready(TaskEnd::Answer(answer))) };
        match (task, self.hands.clone()) {
            (Task::Preflight, _) => Box::pin(hands::preflight(operation.clone())),
            (Task::Hold, _) => {
                let owner = match operation.plan.kind {
                    Kind::Switchover => HoldOwner::Switchover,
                    Kind::Failover => HoldOwner::NoLead,
                };
                gates.hold(cluster, owner);
                ready(Answer::Done)
            }
            (Task::Stop, _) => {
                // Hanging up does not stop a statement; a lead that still answers can be told.
                gates.cancel_blockers(cluster, &operation.plan.from);
                gates.stop_sessions(cluster, &operation.plan.from, StopReason::Failover);
                ready(Answer::Done)
            }
            (Task::Drain, _) => ready(hands::drained(operation)),
            (Task::Prewarm, _) => {
                let warm = gates.prewarm(cluster, &operation.to);
                Box::pin(async move {
                    warm.await;
                    TaskEnd::Answer(Answer::Done)
                })
            }
            (Task::Persist, _) => {
                #[cfg(feature = "planted-bugs")]
                if super::planted::opens_early() {
                    self.open();
                }
                let record = self
                    .record
                    .get_or_insert_with(|| new_record(operation))
                    .clone();
                Box::pin(hands::persist(Arc::clone(&operation.store), record))
            }
            (Task::Open, _) => {
                let released = self.open();
                self.report.held = released.held;
                self.report.stopped += released.stopped;
                ready(Answer::Done)
            }
            (task, Some(hands)) => Box::pin(hands::work(operation.clone(), hands, task)),
            (_, None) => ready(Answer::Failed("preflight was not done".to_owned())),
        }
    }

    fn open(&self) -> Released {
        let operation = &self.operation;
        let reason = match operation.plan.kind {
            Kind::Switchover => StopReason::Switchover,
            Kind::Failover => StopReason::Failover,
        };
        let opening = Opening {
            lead: &operation.to,
            epoch: operation.plan.epoch,
            reason,
            per_ms: operation.config.release_per_ms,
        };
        operation.gates.open(&operation.config.name, opening)
    }

    /// One at a time: a node that is slow to answer is not asked more often.
    fn nudge(&mut self) {
        if self.nudge.is_none()
            && let Some(hands) = &self.hands
        {
            self.nudge = Some(Box::pin(hands::nudge(hands.clone())));
        }
    }

    fn show(&mut self) {
        let phases = self.machine.phases().iter();
        self.report.phases = phases.map(|(phase, took)| (phase.name(), *took)).collect();
        self.report.outcome = match self.machine.outcome() {
            None => Outcome::Running {
                phase: self.machine.phase().name(),
            },
            Some(End::Completed) => Outcome::Completed,
            Some(End::Aborted { phase, why }) => Outcome::Aborted {
                phase: phase.name(),
                why: why.clone(),
            },
        };
        let before = Epoch(self.operation.plan.epoch.0.saturating_sub(1));
        self.report.epoch = if self.written {
            self.operation.plan.epoch
        } else {
            before
        };
        let report = &self.report;
        self.progress.send_if_modified(|shown| {
            let modified = shown != report;
            if modified {
                shown.clone_from(report);
            }
            modified
        });
    }

    fn tell(&self, kind: EventKind, success: bool, detail: String) {
        self.operation.journal.tell(News {
            cluster: Some(self.operation.config.name.clone()),
            node: Some(self.operation.plan.to.clone()),
            kind,
            success,
            detail,
        });
    }

    fn ended(mut self) -> Ended {
        self.show();
        let took = self.origin.elapsed().as_millis();
        let kind = self.operation.plan.kind;
        let (news, success, detail) = match &self.report.outcome {
            Outcome::Aborted { why, .. } if self.refusal.is_some() => {
                (refused(kind), false, why.clone())
            }
            Outcome::Aborted { phase, why } => {
                let detail = format!("in {phase} after {took} ms: {why}");
                (aborted(kind), false, detail)
            }
            Outcome::Completed | Outcome::Running { .. } => {
                let detail = format!("{} in {took} ms", summary(&self.report));
                (completed(kind), true, detail)
            }
        };
        self.tell(news, success, detail);
        Ended {
            report: self.report,
            record: if self.written { self.record } else { None },
            refusal: self.refusal,
            adopt: self.adopt,
        }
    }
}
