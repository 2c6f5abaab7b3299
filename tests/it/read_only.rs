//! Sessions of `route = "read"` cannot write on a node that takes writes, whatever they say; and else they
//! are what PostgreSQL's read-only mode is.

use std::path::PathBuf;

use crate::harness::client::{APP, DATABASE, connect, simple};
use crate::harness::eventually;
use crate::harness::layout::{Cluster, Layout};
use crate::harness::pair::{Kind, Pair, PairSpec};
use crate::harness::proxy::{CLUSTER, Proxy};
use crate::harness::raw::{Message, RawConn, bind, execute, message, parse, query, sync, trace};

const READ: &str = "app_ro";

/// On the node that serves the reads: what was written there.
const WRITTEN: &str = "SELECT count(*) FROM scribble";

/// A way out that no text shows.
const HIDDEN: &str = "CREATE FUNCTION hidden() RETURNS text LANGUAGE sql AS \
    $$SELECT set_config('default_transaction_read_only', 'off', false)$$;\
    CREATE PROCEDURE writes() LANGUAGE plpgsql AS $$BEGIN COMMIT; SET TRANSACTION READ WRITE; \
    INSERT INTO scribble DEFAULT VALUES; END$$;";

struct Scene {
    pair: Pair,
    proxy: Proxy,
}

impl Scene {
    /// n1 leads, n2 serves the reads.
    async fn start(kind: Kind) -> Self {
        let table = "CREATE TABLE scribble (k uuid PRIMARY KEY DEFAULT gen_random_uuid());";
        let schema = format!("{table}{HIDDEN}");
        let pair = Pair::start(
            kind,
            PairSpec {
                schema,
                settings: "max_prepared_transactions = 5\n".to_owned(),
                ..PairSpec::default()
            },
        )
        .await;
        let layout = Layout::default()
            .cluster(
                Cluster::new(CLUSTER, &pair.lab(), 0).settings("monitor_interval = \"200ms\"\n"),
            )
            .database(DATABASE, CLUSTER, "")
            .database(
                READ,
                CLUSTER,
                "route = \"read\"\nread_fallback = \"refuse\"\n",
            );
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_pgsluice"));
        let proxy = Proxy::serve(&pair.workspace, "proxy", binary, &layout).await;
        let scene = Self { pair, proxy };
        eventually("reads are served", async || {
            let rows = scene.proxy.admin("SHOW DATABASES").await.unwrap();
            rows.iter()
                .any(|row| row["name"] == READ && row["node"] == "n2")
        })
        .await;
        scene
    }

    async fn login(&self) -> RawConn {
        let (conn, hello) = RawConn::login(self.proxy.port(), APP, READ).await;
        assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'), "{}", trace(&hello));
        conn
    }

    async fn written(&self) -> String {
        self.pair.n2.scalar(WRITTEN).await.unwrap()
    }
}

const INSERT: &str = "INSERT INTO scribble DEFAULT VALUES";

/// What would leave read-only mode, if the server were asked; more than once, since one may only work
/// as the first thing in a transaction.
const TRICKS: &[&[&str]] = &[
    &["BEGIN READ WRITE"],
    &["begin isolation level repeatable read, read /* */ write"],
    &["START TRANSACTION READ WRITE"],
    &["BEGIN", "SET TRANSACTION READ WRITE"],
    &["SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"],
    &["SET default_transaction_read_only = off"],
    &["SET \"Default_Transaction_Read_Only\" TO 'off'"],
    &["SET U&\"default_transaction_read\\005fonly\" = off"],
    &["BEGIN", "SET LOCAL transaction_read_only = off"],
    &["BEGIN", "SET transaction_read_only TO DEFAULT"],
    &["BEGIN", "RESET transaction_read_only"],
    &["SELECT set_config('default_transaction_read_only', 'off', false)"],
    &["SELECT pg_catalog.\"set_config\"('default_transaction' || '_read_only', 'off', false)"],
    &["SELECT set_config(E'default_transaction\\x5fread_only', 'off', false)"],
    &[
        "SELECT query_to_xml('select set_config(''default_transaction_read_only'',''off'',false)', true, false, '')",
    ],
    &[
        "SELECT word FROM ts_stat('select to_tsvector(set_config(''default_transaction_read_only'',''off'',false))')",
    ],
    &["DO $$BEGIN COMMIT; SET TRANSACTION READ WRITE; INSERT INTO scribble DEFAULT VALUES; END$$"],
    &[
        "/* ; */ -- '\n DO 'BEGIN PERFORM set_config(''default_transaction_read_only'', ''off'', false); END'",
    ],
    &["CALL writes()"],
    &[
        "PREPARE p AS SELECT set_config($1, 'off', false)",
        "EXECUTE p('default_transaction_read_only')",
    ],
    &["SELECT hidden()"],
    &["SELECT lo_create(0)"],
    &["UPDATE pg_settings SET setting = 'off' WHERE name = 'default_transaction_read_only'"],
    &["SELECT E'a'\n'\\'' ; SET default_transaction_read_only = off; --'"],
];

/// Several statements in one text: what would work only there.
const TEXTS: &[&str] = &[
    "SELECT 'it''s'; SET default_transaction_read_only = off; INSERT INTO scribble DEFAULT VALUES",
    "SELECT hidden(); COMMIT; INSERT INTO scribble DEFAULT VALUES",
    "SELECT hidden(); ROLLBACK; BEGIN; INSERT INTO scribble DEFAULT VALUES; COMMIT",
    "SELECT $a$ $$; $a$; BEGIN READ WRITE; INSERT INTO scribble DEFAULT VALUES; COMMIT",
    "COMMIT; SET TRANSACTION READ WRITE; INSERT INTO scribble DEFAULT VALUES",
    "SELECT '\\'; DO $$BEGIN COMMIT; SET TRANSACTION READ WRITE; INSERT INTO scribble DEFAULT VALUES; END$$ --'",
];

fn parsed(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

fn extended(sql: &str) -> Vec<u8> {
    [parsed(sql), sync()].concat()
}

/// Says them one by one, and gives up when the connection ends.
async fn say(conn: &mut RawConn, requests: Vec<Vec<u8>>) -> Vec<Message> {
    let mut heard = Vec::new();
    for request in requests {
        if conn.try_send(&request).await.is_err() {
            break;
        }
        let answer = conn.read_until_ready(1).await;
        let ended = answer.last().is_none_or(|message| message.tag != b'Z');
        heard.extend(answer);
        if ended {
            break;
        }
    }
    heard
}

async fn no_trick_writes(kind: Kind) {
    let scene = Scene::start(kind).await;
    for encode in [query as fn(&str) -> Vec<u8>, extended] {
        for trick in TRICKS {
            let mut conn = scene.login().await;
            let all = trick.iter().chain([&INSERT, &"COMMIT", &INSERT]);
            let heard = say(&mut conn, all.map(|sql| encode(sql)).collect()).await;
            assert!(
                heard.iter().any(|m| m.tag == b'E'),
                "{trick:?}: {}",
                trace(&heard)
            );
            assert_eq!(scene.written().await, "0", "{trick:?}: {}", trace(&heard));
        }
    }
    for text in TEXTS {
        let mut conn = scene.login().await;
        let heard = say(&mut conn, vec![query(text), query(INSERT)]).await;
        assert_eq!(scene.written().await, "0", "{text}: {}", trace(&heard));
    }
    all_at_once(&scene).await;
    prepared(&scene).await;
    at_startup(&scene).await;
    assert_eq!(scene.written().await, "0");
    assert_eq!(
        scene
            .pair
            .n2
            .scalar("SELECT count(*) FROM pg_largeobject_metadata")
            .await
            .as_deref(),
        Some("0")
    );
    // The lead writes all the while.
    let client = scene.proxy.connect_as(APP).await.unwrap();
    simple(&client, INSERT).await.unwrap();
    assert_eq!(scene.pair.n1.scalar(WRITTEN).await.as_deref(), Some("1"));
}

/// Nothing is run behind what has left read-only mode, though it was sent in one go.
async fn all_at_once(scene: &Scene) {
    for requests in [
        [query("SELECT hidden()"), query(INSERT)].concat(),
        [extended("SELECT hidden()"), extended(INSERT)].concat(),
        [
            parsed("SELECT hidden()"),
            parsed("COMMIT"),
            extended(INSERT),
        ]
        .concat(),
        [parsed("SELECT hidden()"), query("COMMIT"), query(INSERT)].concat(),
    ] {
        let mut conn = scene.login().await;
        conn.send(&requests).await;
        let heard = conn.read_to_end().await;
        let last = heard.last().and_then(|m| m.field(b'C'));
        assert_eq!(last.as_deref(), Some("25006"), "{}", trace(&heard));
        assert_eq!(scene.written().await, "0", "{}", trace(&heard));
    }
}

/// Somebody else's transaction is not ended from here either.
async fn prepared(scene: &Scene) {
    let owner = scene.pair.n2.connect(DATABASE).await;
    let sql = "SET ROLE app; BEGIN; INSERT INTO scribble DEFAULT VALUES; PREPARE TRANSACTION 'x'";
    simple(&owner, sql).await.unwrap();
    let mut conn = scene.login().await;
    for sql in ["COMMIT PREPARED 'x'", "/**/commit -- \n prepared $$x$$"] {
        assert_eq!(conn.query(sql).await, "N:01000 E:25006 ZI", "{sql}");
    }
    assert_eq!(scene.written().await, "0");
    simple(&owner, "ROLLBACK PREPARED 'x'").await.unwrap();
}

async fn at_startup(scene: &Scene) {
    for parameters in [
        &[("default_transaction_read_only", "off")][..],
        &[("options", "-c default_transaction_read_only=off")],
        &[(
            "options",
            "--default-transaction-read-only=off -c transaction_read_only=off",
        )],
        &[
            ("default_transaction_read_only", "on"),
            ("options", "-cdefault_transaction_read_only=0"),
            ("Default_Transaction_Read_Only", "off"),
        ],
    ] {
        let mut conn = RawConn::open(scene.proxy.port()).await;
        let mut all = vec![("user", APP.user), ("database", READ)];
        all.extend(parameters);
        let hello = conn.startup(APP, &all).await;
        assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'), "{}", trace(&hello));
        assert_eq!(conn.query(INSERT).await, "E:25006 ZI", "{parameters:?}");
        conn.query("RESET ALL").await;
        conn.query("DISCARD ALL").await;
        assert_eq!(conn.query(INSERT).await, "E:25006 ZI", "{parameters:?}");
    }
    let mut conn = RawConn::open(scene.proxy.port()).await;
    let all = [
        ("user", APP.user),
        ("database", READ),
        ("replication", "database"),
    ];
    let hello = conn.startup(APP, &all).await;
    assert_eq!(
        hello.last().and_then(|m| m.field(b'C')).as_deref(),
        Some("25006")
    );
}

#[tokio::test]
async fn no_trick_writes_on_a_native_node() {
    no_trick_writes(Kind::Native).await;
}

#[tokio::test]
async fn no_trick_writes_on_a_pglogical_node() {
    no_trick_writes(Kind::Pglogical).await;
}

/// A refusal is an error where PostgreSQL would have one, and the session goes on.
#[tokio::test]
async fn a_refusal_leaves_client_and_server_in_step() {
    let scene = Scene::start(Kind::Native).await;
    let mut conn = scene.login().await;
    assert_eq!(conn.query("BEGIN READ WRITE").await, "N:01000 E:25006 ZI");
    assert_eq!(conn.value("SELECT 1").await.as_deref(), Some("1"));
    assert_eq!(conn.query("BEGIN").await, "C ZT");
    assert_eq!(conn.query("DO $$ $$").await, "N:01000 E:25006 ZE");
    assert_eq!(conn.query("CALL writes()").await, "N:01000 E:25P02 ZE");
    assert_eq!(conn.query("ROLLBACK").await, "C ZI");
    conn.send(&extended("SET TRANSACTION READ WRITE")).await;
    let heard = trace(&conn.read_until_ready(1).await);
    assert_eq!(heard, "N:01000 1 E:25006 ZI");
    // lo_creat by the fast path.
    conn.send(&message(
        b'F',
        b"\0\0\x03\xbd\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\0\0\x01",
    ))
    .await;
    assert_eq!(trace(&conn.read_until_ready(1).await), "N:01000 E:25006 ZI");
    let long = format!("SELECT '{}'", "x".repeat(2 << 20));
    assert_eq!(conn.query(&long).await, "N:01000 E:25006 ZI");
    let long = format!("SELECT length('{}')", "x".repeat(1_000_000));
    assert_eq!(conn.value(&long).await.as_deref(), Some("1000000"));

    // As a driver prepares and binds it.
    let (client, end) = connect(scene.proxy.port(), APP, READ).await.unwrap();
    let refused = client
        .query(
            "SELECT set_config($1, $2, false)",
            &[&"default_transaction_read_only", &"off"],
        )
        .await;
    let code = refused
        .unwrap_err()
        .code()
        .map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("25006"));
    let row = client.query_one("SELECT $1::text", &[&"é"]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "é");
    assert!(!end.is_finished());
}

/// What it is told about, it can trust to be all that there is: byte for byte the server's own mode.
#[tokio::test]
async fn all_else_is_as_in_postgresqls_read_only_mode() {
    let scene = Scene::start(Kind::Native).await;
    let mut conn = scene.login().await;
    let (node, name) = (scene.pair.n2.port(), "default_transaction_read_only");
    let mut direct = RawConn::open(node).await;
    let parameters = [("user", APP.user), ("database", DATABASE), (name, "on")];
    direct.startup(APP, &parameters).await;
    let lines = [
        "SELECT 1, 'SET default_transaction_read_only = off'",
        "SHOW transaction_read_only",
        "SHOW default_transaction_read_only",
        "EXPLAIN (COSTS off) SELECT * FROM scribble",
        "BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 5); FETCH 3 FROM c; CLOSE c; COMMIT",
        "COPY (SELECT generate_series(1, 3)) TO STDOUT",
        "COPY scribble FROM STDIN",
        "SELECT * FROM scribble FOR UPDATE",
        "INSERT INTO scribble DEFAULT VALUES",
        "WITH x AS (DELETE FROM scribble RETURNING 1) SELECT * FROM x",
        "CREATE TEMP TABLE t (a int)",
        "SELECT 1 AS a INTO TEMP t",
        "TRUNCATE scribble",
        "SELECT set_config('app.user', 'me', false)",
        "SET search_path TO public; SET application_name = 'x'; RESET ALL",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "BEGIN READ ONLY; SAVEPOINT a; SELECT 1/0; ROLLBACK TO a; COMMIT",
        "ROLLBACK",
        "PREPARE p AS SELECT $1::int + 1; EXECUTE p(1); DEALLOCATE p",
        "LISTEN here; UNLISTEN *",
        "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)",
        "ANALYZE scribble",
        "nonsense",
        "",
        "DISCARD ALL",
    ];
    for sql in lines {
        for request in [query(sql), extended(sql)] {
            conn.send(&request).await;
            direct.send(&request).await;
            let (ours, theirs) = (
                conn.read_until_ready(1).await,
                direct.read_until_ready(1).await,
            );
            assert_eq!(
                ours,
                theirs,
                "{sql}: {} or {}",
                trace(&ours),
                trace(&theirs)
            );
        }
    }
    // Pipelined, with an error in the middle.
    let requests = [
        extended("SELECT 1"),
        parsed("SELECT 2"),
        parsed("SELECT 1/0"),
        extended("SELECT 3"),
        query("SELECT 4"),
        extended("SELECT 5"),
    ]
    .concat();
    conn.send(&requests).await;
    direct.send(&requests).await;
    assert_eq!(
        conn.read_until_ready(4).await,
        direct.read_until_ready(4).await
    );
}
