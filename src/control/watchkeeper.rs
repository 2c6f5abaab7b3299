//! What an operator is told about replication: links that break and come back, lag, slots that keep
//! back WAL, conflicts, errors. From one view after the other; pure.
//!
//! Nothing is told twice: each alarm has a state, and ends well below the limit at which it began.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cluster::{ClusterView, LinkView, NodeView, Observed, SlotOwner, SlotView};
use crate::config::{ClusterConfig, EventKind, NodeName};

/// A counter that grows all the time is told once in this time.
const QUIET: Duration = Duration::from_mins(1);
/// Longer than an election of a new Raft leader (`bdr.raft_election_timeout`, 6 s).
const ELECTION: Duration = Duration::from_secs(10);

/// When to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thresholds {
    /// WAL bytes that a slot may keep back.
    pub retained_max: Option<u64>,
    /// How long a consumer may be behind.
    pub lag_max: Option<Duration>,
    /// How long a link may be broken: workers start again by themselves, and a node that is down
    /// is told as such.
    pub patience: Duration,
}

impl Thresholds {
    /// As configured.
    pub(super) fn of(config: &ClusterConfig) -> Self {
        Self {
            retained_max: config.slot_retained_max,
            lag_max: config.replication_lag_alert,
            patience: config.monitor_interval * config.fall,
        }
    }
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The node that consumes, or where the slot is.
    pub node: NodeName,
    /// Type of the event.
    pub kind: EventKind,
    /// `false`: it began; `true`: it is over.
    pub success: bool,
    /// Free text.
    pub detail: String,
}

/// Remembers what was told.
#[derive(Debug)]
pub(super) struct Watchkeeper {
    limits: Thresholds,
    links: BTreeMap<LinkKey, LinkWatch>,
    /// Those that keep back too much.
    full_slots: BTreeSet<(NodeName, String)>,
    consensus: BTreeMap<NodeName, Health>,
}

/// Origin, target, subscription.
type LinkKey = (NodeName, NodeName, String);

#[derive(Debug, Clone, Default)]
struct LinkWatch {
    health: Health,
    lags: bool,
    errors: Growth,
    conflicts: Growth,
}

/// Is something as it should be?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Health {
    /// It never was.
    #[default]
    New,
    Good,
    /// Not since then, but that may pass.
    Ailing(Instant),
    /// That was told.
    Broken,
}

/// What a look says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Good,
    Bad,
    /// Neither: it is on its way, or cannot be seen.
    None,
}

impl Health {
    /// `Some(true)`: it came back; `Some(false)`: it broke. To be told.
    fn look(&mut self, sign: Sign, now: Instant, patience: Duration) -> Option<bool> {
        let (next, told) = match (*self, sign) {
            (Self::New | Self::Good, Sign::Good) | (Self::Ailing(_), Sign::Good | Sign::None) => {
                (Self::Good, None)
            }
            (Self::Broken, Sign::Good) => (Self::Good, Some(true)),
            (Self::Good, Sign::Bad) => (Self::Ailing(now), None),
            (Self::Ailing(since), Sign::Bad) if now.duration_since(since) >= patience => {
                (Self::Broken, Some(false))
            }
            (other, Sign::Bad | Sign::None) => (other, None),
        };
        *self = next;
        told
    }
}

/// A counter of what should not happen.
#[derive(Debug, Clone, Copy, Default)]
struct Growth {
    told: Option<u64>,
    at: Option<Instant>,
}

impl Growth {
    /// By how much it has grown since that was told last. The first value is where it begins.
    fn look(&mut self, value: Option<u64>, now: Instant) -> Option<u64> {
        let value = value?;
        let before = self.told.unwrap_or(value);
        let quiet = self.at.is_none_or(|at| now.duration_since(at) >= QUIET);
        if value > before && !quiet {
            return None;
        }
        // Also when it fell: its statistics were reset.
        self.told = Some(value);
        if value <= before {
            return None;
        }
        self.at = Some(now);
        Some(value - before)
    }
}

impl Watchkeeper {
    /// Nothing was seen yet.
    pub(super) fn new(limits: Thresholds) -> Self {
        Self {
            limits,
            links: BTreeMap::new(),
            full_slots: BTreeSet::new(),
            consensus: BTreeMap::new(),
        }
    }

    /// Takes in the next view.
    pub(super) fn note(&mut self, view: &ClusterView, now: Instant) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut gone: BTreeSet<LinkKey> = self.links.keys().cloned().collect();
        for link in &view.links {
            gone.remove(&key(link));
            self.look_at_link(link, view, now, &mut found);
        }
        for key in gone {
            self.look_for_link(&key, view, now, &mut found);
        }
        self.look_at_slots(view, &mut found);
        for node in &view.nodes {
            self.look_at_consensus(node, now, &mut found);
        }
        found
    }

    fn look_at_link(
        &mut self,
        link: &LinkView,
        view: &ClusterView,
        now: Instant,
        found: &mut Vec<Finding>,
    ) {
        let limits = self.limits;
        let watch = self.links.entry(key(link)).or_default();
        let mut tell = |kind, success, detail| {
            found.push(Finding {
                node: link.to.clone(),
                kind,
                success,
                detail,
            });
        };
        let sign = match link.state.as_str() {
            "streaming" => Sign::Good,
            "catchup" | "copying" | super::links::HIDDEN => Sign::None,
            _ if !both_answer(view, &link.from, &link.to) => Sign::None,
            _ => Sign::Bad,
        };
        let name = named(&link.from, &link.subscription);
        match watch.health.look(sign, now, limits.patience) {
            Some(true) => tell(
                EventKind::ReplicationRestored,
                true,
                format!("{name}: streaming"),
            ),
            Some(false) => {
                let detail = format!("{name}: {}", link.state);
                tell(EventKind::ReplicationBroken, false, detail);
            }
            None => {}
        }
        if let (Some(limit), Some(age)) = (limits.lag_max, link.behind.age(now)) {
            let bytes = link.lag_bytes.unwrap_or(0);
            let seconds = age.as_secs();
            let detail = format!("{name}: {seconds} s and {bytes} bytes behind");
            if !watch.lags && age >= limit {
                watch.lags = true;
                tell(EventKind::ReplicationLag, false, detail);
            } else if watch.lags && age < limit / 2 {
                watch.lags = false;
                tell(EventKind::ReplicationLag, true, detail);
            }
        }
        let errors = link.apply_errors.map(|n| n + link.sync_errors.unwrap_or(0));
        if let Some(more) = watch.errors.look(errors, now) {
            tell(EventKind::ApplyError, false, format!("{name}: {more} more"));
        }
        if let Some(more) = watch.conflicts.look(link.conflicts, now) {
            tell(
                EventKind::ReplicationConflict,
                false,
                format!("{name}: {more} more"),
            );
        }
    }

    /// A link that was there: its slot or its subscription is gone, or is not told any more.
    fn look_for_link(
        &mut self,
        key: &LinkKey,
        view: &ClusterView,
        now: Instant,
        found: &mut Vec<Finding>,
    ) {
        let (from, to, subscription) = key;
        let Some(watch) = self.links.get_mut(key) else {
            return;
        };
        let sign = if both_answer(view, from, to) {
            Sign::Bad
        } else {
            Sign::None
        };
        if watch.health.look(sign, now, self.limits.patience) == Some(false) {
            let name = named(from, subscription);
            found.push(Finding {
                node: to.clone(),
                kind: EventKind::ReplicationBroken,
                success: false,
                detail: format!("{name}: its slot or its subscription is not seen any more"),
            });
        }
        let is_member = |name: &NodeName| view.nodes.iter().any(|n| n.name == *name);
        if watch.health == Health::New || !is_member(from) || !is_member(to) {
            self.links.remove(key);
        }
    }

    fn look_at_slots(&mut self, view: &ClusterView, found: &mut Vec<Finding>) {
        let Some(limit) = self.limits.retained_max else {
            return;
        };
        let mut gone = self.full_slots.clone();
        for slot in &view.slots {
            let key = (slot.node.clone(), slot.slot.clone());
            gone.remove(&key);
            let kept = slot.retained_bytes.unwrap_or(0);
            let success = if kept > limit && self.full_slots.insert(key.clone()) {
                false
            } else if kept < limit / 10 * 8 && self.full_slots.remove(&key) {
                true
            } else {
                continue;
            };
            found.push(Finding {
                node: slot.node.clone(),
                kind: EventKind::SlotRetainsWal,
                success,
                detail: format!("{}: {kept} bytes", described(slot)),
            });
        }
        for (node, slot) in gone {
            found.push(Finding {
                node: node.clone(),
                kind: EventKind::SlotRetainsWal,
                success: true,
                detail: format!("slot \"{slot}\" is gone"),
            });
            self.full_slots.remove(&(node, slot));
        }
    }

    fn look_at_consensus(&mut self, node: &NodeView, now: Instant, found: &mut Vec<Finding>) {
        let leader = node.bdr.as_ref().and_then(|bdr| bdr.has_raft_leader);
        let sign = match leader {
            Some(true) => Sign::Good,
            Some(false) if answers(node) => Sign::Bad,
            Some(false) | None => Sign::None,
        };
        let health = self
            .consensus
            .entry(node.name.clone())
            .or_insert(Health::Good);
        if let Some(success) = health.look(sign, now, ELECTION) {
            let raft = node.bdr.as_ref().and_then(|bdr| bdr.raft.clone());
            let kind = if success {
                EventKind::ConsensusRestored
            } else {
                EventKind::ConsensusLost
            };
            found.push(Finding {
                node: node.name.clone(),
                kind,
                success,
                detail: format!("raft state {}", raft.unwrap_or_default()),
            });
        }
    }
}

fn key(link: &LinkView) -> LinkKey {
    (
        link.from.clone(),
        link.to.clone(),
        link.subscription.clone(),
    )
}

fn named(from: &NodeName, subscription: &str) -> String {
    if subscription.is_empty() {
        format!("replication from \"{from}\"")
    } else {
        format!("replication from \"{from}\" (subscription \"{subscription}\")")
    }
}

fn described(slot: &SlotView) -> String {
    let whose = match &slot.owner {
        SlotOwner::Member(name) => format!("for \"{name}\""),
        SlotOwner::Bdr(what) => format!("for {what}"),
        SlotOwner::Foreign => "for none of the nodes".to_owned(),
        SlotOwner::Unknown => "for somebody".to_owned(),
    };
    let read = if slot.active {
        ""
    } else {
        ", which nobody reads,"
    };
    format!("slot \"{}\" {whose}{read} keeps back WAL", slot.slot)
}

fn both_answer(view: &ClusterView, from: &NodeName, to: &NodeName) -> bool {
    let mut ends = view
        .nodes
        .iter()
        .filter(|n| n.name == *from || n.name == *to);
    ends.all(answers)
}

fn answers(node: &NodeView) -> bool {
    matches!(node.observed, Observed::Up | Observed::Recovering)
}

#[cfg(test)]
#[path = "watchkeeper_tests.rs"]
mod tests;
