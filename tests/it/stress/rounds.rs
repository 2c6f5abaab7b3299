//! Moves without end, under writers who meet on the same rows and pgbench beside them.

use std::time::Duration;

use super::bench::{BOOKS, Bench, books_balance};
use crate::harness::ledger::{Nature, Work};
use crate::harness::measured;
use crate::harness::pair::Kind;
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

/// How many moves: the whole of it takes minutes.
fn rounds() -> usize {
    let all = std::env::var_os("PGSLUICE_STRESS").is_some();
    if all { 200 } else { 12 }
}

async fn round_after_round(kind: Kind) {
    let spec = StageSpec {
        writers: 16,
        schema: BOOKS.to_owned(),
        ..stage(kind)
    };
    let stage = Stage::start(spec).await;
    let bench = Bench::start(&stage, 8);
    let rounds = rounds();
    let mut totals = Vec::new();
    for target in ["n2", "n1"].into_iter().cycle().take(rounds) {
        let phases = stage.moves_to(target).await;
        totals.push(phases.last().unwrap()["ms"].parse::<f64>().unwrap());
    }
    stage.workload.begin("after", Nature::Calm);
    stage.workload.all_served().await;
    let tally = bench.stop();
    stage.pair.catch_up().await;
    books_balance(stage.pair.nodes(), &tally).await;
    let work = stage.proves(rounds as u64).await;
    tell(kind, &work, &totals, tally.transactions);
}

/// The figures of docs/scenarios.md.
fn tell(kind: Kind, work: &Work, totals: &[f64], transactions: u64) {
    let moves = work.during(Nature::Planned);
    let mut holds: Vec<Duration> = moves
        .flat_map(|interval| interval.longest.clone())
        .collect();
    holds.sort();
    let at = |share: f64| holds[((holds.len() - 1) as f64 * share) as usize];
    let mut totals = totals.to_vec();
    totals.sort_by(f64::total_cmp);
    measured(&format!(
        "{kind:?}: {} moves, {} acknowledged writes, {transactions} of pgbench; a client's longest \
         wait in a move: p50 {:?}, p99 {:?}, max {:?}; the operation: p50 {} ms, max {} ms",
        totals.len(),
        work.acknowledged.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        totals[totals.len() / 2],
        totals[totals.len() - 1]
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn move_after_move_beside_pgbench_with_native_replication() {
    round_after_round(Kind::Native).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn move_after_move_beside_pgbench_with_pglogical() {
    round_after_round(Kind::Pglogical).await;
}
