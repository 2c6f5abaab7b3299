//! COPY, in both directions, is work like any other: a move waits for its end, or ends it as the
//! operator has said.

use std::time::Duration;

use crate::harness::client::{APP, DATABASE};
use crate::harness::ledger::Nature;
use crate::harness::pair::Kind;
use crate::harness::raw::{RawConn, message, query, trace};
use crate::harness::stage::{Stage, StageSpec};
use crate::switchover::stage;

const LOADED: &str = "CREATE TABLE loaded (id bigint PRIMARY KEY, text text);";

/// More than all buffers between the server and a client that does not read.
const OUT: &str = "COPY (SELECT i, repeat('x', 1000) FROM generate_series(1, 60000) i) TO STDOUT";
const OUT_ROWS: usize = 60_000;

const SOON: &str = "DRAIN TIMEOUT '300ms' ON DRAIN TIMEOUT";

async fn on_stage(kind: Kind) -> Stage {
    Stage::start(StageSpec {
        schema: LOADED.to_owned(),
        ..stage(kind)
    })
    .await
}

async fn client(stage: &Stage) -> RawConn {
    RawConn::login(stage.proxy.port(), APP, DATABASE).await.0
}

/// In the middle of COPY IN.
async fn loading(stage: &Stage) -> RawConn {
    let mut client = client(stage).await;
    client.send(&query("COPY loaded FROM STDIN")).await;
    assert_eq!(client.read().await.map(|m| m.tag), Some(b'G'));
    client.send(&row(1)).await;
    client
}

/// In the middle of COPY OUT, and not reading.
async fn unloading(stage: &Stage) -> RawConn {
    let mut client = client(stage).await;
    client.send(&query(OUT)).await;
    assert_eq!(client.read().await.map(|m| m.tag), Some(b'H'));
    client
}

fn row(id: i64) -> Vec<u8> {
    message(b'd', format!("{id}\trow\n").as_bytes())
}

async fn loaded(stage: &Stage) -> Option<String> {
    let lead = stage.proxy.lead().await.unwrap();
    let node = stage.pair.node(&lead);
    node.scalar("SELECT count(*) FROM loaded").await
}

/// Refused since the COPY is in the way, and nobody else notices.
async fn is_in_the_way(stage: &Stage, clauses: &str) {
    stage.workload.begin("aborted", Nature::Planned);
    let refused = stage.switchover("n2", clauses).await.unwrap_err();
    assert_eq!(refused.sqlstate, "55006", "{refused:?}");
    assert!(refused.text.contains("app@127.0.0.1"), "{refused:?}");
    stage.workload.all_served().await;
    assert_eq!(stage.workload.reconnects(), 0, "an abort leaves no trace");
}

async fn moves(stage: &Stage, clauses: &str) {
    stage.workload.begin("moved", Nature::Planned);
    stage.switchover("n2", clauses).await.unwrap();
    stage.workload.all_served().await;
}

#[tokio::test]
async fn a_copy_in_goes_on_after_the_abort() {
    let stage = on_stage(Kind::Native).await;
    let mut client = loading(&stage).await;
    is_in_the_way(&stage, &format!("{SOON} abort")).await;
    client.send(&row(2)).await;
    client.send(&message(b'c', b"")).await;
    assert_eq!(trace(&client.read_until_ready(1).await), "C ZI");
    stage.moves_to("n2").await;
    assert_eq!(loaded(&stage).await.as_deref(), Some("2"));
    stage.proves(1).await;
}

#[tokio::test]
async fn a_copy_in_is_cancelled_while_its_client_streams() {
    let stage = on_stage(Kind::Native).await;
    let mut client = loading(&stage).await;
    let streams = async {
        let mut id = 2;
        while client.is_silent(Duration::from_millis(1)).await {
            client.send(&row(id)).await;
            id += 1;
        }
        trace(&client.read_to_end().await)
    };
    let clauses = format!("{SOON} cancel");
    let (told, ()) = tokio::join!(streams, moves(&stage, &clauses));
    assert_eq!(told, "E:57014 ZI E:57P01");
    assert_eq!(loaded(&stage).await.as_deref(), Some("0"));
    stage.proves(1).await;
}

/// A server that waits for its client's data hears no cancel.
#[tokio::test]
async fn a_copy_in_whose_client_says_nothing_is_terminated() {
    let stage = on_stage(Kind::Native).await;
    let mut client = loading(&stage).await;
    is_in_the_way(&stage, &format!("{SOON} cancel")).await;
    moves(&stage, &format!("{SOON} terminate")).await;
    assert_eq!(trace(&client.read_to_end().await), "E:57P01");
    assert_eq!(loaded(&stage).await.as_deref(), Some("0"));
    stage.proves(1).await;
}

#[tokio::test]
async fn a_copy_out_that_nobody_reads_goes_on_after_the_abort() {
    let stage = on_stage(Kind::Pglogical).await;
    let mut client = unloading(&stage).await;
    is_in_the_way(&stage, &format!("{SOON} abort")).await;
    let rest = client.read_until_ready(1).await;
    let rows = rest.iter().filter(|m| m.tag == b'd').count();
    assert_eq!(rows, OUT_ROWS, "not one is missing");
    assert_eq!(trace(&rest[rows..]), "c C ZI");
    stage.moves_to("n2").await;
    stage.proves(1).await;
}

/// A server that waits until it can send hears no cancel.
#[tokio::test]
async fn a_copy_out_that_nobody_reads_is_terminated() {
    let stage = on_stage(Kind::Pglogical).await;
    let mut client = unloading(&stage).await;
    moves(&stage, &format!("{SOON} terminate")).await;
    let rest = client.read_to_end().await;
    let rows = rest.iter().filter(|m| m.tag == b'd').count();
    assert!(rows < OUT_ROWS, "it was cut");
    let end = trace(&rest[rows..]);
    assert!(
        !end.contains('C'),
        "nobody says that it was complete: {end}"
    );
    stage.proves(1).await;
}
