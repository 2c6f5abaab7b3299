//! A standby that serves reads fails for a while, or for good: readers lose the query in flight at
//! most, writers nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{FAST, READ, Scene, SceneSpec, quiet, served_by};
use crate::harness::client::{APP, connect, simple};
use crate::harness::eventually;
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;

/// A client that reads and reads, on a new connection when it must.
struct Reader {
    stop: Arc<AtomicBool>,
    ended: JoinHandle<Read>,
}

#[derive(Debug, Default)]
struct Read {
    queries: u64,
    failures: Vec<String>,
    refused_logins: Vec<String>,
}

impl Reader {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = tokio::spawn(Self::run(port, Arc::clone(&stop)));
        Self { stop, ended }
    }

    async fn run(port: u16, stop: Arc<AtomicBool>) -> Read {
        let mut read = Read::default();
        while !stop.load(Ordering::Relaxed) {
            let client = match connect(port, APP, READ).await {
                Ok((client, _)) => client,
                Err(error) => {
                    read.refused_logins.push(error.to_string());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = simple(&client, "SELECT count(*) FROM counters").await {
                    read.failures.push(error.to_string());
                    break;
                }
                read.queries += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        read
    }

    async fn end(self) -> Read {
        self.stop.store(true, Ordering::Relaxed);
        self.ended.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_fails_costs_its_readers_a_query_and_writers_nothing() {
    let mut spec = SceneSpec::new(Kind::Native, &["n1", "n2"], FAST);
    spec.mesh = spec.mesh.standby("n5", &["n1", "n2"]);
    spec.keys = vec![("n5", "candidate = \"never\"")];
    let mut scene = Scene::start(spec).await;
    scene.ready("n2").await;
    scene.proxy.node_is("n5", "observed", "up").await;
    goes_to(&scene, "n5").await;
    scene.workload.begin("standby lost", Nature::Calm);
    let readers: Vec<Reader> = (0..6).map(|_| Reader::start(scene.proxy.port())).collect();
    scene.workload.all_served().await;
    scene.mesh.node_mut("n5").kill9();
    scene.proxy.node_is("n5", "observed", "down").await;
    scene.workload.all_served().await;
    for _ in 0..6 {
        assert_ne!(served_by(&scene.proxy, READ).await.as_deref(), Some("n5"));
    }
    let mut reads = Vec::new();
    for reader in readers {
        reads.push(reader.end().await);
    }
    println!("standby killed under readers: {reads:?}");
    for read in &reads {
        assert!(read.failures.len() <= 1 && read.queries > 0, "{read:?}");
        assert!(
            read.refused_logins.is_empty(),
            "held or served elsewhere: {read:?}"
        );
    }
    assert_eq!(
        reads.iter().map(|read| read.failures.len()).max(),
        Some(1),
        "nobody was there"
    );

    scene.mesh.node_mut("n5").start().await;
    scene.proxy.node_is("n5", "observed", "up").await;
    goes_to(&scene, "n5").await;
    assert_eq!(scene.proxy.lead().await.as_deref(), Some("n1"));

    scene.mesh.remove("n5").await;
    scene.console("REMOVE NODE n5").await.ok();
    assert_ne!(served_by(&scene.proxy, READ).await.as_deref(), Some("n5"));
    scene.workload.all_served().await;
    let (verdict, work, _) = scene.verdict(&["n1", "n2"]).await;
    assert!(verdict.is_clean(0), "{verdict:?}");
    assert_eq!(work.reconnects(), 0, "writers notice nothing");
    quiet(&work);
}

/// Waits until some newcomers read there.
async fn goes_to(scene: &Scene, node: &str) {
    eventually(&format!("reads go to {node}"), async || {
        served_by(&scene.proxy, READ).await.as_deref() == Some(node)
    })
    .await;
}
