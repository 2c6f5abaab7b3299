//! One direction of a relay: read, look at headers, write. Bytes go out of the buffer that they
//! came into; only what the peer does not take at once is copied.

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Stream;
use crate::wire::frame::{Frame, FrameError, FrameScanner, MAX_LEFT_OVER};

/// What a step of a pump came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Bytes moved.
    Moved {
        /// How many were read.
        read: usize,
        /// The callback refused a message: nothing of it was forwarded.
        refused: bool,
    },
    /// The source has ended; everything before was written.
    Ended,
}

/// Why a pump cannot go on.
#[derive(Debug)]
pub(super) enum Fault {
    /// Reading failed.
    Read(io::Error),
    /// Writing failed.
    Write(io::Error),
    /// The source does not speak the protocol.
    Frame(FrameError),
}

/// State of one direction between two polls. Holds no buffer while nothing is stuck.
#[derive(Debug, Default)]
pub(super) struct Pump {
    scanner: FrameScanner,
    /// A header that has only begun; it goes in front of the next bytes.
    carry: [u8; MAX_LEFT_OVER],
    carried: usize,
    /// Bytes that came before the relay began; they go first.
    received: Bytes,
    /// What the sink has not taken yet. Nothing is read while there is any.
    stuck: Vec<u8>,
    stuck_from: usize,
}

impl Pump {
    /// A direction from which some bytes have come already.
    pub(super) fn with_received(received: Bytes) -> Self {
        Self {
            received,
            ..Self::default()
        }
    }

    /// Does everything that was read end where a message ends, and is it written?
    pub(super) fn at_boundary(&self) -> bool {
        self.is_written() && self.carried == 0 && self.scanner.at_boundary()
    }

    /// Does everything that was *forwarded* end where a message ends? (A header that has only
    /// begun is kept back.)
    pub(super) fn sink_at_boundary(&self) -> bool {
        self.is_written() && self.scanner.at_boundary()
    }

    /// Does what was read end where a message ends, though some of it may not be written yet?
    pub(super) fn source_at_boundary(&self) -> bool {
        self.scanner.at_boundary()
    }

    fn is_written(&self) -> bool {
        self.stuck_from == self.stuck.len()
    }

    /// Moves what can be moved at once: one read and its write at most.
    pub(super) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        (source, sink): (&mut Stream, &mut Stream),
        scratch: &mut [u8],
        on: impl FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Step, Fault>> {
        ready!(self.poll_unstick(cx, sink)).map_err(Fault::Write)?;
        let read = ready!(self.poll_fill(cx, source, scratch)).map_err(Fault::Read)?;
        if read == 0 {
            return Poll::Ready(Ok(Step::Ended));
        }
        let filled = scratch.get(..self.carried + read).unwrap_or_default();
        let passed = self.pass(cx, sink, filled, on);
        Poll::Ready(passed.map(|refused| Step::Moved { read, refused }))
    }

    /// Forwards bytes that the caller has. `true`: the callback refused a message. Nothing may be
    /// stuck.
    pub(super) fn pass(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Stream,
        filled: &[u8],
        on: impl FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Result<bool, Fault> {
        let scanned = match self.scanner.scan(filled, on) {
            Ok(scanned) => scanned,
            Err(error) => {
                // What came before is sound, and the scanner counts it as forwarded.
                let sound = filled.get(..error.consumed).unwrap_or_default();
                self.write(cx, sink, sound).map_err(Fault::Write)?;
                return Err(Fault::Frame(error));
            }
        };
        let (out, rest) = filled
            .split_at_checked(scanned.consumed)
            .unwrap_or((filled, &[]));
        if scanned.stopped {
            self.carried = 0;
        } else {
            self.keep(rest);
        }
        self.write(cx, sink, out).map_err(Fault::Write)?;
        Ok(scanned.stopped)
    }

    /// Puts a message of our own into the stream, where a message ends. `false`: not now.
    pub(super) fn inject(&mut self, message: &[u8]) -> bool {
        let fits = self.sink_at_boundary();
        if fits {
            self.stuck = message.to_vec();
            self.stuck_from = 0;
        }
        fits
    }

    /// Writes what is stuck.
    pub(super) fn poll_unstick(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let rest = self.stuck.get(self.stuck_from..).unwrap_or_default();
            let wrote = ready!(Pin::new(&mut *sink).poll_write(cx, rest))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.stuck_from += wrote;
        }
        if self.stuck.capacity() > 0 {
            self.stuck = Vec::new();
            self.stuck_from = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads behind what is carried; 0 at the end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        scratch: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let (head, free) = scratch.split_at_mut(self.carried);
        head.copy_from_slice(self.carry.get(..self.carried).unwrap_or_default());
        if !self.received.is_empty() {
            let early = self.received.len().min(free.len());
            if let Some(free) = free.get_mut(..early) {
                self.received.copy_to_slice(free);
            }
            return Poll::Ready(Ok(early));
        }
        let mut buffer = ReadBuf::new(free);
        ready!(Pin::new(source).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn keep(&mut self, rest: &[u8]) {
        if let Some(carry) = self.carry.get_mut(..rest.len()) {
            carry.copy_from_slice(rest);
            self.carried = rest.len();
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, sink: &mut Stream, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let wrote = match Pin::new(sink).poll_write(cx, out) {
            Poll::Ready(result) => result?,
            Poll::Pending => 0,
        };
        if let Some(rest) = out.get(wrote..).filter(|rest| !rest.is_empty()) {
            self.stuck = rest.to_vec();
            self.stuck_from = 0;
        }
        Ok(())
    }
}
