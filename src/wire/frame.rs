//! Message boundaries in a stream: walks from header to header and never touches a body.

use std::ops::ControlFlow;

use super::tag::server::READY_FOR_QUERY;

/// Type byte and length word.
pub const HEADER: usize = 5;

/// Most bytes that [`FrameScanner::scan`] may leave over when it was not stopped: a header less
/// one byte, or a `ReadyForQuery` less its status.
pub const MAX_LEFT_OVER: usize = HEADER;

/// A message whose header has just been completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type byte.
    pub tag: u8,
    /// Length of the body in bytes: the length word less the four bytes that it takes itself.
    pub body_len: u32,
    /// The part of the body that is in this chunk, which may be nothing. Of a one-byte
    /// `ReadyForQuery` always the whole: its frame is held back until the status is there.
    pub head: &'a [u8],
}

/// How far a scan went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Scanned {
    /// `chunk[..consumed]` is accounted for and may be forwarded. It ends inside a body or at a
    /// boundary, never inside a header.
    pub consumed: usize,
    /// The callback said stop: `chunk[consumed..]` begins with the frame that it refused.
    pub stopped: bool,
}

/// A length word that no PostgreSQL sends or accepts. A server closes such a connection at once
/// and without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid length {length} of message type {tag:#04x}")]
pub struct FrameError {
    /// Type byte.
    pub tag: u8,
    /// The length word as it came.
    pub length: u32,
    /// Bytes of the chunk before this message; they are sound.
    pub consumed: usize,
}

/// Walks a stream of messages across arbitrary chunks.
///
/// All it remembers is how much of the current body is still to come. A header that is not
/// complete is left to the caller, who presents it again in front of the next bytes (at most
/// [`MAX_LEFT_OVER`] bytes). So half a header is never forwarded: whenever a scan is stopped, the
/// peer's stream ends where a message ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameScanner {
    body_left: u32,
}

impl FrameScanner {
    /// At the beginning of a message.
    pub const fn new() -> Self {
        Self { body_left: 0 }
    }

    /// Does everything consumed so far end where a message ends?
    pub const fn at_boundary(&self) -> bool {
        self.body_left == 0
    }

    /// Bytes of the current body that have not been consumed.
    pub const fn body_left(&self) -> u32 {
        self.body_left
    }

    /// Walks over `chunk` and calls `on` once for each header that it completes. `Break` refuses
    /// that frame: the scan ends before it, and the frame is offered again when the caller
    /// presents the rest again. Costs nothing per body byte.
    pub fn scan(
        &mut self,
        chunk: &[u8],
        mut on: impl FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Result<Scanned, FrameError> {
        let mut rest = self.skip_body(chunk);
        loop {
            let consumed = chunk.len() - rest.len();
            let Some((&[tag, a, b, c, d], body)) = rest.split_first_chunk::<HEADER>() else {
                return Ok(Scanned {
                    consumed,
                    stopped: false,
                });
            };
            let length = u32::from_be_bytes([a, b, c, d]);
            if !(4..=i32::MAX as u32).contains(&length) {
                return Err(FrameError {
                    tag,
                    length,
                    consumed,
                });
            }
            let body_len = length - 4;
            if tag == READY_FOR_QUERY && body_len == 1 && body.is_empty() {
                return Ok(Scanned {
                    consumed,
                    stopped: false,
                });
            }
            let head = body.get(..body_len as usize).unwrap_or(body);
            if on(Frame {
                tag,
                body_len,
                head,
            })
            .is_break()
            {
                return Ok(Scanned {
                    consumed,
                    stopped: true,
                });
            }
            self.body_left = body_len;
            rest = self.skip_body(body);
        }
    }

    /// What of `bytes` comes after the current body.
    fn skip_body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if let Some(rest) = bytes.get(self.body_left as usize..) {
            self.body_left = 0;
            return rest;
        }
        // `bytes` is shorter than `body_left`, so its length fits.
        self.body_left -= bytes.len() as u32;
        &[]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Type, length, and the status of a `ReadyForQuery`.
    type Seen = (u8, u32, Option<u8>);

    /// Feeds `stream` in pieces as a relay does, and returns what was forwarded and seen.
    fn relay(stream: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<Seen>, bool) {
        let mut walk = FrameScanner::new();
        let (mut out, mut seen, mut carry) = (Vec::new(), Vec::new(), Vec::new());
        let mut from = 0;
        for to in cuts.iter().copied().chain([stream.len()]) {
            let mut chunk = std::mem::take(&mut carry);
            chunk.extend_from_slice(&stream[from..to]);
            let scanned = walk
                .scan(&chunk, |f| {
                    let status = (f.tag == b'Z').then(|| f.head.first().copied()).flatten();
                    seen.push((f.tag, f.body_len, status));
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert!(!scanned.stopped);
            out.extend_from_slice(&chunk[..scanned.consumed]);
            carry = chunk.split_off(scanned.consumed);
            assert!(carry.len() <= MAX_LEFT_OVER);
            assert!(carry.is_empty() || walk.at_boundary());
            from = to;
        }
        out.extend_from_slice(&carry);
        (out, seen, walk.at_boundary())
    }

    fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let any = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(tag, body)| message(tag, &body));
        let ready = prop::sample::select(vec![b'I', b'T', b'E']).prop_map(|s| message(b'Z', &[s]));
        prop::collection::vec(prop_oneof![any, ready], 0..12)
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames_and_the_same_bytes(
            messages in messages(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let stream = messages.concat();
            let mut cuts: Vec<_> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let expected: Vec<_> = messages
                .iter()
                .map(|m| (m[0], m.len() as u32 - 5, (m[0] == b'Z').then(|| m.get(5).copied()).flatten()))
                .collect();
            let (out, seen, at_boundary) = relay(&stream, &cuts);
            prop_assert_eq!(out, stream);
            prop_assert_eq!(seen.len(), expected.len());
            for (seen, expected) in seen.iter().zip(&expected) {
                prop_assert_eq!((seen.0, seen.1), (expected.0, expected.1));
                // Only a well-formed ReadyForQuery promises its status.
                if expected.1 == 1 {
                    prop_assert_eq!(seen.2, expected.2);
                }
            }
            prop_assert!(at_boundary);
        }
    }

    #[test]
    fn a_header_may_be_cut_at_every_byte() {
        let stream = [
            message(b'T', b"abc"),
            message(b'Z', b"I"),
            message(b'S', b""),
        ]
        .concat();
        let expected = vec![(b'T', 3, None), (b'Z', 1, Some(b'I')), (b'S', 0, None)];
        for cut in 0..=stream.len() {
            let (out, seen, at_boundary) = relay(&stream, &[cut]);
            assert_eq!(
                (out, seen, at_boundary),
                (stream.clone(), expected.clone(), true)
            );
        }
        let every_byte: Vec<_> = (0..stream.len()).collect();
        assert_eq!(relay(&stream, &every_byte).1, expected);
    }

    #[test]
    fn a_refused_frame_stays_whole_and_is_offered_again() {
        let stream = [message(b'Q', b"select 1\0"), message(b'X', b"")].concat();
        let mut walk = FrameScanner::new();
        let stop_at_x = |f: Frame<'_>| match f.tag {
            b'X' => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let scanned = walk.scan(&stream, stop_at_x).unwrap();
        assert_eq!(
            scanned,
            Scanned {
                consumed: 14,
                stopped: true
            }
        );
        assert!(walk.at_boundary());
        let scanned = walk.scan(&stream[14..], stop_at_x).unwrap();
        assert_eq!(
            scanned,
            Scanned {
                consumed: 0,
                stopped: true
            }
        );
        // Three bytes of the header are nothing yet; none of them is given away.
        let scanned = walk.scan(&stream[14..17], stop_at_x).unwrap();
        assert_eq!(
            scanned,
            Scanned {
                consumed: 0,
                stopped: false
            }
        );
    }

    #[test]
    fn the_head_is_what_is_there() {
        let query = message(b'Q', b"COMMIT\0");
        let mut heads = Vec::new();
        for end in [5, 8, query.len()] {
            let scanned = FrameScanner::new().scan(&query[..end], |f| {
                heads.push(f.head.to_vec());
                ControlFlow::Continue(())
            });
            assert_eq!(scanned.unwrap().consumed, end);
        }
        assert_eq!(heads, [&b""[..], b"COM", b"COMMIT\0"]);
    }

    #[test]
    fn a_huge_body_passes_without_being_there() {
        let mut walk = FrameScanner::new();
        let mut frames = 0;
        let header = [b'D', 0x7F, 0xFF, 0xFF, 0xFF];
        let mut count = |_: Frame<'_>| {
            frames += 1;
            ControlFlow::Continue(())
        };
        assert_eq!(walk.scan(&header, &mut count).unwrap().consumed, 5);
        assert_eq!(walk.scan(&[0; 1000], &mut count).unwrap().consumed, 1000);
        assert_eq!(frames, 1);
        assert_eq!(walk.body_left(), i32::MAX as u32 - 4 - 1000);
        assert!(!walk.at_boundary());
    }

    #[test]
    fn impossible_lengths_are_errors_and_what_came_before_is_sound() {
        for length in [0, 1, 3, 0x8000_0000, 0x8000_0001, u32::MAX] {
            let mut stream = message(b'S', b"");
            stream.push(b'Q');
            stream.extend_from_slice(&length.to_be_bytes());
            let result = FrameScanner::new().scan(&stream, |_| ControlFlow::Continue(()));
            assert_eq!(
                result,
                Err(FrameError {
                    tag: b'Q',
                    length,
                    consumed: 5
                })
            );
        }
    }
}
