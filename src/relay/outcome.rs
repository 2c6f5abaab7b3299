//! How a relay ended, and in which state it left both sides.

use std::io;

use crate::wire::frame::FrameError;

use super::order::StopReason;
use super::txn::InFlight;

/// Who or what ended a relay.
#[derive(Debug)]
pub enum Cause {
    /// The client said goodbye or closed its connection.
    ClientLeft,
    /// The client's connection failed.
    ClientLost(io::Error),
    /// The client does not speak the protocol.
    ClientBroke(FrameError),
    /// The server closed the connection or it failed.
    ServerLost(Option<io::Error>),
    /// The server does not speak the protocol.
    ServerBroke(FrameError),
    /// An order.
    Stopped(StopReason),
    /// It has left read-only mode, or could not be kept in it.
    LeftReadOnly,
}

/// In which state the server is left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// At a safe point.
    Safe,
    /// In a transaction or with a query running; `at_boundary`: it can be told Terminate.
    Busy {
        /// Does what was sent to it end where a message ends?
        at_boundary: bool,
    },
    /// It hung up: its backend has ended.
    Gone,
    /// The connection failed (reset, timed out): the backend may still be running.
    Unreachable,
}

/// How a relay ended.
#[derive(Debug)]
pub struct RelayEnd {
    /// Who or what.
    pub cause: Cause,
    /// The server's state.
    pub server: Leftover,
    /// Does what the client got end where a message ends, so that it can be told an error?
    pub client_at_boundary: bool,
    /// Was the server's own last message an error, passed on whole?
    pub told: bool,
    /// What became of the work that was in flight.
    pub in_flight: InFlight,
}
