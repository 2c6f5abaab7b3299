//! How clients are treated while no operation runs: served by the recorded lead, held, or refused.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::Outcome;
use super::super::gates::Opening;
use super::super::member::Member;
use super::super::verdict::{Stance, stance};
use super::Governor;
use crate::config::EventKind;
use crate::pool::HoldOwner;
use crate::relay::StopReason;

/// What we last told the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateState {
    /// Never opened, or not since everything was stopped: to serve is to open.
    Closed,
    /// Open at the recorded lead.
    Open,
    /// Held; it was open before, so that parked sessions may go on.
    Held,
    /// Clients are refused.
    Refusing,
}

impl Governor {
    /// The recorded lead is kept; clients are served by it, held, or refused.
    pub(super) fn take_stance(&mut self) {
        let lead = self.record.as_ref().and_then(|r| self.members.get(&r.node));
        let doubted = self.memory.doubt();
        // At the first time all must have been heard: one may remember a newer decision.
        let early = !self.memory.has_served
            && self.members.config.lead_note
            && self.members.nodes.iter().any(Member::is_unheard);
        let usable = doubted.is_none() && !early && lead.is_some_and(Member::is_usable_lead);
        if usable {
            self.unusable_since = None;
        } else if self.unusable_since.is_none() {
            self.unusable_since = Some(Instant::now());
        }
        let unusable_for = self.unusable_since.map(|since| since.elapsed());
        let named = lead.map(|m| (&m.config.name, doubted.unwrap_or(m.reason.as_str())));
        let wanted = match (
            stance(named, unusable_for, self.members.config.hold_timeout),
            doubted,
        ) {
            (Stance::Refuse(_), Some(why)) => Stance::Refuse(why.to_owned()),
            (Stance::Refuse(_), None) if lead.is_none() => Stance::Refuse(self.no_lead()),
            (stance, _) => stance,
        };
        self.apply(&wanted);
    }

    pub(super) fn no_lead(&self) -> String {
        match &self.record {
            Some(record) => format!(
                "the recorded lead \"{}\" is no node of cluster \"{}\" any more",
                record.node, self.members.config.name
            ),
            None => "no node could be chosen as lead yet".to_owned(),
        }
    }

    fn apply(&mut self, wanted: &Stance) {
        let cluster = self.members.config.name.clone();
        let gates = Arc::clone(&self.out.gates);
        let per_ms = self.members.config.release_per_ms;
        let next = match (wanted, self.gate) {
            (Stance::Serve, GateState::Open)
            | (Stance::Hold, GateState::Closed | GateState::Held)
            | (Stance::Refuse(_), GateState::Refusing) => return,
            (Stance::Serve, GateState::Held) => {
                gates.resume(&cluster, per_ms);
                GateState::Open
            }
            (Stance::Serve, GateState::Closed | GateState::Refusing) => {
                if !self.open_at_the_lead() {
                    return;
                }
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
        self.memory.has_served |= next == GateState::Open;
        let (kind, success, detail) = match wanted {
            Stance::Serve => (EventKind::ClientsServed, true, String::new()),
            Stance::Hold => (EventKind::ClientsHeld, false, self.why_not_served()),
            Stance::Refuse(why) => (EventKind::ClientsRefused, false, why.clone()),
        };
        self.tell(kind, self.lead_name().as_ref(), success, detail);
        self.gate = next;
    }

    /// How clients are treated now, and why if they are not served.
    pub(super) fn treatment(&self) -> (&'static str, String) {
        if let Some(running) = &self.running {
            let phase = running.progress.borrow().outcome.clone();
            let open = matches!(
                phase,
                Outcome::Running {
                    phase: "preflight" | "prewarm"
                }
            );
            if !open {
                return ("held", format!("{} in progress", running.view.kind));
            }
        }
        match self.gate {
            GateState::Open => ("served", String::new()),
            GateState::Closed | GateState::Held => ("held", self.why_not_served()),
            GateState::Refusing => ("refused", self.why_not_served()),
        }
    }

    fn why_not_served(&self) -> String {
        let lead = self.record.as_ref().and_then(|r| self.members.get(&r.node));
        match (self.memory.doubt(), lead) {
            (Some(why), _) => why.to_owned(),
            (None, None) => self.no_lead(),
            (None, Some(lead)) if lead.reason.is_empty() => {
                format!("lead \"{}\" is not proven up", lead.name())
            }
            (None, Some(lead)) => format!("lead \"{}\": {}", lead.name(), lead.reason),
        }
    }

    fn open_at_the_lead(&self) -> bool {
        let Some(record) = &self.record else {
            return false;
        };
        let Some(lead) = self.members.get(&record.node) else {
            return false;
        };
        let opening = Opening {
            lead: &Arc::new(lead.config.clone()),
            epoch: record.epoch,
            reason: StopReason::Failover,
            per_ms: self.members.config.release_per_ms,
        };
        self.out.gates.open(&self.members.config.name, opening);
        true
    }
}
