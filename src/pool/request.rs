//! What a client asks a pool for, and why it may not get it.

use std::sync::Arc;

use crate::auth::Verifier;
use crate::config::{DatabaseName, UserName};
use crate::relay::OrderCell;

use super::info::StartupParams;
use super::server::DialError;

/// Whose server connections these are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Database as clients name it.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
}

/// Who asks, for lists and for naming a blocker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTag {
    /// Unique among clients and servers.
    pub id: u64,
    /// Its address, `unix` for a Unix socket.
    pub addr: String,
    /// From its startup packet.
    pub application_name: String,
}

/// What a client needs.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub client: Arc<ClientTag>,
    /// What the server must have been started with.
    pub params: StartupParams,
    /// How to log in if a server must be opened.
    pub secret: Option<Verifier>,
    /// Where the session takes its orders from.
    pub order: Arc<OrderCell>,
}

/// Why a client got no server.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The cluster cannot be served: 57P03.
    #[error("{0}")]
    Refused(Arc<str>),
    /// The server refused the login in its own words.
    #[error(transparent)]
    Login(DialError),
}
