//! `pgbench` beside the writers: an ordinary client that knows nothing of us, and books that must
//! balance in the end.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::harness::client::{APP, DATABASE};
use crate::harness::node::{Node, Release, bin};
use crate::harness::stage::Stage;

/// Tables for [`Bench`]: an account's balance is the sum of what its history says.
pub(crate) const BOOKS: &str = "\
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 0);
INSERT INTO accounts (id) SELECT generate_series(1, 50);
CREATE TABLE history (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), account int, delta int);
";

const SCRIPT: &str = "\
\\set account random(1, 50)
\\set delta random(-100, 100)
BEGIN;
UPDATE accounts SET balance = balance + :delta WHERE id = :account;
INSERT INTO history (account, delta) VALUES (:account, :delta);
COMMIT;
";

const UNBALANCED: &str = "SELECT count(*)::text FROM accounts a WHERE balance <> \
     (SELECT coalesce(sum(delta), 0) FROM history h WHERE h.account = a.id)";

const SUM: &str = "SELECT md5(string_agg(h::text, ',' ORDER BY id)) || count(*) FROM history h";

/// A run of pgbench after the other: a client of it that is told 57P01 gives up.
pub(crate) struct Bench {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

/// What pgbench reported, over all runs.
pub(crate) struct Tally {
    pub(crate) transactions: u64,
    /// Whatever it said but that a client was told to reconnect.
    pub(crate) complaints: Vec<String>,
}

impl Bench {
    pub(crate) fn start(stage: &Stage, clients: usize) -> Self {
        let script = stage.proxy.directory().join("bench.sql");
        std::fs::write(&script, SCRIPT).unwrap();
        let (stop, done) = (Arc::default(), Arc::default());
        let shared: (Arc<AtomicBool>, Arc<AtomicU64>) = (Arc::clone(&stop), Arc::clone(&done));
        let port = stage.proxy.port().to_string();
        let clients = clients.to_string();
        let run = move || {
            let mut complaints = Vec::new();
            while !shared.0.load(Ordering::Relaxed) {
                let out = Command::new(bin(Release::Pg15, "pgbench"))
                    .args([
                        "-n", "-M", "prepared", "-T", "2", "-c", &clients, "-j", &clients, "-f",
                    ])
                    .arg(&script)
                    .args(["-h", "127.0.0.1", "-p", &port, "-U", APP.user, DATABASE])
                    .env("PGPASSWORD", APP.password)
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                let (said, complained) = (text(&out.stdout), text(&out.stderr));
                let count = said.lines().find_map(transactions);
                shared.1.fetch_add(count.unwrap_or(0), Ordering::Relaxed);
                complaints.extend(
                    complained
                        .lines()
                        .filter(|l| !is_expected(l))
                        .map(str::to_owned),
                );
            }
            complaints
        };
        let thread = std::thread::spawn(run);
        Self { stop, done, thread }
    }

    /// Ends the last run.
    pub(crate) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let complaints = self.thread.join().unwrap();
        Tally {
            transactions: self.done.load(Ordering::Relaxed),
            complaints,
        }
    }
}

/// The books of both copies balance, are the same, and hold each transaction that pgbench counted
/// and no other.
pub(crate) async fn books_balance(nodes: [&Node; 2], tally: &Tally) {
    assert_eq!(tally.complaints, Vec::<String>::new());
    assert!(tally.transactions > 0, "pgbench did nothing");
    let mut sums = Vec::new();
    for node in nodes {
        assert_eq!(node.scalar(UNBALANCED).await.as_deref(), Some("0"));
        let rows = node.scalar("SELECT count(*) FROM history").await;
        assert_eq!(
            rows,
            Some(tally.transactions.to_string()),
            "{}",
            node.name()
        );
        sums.push(node.scalar(SUM).await);
    }
    assert_eq!(sums[0], sums[1]);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn transactions(line: &str) -> Option<u64> {
    let (_, count) = line.split_once("actually processed: ")?;
    count.split('/').next()?.trim().parse().ok()
}

/// What a client says that was told to reconnect where it sent BEGIN, the script's command 2: before
/// anything of a transaction ran. A thread for each client, since pgbench waits for the answer to a
/// Parse: while one client is parked, another of its thread would stand in the middle of its
/// transaction.
fn is_expected(line: &str) -> bool {
    // Its threads write between each other's words.
    let words = line.replace("pgbench:", "").replace("error: ", "");
    let words = words.trim();
    let told = "FATAL:  terminating connection due to administrator command";
    let known = [
        told,
        "DETAIL:  The lead of the cluster has moved to another node (switchover).",
        "HINT:  Connect again.",
        "server closed the connection unexpectedly",
        "This probably means the server terminated abnormally",
        "before or while processing the request.",
        "Run was aborted; the above results are incomplete.",
        "",
    ];
    let at_begin = words.starts_with("client ")
        && (words.ends_with(&format!("script 0 aborted in command 2 query 0: {told}"))
            || words.ends_with("aborted in command 2 (SQL) of script 0; SQL command send failed"));
    known.contains(&words) || at_begin
}
