//! What the proofs play on: a pair, pgsluice in front of it, and clients that write all the time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::client::{APP, DATABASE, connect, simple};
use super::eventually;
use super::lab::Stall;
use super::ledger::{DELAY_LOCK, Nature, Verdict, Work, Workload, WorkloadSpec, check, schema};
use super::node::NodeSpec;
use super::pair::{Kind, Pair, PairSpec};
use super::proxy::{ADMIN, CLUSTER, CONSOLE, NamedRow, Proxy, ProxySpec, named_rows};
use super::workspace::run;

/// What shall be on stage.
#[derive(Debug, Clone)]
pub struct StageSpec {
    pub kind: Kind,
    /// The program.
    pub binary: PathBuf,
    /// For the program.
    pub environment: Vec<(&'static str, &'static str)>,
    pub writers: usize,
    /// Clients' commits are acknowledged before they are on disk.
    pub asynchronous: bool,
    /// pgsluice has a marker table.
    pub marker: bool,
    /// More lines of `[clusters.main]`.
    pub cluster: String,
    /// More SQL for both nodes, behind the ledger's.
    pub schema: String,
    /// Changes what one of the nodes shall be.
    pub adjust: Option<fn(&mut NodeSpec)>,
}

impl StageSpec {
    pub fn new(kind: Kind, binary: PathBuf) -> Self {
        Self {
            kind,
            binary,
            environment: Vec::new(),
            writers: 8,
            asynchronous: false,
            marker: kind != Kind::Physical,
            cluster: String::new(),
            schema: String::new(),
            adjust: None,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Stage {
    pub pair: Pair,
    pub proxy: Proxy,
    pub workload: Workload,
    /// Writes of the test itself that it cannot know the end of.
    pub in_doubt: Vec<i64>,
}

/// What the console refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub sqlstate: String,
    /// Message and detail.
    pub text: String,
}

/// Commits that do not end.
#[derive(Debug)]
pub struct Delay {
    lock: Client,
}

impl Delay {
    /// They end.
    pub async fn end(self) {
        let sql = format!("SELECT pg_advisory_unlock({DELAY_LOCK})");
        simple(&self.lock, &sql).await.expect("unlock");
    }
}

/// A statement on the console that runs while the test goes on.
#[derive(Debug)]
pub struct Command(JoinHandle<Result<Vec<NamedRow>, Refused>>);

impl Command {
    /// How it ended.
    pub async fn end(self) -> Result<Vec<NamedRow>, Refused> {
        self.0.await.expect("no panic")
    }
}

impl Stage {
    /// Everything runs, and each writer has written.
    pub async fn start(spec: StageSpec) -> Self {
        let pair_spec = PairSpec {
            schema: schema() + &spec.schema,
            adjust: spec.adjust,
            ..PairSpec::default()
        };
        let pair = Pair::start(spec.kind, pair_spec).await;
        if spec.asynchronous {
            let sql = format!("ALTER ROLE {} SET synchronous_commit = off", APP.user);
            pair.n1.query(&sql).await;
            if spec.kind != Kind::Physical {
                pair.n2.query(&sql).await;
            }
        }
        // A profile brings its own timings, and so may the test.
        let own = ["profile = ", "monitor_interval"];
        let timing = if own.iter().any(|key| spec.cluster.contains(key)) {
            ""
        } else {
            "monitor_interval = \"250ms\"\n"
        };
        let proxy_spec = ProxySpec {
            cluster: format!("{timing}{}", spec.cluster),
            marker: spec.marker,
            door: Some(0),
            environment: spec.environment,
            ..ProxySpec::new(spec.binary)
        };
        let proxy = Proxy::start(&pair, proxy_spec).await;
        proxy.serving().await;
        let workload = Workload::start(WorkloadSpec {
            port: proxy.port(),
            login: APP,
            dbname: DATABASE.to_owned(),
            writers: spec.writers,
            think: Duration::from_millis(2),
        })
        .await;
        Self {
            pair,
            proxy,
            workload,
            in_doubt: Vec::new(),
        }
    }

    /// Begins a statement on the console.
    pub fn command(&self, sql: String) -> Command {
        let port = self.proxy.port();
        Command(tokio::spawn(async move {
            let answer = async {
                let (client, _driver) = connect(port, ADMIN, CONSOLE).await?;
                named_rows(&client, &sql).await
            };
            answer.await.map_err(|error| match error.as_db_error() {
                Some(db) => Refused {
                    sqlstate: db.code().code().to_owned(),
                    text: format!("{} {}", db.message(), db.detail().unwrap_or_default()),
                },
                None => Refused {
                    sqlstate: String::new(),
                    text: error.to_string(),
                },
            })
        }))
    }

    /// `SWITCHOVER main TO target clauses`, begun.
    pub fn begin_switchover(&self, target: &str, clauses: &str) -> Command {
        self.command(format!("SWITCHOVER {CLUSTER} TO {target} {clauses}"))
    }

    /// The same, to its end.
    pub async fn switchover(&self, target: &str, clauses: &str) -> Result<Vec<NamedRow>, Refused> {
        self.begin_switchover(target, clauses).end().await
    }

    /// `ABORT SWITCHOVER main`.
    pub async fn abort(&self) {
        let command = format!("ABORT SWITCHOVER {CLUSTER}");
        self.proxy.admin(&command).await.expect("an abort");
    }

    /// Moves the lead, and waits until each writer writes there.
    pub async fn moves_to(&self, target: &str) -> Vec<NamedRow> {
        self.workload.begin(target, Nature::Planned);
        let phases = self.switchover(target, "").await.expect("a switchover");
        assert_eq!(self.proxy.lead().await.as_deref(), Some(target));
        self.workload.all_served().await;
        phases
    }

    /// Waits until the running operation is in that phase.
    pub async fn reaches(&self, phase: &str) {
        let (console, _driver) = connect(self.proxy.port(), ADMIN, CONSOLE)
            .await
            .expect("console");
        eventually(&format!("the operation is in {phase}"), async || {
            let rows = named_rows(&console, "SHOW CLUSTERS").await;
            let rows = rows.expect("SHOW CLUSTERS");
            rows.iter()
                .any(|row| row.get("phase").is_some_and(|shown| shown == phase))
        })
        .await;
    }

    /// A client that does not move.
    pub async fn idle_in_transaction(&self) -> Client {
        let client = self.proxy.connect_as(APP).await.expect("a client");
        simple(&client, "BEGIN; SELECT 1").await.expect("BEGIN");
        client
    }

    /// A switchover to n2 that finds apply stopped when it comes to its gate, and the latest writes
    /// not applied. Preflight tries the gate, so apply may stop only after that, and the writes
    /// wait until it has.
    pub async fn meets_stalled_apply(&self, clauses: &str) -> (Command, Stall) {
        let blocker = self.proxy.connect_as(APP).await.expect("a client");
        let lock = "BEGIN; UPDATE counters SET n = n WHERE key = 0";
        simple(&blocker, lock).await.expect("the first counter");
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity \
                     WHERE wait_event_type = 'Lock' AND usename = 'app'";
        let lead = self.proxy.lead().await.expect("a lead");
        let lead = self.pair.node(&lead);
        eventually("a writer waits for it", || lead.holds(waits)).await;
        let moving = self.begin_switchover("n2", &format!("DRAIN TIMEOUT '1min' {clauses}"));
        self.reaches("drain").await;
        let stall = self.pair.stall_apply("n2").await;
        simple(&blocker, "ROLLBACK").await.expect("ROLLBACK");
        (moving, stall)
    }

    /// From now on commits on the lead that fall under [`super::ledger::slow_commit`] do not end.
    pub async fn delay_commits(&self) -> Delay {
        let lead = self.proxy.lead().await.expect("a lead");
        let lock = self.pair.node(&lead).connect(DATABASE).await;
        let sql = format!("SELECT pg_advisory_lock({DELAY_LOCK})");
        simple(&lock, &sql).await.expect("lock");
        Delay { lock }
    }

    /// The next decision is being written for ever, until the pipe in its way is removed.
    pub fn stop_the_store(&self) -> PathBuf {
        let pipe = self.proxy.directory().join("state/lead-main.tmp");
        run(std::process::Command::new("mkfifo").arg(&pipe));
        pipe
    }

    /// The record of a decision cannot be written any more, whoever the instance runs as.
    pub fn break_the_store(&self) -> PathBuf {
        let in_the_way = self.proxy.directory().join("state/lead-main.tmp");
        std::fs::create_dir(&in_the_way).expect("mkdir");
        in_the_way
    }

    /// Waits until the node may become lead: all that a preflight asks is true.
    pub async fn ready(&self, target: &str) {
        self.proxy.ready(CLUSTER, target).await;
    }

    /// Waits until a client's statement runs on the lead.
    pub async fn runs(&self, statement: &str) {
        let lead = self.proxy.lead().await.expect("a lead");
        let sql = format!(
            "SELECT count(*) > 0 FROM pg_stat_activity \
             WHERE query = '{statement}' AND wait_event IN ('PgSleep', 'advisory')"
        );
        let node = self.pair.node(&lead);
        eventually("the statement runs", || node.holds(&sql)).await;
    }

    /// Ends the writers and asks both copies; after a promotion there is only one, n2.
    pub async fn verdict(self) -> (Verdict, Work) {
        let mut work = self.workload.stop().await;
        work.in_doubt.extend(&self.in_doubt);
        let nodes = match self.pair.kind {
            Kind::Physical => [&self.pair.n2, &self.pair.n2],
            Kind::Native | Kind::Pglogical => {
                self.pair.catch_up().await;
                self.pair.nodes()
            }
        };
        let verdict = check(nodes, &work, &BTreeSet::new()).await;
        (verdict, work)
    }

    /// Ends the writers and shows that nothing was lost in that many moves of the lead, and that no
    /// client had an error but those for which a server or the instance was killed.
    pub async fn proves(self, lead_changes: u64) -> Work {
        let (verdict, work) = self.verdict().await;
        assert!(
            verdict.is_clean(lead_changes),
            "{lead_changes} moves: {verdict:?}"
        );
        let errors: Vec<_> = work.errors().collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(work.idle_intervals(), Vec::<&str>::new());
        assert_eq!(
            work.missing_at_release(),
            0,
            "seen on the first connection to the new lead"
        );
        work
    }
}
