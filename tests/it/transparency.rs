//! The same bytes sent to PostgreSQL and through the pooler: the same answers, message by message.

mod random;
mod scripts;
mod startup;
mod streams;

use crate::front::{node, plain_front};
use crate::harness::bounce::{Bounce, Weather};
use crate::harness::client::{DATABASE, Login, SUPERUSER};
use crate::harness::raw::{Message, RawConn, printable, trace};

use scripts::Script;
use scripts::Step::{End, HalfClose, Ready, Send, Until};

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segments {
    /// A write for each step.
    Steps,
    /// All that is sent, at once, before anything is read.
    One,
}

async fn play(port: u16, login: Login, script: &Script, segments: Segments) -> Vec<Message> {
    let (mut conn, hello) = RawConn::login(port, login, DATABASE).await;
    assert_eq!(
        hello.last().map(|m| m.tag),
        Some(b'Z'),
        "{}: {}",
        script.name,
        trace(&hello)
    );
    let mut answers = Vec::new();
    if segments == Segments::One {
        let all = script.steps.iter().filter_map(|step| match step {
            Send(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        conn.send(&all.collect::<Vec<_>>().concat()).await;
    }
    for step in &script.steps {
        match step {
            Send(bytes) if segments == Segments::Steps => conn.send(bytes).await,
            Send(_) => {}
            Ready(count) => answers.extend(conn.read_until_ready(*count).await),
            Until(tag) => answers.extend(conn.read_until(*tag).await),
            End => answers.extend(conn.read_to_end().await),
            HalfClose => conn.half_close().await,
        }
    }
    answers.into_iter().map(masked).collect()
}

/// Without what must differ between two sessions.
fn masked(mut message: Message) -> Message {
    match message.tag {
        b'K' => message.body.fill(0),
        // The sender's process id.
        b'A' => message.body[..4].fill(0),
        _ => {}
    }
    message
}

async fn same_answers(scripts: Vec<Script>) {
    let direct = node().await.port();
    let proxy = plain_front().await;
    let crumbs = Bounce::to(proxy.port()).await;
    crumbs.set(Weather::Crumbs);
    for script in scripts {
        let wanted = play(direct, SUPERUSER, &script, Segments::Steps).await;
        assert_eq!(
            trace(&wanted),
            script.expected,
            "PostgreSQL itself: {}",
            script.name
        );
        for (way, port) in [("whole", proxy.port()), ("byte by byte", crumbs.port())] {
            let got = play(port, SUPERUSER, &script, Segments::Steps).await;
            assert_same(&format!("{}, {way}", script.name), &wanted, &got);
        }
        let wanted = play(direct, SUPERUSER, &script, Segments::One).await;
        let got = play(proxy.port(), SUPERUSER, &script, Segments::One).await;
        assert_same(&format!("{}, in one segment", script.name), &wanted, &got);
    }
}

fn assert_same(what: &str, wanted: &[Message], got: &[Message]) {
    assert_eq!(trace(got), trace(wanted), "{what}");
    for (wanted, got) in wanted.iter().zip(got) {
        assert_eq!(
            printable(&got.body),
            printable(&wanted.body),
            "{what}: {}",
            wanted.short()
        );
    }
}

#[tokio::test]
async fn pipelines_are_answered_as_by_postgresql() {
    same_answers(scripts::pipelines()).await;
}

#[tokio::test]
async fn simple_queries_are_answered_as_by_postgresql() {
    same_answers(scripts::simple_queries()).await;
}

#[tokio::test]
async fn copies_are_answered_as_by_postgresql() {
    same_answers(scripts::copies()).await;
}

#[tokio::test]
async fn connections_end_as_with_postgresql() {
    same_answers(scripts::ends()).await;
}

/// PostgreSQL closes without a word: it knows how long each message may be. We do not, so the
/// client may be told that its server hung up; but only once, and then it is over.
#[tokio::test]
async fn a_message_too_long_ends_the_connection() {
    let proxy = plain_front().await;
    for (tag, length) in [(b'Q', 0x7FFF_FFFF_u32), (b'S', 20_000), (b'P', 0x4000_0000)] {
        let (mut conn, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&length.to_be_bytes());
        conn.send(&bytes).await;
        let end = trace(&conn.read_to_end().await);
        assert!(["", "E:08006", "E:08007"].contains(&end.as_str()), "{end}");
        let (mut other, _) = RawConn::login(proxy.port(), SUPERUSER, DATABASE).await;
        assert_eq!(other.query("SELECT 1").await, "T D C ZI");
    }
}
