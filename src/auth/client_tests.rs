#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::BufMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::auth::UserList;
use crate::wire::frontend;

const USER: &str = "ann";
const PASSWORD: &str = "s3cret";

fn authenticator() -> Authenticator {
    Authenticator::new([3; 32], Kdf::new(2))
}

fn secrets() -> Vec<(&'static str, Verifier)> {
    vec![
        ("plain", Verifier::from_text(PASSWORD)),
        (
            "md5",
            Verifier::from_text(&postgres_protocol::password::md5(PASSWORD.as_bytes(), USER)),
        ),
        (
            "scram",
            Verifier::from_text(&postgres_protocol::password::scram_sha_256(
                PASSWORD.as_bytes(),
            )),
        ),
    ]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

async fn read(stream: &mut DuplexStream) -> Option<Authentication> {
    let mut buf = BytesMut::new();
    loop {
        if let Some(message) = RawMessage::take(&mut buf, 10_000).unwrap() {
            assert!(buf.is_empty());
            return Some(Authentication::parse(message.body).unwrap());
        }
        if stream.read_buf(&mut buf).await.unwrap() == 0 {
            return None;
        }
    }
}

/// A well-behaved client: answers whatever it is asked with `password`, and returns the names of
/// what it was asked.
async fn client(mut stream: DuplexStream, password: &str) -> Vec<&'static str> {
    let mut asked = Vec::new();
    let mut scram = None;
    while let Some(request) = read(&mut stream).await {
        let mut out = BytesMut::new();
        match request {
            Authentication::CleartextPassword => {
                asked.push("clear");
                frontend::password_message(password.as_bytes(), &mut out).unwrap();
            }
            Authentication::Md5Password { salt } => {
                asked.push("md5");
                let response = md5_hash(USER.as_bytes(), password.as_bytes(), salt);
                frontend::password_message(response.as_bytes(), &mut out).unwrap();
            }
            Authentication::Sasl(_) => {
                asked.push("sasl");
                let exchange = scram.insert(ScramSha256::new(
                    password.as_bytes(),
                    ChannelBinding::unsupported(),
                ));
                frontend::sasl_initial_response(scram::MECHANISM, exchange.message(), &mut out)
                    .unwrap();
            }
            Authentication::SaslContinue(data) => {
                asked.push("continue");
                let exchange = scram.as_mut().unwrap();
                exchange.update(&data).unwrap();
                frontend::sasl_response(exchange.message(), &mut out).unwrap();
            }
            Authentication::SaslFinal(data) => {
                asked.push("final");
                scram.as_mut().unwrap().finish(&data).unwrap();
            }
            other => panic!("{other:?}"),
        }
        stream.write_all(&out).await.unwrap();
    }
    asked
}

fn log_in(
    auth_type: AuthType,
    verifier: Option<&Verifier>,
    password: &str,
) -> (Result<(), AuthError>, Vec<&'static str>) {
    block_on(async {
        let authenticator = authenticator();
        let (ours, theirs) = duplex(4096);
        let ours = async {
            let (mut stream, mut buf) = (ours, BytesMut::new());
            let login = ClientLogin {
                user: USER,
                auth_type,
                verifier,
            };
            authenticator
                .authenticate(&mut stream, &mut buf, login)
                .await
        };
        tokio::join!(ours, client(theirs, password))
    })
}

#[test]
fn methods_and_stored_secrets() {
    let scram = &["sasl", "continue", "final"][..];
    let failed = &["sasl", "continue"][..];
    // auth_type, stored as, what a right password is asked, does it pass?
    let table = [
        (AuthType::Trust, "plain", &[][..], true),
        (AuthType::Trust, "md5", &[], true),
        (AuthType::Trust, "scram", &[], true),
        (AuthType::Plain, "plain", &["clear"], true),
        (AuthType::Plain, "md5", &["clear"], true),
        (AuthType::Plain, "scram", &["clear"], true),
        (AuthType::Md5, "plain", &["md5"], true),
        (AuthType::Md5, "md5", &["md5"], true),
        (AuthType::Md5, "scram", scram, true),
        (AuthType::ScramSha256, "plain", scram, true),
        (AuthType::ScramSha256, "md5", failed, false),
        (AuthType::ScramSha256, "scram", scram, true),
    ];
    for (auth_type, stored, asked, passes) in table {
        let secrets = secrets();
        let (_, verifier) = secrets.iter().find(|(name, _)| *name == stored).unwrap();
        let (result, seen) = log_in(auth_type, Some(verifier), PASSWORD);
        assert_eq!(
            (result.is_ok(), &seen[..]),
            (passes, asked),
            "{auth_type:?} {stored}"
        );
        if auth_type != AuthType::Trust {
            let (result, seen) = log_in(auth_type, Some(verifier), "wrong");
            assert!(result.is_err(), "{auth_type:?} {stored}");
            assert!(!seen.contains(&"final"), "{auth_type:?} {stored}");
        }
    }
}

#[test]
fn a_client_cannot_tell_an_unknown_user_from_a_wrong_password() {
    let plain = Verifier::from_text(PASSWORD);
    for auth_type in [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
        let (wrong, wrong_asked) = log_in(auth_type, Some(&plain), "wrong");
        let (unknown, unknown_asked) = log_in(auth_type, None, PASSWORD);
        let (none, none_asked) = log_in(auth_type, Some(&Verifier::NoPassword), PASSWORD);
        assert_eq!(wrong_asked, unknown_asked);
        assert_eq!(wrong_asked, none_asked);
        let mut heard = Vec::new();
        for (error, expected) in [
            (wrong.unwrap_err(), RejectReason::WrongPassword),
            (unknown.unwrap_err(), RejectReason::UnknownUser),
            (none.unwrap_err(), RejectReason::NoPassword),
        ] {
            heard.push(error.client_facing().unwrap());
            assert!(matches!(error, AuthError::Rejected { reason, .. } if reason == expected));
        }
        assert_eq!(heard[0].code, SqlState::INVALID_PASSWORD);
        assert_eq!(
            heard[0].message,
            "password authentication failed for user \"ann\""
        );
        assert!(heard.iter().all(|h| *h == heard[0]));
    }
    assert!(log_in(AuthType::Trust, None, "").0.is_err());
    assert!(log_in(AuthType::Plain, Some(&plain), "").0.is_err());
}

#[test]
fn a_password_stored_in_clear_is_derived_once_and_again_when_it_changes() {
    block_on(async {
        let authenticator = authenticator();
        let old = authenticator
            .derived(USER, &Secret::new("old".into()))
            .await
            .unwrap();
        assert!(authenticator.remembered(USER, &Secret::new("old".into())) == Some(old.clone()));
        assert!(
            authenticator
                .remembered(USER, &Secret::new("new".into()))
                .is_none()
        );
        let new = authenticator
            .derived(USER, &Secret::new("new".into()))
            .await
            .unwrap();
        assert!(!new.fits(&old));
        assert!(authenticator.remembered(USER, &Secret::new("new".into())) == Some(new));
        assert_eq!(authenticator.lock().len(), 1);
        assert!(!format!("{authenticator:?}").contains("3, 3"));
    });
}

/// Sends `bytes` and hangs up; what comes of it, and what is left in the buffer.
fn send(auth_type: AuthType, bytes: &[u8]) -> (Result<(), AuthError>, BytesMut) {
    block_on(async {
        let verifier = Verifier::from_text(PASSWORD);
        let (mut ours, mut theirs) = duplex(1 << 20);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut buf = BytesMut::new();
        let login = ClientLogin {
            user: USER,
            auth_type,
            verifier: Some(&verifier),
        };
        let result = authenticator()
            .authenticate(&mut ours, &mut buf, login)
            .await;
        (result, buf)
    })
}

fn password_message(body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    RawMessage {
        tag: b'p',
        body: body.to_vec().into(),
    }
    .encode(&mut out);
    out.to_vec()
}

fn sasl_initial(mechanism: &[u8], length: u32, data: &[u8]) -> Vec<u8> {
    let mut body = mechanism.to_vec();
    body.put_u8(0);
    body.put_u32(length);
    body.put_slice(data);
    password_message(&body)
}

#[test]
fn what_comes_behind_the_password_is_kept() {
    let mut bytes = password_message(b"s3cret\0");
    bytes.extend_from_slice(b"Q\0\0\0\x05\0");
    let (result, buf) = send(AuthType::Plain, &bytes);
    result.unwrap();
    assert_eq!(&buf[..], b"Q\0\0\0\x05\0");
}

#[test]
fn anything_else_than_the_answer_is_a_protocol_violation() {
    let scram = b"SCRAM-SHA-256";
    let startup = b"\0\0\0\x29\0\x03\0\0user\0admin\0\0";
    let mut second_startup = sasl_initial(scram, 11, b"n,,n=,r=abc");
    second_startup.extend_from_slice(startup);
    let cases: &[(AuthType, Vec<u8>)] = &[
        (AuthType::Plain, password_message(b"")),
        (AuthType::Plain, password_message(b"s3cret")),
        (AuthType::Plain, password_message(b"s3cret\0\0")),
        (AuthType::Plain, password_message(b"s3\0cret\0")),
        (AuthType::Plain, b"p\0\0\0\0".to_vec()),
        (AuthType::Plain, b"p\0\0\0\x03".to_vec()),
        (AuthType::Plain, b"p\0\x01\0\x04".to_vec()),
        (AuthType::Plain, b"p\x80\0\0\0".to_vec()),
        (AuthType::Plain, b"p\x80\0\0\x01".to_vec()),
        (AuthType::Plain, b"p\xFF\xFF\xFF\xFF".to_vec()),
        (AuthType::Md5, password_message(b"md5")),
        (AuthType::Md5, b"Q\0\0\0\x05\0".to_vec()),
        (AuthType::Md5, b"X\0\0\0\x04".to_vec()),
        (AuthType::Md5, startup.to_vec()),
        (AuthType::ScramSha256, startup.to_vec()),
        (
            AuthType::ScramSha256,
            b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(),
        ),
        (AuthType::ScramSha256, second_startup),
        (AuthType::ScramSha256, password_message(b"")),
        (AuthType::ScramSha256, password_message(b"SCRAM-SHA-256\0")),
        (
            AuthType::ScramSha256,
            password_message(b"SCRAM-SHA-256\0\0\0\0"),
        ),
        (
            AuthType::ScramSha256,
            sasl_initial(b"PLAIN", 11, b"n,,n=,r=abc"),
        ),
        (
            AuthType::ScramSha256,
            sasl_initial(b"SCRAM-SHA-256-PLUS", 11, b"n,,n=,r=abc"),
        ),
        (
            AuthType::ScramSha256,
            sasl_initial(scram, u32::MAX, b"abcd"),
        ),
        (AuthType::ScramSha256, sasl_initial(scram, u32::MAX, b"")),
        (
            AuthType::ScramSha256,
            sasl_initial(scram, u32::MAX - 1, b"abcd"),
        ),
        (
            AuthType::ScramSha256,
            sasl_initial(scram, 0x7FFF_FFFF, b"abcd"),
        ),
        (
            AuthType::ScramSha256,
            sasl_initial(scram, 10, b"n,,n=,r=abc"),
        ),
        (
            AuthType::ScramSha256,
            sasl_initial(scram, 12, b"n,,n=,r=abc"),
        ),
        (AuthType::ScramSha256, sasl_initial(scram, 0, b"")),
    ];
    for (auth_type, bytes) in cases {
        let error = send(*auth_type, bytes).0.unwrap_err();
        let answer = error.client_facing();
        let answer = answer.unwrap_or_else(|| panic!("{auth_type:?} {bytes:?}: {error:?}"));
        assert_eq!(
            answer.code,
            SqlState::PROTOCOL_VIOLATION,
            "{auth_type:?} {bytes:?}"
        );
    }
}

#[test]
fn a_client_that_hangs_up_hears_nothing() {
    for bytes in [&b""[..], b"p", b"p\0\0\0\x10abc"] {
        let error = send(AuthType::Plain, bytes).0.unwrap_err();
        assert!(matches!(error, AuthError::Closed), "{bytes:?}: {error:?}");
        assert_eq!(error.client_facing(), None);
    }
}

#[test]
fn an_answer_may_come_in_single_bytes() {
    block_on(async {
        let list = UserList::parse("\"ann\" \"s3cret\"").unwrap();
        let (mut ours, mut theirs) = duplex(1);
        let login = ClientLogin {
            user: USER,
            auth_type: AuthType::Plain,
            verifier: list.get(USER),
        };
        let (authenticator, mut buf) = (authenticator(), BytesMut::new());
        let slow = async {
            read(&mut theirs).await.unwrap();
            theirs
                .write_all(&password_message(b"s3cret\0"))
                .await
                .unwrap();
        };
        let ours = authenticator.authenticate(&mut ours, &mut buf, login);
        tokio::join!(ours, slow).0.unwrap();
        assert!(buf.is_empty());
    });
}
