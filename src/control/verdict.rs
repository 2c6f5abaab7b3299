//! What the observations mean: a node's state, who the first lead is, and whether the recorded
//! lead may be served. Pure.

use std::time::Duration;

use crate::cluster::{Observed, Wanted};
use crate::config::{Candidate, NodeName};

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// Logged in and answered.
    Answers,
    /// Answers that it is not ready (57P03).
    Starting(String),
    /// Did not answer.
    Fails(String),
}

/// Streaks of probes of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Health {
    observed: Observed,
    good: u32,
    bad: u32,
    reason: String,
}

impl Health {
    /// Takes one probe in; `fall` and `rise` as configured. True if the state changed.
    pub(super) fn note(&mut self, seen: Seen, fall: u32, rise: u32) -> bool {
        let before = self.observed;
        match seen {
            Seen::Answers => {
                self.good = self.good.saturating_add(1);
                self.bad = 0;
                if self.good >= rise {
                    self.observed = Observed::Up;
                    self.reason.clear();
                }
            }
            Seen::Starting(why) => {
                self.fail(why);
                // It says so itself: that is not a doubt.
                self.observed = Observed::Recovering;
            }
            Seen::Fails(why) => {
                self.fail(why);
                if self.bad >= fall {
                    self.observed = Observed::Down;
                }
            }
        }
        self.observed != before
    }

    /// The state by probes alone.
    pub(super) fn observed(&self) -> Observed {
        self.observed
    }

    fn fail(&mut self, why: String) {
        self.good = 0;
        self.bad = self.bad.saturating_add(1);
        self.reason = why;
    }
}

/// The link from the lead to a node, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// The lead was not asked, or is not up.
    Unknown,
    /// The lead has no working link to it.
    No,
    /// Streaming, this many bytes behind.
    Behind(u64),
}

/// A node that is not lead is up only when it also follows the lead, if that can be seen.
pub(super) fn follower(health: &Health, follows: Follows, lag_max: u64) -> (Observed, String) {
    let plain = (health.observed, health.reason.clone());
    if health.observed != Observed::Up {
        return plain;
    }
    match follows {
        Follows::No => {
            let why = "does not replicate from the lead".to_owned();
            (Observed::Recovering, why)
        }
        Follows::Behind(bytes) if bytes > lag_max => {
            let why = format!("{bytes} bytes behind the lead");
            (Observed::Recovering, why)
        }
        Follows::Unknown | Follows::Behind(_) => plain,
    }
}

/// A node as far as the choice of the first lead needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nominee {
    /// Its name.
    pub name: NodeName,
    /// Preference.
    pub priority: i32,
    /// May it?
    pub candidate: Candidate,
    /// The operator's word.
    pub wanted: Wanted,
    /// By probes.
    pub observed: Observed,
    /// Takes no writes (a physical standby, or read-only).
    pub read_only: bool,
}

/// The first lead of a cluster that has no record: the candidate of highest priority that is up
/// and takes writes; of equals the first in the file. `None` while one that would be preferred has
/// not been proven either way.
pub(super) fn first_lead(nominees: &[Nominee]) -> Option<NodeName> {
    let mut order: Vec<&Nominee> = nominees
        .iter()
        .filter(|n| n.candidate == Candidate::Auto && n.wanted == Wanted::Ready)
        .collect();
    order.sort_by_key(|n| std::cmp::Reverse(n.priority));
    for nominee in order {
        match nominee.observed {
            Observed::Up if !nominee.read_only => return Some(nominee.name.clone()),
            Observed::Unknown => return None,
            Observed::Up | Observed::Down | Observed::Recovering => {}
        }
    }
    None
}

/// How clients of a cluster are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stance {
    /// The gate is open at the recorded lead.
    Serve,
    /// They wait.
    Hold,
    /// They are told to try elsewhere (57P03).
    Refuse(String),
}

/// How long clients wait for a lead before they are refused.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The recorded lead is kept whatever happens to it; what changes is how clients are treated.
/// `unusable_for`: how long it has not been usable, `None` if it is.
pub(super) fn stance(lead: Option<(&NodeName, &str)>, unusable_for: Option<Duration>) -> Stance {
    match (lead, unusable_for) {
        (Some(_), None) => Stance::Serve,
        (_, Some(waited)) if waited < PATIENCE => Stance::Hold,
        (None, _) => Stance::Refuse("no node could be chosen as lead yet".to_owned()),
        (Some((name, "")), _) => Stance::Refuse(format!("lead \"{name}\" is not available")),
        (Some((name, why)), _) => {
            Stance::Refuse(format!("lead \"{name}\" is not available: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails() -> Seen {
        Seen::Fails("refused".to_owned())
    }

    #[test]
    fn a_node_falls_and_rises_by_streaks() {
        let mut health = Health::default();
        assert!(!health.note(Seen::Answers, 3, 2));
        assert_eq!(health.observed(), Observed::Unknown);
        assert!(health.note(Seen::Answers, 3, 2));
        // Two failures and an answer in between are not a fall of three.
        for seen in [fails(), fails(), Seen::Answers, fails(), fails()] {
            health.note(seen, 3, 2);
            assert_eq!(health.observed(), Observed::Up);
        }
        assert!(health.note(fails(), 3, 2));
        assert_eq!(
            (health.observed(), health.reason.as_str()),
            (Observed::Down, "refused")
        );
        health.note(Seen::Answers, 3, 2);
        assert_eq!(health.observed(), Observed::Down);
        health.note(Seen::Answers, 3, 2);
        assert_eq!(
            (health.observed(), health.reason.as_str()),
            (Observed::Up, "")
        );
        assert!(health.note(Seen::Starting("starting up".to_owned()), 3, 2));
        assert_eq!(health.observed(), Observed::Recovering);
    }

    #[test]
    fn a_follower_is_up_only_when_it_follows() {
        let mut health = Health::default();
        health.note(Seen::Answers, 1, 1);
        let state = |follows| follower(&health, follows, 100).0;
        assert_eq!(state(Follows::Unknown), Observed::Up);
        assert_eq!(state(Follows::No), Observed::Recovering);
        assert_eq!(state(Follows::Behind(100)), Observed::Up);
        assert_eq!(state(Follows::Behind(101)), Observed::Recovering);
    }

    #[test]
    fn the_first_lead_is_the_preferred_one_that_is_proven() {
        let node = |name: &str, priority, observed| Nominee {
            name: NodeName::new(name),
            priority,
            candidate: Candidate::Auto,
            wanted: Wanted::Ready,
            observed,
            read_only: false,
        };
        let (up, down, unknown) = (Observed::Up, Observed::Down, Observed::Unknown);
        let choose = |nodes: &[Nominee]| first_lead(nodes).map(|n| n.to_string());
        let chosen = |name: &str| Some(name.to_owned());
        assert_eq!(
            choose(&[node("a", 90, up), node("b", 100, up)]),
            chosen("b")
        );
        assert_eq!(
            choose(&[node("a", 90, up), node("b", 100, down)]),
            chosen("a")
        );
        // The preferred one may yet turn out to be up.
        assert_eq!(choose(&[node("a", 90, up), node("b", 100, unknown)]), None);
        assert_eq!(choose(&[node("a", 90, down)]), None);
        let mut standby = node("b", 100, up);
        standby.read_only = true;
        let mut never = node("c", 200, up);
        never.candidate = Candidate::Never;
        let mut drained = node("d", 300, up);
        drained.wanted = Wanted::Drain;
        assert_eq!(
            choose(&[standby, never, drained, node("a", 1, up)]),
            chosen("a")
        );
    }

    #[test]
    fn a_lead_that_is_down_is_kept_and_waited_for() {
        let name = NodeName::new("a");
        let lead = Some((&name, "refused"));
        assert_eq!(stance(lead, None), Stance::Serve);
        assert_eq!(stance(lead, Some(Duration::ZERO)), Stance::Hold);
        let told = "lead \"a\" is not available: refused".to_owned();
        assert_eq!(stance(lead, Some(PATIENCE)), Stance::Refuse(told));
        assert_eq!(stance(None, Some(Duration::ZERO)), Stance::Hold);
        assert!(matches!(stance(None, Some(PATIENCE)), Stance::Refuse(_)));
    }
}
