//! What the clients know in the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is happening to the servers meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Nothing.
    Calm,
    /// Something that no client may notice but by a 57P01 at a safe point and a wait.
    Planned,
    /// A server was killed: statements may fail.
    Unplanned,
}

/// What happened to the clients between two calls of [`super::Workload::begin`].
#[derive(Debug, Clone)]
pub struct Interval {
    pub name: String,
    pub nature: Nature,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Sessions that were told 57P01 where no statement of theirs was running.
    pub reconnects: u64,
    /// Statements and logins that failed otherwise.
    pub failures: Vec<Failure>,
    /// Own acknowledged writes that a client did not see on its next connection.
    pub missing_at_release: u64,
    /// For each writer the longest wait from sending a write to its acknowledgement.
    pub longest: Vec<Duration>,
    /// When the interval began: with [`super::Workload::strike`] that is just before the fault.
    pub began: Instant,
    /// For each writer and each node that served it, the time from `began` to the first write
    /// that it acknowledged.
    pub served: Vec<BTreeMap<String, Duration>>,
}

/// How long clients were without service after a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Until any writer had a write acknowledged.
    pub first: Duration,
    /// Until the last writer had.
    pub last: Duration,
}

impl Interval {
    /// From the fault until writes were acknowledged by a node other than the one it hit (`""`:
    /// by any). None when a writer has not been served yet.
    ///
    /// A write that the victim did just before it died may be acknowledged just after; that the
    /// server says who it is keeps such a one out.
    pub fn outage(&self, victim: &str) -> Option<Outage> {
        let waits = self.served.iter().map(|served| {
            let others = served.iter().filter(|(node, _)| *node != victim);
            others.map(|(_, wait)| *wait).min()
        });
        let waits = waits.collect::<Option<Vec<Duration>>>()?;
        Some(Outage {
            first: waits.iter().copied().min()?,
            last: waits.iter().copied().max()?,
        })
    }
}

/// Something that a client did not expect.
#[derive(Debug, Clone)]
pub struct Failure {
    pub writer: usize,
    /// The step of the write that failed.
    pub step: &'static str,
    /// Empty when the connection broke without a word.
    pub sqlstate: String,
    pub message: String,
}

/// A write that was acknowledged, and the counter value that the client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    pub id: i64,
    pub key: i32,
    pub value: i64,
}

/// All that the clients know in the end.
#[derive(Debug, Clone, Default)]
pub struct Work {
    pub acknowledged: Vec<Acknowledged>,
    /// Writes whose connection broke while their commit was under way.
    pub in_doubt: Vec<i64>,
    pub intervals: Vec<Interval>,
}

impl Work {
    /// The intervals of that nature.
    pub fn during(&self, nature: Nature) -> impl Iterator<Item = &Interval> {
        self.intervals
            .iter()
            .filter(move |interval| interval.nature == nature)
    }

    /// Failures where there should be none: while nothing happened, or something planned.
    pub fn errors(&self) -> impl Iterator<Item = &Failure> {
        self.intervals
            .iter()
            .filter(|interval| interval.nature != Nature::Unplanned)
            .flat_map(|interval| &interval.failures)
    }

    /// Sessions told to reconnect, over all.
    pub fn reconnects(&self) -> u64 {
        self.intervals
            .iter()
            .map(|interval| interval.reconnects)
            .sum()
    }

    /// Own acknowledged writes that clients did not see on their next connection, over all.
    pub fn missing_at_release(&self) -> u64 {
        self.intervals
            .iter()
            .map(|interval| interval.missing_at_release)
            .sum()
    }

    /// An interval in which a writer wrote nothing proves nothing.
    pub fn idle_intervals(&self) -> Vec<&str> {
        let idle = |interval: &&Interval| interval.longest.iter().any(Duration::is_zero);
        self.intervals
            .iter()
            .filter(idle)
            .map(|interval| interval.name.as_str())
            .collect()
    }
}
