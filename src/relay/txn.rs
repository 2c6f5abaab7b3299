//! Where a session stands, known from message headers alone. Pure.
//!
//! The question it answers is [`Txn::is_safe`]: has the server said ReadyForQuery `I`, and is
//! nothing that was sent since still unanswered? The answer may be "no" when it is "yes" (after
//! protocol abuse), never the other way round.
//!
//! ```text
//!            Query, Sync, FunctionCall           ReadyForQuery I
//!   safe ───────────────────────────▶ awaiting ─────────────────▶ safe
//!    │ Parse, Bind, ... (no Sync yet)    ▲ │ ReadyForQuery T, E
//!    └──────────▶ unsynced ──── Sync ────┘ └────────▶ in transaction ── Query ──▶ awaiting
//! ```
//!
//! A COPY makes it uncertain which requests are answered: the server ignores a Sync that it meets
//! in COPY IN, and whether it met one before or after the COPY failed cannot be seen from outside
//! (PostgreSQL manual, 55.2.7 "COPY Operations"). After an error in the extended protocol it skips
//! everything up to the next Sync, a Query too. Such requests are kept as *doubtful*. A doubtful
//! Sync with nothing of the extended protocol before it is the one thing that may be unread at a
//! safe point: whether it is answered or was ignored, it changes nothing.

use std::collections::VecDeque;

use crate::wire::message::TxStatus;

/// What a session is doing, for SHOW CLIENTS and for naming a blocker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Between transactions.
    Idle = 0,
    /// A statement runs.
    Active = 1,
    /// In a transaction, no statement runs.
    IdleInTransaction = 2,
}

/// What is known of the fate of the work that was in flight when the server was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// Nothing was.
    Nothing,
    /// It was in a transaction block whose COMMIT was not yet sent: it is rolled back.
    Lost,
    /// It may have been committed.
    Unknown,
}

/// A request that ends in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Query or `FunctionCall`: answered even if it starts COPY IN.
    Query,
    /// Sync: ignored by the server if it meets it in COPY IN.
    Sync,
}

/// An unanswered request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    kind: Ends,
    /// It may have been answered, ignored or skipped already.
    doubtful: bool,
    /// Parse, Bind and the like came between the request before and this one.
    grouped: bool,
    /// The server met it in COPY IN, if that COPY succeeds.
    in_copy: bool,
}

impl Asked {
    /// Does it change nothing, whether the server reads it or not?
    fn is_idle(self) -> bool {
        self.doubtful && self.kind == Ends::Sync && !self.grouped
    }
}

/// COPY IN or BOTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    No,
    /// The server asked for data; the client has not ended it.
    In,
    /// The client has ended it; the server has not said how it ended.
    Ended,
}

/// More unanswered requests than the socket buffers between client and server hold; whoever gets
/// here is never at a safe point again.
const ASKED_MAX: usize = 1 << 18;

/// Tracks one server connection's conversation.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one thing that was seen on the wire, independent of the others"
)]
pub struct Txn {
    status: TxStatus,
    /// Unanswered requests, oldest first. Those that the server has still to answer are among
    /// them, and there are never fewer of them than of those.
    asked: VecDeque<Asked>,
    /// Extended-protocol messages were sent since the last request that ends in `ReadyForQuery`, or
    /// a COPY swallowed the Sync that would have ended them.
    unsynced: bool,
    /// The former: what the next Sync is [`Asked::grouped`] by.
    grouped: bool,
    /// A Query went out without a Sync behind the extended-protocol messages before it: it, and
    /// all up to the next Sync, may be skipped.
    skippable: bool,
    copy: Copy,
    /// `CopyDone` or `CopyFail` went out while no COPY IN was known, with requests unanswered.
    early_copy_end: bool,
    /// When COPY succeeds, what is marked `in_copy` was swallowed for certain.
    copy_is_certain: bool,
    /// Something unanswered may commit (a COMMIT, or a statement outside a transaction block).
    may_commit: bool,
    /// The server broke the rules (a `ReadyForQuery` that nobody asked for): never safe again.
    lost_track: bool,
}

impl Default for Txn {
    fn default() -> Self {
        Self {
            status: TxStatus::Idle,
            asked: VecDeque::new(),
            unsynced: false,
            grouped: false,
            skippable: false,
            copy: Copy::No,
            early_copy_end: false,
            copy_is_certain: false,
            may_commit: false,
            lost_track: false,
        }
    }
}

impl Txn {
    /// A message header went from the client to the server. `head` is what is at hand of the body,
    /// `whole`: it is all of it.
    pub fn client_sent(&mut self, tag: u8, head: &[u8], whole: bool) {
        match tag {
            b'Q' | b'F' => self.query(head, whole),
            b'S' => self.sync(),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => {
                self.unsynced = true;
                self.grouped |= tag != b'H';
                // A prepared statement's text was seen long ago, if at all.
                self.may_commit |= tag == b'E' || self.status == TxStatus::Idle;
            }
            b'c' | b'f' => self.copy_end(),
            _ => {}
        }
    }

    /// A message header came from the server (ReadyForQuery: see [`Txn::ready`]).
    pub fn server_sent(&mut self, tag: u8) {
        match tag {
            // Asynchronous: they answer nothing.
            b'N' | b'A' | b'S' => {}
            b'E' => {
                self.settle_idle();
                self.copy = Copy::No;
            }
            b'G' | b'W' => {
                self.settle_idle();
                self.copy_in();
            }
            b'C' => {
                self.settle_idle();
                self.copy_done();
            }
            _ => self.settle_idle(),
        }
    }

    /// ReadyForQuery came.
    pub fn ready(&mut self, status: TxStatus) {
        self.status = status;
        self.copy = Copy::No;
        match self.asked.pop_front() {
            // It may have answered one of those behind, up to the first that was due for certain.
            Some(first) if first.doubtful => {
                for asked in &mut self.asked {
                    let last = !asked.doubtful;
                    asked.doubtful = true;
                    if last {
                        break;
                    }
                }
            }
            Some(_) => {}
            None => self.lost_track = true,
        }
        if !self.is_awaiting() {
            self.early_copy_end = false;
            self.may_commit = false;
        }
    }

    /// Status `I`, nothing unanswered, no extended-protocol message without its Sync.
    pub fn is_safe(&self) -> bool {
        self.status == TxStatus::Idle && !self.is_awaiting() && !self.lost_track
    }

    /// The last status that the server told.
    pub fn status(&self) -> TxStatus {
        self.status
    }

    /// Is an answer outstanding?
    pub fn is_awaiting(&self) -> bool {
        self.unsynced || self.copy != Copy::No || !self.asked.iter().all(|asked| asked.is_idle())
    }

    /// Is there a request that the server is certain to end with ReadyForQuery, without more data?
    pub fn owes(&self) -> bool {
        self.copy == Copy::No && self.asked.iter().any(|asked| !asked.doubtful)
    }

    /// Is there something unanswered, and will the server answer it without hearing more from the
    /// client?
    pub fn answers_come(&self) -> bool {
        let due = self.asked.back().is_some_and(|last| !last.doubtful);
        due && !self.unsynced && self.copy != Copy::In
    }

    /// For people.
    pub fn activity(&self) -> Activity {
        match self.status {
            _ if self.is_awaiting() => Activity::Active,
            TxStatus::Idle => Activity::Idle,
            TxStatus::InTransaction | TxStatus::Failed => Activity::IdleInTransaction,
        }
    }

    /// The server is gone: what became of the work?
    pub fn in_flight(&self) -> InFlight {
        match (self.is_awaiting(), self.status, self.may_commit) {
            (false, TxStatus::Idle, _) => InFlight::Nothing,
            (false, _, _) | (true, _, false) => InFlight::Lost,
            (true, _, true) => InFlight::Unknown,
        }
    }

    fn query(&mut self, head: &[u8], whole: bool) {
        self.skippable |= self.unsynced;
        self.ask(Ends::Query, self.skippable);
        let outside_block = self.status == TxStatus::Idle;
        self.may_commit |= outside_block || !whole || names_commit(head) || has_second(head);
    }

    fn sync(&mut self) {
        self.skippable = false;
        self.ask(Ends::Sync, self.copy == Copy::In);
    }

    fn ask(&mut self, kind: Ends, doubtful: bool) {
        // A Sync in COPY IN ends nothing: if it is ignored, its round goes on.
        self.unsynced &= kind == Ends::Sync && self.copy == Copy::In;
        if self.asked.len() >= ASKED_MAX {
            self.lost_track = true;
            return;
        }
        self.asked.push_back(Asked {
            kind,
            doubtful: doubtful || self.copy == Copy::In,
            grouped: self.grouped,
            in_copy: self.copy == Copy::In,
        });
        self.grouped = false;
    }

    fn copy_end(&mut self) {
        match self.copy {
            Copy::In => self.copy = Copy::Ended,
            // It may be the end of the next COPY.
            Copy::No | Copy::Ended => self.early_copy_end |= self.is_awaiting(),
        }
    }

    /// The server stands in the oldest unanswered request and reads COPY data from here on: what
    /// was sent behind it is ignored (or ends the connection), unless the COPY fails before it is
    /// read, or the client ended the COPY before.
    fn copy_in(&mut self) {
        let front = self.asked.front().copied();
        self.copy_is_certain = !self.early_copy_end && front.is_none_or(|front| !front.doubtful);
        self.copy = if self.early_copy_end {
            Copy::Ended
        } else {
            Copy::In
        };
        // The Sync of a COPY in the extended protocol stands behind it, a Query is the COPY itself.
        let behind = usize::from(front.is_some_and(|front| front.kind == Ends::Query));
        // A swallowed Sync leaves its round open.
        self.unsynced |= behind == 0 && !self.early_copy_end;
        for asked in self.asked.iter_mut().skip(behind) {
            asked.doubtful = true;
            asked.in_copy = true;
        }
    }

    /// A statement is complete. If it was a COPY, it read everything up to the CopyDone.
    fn copy_done(&mut self) {
        if self.copy == Copy::Ended && self.copy_is_certain {
            self.asked.retain(|asked| !asked.in_copy);
        }
        self.copy = Copy::No;
    }

    /// The server says something that a Sync with nothing to end never causes (such a Sync cannot
    /// even fail): those in front are behind it.
    fn settle_idle(&mut self) {
        while self.asked.front().is_some_and(|asked| asked.is_idle()) {
            self.asked.pop_front();
        }
    }
}

/// Does the text begin with a word that ends a transaction for good?
fn names_commit(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    // A comment, or something that only PostgreSQL takes for white space.
    let strange = text.first().is_some_and(|byte| !byte.is_ascii_alphabetic());
    strange
        || [&b"commit"[..], b"end", b"prepare"].iter().any(|word| {
            text.get(..word.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(word))
        })
}

/// Does anything follow a `;`?
fn has_second(text: &[u8]) -> bool {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0 || *byte == b';';
    let rest = text.iter().skip_while(|byte| **byte != b';');
    !rest.into_iter().all(blank)
}

#[cfg(test)]
#[path = "txn_tests.rs"]
mod tests;
