//! Streams: replication through the pooler, and rows larger than any buffer.

use std::fs;

use crate::front::{node, plain_front};
use crate::harness::client::{DATABASE, SUPERUSER};
use crate::harness::eventually;
use crate::harness::proxy::Proxy;
use crate::harness::raw::{Message, RawConn, message, query, trace};

/// Most memory that an instance may ever have had, in KiB: far below the 100 MB that pass through.
const PEAK_MAX: u64 = 60_000;

#[tokio::test]
async fn a_replication_stream_runs_both_ways() {
    let proxy = plain_front().await;
    let direct = node().await;
    direct
        .query("CREATE TABLE IF NOT EXISTS streamed (a text)")
        .await;
    for (port, slot) in [(direct.port(), "direct"), (proxy.port(), "pooled")] {
        let mut conn = RawConn::open(port).await;
        let hello = conn
            .startup(
                SUPERUSER,
                &[
                    ("user", "postgres"),
                    ("database", DATABASE),
                    ("replication", "database"),
                ],
            )
            .await;
        assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'), "{}", trace(&hello));
        assert_eq!(conn.query("IDENTIFY_SYSTEM").await, "T D C ZI");
        let create = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL test_decoding");
        assert_eq!(conn.query(&create).await, "T D C ZI");
        conn.send(&query(&format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (\"skip-empty-xacts\" '1')"
        )))
        .await;
        assert_eq!(trace(&conn.read_until(b'W').await), "W");
        for n in 0..3 {
            let word = format!("{slot}-{n}");
            direct
                .query(&format!("INSERT INTO streamed VALUES ('{word}')"))
                .await;
            wait_for(&mut conn, &word).await;
            // Standby status update that asks for a reply: a keepalive must come.
            conn.send(&status_update()).await;
            keepalive(&mut conn).await;
        }
        conn.send(&message(b'c', b"")).await;
        let end = conn.read_until_ready(1).await;
        let end: Vec<_> = end.into_iter().filter(|m| m.tag != b'd').collect();
        assert_eq!(trace(&end), "c C C ZI", "{slot}");
        assert_eq!(conn.query("IDENTIFY_SYSTEM").await, "T D C ZI");
    }
}

/// A walsender is never given to another client.
#[tokio::test]
async fn a_replication_connection_is_not_reused() {
    let proxy = plain_front().await;
    let parameters = [
        ("user", "postgres"),
        ("database", DATABASE),
        ("replication", "database"),
    ];
    let mut pids = Vec::new();
    for _ in 0..2 {
        let mut conn = RawConn::open(proxy.port()).await;
        conn.startup(SUPERUSER, &parameters).await;
        pids.push(conn.value("SELECT pg_backend_pid()").await.unwrap());
    }
    assert_ne!(pids[0], pids[1]);
}

#[tokio::test]
async fn a_row_of_100_mb_passes_without_being_gathered() {
    let proxy = plain_front().await;
    let (mut conn, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    conn.send(&query("SELECT repeat('x', 100 * 1000 * 1000)"))
        .await;
    let answer = conn.read_until_ready(1).await;
    assert_eq!(trace(&answer), "T D C ZI");
    assert_eq!(answer[1].body.len(), 100_000_006);
    // And the other way.
    let big = format!("SELECT length('{}')", "x".repeat(100_000_000));
    assert_eq!(conn.value(&big).await.as_deref(), Some("100000000"));
    let peak = peak_memory(&proxy);
    assert!(peak < PEAK_MAX, "{peak} KiB");
}

/// A client that does not read stops its own server only.
#[tokio::test]
async fn a_client_that_stops_reading_costs_nobody_anything() {
    let proxy = plain_front().await;
    let (mut slow, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    slow.send(&query(
        "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT",
    ))
    .await;
    assert_eq!(trace(&slow.read_until(b'H').await), "H");
    let (mut other, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    eventually("the server waits for the client", async || {
        let waits = "SELECT wait_event = 'ClientWrite' FROM pg_stat_activity \
                     WHERE query LIKE 'COPY (SELECT repeat%'";
        node().await.holds(waits).await
    })
    .await;
    for _ in 0..20 {
        assert_eq!(other.query("SELECT 1").await, "T D C ZI");
    }
    let peak = peak_memory(&proxy);
    assert!(peak < PEAK_MAX, "{peak} KiB");
    let rest = slow.read_until_ready(1).await;
    assert_eq!(rest.iter().filter(|m| m.tag == b'd').count(), 100_000);
    assert_eq!(trace(&rest[rest.len() - 3..]), "c C ZI");
}

fn peak_memory(proxy: &Proxy) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads until a change holds `word`.
async fn wait_for(conn: &mut RawConn, word: &str) {
    let holds = |m: &Message| {
        m.body
            .windows(word.len())
            .any(|part| part == word.as_bytes())
    };
    while !holds(&conn.read().await.expect("a change")) {}
}

async fn keepalive(conn: &mut RawConn) {
    while conn.read().await.expect("a keepalive").body.first() != Some(&b'k') {}
}

/// Nothing written, flushed or applied; reply at once.
fn status_update() -> Vec<u8> {
    let mut body = vec![b'r'];
    body.extend_from_slice(&[0; 32]);
    body.push(1);
    message(b'd', &body)
}
