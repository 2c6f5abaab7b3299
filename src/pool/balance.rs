//! Which of several nodes a newcomer gets. Pure: what is known of them and the time are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Balance, NodeName};

/// A ramp begins here, in thousandths: a node that gets nothing at all proves nothing either.
const RAMP_FROM: u64 = 10;
const RAMP_FULL: u64 = 1000;

/// A node that a newcomer may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a NodeName,
    /// Its share, as configured; 0: none.
    pub(super) weight: u32,
    /// Sessions that it has of those that are balanced.
    pub(super) sessions: usize,
    /// How long it has been up.
    pub(super) up_for: Duration,
}

impl Candidate<'_> {
    /// The weight in thousandths, less what a slow start holds back.
    fn effective(&self, slowstart: Option<Duration>) -> u64 {
        let ramp = match slowstart {
            Some(whole) if self.up_for < whole => {
                let share =
                    self.up_for.as_millis() * u128::from(RAMP_FULL) / whole.as_millis().max(1);
                u64::try_from(share).unwrap_or(RAMP_FULL).max(RAMP_FROM)
            }
            _ => RAMP_FULL,
        };
        u64::from(self.weight) * ramp
    }
}

/// Whose turn it is. Smooth weighted round robin: with weights 5, 1, 1 the picks are a a b a c a a,
/// not a a a a a b c.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Turns(BTreeMap<NodeName, i64>);

impl Turns {
    /// The next node; `None`: none has a weight. What it returns it counts as taken.
    pub(super) fn pick<'a>(
        &mut self,
        candidates: &[Candidate<'a>],
        balance: Balance,
        slowstart: Option<Duration>,
    ) -> Option<&'a NodeName> {
        let weights: Vec<(Candidate<'a>, u64)> = candidates
            .iter()
            .map(|candidate| (*candidate, candidate.effective(slowstart)))
            .filter(|(_, weight)| *weight > 0)
            .collect();
        match balance {
            Balance::RoundRobin => self.in_turn(&weights),
            Balance::LeastConnections => self.in_turn(&least_loaded(&weights)),
        }
    }

    /// Each gains its weight, the richest is picked and pays for all. Ties go to the first.
    fn in_turn<'a>(&mut self, weights: &[(Candidate<'a>, u64)]) -> Option<&'a NodeName> {
        let known = |name: &NodeName| weights.iter().any(|(one, _)| one.name == name);
        self.0.retain(|name, _| known(name));
        let mut total = 0;
        let mut best: Option<(&NodeName, i64)> = None;
        for (candidate, weight) in weights {
            let gain = i64::try_from(*weight).unwrap_or(i64::MAX);
            total += gain;
            let credit = self.0.entry(candidate.name.clone()).or_insert(0);
            *credit += gain;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((candidate.name, *credit));
            }
        }
        let (name, _) = best?;
        if let Some(credit) = self.0.get_mut(name) {
            *credit -= total;
        }
        Some(name)
    }
}

/// Those that would be least loaded with one session more, in proportion to their weights.
fn least_loaded<'a>(weights: &[(Candidate<'a>, u64)]) -> Vec<(Candidate<'a>, u64)> {
    // Compared crosswise: a fraction of two integers has no rounding.
    let load = |(candidate, weight): &(Candidate<'a>, u64)| {
        (candidate.sessions as u128 + 1, u128::from(*weight))
    };
    let lighter = |a: &(u128, u128), b: &(u128, u128)| (a.0 * b.1).cmp(&(b.0 * a.1));
    let Some(least) = weights.iter().map(load).min_by(lighter) else {
        return Vec::new();
    };
    let is_least = |one: &&(Candidate<'a>, u64)| lighter(&load(one), &least).is_eq();
    weights.iter().filter(is_least).copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test may panic"
    )]

    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Candidate, Turns};
    use crate::config::{Balance, NodeName};

    const LONG: Duration = Duration::from_hours(1);

    fn names(count: usize) -> Vec<NodeName> {
        (0..count)
            .map(|i| NodeName::new(&format!("n{i}")))
            .collect()
    }

    /// How often each was picked when every session stays.
    fn shares(
        names: &[NodeName],
        weights: &[u32],
        balance: Balance,
        picks: usize,
    ) -> BTreeMap<NodeName, usize> {
        let mut turns = Turns::default();
        let mut sessions: BTreeMap<NodeName, usize> = BTreeMap::new();
        for _ in 0..picks {
            let candidates: Vec<_> = names
                .iter()
                .zip(weights)
                .map(|(name, weight)| Candidate {
                    name,
                    weight: *weight,
                    sessions: sessions.get(name).copied().unwrap_or_default(),
                    up_for: LONG,
                })
                .collect();
            let picked = turns.pick(&candidates, balance, None).unwrap();
            *sessions.entry(picked.clone()).or_default() += 1;
        }
        sessions
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_are_as_the_weights(
            weights in prop::collection::vec(prop_oneof![Just(0_u32), 20_u32..=1000], 1..6),
            least in any::<bool>(),
        ) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let names = names(weights.len());
            let balance = if least { Balance::LeastConnections } else { Balance::RoundRobin };
            let picks = 10_000;
            let shares = shares(&names, &weights, balance, picks);
            for (name, weight) in names.iter().zip(&weights) {
                let got = shares.get(name).copied().unwrap_or_default() as f64;
                let due = picks as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((got - due).abs() <= due * 0.05, "{name}: {got} of {due}");
                prop_assert!(*weight > 0 || got == 0.0);
            }
        }

        #[test]
        fn nobody_is_picked_who_is_not_there_or_has_no_weight(
            rounds in prop::collection::vec(
                prop::collection::vec((0_usize..6, 0_u32..4, 0_usize..50, 0_u64..100), 0..6),
                1..40,
            ),
            least in any::<bool>(),
        ) {
            let names = names(6);
            let mut turns = Turns::default();
            let balance = if least { Balance::LeastConnections } else { Balance::RoundRobin };
            for round in rounds {
                let mut candidates: Vec<Candidate<'_>> = Vec::new();
                for (at, weight, sessions, up_ms) in round {
                    if candidates.iter().all(|one| *one.name != names[at]) {
                        let up_for = Duration::from_millis(up_ms);
                        let name = &names[at];
                        candidates.push(Candidate { name, weight, sessions, up_for });
                    }
                }
                let slowstart = Some(Duration::from_millis(50));
                let picked = turns.pick(&candidates, balance, slowstart);
                let chosen = candidates.iter().find(|one| Some(one.name) == picked);
                prop_assert_eq!(picked.is_some(), candidates.iter().any(|one| one.weight > 0));
                prop_assert!(chosen.is_none_or(|one| one.weight > 0));
                prop_assert_eq!(chosen.is_some(), picked.is_some());
            }
        }
    }

    fn candidate(name: &NodeName, weight: u32, sessions: usize, up_ms: u64) -> Candidate<'_> {
        Candidate {
            name,
            weight,
            sessions,
            up_for: Duration::from_millis(up_ms),
        }
    }

    #[test]
    fn turns_are_spread_smoothly() {
        let names = names(3);
        let all: Vec<_> = names
            .iter()
            .zip([5, 1, 1])
            .map(|(name, weight)| candidate(name, weight, 0, 0))
            .collect();
        let mut turns = Turns::default();
        let picks: Vec<String> = (0..7)
            .map(|_| {
                turns
                    .pick(&all, Balance::RoundRobin, None)
                    .unwrap()
                    .to_string()
            })
            .collect();
        assert_eq!(picks, ["n0", "n0", "n1", "n0", "n2", "n0", "n0"]);
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_next_and_ties_take_turns() {
        let names = names(2);
        let mut turns = Turns::default();
        let mut pick = |sessions: [usize; 2], weights: [u32; 2]| {
            let all = [
                candidate(&names[0], weights[0], sessions[0], 0),
                candidate(&names[1], weights[1], sessions[1], 0),
            ];
            turns
                .pick(&all, Balance::LeastConnections, None)
                .unwrap()
                .to_string()
        };
        assert_eq!(pick([0, 0], [100, 200]), "n1");
        assert_eq!(pick([0, 2], [100, 200]), "n0");
        assert_eq!(pick([7, 3], [100, 100]), "n1");
        let ties: Vec<String> = (0..4).map(|_| pick([3, 3], [100, 100])).collect();
        assert!(ties.contains(&"n0".to_owned()) && ties.contains(&"n1".to_owned()));
    }

    #[test]
    fn a_node_that_has_just_come_up_gets_its_share_little_by_little() {
        let names = names(2);
        let slowstart = Some(Duration::from_secs(10));
        let share = |up_ms: u64| {
            let mut turns = Turns::default();
            let all = [
                candidate(&names[0], 100, 0, 3_600_000),
                candidate(&names[1], 100, 0, up_ms),
            ];
            let is_new =
                |_: &usize| turns.pick(&all, Balance::RoundRobin, slowstart) == Some(&names[1]);
            (0..1000).filter(is_new).count()
        };
        let counts = [share(0), share(1000), share(5000), share(10_000)];
        assert!(counts.is_sorted(), "{counts:?}");
        assert!((5..=15).contains(&counts[0]), "{counts:?}");
        assert!((330..=336).contains(&counts[2]), "{counts:?}");
        assert_eq!(counts[3], 500);
    }
}
