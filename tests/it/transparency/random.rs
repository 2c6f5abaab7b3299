//! Conversations that nobody thought of: random messages, cut into random segments, answered by
//! PostgreSQL and through the pooler.

use crate::front::{node, plain_front};
use crate::harness::client::{DATABASE, SUPERUSER};
use crate::harness::eventually;
use crate::harness::proxy::Proxy;
use crate::harness::raw::{
    Message, RawConn, bind, close, describe, execute, flush, message, parse, query, sync,
    terminate, trace,
};

use super::{assert_same, masked};

const SEEDS: u64 = 150;
const MESSAGES: usize = 14;
/// The last answer of each conversation.
const LAST_WORD: &str = "that-was-all";

struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// 0 to `sides` - 1.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    fn message(&mut self) -> Vec<u8> {
        let sql = &[
            "SELECT 1",
            "SELECT 1/0",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "COPY t FROM STDIN",
            "COPY (SELECT 1) TO STDOUT",
            "nonsense",
            "",
            "INSERT INTO t VALUES (1)",
            "SET LOCAL TimeZone = 'Europe/Paris'",
            "DISCARD ALL; CREATE TEMP TABLE t (a int)",
        ];
        let several = &[
            "SELECT 1; SELECT 2",
            "COPY t FROM STDIN; SELECT 3",
            "BEGIN; SELECT 1/0; COMMIT",
        ];
        match self.roll(16) {
            0..4 => query(self.pick(sql)),
            4 => query(self.pick(several)),
            5 | 6 => [
                parse("", self.pick(sql)),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
            7 => [parse("", self.pick(sql)), bind("", "", &[]), execute("", 1)].concat(),
            8 => parse("", self.pick(sql)),
            9 | 10 => sync(),
            11 => flush(),
            12 => [describe(b'S', ""), close(b'P', "")].concat(),
            13 => message(b'd', self.pick(&["1\n", "x\n", "1\n2\n"]).as_bytes()),
            14 => self.pick_copy_end(),
            _ => message(b'F', &[0, 0, 0, 89, 0, 0, 0, 0, 0, 0]),
        }
    }

    fn pick_copy_end(&mut self) -> Vec<u8> {
        if self.roll(2) == 0 {
            message(b'c', b"")
        } else {
            message(b'f', b"no\0")
        }
    }
}

/// The messages of one conversation. Its end brings any state to one that answers.
fn conversation(seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = query("CREATE TEMP TABLE t (a int)");
    for _ in 0..MESSAGES {
        bytes.extend(dice.message());
    }
    bytes.extend([message(b'f', b"end\0"), sync()].concat().repeat(2));
    bytes.extend(query("ROLLBACK"));
    bytes.extend(query(&format!("SELECT '{LAST_WORD}'")));
    bytes
}

/// Sends the conversation in random segments and reads to its last word, or the end.
async fn hold(port: u16, seed: u64) -> Vec<Message> {
    let (mut conn, _) = RawConn::login(port, SUPERUSER, DATABASE).await;
    let bytes = conversation(seed);
    let mut dice = Dice::new(seed ^ u64::from(port));
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (segment, later) = rest.split_at((1 + dice.roll(120)).min(rest.len()));
        if conn.try_send(segment).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        rest = later;
    }
    let mut answers = Vec::new();
    while let Some(answer) = conn.read().await {
        let last = answer.tag == b'D' && answer.body.ends_with(LAST_WORD.as_bytes());
        answers.push(masked(answer));
        if last {
            answers.extend(conn.read_until_ready(1).await);
            break;
        }
    }
    // The server may have closed already.
    let _ = conn.try_send(&terminate()).await;
    answers
}

fn is_whole(answers: &[Message]) -> bool {
    answers
        .iter()
        .any(|m| m.tag == b'D' && m.body.ends_with(LAST_WORD.as_bytes()))
}

#[tokio::test]
async fn random_conversations_are_answered_as_by_postgresql() {
    let direct = node().await.port();
    let proxy = plain_front().await;
    let mut whole = 0;
    for seed in 0..SEEDS {
        let (wanted, got) = tokio::join!(hold(direct, seed), hold(proxy.port(), seed));
        if is_whole(&wanted) {
            assert_same(&format!("seed {seed}"), &wanted, &got);
            whole += 1;
        } else {
            // A server that closes with bytes unread resets the connection, and its last words may
            // be lost with it.
            let wanted_end = wanted.iter().filter(|m| m.tag != b'E').count();
            let common = wanted_end.min(got.len());
            assert_eq!(
                trace(&got[..common]),
                trace(&wanted[..common]),
                "seed {seed}"
            );
        }
    }
    assert!(
        whole > SEEDS / 2,
        "{whole} whole conversations prove little"
    );
    all_idle(&proxy).await;
}

/// Every client has left: no server may be stuck with a session.
async fn all_idle(proxy: &Proxy) {
    eventually("no server is in use", async || {
        let rows = proxy.admin("SHOW SERVERS").await.unwrap();
        rows.iter().all(|row| row["state"] == "idle")
    })
    .await;
}
