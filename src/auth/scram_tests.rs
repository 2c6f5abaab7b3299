#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::*;

const SECRET: [u8; 32] = [7; 32];

/// RFC 7677, section 3.
mod rfc {
    pub(super) const PASSWORD: &[u8] = b"pencil";
    pub(super) const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    pub(super) const NONCE: &[u8] = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    pub(super) const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    pub(super) const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    pub(super) const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO\
        %hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    pub(super) const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
}

fn pencil() -> ScramVerifier {
    ScramVerifier::derive(rfc::PASSWORD, &STANDARD.decode(rfc::SALT).unwrap(), 4096)
}

fn begin<'a>(first: &[u8], verifier: &'a ScramVerifier) -> Result<Exchange<'a>, ScramError> {
    Ok(Exchange::with_nonce(
        &ClientFirst::parse(first)?,
        rfc::NONCE,
        verifier,
    ))
}

#[test]
fn the_rfc_example() {
    let verifier = pencil();
    let exchange = begin(rfc::CLIENT_FIRST, &verifier).unwrap();
    assert_eq!(exchange.server_first(), rfc::SERVER_FIRST.as_bytes());
    let server_final = exchange.finish(rfc::CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(server_final, rfc::SERVER_FINAL.as_bytes());
}

#[test]
fn malformed_first_messages() {
    use ScramError::{Malformed, Unsupported};
    let verifier = pencil();
    for (message, unsupported) in [
        (&b""[..], false),
        (b"n,,n=user,r=abc\0", false),
        (b"p=tls-server-end-point,,n=,r=abc", false),
        (b"x,,n=,r=abc", false),
        (b"n", false),
        (b"n,", false),
        (b"n,,", false),
        (b"n,x,n=,r=abc", false),
        (b"n,a=admin,n=,r=abc", true),
        (b"n,,m=ext,n=,r=abc", true),
        (b"n,,r=abc,n=", false),
        (b"n,,n=", false),
        (b"n,,n=,r=", false),
        (b"n,,n=,r=a\x7Fb", false),
        (b"n,,n=,r=a b", false),
        (b"n,,n=,r=abc,", false),
        (b"n,,n=,r=abc,m=x", false),
        (b"n,,n=,r=abc,1=x", false),
    ] {
        let error = begin(message, &verifier).unwrap_err();
        match error {
            Malformed(_) => assert!(!unsupported, "{message:?}"),
            Unsupported(_) => assert!(unsupported, "{message:?}"),
            ScramError::WrongProof => panic!("{message:?}"),
        }
        let code = error.client_facing().unwrap().code;
        let expected = if unsupported {
            SqlState::FEATURE_NOT_SUPPORTED
        } else {
            SqlState::PROTOCOL_VIOLATION
        };
        assert_eq!(code, expected);
    }
    assert!(begin(b"n,,n=,r=abc,x=ignored", &verifier).is_ok());
    assert!(begin(b"y,,n=anybody,r=abc", &verifier).is_ok());
}

#[test]
fn malformed_final_messages() {
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let verifier = pencil();
    for message in [
        String::new(),
        "c=biws".into(),
        format!("c=biws,p={proof}"),
        format!("r={nonce},p={proof}"),
        format!("c=biws,r={nonce}"),
        format!("c=biws,p={proof},r={nonce}"),
        format!("r={nonce},c=biws,p={proof}"),
        format!("c=biws,r={nonce},m=x,p={proof}"),
        format!("c=biws,r={nonce},p={proof},x=y"),
        format!("c=biws,r={nonce},p={proof},p={proof}"),
        format!("c=biws,r={nonce},p={proof}\0"),
        format!("c=biws,r={nonce},p="),
        format!("c=biws,r={nonce},p=!!!!"),
        format!("c=biws,r={nonce},p=AAAA"),
        format!("c=biws,r={nonce},p={}", proof.trim_end_matches('=')),
        format!("c=eSws,r={nonce},p={proof}"),
        format!("c=,r={nonce},p={proof}"),
        format!("c=biws,r=,p={proof}"),
        format!("c=biws,r={nonce}x,p={proof}"),
        format!("c=biws,r=rOprNGfwEbeRWgbNEkqO,p={proof}"),
        format!("c=biws,r={nonce},,p={proof}"),
    ] {
        let exchange = begin(rfc::CLIENT_FIRST, &verifier).unwrap();
        let error = exchange.finish(message.as_bytes()).unwrap_err();
        assert!(
            matches!(error, ScramError::Malformed(_)),
            "{message}: {error:?}"
        );
    }
    let wrong = rfc::CLIENT_FINAL.replace("p=d", "p=e");
    let exchange = begin(rfc::CLIENT_FIRST, &verifier).unwrap();
    assert_eq!(
        exchange.finish(wrong.as_bytes()),
        Err(ScramError::WrongProof)
    );
}

#[test]
fn unknown_users_look_like_others() {
    let mock = ScramVerifier::mock(&SECRET, "nobody");
    assert!(mock == ScramVerifier::mock(&SECRET, "nobody"));
    let (salt, iterations) = mock.parameters();
    let real = ScramVerifier::derive(
        b"x",
        &ScramVerifier::salt_for(&SECRET, "nobody"),
        iterations,
    );
    assert_eq!((salt, iterations), real.parameters());
    assert_eq!((salt.len(), iterations), (16, 4096));
    assert_ne!(salt, ScramVerifier::mock(&SECRET, "other").parameters().0);
    assert_ne!(salt, ScramVerifier::mock(&[8; 32], "nobody").parameters().0);
    let (mock, real) = (
        begin(rfc::CLIENT_FIRST, &mock),
        begin(rfc::CLIENT_FIRST, &real),
    );
    assert_eq!(mock.unwrap().server_first(), real.unwrap().server_first());
}

#[test]
fn stored_secrets_are_postgresqls() {
    let text = postgres_protocol::password::scram_sha_256(b"pencil");
    let stored = ScramVerifier::parse(&text).unwrap();
    let (salt, iterations) = stored.parameters();
    assert!(ScramVerifier::derive(b"pencil", salt, iterations).fits(&stored));
    assert!(!ScramVerifier::derive(b"pencil ", salt, iterations).fits(&stored));
}

/// One whole login of the client library against us.
fn login(verifier: &ScramVerifier, password: &[u8]) -> Result<(), ScramError> {
    let mut client = ScramSha256::new(password, ChannelBinding::unsupported());
    let exchange = Exchange::begin(client.message(), &[1; NONCE_BYTES], verifier)?;
    client.update(exchange.server_first()).unwrap();
    let server_final = exchange.finish(client.message())?;
    client.finish(&server_final).unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_right_password_passes_and_a_wrong_one_does_not(
        password in prop::collection::vec(any::<u8>(), 1..20),
        wrong in prop::collection::vec(any::<u8>(), 1..20),
        salt in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let verifier = ScramVerifier::derive(&password, &salt, 3);
        prop_assert_eq!(login(&verifier, &password), Ok(()));
        if normalize(&wrong) != normalize(&password) {
            prop_assert_eq!(login(&verifier, &wrong), Err(ScramError::WrongProof));
        }
        let mut mock = ScramVerifier::mock(&SECRET, "nobody");
        mock.iterations = 3;
        prop_assert_eq!(login(&mock, &password), Err(ScramError::WrongProof));
    }

    #[test]
    fn any_bytes_are_judged_without_panic(
        first in "[nyp,=ramc\0b/+]{0,30}", last in "[crpm=,biwsA]{0,40}",
    ) {
        let verifier = ScramVerifier::mock(&SECRET, "u");
        let _ = begin(first.as_bytes(), &verifier);
        let exchange = begin(rfc::CLIENT_FIRST, &verifier).unwrap();
        prop_assert!(exchange.finish(last.as_bytes()).is_err());
    }
}
