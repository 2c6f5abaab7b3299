//! The seeds' own procedures, as an operator types them.

use crate::harness::client::simple;
use crate::harness::eventually;
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;
use crate::harness::stage::Stage;
use crate::switchover::stage;

/// `RECONNECT; PAUSE;` is one statement here: no session comes in between.
#[tokio::test]
async fn the_conflict_free_swap_by_hand_is_three_lines() {
    let stage = Stage::start(stage(Kind::Native)).await;
    stage.workload.begin("by hand", Nature::Planned);
    stage.proxy.admin("RECONNECT; PAUSE").await.unwrap();
    stage.switchover("n2", "").await.unwrap();
    let before = stage.workload.acknowledged();
    let pools = stage.proxy.admin("SHOW POOLS").await.unwrap();
    assert!(
        pools.iter().any(|pool| pool["cl_waiting"] != "0"),
        "{pools:?}"
    );
    assert_eq!(stage.workload.acknowledged(), before, "nobody writes");
    stage.proxy.admin("RESUME").await.unwrap();
    stage.workload.all_served().await;
    stage.proves(1).await;
}

/// In session mode RECONNECT alone waits for the clients to leave, as PgBouncer's does, and touches
/// nobody; with PAUSE each is told once, at its safe point, and the longest transaction is waited for.
#[tokio::test]
async fn reconnect_and_wait_close_end_with_the_longest_transaction() {
    let stage = Stage::start(stage(Kind::Native)).await;
    let long = stage.idle_in_transaction().await;
    stage.workload.begin("by hand", Nature::Planned);
    stage.proxy.admin("RECONNECT").await.unwrap();
    let waits = stage.command("WAIT_CLOSE TIMEOUT '200ms'".to_owned());
    let waited = waits.end().await.unwrap_err();
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), 0, "{waited:?}");

    let pauses = stage.command("RECONNECT; PAUSE".to_owned());
    eventually("they wait for the one in a transaction", async || {
        let pools = stage.proxy.admin("SHOW POOLS").await.unwrap();
        pools.iter().any(|pool| pool["cl_waiting"] == "8")
    })
    .await;
    simple(&long, "SELECT 2; COMMIT").await.unwrap();
    pauses.end().await.unwrap();
    stage.proxy.admin("WAIT_CLOSE").await.unwrap();
    stage.proxy.admin("RESUME").await.unwrap();
    stage.workload.all_served().await;
    let work = stage.proves(0).await;
    assert_eq!(work.reconnects(), 8, "each of them once");
}
