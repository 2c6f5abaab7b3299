//! Integration tests on real PostgreSQL servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../harness/mod.rs"]
mod harness;

mod bad_input;
mod cancel;
mod front;
mod oracle;
mod pooling;
mod servers;
mod switchover;
mod transparency;
