//! Seeded simulation of switchover and failover.
//!
//! `PGSLUICE_SIM_SEED=n` replays one seed; `PGSLUICE_SIM_SEEDS=n` runs that many.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::match_bool,
    clippy::match_same_arms,
    clippy::doc_markdown,
    reason = "a test that prints what it did and fails loudly"
)]

#[path = "sim/world.rs"]
mod world;

use world::{Bug, World};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_schedule_breaks_an_invariant() {
    let (first, count) = match number("PGSLUICE_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("PGSLUICE_SIM_SEEDS").unwrap_or(20_000)),
    };
    let (mut completed, mut aborted, mut commits) = (0_u64, 0_u64, 0_u64);
    for seed in first..first + count {
        let mut world = World::new(seed, Bug::None);
        if let Err(violation) = world.run() {
            panic!("seed {seed}: {violation} (replay with PGSLUICE_SIM_SEED={seed})");
        }
        completed += u64::from(world.completed);
        aborted += u64::from(world.aborted);
        commits += world.commits;
    }
    println!("{count} seeds: {completed} completed, {aborted} aborted, {commits} commits");
    if count > 100 {
        // A run in which nothing happened would prove nothing.
        assert!(completed > count / 4, "too few operations completed");
        assert!(aborted > count / 20, "too few operations were aborted");
        assert!(commits > count, "too little work was done");
    }
}

#[test]
fn the_oracle_sees_every_planted_bug() {
    let planted = [
        Bug::SkipGate,
        Bug::SkipBackends,
        Bug::SkipDrain,
        Bug::OpenBeforePersist,
        Bug::SkipDurable,
        Bug::SkipClock,
        Bug::SkipApplied,
        Bug::UnknownIsFailure,
    ];
    for bug in planted {
        let caught = (0..3_000).find_map(|seed| World::new(seed, bug).run().err());
        let violation = caught.unwrap_or_else(|| panic!("{bug:?} was not caught"));
        assert!(!violation.contains("never ended"), "{bug:?}: {violation}");
        println!("{bug:?}: {violation}");
    }
}
