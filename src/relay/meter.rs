//! What a session shows of itself while it relays: written by its task alone, read by anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Activity, HoldId};
use crate::wire::error::SqlState;

/// Errors that say something about the node, and not only about the statement.
const TELLING: [SqlState; 5] = [
    SqlState::READ_ONLY_SQL_TRANSACTION,
    SqlState::DISK_FULL,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::CANNOT_CONNECT_NOW,
];

/// What a standby says once it is none any more, with the next answer to a session (PostgreSQL 14
/// and later).
const PROMOTED: &[u8] = b"in_hot_standby\0off\0";

/// Hears what is a reason to look at the server's node. Must not block.
pub trait Telltale: std::fmt::Debug + Send + Sync {
    /// The server told its client 25006, 53100, 57P01, 57P02 or 57P03 just now.
    fn server_said(&self, sqlstate: SqlState);
    /// The server has been promoted.
    fn server_promoted(&self);
}

/// Counters and state of one session. One writer: a load and a store need no locked instruction.
#[derive(Debug)]
pub struct Meter {
    origin: Instant,
    activity: AtomicU8,
    /// Microseconds from `origin` to the last change of `activity`.
    since_us: AtomicU64,
    /// [`HoldId`] of the hold that the session is parked for; 0: it is not.
    parked: AtomicU32,
    queries: AtomicU64,
    xacts: AtomicU64,
    query_us: AtomicU64,
    xact_us: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// Rung whenever the session parks or goes on.
    bell: Arc<watch::Sender<u64>>,
    telltale: Box<dyn Telltale>,
}

/// A reading of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// ReadyForQuery that were passed on.
    pub queries: u64,
    /// Those with status `I`.
    pub xacts: u64,
    /// Microseconds with a query unanswered.
    pub query_us: u64,
    /// Microseconds in transactions.
    pub xact_us: u64,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
}

impl Meter {
    /// A session that has just been given a server.
    pub fn new(bell: Arc<watch::Sender<u64>>, telltale: Box<dyn Telltale>) -> Self {
        Self {
            origin: Instant::now(),
            activity: AtomicU8::new(Activity::Idle as u8),
            since_us: AtomicU64::new(0),
            parked: AtomicU32::new(0),
            queries: AtomicU64::new(0),
            xacts: AtomicU64::new(0),
            query_us: AtomicU64::new(0),
            xact_us: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            bell,
            telltale,
        }
    }

    /// What the session does, and for how long it has.
    pub fn activity(&self) -> (Activity, Duration) {
        let activity = match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Idle,
            1 => Activity::Active,
            _ => Activity::IdleInTransaction,
        };
        let since = Duration::from_micros(self.since_us.load(Ordering::Relaxed));
        (activity, self.origin.elapsed().saturating_sub(since))
    }

    /// Is the session parked for this hold?
    pub fn is_parked(&self, hold: HoldId) -> bool {
        self.parked.load(Ordering::Acquire) == hold.get()
    }

    /// The counters.
    pub fn read(&self) -> Reading {
        Reading {
            queries: self.queries.load(Ordering::Relaxed),
            xacts: self.xacts.load(Ordering::Relaxed),
            query_us: self.query_us.load(Ordering::Relaxed),
            xact_us: self.xact_us.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    /// Microseconds since the session got its server.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn set_activity(&self, activity: Activity, now_us: u64) {
        self.activity.store(activity as u8, Ordering::Relaxed);
        self.since_us.store(now_us, Ordering::Relaxed);
    }

    pub(super) fn set_parked(&self, hold: Option<HoldId>) {
        let word = hold.map_or(0, HoldId::get);
        if self.parked.swap(word, Ordering::AcqRel) != word {
            self.bell
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// `body`: the part of an `ErrorResponse` that is there.
    pub(super) fn note_error(&self, body: &[u8]) {
        if let Some(sqlstate) = SqlState::of_error(body).filter(|code| TELLING.contains(code)) {
            self.telltale.server_said(sqlstate);
        }
    }

    /// `body`: the part of a `ParameterStatus` that is there.
    pub(super) fn note_parameter(&self, body: &[u8]) {
        if body == PROMOTED {
            self.telltale.server_promoted();
        }
    }

    pub(super) fn count_query(&self, took_us: u64) {
        add(&self.queries, 1);
        add(&self.query_us, took_us);
    }

    pub(super) fn count_xact(&self, took_us: u64) {
        add(&self.xacts, 1);
        add(&self.xact_us, took_us);
    }

    pub(super) fn count_received(&self, bytes: usize) {
        add(&self.received, bytes as u64);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        add(&self.sent, bytes as u64);
    }
}

/// Correct because only the session's own task writes.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(amount),
        Ordering::Relaxed,
    );
}
