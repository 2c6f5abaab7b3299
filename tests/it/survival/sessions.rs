//! What the sessions of a lead are told when it is lost, and who is served instead.

use std::time::Duration;

use tokio::time::timeout;

use super::{AGAIN, FAST, leads};
use crate::harness::client::{APP, DATABASE};
use crate::harness::eventually;
use crate::harness::lab::{Part, Way};
use crate::harness::ledger::{Nature, slow_commit, slow_write};
use crate::harness::pair::Kind;
use crate::harness::raw::{RawConn, query, trace};
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

/// Once the new lead serves, the old one's sessions have been told already, or are about to be: far
/// less than TCP takes to notice that a peer is gone (`tcp_user_timeout`).
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sessions of a lead in each state that matters.
struct Sessions {
    idle: RawConn,
    in_transaction: RawConn,
    running: RawConn,
    committing: RawConn,
}

impl Sessions {
    async fn on(stage: &Stage, id: i64) -> Self {
        let open = async || RawConn::login(stage.proxy.port(), APP, DATABASE).await.0;
        let mut idle = open().await;
        idle.query("SELECT 1").await;
        let mut in_transaction = open().await;
        in_transaction.query("BEGIN; SELECT 1").await;
        let mut running = open().await;
        running.query("BEGIN").await;
        running.send(&query("SELECT pg_sleep(300)")).await;
        stage.runs("SELECT pg_sleep(300)").await;
        let mut committing = open().await;
        committing
            .query(&format!("BEGIN; {}", slow_write(id)))
            .await;
        committing.send(&query("COMMIT")).await;
        stage.runs("COMMIT").await;
        Self {
            idle,
            in_transaction,
            running,
            committing,
        }
    }

    /// What each is told, in order.
    async fn told(self) -> [String; 4] {
        let told = async |mut session: RawConn| {
            let words = timeout(AT_ONCE, session.read_to_end()).await;
            trace(&words.expect("closed at once"))
        };
        [
            told(self.idle).await,
            told(self.in_transaction).await,
            told(self.running).await,
            told(self.committing).await,
        ]
    }
}

/// A client that comes when nobody is served yet.
async fn comes_later(stage: &Stage) -> tokio::task::JoinHandle<Option<String>> {
    let port = stage.proxy.port();
    let client = tokio::spawn(async move {
        let (mut client, _) = RawConn::login(port, APP, DATABASE).await;
        client.value("SHOW pgsluice_test.node").await
    });
    eventually("it waits", async || {
        let pools = stage.proxy.admin("SHOW POOLS").await.unwrap();
        pools.iter().any(|pool| pool["cl_waiting"] != "0") || client.is_finished()
    })
    .await;
    client
}

/// Nobody tells pgsluice that these sessions are over: it ends them itself.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_sessions_of_a_lost_lead_are_ended_at_once() {
    let spec = StageSpec {
        cluster: format!("{FAST}{AGAIN}"),
        schema: slow_commit(),
        writers: 1,
        ..stage(Kind::Native)
    };
    let stage = Stage::start(spec).await;
    stage.workload.begin("frozen", Nature::Unplanned);
    stage.ready("n2").await;
    let delay = stage.delay_commits().await;
    let sessions = Sessions::on(&stage, -1).await;
    stage.pair.n1.freeze();
    let newcomer = comes_later(&stage).await;
    leads(&stage.proxy, "n2").await;
    let told = sessions.told().await;
    println!("frozen: idle, in transaction, running, committing: {told:?}");
    assert_eq!(told, ["E:57P01", "E:08006", "E:08006", "E:08007"]);
    let served = newcomer.await.unwrap();
    assert_eq!(served.as_deref(), Some("n2"), "held, then served");
    stage.pair.n1.thaw();
    drop(delay);
    stage.pair.catch_up().await;
    stage.ready("n1").await;

    let delay = stage.delay_commits().await;
    let sessions = Sessions::on(&stage, -2).await;
    let cut = stage.pair.lab().silence("n2", Part::Pgsluice, Way::Both);
    let newcomer = comes_later(&stage).await;
    leads(&stage.proxy, "n1").await;
    let told = sessions.told().await;
    println!("silent: idle, in transaction, running, committing: {told:?}");
    assert_eq!(told, ["E:57P01", "E:08006", "E:08006", "E:08007"]);
    assert_eq!(newcomer.await.unwrap().as_deref(), Some("n1"));
    cut.heal();
    drop(delay);
}

/// Here the sessions end with their server, which may say so.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_killed_lead_are_told_what_became_of_their_work() {
    let spec = StageSpec {
        cluster: FAST.to_owned(),
        schema: slow_commit(),
        writers: 1,
        ..stage(Kind::Native)
    };
    let mut stage = Stage::start(spec).await;
    stage.workload.begin("killed", Nature::Unplanned);
    stage.ready("n2").await;
    let delay = stage.delay_commits().await;
    let sessions = Sessions::on(&stage, -1).await;
    stage.pair.n1.kill9();
    let newcomer = comes_later(&stage).await;
    let told = sessions.told().await;
    println!("killed: idle, in transaction, running, committing: {told:?}");
    assert_eq!(told, ["E:08006", "E:08006", "E:08006", "E:08007"]);
    assert_eq!(newcomer.await.unwrap().as_deref(), Some("n2"));
    drop(delay);
}
