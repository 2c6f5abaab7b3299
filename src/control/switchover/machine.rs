//! The transitions.

use std::time::Duration;

use super::{
    Action, Answer, End, Event, Findings, Kind, Now, Phase, Plan, Promotion, Task, Ticket,
};

/// One operation from its start to its report.
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the past; the state is `task`"
)]
pub struct Machine {
    pub(super) plan: Plan,
    pub(super) task: Task,
    /// The phase's beginning.
    pub(super) since: Now,
    /// The phase must be over by then.
    pub(super) deadline: Now,
    /// The try that is out.
    pub(super) out: Option<Ticket>,
    /// When to ask again, if no try is out.
    again: Now,
    nudge_at: Option<Now>,
    last_ticket: u64,
    pub(super) findings: Findings,
    /// Blockers were cancelled or terminated already.
    pub(super) forced: bool,
    held: bool,
    prewarmed: bool,
    /// `pg_promote` may have been sent, or the record may have been written.
    pub(super) committed: bool,
    /// `pg_promote` was sent, or a try to write the record ended without a certain answer.
    pub(super) uncertain: bool,
    /// The last reason to wait.
    pub(super) waiting_for: String,
    phases: Vec<(Phase, Duration)>,
    end: Option<End>,
}

impl Machine {
    /// Begins an operation.
    pub fn start(plan: Plan, now: Now) -> (Self, Vec<Action>) {
        let mut machine = Self {
            deadline: now + plan.limits.preflight,
            plan,
            task: Task::Preflight,
            since: now,
            out: None,
            again: now,
            nudge_at: None,
            last_ticket: 0,
            findings: Findings::default(),
            forced: false,
            held: false,
            prewarmed: false,
            committed: false,
            uncertain: false,
            waiting_for: String::new(),
            phases: Vec::new(),
            end: None,
        };
        let actions = machine.step(Event::Tick, now);
        (machine, actions)
    }

    /// Takes one event. `now` never goes back.
    #[must_use = "actions must be carried out"]
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.end.is_some() {
            return actions;
        }
        match event {
            Event::Tick => {}
            Event::DrainChanged => {
                if self.task == Task::Drain {
                    self.again = now;
                }
            }
            Event::Answer(ticket, answer) => {
                if self.out == Some(ticket) {
                    self.out = None;
                    self.answered(answer, now, &mut actions);
                }
            }
            Event::LeadLost(why) => {
                if self.needs_lead() {
                    let why = format!("lead \"{}\" was lost: {why}", self.plan.from);
                    self.abort(why, now, &mut actions);
                }
            }
            Event::TargetLost(why) => {
                if self.may_abort() {
                    let why = format!("target \"{}\" was lost: {why}", self.plan.to);
                    self.abort(why, now, &mut actions);
                }
            }
            Event::Abort => {
                if self.may_abort() {
                    self.abort("aborted by an operator".to_owned(), now, &mut actions);
                }
            }
        }
        self.due(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due at the latest; `None` only when all is over.
    pub fn wake(&self) -> Option<Now> {
        if self.end.is_some() {
            return None;
        }
        let mut wake = self.deadline;
        if self.out.is_none() {
            wake = wake.min(self.again);
        }
        Some(self.nudge_at.map_or(wake, |at| wake.min(at)))
    }

    /// Is giving up still possible? Not from commit on, and not after `pg_promote` was sent.
    pub fn may_abort(&self) -> bool {
        self.end.is_none() && !self.committed
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        if self.end.is_some() {
            Phase::Done
        } else {
            self.task.phase()
        }
    }

    /// What it waits for just now.
    pub fn task(&self) -> Task {
        self.task
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Finished phases and how long they took.
    pub fn phases(&self) -> &[(Phase, Duration)] {
        &self.phases
    }

    /// What it was started with.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it waits for just now, in words; empty if nothing was in the way so far.
    pub fn waiting_for(&self) -> &str {
        &self.waiting_for
    }
}

impl Machine {
    fn needs_lead(&self) -> bool {
        // Whoever promotes the target for us shuts the old lead down first.
        let shut_down_by_plan = self.task.phase() == Phase::Promote;
        self.plan.kind == Kind::Switchover && self.may_abort() && !shut_down_by_plan
    }

    fn answered(&mut self, answer: Answer, now: Now, actions: &mut Vec<Action>) {
        match answer {
            Answer::Cleared(findings) => {
                self.findings = findings;
                self.advance(now);
            }
            Answer::Done => self.advance(now),
            Answer::NotYet(why) => self.not_yet(why, now),
            Answer::Failed(why) => self.failed(why, now, actions),
            Answer::Superseded(why) => {
                self.finish(why, now);
                actions.push(Action::Adopt);
                actions.push(Action::Report);
            }
        }
    }

    fn not_yet(&mut self, why: String, now: Now) {
        self.waiting_for = why;
        let limits = &self.plan.limits;
        self.again = now
            + match self.task {
                Task::Gate | Task::Applied | Task::Clock => limits.gate_poll,
                Task::Persist => limits.retry,
                _ => limits.poll,
            };
        match self.task {
            Task::Prewarm => self.advance(now),
            Task::Persist => self.uncertain = true,
            // Perhaps it was sent: from here on only forward.
            Task::Promote => {
                self.uncertain = true;
                self.enter(Task::Promotion, now);
            }
            _ => {}
        }
    }

    fn failed(&mut self, why: String, now: Now, actions: &mut Vec<Action>) {
        let failover = self.plan.kind == Kind::Failover;
        match self.task {
            Task::Prewarm => self.advance(now),
            // The old lead stopped answering in between: it is a failover, that was to be expected.
            Task::Backends if failover => self.advance(now),
            // It was sent before: perhaps refused because it is promoted by now.
            Task::Promote if self.uncertain => self.enter(Task::Promotion, now),
            Task::Promote => self.withdraw(format!("promotion refused: {why}"), now, actions),
            Task::Persist if self.may_withdraw() => {
                self.withdraw(
                    format!("the decision was not recorded: {why}"),
                    now,
                    actions,
                );
            }
            _ if self.committed => self.not_yet(why, now),
            _ => self.abort(why, now, actions),
        }
    }

    /// Certainly nothing was written, and the target was not promoted for it.
    fn may_withdraw(&self) -> bool {
        !self.uncertain && self.findings.promote == Promotion::NotNeeded
    }

    fn withdraw(&mut self, why: String, now: Now, actions: &mut Vec<Action>) {
        self.committed = false;
        self.abort(why, now, actions);
    }

    pub(super) fn advance(&mut self, now: Now) {
        let next = self.next();
        match self.task {
            Task::Hold => self.held = true,
            Task::Promote => self.uncertain = true,
            Task::Open => {
                self.close_phase(now);
                self.end = Some(End::Completed);
                return;
            }
            _ => {}
        }
        self.enter(next, now);
    }

    fn next(&self) -> Task {
        let found = &self.findings;
        let failover = self.plan.kind == Kind::Failover;
        match self.task {
            Task::Preflight if failover => Task::Hold,
            // What a standby says of itself at login (`in_hot_standby`) is untrue once it is
            // promoted, and drivers believe it.
            Task::Preflight if found.promote != Promotion::NotNeeded => Task::Hold,
            Task::Preflight => Task::Prewarm,
            Task::Prewarm => Task::Hold,
            Task::Hold if failover => Task::Stop,
            Task::Hold | Task::Stop => Task::Drain,
            Task::Drain if failover && !found.lead_answers => Task::Applied,
            Task::Drain => Task::Backends,
            Task::Backends if failover => Task::Applied,
            Task::Backends => Task::Capture,
            Task::Capture => Task::Gate,
            Task::Gate | Task::Applied if found.durable => Task::Durable,
            Task::Gate | Task::Applied | Task::Durable if found.clock && !failover => Task::Clock,
            Task::Gate | Task::Applied | Task::Durable | Task::Clock => match found.promote {
                Promotion::NotNeeded => Task::Persist,
                Promotion::Awaited => Task::Promotion,
                Promotion::Sent => Task::Promote,
            },
            Task::Promote => Task::Promotion,
            Task::Promotion => Task::Persist,
            Task::Persist | Task::Open => Task::Open,
        }
    }

    pub(super) fn enter(&mut self, task: Task, now: Now) {
        if task.phase() != self.task.phase() {
            self.close_phase(now);
            self.since = now;
            self.deadline = now + self.limit(task.phase());
        }
        self.prewarmed |= task == Task::Prewarm;
        self.committed |= matches!(task, Task::Persist | Task::Promote);
        self.nudge_at = (task == Task::Gate && self.findings.nudge).then_some(now);
        self.task = task;
        self.again = now;
        self.waiting_for.clear();
    }

    fn limit(&self, phase: Phase) -> Duration {
        let limits = &self.plan.limits;
        match phase {
            Phase::Preflight => limits.preflight,
            Phase::Prewarm => limits.prewarm,
            Phase::Drain => limits.drain,
            Phase::Quiesce => limits.quiesce,
            Phase::CatchUp => limits.catchup,
            Phase::Promote => limits.promote,
            Phase::Hold | Phase::Commit | Phase::Release | Phase::Done => limits.retry,
        }
    }

    fn close_phase(&mut self, now: Now) {
        let took = now.saturating_sub(self.since);
        self.phases.push((self.task.phase(), took));
    }

    fn due(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.end.is_none() && now >= self.deadline {
            self.expired(now, actions);
        }
        match &self.end {
            None => {}
            Some(End::Completed) => {
                actions.push(Action::Report);
                return;
            }
            Some(End::Aborted { .. }) => return,
        }
        if self.nudge_at.is_some_and(|at| now >= at) {
            actions.push(Action::Nudge);
            self.nudge_at = Some(now + self.plan.limits.nudge);
        }
        if self.out.is_none() && now >= self.again {
            self.last_ticket += 1;
            let ticket = Ticket(self.last_ticket);
            self.out = Some(ticket);
            actions.push(Action::Begin(ticket, self.task));
        }
    }

    pub(super) fn abort(&mut self, why: String, now: Now, actions: &mut Vec<Action>) {
        if self.held || self.task == Task::Hold {
            actions.push(Action::Resume);
        }
        if self.prewarmed {
            actions.push(Action::ClosePrewarmed);
        }
        self.finish(why, now);
        actions.push(Action::Report);
    }

    fn finish(&mut self, why: String, now: Now) {
        let phase = self.task.phase();
        self.close_phase(now);
        self.end = Some(End::Aborted { phase, why });
    }
}
