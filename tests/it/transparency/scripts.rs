//! Conversations, and what PostgreSQL answers.

#![allow(clippy::too_many_lines, reason = "tables")]

use crate::harness::raw::{
    bind, close, describe, execute, flush, message, parse, query, sync, terminate,
};

use Step::{End, HalfClose, Ready, Send, Until};

/// One step of a conversation.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Send(Vec<u8>),
    /// Read up to the n-th ReadyForQuery.
    Ready(usize),
    /// Read up to a message of this type.
    Until(u8),
    /// Read up to the end of the connection.
    End,
    HalfClose,
}

/// A conversation after login.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Step>,
    /// What PostgreSQL 15 answers: shows that the script does what its name says.
    pub(super) expected: &'static str,
}

fn script(name: &'static str, steps: Vec<Step>, expected: &'static str) -> Script {
    Script {
        name,
        steps,
        expected,
    }
}

/// Parse, Bind and Execute of an unnamed statement.
fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

fn q(sql: &str) -> Step {
    Send(query(sql))
}

fn copy_data(text: &str) -> Vec<u8> {
    message(b'd', text.as_bytes())
}

fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

pub(super) fn pipelines() -> Vec<Script> {
    let division = || [extended("SELECT 1/0"), sync()].concat();
    let one = || [extended("SELECT 1"), sync()].concat();
    vec![
        script(
            "pipeline, a Sync each, the second fails",
            vec![Send(one()), Send(division()), Send(one()), Ready(3)],
            "1 2 D C ZI 1 E:22012 ZI 1 2 D C ZI",
        ),
        script(
            "one Sync, error in the middle",
            vec![
                Send(extended("SELECT 1")),
                Send(extended("SELECT 1/0")),
                Send(extended("SELECT 2")),
                Send(sync()),
                Ready(1),
            ],
            "1 2 D C 1 E:22012 ZI",
        ),
        script(
            "an implicit transaction is rolled back",
            vec![
                q("CREATE TEMP TABLE t (a int)"),
                Ready(1),
                Send(extended("INSERT INTO t VALUES (1)")),
                Send(division()),
                Ready(1),
                q("SELECT count(*) FROM t"),
                Ready(1),
            ],
            "C ZI 1 2 C 1 E:22012 ZI T D C ZI",
        ),
        script(
            "a bad Parse without Sync is answered at once",
            vec![
                Send(parse("", "SELECT nonsense syntax here")),
                Until(b'E'),
                Send(one()),
                Ready(1),
                q("SELECT 1"),
                Ready(1),
            ],
            "E:42601 ZI T D C ZI",
        ),
        script(
            "Parse and Describe with Flush",
            vec![
                Send([parse("s", "SELECT $1::int"), describe(b'S', "s"), flush()].concat()),
                Until(b'T'),
                Send(
                    [
                        bind("", "s", &["7"]),
                        describe(b'P', ""),
                        execute("", 0),
                        flush(),
                    ]
                    .concat(),
                ),
                Until(b'C'),
                Send(sync()),
                Ready(1),
            ],
            "1 t T 2 T D C ZI",
        ),
        script(
            "portal with a row limit",
            vec![
                q("BEGIN"),
                Ready(1),
                Send(
                    [
                        parse("", "SELECT generate_series(1, 5)"),
                        bind("p", "", &[]),
                    ]
                    .concat(),
                ),
                Send([execute("p", 2), sync()].concat()),
                Ready(1),
                Send([execute("p", 2), sync()].concat()),
                Ready(1),
                Send([execute("p", 2), sync()].concat()),
                Ready(1),
                q("COMMIT"),
                Ready(1),
            ],
            "C ZT 1 2 D D s ZT D D s ZT D C ZT C ZI",
        ),
        script(
            "Close glued to the next Parse",
            vec![
                Send([parse("PC_2", "SELECT 1"), sync()].concat()),
                Ready(1),
                Send([close(b'S', "PC_2"), one()].concat()),
                Ready(1),
                Send([bind("", "PC_2", &[]), sync()].concat()),
                Ready(1),
            ],
            "1 ZI 3 1 2 D C ZI E:26000 ZI",
        ),
        script(
            "Sync alone, five times",
            vec![Send(sync().repeat(5)), Ready(5)],
            "ZI ZI ZI ZI ZI",
        ),
        script(
            "two statements of the simple protocol at a time",
            vec![q("SELECT 1"), q("SELECT 1/0"), q("SELECT 3"), Ready(3)],
            "T D C ZI E:22012 ZI T D C ZI",
        ),
    ]
}

pub(super) fn simple_queries() -> Vec<Script> {
    vec![
        script(
            "empty queries",
            vec![
                q(""),
                q(";"),
                q("-- ping"),
                Ready(3),
                Send([extended(""), sync()].concat()),
                Ready(1),
            ],
            "I ZI I ZI I ZI 1 2 I ZI",
        ),
        script(
            "several statements, the last fails",
            vec![q("SELECT 1; SELECT 2; SELECT 1/0; SELECT 3"), Ready(1)],
            "T D C T D C E:22012 ZI",
        ),
        script(
            "a failed transaction",
            vec![
                q("BEGIN"),
                q("SELECT 1/0"),
                q("SELECT 1"),
                q("COMMIT"),
                q("SELECT 1"),
                Ready(5),
            ],
            "C ZT E:22012 ZE E:25P02 ZE C ZI T D C ZI",
        ),
        script(
            "notices of every kind",
            vec![
                q(
                    "DO $$ BEGIN FOR i IN 1..3 LOOP RAISE NOTICE 'n %', i; END LOOP; \
                    RAISE WARNING 'w' USING DETAIL = 'd', HINT = 'h'; END $$",
                ),
                Ready(1),
            ],
            "N:00000 N:00000 N:00000 N:01000 C ZI",
        ),
        script(
            "notification at idle and in a transaction",
            vec![
                q("LISTEN here"),
                Ready(1),
                q("BEGIN; NOTIFY here, 'in'; SELECT 1"),
                Ready(1),
                q("COMMIT"),
                Ready(1),
                q("NOTIFY here, 'own'"),
                Ready(1),
            ],
            "C ZI C C T D C ZT C A ZI C A ZI",
        ),
        script(
            "parameter status",
            vec![
                q("SET application_name = 'x'"),
                q("BEGIN; SET LOCAL TimeZone = 'Europe/Paris'"),
                q("ROLLBACK"),
                q("SET client_encoding = 'LATIN1'"),
                q("RESET ALL"),
                Ready(5),
            ],
            "C S ZI C C S ZT C S ZI C S ZI C S S ZI",
        ),
        script(
            "DISCARD ALL by the client itself",
            vec![
                q("DISCARD ALL"),
                q("BEGIN"),
                q("DISCARD ALL"),
                q("ROLLBACK"),
                Ready(4),
            ],
            "C ZI C ZT E:25001 ZE C ZI",
        ),
        script(
            "function call",
            vec![
                // version(), no argument formats, no arguments, result as text.
                Send(message(b'F', &[0, 0, 0, 89, 0, 0, 0, 0, 0, 0])),
                Ready(1),
                Send(message(b'F', &[0, 0, 0, 89, 0])),
                Ready(1),
                q("SELECT 1"),
                Ready(1),
            ],
            "V ZI E:08P01 ZI T D C ZI",
        ),
        script(
            "a function that does not exist",
            vec![
                Send(message(b'F', &[0x7f, 0, 0, 1, 0, 0, 0, 0, 0, 0])),
                Ready(1),
            ],
            "E:42883 ZI",
        ),
        script(
            "PREPARE, EXECUTE, DEALLOCATE",
            vec![
                q("PREPARE s AS SELECT 1"),
                q("EXECUTE s"),
                Send([bind("", "s", &[]), execute("", 0), sync()].concat()),
                q("DEALLOCATE s"),
                q("EXECUTE s"),
                Ready(5),
            ],
            "C ZI T D C ZI 2 D C ZI C ZI E:26000 ZI",
        ),
        script(
            "cancelled by its own timeout",
            vec![
                q("SET statement_timeout = 20"),
                q("SELECT pg_sleep(10)"),
                Ready(2),
            ],
            "C ZI T E:57014 ZI",
        ),
    ]
}

pub(super) fn copies() -> Vec<Script> {
    let table = || q("CREATE TEMP TABLE t (a int)");
    let copy = || q("COPY t FROM STDIN");
    let count = || q("SELECT count(*), sum(a) FROM t");
    vec![
        script(
            "COPY IN",
            vec![
                table(),
                Ready(1),
                copy(),
                Until(b'G'),
                Send([copy_data("1\n2\n"), copy_data("3\n"), copy_done()].concat()),
                Ready(1),
                count(),
                Ready(1),
            ],
            "C ZI G C ZI T D C ZI",
        ),
        script(
            "CopyFail",
            vec![
                table(),
                Ready(1),
                copy(),
                Until(b'G'),
                Send([copy_data("1\n"), message(b'f', b"enough\0")].concat()),
                Ready(1),
                count(),
                Ready(1),
            ],
            "C ZI G E:57014 ZI T D C ZI",
        ),
        script(
            "COPY IN fails while the client streams on",
            vec![
                table(),
                Ready(1),
                copy(),
                Until(b'G'),
                Send(copy_data("rubbish\n")),
                Ready(1),
                Send([copy_data("1\n").repeat(100), copy_done()].concat()),
                count(),
                Ready(1),
            ],
            "C ZI G E:22P02 ZI T D C ZI",
        ),
        script(
            "Sync and Flush in COPY IN of the simple protocol",
            vec![
                table(),
                Ready(1),
                copy(),
                Until(b'G'),
                Send(
                    [
                        copy_data("1\n"),
                        sync(),
                        flush(),
                        copy_data("2\n"),
                        copy_done(),
                    ]
                    .concat(),
                ),
                Ready(1),
                count(),
                Ready(1),
            ],
            "C ZI G C ZI T D C ZI",
        ),
        script(
            "COPY IN of the extended protocol, with the Sync that is ignored",
            vec![
                table(),
                Ready(1),
                Send([extended("COPY t FROM STDIN"), sync()].concat()),
                Until(b'G'),
                Send([copy_data("1\n"), copy_done(), sync()].concat()),
                Ready(1),
                count(),
                Ready(1),
            ],
            "C ZI 1 2 G C ZI T D C ZI",
        ),
        script(
            "COPY IN of the extended protocol fails",
            vec![
                table(),
                Ready(1),
                Send([extended("COPY t FROM STDIN"), sync()].concat()),
                Until(b'G'),
                Send(copy_data("rubbish\n")),
                Until(b'E'),
                Send([copy_data("1\n"), copy_done(), sync()].concat()),
                Ready(1),
                count(),
                Ready(1),
            ],
            "C ZI 1 2 G E:22P02 ZI T D C ZI",
        ),
        script(
            "Query in COPY IN",
            vec![
                table(),
                Ready(1),
                Send([extended("COPY t FROM STDIN"), flush()].concat()),
                Until(b'G'),
                q("SELECT 1"),
                End,
            ],
            "C ZI 1 2 G E:08P01 E:08P01",
        ),
        script(
            "COPY OUT",
            vec![q("COPY (SELECT generate_series(1, 3)) TO STDOUT"), Ready(1)],
            "H d d d c C ZI",
        ),
        script(
            "COPY OUT fails in the middle",
            vec![
                q("COPY (SELECT 10 / (3 - g) FROM generate_series(1, 5) g) TO STDOUT"),
                Ready(1),
            ],
            "H d d E:22012 ZI",
        ),
    ]
}

/// Ends of a connection.
pub(super) fn ends() -> Vec<Script> {
    let header = |tag: u8, length: u32| {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    };
    vec![
        script("Terminate", vec![Send(terminate()), End], ""),
        script("end of file", vec![HalfClose, End], ""),
        script(
            "half-close behind a query",
            vec![
                q("SELECT pg_sleep(0.05), repeat('x', 100000)"),
                HalfClose,
                End,
            ],
            "T D C ZI",
        ),
        script(
            "Terminate behind a query",
            vec![
                Send([query("SELECT pg_sleep(0.05)"), terminate()].concat()),
                End,
            ],
            "T D C ZI",
        ),
        script(
            "half-close in a transaction",
            vec![q("BEGIN"), Ready(1), q("SELECT 1"), HalfClose, End],
            "C ZT T D C ZT",
        ),
        script("length 3", vec![Send(header(b'Q', 3)), End], ""),
        script("length 0", vec![Send(header(b'Q', 0)), End], ""),
        script(
            "length 2^31",
            vec![Send(header(b'Q', 0x8000_0000)), End],
            "",
        ),
        script("length 2^32-1", vec![Send(header(b'Q', u32::MAX)), End], ""),
        script(
            "a wrong length behind a good query",
            vec![Send([query("SELECT 1"), header(b'Q', 3)].concat()), End],
            "T D C ZI",
        ),
        script(
            "unknown message type",
            vec![Send(message(b'?', b"")), End],
            "E:08P01",
        ),
        script(
            "a body that is too short",
            vec![
                Send(message(b'B', b"\0")),
                Until(b'E'),
                Send(sync()),
                Ready(1),
            ],
            "E:08P01 ZI",
        ),
        script(
            "a query without its terminator",
            vec![Send(message(b'Q', b"SELECT 1")), Ready(1)],
            "E:08P01 ZI",
        ),
        script(
            "Terminate in a failed transaction",
            vec![
                q("BEGIN"),
                q("SELECT 1/0"),
                Ready(2),
                Send(terminate()),
                End,
            ],
            "C ZT E:22012 ZE",
        ),
    ]
}
