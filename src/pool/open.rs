//! A server is opened for the client in front: dial, log in, and a last look before it gets it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::cluster::{Epoch, Fact};
use crate::config::{NodeConfig, NodeName};

use super::checkout::{Pool, close_all};
use super::gate::Admission;
use super::info::StartupParams;
use super::lease::Lease;
use super::queue::OpenPermit;
use super::request::{CheckoutError, Request};
use super::server::{Dial, Server};

impl Pool {
    /// Opens a server and leases it. `None`: the gate moved meanwhile, or the node was not reached;
    /// the client goes back to its place. `epoch`: of the lead, if it is the lead's traffic.
    pub(super) async fn open(
        self: &Arc<Self>,
        request: &Request,
        node: Arc<NodeConfig>,
        epoch: Option<Epoch>,
        permit: OpenPermit,
    ) -> Result<Option<Lease>, CheckoutError> {
        let dial = self.dial_for(request, Arc::clone(&node));
        let dialer = self.shared.dialer();
        let mut moves = self.gate.bell().subscribe();
        let server = tokio::select! {
            result = Server::dial(self.shared.next_id(), dial, &dialer) => result,
            () = self.gate_moved(&mut moves, &node.name, epoch) => return Ok(None),
        };
        match server {
            Ok(server) => Ok(self.lease_opened(server, request, permit)),
            Err(error) if error.is_final() => Err(CheckoutError::Login(error)),
            Err(error) => {
                let node = &node.name;
                tracing::warn!(%node, error = %Chain(&error), "server login failed");
                self.shared.reports.tell(Fact::DialFailed {
                    node: node.clone(),
                    error: Chain(&error).to_string(),
                });
                self.give_a_rest(node);
                Ok(None)
            }
        }
    }

    /// The node did not let us in: nobody tries it again before `server_login_retry`.
    fn give_a_rest(&self, node: &NodeName) {
        let now = Instant::now();
        let retry_at = now + self.shared.config().general.server_login_retry;
        let mut state = self.lock();
        state.retries.retain(|_, at| *at > now);
        state.retries.insert(node.clone(), retry_at);
    }

    fn dial_for(&self, request: &Request, node: Arc<NodeConfig>) -> Dial {
        Dial {
            node,
            generation: self.database.generation(),
            dbname: self.database.dbname(),
            user: self.key.user.to_string(),
            secret: request.secret.clone(),
            params: self.shared_params(&request.params),
            read_only: self.is_read_only(),
        }
    }

    /// Clients of a pool mostly ask for the same: then they share one copy.
    fn shared_params(&self, wanted: &StartupParams) -> StartupParams {
        let mut state = self.lock();
        if state.last_params != *wanted {
            state.last_params = wanted.clone();
        }
        state.last_params.clone()
    }

    /// Returns when the gate is no longer open under `epoch`, or the node no longer fit for the
    /// route.
    async fn gate_moved(
        &self,
        moves: &mut watch::Receiver<u64>,
        node: &NodeName,
        epoch: Option<Epoch>,
    ) {
        let open = || match epoch {
            None => self.may_enter(node),
            Some(epoch) => match self.gate.admit(self.database.operator()) {
                Admission::Open { epoch: now, .. } => now == epoch,
                Admission::Hold | Admission::Refuse(_) => false,
            },
        };
        while open() {
            if moves.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The last look at the gate, under the pool's lock, is what makes a hold tight.
    fn lease_opened(
        self: &Arc<Self>,
        mut server: Server,
        request: &Request,
        permit: OpenPermit,
    ) -> Option<Lease> {
        let mut state = self.lock();
        state.retries.remove(&server.info.node.name);
        if state.last_parameters == server.parameters {
            server.parameters = state.last_parameters.clone();
        } else {
            state.last_parameters = server.parameters.clone();
        }
        let fits = self.may_enter(&server.info.node.name);
        let current = server.info.generation == self.database.generation();
        let lease = if fits && current && !state.removed {
            Some(self.lease(&mut state, server, request))
        } else {
            close_all(vec![server]);
            None
        };
        drop(state);
        drop(permit);
        lease
    }
}

/// An error with its causes, for a log line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
