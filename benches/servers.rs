//! PostgreSQL and the poolers: each started here, configured alike, ended with this process.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bytes;
use crate::load::{Address, Client, block_on};

/// Servers per database and user; every pooler gets the same.
const POOL_SIZE: usize = 2500;

/// Name of the database behind which the fake backend answers.
pub(crate) const FAKE: &str = "fake";
/// Name of the database on the real PostgreSQL.
pub(crate) const REAL: &str = "real";

/// Where things are put, and as whom they run.
#[derive(Debug)]
pub(crate) struct Site {
    directory: tempfile::TempDir,
    /// PostgreSQL and PgBouncer refuse to run as root.
    as_user: Option<&'static str>,
}

/// The ports that the poolers connect to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backends {
    /// Of the fake backend.
    pub(crate) fake: u16,
    /// Of PostgreSQL.
    pub(crate) real: u16,
}

/// A way from the load to a backend.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// To the fake backend.
    pub(crate) fake: Address,
    /// To PostgreSQL.
    pub(crate) real: Address,
    process: Option<Process>,
}

impl Peer {
    /// Process id of the pooler; `None` for the direct way.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.0.id())
    }

    /// Moves all threads of the pooler to that core.
    pub(crate) fn pin(&self, core: &str) {
        if let Some(pid) = self.pid() {
            output("taskset", &["-a", "-c", "-p", core, &pid.to_string()]);
        }
    }
}

/// Which peer to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No pooler.
    Direct,
    /// PgBouncer, session mode, its defaults otherwise.
    PgBouncer,
    /// HAProxy in TCP mode, one thread.
    HaProxy,
    /// pgsluice with so many workers.
    Pgsluice(usize),
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        // QUIT is the fast way down of all of them; KILL where it was not heard.
        let id = self.0.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &id]).status();
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            pause();
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Site {
    /// A directory of its own.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let is_root = output("id", &["-u"]) == "0";
        let as_user = is_root.then_some("postgres");
        let site = Self { directory, as_user };
        site.give(site.directory.path());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn give(&self, path: &Path) {
        if let Some(user) = self.as_user {
            let path = path.display().to_string();
            assert_eq!(output("chown", &["-R", user, &path]), "", "chown {path}");
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("a written file");
        self.give(&path);
        path.display().to_string()
    }

    /// The command, as the unprivileged user where we are root.
    fn command(&self, program: &str) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(user) = self.as_user {
            let user = user.to_owned();
            let clear = "--clear-groups".to_owned();
            words.extend([
                "setpriv".into(),
                "--reuid".into(),
                user.clone(),
                "--regid".into(),
                user,
                clear,
            ]);
        }
        words.push(program.to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.directory.path());
        command
    }

    fn start(&self, name: &str, program: &str, args: &[String]) -> Process {
        let log = fs::File::create(self.path(&format!("{name}.log"))).expect("a log file");
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        Process(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}")),
        )
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }
}

/// A running PostgreSQL.
#[derive(Debug)]
pub(crate) struct Postgres {
    _process: Process,
    /// Its port.
    pub(crate) port: u16,
}

impl Postgres {
    /// Creates and starts one, with the tables and roles that the benchmark needs.
    pub(crate) fn start(site: &Site) -> Self {
        let bin = postgres_bin();
        let data = site.path("data").display().to_string();
        let mut initdb = site.command(&format!("{bin}/initdb"));
        initdb.args([
            "-D",
            &data,
            "-A",
            "trust",
            "-U",
            "bench",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        let made = initdb.stdout(Stdio::null()).status().expect("initdb");
        assert!(made.success(), "initdb failed");
        let port = free_port();
        let socket_dir = site.directory.path().display();
        let settings = [
            format!("port={port}"),
            format!("unix_socket_directories={socket_dir}"),
            "fsync=off".into(),
            "max_connections=200".into(),
            "listen_addresses=127.0.0.1".into(),
        ];
        let mut args = vec!["-D".to_owned(), data];
        args.extend(
            settings
                .into_iter()
                .flat_map(|setting| ["-c".to_owned(), setting]),
        );
        let mut process = site.start("postgres", &format!("{bin}/postgres"), &args);
        let address = |database: &str| Address {
            port,
            database: database.to_owned(),
        };
        let served = wait_until_served(&address("postgres"), &mut process);
        served.unwrap_or_else(|why| panic!("PostgreSQL {why}\n{}", site.log("postgres")));
        block_on(async {
            let mut client = Client::connect(&address("postgres")).await?;
            client.ask(&bytes::query("CREATE DATABASE real")).await?;
            client
                .ask(&bytes::query(
                    "CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor",
                ))
                .await?;
            let mut client = Client::connect(&address(REAL)).await?;
            client
                .ask(&bytes::query("CREATE UNLOGGED TABLE sink (line text)"))
                .await
        })
        .expect("the benchmark's tables and roles");
        Self {
            _process: process,
            port,
        }
    }
}

/// Starts a peer; `Err` says why it is left out.
pub(crate) fn start(kind: Kind, site: &Site, to: Backends) -> Result<Peer, String> {
    let (fake_port, real_port) = (free_port(), free_port());
    let (name, program, args, ports) = match kind {
        Kind::Direct => {
            let fake = Address {
                port: to.fake,
                database: FAKE.into(),
            };
            let real = Address {
                port: to.real,
                database: REAL.into(),
            };
            return Ok(Peer {
                name: "direct",
                fake,
                real,
                process: None,
            });
        }
        Kind::PgBouncer => {
            let args = vec![
                // Not -q: it would be spared the log lines that the others write by default.
                site.write("pgbouncer.ini", &pgbouncer(site, fake_port, to)),
            ];
            (
                "pgbouncer",
                find("pgbouncer")?,
                args,
                (fake_port, fake_port),
            )
        }
        Kind::HaProxy => {
            let file = site.write("haproxy.cfg", &haproxy((fake_port, real_port), to));
            let args = vec!["-db".to_owned(), "-q".to_owned(), "-f".to_owned(), file];
            ("haproxy", find("haproxy")?, args, (fake_port, real_port))
        }
        Kind::Pgsluice(workers) => {
            let name = if workers == 1 {
                "pgsluice-1"
            } else {
                "pgsluice-2"
            };
            let args = vec![site.write(
                &format!("{name}.toml"),
                &pgsluice(site, name, workers, fake_port, to),
            )];
            (name, pgsluice_binary()?, args, (fake_port, fake_port))
        }
    };
    let mut process = site.start(name, &program, &args);
    let fake = Address {
        port: ports.0,
        database: FAKE.into(),
    };
    let real = Address {
        port: ports.1,
        database: REAL.into(),
    };
    for address in [&fake, &real] {
        wait_until_served(address, &mut process).map_err(|why| {
            let log = site.log(name);
            format!("{why}\n{log}")
        })?;
    }
    Ok(Peer {
        name,
        fake,
        real,
        process: Some(process),
    })
}

fn pgbouncer(site: &Site, port: u16, to: Backends) -> String {
    let users = site.write("userlist.txt", "\"bench\" \"\"\n");
    let Backends { fake, real } = to;
    format!(
        "[databases]\n\
         {FAKE} = host=127.0.0.1 port={fake} dbname={FAKE}\n\
         {REAL} = host=127.0.0.1 port={real} dbname={REAL}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = {users}\npool_mode = session\n\
         max_client_conn = 5000\ndefault_pool_size = {POOL_SIZE}\n"
    )
}

fn haproxy(ports: (u16, u16), to: Backends) -> String {
    let listen = |name: &str, port: u16, server: u16| {
        format!("listen {name}\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{server}\n")
    };
    format!(
        "global\n  maxconn 5000\n  nbthread 1\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n{}{}",
        listen(FAKE, ports.0, to.fake),
        listen(REAL, ports.1, to.real)
    )
}

fn pgsluice(site: &Site, name: &str, workers: usize, port: u16, to: Backends) -> String {
    let users = site.write("userlist.txt", "\"bench\" \"\"\n");
    let state = site.path(&format!("{name}-state"));
    fs::create_dir_all(&state).expect("a state directory");
    site.give(&state);
    let state = state.display();
    let cluster = |name: &str, port: u16| {
        format!(
            "[clusters.{name}]\n\
             monitor = {{ user = \"monitor\", dbname = \"{REAL}\" }}\n\
             [clusters.{name}.nodes]\n\
             {name}1 = {{ host = \"127.0.0.1\", port = {port} }}\n\
             [databases.{name}]\ncluster = \"{name}\"\n"
        )
    };
    format!(
        "[listen]\naddress = [\"127.0.0.1\"]\nport = {port}\n\
         [pgsluice]\nworkers = {workers}\nstate_dir = \"{state}\"\nauth_type = \"trust\"\n\
         auth_file = \"{users}\"\nmax_client_conn = 5000\ndefault_pool_size = {POOL_SIZE}\n{}{}",
        cluster(FAKE, to.fake),
        cluster(REAL, to.real)
    )
}

fn wait_until_served(address: &Address, process: &mut Process) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(20);
    let small = bytes::query(bytes::SMALL);
    loop {
        let tried = block_on(async {
            let attempt = async {
                let mut client = Client::connect(address).await?;
                client.ask(&small).await?;
                client.close().await
            };
            tokio::time::timeout(Duration::from_secs(5), attempt).await
        });
        match tried {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) | Err(_) if Instant::now() < end => pause(),
            other => return Err(format!("does not serve: {other:?}")),
        }
        if let Ok(Some(status)) = process.0.try_wait() {
            return Err(format!("ended: {status}"));
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// `PGSLUICE`, else the one that was built with this benchmark.
fn pgsluice_binary() -> Result<String, String> {
    let path = std::env::var("PGSLUICE");
    let path = path.unwrap_or_else(|_| env!("CARGO_BIN_EXE_pgsluice").to_owned());
    if Path::new(&path).exists() {
        Ok(path)
    } else {
        Err(format!("{path} does not exist"))
    }
}

fn find(program: &str) -> Result<String, String> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = places
        .iter()
        .map(|place| format!("{place}/{program}"))
        .find(|p| Path::new(p).exists());
    found.ok_or_else(|| format!("{program} is not installed"))
}

/// `PG_BIN`, else Debian's newest, else where `pg_config` says.
fn postgres_bin() -> String {
    if let Ok(bin) = std::env::var("PG_BIN") {
        return bin;
    }
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut installed: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    installed.retain(|bin| bin.join("initdb").exists());
    installed.sort();
    let newest = installed.pop().map(|bin| bin.display().to_string());
    newest.unwrap_or_else(|| output("pg_config", &["--bindir"]))
}

fn output(program: &str, args: &[&str]) -> String {
    let run = Command::new(program).args(args).output();
    let run = run.unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&run.stdout).trim().to_owned()
}

fn pause() {
    block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
}
