//! Servers are shared, and nobody notices: reuse, the queue, limits, logins, and servers that die.

#![allow(
    clippy::type_complexity,
    reason = "columns of a table, named where it is read"
)]

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::front::{FrontSpec, front, front_of, node, own_node, plain_front};
use crate::harness::client::{
    APP, APP_MD5, APP_PLAIN, APP_TRUST, DATABASE, Login, SUPERUSER, connect,
};
use crate::harness::eventually;
use crate::harness::node::Node;
use crate::harness::proxy::{ADMIN, CONSOLE, Proxy};
use crate::harness::raw::{Message, RawConn, execute, parse, query, sync, terminate, trace};
use crate::harness::workspace::signal;

const ONE: FrontSpec = FrontSpec {
    auth: "trust",
    general: "",
    database: "pool_size = 1",
    more: "",
    node: None,
};

async fn login(proxy: &Proxy) -> RawConn {
    let (conn, hello) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'), "{}", trace(&hello));
    conn
}

async fn pid(conn: &mut RawConn) -> u32 {
    let pid = conn.value("SELECT pg_backend_pid()").await;
    pid.expect("a row").parse().unwrap()
}

/// Says goodbye and waits until that was heard.
async fn leave(mut conn: RawConn) {
    conn.send(&terminate()).await;
    assert_eq!(trace(&conn.read_to_end().await), "");
}

async fn waiting(proxy: &Proxy, wanted: usize) {
    eventually(&format!("{wanted} clients wait"), async || {
        let rows = proxy.admin("SHOW POOLS").await.unwrap();
        let count =
            |row: &crate::harness::proxy::NamedRow| row["cl_waiting"].parse::<usize>().unwrap();
        rows.iter().map(count).sum::<usize>() == wanted
    })
    .await;
}

async fn gone(node: &Node, pid: u32) {
    let gone = format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}");
    eventually("the backend is gone", || node.holds(&gone)).await;
}

/// The backend's session waits on what `event` names.
async fn waits_on(node: &Node, pid: u32, event: &str) {
    let waits = format!("SELECT wait_event = '{event}' FROM pg_stat_activity WHERE pid = {pid}");
    eventually("the backend runs the query", || node.holds(&waits)).await;
}

#[tokio::test]
async fn the_next_client_finds_nothing_of_the_one_before() {
    let proxy = front(ONE).await;
    let mut first = login(&proxy).await;
    let server = pid(&mut first).await;
    for sql in [
        "SET work_mem = '7MB'",
        "CREATE TEMP TABLE mine (a int)",
        "LISTEN mine",
        "PREPARE mine AS SELECT 1",
        "SELECT pg_advisory_lock(4711)",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET ROLE app",
    ] {
        assert!(first.query(sql).await.ends_with("ZI"), "{sql}");
    }
    first
        .send(&[parse("named", "SELECT 2"), sync()].concat())
        .await;
    assert_eq!(trace(&first.read_until_ready(1).await), "1 ZI");
    leave(first).await;

    let mut second = login(&proxy).await;
    assert_eq!(pid(&mut second).await, server, "it is the same server");
    let questions = [
        ("SELECT current_setting('work_mem')", "4MB"),
        ("SELECT count(*) FROM pg_class WHERE relname = 'mine'", "0"),
        ("SELECT count(*) FROM pg_listening_channels()", "0"),
        ("SELECT count(*) FROM pg_prepared_statements", "0"),
        (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "0",
        ),
        ("SELECT count(*) FROM pg_cursors", "0"),
        ("SELECT current_setting('transaction_read_only')", "off"),
        ("SELECT current_user", "postgres"),
    ];
    for (sql, wanted) in questions {
        assert_eq!(second.value(sql).await.as_deref(), Some(wanted), "{sql}");
    }
}

/// What a client can leave behind that nobody else must get.
#[tokio::test]
async fn a_server_in_the_middle_of_something_is_not_reused() {
    let proxy = front(ONE).await;
    let cases: [(&str, Vec<u8>, usize); 5] = [
        ("in a transaction", query("BEGIN"), 1),
        (
            "in a failed transaction",
            [query("BEGIN"), query("SELECT 1/0")].concat(),
            2,
        ),
        ("without Sync", parse("", "SELECT 1"), 0),
        ("skipping to Sync", parse("", "SELECT nonsense syntax"), 0),
        (
            "in COPY IN",
            query("CREATE TEMP TABLE t (a int); COPY t FROM STDIN"),
            0,
        ),
    ];
    for polite in [true, false] {
        for (name, bytes, ready) in &cases {
            let mut conn = login(&proxy).await;
            let server = pid(&mut conn).await;
            conn.send(bytes).await;
            conn.read_until_ready(*ready).await;
            if polite {
                conn.send(&terminate()).await;
            }
            drop(conn);
            let mut next = login(&proxy).await;
            assert_ne!(pid(&mut next).await, server, "{name}");
            leave(next).await;
        }
    }
}

#[tokio::test]
async fn a_full_pool_serves_in_order() {
    let proxy = front(FrontSpec {
        database: "pool_size = 2",
        ..FrontSpec::default()
    })
    .await;
    let holders = [login(&proxy).await, login(&proxy).await];
    let (served, mut order) = mpsc::unbounded_channel();
    for number in 0..4 {
        let (port, served) = (proxy.port(), served.clone());
        tokio::spawn(async move {
            let (mut conn, _) = RawConn::login(port, SUPERUSER, DATABASE).await;
            let name = format!("SET application_name = 'turn-{number}'");
            assert_eq!(conn.query(&name).await, "C S ZI");
            served.send(number).unwrap();
            leave(conn).await;
        });
        waiting(&proxy, number + 1).await;
    }
    let [first, second] = holders;
    leave(first).await;
    let mut numbers = Vec::new();
    while numbers.len() < 4 {
        numbers.push(order.recv().await.unwrap());
    }
    assert_eq!(numbers, [0, 1, 2, 3]);
    let rows = proxy.admin("SHOW SERVERS").await.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    leave(second).await;
}

/// Many clients on all workers: the node never sees more servers than the pool may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_never_gets_more_servers_than_the_pool_may_have() {
    let proxy = front(FrontSpec {
        general: "workers = 2",
        database: "pool_size = 2",
        ..FrontSpec::default()
    })
    .await;
    let (port, mut crowd) = (proxy.port(), JoinSet::new());
    for _ in 0..8 {
        crowd.spawn(async move {
            let parameters = [
                ("user", "postgres"),
                ("database", DATABASE),
                ("application_name", "crowd"),
            ];
            for _ in 0..25 {
                let mut conn = RawConn::open(port).await;
                conn.startup(SUPERUSER, &parameters).await;
                let count =
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'crowd'";
                let count: usize = conn.value(count).await.unwrap().parse().unwrap();
                assert!(count <= 2, "{count} servers");
                leave(conn).await;
            }
        });
    }
    while let Some(client) = crowd.join_next().await {
        client.unwrap();
    }
}

#[tokio::test]
async fn a_wait_has_an_end() {
    let proxy = front(FrontSpec {
        general: "query_wait_timeout = \"300ms\"",
        ..ONE
    })
    .await;
    let holder = login(&proxy).await;
    let (_, refused) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    assert_eq!(trace(&refused), "E:57P03", "nothing before it, not even R0");
    assert_eq!(
        refused[0].field(b'M').as_deref(),
        Some("query_wait_timeout")
    );
    assert_eq!(refused[0].field(b'S').as_deref(), Some("FATAL"));
    waiting(&proxy, 0).await;
    leave(holder).await;
    leave(login(&proxy).await).await;
}

/// A client that gives up its wait is nobody's turn.
#[tokio::test]
async fn a_client_that_leaves_the_queue_blocks_nobody() {
    let proxy = front(ONE).await;
    let holder = login(&proxy).await;
    let mut impatient = RawConn::open(proxy.port()).await;
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    packet.extend_from_slice(b"user\0postgres\0database\0app\0\0");
    packet[3] = u8::try_from(packet.len()).unwrap();
    impatient.send(&packet).await;
    waiting(&proxy, 1).await;
    let patient = tokio::spawn({
        let port = proxy.port();
        async move { RawConn::login(port, SUPERUSER, DATABASE).await }
    });
    waiting(&proxy, 2).await;
    drop(impatient);
    waiting(&proxy, 1).await;
    leave(holder).await;
    let (_, hello) = patient.await.unwrap();
    assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'));
}

#[tokio::test]
async fn clients_share_a_server_only_with_equal_startup_parameters() {
    let proxy = front(ONE).await;
    let mut servers = Vec::new();
    let paris: &[(&str, &str)] = &[("TimeZone", "Europe/Paris")];
    for more in [
        paris,
        paris,
        &[],
        paris,
        &[("application_name", "a")],
        &[("application_name", "b")],
    ] {
        let mut conn = RawConn::open(proxy.port()).await;
        let mut parameters = vec![("user", "postgres"), ("database", DATABASE)];
        parameters.extend_from_slice(more);
        conn.startup(SUPERUSER, &parameters).await;
        let zone = conn.value("RESET ALL; SHOW TimeZone").await.unwrap();
        let name = conn.value("SHOW application_name").await.unwrap();
        let value = |key: &str, or: &str| {
            let found = more.iter().find(|(name, _)| *name == key);
            found.map_or(or.to_owned(), |(_, value)| (*value).to_owned())
        };
        assert_eq!(
            (zone, name),
            (value("TimeZone", "UTC"), value("application_name", ""))
        );
        servers.push(pid(&mut conn).await);
        leave(conn).await;
    }
    assert_eq!(servers[0], servers[1]);
    let mut others = servers[1..].to_vec();
    others.sort_unstable();
    others.dedup();
    assert_eq!(others.len(), 5, "{servers:?}");
}

#[tokio::test]
async fn users_and_databases_have_pools_of_their_own() {
    let proxy = front(FrontSpec {
        more: "[databases.other]\ncluster = \"main\"\ndbname = \"app\"\npool_size = 1",
        ..ONE
    })
    .await;
    let mut conns = Vec::new();
    for (user, dbname) in [
        (SUPERUSER, DATABASE),
        (APP_TRUST, DATABASE),
        (SUPERUSER, "other"),
    ] {
        let (mut conn, _) = RawConn::login(proxy.port(), user, dbname).await;
        let who = conn
            .value("SELECT current_user || '@' || current_database()")
            .await;
        assert_eq!(who, Some(format!("{}@{DATABASE}", user.user)));
        conns.push(conn);
    }
}

#[tokio::test]
async fn old_and_idle_servers_are_closed() {
    for general in ["server_lifetime = \"1s\"", "server_idle_timeout = \"1s\""] {
        let proxy = front(FrontSpec { general, ..ONE }).await;
        let mut conn = login(&proxy).await;
        let server = pid(&mut conn).await;
        leave(conn).await;
        gone(node().await, server).await;
        assert_ne!(pid(&mut login(&proxy).await).await, server, "{general}");
    }
}

/// A server over its age is the session's until the session ends.
#[tokio::test]
async fn an_old_server_stays_with_its_session() {
    let proxy = front(FrontSpec {
        general: "server_lifetime = \"1s\"",
        ..ONE
    })
    .await;
    let mut conn = login(&proxy).await;
    let server = pid(&mut conn).await;
    assert_eq!(conn.query("SELECT pg_sleep(1.2)").await, "T D C ZI");
    assert_eq!(pid(&mut conn).await, server);
    leave(conn).await;
    gone(node().await, server).await;
}

#[tokio::test]
async fn a_full_instance_says_so_and_its_console_answers() {
    let proxy = front(FrontSpec {
        general: "max_client_conn = 2",
        ..FrontSpec::default()
    })
    .await;
    let first = login(&proxy).await;
    let second = login(&proxy).await;
    let (_, refused) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    assert_eq!(trace(&refused), "E:53300");
    assert!(refused[0].field(b'M').unwrap().contains("max_client_conn"));
    assert_eq!(
        proxy.admin("SHOW CLIENTS").await.unwrap().len(),
        3,
        "the console is one"
    );
    leave(first).await;
    eventually("there is room again", async || {
        let (_, hello) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
        hello.last().is_some_and(|m| m.tag == b'Z')
    })
    .await;
    leave(second).await;
}

/// What the client must prove to us, and what we must prove to the server, are two things.
#[tokio::test]
async fn every_kind_of_client_meets_every_kind_of_server() {
    for auth in ["trust", "plain", "md5", "scram-sha-256"] {
        let proxy = front(FrontSpec {
            auth,
            ..FrontSpec::default()
        })
        .await;
        let asked = match auth {
            "trust" => "R0",
            "plain" => "R3 R0",
            "md5" => "R5 R0",
            _ => "R10 R11 R12 R0",
        };
        for user in [APP, APP_MD5, APP_PLAIN] {
            let (mut conn, hello) = RawConn::login(proxy.port(), user, DATABASE).await;
            let hello = trace(&hello);
            assert!(
                hello.starts_with(asked) && hello.ends_with("K ZI"),
                "{auth}: {hello}"
            );
            let who = conn.value("SELECT session_user").await;
            assert_eq!(who.as_deref(), Some(user.user), "{auth}");
            leave(conn).await;
        }
        // Whoever is let in warm must still prove who he is.
        let wrong = Login {
            password: "wrong",
            ..APP
        };
        let (_, hello) = RawConn::login(proxy.port(), wrong, DATABASE).await;
        assert_eq!(
            hello.last().map(|m| m.tag == b'E'),
            Some(auth != "trust"),
            "{auth}"
        );
    }
}

/// Nobody learns from an answer which users or databases there are.
#[tokio::test]
async fn strangers_all_hear_the_same() {
    for auth in ["plain", "md5", "scram-sha-256"] {
        let proxy = front(FrontSpec {
            auth,
            ..FrontSpec::default()
        })
        .await;
        let refusal = async |user: &'static str, dbname: &str| {
            let wrong = Login {
                user,
                password: "wrong",
            };
            let (_, answer) = RawConn::login(proxy.port(), wrong, dbname).await;
            let text = answer
                .last()
                .and_then(|m| m.field(b'M'))
                .unwrap_or_default();
            (trace(&answer), text.replace(user, "USER"))
        };
        let known = refusal(APP.user, DATABASE).await;
        assert!(known.0.ends_with("E:28P01"), "{auth}: {known:?}");
        assert_eq!(refusal("stranger", DATABASE).await, known, "{auth}");
        assert_eq!(refusal(APP.user, "nowhere").await, known, "{auth}");
        assert_eq!(refusal("stranger", "nowhere").await, known, "{auth}");
        assert_eq!(refusal("stranger", CONSOLE).await, known, "{auth}");
        let (_, answer) = RawConn::login(proxy.port(), APP, "nowhere").await;
        assert!(
            trace(&answer).ends_with("E:3D000"),
            "{auth}: {}",
            trace(&answer)
        );
        let (_, answer) = RawConn::login(proxy.port(), APP, CONSOLE).await;
        assert!(
            trace(&answer).ends_with("E:42501"),
            "{auth}: {}",
            trace(&answer)
        );
    }
}

#[tokio::test]
async fn unix_sockets_on_both_sides() {
    let socket = node().await.socket_directory().display().to_string();
    let proxy = front(FrontSpec {
        auth: "scram-sha-256",
        node: Some((socket, node().await.port())),
        ..FrontSpec::default()
    })
    .await;
    for user in [APP, APP_MD5, APP_PLAIN] {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(proxy.directory())
            .port(proxy.port())
            .user(user.user)
            .password(user.password)
            .dbname(DATABASE);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let row = client
            .query_one("SELECT session_user::text, inet_server_addr()::text", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), user.user);
        assert_eq!(
            row.get::<_, Option<String>>(1),
            None,
            "the server sees a Unix socket"
        );
        let rows = proxy.admin("SHOW CLIENTS").await.unwrap();
        assert!(rows.iter().any(|row| row["addr"] == "unix"), "{rows:?}");
        drop(client);
        driver.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn servers_killed_while_idle_are_never_given_out() {
    let proxy = front(FrontSpec {
        general: "workers = 2",
        ..FrontSpec::default()
    })
    .await;
    let admin = node().await.connect(DATABASE).await;
    for _ in 0..10 {
        let mut conns = Vec::new();
        for _ in 0..10 {
            let mut conn = login(&proxy).await;
            assert_eq!(conn.query("SELECT 1").await, "T D C ZI");
            conns.push(conn);
        }
        let pids = proxy.admin("SHOW SERVERS").await.unwrap();
        for conn in conns {
            leave(conn).await;
        }
        eventually("all servers are idle", async || {
            let rows = proxy.admin("SHOW SERVERS").await.unwrap();
            rows.iter().all(|row| row["state"] == "idle")
        })
        .await;
        for row in pids {
            let kill = format!("SELECT pg_terminate_backend({}, 10000)", row["remote_pid"]);
            admin.simple_query(&kill).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_vanishes_in_a_query_frees_its_place() {
    let proxy = front(ONE).await;
    let mut conn = login(&proxy).await;
    let server = pid(&mut conn).await;
    conn.send(&query("SELECT pg_sleep(0.5)")).await;
    waits_on(node().await, server, "PgSleep").await;
    conn.reset();
    let mut next = login(&proxy).await;
    assert_ne!(pid(&mut next).await, server);
    gone(node().await, server).await;
}

async fn end_of(conn: &mut RawConn) -> (String, Vec<Message>) {
    let messages = conn.read_to_end().await;
    (trace(&messages), messages)
}

/// The server's own last words reach the client, once.
#[tokio::test]
async fn a_terminated_backend_says_so_itself() {
    let proxy = plain_front().await;
    let mut busy = login(&proxy).await;
    let mut idle = login(&proxy).await;
    let (busy_pid, idle_pid) = (pid(&mut busy).await, pid(&mut idle).await);
    busy.send(&query("SELECT pg_sleep(60)")).await;
    waits_on(node().await, busy_pid, "PgSleep").await;
    let kill = format!("SELECT pg_terminate_backend({busy_pid}), pg_terminate_backend({idle_pid})");
    node().await.query(&kill).await;
    assert_eq!(end_of(&mut busy).await.0, "T E:57P01");
    assert_eq!(end_of(&mut idle).await.0, "E:57P01");
}

/// kill -9: the backend says nothing, so we do, and as much as is known.
#[tokio::test]
async fn a_killed_backend_leaves_the_right_word() {
    let node = own_node("restart_after_crash = on").await;
    node.query(
        "CREATE TABLE slow (a int);\
         CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;\
         CREATE CONSTRAINT TRIGGER sleeps AFTER INSERT ON slow \
           DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sleep()",
    )
    .await;
    let proxy = front_of(&node, FrontSpec::default()).await;
    let begin = [query("BEGIN"), query("INSERT INTO slow VALUES (1)")].concat();
    let prepared = [
        parse("", "COMMIT"),
        crate::harness::raw::bind("", "", &[]),
        execute("", 0),
        sync(),
    ]
    .concat();
    let cases: [(&str, &[u8], usize, Vec<u8>, &str); 4] = [
        (
            "a statement",
            b"",
            0,
            query("SELECT pg_sleep(60)"),
            "E:08007",
        ),
        (
            "in a transaction",
            &begin,
            2,
            query("SELECT pg_sleep(60)"),
            "E:08006",
        ),
        ("COMMIT", &begin, 2, query("COMMIT"), "E:08007"),
        ("COMMIT, extended", &begin, 2, prepared, "E:08007"),
    ];
    for (name, before, ready, last, told) in cases {
        let mut conn = login(&proxy).await;
        let server = pid(&mut conn).await;
        conn.send(before).await;
        conn.read_until_ready(ready).await;
        let mut bystander = login(&proxy).await;
        conn.send(&last).await;
        waits_on(&node, server, "PgSleep").await;
        signal(&[server], "KILL");
        let (end, messages) = end_of(&mut conn).await;
        assert_eq!(end.split(' ').next_back(), Some(told), "{name}: {end}");
        assert_eq!(
            messages.iter().filter(|m| m.tag == b'E').count(),
            1,
            "told once"
        );
        assert_eq!(
            messages.last().unwrap().field(b'S').as_deref(),
            Some("FATAL")
        );
        // PostgreSQL warns the others of the crash.
        let (end, _) = end_of(&mut bystander).await;
        assert!(end.starts_with("N:57P02"), "{end}");
        eventually("the node is back", || node.holds("SELECT true")).await;
        leave(login(&proxy).await).await;
    }
}

#[tokio::test]
async fn pause_holds_and_resume_releases() {
    let proxy = plain_front().await;
    let mut inside = login(&proxy).await;
    let (client, _driver) = connect(proxy.port(), ADMIN, CONSOLE).await.unwrap();
    let paused = tokio::spawn(async move { client.simple_query("PAUSE").await });
    eventually("the pause has begun", async || {
        let rows = proxy.admin("SHOW STATE").await.unwrap();
        rows.iter()
            .any(|row| row["key"] == "paused" && row["value"] == "yes")
    })
    .await;
    // In session mode whoever has a server keeps it, and PAUSE waits for him.
    assert_eq!(inside.query("SELECT 1").await, "T D C ZI");
    assert!(!paused.is_finished());
    let port = proxy.port();
    let outside = tokio::spawn(async move { RawConn::login(port, SUPERUSER, DATABASE).await });
    waiting(&proxy, 1).await;
    leave(inside).await;
    paused.await.unwrap().unwrap();
    assert_eq!(proxy.admin("SHOW SERVERS").await.unwrap().len(), 0);
    assert!(!outside.is_finished());
    proxy.admin("RESUME").await.unwrap();
    let (mut conn, hello) = outside.await.unwrap();
    assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'));
    assert_eq!(conn.query("SELECT 1").await, "T D C ZI");
}

#[tokio::test]
async fn reconnect_and_pause_stop_sessions_at_their_safe_point() {
    let proxy = plain_front().await;
    let mut idle = login(&proxy).await;
    let mut busy = login(&proxy).await;
    assert_eq!(busy.query("BEGIN").await, "C ZT");
    let (client, _driver) = connect(proxy.port(), ADMIN, CONSOLE).await.unwrap();
    let paused = tokio::spawn(async move { client.simple_query("RECONNECT; PAUSE;").await });
    assert_eq!(trace(&idle.read_to_end().await), "E:57P01");
    assert_eq!(
        busy.query("SELECT 1").await,
        "T D C ZT",
        "its transaction goes on"
    );
    assert!(!paused.is_finished());
    busy.send(&query("COMMIT")).await;
    assert_eq!(trace(&busy.read_to_end().await), "C ZI E:57P01");
    paused.await.unwrap().unwrap();
    proxy.admin("RESUME").await.unwrap();
    leave(login(&proxy).await).await;
}

#[tokio::test]
async fn a_listener_hears_while_it_says_nothing() {
    let proxy = plain_front().await;
    let mut listener = login(&proxy).await;
    let mut speaker = login(&proxy).await;
    assert_eq!(listener.query("LISTEN news").await, "C ZI");
    for n in 0..3 {
        assert_eq!(speaker.query(&format!("NOTIFY news, '{n}'")).await, "C ZI");
        let heard = listener.read().await.unwrap();
        assert_eq!(heard.tag, b'A');
        assert!(heard.body.ends_with(format!("news\0{n}\0").as_bytes()));
    }
    // What comes at idle does not keep the server from being reused.
    let server = pid(&mut listener).await;
    leave(listener).await;
    leave(speaker).await;
    let reused = async || {
        let rows = proxy.admin("SHOW SERVERS").await.unwrap();
        rows.iter()
            .any(|row| row["remote_pid"] == server.to_string() && row["state"] == "idle")
    };
    eventually("it is idle", reused).await;
}
