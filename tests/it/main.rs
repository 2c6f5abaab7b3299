//! Integration tests on real PostgreSQL servers.

#[path = "../harness/mod.rs"]
mod harness;

mod oracle;
mod servers;
