//! One node: what the operator wants of it, what it told, and what is made of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::facts::NodeFacts;
use super::health::{Condition, Health, Now};
use super::lag::Positions;
use super::lead_note::LeadNote;
use super::links::bdr_view;
use super::record::NodeRecord;
use super::verdict::Identity;
use crate::cluster::{NodeView, Observed, Role};
use crate::config::{Candidate, NodeConfig, NodeName};
use crate::lsn::Lsn;

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

/// When a node was asked for its facts, and when it had told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// What happened later they do not know.
    pub asked_at: Now,
    /// Then they were taken in.
    pub heard_at: Now,
}

/// How far behind the lead a node was, and when that was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trail {
    /// Bytes.
    pub bytes: u64,
    /// What it had confirmed then: one that was promoted since reads from nobody any more.
    pub confirmed: Option<Lsn>,
    /// When.
    pub at: Now,
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
    /// What it has to do until it is no longer flapping, if it is.
    pub flapping: Option<String>,
    /// When it was found so, on the monotonic clock.
    pub changed_at: Now,
    /// What was told of its present state.
    pub told: Told,
    /// When it went away, until it is fit again.
    away_since: Option<Now>,
    /// How old its facts are.
    pub facts_age: Option<Facts>,
    /// When it was first seen to take writes, if it has since then.
    pub primary_since: Option<Now>,
    /// It was found to take writes beside the lead: until it is a standby again, or an operator has
    /// said READY, it is not one of us.
    pub beside_lead: bool,
    /// How far it was behind the lead, while that could be seen.
    pub trail: Option<Trail>,
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
            flapping: None,
            changed_at: Now::ZERO,
            told: Told::default(),
            away_since: None,
            facts_age: None,
            primary_since: None,
            beside_lead: false,
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
    pub(super) fn enter(&mut self, observed: Observed, now: Now) -> Option<Duration> {
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

    /// Takes in what it told. What it did not tell of replication just now, it told before: for
    /// `most` probes.
    pub(super) fn note_facts(&mut self, mut facts: NodeFacts, age: Facts, most: u32) {
        if let Some(before) = &self.facts {
            facts.complete_from(before, most);
        }
        if facts.in_recovery {
            self.primary_since = None;
            self.beside_lead = false;
        } else {
            self.primary_since.get_or_insert(age.heard_at);
        }
        self.facts = Some(facts);
        self.facts_age = Some(age);
    }

    /// Is it on its way back after it was down?
    pub(super) fn is_returning(&self) -> bool {
        self.away_since.is_some() && self.observed == Observed::Recovering
    }

    /// Has it told its facts since then?
    pub(super) fn answered_since(&self, then: Now) -> bool {
        self.facts_age.is_some_and(|facts| facts.asked_at >= then)
    }

    /// Which server it is.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            recorded: self.kept.identity,
            found: self.facts.as_ref().and_then(|f| f.system_identifier),
            in_recovery: self.facts.as_ref().map(|f| f.in_recovery),
        }
    }

    /// What its monitor's role remembers of the lead, if the note is this server's own.
    pub(super) fn note(&self) -> Option<&LeadNote> {
        let facts = self.facts.as_ref()?;
        let own = |note: &&LeadNote| Some(note.server) == facts.system_identifier;
        facts.note.as_ref().filter(own)
    }

    /// Was it heard, or is there no hope of it just now? One that was not may remember a decision.
    pub(super) fn is_unheard(&self) -> bool {
        self.candidate() != Candidate::Never
            && self.health.observed() == Observed::Unknown
            && self.health.condition() == Condition::Well
    }
}

/// As readers see it.
pub(super) fn node_view(member: &Member, lead: Option<&NodeName>) -> NodeView {
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
