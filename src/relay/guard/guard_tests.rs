#![allow(clippy::indexing_slicing, reason = "a test may panic")]

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{Guard, LEFT, Next};
use crate::wire::frame::Frame;
use crate::wire::message::{parameter_status, write_message};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    write_message(tag, &mut out, |all| all.extend_from_slice(body));
    out.to_vec()
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// All that comes out, and whether the guard gave up.
fn drain(guard: &mut Guard) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    loop {
        match guard.next() {
            Next::Forward(bytes) => out.extend_from_slice(&bytes),
            Next::Starved => return (out, false),
            Next::GiveUp => return (out, true),
        }
    }
}

fn sent(messages: &[Vec<u8>]) -> (Vec<u8>, Guard) {
    let mut guard = Guard::new(&Bytes::new());
    guard.push(&messages.concat());
    let (out, gave_up) = drain(&mut guard);
    assert!(!gave_up);
    (out, guard)
}

/// Is what comes out what went in?
fn passes(messages: &[Vec<u8>]) -> bool {
    let (out, mut guard) = sent(messages);
    let same = out == messages.concat();
    assert_eq!(same, guard.take_words().is_none(), "{messages:?}");
    same
}

#[test]
fn a_refused_statement_is_replaced_by_one_that_the_server_refuses() {
    let (out, mut guard) = sent(&[query("DO $$ $$"), query("SELECT 1")]);
    let stand_in = query("SELECT FROM pg_catalog.pg_class WHERE false FOR UPDATE");
    assert_eq!(out, [stand_in, query("SELECT 1")].concat());
    let words = guard.take_words().unwrap_or_default();
    assert_eq!(words[0], b'N');
    let words = String::from_utf8_lossy(&words).into_owned();
    assert!(
        words.contains("refused on a read-only route: DO"),
        "{words}"
    );
    assert!(guard.take_words().is_none());
}

#[test]
fn a_refused_parse_keeps_its_name_its_types_and_its_parameters() {
    let body = b"s1\0SELECT set_config($1, $2, false)\0\0\x01\0\0\0\x19";
    let (out, _) = sent(&[message(b'P', body)]);
    let stand_in = b"s1\0SELECT FROM pg_catalog.pg_class WHERE false \
        AND $1::text IS NULL AND $2::text IS NULL FOR UPDATE\0\0\x01\0\0\0\x19";
    assert_eq!(out, message(b'P', stand_in));
}

#[test]
fn the_fast_path_and_a_huge_statement_are_replaced() {
    let (out, _) = sent(&[message(b'F', b"\0\0\x03\xb9rest"), sync()]);
    assert_eq!(out[0], b'Q');
    assert!(out.ends_with(&sync()));
    let huge = format!("SELECT '{}'", "x".repeat(2 << 20));
    let (out, _) = sent(&[query(&huge), query("SELECT 1")]);
    assert!(out.len() < 200 && out.ends_with(&query("SELECT 1")));
    let (out, _) = sent(&[parse("s1", &huge), bind("", "s1")]);
    assert!(out.starts_with(&parse(
        "s1",
        "SELECT FROM pg_catalog.pg_class WHERE false FOR UPDATE"
    )));
    assert!(out.ends_with(&bind("", "s1")));
}

#[test]
fn nothing_comes_behind_the_end_of_a_transaction_without_a_sync() {
    let commit = [parse("c", "COMMIT"), bind("", "c"), execute("")];
    let insert = [parse("", "INSERT"), bind("", ""), execute("")];
    let with = |parts: &[&[Vec<u8>]]| parts.concat();
    assert!(passes(&with(&[&commit, &[sync()], &insert, &[sync()]])));
    assert!(!passes(&with(&[&commit, &insert, &[sync()]])));
    assert!(!passes(&with(&[&commit, &[execute("other")]])));
    // The portal outlives a Sync within a transaction.
    let bound = [
        parse("c", "COMMIT"),
        bind("", "c"),
        sync(),
        execute("f"),
        execute(""),
    ];
    assert!(passes(&bound));
    assert!(!passes(&with(&[&bound, &insert])));
    assert!(
        !passes(&[parse("c", "COMMIT"), bind("p", "c")]),
        "it could be executed at any time"
    );
    // A Parse that may be skipped behind an error does not make it another statement.
    let skipped = [
        parse("", "COMMIT"),
        sync(),
        parse("x", "nonsense"),
        parse("", "SELECT 1"),
        sync(),
        bind("", ""),
        execute(""),
    ];
    assert!(!passes(&with(&[&skipped, &insert])));
}

#[test]
fn a_query_within_a_group_cannot_be_followed() {
    for first in [parse("", "SELECT 1"), message(b'H', b"")] {
        let mut guard = Guard::new(&Bytes::new());
        guard.push(&[first.clone(), query("SELECT 1")].concat());
        assert_eq!(drain(&mut guard), (first, true));
    }
    // What a client sends of a COPY that was refused is no group.
    assert!(passes(&[
        message(b'd', b"1\n"),
        message(b'c', b""),
        query("SELECT 1")
    ]));
}

fn status(name: &str, value: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    parameter_status(name.as_bytes(), value.as_bytes(), &mut out);
    out.to_vec()
}

fn hears(guard: &mut Guard, body: &[u8], at_hand: usize) {
    guard.server_sent(&Frame {
        tag: b'S',
        body_len: body.len() as u32,
        head: &body[..at_hand],
    });
}

#[test]
fn the_server_tells_when_the_session_has_left_read_only_mode() {
    let mut guard = Guard::new(&Bytes::new());
    for other in [&b"default_transaction_read_only\0on\0"[..], b"x\0off\0"] {
        hears(&mut guard, other, other.len());
    }
    assert!(!guard.has_left());
    for at_hand in [LEFT.len(), 3, 0] {
        let mut guard = Guard::new(&Bytes::new());
        hears(&mut guard, LEFT, at_hand);
        assert!(guard.has_left(), "{at_hand}");
    }
}

#[test]
fn what_the_server_said_at_login_decides_how_a_text_is_read() {
    let refuses = |name: &str, value: &str, text: &str| {
        let mut guard = Guard::new(&Bytes::from(status(name, value)));
        guard.push(&query(text));
        drain(&mut guard).0 != query(text)
    };
    assert!(!refuses("client_encoding", "UTF8", "SELECT 'é'"));
    assert!(refuses("client_encoding", "SJIS", "SELECT 'é'"));
    assert!(!refuses("standard_conforming_strings", "on", "SELECT '\\'"));
    assert!(refuses("standard_conforming_strings", "off", "SELECT '\\'"));
    let mut guard = Guard::new(&Bytes::new());
    let cut = b"client_encoding\0SJIS\0";
    hears(&mut guard, cut, 4);
    guard.push(&query("SELECT 'é'"));
    assert_ne!(drain(&mut guard).0, query("SELECT 'é'"), "in doubt");
}

proptest! {
    /// However it is cut, the same comes out.
    #[test]
    fn chunks_do_not_matter(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let messages = [
            query("SELECT 1"),
            query("DO $$ $$"),
            parse("a", "SELECT $1"),
            bind("", "a"),
            message(b'D', b"S a\0"),
            execute(""),
            sync(),
            message(b'F', b"xxxx"),
            parse("b", "SET TRANSACTION READ WRITE"),
            sync(),
            message(b'd', &[7; 300]),
            message(b'X', b""),
        ];
        let stream = messages.concat();
        let (expected, _) = sent(&messages);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let mut guard = Guard::new(&Bytes::new());
        let (mut out, mut from) = (Vec::new(), 0);
        for to in cuts.into_iter().chain([stream.len()]) {
            guard.push(&stream[from..to]);
            out.extend_from_slice(&drain(&mut guard).0);
            from = to;
        }
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn no_bytes_of_a_client_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut guard = Guard::new(&Bytes::new());
        guard.push(&bytes);
        for _ in 0..300 {
            if guard.next() == Next::Starved {
                break;
            }
        }
        let mut text = b"Q\0\0".to_vec();
        text.extend_from_slice(&(bytes.len() as u16 + 4).to_be_bytes());
        text.extend_from_slice(&bytes);
        let mut guard = Guard::new(&Bytes::new());
        guard.push(&text);
        prop_assert!(guard.next() != Next::GiveUp);
    }
}
