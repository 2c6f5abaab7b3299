//! The product's promise, on real servers: clients that write all the time lose nothing when the
//! lead moves, and notice nothing when a move is given up.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::client::{APP, DATABASE, simple};
use crate::harness::eventually;
use crate::harness::ledger::{Nature, Work, Workload, WorkloadSpec, check, schema};
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::proxy::{CLUSTER, Proxy, ProxySpec};

/// A pair, pgsluice in front of it, and writers.
struct Stage {
    pair: Pair,
    proxy: Proxy,
    workload: Workload,
}

impl Stage {
    async fn start(kind: Kind) -> Self {
        let spec = PairSpec {
            schema: schema(),
            ..PairSpec::default()
        };
        let pair = Pair::start(kind, spec).await;
        let spec = ProxySpec {
            cluster: "monitor_interval = \"250ms\"\n".to_owned(),
            ..ProxySpec::new(PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")))
        };
        let proxy = Proxy::start(&pair, spec).await;
        proxy.serving().await;
        let workload = Workload::start(WorkloadSpec {
            port: proxy.port(),
            login: APP,
            dbname: DATABASE.to_owned(),
            writers: 8,
            think: Duration::from_millis(2),
        })
        .await;
        Self {
            pair,
            proxy,
            workload,
        }
    }

    /// SQLSTATE and text of the refusal, if it was refused.
    async fn switchover(&self, target: &str, clauses: &str) -> Result<(), (String, String)> {
        let command = format!("SWITCHOVER {CLUSTER} TO {target} {clauses}");
        match self.proxy.admin(&command).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let db = error.as_db_error().unwrap();
                let text = format!("{} {}", db.message(), db.detail().unwrap_or_default());
                Err((db.code().code().to_owned(), text))
            }
        }
    }

    /// Ends the writers and shows that nothing was lost in that many moves of the lead.
    async fn proves(self, lead_changes: u64) -> Work {
        let work = self.workload.stop().await;
        self.pair.catch_up().await;
        let verdict = check(self.pair.nodes(), &work, &BTreeSet::new()).await;
        assert!(verdict.is_clean(lead_changes), "{verdict:?}");
        let errors: Vec<_> = work.errors().collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(work.idle_intervals(), Vec::<&str>::new());
        let missing: u64 = work.intervals.iter().map(|i| i.missing_at_release).sum();
        assert_eq!(missing, 0, "seen on the first connection to the new lead");
        work
    }
}

#[tokio::test]
async fn the_lead_moves_there_and_back_and_nothing_is_lost() {
    for kind in [Kind::Pglogical, Kind::Native] {
        let stage = Stage::start(kind).await;
        for target in ["n2", "n1", "n2"] {
            stage.workload.begin(target, Nature::Planned);
            stage.switchover(target, "").await.unwrap();
            assert_eq!(stage.proxy.lead().await.as_deref(), Some(target));
            stage.workload.all_served().await;
        }
        let work = stage.proves(3).await;
        assert!(work.reconnects() >= 3 * 8, "each session is told each time");
    }
}

#[tokio::test]
async fn a_target_that_does_not_catch_up_is_not_waited_for_for_ever() {
    let stage = Stage::start(Kind::Pglogical).await;
    let stall = stage.pair.stall_apply("n2").await;
    stage.workload.begin("stalled", Nature::Planned);
    let (sqlstate, text) = stage
        .switchover("n2", "CATCHUP TIMEOUT '500ms'")
        .await
        .unwrap_err();
    assert_eq!(sqlstate, "55000", "{text}");
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"), "{text}");
    stage.workload.all_served().await;
    stall.end().await;
    stage.proves(0).await;
}

#[tokio::test]
async fn a_client_idle_in_its_transaction_is_named_and_nobody_notices() {
    let stage = Stage::start(Kind::Pglogical).await;
    let blocker = stage.proxy.connect_as(APP).await.unwrap();
    simple(&blocker, "BEGIN; SELECT 1").await.unwrap();
    stage.workload.begin("blocked", Nature::Planned);
    let (sqlstate, text) = stage
        .switchover("n2", "DRAIN TIMEOUT '300ms'")
        .await
        .unwrap_err();
    assert_eq!(sqlstate, "55006", "{text}");
    assert!(text.contains("idle in transaction"), "{text}");
    stage.workload.all_served().await;
    simple(&blocker, "SELECT 2; COMMIT").await.unwrap();
    let work = stage.proves(0).await;
    assert_eq!(work.reconnects(), 0, "an abort leaves no trace");
}

#[tokio::test]
async fn after_a_kill_of_the_lead_an_operator_moves_it_and_the_dead_node_catches_up() {
    let mut stage = Stage::start(Kind::Native).await;
    stage.workload.begin("killed", Nature::Unplanned);
    stage.pair.n1.kill9();
    let command = format!("FAILOVER {CLUSTER} TO n2 ACCEPT LOSS");
    eventually("the failover is accepted", async || {
        stage.proxy.admin(&command).await.is_ok()
    })
    .await;
    stage.workload.all_served().await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    let work = stage.workload.stop().await;
    assert_eq!(work.errors().count(), 0, "{:?}", work.errors().next());
    let killed = work.during(Nature::Unplanned).next().unwrap();
    assert!(killed.acknowledged >= 8, "{killed:?}");
}
