//! What pgsluice costs, as ratios to PgBouncer in the same rounds of one interleaved run.
//!
//! Absolute figures drift by a factor of two within minutes on a shared machine; the ratio of two
//! neighbours in time does not. So each workload visits all peers in turn, in an order that rotates
//! from round to round, and medians of per-round ratios are reported. CPU is what the pooler's
//! process was on a core, not the clock. With many clients the pooler has a core of its own; with few
//! it shares the one of load and backends, since a wake-up across cores would drown the rest.
//!
//! `BENCH_ROUNDS` (5), `BENCH_SECONDS` (1, of each cell), `BENCH_CORES` (`0,1`: pooler, the rest;
//! `none`: do not pin), `BENCH_ONLY` (part of a workload's name), `PGSLUICE` (the binary).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a program of its own: it prints, and may panic"
)]

mod backend;
mod bytes;
mod load;
mod report;
mod servers;
mod usage;

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use load::{Address, Client, Place, Work, Workload, block_on};
use report::{Cell, Results};
use servers::{Backends, Kind, Peer, Postgres, Site};
use usage::{Usage, resident_kib};

const WORKLOADS: [Workload; 12] = [
    row("small-1", Work::Small, 1, Place::Together),
    row("small-32", Work::Small, 32, Place::Apart),
    row("prepared-1", Work::Prepared, 1, Place::Together),
    row("prepared-32", Work::Prepared, 32, Place::Apart),
    row("10MB-1", Work::Big, 1, Place::Together),
    row("copy-in-1", Work::CopyIn, 1, Place::Together),
    row("churn-8", Work::Churn, 8, Place::Together),
    // `pg` in the name: on a real PostgreSQL.
    row("pg-small-1", Work::Small, 1, Place::Together),
    row("pg-small-32", Work::Small, 32, Place::Apart),
    row("pg-10MB-1", Work::Big, 1, Place::Together),
    row("pg-copy-in-1", Work::CopyIn, 1, Place::Together),
    row("pg-churn-8", Work::Churn, 8, Place::Together),
];

const fn row(name: &'static str, work: Work, clients: usize, place: Place) -> Workload {
    Workload {
        name,
        work,
        clients,
        place,
    }
}

const KINDS: [Kind; 5] = [
    Kind::Direct,
    Kind::PgBouncer,
    Kind::HaProxy,
    Kind::Pgsluice(1),
    Kind::Pgsluice(2),
];

/// Sessions that ran one query and then stay.
const IDLE_SESSIONS: usize = 2000;

struct Plan {
    rounds: usize,
    seconds: f64,
    only: String,
    /// Of the pooler, and of everything else; `None`: not pinned.
    cores: Option<(String, String)>,
}

fn main() {
    // `cargo test --all-targets` calls us too: only `cargo bench` measures.
    if !std::env::args().any(|arg| arg == "--bench") {
        eprintln!("run me by `cargo bench`");
        return;
    }
    let plan = settle();
    let site = Site::new();
    let postgres = Postgres::start(&site);
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port for the fake backend");
    let fake = listener.local_addr().expect("an address").port();
    backend::spawn(listener, postgres.port);
    let to = Backends {
        fake,
        real: postgres.port,
    };

    let mut peers = Vec::new();
    for kind in KINDS {
        match servers::start(kind, &site, to) {
            Ok(peer) => peers.push(peer),
            Err(why) => eprintln!("{kind:?} is left out: {why}"),
        }
    }
    let workloads = WORKLOADS
        .into_iter()
        .filter(|w| w.name.contains(&plan.only));
    let workloads: Vec<Workload> = workloads.collect();
    let names = peers.iter().map(|peer| peer.name).collect();
    let mut results = Results::new(names, workloads.iter().map(|w| w.name).collect());
    for round in 0..plan.rounds {
        for &workload in &workloads {
            for turn in 0..peers.len() {
                let peer = &peers[(round + turn) % peers.len()];
                place(peer, workload.place, &plan);
                let cell = measure(peer, workload, plan.seconds);
                results.add(workload.name, peer.name, cell);
            }
        }
        eprintln!("round {} of {}", round + 1, plan.rounds);
    }
    drop(peers);
    if plan.only.is_empty() || "memory".contains(&plan.only) {
        memory(&site, to, &mut results);
    }

    println!("{}", results.table());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.json");
    std::fs::write(path, results.json(plan.rounds, plan.seconds)).expect(path);
    println!("target/bench.json has every round.");
}

/// Reads the environment; on the first call starts itself anew with enough file descriptors, on the
/// core of the load, so that everything it starts inherits both.
fn settle() -> Plan {
    let variable =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let cores = variable("BENCH_CORES", "0,1");
    let cores = cores.split_once(',');
    if !settled() {
        let pin = cores.map_or(String::new(), |(_, rest)| format!("taskset -c {rest} "));
        let script = format!("ulimit -n $(ulimit -H -n) && exec {pin}\"$0\" \"$@\"");
        let own = std::env::current_exe().expect("our own path");
        let mut again = Command::new("sh");
        again
            .arg("-c")
            .arg(script)
            .arg(own)
            .args(std::env::args().skip(1));
        let error = again.env("BENCH_SETTLED", "1").exec();
        panic!("sh: {error}");
    }
    Plan {
        rounds: variable("BENCH_ROUNDS", "5")
            .parse()
            .expect("BENCH_ROUNDS is a number"),
        seconds: variable("BENCH_SECONDS", "1")
            .parse()
            .expect("BENCH_SECONDS is a number"),
        only: variable("BENCH_ONLY", ""),
        cores: cores.map(|(pooler, rest)| (pooler.to_owned(), rest.to_owned())),
    }
}

fn settled() -> bool {
    std::env::var_os("BENCH_SETTLED").is_some()
}

fn place(peer: &Peer, place: Place, plan: &Plan) {
    match (&plan.cores, place) {
        (Some((pooler, _)), Place::Apart) => peer.pin(pooler),
        (Some((_, rest)), Place::Together) => peer.pin(rest),
        (None, _) => {}
    }
}

/// One cell; `None`, with a word on stderr, where it failed.
fn measure(peer: &Peer, workload: Workload, seconds: f64) -> Option<Cell> {
    let address = if workload.name.starts_with("pg-") {
        &peer.real
    } else {
        &peer.fake
    };
    let sample = || peer.pid().map(Usage::of);
    let length = Duration::from_secs_f64(seconds);
    let ran = block_on(async {
        if workload.work == Work::CopyIn {
            empty_sink(&peer.real).await?;
        }
        let limit = length * 10 + Duration::from_secs(20);
        let run = load::run(address, workload, length, sample);
        tokio::time::timeout(limit, run)
            .await
            .map_err(std::io::Error::other)?
    });
    let (outcome, before, after) = match ran {
        Ok(ran) => ran,
        Err(error) => {
            eprintln!("{} {}: {error}", workload.name, peer.name);
            return None;
        }
    };
    let operations = outcome.latencies_ns.len() as f64;
    let used = after.zip(before).map(|(after, before)| after.since(before));
    Some(Cell {
        rate: operations / outcome.elapsed.as_secs_f64(),
        cpu_us: used.map_or(f64::NAN, |used| used.cpu_ns as f64 / 1000.0 / operations),
        switches: used.map_or(f64::NAN, |used| used.switches as f64 / operations),
        p50_us: outcome.latency_us(0.5),
        p99_us: outcome.latency_us(0.99),
    })
}

async fn empty_sink(address: &Address) -> std::io::Result<()> {
    let mut client = Client::connect(address).await?;
    client.ask(&bytes::query("TRUNCATE sink")).await?;
    client.close().await
}

/// Memory of idle sessions, on poolers that have done nothing else.
fn memory(site: &Site, to: Backends, results: &mut Results) {
    for kind in KINDS {
        let Ok(peer) = servers::start(kind, site, to) else {
            continue;
        };
        let Some(pid) = peer.pid() else {
            continue;
        };
        let before = resident_kib(pid);
        let script = load::Script::new(Work::Small);
        let grown = block_on(async {
            let mut clients = Vec::new();
            for _ in 0..IDLE_SESSIONS {
                let mut client = Client::connect(&peer.fake).await?;
                client.run(&script).await?;
                client.shrink();
                clients.push(client);
            }
            // All of them are held until memory has been read.
            let grown = resident_kib(pid).saturating_sub(before);
            drop(clients);
            std::io::Result::Ok(grown)
        });
        match grown {
            Ok(kib) => results.add_memory(peer.name, kib as f64 / IDLE_SESSIONS as f64),
            Err(error) => eprintln!("memory {}: {error}", peer.name),
        }
    }
}
