//! What the Director knows of a cluster's nodes, and the view that readers get of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::facts::NodeFacts;
use super::failover::LastSeen;
use super::health::{Condition, Health, Now, Rules};
use super::lag::Positions;
use super::lead_note::LeadNote;
use super::links::{HIDDEN, bdr_view, links, links_between, slots};
use super::monitor::Observation;
use super::record::{Membership, NodeRecord, NodeRecords, Record};
use super::succession::Contender;
use super::verdict::{Follows, Identity, Nominee, Standing, fence, follower};
use crate::cluster::{ClusterView, NodeView, Observed, OperationView, Role};
use crate::config::{Candidate, ClusterConfig, NodeConfig, NodeName};
use crate::lsn::Lsn;

/// What was seen of a node is of no use for a failover when the lead was seen so much later.
const TRAIL_AGE_LEAST: Duration = Duration::from_secs(2);

/// Asks a node's monitor to look at once.
#[derive(Debug, Default)]
pub(super) struct Kick {
    bell: Notify,
    logins: AtomicBool,
}

impl Kick {
    /// Probe now.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Probe now, and try a new login too: clients had trouble with theirs.
    pub(super) fn ring_for_logins(&self) {
        self.logins.store(true, Ordering::Relaxed);
        self.bell.notify_one();
    }

    /// Waits for a ring. Cancel safe.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Was a new login asked for since the last call?
    pub(super) fn take_logins(&self) -> bool {
        self.logins.swap(false, Ordering::Relaxed)
    }
}

/// What operators were told once of a node's state: not each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// It does not come back by itself.
    pub stuck: bool,
    /// It was down for so long that it may be gone for good.
    pub permanent: bool,
}

/// How far behind the lead a node was, and when that was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trail {
    bytes: u64,
    /// What it had confirmed then: one that was promoted since reads from nobody any more.
    confirmed: Option<Lsn>,
    at: Now,
}

/// One node.
#[derive(Debug)]
pub(super) struct Member {
    /// From the configuration, or from ADD NODE.
    pub config: NodeConfig,
    /// Operators' words, and which server it is.
    pub kept: NodeRecord,
    /// By probes alone.
    pub health: Health,
    /// What it told last; kept when it goes down.
    pub facts: Option<NodeFacts>,
    /// Where its WAL was when.
    pub positions: Positions,
    /// With replication taken into account.
    pub observed: Observed,
    /// Since when.
    pub since: SystemTime,
    /// Why.
    pub reason: String,
    /// Why it must not be used, whatever it answers.
    pub fence: Option<String>,
    /// When it was found so, on the monotonic clock.
    pub changed_at: Now,
    /// What was told of its present state.
    pub told: Told,
    /// When it went away, until it is fit again.
    away_since: Option<Now>,
    /// When it last told its facts.
    answered_at: Option<Now>,
    trail: Option<Trail>,
    /// Asks its monitor for a probe at once.
    pub kick: Arc<Kick>,
}

impl Member {
    /// Nothing is known yet.
    pub(super) fn new(config: NodeConfig, kept: NodeRecord) -> Self {
        Self {
            config,
            kept,
            health: Health::default(),
            facts: None,
            positions: Positions::default(),
            observed: Observed::Unknown,
            since: SystemTime::now(),
            reason: String::new(),
            fence: None,
            changed_at: Now::ZERO,
            told: Told::default(),
            away_since: None,
            answered_at: None,
            trail: None,
            kick: Arc::default(),
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &NodeName {
        &self.config.name
    }

    /// May it become lead? An operator's word overrides the file.
    pub(super) fn candidate(&self) -> Candidate {
        self.kept.candidate.unwrap_or(self.config.candidate)
    }

    /// May it be served as lead?
    pub(super) fn is_usable_lead(&self) -> bool {
        let recovery = self.facts.as_ref().is_none_or(|f| f.in_recovery);
        self.health.observed() == Observed::Up && !recovery && self.fence.is_none()
    }

    /// Its observed state becomes this. Gives how long it was away, if it is fit again.
    fn enter(&mut self, observed: Observed, now: Now) -> Option<Duration> {
        self.observed = observed;
        self.since = SystemTime::now();
        self.changed_at = now;
        self.told = Told::default();
        match observed {
            Observed::Down => {
                let since = self.health.away_since().unwrap_or(now);
                self.away_since.get_or_insert(since);
                None
            }
            Observed::Up => {
                let since = self.away_since.take()?;
                Some(now.saturating_sub(since))
            }
            Observed::Recovering | Observed::Unknown => None,
        }
    }

    /// Is it on its way back after it was down?
    pub(super) fn is_returning(&self) -> bool {
        self.away_since.is_some() && self.observed == Observed::Recovering
    }

    /// Has it told its facts since then?
    pub(super) fn answered_since(&self, then: Now) -> bool {
        self.answered_at.is_some_and(|at| at >= then)
    }

    /// Which server it is.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            recorded: self.kept.identity,
            found: self.facts.as_ref().and_then(|f| f.system_identifier),
            in_recovery: self.facts.as_ref().map(|f| f.in_recovery),
        }
    }

    /// What its monitor's role remembers of the lead.
    pub(super) fn note(&self) -> Option<&LeadNote> {
        self.facts.as_ref().and_then(|f| f.note.as_ref())
    }
}

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
            let record = kept.get(&node.name).cloned().unwrap_or_default();
            if record.membership != Membership::Removed {
                nodes.push(Member::new(node.clone(), record));
            }
        }
        for (name, record) in kept {
            let known = config.nodes.iter().any(|node| node.name == *name);
            if let Membership::Added(added) = &record.membership
                && added.cluster == config.name
                && !known
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
            member.facts = Some(facts);
            member.answered_at = Some(now);
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
            member.fence = standing.fence;
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
        let fence = fence(
            &member.identity(),
            others_lead.map(Member::identity).as_ref(),
        );
        let flapping = !is_lead && member.health.is_flapping(self.rules(), now);
        Standing {
            fence,
            flapping: flapping.then(|| {
                let (limit, hold) = (self.config.flap_limit, self.config.flap_hold);
                format!("fell {limit} times lately: must be well for {hold:?} first")
            }),
            follows: others_lead.map_or(Follows::Unknown, |lead| follows(lead, member)),
            returns: others_lead.map_or(Follows::Unknown, |lead| hands_over(lead, member)),
        }
    }

    /// Remembers how far behind each node was while the lead could be seen.
    fn note_trails(&mut self, lead: Option<&NodeName>, now: Now) {
        let Some(lead) = lead.and_then(|name| self.get(name)) else {
            return;
        };
        let fresh = lead.is_usable_lead() && lead.answered_at == Some(now);
        let trails: Vec<Option<Trail>> = self
            .nodes
            .iter()
            .map(|m| match follows(lead, m) {
                Follows::Behind(bytes) if fresh => Some(Trail {
                    bytes,
                    confirmed: confirmed(lead, m),
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

    /// What was seen of a node when the lead was last seen; what is older tells nothing.
    fn trail(&self, member: &Member, lead: &Member) -> Option<Trail> {
        let patience = (self.config.monitor_interval * 2).max(TRAIL_AGE_LEAST);
        let trail = member.trail?;
        let age = lead.answered_at?.saturating_sub(trail.at);
        (age <= patience).then_some(trail)
    }

    /// Whoever might take over from the lead.
    pub(super) fn contenders(&self, lead: &NodeName, now: Now) -> Vec<Contender> {
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
            trail: self.trail(m, lead).map(|trail| trail.bytes),
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

    /// An operation has just seen that this node takes writes.
    pub(super) fn take_writes(&mut self, name: &NodeName) {
        if let Some(member) = self.get_mut(name) {
            if let Some(facts) = &mut member.facts {
                facts.in_recovery = false;
                facts.read_only = false;
            }
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

    /// What is known about the lead and the link to a target, for a failover.
    pub(super) fn last_seen(&self, lead: &NodeName, target: &NodeName) -> LastSeen {
        let (Some(lead), Some(target)) = (self.get(lead), self.get(target)) else {
            return LastSeen::default();
        };
        let link = links_between(lead, target).into_iter().next();
        LastSeen {
            lead_lsn: lead.facts.as_ref().and_then(|f| f.lsn),
            confirmed: link
                .as_ref()
                .and_then(|l| l.replay_lsn)
                .or_else(|| self.trail(target, lead)?.confirmed),
            slot: link.map(|l| l.slot).filter(|slot| !slot.is_empty()),
            origin: lead
                .facts
                .as_ref()
                .and_then(|f| f.bdr.as_ref())
                .map(|node| node.name.clone()),
        }
    }

    /// The snapshot that readers get.
    pub(super) fn view(
        &self,
        record: Option<&Record>,
        operation: Option<OperationView>,
    ) -> ClusterView {
        let lead = record.map(|r| &r.node);
        ClusterView {
            name: self.config.name.clone(),
            epoch: record.map(|r| r.epoch).unwrap_or_default(),
            lead: lead.cloned(),
            lead_since: record.map(|r| r.since),
            lead_reason: record.map(|r| r.reason.clone()).unwrap_or_default(),
            previous: record.and_then(|r| r.previous.clone()),
            operation,
            nodes: self.nodes.iter().map(|m| node_view(m, lead)).collect(),
            links: links(&self.nodes),
            slots: slots(&self.nodes),
        }
    }
}

fn node_view(member: &Member, lead: Option<&NodeName>) -> NodeView {
    let facts = member.facts.as_ref();
    let role = match member.candidate() {
        _ if lead == Some(&member.config.name) => Role::Lead,
        Candidate::Never => Role::Standby,
        Candidate::Auto | Candidate::Manual => Role::Shadow,
    };
    NodeView {
        name: member.config.name.clone(),
        host: member.config.host.clone(),
        port: member.config.port,
        priority: member.config.priority,
        candidate: member.candidate(),
        role,
        wanted: member.kept.wanted,
        observed: member.observed,
        since: member.since,
        reason: member.reason.clone(),
        condition: condition_word(member),
        fence: member.fence.clone(),
        maintenance_since: member.kept.maintenance_since,
        server_version: facts.map(|f| f.version),
        system_identifier: facts.and_then(|f| f.system_identifier),
        in_recovery: facts.map(|f| f.in_recovery),
        lsn: facts.and_then(|f| f.lsn),
        bdr: facts.and_then(bdr_view),
        probe_us: facts.map(|f| u64::try_from(f.took.as_micros()).unwrap_or(u64::MAX)),
    }
}

/// Does a node follow the lead, as the lead's slots and the node's subscriptions tell?
fn follows(lead: &Member, member: &Member) -> Follows {
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
        Some(link) => Follows::Behind(link.lag_bytes.unwrap_or(0)),
        None => Follows::No,
    })
}

/// What the member has confirmed to the lead.
fn confirmed(lead: &Member, member: &Member) -> Option<Lsn> {
    links_between(lead, member).first()?.replay_lsn
}

/// What is wrong with it although it is up.
fn condition_word(member: &Member) -> &'static str {
    let read_only = member
        .facts
        .as_ref()
        .is_some_and(|f| f.read_only && !f.in_recovery);
    match member.health.condition() {
        Condition::Full => "full",
        Condition::MonitorRefused => "monitor refused",
        Condition::LoginsStuck => "logins stuck",
        Condition::Well if read_only => "read-only",
        Condition::Well => "",
    }
}
