//! Integration tests on real PostgreSQL servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../harness/mod.rs"]
mod harness;

mod oracle;
mod servers;
mod switchover;
