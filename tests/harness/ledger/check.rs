//! The independent check: SQL on both copies, after they caught up with each other.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::{KEYS, Work};
use crate::harness::client::DATABASE;
use crate::harness::node::Node;

/// What the databases say. All counts but the first two are 0 after a good run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Writes that a client was told of.
    pub acknowledged: u64,
    /// How often the node that writes changed over time.
    pub lead_changes: u64,
    /// Acknowledged writes that a copy lacks.
    pub lost: u64,
    /// Acknowledged writes that no copy has: a part of `lost`.
    pub lost_everywhere: u64,
    /// Writes that a copy holds and that no client was told of, nor is in doubt about.
    pub phantom: u64,
    /// Writes that a copy holds more than once.
    pub duplicated: u64,
    /// Writes whose stored value is not the one that the client was given.
    pub wrong_value: u64,
    /// Increments that another one overwrote: two writes that got the same value of a counter.
    pub lost_updates: u64,
    /// Counters that do not say how many writes there were.
    pub counter_mismatch: u64,
    /// Writes that began on one node before an earlier one on the other node had committed.
    pub overlap: u64,
    /// Tables that differ between the copies.
    pub diverged: u64,
}

impl Verdict {
    /// Nothing found, and the lead moved exactly `lead_changes` times.
    pub fn is_clean(&self, lead_changes: u64) -> bool {
        let good = Self {
            acknowledged: self.acknowledged,
            lead_changes,
            ..Self::default()
        };
        self.acknowledged > 0 && *self == good
    }

    /// Nothing found but acknowledged writes that are lost: what an unplanned failover may cost
    /// where replication is asynchronous. How many is for the test to judge.
    pub fn is_clean_but_for_losses(&self, lead_changes: u64) -> bool {
        let without = Self {
            lost: 0,
            lost_everywhere: 0,
            ..self.clone()
        };
        without.is_clean(lead_changes)
    }
}

/// Checks both copies. `late` are writes of a failed node that reached the other one only after a
/// failover: counters that they touched cannot add up, and are left out. A commit that was under way
/// on a node which lives on, cut off or frozen, may end whenever it likes: when its client was told
/// that nobody knows, it is no overlap.
pub async fn check(nodes: [&Node; 2], work: &Work, late: &BTreeSet<i64>) -> Verdict {
    check_copies(&nodes, work, late).await
}

/// Checks any number of copies: after a failure, those that survived.
pub async fn check_copies(nodes: &[&Node], work: &Work, late: &BTreeSet<i64>) -> Verdict {
    let mut verdict = Verdict {
        acknowledged: work.acknowledged.len() as u64,
        ..Verdict::default()
    };
    let mut lost = Vec::new();
    let mut sums = Vec::new();
    for node in nodes {
        let client = node.connect(DATABASE).await;
        load(&client, work, late).await;
        lost.push(BTreeSet::from_iter(numbers(&client, LOST).await));
        // Of both copies the worse one counts: the same fault shows in both.
        let worse = async |count: &mut u64, sql: &str| {
            let found = number(&client, sql).await;
            *count = (*count).max(found);
        };
        worse(&mut verdict.phantom, PHANTOM).await;
        worse(&mut verdict.duplicated, DUPLICATED).await;
        worse(&mut verdict.wrong_value, WRONG_VALUE).await;
        worse(&mut verdict.lost_updates, LOST_UPDATES).await;
        worse(&mut verdict.counter_mismatch, COUNTER_MISMATCH).await;
        worse(&mut verdict.overlap, &overlap(&client).await).await;
        worse(&mut verdict.lead_changes, LEAD_CHANGES).await;
        sums.push(checksums(&client).await);
    }
    let union = |a: BTreeSet<i64>, b: BTreeSet<i64>| &a | &b;
    let count = |ids: BTreeSet<i64>| ids.len() as u64;
    verdict.lost = lost.iter().cloned().reduce(union).map_or(0, count);
    verdict.lost_everywhere = lost.into_iter().reduce(|a, b| &a & &b).map_or(0, count);
    let differs = |table: &usize| sums.iter().any(|sum| sum[*table] != sums[0][*table]);
    verdict.diverged = (0..TABLES.len()).filter(differs).count() as u64;
    verdict
}

/// Ids of the rows on `node` that were written by the node called `writer`.
pub async fn rows_written_by(node: &Node, writer: &str) -> BTreeSet<i64> {
    let client = node.connect(DATABASE).await;
    let sql = format!("SELECT id FROM ledger WHERE node = '{writer}'");
    numbers(&client, &sql).await.into_iter().collect()
}

const LOST: &str = "SELECT a.id FROM acknowledged a LEFT JOIN ledger USING (id) \
     WHERE ledger.id IS NULL";

const PHANTOM: &str = "SELECT count(*) FROM ledger l \
     WHERE NOT EXISTS (SELECT FROM acknowledged a WHERE a.id = l.id) \
     AND NOT EXISTS (SELECT FROM in_doubt d WHERE d.id = l.id)";

const DUPLICATED: &str = "SELECT count(*) - count(DISTINCT id) FROM ledger";

const WRONG_VALUE: &str = "SELECT count(*) FROM acknowledged a JOIN ledger l USING (id) \
     WHERE (l.key, l.value) IS DISTINCT FROM (a.key, a.value)";

const LOST_UPDATES: &str = "SELECT count(*) - count(DISTINCT (key, value)) FROM ledger \
     WHERE key NOT IN (SELECT key FROM late_keys)";

const COUNTER_MISMATCH: &str = "SELECT count(*) FROM counters c LEFT JOIN \
     (SELECT key, count(*) AS writes, max(value) AS highest FROM ledger GROUP BY key) l USING (key) \
     WHERE key NOT IN (SELECT key FROM late_keys) \
     AND (n <> coalesce(writes, 0) OR n <> coalesce(highest, 0))";

/// One host, one clock: times of both nodes can be compared. The commit's time is the origin's on
/// both copies.
const TIMES: &str = "SELECT node, began, pg_xact_commit_timestamp(xmin) AS committed, id FROM ledger \
     WHERE id NOT IN (SELECT id FROM late JOIN in_doubt USING (id))";

/// Compares each row with the latest commit, on each other node, of all that began before it.
async fn overlap(client: &Client) -> String {
    let writers = "SELECT DISTINCT node FROM ledger ORDER BY node";
    let rows = client.query(writers, &[]).await.expect("who wrote");
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let busy: Vec<String> = names
        .iter()
        .map(|name| {
            format!("max(committed) FILTER (WHERE node = '{name}') OVER earlier AS {name}_busy")
        })
        .collect();
    let meets: Vec<String> = names
        .iter()
        .map(|name| format!("(node <> '{name}' AND began <= {name}_busy)"))
        .collect();
    if names.is_empty() {
        return "SELECT 0::bigint".to_owned();
    }
    format!(
        "SELECT count(*) FROM (SELECT node, began, {} FROM times \
         WINDOW earlier AS (ORDER BY began, id ROWS UNBOUNDED PRECEDING)) t WHERE {}",
        busy.join(", "),
        meets.join(" OR ")
    )
}

const LEAD_CHANGES: &str = "SELECT count(*) FROM (SELECT node, \
     lag(node) OVER (ORDER BY began, id) AS before FROM times) t WHERE node <> before";

/// Brings what the clients know into the database, where SQL can join it.
async fn load(client: &Client, work: &Work, late: &BTreeSet<i64>) {
    client
        .batch_execute(&format!(
            "SET TIME ZONE 'UTC';\
             CREATE TEMP TABLE acknowledged (id bigint PRIMARY KEY, key int, value bigint);\
             CREATE TEMP TABLE in_doubt (id bigint PRIMARY KEY);\
             CREATE TEMP TABLE late (id bigint PRIMARY KEY);\
             CREATE TEMP TABLE late_keys (key int);\
             CREATE TEMP VIEW times AS {TIMES}"
        ))
        .await
        .expect("temporary tables");
    let ids: Vec<i64> = work.acknowledged.iter().map(|a| a.id).collect();
    let keys: Vec<i32> = work.acknowledged.iter().map(|a| a.key).collect();
    let values: Vec<i64> = work.acknowledged.iter().map(|a| a.value).collect();
    client
        .execute(
            "INSERT INTO acknowledged \
             SELECT * FROM unnest($1::bigint[], $2::int[], $3::bigint[])",
            &[&ids, &keys, &values],
        )
        .await
        .expect("acknowledged");
    client
        .execute(
            "INSERT INTO in_doubt SELECT unnest($1::bigint[])",
            &[&work.in_doubt],
        )
        .await
        .expect("in doubt");
    let late: Vec<i64> = late.iter().copied().collect();
    let ids = "INSERT INTO late SELECT unnest($1::bigint[])";
    client.execute(ids, &[&late]).await.expect("late");
    client
        .execute(
            "INSERT INTO late_keys SELECT DISTINCT key FROM ledger WHERE id = ANY($1)",
            &[&late],
        )
        .await
        .expect("late keys");
    client
        .batch_execute("ANALYZE acknowledged; ANALYZE ledger")
        .await
        .expect("analyze");
    let counters = number(client, "SELECT count(*) FROM counters").await;
    assert_eq!(
        counters,
        u64::try_from(KEYS).expect("positive"),
        "the counters' own table"
    );
}

/// The ledger's tables, and what makes the order of their rows the same everywhere.
const TABLES: [(&str, &str); 2] = [("ledger", "id, token"), ("counters", "key")];

async fn checksums(client: &Client) -> Vec<Option<String>> {
    let mut sums = Vec::new();
    for (table, order) in TABLES {
        let sql = format!("SELECT md5(string_agg(t::text, ',' ORDER BY {order})) FROM {table} t");
        sums.push(client.query_one(&sql, &[]).await.expect("checksum").get(0));
    }
    sums
}

async fn number(client: &Client, sql: &str) -> u64 {
    let row = client
        .query_one(sql, &[])
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    u64::try_from(row.get::<_, i64>(0)).expect("a count")
}

async fn numbers(client: &Client, sql: &str) -> Vec<i64> {
    let rows = client
        .query(sql, &[])
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}
