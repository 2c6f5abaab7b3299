#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::{Col, TABLES, cluster, columns, pooler, rows};
use crate::admin::answer::text_form;
use crate::cluster::{Behind, ClusterView, Epoch, LinkView, NodeView, Observed, Role, Wanted};
use crate::config::{Candidate, ClusterName, DatabaseName, NodeName, UserName};
use crate::lsn::Lsn;
use crate::session::ClientSnapshot;
use crate::wire::message::ColumnType;

/// Names, order and types are what other people's dashboards are built on.
#[test]
fn headers_are_as_recorded() {
    let mut headers = String::new();
    for table in TABLES {
        writeln!(headers, "{}", table.name).unwrap();
        for column in table.columns() {
            let kind = match column.kind {
                ColumnType::Bool => "bool",
                ColumnType::Int4 => "int4",
                ColumnType::Int8 => "int8",
                ColumnType::Numeric => "numeric",
                ColumnType::Text => "text",
            };
            writeln!(headers, "  {}:{kind}", column.name).unwrap();
        }
    }
    let recorded = include_str!("../../../tests/fixtures/golden/show_headers.txt");
    assert_eq!(headers, recorded);
}

fn shown<R>(parts: &[&[Col<R>]], row: R) -> Vec<String> {
    let names = columns(parts);
    let values = rows(parts, &[row]);
    names
        .iter()
        .zip(&values[0])
        .map(|(column, value)| format!("{}={}", column.name, text_form(value)))
        .collect()
}

fn node(name: &str) -> NodeView {
    NodeView {
        name: NodeName::new(name),
        host: "10.0.0.2".to_owned(),
        port: 5432,
        priority: 90,
        candidate: Candidate::Auto,
        role: Role::Shadow,
        wanted: Wanted::Drain,
        observed: Observed::Up,
        since: UNIX_EPOCH,
        reason: String::new(),
        condition: "",
        fence: None,
        maintenance_since: None,
        server_version: Some(160_002),
        system_identifier: None,
        in_recovery: Some(false),
        lsn: Some(Lsn(0x1_0000_00AB)),
        probe_us: Some(700),
        bdr: None,
    }
}

#[test]
fn a_node_shows_its_lag_behind_the_lead() {
    let link = |from: &str, lag| LinkView {
        lag_bytes: Some(lag),
        behind: Behind::Nothing,
        ..LinkView::streaming(from, "n2")
    };
    let view = ClusterView {
        name: ClusterName::new("main"),
        epoch: Epoch(3),
        lead: Some(NodeName::new("n1")),
        lead_since: None,
        lead_reason: "initial".to_owned(),
        previous: None,
        clients: "served",
        clients_why: String::new(),
        operation: None,
        nodes: vec![node("n2")],
        links: vec![link("n3", 1), link("n1", 4096)],
        slots: Vec::new(),
    };
    let node = cluster::Node {
        view: view.nodes[0].clone(),
        cluster: Arc::new(view),
    };
    let shown = shown(&[cluster::NODES], node);
    assert_eq!(
        shown[..12].join(" "),
        "node=n2 cluster=main host=10.0.0.2 port=5432 role=shadow wanted=drain observed=up \
         since=1970-01-01 00:00:00 UTC lag_bytes=4096 lsn=1/AB reason= replication=streaming"
    );
    assert!(shown.contains(&"lag_seconds=0.000".to_owned()), "{shown:?}");
}

#[test]
fn what_is_not_known_of_a_link_is_null_and_never_0() {
    let unknown = LinkView {
        state: "hidden".to_owned(),
        ..LinkView::streaming("n1", "n2")
    };
    let link = cluster::Link {
        cluster: "main".to_owned(),
        view: unknown,
    };
    let known: Vec<_> = shown(&[cluster::REPLICATION], link)
        .into_iter()
        .filter(|column| !column.ends_with('='))
        .collect();
    assert_eq!(
        known.join(" "),
        "cluster=main source=n1 target=n2 kind=logical slot=s state=hidden active=yes \
         subscription=sub enabled=yes"
    );
}

#[test]
fn a_client_is_shown_as_pgbouncer_shows_it() {
    let client = ClientSnapshot {
        id: 17,
        database: DatabaseName::new("app"),
        user: UserName::new("alice"),
        state: "active",
        addr: Some([127, 0, 0, 1].into()),
        port: 40_000,
        local_addr: None,
        local_port: 6432,
        connect_time: UNIX_EPOCH,
        request_time: UNIX_EPOCH + Duration::from_secs(1),
        wait_us: 2_000_003,
        close_needed: false,
        link: Some(18),
        remote_pid: Some(4711),
        application_name: "batch".to_owned(),
        in_transaction: true,
    };
    let shown = shown(&[pooler::SOCKET, pooler::CLIENT], client.into());
    assert_eq!(
        shown.join(" "),
        "type=C user=alice database=app replication=none state=active addr=127.0.0.1 port=40000 \
         local_addr=unix local_port=6432 connect_time=1970-01-01 00:00:00 UTC \
         request_time=1970-01-01 00:00:01 UTC wait=2 wait_us=3 close_needed=0 ptr=C-17 link=S-18 \
         remote_pid=4711 tls= application_name=batch prepared_statements=0 id=17 in_transaction=1"
    );
}
