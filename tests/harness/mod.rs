//! Real servers for tests, the demo and benchmarks: PostgreSQL nodes on their own data directories
//! and free ports, replicating pairs, the pgsluice binary in front of them, a raw protocol client,
//! and the ledger that says whether a switchover lost anything.
//!
//! Everything lives below one temporary directory and ends with the value that owns it, also when
//! the test panics or its process is killed (see [`workspace`]).

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each crate that includes the harness uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a harness that cannot start a server has nothing better to do than panic"
)]

pub mod address;
pub mod bounce;
pub mod client;
pub mod clock;
pub mod crowd;
pub mod cut;
pub mod disk;
pub mod lab;
pub mod layout;
pub mod ledger;
pub mod link;
pub mod mesh;
pub mod node;
pub mod pair;
pub mod privilege;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod stage;
pub mod template;
pub mod workspace;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How long [`eventually`] waits: far more than anything takes, so that a slow machine never
/// fails a test.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A figure that was measured and is not judged: shown with `--nocapture`.
pub fn measured(figure: &str) {
    eprintln!("measured: {figure}");
}

/// Waits until `condition` holds; panics with `what` after [`PATIENCE`].
pub async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Ok(true) = tokio::time::timeout_at(deadline, condition()).await {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain until {what}"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
