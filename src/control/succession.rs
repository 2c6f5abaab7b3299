//! Who takes over when the lead is lost, and whether anybody may. Pure.

use std::cmp::Reverse;
use std::time::Duration;

use crate::cluster::{Observed, Wanted};
use crate::config::{Candidate, NodeName};

/// A member that is not lead, as far as a failover needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contender {
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
    /// Why it must not be used, if it is fenced.
    pub fence: Option<String>,
    /// It falls too often.
    pub flapping: bool,
    /// Bytes that it was behind when the lead was last seen well; `None`: it was not seen to follow
    /// then, or was away since.
    pub trail: Option<u64>,
    /// What it has received of the lead's WAL is further than others' (physical standbys).
    pub received: Option<u64>,
    /// A physical standby: must be promoted.
    pub in_recovery: bool,
    /// It is of the lead's own physical system, and not behind where the lead stands.
    pub follows_system: bool,
}

/// The lead by record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeadState {
    /// It may be served, or is in doubt only.
    Usable,
    /// It does not answer for so long.
    Down(Duration),
    /// It is down by probes, but sessions on it still get answers.
    AnswersSessions,
    /// It answers that it is a standby now: somebody else has moved the primary.
    Demoted,
    /// Not usable for another reason: starting, or its identity is wrong.
    Other,
}

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// `failover = "auto"`.
    pub automatic: bool,
    /// The lead must have been down for so long.
    pub confirm: Duration,
    /// No target may have been further behind.
    pub lag_max: u64,
    /// We promote standbys ourselves.
    pub promotes: bool,
}

/// What is to be done about the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Succession {
    /// Nothing: it leads, or it is not time yet.
    Keep,
    /// It is lost, but nobody may take over: why.
    Barred(String),
    /// This node takes over.
    FailOver(NodeName),
}

/// The rule. `contenders` in the file's order.
pub(super) fn succession(lead: LeadState, contenders: &[Contender], policy: Policy) -> Succession {
    match lead {
        LeadState::Usable | LeadState::Other => return Succession::Keep,
        LeadState::Down(waited) if policy.automatic && waited < policy.confirm => {
            return Succession::Keep;
        }
        LeadState::AnswersSessions => {
            let why = "sessions on the lead still get answers, though its probes fail".to_owned();
            return Succession::Barred(why);
        }
        LeadState::Down(_) | LeadState::Demoted => {}
    }
    if !policy.automatic {
        return Succession::Barred(
            "failover = \"manual\": an operator decides (FAILOVER)".to_owned(),
        );
    }
    let mut able: Vec<&Contender> = Vec::new();
    let mut reasons = Vec::new();
    for contender in contenders {
        match obstacle(contender, lead, policy) {
            None => able.push(contender),
            Some(why) => reasons.push(format!("\"{}\" {why}", contender.name)),
        }
    }
    if lead == LeadState::Demoted && able.len() > 1 {
        let names: Vec<&str> = able.iter().map(|c| c.name.as_str()).collect();
        let names = names.join(", ");
        return Succession::Barred(format!("several nodes were promoted: {names}"));
    }
    // Of standbys the one that has most of the lead's WAL; then the operator's preference.
    able.sort_by_key(|c| (Reverse(c.received), Reverse(c.priority)));
    match able.first() {
        Some(best) => Succession::FailOver(best.name.clone()),
        None if reasons.is_empty() => Succession::Barred("there is no other node".to_owned()),
        None => Succession::Barred(reasons.join("; ")),
    }
}

fn obstacle(contender: &Contender, lead: LeadState, policy: Policy) -> Option<String> {
    if contender.candidate != Candidate::Auto {
        return Some(format!(
            "is configured with candidate = \"{}\"",
            contender.candidate
        ));
    }
    if contender.wanted != Wanted::Ready {
        return Some("was taken out of service by an operator".to_owned());
    }
    if let Some(why) = &contender.fence {
        return Some(format!("is fenced: {why}"));
    }
    if contender.observed != Observed::Up {
        return Some("is not up".to_owned());
    }
    if contender.flapping {
        return Some("is flapping".to_owned());
    }
    // Somebody else promotes: then it is the promoted one, and no other, that we follow.
    if contender.in_recovery && (!policy.promotes || lead == LeadState::Demoted) {
        return Some("is a standby that nobody has promoted yet".to_owned());
    }
    if lead == LeadState::Demoted {
        let why = "is not the primary that the lead follows now";
        return (!contender.follows_system).then(|| why.to_owned());
    }
    match contender.trail {
        None => Some("was not seen to have everything when the lead was lost".to_owned()),
        Some(bytes) if bytes > policy.lag_max => {
            Some(format!("was {bytes} bytes behind when the lead was lost"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Contender, LeadState, Policy, Succession, succession};
    use crate::cluster::{Observed, Wanted};
    use crate::config::Candidate;

    const POLICY: Policy = Policy {
        automatic: true,
        confirm: Duration::ZERO,
        lag_max: 1000,
        promotes: true,
    };
    const DOWN: LeadState = LeadState::Down(Duration::from_secs(1));

    fn node(name: &str, priority: i32) -> Contender {
        Contender {
            name: name.into(),
            priority,
            candidate: Candidate::Auto,
            wanted: Wanted::Ready,
            observed: Observed::Up,
            fence: None,
            flapping: false,
            trail: Some(10),
            received: None,
            in_recovery: false,
            follows_system: false,
        }
    }

    fn chosen(lead: LeadState, contenders: &[Contender], policy: Policy) -> Option<String> {
        match succession(lead, contenders, policy) {
            Succession::FailOver(name) => Some(name.to_string()),
            Succession::Keep | Succession::Barred(_) => None,
        }
    }

    #[test]
    fn the_preferred_node_takes_over_when_the_lead_is_down() {
        let all = [node("n2", 90), node("n3", 95), node("n4", 95)];
        assert_eq!(chosen(DOWN, &all, POLICY).as_deref(), Some("n3"));
        assert_eq!(
            succession(LeadState::Usable, &all, POLICY),
            Succession::Keep
        );
        assert_eq!(succession(LeadState::Other, &all, POLICY), Succession::Keep);
        let patient = Policy {
            confirm: Duration::from_secs(2),
            ..POLICY
        };
        assert_eq!(succession(DOWN, &all, patient), Succession::Keep);
        let manual = Policy {
            automatic: false,
            ..POLICY
        };
        let barred =
            Succession::Barred("failover = \"manual\": an operator decides (FAILOVER)".to_owned());
        assert_eq!(succession(DOWN, &all, manual), barred);
    }

    #[test]
    fn of_standbys_the_one_with_most_wal_takes_over() {
        let standby = |name: &str, priority, received| Contender {
            in_recovery: true,
            received: Some(received),
            ..node(name, priority)
        };
        let all = [standby("n2", 99, 100), standby("n3", 1, 200)];
        assert_eq!(chosen(DOWN, &all, POLICY).as_deref(), Some("n3"));
        let waits = Policy {
            promotes: false,
            ..POLICY
        };
        assert_eq!(chosen(DOWN, &all, waits), None, "somebody else promotes");
    }

    #[test]
    fn a_primary_that_somebody_else_moved_is_followed() {
        let standby = Contender {
            in_recovery: true,
            ..node("n2", 99)
        };
        let promoted = |name: &str| Contender {
            trail: None,
            follows_system: true,
            ..node(name, 1)
        };
        let foreign = node("n5", 100);
        let all = [standby.clone(), promoted("n3"), foreign.clone()];
        assert_eq!(
            chosen(LeadState::Demoted, &all, POLICY).as_deref(),
            Some("n3")
        );
        assert_eq!(
            chosen(LeadState::Demoted, &[standby, foreign], POLICY),
            None
        );
        let two = [promoted("n3"), promoted("n4")];
        assert_eq!(
            chosen(LeadState::Demoted, &two, POLICY),
            None,
            "which is it?"
        );
    }

    #[test]
    fn nobody_takes_over_who_may_lack_something_or_must_not() {
        let spoil: [fn(&mut Contender); 9] = [
            |c| c.candidate = Candidate::Manual,
            |c| c.candidate = Candidate::Never,
            |c| c.wanted = Wanted::Drain,
            |c| c.fence = Some("another server".to_owned()),
            |c| c.observed = Observed::Recovering,
            |c| c.observed = Observed::Down,
            |c| c.flapping = true,
            |c| c.trail = None,
            |c| c.trail = Some(1001),
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            let mut contender = node("n2", 90);
            spoil(&mut contender);
            let answer = succession(DOWN, &[contender], POLICY);
            let Succession::Barred(why) = answer else {
                panic!("case {number}: {answer:?}");
            };
            assert!(why.starts_with("\"n2\" "), "{why}");
        }
        assert_eq!(chosen(DOWN, &[], POLICY), None);
    }

    #[test]
    fn a_lead_that_answers_its_sessions_is_left_alone() {
        assert_eq!(
            chosen(LeadState::AnswersSessions, &[node("n2", 90)], POLICY),
            None
        );
    }
}
