//! One client connection from its first byte to its last.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::config::{DatabaseName, UserName};

/// All clients of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients;

/// One row of SHOW CLIENTS.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientSnapshot {
    /// Unique among clients and servers.
    pub id: u64,
    /// Database.
    pub database: DatabaseName,
    /// User.
    pub user: UserName,
    /// `active`, `idle`, `waiting`, `login`.
    pub state: &'static str,
    /// Remote address; `None` for a Unix socket.
    pub addr: Option<IpAddr>,
    /// Remote port.
    pub port: u16,
    /// Our address.
    pub local_addr: Option<IpAddr>,
    /// Our port.
    pub local_port: u16,
    /// When it came.
    pub connect_time: SystemTime,
    /// When its last request came.
    pub request_time: SystemTime,
    /// How long it has been waiting for a server, in microseconds.
    pub wait_us: u64,
    /// Will be closed at the next safe point?
    pub close_needed: bool,
    /// The server it has.
    pub link: Option<u64>,
    /// Backend pid of that server.
    pub remote_pid: Option<i32>,
    /// From its startup packet.
    pub application_name: String,
    /// In a transaction?
    pub in_transaction: bool,
}

impl Clients {
    /// SHOW CLIENTS.
    pub fn list(&self) -> Vec<ClientSnapshot> {
        unimplemented!()
    }

    /// `KILL_CLIENT`: `false` if there is none with that id.
    pub fn kill(&self, id: u64) -> bool {
        let _ = id;
        unimplemented!()
    }
}
