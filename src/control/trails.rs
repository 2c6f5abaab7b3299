//! How far each node was behind while the lead could be seen, and what that is worth once it is lost.

use std::time::Duration;

use super::failover::LastSeen;
use super::health::Now;
use super::links::links_between;
use super::member::{Member, Trail};
use super::members::{Members, follows};
use super::succession::Contender;
use super::verdict::Follows;
use crate::cluster::Observed;
use crate::config::NodeName;

/// What was seen of a node is of no use for a failover when the lead was seen so much later.
const TRAIL_AGE_LEAST: Duration = Duration::from_secs(2);
impl Members {
    /// Remembers how far behind each node was while the lead could be seen.
    pub(super) fn note_trails(&mut self, lead: Option<&NodeName>, now: Now) {
        let Some(lead) = lead.and_then(|name| self.get(name)) else {
            return;
        };
        let fresh = lead.is_usable_lead() && lead.facts_age.is_some_and(|f| f.heard_at == now);
        let trails: Vec<Option<Trail>> = self
            .nodes
            .iter()
            .map(|m| match follows(lead, m) {
                Follows::Behind(bytes) if fresh => Some(Trail {
                    bytes,
                    confirmed: links_between(lead, m).first().and_then(|l| l.replay_lsn),
                    at: now,
                }),
                _ => None,
            })
            .collect();
        for (member, trail) in self.nodes.iter_mut().zip(trails) {
            if member.health.observed() != Observed::Up {
                // It may have lost something, or missed something since.
                member.trail = None;
            } else if trail.is_some() {
                member.trail = trail;
            }
        }
    }

    /// What was seen of a node while the lead was last alive; what is older tells nothing.
    fn trail(&self, member: &Member, lead: &Member, alive: Option<Now>) -> Option<Trail> {
        let trail = member.trail?;
        let heard = lead.facts_age?.heard_at;
        let timely = heard.saturating_sub(trail.at) <= self.patience();
        (timely && self.saw_its_end(lead, alive)).then_some(trail)
    }

    fn patience(&self) -> Duration {
        (self.config.monitor_interval * 2).max(TRAIL_AGE_LEAST)
    }

    /// Was the lead asked until just before it was lost? It may have gone on for long after the last
    /// answer that the monitor got. `alive`: when sessions on it were last seen to be answered.
    fn saw_its_end(&self, lead: &Member, alive: Option<Now>) -> bool {
        let Some(facts) = lead.facts_age else {
            return false;
        };
        let last_sign = lead.health.away_since().max(alive);
        last_sign.is_none_or(|sign| sign.saturating_sub(facts.heard_at) <= self.patience())
    }

    /// Are the standbys known as they are since the lead was lost? Which of them has most is a matter
    /// of milliseconds.
    pub(super) fn standbys_are_fresh(&self, lead: &NodeName) -> bool {
        let lost = self.get(lead).and_then(|lead| lead.health.away_since());
        let fresh = |m: &Member| {
            let standby = m.identity().in_recovery == Some(true);
            let asked = m.facts_age.map(|facts| facts.asked_at);
            !standby || m.health.observed() != Observed::Up || asked >= lost
        };
        self.nodes.iter().all(fresh)
    }

    /// Whoever might take over from the lead. `alive`: when sessions on it were last seen to be
    /// answered.
    pub(super) fn contenders(
        &self,
        lead: &NodeName,
        alive: Option<Now>,
        now: Now,
    ) -> Vec<Contender> {
        let Some(lead) = self.get(lead) else {
            return Vec::new();
        };
        let others = self.nodes.iter().filter(|m| m.name() != lead.name());
        let contender = |m: &Member| Contender {
            name: m.config.name.clone(),
            priority: m.config.priority,
            candidate: m.candidate(),
            wanted: m.kept.wanted,
            observed: m.health.observed(),
            fence: m.fence.clone(),
            flapping: m.health.is_flapping(self.rules(), now),
            trail: self.trail(m, lead, alive).map(|trail| trail.bytes),
            follows_system: m.identity().found.is_some()
                && m.identity().found == lead.kept.identity
                && m.facts.as_ref().and_then(|f| f.lsn) >= lead.facts.as_ref().and_then(|f| f.lsn),
            received: m
                .facts
                .as_ref()
                .filter(|f| f.in_recovery)
                .and_then(|f| Some(f.received?.0)),
            in_recovery: m.facts.as_ref().is_some_and(|f| f.in_recovery),
        };
        others.map(contender).collect()
    }

    /// A new lead: what was seen under the old one tells nothing of what follows.
    pub(super) fn forget_trails(&mut self) {
        for member in &mut self.nodes {
            member.trail = None;
        }
    }

    /// What is known about the lead and the link to a target, for a failover.
    pub(super) fn last_seen(
        &self,
        lead: &NodeName,
        target: &NodeName,
        alive: Option<Now>,
    ) -> LastSeen {
        let (Some(lead), Some(target)) = (self.get(lead), self.get(target)) else {
            return LastSeen::default();
        };
        // One that was away when the lead was lost may lack what was written meanwhile, and so may any
        // if the lead went on after it was last heard; whatever the last figures say.
        let trail = self.trail(target, lead, alive);
        let known = trail.is_some();
        let link = links_between(lead, target).into_iter().next();
        let replay = link.as_ref().and_then(|l| l.replay_lsn);
        let confirmed = replay.or_else(|| trail.as_ref().and_then(|t| t.confirmed));
        LastSeen {
            lead_lsn: lead.facts.as_ref().and_then(|f| f.lsn).filter(|_| known),
            confirmed: confirmed.filter(|_| known),
            slot: link.map(|l| l.slot).filter(|slot| !slot.is_empty()),
            origin: lead
                .facts
                .as_ref()
                .and_then(|f| f.bdr.as_ref())
                .map(|node| node.name.clone()),
        }
    }
}
