//! STATS and its relatives: totals since start, averages of the last full stats period.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::Console;
use super::{Col, count, text};
use crate::config::DatabaseName;
use crate::pool::StatsSnapshot;

/// Averages, taken once every stats period.
#[derive(Debug, Default)]
pub(in crate::admin) struct Sampler {
    last: Option<(Instant, BTreeMap<DatabaseName, StatsSnapshot>)>,
    averages: BTreeMap<DatabaseName, StatsSnapshot>,
}

impl Sampler {
    /// Ends a period at `now` and begins the next.
    pub(in crate::admin) fn sample(
        &mut self,
        now: Instant,
        totals: Vec<(DatabaseName, StatsSnapshot)>,
    ) {
        let totals: BTreeMap<_, _> = totals.into_iter().collect();
        if let Some((then, before)) = &self.last {
            let period = now.saturating_duration_since(*then);
            self.averages = totals
                .iter()
                .map(|(name, total)| {
                    let before = before.get(name).copied().unwrap_or_default();
                    (name.clone(), average(&before, total, period))
                })
                .collect();
        }
        self.last = Some((now, totals));
    }

    fn average_of(&self, database: &DatabaseName) -> StatsSnapshot {
        self.averages.get(database).copied().unwrap_or_default()
    }
}

/// Counts and bytes per second; times per transaction, query and assignment (PgBouncer's rules).
fn average(before: &StatsSnapshot, now: &StatsSnapshot, period: Duration) -> StatsSnapshot {
    let delta = |get: fn(&StatsSnapshot) -> u64| get(now).saturating_sub(get(before));
    let micros = period.as_micros().max(1);
    let per_second = |get| {
        let scaled = u128::from(delta(get)) * 1_000_000 / micros;
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    let per = |time, events| delta(time).checked_div(delta(events)).unwrap_or_default();
    StatsSnapshot {
        server_assignments: per_second(|s| s.server_assignments),
        xacts: per_second(|s| s.xacts),
        queries: per_second(|s| s.queries),
        received: per_second(|s| s.received),
        sent: per_second(|s| s.sent),
        xact_time_us: per(|s| s.xact_time_us, |s| s.xacts),
        query_time_us: per(|s| s.query_time_us, |s| s.queries),
        wait_time_us: per(|s| s.wait_time_us, |s| s.server_assignments),
        client_logins: per_second(|s| s.client_logins),
    }
}

/// One database: totals and averages.
pub(super) struct Stats {
    pub(super) database: String,
    pub(super) total: StatsSnapshot,
    pub(super) average: StatsSnapshot,
}

pub(super) fn by_database(console: &Console) -> Vec<Stats> {
    let sampler = console.sampler();
    let of = |(name, total): (DatabaseName, StatsSnapshot)| Stats {
        average: sampler.average_of(&name),
        database: name.to_string(),
        total,
    };
    console.pools.stats().into_iter().map(of).collect()
}

pub(super) const DATABASE: &[Col<Stats>] = &[text("database", |s| s.database.clone())];

// Prepared statements are the server's own business in session mode: those counts are 0.

pub(super) const TOTAL: &[Col<Stats>] = &[
    count("total_server_assignment_count", |s| {
        s.total.server_assignments
    }),
    count("total_xact_count", |s| s.total.xacts),
    count("total_query_count", |s| s.total.queries),
    count("total_received", |s| s.total.received),
    count("total_sent", |s| s.total.sent),
    count("total_xact_time", |s| s.total.xact_time_us),
    count("total_query_time", |s| s.total.query_time_us),
    count("total_wait_time", |s| s.total.wait_time_us),
    count("total_client_parse_count", |_| 0),
    count("total_server_parse_count", |_| 0),
    count("total_bind_count", |_| 0),
    count("total_client_login_count", |s| s.total.client_logins),
];

pub(super) const AVERAGE: &[Col<Stats>] = &[
    count("avg_server_assignment_count", |s| {
        s.average.server_assignments
    }),
    count("avg_xact_count", |s| s.average.xacts),
    count("avg_query_count", |s| s.average.queries),
    count("avg_recv", |s| s.average.received),
    count("avg_sent", |s| s.average.sent),
    count("avg_xact_time", |s| s.average.xact_time_us),
    count("avg_query_time", |s| s.average.query_time_us),
    count("avg_wait_time", |s| s.average.wait_time_us),
    count("avg_client_parse_count", |_| 0),
    count("avg_server_parse_count", |_| 0),
    count("avg_bind_count", |_| 0),
    count("avg_client_login_count", |s| s.average.client_logins),
];

pub(super) const PLAIN_TOTAL: &[Col<Stats>] = &[
    count("server_assignment_count", |s| s.total.server_assignments),
    count("xact_count", |s| s.total.xacts),
    count("query_count", |s| s.total.queries),
    count("bytes_received", |s| s.total.received),
    count("bytes_sent", |s| s.total.sent),
    count("xact_time", |s| s.total.xact_time_us),
    count("query_time", |s| s.total.query_time_us),
    count("wait_time", |s| s.total.wait_time_us),
    count("client_parse_count", |_| 0),
    count("server_parse_count", |_| 0),
    count("bind_count", |_| 0),
    count("client_login_count", |s| s.total.client_logins),
];

pub(super) const PLAIN_AVERAGE: &[Col<Stats>] = &[
    count("server_assignment_count", |s| s.average.server_assignments),
    count("xact_count", |s| s.average.xacts),
    count("query_count", |s| s.average.queries),
    count("bytes_received", |s| s.average.received),
    count("bytes_sent", |s| s.average.sent),
    count("xact_time", |s| s.average.xact_time_us),
    count("query_time", |s| s.average.query_time_us),
    count("wait_time", |s| s.average.wait_time_us),
    count("avg_client_parse_count", |_| 0),
    count("avg_server_parse_count", |_| 0),
    count("avg_bind_count", |_| 0),
    count("avg_client_login_count", |s| s.average.client_logins),
];

/// Name and value: TOTALS.
pub(super) const NAMED: &[Col<(String, u64)>] =
    &[text("name", |n| n.0.clone()), count("value", |n| n.1)];

/// Sums over all databases; average times weighted by what they are averages of.
pub(super) fn overall(console: &Console) -> Vec<(String, u64)> {
    let stats = by_database(console);
    let sum = |side: fn(&Stats) -> &StatsSnapshot| {
        stats.iter().map(side).fold(StatsSnapshot::default(), add)
    };
    let mut average = sum(|s| &s.average);
    let weighted = |time: fn(&StatsSnapshot) -> u64, weight: fn(&StatsSnapshot) -> u64| {
        let each = stats.iter().map(|s| &s.average);
        let total: u128 = each
            .clone()
            .map(|a| u128::from(time(a)) * u128::from(weight(a)))
            .sum();
        let weights: u128 = each.map(|a| u128::from(weight(a))).sum();
        u64::try_from(total.checked_div(weights).unwrap_or_default()).unwrap_or(u64::MAX)
    };
    average.xact_time_us = weighted(|a| a.xact_time_us, |a| a.xacts);
    average.query_time_us = weighted(|a| a.query_time_us, |a| a.queries);
    average.wait_time_us = weighted(|a| a.wait_time_us, |a| a.server_assignments);
    let mut rows = named("total", &sum(|s| &s.total));
    rows.append(&mut named("avg", &average));
    rows
}

fn add(mut sum: StatsSnapshot, one: &StatsSnapshot) -> StatsSnapshot {
    sum.server_assignments += one.server_assignments;
    sum.xacts += one.xacts;
    sum.queries += one.queries;
    sum.received += one.received;
    sum.sent += one.sent;
    sum.xact_time_us += one.xact_time_us;
    sum.query_time_us += one.query_time_us;
    sum.wait_time_us += one.wait_time_us;
    sum.client_logins += one.client_logins;
    sum
}

fn named(prefix: &str, stats: &StatsSnapshot) -> Vec<(String, u64)> {
    [
        ("server_assignment_count", stats.server_assignments),
        ("xact_count", stats.xacts),
        ("query_count", stats.queries),
        ("client_bytes", stats.received),
        ("server_bytes", stats.sent),
        ("xact_time", stats.xact_time_us),
        ("query_time", stats.query_time_us),
        ("wait_time", stats.wait_time_us),
        ("ps_client_parse_count", 0),
        ("ps_server_parse_count", 0),
        ("ps_bind_count", 0),
        ("client_login_count", stats.client_logins),
    ]
    .map(|(name, value)| (format!("{prefix}_{name}"), value))
    .to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{DatabaseName, Sampler, StatsSnapshot};

    #[test]
    fn averages_are_of_the_last_period() {
        let start = Instant::now();
        let name = DatabaseName::new("app");
        let mut sampler = Sampler::default();
        let mut at = |seconds, total| {
            let now = start + Duration::from_secs(seconds);
            sampler.sample(now, vec![(name.clone(), total)]);
            sampler.average_of(&name)
        };
        let total = StatsSnapshot {
            xacts: 1000,
            xact_time_us: 5000,
            ..StatsSnapshot::default()
        };
        assert_eq!(at(0, total), StatsSnapshot::default());
        let later = StatsSnapshot {
            xacts: 1600,
            xact_time_us: 65_000,
            sent: 120,
            ..total
        };
        let expected = StatsSnapshot {
            xacts: 10,
            xact_time_us: 100,
            sent: 2,
            ..StatsSnapshot::default()
        };
        assert_eq!(at(60, later), expected);
        assert_eq!(at(120, later), StatsSnapshot::default());
    }
}
