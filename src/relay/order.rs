//! What a session is told from outside: go on, park, stop.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// Why a session is stopped. Decides SQLSTATE and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StopReason {
    /// The lead moved by a planned switchover.
    Switchover = 1,
    /// The node was given up by a failover.
    Failover,
    /// RECONNECT; PAUSE.
    Reconnect,
    /// KILL of its database.
    Kill,
    /// `KILL_CLIENT`.
    KillClient,
    /// The instance goes down.
    Shutdown,
    /// Its database left the configuration.
    DatabaseRemoved,
    /// It was in the way of a switchover with `ON DRAIN TIMEOUT terminate`.
    DrainTimeout,
}

impl StopReason {
    const ALL: [Self; 8] = [
        Self::Switchover,
        Self::Failover,
        Self::Reconnect,
        Self::Kill,
        Self::KillClient,
        Self::Shutdown,
        Self::DatabaseRemoved,
        Self::DrainTimeout,
    ];
}

/// One order at a time, the strongest wins: go on < park < stop at the safe point < stop now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Relay.
    GoOn,
    /// At the next safe point take nothing more from the client, and wait. Lifted by
    /// [`OrderCell::lift_park`], or raised to a stop.
    Park,
    /// End at the next safe point.
    StopWhenSafe(StopReason),
    /// End now.
    StopNow(StopReason),
}

impl Order {
    const fn encode(self) -> u32 {
        match self {
            Self::GoOn => 0,
            Self::Park => 1 << 8,
            Self::StopWhenSafe(reason) => 2 << 8 | reason as u32,
            Self::StopNow(reason) => 3 << 8 | reason as u32,
        }
    }

    fn decode(word: u32) -> Self {
        let reason = || {
            let wanted = word & 0xFF;
            StopReason::ALL
                .into_iter()
                .find(|r| *r as u32 == wanted)
                .unwrap_or(StopReason::Shutdown)
        };
        match word >> 8 {
            0 => Self::GoOn,
            1 => Self::Park,
            2 => Self::StopWhenSafe(reason()),
            _ => Self::StopNow(reason()),
        }
    }

    const fn strength(word: u32) -> u32 {
        word >> 8
    }
}

/// Where a session finds its order. Reading it costs one atomic load; whoever gives an order wakes
/// the session.
#[derive(Debug, Default)]
pub struct OrderCell {
    word: AtomicU32,
    waker: Mutex<Option<Waker>>,
}

impl OrderCell {
    /// The order that holds.
    pub fn get(&self) -> Order {
        Order::decode(self.word.load(Ordering::Acquire))
    }

    /// Gives an order; a weaker one than what holds is ignored.
    pub fn raise(&self, order: Order) {
        let new = order.encode();
        let raised = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                (Order::strength(new) > Order::strength(old)).then_some(new)
            });
        if raised.is_ok() {
            self.wake();
        }
    }

    /// Park → go on. Any stop stays.
    pub fn lift_park(&self) {
        let (park, go_on) = (Order::Park.encode(), Order::GoOn.encode());
        let lifted = self
            .word
            .compare_exchange(park, go_on, Ordering::AcqRel, Ordering::Acquire);
        if lifted.is_ok() {
            self.wake();
        }
    }

    /// Who is to be woken by the next order. The caller looks at [`OrderCell::get`] again
    /// afterwards: an order given in between woke nobody.
    pub fn register(&self, waker: &Waker) {
        let mut slot = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_mut() {
            Some(old) => old.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
