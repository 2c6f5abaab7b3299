//! The temporary directory that everything of one test lives in, and the watchdog that empties it
//! when nobody else can.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The system account that PostgreSQL runs under when the tests run as root.
const SERVER_ACCOUNT: &str = "postgres";

/// Lists that the watchdog reads.
const PIDS: &str = "pids";
const TABLES: &str = "tables";
const MOUNTS: &str = "mounts";

/// Reads one word from its standard input. No word means that the owner died: then the servers
/// listed in `pids` are killed, if they still are what was listed (their command line names the
/// directory). `keep` leaves the logs. Whatever the word, packets flow again and small disks go.
const WATCHDOG: &str = r#"
root=$1
word=
read -r word
ours() { grep -qs -- "$root" "/proc/$1/cmdline"; }
if [ -z "$word" ]; then
    while read -r pid; do ours "$pid" && kill -QUIT "$pid" && kill -CONT "$pid"; done <"$root/pids"
    while read -r pid; do
        tries=0
        while ours "$pid" && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
        ours "$pid" && kill -KILL "$pid"
    done <"$root/pids"
fi
while read -r table; do nft delete table inet "$table"; done <"$root/tables"
while read -r mount; do umount --lazy "$mount"; done <"$root/mounts"
if [ "$word" = keep ]; then rm -rf "$root"/*/data "$root"/*/template; else rm -rf "$root"; fi
"#;

/// A temporary directory. Dropped after the servers in it (they hold it by `Arc`); logs stay, and
/// their place is printed, when the test panicked.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    watchdog: Mutex<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    process: Child,
    word: Option<ChildStdin>,
}

impl Workspace {
    /// A fresh directory.
    pub fn create() -> Arc<Self> {
        let root = tempfile::Builder::new()
            .prefix("pgsluice-")
            .tempdir()
            .expect("temporary directory")
            .keep();
        // The server account must be able to walk through.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("chmod");
        for list in [PIDS, TABLES, MOUNTS] {
            fs::write(root.join(list), "").expect("a list for the watchdog");
        }
        let mut process = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in the terminal's foreground group, or Ctrl-C would end it with the rest.
            .process_group(0)
            .spawn()
            .expect("sh");
        let word = process.stdin.take();
        Arc::new(Self {
            root,
            watchdog: Mutex::new(Watchdog { process, word }),
        })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory for one server, owned by the account that it will run under.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::create_dir_all(&path).expect("mkdir");
        give_to_server_account(&path);
        path
    }

    /// Tells the watchdog of a process whose command line names this directory.
    pub fn watch(&self, pid: u32) {
        self.note(PIDS, &pid.to_string());
    }

    /// Tells the watchdog of a table of nft, before it is made.
    pub fn watch_table(&self, table: &str) {
        self.note(TABLES, table);
    }

    /// Tells the watchdog of a mount below this directory, before it is made.
    pub fn watch_mount(&self, path: &Path) {
        self.note(MOUNTS, &path.display().to_string());
    }

    /// What becomes of all this when the test's process is killed: the watchdog hears no word.
    pub fn abandon(&self) {
        let mut watchdog = self.watchdog.lock().expect("the watchdog");
        drop(watchdog.word.take());
    }

    fn note(&self, list: &str, line: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(self.root.join(list))
            .expect("a list for the watchdog");
        // One write: several threads may append.
        file.write_all(format!("{line}\n").as_bytes())
            .expect("a list for the watchdog");
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let keep = std::thread::panicking();
        if keep {
            eprintln!("logs are kept in {}", self.root.display());
        }
        let Ok(watchdog) = self.watchdog.get_mut() else {
            return;
        };
        if let Some(mut word) = watchdog.word.take() {
            let _ = writeln!(word, "{}", if keep { "keep" } else { "remove" });
        }
        let _ = watchdog.process.wait();
    }
}

/// Does this process run as root? PostgreSQL refuses to.
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user.
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

/// `program`, to be run by an unprivileged account.
pub fn as_server_account(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={SERVER_ACCOUNT}"))
            .arg(format!("--regid={SERVER_ACCOUNT}"))
            .args(["--init-groups", "--"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .current_dir("/")
        .env("LC_ALL", "C")
        .env_remove("PGHOST")
        .process_group(0);
    command
}

/// Makes the server account own `path`, when that is another account than ours.
pub fn give_to_server_account(path: &Path) {
    if is_root() {
        let (uid, gid) = server_account();
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
    }
}

/// Runs a helper program to its end; panics with what it printed when it failed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| {
        panic!("{command:?}: {e}");
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Sends a signal, e.g. `KILL`. A process that is gone already is no error. After `STOP` every
/// thread has stopped: one that runs just then would do a little more.
pub fn signal(pids: &[u32], name: &str) {
    if pids.is_empty() {
        return;
    }
    // The shell's own: a bare Debian has no program of that name.
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let _ = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{name} {}", pids.join(" ")))
        .stderr(Stdio::null())
        .status();
    if name == "STOP" {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !pids.iter().all(|pid| is_stopped(pid)) && Instant::now() < deadline {
            block(Duration::from_millis(1));
        }
    }
}

/// Has every thread of it stopped, or ended?
fn is_stopped(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat"));
        // The name, which may hold anything, is in parentheses; the state follows.
        stat.map_or(true, |stat| {
            let state = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            matches!(state, Some('T' | 't' | 'Z' | 'X'))
        })
    })
}

/// The direct children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // pid (name) state ppid ...; the name may hold anything, also a parenthesis.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        if after_name.split_whitespace().nth(1) == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    found
}

/// Pause where no task can be awaited, as in `Drop`.
#[allow(clippy::disallowed_methods, reason = "no session is on this thread")]
pub fn block(time: Duration) {
    std::thread::sleep(time);
}

/// A port that nobody listens on. Below the ephemeral range, so that no outgoing connection takes
/// it before its server is up; the server's start tries another one all the same when it is taken.
pub fn free_port() -> u16 {
    loop {
        let port = 10_000 + u16::try_from(random() % 22_000).expect("below 22000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Some number, another one each time.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

fn server_account() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&SERVER_ACCOUNT))
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .expect("the account \"postgres\": run scripts/setup.sh")
}
