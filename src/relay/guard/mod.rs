//! Keeps a session of `route = "read"` read-only, whatever its client says. Pure: bytes in, bytes out.
//!
//! The server refuses writes in a read-only transaction, and every transaction of such a session is
//! one: it was started with `default_transaction_read_only = on`. What the guard takes away are the
//! ways out of that (see `rules.rs`). The text of a refused statement is replaced by one that the
//! server refuses with 25006 in a read-only transaction, so that client and server agree about
//! where the conversation and the transaction stand; a warning of ours says why.
//!
//! Second line: whatever is hidden from the text (in a function, say), PostgreSQL 14 and later tells
//! when `default_transaction_read_only` has become `off`. Then the session ends at once; and since a
//! request is passed on only when the one before it was answered, nothing has run in between.

mod lexer;
mod rules;

use std::collections::BTreeSet;

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::NoticeResponse;
use crate::wire::frame::{Frame, HEADER};
use crate::wire::message::{RawMessage, parse_parameter_status, write_message};
use crate::wire::tag;

use rules::{Passed, Reading, Refused, is_plain_encoding, judge};

/// Longest statement that is looked at; a longer one is refused.
const TEXT_MAX: usize = 1 << 20;
/// The names of a Bind, or of a Parse that is too long, must end within this.
const NAMES_MAX: usize = 8192;
/// Names of prepared statements that end a transaction.
const ENDERS_MAX: usize = 256;
/// Parameters of a refused statement that its stand-in has too.
const PARAMS_MAX: usize = 64;
/// Longest `ParameterStatus` that is looked at.
const STATUS_MAX: usize = 4096;

/// In a read-only transaction refused with 25006, for everybody; in any other it reads nothing.
const STAND_IN: &str = "SELECT FROM pg_catalog.pg_class WHERE false";
/// What the server says when the session has left read-only mode.
const LEFT: &[u8] = b"default_transaction_read_only\0off\0";
const NONSTANDARD: &[u8] = b"standard_conforming_strings\0off\0";
const ENCODING: &[u8] = b"client_encoding\0";

/// See the module's text.
#[derive(Debug)]
pub struct Guard {
    inbox: BytesMut,
    /// Of the message in front: so much is passed on, or thrown away, without a look.
    body: Body,
    reading: Reading,
    /// Prepared statements that end a transaction.
    enders: BTreeSet<Bytes>,
    /// The portal without a name is of one of them.
    portal_ends: bool,
    group: Group,
    /// For the client.
    words: BytesMut,
    left: bool,
}

/// Messages of the extended protocol since the last request that ends in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// None. The server is not skipping messages behind an error.
    Fresh,
    Open,
    /// A transaction's end was among them: nothing may come behind it.
    Ended,
}

/// The rest of a message whose fate is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Pass(usize),
    Skip(usize),
}

/// What the guard has for the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Forward(BytesMut),
    /// Nothing, until more comes.
    Starved,
    /// Nothing any more: a client that does this cannot be kept read-only.
    GiveUp,
}

impl Guard {
    /// For a session whose server said these `ParameterStatus` messages at its login.
    pub fn new(parameters: &Bytes) -> Self {
        let mut guard = Self {
            inbox: BytesMut::new(),
            body: Body::Pass(0),
            reading: Reading {
                standard_strings: true,
                plain_encoding: true,
            },
            enders: BTreeSet::new(),
            portal_ends: false,
            group: Group::Fresh,
            words: BytesMut::new(),
            left: false,
        };
        let mut buffer = BytesMut::from(&parameters[..]);
        while let Ok(Some(message)) = RawMessage::take(&mut buffer, STATUS_MAX) {
            guard.note_parameter(&message.body, message.body.len());
        }
        guard
    }

    /// The client sent this.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// The server sent this.
    pub(super) fn server_sent(&mut self, frame: &Frame<'_>) {
        if frame.tag == tag::server::PARAMETER_STATUS {
            self.note_parameter(frame.head, frame.body_len as usize);
        }
    }

    /// Has the session left read-only mode all the same?
    pub(super) fn has_left(&self) -> bool {
        self.left
    }

    /// What the client is to be told, where a message ends.
    pub(super) fn take_words(&mut self) -> Option<BytesMut> {
        (!self.words.is_empty()).then(|| self.words.split())
    }

    /// The next message for the server, or a part of one.
    pub(super) fn next(&mut self) -> Next {
        if let Body::Skip(left) = self.body {
            let now = left.min(self.inbox.len());
            self.inbox.advance(now);
            self.body = Body::Skip(left - now);
            if now < left {
                return Next::Starved;
            }
            self.body = Body::Pass(0);
        }
        if let Body::Pass(left @ 1..) = self.body {
            let now = left.min(self.inbox.len());
            if now == 0 {
                return Next::Starved;
            }
            self.body = Body::Pass(left - now);
            return Next::Forward(self.inbox.split_to(now));
        }
        let Some((&[tag, a, b, c, d], _)) = self.inbox.split_first_chunk::<HEADER>() else {
            return Next::Starved;
        };
        match (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4) {
            Some(body_len) if body_len <= i32::MAX as usize - 4 => self.message(tag, body_len),
            // The scanner behind us says what is wrong with it.
            _ => Next::Forward(self.inbox.split()),
        }
    }

    fn message(&mut self, tag: u8, body_len: usize) -> Next {
        let needed = match tag {
            tag::client::QUERY | tag::client::PARSE if body_len <= TEXT_MAX => body_len,
            tag::client::PARSE | tag::client::BIND | tag::client::EXECUTE => {
                body_len.min(NAMES_MAX)
            }
            _ => 0,
        };
        let Some(body) = self.inbox.get(HEADER..HEADER + needed) else {
            return Next::Starved;
        };
        match tag {
            // No driver does: the server may answer it or skip it, and nobody can tell.
            tag::client::QUERY | tag::client::FUNCTION_CALL if self.group != Group::Fresh => {
                Next::GiveUp
            }
            tag::client::QUERY | tag::client::PARSE if body_len > TEXT_MAX => {
                let (name, _) = first_text(body);
                let name = name.filter(|_| tag == tag::client::PARSE);
                let name = Bytes::copy_from_slice(name.unwrap_or_default());
                self.say("a statement of more than 1 MB");
                self.stand_in(tag, &name, &[], body_len)
            }
            tag::client::QUERY => {
                let text = first_text(body).0.unwrap_or(body);
                match judge(text, self.reading) {
                    Ok(_) => self.pass(body_len),
                    Err(refused) => self.refuse(tag, &refused, body_len),
                }
            }
            tag::client::PARSE => self.parse(body_len),
            tag::client::BIND => self.bind(body_len),
            tag::client::EXECUTE => self.execute(body_len),
            tag::client::FUNCTION_CALL => {
                self.say("a function call by the fast path");
                self.stand_in(tag::client::QUERY, &[], &[], body_len)
            }
            tag::client::SYNC => {
                self.group = Group::Fresh;
                self.pass(body_len)
            }
            tag::client::DESCRIBE | tag::client::CLOSE | tag::client::FLUSH => {
                self.open_group();
                self.pass(body_len)
            }
            _ => self.pass(body_len),
        }
    }

    fn open_group(&mut self) {
        if self.group == Group::Fresh {
            self.group = Group::Open;
        }
    }

    fn parse(&mut self, body_len: usize) -> Next {
        if self.group == Group::Ended {
            return self.behind_the_end(body_len);
        }
        // In the middle of a group it may be skipped, and the statement stays what it was.
        let is_certain = self.group == Group::Fresh;
        self.open_group();
        let body = self.inbox.get(HEADER..).unwrap_or_default();
        let (name, rest) = first_text(body);
        let name = Bytes::copy_from_slice(name.unwrap_or_default());
        let text = first_text(rest).0.unwrap_or(rest);
        match judge(text, self.reading) {
            Err(refused) => self.refuse(tag::client::PARSE, &refused, body_len),
            Ok(Passed { ends: true }) if self.enders.len() >= ENDERS_MAX => {
                let refused = Refused::Way("one more prepared statement that ends a transaction");
                self.refuse(tag::client::PARSE, &refused, body_len)
            }
            Ok(Passed { ends }) => {
                if ends {
                    self.enders.insert(name);
                } else if is_certain {
                    self.enders.remove(&name);
                }
                self.pass(body_len)
            }
        }
    }

    fn bind(&mut self, body_len: usize) -> Next {
        if self.group == Group::Ended {
            return self.behind_the_end(body_len);
        }
        self.open_group();
        let body = self.inbox.get(HEADER..HEADER + body_len.min(NAMES_MAX));
        let (portal, rest) = first_text(body.unwrap_or_default());
        // A name that does not end may be anybody's.
        let ends = first_text(rest)
            .0
            .is_none_or(|name| self.enders.contains(name));
        match portal {
            Some(b"") => self.portal_ends = ends,
            // It could be executed at any time; nobody needs a name for it.
            _ if ends => return self.behind_the_end(body_len),
            _ => {}
        }
        self.pass(body_len)
    }

    fn execute(&mut self, body_len: usize) -> Next {
        if self.group == Group::Ended {
            return self.behind_the_end(body_len);
        }
        self.open_group();
        let body = self.inbox.get(HEADER..HEADER + body_len.min(NAMES_MAX));
        let (portal, _) = first_text(body.unwrap_or_default());
        if self.portal_ends && portal.is_none_or(<[u8]>::is_empty) {
            self.group = Group::Ended;
        }
        self.pass(body_len)
    }

    /// The message is sound.
    fn pass(&mut self, body_len: usize) -> Next {
        let whole = HEADER + body_len;
        let now = whole.min(self.inbox.len());
        self.body = Body::Pass(whole - now);
        Next::Forward(self.inbox.split_to(now))
    }

    fn refuse(&mut self, tag: u8, refused: &Refused, body_len: usize) -> Next {
        self.say(&refused.to_string());
        let body = self
            .inbox
            .get(HEADER..HEADER + body_len)
            .unwrap_or_default();
        let body = Bytes::copy_from_slice(body);
        let (name, rest) = match tag {
            tag::client::PARSE => first_text(&body),
            _ => (None, &body[..]),
        };
        // The client's text goes as far as its zero byte, its parameters' types stand behind that.
        let (text, types) = first_text(rest);
        let params = highest_parameter(text.unwrap_or_default());
        let types = (tag == tag::client::PARSE).then_some(types);
        let name = name.unwrap_or_default();
        let text = stand_in(params);
        self.replace(
            tag,
            name,
            text.as_bytes(),
            types.unwrap_or_default(),
            body_len,
        )
    }

    fn stand_in(&mut self, tag: u8, name: &[u8], types: &[u8], body_len: usize) -> Next {
        let text = stand_in(0);
        let no_types: &[u8] = if tag == tag::client::PARSE {
            &[0, 0]
        } else {
            types
        };
        self.replace(tag, name, text.as_bytes(), no_types, body_len)
    }

    /// A message that fails at once, in the place of one that must not come: a Bind or a Parse
    /// behind the end of a transaction.
    fn behind_the_end(&mut self, body_len: usize) -> Next {
        self.open_group();
        self.say("a statement behind the end of a transaction, with no Sync between them");
        let text = b"this route is read-only: Sync is missing behind the end of a transaction";
        self.replace(tag::client::PARSE, &[], text, &[0, 0], body_len)
    }

    fn replace(&mut self, tag: u8, name: &[u8], text: &[u8], tail: &[u8], body_len: usize) -> Next {
        let mut out = BytesMut::new();
        write_message(tag, &mut out, |body| {
            if tag == tag::client::PARSE {
                body.extend_from_slice(name);
                body.extend_from_slice(&[0]);
            }
            body.extend_from_slice(text);
            body.extend_from_slice(&[0]);
            body.extend_from_slice(tail);
        });
        self.inbox.advance(HEADER);
        let now = body_len.min(self.inbox.len());
        self.inbox.advance(now);
        self.body = Body::Skip(body_len - now);
        Next::Forward(out)
    }

    fn say(&mut self, what: &str) {
        NoticeResponse::warning(format!("refused on a read-only route: {what}"))
            .hint("A database with another route takes it.")
            .encode(&mut self.words);
    }

    /// Of a message that is not all there, what there is must be enough: it may be the one.
    fn note_parameter(&mut self, head: &[u8], body_len: usize) {
        let may_be = |known: &[u8]| known.len() == body_len && known.starts_with(head);
        self.left |= may_be(LEFT);
        self.reading.standard_strings &= !may_be(NONSTANDARD);
        let cut = head.len() < body_len;
        if head.starts_with(ENCODING) || cut && ENCODING.starts_with(head) {
            let body = Bytes::copy_from_slice(head);
            let value = parse_parameter_status(&body).map(|(_, value)| value);
            // For good: what RESET goes back to is not told before it is used.
            self.reading.plain_encoding &= value.is_ok_and(|value| is_plain_encoding(&value));
        }
    }
}

/// A text up to its zero byte, and what stands behind that. `None`: it has none.
fn first_text(bytes: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (bytes.get(..end), bytes.get(end + 1..).unwrap_or_default()),
        None => (None, bytes),
    }
}

/// Refused by the server, with as many parameters as the client will send.
fn stand_in(params: usize) -> String {
    let param = |n: usize| format!(" AND ${n}::text IS NULL");
    let params: String = (1..=params).map(param).collect();
    format!("{STAND_IN}{params} FOR UPDATE")
}

/// The highest `$n`, wherever it stands.
fn highest_parameter(text: &[u8]) -> usize {
    let after = text.split(|byte| *byte == b'$').skip(1);
    let number = |part: &[u8]| {
        let digits = part.iter().take(3).take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
    };
    let highest = after.map(number).max().unwrap_or_default();
    if highest > PARAMS_MAX { 0 } else { highest }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
