//! The real pgsluice binary in front of a pair.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::client::{
    APP, APP_MD5, APP_PLAIN, APP_TRUST, DATABASE, Login, SUPERUSER, connect, simple,
};
use super::eventually;
use super::layout::{Cluster, Layout};
use super::pair::Pair;
use super::workspace::{Workspace, free_port, signal};

/// Administrator of the console.
pub const ADMIN: Login = Login {
    user: "admin",
    password: "admin-secret",
};
/// May only SHOW.
pub const STATS: Login = Login {
    user: "stats",
    password: "stats-secret",
};
/// Name of the cluster in the generated configuration.
pub const CLUSTER: &str = "main";
/// The admin database.
pub const CONSOLE: &str = "pgsluice";

/// What an instance shall be. The texts are lines of TOML for the named section.
#[derive(Debug, Clone)]
pub struct ProxySpec {
    /// Names its directory: an instance started again under the same name finds its records.
    pub name: &'static str,
    /// The program.
    pub binary: PathBuf,
    /// `[pgsluice]`.
    pub general: String,
    /// `[clusters.main]`.
    pub cluster: String,
    /// `[databases.app]`.
    pub database: String,
    /// `marker_table`: the harness's own. Not for physical replication.
    pub marker: bool,
    /// More keys for a node, such as `candidate = "manual"`.
    pub nodes: BTreeMap<&'static str, String>,
    /// Reaches the nodes by their doors for this instance, where [`super::lab`] can cut it off; by
    /// 127.0.0.1 otherwise.
    pub door: Option<u8>,
    /// For the program.
    pub environment: Vec<(&'static str, &'static str)>,
}

impl ProxySpec {
    pub fn new(binary: PathBuf) -> Self {
        Self {
            name: "proxy",
            binary,
            general: String::new(),
            cluster: String::new(),
            database: String::new(),
            marker: true,
            nodes: BTreeMap::new(),
            door: None,
            environment: Vec::new(),
        }
    }
}

/// One row of the console's answer, by column name.
pub type NamedRow = BTreeMap<String, String>;

/// A started instance. Killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    directory: PathBuf,
    binary: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    process: Option<Child>,
    workspace: Arc<Workspace>,
}

impl Proxy {
    /// In front of both nodes of `pair`; returns when the console answers.
    pub async fn start(pair: &Pair, spec: ProxySpec) -> Self {
        let mut proxy = Self::place(&pair.workspace, spec.name, spec.binary.clone());
        proxy.environment.clone_from(&spec.environment);
        proxy.write_config(&layout(pair, &spec).text(&proxy));
        proxy.spawn().await;
        proxy
    }

    /// In front of one or more meshes; returns when the console answers.
    pub async fn serve(
        workspace: &Arc<Workspace>,
        name: &str,
        binary: PathBuf,
        layout: &Layout,
    ) -> Self {
        Self::configured(workspace, name, binary, |proxy| layout.text(proxy)).await
    }

    /// With a configuration of the test's own; returns when the console answers.
    pub async fn configured(
        workspace: &Arc<Workspace>,
        name: &str,
        binary: PathBuf,
        configuration: impl FnOnce(&Self) -> String,
    ) -> Self {
        let mut proxy = Self::place(workspace, name, binary);
        proxy.write_config(&configuration(&proxy));
        proxy.spawn().await;
        proxy
    }

    /// Its directory, and a port.
    fn place(workspace: &Arc<Workspace>, name: &str, binary: PathBuf) -> Self {
        let directory = workspace.root().join(name);
        fs::create_dir_all(directory.join("state")).expect("mkdir");
        fs::write(directory.join("userlist.txt"), userlist()).expect("userlist.txt");
        Self {
            port: free_port(),
            directory,
            binary,
            environment: Vec::new(),
            process: None,
            workspace: Arc::clone(workspace),
        }
    }

    /// Started again after it ended: same port, same files.
    pub async fn restart(&mut self) {
        self.kill9();
        self.spawn().await;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory of its Unix socket, configuration, log and `state`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory.join("pgsluice.toml")
    }

    /// Replaces the configuration file; [`reload`](Self::reload) makes it known.
    pub fn write_config(&self, text: &str) {
        fs::write(self.config_file(), text).expect("pgsluice.toml");
    }

    pub fn read_config(&self) -> String {
        fs::read_to_string(self.config_file()).expect("pgsluice.toml")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// A client's connection through it.
    pub async fn connect_as(&self, login: Login) -> Result<Client, Error> {
        self.connect_to(DATABASE, login).await
    }

    /// A client's connection through it, to that database of its configuration.
    pub async fn connect_to(&self, database: &str, login: Login) -> Result<Client, Error> {
        connect(self.port, login, database)
            .await
            .map(|(client, _)| client)
    }

    /// Waits until a client is served.
    pub async fn serving(&self) {
        eventually("a client is served", async || {
            let Ok(client) = self.connect_as(APP).await else {
                return false;
            };
            simple(&client, "SELECT 1").await.is_ok()
        })
        .await;
    }

    /// Says `sql` on the console, on a connection of its own.
    pub async fn admin(&self, sql: &str) -> Result<Vec<NamedRow>, Error> {
        let (client, _driver) = connect(self.port, ADMIN, CONSOLE).await?;
        named_rows(&client, sql).await
    }

    pub async fn reload(&self) {
        self.admin("RELOAD").await.expect("RELOAD");
    }

    /// Name of the lead, as the console shows it.
    pub async fn lead(&self) -> Option<String> {
        self.lead_of(CLUSTER).await
    }

    /// Name of that cluster's lead, as the console shows it.
    pub async fn lead_of(&self, cluster: &str) -> Option<String> {
        let rows = self.admin("SHOW CLUSTERS").await.ok()?;
        rows.into_iter()
            .find(|row| row.get("cluster").is_some_and(|name| name == cluster))?
            .remove("lead")
    }

    /// Name of the lead, as the record on disk has it.
    pub fn recorded_lead(&self) -> Option<String> {
        self.recorded_lead_of(CLUSTER)
    }

    /// Name of that cluster's lead, as the record on disk has it.
    pub fn recorded_lead_of(&self, cluster: &str) -> Option<String> {
        let file = self.directory.join(format!("state/lead-{cluster}.record"));
        let record = fs::read_to_string(file).ok()?;
        record
            .lines()
            .find_map(|line| line.strip_prefix("node "))
            .map(str::to_owned)
    }

    /// Rows of `SHOW EVENTS`, oldest first as the console shows them.
    pub async fn events(&self) -> Vec<NamedRow> {
        self.admin("SHOW EVENTS").await.expect("SHOW EVENTS")
    }

    /// The node's row of `SHOW NODES`.
    pub async fn node(&self, name: &str) -> NamedRow {
        let rows = self.admin("SHOW NODES").await.expect("SHOW NODES");
        let mut found = rows.into_iter().filter(|row| row["node"] == name);
        found
            .next()
            .unwrap_or_else(|| panic!("SHOW NODES does not name {name}"))
    }

    /// Waits until that column of the node's row says `value`, e.g. `observed` says `up`.
    pub async fn node_is(&self, name: &str, column: &str, value: &str) {
        let what = format!("{column} of {name} is {value}");
        eventually(&what, async || self.node(name).await[column] == value).await;
    }

    /// Waits until the node may become lead of that cluster, whether in a switchover or because the
    /// lead is lost: then only what the lead's own answers showed of a follower counts, so it must
    /// have been asked once more.
    pub async fn ready(&self, cluster: &str, target: &str) {
        self.may_lead(cluster, target).await;
        let Some(lead) = self.lead_of(cluster).await else {
            return;
        };
        let probe = self.node(&lead).await.remove("probe_us");
        eventually(&format!("{lead} was asked once more"), async || {
            self.node(&lead).await.remove("probe_us") != probe
        })
        .await;
    }

    /// Waits until all that a preflight asks of that target is true.
    pub async fn may_lead(&self, cluster: &str, target: &str) {
        self.node_is(target, "observed", "up").await;
        let command = format!("SWITCHOVER {cluster} TO {target} DRY RUN");
        let refusal = std::sync::Mutex::new(String::new());
        eventually(&format!("{target} may become lead"), async || {
            let Err(error) = self.admin(&command).await else {
                return true;
            };
            let error = error
                .as_db_error()
                .map_or_else(|| error.to_string(), ToString::to_string);
            let mut last = refusal.lock().expect("nobody panics with it");
            if error != *last {
                eprintln!("not yet: {error}");
                *last = error;
            }
            false
        })
        .await;
    }

    /// Waits until an event of that type tells of that node.
    pub async fn event(&self, kind: &str, node: &str) {
        eventually(&format!("{kind} of {node}"), async || {
            let told = |row: &NamedRow| row["type"] == kind && row["node"] == node;
            self.events().await.iter().any(told)
        })
        .await;
    }

    /// Freezes the instance: connections stay open and nothing moves.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Ends [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the instance is running").id()
    }

    /// Sends it a signal, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        signal(&[self.pid()], name);
    }

    /// Waits until it ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + super::PATIENCE;
        let mut process = self.process.take().expect("the instance is running");
        loop {
            if let Some(status) = process.try_wait().expect("wait") {
                return status;
            }
            if Instant::now() > deadline {
                self.process = Some(process);
                panic!("pgsluice does not end:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn kill9(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let _ = process.kill();
        let _ = process.wait();
    }

    async fn spawn(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("log");
        let child = Command::new(&self.binary)
            .arg(self.config_file())
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.binary.display()));
        self.workspace.watch(child.id());
        self.process = Some(child);
        let deadline = Instant::now() + super::PATIENCE;
        while self.admin("SHOW VERSION").await.is_err() {
            let process = self.process.as_mut().expect("spawned");
            if let Some(status) = process.try_wait().expect("wait") {
                self.process = None;
                panic!("pgsluice ended at once, {status}:\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "the console does not answer:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            // Comings and goings of clients would fill it.
            let lines = || {
                log.lines()
                    .filter(|line| !line.contains("pgsluice::session"))
            };
            let skip = lines().count().saturating_sub(60);
            eprintln!("end of the log of pgsluice:");
            lines().skip(skip).for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Rows of all results of `sql`, each by column name.
pub async fn named_rows(client: &Client, sql: &str) -> Result<Vec<NamedRow>, Error> {
    let messages = client.simple_query(sql).await?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            row.columns()
                .iter()
                .enumerate()
                .map(|(i, column)| {
                    (
                        column.name().to_owned(),
                        row.get(i).unwrap_or_default().to_owned(),
                    )
                })
                .collect(),
        ),
        _ => None,
    };
    Ok(messages.iter().filter_map(row).collect())
}

fn layout(pair: &Pair, spec: &ProxySpec) -> Layout {
    let mut cluster = Cluster::new(CLUSTER, &pair.lab(), spec.door.unwrap_or(0));
    for member in &mut cluster.members {
        if spec.door.is_none() {
            member.door.set_ip(Ipv4Addr::LOCALHOST);
        }
        if let Some(keys) = spec.nodes.get(member.name) {
            member.keys.clone_from(keys);
        }
    }
    cluster.marker &= spec.marker;
    cluster.settings.clone_from(&spec.cluster);
    Layout {
        general: spec.general.clone(),
        ..Layout::default()
    }
    .cluster(cluster)
    .database(DATABASE, CLUSTER, &spec.database)
}

fn userlist() -> String {
    let logins = [ADMIN, STATS, APP, APP_MD5, APP_PLAIN, APP_TRUST, SUPERUSER];
    let line = |login: Login| format!("\"{}\" \"{}\"\n", login.user, login.password);
    logins.map(line).concat()
}
