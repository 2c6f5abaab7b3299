//! One replicating pair that tests share, each behind an instance of its own. An instance keeps its
//! own record of the lead, and no test here writes: moves of one do not disturb another.

use std::path::PathBuf;

use tokio::sync::OnceCell;

use crate::harness::eventually;
use crate::harness::pair::{Pair, PairSpec};
use crate::harness::proxy::{Proxy, ProxySpec};

/// Ends with the process: the workspace's watchdog sees to it.
static PAIR: OnceCell<Pair> = OnceCell::const_new();

/// The shared pair, by pglogical.
pub(crate) async fn pair() -> &'static Pair {
    PAIR.get_or_init(|| Pair::pglogical(PairSpec::default()))
        .await
}

/// An instance in front of it, ready for a switchover.
pub(crate) async fn twins(name: &'static str) -> Proxy {
    let pair = pair().await;
    let proxy = Proxy::start(
        pair,
        ProxySpec {
            name,
            // Each instance has a record of its own of the same pair.
            cluster: "monitor_interval = \"100ms\"\nlead_note = false\n".to_owned(),
            ..ProxySpec::new(PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")))
        },
    )
    .await;
    proxy.serving().await;
    eventually("both nodes are up and replicate", async || {
        let nodes = proxy.admin("SHOW NODES").await.unwrap();
        nodes.iter().all(|node| node["observed"] == "up")
    })
    .await;
    proxy
}
