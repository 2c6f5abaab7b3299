//! Startup packets: what PostgreSQL accepts, refuses and says.

#![allow(
    clippy::type_complexity,
    reason = "columns of a table, named where it is read"
)]

use crate::front::{FrontSpec, front, node, plain_front};
use crate::harness::bounce::{Bounce, Weather};
use crate::harness::client::{APP, APP_MD5, APP_PLAIN, DATABASE, Login, SUPERUSER};
use crate::harness::raw::{Message, RawConn, printable, query, terminate, trace};

use super::{assert_same, masked};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

/// A startup packet of protocol `major.minor`.
fn startup(major: u16, minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&major.to_be_bytes());
    body.extend_from_slice(&minor.to_be_bytes());
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    packet(&body)
}

fn packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], body].concat()
}

/// What comes back for a startup with these parameters besides user and database, one query
/// included when it went well.
async fn greeting(port: u16, login: Login, more: &[(&str, &str)], sql: &str) -> Vec<Message> {
    let mut conn = RawConn::open(port).await;
    let mut parameters = vec![("user", login.user), ("database", DATABASE)];
    parameters.extend_from_slice(more);
    let mut messages = conn.startup(login, &parameters).await;
    if messages.last().is_some_and(|message| message.tag == b'Z') {
        conn.send(&[query(sql), terminate()].concat()).await;
    }
    messages.extend(conn.read_to_end().await);
    messages.into_iter().map(masked).collect()
}

#[tokio::test]
async fn parameters_reach_the_server_and_its_refusals_reach_the_client() {
    let direct = node().await.port();
    let proxy = plain_front().await;
    let long = "x".repeat(100);
    let cases: Vec<(&str, Vec<(&str, &str)>, &str)> = vec![
        ("none", vec![], "SHOW application_name"),
        (
            "a name of 100 bytes",
            vec![("application_name", &long)],
            "SHOW application_name",
        ),
        (
            "options in all forms",
            vec![(
                "options",
                "-c work_mem=5MB --statement_timeout=7s -csearch_path=a,\\ b",
            )],
            "SELECT current_setting('work_mem'), current_setting('statement_timeout'), \
             current_setting('search_path')",
        ),
        (
            "options that make no sense",
            vec![("options", "-c foo")],
            "",
        ),
        ("options without a name", vec![("options", "-c =1")], ""),
        ("options, empty long form", vec![("options", "--=1")], ""),
        ("options, a lone -c", vec![("options", "-c")], ""),
        (
            "options, backslashes",
            vec![("options", "\\\\\\")],
            "SELECT 1",
        ),
        ("an unknown setting", vec![("no_such_setting", "1")], ""),
        ("a bad value", vec![("work_mem", "many")], ""),
        (
            "a quoted encoding",
            vec![("client_encoding", "'utf-8'")],
            "SHOW client_encoding",
        ),
        (
            "an unknown encoding",
            vec![("client_encoding", "klingon")],
            "",
        ),
        (
            "what drivers send",
            vec![
                ("client_encoding", "UTF8"),
                ("DateStyle", "ISO"),
                ("TimeZone", "Europe/Paris"),
                ("extra_float_digits", "2"),
                ("statement_timeout", "0"),
            ],
            "SELECT current_setting('TimeZone'), current_setting('extra_float_digits')",
        ),
        (
            "the same twice",
            vec![("TimeZone", "UTC"), ("TimeZone", "Europe/Paris")],
            "SHOW TimeZone",
        ),
        (
            "an empty value",
            vec![("application_name", "")],
            "SHOW application_name",
        ),
    ];
    for (name, more, sql) in cases {
        let mut wanted = greeting(direct, SUPERUSER, &more, sql).await;
        let got = greeting(proxy.port(), SUPERUSER, &more, sql).await;
        // A client is let in when there is a server for it, and not before.
        if trace(&wanted).starts_with("R0 E") {
            wanted.remove(0);
        }
        assert_same(name, &wanted, &got);
    }
}

/// Every way to log in, the bytes whole and in crumbs.
#[tokio::test]
async fn logins_are_as_with_postgresql() {
    let direct = node().await.port();
    let cases = [
        ("scram-sha-256", APP),
        ("md5", APP_MD5),
        ("plain", APP_PLAIN),
        ("trust", SUPERUSER),
    ];
    for (auth, login) in cases {
        let proxy = front(FrontSpec {
            auth,
            ..FrontSpec::default()
        })
        .await;
        let crumbs = Bounce::to(proxy.port()).await;
        crumbs.set(Weather::Crumbs);
        let tags = |messages: &[Message]| {
            let mut wanted = messages.to_vec();
            // Salts and nonces differ.
            wanted
                .iter_mut()
                .filter(|m| m.tag == b'R')
                .for_each(|m| m.body.truncate(4));
            wanted
        };
        let wanted = greeting(direct, login, &[], "SELECT current_user").await;
        for port in [proxy.port(), crumbs.port()] {
            let got = greeting(port, login, &[], "SELECT current_user").await;
            assert_same(auth, &tags(&wanted), &tags(&got));
        }
        let wrong = Login {
            user: login.user,
            password: "wrong",
        };
        if auth != "trust" {
            let wanted = greeting(direct, wrong, &[], "").await;
            let got = greeting(proxy.port(), wrong, &[], "").await;
            assert_eq!(trace(&got), trace(&wanted), "{auth}, wrong password");
            let text = |m: &[Message]| m.last().and_then(|m| m.field(b'M'));
            assert_eq!(text(&got), text(&wanted), "{auth}, wrong password");
        }
    }
}

/// First bytes of a connection, and what must come back: compared with PostgreSQL where both speak
/// the same version of the protocol.
#[tokio::test]
async fn first_packets_are_judged_as_by_postgresql() {
    let direct = node().await.port();
    let proxy = plain_front().await;
    let user = [("user", "postgres"), ("database", DATABASE)];
    let mut unterminated = startup(3, 0, &user);
    unterminated.pop();
    let last = unterminated.len();
    unterminated[..4].copy_from_slice(&u32::try_from(last).unwrap().to_be_bytes());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("length 4", packet(b"")),
        ("length 7", packet(b"\0\x03\0")),
        ("length 0", vec![0; 8]),
        ("length 2^31", vec![0x80, 0, 0, 0, 0, 3, 0, 0]),
        ("length 2^32-1", vec![0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0]),
        (
            "too long",
            packet(&[&[0, 3, 0, 0][..], &vec![b'x'; 20_000]].concat()),
        ),
        ("no parameters", startup(3, 0, &[])),
        ("no user", startup(3, 0, &[("database", DATABASE)])),
        (
            "an empty user",
            startup(3, 0, &[("user", ""), ("database", DATABASE)]),
        ),
        ("no terminator", unterminated),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec()),
        ("a Query", query("SELECT 1")),
        ("a password", b"p\0\0\0\x06x\0".to_vec()),
        ("Terminate", terminate()),
        (
            "TLS without being asked",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        ),
        (
            "a cancel request with a wrong key",
            [&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e][..], &[1; 8]].concat(),
        ),
        (
            "a cancel request that is too short",
            [&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2e][..]].concat(),
        ),
        ("SSLRequest twice, at once", SSL_REQUEST.repeat(2)),
        (
            "SSLRequest and a startup packet behind it",
            [&SSL_REQUEST[..], &startup(3, 0, &user)].concat(),
        ),
        ("half a length", vec![0, 0]),
        ("half a packet", startup(3, 0, &user)[..12].to_vec()),
    ];
    for (name, bytes) in cases {
        let wanted = first_answer(direct, &bytes).await;
        let got = first_answer(proxy.port(), &bytes).await;
        assert_eq!(legible(&got), legible(&wanted), "{name}");
    }
}

/// Where our protocol is newer than that of PostgreSQL 15, or its answer names its version.
#[tokio::test]
async fn other_protocols_are_refused_or_negotiated() {
    let proxy = plain_front().await;
    let user = [("user", "postgres"), ("database", DATABASE)];
    let second = first_answer(proxy.port(), &startup(2, 0, &user)).await;
    assert_eq!(second.first(), Some(&b'E'));
    assert!(
        second.starts_with(b"EFATAL:  unsupported frontend protocol 2.0"),
        "{second:?}"
    );
    assert_eq!(second.last(), Some(&0));
    for (packets, name) in [
        (vec![startup(4, 0, &user)], "4.0"),
        (vec![SSL_REQUEST.to_vec(); 2], "1234.5679"),
        (vec![GSSENC_REQUEST.to_vec(); 2], "1234.5680"),
    ] {
        let mut conn = RawConn::open(proxy.port()).await;
        for (number, packet) in packets.iter().enumerate() {
            if number > 0 {
                conn.skip_byte(b'N').await;
            }
            conn.send(packet).await;
        }
        let messages = conn.read_to_end().await;
        assert_eq!(trace(&messages), "E:0A000", "{name}");
        let text = messages[0].field(b'M').unwrap();
        assert!(
            text.starts_with(&format!("unsupported frontend protocol {name}")),
            "{text}"
        );
    }

    let options = [user[0], user[1], ("_pq_.new", "1")];
    let cases: [(u16, &[(&str, &str)], Option<(u32, Vec<&str>)>, usize); 5] = [
        (0, &user, None, 4),
        (2, &user, None, 32),
        (0, &options, Some((0x0003_0000, vec!["_pq_.new"])), 4),
        (9999, &user, Some((0x0003_0002, vec![])), 32),
        (9999, &options, Some((0x0003_0002, vec!["_pq_.new"])), 32),
    ];
    for (minor, parameters, negotiated, key) in cases {
        let mut conn = RawConn::open(proxy.port()).await;
        conn.send(&startup(3, minor, parameters)).await;
        let messages = conn.read_until_ready(1).await;
        let versions = messages
            .iter()
            .filter(|m| m.tag == b'v')
            .collect::<Vec<_>>();
        let wanted = negotiated.map(|(version, names)| {
            let mut body = version.to_be_bytes().to_vec();
            body.extend_from_slice(&u32::try_from(names.len()).unwrap().to_be_bytes());
            for name in names {
                body.extend_from_slice(name.as_bytes());
                body.push(0);
            }
            body
        });
        assert_eq!(
            versions.first().map(|m| m.body.clone()),
            wanted,
            "3.{minor}"
        );
        assert!(versions.len() <= 1, "exactly once");
        let data = messages.iter().find(|m| m.tag == b'K').unwrap();
        assert_eq!(data.body.len() - 4, key, "3.{minor}");
        assert_eq!(conn.query("SELECT 1").await, "T D C ZI");
    }
}

#[tokio::test]
async fn encryption_is_declined_and_the_client_goes_on_in_clear() {
    let direct = node().await.port();
    let proxy = plain_front().await;
    for requests in [
        vec![SSL_REQUEST],
        vec![GSSENC_REQUEST],
        vec![GSSENC_REQUEST, SSL_REQUEST],
        vec![SSL_REQUEST, GSSENC_REQUEST],
    ] {
        for port in [direct, proxy.port()] {
            // PostgreSQL takes up GSSAPI when it was built with it.
            if port == direct && requests.contains(&GSSENC_REQUEST) {
                continue;
            }
            let mut conn = RawConn::open(port).await;
            for request in &requests {
                conn.send_slowly(request).await;
                conn.skip_byte(b'N').await;
            }
            let user = [("user", SUPERUSER.user), ("database", DATABASE)];
            let hello = conn.startup(SUPERUSER, &user).await;
            assert_eq!(hello.last().map(|m| m.tag), Some(b'Z'));
            assert_eq!(conn.query("SELECT 1").await, "T D C ZI");
        }
    }
}

/// Without the lines of PostgreSQL's source that an error names.
fn legible(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    if let [b'N', rest @ ..] = bytes
        && rest.first() == Some(&b'E')
    {
        // The answer to an encryption request has no length.
        text.push('N');
        bytes = rest;
    }
    while let [tag, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some((body, next)) = length.checked_sub(4).and_then(|n| rest.split_at_checked(n))
        else {
            break;
        };
        let fields = body.split(|byte| *byte == 0);
        let said = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
        text.push(char::from(*tag));
        for field in said {
            text.push(' ');
            text.push_str(&printable(field));
        }
        bytes = next;
    }
    text + &printable(bytes)
}

/// Everything that comes back before the connection ends.
async fn first_answer(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut conn = RawConn::open(port).await;
    conn.send(bytes).await;
    conn.half_close().await;
    conn.read_bytes_to_end().await
}
