#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;

fn packet(code: u32, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(8 + body.len() as u32);
    out.put_u32(code);
    out.put_slice(body);
    out
}

fn take(mut bytes: BytesMut) -> Result<Option<FirstPacket>, StartupError> {
    FirstPacket::take(&mut bytes, EncryptionOffer::FRESH)
}

fn startup(body: &[u8]) -> Result<StartupMessage, StartupError> {
    match take(packet(ProtocolVersion::V3_0.code(), body))? {
        Some(FirstPacket::Startup(message)) => Ok(message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_for_encryption_count_once() {
    let none = EncryptionOffer::ENCRYPTED;
    for (code, minor, first) in [
        (SSL_REQUEST, 5679, FirstPacket::SslRequest),
        (GSSENC_REQUEST, 5680, FirstPacket::GssEncRequest),
    ] {
        assert_eq!(take(packet(code, b"")), Ok(Some(first)));
        let error = FirstPacket::take(&mut packet(code, b""), none).unwrap_err();
        assert_eq!(
            error,
            StartupError::Protocol(ProtocolVersion { major: 1234, minor })
        );
        let answer = error.client_facing().unwrap();
        assert_eq!(answer.code, SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(
            answer.message,
            format!("unsupported frontend protocol 1234.{minor}: server supports 3.0 to 3.2")
        );
    }
}

#[test]
fn nothing_may_follow_a_request_before_its_answer() {
    for (code, request) in [
        (SSL_REQUEST, "SSL request"),
        (GSSENC_REQUEST, "GSSAPI encryption request"),
    ] {
        for behind in [
            &b"X"[..],
            &packet(ProtocolVersion::V3_0.code(), b"user\0admin\0\0"),
        ] {
            let mut bytes = packet(code, b"");
            bytes.put_slice(behind);
            let error = take(bytes).unwrap_err();
            assert_eq!(error, StartupError::Unencrypted(request));
            let answer = error.client_facing().unwrap();
            assert_eq!(answer.code, SqlState::PROTOCOL_VIOLATION);
            assert_eq!(
                answer.message,
                format!("received unencrypted data after {request}")
            );
        }
    }
}

#[test]
fn lengths_out_of_range_are_closed_without_a_word() {
    for first_bytes in [
        &b"\0\0\0\x04"[..],
        b"\0\0\0\0",
        b"\0\0\0\x07",
        b"\0\0\x27\x15\0\x03\0\0", // 10 005
        b"GET / HTTP/1.1\r\n",
        b"p\0\0\0\x06x\0",
        b"Q\0\0\0\x04",
        b"\x16\x03\x01\x02\0", // a TLS hello where none is expected
        b"\xFF\xFF\xFF\xFF",
    ] {
        let error = take(BytesMut::from(first_bytes)).unwrap_err();
        assert_eq!(error, StartupError::Length, "{first_bytes:?}");
        let mut answer = BytesMut::new();
        error.encode_answer(&mut answer);
        assert!(answer.is_empty());
    }
}

#[test]
fn the_longest_packet_is_taken() {
    let mut body = b"user\0".to_vec();
    body.resize(MAX_STARTUP_PACKET - 4 - 2, b'x');
    body.extend_from_slice(b"\0\0");
    assert_eq!(
        startup(&body).unwrap().user.len(),
        MAX_STARTUP_PACKET - 4 - 2 - 5
    );
    body.insert(5, b'x');
    assert_eq!(startup(&body), Err(StartupError::Length));
}

#[test]
fn incomplete_packets_wait_at_every_byte() {
    let whole = packet(ProtocolVersion::V3_0.code(), b"user\0u\0\0");
    for end in 0..whole.len() {
        let mut part = BytesMut::from(&whole[..end]);
        assert_eq!(
            FirstPacket::take(&mut part, EncryptionOffer::FRESH),
            Ok(None)
        );
        assert_eq!(part.len(), end);
    }
    assert!(take(whole).unwrap().is_some());
}

#[test]
fn parameters_keep_order_and_bytes() {
    let message =
        startup(b"user\0\xFFme\0_pq_.foo\x001\0options\0-c a=1\\ s\0user\0you\0x\0\0\0").unwrap();
    let pairs: Vec<_> = message
        .params
        .iter()
        .map(|(n, v)| (&n[..], &v[..]))
        .collect();
    let expected: [(&[u8], &[u8]); 4] = [
        (b"user", b"\xFFme"),
        (b"options", b"-c a=1\\ s"),
        (b"user", b"you"),
        (b"x", b""),
    ];
    assert_eq!(pairs, expected);
    assert_eq!(&message.user[..], b"you");
    assert_eq!(&message.database[..], b"you");
    assert_eq!(message.protocol_options, [Bytes::from_static(b"_pq_.foo")]);
    assert_eq!(message.negotiated(), Some(ProtocolVersion::V3_0));
}

#[test]
fn layout_and_user_are_checked_as_postgresql_does() {
    use StartupError::{Layout, NoUser};
    let cases: &[(&[u8], StartupError)] = &[
        (b"", Layout),
        (b"user\0u\0", Layout),
        (b"user\0u", Layout),
        (b"user\0", Layout),
        (b"user", Layout),
        (b"user\0u\0\0x", Layout),
        (b"user\0u\0\0\0", Layout),
        (b"\0", NoUser),
        (b"user\0\0\0", NoUser),
        (b"database\0d\0\0", NoUser),
    ];
    for (body, expected) in cases {
        assert_eq!(startup(body).as_ref(), Err(expected), "{body:?}");
    }
    assert_eq!(
        Layout.client_facing().unwrap().code,
        SqlState::PROTOCOL_VIOLATION
    );
    assert_eq!(
        NoUser.client_facing().unwrap().code,
        SqlState::INVALID_AUTHORIZATION
    );
    assert_eq!(
        &startup(b"user\0u\0database\0\0\0").unwrap().database[..],
        b"u"
    );
}

#[test]
fn other_protocols_are_refused_in_their_own_format() {
    for (code, v2) in [(2 << 16, true), (4 << 16, false), (0, true)] {
        let error = take(packet(code, b"user\0u\0\0")).unwrap_err();
        let mut answer = BytesMut::new();
        error.encode_answer(&mut answer);
        assert_eq!(
            answer.starts_with(b"EFATAL:  unsupported frontend protocol"),
            v2
        );
        assert!(v2 || answer.windows(6).any(|w| w == b"C0A000"));
    }
}

#[test]
fn newer_minor_versions_are_negotiated_down() {
    let body = b"user\0u\0\0";
    for (minor, negotiated) in [(0, None), (2, None), (9999, Some(ProtocolVersion::V3_2))] {
        let code = ProtocolVersion { major: 3, minor }.code();
        let Ok(Some(FirstPacket::Startup(message))) = take(packet(code, body)) else {
            panic!("not taken");
        };
        assert_eq!(message.negotiated(), negotiated);
    }
}

#[test]
fn cancel_keys_have_one_to_256_bytes() {
    for (key, good) in [
        (0, false),
        (1, true),
        (4, true),
        (32, true),
        (256, true),
        (257, false),
    ] {
        let mut body = 7_u32.to_be_bytes().to_vec();
        body.resize(4 + key, 0xAB);
        let taken = take(packet(CANCEL_REQUEST, &body));
        if good {
            let Ok(Some(FirstPacket::Cancel(request))) = taken else {
                panic!("{taken:?}");
            };
            let mut again = BytesMut::new();
            request.encode(&mut again);
            assert_eq!(again, packet(CANCEL_REQUEST, &body));
            assert!(
                !format!("{request:?}").contains("AB"),
                "the key shows in Debug"
            );
        } else {
            assert_eq!(taken, Err(StartupError::CancelLength));
        }
    }
    assert_eq!(
        take(packet(CANCEL_REQUEST, b"ab")),
        Err(StartupError::CancelLength)
    );
}

#[test]
fn startup_packets_that_would_end_early_are_not_written() {
    let mut out = BytesMut::from("before");
    for pair in [(&b""[..], &b"v"[..]), (b"n\0", b"v"), (b"n", b"v\0x")] {
        let result = encode_startup(ProtocolVersion::V3_0, [pair], &mut out);
        assert_eq!(result, Err(StartupError::Layout));
    }
    let long = vec![b'x'; MAX_STARTUP_PACKET];
    let result = encode_startup(ProtocolVersion::V3_0, [(&b"n"[..], &long[..])], &mut out);
    assert_eq!(result, Err(StartupError::Length));
    assert_eq!(&out[..], b"before");
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut long = packet(ProtocolVersion::V3_0.code(), &bytes);
        let _ = FirstPacket::take(&mut long, EncryptionOffer::FRESH);
        let _ = take(BytesMut::from(&bytes[..]));
    }

    #[test]
    fn what_is_written_reads_the_same(
        pairs in prop::collection::vec(("[a-z]{1,8}", "[^\0]{0,20}"), 0..8)
    ) {
        let mut out = BytesMut::new();
        let mut expected = vec![(Bytes::from_static(b"user"), Bytes::from_static(b"u"))];
        expected.extend(pairs.into_iter().map(|(n, v)| (Bytes::from(format!("x{n}")), Bytes::from(v))));
        let params = expected.iter().map(|(n, v)| (&n[..], &v[..]));
        encode_startup(ProtocolVersion::V3_0, params, &mut out).unwrap();
        let Ok(Some(FirstPacket::Startup(message))) = take(out) else {
            panic!("not taken");
        };
        prop_assert_eq!(message.params, expected);
    }
}
