//! The console as operators use it: psql, real sessions, what they read and what they order.

use std::collections::BTreeSet;

use tokio::task::JoinHandle;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::front::{FrontSpec, front, node, plain_front};
use crate::harness::client::{APP, DATABASE, Login, connect, connect_named, simple};
use crate::harness::eventually;
use crate::harness::proxy::{ADMIN, CLUSTER, CONSOLE, NamedRow, Proxy, STATS};
use crate::harness::raw::{RawConn, bind, execute, parse, query, sync, terminate, trace};
use crate::harness::workspace::{as_server_account, is_root};
use crate::tool::{Running, bare_psql, console, psql, start_console, start_psql};

/// Drives a client's connection, and tells how it ended.
type Driver = JoinHandle<Result<(), Error>>;

/// The only row of a SHOW.
fn only(rows: Vec<NamedRow>) -> NamedRow {
    let [row] = <[NamedRow; 1]>::try_from(rows).expect("one row");
    row
}

async fn show(proxy: &Proxy, what: &str) -> Vec<NamedRow> {
    console(proxy, ADMIN, &format!("SHOW {what}")).await.rows()
}

fn number(row: &NamedRow, column: &str) -> u64 {
    row[column]
        .parse()
        .unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

/// The row of SHOW POOLS of the application.
async fn pool(proxy: &Proxy) -> NamedRow {
    let rows = proxy.admin("SHOW POOLS").await.unwrap();
    only(rows)
}

async fn waiting(proxy: &Proxy, wanted: u64) {
    eventually("clients wait", async || {
        number(&pool(proxy).await, "cl_waiting") == wanted
    })
    .await;
}

async fn is_paused(proxy: &Proxy) -> bool {
    let rows = proxy.admin("SHOW STATE").await.unwrap();
    rows.iter()
        .any(|row| row["key"] == "paused" && row["value"] == "yes")
}

/// The client that has this name.
async fn client_named(proxy: &Proxy, name: &str) -> NamedRow {
    let rows = proxy.admin("SHOW CLIENTS").await.unwrap();
    let mut found = rows
        .into_iter()
        .filter(|row| row["application_name"] == name);
    found.next().unwrap_or_else(|| panic!("no client {name}"))
}

/// SQLSTATE and message of the error that ended a session.
async fn last_words(driver: Driver) -> (SqlState, String) {
    let error = driver.await.unwrap().unwrap_err();
    let db = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    (db.code().clone(), db.message().to_owned())
}

/// What is told to a session that is stopped on purpose.
fn told(message: &str) -> (SqlState, String) {
    (SqlState::ADMIN_SHUTDOWN, message.to_owned())
}

/// Waits until the console has taken this command.
async fn taken(proxy: &Proxy, command: &str) {
    let line = format!("command=\"{command}\"");
    eventually("the command is logged", async || {
        proxy.log().contains(&line)
    })
    .await;
}

#[tokio::test]
async fn show_tells_what_is_going_on() {
    let proxy = front(FrontSpec {
        database: "pool_size = 4",
        ..FrontSpec::default()
    })
    .await;
    let mut sessions = Vec::new();
    for name in ["idle", "in-transaction", "busy", "gone"] {
        let (client, _) = connect_named(proxy.port(), APP, DATABASE, name)
            .await
            .unwrap();
        sessions.push(client);
    }
    drop(sessions.pop());
    simple(&sessions[1], "BEGIN; SELECT 1").await.unwrap();
    let lock = node().await.connect(DATABASE).await;
    simple(&lock, "SELECT pg_advisory_lock(4001)")
        .await
        .unwrap();
    let busy = async {
        simple(&sessions[2], "SELECT pg_advisory_lock(4001)")
            .await
            .unwrap();
    };
    let watch = async {
        eventually("one server is idle again", async || {
            pool(&proxy).await["sv_idle"] == "1"
        })
        .await;
        let (column, row) = ("application_name", "busy");
        let runs = format!(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE {column} = '{row}' AND wait_event = 'advisory'"
        );
        eventually("the query runs", || async {
            node().await.holds(&runs).await
        })
        .await;
        pools_clients_and_servers_agree(&proxy).await;
        a_client_in_the_queue_is_seen(&proxy).await;
        simple(&lock, "SELECT pg_advisory_unlock(4001)")
            .await
            .unwrap();
    };
    tokio::join!(busy, watch);
}

async fn pools_clients_and_servers_agree(proxy: &Proxy) {
    let row = only(show(proxy, "POOLS").await);
    assert_eq!(
        (row["database"].as_str(), row["user"].as_str()),
        (DATABASE, APP.user)
    );
    assert_eq!(row["pool_mode"], "session");
    let counts = [
        "cl_active",
        "cl_waiting",
        "sv_active",
        "sv_idle",
        "sv_tested",
        "sv_login",
        "maxwait",
    ]
    .map(|column| number(&row, column));
    assert_eq!(counts, [3, 0, 3, 1, 0, 0, 0], "{row:?}");

    let servers = show(proxy, "SERVERS").await;
    let pids: BTreeSet<String> = servers.iter().map(|s| s["remote_pid"].clone()).collect();
    assert_eq!(pids.len(), 4, "{servers:?}");
    let list = pids.into_iter().collect::<Vec<_>>().join(",");
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND pid IN ({list})");
    assert_eq!(
        node().await.scalar(&sql).await.as_deref(),
        Some("4"),
        "they are backends"
    );
    for server in &servers {
        assert_eq!(server["node"], "n1");
        assert_eq!(server["port"], node().await.port().to_string());
        assert_eq!(server["close_needed"], "0");
    }
    let idle: Vec<_> = servers.iter().filter(|s| s["state"] == "idle").collect();
    assert_eq!((idle.len(), idle[0]["link"].as_str()), (1, ""));

    let clients = show(proxy, "CLIENTS").await;
    for (name, transaction) in [("idle", "0"), ("in-transaction", "1"), ("busy", "0")] {
        let client = clients
            .iter()
            .find(|c| c["application_name"] == name)
            .unwrap();
        assert_eq!(client["in_transaction"], transaction, "{client:?}");
        assert_eq!(
            (client["state"].as_str(), client["addr"].as_str()),
            ("active", "127.0.0.1")
        );
        assert_eq!(client["local_port"], proxy.port().to_string());
        let server = servers.iter().find(|s| s["ptr"] == client["link"]).unwrap();
        assert_eq!(server["link"], client["ptr"], "both sides name each other");
        assert_eq!(server["remote_pid"], client["remote_pid"]);
    }
    assert!(
        clients
            .iter()
            .any(|c| c["database"] == CONSOLE && c["user"] == ADMIN.user)
    );

    let row = only(show(proxy, "DATABASES").await);
    let columns = [
        "name",
        "host",
        "database",
        "pool_size",
        "current_connections",
        "current_client_connections",
        "paused",
        "disabled",
        "cluster",
    ]
    .map(|column| row[column].as_str());
    assert_eq!(
        columns,
        ["app", "127.0.0.1", "app", "4", "4", "3", "0", "0", CLUSTER]
    );
    assert_eq!(row["port"], node().await.port().to_string());

    let lists = show(proxy, "LISTS").await;
    let list = |name| number(lists.iter().find(|l| l["list"] == name).unwrap(), "items");
    let counts = [
        "databases",
        "pools",
        "used_clients",
        "used_servers",
        "login_clients",
    ]
    .map(list);
    assert_eq!(counts, [1, 1, 4, 4, 0], "three and the console");
}

async fn a_client_in_the_queue_is_seen(proxy: &Proxy) {
    let (last, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let port = proxy.port();
    let queued = tokio::spawn(async move { connect_named(port, APP, DATABASE, "queued").await });
    waiting(proxy, 1).await;
    let client = client_named(proxy, "queued").await;
    let columns = ["state", "link", "remote_pid"].map(|column| client[column].as_str());
    assert_eq!(columns, ["waiting", "", "0"]);
    assert!(number(&client, "wait_us") + number(&client, "wait") > 0);
    drop(last);
    queued.await.unwrap().unwrap();
    assert_eq!(number(&pool(proxy).await, "cl_waiting"), 0);
}

#[tokio::test]
async fn show_tells_of_the_instance_and_its_cluster() {
    let proxy = plain_front().await;
    eventually("a lead is chosen", async || {
        proxy.lead().await.as_deref() == Some("n1")
    })
    .await;
    let version = &only(show(&proxy, "VERSION").await)["version"];
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let help = console(&proxy, ADMIN, "SHOW HELP").await;
    for words in [
        "NOTICE",
        "RECONNECT [db]",
        "SWITCHOVER cluster TO node",
        "REPLICATION",
    ] {
        assert!(help.err.contains(words), "{help:?}");
    }
    let state = show(&proxy, "STATE").await;
    let state: Vec<_> = state
        .iter()
        .map(|row| (row["key"].as_str(), row["value"].as_str()))
        .collect();
    assert_eq!(
        state,
        [("active", "yes"), ("paused", "no"), ("suspended", "no")]
    );

    let config = console(&proxy, ADMIN, "SHOW CONFIG").await.ok();
    assert!(!config.contains("secret"), "no password is shown");
    let config = show(&proxy, "CONFIG").await;
    let setting = |key| {
        let row = config.iter().find(|row| row["key"] == key).unwrap();
        ["value", "default", "changeable"].map(|column| row[column].clone())
    };
    assert_eq!(
        setting("listen_port"),
        [&proxy.port().to_string(), "6432", "no"]
    );
    assert_eq!(setting("query_wait_timeout"), ["120", "120", "yes"]);
    assert_eq!(setting("auth_type"), ["trust", "scram-sha-256", "yes"]);

    let row = only(show(&proxy, "CLUSTERS").await);
    let columns =
        ["cluster", "lead", "epoch", "nodes", "nodes_up", "operation"].map(|c| row[c].as_str());
    assert_eq!(columns, [CLUSTER, "n1", "1", "1", "1", ""]);
    let row = only(show(&proxy, "NODES").await);
    let columns = [
        "node",
        "host",
        "role",
        "wanted",
        "observed",
        "candidate",
        "in_recovery",
    ]
    .map(|c| row[c].as_str());
    assert_eq!(
        columns,
        ["n1", "127.0.0.1", "lead", "ready", "up", "auto", "no"]
    );
    let sql =
        "SELECT current_setting('server_version_num'), system_identifier FROM pg_control_system()";
    let facts = node().await.query(sql).await;
    assert_eq!(facts[0][0].as_deref(), Some(row["server_version"].as_str()));
    assert_eq!(
        facts[0][1].as_deref(),
        Some(row["system_identifier"].as_str())
    );
    assert_eq!(show(&proxy, "REPLICATION").await, []);
    assert_eq!(show(&proxy, "SWITCHOVER").await, []);
    let events = show(&proxy, "EVENTS").await;
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str()).collect();
    assert_eq!(kinds, ["node_up", "lead_chosen", "clients_served"]);
    console(&proxy, ADMIN, "SHOW CLUSTER")
        .await
        .refused(&["42601", "Perhaps you meant SHOW CLUSTERS"]);
}

/// A script whose every message is known: the counters must rise by exactly that.
#[tokio::test]
async fn stats_count_exactly_what_was_done() {
    let proxy = plain_front().await;
    let before = only(show(&proxy, "STATS_TOTALS").await);
    let (mut conn, _) = RawConn::login(proxy.port(), APP, DATABASE).await;
    let batch = [
        parse("", "SELECT 1"),
        bind("", "", &[]),
        execute("", 0),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ]
    .concat();
    let script = [
        query("SELECT 1"),
        query("SELECT 1/0"),
        query("BEGIN"),
        query("SELECT repeat('x', 10000)"),
        query("COMMIT"),
        batch,
        query("CREATE TEMP TABLE t (a text); COPY t FROM STDIN"),
        crate::harness::raw::message(b'd', b"one\ntwo\n"),
        crate::harness::raw::message(b'c', b""),
    ]
    .concat();
    conn.send(&script).await;
    let answers = conn.read_until_ready(7).await;
    let sent: usize = answers.iter().map(|answer| answer.body.len() + 5).sum();
    let wanted = [
        ("server_assignment_count", 1),
        ("xact_count", 5),
        ("query_count", 7),
        ("bytes_received", script.len()),
        ("bytes_sent", sent),
        ("client_login_count", 1),
    ];
    for when in ["during the session", "after it"] {
        let now = only(show(&proxy, "STATS_TOTALS").await);
        for (column, wanted) in wanted {
            let rise = number(&now, column) - number(&before, column);
            // Terminate is five bytes more.
            let more = usize::from(when == "after it" && column == "bytes_received") * 5;
            assert_eq!(rise, (wanted + more) as u64, "{column} {when}");
        }
        assert!(number(&now, "query_time") >= number(&before, "query_time"));
        if when == "during the session" {
            conn.send(&terminate()).await;
            assert_eq!(trace(&conn.read_to_end().await), "");
            eventually("the server is idle", async || {
                pool(&proxy).await["sv_idle"] == "1"
            })
            .await;
        }
    }
    let row = only(show(&proxy, "STATS").await);
    assert_eq!(
        (row["database"].as_str(), row["total_query_count"].as_str()),
        (DATABASE, "7")
    );
    let totals = show(&proxy, "TOTALS").await;
    assert!(
        totals
            .iter()
            .any(|t| t["name"] == "total_query_count" && t["value"] == "7"),
        "{totals:?}"
    );
}

#[tokio::test]
async fn pause_waits_for_the_sessions_and_each_console_gets_its_own_answer() {
    let proxy = front(FrontSpec {
        more: "[databases.other]\ncluster = \"main\"\ndbname = \"app\"",
        ..FrontSpec::default()
    })
    .await;
    let (here, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let (there, _) = connect(proxy.port(), APP, "other").await.unwrap();
    console(&proxy, ADMIN, "RECONNECT other").await.ok();
    let wait_close = start_console(&proxy, ADMIN, "WAIT_CLOSE other");
    let pause = start_console(&proxy, ADMIN, "PAUSE app");
    eventually("the database is paused", async || {
        let rows = proxy.admin("SHOW DATABASES").await.unwrap();
        rows.iter()
            .any(|row| row["name"] == DATABASE && row["paused"] == "1")
    })
    .await;
    console(&proxy, ADMIN, "PAUSE app")
        .await
        .refused(&["55000", "already suspended/paused"]);
    simple(&here, "SELECT 1")
        .await
        .expect("session mode: a session goes on");
    assert!(pause.is_running() && wait_close.is_running());
    drop(here);
    assert_eq!(pause.said().await.ok().trim(), "PAUSE");
    let servers = show(&proxy, "SERVERS").await;
    assert!(
        servers.iter().all(|s| s["database"] != DATABASE),
        "{servers:?}"
    );
    assert!(
        wait_close.is_running(),
        "somebody else's pause is no answer"
    );
    drop(there);
    assert_eq!(wait_close.said().await.ok().trim(), "WAIT_CLOSE");

    // What a WAIT_CLOSE has answered says nothing about a later PAUSE.
    let (there, _) = connect(proxy.port(), APP, "other").await.unwrap();
    let late = console(&proxy, ADMIN, "PAUSE other TIMEOUT '100ms'").await;
    late.refused(&[
        "57014",
        "PAUSE was not complete within",
        "still has a server of \"other\"",
    ]);
    simple(&there, "SELECT 1").await.unwrap();

    let held = start_psql(&proxy, APP, "SELECT 'served'");
    eventually("a login waits", async || {
        let rows = proxy.admin("SHOW POOLS").await.unwrap();
        rows.iter()
            .any(|row| row["database"] == DATABASE && row["cl_waiting"] == "1")
    })
    .await;
    console(&proxy, ADMIN, "RESUME app").await.ok();
    assert!(held.said().await.ok().contains("served"));
    console(&proxy, ADMIN, "RESUME app")
        .await
        .refused(&["55000", "database app is not paused"]);
    console(&proxy, ADMIN, "PAUSE nowhere")
        .await
        .refused(&["3D000", "no such database: nowhere"]);
}

#[tokio::test]
async fn a_pause_that_was_given_up_is_not_in_effect() {
    let proxy = plain_front().await;
    let (session, _) = connect_named(proxy.port(), APP, DATABASE, "holder")
        .await
        .unwrap();
    let cancelled = start_console(&proxy, ADMIN, "PAUSE");
    eventually("paused", || is_paused(&proxy)).await;
    cancelled.interrupt();
    cancelled.said().await.refused(&[
        "57014",
        "\"holder\" still has a server",
        "The pause was lifted",
    ]);
    assert!(!is_paused(&proxy).await);

    let lifted = start_console(&proxy, ADMIN, "PAUSE");
    eventually("paused", || is_paused(&proxy)).await;
    let database = only(show(&proxy, "DATABASES").await);
    assert_eq!(
        database["paused"], "1",
        "a pause of everything is one of each database"
    );
    console(&proxy, ADMIN, "RESUME").await.ok();
    lifted
        .said()
        .await
        .refused(&["55000", "the pause was lifted before it was complete"]);

    // A console that is lost undoes nothing.
    let lost = start_console(&proxy, ADMIN, "PAUSE");
    eventually("paused", || is_paused(&proxy)).await;
    drop(lost);
    eventually("the console is gone", async || {
        let rows = proxy.admin("SHOW CLIENTS").await.unwrap();
        rows.iter().filter(|row| row["database"] == CONSOLE).count() == 1
    })
    .await;
    assert!(is_paused(&proxy).await);
    simple(&session, "SELECT 1").await.unwrap();
    console(&proxy, ADMIN, "RESUME").await.ok();
    console(&proxy, ADMIN, "RESUME")
        .await
        .refused(&["55000", "pooler is not paused/suspended"]);
}

#[tokio::test]
async fn reconnect_and_pause_in_one_query_are_one_act() {
    let proxy = plain_front().await;
    let (_idle, idle_end) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let (busy, busy_end) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    simple(&busy, "BEGIN").await.unwrap();
    let both = start_console(&proxy, ADMIN, "RECONNECT; PAUSE;");
    eventually("paused", || is_paused(&proxy)).await;
    assert_eq!(
        last_words(idle_end).await,
        told("database configuration changed")
    );
    simple(&busy, "SELECT 1")
        .await
        .expect("a transaction comes to its end");
    assert!(both.is_running());
    let held = start_psql(&proxy, APP, "SELECT 'served'");
    waiting(&proxy, 1).await;
    simple(&busy, "COMMIT").await.unwrap();
    assert_eq!(
        both.said()
            .await
            .ok()
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["RECONNECT", "PAUSE"]
    );
    assert_eq!(
        last_words(busy_end).await,
        told("database configuration changed")
    );
    assert_eq!(show(&proxy, "SERVERS").await, []);
    console(&proxy, ADMIN, "RESUME").await.ok();
    assert!(held.said().await.ok().contains("served"));

    // psql sends what it reads from a file statement by statement, unless told otherwise.
    let (session, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let mut command = psql(proxy.port(), ADMIN, CONSOLE);
    let apart = Running::start(&mut command, "RECONNECT; PAUSE;\n");
    eventually("paused", || is_paused(&proxy)).await;
    simple(&session, "SELECT 1")
        .await
        .expect("PAUSE alone lets sessions go on");
    assert_eq!(only(show(&proxy, "SERVERS").await)["close_needed"], "1");
    assert!(apart.is_running());
    drop(session);
    apart.said().await.ok();
    console(&proxy, ADMIN, "RESUME").await.ok();
    let (_session, session_end) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let mut command = psql(proxy.port(), ADMIN, CONSOLE);
    Running::start(&mut command, "RECONNECT\\; PAUSE;\n")
        .said()
        .await
        .ok();
    assert_eq!(
        last_words(session_end).await,
        told("database configuration changed")
    );
}

#[tokio::test]
async fn reconnect_closes_servers_as_they_are_released() {
    let proxy = plain_front().await;
    let (session, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let (idle, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    drop(idle);
    eventually("a server is idle", async || {
        pool(&proxy).await["sv_idle"] == "1"
    })
    .await;
    assert_eq!(
        console(&proxy, ADMIN, "RECONNECT").await.ok().trim(),
        "RECONNECT"
    );
    let server = only(show(&proxy, "SERVERS").await);
    assert_eq!(
        (server["state"].as_str(), server["close_needed"].as_str()),
        ("active", "1")
    );
    let late = console(&proxy, ADMIN, "WAIT_CLOSE TIMEOUT '50ms'").await;
    late.refused(&["57014", "SHOW SERVERS has them with close_needed = 1"]);
    let cancelled = start_console(&proxy, ADMIN, "WAIT_CLOSE");
    taken(&proxy, "WAIT_CLOSE").await;
    cancelled.interrupt();
    let said = cancelled.said().await;
    said.refused(&["57014", "canceling statement due to user request"]);
    simple(&session, "SELECT 1").await.unwrap();
    drop(session);
    console(&proxy, ADMIN, "WAIT_CLOSE").await.ok();
    assert_eq!(show(&proxy, "SERVERS").await, []);
}

#[tokio::test]
async fn kill_and_disable_say_why() {
    let proxy = plain_front().await;
    let (one, driver) = connect_named(proxy.port(), APP, DATABASE, "one")
        .await
        .unwrap();
    let (other, other_end) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let id = client_named(&proxy, "one").await["id"].clone();
    console(&proxy, ADMIN, &format!("KILL_CLIENT {id}"))
        .await
        .ok();
    assert_eq!(last_words(driver).await, told("admin forced disconnect"));
    drop(one);
    simple(&other, "SELECT 1")
        .await
        .expect("only the one was meant");
    eventually("it is gone", async || {
        console(&proxy, ADMIN, &format!("KILL_CLIENT {id}"))
            .await
            .code
            != Some(0)
    })
    .await;
    console(&proxy, ADMIN, &format!("KILL_CLIENT {id}"))
        .await
        .refused(&["22023", "client not found"]);
    let (_console, driver) = connect_named(proxy.port(), ADMIN, CONSOLE, "watching")
        .await
        .unwrap();
    let id = client_named(&proxy, "watching").await["id"].clone();
    console(&proxy, ADMIN, &format!("KILL_CLIENT {id}"))
        .await
        .ok();
    assert_eq!(last_words(driver).await, told("admin forced disconnect"));
    console(&proxy, ADMIN, "KILL_CLIENT x")
        .await
        .refused(&["22P02", "SHOW CLIENTS has it"]);

    console(&proxy, ADMIN, "DISABLE app").await.ok();
    simple(&other, "SELECT 1").await.expect("sessions go on");
    start_psql(&proxy, APP, "SELECT 1")
        .said()
        .await
        .refused(&["database \"app\" is disabled"]);
    assert_eq!(only(show(&proxy, "DATABASES").await)["disabled"], "1");
    console(&proxy, ADMIN, "DISABLE nowhere")
        .await
        .refused(&["3D000"]);
    console(&proxy, ADMIN, "ENABLE app").await.ok();
    start_psql(&proxy, APP, "SELECT 1").said().await.ok();

    console(&proxy, ADMIN, "KILL app").await.ok();
    assert_eq!(last_words(other_end).await, told("database removed"));
    eventually("its servers are gone", async || {
        show(&proxy, "SERVERS").await.is_empty()
    })
    .await;
    let held = start_psql(&proxy, APP, "SELECT 'served'");
    waiting(&proxy, 1).await;
    console(&proxy, ADMIN, "RESUME app").await.ok();
    held.said().await.ok();
}

#[tokio::test]
async fn reload_takes_all_or_nothing() {
    let proxy = plain_front().await;
    let good = proxy.read_config();
    let size = async || only(show(&proxy, "DATABASES").await)["pool_size"].clone();

    proxy.write_config(&good.replace("pool_size = 20", "pool_size = 1"));
    let said = console(&proxy, ADMIN, "RELOAD").await;
    assert_eq!(
        (said.code, said.err.as_str()),
        (Some(0), ""),
        "nothing needs a restart"
    );
    assert_eq!(size().await, "1");
    let (first, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let second = start_psql(&proxy, APP, "SELECT 'served'");
    waiting(&proxy, 1).await;

    let bad = good.replace("pool_size = 20", "pool_size = 30\npool_sice = 7");
    proxy.write_config(&bad);
    let why = console(&proxy, ADMIN, "RELOAD").await;
    let line = bad
        .lines()
        .position(|line| line.contains("pool_sice"))
        .unwrap()
        + 1;
    let place = format!("{}:{line}", proxy.config_file().display());
    why.refused(&["F0000", &place, "pool_sice", "Nothing was changed"]);
    assert_eq!(size().await, "1");
    proxy.write_config("[listen\n");
    console(&proxy, ADMIN, "RELOAD")
        .await
        .refused(&["F0000", ":1"]);
    std::fs::remove_file(proxy.config_file()).unwrap();
    console(&proxy, ADMIN, "RELOAD")
        .await
        .refused(&["F0000", "pgsluice.toml", "No such file"]);
    simple(&first, "SELECT 1").await.unwrap();

    let backlog = good.replace("[listen]\n", "[listen]\nbacklog = 77\n");
    proxy.write_config(&backlog.replace("pool_size = 20", "pool_size = 3"));
    let said = console(&proxy, ADMIN, "RELOAD").await;
    assert!(said.err.contains("NOTICE"), "{said:?}");
    assert!(
        said.err
            .contains("listen.backlog: takes effect at the next start"),
        "{said:?}"
    );
    assert!(
        second.said().await.ok().contains("served"),
        "a larger pool serves who waits"
    );
    assert_eq!(size().await, "3");
    let config = show(&proxy, "CONFIG").await;
    let backlog = config
        .iter()
        .find(|row| row["key"] == "listen_backlog")
        .unwrap();
    assert_ne!(backlog["value"], "77", "SHOW CONFIG tells what is in force");
}

#[tokio::test]
async fn who_may_do_what() {
    let proxy = front(FrontSpec {
        auth: "scram-sha-256",
        ..FrontSpec::default()
    })
    .await;
    assert_eq!(console(&proxy, STATS, "SHOW POOLS").await.rows(), []);
    for command in [
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "KILL",
        "KILL_CLIENT 1",
        "DISABLE app",
        "RELOAD",
        "SHUTDOWN",
        "WAIT_CLOSE",
        "DRAIN n1",
        "SWITCHOVER main TO n1",
        "FAILOVER main TO n1",
        "ABORT SWITCHOVER main",
    ] {
        console(&proxy, STATS, command)
            .await
            .refused(&["42501", "admin access needed"]);
    }
    console(&proxy, APP, "SHOW POOLS")
        .await
        .refused(&["user \"app\" is not allowed on the console"]);
    let wrong = Login {
        user: ADMIN.user,
        password: "wrong",
    };
    console(&proxy, wrong, "SHOW POOLS")
        .await
        .refused(&["password authentication failed"]);

    // Who runs the pooler administers it over the Unix socket, under the console's own name.
    let owner = |user: &str| {
        let mut command = bare_psql();
        command
            .args([
                "-h",
                &proxy.directory().display().to_string(),
                "-p",
                &proxy.port().to_string(),
            ])
            .args(["-U", user, "-d", "pgbouncer"]);
        command
    };
    let mut ours = owner("pgbouncer");
    Running::start(ours.args(["-c", "PAUSE", "-c", "RESUME"]), "")
        .said()
        .await
        .ok();
    let mut other_name = owner("app");
    Running::start(other_name.args(["-c", "SHOW STATE"]), "")
        .said()
        .await
        .refused(&["password"]);
    if is_root() {
        let mut stranger = as_server_account(std::path::Path::new("env"));
        let ours = owner("pgbouncer");
        stranger
            .arg(ours.get_program())
            .args(ours.get_args())
            .args(["-c", "SHOW STATE"]);
        Running::start(&mut stranger, "")
            .said()
            .await
            .refused(&["password"]);
    }
}

#[tokio::test]
async fn shutdown_has_three_manners() {
    let mut proxy = plain_front().await;
    let (_session, driver) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let (_watching, other) = connect(proxy.port(), ADMIN, CONSOLE).await.unwrap();
    assert_eq!(
        console(&proxy, ADMIN, "SHUTDOWN").await.out.trim(),
        "SHUTDOWN"
    );
    assert_eq!(last_words(other).await, told("server shutting down"));
    assert_eq!(last_words(driver).await, told("server shutting down"));
    assert!(proxy.ended().await.success());

    for manner in ["WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"] {
        let mut proxy = plain_front().await;
        let (session, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
        console(&proxy, ADMIN, &format!("SHUTDOWN {manner}"))
            .await
            .ok();
        eventually("the door is closed", async || {
            let said = start_psql(&proxy, APP, "SELECT 1").said().await;
            said.err.contains("Connection refused")
        })
        .await;
        let socket = |user: &str, dbname: &str, sql: &str| {
            let mut command = bare_psql();
            let directory = proxy.directory().display().to_string();
            command
                .args(["-h", &directory, "-p", &proxy.port().to_string()])
                .args(["-U", user, "-d", dbname, "-c", sql]);
            Running::start(&mut command, "").said()
        };
        socket("app", DATABASE, "SELECT 1")
            .await
            .refused(&["pooler is shutting down"]);
        socket("pgbouncer", "pgbouncer", "SHOW POOLS").await.ok();
        simple(&session, "SELECT 1").await.expect("sessions go on");
        drop(session);
        assert!(proxy.ended().await.success(), "{manner}");
    }
}
