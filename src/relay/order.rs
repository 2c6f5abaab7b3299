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
    /// Its node is no longer fit for its route: it lags, or is drained.
    Unfit,
    /// Its node is out of service, and its route goes elsewhere.
    NodeLost,
}

impl StopReason {
    const ALL: [Self; 10] = [
        Self::Switchover,
        Self::Failover,
        Self::Reconnect,
        Self::Kill,
        Self::KillClient,
        Self::Shutdown,
        Self::DatabaseRemoved,
        Self::DrainTimeout,
        Self::Unfit,
        Self::NodeLost,
    ];
}

/// Number of a hold: a session parked for an earlier hold does not count as parked for this one.
/// Never 0; wraps around after sixteen million holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldId(u32);

impl HoldId {
    const MASK: u32 = 0x00FF_FFFF;

    /// The first.
    pub const FIRST: Self = Self(1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 & Self::MASK).wrapping_add(1).clamp(1, Self::MASK))
    }

    /// For an atomic; 0 stands for "not parked".
    pub fn get(self) -> u32 {
        self.0
    }
}

/// One order at a time, the strongest wins: go on < park < stop at the safe point < stop now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Relay.
    GoOn,
    /// At the next safe point take nothing more from the client, and wait. Lifted by
    /// [`OrderCell::lift_park`], or raised to a stop.
    Park(HoldId),
    /// End at the next safe point.
    StopWhenSafe(StopReason),
    /// End now.
    StopNow(StopReason),
}

impl Order {
    /// Strength of [`Order::Park`].
    const PARK: u32 = 1;

    const fn encode(self) -> u32 {
        match self {
            Self::GoOn => 0,
            Self::Park(hold) => 1 << 24 | hold.0,
            Self::StopWhenSafe(reason) => 2 << 24 | reason as u32,
            Self::StopNow(reason) => 3 << 24 | reason as u32,
        }
    }

    fn decode(word: u32) -> Self {
        let payload = word & HoldId::MASK;
        let reason = || {
            StopReason::ALL
                .into_iter()
                .find(|r| *r as u32 == payload)
                .unwrap_or(StopReason::Shutdown)
        };
        match word >> 24 {
            0 => Self::GoOn,
            1 => Self::Park(HoldId(payload)),
            2 => Self::StopWhenSafe(reason()),
            _ => Self::StopNow(reason()),
        }
    }

    const fn strength(word: u32) -> u32 {
        word >> 24
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

    /// Gives an order; a weaker one than what holds is ignored. A hold takes over from a hold.
    pub fn raise(&self, order: Order) {
        let new = order.encode();
        let raised = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                let (is, was) = (Order::strength(new), Order::strength(old));
                (is > was || is == Order::PARK && was == Order::PARK).then_some(new)
            });
        if raised.is_ok() {
            self.wake();
        }
    }

    /// Park → go on. Any stop stays.
    pub fn lift_park(&self) {
        let lifted = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                matches!(Order::decode(old), Order::Park(_)).then_some(Order::GoOn.encode())
            });
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

#[cfg(test)]
mod tests {
    use super::{HoldId, Order, OrderCell, StopReason};

    #[test]
    fn the_stronger_order_wins() {
        let cell = OrderCell::default();
        assert_eq!(cell.get(), Order::GoOn);
        cell.raise(Order::Park(HoldId::FIRST));
        assert_eq!(cell.get(), Order::Park(HoldId::FIRST));
        cell.raise(Order::Park(HoldId::FIRST.next()));
        assert_eq!(cell.get(), Order::Park(HoldId::FIRST.next()));
        cell.lift_park();
        assert_eq!(cell.get(), Order::GoOn);
        cell.raise(Order::StopWhenSafe(StopReason::Switchover));
        cell.raise(Order::Park(HoldId::FIRST.next()));
        assert_eq!(cell.get(), Order::StopWhenSafe(StopReason::Switchover));
        cell.lift_park();
        assert_eq!(cell.get(), Order::StopWhenSafe(StopReason::Switchover));
        cell.raise(Order::StopNow(StopReason::KillClient));
        assert_eq!(cell.get(), Order::StopNow(StopReason::KillClient));
    }

    #[test]
    fn a_hold_id_is_never_zero() {
        let mut id = HoldId(HoldId::MASK - 1);
        for _ in 0..3 {
            id = id.next();
            assert!((1..=HoldId::MASK).contains(&id.get()), "{id:?}");
        }
    }
}
