//! One PostgreSQL server: start, stop, kill, freeze, ask.

mod configuration;
mod data;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error};

use super::address::{self, Door, Visitor};
use super::client::{DATABASE, Login, Rows, SUPERUSER, connect, simple};
use super::clock::Clock;
use super::disk::{Disk, DiskSpec};
use super::workspace::{Workspace, as_server_account, block, children, free_port, signal};

/// Whose binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian's, with pglogical. `PG15_BIN` names another place.
    Pg15,
    /// From `.dev/pg17`: native logical replication with origins.
    Pg17,
}

/// What a node shall be.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// `n1`, `n2`, ...: also the value of the setting `pgsluice_test.node`.
    pub name: &'static str,
    pub release: Release,
    /// Load pglogical.
    pub pglogical: bool,
    /// Flush to disk: only where the test kills servers and counts commits.
    pub fsync: bool,
    /// More lines for its configuration.
    pub settings: String,
    /// A small disk of its own. Needs root: see [`super::privilege`].
    pub disk: Option<DiskSpec>,
    /// Its clock is wrong by so many milliseconds; it can be changed while the server runs.
    pub clock_error_ms: Option<i64>,
}

impl NodeSpec {
    pub fn new(name: &'static str, release: Release) -> Self {
        Self {
            name,
            release,
            pglogical: false,
            fsync: false,
            settings: String::new(),
            disk: None,
            clock_error_ms: None,
        }
    }
}

/// Whom a standby follows.
#[derive(Debug, Clone)]
struct Upstream {
    conninfo: String,
    slot: String,
}

/// A server of our own. Killed when dropped.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    port: u16,
    directory: PathBuf,
    postmaster: Option<Child>,
    /// Children of a postmaster that was killed alone.
    orphans: Vec<u32>,
    upstream: Option<Upstream>,
    clock: Option<Clock>,
    // Behind all that lies on it: fields are dropped in this order.
    disk: Option<Disk>,
    workspace: Arc<Workspace>,
}

impl Node {
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory of its Unix socket.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Key-value connection string of the superuser over TCP.
    pub fn dsn(&self, dbname: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user={} dbname={dbname}",
            self.port, SUPERUSER.user
        )
    }

    /// Its number, as in its name.
    pub fn number(&self) -> u8 {
        address::number(self.spec.name)
    }

    /// Where that instance of pgsluice finds it (the first one is 0), and nobody else.
    pub fn door(&self, instance: u8) -> Door {
        let address = Visitor::Instance(instance).address(self.number());
        Door::new(address, self.port)
    }

    /// Where `peer` finds it, and nobody else.
    pub fn door_for(&self, peer: &Self) -> Door {
        let address = Visitor::Node(peer.number()).address(self.number());
        Door::new(address, self.port)
    }

    /// Connection string for the replication to `peer`.
    pub fn link_dsn(&self, peer: &Self) -> String {
        let door = self.door_for(peer);
        format!(
            "host={} port={} user={} dbname={DATABASE}",
            door.ip(),
            door.port(),
            SUPERUSER.user
        )
    }

    pub fn workspace(&self) -> &Arc<Workspace> {
        &self.workspace
    }

    /// Its small disk. Panics when it has none.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("NodeSpec::disk")
    }

    /// Its clock is wrong by so many milliseconds from now on. Panics when `clock_error_ms` was
    /// not set at its start.
    pub fn set_clock(&self, error_ms: i64) {
        self.clock.as_ref().expect("clock_error_ms").set(error_ms);
    }

    /// Is the postmaster there? Also when it crashed by itself.
    pub fn is_running(&mut self) -> bool {
        match self.postmaster.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => true,
            Some(_) => {
                self.postmaster = None;
                false
            }
            None => false,
        }
    }

    /// Waits until the postmaster ended by itself.
    pub async fn ended(&mut self) {
        let deadline = Instant::now() + super::PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "{} runs on", self.spec.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Process id of the postmaster. Panics when it is not running.
    pub fn pid(&self) -> u32 {
        self.postmaster.as_ref().expect("the node is running").id()
    }

    /// Starts it and waits until it answers. On its first start another port is taken when
    /// somebody was faster.
    pub async fn start(&mut self) {
        assert!(!self.is_running(), "{} is running", self.spec.name);
        let orphans = std::mem::take(&mut self.orphans);
        signal(&orphans, "KILL");
        wait_until_gone(&orphans);
        for _ in 0..5 {
            self.spawn();
            if self.wait_until_ready().await {
                return;
            }
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            assert!(
                log.contains("Address already in use"),
                "{} did not start: {log}",
                self.spec.name
            );
            self.port = free_port();
        }
        panic!("{}: no free port found", self.spec.name);
    }

    /// Fast shutdown: sessions are told 57P01.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Immediate shutdown: as after a crash, but politely to the clients.
    pub fn stop_immediate(&mut self) {
        self.end("QUIT");
    }

    /// The machine is gone: every process at once, no word to anybody.
    pub fn kill9(&mut self) {
        let orphans = std::mem::take(&mut self.orphans);
        signal(&orphans, "KILL");
        let Some(mut postmaster) = self.postmaster.take() else {
            wait_until_gone(&orphans);
            return;
        };
        let pid = postmaster.id();
        // Frozen first, so that it starts no more children while they are listed.
        signal(&[pid], "STOP");
        let mut pids = children(pid);
        pids.push(pid);
        signal(&pids, "KILL");
        let _ = postmaster.wait();
        pids.extend(orphans);
        wait_until_gone(&pids);
        Clock::clean_up(pid);
    }

    /// Kills the postmaster alone. Idle sessions and helpers end when they notice; a running
    /// statement goes on until it waits for something.
    pub fn kill_postmaster(&mut self) {
        let mut postmaster = self.postmaster.take().expect("the node is running");
        let pid = postmaster.id();
        signal(&[pid], "STOP");
        self.orphans = children(pid);
        signal(&[pid], "KILL");
        let _ = postmaster.wait();
        Clock::clean_up(pid);
    }

    /// Freezes every process: connections stay open and nothing answers.
    pub fn freeze(&self) {
        let pid = self.pid();
        signal(&[pid], "STOP");
        signal(&children(pid), "STOP");
    }

    /// Freezes the postmaster alone: sessions go on, no new one starts.
    pub fn freeze_postmaster(&self) {
        signal(&[self.pid()], "STOP");
    }

    /// Freezes every process but the postmaster: no session answers, while a new one is served as
    /// long as it needs none of the frozen ones.
    pub fn freeze_children(&self) {
        signal(&children(self.pid()), "STOP");
    }

    /// Ends [`freeze`](Self::freeze), [`freeze_children`](Self::freeze_children) and [`freeze_postmaster`](Self::freeze_postmaster).
    pub fn thaw(&self) {
        let pid = self.pid();
        signal(&children(pid), "CONT");
        signal(&[pid], "CONT");
    }

    /// A superuser's connection.
    pub async fn connect(&self, dbname: &str) -> Client {
        self.connect_as(SUPERUSER, dbname)
            .await
            .expect("superuser's connection")
    }

    /// A connection of `login`, past any pooler.
    pub async fn connect_as(&self, login: Login, dbname: &str) -> Result<Client, Error> {
        connect(self.port, login, dbname)
            .await
            .map(|(client, _)| client)
    }

    /// Runs `sql` (one or more statements) in [`DATABASE`] as the superuser.
    pub async fn query(&self, sql: &str) -> Rows {
        let client = self.connect(DATABASE).await;
        simple(&client, sql)
            .await
            .unwrap_or_else(|e| panic!("{}: {sql}: {e:?}", self.spec.name))
    }

    /// First column of the first row of [`query`](Self::query).
    pub async fn scalar(&self, sql: &str) -> Option<String> {
        self.query(sql)
            .await
            .into_iter()
            .next()?
            .into_iter()
            .next()?
    }

    /// Is a query with a boolean answer true? An error or no row is false: for `eventually`.
    pub async fn holds(&self, sql: &str) -> bool {
        let Ok(client) = self.connect_as(SUPERUSER, DATABASE).await else {
            return false;
        };
        let rows = simple(&client, sql).await.unwrap_or_default();
        rows.first().and_then(|row| row.first()?.as_deref()) == Some("t")
    }

    /// Writes a setting and reloads the server.
    pub async fn set(&self, name: &str, value: &str) {
        self.alter_system(&format!("SET {name} = {value}")).await;
    }

    /// Takes back what [`set`](Self::set) wrote.
    pub async fn reset(&self, name: &str) {
        self.alter_system(&format!("RESET {name}")).await;
    }

    async fn alter_system(&self, what: &str) {
        let client = self.connect("postgres").await;
        for sql in [&format!("ALTER SYSTEM {what}"), "SELECT pg_reload_conf()"] {
            simple(&client, sql)
                .await
                .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    }

    fn spawn(&mut self) {
        self.write_configuration();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("log");
        let server = bin(self.spec.release, "postgres");
        let mut command = match &self.clock {
            None => as_server_account(&server),
            Some(clock) => {
                let mut command = as_server_account(Path::new("env"));
                command.args(clock.environment()).arg(server);
                command
            }
        };
        let child = command
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("postgres");
        self.workspace.watch(child.id());
        self.postmaster = Some(child);
    }

    /// False when the process ended instead.
    async fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + super::PATIENCE;
        loop {
            if connect(self.port, SUPERUSER, "postgres").await.is_ok() {
                return true;
            }
            let child = self.postmaster.as_mut().expect("spawned");
            if child.try_wait().expect("wait").is_some() {
                self.postmaster = None;
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not answer",
                self.spec.name
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn end(&mut self, name: &str) {
        let Some(mut postmaster) = self.postmaster.take() else {
            return;
        };
        let pid = postmaster.id();
        signal(&children(pid), "CONT");
        signal(&[pid], name);
        signal(&[pid], "CONT");
        let deadline = Instant::now() + Duration::from_secs(20);
        while postmaster.try_wait().expect("wait").is_none() {
            if Instant::now() > deadline {
                eprintln!("{} does not stop on SIG{name}: killed", self.spec.name);
                self.postmaster = Some(postmaster);
                return self.kill9();
            }
            block(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A restart would find shared memory in use while a child is not quite gone.
fn wait_until_gone(pids: &[u32]) {
    let there = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    let deadline = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(there) && Instant::now() < deadline {
        block(Duration::from_millis(5));
    }
}

/// Path of one of PostgreSQL's programs.
pub fn bin(release: Release, program: &str) -> PathBuf {
    let directory = match release {
        Release::Pg15 => std::env::var_os("PG15_BIN").map_or_else(
            || PathBuf::from("/usr/lib/postgresql/15/bin"),
            PathBuf::from,
        ),
        Release::Pg17 => project().join(".dev/pg17/bin"),
    };
    let path = directory.join(program);
    assert!(
        path.exists(),
        "{} is missing: run scripts/setup.sh test",
        path.display()
    );
    path
}

/// Root of the checkout.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
