//! Under which address whom reaches a node. A server listens on one loopback address for each of
//! its visitors (its *doors*), so that a packet's address says who speaks with whom, and
//! [`super::cut`] can part two of them while all others go on.
//!
//! The test itself comes through 127.0.0.1, which nobody ever cuts. Ports tell the nodes of
//! different tests apart: the same addresses serve all tests at the same time.

use std::net::{Ipv4Addr, SocketAddrV4};

/// An address and port of a node that one visitor uses and nobody else.
pub type Door = SocketAddrV4;

/// Instances of pgsluice that may have a door of their own.
pub const INSTANCES: u8 = 3;
/// Nodes that may have a door of their own: n1 to n9.
pub const NODES: u8 = 9;

/// Who comes to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visitor {
    /// An instance of pgsluice; the first one is 0.
    Instance(u8),
    /// Another node, by its number.
    Node(u8),
}

impl Visitor {
    /// Where this visitor finds the node of that number.
    pub fn address(self, node: u8) -> Ipv4Addr {
        let last = match self {
            Self::Instance(number) => 1 + number,
            Self::Node(number) => 100 + number,
        };
        Ipv4Addr::new(127, 77, node, last)
    }
}

/// The number in a node's name.
pub fn number(name: &str) -> u8 {
    let number = name
        .strip_prefix('n')
        .and_then(|digits| digits.parse().ok());
    number
        .filter(|number| (1..=NODES).contains(number))
        .unwrap_or_else(|| panic!("a node is called n1 to n{NODES}, not {name}"))
}

/// All addresses that a node listens on.
pub fn listen_addresses(node: u8) -> Vec<Ipv4Addr> {
    let instances = (0..INSTANCES).map(Visitor::Instance);
    let nodes = (1..=NODES)
        .filter(|&other| other != node)
        .map(Visitor::Node);
    std::iter::once(Ipv4Addr::LOCALHOST)
        .chain(instances.chain(nodes).map(|visitor| visitor.address(node)))
        .collect()
}
