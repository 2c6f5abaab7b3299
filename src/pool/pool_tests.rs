#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{CheckoutError, ClientTag, HoldOwner, Lease, Pool, Pools, Request, StartupParams};
use crate::auth::{Kdf, UserList};
use crate::cluster::{Epoch, Fact, Reports};
use crate::config::{Config, check};
use crate::relay::{Order, OrderCell, StopReason};

/// What the fake server saw.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    Login,
    Query(String),
    Goodbye,
    HungUp,
}

/// A server that lets everybody in and answers every query with one command.
async fn fake_server(listener: TcpListener, saw: mpsc::UnboundedSender<Saw>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(backend(stream, saw.clone()));
    }
}

async fn backend(mut stream: TcpStream, saw: mpsc::UnboundedSender<Saw>) -> Option<()> {
    let length = stream.read_u32().await.ok()?;
    let mut startup = vec![0; length as usize - 4];
    stream.read_exact(&mut startup).await.ok()?;
    saw.send(Saw::Login).ok()?;
    let hello = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07\0\0\0\x09Z\0\0\0\x05I";
    stream.write_all(hello).await.ok()?;
    loop {
        let Ok(tag) = stream.read_u8().await else {
            saw.send(Saw::HungUp).ok()?;
            return None;
        };
        let length = stream.read_u32().await.ok()?;
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await.ok()?;
        if tag == b'X' {
            saw.send(Saw::Goodbye).ok()?;
            return None;
        }
        body.pop();
        saw.send(Saw::Query(String::from_utf8(body).unwrap()))
            .ok()?;
        let answer = b"C\0\0\0\x06X\0Z\0\0\0\x05I";
        stream.write_all(answer).await.ok()?;
    }
}

struct Rig {
    pools: Pools,
    config: watch::Sender<Arc<Config>>,
    text: String,
    saw: mpsc::UnboundedReceiver<Saw>,
    facts: mpsc::Receiver<Fact>,
    _users: watch::Sender<Arc<UserList>>,
}

fn config(text: &str) -> Arc<Config> {
    let nothing = |_: &str| None;
    let no_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    Arc::new(check(text, "test", &nothing, &no_file).unwrap())
}

impl Rig {
    async fn start(pool_size: usize) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, saw) = mpsc::unbounded_channel();
        tokio::spawn(fake_server(listener, tell));
        let text = format!(
            "[pgsluice]\nauth_file = \"/none\"\n[clusters.main]\nmonitor = {{ user = \"m\", password = \"m\", dbname = \"app\" }}\n\
             [clusters.main.nodes]\n\
             n1 = {{ host = \"127.0.0.1\", port = {port} }}\n\
             n2 = {{ host = \"127.0.0.2\", port = {port} }}\n\
             [databases.other]\ncluster = \"main\"\n\
             [databases.app]\ncluster = \"main\"\npool_size = {pool_size}\n"
        );
        let (config, config_reader) = watch::channel(config(&text));
        let (users, users_reader) = watch::channel(Arc::new(UserList::default()));
        let (reports, facts) = Reports::channel(16);
        let ids = Arc::new(AtomicU64::new(1));
        let pools = Pools::new(config_reader, users_reader, reports, Kdf::new(1), ids);
        let rig = Self {
            pools,
            config,
            text,
            saw,
            facts,
            _users: users,
        };
        rig.open("n1", 1);
        rig
    }

    fn open(&self, lead: &str, epoch: u64) {
        let reason = StopReason::Switchover;
        let cluster = self.config.borrow().clusters["main"].clone();
        let lead = cluster.nodes.iter().find(|node| node.name == lead.into());
        let lead = Arc::new(lead.unwrap().clone());
        let epoch = Epoch(epoch);
        self.pools.open(&cluster.name, &lead, epoch, reason, None);
    }

    fn hold(&self) {
        self.pools.hold(&"main".into(), HoldOwner::Switchover);
    }

    fn pool(&self) -> Arc<Pool> {
        let database = self.pools.database(&"app".into()).unwrap();
        self.pools.pool(&database, &"joe".into()).unwrap()
    }

    async fn saw(&mut self) -> Saw {
        limited(self.saw.recv()).await.unwrap()
    }

    fn status(&self) -> super::DrainStatus {
        self.pools.drain_status(&"main".into(), &"n1".into())
    }
}

async fn limited<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.unwrap()
}

fn request() -> Request {
    Request {
        client: Arc::new(ClientTag {
            id: 1000,
            addr: "unix".to_owned(),
            application_name: String::new(),
        }),
        params: StartupParams::default(),
        secret: None,
        order: Arc::new(OrderCell::default()),
    }
}

async fn take(pool: &Arc<Pool>) -> Lease {
    limited(pool.checkout(&request())).await.unwrap()
}

/// Starts to wait, and comes back when the place is in the queue.
async fn queue(pool: &Arc<Pool>) -> tokio::task::JoinHandle<Result<Lease, CheckoutError>> {
    let before = pool.lock().queue.len();
    let waiting = Arc::clone(pool);
    let task = tokio::spawn(async move { waiting.checkout(&request()).await });
    while pool.lock().queue.len() == before {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test]
async fn an_untouched_server_goes_to_the_next_client_as_it_is() {
    let mut rig = Rig::start(1).await;
    let pool = rig.pool();
    let first = take(&pool).await;
    let id = first.server.info.id;
    let second = queue(&pool).await;
    first.release().await;
    let second = limited(second).await.unwrap().unwrap();
    assert_eq!(second.server.info.id, id);
    assert_eq!(rig.saw().await, Saw::Login);
    second.close().await;
    assert_eq!(rig.saw().await, Saw::Goodbye);
    assert!(pool.lock().is_deserted());
}

#[tokio::test]
async fn nobody_is_lost_when_the_one_in_front_leaves() {
    let rig = Rig::start(1).await;
    let pool = rig.pool();
    let first = take(&pool).await;
    let leaves = queue(&pool).await;
    let stays = queue(&pool).await;
    first.release().await;
    leaves.abort();
    let _ = leaves.await;
    limited(stays).await.unwrap().unwrap().release().await;
    let state = pool.lock();
    assert_eq!(
        (state.queue.len(), state.dialing, state.idle.len()),
        (0, 0, 1)
    );
}

#[tokio::test]
async fn a_hold_lets_nobody_pass_until_the_gate_opens() {
    let mut rig = Rig::start(2).await;
    let pool = rig.pool();
    let busy = take(&pool).await;
    take(&pool).await.release().await;
    rig.hold();
    assert!(matches!(
        pool.lock().leased.values().next().unwrap().order.get(),
        Order::Park(_)
    ));
    let held = queue(&pool).await;
    // Neither a server that comes back nor an operator's RESUME lets anybody in.
    busy.release().await;
    rig.pools.pause(None).unwrap();
    rig.pools.resume_operator(None).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(rig.status().held, 1);
    assert!(!held.is_finished());
    rig.open("n2", 2);
    let lease = limited(held).await.unwrap().unwrap();
    assert_eq!(lease.server.info.node.name, "n2".into());
    while rig.saw().await != Saw::Goodbye {}
}

#[tokio::test]
async fn opening_stops_who_is_not_parked_on_another_node() {
    let rig = Rig::start(1).await;
    let lease = take(&rig.pool()).await;
    let order = |rig: &Rig| {
        let pool = rig.pool();
        let state = pool.lock();
        state.leased.values().next().unwrap().order.get()
    };
    rig.hold();
    assert_eq!(rig.status().blockers.len(), 1);
    rig.open("n2", 2);
    assert_eq!(order(&rig), Order::StopNow(StopReason::Switchover));
    drop(lease);
}

#[tokio::test]
async fn a_backend_is_known_until_it_is_seen_to_be_gone() {
    let rig = Rig::start(2).await;
    let pool = rig.pool();
    take(&pool).await.abandon();
    assert_eq!(rig.status().departed_pids, [7]);
    let (cluster, node) = ("main".into(), "n1".into());
    rig.pools.forget_departed(&cluster, &node, &[7]);
    assert!(rig.status().departed_pids.is_empty());
    // This one hangs up when it is told to.
    take(&pool).await.bury(true).await;
    assert!(rig.status().departed_pids.is_empty());
}

#[tokio::test]
async fn a_removed_database_stays_in_sight_of_a_hold_and_lets_nobody_in() {
    let rig = Rig::start(1).await;
    let pool = rig.pool();
    let lease = take(&pool).await;
    let waits = queue(&pool).await;
    let (head, _) = rig.text.split_once("[databases.app]").unwrap();
    rig.config.send_replace(config(head));
    rig.pools.apply_config();
    let refused = limited(waits).await.unwrap();
    assert!(
        matches!(refused, Err(CheckoutError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(rig.status().blockers.len(), 1);
    lease.close().await;
    assert!(rig.status().blockers.is_empty());
    rig.pools.tidy_up();
    assert!(rig.pools.all().is_empty());
}

#[tokio::test]
async fn a_database_that_moves_leaves_its_pools_and_their_gate_behind() {
    let rig = Rig::start(1).await;
    let pool = rig.pool();
    let lease = take(&pool).await;
    let elsewhere = "[clusters.east]\nmonitor = { user = \"m\", password = \"m\", dbname = \"app\" }\n\
                     [clusters.east.nodes]\ne1 = { host = \"127.0.0.3\" }\n\
                     [databases.other]\ncluster = \"main\"\n[databases.app]\ncluster = \"east\"\n";
    let (head, _) = rig.text.split_once("[databases.other]").unwrap();
    rig.config
        .send_replace(config(&format!("{head}{elsewhere}")));
    rig.pools.apply_config();
    assert!(
        !Arc::ptr_eq(&pool, &rig.pool()),
        "newcomers meet the new cluster's gate"
    );
    assert_eq!(
        rig.status().blockers.len(),
        1,
        "who has a server is still seen"
    );
    assert_eq!(rig.pools.dbnames(&"east".into()), ["app"]);
    lease.close().await;
}

#[tokio::test]
async fn a_node_in_doubt_takes_no_newcomers_and_parks_nobody() {
    let rig = Rig::start(2).await;
    let pool = rig.pool();
    let order = Arc::new(OrderCell::default());
    let request = Request {
        order: Arc::clone(&order),
        ..request()
    };
    let lease = limited(pool.checkout(&request)).await.unwrap();
    rig.pools.close_to_newcomers(&"main".into());
    assert_eq!(order.get(), Order::GoOn);
    let waits = queue(&pool).await;
    rig.pools.resume(&"main".into(), None);
    limited(waits).await.unwrap().unwrap().close().await;
    lease.close().await;
}

#[tokio::test]
async fn a_node_that_is_not_reached_is_reported_and_the_client_waits() {
    let mut rig = Rig::start(1).await;
    let pool = rig.pool();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let real = rig.config.borrow().clusters["main"].nodes[1].port;
    let text = rig
        .text
        .replacen(&format!("port = {real}"), &format!("port = {port}"), 1);
    rig.config.send_replace(config(&text));
    rig.open("n1", 2);
    let waits = queue(&pool).await;
    let fact = limited(rig.facts.recv()).await.unwrap();
    assert!(matches!(fact, Fact::DialFailed { .. }), "{fact:?}");
    rig.open("n2", 3);
    let lease = limited(waits).await.unwrap().unwrap();
    assert_eq!(lease.server.info.node.name, "n2".into());
}

#[tokio::test]
async fn a_server_is_not_reused_while_a_cancel_request_is_on_its_way() {
    let rig = Rig::start(1).await;
    let pool = rig.pool();
    let lease = take(&pool).await;
    let cancel = super::CancelInFlight::new(&lease.server.info);
    let release = tokio::spawn(lease.release());
    let next = queue(&pool).await;
    tokio::task::yield_now().await;
    assert!(!release.is_finished() && !next.is_finished());
    drop(cancel);
    limited(next).await.unwrap().unwrap();
}
