//! What the observations mean: a node's state, who the first lead is, and whether the recorded
//! lead may be served. Pure.

use std::time::Duration;

use super::health::Health;
use crate::cluster::{Observed, Wanted};
use crate::config::{Candidate, NodeName};

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

/// What counts for the state of a node besides its own answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Why it must not be used, if it is fenced.
    pub fence: Option<String>,
    /// It takes writes beside the lead.
    pub beside_lead: bool,
    /// It is up already: lag alone does not make it recovering again. Who must not be far behind
    /// (a switchover, a route) has a limit of its own.
    pub settled: bool,
    /// It fell too often: what it has to do for it to be over.
    pub flapping: Option<String>,
    /// Does it follow the lead?
    pub follows: Follows,
    /// Does the lead follow it, so that what only it has arrives there?
    pub returns: Follows,
}

/// A node that is not lead is up only when it also follows the lead and has handed over what only
/// it had, as far as that can be seen.
pub(super) fn follower(health: &Health, standing: &Standing, lag_max: u64) -> (Observed, String) {
    let plain = (health.observed(), health.reason().to_owned());
    if health.observed() != Observed::Up {
        return plain;
    }
    let recovering = |why: String| (Observed::Recovering, why);
    if let Some(why) = &standing.fence {
        return recovering(format!("fenced: {why}"));
    }
    if let Some(why) = &standing.flapping {
        return recovering(why.clone());
    }
    match standing.follows {
        Follows::No => return recovering("does not replicate from the lead".to_owned()),
        Follows::Behind(bytes) if bytes > lag_max && !standing.settled => {
            return recovering(format!("{bytes} bytes behind the lead"));
        }
        Follows::Unknown | Follows::Behind(_) => {}
    }
    match standing.returns {
        Follows::No => recovering("the lead does not replicate from it".to_owned()),
        Follows::Behind(bytes) if bytes > lag_max && !standing.settled => {
            recovering(format!("has {bytes} bytes that the lead has not applied"))
        }
        Follows::Unknown | Follows::Behind(_) => plain,
    }
}

/// Why a node must not be used, whatever it answers: another server has taken its address.
pub(super) fn fence(identity: Identity) -> Option<String> {
    match (identity.recorded, identity.found) {
        (Some(known), Some(found)) if known != found => Some(format!(
            "another server answers at its address (system_identifier {found}, was {known})"
        )),
        _ => None,
    }
}

/// Which server a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Identity {
    /// Its `system_identifier` as it was recorded.
    pub recorded: Option<u64>,
    /// The one that answers now.
    pub found: Option<u64>,
    /// Is it a physical standby?
    pub in_recovery: Option<bool>,
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
    /// It must not be used.
    pub fenced: bool,
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
            Observed::Up if !nominee.read_only && !nominee.fenced => {
                return Some(nominee.name.clone());
            }
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

/// The recorded lead is kept whatever happens to it; what changes is how clients are treated.
/// `unusable_for`: how long it has not been usable, `None` if it is; `patience`: how long clients
/// wait for it.
pub(super) fn stance(
    lead: Option<(&NodeName, &str)>,
    unusable_for: Option<Duration>,
    patience: Duration,
) -> Stance {
    match (lead, unusable_for) {
        (Some(_), None) => Stance::Serve,
        (_, Some(waited)) if waited < patience => Stance::Hold,
        (None, _) => Stance::Refuse("no node could be chosen as lead yet".to_owned()),
        (Some((name, "")), _) => Stance::Refuse(format!("lead \"{name}\" is not available")),
        (Some((name, why)), _) => {
            Stance::Refuse(format!("lead \"{name}\" is not available: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::{Logins, Rules, Seen};
    use super::*;

    fn up() -> Health {
        let mut health = Health::default();
        let rules = Rules {
            fall: 1,
            rise: 1,
            flap_limit: 0,
            flap_window: Duration::ZERO,
            flap_hold: Duration::ZERO,
        };
        health.note(&Seen::Answers, &Logins::Untried, rules, Duration::ZERO);
        health
    }

    #[test]
    fn a_follower_is_up_only_when_it_follows_and_has_handed_over_all() {
        let health = up();
        let well = Standing {
            fence: None,
            beside_lead: false,
            settled: false,
            flapping: None,
            follows: Follows::Behind(0),
            returns: Follows::Behind(0),
        };
        let state = |standing: &Standing| follower(&health, standing, 100).0;
        for (follows, observed) in [
            (Follows::Unknown, Observed::Up),
            (Follows::No, Observed::Recovering),
            (Follows::Behind(100), Observed::Up),
            (Follows::Behind(101), Observed::Recovering),
        ] {
            let there = Standing {
                follows,
                ..well.clone()
            };
            let back = Standing {
                returns: follows,
                ..well.clone()
            };
            assert_eq!((state(&there), state(&back)), (observed, observed));
        }
        let fenced = Standing {
            fence: Some("x".to_owned()),
            ..well.clone()
        };
        let flapping = Standing {
            flapping: Some("x".to_owned()),
            ..well
        };
        assert_eq!(state(&fenced), Observed::Recovering);
        assert_eq!(state(&flapping), Observed::Recovering);
    }

    #[test]
    fn another_server_at_the_address_is_fenced() {
        let node = |recorded, found| Identity {
            recorded,
            found,
            in_recovery: Some(false),
        };
        for (member, fenced) in [
            (node(None, Some(2)), false),
            (node(Some(2), Some(2)), false),
            (node(Some(2), Some(3)), true),
            (node(Some(2), None), false),
        ] {
            assert_eq!(fence(member).is_some(), fenced, "{member:?}");
        }
    }

    #[test]
    fn the_first_lead_is_the_preferred_one_that_is_proven() {
        let node = |name: &str, priority, observed| Nominee {
            name: NodeName::new(name),
            priority,
            candidate: Candidate::Auto,
            wanted: Wanted::Ready,
            observed,
            fenced: false,
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
        let patience = Duration::from_secs(30);
        let stance = |lead, unusable_for| stance(lead, unusable_for, patience);
        assert_eq!(stance(lead, None), Stance::Serve);
        assert_eq!(stance(lead, Some(Duration::ZERO)), Stance::Hold);
        let told = "lead \"a\" is not available: refused".to_owned();
        assert_eq!(stance(lead, Some(patience)), Stance::Refuse(told));
        assert_eq!(stance(None, Some(Duration::ZERO)), Stance::Hold);
        assert!(matches!(stance(None, Some(patience)), Stance::Refuse(_)));
    }
}
