//! SHOW: every table with its columns. A column is declared once: name, type, and where the value
//! comes from. PgBouncer's columns come first, in its order and of its types; ours follow.

mod absent;
mod cluster;
mod pooler;
mod stats;

use std::time::Duration;

pub(super) use cluster::{ADVICE, FINDINGS, Finding, PHASES, STEPS, phases};
pub(super) use stats::Sampler;

use super::Console;
use super::answer::{Column, Value};
use crate::wire::message::ColumnType;

/// A SHOW table.
pub(super) struct Table {
    /// Upper case.
    pub(super) name: &'static str,
    columns: fn() -> Vec<Column>,
    rows: fn(&Console) -> Vec<Vec<Value>>,
}

impl Table {
    pub(super) fn columns(&self) -> Vec<Column> {
        (self.columns)()
    }

    pub(super) fn rows(&self, console: &Console) -> Vec<Vec<Value>> {
        (self.rows)(console)
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Names are unique.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Table {}

/// A column of rows `R`.
pub(super) struct Col<R: 'static> {
    name: &'static str,
    get: Get<R>,
}

enum Get<R: 'static> {
    Text(fn(&R) -> String),
    /// NULL where there is nothing to say.
    Maybe(fn(&R) -> Option<String>),
    Int4(fn(&R) -> u64),
    Signed(fn(&R) -> i32),
    Int8(fn(&R) -> Option<u64>),
    Count(fn(&R) -> u64),
    Millis(fn(&R) -> Duration),
    Seconds(fn(&R) -> Option<Duration>),
}

impl<R> Col<R> {
    fn column(&self) -> Column {
        let kind = match self.get {
            Get::Text(_) | Get::Maybe(_) => ColumnType::Text,
            Get::Int4(_) | Get::Signed(_) => ColumnType::Int4,
            Get::Int8(_) => ColumnType::Int8,
            Get::Count(_) | Get::Millis(_) | Get::Seconds(_) => ColumnType::Numeric,
        };
        Column::new(self.name, kind)
    }

    fn value(&self, row: &R) -> Value {
        match self.get {
            Get::Text(get) => Value::Text(get(row)),
            Get::Maybe(get) => get(row).map_or(Value::Null, Value::Text),
            Get::Int4(get) => Value::Int4(i32::try_from(get(row)).unwrap_or(i32::MAX)),
            Get::Signed(get) => Value::Int4(get(row)),
            Get::Int8(get) => get(row).map_or(Value::Null, |number| {
                Value::Int8(i64::try_from(number).unwrap_or(i64::MAX))
            }),
            Get::Count(get) => Value::Count(get(row)),
            Get::Millis(get) => Value::Millis(get(row)),
            Get::Seconds(get) => get(row).map_or(Value::Null, Value::Seconds),
        }
    }
}

const fn text<R>(name: &'static str, get: fn(&R) -> String) -> Col<R> {
    let get = Get::Text(get);
    Col { name, get }
}

const fn maybe<R>(name: &'static str, get: fn(&R) -> Option<String>) -> Col<R> {
    let get = Get::Maybe(get);
    Col { name, get }
}

const fn int4<R>(name: &'static str, get: fn(&R) -> u64) -> Col<R> {
    let get = Get::Int4(get);
    Col { name, get }
}

const fn signed<R>(name: &'static str, get: fn(&R) -> i32) -> Col<R> {
    let get = Get::Signed(get);
    Col { name, get }
}

const fn int8<R>(name: &'static str, get: fn(&R) -> Option<u64>) -> Col<R> {
    let get = Get::Int8(get);
    Col { name, get }
}

const fn count<R>(name: &'static str, get: fn(&R) -> u64) -> Col<R> {
    let get = Get::Count(get);
    Col { name, get }
}

const fn millis<R>(name: &'static str, get: fn(&R) -> Duration) -> Col<R> {
    let get = Get::Millis(get);
    Col { name, get }
}

const fn seconds<R>(name: &'static str, get: fn(&R) -> Option<Duration>) -> Col<R> {
    let get = Get::Seconds(get);
    Col { name, get }
}

pub(super) fn columns<R>(parts: &[&[Col<R>]]) -> Vec<Column> {
    parts.iter().copied().flatten().map(Col::column).collect()
}

pub(super) fn rows<R>(parts: &[&[Col<R>]], rows: &[R]) -> Vec<Vec<Value>> {
    let of_row = |row| {
        let all = parts.iter().copied().flatten();
        all.map(|column| column.value(row)).collect()
    };
    rows.iter().map(of_row).collect()
}

/// Looks a table up, in whatever case.
pub(super) fn find(name: &str) -> Option<&'static Table> {
    TABLES
        .iter()
        .find(|table| table.name.eq_ignore_ascii_case(name))
}

macro_rules! table {
    ($name:literal, [$($part:expr),+], $source:expr) => {
        Table {
            name: $name,
            columns: || columns(&[$($part),+]),
            rows: |console| rows(&[$($part),+], &$source(console)),
        }
    };
}

/// All tables, in the order of SHOW HELP.
pub(super) const TABLES: &[Table] = &[
    table!("CLUSTERS", [cluster::CLUSTERS], cluster::clusters),
    table!("NODES", [cluster::NODES], cluster::nodes),
    table!("REPLICATION", [cluster::REPLICATION], cluster::replication),
    table!("SLOTS", [cluster::SLOTS], cluster::slots),
    table!("SWITCHOVER", [cluster::SWITCHOVER], cluster::operations),
    table!("EVENTS", [cluster::EVENTS], cluster::events),
    table!("POOLS", [pooler::POOLS], pooler::pools),
    table!("DATABASES", [pooler::DATABASES], pooler::databases),
    table!("CLIENTS", [pooler::SOCKET, pooler::CLIENT], pooler::clients),
    table!("SERVERS", [pooler::SOCKET, pooler::SERVER], pooler::servers),
    table!(
        "SOCKETS",
        [pooler::SOCKET, pooler::BUFFERS],
        pooler::sockets
    ),
    table!(
        "ACTIVE_SOCKETS",
        [pooler::SOCKET, pooler::BUFFERS],
        pooler::active_sockets
    ),
    table!("USERS", [pooler::USERS], pooler::users),
    table!(
        "STATS",
        [stats::DATABASE, stats::TOTAL, stats::AVERAGE],
        stats::by_database
    ),
    table!(
        "STATS_TOTALS",
        [stats::DATABASE, stats::PLAIN_TOTAL],
        stats::by_database
    ),
    table!(
        "STATS_AVERAGES",
        [stats::DATABASE, stats::PLAIN_AVERAGE],
        stats::by_database
    ),
    table!("TOTALS", [stats::NAMED], stats::overall),
    table!("LISTS", [pooler::LISTS], pooler::lists),
    table!("CONFIG", [pooler::CONFIG], pooler::config),
    table!("STATE", [pooler::STATE], pooler::state),
    table!("VERSION", [pooler::VERSION_COLUMN], pooler::version),
    // PgBouncer's tables about things that do not exist here: tools that ask get no rows.
    table!("MEM", [absent::MEM], absent::nothing),
    table!("PEERS", [absent::PEERS], absent::nothing),
    table!("PEER_POOLS", [absent::PEER_POOLS], absent::nothing),
    table!("DNS_HOSTS", [absent::DNS_HOSTS], absent::nothing),
    table!("DNS_ZONES", [absent::DNS_ZONES], absent::nothing),
];

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
