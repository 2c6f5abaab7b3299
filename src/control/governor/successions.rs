//! Automatic failover: begun when the lead is lost and somebody may take over, told when nobody may.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::driver::Operation;
use super::super::failover::Accept;
use super::super::health::Now;
use super::super::member::Member;
use super::super::requests;
use super::super::succession::{LeadState, Policy, Succession, succession};
use super::Governor;
use crate::cluster::Observed;
use crate::config::{EventKind, FailoverPolicy, NodeName, Promote};

/// After a failover that failed the next try waits so long, then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// But never longer.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Sessions that were answered so lately still get answers.
const PULSE_LEAST: Duration = Duration::from_millis(500);

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Successions {
    /// Why nobody may take over, as it was told.
    barred: Option<String>,
    /// Answers to sessions on the lead, by server, while it is in doubt.
    pulse: Option<BTreeMap<u64, u64>>,
    /// How often they were looked at.
    looks: u32,
    /// When one of them was last seen to rise.
    answered_at: Option<Now>,
    /// No automatic failover before.
    not_before: Option<Instant>,
    failures: u32,
}

impl Successions {
    /// An automatic failover has ended.
    pub(super) fn ended(&mut self, completed: bool, min_interval: Option<Duration>) {
        let pause = if completed {
            self.failures = 0;
            self.barred = None;
            min_interval.unwrap_or_default()
        } else {
            let doubled = FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(6));
            self.failures = self.failures.saturating_add(1);
            doubled.min(LONGEST_PAUSE)
        };
        self.not_before = Some(Instant::now() + pause);
    }
}

impl Governor {
    /// Are sessions on the lead still answered while its probes fail?
    pub(super) fn feel_the_pulse(&mut self, observed: &NodeName) {
        let lead = self.lead_name();
        let member = lead.as_ref().and_then(|lead| self.members.get(lead));
        let Some(member) = member.filter(|m| m.name() == observed) else {
            return;
        };
        let doubtful = member.health.is_in_doubt() || member.health.observed() == Observed::Down;
        if !doubtful {
            self.succession.pulse = None;
            self.succession.looks = 0;
            self.succession.answered_at = None;
            return;
        }
        let cluster = &self.members.config.name;
        let now = self.out.gates.pulse(cluster, observed);
        let before = self.succession.pulse.replace(now.clone());
        let rose = |(server, bytes): (&u64, &u64)| {
            let earlier = before.as_ref().and_then(|before| before.get(server));
            earlier.is_some_and(|earlier| bytes > earlier)
        };
        if now.iter().any(rose) {
            self.succession.answered_at = Some(self.now());
        }
        self.succession.looks = self.succession.looks.saturating_add(1);
    }

    /// Begins a failover if the lead is lost and somebody may take over.
    pub(super) fn succeed(&mut self) {
        let (Some(lead), None) = (self.lead_name(), self.memory.doubt()) else {
            return;
        };
        let now = self.now();
        let Some(member) = self.members.get(&lead) else {
            return;
        };
        let config = &self.members.config;
        let policy = Policy {
            automatic: config.failover == FailoverPolicy::Auto,
            confirm: config.failover_confirm.unwrap_or_default(),
            lag_max: config.failover_lag_max_bytes,
            promotes: config.promote == Promote::PgPromote,
        };
        let state = self.lead_state(member);
        if let LeadState::Down(waited) = state
            && self.is_too_early(&lead, waited)
        {
            return;
        }
        let alive = self.succession.answered_at;
        let contenders = self.members.contenders(&lead, alive, now);
        match succession(state, &contenders, policy) {
            Succession::Keep => self.succession.barred = None,
            Succession::Barred(why) => self.tell_barred(&lead, why),
            Succession::FailOver(target) => match self.pause_left() {
                None => self.begin_automatic(&target, state),
                Some(left) => {
                    let why = format!("the next try is in {} s", left.as_secs() + 1);
                    // Told once a pause, not each second of it.
                    if self.succession.barred.is_none() {
                        self.tell_barred(&lead, why);
                    }
                }
            },
        }
    }

    /// Which standby has most is known only when each was asked after the lead was lost, and whether
    /// sessions are answered only at the second look.
    fn is_too_early(&self, lead: &NodeName, waited: Duration) -> bool {
        if self.succession.looks < 2
            && !self
                .succession
                .pulse
                .as_ref()
                .is_none_or(BTreeMap::is_empty)
        {
            return true;
        }
        let patience = self.members.config.monitor_timeout * 2;
        if waited > patience || self.members.standbys_are_fresh(lead) {
            return false;
        }
        for member in &self.members.nodes {
            member.kick.ring();
        }
        true
    }

    fn lead_state(&self, lead: &Member) -> LeadState {
        match lead.health.observed() {
            _ if lead.fence.is_some() => LeadState::Other,
            Observed::Down if self.is_answering_sessions() => LeadState::AnswersSessions,
            Observed::Down => LeadState::Down(lead.health.down_for(self.now()).unwrap_or_default()),
            Observed::Up if lead.facts.as_ref().is_some_and(|f| f.in_recovery) => {
                LeadState::Demoted
            }
            _ if lead.is_usable_lead() => LeadState::Usable,
            _ => LeadState::Other,
        }
    }

    fn is_answering_sessions(&self) -> bool {
        let patience = self.members.config.monitor_timeout.max(PULSE_LEAST);
        let at = self.succession.answered_at;
        at.is_some_and(|at| self.now().saturating_sub(at) <= patience)
    }

    fn pause_left(&self) -> Option<Duration> {
        let left = self
            .succession
            .not_before?
            .saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn tell_barred(&mut self, lead: &NodeName, why: String) {
        if self.succession.barred.as_ref() != Some(&why) {
            self.tell(EventKind::FailoverBarred, Some(lead), false, why.clone());
            self.succession.barred = Some(why);
        }
    }

    fn begin_automatic(&mut self, target: &NodeName, state: LeadState) {
        let accept = match state {
            LeadState::Demoted => Accept::Anything,
            _ => Accept::UpTo(self.members.config.failover_lag_max_bytes),
        };
        match self.failover(target, accept) {
            Ok(operation) => self.start_automatic(operation),
            Err(refusal) => {
                let lead = self.lead_name().unwrap_or_else(|| target.clone());
                self.tell_barred(&lead, refusal.to_string());
            }
        }
    }

    pub(super) fn failover(
        &self,
        target: &NodeName,
        accept: Accept,
    ) -> Result<Operation, super::Refusal> {
        let parties = requests::parties(&self.members, self.record.as_ref(), target)?;
        let plan = requests::failover_plan(&parties, &self.members.config);
        let alive = self.succession.answered_at;
        let terms = requests::terms(&parties, &self.members, accept, alive);
        Ok(self.operation(plan, &parties, Some(terms)))
    }
}
