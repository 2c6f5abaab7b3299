//! The zero-copy core: two streams and an order.
//!
//! Both directions live in one future ([`relay`]) and are polled together: a byte never crosses a
//! task or a channel. The relay knows no pools, databases or reasons; it is told go on, park or
//! stop through an [`OrderCell`], and returns how it ended.

mod guard;
mod guarded;
mod meter;
mod order;
mod outcome;
mod pump;
mod txn;

pub use guard::Guard;
pub use meter::{Meter, Reading, Telltale};
pub use order::{HoldId, Order, OrderCell, StopReason};
pub use outcome::{Cause, Leftover, RelayEnd};
pub use txn::{Activity, InFlight, Txn};

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::net::Stream;
use crate::wire::frame::Frame;
use crate::wire::message::TxStatus;
use crate::wire::tag;

use pump::{Fault, Pump, Step};

/// Read buffer of a worker thread, shared by its sessions: each uses it only while it is polled,
/// so nobody ever waits for it. 256 KiB is where bulk transfer stops getting cheaper.
#[derive(Debug)]
pub struct Scratch(Mutex<Box<[u8]>>);

/// Bytes read at once.
const SCRATCH_BYTES: usize = 256 * 1024;

impl Default for Scratch {
    fn default() -> Self {
        Self(Mutex::new(vec![0; SCRATCH_BYTES].into_boxed_slice()))
    }
}

/// Two ends, and what governs them.
#[derive(Debug)]
pub struct Relay<'a> {
    client: &'a mut Stream,
    server: &'a mut Stream,
    order: &'a OrderCell,
    meter: &'a Meter,
    up: Pump,
    down: Pump,
    view: View,
    client_side: ClientSide,
    server_side: ServerSide,
    /// Of a session that cannot write.
    guard: Option<Box<Guard>>,
    /// Whom an order wakes.
    registered: Option<Waker>,
}

/// What headers have told.
#[derive(Debug, Default)]
struct View {
    txn: Txn,
    /// Type of the last message from the server.
    last_tag: u8,
    /// When the unanswered query, and the transaction, began (microseconds of the meter).
    query_from_us: Option<u64>,
    xact_from_us: Option<u64>,
}

/// Where bytes from the client stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientSide {
    /// Taken as they come.
    Flowing,
    /// Left where they are, until the order changes.
    Parked,
    /// It said Terminate or closed its side; what it asked before is still answered.
    Leaving,
}

/// May anything still be written to the server?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerSide {
    Open,
    /// A write failed: it is gone, but its last words may still be there to read.
    Broken,
}

/// Relays until one side ends or an order says so. `received` is what the client sent before;
/// `guard`: the session cannot write.
///
/// # Cancel safety
/// Not cancel safe: bytes that one side has not taken would be lost. Use the order.
pub async fn relay(
    (client, server): (&mut Stream, &mut Stream),
    (received, guard): (Bytes, Option<Box<Guard>>),
    order: &OrderCell,
    meter: &Meter,
    scratch: &Scratch,
) -> RelayEnd {
    let mut relay = Relay {
        client,
        server,
        order,
        meter,
        up: Pump::with_received(received),
        down: Pump::default(),
        view: View::default(),
        client_side: ClientSide::Flowing,
        server_side: ServerSide::Open,
        guard,
        registered: None,
    };
    poll_fn(|cx| {
        let mut scratch = scratch.0.lock().unwrap_or_else(PoisonError::into_inner);
        relay.poll(cx, &mut scratch)
    })
    .await
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<RelayEnd> {
        // A task keeps its waker for life, so this happens once; a combinator may bring another.
        let known = self.registered.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.order.register(cx.waker());
            self.registered = Some(cx.waker().clone());
        }
        match self.run(cx, scratch) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Moves bytes until nothing moves.
    fn run(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<(), RelayEnd> {
        loop {
            let down = self.poll_down(cx, scratch)?;
            self.obey()?;
            let up = self.poll_up(cx, scratch)?;
            if down.is_pending() && up.is_pending() {
                return Ok(());
            }
        }
    }

    /// Looks at the order before anything more is taken from the client.
    fn obey(&mut self) -> Result<(), RelayEnd> {
        match self.order.get() {
            Order::GoOn => {
                if self.client_side == ClientSide::Parked {
                    self.client_side = ClientSide::Flowing;
                    self.meter.set_parked(None);
                }
            }
            Order::Park(hold) => {
                if self.client_side == ClientSide::Flowing && self.is_safe() {
                    self.client_side = ClientSide::Parked;
                }
                if self.client_side == ClientSide::Parked {
                    self.meter.set_parked(Some(hold));
                }
            }
            Order::StopWhenSafe(reason) if self.is_safe() => {
                return Err(self.end(Cause::Stopped(reason)));
            }
            Order::StopWhenSafe(_) => {}
            Order::StopNow(reason) => return Err(self.end(Cause::Stopped(reason))),
        }
        Ok(())
    }

    /// Nothing unanswered and no message cut in either direction.
    fn is_safe(&self) -> bool {
        self.server_side == ServerSide::Open
            && self.view.txn.is_safe()
            && self.up.sink_at_boundary()
            && self.down.at_boundary()
    }

    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Result<Poll<()>, RelayEnd> {
        // Asked at each step: a server that answers with COPY IN waits for a client that is gone.
        if self.client_side == ClientSide::Leaving && !self.view.txn.answers_come() {
            return self.finish_leaving(cx);
        }
        let (view, meter) = (&mut self.view, self.meter);
        let streams = (&mut *self.server, &mut *self.client);
        let step = match &mut self.guard {
            None => self.down.poll_step(cx, streams, scratch, |frame| {
                view.see_server(&frame, meter);
                ControlFlow::Continue(())
            }),
            Some(guard) => {
                guarded::poll_down(guard, &mut self.down, cx, streams, scratch, |frame| {
                    view.see_server(frame, meter);
                })
            }
        };
        if self.guard.as_ref().is_some_and(|guard| guard.has_left()) {
            return Err(self.end(Cause::LeftReadOnly));
        }
        match step {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(Step::Moved { read, .. })) => {
                self.meter.count_sent(read);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(Step::Ended)) => Err(self.end(Cause::ServerLost(None))),
            Poll::Ready(Err(Fault::Read(error))) => Err(self.end(Cause::ServerLost(Some(error)))),
            Poll::Ready(Err(Fault::Write(error))) => Err(self.end(Cause::ClientLost(error))),
            Poll::Ready(Err(Fault::Frame(error))) => Err(self.end(Cause::ServerBroke(error))),
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<Poll<()>, RelayEnd> {
        match (self.client_side, self.server_side) {
            (ClientSide::Flowing, ServerSide::Open) if self.guard.is_some() => {
                return self.poll_up_guarded(cx, scratch);
            }
            (ClientSide::Flowing, ServerSide::Open) => {}
            (ClientSide::Leaving, ServerSide::Open) => return Ok(self.poll_last_requests(cx)),
            _ => return Ok(Poll::Pending),
        }
        let (view, meter) = (&mut self.view, self.meter);
        let streams = (&mut *self.client, &mut *self.server);
        let step = self
            .up
            .poll_step(cx, streams, scratch, |frame| view.see_client(&frame, meter));
        match step {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(Step::Moved { read, refused })) => {
                self.meter.count_received(read);
                if refused {
                    self.leave()
                } else {
                    Ok(Poll::Ready(()))
                }
            }
            Poll::Ready(Ok(Step::Ended)) => self.leave(),
            Poll::Ready(Err(Fault::Read(error))) => Err(self.end(Cause::ClientLost(error))),
            Poll::Ready(Err(Fault::Write(_))) => {
                self.server_side = ServerSide::Broken;
                Ok(Poll::Ready(()))
            }
            // What it asked before is answered, as PostgreSQL does.
            Poll::Ready(Err(Fault::Frame(error))) => self.leave().map_err(|end| RelayEnd {
                cause: Cause::ClientBroke(error),
                ..end
            }),
        }
    }

    /// The client has left, but the server has not taken all that it asked.
    fn poll_last_requests(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.up.poll_unstick(cx, self.server).map_err(drop) == Poll::Ready(Err(())) {
            self.server_side = ServerSide::Broken;
        }
        // There is nothing to be moved after it.
        Poll::Pending
    }

    /// The client asks nothing more. What it asked is answered first, as PostgreSQL does; but a
    /// server that waits for more of the client's data would wait for ever.
    fn leave(&mut self) -> Result<Poll<()>, RelayEnd> {
        let answers_come = self.view.txn.answers_come() && self.up.source_at_boundary();
        if !answers_come {
            return Err(self.end(Cause::ClientLeft));
        }
        self.client_side = ClientSide::Leaving;
        Ok(Poll::Ready(()))
    }

    /// The last answer was read; it must also reach the client.
    fn finish_leaving(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, RelayEnd> {
        match self.down.poll_unstick(cx, self.client) {
            Poll::Ready(Ok(())) => Err(self.end(Cause::ClientLeft)),
            Poll::Ready(Err(error)) => Err(self.end(Cause::ClientLost(error))),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn end(&mut self, cause: Cause) -> RelayEnd {
        let server = match cause {
            Cause::ServerLost(None) => Leftover::Gone,
            Cause::ServerLost(Some(_)) => Leftover::Unreachable,
            Cause::ServerBroke(_) => Leftover::Busy { at_boundary: false },
            // Whatever it is at, nobody else shall have it.
            Cause::LeftReadOnly => Leftover::Busy {
                at_boundary: self.up.sink_at_boundary(),
            },
            _ if self.is_safe() => Leftover::Safe,
            _ => Leftover::Busy {
                at_boundary: self.up.sink_at_boundary(),
            },
        };
        let client_at_boundary = self.down.sink_at_boundary();
        RelayEnd {
            cause,
            server,
            client_at_boundary,
            told: client_at_boundary && self.view.last_tag == tag::server::ERROR,
            in_flight: match self.guard {
                // There is nothing whose fate anybody must know.
                Some(_) => InFlight::Nothing,
                None => self.view.txn.in_flight(),
            },
        }
    }
}

impl View {
    fn see_client(&mut self, frame: &Frame<'_>, meter: &Meter) -> ControlFlow<()> {
        if frame.tag == tag::client::TERMINATE {
            return ControlFlow::Break(());
        }
        let before = self.txn.activity();
        let whole = frame.head.len() == frame.body_len as usize;
        self.txn.client_sent(frame.tag, frame.head, whole);
        if before != Activity::Active && self.txn.activity() == Activity::Active {
            let now = meter.now_us();
            self.query_from_us.get_or_insert(now);
            self.xact_from_us.get_or_insert(now);
            meter.set_activity(Activity::Active, now);
        }
        ControlFlow::Continue(())
    }

    fn see_server(&mut self, frame: &Frame<'_>, meter: &Meter) {
        self.last_tag = frame.tag;
        if frame.tag != tag::server::READY_FOR_QUERY {
            match frame.tag {
                tag::server::ERROR => meter.note_error(frame.head),
                tag::server::PARAMETER_STATUS => meter.note_parameter(frame.head),
                _ => {}
            }
            self.txn.server_sent(frame.tag);
            return;
        }
        // An unknown status is a broken server: the transaction's end cannot be known any more.
        let status = frame.head.first().copied().and_then(TxStatus::from_byte);
        self.txn.ready(status.unwrap_or(TxStatus::Failed));
        let now = meter.now_us();
        let began = self.query_from_us.take().unwrap_or(now);
        meter.count_query(now.saturating_sub(began));
        if status == Some(TxStatus::Idle) {
            let began = self.xact_from_us.take().unwrap_or(now);
            meter.count_xact(now.saturating_sub(began));
        }
        let activity = self.txn.activity();
        if activity == Activity::Active {
            self.query_from_us = Some(now);
            self.xact_from_us.get_or_insert(now);
        }
        meter.set_activity(activity, now);
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
