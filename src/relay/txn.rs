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
//! How many answers are outstanding is kept as a range, since COPY makes it uncertain: a Sync that
//! the server meets in COPY IN mode is ignored, and whether it met one before or after the COPY
//! failed cannot be seen from outside (PostgreSQL manual, 55.2.7 "COPY Operations").

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
    /// Query or FunctionCall: answered even if it starts COPY IN.
    Query,
    /// Sync: ignored by the server if it meets it in COPY IN.
    Sync,
}

/// COPY as the client side of the session sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    No,
    /// The server asked for data; the client has not ended it.
    In,
}

/// More unanswered requests than anybody pipelines; beyond it their kinds are no longer kept.
const KINDS_MAX: usize = 4096;

/// Tracks one server connection's conversation.
#[derive(Debug)]
pub struct Txn {
    status: TxStatus,
    /// Kinds of the unanswered requests, oldest first. May be shorter than `most` (see
    /// [`KINDS_MAX`]); then nothing is known of the rest.
    kinds: VecDeque<Ends>,
    /// At least so many ReadyForQuery will still come.
    least: usize,
    /// At most so many. Invariant: `least <= most`.
    most: usize,
    /// Extended-protocol messages were sent since the last request that ends in ReadyForQuery.
    unsynced: bool,
    /// They were sent since the last Sync, and after an error in them the server skips everything
    /// up to the next one: a Query sent meanwhile may stay unanswered.
    may_skip: bool,
    copy: Copy,
    /// CopyDone or CopyFail went out while no COPY IN was known, with requests unanswered.
    early_copy_end: bool,
    /// Something unanswered may commit (a COMMIT, or a statement outside a transaction block).
    may_commit: bool,
    /// The server broke the rules (a ReadyForQuery that nobody asked for): never safe again.
    lost_track: bool,
}

impl Default for Txn {
    fn default() -> Self {
        Self {
            status: TxStatus::Idle,
            kinds: VecDeque::new(),
            least: 0,
            most: 0,
            unsynced: false,
            may_skip: false,
            copy: Copy::No,
            early_copy_end: false,
            may_commit: false,
            lost_track: false,
        }
    }
}

impl Txn {
    /// A message header went from the client to the server. `body` is what is at hand of the body.
    pub fn client_sent(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'Q' | b'F' => self.request(Ends::Query, body),
            b'S' => self.sync(),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => {
                self.unsynced = true;
                self.may_skip = true;
                self.note_commit(tag, body);
            }
            b'c' | b'f' => self.copy_end(),
            _ => {}
        }
    }

    /// A message header came from the server (ReadyForQuery: see [`Txn::ready`]).
    pub fn server_sent(&mut self, tag: u8) {
        match tag {
            b'G' | b'W' => self.copy_in(),
            // The server has left COPY IN: with an error, or because it is done.
            b'E' | b'C' => self.copy = Copy::No,
            _ => {}
        }
    }

    /// ReadyForQuery came.
    pub fn ready(&mut self, status: TxStatus) {
        if self.most == 0 {
            self.lost_track = true;
        }
        self.status = status;
        self.least = self.least.saturating_sub(1);
        self.most = self.most.saturating_sub(1);
        self.kinds.pop_front();
        self.copy = Copy::No;
        if self.most == 0 {
            self.early_copy_end = false;
            if !self.unsynced {
                self.may_commit = false;
                self.may_skip = false;
            }
        }
    }

    /// Status `I`, nothing unanswered, no extended-protocol message without its Sync.
    pub fn is_safe(&self) -> bool {
        self.status == TxStatus::Idle && self.most == 0 && !self.unsynced && !self.lost_track
    }

    /// The last status that the server told.
    pub fn status(&self) -> TxStatus {
        self.status
    }

    /// Is an answer outstanding?
    pub fn is_awaiting(&self) -> bool {
        self.most > 0 || self.unsynced
    }

    /// Will the server answer all that it was asked without hearing more from the client?
    pub fn answers_come(&self) -> bool {
        self.least > 0 && !self.unsynced && self.copy == Copy::No
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

    fn request(&mut self, kind: Ends, body: &[u8]) {
        if !self.may_skip {
            self.least += 1;
        }
        self.expect(kind);
        self.unsynced = false;
        self.note_commit(b'Q', body);
    }

    fn sync(&mut self) {
        self.unsynced = false;
        if self.copy == Copy::No {
            self.least += 1;
            self.may_skip = false;
        }
        self.expect(Ends::Sync);
    }

    fn expect(&mut self, kind: Ends) {
        self.most += 1;
        if self.kinds.len() < KINDS_MAX && self.kinds.len() + 1 == self.most {
            self.kinds.push_back(kind);
        }
    }

    fn copy_end(&mut self) {
        if self.copy == Copy::No && self.most > 0 {
            self.early_copy_end = true;
        }
        self.copy = Copy::No;
    }

    /// The server stands in the oldest unanswered request and reads COPY data from here on: every
    /// Sync sent behind it is ignored, unless the client ended the COPY before it saw this message.
    fn copy_in(&mut self) {
        self.copy = if self.early_copy_end {
            Copy::No
        } else {
            Copy::In
        };
        let (least, most) = match self.kinds.front() {
            Some(Ends::Query) => (1, 1),
            Some(Ends::Sync) => (0, 0),
            None => (0, self.most),
        };
        self.least = least.min(self.least);
        if !self.early_copy_end {
            self.most = most;
            self.kinds.truncate(most);
            // The swallowed Sync leaves its round open.
            self.unsynced |= most == 0;
        }
    }

    fn note_commit(&mut self, tag: u8, body: &[u8]) {
        let outside_block = self.status == TxStatus::Idle;
        self.may_commit |= match tag {
            // Simple query: the text itself; several statements may hide a COMMIT behind a `;`.
            b'Q' => outside_block || names_commit(body) || has_second_statement(body),
            // A prepared statement's text was seen long ago, if at all.
            b'E' => true,
            _ => outside_block,
        };
    }
}

/// Does the text begin with a word that ends a transaction for good?
fn names_commit(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    [&b"commit"[..], b"end", b"prepare", b"/*", b"--"]
        .iter()
        .any(|word| {
            text.get(..word.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(word))
        })
}

/// Does anything follow a `;`?
fn has_second_statement(text: &[u8]) -> bool {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0 || *byte == b';';
    let rest = text.iter().skip_while(|byte| **byte != b';');
    !rest.into_iter().all(blank)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::{InFlight, TxStatus, Txn};

    /// `>` client, `<` server; Z is followed by its status, Q by its text.
    fn play(script: &str) -> Txn {
        let mut txn = Txn::default();
        for step in script.split_whitespace() {
            let (side, rest) = step.split_at(1);
            let tag = rest.as_bytes()[0];
            match (side, tag) {
                (">", _) => txn.client_sent(tag, &rest.as_bytes()[1..]),
                ("<", b'Z') => txn.ready(TxStatus::from_byte(rest.as_bytes()[1]).unwrap()),
                ("<", _) => txn.server_sent(tag),
                _ => panic!("bad step {step}"),
            }
        }
        txn
    }

    #[test]
    fn safe_points() {
        let cases: &[(&str, bool)] = &[
            ("", true),
            (">Q", false),
            (">Q <T <D <C <ZI", true),
            (">Q <C <ZT", false),
            (">Q <C <ZT >Q <C <ZI", true),
            (">Q <E <ZE", false),
            // Pipelined queries.
            (">Q >Q <C <ZI", false),
            (">Q >Q <C <ZI <C <ZI", true),
            // Extended: one Sync, error in the middle, pipelined.
            (">P >B >E", false),
            (">P >B >E >S", false),
            (">P >B >E >S <1 <2 <C <ZI", true),
            (">P >B >E >S >P >B >E >S <1 <2 <C <ZI", false),
            (">P >B >E >S >P >B >E >S <1 <E <ZI <E <ZI", true),
            // Flush is answered, but the implicit transaction is open.
            (">P >D >H <1 <t <T", false),
            (">P >D >H <1 <t <T >S <ZI", true),
            // An error without Sync leaves the server skipping.
            (">P <E", false),
            // A Close after the Sync opens a new round.
            (">S <ZI >C", false),
            // Asynchronous messages at idle change nothing.
            (">Q <C <ZI <A <N <S", true),
            // Simple COPY IN, ok and failed; late copy messages are ignored by the server.
            (">Q <G >d >c", false),
            (">Q <G >d >c <C <ZI", true),
            (">Q <G >d <E <ZI >d >c", true),
            (">Q <G >d <E <ZI >d >c >Q", false),
            // Extended COPY IN as libpq does it: the first Sync is swallowed.
            (">P >B >E >S <1 <2 <G", false),
            (">P >B >E >S <1 <2 <G >d >c", false),
            (">P >B >E >S <1 <2 <G >d <E", false),
            (">P >B >E >S <1 <2 <G >d >c >S", false),
            (">P >B >E >S <1 <2 <G >d >c >S <C <ZI", true),
            (">P >B >E >S <1 <2 <G >d <E >S <ZI", true),
            // A Sync into running COPY IN: perhaps ignored, so never called safe too early.
            (">Q <G >S >d >c <C <ZI", false),
            // COPY data and its end pipelined behind the query.
            (">Q >d >c <G <C <ZI", true),
            // COPY OUT and BOTH.
            (">Q <H <d <d <c <C", false),
            (">Q <H <d <d <c <C <ZI", true),
            (">Q <W <d >d", false),
            // FunctionCall.
            (">F <V", false),
            (">F <V <ZI", true),
            // A ReadyForQuery that nobody asked for.
            ("<ZI", false),
            (">Q <ZI <ZI >Q <ZI", false),
        ];
        for (script, safe) in cases {
            assert_eq!(play(script).is_safe(), *safe, "{script}");
        }
    }

    #[test]
    fn answers_that_come_without_another_word() {
        let cases: &[(&str, bool)] = &[
            (">Q", true),
            (">Q >Q <C <ZI", true),
            (">Q <C <ZI", false),
            (">P >B >E >S", true),
            (">P >B >E", false),
            (">P >H >Q", false),
            (">P >H >Q <C <ZI >Q", true),
            // The server skips all of them up to Sync, and answers that.
            (">P >Q >Q >F >S", true),
            (">P >Q >Q >F >S <E <ZI", false),
            (">P >Q >Q >F >S <E <ZI >Q", true),
            (">P >Q >Q >F >S <E <ZI >Q <C <ZI", false),
            // It wants data first.
            (">Q <G", false),
            (">Q <G >c", true),
        ];
        for (script, come) in cases {
            assert_eq!(play(script).answers_come(), *come, "{script}");
        }
    }

    #[test]
    fn fate_of_the_work_in_flight() {
        let cases = [
            ("", InFlight::Nothing),
            (">Qselect", InFlight::Unknown),
            (">Qbegin <C <ZT", InFlight::Lost),
            (">Qbegin <C <ZT >Qupdate", InFlight::Lost),
            (">Qbegin <C <ZT >Qupdate;\0", InFlight::Lost),
            (">Qbegin <C <ZT >QCOMMIT", InFlight::Unknown),
            (">Qbegin <C <ZT >QEnd", InFlight::Unknown),
            (">Qbegin <C <ZT >Qupdate;commit", InFlight::Unknown),
            (">Qbegin <C <ZT >B >E >S", InFlight::Unknown),
            (">Qbegin <C <ZT >Qcommit <C <ZI", InFlight::Nothing),
        ];
        for (script, fate) in cases {
            assert_eq!(play(script).in_flight(), fate, "{script}");
        }
    }
}
