//! The demo, started by `make demo`: two PostgreSQL nodes that replicate to each other, pgsluice in
//! front of them, sixteen clients that write all the time; four switchovers, one that is given up
//! because of a client that sits idle in its transaction, a lead that is killed and replaced by
//! itself, its return and a switchover back, and a second kill for which an operator is needed. At
//! the end the databases say whether anything was lost.
//!
//! The last line is for machines: `demo: PASS ...` or `demo: FAIL ...`.

#![allow(
    clippy::print_stdout,
    reason = "showing what happens is what the demo is for"
)]
#![allow(
    clippy::expect_used,
    reason = "what a demo cannot do without it ends by saying so"
)]

#[path = "../harness/mod.rs"]
mod harness;
mod losses;
mod screen;
mod tally;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use harness::client::{APP, DATABASE, connect_named};
use harness::ledger::{self, Nature, Workload, WorkloadSpec};
use harness::pair::{Pair, PairSpec};
use harness::proxy::{ADMIN, CLUSTER, CONSOLE, NamedRow, Proxy, ProxySpec, named_rows};
use screen::Screen;
use tally::Tally;

/// Clients that write.
const CLIENTS: usize = 16;
/// Where the lead goes, in this order, before it is killed.
const ROUTE: [&str; 3] = ["n2", "n1", "n2"];
/// How long the clients write between two events.
const CALM: Duration = Duration::from_millis(1500);
/// A second failover within five minutes is an operator's business.
const CLUSTER_SETTINGS: &str =
    "failover = \"auto\"\nprofile = \"fast\"\nfailover_min_interval = \"5min\"\n";
/// How long the switchover that is bound to be given up waits for the client that does not move.
const DRAIN_TIMEOUT: &str = "300ms";

/// Two replicating nodes, sixteen clients, and a lead that moves.
#[derive(Debug, Parser)]
struct Arguments {
    /// The pgsluice program to show.
    #[arg(long)]
    pgsluice: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    // A panic of the harness (a server that did not start, a wait that took too long) is a failed
    // demo; everything it started ends with it.
    let result = runtime.block_on(runtime.spawn(run(arguments.pgsluice)));
    drop(runtime);
    match result {
        Ok(tally) => {
            println!("{}", tally.line());
            if tally.passed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            println!("demo: FAIL the demo did not get to its end: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(binary: PathBuf) -> Tally {
    let screen = Screen::new();
    let mut show = Show::open(screen, binary).await;
    for target in ROUTE {
        show.switchover(target).await;
    }
    show.blocked_switchover("n1").await;
    show.automatic_failover("n1").await;
    show.switchover("n2").await;
    show.failover_by_an_operator("n1").await;
    show.close().await
}

/// What is on stage.
struct Show {
    screen: Screen,
    pair: Pair,
    proxy: Proxy,
    workload: Workload,
    tally: Tally,
    /// Writes that reached the new lead only when the dead one was back.
    late: BTreeSet<i64>,
}

impl Show {
    async fn open(mut screen: Screen, binary: PathBuf) -> Self {
        screen.chapter("Setting the stage");
        let begun = Instant::now();
        screen.busy("starting two PostgreSQL 15 nodes");
        let pair = Pair::pglogical(PairSpec {
            schema: ledger::schema(),
            fsync: true,
            ..PairSpec::default()
        })
        .await;
        screen.done(
            "nodes",
            &format!(
                "n1 on port {}, n2 on port {}: PostgreSQL 15, pglogical both ways",
                pair.n1.port(),
                pair.n2.port()
            ),
            begun.elapsed(),
        );
        let begun = Instant::now();
        screen.busy("starting pgsluice");
        let spec = ProxySpec {
            cluster: CLUSTER_SETTINGS.to_owned(),
            ..ProxySpec::new(binary)
        };
        let proxy = Proxy::start(&pair, spec).await;
        proxy.serving().await;
        let lead = proxy.lead().await.unwrap_or_default();
        let place = format!("on port {}, session pooling, lead {lead}", proxy.port());
        screen.done("pgsluice", &place, begun.elapsed());
        screen.label(
            "look",
            &format!(
                "PGPASSWORD={} psql -h 127.0.0.1 -p {} -U {} {CONSOLE} -c 'SHOW NODES'",
                ADMIN.password,
                proxy.port(),
                ADMIN.user
            ),
        );
        let begun = Instant::now();
        screen.busy("starting the clients");
        let workload = Workload::start(WorkloadSpec {
            port: proxy.port(),
            login: APP,
            dbname: DATABASE.to_owned(),
            writers: CLIENTS,
            think: Duration::from_millis(5),
        })
        .await;
        let what =
            format!("{CLIENTS}, writing all the time: one counter, one ledger row each time");
        screen.done("clients", &what, begun.elapsed());
        Self {
            screen,
            pair,
            proxy,
            workload,
            tally: Tally::new(CLIENTS),
            late: BTreeSet::new(),
        }
    }

    /// A planned move of the lead.
    async fn switchover(&mut self, target: &str) {
        let number = self.tally.switchovers + 1;
        self.calm(&format!("before switchover {number}")).await;
        self.screen.chapter(&format!(
            "Switchover {number}: SWITCHOVER {CLUSTER} TO {target}"
        ));
        self.workload
            .begin(&format!("switchover {number}"), Nature::Planned);
        let answer = self.say(&format!("SWITCHOVER {CLUSTER} TO {target}")).await;
        match answer {
            Ok(phases) => {
                self.screen.phases(&phases);
                self.workload.all_served().await;
                self.tally.switched(&self.workload.current());
            }
            Err(error) => self.fail(&format!("switchover {number}: {}", error.message)),
        }
        self.expect_lead(target).await;
        self.show_clients();
    }

    /// A switchover that a client idle in its transaction is in the way of.
    async fn blocked_switchover(&mut self, target: &str) {
        self.calm("before the blocked switchover").await;
        let command = format!("SWITCHOVER {CLUSTER} TO {target} DRAIN TIMEOUT '{DRAIN_TIMEOUT}'");
        self.screen.chapter(&format!("In the way: {command}"));
        let lead = self.proxy.lead().await.unwrap_or_default();
        let port = self.proxy.port();
        let (blocker, _driver) = connect_named(port, APP, DATABASE, "forgotten psql")
            .await
            .expect("a client");
        blocker
            .batch_execute("BEGIN; SELECT 1")
            .await
            .expect("an open transaction");
        self.screen
            .note("a client has said BEGIN and gone for lunch");
        self.workload.begin("blocked switchover", Nature::Planned);
        match self.say(&command).await {
            Ok(_) => self.fail("the switchover went through although a client was in the way"),
            Err(error) => {
                self.screen.error(&error.message, error.detail.as_deref());
                let text = format!("{} {}", error.message, error.detail.unwrap_or_default());
                if text.contains("idle in transaction") {
                    self.tally.aborted += 1;
                } else {
                    self.fail("the error does not say who was in the way");
                }
            }
        }
        self.workload.all_served().await;
        self.expect_lead(&lead).await;
        let interval = self.workload.current();
        if interval.reconnects > 0 || !interval.failures.is_empty() {
            self.fail("an aborted switchover was noticed by a client");
        }
        if blocker.batch_execute("COMMIT").await.is_err() {
            self.fail("the client in the way was harmed");
        }
        self.show_clients();
    }

    /// Compares what the clients know with what both databases hold.
    async fn close(mut self) -> Tally {
        self.calm("the end").await;
        self.screen.chapter("The ledger");
        let begun = Instant::now();
        self.screen.busy("both nodes catch up");
        let work = self.workload.stop().await;
        self.pair.catch_up().await;
        self.screen.busy("asking both databases");
        let verdict = ledger::check(self.pair.nodes(), &work, &self.late).await;
        self.tally.judge(&work, &verdict, &self.late);
        self.screen
            .done("checked", "both copies, by SQL", begun.elapsed());
        self.screen.table(&tally::table(&work));
        for problem in self.tally.problems() {
            self.screen.problem(problem);
        }
        self.tally
    }

    /// Lets the clients write for a while.
    async fn calm(&mut self, name: &str) {
        self.workload.begin(name, Nature::Calm);
        let until = Instant::now() + CALM;
        while Instant::now() < until {
            let written = self.workload.acknowledged();
            self.screen
                .busy(&format!("{CLIENTS} clients, {written} writes acknowledged"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.workload.all_served().await;
    }

    async fn say(&self, command: &str) -> Result<Vec<NamedRow>, Complaint> {
        let console = harness::client::connect(self.proxy.port(), ADMIN, CONSOLE).await;
        let (client, _driver) = console.map_err(|error| Complaint::from(&error))?;
        named_rows(&client, command)
            .await
            .map_err(|error| Complaint::from(&error))
    }

    async fn expect_lead(&mut self, node: &str) {
        let lead = self.proxy.lead().await.unwrap_or_default();
        if lead != node {
            self.fail(&format!("the lead is \"{lead}\" and should be \"{node}\""));
        }
    }

    /// What the clients noticed of it.
    fn show_clients(&mut self) {
        let interval = self.workload.current();
        let longest = interval.longest.iter().max().copied().unwrap_or_default();
        self.screen.note(&format!(
            "clients: {} reconnected, {} errors, longest wait {} ms, {} writes missing",
            interval.reconnects,
            interval.failures.len(),
            longest.as_millis(),
            interval.missing_at_release
        ));
    }

    fn fail(&mut self, problem: &str) {
        self.screen.problem(problem);
        self.tally.problem(problem);
    }
}

/// An error of the console.
struct Complaint {
    message: String,
    detail: Option<String>,
}

impl From<&tokio_postgres::Error> for Complaint {
    fn from(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self {
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
            },
            None => Self {
                message: error.to_string(),
                detail: None,
            },
        }
    }
}
