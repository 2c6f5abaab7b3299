//! Programs as people run them: psql, drivers in their own languages, pgsluice itself.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use tokio::task::JoinHandle;

use crate::harness::PATIENCE;
use crate::harness::client::{DATABASE, Login};
use crate::harness::node::{Release, bin};
use crate::harness::proxy::{CONSOLE, NamedRow, Proxy};
use crate::harness::workspace::signal;

/// Between columns and rows of psql's output: in no value.
const COLUMN: char = '\u{1f}';
const ROW: char = '\u{1e}';

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Standard output of a program that must have succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The result set that [`psql`] printed.
    pub(crate) fn rows(self) -> Vec<NamedRow> {
        let text = self.ok();
        let mut lines = text.trim_end_matches(['\n', ROW]).split(ROW);
        let header: Vec<&str> = lines.next().unwrap_or_default().split(COLUMN).collect();
        let row = |line: &str| {
            let values = line.split(COLUMN).map(str::to_owned);
            let names = header.iter().map(|name| (*name).to_owned());
            names.zip(values).collect()
        };
        lines.map(row).collect()
    }

    /// Standard error of a program that must have failed, if all these are in it.
    pub(crate) fn refused(self, wanted: &[&str]) -> String {
        assert_ne!(self.code, Some(0), "{self:?}");
        for words in wanted {
            assert!(self.err.contains(words), "{words:?} is not in {self:?}");
        }
        self.err
    }
}

/// A program that runs. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    what: String,
    pid: u32,
    ended: Option<JoinHandle<std::io::Result<Output>>>,
}

impl Running {
    /// Starts it and feeds it `input`.
    pub(crate) fn start(command: &mut Command, input: &str) -> Self {
        let what = format!("{command:?}");
        let mut child: Child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{what}: {e}: run make test"));
        let pid = child.id();
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            // A program that does not read its input has its reasons.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output()
        });
        Self {
            what,
            pid,
            ended: Some(ended),
        }
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        signal(&[self.pid], "INT");
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ended
            .as_ref()
            .is_some_and(|ended| !ended.is_finished())
    }

    /// Waits until it ended.
    pub(crate) async fn said(mut self) -> Said {
        let mut ended = self.ended.take().expect("still there");
        let Ok(output) = tokio::time::timeout(PATIENCE, &mut ended).await else {
            self.ended = Some(ended);
            panic!("does not end: {}", self.what);
        };
        let output = output.expect("no panic").expect("output");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            signal(&[self.pid], "KILL");
        }
    }
}

/// psql over TCP, errors with their SQLSTATE.
pub(crate) fn psql(port: u16, login: Login, dbname: &str) -> Command {
    let mut command = bare_psql();
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(["-U", login.user, "-d", dbname])
        .env("PGPASSWORD", login.password);
    command
}

/// psql without a destination.
pub(crate) fn bare_psql() -> Command {
    let mut command = Command::new(bin(Release::Pg15, "psql"));
    let (column, row) = (COLUMN.to_string(), ROW.to_string());
    command
        .args(["-X", "-w", "-A", "-F", &column, "-R", &row])
        .args(["-P", "footer=off", "-v", "VERBOSITY=verbose"])
        .args(["-v", "ON_ERROR_STOP=1"])
        .env_clear()
        .env("LC_ALL", "C");
    command
}

/// One query string on the console, by psql.
pub(crate) async fn console(proxy: &Proxy, login: Login, sql: &str) -> Said {
    start_console(proxy, login, sql).said().await
}

/// [`console`] that may take its time.
pub(crate) fn start_console(proxy: &Proxy, login: Login, sql: &str) -> Running {
    let mut command = psql(proxy.port(), login, CONSOLE);
    Running::start(command.args(["-c", sql]), "")
}

/// One query string for the database, by psql.
pub(crate) fn start_psql(proxy: &Proxy, login: Login, sql: &str) -> Running {
    let mut command = psql(proxy.port(), login, DATABASE);
    Running::start(command.args(["-c", sql]), "")
}
