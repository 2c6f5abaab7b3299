#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{
    Cause, HoldId, Leftover, Meter, Order, OrderCell, RelayEnd, Scratch, StopReason, Telltale,
    relay,
};
use crate::net::Stream;
use crate::wire::error::SqlState;

const READY: &[u8] = b"Z\0\0\0\x05I";

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// What the telltale heard.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Telltale for Said {
    fn server_said(&self, sqlstate: SqlState) {
        self.0.lock().unwrap().push(sqlstate.to_string());
    }

    fn server_promoted(&self) {
        self.0.lock().unwrap().push("promoted".to_owned());
    }
}

/// A relay between two sockets that the test holds the other ends of.
struct Rig {
    client: UnixStream,
    server: UnixStream,
    order: Arc<OrderCell>,
    meter: Arc<Meter>,
    bell: tokio::sync::watch::Receiver<u64>,
    said: Said,
    task: JoinHandle<RelayEnd>,
}

impl Rig {
    fn start(received: &'static [u8]) -> Self {
        let (client, near) = UnixStream::pair().unwrap();
        let (server, far) = UnixStream::pair().unwrap();
        let bell = Arc::new(tokio::sync::watch::Sender::new(0));
        let said = Said::default();
        let (order, meter) = (
            Arc::new(OrderCell::default()),
            Arc::new(Meter::new(Arc::clone(&bell), Box::new(said.clone()))),
        );
        let (cell, shown) = (Arc::clone(&order), Arc::clone(&meter));
        let task = tokio::spawn(async move {
            let (mut near, mut far) = (Stream::Unix(near), Stream::Unix(far));
            let scratch = Scratch::default();
            let ends = (&mut near, &mut far);
            let inbound = (Bytes::from_static(received), None);
            relay(ends, inbound, &cell, &shown, &scratch).await
        });
        Self {
            client,
            server,
            order,
            meter,
            bell: bell.subscribe(),
            said,
            task,
        }
    }

    async fn pass_up(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
        expect(&mut self.server, bytes).await;
    }

    async fn pass_down(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).await.unwrap();
        expect(&mut self.client, bytes).await;
    }

    async fn parked(&mut self, hold: HoldId) {
        while !self.meter.is_parked(hold) {
            limited(self.bell.changed()).await.unwrap();
        }
    }

    async fn end(self) -> RelayEnd {
        limited(self.task).await.unwrap()
    }
}

async fn limited<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.unwrap()
}

async fn expect(stream: &mut UnixStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    limited(stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn a_held_session_parks_when_its_query_is_answered_and_forwards_nothing_more() {
    let query = message(b'Q', b"select 1\0");
    let mut rig = Rig::start(b"");
    rig.pass_up(&query).await;
    rig.order.raise(Order::Park(HoldId::FIRST));
    assert!(!rig.meter.is_parked(HoldId::FIRST));
    rig.pass_down(&message(b'C', b"SELECT 1\0")).await;
    assert!(!rig.meter.is_parked(HoldId::FIRST));
    rig.pass_down(READY).await;
    rig.parked(HoldId::FIRST).await;

    rig.client.write_all(&query).await.unwrap();
    // What the server says of itself still reaches the client; then the query has had its chance.
    rig.pass_down(&message(b'A', b"\0\0\0\x01x\0\0")).await;
    let mut byte = [0];
    let early = rig.server.try_read(&mut byte);
    assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);

    rig.order.lift_park();
    expect(&mut rig.server, &query).await;
    assert!(!rig.meter.is_parked(HoldId::FIRST));
    rig.pass_down(READY).await;
    drop(rig.client);
    let end = limited(rig.task).await.unwrap();
    assert!(matches!(end.cause, Cause::ClientLeft), "{end:?}");
    assert_eq!(end.server, Leftover::Safe);
}

#[tokio::test]
async fn a_parked_session_is_stopped_without_its_next_query() {
    let mut rig = Rig::start(b"");
    rig.order.raise(Order::Park(HoldId::FIRST));
    rig.parked(HoldId::FIRST).await;
    rig.client
        .write_all(&message(b'Q', b"commit\0"))
        .await
        .unwrap();
    rig.order.raise(Order::StopWhenSafe(StopReason::Switchover));
    let end = rig.end().await;
    assert!(matches!(end.cause, Cause::Stopped(StopReason::Switchover)));
    assert_eq!(end.server, Leftover::Safe);
    assert!(end.client_at_boundary);
}

#[tokio::test]
async fn the_waker_of_whoever_polls_last_is_woken() {
    let (_client, near) = UnixStream::pair().unwrap();
    let (_server, far) = UnixStream::pair().unwrap();
    let order = Arc::new(OrderCell::default());
    let meter = Meter::new(Arc::default(), Box::new(Said::default()));
    let (mut near, mut far, scratch) = (Stream::Unix(near), Stream::Unix(far), Scratch::default());
    let mut future = Box::pin(relay(
        (&mut near, &mut far),
        (Bytes::new(), None),
        &order,
        &meter,
        &scratch,
    ));
    let nobody = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(nobody);
    assert!(future.as_mut().poll(&mut cx).is_pending());
    let cell = Arc::clone(&order);
    let raise = async move {
        tokio::task::yield_now().await;
        cell.raise(Order::StopNow(StopReason::Kill));
        std::future::pending::<()>().await;
    };
    let end = limited(async {
        tokio::select! { biased; end = future => end, () = raise => unreachable!() }
    })
    .await;
    assert!(matches!(end.cause, Cause::Stopped(StopReason::Kill)));
}

#[tokio::test]
async fn the_last_query_of_a_client_that_leaves_is_forwarded_whole() {
    let mut rig = Rig::start(b"");
    // More than the sockets between hold.
    let query = message(b'Q', &vec![b' '; 4 << 20]);
    let mut last = query.clone();
    last.extend_from_slice(&message(b'X', b""));
    let writer = async {
        rig.client.write_all(&last).await.unwrap();
        rig.client.shutdown().await.unwrap();
    };
    tokio::join!(writer, expect(&mut rig.server, &query));
    rig.pass_down(READY).await;
    let end = rig.end().await;
    assert!(matches!(end.cause, Cause::ClientLeft), "{end:?}");
    assert_eq!(end.server, Leftover::Safe);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_copy_does_not_keep_the_server_waiting() {
    let mut rig = Rig::start(b"");
    rig.pass_up(&message(b'Q', b"copy t from stdin\0")).await;
    rig.client.shutdown().await.unwrap();
    rig.pass_down(&message(b'G', b"\0\0\0")).await;
    let end = rig.end().await;
    assert!(matches!(end.cause, Cause::ClientLeft), "{end:?}");
    assert_eq!(end.server, Leftover::Busy { at_boundary: true });
}

#[tokio::test]
async fn what_came_before_a_bad_frame_is_forwarded() {
    let mut rig = Rig::start(b"");
    let data = message(b'd', b"0123456789");
    let (first, rest) = data.split_at(8);
    rig.pass_up(first).await;
    let mut bytes = rest.to_vec();
    bytes.extend_from_slice(b"Q\xff\xff\xff\xff");
    rig.client.write_all(&bytes).await.unwrap();
    expect(&mut rig.server, rest).await;
    let end = rig.end().await;
    assert!(matches!(end.cause, Cause::ClientBroke(_)), "{end:?}");
}

#[tokio::test]
async fn early_bytes_go_first_and_a_server_that_hangs_up_is_gone() {
    let mut rig = Rig::start(b"Q\0\0\0\x06;\0");
    expect(&mut rig.server, b"Q\0\0\0\x06;\0").await;
    rig.pass_down(&message(b'E', b"SFATAL\0\0")).await;
    drop(rig.server);
    let end = limited(rig.task).await.unwrap();
    assert!(matches!(end.cause, Cause::ServerLost(None)), "{end:?}");
    assert_eq!(end.server, Leftover::Gone);
    assert!(end.told);
}

#[tokio::test]
async fn stop_now_does_not_wait_for_an_answer() {
    let mut rig = Rig::start(b"");
    rig.pass_up(&message(b'Q', b"select pg_sleep(9)\0")).await;
    rig.order.raise(Order::StopNow(StopReason::Failover));
    let end = rig.end().await;
    assert!(matches!(end.cause, Cause::Stopped(StopReason::Failover)));
    assert_eq!(end.server, Leftover::Busy { at_boundary: true });
}

#[tokio::test]
async fn what_says_something_about_the_node_is_told() {
    let error = |code: &str| message(b'E', format!("SERROR\0VERROR\0C{code}\0Mx\0\0").as_bytes());
    let mut rig = Rig::start(b"");
    for code in [
        "53100", "23505", "25006", "57014", "57P01", "57P02", "57P03",
    ] {
        rig.pass_up(&message(b'Q', b"select 1\0")).await;
        rig.pass_down(&error(code)).await;
        rig.pass_down(READY).await;
    }
    // A notice is no error, and neither is a row that looks like one.
    for tag in *b"ND" {
        rig.pass_down(&message(tag, b"C53100\0\0")).await;
    }
    for status in [
        &b"in_hot_standby\0on\0"[..],
        b"in_hot_standby\0off\0",
        b"x\0off\0",
    ] {
        rig.pass_down(&message(b'S', status)).await;
    }
    // What has not come yet is not waited for.
    let cut = error("53100");
    rig.pass_down(&cut[..15]).await;
    rig.pass_down(&cut[15..]).await;
    let told = ["53100", "25006", "57P01", "57P02", "57P03", "promoted"];
    assert_eq!(*rig.said.0.lock().unwrap(), told);
}
