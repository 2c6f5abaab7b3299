//! A server in a client's hands: the pool's entry of it, and the ways to give it back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::cluster::{Fact, Reports};
use crate::config::NodeName;
use crate::relay::{Meter, OrderCell, Telltale};
use crate::wire::error::SqlState;

use super::checkout::{Idle, Pool, State, close_all};
use super::gate::{Departed, Operator};
use super::info::ServerInfo;
use super::request::{ClientTag, Request};
use super::routed::Seat;
use super::server::{ResetError, Server};

/// What a server that is not idle is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A session has it.
    Session,
    /// It is being made fit for the next.
    Reset,
    /// Its session ended in the middle of something; the backend is being waited for.
    Burial,
}

#[derive(Debug)]
pub(super) struct Leased {
    pub(super) info: Arc<ServerInfo>,
    pub(super) client: Arc<ClientTag>,
    pub(super) order: Arc<OrderCell>,
    pub(super) meter: Arc<Meter>,
    pub(super) since: SystemTime,
    pub(super) phase: Use,
}

/// Reports what a server says to its client.
#[derive(Debug)]
struct Witness {
    reports: Reports,
    node: NodeName,
    may_write: bool,
}

impl Telltale for Witness {
    fn server_said(&self, sqlstate: SqlState) {
        // To a session that is read-only by its route any node says so.
        if self.may_write || sqlstate != SqlState::READ_ONLY_SQL_TRANSACTION {
            self.reports.tell(Fact::ServerSaid {
                node: self.node.clone(),
                sqlstate: sqlstate.to_string(),
            });
        }
    }

    fn server_promoted(&self) {
        self.reports.tell(Fact::Promoted {
            node: self.node.clone(),
        });
    }
}

impl Pool {
    /// Enters a lease into the books.
    pub(super) fn lease(
        self: &Arc<Self>,
        state: &mut State,
        server: Server,
        request: &Request,
    ) -> Lease {
        let telltale = Box::new(Witness {
            reports: self.shared.reports.clone(),
            node: server.info.node.name.clone(),
            may_write: !self.is_read_only(),
        });
        let meter = Arc::new(Meter::new(self.gate.bell(), telltale));
        let leased = Leased {
            info: Arc::clone(&server.info),
            client: Arc::clone(&request.client),
            order: Arc::clone(&request.order),
            meter: Arc::clone(&meter),
            since: SystemTime::now(),
            phase: Use::Session,
        };
        // Who has this process id now proves that whoever had it before is gone.
        self.gate.forget(&server.info.node.name, &[server.info.pid]);
        state.leased.insert(server.info.id, leased);
        state.totals.server_assignments += 1;
        let pool = Arc::clone(self);
        let booking = Booking {
            pool,
            info: Arc::clone(&server.info),
            fate: Fate::Abrupt,
            _seat: self.seat(&server.info.node.name),
        };
        Lease {
            server,
            meter,
            booking,
        }
    }
}

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// In the middle of something, as far as we know: the backend may still be running.
    Abrupt,
    /// At a safe point, or seen to be gone: nothing of it is left.
    Clean,
    /// Off the books already: the server is idle, or another client's by now.
    Returned,
}

/// A server in a client's hands.
#[derive(Debug)]
pub struct Lease {
    /// The connection.
    pub server: Server,
    /// What the session shows of itself.
    pub meter: Arc<Meter>,
    booking: Booking,
}

/// The pool's entry of a lease; dropping it strikes the entry out.
#[derive(Debug)]
struct Booking {
    pool: Arc<Pool>,
    info: Arc<ServerInfo>,
    fate: Fate,
    _seat: Option<Seat>,
}

impl Lease {
    pub(super) fn come_home(self) -> std::io::Result<Self> {
        let Self {
            server,
            meter,
            mut booking,
        } = self;
        // Until a client has sent something, there is nothing that could still be running.
        booking.fate = Fate::Clean;
        let server = server.come_home()?;
        booking.fate = Fate::Abrupt;
        Ok(Self {
            server,
            meter,
            booking,
        })
    }

    /// Gives a server back from a safe point: reset, then idle; or closed, if it is not wanted any
    /// more or does not come out of its reset as it should.
    pub async fn release(self) {
        let Self {
            mut server,
            meter,
            booking,
        } = self;
        booking.turn_to(Use::Reset);
        let config = booking.pool.shared.config();
        let general = &config.general;
        let wanted = booking.is_wanted(general.server_lifetime) && server.info.params.is_reusable();
        // A server that got nothing from its client is as it was.
        let query = if meter.read().received == 0 {
            ""
        } else {
            &general.server_reset_query
        };
        let fit = if wanted {
            server
                .reset(query, general.cancel_wait_timeout)
                .await
                .map(|()| true)
        } else {
            Ok(false)
        };
        match fit {
            Ok(true) => booking.give_back(server),
            Ok(false) => booking.close(server).await,
            Err(error) => {
                let node = &booking.info.node.name;
                tracing::warn!(%node, pid = booking.info.pid, %error, "closing server");
                match error {
                    ResetError::CancelPending => booking.close(server).await,
                    // The reset query, or what it answered instead of it, may still be running.
                    _ => booking.bury(server, false).await,
                }
            }
        }
    }

    /// Ends a server that stands at a safe point.
    pub async fn close(self) {
        let Self {
            server, booking, ..
        } = self;
        booking.close(server).await;
    }

    /// The server hung up first: its backend is gone.
    pub fn lost(self) {
        let Self { mut booking, .. } = self;
        booking.fate = Fate::Clean;
    }

    /// Ends a server in the middle of something. Its place in the pool is free only when its
    /// backend is gone or a minute is over; until then it is known as departed.
    pub async fn bury(self, at_boundary: bool) {
        let Self {
            server, booking, ..
        } = self;
        booking.bury(server, at_boundary).await;
    }

    /// The connection failed under a backend that may still be running: it is known as departed.
    pub fn abandon(self) {
        // What a booking says when it is dropped before its fate was known.
        debug_assert_eq!(self.booking.fate, Fate::Abrupt);
    }
}

impl Booking {
    fn turn_to(&self, phase: Use) {
        if let Some(leased) = self.pool.lock().leased.get_mut(&self.info.id) {
            leased.phase = phase;
        }
        self.pool.gate.ring();
    }

    fn is_wanted(&self, lifetime: Option<Duration>) -> bool {
        let database = &self.pool.database;
        // PAUSE is complete when there are no servers at all.
        database.operator() == Operator::Open
            && self.info.generation == database.generation()
            && lifetime.is_none_or(|lifetime| self.info.opened.elapsed() < lifetime)
            && self.pool.keeps(&self.info.node.name)
    }

    fn give_back(mut self, server: Server) {
        self.fate = Fate::Clean;
        let mut state = self.pool.lock();
        // Looked at again under the lock: RECONNECT, PAUSE or a switchover may have come meanwhile.
        if self.is_wanted(None) && !state.removed {
            self.strike(&mut state);
            self.fate = Fate::Returned;
            state.idle.push(Idle {
                server,
                since: Instant::now(),
            });
            state.wake_front();
        } else {
            drop(state);
            close_all(vec![server]);
        }
    }

    async fn bury(mut self, server: Server, at_boundary: bool) {
        self.turn_to(Use::Burial);
        if server.bury(at_boundary).await {
            self.fate = Fate::Clean;
        }
    }

    async fn close(mut self, server: Server) {
        self.fate = Fate::Clean;
        server.close().await;
    }

    /// Takes the lease off the books and keeps its counters.
    fn strike(&self, state: &mut State) {
        if let Some(leased) = state.leased.remove(&self.info.id) {
            state.totals.add(&leased.meter.read());
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        // Another lease of the same server has the same entry: it must not be struck out here.
        if self.fate != Fate::Returned {
            let mut state = self.pool.lock();
            self.strike(&mut state);
            state.wake_front();
        }
        match self.fate {
            Fate::Clean | Fate::Returned => self.pool.gate.ring(),
            // A switchover waits for nobody who is no traffic of the lead.
            Fate::Abrupt if self.pool.is_routed() => self.pool.gate.ring(),
            Fate::Abrupt => self.pool.gate.depart(Departed {
                node: self.info.node.name.clone(),
                pid: self.info.pid,
            }),
        }
    }
}
