//! What a deadline means in each phase.

use super::machine::Machine;
use super::{Action, Kind, Now, Task};
use crate::config::OnDrainTimeout;

impl Machine {
    pub(super) fn expired(&mut self, now: Now, actions: &mut Vec<Action>) {
        let failover = self.plan.kind == Kind::Failover;
        match self.task {
            Task::Prewarm => {
                self.out = None;
                self.advance(now);
            }
            Task::Drain | Task::Stop => self.drain_expired(now, actions),
            Task::Backends if failover => {
                actions.push(Action::Warn(format!(
                    "backends on \"{}\" were still running: {}",
                    self.plan.from, self.waiting_for
                )));
                self.out = None;
                self.advance(now);
            }
            // The operator has said that loss is accepted: then apply that stands still is one.
            Task::Applied if self.findings.loss_accepted => {
                actions.push(Action::Warn(format!(
                    "\"{}\" had not applied all that it received: {}",
                    self.plan.to, self.waiting_for
                )));
                self.out = None;
                self.advance(now);
            }
            Task::Open | Task::Hold => self.deadline = now + self.plan.limits.retry,
            _ if self.committed => self.overdue(now, actions),
            _ => {
                let why = self.timeout_text("");
                self.abort(why, now, actions);
            }
        }
    }

    /// Only forward: say that it takes long, and go on.
    fn overdue(&mut self, now: Now, actions: &mut Vec<Action>) {
        let waited = now.saturating_sub(self.since);
        actions.push(Action::Warn(self.timeout_text(", clients stay held")));
        // Twice as long each time, so that a night of it does not fill the log.
        self.deadline = now + waited.max(self.plan.limits.retry);
        match self.task {
            Task::Promote => {
                self.out = None;
                self.uncertain = true;
                self.enter(Task::Promotion, now);
            }
            // A target that crashed forgets that it was told to promote.
            Task::Promotion => {
                self.out = None;
                self.enter(Task::Promote, now);
            }
            _ => {}
        }
    }

    fn drain_expired(&mut self, now: Now, actions: &mut Vec<Action>) {
        let force = match self.plan.on_drain_timeout {
            _ if self.forced || self.plan.kind == Kind::Failover => false,
            OnDrainTimeout::Abort => false,
            // A backend notices a closed socket only when it writes; the cancel ends its statement.
            OnDrainTimeout::Cancel => {
                actions.push(Action::CancelBlockers);
                true
            }
            OnDrainTimeout::Terminate => {
                actions.push(Action::CancelBlockers);
                actions.push(Action::StopBlockers);
                true
            }
        };
        if force {
            self.forced = true;
            self.deadline = now + self.plan.limits.force;
            return;
        }
        actions.push(Action::NameBlockers);
        let why = self.timeout_text("");
        self.abort(why, now, actions);
    }

    fn timeout_text(&self, tail: &str) -> String {
        let phase = self.task.phase().name();
        if self.waiting_for.is_empty() {
            format!("{phase} timed out{tail}")
        } else {
            format!("{phase} timed out: {}{tail}", self.waiting_for)
        }
    }
}
