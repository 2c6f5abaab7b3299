#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::BufMut;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::auth::scram::{Exchange, ScramVerifier};
use crate::wire::message::{parameter_status, ready_for_query};
use crate::wire::{EncryptionOffer, FirstPacket, StartupMessage};

const PASSWORD: &str = "s3cret";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// A server that a test plays.
struct Fake {
    stream: DuplexStream,
    buf: BytesMut,
}

impl Fake {
    async fn startup(&mut self) -> StartupMessage {
        loop {
            match FirstPacket::take(&mut self.buf, EncryptionOffer::FRESH).unwrap() {
                Some(FirstPacket::Startup(message)) => return message,
                Some(other) => panic!("{other:?}"),
                None => assert_ne!(self.stream.read_buf(&mut self.buf).await.unwrap(), 0),
            }
        }
    }

    async fn message(&mut self) -> Bytes {
        loop {
            if let Some(message) = RawMessage::take(&mut self.buf, 10_000).unwrap() {
                assert_eq!(message.tag, b'p');
                return message.body;
            }
            assert_ne!(self.stream.read_buf(&mut self.buf).await.unwrap(), 0);
        }
    }

    async fn ask(&mut self, request: Authentication) -> Bytes {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).await.unwrap();
        self.message().await
    }
}

fn secret() -> Verifier {
    Verifier::from_text(PASSWORD)
}

/// Logs in to a server that answers the startup packet with `bytes` and hangs up.
fn log_in_to(bytes: &[u8]) -> Result<ServerHello, LoginError> {
    log_in(Some(&secret()), async |fake: &mut Fake| {
        // We may have hung up already.
        let _ = fake.stream.write_all(bytes).await;
    })
}

fn log_in(
    secret: Option<&Verifier>,
    server: impl AsyncFnOnce(&mut Fake),
) -> Result<ServerHello, LoginError> {
    block_on(async {
        let (mut ours, stream) = duplex(4096);
        let theirs = async {
            let mut fake = Fake {
                stream,
                buf: BytesMut::new(),
            };
            let startup = fake.startup().await;
            assert_eq!(startup.params, params());
            assert_eq!(startup.version, ProtocolVersion::V3_0);
            server(&mut fake).await;
        };
        let params = params();
        let ours = async {
            let kdf = Kdf::new(1);
            let result = login(
                &mut ours,
                ServerLogin {
                    user: "ann",
                    params: &params,
                    secret,
                },
                &kdf,
            )
            .await;
            drop(ours);
            result
        };
        tokio::join!(ours, theirs).0
    })
}

fn params() -> Vec<(Bytes, Bytes)> {
    vec![
        ("user".into(), "ann".into()),
        ("options".into(), Bytes::from_static(b"\xFF")),
    ]
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    RawMessage {
        tag,
        body: body.to_vec().into(),
    }
    .encode(&mut out);
    out.to_vec()
}

fn welcome() -> BytesMut {
    let mut out = BytesMut::new();
    Authentication::Ok.encode(&mut out);
    out.put_slice(&message(b'N', b"SNOTICE\0C42622\0Mtruncated\0\0"));
    parameter_status(b"server_version", b"15.9", &mut out);
    parameter_status(b"TimeZone", b"\xFF", &mut out);
    BackendKey {
        pid: 42,
        key: Bytes::from_static(b"abcd"),
    }
    .encode(&mut out);
    ready_for_query(TxStatus::Idle, &mut out);
    out
}

#[test]
fn a_welcome_is_kept_in_order_and_bytes() {
    let hello = log_in_to(&welcome()).unwrap();
    let expected: Vec<(Bytes, Bytes)> = vec![
        ("server_version".into(), "15.9".into()),
        ("TimeZone".into(), Bytes::from_static(b"\xFF")),
    ];
    assert_eq!(hello.params, expected);
    assert_eq!(
        hello.notices,
        [Bytes::from_static(b"SNOTICE\0C42622\0Mtruncated\0\0")]
    );
    assert_eq!(
        hello.key,
        Some(BackendKey {
            pid: 42,
            key: Bytes::from_static(b"abcd")
        })
    );
}

#[test]
fn passwords_are_told_as_asked() {
    let salt = [1, 2, 3, 4];
    let hash = postgres_protocol::authentication::md5_hash(b"ann", PASSWORD.as_bytes(), salt);
    let stored = Verifier::from_text(&postgres_protocol::password::md5(
        PASSWORD.as_bytes(),
        "ann",
    ));
    for (secret, request, answer) in [
        (
            secret(),
            Authentication::CleartextPassword,
            PASSWORD.to_owned(),
        ),
        (secret(), Authentication::Md5Password { salt }, hash.clone()),
        (stored, Authentication::Md5Password { salt }, hash),
    ] {
        log_in(Some(&secret), async |fake: &mut Fake| {
            assert_eq!(fake.ask(request).await, format!("{answer}\0"));
            fake.stream.write_all(&welcome()).await.unwrap();
        })
        .unwrap();
    }
}

/// Plays the server's part of SCRAM up to its final message, which `change` may falsify.
async fn scram_server(fake: &mut Fake, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let verifier = ScramVerifier::derive(PASSWORD.as_bytes(), b"salt", 4096);
    let mechanisms = vec!["SCRAM-SHA-256-PLUS".into(), MECHANISM.into()];
    let initial = fake.ask(Authentication::Sasl(mechanisms)).await;
    let exchange = Exchange::begin(&initial[MECHANISM.len() + 5..], &[9; 18], &verifier).unwrap();
    let first = exchange.server_first().to_vec();
    let client_final = fake.ask(Authentication::SaslContinue(first.into())).await;
    let server_final = exchange.finish(&client_final).unwrap();
    let mut out = BytesMut::new();
    Authentication::SaslFinal(change(server_final).into()).encode(&mut out);
    out.put_slice(&welcome());
    let _ = fake.stream.write_all(&out).await;
}

#[test]
fn scram_proves_both_sides() {
    log_in(Some(&secret()), async |fake: &mut Fake| {
        scram_server(fake, |f| f).await;
    })
    .unwrap();
    let falsify = |_| format!("v={}=", "A".repeat(43)).into_bytes();
    let result = log_in(Some(&secret()), async |fake: &mut Fake| {
        scram_server(fake, falsify).await;
    });
    assert!(matches!(result, Err(LoginError::Scram(_))), "{result:?}");
}

#[test]
fn a_server_cannot_skip_its_proof() {
    let result = log_in(Some(&secret()), async |fake: &mut Fake| {
        fake.ask(Authentication::Sasl(vec![MECHANISM.into()])).await;
        fake.stream.write_all(&welcome()).await.unwrap();
    });
    assert!(
        matches!(result, Err(LoginError::Unexpected(b'R'))),
        "{result:?}"
    );
}

/// Writes a `server-first-message` for the nonce that we sent.
type Challenge = Box<dyn Fn(&str) -> String>;

#[test]
fn bad_challenges_fail_cleanly() {
    let nonce = |n: usize| move |ours: &str| format!("r={ours}{},s=QQ==,i=4096", "x".repeat(n));
    let challenges: Vec<Challenge> = vec![
        Box::new(nonce(60_000)),
        Box::new(nonce(65_536)),
        Box::new(nonce(1_000_000)),
        Box::new(|ours: &str| format!("r={ours}x,s=QQ==,i=2147483647")),
        Box::new(|ours: &str| format!("r={ours}x,s=QQ==,i=99999999999")),
        Box::new(|_: &str| "r=other,s=QQ==,i=4096".to_owned()),
        Box::new(|ours: &str| format!("r={ours}x,s=!,i=4096")),
        Box::new(|_: &str| String::new()),
    ];
    for challenge in challenges {
        let result = log_in(Some(&secret()), async |fake: &mut Fake| {
            let initial = fake.ask(Authentication::Sasl(vec![MECHANISM.into()])).await;
            let text = String::from_utf8_lossy(&initial).into_owned();
            let (_, ours) = text.split_once("r=").unwrap();
            let mut out = BytesMut::new();
            Authentication::SaslContinue(challenge(ours).into()).encode(&mut out);
            let _ = fake.stream.write_all(&out).await;
        });
        let error = result.unwrap_err();
        let clean = matches!(error, LoginError::Scram(_) | LoginError::Message(_));
        assert!(clean, "{error:?}");
        assert_eq!(error.client_facing().unwrap().code, SqlState::SYSTEM_ERROR);
        assert!(!format!("{error} {error:?}").contains(PASSWORD));
    }
}

#[test]
fn refusals_are_passed_on_if_they_are_sound_and_rebuilt_if_not() {
    let sound = message(
        b'E',
        b"SFATAL\0VFATAL\0C3D000\0Mdatabase \"x\" does not exist\0Fa.c\0\0",
    );
    let error = log_in_to(&sound).unwrap_err();
    let mut out = BytesMut::new();
    error.encode_for_client(&mut out);
    assert_eq!(&out[..], &sound[..]);
    assert_eq!(error.sqlstate(), Some(SqlState::INVALID_CATALOG_NAME));

    for body in [
        &b""[..],
        b"\0",
        b"Mno code\0\0",
        b"C3D000\0\0",
        b"SFATAL\0C3D000\0Mopen",
    ] {
        let error = log_in_to(&message(b'E', body)).unwrap_err();
        assert!(matches!(error, LoginError::Refused { .. }), "{error:?}");
        let mut out = BytesMut::new();
        error.encode_for_client(&mut out);
        let rebuilt = RawMessage::take(&mut out, 1000).unwrap().unwrap();
        let report = Report::parse(&rebuilt.body);
        assert!(report.well_formed, "{body:?}");
        assert_eq!(report.severity.as_deref(), Some("FATAL"));
    }
}

#[test]
fn a_server_in_trouble_is_tried_again_and_a_refusal_is_final() {
    for (code, is_final) in [
        ("28P01", true),
        ("28000", true),
        ("3D000", true),
        ("42704", true),
        ("22023", true),
        ("57P01", false),
        ("57P03", false),
        ("53300", false),
        ("08P01", false),
        ("XX000", false),
        ("", false),
    ] {
        let body = format!("SFATAL\0C{code}\0Mno\0\0");
        let error = log_in_to(&message(b'E', body.as_bytes())).unwrap_err();
        assert_eq!(error.is_final(), is_final, "{code}");
    }
    assert!(!log_in_to(b"").unwrap_err().is_final());
    assert!(
        log_in_to(&message(b'R', b"\0\0\0\x07"))
            .unwrap_err()
            .is_final()
    );
}

#[test]
fn what_does_not_belong_here_ends_the_login() {
    let ok = message(b'R', &[0; 4]);
    let after_ok = |rest: &[u8]| [&ok[..], rest].concat();
    let key = message(b'K', b"\0\0\0\x01abcd");
    let in_transaction = after_ok(b"Z\0\0\0\x05T");
    let mut trailing = welcome();
    trailing.put_u8(b'E');
    let endless = after_ok(&message(b'N', b"\0").repeat(2000));
    let heavy = after_ok(&message(b'N', &vec![0; 60_000]).repeat(20));
    let cases: &[(&[u8], &str)] = &[
        (b"", "closed the connection"),
        (b"R\0\0", "closed the connection"),
        (b"Z\0\0\0\x05I", "unexpected message of type 0x5a"),
        (&key, "unexpected message of type 0x4b"),
        (
            &message(b'R', b"\0\0\0\x0Bx"),
            "unexpected message of type 0x52",
        ),
        (&message(b'R', b"\0\0\0\x07"), "not supported"),
        (&message(b'R', b"\0\0\0\x0APLAIN\0\0"), "not supported"),
        (&message(b'R', b"\0"), "malformed message"),
        (&after_ok(&ok), "unexpected message of type 0x52"),
        (
            &after_ok(&[&key[..], &key].concat()),
            "unexpected message of type 0x4b",
        ),
        (
            &after_ok(b"D\0\0\0\x06\0\0"),
            "unexpected message of type 0x44",
        ),
        (&in_transaction, "unexpected message of type 0x5a"),
        (&after_ok(b"Z\0\0\0\x04"), "malformed message"),
        (&after_ok(b"S\0\0\0\x05x"), "malformed message"),
        (b"R\0\0\0\0", "invalid length"),
        (b"R\0\x01\0\x05", "invalid length"),
        (b"E\xFF\xFF\xFF\xFF", "invalid length"),
        (&trailing, "without being asked"),
        (&endless, "too much"),
        (&heavy, "too much"),
    ];
    for (bytes, expected) in cases {
        let error = log_in_to(bytes).unwrap_err();
        let start = &bytes[..bytes.len().min(40)];
        assert!(error.to_string().contains(expected), "{start:?}: {error}");
        assert!(error.client_facing().is_some());
    }
}

#[test]
fn a_secret_that_does_not_serve_is_named_by_kind_only() {
    let scram = Verifier::from_text(&postgres_protocol::password::scram_sha_256(b"s3cret"));
    let md5 = Verifier::from_text(&postgres_protocol::password::md5(b"s3cret", "ann"));
    let cases: &[(Option<&Verifier>, &[u8])] = &[
        (None, b"\0\0\0\x03"),
        (Some(&md5), b"\0\0\0\x03"),
        (None, b"\0\0\0\x05abcd"),
        (Some(&scram), b"\0\0\0\x05abcd"),
        (None, b"\0\0\0\x0ASCRAM-SHA-256\0\0"),
        (Some(&md5), b"\0\0\0\x0ASCRAM-SHA-256\0\0"),
        (Some(&scram), b"\0\0\0\x0ASCRAM-SHA-256\0\0"),
    ];
    for (secret, request) in cases {
        let result = log_in(*secret, async |fake: &mut Fake| {
            fake.stream
                .write_all(&message(b'R', request))
                .await
                .unwrap();
        });
        let error = result.unwrap_err();
        assert!(
            matches!(&error, LoginError::NoSecret(_, user) if user == "ann"),
            "{error:?}"
        );
    }
}

/// Against a real server: `PGSLUICE_TEST_SERVER=host:port`, user `ann` with password `s3cret`.
#[test]
#[ignore = "needs a server"]
fn a_real_server_lets_us_in() {
    let address = std::env::var("PGSLUICE_TEST_SERVER").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let hello = runtime.block_on(async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let params = [("user", "ann"), ("database", "postgres")];
        let params = params.map(|(n, v)| (Bytes::from(n), Bytes::from(v)));
        let secret = secret();
        let as_ann = ServerLogin {
            user: "ann",
            params: &params,
            secret: Some(&secret),
        };
        login(&mut stream, as_ann, &Kdf::new(1)).await
    });
    assert!(
        hello
            .unwrap()
            .params
            .iter()
            .any(|(name, _)| name == "server_version")
    );
}
