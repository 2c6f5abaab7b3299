//! What the demo counts, and whether that is good.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::ledger::{Failure, Interval, Nature, Verdict, Work};

/// The figures of the last line.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) switchovers: u64,
    pub(crate) aborted: u64,
    /// By an operator.
    pub(crate) failovers: u64,
    /// From each kill to the first write that was acknowledged after it.
    automatic: Vec<Duration>,
    clients: usize,
    acknowledged: u64,
    lost: u64,
    /// Acknowledged writes that the new lead did not have when it took over from a dead one. They
    /// were on the dead one's disk, and came back with it.
    lost_unconfirmed: u64,
    overlap: u64,
    errors: u64,
    reconnects: u64,
    /// Longest wait of each client in each switchover, sorted.
    holds: Vec<Duration>,
    problems: Vec<String>,
}

impl Tally {
    pub(crate) fn new(clients: usize) -> Self {
        Self {
            switchovers: 0,
            aborted: 0,
            failovers: 0,
            automatic: Vec::new(),
            clients,
            acknowledged: 0,
            lost: 0,
            lost_unconfirmed: 0,
            overlap: 0,
            errors: 0,
            reconnects: 0,
            holds: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Something that should not be.
    pub(crate) fn problem(&mut self, text: &str) {
        self.problems.push(text.to_owned());
    }

    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// A switchover is complete and every client was served again.
    pub(crate) fn switched(&mut self, interval: &Interval) {
        self.switchovers += 1;
        self.holds.extend(&interval.longest);
        self.holds.sort_unstable();
    }

    /// The lead was replaced without an operator.
    pub(crate) fn failed_over_by_itself(&mut self, first_write: Duration) {
        self.automatic.push(first_write);
        self.automatic.sort_unstable();
    }

    /// Takes over what the clients and the databases say.
    pub(crate) fn judge(&mut self, work: &Work, verdict: &Verdict, late: &BTreeSet<i64>) {
        self.acknowledged = verdict.acknowledged;
        self.lost = verdict.lost;
        self.overlap = verdict.overlap;
        self.errors = work.errors().count() as u64;
        self.reconnects = work.reconnects();
        let acknowledged = work.acknowledged.iter();
        self.lost_unconfirmed = acknowledged.filter(|a| late.contains(&a.id)).count() as u64;
        let changes = self.switchovers + self.failovers + self.automatic.len() as u64;
        if !verdict.is_clean(changes) {
            self.problem(&format!(
                "the databases say, for {changes} changes: {verdict:?}"
            ));
        }
        for failure in work.errors().take(5) {
            self.problem(&describe(failure));
        }
        for interval in &work.intervals {
            // A failover of asynchronous replication may leave the latest writes behind until the
            // dead node is back: those are the late ones.
            let may_miss = if interval.nature == Nature::Unplanned {
                late.len() as u64
            } else {
                0
            };
            if interval.missing_at_release > may_miss {
                self.problem(&format!(
                    "{}: {} acknowledged writes were not there after it",
                    interval.name, interval.missing_at_release
                ));
            }
        }
        for name in work.idle_intervals() {
            self.problem(&format!(
                "{name}: a client wrote nothing, so it proves nothing"
            ));
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.problems.is_empty()
            && (self.switchovers, self.aborted) == (4, 1)
            && (self.failovers, self.automatic.len()) == (1, 1)
            && (self.lost, self.overlap, self.errors) == (0, 0, 0)
    }

    /// The line for machines.
    pub(crate) fn line(&self) -> String {
        format!(
            "demo: {} switchovers={} aborted={} failovers={} clients={} acknowledged={} lost={} \
             overlap={} errors={} reconnects={} hold_ms_p50={} hold_ms_max={} auto_failovers={} \
             failover_ms={} lost_unconfirmed={}",
            if self.passed() { "PASS" } else { "FAIL" },
            self.switchovers,
            self.aborted,
            self.failovers,
            self.clients,
            self.acknowledged,
            self.lost,
            self.overlap,
            self.errors,
            self.reconnects,
            median(&self.holds).as_millis(),
            self.holds.last().copied().unwrap_or_default().as_millis(),
            self.automatic.len(),
            self.automatic
                .last()
                .copied()
                .unwrap_or_default()
                .as_millis(),
            self.lost_unconfirmed,
        )
    }
}

/// What each event meant to the clients.
pub(crate) fn table(work: &Work) -> Vec<Vec<String>> {
    let heading = [
        "event",
        "writes",
        "reconnects",
        "errors",
        "hold p50 ms",
        "hold max ms",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for interval in &work.intervals {
        if interval.nature == Nature::Calm {
            continue;
        }
        let mut waits = interval.longest.clone();
        waits.sort_unstable();
        rows.push(vec![
            interval.name.clone(),
            interval.acknowledged.to_string(),
            interval.reconnects.to_string(),
            interval.failures.len().to_string(),
            median(&waits).as_millis().to_string(),
            waits
                .last()
                .copied()
                .unwrap_or_default()
                .as_millis()
                .to_string(),
        ]);
    }
    rows
}

fn median(sorted: &[Duration]) -> Duration {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn describe(failure: &Failure) -> String {
    format!(
        "client {}: {} failed: {} {}",
        failure.writer, failure.step, failure.sqlstate, failure.message
    )
}
