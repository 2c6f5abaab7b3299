//! A cluster's commands and operations: begin, abort, and take over what they decided.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::super::driver::{self, Ended, Message, Operation};
use super::super::failover::Accept;
use super::super::report::first_report;
use super::super::{
    Refusal, Report, SwitchoverRequest, dry_run, failover, refusals, requests, switchover,
};
use super::{Command, GateState, Governor, Reply, Running};
use crate::cluster::OperationView;
use crate::config::EventKind;
use crate::pool::HoldOwner;

impl Governor {
    // A reply that nobody waits for any more is dropped; the deed is done all the same.
    pub(super) async fn command(&mut self, command: Command) {
        match command {
            Command::Switchover(request, reply) => {
                match self.free().and_then(|()| self.switchover(&request)) {
                    Ok(operation) => self.start(operation, reply),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
            Command::Preflight(request, reply) => match self.switchover(&request) {
                Ok(operation) => {
                    self.asides.spawn(async move {
                        let _ = reply.send(Box::pin(dry_run::run(operation)).await);
                    });
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Command::Failover(target, accept_loss, reply) => {
                if let Some(result) = self.appoint(&target, accept_loss).await {
                    return self.answer(reply, result);
                }
                let accept = if accept_loss {
                    Accept::Anything
                } else {
                    Accept::Nothing
                };
                match self.free().and_then(|()| self.failover(&target, accept)) {
                    Ok(operation) => self.start(operation, reply),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
            Command::Abort(reply) => self.abort(reply),
            Command::Emptied(node, reply) => self.wait_until_empty(&node, reply),
            Command::HandedOver(node, limit, reply) => self.hand_over(&node, limit, reply),
            Command::Saw(fact) => self.saw(&fact),
            other => self.change_nodes(other).await,
        }
    }

    /// What changes the nodes themselves.
    async fn change_nodes(&mut self, command: Command) {
        match command {
            Command::SetWanted(node, wanted, reply) => {
                let result = self.set_wanted(&node, wanted).await;
                self.answer(reply, result);
            }
            Command::SetCandidate(node, candidate, reply) => {
                let result = self.set_candidate(&node, candidate).await;
                self.answer(reply, result);
            }
            Command::AddNode(node, added, reply) => {
                let result = self.add_node(&node, added).await;
                self.answer(reply, result);
            }
            Command::RemoveNode(node, reply) => {
                let result = self.remove_node(&node).await;
                self.answer(reply, result);
            }
            Command::BeginMaintenance(node, reply) => {
                let result = self.begin_maintenance(&node).await;
                self.answer(reply, result);
            }
            Command::EndMaintenance(node, asked, reply) => {
                let result = self.end_maintenance(&node, asked).await;
                self.answer(reply, result);
            }
            _ => {}
        }
    }

    fn answer<T>(&mut self, reply: Reply<T>, result: Result<T, Refusal>) {
        // Before the answer: who reads it and looks at SHOW NODES finds it there.
        self.publish();
        drop(reply.send(result));
    }

    pub(super) fn free(&self) -> Result<(), Refusal> {
        match &self.running {
            None => Ok(()),
            Some(running) => Err(refusals::busy(&self.members.config.name, &running.view)),
        }
    }

    fn switchover(&self, request: &SwitchoverRequest) -> Result<Operation, Refusal> {
        if let Some(why) = self.memory.doubt() {
            return Err(refusals::in_doubt(&self.members.config.name, why));
        }
        let parties = requests::parties(&self.members, self.record.as_ref(), &request.target)?;
        let plan = requests::switchover_plan(&parties, &self.members.config, request)?;
        Ok(self.operation(plan, &parties, None))
    }

    pub(super) fn operation(
        &self,
        plan: switchover::Plan,
        parties: &requests::Chosen<'_>,
        terms: Option<failover::Terms>,
    ) -> Operation {
        Operation {
            config: Arc::clone(&self.members.config),
            gates: Arc::clone(&self.out.gates),
            store: Arc::clone(&self.out.store),
            journal: self.out.journal.clone(),
            plan,
            from: parties.from.config.clone(),
            to: Arc::new(parties.to.config.clone()),
            dbnames: self.out.gates.dbnames(&self.members.config.name),
            terms,
            process_began: self.process_began,
        }
    }

    fn start(&mut self, operation: Operation, reply: Reply<Report>) {
        let running = self.begin(operation);
        self.running = Some(Running {
            reply: Some(reply),
            ..running
        });
    }

    /// Nobody waits for its report; the event tells.
    pub(super) fn start_automatic(&mut self, operation: Operation) {
        let running = self.begin(operation);
        self.running = Some(Running {
            automatic: true,
            ..running
        });
    }

    fn begin(&mut self, operation: Operation) -> Running {
        let report = first_report(&operation);
        let view = OperationView {
            kind: report.kind,
            phase: "preflight",
            target: report.to.clone(),
            since: report.started,
        };
        let mut text = format!("{} to \"{}\" begins", report.kind, report.to);
        if let Some(lead) = self.members.get(&operation.plan.from)
            && !lead.is_usable_lead()
        {
            text.extend(["; lead \"", lead.name().as_str(), "\": ", &lead.reason]);
        }
        self.tell(EventKind::OperationStarted, Some(&report.to), true, text);
        let (progress_sender, progress) = watch::channel(report);
        let (messages, received) = mpsc::channel(16);
        self.operations
            .spawn(Box::pin(driver::run(operation, received, progress_sender)));
        Running {
            view,
            messages,
            progress,
            reply: None,
            automatic: false,
        }
    }

    fn abort(&mut self, reply: Reply<()>) {
        let cluster = self.members.config.name.clone();
        let Some(running) = &self.running else {
            drop(reply.send(Err(refusals::nothing_to_abort(&cluster))));
            return;
        };
        let (answer, possible) = oneshot::channel();
        let view = running.view.clone();
        if running.messages.try_send(Message::Abort(answer)).is_err() {
            drop(reply.send(Err(refusals::too_late(&cluster, &view))));
            return;
        }
        self.asides.spawn(async move {
            let result = match possible.await {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(refusals::too_late(&cluster, &view)),
            };
            let _ = reply.send(result);
        });
    }

    pub(super) async fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let running = self.running.take();
        let automatic = running.as_ref().is_some_and(|running| running.automatic);
        let mut reply = running.and_then(|running| running.reply);
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // The record says what holds; everything else is made new from it.
                tracing::error!(%error, "an operation ended unexpectedly");
                if automatic {
                    self.succession.ended(false, None);
                }
                self.out
                    .gates
                    .hold(&self.members.config.name, HoldOwner::NoLead);
                self.gate = GateState::Closed;
                self.adopt().await;
                let refusal = refusals::broken(&self.members.config.name);
                if let Some(reply) = reply.take() {
                    drop(reply.send(Err(refusal)));
                }
                return;
            }
        };
        let failover = ended.report.kind == "failover";
        if automatic {
            let pause = self.members.config.failover_min_interval;
            self.succession.ended(ended.record.is_some(), pause);
        }
        if let Some(record) = ended.record.clone() {
            self.members.take_writes(&record.node);
            self.members.forget_trails();
            self.decided_at = Some(Instant::now());
            self.record = Some(record);
            self.gate = GateState::Open;
            self.memory.has_served = true;
            self.judge_anew();
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
}
