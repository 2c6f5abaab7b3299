//! What is seen of the nodes, and what of it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::super::driver::Message;
use super::super::health::Condition;
use super::super::member::Member;
use super::super::members::{Members, NodeChange};
use super::super::monitor::{self, Observation};
use super::Governor;
use crate::cluster::{Fact, Observed};
use crate::config::{ClusterConfig, EventKind, NodeName};

/// Observations that may wait.
const OBSERVATIONS: usize = 64;
/// The same trouble of a node is not told more often.
const TROUBLE_PAUSE: Duration = Duration::from_mins(1);
/// A maintenance that goes on is told so often.
const MAINTENANCE_REMINDER: Duration = Duration::from_hours(1);

/// The probe loops of a cluster's nodes.
#[derive(Debug)]
pub(super) struct Monitors {
    tasks: JoinSet<()>,
    handles: BTreeMap<NodeName, AbortHandle>,
    sender: mpsc::Sender<Observation>,
    observations: mpsc::Receiver<Observation>,
}

impl Monitors {
    /// Begins to watch all members.
    pub(super) fn of(members: &Members) -> Self {
        let (sender, observations) = mpsc::channel(OBSERVATIONS);
        let mut monitors = Self {
            tasks: JoinSet::new(),
            handles: BTreeMap::new(),
            sender,
            observations,
        };
        for member in &members.nodes {
            monitors.begin(&members.config, member);
        }
        monitors
    }

    /// Begins to watch one.
    pub(super) fn begin(&mut self, config: &Arc<ClusterConfig>, member: &Member) {
        let (config, node) = (Arc::clone(config), member.config.clone());
        let (kick, sender) = (Arc::clone(&member.kick), self.sender.clone());
        let name = node.name.clone();
        let watch = Box::pin(monitor::watch(config, node, kick, sender));
        let handle = self.tasks.spawn(watch);
        if let Some(before) = self.handles.insert(name, handle) {
            before.abort();
        }
    }

    /// Ends it.
    pub(super) fn end(&mut self, node: &NodeName) {
        if let Some(handle) = self.handles.remove(node) {
            handle.abort();
        }
    }

    /// The next observation. Cancel safe.
    pub(super) async fn observed(&mut self) -> Option<Observation> {
        self.observations.recv().await
    }
}

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct Watched {
    all_down: bool,
    read_only: BTreeMap<NodeName, bool>,
    /// What is wrong with a node that is up, as it was told.
    conditions: BTreeMap<NodeName, EventKind>,
    disk_full_at: BTreeMap<NodeName, Instant>,
    reminded_at: BTreeMap<NodeName, Instant>,
}

impl Governor {
    pub(super) fn observe(&mut self, observation: Observation) {
        if self.decided_at.is_some_and(|at| observation.began < at) {
            // It may say of the new lead what was true before its promotion.
            return;
        }
        let (node, now) = (observation.node.clone(), self.now());
        let lead = self.lead_name();
        let changes = self.members.note(observation, lead.as_ref(), now);
        self.tell_changes(&changes);
        if let Some(lead) = lead.filter(|lead| self.members.asks_for_the_lead(&node, lead))
            && let Some(lead) = self.members.get(&lead)
        {
            lead.kick.ring();
        }
        self.tell_read_only(&node);
        self.feel_the_pulse(&node);
        let all_down = self
            .members
            .nodes
            .iter()
            .all(|m| m.observed == Observed::Down);
        if all_down && !self.watched.all_down {
            let text = "no node answers".to_owned();
            self.tell(EventKind::AllNodesDown, None, false, text);
        }
        self.watched.all_down = all_down;
    }

    /// What time alone changes, and what is told when it has lasted.
    pub(super) fn watch_the_clock(&mut self) {
        let (lead, now) = (self.lead_name(), self.now());
        let changes = self.members.judge(lead.as_ref(), now);
        self.tell_changes(&changes);
        self.tell_what_lasts();
        self.remind_of_maintenance();
    }

    pub(super) fn tell_changes(&mut self, changes: &[NodeChange]) {
        for change in changes {
            if change.state {
                self.tell_state(change);
                self.tell_operation(&change.node);
            }
            if change.condition {
                self.tell_condition(&change.node);
            }
            if change.fenced {
                self.tell_fence(&change.node);
            }
        }
    }

    fn tell_state(&self, change: &NodeChange) {
        let Some(member) = self.members.get(&change.node) else {
            return;
        };
        let (kind, success) = match member.observed {
            Observed::Up => (EventKind::NodeUp, true),
            Observed::Down => (EventKind::NodeDown, false),
            Observed::Recovering => (EventKind::NodeRecovering, false),
            Observed::Unknown => (EventKind::NodeUnknown, false),
        };
        self.tell(kind, Some(&change.node), success, member.reason.clone());
        if let Some(away) = change.back_after {
            let text = format!(
                "node \"{}\" has recovered after {} seconds",
                change.node,
                away.as_secs()
            );
            self.tell(EventKind::NodeRecovery, Some(&change.node), true, text);
        }
        let flapping = member.health.is_flapping(self.members.rules(), self.now());
        if flapping && member.observed == Observed::Down {
            let text = format!(
                "it fell {} times within {:?}",
                self.members.config.flap_limit, self.members.config.flap_window
            );
            self.tell(EventKind::NodeFlapping, Some(&change.node), false, text);
        }
    }

    fn tell_condition(&mut self, node: &NodeName) {
        let Some(member) = self.members.get(node) else {
            return;
        };
        let kind = match member.health.condition() {
            Condition::Well => None,
            Condition::Full => Some(EventKind::NodeFull),
            Condition::MonitorRefused => Some(EventKind::MonitorRefused),
            Condition::LoginsStuck => Some(EventKind::NodeLoginsStuck),
        };
        let reason = member.health.reason().to_owned();
        let before = match kind {
            Some(kind) => self.watched.conditions.insert(node.clone(), kind),
            None => self.watched.conditions.remove(node),
        };
        match (kind, before) {
            (Some(kind), _) => self.tell(kind, Some(node), false, reason),
            (None, Some(over)) => self.tell(over, Some(node), true, "it is over".to_owned()),
            (None, None) => {}
        }
    }

    fn tell_fence(&self, node: &NodeName) {
        // The target of a promotion is a second primary for a moment, and by plan.
        let target = self
            .running
            .as_ref()
            .is_some_and(|r| r.view.target == *node);
        let Some(member) = self.members.get(node).filter(|_| !target) else {
            return;
        };
        let why = member.fence.clone().unwrap_or_default();
        let identity = member.identity();
        let kind = if identity.recorded == identity.found {
            EventKind::UnexpectedPrimary
        } else {
            EventKind::NodeIdentityChanged
        };
        self.tell(kind, Some(node), false, why.clone());
        self.tell(EventKind::NodeFenced, Some(node), false, why);
    }

    fn tell_read_only(&mut self, node: &NodeName) {
        let Some(facts) = self.members.get(node).and_then(|m| m.facts.as_ref()) else {
            return;
        };
        let read_only = facts.read_only && !facts.in_recovery;
        let before = self.watched.read_only.insert(node.clone(), read_only);
        if before.unwrap_or(false) != read_only {
            let text = if read_only {
                "default_transaction_read_only is on: writes are refused"
            } else {
                "takes writes again"
            };
            self.tell(
                EventKind::NodeReadOnly,
                Some(node),
                !read_only,
                text.to_owned(),
            );
        }
    }

    /// A running operation hears of the loss of a node it needs.
    fn tell_operation(&self, name: &NodeName) {
        let (Some(running), Some(member)) = (&self.running, self.members.get(name)) else {
            return;
        };
        // By probes alone: that a target lags is the gate's business. One that is starting up was
        // gone in between.
        if !matches!(
            member.health.observed(),
            Observed::Down | Observed::Recovering
        ) {
            return;
        }
        let why = member.reason.clone();
        let message = if *name == running.view.target {
            Message::TargetLost(why)
        } else if self.lead_name().as_ref() == Some(name) {
            Message::LeadLost(why)
        } else {
            return;
        };
        // A full queue: the operation's own connection to the node finds the same.
        let _ = running.messages.try_send(message);
    }

    /// What traffic saw is a reason to look, never a verdict.
    pub(super) fn saw(&mut self, fact: &Fact) {
        let Some(member) = self.members.get(fact.node()) else {
            return;
        };
        tracing::debug!(?fact, "probing at once");
        match fact {
            Fact::DialFailed { .. } => member.kick.ring_for_logins(),
            Fact::ServerLost { .. } | Fact::ServerSaid { .. } | Fact::Promoted { .. } => {
                member.kick.ring();
            }
        }
        if let Fact::ServerSaid { node, sqlstate } = fact
            && sqlstate == "53100"
        {
            self.tell_disk_full(node);
        }
    }

    fn tell_disk_full(&mut self, node: &NodeName) {
        let told = self.watched.disk_full_at.get(node);
        if told.is_some_and(|at| at.elapsed() < TROUBLE_PAUSE) {
            return;
        }
        let now = Instant::now();
        self.watched.disk_full_at.insert(node.clone(), now);
        let text = "a client was told 53100 (disk full): reads go on, writes fail".to_owned();
        self.tell(EventKind::NodeDiskFull, Some(node), false, text);
    }

    fn tell_what_lasts(&mut self) {
        let now = self.now();
        let (recovery, permanent) = (
            self.members.config.recovery_timeout,
            self.members.config.permanent_after,
        );
        let mut news = Vec::new();
        for member in &mut self.members.nodes {
            let lasted = now.saturating_sub(member.changed_at);
            let stuck = member.is_returning() && recovery.is_some_and(|most| lasted >= most);
            if stuck && !member.told.stuck {
                member.told.stuck = true;
                let text = format!("recovering for {} s: {}", lasted.as_secs(), member.reason);
                news.push((EventKind::RecoveryStuck, member.config.name.clone(), text));
            }
            let down = member.health.down_for(now);
            let gone = permanent.is_some_and(|most| down.is_some_and(|down| down >= most));
            if gone && !member.told.permanent {
                member.told.permanent = true;
                let text = format!(
                    "down for {} s; if it is gone for good: REMOVE NODE {};",
                    down.unwrap_or_default().as_secs(),
                    member.config.name
                );
                news.push((
                    EventKind::NodePermanentCandidate,
                    member.config.name.clone(),
                    text,
                ));
            }
        }
        for (kind, node, text) in news {
            self.tell(kind, Some(&node), false, text);
        }
    }

    fn remind_of_maintenance(&mut self) {
        let mut due = Vec::new();
        for member in &self.members.nodes {
            let Some(since) = member.kept.maintenance_since else {
                continue;
            };
            let age = SystemTime::now().duration_since(since).unwrap_or_default();
            let reminded = self.watched.reminded_at.get(member.name());
            let lately = reminded.is_some_and(|at| at.elapsed() < MAINTENANCE_REMINDER);
            if age >= MAINTENANCE_REMINDER && !lately {
                due.push((member.config.name.clone(), age));
            }
        }
        for (node, age) in due {
            self.watched
                .reminded_at
                .insert(node.clone(), Instant::now());
            let text = format!(
                "in maintenance for {} h: MAINTENANCE END {node}; when it is done",
                age.as_secs() / 3600
            );
            self.tell(EventKind::MaintenanceForgotten, Some(&node), false, text);
        }
    }
}
