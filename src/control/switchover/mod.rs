//! Switchover and failover as one pure state machine: events and the time in, actions out.
//!
//! ```text
//!                    switchover                                failover
//!  preflight   Preflight ──refused──► end              Preflight (is the lead really down?)
//!      │           │                                        │
//!  prewarm     Prewarm (best effort; not on a standby)      │
//!      │           │                                        │
//!  hold        Hold: the gate is closed                   Hold
//!      │           │                                        │
//!  drain       Drain ⟲ until all are parked               Stop, Drain ⟲ until all are closed
//!      │           │   timeout: abort | cancel | terminate  │
//!  quiesce     Backends ⟲ idle or gone on the old lead    Backends ⟲ only if the lead answers
//!      │           │                                        │
//!  catch_up    Capture G, Gate ⟲, Durable, Clock ⟲        Applied ⟲ all it received, Durable
//!      │           │                                        │
//!  promote     Promote, Promotion ⟲ (physical only)       the same
//!      │           │
//!  ════════════════╪═══════ before this line every failure aborts: Resume at the old lead ═══
//!      │           │        (except after pg_promote was sent: there only forward)
//!  commit      Persist ⟲ until it is known what is on disk
//!      │           │
//!  release     Open at the new lead ──► end
//! ```
//!
//! Every task has a ticket; an answer with another ticket than the current one (late, of an
//! earlier try) is dropped. Every state has a wake-up ([`Machine::wake`]); the phase's deadline
//! also ends a task that is never answered.
//!
//! **Durable commit.** `NotWritten` is certain, so the switchover is aborted and the old lead goes
//! on. `Unknown` (the rename was done but the directory was not synced) may or may not survive a
//! crash. Resuming at the old lead would be wrong if it does, opening at the new one if it does
//! not. So the clients stay held and the *same* record is written again until the store answers;
//! writing is idempotent. Should the process die meanwhile, the record found at the next start
//! decides, and both answers are right, because nobody was served in between.

mod machine;
mod timeouts;

pub use machine::Machine;

use std::time::Duration;

use crate::cluster::Epoch;
use crate::config::{NodeName, OnDrainTimeout};

/// Time since any fixed origin; only ever compared with its like.
pub type Now = Duration;

/// What operation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Planned: no acknowledged commit is lost.
    Switchover,
    /// Unplanned: the lead is gone, or given up.
    Failover,
}

impl Kind {
    /// As reports and events have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }
}

/// The phases that an operator sees and that have a deadline each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is touched yet.
    Preflight,
    /// Server connections are opened on the target.
    Prewarm,
    /// The gate closes.
    Hold,
    /// Sessions go to their safe points.
    Drain,
    /// The old lead's backends are seen idle or gone.
    Quiesce,
    /// The target applies the captured LSN.
    CatchUp,
    /// A physical target leaves recovery.
    Promote,
    /// The decision becomes durable.
    Commit,
    /// Clients go to the new lead.
    Release,
    /// Over.
    Done,
}

impl Phase {
    /// As reports and events have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Prewarm => "prewarm",
            Self::Hold => "hold",
            Self::Drain => "drain",
            Self::Quiesce => "quiesce",
            Self::CatchUp => "catch_up",
            Self::Promote => "promote",
            Self::Commit => "commit",
            Self::Release => "release",
            Self::Done => "done",
        }
    }
}

/// What the machine wants to have done or known. Each is answered by [`Event::Answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// All checks that cost no client anything. Answer: `Cleared` or `Failed`.
    Preflight,
    /// Open server connections on the target. Any answer will do.
    Prewarm,
    /// Close the gate.
    Hold,
    /// Failover: stop all sessions on the old lead now.
    Stop,
    /// Are there sessions that have not reached their safe point, or logins in progress?
    Drain,
    /// On the old lead: is every parked backend idle and every departed one gone?
    Backends,
    /// Capture G, once, by a statement that commits on the old lead.
    Capture,
    /// Has the target applied G?
    Gate,
    /// Failover: has the target applied all that it received?
    Applied,
    /// A synchronous commit on the target, so that what was applied survives a crash.
    Durable,
    /// Has the target's clock passed the marker's timestamp?
    Clock,
    /// Send `pg_promote`. `Failed`: certainly not sent or refused; `NotYet`: perhaps sent.
    Promote,
    /// Has the target left recovery and does it take writes?
    Promotion,
    /// Write the record of the new lead. Answers: `Done`, `Failed` (certainly nothing was
    /// written), `NotYet` (unknown), `Superseded`.
    Persist,
    /// Open the gate at the new lead.
    Open,
}

impl Task {
    const fn phase(self) -> Phase {
        match self {
            Self::Preflight => Phase::Preflight,
            Self::Prewarm => Phase::Prewarm,
            Self::Hold => Phase::Hold,
            Self::Stop | Self::Drain => Phase::Drain,
            Self::Backends => Phase::Quiesce,
            Self::Capture | Self::Gate | Self::Applied | Self::Durable | Self::Clock => {
                Phase::CatchUp
            }
            Self::Promote | Self::Promotion => Phase::Promote,
            Self::Persist => Phase::Commit,
            Self::Open => Phase::Release,
        }
    }
}

/// Ties an answer to the try that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What preflight found out about the way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent findings, each of which adds or leaves out a task"
)]
pub struct Findings {
    /// The gate waits for `flush_lsn` and must be nudged (no marker table).
    pub nudge: bool,
    /// The apply worker commits asynchronously and the gate does not prove durability.
    pub durable: bool,
    /// Last-update-wins is possible: wait for the target's clock.
    pub clock: bool,
    /// The target is in recovery.
    pub promote: Promotion,
    /// Failover: the lead still answers, so its backends can be checked.
    pub lead_answers: bool,
    /// Failover: a target that does not end applying is taken all the same.
    pub loss_accepted: bool,
}

/// How a target becomes writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Promotion {
    /// It is.
    #[default]
    NotNeeded,
    /// Somebody else promotes it.
    Awaited,
    /// We send `pg_promote`.
    Sent,
}

/// How a task came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done; yes.
    Done,
    /// Preflight found nothing to refuse.
    Cleared(Findings),
    /// No, for this reason; ask again.
    NotYet(String),
    /// It cannot be done.
    Failed(String),
    /// The store holds a decision that is not ours.
    Superseded(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time went by; due at [`Machine::wake`].
    Tick,
    /// The drain status may have changed.
    DrainChanged,
    /// A task came to an end.
    Answer(Ticket, Answer),
    /// The monitor or the gate's connection found the old lead gone.
    LeadLost(String),
    /// The same of the target.
    TargetLost(String),
    /// An operator gives up. See [`Machine::may_abort`].
    Abort,
}

/// What the driver has to do now, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin a task; its end is told as [`Event::Answer`] with this ticket. An older one still
    /// running may be dropped, except `Persist`.
    Begin(Ticket, Task),
    /// Send cancel requests to the blockers' backends.
    CancelBlockers,
    /// Close the blockers' sessions.
    StopBlockers,
    /// Note who did not come to a safe point: for their sake it is given up.
    NameBlockers,
    /// Make replication feedback come: a message on the target, then on the lead.
    Nudge,
    /// Close what prewarm opened.
    ClosePrewarmed,
    /// Back to the old lead as if nothing had been. For a failover: let the verdict on the
    /// recorded lead hold again.
    Resume,
    /// The store has another decision: load it and obey.
    Adopt,
    /// Something an operator should read.
    Warn(String),
    /// The operation is over; [`Machine::outcome`] says how.
    Report,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The target is lead.
    Completed,
    /// The old lead holds.
    Aborted {
        /// In which phase.
        phase: Phase,
        /// Why.
        why: String,
    },
}

/// Longest times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all checks.
    pub preflight: Duration,
    /// Of opening connections on the target.
    pub prewarm: Duration,
    /// Until all sessions are parked.
    pub drain: Duration,
    /// After cancel or terminate.
    pub force: Duration,
    /// Until the old lead's backends are idle or gone.
    pub quiesce: Duration,
    /// Until the target has G, durably, and its clock has passed.
    pub catchup: Duration,
    /// Until the target takes writes.
    pub promote: Duration,
    /// A commit or promotion without answer is reported after this, and unknown commits are
    /// tried again.
    pub retry: Duration,
    /// Between two questions while waiting for sessions and backends.
    pub poll: Duration,
    /// Between two questions to the gate.
    pub gate_poll: Duration,
    /// Between two nudges.
    pub nudge: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            preflight: Duration::from_secs(15),
            prewarm: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            force: Duration::from_secs(2),
            quiesce: Duration::from_secs(5),
            catchup: Duration::from_secs(10),
            promote: Duration::from_mins(1),
            retry: Duration::from_millis(250),
            poll: Duration::from_millis(5),
            gate_poll: Duration::from_millis(1),
            nudge: Duration::from_millis(5),
        }
    }
}

/// What is to be done. Fixed when the operation begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Planned or not.
    pub kind: Kind,
    /// The lead by record.
    pub from: NodeName,
    /// Who shall be lead.
    pub to: NodeName,
    /// The epoch that will hold: the recorded one plus one.
    pub epoch: Epoch,
    /// What to do with blockers.
    pub on_drain_timeout: OnDrainTimeout,
    /// Longest times.
    pub limits: Limits,
}

#[cfg(test)]
mod tests;
