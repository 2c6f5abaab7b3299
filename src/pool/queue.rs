//! The queue of a pool: places, and the right to open a server. Both are given up when dropped.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use crate::config::NodeName;

use super::checkout::Pool;
use super::gate::Dialing;
use super::routed::Seat;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) since: Instant,
    pub(super) turn: Arc<Notify>,
}

/// A client's place in the queue, given up when dropped.
pub(super) struct Queued {
    pool: Arc<Pool>,
    pub(super) number: u64,
    turn: Arc<Notify>,
    since: Instant,
}

impl Queued {
    pub(super) fn join(pool: &Arc<Pool>) -> Self {
        let mut state = pool.lock();
        let number = state.next_place;
        state.next_place += 1;
        let (turn, since) = (Arc::new(Notify::new()), Instant::now());
        state.queue.push_back(Place {
            number,
            since,
            turn: Arc::clone(&turn),
        });
        drop(state);
        Self {
            pool: Arc::clone(pool),
            number,
            turn,
            since,
        }
    }

    /// Back to the place where it stood: before all that came later.
    pub(super) fn rejoin(&self) {
        let mut state = self.pool.lock();
        let place = Place {
            number: self.number,
            since: self.since,
            turn: Arc::clone(&self.turn),
        };
        let at = state
            .queue
            .partition_point(|other| other.number < self.number);
        state.queue.insert(at, place);
        state.wake_front();
    }

    pub(super) async fn wait(&self, until: Option<Instant>) {
        match until {
            Some(until) => {
                let _ = tokio::time::timeout_at(until.into(), self.turn.notified()).await;
            }
            None => self.turn.notified().await,
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.leave(self.number);
        state.wake_front();
    }
}

/// The right to open one server, counted against the pool's size while it lives.
pub(super) struct OpenPermit {
    pool: Arc<Pool>,
    /// A switchover waits for it, if it is for the lead's traffic.
    _dialing: Option<Dialing>,
    /// The next choice of a node goes by it, if there is one.
    _seat: Option<Seat>,
}

impl OpenPermit {
    /// The caller has counted it in the pool's state.
    pub(super) fn new(pool: &Arc<Pool>, node: &NodeName) -> Self {
        let is_lead = !pool.is_routed();
        Self {
            pool: Arc::clone(pool),
            _dialing: is_lead.then(|| Dialing::new(&pool.gate)),
            _seat: pool.seat(node),
        }
    }
}

impl Drop for OpenPermit {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.dialing -= 1;
        state.wake_front();
    }
}
