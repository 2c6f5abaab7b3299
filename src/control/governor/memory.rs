//! Which decision holds: the record here, and the notes that the nodes keep of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use super::super::coordination::CommitError;
use super::super::lead_note::{self, LeadNote};
use super::super::member::Member;
use super::super::record::Record;
use super::super::report::appointed;
use super::super::verdict::first_lead;
use super::super::{Refusal, Report, preflight, refusals, requests};
use super::Governor;
use super::stance::GateState;
use crate::cluster::{Epoch, Observed};
use crate::config::{Candidate, EventKind, NodeName};
use crate::pool::HoldOwner;

/// A node that would not take its note is not asked again before.
const NOTE_PAUSE: Duration = Duration::from_secs(10);

/// After a decision could not be recorded, the next try waits so long.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// A store that does not answer must not stop the watch.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the notes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The nodes remember a newer decision than the record here: nobody is served until it is
    /// clear which.
    doubt: Option<String>,
    /// Clients were served by the record here: from then on it is the nodes that may be wrong.
    pub(super) has_served: bool,
    /// A note that contradicts the record in force, as it was told.
    contradiction: Option<LeadNote>,
    writing: BTreeSet<NodeName>,
    writers: JoinSet<(NodeName, Result<LeadNote, String>)>,
    not_before: Option<Instant>,
    store_not_before: Option<Instant>,
}

impl Memory {
    /// Why nobody may be served, if so.
    pub(super) fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// A note was written, or not.
    pub(super) async fn written(
        &mut self,
    ) -> Option<Result<(NodeName, Result<LeadNote, String>), JoinError>> {
        self.writers.join_next().await
    }
}

impl Governor {
    /// Compares the record with what the nodes remember. A record that was lost, or that comes from
    /// an old copy, must not bring the lead back to where it was.
    pub(super) async fn remember(&mut self) {
        let Some(newest) = self.newer_note() else {
            self.memory.doubt = None;
            return;
        };
        if self.memory.has_served {
            self.tell_contradiction(newest);
            return;
        }
        if self.memory.doubt.is_none() {
            self.doubt(&newest);
        }
        // An operation that was given up may have opened the gate again.
        if matches!(self.gate, GateState::Open | GateState::Held) {
            let cluster = &self.members.config.name;
            self.out.gates.hold(cluster, HoldOwner::NoLead);
            self.gate = GateState::Closed;
        }
        // One that was not heard may remember something newer still.
        let heard = |m: &Member| m.facts.is_some() || m.candidate() == Candidate::Never;
        let member = self.members.get(&newest.lead).is_some();
        if member && self.members.nodes.iter().all(heard) && self.store_is_due() {
            self.take_over(&newest).await;
        }
    }

    /// The newest note that says another thing than the record here, and is not older.
    fn newer_note(&self) -> Option<LeadNote> {
        let newest = self.newest_note()?;
        let news = self.record.as_ref().is_none_or(|record| {
            let other_lead = newest.epoch == record.epoch && newest.lead != record.node;
            newest.epoch > record.epoch || other_lead
        });
        news.then_some(newest)
    }

    fn newest_note(&self) -> Option<LeadNote> {
        let cluster = &self.members.config.name;
        let trusted = |m: &&Member| m.fence.is_none() && m.candidate() != Candidate::Never;
        let notes = self
            .members
            .nodes
            .iter()
            .filter(trusted)
            .filter_map(Member::note);
        let ours = notes.filter(|note| note.cluster == *cluster);
        ours.max_by_key(|note| note.epoch)
            .filter(|_| self.members.config.lead_note)
            .cloned()
    }

    fn doubt(&mut self, newest: &LeadNote) {
        let (kind, have) = match &self.record {
            None => (EventKind::RecordLost, "there is no record here".to_owned()),
            Some(record) => (
                EventKind::RecordOutdated,
                format!(
                    "the record here says \"{}\", epoch {}",
                    record.node, record.epoch
                ),
            ),
        };
        let mut why = format!(
            "the nodes remember lead \"{}\", epoch {}, but {have}",
            newest.lead, newest.epoch
        );
        let unheard = self.members.nodes.iter().filter(|m| m.facts.is_none());
        let unheard: Vec<&str> = unheard.map(|m| m.name().as_str()).collect();
        if !unheard.is_empty() {
            why.extend(["; not heard yet: ", &unheard.join(", ")]);
        }
        self.tell(kind, Some(&newest.lead), false, why.clone());
        self.memory.doubt = Some(why);
    }

    /// Another instance has decided, or somebody has copied a role: the record in force stays.
    fn tell_contradiction(&mut self, note: LeadNote) {
        if self.memory.contradiction.as_ref() == Some(&note) {
            return;
        }
        let why = format!(
            "a node remembers lead \"{}\", epoch {}, which is not decided here: does another \
             instance watch this cluster?",
            note.lead, note.epoch
        );
        self.tell(EventKind::RecordOutdated, Some(&note.lead), false, why);
        self.memory.contradiction = Some(note);
    }

    fn store_is_due(&self) -> bool {
        self.memory
            .store_not_before
            .is_none_or(|at| Instant::now() >= at)
    }

    /// Makes a decision of this cluster durable, outside an operation. `false`: it was not.
    async fn decide(&mut self, record: Record) -> bool {
        let follows = self.record.as_ref().map(|r| r.epoch);
        let committed = self.out.store.commit(record.clone(), follows);
        match timeout(STORE_PATIENCE, committed).await {
            Ok(Ok(())) => {
                self.memory.doubt = None;
                self.record = Some(record);
                self.decided_at = Some(Instant::now());
                true
            }
            Ok(Err(CommitError::Superseded(_))) => {
                self.adopt().await;
                false
            }
            Ok(Err(error)) => {
                self.store_failed(&error.to_string());
                false
            }
            Err(_) => {
                self.store_failed("the store does not answer");
                false
            }
        }
    }

    fn store_failed(&mut self, why: &str) {
        let cluster = &self.members.config.name;
        tracing::error!(%cluster, why, "the lead cannot be recorded");
        self.memory.store_not_before = Some(Instant::now() + STORE_PAUSE);
    }

    /// What the nodes remember holds from now on.
    async fn take_over(&mut self, note: &LeadNote) -> bool {
        let record = self.record_of(note.lead.clone(), note.epoch, "remembered");
        let done = self.decide(record).await;
        if done {
            let text = format!("as the nodes remember it, epoch {}", note.epoch);
            self.tell(EventKind::LeadChosen, Some(&note.lead), true, text);
        }
        done
    }

    fn record_of(&self, node: NodeName, epoch: Epoch, reason: &str) -> Record {
        Record {
            cluster: self.members.config.name.clone(),
            epoch,
            node,
            since: SystemTime::now(),
            reason: reason.to_owned(),
            previous: self.lead_name(),
        }
    }

    /// FAILOVER where there is no lead to fail over from: the record is in doubt, names a node that
    /// is gone, or is not there. `None`: there is one.
    pub(super) async fn appoint(
        &mut self,
        target: &NodeName,
        accept_loss: bool,
    ) -> Option<Result<Report, Refusal>> {
        let doubted = self.newest_note().filter(|_| self.memory.doubt.is_some());
        let gone = self
            .lead_name()
            .is_none_or(|lead| self.members.get(&lead).is_none());
        if doubted.is_none() && !gone {
            return None;
        }
        Some(self.appoint_one(target, doubted, accept_loss).await)
    }

    async fn appoint_one(
        &mut self,
        target: &NodeName,
        doubted: Option<LeadNote>,
        accept_loss: bool,
    ) -> Result<Report, Refusal> {
        self.free()?;
        let cluster = self.members.config.name.clone();
        let remembered = doubted.as_ref().is_some_and(|note| note.lead == *target);
        if !remembered && !accept_loss {
            let why = self
                .memory
                .doubt()
                .map_or_else(|| self.no_lead(), str::to_owned);
            return Err(refusals::needs_accept_loss(&cluster, &why));
        }
        requests::can_be_appointed(&self.members, target)?;
        let from = self.lead_name();
        let known = self.record.as_ref().map_or(Epoch(0), |r| r.epoch);
        let noted = doubted.as_ref().map_or(Epoch(0), |note| note.epoch);
        let record = if remembered {
            self.record_of(target.clone(), noted, "remembered")
        } else {
            self.record_of(target.clone(), Epoch(known.max(noted).0 + 1), "failover")
        };
        let epoch = record.epoch;
        if !self.decide(record).await {
            return Err(refusals::not_kept("the decision could not be recorded"));
        }
        self.members.forget_trails();
        self.gate = GateState::Closed;
        let text = format!("made lead by an operator, epoch {epoch}");
        self.tell(EventKind::FailoverCompleted, Some(target), true, text);
        Ok(appointed(&cluster, from, target, epoch))
    }

    pub(super) async fn choose_first_lead(&mut self) {
        if self.record.is_some() || self.memory.doubt.is_some() || !self.store_is_due() {
            return;
        }
        if self.members.config.lead_note && self.members.nodes.iter().any(Member::is_unheard) {
            return;
        }
        let Some(node) = first_lead(&self.members.nominees()) else {
            return;
        };
        let record = self.record_of(node.clone(), Epoch(1), "initial");
        if self.decide(record).await {
            let detail = "highest priority of the nodes that are up".to_owned();
            self.tell(EventKind::LeadChosen, Some(&node), true, detail);
        }
    }

    /// Takes what the store holds for true.
    pub(super) async fn adopt(&mut self) {
        match self.out.store.load(&self.members.config.name).await {
            Ok(record) => self.record = record,
            Err(error) => {
                tracing::error!(%error, "the recorded lead cannot be read: nobody is served");
                self.record = None;
            }
        }
    }

    /// Tells each node that is up of the decision that holds, if it does not know it.
    pub(super) fn leave_notes(&mut self) {
        let Some(record) = &self.record else {
            return;
        };
        let early = self.memory.not_before.is_some_and(|at| Instant::now() < at);
        if !self.members.config.lead_note || early || self.memory.doubt.is_some() {
            return;
        }
        let record = record.clone();
        for member in &self.members.nodes {
            let Some(decision) = note_for(member, &record) else {
                continue;
            };
            let name = member.config.name.clone();
            if !self.memory.writing.insert(name.clone()) {
                continue;
            }
            let (config, node) = (Arc::clone(&self.members.config), member.config.clone());
            self.memory.writers.spawn(async move {
                let written = match Box::pin(preflight::open(&config, &node)).await {
                    Ok(link) => lead_note::leave(&link, &decision)
                        .await
                        .map(|()| decision)
                        .map_err(|e| e.to_string()),
                    Err(why) => Err(why),
                };
                (name, written)
            });
        }
    }

    /// The next probe sees it; until then the node is not asked again.
    pub(super) fn note_left(
        &mut self,
        done: Result<(NodeName, Result<LeadNote, String>), JoinError>,
    ) {
        match done {
            Ok((node, Ok(written))) => {
                if let Some(member) = self.members.get_mut(&node) {
                    if let Some(facts) = &mut member.facts {
                        facts.note = Some(written);
                    }
                    member.kick.ring();
                }
                self.memory.writing.remove(&node);
            }
            Ok((node, Err(why))) => {
                tracing::warn!(%node, why, "the note of the lead could not be left");
                self.memory.writing.remove(&node);
                self.memory.not_before = Some(Instant::now() + NOTE_PAUSE);
            }
            Err(error) => tracing::error!(%error, "a note's writer ended unexpectedly"),
        }
    }
}

/// The note that a node lacks, if it takes one. A standby has its primary's. In BDR, ALTER ROLE is
/// DDL that waits for all nodes. The note of another cluster is another instance's: two that
/// overwrote each other's would never end.
fn note_for(member: &Member, record: &Record) -> Option<LeadNote> {
    let facts = member.facts.as_ref()?;
    let able = !facts.in_recovery && !facts.read_only && facts.bdr.is_none();
    let up = member.health.observed() == Observed::Up && member.fence.is_none();
    let note = LeadNote::of(record, facts.system_identifier?);
    let lacking = match &facts.note {
        None => true,
        Some(known) if known.server != note.server => true,
        Some(known) => known.cluster == note.cluster && known.epoch < note.epoch,
    };
    (able && up && lacking).then_some(note)
}
