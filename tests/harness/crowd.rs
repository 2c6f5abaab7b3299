//! Clients that take every connection of a node.

use tokio_postgres::Client;

use super::client::{APP, DATABASE};
use super::node::Node;

/// Idle clients of the application that hold a connection slot each. They leave when dropped.
#[derive(Debug)]
pub struct Crowd {
    clients: Vec<Client>,
}

impl Crowd {
    /// Takes all ordinary connection slots of the node that are free: a superuser still gets in.
    /// Quick where `max_connections` is small.
    pub async fn fill(node: &Node) -> Self {
        let mut clients = Vec::new();
        loop {
            match node.connect_as(APP, DATABASE).await {
                Ok(client) => clients.push(client),
                Err(error) => {
                    let refused = error.code().map(|code| code.code().to_owned());
                    assert_eq!(refused.as_deref(), Some("53300"), "{error:?}");
                    return Self { clients };
                }
            }
        }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// All leave. The server has noticed a moment later.
    pub fn leave(self) {
        drop(self);
    }
}
