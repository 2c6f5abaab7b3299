//! One PostgreSQL server: start, stop, kill, freeze, ask.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error};

use super::client::{DATABASE, Login, Rows, SUPERUSER, connect, simple};
use super::template;
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
}

impl NodeSpec {
    pub fn new(name: &'static str, release: Release) -> Self {
        Self {
            name,
            release,
            pglogical: false,
            fsync: false,
            settings: String::new(),
        }
    }
}

/// A server of our own. Killed when dropped.
#[derive(Debug)]
pub struct Node {
    spec: NodeSpec,
    port: u16,
    directory: PathBuf,
    postmaster: Option<Child>,
    workspace: Arc<Workspace>,
}

impl Node {
    /// A started server with the roles above and the empty database [`DATABASE`].
    pub async fn create(workspace: &Arc<Workspace>, spec: NodeSpec) -> Self {
        let template = template::template(&spec, workspace);
        let directory = workspace.directory(spec.name);
        run(Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(&template)
            .arg(directory.join("data")));
        let mut node = Self {
            spec,
            port: free_port(),
            directory,
            postmaster: None,
            workspace: Arc::clone(workspace),
        };
        node.start().await;
        node
    }

    /// A started streaming standby of `primary`, fed through the physical slot `slot`.
    pub async fn standby_of(primary: &Self, spec: NodeSpec, slot: &str) -> Self {
        let workspace = Arc::clone(&primary.workspace);
        let directory = workspace.directory(spec.name);
        let dsn = format!("{} application_name={}", primary.dsn("postgres"), spec.name);
        run(as_server_account(&bin(spec.release, "pg_basebackup"))
            .args([
                "--checkpoint=fast",
                "--wal-method=stream",
                "--write-recovery-conf",
            ])
            .args([
                "--no-sync",
                "--create-slot",
                "--slot",
                slot,
                "--dbname",
                &dsn,
            ])
            .arg("--pgdata")
            .arg(directory.join("data")));
        let mut node = Self {
            spec,
            port: free_port(),
            directory,
            postmaster: None,
            workspace,
        };
        node.start().await;
        node
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

    /// Process id of the postmaster. Panics when it is not running.
    pub fn pid(&self) -> u32 {
        self.postmaster.as_ref().expect("the node is running").id()
    }

    /// Starts it and waits until it answers. On its first start another port is taken when
    /// somebody was faster.
    pub async fn start(&mut self) {
        assert!(self.postmaster.is_none(), "{} is running", self.spec.name);
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
        let Some(mut postmaster) = self.postmaster.take() else {
            return;
        };
        let pid = postmaster.id();
        // Frozen first, so that it starts no more children while they are listed.
        signal(&[pid], "STOP");
        let mut pids = children(pid);
        pids.push(pid);
        signal(&pids, "KILL");
        let _ = postmaster.wait();
        // A restart would find shared memory in use while a child is not quite gone.
        let deadline = Instant::now() + Duration::from_secs(10);
        while pids
            .iter()
            .any(|pid| Path::new(&format!("/proc/{pid}")).exists())
            && Instant::now() < deadline
        {
            block(Duration::from_millis(5));
        }
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

    /// Ends [`freeze`](Self::freeze) and [`freeze_postmaster`](Self::freeze_postmaster).
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
        let client = self.connect("postgres").await;
        simple(&client, &format!("ALTER SYSTEM SET {name} = {value}"))
            .await
            .expect("ALTER SYSTEM");
        simple(&client, "SELECT pg_reload_conf()")
            .await
            .expect("reload");
    }

    fn spawn(&mut self) {
        let data = self.directory.join("data");
        fs::write(data.join("harness.conf"), self.configuration()).expect("harness.conf");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("log");
        let child = as_server_account(&bin(self.spec.release, "postgres"))
            .arg("-D")
            .arg(&data)
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

    fn configuration(&self) -> String {
        let Self {
            spec,
            port,
            directory,
            ..
        } = self;
        let on_off = |on| if on { "on" } else { "off" };
        let mut text = format!(
            "listen_addresses = '127.0.0.1'\n\
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
            name = spec.name,
            fsync = on_off(spec.fsync),
        );
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
        text + &spec.settings
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
