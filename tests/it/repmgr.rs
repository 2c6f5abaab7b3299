//! The repmgr seed: its settings, its command, and the times of its log.

use std::fs;
use std::time::Duration;

use crate::harness::client::{DATABASE, MONITOR};
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;
use crate::harness::proxy::{NamedRow, Proxy};
use crate::harness::stage::{Stage, StageSpec};
use crate::harness::{eventually, measured};
use crate::switchover::stage;

/// As in the seed's log: a node is tried 5 times more at intervals of 1 s after it was found dead.
/// (Its file says 6 and 5 s.)
const TIMES: &str = "failover = \"auto\"\n\
                     monitor_interval_secs = 2\n\
                     reconnect_attempts = 5\n\
                     reconnect_interval = 1\n\
                     recovery_timeout = \"2s\"\n";

/// From the log: unable to connect at 21:09:23, failover at 21:09:28.
const CONFIRMED: Duration = Duration::from_secs(5);

/// The seed's line is `/path/to/bdr-pgbouncer.sh %n %e %s "%c" "%a"`; this script keeps what it is
/// given.
const SCRIPT: &str = "for a in \"$@\"; do printf '%s\\n' \"$a\"; done >>\"${0%/*}/told\"\n";

fn notifies(proxy: &Proxy) {
    let script = proxy.directory().join("bdr-pgbouncer.sh");
    fs::write(&script, SCRIPT).unwrap();
    let section = format!(
        "[pgsluice]\n\
         event_notifications = 'bdr_failover'\n\
         event_notification_command = '/bin/sh {} %n %e %s \"%c\" \"%a\"'\n",
        script.display()
    );
    let text = proxy.read_config().replace("[pgsluice]\n", &section);
    proxy.write_config(&text);
}

/// When events were told, from the file that has them to the millisecond.
fn told_at(proxy: &Proxy, kind: &str, node: &str) -> Option<Duration> {
    let text = fs::read_to_string(proxy.directory().join("state/events.log")).unwrap();
    let line = text.lines().rev().find(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        fields.get(3) == Some(&node) && fields.get(4) == Some(&kind)
    })?;
    let millis = line.split('\t').nth(1)?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn now() -> Duration {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap()
}

async fn rows(proxy: &Proxy, kinds: &[&str]) -> Vec<String> {
    let row = |row: &NamedRow| format!("{} {} {}", row["node"], row["type"], row["success"]);
    let events = proxy.events().await;
    let wanted = events
        .iter()
        .filter(|e| kinds.contains(&e["type"].as_str()));
    wanted.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_lead_is_confirmed_and_replaced_and_comes_back_as_in_the_seeds_log() {
    let spec = StageSpec {
        writers: 4,
        cluster: TIMES.to_owned(),
        ..stage(Kind::Native)
    };
    let mut stage = Stage::start(spec).await;
    notifies(&stage.proxy);
    stage.proxy.reload().await;
    stage.ready("n2").await;
    // The seed kills node2.
    stage.moves_to("n2").await;
    stage.ready("n1").await;

    stage.workload.begin("killed", Nature::Unplanned);
    let killed = now();
    stage.pair.n2.kill9();
    let outage = stage.workload.outage("n2").await;
    stage.proxy.event("failover_completed", "n1").await;
    let since = |kind, node| {
        let told = told_at(&stage.proxy, kind, node).unwrap();
        told.saturating_sub(killed)
    };
    let down = since("node_down", "n2");
    let moved = since("failover_completed", "n1");
    measured(&format!(
        "node_down after {down:?}, failover_completed after {moved:?}, {outage:?}"
    ));
    assert!(down >= CONFIRMED, "it was tried five times more: {down:?}");
    // The first try comes at once: clients saw the node die. Each may take a little.
    let most = CONFIRMED + Duration::from_secs(2) + Duration::from_secs(3);
    assert!(moved < most, "{moved:?}");

    let told = stage.proxy.directory().join("told");
    eventually("the script has run", async || {
        fs::read_to_string(&told).is_ok_and(|text| text.lines().count() >= 5)
    })
    .await;
    let door = stage.pair.n1.door(0);
    let conninfo = format!(
        "host={} port={} dbname={DATABASE} user={}",
        door.ip(),
        door.port(),
        MONITOR.user
    );
    let argv = ["2", "bdr_failover", "1", &conninfo, "n1"].join("\n") + "\n";
    assert_eq!(fs::read_to_string(&told).unwrap(), argv);

    // It is back, but nothing flows to it: no recovery.
    let sql = "ALTER SUBSCRIPTION n1_from_n2 DISABLE";
    stage.pair.n1.query(sql).await;
    stage.pair.n2.start().await;
    stage.proxy.event("recovery_stuck", "n2").await;
    assert_eq!(stage.proxy.node("n2").await["observed"], "recovering");
    assert_eq!(told_at(&stage.proxy, "node_recovery", "n2"), None);
    stage
        .pair
        .n1
        .query("ALTER SUBSCRIPTION n1_from_n2 ENABLE")
        .await;
    stage.pair.catch_up().await;
    let cured = now();
    stage.proxy.event("node_recovery", "n2").await;
    let recovered = told_at(&stage.proxy, "node_recovery", "n2").unwrap();
    measured(&format!(
        "node_recovery {:?} after the cure",
        recovered.saturating_sub(cured)
    ));
    // Nobody is sent back to it.
    assert_eq!(stage.proxy.lead().await.as_deref(), Some("n1"));
    let kinds = [
        "node_down",
        "failover_completed",
        "recovery_stuck",
        "node_recovery",
    ];
    let wanted = [
        "n2 node_down no",
        "n1 failover_completed yes",
        "n2 recovery_stuck no",
        "n2 node_recovery yes",
    ];
    assert_eq!(rows(&stage.proxy, &kinds).await, wanted);
    assert_eq!(
        fs::read_to_string(&told).unwrap(),
        argv,
        "told of that event only"
    );
    stage.workload.all_served().await;
    let work = stage.workload.stop().await;
    assert_eq!(work.errors().count(), 0, "{:?}", work.errors().next());
}
