//! Composition root: builds the parts, owns tasks, threads and signals, and ends them in order.

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
use crate::cluster::Reports;
use crate::config::{Config, diff};
use crate::control::coordination::{FileStore, StoreError};
use crate::control::events::Journal;
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
const STATS_PERIOD: Duration = Duration::from_secs(60);
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

/// A running instance.
struct App {
    source: Box<dyn Source>,
    config: watch::Sender<Arc<Config>>,
    users: watch::Sender<Arc<UserList>>,
    pools: Pools,
    clients: Clients,
    doors: watch::Sender<Doors>,
    requests: mpsc::Receiver<Request>,
    console: Arc<Console>,
}

/// Runs an instance until it is told to end. `ready` is called when clients can come.
pub fn run(source: Box<dyn Source>, ready: impl FnOnce(&Sockets)) -> Result<(), AppError> {
    let loaded = source.load().map_err(AppError::Config)?;
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
    let workers = worker_count(&loaded.config);
    let state_dir = loaded.config.general.state_dir.clone();
    let store = FileStore::open(&state_dir)?;
    let journal = Journal::open(&state_dir)?;
    let sockets = Sockets::bind(&loaded.config.listen, workers)?;
    let (config, config_reader) = watch::channel(Arc::new(loaded.config));
    let (users, users_reader) = watch::channel(Arc::new(loaded.users));
    let (doors, doors_reader) = watch::channel(Doors::Open);
    let (reports, facts) = Reports::channel(FACTS_MAX);
    let ids = Arc::new(AtomicU64::new(1));
    let clients = Clients::new(Arc::clone(&ids));
    let kdf = Kdf::new(HASHING_PARALLEL);
    let pools = Pools::new(
        config_reader.clone(),
        users_reader.clone(),
        reports.clone(),
        kdf.clone(),
        ids,
    );
    let setup = Setup {
        config: Arc::clone(&config_reader.borrow()),
        gates: Arc::new(pools.clone()),
        facts,
        store: Arc::new(store),
        journal,
    };
    let (director, handle) = Director::spawn(setup).await?;
    let (requester, requests) = mpsc::channel(REQUESTS_MAX);
    let console = Arc::new(Console::new(
        pools.clone(),
        clients.clone(),
        handle,
        config_reader.clone(),
        requester,
    ));
    let authenticator = Arc::new(Authenticator::new(mock_secret(&state_dir)?, kdf));
    ready(&sockets);
    let (shares, unix_path) = sockets.split();
    let worker = || Worker {
        context: Context {
            pools: pools.clone(),
            clients: clients.clone(),
            config: config_reader.clone(),
            authenticator: Arc::clone(&authenticator),
            users: users_reader.clone(),
            reports: reports.clone(),
            scratch: Scratch::default(),
        },
        console: Arc::clone(&console),
        doors: doors_reader.clone(),
    };
    let mut threads = Vec::new();
    for (number, share) in shares.into_iter().enumerate() {
        threads.push(spawn_worker(number, worker(), share)?);
    }
    let app = App {
        source,
        config,
        users,
        pools,
        clients,
        doors,
        requests,
        console,
    };
    app.serve(signals).await;
    director.shutdown().await;
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
                    self.pools.tidy_up();
                    None
                }
                _ = samples.tick() => {
                    self.console.sample(std::time::Instant::now());
                    None
                }
                () = empty(&self.pools, &self.clients, draining) => break,
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
            Wish::Pause => log_verb("PAUSE", self.pools.pause(None)),
            Wish::Resume => log_verb("RESUME", self.pools.resume_operator(None)),
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

    /// All or nothing: what is wrong anywhere leaves everything as it was.
    fn reload(&mut self) -> Result<Vec<String>, String> {
        let loaded = self.source.load().inspect_err(|error| {
            tracing::error!("RELOAD failed, nothing was changed:\n{error}");
        })?;
        let diff = diff(&self.config.borrow(), &loaded.config);
        self.users.send_replace(Arc::new(loaded.users));
        self.config.send_replace(Arc::new(diff.effective));
        self.pools.apply_config();
        for change in &diff.settings_changed {
            tracing::info!("reload: {change}");
        }
        let restart = diff.restart_required.iter();
        Ok(restart
            .map(|path| format!("{path}: takes effect at the next start"))
            .collect())
    }

    fn begin_shutdown(&self, mode: ShutdownMode) -> Draining {
        tracing::info!(?mode, "shutting down");
        self.doors.send_replace(Doors::ConsoleOnly);
        if mode == ShutdownMode::WaitForServers {
            // One that is given a server just now has it until its next safe point.
            let order = Order::StopWhenSafe(StopReason::Shutdown);
            self.clients.order_waiting(order);
        }
        let limit = self.config.borrow().general.shutdown_timeout;
        Draining {
            mode,
            deadline: limit.map(|limit| Instant::now() + limit),
        }
    }

    /// Everybody who is still there is told, and given a moment to hear it.
    async fn end(self) {
        self.doors.send_replace(Doors::Closed);
        self.clients.order_all(Order::StopNow(StopReason::Shutdown));
        let until = Instant::now() + LAST_WORDS;
        while self.clients.count() > 0 && Instant::now() < until {
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
