//! Whoever talks nonsense is told so or left alone; nobody else notices.

use std::process::Command;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::front::{FrontSpec, binary, front, plain_front};
use crate::harness::client::{APP, DATABASE, SUPERUSER};
use crate::harness::eventually;
use crate::harness::proxy::Proxy;
use crate::harness::raw::{RawConn, message, printable, query, terminate, trace};

/// The instance is the same process as before, and serves.
async fn alive(proxy: &Proxy) {
    let (mut conn, hello) = RawConn::login(proxy.port(), APP, DATABASE).await;
    assert!(trace(&hello).ends_with("ZI"), "{}", trace(&hello));
    assert_eq!(conn.query("SELECT 1").await, "T D C ZI");
    conn.send(&terminate()).await;
    assert!(std::fs::metadata(format!("/proc/{}", proxy.pid())).is_ok());
}

async fn scram_front(general: &'static str) -> Proxy {
    front(FrontSpec {
        auth: "scram-sha-256",
        general,
        ..FrontSpec::default()
    })
    .await
}

fn startup(user: &str, dbname: &str) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
    for text in ["user", user, "database", dbname] {
        packet.extend_from_slice(text.as_bytes());
        packet.push(0);
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).unwrap();
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn header(tag: u8, length: u32) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes()].concat()
}

/// `SASLInitialResponse` with a length field of the test's own.
fn sasl(mechanism: &str, length: i32, data: &[u8]) -> Vec<u8> {
    message(
        b'p',
        &[mechanism.as_bytes(), b"\0", &length.to_be_bytes(), data].concat(),
    )
}

/// Sends `bytes` behind a startup packet of a known user and gives what comes back after the
/// request for a password, up to the end.
async fn instead_of_password(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut conn = RawConn::open(proxy.port()).await;
    conn.send(&startup(APP.user, DATABASE)).await;
    let asked = conn.read().await.expect("a request");
    assert_eq!(asked.short(), "R10");
    conn.send(bytes).await;
    conn.half_close().await;
    trace(&conn.read_to_end().await)
}

/// Rows of `CVE-2015-4054`, `CVE-2026-6664`, `CVE-2026-6668`, `CVE-2026-19888`, `CVE-2026-107350`.
#[tokio::test]
async fn nonsense_in_place_of_a_password() {
    let proxy = scram_front("").await;
    let first = b"n,,n=,r=fyko+d2lbbFgONRv9qkxdawL";
    let length = i32::try_from(first.len()).unwrap();
    let scram = "SCRAM-SHA-256";
    let violation = "E:08P01";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], ""),
        ("a Query", query("SELECT 1"), violation),
        ("Terminate", terminate(), violation),
        (
            "a second startup packet",
            startup("postgres", DATABASE),
            violation,
        ),
        (
            "an SSLRequest",
            vec![0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f],
            violation,
        ),
        ("length 0", header(b'p', 0), violation),
        ("length 3", header(b'p', 3), violation),
        ("more than a password", header(b'p', 0x0001_1000), violation),
        ("length 2^31", header(b'p', 0x8000_0000), violation),
        ("length 2^31+1", header(b'p', 0x8000_0001), violation),
        ("length 2^32-1", header(b'p', u32::MAX), violation),
        ("an empty body", message(b'p', b""), violation),
        (
            "a plain password",
            message(b'p', b"app-secret\0"),
            violation,
        ),
        ("SASL length -1", sasl(scram, -1, first), violation),
        ("SASL length -2", sasl(scram, -2, first), violation),
        (
            "SASL length 2^31-1",
            sasl(scram, i32::MAX, first),
            violation,
        ),
        (
            "SASL length too short",
            sasl(scram, length - 1, first),
            violation,
        ),
        (
            "SASL length too long",
            sasl(scram, length + 1, first),
            violation,
        ),
        (
            "another mechanism",
            sasl("SCRAM-SHA-1", length, first),
            violation,
        ),
        (
            "channel binding without TLS",
            sasl("SCRAM-SHA-256-PLUS", length, first),
            violation,
        ),
        ("no user attribute", sasl(scram, 4, b"n,,r"), violation),
        ("an empty message", sasl(scram, 0, b""), violation),
    ];
    for (name, bytes, wanted) in cases {
        assert_eq!(instead_of_password(&proxy, &bytes).await, wanted, "{name}");
        alive(&proxy).await;
    }
    for last in [
        &b""[..],
        b"c=biws",
        b"c=biws,p=AAAA",
        b"r=nonce",
        b"c=biws,r=wrong,p=AAAA",
        b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL,p=!!!",
        b"p=AAAA,c=biws,r=fyko+d2lbbFgONRv9qkxdawL",
        b"\xff\xfe",
    ] {
        let mut conn = RawConn::open(proxy.port()).await;
        conn.send(&startup(APP.user, DATABASE)).await;
        conn.read().await.expect("a request");
        conn.send(&sasl(scram, length, first)).await;
        assert_eq!(conn.read().await.expect("a challenge").short(), "R11");
        conn.send(&message(b'p', last)).await;
        let end = trace(&conn.read_to_end().await);
        assert!(
            ["E:08P01", "E:28P01"].contains(&end.as_str()),
            "{}: {end}",
            printable(last)
        );
    }
    alive(&proxy).await;
}

/// `CVE-2012-4575`: names longer than any buffer.
#[tokio::test]
async fn long_names_are_names_like_others() {
    let proxy = plain_front().await;
    for length in [1000, 9000] {
        let long = "x".repeat(length);
        for (user, dbname, wanted) in [
            ("postgres", long.as_str(), "E:3D000"),
            (long.as_str(), DATABASE, "E:28P01"),
            (long.as_str(), "*", "E:28P01"),
            ("postgres", "*", "E:3D000"),
            ("postgres", "../../etc/passwd\n", "E:3D000"),
        ] {
            let mut conn = RawConn::open(proxy.port()).await;
            conn.send(&startup(user, dbname)).await;
            assert_eq!(trace(&conn.read_to_end().await), wanted);
        }
    }
    alive(&proxy).await;
}

/// Names that are no UTF-8 and names with control characters do not forge lines in the log.
#[tokio::test]
async fn names_cannot_forge_a_line_in_the_log() {
    let proxy = plain_front().await;
    let mut packet = startup("postgres", "a\nINFO pgsluice: forged");
    let mut conn = RawConn::open(proxy.port()).await;
    conn.send(&packet).await;
    assert_eq!(trace(&conn.read_to_end().await), "E:3D000");
    let at = packet
        .windows(8)
        .position(|part| part == b"postgres")
        .unwrap();
    packet[at] = 0xff;
    let mut conn = RawConn::open(proxy.port()).await;
    conn.send(&packet).await;
    assert_eq!(trace(&conn.read_to_end().await), "E:28000");
    alive(&proxy).await;
    assert!(
        !proxy
            .log()
            .lines()
            .any(|line| line.starts_with("INFO pgsluice: forged")),
        "{}",
        proxy.log()
    );
}

/// Whoever does not finish its login in time is told and closed; the others log in meanwhile.
#[tokio::test]
async fn a_login_that_takes_for_ever_is_ended() {
    let proxy = scram_front("client_login_timeout = \"1s\"").await;
    let full = startup(APP.user, DATABASE);
    for sent in [0, 4, 20, full.len()] {
        let mut conn = RawConn::open(proxy.port()).await;
        conn.send(&full[..sent]).await;
        alive(&proxy).await;
        let end = trace(&conn.read_to_end().await);
        assert!(end.ends_with("E:08P01"), "{sent} bytes: {end}");
    }
    // A byte now and then does not move the deadline.
    let mut loris = RawConn::open(proxy.port()).await;
    let mut ended = false;
    for byte in full.iter().cycle() {
        if !loris.is_silent(Duration::from_millis(200)).await {
            ended = true;
            break;
        }
        loris.send(&[*byte]).await;
    }
    assert!(ended);
    assert_eq!(trace(&loris.read_to_end().await), "E:08P01");
}

/// Connections that say nothing cost nobody his login, not even one that waits for a server.
#[tokio::test]
async fn a_flood_of_half_open_connections_stops_nobody() {
    let proxy = scram_front("client_login_timeout = \"60s\"\nmax_client_conn = 10").await;
    let mut flood = Vec::new();
    for number in 0..500 {
        let mut conn = RawConn::open(proxy.port()).await;
        if number % 2 == 0 {
            conn.send(&[0, 0, 0]).await;
        }
        flood.push(conn);
    }
    for _ in 0..10 {
        alive(&proxy).await;
    }
    flood.into_iter().for_each(RawConn::reset);
    alive(&proxy).await;
}

/// Random bytes, from the first on and behind a login, many at a time.
#[tokio::test]
async fn noise_harms_nobody() {
    let proxy = plain_front().await;
    let mut noise = JoinSet::new();
    for seed in 0..60_u64 {
        let port = proxy.port();
        noise.spawn(async move {
            let mut conn = RawConn::open(port).await;
            if seed % 2 == 0 {
                conn.startup(SUPERUSER, &[("user", "postgres"), ("database", DATABASE)])
                    .await;
            }
            conn.send(&random_bytes(seed)).await;
            conn.half_close().await;
            conn.read_bytes_to_end().await
        });
    }
    while let Some(end) = noise.join_next().await {
        end.unwrap();
    }
    alive(&proxy).await;
}

fn random_bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..300).map(|_| next()).collect()
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_file_line_and_key() {
    let proxy = plain_front().await;
    let good = proxy.read_config();
    let file = proxy.config_file().display().to_string();
    let line = |text: &str| good.lines().position(|l| l.starts_with(text)).unwrap() + 1;
    let cases = [
        (
            good.replace("auth_type = \"trust\"", "auth_type = \"nonsense\""),
            format!("{file}:{}:", line("auth_type")),
            "auth_type",
        ),
        (
            good.replace("admin_users", "admin_user"),
            format!("{file}:{}:", line("admin_users")),
            "admin_user",
        ),
        (
            good.replace("pool_size = 20", "pool_size = -1"),
            format!("{file}:{}:", line("pool_size")),
            "pool_size",
        ),
        (
            good.replace("[databases.app]", "[databases.app"),
            format!("{file}:{}:", line("[databases.app]")),
            "",
        ),
    ];
    let (mut session, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    for (bad, place, key) in cases {
        proxy.write_config(&bad);
        // At the start, and by "check".
        let started = Command::new(binary()).arg(&file).output().unwrap();
        let checked = Command::new(binary())
            .args(["check", &file])
            .output()
            .unwrap();
        for output in [started, checked] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success());
            assert!(
                said.contains(&place) && said.contains(key),
                "{place} {key}: {said}"
            );
        }
        // At RELOAD: refused, and everything as it was.
        let error = proxy.admin("RELOAD").await.unwrap_err();
        let error = error
            .as_db_error()
            .expect("the console's own error")
            .clone();
        assert_eq!(error.code().code(), "F0000", "{error:?}");
        assert_eq!(session.query("SELECT 1").await, "T D C ZI");
        alive(&proxy).await;
        assert!(proxy.log().contains(&place), "{place}");
    }
    proxy.signal("HUP");
    alive(&proxy).await;
    proxy.write_config(&good.replace("pool_size = 20", "pool_size = 21"));
    proxy.reload().await;
    let rows = proxy.admin("SHOW DATABASES").await.unwrap();
    let row = rows.iter().find(|row| row["name"] == DATABASE).unwrap();
    assert_eq!(row["pool_size"], "21");
    assert_eq!(session.query("SELECT 1").await, "T D C ZI");
}

/// CPU returns to idle after all that: no session spins.
#[tokio::test]
async fn an_instance_at_rest_uses_no_cpu() {
    let proxy = plain_front().await;
    let mut conns = Vec::new();
    for bytes in [&b""[..], b"\0\0\0", b"\x16\x03\x01"] {
        let mut conn = RawConn::open(proxy.port()).await;
        conn.send(bytes).await;
        conns.push(conn);
    }
    let (idle, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    let (mut gone, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
    gone.send(&[query("BEGIN"), query("COPY (SELECT 1) TO STDOUT")].concat())
        .await;
    gone.half_close().await;
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        // utime and stime, in hundredths of a second.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    eventually(
        "half a second passes with less than a tenth of it used",
        async || {
            let before = ticks();
            tokio::time::sleep(Duration::from_millis(500)).await;
            ticks() - before < 5
        },
    )
    .await;
    drop((idle, conns));
}
