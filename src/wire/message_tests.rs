#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashMap;

use postgres_protocol::message::backend::Message;
use proptest::prelude::*;

use super::*;

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}

/// Takes the one message that `write` appended apart again.
fn taken(write: impl FnOnce(&mut BytesMut)) -> RawMessage {
    let mut out = written(write);
    let message = RawMessage::take(&mut out, 1000).unwrap().unwrap();
    assert!(out.is_empty());
    message
}

#[test]
fn messages_are_taken_whole_and_the_rest_stays() {
    let mut stream = written(|out| command_complete("SHOW", out));
    ready_for_query(TxStatus::Idle, &mut stream);
    for end in 0..10 {
        let mut part = BytesMut::from(&stream[..end]);
        assert_eq!(RawMessage::take(&mut part, 100), Ok(None));
        assert_eq!(part.len(), end);
    }
    let first = RawMessage::take(&mut stream, 100).unwrap().unwrap();
    assert_eq!((first.tag, &first.body[..]), (b'C', &b"SHOW\0"[..]));
    assert_eq!(
        written(|out| first.encode(out)),
        written(|out| command_complete("SHOW", out))
    );
    assert_eq!(&stream[..], b"Z\0\0\0\x05I");
}

#[test]
fn a_length_over_the_limit_is_refused_at_its_header() {
    for (length, good) in [
        (0, false),
        (3, false),
        (4, true),
        (104, true),
        (105, false),
        (1 << 31, false),
        (u32::MAX, false),
    ] {
        let mut header = BytesMut::from(&b"p"[..]);
        header.put_u32(length);
        let result = RawMessage::take(&mut header, 100);
        assert_eq!(result.is_ok(), good, "{length}");
        if !good {
            assert_eq!(result, Err(MessageError::Length { tag: b'p', length }));
        }
    }
}

#[test]
fn authentication_reads_as_it_was_written() {
    for authentication in [
        Authentication::Ok,
        Authentication::CleartextPassword,
        Authentication::Md5Password { salt: [1, 2, 0, 4] },
        Authentication::Sasl(vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()]),
        Authentication::Sasl(vec![]),
        Authentication::SaslContinue("r=abc,s=,i=1".into()),
        Authentication::SaslFinal("v=abc".into()),
        Authentication::Unsupported(7),
    ] {
        let message = taken(|out| authentication.encode(out));
        assert_eq!(message.tag, b'R');
        assert_eq!(Authentication::parse(message.body).unwrap(), authentication);
    }
}

#[test]
fn malformed_bodies_are_errors() {
    for body in [
        &b""[..],
        b"\0\0\0",
        b"\0\0\0\0x",
        b"\0\0\0\x05abc",
        b"\0\0\0\x05abcde",
        b"\0\0\0\x0A",
        b"\0\0\0\x0ASCRAM\0",
        b"\0\0\0\x0ASCRAM",
        b"\0\0\0\x0Aa\0\0b\0\0",
    ] {
        let result = Authentication::parse(Bytes::from_static(body));
        assert_eq!(result, Err(MessageError::Malformed(b'R')), "{body:?}");
    }
    for body in [&b""[..], b"\0\0\0\x01", b"\0\0\0\x01abc", &[0; 261]] {
        let result = BackendKey::parse(Bytes::from_static(body));
        assert_eq!(result, Err(MessageError::Malformed(b'K')), "{body:?}");
    }
    for body in [
        &b""[..],
        b"\0",
        b"name\0value",
        b"name\0value\0x\0",
        b"name\0value\0\0",
    ] {
        let result = parse_parameter_status(&Bytes::from_static(body));
        assert_eq!(result, Err(MessageError::Malformed(b'S')), "{body:?}");
    }
    for body in [&b""[..], b"X", b"II"] {
        let result = parse_ready_for_query(body);
        assert_eq!(result, Err(MessageError::Malformed(b'Z')), "{body:?}");
    }
}

#[test]
fn keys_and_parameters_read_as_they_were_written_and_keys_stay_secret() {
    let key = BackendKey {
        pid: 4711,
        key: vec![0xAB; 32].into(),
    };
    assert_eq!(
        BackendKey::parse(taken(|out| key.encode(out)).body).unwrap(),
        key
    );
    assert_eq!(format!("{key:?}"), "BackendKey { pid: 4711, .. }");
    let message = taken(|out| parameter_status(b"TimeZone", b"\xFF", out));
    let pair = parse_parameter_status(&message.body).unwrap();
    assert_eq!(pair, (Bytes::from("TimeZone"), Bytes::from_static(b"\xFF")));
    assert!(written(|out| parameter_status(b"a", b"b\0c", out)).is_empty());
}

#[test]
fn negotiation_names_version_and_options() {
    let options = [Bytes::from_static(b"_pq_.foo")];
    let out = written(|out| negotiate_protocol_version(ProtocolVersion::V3_2, &options, out));
    assert_eq!(&out[..], b"v\0\0\0\x15\0\x03\0\x02\0\0\0\x01_pq_.foo\0");
}

/// An independent implementation understands the console's answers.
#[test]
fn a_client_library_reads_our_answers() {
    use tokio_postgres::fallible_iterator::FallibleIterator as _;
    let mut out = written(|out| {
        row_description(
            &[("name", ColumnType::Text), ("count", ColumnType::Int8)],
            out,
        );
        data_row(&[Some("x"), None], out);
        parameter_description(&[25], out);
        bare(tag::EMPTY_QUERY, out);
        command_complete("SHOW", out);
        ready_for_query(TxStatus::Failed, out);
    });
    let mut next = || Message::parse(&mut out).unwrap().unwrap();
    let Message::RowDescription(row) = next() else {
        panic!()
    };
    let types: HashMap<_, _> = row
        .fields()
        .map(|f| Ok((f.name().to_owned(), f.type_oid())))
        .collect()
        .unwrap();
    assert_eq!(
        types,
        HashMap::from([("name".into(), 25), ("count".into(), 20)])
    );
    let Message::DataRow(row) = next() else {
        panic!()
    };
    assert_eq!(row.ranges().collect::<Vec<_>>().unwrap().len(), 2);
    assert!(matches!(next(), Message::ParameterDescription(_)));
    assert!(matches!(next(), Message::EmptyQueryResponse));
    let Message::CommandComplete(complete) = next() else {
        panic!()
    };
    assert_eq!(complete.tag().unwrap(), "SHOW");
    let Message::ReadyForQuery(ready) = next() else {
        panic!()
    };
    assert_eq!(ready.status(), b'E');
}

proptest! {
    #[test]
    fn any_body_is_judged_without_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let body = Bytes::from(body);
        let _ = Authentication::parse(body.clone());
        let _ = BackendKey::parse(body.clone());
        let _ = parse_parameter_status(&body);
        let _ = parse_ready_for_query(&body);
        let _ = RawMessage::take(&mut BytesMut::from(&body[..]), 100);
    }
}
