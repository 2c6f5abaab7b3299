//! Periodic policy: lifetimes, idle times, servers that died while idle.

use std::time::{Duration, Instant};

use crate::relay::{Order, StopReason};

use super::Pools;
use super::checkout::{Idle, Pool, close_all};
use super::server::Server;

/// Between two rounds; PgBouncer does its full maintenance three times a second.
pub const ROUND: Duration = Duration::from_millis(333);

impl Pools {
    /// One round over all pools. Never waits for a server.
    pub fn tidy_up(&self) {
        self.forget_removed();
        let config = self.config();
        let general = &config.general;
        let now = Instant::now();
        let over = |limit: Option<Duration>, since: Instant| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        for pool in self.all() {
            pool.close_idle_if(|idle| {
                over(general.server_idle_timeout, idle.since)
                    || over(general.server_lifetime, idle.server.info.opened)
                    || !idle.server.is_quiet()
            });
        }
    }
}

impl Pool {
    /// Idle servers of an older generation go at once.
    pub(super) fn close_stale(&self) {
        let generation = self.database.generation();
        self.close_idle_if(|idle| idle.server.info.generation != generation);
    }

    /// The database left the configuration.
    pub(super) fn remove(&self) {
        self.lock().removed = true;
        // Wakes the queue too, whose clients are refused one after another.
        self.close_idle_if(|_| true);
        for leased in self.lock().leased.values() {
            leased
                .order
                .raise(Order::StopNow(StopReason::DatabaseRemoved));
        }
    }

    /// A server that was logged in ahead of its use.
    pub(super) fn add_idle(&self, server: Server) {
        let mut state = self.lock();
        if state.removed {
            drop(state);
            return close_all(vec![server]);
        }
        state.idle.push(Idle {
            server,
            since: Instant::now(),
        });
        state.wake_front();
    }
}
