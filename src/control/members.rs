//! What the Director knows of a cluster's nodes, and the view that readers get of it.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use super::facts::NodeFacts;
use super::failover::LastSeen;
use super::lag::Positions;
use super::links::{HIDDEN, bdr_view, links, links_between, slots};
use super::monitor::Observation;
use super::record::Record;
use super::verdict::{Follows, Health, Nominee, follower};
use crate::cluster::{ClusterView, NodeView, Observed, OperationView, Role, Wanted};
use crate::config::{Candidate, ClusterConfig, NodeConfig, NodeName};

/// One node.
#[derive(Debug)]
pub(super) struct Member {
    /// From the configuration.
    pub config: NodeConfig,
    /// The operator's word.
    pub wanted: Wanted,
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
    /// Asks its monitor for a probe at once.
    pub kick: Arc<Notify>,
}

impl Member {
    /// Nothing is known yet.
    pub(super) fn new(config: NodeConfig, wanted: Wanted) -> Self {
        Self {
            config,
            wanted,
            health: Health::default(),
            facts: None,
            positions: Positions::default(),
            observed: Observed::Unknown,
            since: SystemTime::now(),
            reason: String::new(),
            kick: Arc::new(Notify::new()),
        }
    }

    /// May it be served as lead?
    pub(super) fn is_usable_lead(&self) -> bool {
        let recovery = self.facts.as_ref().is_none_or(|f| f.in_recovery);
        self.health.observed() == Observed::Up && !recovery
    }
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
    /// One by name.
    pub(super) fn get(&self, name: &NodeName) -> Option<&Member> {
        self.nodes.iter().find(|m| m.config.name == *name)
    }

    /// One by name, to change it.
    pub(super) fn get_mut(&mut self, name: &NodeName) -> Option<&mut Member> {
        self.nodes.iter_mut().find(|m| m.config.name == *name)
    }

    /// Takes a probe in. Returns the nodes whose state changed by it.
    pub(super) fn note(
        &mut self,
        observation: Observation,
        lead: Option<&NodeName>,
    ) -> Vec<NodeName> {
        let (fall, rise) = (self.config.fall, self.config.rise);
        let Some(member) = self.get_mut(&observation.node) else {
            return Vec::new();
        };
        member.health.note(observation.seen, fall, rise);
        if let Some(facts) = observation.facts {
            if let Some(lsn) = facts.lsn {
                member.positions.note(observation.began.into_std(), lsn);
            }
            member.facts = Some(facts);
        }
        let states: Vec<(Observed, String)> =
            self.nodes.iter().map(|m| self.state_of(m, lead)).collect();
        let mut changed = Vec::new();
        for (member, (observed, reason)) in self.nodes.iter_mut().zip(states) {
            member.reason = reason;
            if member.observed != observed {
                member.observed = observed;
                member.since = SystemTime::now();
                changed.push(member.config.name.clone());
            }
        }
        changed
    }

    fn state_of(&self, member: &Member, lead: Option<&NodeName>) -> (Observed, String) {
        let follows = match lead {
            Some(lead) if *lead != member.config.name => self.follows(lead, member),
            _ => Follows::Unknown,
        };
        follower(
            &member.health,
            follows,
            self.config.switchover_lag_max_bytes,
        )
    }

    fn follows(&self, lead: &NodeName, member: &Member) -> Follows {
        let Some(lead) = self.get(lead).filter(|m| m.is_usable_lead()) else {
            return Follows::Unknown;
        };
        let known = |m: &Member| m.facts.as_ref().is_some_and(|f| f.consumers.is_some());
        if !known(member) {
            return Follows::Unknown;
        }
        let links = links_between(lead, member);
        if links.iter().any(|l| l.state == HIDDEN) {
            return Follows::Unknown;
        }
        match links.iter().find(|l| l.state == "streaming") {
            Some(link) => Follows::Behind(link.lag_bytes.unwrap_or(0)),
            None => Follows::No,
        }
    }

    /// An operation has just seen that this node takes writes.
    pub(super) fn take_writes(&mut self, name: &NodeName) {
        if let Some(member) = self.get_mut(name) {
            if let Some(facts) = &mut member.facts {
                facts.in_recovery = false;
                facts.read_only = false;
            }
            member.kick.notify_one();
        }
    }

    /// What the choice of a first lead needs.
    pub(super) fn nominees(&self) -> Vec<Nominee> {
        let nominee = |m: &Member| Nominee {
            name: m.config.name.clone(),
            priority: m.config.priority,
            candidate: m.config.candidate,
            wanted: m.wanted,
            observed: m.health.observed(),
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
            confirmed: link.as_ref().and_then(|l| l.replay_lsn),
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
    let role = match member.config.candidate {
        _ if lead == Some(&member.config.name) => Role::Lead,
        Candidate::Never => Role::Standby,
        Candidate::Auto | Candidate::Manual => Role::Shadow,
    };
    NodeView {
        name: member.config.name.clone(),
        host: member.config.host.clone(),
        port: member.config.port,
        priority: member.config.priority,
        candidate: member.config.candidate,
        role,
        wanted: member.wanted,
        observed: member.observed,
        since: member.since,
        reason: member.reason.clone(),
        server_version: facts.map(|f| f.version),
        system_identifier: facts.and_then(|f| f.system_identifier),
        in_recovery: facts.map(|f| f.in_recovery),
        lsn: facts.and_then(|f| f.lsn),
        bdr: facts.and_then(bdr_view),
        probe_us: facts.map(|f| u64::try_from(f.took.as_micros()).unwrap_or(u64::MAX)),
    }
}
