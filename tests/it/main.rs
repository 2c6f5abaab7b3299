//! Integration tests on real PostgreSQL servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../harness/mod.rs"]
mod harness;

mod abort;
mod bad_input;
mod bdr;
mod cancel;
mod console;
mod console_cluster;
mod crash;
mod drivers;
mod events;
mod front;
mod health;
mod health_checks;
mod health_disk;
mod health_monitor;
mod health_network;
mod lab;
mod oracle;
mod pooling;
mod read_only;
mod replication;
mod repmgr;
mod routes;
mod servers;
mod signals;
mod stress;
mod survival;
mod switchover;
mod tool;
mod transparency;
mod twins;
mod worldwide;
