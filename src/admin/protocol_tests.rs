//! Whole conversations over an in-memory stream.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::command::VERBS;
use super::{
    Console, ConsoleError, ConsoleLogin, Privilege, Request, ShutdownMode, VERSION, serve,
};
use crate::auth::Kdf;
use crate::cluster::{Epoch, Reports};
use crate::config::{DatabaseName, UserName, check};
use crate::control::Handle;
use crate::pool::{self, ClientTag, Pools, StartupParams};
use crate::relay::StopReason;
use crate::session::Clients;
use crate::wire::message::{ready_for_query, write_message};
use crate::wire::{Authentication, BackendKey, RawMessage, Report, TxStatus};

/// A console client, and the parts behind the console that a test plays itself.
struct Client {
    stream: DuplexStream,
    input: BytesMut,
    cancel: watch::Sender<u64>,
    requests: Arc<Mutex<mpsc::Receiver<Request>>>,
    server: JoinHandle<Result<(), ConsoleError>>,
}

impl Client {
    /// Logs in to a console of its own.
    async fn new(privilege: Privilege) -> Self {
        Self::of(&Pooler::new(1), privilege).await
    }

    /// Logs in and reads the greeting.
    async fn of(pooler: &Pooler, privilege: Privilege) -> Self {
        let (stream, server) = duplex(1024);
        let (cancel, cancelled) = watch::channel(0);
        let console = Arc::clone(&pooler.console);
        let login = ConsoleLogin {
            user: UserName::new("dba"),
            database: DatabaseName::new("pgsluice"),
            privilege,
            key: BackendKey {
                pid: 4711,
                key: Bytes::from_static(b"1234"),
            },
            cancelled,
        };
        let server = tokio::spawn(async move {
            // The first message came together with the last one of the login.
            let leftover = BytesMut::from(&b"Q\0\0\0\x06;\0"[..]);
            serve(server, leftover, &console, login, std::future::pending()).await
        });
        let mut client = Self {
            stream,
            input: BytesMut::new(),
            cancel,
            requests: Arc::clone(&pooler.requests),
            server,
        };
        let greeting = client.answers().await;
        for parameter in [
            "S server_version=14.0 (pgsluice 0.1.0)",
            "S client_encoding=UTF8",
            "S standard_conforming_strings=on",
            "S DateStyle=ISO, MDY",
            "S integer_datetimes=on",
        ] {
            assert!(greeting.iter().any(|line| line == parameter), "{parameter}");
        }
        assert_eq!(greeting[greeting.len() - 2..], ["K", "Z I"]);
        assert_eq!(client.answers().await, ["I", "Z I"]);
        client
    }

    async fn send(&mut self, messages: &[(u8, &[u8])]) {
        let mut bytes = BytesMut::new();
        for (tag, body) in messages {
            write_message(*tag, &mut bytes, |out| out.put_slice(body));
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn send_query(&mut self, query: &str) {
        self.send(&[(b'Q', format!("{query}\0").as_bytes())]).await;
    }

    async fn query(&mut self, query: &str) -> Vec<String> {
        self.send_query(query).await;
        self.answers().await
    }

    async fn message(&mut self) -> Option<RawMessage> {
        loop {
            if let Some(message) = RawMessage::take(&mut self.input, usize::MAX).unwrap() {
                return Some(message);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// Everything up to ReadyForQuery or the end, one line each.
    async fn answers(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(message) = self.message().await {
            lines.push(line(&message));
            if message.tag == b'Z' {
                break;
            }
        }
        lines
    }

    async fn ended(self) -> Result<(), ConsoleError> {
        drop(self.stream);
        self.server.await.unwrap()
    }
}

fn line(message: &RawMessage) -> String {
    let tag = char::from(message.tag);
    let body = &message.body;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "=");
    match message.tag {
        b'E' | b'N' => {
            let report = Report::parse(body);
            format!(
                "{tag} {} {}",
                report.code.unwrap().as_str(),
                report.message.unwrap()
            )
        }
        b'S' => format!("S {}", text(body).trim_end_matches('=')),
        b'C' => format!("C {}", text(body).trim_end_matches('=')),
        b'Z' => format!("Z {}", text(body)),
        b'T' => format!("T {}", names(body).join(",")),
        b'D' => format!("D {}", fields(body).join(",")),
        _ => tag.to_string(),
    }
}

fn names(body: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 19..];
    }
    names
}

fn fields(body: &[u8]) -> Vec<String> {
    let mut fields = Vec::new();
    let mut rest = &body[2..];
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        fields.push(String::from_utf8_lossy(&after[..length]).into_owned());
        rest = &after[length..];
    }
    fields
}

/// An instance with one database and, at first, no clients.
struct Pooler {
    console: Arc<Console>,
    pools: Pools,
    requests: Arc<Mutex<mpsc::Receiver<Request>>>,
}

impl Pooler {
    fn new(port: u16) -> Self {
        let text = format!(
            "[pgsluice]\nauth_file = \"users\"\n\
             [clusters.main]\nmonitor = {{ user = \"m\", dbname = \"app\" }}\n\
             [clusters.main.nodes]\nnode1 = {{ host = \"127.0.0.1\", port = {port} }}\n\
             [databases.app]\ncluster = \"main\"\n"
        );
        let no_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let config = check(&text, "test.toml", &|_| None, &no_file).unwrap();
        let (_, config) = watch::channel(Arc::new(config));
        let (_, users) = watch::channel(Arc::default());
        let (reports, _) = Reports::channel(1);
        let ids = Arc::new(AtomicU64::new(1));
        let pools = Pools::new(
            config.clone(),
            users,
            reports,
            Kdf::new(1),
            Arc::clone(&ids),
        );
        let (sender, requests) = mpsc::channel(1);
        let clients = Clients::new(ids);
        Self {
            console: Arc::new(Console::new(
                pools.clone(),
                clients,
                Handle::without_clusters(),
                config,
                sender,
            )),
            pools,
            requests: Arc::new(Mutex::new(requests)),
        }
    }

    /// An instance with a client that keeps its server: no PAUSE is complete.
    async fn busy() -> (Self, impl Sized) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pooler = Self::new(listener.local_addr().unwrap().port());
        let cluster = pooler.console.config().clusters["main"].clone();
        let node = Arc::new(cluster.nodes[0].clone());
        pooler
            .pools
            .open(&cluster.name, &node, Epoch(1), StopReason::Switchover, None);
        let database = pooler.pools.database(&DatabaseName::new("app")).unwrap();
        let pool = pooler
            .pools
            .pool(&database, &UserName::new("alice"))
            .unwrap();
        let request = pool::Request {
            client: Arc::new(ClientTag {
                id: 17,
                addr: "unix".to_owned(),
                application_name: "batch".to_owned(),
            }),
            params: StartupParams::new(Vec::new()),
            secret: None,
            order: Arc::default(),
        };
        let server = async {
            let (mut server, _) = listener.accept().await.unwrap();
            let mut startup = BytesMut::new();
            server.read_buf(&mut startup).await.unwrap();
            let mut welcome = BytesMut::new();
            Authentication::Ok.encode(&mut welcome);
            let key = Bytes::from_static(b"1234");
            BackendKey { pid: 4712, key }.encode(&mut welcome);
            ready_for_query(TxStatus::Idle, &mut welcome);
            server.write_all(&welcome).await.unwrap();
            server
        };
        let (lease, server) = tokio::join!(pool.checkout(&request), server);
        (pooler, (lease.unwrap(), server))
    }
}

#[tokio::test]
async fn statements_of_a_query_run_and_answer_in_order() {
    let mut client = Client::new(Privilege::Admin).await;
    assert_eq!(
        client
            .query("SHOW VERSION; SELECT 1, 'a;b' AS x; SHOW help")
            .await[..6],
        [
            "T version".to_owned(),
            format!("D {VERSION}"),
            "C SHOW".to_owned(),
            "T ?column?,x".to_owned(),
            "D 1,a;b".to_owned(),
            "C SELECT 1".to_owned(),
        ]
    );
    assert!(client.ended().await.is_ok());
}

#[tokio::test]
async fn the_first_error_ends_a_query_and_a_syntax_error_prevents_it() {
    let mut client = Client::new(Privilege::Stats).await;
    assert_eq!(
        client.query("SELECT 1; RELOAD; SELECT 2").await,
        [
            "T ?column?",
            "D 1",
            "C SELECT 1",
            "E 42501 admin access needed",
            "Z I"
        ]
    );
    assert_eq!(
        client.query("SELECT 1; RELAOD").await,
        ["E 42601 invalid command 'RELAOD', use SHOW HELP;", "Z I"]
    );
    assert_eq!(client.query("-- ping").await, ["I", "Z I"]);
    assert!(
        client.requests.lock().await.try_recv().is_err(),
        "nothing was reloaded"
    );
}

/// Of all rows of the command table, a stats user may run SHOW only; nothing else reaches its
/// handler.
#[tokio::test]
async fn a_stats_user_may_only_look() {
    let mut client = Client::new(Privilege::Stats).await;
    for verb in VERBS {
        if verb.syntax == "SHOW table" {
            continue;
        }
        let required = verb.syntax.split('[').next().unwrap().replace(" id", " 1");
        let required = required.replace("|MANUAL|INELIGIBLE", "");
        assert_eq!(
            client.query(&required).await,
            ["E 42501 admin access needed", "Z I"],
            "{required}"
        );
    }
    assert_eq!(
        client.query("SHOW CONFIG").await[0],
        "T key,value,default,changeable"
    );
}

#[tokio::test]
async fn drivers_see_their_transactions() {
    let mut client = Client::new(Privilege::Stats).await;
    for (query, answers) in [
        ("BEGIN", vec!["C BEGIN", "Z T"]),
        ("SET extra_float_digits = 3", vec!["C SET", "Z T"]),
        (
            "show transaction isolation level",
            vec![
                "T transaction_isolation",
                "D read committed",
                "C SHOW",
                "Z T",
            ],
        ),
        (
            "NONSENSE",
            vec!["E 42601 invalid command 'NONSENSE', use SHOW HELP;", "Z T"],
        ),
        ("COMMIT", vec!["C COMMIT", "Z I"]),
        (
            "SELECT current_user",
            vec!["T current_user", "D dba", "C SELECT 1", "Z I"],
        ),
        (";", vec!["I", "Z I"]),
    ] {
        assert_eq!(client.query(query).await, answers, "{query}");
    }
}

#[tokio::test]
async fn the_extended_protocol_skips_to_sync_after_an_error() {
    let mut client = Client::new(Privilege::Admin).await;
    let parse = b"s1\0SHOW STATISTICS\0\0\0";
    let bind = b"\0s1\0\0\0\0\0\0\0";
    client
        .send(&[
            (b'P', parse),
            (b'B', bind),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
        ])
        .await;
    assert_eq!(
        client.answers().await,
        [
            "E 42601 invalid command 'SHOW STATISTICS', use SHOW HELP;",
            "Z I"
        ]
    );
    client.send(&[(b'D', b"Ss1\0"), (b'S', b"")]).await;
    assert_eq!(
        client.answers().await,
        ["E 26000 prepared statement \"s1\" does not exist", "Z I"]
    );
}

#[tokio::test]
async fn the_extended_protocol_serves_rows_in_the_format_and_number_asked_for() {
    let mut client = Client::new(Privilege::Admin).await;
    let parse = b"s1\0SELECT 7, 'x'\0\0\0";
    // Binary for the first column, text for the second.
    let bind = b"c1\0s1\0\0\0\0\0\0\x02\0\x01\0\0";
    client
        .send(&[
            (b'P', parse),
            (b'D', b"Ss1\0"),
            (b'B', bind),
            (b'D', b"Pc1\0"),
            (b'E', b"c1\0\0\0\0\x01"),
            (b'C', b"Pc1\0"),
            (b'S', b""),
        ])
        .await;
    assert_eq!(
        client.answers().await,
        [
            "1",
            "t",
            "T ?column?,?column?",
            "2",
            "T ?column?,?column?",
            "D \0\0\0\x07,x",
            "C SELECT 1",
            "3",
            "Z I"
        ]
    );
    // SHOW CONFIG has more than one row: the portal is suspended, Flush brings what there is.
    client
        .send(&[
            (b'P', b"\0SHOW CONFIG\0\0\0"),
            (b'B', b"\0\0\0\0\0\0\0\0"),
            (b'E', b"\0\0\0\0\x01"),
            (b'H', b""),
        ])
        .await;
    let mut tags = Vec::new();
    while tags.last() != Some(&b's') {
        tags.push(client.message().await.unwrap().tag);
    }
    assert_eq!(tags, b"12Ds");
    client.send(&[(b'E', b"\0\0\0\0\0"), (b'S', b"")]).await;
    let rest = client.answers().await;
    assert!(rest.len() > 10, "{rest:?}");
    assert_eq!(rest[rest.len() - 2..], ["C SHOW", "Z I"]);
}

#[tokio::test]
async fn named_statements_are_limited() {
    let mut client = Client::new(Privilege::Stats).await;
    for number in 0..256 {
        let body = format!("s{number}\0SELECT 1\0\0\0");
        client.send(&[(b'P', body.as_bytes()), (b'S', b"")]).await;
        assert_eq!(client.answers().await, ["1", "Z I"]);
    }
    client
        .send(&[(b'P', b"more\0SELECT 1\0\0\0"), (b'S', b"")])
        .await;
    assert!(client.answers().await[0].starts_with("E 53400"));
    assert_eq!(
        client.query("DEALLOCATE ALL").await,
        ["C DEALLOCATE ALL", "Z I"]
    );
    client
        .send(&[(b'P', b"more\0SELECT 1\0\0\0"), (b'S', b"")])
        .await;
    assert_eq!(client.answers().await, ["1", "Z I"]);
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection() {
    for (bytes, text) in [
        (
            &b"Q\xFF\xFF\xFF\xFF"[..],
            "invalid length 4294967295 of message type 0x51",
        ),
        (b"Q\0\0\0\0", "invalid length 0 of message type 0x51"),
        (b"Q\0\x02\0\0", "invalid length 131072 of message type 0x51"),
        (b"?\0\0\0\x04", "invalid frontend message type 63"),
    ] {
        let mut client = Client::new(Privilege::Admin).await;
        client.stream.write_all(bytes).await.unwrap();
        assert_eq!(client.answers().await, [format!("E 08P01 {text}")]);
    }
}

#[tokio::test]
async fn malformed_bodies_are_errors_not_panics() {
    let mut client = Client::new(Privilege::Admin).await;
    for tag in *b"PBDEC" {
        for body in [
            &b""[..],
            b"x",
            b"\0",
            b"\0\0",
            b"S",
            b"P",
            b"\0\0\0\x01",
            b"\xFF\0\xFF\0\0\0",
        ] {
            client.send(&[(tag, body), (b'S', b"")]).await;
            let answers = client.answers().await;
            assert_eq!(answers.last().unwrap(), "Z I", "{}", char::from(tag));
        }
    }
    client.send(&[(b'Q', b"SELECT 1")]).await;
    assert_eq!(
        client.answers().await,
        ["E 08P01 invalid string in message", "Z I"]
    );
    client.send(&[(b'Q', b"SELECT '\xFF'\0")]).await;
    assert!(client.answers().await[0].starts_with("E 22021"));
}

#[tokio::test]
async fn reload_tells_what_the_application_says() {
    let mut client = Client::new(Privilege::Admin).await;
    client.send_query("RELOAD").await;
    let Some(Request::Reload(answer)) = client.requests.lock().await.recv().await else {
        panic!("no request");
    };
    answer
        .send(Ok(vec!["workers needs a restart".to_owned()]))
        .unwrap();
    assert_eq!(
        client.answers().await,
        ["N 00000 workers needs a restart", "C RELOAD", "Z I"]
    );
    client.send_query("RELOAD").await;
    let Some(Request::Reload(answer)) = client.requests.lock().await.recv().await else {
        panic!("no request");
    };
    answer.send(Err("line 3".to_owned())).unwrap();
    assert_eq!(
        client.answers().await,
        [
            "E F0000 RELOAD failed, see logs for additional details",
            "Z I"
        ]
    );
    assert_eq!(
        client.query("SHUTDOWN WAIT_FOR_CLIENTS").await,
        ["C SHUTDOWN", "Z I"]
    );
    let asked = client.requests.lock().await.recv().await;
    assert!(matches!(
        asked,
        Some(Request::Shutdown(ShutdownMode::WaitForClients))
    ));
}

#[tokio::test]
async fn a_cancel_ends_a_wait_and_an_early_one_is_forgotten() {
    let mut client = Client::new(Privilege::Admin).await;
    client.cancel.send_modify(|count| *count += 1);
    client.send_query("SELECT 1; RELOAD; SELECT 2").await;
    let waiting = client.requests.lock().await.recv().await;
    // The first answer is not held back by the second statement's wait.
    for expected in ["T ?column?", "D 1", "C SELECT 1"] {
        assert_eq!(line(&client.message().await.unwrap()), expected);
    }
    client.cancel.send_modify(|count| *count += 1);
    assert_eq!(
        client.answers().await,
        ["E 57014 canceling statement due to user request", "Z I"]
    );
    drop(waiting);
    assert_eq!(client.query("SELECT 3").await[1], "D 3");
}

#[tokio::test]
async fn queries_sent_during_a_wait_are_answered_after_it() {
    let mut client = Client::new(Privilege::Admin).await;
    client.send_query("RELOAD").await;
    client.send_query("SELECT 1").await;
    let Some(Request::Reload(answer)) = client.requests.lock().await.recv().await else {
        panic!("no request");
    };
    answer.send(Ok(Vec::new())).unwrap();
    assert_eq!(client.answers().await, ["C RELOAD", "Z I"]);
    assert_eq!(
        client.answers().await,
        ["T ?column?", "D 1", "C SELECT 1", "Z I"]
    );
}

#[tokio::test]
async fn a_client_that_leaves_during_a_wait_ends_its_console() {
    let mut client = Client::new(Privilege::Admin).await;
    client.send_query("RELOAD").await;
    let _waiting = client.requests.lock().await.recv().await;
    assert!(client.ended().await.is_ok());
}

#[tokio::test]
async fn terminate_ends_the_console() {
    let mut client = Client::new(Privilege::Stats).await;
    client.send(&[(b'X', b"")]).await;
    assert!(client.message().await.is_none());
    assert!(client.server.await.unwrap().is_ok());
}

#[tokio::test]
async fn pgbouncer_s_verbs_answer_as_pgbouncer_does() {
    let mut client = Client::new(Privilege::Admin).await;
    for (query, answer) in [
        ("PAUSE", "C PAUSE"),
        ("PAUSE", "E 55000 already suspended/paused"),
        ("RESUME", "C RESUME"),
        ("RESUME", "E 55000 pooler is not paused/suspended"),
        ("PAUSE app TIMEOUT '5s'", "C PAUSE"),
        ("RESUME app", "C RESUME"),
        ("RESUME app", "E 55000 database app is not paused"),
        ("PAUSE nosuch", "E 3D000 no such database: nosuch"),
        ("RECONNECT", "C RECONNECT"),
        ("WAIT_CLOSE", "C WAIT_CLOSE"),
        ("DISABLE app", "C DISABLE"),
        ("ENABLE app", "C ENABLE"),
        ("DISABLE nosuch", "E 3D000 no such database: nosuch"),
        ("KILL app", "C KILL"),
        ("RESUME app", "C RESUME"),
        ("KILL_CLIENT 999", "E 22023 client not found"),
        ("SWITCHOVER x TO y", "E 42704 cluster \"x\" does not exist"),
        (
            "SWITCHOVER x TO y DRY RUN",
            "E 42704 cluster \"x\" does not exist",
        ),
        ("ABORT SWITCHOVER x", "E 42704 cluster \"x\" does not exist"),
        ("FAILOVER x TO y", "E 42704 cluster \"x\" does not exist"),
        ("FENCE y", "E 42704 node \"y\" does not exist"),
    ] {
        assert_eq!(client.query(query).await, [answer, "Z I"], "{query}");
    }
    assert_eq!(
        client.query("RECONNECT; PAUSE; SHOW STATE; RESUME").await,
        [
            "C RECONNECT",
            "C PAUSE",
            "T key,value",
            "D active,no",
            "D paused,yes",
            "D suspended,no",
            "C SHOW",
            "C RESUME",
            "Z I"
        ]
    );
}

#[tokio::test]
async fn a_pause_that_is_cancelled_or_times_out_is_lifted() {
    let (pooler, _busy) = Pooler::busy().await;
    let mut client = Client::of(&pooler, Privilege::Admin).await;
    for query in ["PAUSE", "PAUSE app", "RECONNECT; PAUSE"] {
        client.send_query(&format!("SELECT 1; {query}")).await;
        // What comes before the wait is answered before the wait.
        while line(&client.message().await.unwrap()) != "C SELECT 1" {}
        client.cancel.send_modify(|count| *count += 1);
        let answers = client.answers().await;
        let error = "E 57014 canceling statement due to user request";
        assert_eq!(answers[answers.len() - 2..], [error, "Z I"], "{query}");
        assert!(!pooler.pools.is_paused());
    }
    assert_eq!(
        client.query("PAUSE TIMEOUT '10ms'").await,
        ["E 57014 PAUSE was not complete within 10 ms", "Z I"]
    );
    assert!(!pooler.pools.is_paused());
    assert!(!pooler.pools.databases()[0].paused);
}

#[tokio::test]
async fn a_pause_outlives_its_console_and_ends_with_a_resume() {
    let (pooler, _busy) = Pooler::busy().await;
    let mut lost = Client::of(&pooler, Privilege::Admin).await;
    lost.send_query("SELECT 1; PAUSE").await;
    while line(&lost.message().await.unwrap()) != "C SELECT 1" {}
    assert!(lost.ended().await.is_ok());
    assert!(pooler.pools.is_paused());
    let mut other = Client::of(&pooler, Privilege::Admin).await;
    assert_eq!(other.query("RESUME").await, ["C RESUME", "Z I"]);
    // Each waiting console gets its own answer.
    let mut waiting = Client::of(&pooler, Privilege::Admin).await;
    waiting.send_query("SELECT 1; PAUSE").await;
    while line(&waiting.message().await.unwrap()) != "C SELECT 1" {}
    assert_eq!(other.query("RESUME").await, ["C RESUME", "Z I"]);
    assert_eq!(
        waiting.answers().await,
        ["E 55000 the pause was lifted before it was complete", "Z I"]
    );
}

/// Every table can be asked for, whatever there is to show.
#[tokio::test]
async fn every_table_answers() {
    let (pooler, _busy) = Pooler::busy().await;
    let mut client = Client::of(&pooler, Privilege::Stats).await;
    pooler.console.sample(std::time::Instant::now());
    for table in super::show::TABLES {
        let answers = client.query(&format!("SHOW {}", table.name)).await;
        assert!(answers[0].starts_with("T "), "{}: {answers:?}", table.name);
        assert_eq!(
            answers[answers.len() - 2..],
            ["C SHOW", "Z I"],
            "{}",
            table.name
        );
    }
    let pools = client.query("SHOW POOLS").await;
    assert!(pools[1].starts_with("D app,alice,"), "{pools:?}");
}
