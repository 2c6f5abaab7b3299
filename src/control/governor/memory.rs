//! Which decision holds: the record here, and the notes that the nodes keep of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::super::coordination::CommitError;
use super::super::lead_note::{self, LeadNote};
use super::super::member::Member;
use super::super::preflight;
use super::super::record::Record;
use super::super::verdict::first_lead;
use super::Governor;
use super::stance::GateState;
use crate::cluster::{Epoch, Observed};
use crate::config::{Candidate, EventKind, NodeName};
use crate::pool::HoldOwner;

/// A node that would not take its note is not asked again before.
const NOTE_PAUSE: Duration = Duration::from_secs(10);

/// What is known of the notes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The nodes remember a newer decision than the record here: nobody is served until it is
    /// clear which.
    doubt: Option<String>,
    writing: BTreeSet<NodeName>,
    writers: JoinSet<(NodeName, Result<(), String>)>,
    not_before: Option<Instant>,
}

impl Memory {
    /// Why nobody may be served, if so.
    pub(super) fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// A note was written, or not.
    pub(super) async fn written(
        &mut self,
    ) -> Option<Result<(NodeName, Result<(), String>), JoinError>> {
        self.writers.join_next().await
    }
}

impl Governor {
    /// Compares the record with what the nodes remember. A record that was lost, or that comes from
    /// an old copy, must not bring the lead back to where it was.
    pub(super) async fn remember(&mut self) {
        let known = self.record.as_ref().map_or(Epoch(0), |r| r.epoch);
        let Some(newest) = self.newest_note().filter(|note| note.epoch > known) else {
            self.memory.doubt = None;
            return;
        };
        if self.memory.doubt.is_none() {
            self.doubt(&newest, known);
        }
        // One that was not heard may remember something newer still.
        let heard = |m: &Member| m.facts.is_some() || m.candidate() == Candidate::Never;
        let member = self.members.get(&newest.lead).is_some();
        if member && self.members.nodes.iter().all(heard) {
            self.take_over(&newest).await;
        }
    }

    fn newest_note(&self) -> Option<LeadNote> {
        let cluster = &self.members.config.name;
        let notes = self.members.nodes.iter().filter_map(Member::note);
        let ours = notes.filter(|note| note.cluster == *cluster);
        ours.max_by_key(|note| note.epoch)
            .filter(|_| self.members.config.lead_note)
            .cloned()
    }

    fn doubt(&mut self, newest: &LeadNote, known: Epoch) {
        let (kind, have) = match &self.record {
            None => (EventKind::RecordLost, "there is no record here".to_owned()),
            Some(record) => (
                EventKind::RecordOutdated,
                format!("the record here says \"{}\", epoch {known}", record.node),
            ),
        };
        let why = format!(
            "the nodes remember lead \"{}\", epoch {}, but {have}",
            newest.lead, newest.epoch
        );
        self.tell(kind, Some(&newest.lead), false, why.clone());
        self.memory.doubt = Some(why);
        // Whoever is served may be on the wrong node.
        let cluster = &self.members.config.name;
        self.out.gates.hold(cluster, HoldOwner::NoLead);
        self.gate = GateState::Closed;
    }

    /// What the nodes remember holds from now on.
    pub(super) async fn take_over(&mut self, note: &LeadNote) {
        let record = Record {
            cluster: self.members.config.name.clone(),
            epoch: note.epoch,
            node: note.lead.clone(),
            since: SystemTime::now(),
            reason: "remembered".to_owned(),
            previous: self.lead_name(),
        };
        let follows = self.record.as_ref().map(|r| r.epoch);
        match self.out.store.commit(record.clone(), follows).await {
            Ok(()) => {
                self.memory.doubt = None;
                self.record = Some(record);
                self.decided_at = Some(Instant::now());
                let text = format!("as the nodes remember it, epoch {}", note.epoch);
                self.tell(EventKind::LeadChosen, Some(&note.lead), true, text);
            }
            Err(CommitError::Superseded(_)) => self.adopt().await,
            Err(error) => tracing::error!(%error, "the remembered lead cannot be recorded"),
        }
    }

    /// FAILOVER while the record is in doubt: the operator decides, on top of what is remembered.
    pub(super) async fn settle_doubt(&mut self) {
        if self.memory.doubt.is_some()
            && let Some(newest) = self.newest_note()
        {
            self.take_over(&newest).await;
        }
    }

    pub(super) async fn choose_first_lead(&mut self) {
        if self.record.is_some() || self.memory.doubt.is_some() {
            return;
        }
        // One that is still to be heard may remember a decision.
        let unheard = |m: &Member| {
            m.health.observed() == Observed::Unknown && m.candidate() != Candidate::Never
        };
        if self.members.config.lead_note && self.members.nodes.iter().any(unheard) {
            return;
        }
        let Some(node) = first_lead(&self.members.nominees()) else {
            return;
        };
        let record = Record {
            cluster: self.members.config.name.clone(),
            epoch: Epoch(1),
            node: node.clone(),
            since: SystemTime::now(),
            reason: "initial".to_owned(),
            previous: None,
        };
        match self.out.store.commit(record.clone(), None).await {
            Ok(()) => {
                self.record = Some(record);
                let detail = "highest priority of the nodes that are up".to_owned();
                self.tell(EventKind::LeadChosen, Some(&node), true, detail);
            }
            Err(CommitError::Superseded(_)) => self.adopt().await,
            Err(error) => {
                tracing::error!(cluster = %record.cluster, %error, "the lead cannot be recorded");
            }
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
        let decision = LeadNote::of(record);
        let takers = self.members.nodes.iter();
        for member in takers.filter(|m| takes_note(m, &decision)) {
            let name = member.config.name.clone();
            if !self.memory.writing.insert(name.clone()) {
                continue;
            }
            let (config, node) = (Arc::clone(&self.members.config), member.config.clone());
            let decision = decision.clone();
            self.memory.writers.spawn(async move {
                let written = match Box::pin(preflight::open(&config, &node)).await {
                    Ok(link) => lead_note::leave(&link, &decision)
                        .await
                        .map_err(|e| e.to_string()),
                    Err(why) => Err(why),
                };
                (name, written)
            });
        }
    }

    /// The next probe sees it; until then the node is not asked again.
    pub(super) fn note_left(&mut self, done: Result<(NodeName, Result<(), String>), JoinError>) {
        match done {
            Ok((node, Ok(()))) => {
                if let Some(member) = self.members.get_mut(&node) {
                    if let (Some(facts), Some(record)) = (&mut member.facts, &self.record) {
                        facts.note = Some(LeadNote::of(record));
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

/// A standby has its primary's. In BDR, ALTER ROLE is DDL that waits for all nodes. The note of
/// another cluster is another instance's: two that overwrote each other's would never end.
fn takes_note(member: &Member, note: &LeadNote) -> bool {
    let Some(facts) = &member.facts else {
        return false;
    };
    let able = !facts.in_recovery && !facts.read_only && facts.bdr.is_none();
    let known = facts.note.as_ref();
    let older = known.is_none_or(|known| known.cluster == note.cluster && known.epoch < note.epoch);
    member.health.observed() == Observed::Up && member.fence.is_none() && able && older
}
