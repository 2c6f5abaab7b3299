//! The product's promise, on real servers: clients that write all the time lose nothing when the
//! lead moves, whatever replicates and however they commit.

use std::path::PathBuf;

use crate::harness::client::{APP, DATABASE, MONITOR};
use crate::harness::eventually;
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;
use crate::harness::proxy::CLUSTER;
use crate::harness::raw::{RawConn, trace};
use crate::harness::stage::{Stage, StageSpec};

/// A stage for the program that is tested.
pub(crate) fn stage(kind: Kind) -> StageSpec {
    StageSpec::new(kind, PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")))
}

/// There and back and so on, as fast as it goes.
async fn moves(spec: StageSpec, count: usize) {
    let writers = spec.writers as u64;
    let stage = Stage::start(spec).await;
    for target in ["n2", "n1"].into_iter().cycle().take(count) {
        stage.moves_to(target).await;
    }
    let work = stage.proves(count as u64).await;
    assert!(
        work.reconnects() >= count as u64 * writers,
        "each session is told each time"
    );
}

#[tokio::test]
async fn dozens_of_moves_under_sixteen_writers_lose_nothing() {
    let spec = StageSpec {
        writers: 16,
        ..stage(Kind::Pglogical)
    };
    moves(spec, 24).await;
}

#[tokio::test]
async fn nothing_is_lost_with_native_replication_and_no_marker_table() {
    let spec = StageSpec {
        marker: false,
        ..stage(Kind::Native)
    };
    moves(spec, 8).await;
}

/// The acknowledgement of such a commit comes before it is anywhere but in memory.
#[tokio::test]
async fn commits_that_are_not_waited_for_are_not_lost_either() {
    for (kind, marker) in [(Kind::Pglogical, false), (Kind::Native, true)] {
        let spec = StageSpec {
            asynchronous: true,
            marker,
            ..stage(kind)
        };
        moves(spec, 6).await;
    }
}

/// Whoever waits outside is let in, whoever was inside comes back to a server that stands ready.
#[tokio::test]
async fn clients_find_servers_that_were_logged_in_ahead() {
    let stage = Stage::start(stage(Kind::Pglogical)).await;
    stage.workload.begin("n2", Nature::Planned);
    let (moving, stall) = stage.meets_stalled_apply("CATCHUP TIMEOUT '1min'").await;
    stage.reaches("catch_up").await;
    let port = stage.proxy.port();
    let arrive = || tokio::spawn(RawConn::login(port, APP, DATABASE));
    let newcomers = [arrive(), arrive(), arrive()];
    eventually("they wait", async || {
        let pools = stage.proxy.admin("SHOW POOLS").await.unwrap();
        pools.iter().any(|pool| pool["cl_waiting"] == "3")
    })
    .await;
    let ahead = format!(
        "SELECT array_agg(pid) FROM pg_stat_activity WHERE usename = '{}'",
        APP.user
    );
    let ahead = stage.pair.n2.scalar(&ahead).await.expect("some pids");
    assert_eq!(
        ahead.split(',').count(),
        9,
        "as many as the lead has: {ahead}"
    );
    stall.end().await;
    let report = moving.end().await.unwrap();
    let summary = &report.last().unwrap()["detail"];
    // The ninth was parked with its transaction ended, and had gone.
    let wanted = "3 clients held, 9 sessions reconnected";
    assert!(summary.ends_with(wanted), "{summary}");
    for newcomer in newcomers {
        let (_conn, hello) = newcomer.await.unwrap();
        assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'), "{}", trace(&hello));
    }
    stage.workload.all_served().await;

    let used = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ('{ahead}') AND query <> ''"
    );
    let used = stage.pair.n2.scalar(&used).await;
    assert_eq!(used.as_deref(), Some("8"), "one for each writer");
    stage.proves(1).await;
}

/// The old primary is another timeline then, and must be made anew: there is no way back.
#[tokio::test]
async fn a_standby_is_promoted_and_nothing_is_lost() {
    let spec = StageSpec {
        cluster: "promote = \"pg_promote\"\n".to_owned(),
        schema: format!(
            "GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO {};",
            MONITOR.user
        ),
        ..stage(Kind::Physical)
    };
    let stage = Stage::start(spec).await;
    // Is told to reconnect as all are, and then finds a server that is like its first one.
    let _client = RawConn::login(stage.proxy.port(), APP, DATABASE).await;
    stage.moves_to("n2").await;
    assert!(!login_tells_of_a_standby(&stage).await);
    let back = stage.switchover("n1", "").await.unwrap_err();
    assert_eq!(back.sqlstate, "55000", "{back:?}");
    stage.proves(1).await;
}

#[tokio::test]
async fn a_standby_that_somebody_else_promotes_is_waited_for() {
    let stage = Stage::start(stage(Kind::Physical)).await;
    stage.workload.begin("promoted", Nature::Planned);
    let moving = stage.begin_switchover("n2", "");
    stage.reaches("promote").await;
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    stage.pair.n2.query("SELECT pg_promote()").await;
    moving.end().await.unwrap();
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n2"));
    stage.workload.all_served().await;
    stage.proves(1).await;
}

/// Drivers ask for a primary by what the server said of itself when they logged in.
async fn login_tells_of_a_standby(stage: &Stage) -> bool {
    let (_conn, hello) = RawConn::login(stage.proxy.port(), APP, DATABASE).await;
    let ready = hello.last().map(|message| message.tag);
    assert_eq!(ready, Some(b'Z'), "{}", trace(&hello));
    let standby = b"in_hot_standby\0on\0";
    hello.iter().any(|message| message.body == standby)
}

#[tokio::test]
async fn after_a_kill_of_the_lead_an_operator_moves_it_and_clients_go_on() {
    let mut stage = Stage::start(stage(Kind::Native)).await;
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

#[cfg(not(feature = "planted-bugs"))]
#[test]
fn the_program_has_no_bugs_planted_in_it() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_pgsluice")).unwrap();
    let holds = |word: &[u8]| program.windows(word.len()).any(|bytes| bytes == word);
    assert!(holds(b"SWITCHOVER"), "texts can be found in it");
    assert!(!holds(b"PLANTED"), "built with the feature planted-bugs");
}
