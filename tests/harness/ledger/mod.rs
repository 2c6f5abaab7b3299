//! The oracle: writers that note what they were told, and a check in the databases that knows
//! nothing of pgsluice's code.
//!
//! Each write increments a counter that all writers share and inserts a row into the ledger; the
//! *server* fills in which node it is, when the transaction began, and the counter's new value.
//! From the two copies alone plain SQL then tells whether an acknowledged commit is lost, whether
//! something ran twice, whether an update was lost, and whether the second node was written
//! before the first one was done.

mod check;
mod trouble;
mod work;
mod writers;

pub use check::{Verdict, check, check_copies, rows_written_by};
pub use work::{Acknowledged, Failure, Interval, Nature, Outage, Work};
pub use writers::{Workload, WorkloadSpec};

/// How many counters there are. Fewer than writers, so that writers meet on each.
pub const KEYS: i32 = 12;

/// The advisory lock that delays a commit.
pub const DELAY_LOCK: i64 = 42;

/// Lets the commit of a row with a negative key wait for [`DELAY_LOCK`]; no counter has such a key.
pub fn slow_commit() -> String {
    format!(
        "CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock_shared({DELAY_LOCK}); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.key < 0) EXECUTE FUNCTION slow_commit();"
    )
}

/// The write whose commit is slow.
pub fn slow_write(id: i64) -> String {
    format!("INSERT INTO ledger (id, writer, key, value) VALUES ({id}, 99, {id}, 1)")
}

/// The tables, for [`super::pair::PairSpec::schema`].
///
/// `token` is part of the key so that a statement which ran twice leaves two rows. `began` is the
/// start of the *transaction*: a transaction that was open on the old lead while the new one was
/// written overlaps, whenever its statements ran.
pub fn schema() -> String {
    format!(
        "CREATE TABLE ledger (
             id bigint NOT NULL,
             token uuid NOT NULL DEFAULT gen_random_uuid(),
             writer int NOT NULL,
             key int NOT NULL,
             value bigint NOT NULL,
             node text NOT NULL DEFAULT current_setting('pgsluice_test.node'),
             began timestamptz NOT NULL DEFAULT transaction_timestamp(),
             PRIMARY KEY (id, token));
         CREATE TABLE counters (key int PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
         INSERT INTO counters (key) SELECT generate_series(0, {KEYS} - 1);"
    )
}
