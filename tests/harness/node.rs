//! One PostgreSQL server: start, stop, kill, freeze, wipe, ask.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error};

use super::address::{self, Door, Visitor};
use super::client::{DATABASE, Login, Rows, SUPERUSER, connect, simple};
use super::clock::Clock;
use super::disk::{Disk, DiskSpec, Holds, TABLESPACE};
use super::template::{self, initdb};
use super::workspace::{Workspace, as_server_account, block, children, free_port, run, signal};

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
    /// A started server with the roles above and the empty database [`DATABASE`].
    pub async fn create(workspace: &Arc<Workspace>, spec: NodeSpec) -> Self {
        let template = template::template(&spec, workspace);
        let mut node = Self::place(workspace, spec);
        node.copy_data(&template);
        node.start().await;
        node.use_tablespace().await;
        node
    }

    /// A started streaming standby of `primary`, fed through the physical slot `slot`.
    pub async fn standby_of(primary: &Self, spec: NodeSpec, slot: &str) -> Self {
        let mut node = Self::place(&primary.workspace, spec);
        node.become_standby_of(primary, slot).await;
        node
    }

    /// Wiped and made anew as a standby of `primary`, under the same address: how an old primary
    /// comes back.
    pub async fn become_standby_of(&mut self, primary: &Self, slot: &str) {
        self.wipe();
        assert!(
            self.disk.is_none(),
            "both servers of a physical pair would use the same tablespace"
        );
        self.upstream = Some(self.upstream(primary, slot));
        primary.ensure_slot(slot).await;
        run(as_server_account(&bin(self.spec.release, "pg_basebackup"))
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .args(["--slot", slot, "--dbname", &primary.link_dsn(self)])
            .arg("--pgdata")
            .arg(self.data()));
        run(as_server_account(Path::new("touch")).arg(self.data().join("standby.signal")));
        self.start().await;
    }

    /// A standby follows another primary from now on, of the same history.
    pub async fn follow(&mut self, primary: &Self, slot: &str) {
        primary.ensure_slot(slot).await;
        self.upstream = Some(self.upstream(primary, slot));
        self.write_configuration();
        if self.postmaster.is_some() {
            let client = self.connect("postgres").await;
            let reload = simple(&client, "SELECT pg_reload_conf()").await;
            reload.expect("reload");
        }
    }

    fn upstream(&self, primary: &Self, slot: &str) -> Upstream {
        let dsn = primary.link_dsn(self);
        Upstream {
            conninfo: format!("{dsn} application_name={}", self.spec.name),
            slot: slot.to_owned(),
        }
    }

    /// All data lost, and an empty server made under the same address: another system identifier,
    /// [`DATABASE`] without a table.
    pub async fn reinit(&mut self) {
        self.wipe();
        let fresh = initdb(&self.spec, &self.workspace);
        self.copy_data(&fresh);
        fs::remove_dir_all(fresh).expect("the fresh data directory");
        self.start().await;
        self.use_tablespace().await;
    }

    /// Its directory, a port, and the small disk.
    fn place(workspace: &Arc<Workspace>, spec: NodeSpec) -> Self {
        let directory = workspace.directory(spec.name);
        let disk = spec.disk.map(|disk| {
            let path = match disk.holds {
                Holds::Everything => directory.join("data"),
                Holds::Wal | Holds::Tables => directory.join("small"),
            };
            Disk::mount(workspace, path, disk)
        });
        let clock = spec.clock_error_ms;
        Self {
            port: free_port(),
            clock: clock.map(|error_ms| Clock::new(&directory, error_ms)),
            directory,
            postmaster: None,
            orphans: Vec::new(),
            upstream: None,
            disk,
            spec,
            workspace: Arc::clone(workspace),
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Fills the empty data directory from another one.
    fn copy_data(&self, from: &Path) {
        let data = self.data();
        let copy = |from: &Path, to: &Path| {
            run(Command::new("cp")
                .args(["-a", "--reflink=auto", "-T"])
                .args([from, to]));
        };
        copy(from, &data);
        if let Some(disk) = self.disk_that(Holds::Wal) {
            let wal = disk.path().join("pg_wal");
            copy(&from.join("pg_wal"), &wal);
            fs::remove_dir_all(data.join("pg_wal")).expect("pg_wal");
            std::os::unix::fs::symlink(wal, data.join("pg_wal")).expect("pg_wal");
        }
    }

    async fn use_tablespace(&self) {
        if let Some(disk) = self.disk_that(Holds::Tables) {
            let sql = format!(
                "CREATE TABLESPACE {TABLESPACE} LOCATION '{}'",
                disk.path().display()
            );
            self.query(&sql).await;
            self.query(&format!(
                "GRANT CREATE ON TABLESPACE {TABLESPACE} TO PUBLIC"
            ))
            .await;
            self.set("default_tablespace", TABLESPACE).await;
        }
    }

    fn disk_that(&self, holds: Holds) -> Option<&Disk> {
        self.disk.as_ref().filter(|disk| disk.holds == holds)
    }

    /// Kills it, and leaves nothing of its data.
    fn wipe(&mut self) {
        self.kill9();
        self.upstream = None;
        // What is a mount point stays, and only its contents go.
        let places = [
            Some(self.data()),
            self.disk.as_ref().map(|d| d.path().to_owned()),
        ];
        for place in places.into_iter().flatten() {
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            for path in entries.map(|entry| entry.path()) {
                if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(path).expect("a directory of the old data");
                } else {
                    fs::remove_file(path).expect("a file of the old data");
                }
            }
        }
    }

    async fn ensure_slot(&self, slot: &str) {
        let exists = format!("SELECT true FROM pg_replication_slots WHERE slot_name = '{slot}'");
        if !self.holds(&exists).await {
            // Reserves WAL at once, so that the base backup finds all it needs.
            let sql = format!("SELECT pg_create_physical_replication_slot('{slot}', true)");
            self.query(&sql).await;
        }
    }

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

    fn write_configuration(&self) {
        let file = self.data().join("harness.conf");
        fs::write(file, self.configuration()).expect("harness.conf");
    }

    fn configuration(&self) -> String {
        let Self {
            spec,
            port,
            directory,
            ..
        } = self;
        let on_off = |on| if on { "on" } else { "off" };
        let mut text = format!(
            "listen_addresses = '{listen}'\n\
             port = {port}\n\
             unix_socket_directories = '{}'\n\
             cluster_name = '{name}'\n\
             pgsluice_test.node = '{name}'\n\
             fsync = {fsync}\n\
             full_page_writes = {fsync}\n\
             shared_buffers = 32MB\n\
             max_connections = 120\n\
             wal_level = logical\n\
             max_wal_senders = 10\n\
             max_replication_slots = 10\n\
             max_worker_processes = 16\n\
             track_commit_timestamp = on\n\
             wal_retrieve_retry_interval = 200ms\n\
             hot_standby_feedback = on\n\
             log_line_prefix = '%m [%p] %u@%d %a '\n\
             timezone = 'UTC'\n\
             log_timezone = 'UTC'\n",
            directory.display(),
            listen = self.listen_addresses(),
            name = spec.name,
            fsync = on_off(spec.fsync),
        );
        // What a killed server leaves in /dev/shm stays there; its directory goes with the test.
        if self.disk_that(Holds::Everything).is_none() {
            text.push_str("dynamic_shared_memory_type = mmap\n");
        }
        if spec.pglogical {
            text.push_str(
                "shared_preload_libraries = 'pglogical'\n\
                 pglogical.conflict_resolution = 'last_update_wins'\n",
            );
            // Minor releases of late 2026 load no other output plugin than those listed here, and
            // pglogical then retries for ever without a word to the operator.
            let known =
                run(as_server_account(&bin(spec.release, "postgres")).arg("--describe-config"));
            if known
                .lines()
                .any(|line| line.starts_with("output_plugin_libraries\t"))
            {
                text.push_str(
                    "output_plugin_libraries = 'pgoutput, test_decoding, pglogical_output'\n",
                );
            }
        }
        if let Some(upstream) = &self.upstream {
            let Upstream { conninfo, slot } = upstream;
            text.extend(["primary_conninfo = '", conninfo, "'\n"]);
            text.extend(["primary_slot_name = '", slot, "'\n"]);
        }
        text + &spec.settings
    }

    fn listen_addresses(&self) -> String {
        let addresses = address::listen_addresses(self.number());
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        addresses.join(",")
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
