//! PgBouncer's tables of what there is none of here: its tools ask for them all the same.

use super::super::Console;
use super::{Col, int4, int8, text};

/// A row that there never is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Never {}

pub(super) fn nothing(_: &Console) -> Vec<Never> {
    Vec::new()
}

pub(super) const MEM: &[Col<Never>] = &[
    text("name", |never| match *never {}),
    int4("size", |never| match *never {}),
    int4("used", |never| match *never {}),
    int4("free", |never| match *never {}),
    int4("memtotal", |never| match *never {}),
];

pub(super) const PEERS: &[Col<Never>] = &[
    int4("peer_id", |never| match *never {}),
    text("host", |never| match *never {}),
    int4("port", |never| match *never {}),
    int4("pool_size", |never| match *never {}),
];

pub(super) const PEER_POOLS: &[Col<Never>] = &[
    int4("peer_id", |never| match *never {}),
    int4("cl_active_cancel_req", |never| match *never {}),
    int4("cl_waiting_cancel_req", |never| match *never {}),
    int4("sv_active_cancel", |never| match *never {}),
    int4("sv_login", |never| match *never {}),
];

pub(super) const DNS_HOSTS: &[Col<Never>] = &[
    text("hostname", |never| match *never {}),
    int8("ttl", |never| match *never {}),
    text("addrs", |never| match *never {}),
];

pub(super) const DNS_ZONES: &[Col<Never>] = &[
    text("zonename", |never| match *never {}),
    int8("serial", |never| match *never {}),
    int4("count", |never| match *never {}),
];
