//! The clients: each does one write after the other, reconnects when it is told to, and notes what
//! it was told, how long it waited, and what failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::KEYS;
use super::trouble::{Driver, Step, Trouble, within};
use super::work::{Acknowledged, Failure, Interval, Nature, Outage, Work};
use crate::harness::client::{Login, connect};
use crate::harness::eventually;

/// Pause between two tries to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// A client looks for this many of its latest writes whenever it has a new connection.
const LOOK_BACK: usize = 500;
/// Ids of one writer.
const IDS_PER_WRITER: i64 = 1_000_000_000;

/// Where the writers go, and how many.
#[derive(Debug, Clone)]
pub struct WorkloadSpec {
    pub port: u16,
    pub login: Login,
    pub dbname: String,
    pub writers: usize,
    /// Between two writes of one client.
    pub think: Duration,
}

/// Running writers.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<(Vec<Acknowledged>, Vec<i64>)>>,
}

#[derive(Debug)]
struct Shared {
    spec: WorkloadSpec,
    stop: AtomicBool,
    /// Of all intervals so far; the last one is the current one.
    intervals: Mutex<Vec<Interval>>,
    /// Writes done, for each writer.
    done: Vec<AtomicU64>,
}

impl Workload {
    /// Starts the writers and waits until each has written.
    pub async fn start(spec: WorkloadSpec) -> Self {
        let count = spec.writers;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            intervals: Mutex::new(Vec::new()),
            done: (0..count).map(|_| AtomicU64::new(0)).collect(),
            spec,
        });
        shared.begin("start", Nature::Calm);
        let writers = (0..count)
            .map(|number| tokio::spawn(Writer::new(number, Arc::clone(&shared)).run()))
            .collect();
        let workload = Self { shared, writers };
        workload.all_served().await;
        workload
    }

    /// From now on, what happens to the clients is counted under this name.
    pub fn begin(&self, name: &str, nature: Nature) {
        self.shared.begin(name, nature);
    }

    /// Does something unplanned to the servers. What happens to the clients from just before it on
    /// is counted under this name; [`Interval::outage`] says how long they were without service.
    pub fn strike<T>(&self, name: &str, fault: impl FnOnce() -> T) -> T {
        self.begin(name, Nature::Unplanned);
        fault()
    }

    /// Waits until every writer has had a write acknowledged in the current interval by another
    /// node than `victim` (`""`: by any), and says how long that took.
    pub async fn outage(&self, victim: &str) -> Outage {
        let what = format!("every writer is served after {victim} failed");
        eventually(&what, async || self.current().outage(victim).is_some()).await;
        self.current().outage(victim).expect("there a moment ago")
    }

    /// Waits until every writer has done a write that it began after this call.
    pub async fn all_served(&self) {
        let before = self.done();
        // One may have begun earlier: two are needed.
        eventually("every writer was served", async || {
            self.done()
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + 2)
        })
        .await;
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.done().iter().sum()
    }

    /// Failures, reconnects and so on of the current interval so far.
    pub fn current(&self) -> Interval {
        let intervals = self.shared.intervals.lock().expect("no writer panicked");
        intervals.last().expect("one is begun by start").clone()
    }

    /// Sessions told to reconnect so far, over all.
    pub fn reconnects(&self) -> u64 {
        let intervals = self.shared.intervals.lock().expect("no writer panicked");
        intervals.iter().map(|interval| interval.reconnects).sum()
    }

    /// Lets every writer end its write, and gives what they know.
    pub async fn stop(self) -> Work {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut work = Work::default();
        for writer in self.writers {
            let (acknowledged, in_doubt) = writer.await.expect("writer");
            work.acknowledged.extend(acknowledged);
            work.in_doubt.extend(in_doubt);
        }
        work.intervals
            .clone_from(&self.shared.intervals.lock().expect("no writer panicked"));
        work
    }

    fn done(&self) -> Vec<u64> {
        self.shared
            .done
            .iter()
            .map(|done| done.load(Ordering::Relaxed))
            .collect()
    }
}

impl Shared {
    fn begin(&self, name: &str, nature: Nature) {
        let mut intervals = self.intervals.lock().expect("no writer panicked");
        intervals.push(Interval {
            name: name.to_owned(),
            nature,
            acknowledged: 0,
            reconnects: 0,
            failures: Vec::new(),
            missing_at_release: 0,
            longest: vec![Duration::ZERO; self.spec.writers],
            began: Instant::now(),
            served: vec![BTreeMap::new(); self.spec.writers],
        });
    }

    fn nature(&self) -> Nature {
        let intervals = self.intervals.lock().expect("no writer panicked");
        intervals
            .last()
            .map_or(Nature::Calm, |interval| interval.nature)
    }

    fn note(&self, change: impl FnOnce(&mut Interval)) {
        let mut intervals = self.intervals.lock().expect("no writer panicked");
        if let Some(interval) = intervals.last_mut() {
            change(interval);
        }
    }
}

/// One client.
struct Writer {
    number: usize,
    shared: Arc<Shared>,
    session: Option<Session>,
    /// When the first statement of a new session was answered, until a write has told it.
    answered: Option<Instant>,
    next: i64,
    acknowledged: Vec<Acknowledged>,
    in_doubt: Vec<i64>,
}

/// Its connection.
struct Session {
    client: Client,
    driver: Driver,
    increment: Statement,
    insert: Statement,
    both: Statement,
}

const INCREMENT: &str = "UPDATE counters SET n = n + 1 WHERE key = $1 RETURNING n";
const INSERT: &str =
    "INSERT INTO ledger (id, writer, key, value) VALUES ($1, $2, $3, $4) RETURNING node";
const BOTH: &str = "WITH c AS (UPDATE counters SET n = n + 1 WHERE key = $3 RETURNING n) \
     INSERT INTO ledger (id, writer, key, value) SELECT $1, $2, $3, n FROM c RETURNING value, node";

impl Writer {
    fn new(number: usize, shared: Arc<Shared>) -> Self {
        Self {
            number,
            shared,
            session: None,
            answered: None,
            next: 0,
            acknowledged: Vec::new(),
            in_doubt: Vec::new(),
        }
    }

    async fn run(mut self) -> (Vec<Acknowledged>, Vec<i64>) {
        // The first write after a failure still waits since the failed one was sent.
        let mut waiting_since = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let begun = *waiting_since.get_or_insert_with(Instant::now);
            let id = i64::try_from(self.number).expect("few writers") * IDS_PER_WRITER + self.next;
            match self.write(id).await {
                Ok((acknowledged, node)) => {
                    self.next += 1;
                    self.acknowledged.push(acknowledged);
                    let answered = self.answered.take().unwrap_or_else(Instant::now);
                    self.note_success(answered.saturating_duration_since(begun), node);
                    waiting_since = None;
                    tokio::time::sleep(self.shared.spec.think).await;
                }
                Err(Trouble::Reconnect) => {
                    self.session = None;
                    self.shared.note(|interval| interval.reconnects += 1);
                }
                Err(Trouble::Failed(failure)) => self.note_failure(failure).await,
                Err(Trouble::InDoubt(failure)) => {
                    self.in_doubt.push(id);
                    self.note_failure(failure).await;
                }
            }
        }
        (self.acknowledged, self.in_doubt)
    }

    fn note_success(&self, waited: Duration, node: String) {
        self.shared.done[self.number].fetch_add(1, Ordering::Relaxed);
        self.shared.note(|interval| {
            interval.acknowledged += 1;
            let longest = &mut interval.longest[self.number];
            *longest = waited.max(*longest);
            let since = interval.began.elapsed();
            interval.served[self.number].entry(node).or_insert(since);
        });
    }

    /// Whatever failed: a new id and a new connection.
    async fn note_failure(&mut self, failure: Failure) {
        self.next += 1;
        self.session = None;
        self.shared.note(|interval| interval.failures.push(failure));
        tokio::time::sleep(CONNECT_PAUSE).await;
    }

    async fn write(&mut self, id: i64) -> Result<(Acknowledged, String), Trouble> {
        let key = i32::try_from(id * 7 % i64::from(KEYS)).expect("below KEYS");
        if self.session.is_none() {
            self.session = Some(self.connect().await?);
        }
        let session = self.session.as_mut().expect("just connected");
        let writer = i32::try_from(self.number).expect("few writers");
        let step = Step {
            writer: self.number,
            nature: self.shared.nature(),
        };
        let (value, node) = if id % 3 == 0 {
            match within(
                session
                    .client
                    .query_one(&session.both, &[&id, &writer, &key]),
            )
            .await
            {
                Ok(row) => (row.get(0), row.get(1)),
                Err(error) => {
                    return Err(step.alone("statement", error, &mut session.driver).await);
                }
            }
        } else {
            if let Err(error) = within(session.client.batch_execute("BEGIN")).await {
                return Err(step.first("BEGIN", error, &mut session.driver).await);
            }
            let answer = within(session.client.query_one(&session.increment, &[&key])).await;
            let value: i64 = match answer {
                Ok(row) => row.get(0),
                Err(error) => return Err(step.inside("UPDATE", error, &mut session.driver).await),
            };
            let row: [&(dyn ToSql + Sync); 4] = [&id, &writer, &key, &value];
            let answer = within(session.client.query_one(&session.insert, &row)).await;
            let node: String = match answer {
                Ok(row) => row.get(0),
                Err(error) => return Err(step.inside("INSERT", error, &mut session.driver).await),
            };
            if let Err(error) = within(session.client.batch_execute("COMMIT")).await {
                return Err(step.commit("COMMIT", error, &mut session.driver).await);
            }
            (value, node)
        };
        Ok((Acknowledged { id, key, value }, node))
    }

    async fn connect(&mut self) -> Result<Session, Trouble> {
        let step = Step {
            writer: self.number,
            nature: self.shared.nature(),
        };
        let spec = &self.shared.spec;
        let (client, mut driver) = within(connect(spec.port, spec.login, &spec.dbname))
            .await
            .map_err(|error| Trouble::Failed(step.failure("login", error.describe())))?;
        let increment = match within(client.prepare(INCREMENT)).await {
            Ok(statement) => statement,
            Err(error) => return Err(step.first("first query", error, &mut driver).await),
        };
        // Served again: what follows is this writer's own business.
        self.answered = Some(Instant::now());
        let prepared = async {
            Ok((
                client.prepare(INSERT).await?,
                client.prepare(BOTH).await?,
                self.missing(&client).await?,
            ))
        };
        match within(prepared).await {
            Ok((insert, both, missing)) => {
                self.shared
                    .note(|interval| interval.missing_at_release += missing);
                Ok(Session {
                    client,
                    driver,
                    increment,
                    insert,
                    both,
                })
            }
            Err(error) => Err(step.first("first query", error, &mut driver).await),
        }
    }

    /// How many of its latest acknowledged writes this connection does not show.
    async fn missing(&self, client: &Client) -> Result<u64, Error> {
        let latest = self.acknowledged.iter().rev().take(LOOK_BACK);
        let ids: Vec<i64> = latest.map(|acknowledged| acknowledged.id).collect();
        let row = client
            .query_one(
                "SELECT count(*) FROM unnest($1::bigint[]) a (id) \
                 WHERE NOT EXISTS (SELECT FROM ledger l WHERE l.id = a.id)",
                &[&ids],
            )
            .await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).expect("a count"))
    }
}
