//! What the Director knows of a cluster's nodes, and the view that readers get of it.

use std::sync::Arc;
use std::time::Duration;

use super::health::{Now, Rules};
use super::links::{HIDDEN, links, links_between, slots};
use super::member::{Facts, Member, node_view};
use super::monitor::Observation;
use super::record::{Membership, NodeRecords, Record};
use super::verdict::{Follows, Nominee, Standing, fence, follower};
use crate::cluster::{Behind, ClusterView, Observed, OperationView};
use crate::config::{ClusterConfig, NodeConfig, NodeName};

/// What a node told so long ago says nothing of how far others are behind it.
const STALE_LEAST: Duration = Duration::from_secs(10);

/// What an observation changed of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeChange {
    /// Which.
    pub node: NodeName,
    /// Its observed state changed.
    pub state: bool,
    /// Its condition changed.
    pub condition: bool,
    /// It was fenced just now.
    pub fenced: bool,
    /// It is fit again after it was down, and was away for so long.
    pub back_after: Option<Duration>,
}

/// All nodes of a cluster.
#[derive(Debug)]
pub(super) struct Members {
    /// Settings of the cluster.
    pub config: Arc<ClusterConfig>,
    /// In configuration order.
    pub nodes: Vec<Member>,
}

impl Members {
    /// The configured nodes that were not removed, and those that were added.
    pub(super) fn new(config: &Arc<ClusterConfig>, kept: &NodeRecords) -> Self {
        let mut nodes = Vec::new();
        for node in &config.nodes {
            // What was added on the console, at whatever address, is no matter of the file.
            let record = kept.get(&node.name).cloned().unwrap_or_default();
            if record.membership == Membership::File {
                nodes.push(Member::new(node.clone(), record));
            }
        }
        for (name, record) in kept {
            if let Membership::Added(added) = &record.membership
                && added.cluster == config.name
            {
                let node = NodeConfig::at(name, &added.host, added.port, added.priority);
                nodes.extend(node.map(|node| Member::new(node, record.clone())));
            }
        }
        Self {
            config: Arc::clone(config),
            nodes,
        }
    }

    /// When the health of a node changes.
    pub(super) fn rules(&self) -> Rules {
        Rules {
            fall: self.config.fall,
            rise: self.config.rise,
            flap_limit: self.config.flap_limit,
            flap_window: self.config.flap_window,
            flap_hold: self.config.flap_hold,
        }
    }

    /// One by name.
    pub(super) fn get(&self, name: &NodeName) -> Option<&Member> {
        self.nodes.iter().find(|m| m.config.name == *name)
    }

    /// One by name, to change it.
    pub(super) fn get_mut(&mut self, name: &NodeName) -> Option<&mut Member> {
        self.nodes.iter_mut().find(|m| m.config.name == *name)
    }

    /// Takes a probe in. Tells which nodes changed by it.
    pub(super) fn note(
        &mut self,
        observation: Observation,
        lead: Option<&NodeName>,
        now: Now,
    ) -> Vec<NodeChange> {
        let rules = self.rules();
        let asked_at = now.saturating_sub(observation.began.elapsed());
        let Some(member) = self.get_mut(&observation.node) else {
            return Vec::new();
        };
        let health = member
            .health
            .note(&observation.seen, &observation.logins, rules, now);
        if let Some(facts) = observation.facts {
            if let Some(lsn) = facts.lsn {
                member.positions.note(observation.began.into_std(), lsn);
            }
            member.note_facts(
                facts,
                Facts {
                    asked_at,
                    heard_at: now,
                },
                rules.fall,
            );
        }
        self.note_trails(lead, now);
        let mut changes = self.judge(lead, now);
        if health.condition {
            match changes.iter_mut().find(|c| c.node == observation.node) {
                Some(change) => change.condition = true,
                None => changes.push(NodeChange {
                    node: observation.node,
                    state: false,
                    condition: true,
                    fenced: false,
                    back_after: None,
                }),
            }
        }
        changes
    }

    /// Finds the state of each node anew: time alone may change it (flapping is over).
    pub(super) fn judge(&mut self, lead: Option<&NodeName>, now: Now) -> Vec<NodeChange> {
        let judged: Vec<(Standing, (Observed, String))> = self
            .nodes
            .iter()
            .map(|m| {
                let standing = self.standing(m, lead, now);
                let lag_max = self.config.switchover_lag_max_bytes;
                let state = follower(&m.health, &standing, lag_max);
                (standing, state)
            })
            .collect();
        let mut changes = Vec::new();
        for (member, (standing, (observed, reason))) in self.nodes.iter_mut().zip(judged) {
            member.reason = reason;
            let fenced = member.fence.is_none() && standing.fence.is_some();
            member.beside_lead |= standing.beside_lead;
            member.fence = standing.fence;
            member.flapping = standing.flapping;
            let state = member.observed != observed;
            let back_after = if state {
                member.enter(observed, now)
            } else {
                None
            };
            if state || fenced {
                changes.push(NodeChange {
                    node: member.config.name.clone(),
                    state,
                    condition: false,
                    fenced,
                    back_after,
                });
            }
        }
        changes
    }

    fn standing(&self, member: &Member, lead: Option<&NodeName>, now: Now) -> Standing {
        let lead = lead.and_then(|name| self.get(name));
        let is_lead = lead.is_some_and(|lead| lead.name() == member.name());
        let others_lead = lead.filter(|lead| !is_lead && lead.is_usable_lead());
        let second = second_primary(member, others_lead);
        let fence = fence(member.identity()).or_else(|| second.clone());
        let flapping = !is_lead && member.health.is_flapping(self.rules(), now);
        Standing {
            fence,
            beside_lead: second.is_some(),
            settled: member.observed == Observed::Up,
            flapping: flapping.then(|| {
                let (limit, hold) = (self.config.flap_limit, self.config.flap_hold);
                format!("fell {limit} times lately: must be well for {hold:?} first")
            }),
            follows: others_lead.map_or(Follows::Unknown, |lead| follows(lead, member)),
            returns: others_lead.map_or(Follows::Unknown, |lead| hands_over(lead, member)),
        }
    }

    /// A node of the lead's system takes writes, and the lead was not asked since whether it still
    /// does.
    pub(super) fn asks_for_the_lead(&self, node: &NodeName, lead: &NodeName) -> bool {
        let (Some(member), Some(lead)) = (self.get(node), self.get(lead)) else {
            return false;
        };
        let found = member.identity().found;
        let one_system = found.is_some() && found == lead.identity().found;
        let asked = lead.facts_age.map(|facts| facts.asked_at);
        let since = member.primary_since;
        member.name() != lead.name() && one_system && since.is_some() && asked <= since
    }

    /// An operation has just seen that this node takes writes.
    pub(super) fn take_writes(&mut self, name: &NodeName) {
        if let Some(member) = self.get_mut(name) {
            if let Some(facts) = &mut member.facts {
                facts.in_recovery = false;
                facts.read_only = false;
            }
            // Beside the old lead for a moment, and by plan.
            member.beside_lead = false;
            member.kick.ring();
        }
    }

    /// What the choice of a first lead needs.
    pub(super) fn nominees(&self) -> Vec<Nominee> {
        let nominee = |m: &Member| Nominee {
            name: m.config.name.clone(),
            priority: m.config.priority,
            candidate: m.candidate(),
            wanted: m.kept.wanted,
            observed: m.health.observed(),
            fenced: m.fence.is_some(),
            read_only: m
                .facts
                .as_ref()
                .is_none_or(|f| f.in_recovery || f.read_only),
        };
        self.nodes.iter().map(nominee).collect()
    }

    /// Has it not told its facts for long, though it counts as up?
    fn is_stale(&self, member: &Member, now: Now) -> bool {
        let limit = (self.config.monitor_interval * 5).max(STALE_LEAST);
        let age = member
            .facts_age
            .map(|facts| now.saturating_sub(facts.heard_at));
        member.health.observed() == Observed::Up && age.is_some_and(|age| age > limit)
    }

    /// The snapshot that readers get.
    pub(super) fn view(
        &self,
        record: Option<&Record>,
        operation: Option<OperationView>,
        now: Now,
    ) -> ClusterView {
        let lead = record.map(|r| &r.node);
        let mut links = links(&self.nodes);
        for link in &mut links {
            if self.get(&link.from).is_some_and(|m| self.is_stale(m, now)) {
                // The figures stand still while the world goes on.
                link.lag_bytes = None;
                link.behind = Behind::Unknown;
            }
        }
        ClusterView {
            name: self.config.name.clone(),
            epoch: record.map(|r| r.epoch).unwrap_or_default(),
            lead: lead.cloned(),
            lead_since: record.map(|r| r.since),
            lead_reason: record.map(|r| r.reason.clone()).unwrap_or_default(),
            previous: record.and_then(|r| r.previous.clone()),
            clients: "held",
            clients_why: String::new(),
            operation,
            nodes: self.nodes.iter().map(|m| node_view(m, lead)).collect(),
            links,
            slots: slots(&self.nodes),
        }
    }
}

/// A node of the lead's own system that takes writes although it was a standby, or that was
/// found beside the lead before.
fn second_primary(member: &Member, lead: Option<&Member>) -> Option<String> {
    const WHY: &str = "it takes writes beside the lead (unexpected primary)";
    if member.beside_lead {
        return Some(WHY.to_owned());
    }
    let lead = lead?;
    // The lead was asked after the node was first seen as a primary, and still is one itself.
    let asked = lead.facts_age.map(|facts| facts.asked_at);
    let later = member
        .primary_since
        .zip(asked)
        .is_some_and(|(since, at)| at > since);
    let primary = |m: &Member| m.identity().in_recovery == Some(false);
    let one_system =
        member.identity().found.is_some() && member.identity().found == lead.identity().found;
    // A logical peer may have been made from a copy of the lead.
    let logical = links_between(lead, member)
        .iter()
        .any(|l| l.kind != "physical");
    (one_system && primary(member) && primary(lead) && later && !logical).then(|| WHY.to_owned())
}

/// Does a node follow the lead, as the lead's slots and the node's subscriptions tell?
pub(super) fn follows(lead: &Member, member: &Member) -> Follows {
    let known = |m: &Member| m.facts.as_ref().is_some_and(|f| f.consumers.is_some());
    if !known(member) || lead.name() == member.name() {
        return Follows::Unknown;
    }
    match link_state(lead, member) {
        Some(follows) => follows,
        None => Follows::No,
    }
}

/// Does the lead apply what comes from the node? A pair that replicates one way has nothing to
/// hand over.
fn hands_over(lead: &Member, member: &Member) -> Follows {
    link_state(member, lead).unwrap_or(Follows::Unknown)
}

/// `None`: there is no link in this direction.
fn link_state(from: &Member, to: &Member) -> Option<Follows> {
    let links = links_between(from, to);
    if links.is_empty() {
        return None;
    }
    if links.iter().any(|l| l.state == HIDDEN) {
        return Some(Follows::Unknown);
    }
    let streaming = links.iter().find(|l| l.state == "streaming");
    Some(match streaming {
        Some(link) => link.lag_bytes.map_or(Follows::Unknown, Follows::Behind),
        None => Follows::No,
    })
}
