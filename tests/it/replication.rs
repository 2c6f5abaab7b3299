//! What the console says of replication, and what is told of it, on real pairs: broken, behind,
//! copied, hidden, and slots that are nobody's.

use std::path::PathBuf;

use crate::harness::client::{DATABASE, MONITOR};
use crate::harness::eventually;
use crate::harness::pair::{Pair, PairSpec};
use crate::harness::proxy::{CLUSTER, NamedRow, Proxy, ProxySpec};

/// Names a column, and what it must be.
type Wanted<'a> = &'a [(&'a str, &'a str)];

async fn watch(pair: &Pair, cluster: &str) -> Proxy {
    let spec = ProxySpec {
        cluster: format!("monitor_interval = \"100ms\"\n{cluster}"),
        ..ProxySpec::new(PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")))
    };
    let proxy = Proxy::start(pair, spec).await;
    proxy.serving().await;
    proxy
}

/// Waits until a row of a table is as wanted.
async fn shows(proxy: &Proxy, table: &str, wanted: Wanted<'_>) -> NamedRow {
    let sql = format!("SHOW {table}");
    let mut found = None;
    eventually(&format!("{table} has {wanted:?}"), async || {
        let rows = proxy.admin(&sql).await.unwrap();
        let fits = |row: &NamedRow| wanted.iter().all(|(name, value)| row[*name] == *value);
        rows.into_iter().any(|row| fits(&row))
    })
    .await;
    let rows = proxy.admin(&sql).await.unwrap();
    for row in rows {
        if wanted.iter().all(|(name, value)| row[*name] == *value) {
            found = Some(row);
        }
    }
    found.expect("the row is there still")
}

/// From n1 to n2.
async fn link(proxy: &Proxy, wanted: Wanted<'_>) -> NamedRow {
    let ends = [("source", "n1"), ("target", "n2")];
    let wanted: Vec<_> = ends.iter().chain(wanted).copied().collect();
    shows(proxy, "REPLICATION", &wanted).await
}

async fn told(proxy: &Proxy, kind: &str, success: &str) -> String {
    let event = shows(proxy, "EVENTS", &[("type", kind), ("success", success)]).await;
    event["detail"].clone()
}

async fn times_told(proxy: &Proxy, kind: &str, success: &str) -> usize {
    let events = proxy.admin("SHOW EVENTS").await.unwrap();
    let fits = |e: &&NamedRow| e["type"] == kind && e["success"] == success;
    events.iter().filter(fits).count()
}

async fn dry_run(proxy: &Proxy) -> Result<Vec<NamedRow>, String> {
    refusal(proxy, &format!("SWITCHOVER {CLUSTER} TO n2 DRY RUN")).await
}

async fn refusal(proxy: &Proxy, sql: &str) -> Result<Vec<NamedRow>, String> {
    proxy.admin(sql).await.map_err(|error| {
        let db = error.as_db_error().unwrap();
        format!("{} {}", db.message(), db.detail().unwrap_or_default())
    })
}

#[tokio::test]
async fn lag_is_told_in_bytes_and_in_time_and_an_idle_pair_has_none() {
    let pair = Pair::native(PairSpec::default()).await;
    let proxy = watch(&pair, "replication_lag_alert = \"1s\"\n").await;
    let idle = [
        ("state", "streaming"),
        ("lag_bytes", "0"),
        ("lag_seconds", "0.000"),
    ];
    let row = link(&proxy, &idle).await;
    for (column, value) in [
        ("kind", "logical"),
        ("slot", "n2_from_n1"),
        ("slot_type", "logical"),
        ("active", "yes"),
        ("wal_status", "reserved"),
        ("subscription", "n2_from_n1"),
        ("enabled", "yes"),
        ("pending_tables", "0"),
        ("apply_errors", "0"),
        ("sync_errors", "0"),
        // Counted by PostgreSQL 18.
        ("conflicts", ""),
    ] {
        assert_eq!(row[column], value, "{column}: {row:?}");
    }
    for column in [
        "origin_lsn",
        "sent_lsn",
        "write_lsn",
        "flush_lsn",
        "replay_lsn",
    ] {
        assert!(row[column].contains('/'), "{column}: {row:?}");
    }

    let stall = pair.stall_apply("n2").await;
    let detail = told(&proxy, "replication_lag", "no").await;
    assert!(
        detail.contains("n2_from_n1") && detail.contains("bytes behind"),
        "{detail}"
    );
    let row = link(&proxy, &[("state", "streaming")]).await;
    assert!(row["lag_seconds"].parse::<f64>().unwrap() >= 1.0, "{row:?}");
    assert!(row["lag_bytes"].parse::<u64>().unwrap() > 0, "{row:?}");
    let nodes = proxy.admin("SHOW NODES").await.unwrap();
    let n2 = nodes.iter().find(|n| n["node"] == "n2").unwrap();
    assert!(n2["lag_seconds"].parse::<f64>().unwrap() >= 1.0, "{n2:?}");

    stall.end().await;
    told(&proxy, "replication_lag", "yes").await;
    link(&proxy, &idle).await;
    assert_eq!(times_told(&proxy, "replication_lag", "no").await, 1);
}

#[tokio::test]
async fn a_disabled_subscription_a_first_copy_and_a_conflict_are_told_apart() {
    let pair = Pair::native(PairSpec {
        schema: "CREATE TABLE t (k int PRIMARY KEY);".to_owned(),
        ..PairSpec::default()
    })
    .await;
    let proxy = watch(&pair, "").await;
    link(&proxy, &[("state", "streaming")]).await;

    pair.n2.query("ALTER SUBSCRIPTION n2_from_n1 DISABLE").await;
    let off = [("state", "disabled"), ("enabled", "no"), ("active", "no")];
    link(&proxy, &off).await;
    let detail = told(&proxy, "replication_broken", "no").await;
    assert!(detail.contains("disabled"), "{detail}");
    pair.n2.query("ALTER SUBSCRIPTION n2_from_n1 ENABLE").await;
    told(&proxy, "replication_restored", "yes").await;

    // A table that is on its way: the gate would open without its rows.
    for node in pair.nodes() {
        node.query("CREATE TABLE late (k int PRIMARY KEY)").await;
    }
    pair.n1
        .query("INSERT INTO late SELECT generate_series(1, 10)")
        .await;
    let lock = pair.n2.connect(DATABASE).await;
    lock.batch_execute("BEGIN; LOCK TABLE late IN SHARE MODE")
        .await
        .unwrap();
    pair.n2
        .query("ALTER SUBSCRIPTION n2_from_n1 REFRESH PUBLICATION WITH (copy_data = true)")
        .await;
    link(&proxy, &[("state", "copying"), ("pending_tables", "1")]).await;
    let why = dry_run(&proxy).await.unwrap_err();
    assert!(
        why.contains("1 tables of \"n2_from_n1\" are still being copied"),
        "{why}"
    );
    lock.batch_execute("ROLLBACK").await.unwrap();
    link(&proxy, &[("state", "streaming"), ("pending_tables", "0")]).await;

    // Both nodes insert the same key: native replication stands still until somebody helps.
    pair.n1.query("ALTER SUBSCRIPTION n1_from_n2 DISABLE").await;
    pair.n2.query("INSERT INTO t VALUES (1)").await;
    pair.n1.query("INSERT INTO t VALUES (1)").await;
    let detail = told(&proxy, "apply_error", "no").await;
    assert!(detail.contains("n2_from_n1"), "{detail}");
    let row = shows(&proxy, "REPLICATION", &[("target", "n2")]).await;
    assert_ne!(row["apply_errors"], "0", "{row:?}");
}

#[tokio::test]
async fn a_slot_that_belongs_to_nobody_is_shown_told_and_not_waited_for() {
    let pair = Pair::native(PairSpec::default()).await;
    let proxy = watch(&pair, "slot_retained_max = \"1MB\"\n").await;
    link(&proxy, &[("state", "streaming")]).await;
    pair.n1
        .query("SELECT pg_create_physical_replication_slot('barman', true)")
        .await;
    pair.n1
        .query("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')")
        .await;
    for (slot, owner, active) in [
        ("barman", "foreign", "no"),
        ("cdc", "foreign", "no"),
        ("n2_from_n1", "n2", "yes"),
    ] {
        let row = shows(&proxy, "SLOTS", &[("node", "n1"), ("slot", slot)]).await;
        let got = (row["owner"].as_str(), row["active"].as_str());
        assert_eq!(got, (owner, active), "{row:?}");
    }
    pair.n1
        .query("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 2000000))")
        .await;
    let about = async |slot: &str, success: &str| {
        let events = proxy.admin("SHOW EVENTS").await.unwrap();
        let fits = |e: &NamedRow| {
            let named = e["detail"].contains(&format!("slot \"{slot}\""));
            e["type"] == "slot_retains_wal" && e["success"] == success && named
        };
        let found: Vec<_> = events.into_iter().filter(fits).collect();
        found
            .into_iter()
            .map(|mut e| e.remove("detail").unwrap())
            .collect::<Vec<_>>()
    };
    eventually("it is told", async || {
        about("barman", "no").await.len() == 1
    })
    .await;
    let detail = about("barman", "no").await.remove(0);
    assert!(
        detail.contains("for none of the nodes, which nobody reads"),
        "{detail}"
    );
    pair.catch_up().await;

    // It is neither in the way nor waited for.
    eventually("nothing is refused", async || dry_run(&proxy).await.is_ok()).await;
    proxy
        .admin(&format!("SWITCHOVER {CLUSTER} TO n2"))
        .await
        .unwrap();
    assert_eq!(proxy.lead().await.as_deref(), Some("n2"));

    for slot in ["barman", "cdc"] {
        pair.n1
            .query(&format!("SELECT pg_drop_replication_slot('{slot}')"))
            .await;
    }
    for slot in ["barman", "cdc"] {
        eventually("its end is told", async || {
            about(slot, "yes").await.len() == 1
        })
        .await;
        assert_eq!(about(slot, "no").await.len(), 1, "told once");
    }
}

#[tokio::test]
async fn a_role_that_sees_nothing_is_told_so_and_what_to_grant() {
    let pair = Pair::native(PairSpec::default()).await;
    let mut proxy = watch(&pair, "").await;
    link(&proxy, &[("state", "streaming")]).await;
    for node in pair.nodes() {
        node.query(&format!("REVOKE pg_monitor FROM {}", MONITOR.user))
            .await;
    }
    let row = link(
        &proxy,
        &[("state", "hidden"), ("sent_lsn", ""), ("write_lsn", "")],
    )
    .await;
    // What everybody may see.
    assert_eq!(
        (row["active"].as_str(), row["enabled"].as_str()),
        ("yes", "yes")
    );
    assert!(row["retained_bytes"].parse::<u64>().is_ok(), "{row:?}");
    let why = dry_run(&proxy).await.unwrap_err();
    assert!(why.contains("GRANT pg_monitor"), "{why}");
    let nodes = proxy.admin("SHOW NODES").await.unwrap();
    assert!(
        nodes.iter().all(|node| node["observed"] == "up"),
        "{nodes:?}"
    );
    assert_eq!(times_told(&proxy, "replication_broken", "no").await, 0);

    // So also when there is no time to look for the cause.
    let mut pair = pair;
    pair.n1.kill9();
    eventually("the failover is refused at once, for that", async || {
        let sql = format!("FAILOVER {CLUSTER} TO n2 ACCEPT LOSS");
        let why = refusal(&proxy, &sql).await.unwrap_err();
        why.contains("cannot see the apply workers: GRANT pg_monitor")
    })
    .await;
    pair.n2
        .query(&format!("GRANT pg_monitor TO {}", MONITOR.user))
        .await;
    let sql = format!("FAILOVER {CLUSTER} TO n2 ACCEPT LOSS");
    eventually("the failover is accepted", async || {
        proxy.admin(&sql).await.is_ok()
    })
    .await;
    assert_eq!(proxy.lead().await.as_deref(), Some("n2"));
    proxy.restart().await;
}

#[tokio::test]
async fn what_no_barrier_can_see_is_warned_of() {
    let pair = Pair::native(PairSpec {
        schema: format!(
            "CREATE SEQUENCE numbers; CREATE SEQUENCE odd INCREMENT 2;\
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {};",
            MONITOR.user
        ),
        ..PairSpec::default()
    })
    .await;
    let proxy = watch(&pair, "").await;
    eventually("nothing is refused", async || dry_run(&proxy).await.is_ok()).await;
    let warnings = async || {
        let found = dry_run(&proxy).await.unwrap();
        let level = |row: &&NamedRow| row["level"] == "warning";
        let texts: Vec<_> = found
            .iter()
            .filter(level)
            .map(|r| r["finding"].clone())
            .collect();
        texts.join("\n")
    };
    assert_eq!(warnings().await, "");
    pair.n1
        .query("SELECT nextval('numbers'), nextval('odd')")
        .await;
    pair.n1
        .query(
            "CREATE TABLE t (k int PRIMARY KEY); DROP PUBLICATION pub; \
             CREATE PUBLICATION pub FOR TABLE harness_sync, pgsluice_marker",
        )
        .await;
    let text = warnings().await;
    assert!(
        text.contains("1 sequences are behind on the target"),
        "{text}"
    );
    assert!(
        text.contains("public.numbers") && !text.contains("odd"),
        "{text}"
    );
    assert!(
        text.contains("tables on \"n1\" are not replicated: ") && text.contains("public.t\n"),
        "{text}"
    );
}

#[tokio::test]
async fn pglogical_and_a_standby_are_shown_with_what_they_have() {
    let pair = Pair::pglogical(PairSpec::default()).await;
    let proxy = watch(&pair, "").await;
    let row = link(&proxy, &[("state", "streaming"), ("lag_seconds", "0.000")]).await;
    for (column, value) in [
        ("kind", "pglogical"),
        ("enabled", "yes"),
        ("pending_tables", "0"),
        // pglogical 2 does not count.
        ("apply_errors", ""),
        ("conflicts", ""),
    ] {
        assert_eq!(row[column], value, "{column}: {row:?}");
    }
    pair.n1
        .query("CREATE TABLE unpublished (k int PRIMARY KEY)")
        .await;
    let found = dry_run(&proxy).await.unwrap();
    let named = |row: &NamedRow| row["finding"].contains("not replicated: public.unpublished");
    assert!(found.iter().any(named), "{found:?}");
    drop(proxy);

    let pair = Pair::physical(PairSpec::default()).await;
    let proxy = watch(&pair, "").await;
    let row = link(&proxy, &[("state", "streaming"), ("lag_seconds", "0.000")]).await;
    for (column, value) in [
        ("kind", "physical"),
        ("slot", "n2"),
        ("slot_type", "physical"),
        ("subscription", ""),
        ("enabled", ""),
        ("pending_tables", ""),
    ] {
        assert_eq!(row[column], value, "{column}: {row:?}");
    }
    let slot = shows(&proxy, "SLOTS", &[("slot", "n2")]).await;
    assert_eq!(
        (slot["node"].as_str(), slot["owner"].as_str()),
        ("n1", "n2")
    );
}

/// pglogical does not say what it has received; what it has applied is known where that is granted.
#[tokio::test]
async fn what_pglogical_has_applied_counts_for_the_estimate_of_a_loss() {
    let mut pair = Pair::pglogical(PairSpec::default()).await;
    let proxy = watch(&pair, "").await;
    link(&proxy, &[("state", "streaming"), ("lag_seconds", "0.000")]).await;
    let stall = pair.stall_apply("n2").await;
    eventually("n2 is behind", async || {
        let row = link(&proxy, &[("state", "streaming")]).await;
        row["lag_seconds"] != "0.000"
    })
    .await;
    pair.n1.kill9();
    let sql = format!("FAILOVER {CLUSTER} TO n2");
    let estimate = async |received: &str| {
        eventually(&format!("received is {received}"), async || {
            let why = refusal(&proxy, &sql).await.unwrap_err();
            why.contains("the target may lack")
                && why.contains(&format!("received by it {received}"))
        })
        .await;
    };
    estimate("unknown").await;
    pair.n2
        .query(&format!(
            "GRANT EXECUTE ON FUNCTION pg_replication_origin_progress(text, boolean) TO {}",
            MONITOR.user
        ))
        .await;
    estimate("0/").await;
    stall.end().await;
}
