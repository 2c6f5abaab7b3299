//! The relay of a session that cannot write: what its client says goes through the [`Guard`], one
//! request at a time.

use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use crate::net::Stream;
use crate::wire::frame::Frame;

use super::guard::{Guard, Next};
use super::pump::{Fault, Pump, Step};
use super::{Cause, Relay, RelayEnd, ServerSide};

/// Like [`Pump::poll_step`], and the guard hears what the server tells and says what it has to.
pub(super) fn poll_down(
    guard: &mut Guard,
    down: &mut Pump,
    cx: &mut Context<'_>,
    streams: (&mut Stream, &mut Stream),
    scratch: &mut [u8],
    mut see: impl FnMut(&Frame<'_>),
) -> Poll<Result<Step, Fault>> {
    if down.sink_at_boundary()
        && let Some(words) = guard.take_words()
    {
        down.inject(&words);
    }
    down.poll_step(cx, streams, scratch, |frame| {
        see(&frame);
        guard.server_sent(&frame);
        ControlFlow::Continue(())
    })
}

impl Relay<'_> {
    /// Takes the next message, if the one before it was answered: what the answer tells may be that
    /// nothing more is to run.
    pub(super) fn poll_up_guarded(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Result<Poll<()>, RelayEnd> {
        let Some(guard) = &mut self.guard else {
            return Ok(Poll::Pending);
        };
        match self.up.poll_unstick(cx, self.server) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Ok(self.server_broke()),
        }
        if self.view.txn.owes() {
            // Its answer wakes us.
            return Ok(Poll::Pending);
        }
        match guard.next() {
            Next::Starved => self.poll_hear(cx, scratch),
            Next::GiveUp => Err(self.end(Cause::LeftReadOnly)),
            Next::Forward(bytes) => {
                let (view, meter) = (&mut self.view, self.meter);
                let see = |frame: Frame<'_>| view.see_client(&frame, meter);
                match self.up.pass(cx, self.server, &bytes, see) {
                    Ok(false) => Ok(Poll::Ready(())),
                    Ok(true) => self.leave(),
                    Err(Fault::Frame(error)) => self.leave().map_err(|end| RelayEnd {
                        cause: Cause::ClientBroke(error),
                        ..end
                    }),
                    Err(Fault::Read(_) | Fault::Write(_)) => Ok(self.server_broke()),
                }
            }
        }
    }

    /// Reads more of what the client says.
    fn poll_hear(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Result<Poll<()>, RelayEnd> {
        let read: Poll<io::Result<usize>> = self.up.poll_fill(cx, self.client, scratch);
        match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => self.leave(),
            Poll::Ready(Ok(read)) => {
                self.meter.count_received(read);
                if let Some(guard) = &mut self.guard {
                    guard.push(scratch.get(..read).unwrap_or_default());
                }
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) => Err(self.end(Cause::ClientLost(error))),
        }
    }

    fn server_broke(&mut self) -> Poll<()> {
        self.server_side = ServerSide::Broken;
        Poll::Ready(())
    }
}
