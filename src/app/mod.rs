//! Composition root: builds the parts, owns tasks, threads and signals, and ends them in order.

mod reload;
mod signals;
mod source;

pub use source::{FileSource, Loaded, Source};

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep_until};

use crate::admin::{Console, Request, ShutdownMode};
use crate::auth::{Authenticator, Kdf, UserList};
use crate::cluster::{Fact, Reports};
use crate::config::Config;
use crate::control::coordination::{FileStore, StoreError};
use crate::control::events::Journal;
use crate::control::notify::{self, Notifier};
use crate::control::{Director, Setup};
use crate::listener::{BindError, Doors, Sockets, Worker, WorkerSockets};
use crate::pool::{JANITOR_ROUND, Pools};
use crate::relay::{Order, Scratch, StopReason};
use crate::session::{Clients, Context};

use signals::{Signals, Wish};

/// Facts that the control plane has not read yet.
const FACTS_MAX: usize = 1024;
/// Requests of consoles and signals that wait for the root.
const REQUESTS_MAX: usize = 16;
/// Most worker threads that "as many as there are cores" may mean.
const WORKERS_MAX: usize = 64;
/// Password hashes computed at a time.
const HASHING_PARALLEL: usize = 2;
/// PgBouncer's `stats_period`.
const STATS_PERIOD: Duration = Duration::from_mins(1);
/// What an immediate shutdown leaves clients to read their last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a draining instance looks whether it is empty.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Why an instance did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(String),
    /// A socket cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `state_dir` cannot be used.
    #[error(transparent)]
    State(#[from] StoreError),
    /// The operating system refused a thread or a signal handler.
    #[error("the operating system refused a resource")]
    System(#[from] io::Error),
}

/// What the data plane is made of.
struct Core {
    config: watch::Sender<Arc<Config>>,
    users: watch::Sender<Arc<UserList>>,
    doors: watch::Sender<Doors>,
    reports: Reports,
    kdf: Kdf,
    pools: Pools,
    clients: Clients,
}

impl Core {
    /// Builds it; the gates are closed until the control plane opens them.
    fn new(loaded: Loaded) -> (Self, mpsc::Receiver<Fact>) {
        let config = watch::Sender::new(Arc::new(loaded.config));
        let users = watch::Sender::new(Arc::new(loaded.users));
        let (reports, facts) = Reports::channel(FACTS_MAX);
        let kdf = Kdf::new(HASHING_PARALLEL);
        // One count for clients and servers, as PgBouncer has it.
        let ids = Arc::new(AtomicU64::new(1));
        let clients = Clients::new(Arc::clone(&ids));
        let (configs, secrets) = (config.subscribe(), users.subscribe());
        let pools = Pools::new(configs, secrets, reports.clone(), kdf.clone(), ids);
        let doors = watch::Sender::new(Doors::Open);
        let core = Self {
            config,
            users,
            doors,
            reports,
            kdf,
            pools,
            clients,
        };
        (core, facts)
    }

    fn worker(&self, authenticator: &Arc<Authenticator>, console: &Arc<Console>) -> Worker {
        let context = Context {
            pools: self.pools.clone(),
            clients: self.clients.clone(),
            config: self.config.subscribe(),
            authenticator: Arc::clone(authenticator),
            users: self.users.subscribe(),
            reports: self.reports.clone(),
            scratch: Scratch::default(),
        };
        Worker {
            context,
            console: Arc::clone(console),
            doors: self.doors.subscribe(),
        }
    }
}

/// A running instance.
struct App {
    source: Box<dyn Source>,
    core: Core,
    requests: mpsc::Receiver<Request>,
    console: Arc<Console>,
    journal: Journal,
}

/// Runs an instance until it is told to end. `ready` is called when clients can come.
pub fn run(source: Box<dyn Source>, ready: impl FnOnce(&Sockets)) -> Result<(), AppError> {
    let loaded = source.load().map_err(AppError::Config)?;
    loaded.warn();
    let root = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    root.block_on(start(source, loaded, ready))
}

async fn start(
    source: Box<dyn Source>,
    loaded: Loaded,
    ready: impl FnOnce(&Sockets),
) -> Result<(), AppError> {
    // First: a signal without a handler would end the process with its work half done.
    let signals = Signals::new()?;
    let state_dir = loaded.config.general.state_dir.clone();
    let store = FileStore::open(&state_dir)?;
    let journal = Journal::open(&state_dir)?;
    let sockets = Sockets::bind(&loaded.config.listen, worker_count(&loaded.config))?;
    let (core, facts) = Core::new(loaded);
    let (outlet, queue) = notify::queue(core.config.subscribe());
    let journal = journal.notifying(outlet);
    let setup = Setup {
        config: Arc::clone(&core.config.borrow()),
        gates: Arc::new(core.pools.clone()),
        facts,
        store: Arc::new(store),
        journal: journal.clone(),
    };
    let (director, handle) = Director::spawn(setup).await?;
    let notifier = Notifier::spawn(queue, handle.clone(), journal.clone());
    let (requester, requests) = mpsc::channel(REQUESTS_MAX);
    let (pools, clients) = (core.pools.clone(), core.clients.clone());
    let console = Console::new(pools, clients, handle, core.config.subscribe(), requester);
    let console = Arc::new(console);
    let authenticator = Authenticator::new(mock_secret(&state_dir)?, core.kdf.clone());
    let authenticator = Arc::new(authenticator);
    ready(&sockets);
    let (shares, unix_path) = sockets.split();
    let mut threads = Vec::new();
    for (number, share) in shares.into_iter().enumerate() {
        threads.push(spawn_worker(
            number,
            core.worker(&authenticator, &console),
            share,
        )?);
    }
    let app = App {
        source,
        core,
        requests,
        console,
        journal,
    };
    app.serve(signals).await;
    director.shutdown().await;
    notifier.shutdown().await;
    clear_up(threads, unix_path);
    Ok(())
}

/// The workers end by themselves once the doors are closed.
fn clear_up(threads: Vec<thread::JoinHandle<()>>, unix_path: Option<PathBuf>) {
    for thread in threads {
        // A worker that panicked has said so; there is nothing left to do for it.
        let _ = thread.join();
    }
    if let Some(path) = unix_path {
        let _ = fs::remove_file(path);
    }
}

/// One thread, one runtime: a session's bytes, timers and wake-ups never leave it.
fn spawn_worker(
    number: usize,
    worker: Worker,
    sockets: WorkerSockets,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            if let Err(error) = runtime.block_on(worker.run(sockets)) {
                tracing::error!(%error, worker = number, "worker ended");
            }
        })
}

/// Decides what salts unknown users are shown. Kept over restarts: a salt that changed would tell
/// that nobody is behind it.
fn mock_secret(state_dir: &Path) -> io::Result<[u8; 32]> {
    let path = state_dir.join("mock_secret");
    if let Ok(kept) = fs::read(&path)
        && let Ok(secret) = kept.try_into()
    {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&secret)?;
    Ok(secret)
}

fn worker_count(config: &Config) -> usize {
    match config.general.workers {
        0 => thread::available_parallelism()
            .map_or(1, usize::from)
            .min(WORKERS_MAX),
        count => count,
    }
}

/// A shutdown in progress.
#[derive(Debug, Clone, Copy)]
struct Draining {
    mode: ShutdownMode,
    deadline: Option<Instant>,
}

impl App {
    async fn serve(mut self, mut signals: Signals) {
        let mut rounds = interval(JANITOR_ROUND);
        let mut samples = interval(STATS_PERIOD);
        let mut draining: Option<Draining> = None;
        loop {
            let mode = tokio::select! {
                _ = rounds.tick() => {
                    self.core.pools.tidy_up();
                    None
                }
                _ = samples.tick() => {
                    self.console.sample(std::time::Instant::now());
                    None
                }
                () = empty(&self.core.pools, &self.core.clients, draining) => break,
                wish = signals.next() => self.obey(wish),
                Some(request) = self.requests.recv() => self.answer(request),
            };
            if let Some(mode) = mode {
                let again = draining.is_some();
                let mode = if again { ShutdownMode::Immediate } else { mode };
                draining = Some(self.begin_shutdown(mode));
                if mode == ShutdownMode::Immediate {
                    break;
                }
            }
        }
        self.end().await;
    }

    fn obey(&mut self, wish: Wish) -> Option<ShutdownMode> {
        match wish {
            Wish::Reload => {
                // Said in the log; a signal has nobody to answer to.
                let _ = self.reload();
            }
            Wish::Shutdown(mode) => return Some(mode),
            Wish::Pause => log_verb("PAUSE", self.core.pools.pause(None)),
            Wish::Resume => log_verb("RESUME", self.core.pools.resume_operator(None)),
        }
        None
    }

    fn answer(&mut self, request: Request) -> Option<ShutdownMode> {
        match request {
            Request::Reload(answer) => {
                // A console that is gone does not hear the answer.
                let _ = answer.send(self.reload());
                None
            }
            Request::Shutdown(mode) => Some(mode),
        }
    }

    fn begin_shutdown(&self, mode: ShutdownMode) -> Draining {
        tracing::info!(?mode, "shutting down");
        self.core.doors.send_replace(Doors::ConsoleOnly);
        if mode == ShutdownMode::WaitForServers {
            // One that is given a server just now has it until its next safe point.
            let order = Order::StopWhenSafe(StopReason::Shutdown);
            self.core.clients.order_waiting(order);
        }
        let limit = self.core.config.borrow().general.shutdown_timeout;
        Draining {
            mode,
            deadline: limit.map(|limit| Instant::now() + limit),
        }
    }

    /// Everybody who is still there is told, and given a moment to hear it.
    async fn end(self) {
        self.core.doors.send_replace(Doors::Closed);
        self.core
            .clients
            .order_all(Order::StopNow(StopReason::Shutdown));
        let until = Instant::now() + LAST_WORDS;
        while self.core.clients.count() > 0 && Instant::now() < until {
            sleep_until(Instant::now() + DRAIN_LOOK).await;
        }
    }
}

/// Returns when a draining instance has nothing left to wait for.
async fn empty(pools: &Pools, clients: &Clients, draining: Option<Draining>) {
    let Some(Draining { mode, deadline }) = draining else {
        return std::future::pending().await;
    };
    loop {
        let left = match mode {
            ShutdownMode::WaitForServers => pools.servers_in_use(),
            ShutdownMode::WaitForClients => clients.count(),
            ShutdownMode::Immediate => 0,
        };
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if left == 0 || late {
            return;
        }
        sleep_until(Instant::now() + DRAIN_LOOK).await;
    }
}

fn log_verb(verb: &str, result: Result<(), crate::pool::VerbError>) {
    match result {
        Ok(()) => tracing::info!("{verb} by signal"),
        Err(error) => tracing::warn!(%error, "{verb} by signal"),
    }
}
