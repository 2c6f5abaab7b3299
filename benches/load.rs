//! The load: sends fixed bytes, counts ReadyForQuery, notes how long each took.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Error, Result};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::bytes::{self, Scanner};

/// Where to connect to, and as what.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// TCP port on 127.0.0.1.
    pub(crate) port: u16,
    /// Database of the StartupMessage.
    pub(crate) database: String,
}

/// What a client does over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A simple query with one small row.
    Small,
    /// The same, prepared before: Bind, Execute, Sync.
    Prepared,
    /// A result of 10 MB.
    Big,
    /// COPY FROM STDIN of 10 MB.
    CopyIn,
    /// Connect, one small query, close.
    Churn,
}

/// A column of the tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    /// Its name.
    pub(crate) name: &'static str,
    /// What each client does.
    pub(crate) work: Work,
    /// How many do it.
    pub(crate) clients: usize,
    /// Where the pooler runs meanwhile.
    pub(crate) place: Place,
}

/// Where the pooler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a core of its own: many clients keep it busy.
    Apart,
    /// On the core of load and backends: with few clients each wake-up of another core would cost
    /// more than what is measured.
    Together,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Latency of each operation in nanoseconds, sorted.
    pub(crate) latencies_ns: Vec<u64>,
    /// How long it ran.
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// In microseconds; `quantile` from 0 to 1.
    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        let last = self.latencies_ns.len().saturating_sub(1);
        let at = (last as f64 * quantile).round() as usize;
        self.latencies_ns
            .get(at)
            .map_or(f64::NAN, |&ns| ns as f64 / 1000.0)
    }
}

/// A logged-in client.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    scanner: Scanner,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and waits until the server is ready.
    pub(crate) async fn connect(address: &Address) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", address.port)).await?;
        stream.set_nodelay(true)?;
        let (scanner, buffer) = (Scanner::default(), Vec::new());
        let mut client = Self {
            stream,
            scanner,
            buffer,
        };
        client
            .ask(&bytes::startup("bench", &address.database))
            .await?;
        Ok(client)
    }

    /// Sends, and waits for ReadyForQuery.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.wait_for(b'Z').await
    }

    /// One operation.
    pub(crate) async fn run(&mut self, script: &Script) -> Result<()> {
        self.ask_until(&script.request, script.until).await?;
        match &script.then {
            Some(more) => self.ask(more).await,
            None => Ok(()),
        }
    }

    /// Terminates the session in an orderly way.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.stream.write_all(&bytes::terminate()).await
    }

    /// Gives the read buffer back: the load's memory is not what is measured, but it must fit.
    pub(crate) fn shrink(&mut self) {
        self.buffer = Vec::new();
    }

    async fn ask_until(&mut self, request: &[u8], tag: u8) -> Result<()> {
        self.stream.write_all(request).await?;
        self.wait_for(tag).await
    }

    async fn wait_for(&mut self, wanted: u8) -> Result<()> {
        let (mut found, mut failed) = (false, false);
        loop {
            self.buffer.resize(256 * 1024, 0);
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(Error::other("the connection was closed"));
            }
            let whole = self.scanner.feed(&self.buffer[..read], |tag| {
                found |= tag == wanted;
                failed |= tag == b'E';
            });
            if failed {
                let text =
                    String::from_utf8_lossy(&self.buffer[..read.min(300)]).replace('\0', " ");
                return Err(Error::other(format!("the server says: {text}")));
            }
            if found && whole {
                return Ok(());
            }
        }
    }
}

/// The bytes of one operation.
#[derive(Debug)]
pub(crate) struct Script {
    before: Option<Vec<u8>>,
    request: Vec<u8>,
    until: u8,
    then: Option<Vec<u8>>,
}

impl Script {
    /// The script of that work.
    pub(crate) fn new(work: Work) -> Self {
        let plain = |request| Self {
            before: None,
            request,
            until: b'Z',
            then: None,
        };
        match work {
            Work::Small | Work::Churn => plain(bytes::query(bytes::SMALL)),
            Work::Big => plain(bytes::query(bytes::BIG)),
            Work::Prepared => Self {
                before: Some(bytes::prepare()),
                ..plain(bytes::execute())
            },
            Work::CopyIn => Self {
                until: b'G',
                then: Some(bytes::copy_data()),
                ..plain(bytes::query(bytes::COPY))
            },
        }
    }
}

/// Logs the clients in, warms them up, calls `begin`, lets them work for `length`, calls `end`.
/// Returns what came out, with what `begin` and `end` gave.
pub(crate) async fn run<T>(
    address: &Address,
    workload: Workload,
    length: Duration,
    sample: impl Fn() -> T,
) -> Result<(Outcome, T, T)> {
    let script = Rc::new(Script::new(workload.work));
    let mut clients = Vec::new();
    for _ in 0..workload.clients {
        clients.push(ready_client(address, &script).await?);
    }
    if workload.work == Work::Churn {
        for client in clients.drain(..) {
            client.close().await?;
        }
        clients.clear();
    }
    let before = sample();
    let start = Instant::now();
    let end = start + length;
    let mut tasks: Vec<JoinHandle<Result<Vec<u64>>>> = Vec::new();
    for _ in 0..workload.clients {
        let (script, address) = (Rc::clone(&script), address.clone());
        tasks.push(match clients.pop() {
            Some(client) => spawn_local(repeat(client, script, end)),
            None => spawn_local(reconnect(address, script, end)),
        });
    }
    let mut outcome = Outcome::default();
    for task in tasks {
        let latencies = task.await.map_err(Error::other)??;
        outcome.latencies_ns.extend(latencies);
    }
    outcome.elapsed = start.elapsed();
    let after = sample();
    outcome.latencies_ns.sort_unstable();
    Ok((outcome, before, after))
}

/// Runs a future that spawns on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, future)
}

async fn ready_client(address: &Address, script: &Script) -> Result<Client> {
    let mut client = Client::connect(address).await?;
    if let Some(before) = &script.before {
        client.ask(before).await?;
    }
    client.run(script).await?;
    Ok(client)
}

async fn repeat(mut client: Client, script: Rc<Script>, end: Instant) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    loop {
        let start = Instant::now();
        if start >= end && !latencies.is_empty() {
            break;
        }
        client.run(&script).await?;
        latencies.push(nanoseconds(start));
    }
    client.close().await?;
    Ok(latencies)
}

async fn reconnect(address: Address, script: Rc<Script>, end: Instant) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    loop {
        let start = Instant::now();
        if start >= end && !latencies.is_empty() {
            return Ok(latencies);
        }
        let mut client = Client::connect(&address).await?;
        client.run(&script).await?;
        client.close().await?;
        latencies.push(nanoseconds(start));
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
