#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{InFlight, TxStatus, Txn};

/// `>` client, `<` server; Z is followed by its status, Q by its text.
fn play(script: &str) -> Txn {
    let mut txn = Txn::default();
    for step in script.split_whitespace() {
        let (side, rest) = step.split_at(1);
        let tag = rest.as_bytes()[0];
        match (side, tag) {
            (">", _) => txn.client_sent(tag, &rest.as_bytes()[1..], true),
            ("<", b'Z') => txn.ready(TxStatus::from_byte(rest.as_bytes()[1]).unwrap()),
            ("<", _) => txn.server_sent(tag),
            _ => panic!("bad step {step}"),
        }
    }
    txn
}

#[test]
fn safe_points() {
    let cases: &[(&str, bool)] = &[
        ("", true),
        (">Q", false),
        (">Q <T <D <C <ZI", true),
        (">Q <C <ZT", false),
        (">Q <C <ZT >Q <C <ZI", true),
        (">Q <E <ZE", false),
        // Pipelined queries.
        (">Q >Q <C <ZI", false),
        (">Q >Q <C <ZI <C <ZI", true),
        // Extended: one Sync, error in the middle, pipelined.
        (">P >B >E", false),
        (">P >B >E >S", false),
        (">P >B >E >S <1 <2 <C <ZI", true),
        (">P >B >E >S >P >B >E >S <1 <2 <C <ZI", false),
        (">P >B >E >S >P >B >E >S <1 <E <ZI <E <ZI", true),
        // Flush is answered, but the implicit transaction is open.
        (">P >D >H <1 <t <T", false),
        (">P >D >H <1 <t <T >S <ZI", true),
        // An error without Sync leaves the server skipping.
        (">P <E", false),
        // A Close after the Sync opens a new round.
        (">S <ZI >C", false),
        // Asynchronous messages at idle change nothing.
        (">Q <C <ZI <A <N <S", true),
        // Simple COPY IN, ok and failed; late copy messages are ignored by the server.
        (">Q <G >d >c", false),
        (">Q <G >d >c <C <ZI", true),
        (">Q <G >d <E <ZI >d >c", true),
        (">Q <G >d <E <ZI >d >c >Q", false),
        // Extended COPY IN as libpq does it: the first Sync is swallowed.
        (">P >B >E >S <1 <2 <G", false),
        (">P >B >E >S <1 <2 <G >d >c", false),
        (">P >B >E >S <1 <2 <G >d <E", false),
        (">P >B >E >S <1 <2 <G >d >c >S", false),
        (">P >B >E >S <1 <2 <G >d >c >S <C <ZI", true),
        (">P >B >E >S <1 <2 <G >d <E >S <ZI", true),
        // A Sync into running COPY IN was ignored if the COPY succeeds; else it may be answered yet.
        (">Q <G >S >d >c <C <ZI", true),
        (">Q >d >S <G <E <ZI", true),
        (">Q >d >S <G <E <ZI <ZI", true),
        (">Q >d >S <G <E <ZI >Q <ZI", false),
        (">Q >d >S <G <E <ZI >Q <ZI <C <ZI", true),
        // COPY data and its end pipelined behind the query.
        (">Q >d >c <G <C <ZI", true),
        // COPY OUT and BOTH.
        (">Q <H <d <d <c <C", false),
        (">Q <H <d <d <c <C <ZI", true),
        (">Q <W <d >d", false),
        // FunctionCall.
        (">F <V", false),
        (">F <V <ZI", true),
        // A ReadyForQuery that nobody asked for.
        ("<ZI", false),
        (">Q <ZI <ZI >Q <ZI", false),
    ];
    for (script, safe) in cases {
        assert_eq!(play(script).is_safe(), *safe, "{script}");
    }
}

#[test]
fn fate_of_the_work_in_flight() {
    let cases = [
        ("", InFlight::Nothing),
        (">Qselect", InFlight::Unknown),
        (">Qbegin <C <ZT", InFlight::Lost),
        (">Qbegin <C <ZT >Qupdate", InFlight::Lost),
        (">Qbegin <C <ZT >Qupdate;\0", InFlight::Lost),
        (">Qbegin <C <ZT >QCOMMIT", InFlight::Unknown),
        (">Qbegin <C <ZT >QEnd", InFlight::Unknown),
        (">Qbegin <C <ZT >Qupdate;commit", InFlight::Unknown),
        (">Qbegin <C <ZT >B >E >S", InFlight::Unknown),
        (">Qbegin <C <ZT >Qcommit <C <ZI", InFlight::Nothing),
    ];
    for (script, fate) in cases {
        assert_eq!(play(script).in_flight(), fate, "{script}");
    }
}

/// What a client sends, with what comes of it at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    Query(Does),
    Call,
    Parse { fails: bool },
    Bind { fails: bool },
    Execute(Does),
    Close,
    Flush,
    Sync { fails: bool },
    Data { bad: bool },
    Done,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Rows,
    Fails,
    Begin,
    Commit,
    CopyIn,
    /// A trigger fails before the first row is read.
    CopyInFailsAtOnce,
    CopyOut,
    /// The first of two statements in one Query; the second is a COPY.
    RowsThenCopyIn,
}

impl Say {
    fn tag(self) -> u8 {
        match self {
            Self::Query(_) => b'Q',
            Self::Call => b'F',
            Self::Parse { .. } => b'P',
            Self::Bind { .. } => b'B',
            Self::Execute(_) => b'E',
            Self::Close => b'C',
            Self::Flush => b'H',
            Self::Sync { .. } => b'S',
            Self::Data { .. } => b'd',
            Self::Done => b'c',
            Self::Fail => b'f',
        }
    }

    /// Does the server read it without doing or answering anything but ReadyForQuery?
    fn is_idle(self) -> bool {
        matches!(
            self,
            Self::Sync { .. } | Self::Data { .. } | Self::Done | Self::Fail | Self::Flush
        )
    }
}

/// The message loop of a PostgreSQL backend (`postgres.c`, `copyfromparse.c`): one step reads one
/// message.
#[derive(Debug)]
struct Backend {
    unread: VecDeque<Say>,
    /// Not yet with the relay: tag, and the status of a ReadyForQuery.
    unseen: VecDeque<(u8, u8)>,
    status: u8,
    skips: bool,
    /// Statements of the extended protocol since the last Sync: an implicit transaction.
    open: bool,
    /// In COPY IN, begun by Execute?
    copy: Option<bool>,
    /// It lost synchronization and hung up.
    dead: bool,
}

impl Backend {
    fn new() -> Self {
        Self {
            unread: VecDeque::new(),
            unseen: VecDeque::new(),
            status: b'I',
            skips: false,
            open: false,
            copy: None,
            dead: false,
        }
    }

    fn say(&mut self, tags: &str) {
        self.unseen.extend(tags.bytes().map(|tag| (tag, 0)));
    }

    fn ready(&mut self) {
        self.unseen.push_back((b'Z', self.status));
    }

    fn fail(&mut self, extended: bool) {
        self.say("E");
        self.open = false;
        if self.status == b'T' {
            self.status = b'E';
        }
        if extended {
            self.skips = true;
        } else {
            self.ready();
        }
    }

    fn step(&mut self) {
        let Some(said) = self.unread.pop_front() else {
            return;
        };
        if let Some(extended) = self.copy {
            return self.copy_step(said, extended);
        }
        if self.skips && !matches!(said, Say::Sync { .. }) {
            return;
        }
        match said {
            Say::Query(does) => self.run(does, false),
            Say::Call if self.status == b'E' => self.fail(false),
            Say::Call => {
                self.say("V");
                self.open = false;
                self.ready();
            }
            Say::Parse { fails } | Say::Bind { fails } => {
                self.open = true;
                match (fails || self.status == b'E', said.tag()) {
                    (true, _) => self.fail(true),
                    (false, b'P') => self.say("1"),
                    (false, _) => self.say("2"),
                }
            }
            Say::Execute(does) => {
                self.open = true;
                self.run(does, true);
            }
            Say::Close => self.say("3"),
            Say::Sync { fails } => {
                self.skips = false;
                if fails && self.open && self.status == b'I' {
                    // A deferred constraint.
                    self.fail(false);
                } else {
                    self.open = false;
                    self.ready();
                }
            }
            Say::Flush | Say::Data { .. } | Say::Done | Say::Fail => {}
        }
    }

    fn run(&mut self, does: Does, extended: bool) {
        if self.status == b'E' && does != Does::Commit {
            return self.fail(extended);
        }
        match does {
            Does::Rows => self.say("TDC"),
            Does::Fails => return self.fail(extended),
            Does::Begin => {
                self.status = b'T';
                self.say("C");
            }
            Does::Commit => {
                self.status = b'I';
                self.say("C");
            }
            Does::CopyOut => self.say("HddcC"),
            Does::CopyInFailsAtOnce => {
                self.say("G");
                return self.fail(extended);
            }
            Does::CopyIn | Does::RowsThenCopyIn => {
                if does == Does::RowsThenCopyIn && !extended {
                    self.say("TDC");
                }
                self.say("G");
                self.copy = Some(extended);
                return;
            }
        }
        if !extended {
            self.open = false;
            self.ready();
        }
    }

    fn copy_step(&mut self, said: Say, extended: bool) {
        match said {
            Say::Flush | Say::Sync { .. } | Say::Data { bad: false } => {}
            Say::Data { bad: true } | Say::Fail => {
                self.copy = None;
                self.fail(extended);
            }
            Say::Done => {
                self.copy = None;
                self.say("C");
                if !extended {
                    self.open = false;
                    self.ready();
                }
            }
            _ => self.dead = true,
        }
    }

    /// Nothing runs, nothing is open, and nothing that is unread would change that.
    fn is_idle(&self) -> bool {
        let quiet = self.status == b'I' && !self.open && !self.skips && self.copy.is_none();
        let answers_idle = self.unseen.iter().all(|seen| *seen == (b'Z', b'I'));
        quiet && answers_idle && self.unread.iter().all(|said| said.is_idle())
    }

    fn is_done(&self) -> bool {
        self.unread.is_empty() && self.unseen.is_empty()
    }
}

/// A client, the tracker and the backend, with bytes under way between them.
struct World {
    script: VecDeque<Say>,
    backend: Backend,
    txn: Txn,
    log: Vec<String>,
}

impl World {
    fn new(script: Vec<Say>) -> Self {
        Self {
            script: script.into(),
            backend: Backend::new(),
            txn: Txn::default(),
            log: Vec::new(),
        }
    }

    fn send(&mut self) {
        if let Some(said) = self.script.pop_front() {
            self.log.push(format!("> {said:?}"));
            self.txn.client_sent(said.tag(), b"", false);
            self.backend.unread.push_back(said);
        }
    }

    fn deliver(&mut self) {
        match self.backend.unseen.pop_front() {
            Some((b'Z', status)) => {
                self.log.push(format!("< Z{}", char::from(status)));
                self.txn.ready(TxStatus::from_byte(status).unwrap());
            }
            Some((tag, _)) => {
                self.log.push(format!("< {}", char::from(tag)));
                self.txn.server_sent(tag);
            }
            None => {}
        }
    }

    fn go(&mut self, moves: &[u8]) -> Result<(), TestCaseError> {
        for choice in moves {
            match choice % 3 {
                0 => self.send(),
                1 => self.backend.step(),
                _ => self.deliver(),
            }
            if self.backend.dead {
                return Ok(());
            }
            self.check()?;
        }
        while !self.backend.dead && (!self.backend.is_done() || !self.script.is_empty()) {
            self.deliver();
            self.backend.step();
            if self.backend.is_done() {
                self.send();
            }
            self.check()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let wrong = self.txn.is_safe() && !self.backend.dead && !self.backend.is_idle();
        prop_assert!(
            !wrong,
            "safe too early\n{}\n{:?}",
            self.log.join("\n"),
            self.backend
        );
        Ok(())
    }
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        4 => Just(Does::Rows),
        2 => Just(Does::Fails),
        1 => Just(Does::Begin),
        1 => Just(Does::Commit),
        3 => Just(Does::CopyIn),
        1 => Just(Does::CopyInFailsAtOnce),
        1 => Just(Does::CopyOut),
        1 => Just(Does::RowsThenCopyIn),
    ]
}

fn anything() -> impl Strategy<Value = Say> {
    let bad = prop::bool::weighted(0.2);
    prop_oneof![
        4 => does().prop_map(Say::Query),
        1 => Just(Say::Call),
        2 => bad.prop_map(|fails| Say::Parse { fails }),
        1 => bad.prop_map(|fails| Say::Bind { fails }),
        3 => does().prop_map(Say::Execute),
        1 => Just(Say::Close),
        1 => Just(Say::Flush),
        5 => bad.prop_map(|fails| Say::Sync { fails }),
        4 => bad.prop_map(|bad| Say::Data { bad }),
        3 => Just(Say::Done),
        1 => Just(Say::Fail),
    ]
}

/// What drivers do: queries, pipelines with a Sync at each end, COPY as libpq does it.
fn round() -> impl Strategy<Value = Vec<Say>> {
    let plain = || {
        prop_oneof![
            4 => Just(Does::Rows),
            2 => Just(Does::Fails),
            1 => Just(Does::Begin),
            1 => Just(Does::Commit),
            1 => Just(Does::CopyOut),
        ]
    };
    let sync = Say::Sync { fails: false };
    let bad = prop::bool::weighted(0.2);
    let group = (bad, prop::collection::vec(plain(), 1..4)).prop_map(move |(fails, does)| {
        let mut out = vec![Say::Parse { fails }, Say::Bind { fails: false }];
        out.extend(does.into_iter().map(Say::Execute));
        out.push(sync);
        out
    });
    let data = prop::collection::vec(bad.prop_map(|bad| Say::Data { bad }), 0..3);
    let copy = (data, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        move |(data, extended, fails, at_once)| {
            let does = if at_once {
                Does::CopyInFailsAtOnce
            } else {
                Does::CopyIn
            };
            let mut out = if extended {
                vec![Say::Parse { fails: false }, Say::Execute(does), sync]
            } else {
                vec![Say::Query(does)]
            };
            out.extend(data);
            out.push(if fails { Say::Fail } else { Say::Done });
            out.extend(extended.then_some(sync));
            out
        },
    );
    prop_oneof![plain().prop_map(|does| vec![Say::Query(does)]), group, copy]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn never_safe_while_the_backend_has_something_to_do(
        script in prop::collection::vec(anything(), 0..24),
        moves in prop::collection::vec(any::<u8>(), 0..96),
    ) {
        World::new(script).go(&moves)?;
    }

    #[test]
    fn what_drivers_send_ends_at_a_safe_point(
        rounds in prop::collection::vec(round(), 1..6),
        moves in prop::collection::vec(any::<u8>(), 0..96),
    ) {
        let mut script = rounds.concat();
        script.push(Say::Query(Does::Commit));
        let copies = script.iter().any(|said| said.is_idle() && said.tag() != b'S');
        let mut world = World::new(script);
        // COPY as libpq does it: the data goes out when the server has asked for it.
        world.go(if copies { &[] } else { &moves })?;
        if !world.backend.dead {
            prop_assert!(world.backend.is_idle(), "{}", world.log.join("\n"));
            prop_assert!(world.txn.is_safe(), "never safe\n{}\n{:?}", world.log.join("\n"), world.txn);
        }
    }
}
