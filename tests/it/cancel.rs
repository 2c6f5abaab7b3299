//! Cancel requests reach the query they were meant for, or none.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::front::{FrontSpec, front, node, plain_front};
use crate::harness::client::{DATABASE, Login, SUPERUSER};
use crate::harness::eventually;
use crate::harness::proxy::{ADMIN, CONSOLE, Proxy};
use crate::harness::raw::{Message, RawConn, query, terminate, trace};
use crate::harness::workspace::signal;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];

/// A logged-in client, and the cancel request that names it.
struct Victim {
    conn: RawConn,
    request: Vec<u8>,
}

impl Victim {
    async fn login(proxy: &Proxy, login: Login, dbname: &str) -> Self {
        let (conn, hello) = RawConn::login(proxy.port(), login, dbname).await;
        let request = request(&hello);
        Self { conn, request }
    }

    async fn of(proxy: &Proxy) -> Self {
        Self::login(proxy, SUPERUSER, DATABASE).await
    }

    /// Starts a query that takes a minute and waits until it runs.
    async fn sleep(&mut self) {
        let pid = self.conn.value("SELECT pg_backend_pid()").await.unwrap();
        self.conn.send(&query("SELECT pg_sleep(60)")).await;
        let sleeps =
            format!("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {pid}");
        eventually("the query runs", async || node().await.holds(&sleeps).await).await;
    }

    async fn answer(&mut self) -> String {
        trace(&self.conn.read_until_ready(1).await)
    }
}

/// From the `BackendKeyData` of a greeting.
fn request(hello: &[Message]) -> Vec<u8> {
    let key = hello
        .iter()
        .find(|m| m.tag == b'K')
        .expect("BackendKeyData");
    let length = u32::try_from(8 + key.body.len()).unwrap();
    let mut packet = length.to_be_bytes().to_vec();
    packet.extend_from_slice(&[4, 0xd2, 0x16, 0x2e]);
    packet.extend_from_slice(&key.body);
    packet
}

/// Sends a cancel request; there is never an answer.
async fn send(port: u16, request: &[u8]) {
    let mut conn = RawConn::open(port).await;
    conn.send(request).await;
    assert_eq!(conn.read_bytes_to_end().await, b"");
}

#[tokio::test]
async fn a_running_query_is_cancelled_and_the_session_goes_on() {
    let proxy = plain_front().await;
    let mut victim = Victim::of(&proxy).await;
    for encrypted in [false, true] {
        victim.sleep().await;
        let mut conn = RawConn::open(proxy.port()).await;
        if encrypted {
            conn.send(&SSL_REQUEST).await;
            conn.skip_byte(b'N').await;
        }
        conn.send_slowly(&victim.request).await;
        assert_eq!(conn.read_bytes_to_end().await, b"");
        assert_eq!(victim.answer().await, "T E:57014 ZI");
        assert_eq!(victim.conn.query("SELECT 1").await, "T D C ZI");
    }
}

/// Keys of protocol 3.2 are longer; all of it counts.
#[tokio::test]
async fn a_long_key_counts_to_its_last_byte() {
    let proxy = plain_front().await;
    let mut conn = RawConn::open(proxy.port()).await;
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 2];
    packet.extend_from_slice(b"user\0postgres\0database\0app\0\0");
    packet[3] = u8::try_from(packet.len()).unwrap();
    conn.send(&packet).await;
    let hello = conn.read_until_ready(1).await;
    let mut victim = Victim {
        conn,
        request: request(&hello),
    };
    victim.sleep().await;
    let right = victim.request.clone();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let mut short = right[..right.len() - 1].to_vec();
    short[3] -= 1;
    for packet in [wrong, short] {
        send(proxy.port(), &packet).await;
        assert!(victim.conn.is_silent(Duration::from_millis(50)).await);
    }
    send(proxy.port(), &right).await;
    assert_eq!(victim.answer().await, "T E:57014 ZI");
}

#[tokio::test]
async fn a_wrong_key_cancels_nothing() {
    let proxy = plain_front().await;
    let mut victim = Victim::of(&proxy).await;
    victim.sleep().await;
    let right = victim.request.clone();
    for at in [8, 12] {
        let mut wrong = right.clone();
        wrong[at] ^= 0x20;
        send(proxy.port(), &wrong).await;
    }
    assert!(victim.conn.is_silent(Duration::from_millis(50)).await);
    send(proxy.port(), &right).await;
    assert_eq!(victim.answer().await, "T E:57014 ZI");
}

#[tokio::test]
async fn a_cancel_at_idle_hits_no_later_query() {
    let proxy = plain_front().await;
    let mut victim = Victim::of(&proxy).await;
    for _ in 0..20 {
        send(proxy.port(), &victim.request.clone()).await;
        assert_eq!(victim.conn.query("SELECT pg_sleep(0.01)").await, "T D C ZI");
    }
}

/// Two clients share one server in turn. The first is shot at all the time, also when it has gone
/// already; the second is never hit.
#[tokio::test]
async fn nobody_elses_query_is_cancelled() {
    let proxy = front(FrontSpec {
        general: "workers = 2",
        database: "pool_size = 1",
        ..FrontSpec::default()
    })
    .await;
    let mut hits = 0;
    for round in 0..200_u32 {
        let mut victim = Victim::of(&proxy).await;
        let (port, packet) = (proxy.port(), victim.request.clone());
        let shot = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 37 % 4000)).await;
            send(port, &packet).await;
        });
        victim
            .conn
            .send(&[query("SELECT pg_sleep(0.002)"), terminate()].concat())
            .await;
        let answer = trace(&victim.conn.read_to_end().await);
        match answer.as_str() {
            "T D C ZI" => {}
            hit if hit.ends_with("E:57014 ZI") => hits += 1,
            other => panic!("{other}"),
        }
        let (mut other, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
        assert_eq!(
            other.query("SELECT pg_sleep(0.002)").await,
            "T D C ZI",
            "round {round}"
        );
        assert_eq!(other.query("SELECT 1").await, "T D C ZI", "round {round}");
        other.send(&terminate()).await;
        shot.await.unwrap();
    }
    assert!(hits > 0, "no shot ever hit: the test proves nothing");
}

/// A statement is cancelled, not the transaction's client.
#[tokio::test]
async fn a_cancel_in_a_transaction_fails_it() {
    let proxy = plain_front().await;
    let mut victim = Victim::of(&proxy).await;
    assert_eq!(victim.conn.query("BEGIN").await, "C ZT");
    victim.sleep().await;
    send(proxy.port(), &victim.request.clone()).await;
    assert_eq!(victim.answer().await, "T E:57014 ZE");
    assert_eq!(victim.conn.query("ROLLBACK").await, "C ZI");
}

/// On the console, what waits can be cancelled: here a PAUSE that a session holds up.
#[tokio::test]
async fn a_waiting_console_is_cancelled() {
    let proxy = plain_front().await;
    let mut inside = Victim::of(&proxy).await;
    let mut console = Victim::login(&proxy, ADMIN, CONSOLE).await;
    console.conn.send(&query("PAUSE")).await;
    eventually("the pause has begun", async || {
        let rows = proxy.admin("SHOW STATE").await.unwrap();
        rows.iter()
            .any(|row| row["key"] == "paused" && row["value"] == "yes")
    })
    .await;
    send(proxy.port(), &console.request.clone()).await;
    assert_eq!(console.answer().await, "E:57014 ZI");
    assert_eq!(inside.conn.query("SELECT 1").await, "T D C ZI");
}

#[tokio::test]
async fn psql_is_interrupted() {
    let proxy = plain_front().await;
    let child = Command::new("psql")
        .args([
            "-X",
            "-h",
            "127.0.0.1",
            "-U",
            SUPERUSER.user,
            "-d",
            DATABASE,
        ])
        .args(["-p", &proxy.port().to_string()])
        .args(["-c", "SELECT pg_sleep(60) AS interrupted"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let sleeps = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity \
                  WHERE query = 'SELECT pg_sleep(60) AS interrupted'";
    eventually("the query runs", async || node().await.holds(sleeps).await).await;
    signal(&[child.id()], "INT");
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("canceling statement due to user request"),
        "{said}"
    );
}
