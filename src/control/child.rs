//! Runs an external program: no shell, a process group of its own, a deadline, and nothing of it
//! left behind, however it ends.

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::config::CommandLine;

/// What is kept of a program's words.
const KEPT: usize = 4096;
/// A program that says more than this loses its reader: whoever writes for ever would keep us busy.
const READ: usize = 1 << 20;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// How long the kernel may take to end what was killed. What is stuck in it for longer is reaped by
/// the runtime whenever it ends.
const REAPED: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// What became of a program that ended in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// How it ended.
    pub end: End,
    /// The beginning of what it wrote to stdout and stderr, in order.
    pub said: String,
}

/// Why there is no [`Output`].
#[derive(Debug, thiserror::Error)]
pub(super) enum ChildError {
    /// It was never started.
    #[error("could not be started: {0}")]
    Start(io::Error),
    /// It was killed at its deadline.
    #[error("did not end within {deadline:?} and was killed")]
    Deadline {
        /// The deadline.
        deadline: Duration,
        /// The beginning of what it had written.
        said: String,
    },
    /// The operating system does not tell how it ended.
    #[error("its end is not known: {0}")]
    Wait(io::Error),
}

/// Runs it, with our environment and without stdin, for at most `deadline`.
///
/// Its end is also the end of all that it started in its process group; so is dropping the future.
/// What is to live longer begins a session of its own (`setsid`).
pub(super) async fn run(command: &CommandLine, deadline: Duration) -> Result<Output, ChildError> {
    let mut group = Group::start(command).map_err(ChildError::Start)?;
    let Ok(status) = timeout(deadline, group.end()).await else {
        let said = group.terminate().await;
        return Err(ChildError::Deadline { deadline, said });
    };
    group.kill(Signal::KILL);
    group.drain();
    Ok(Output {
        end: end_of(status.map_err(ChildError::Wait)?),
        said: group.said(),
    })
}

fn end_of(status: ExitStatus) -> End {
    match status.code() {
        Some(code) => End::Exited(code),
        None => End::Killed(status.signal().unwrap_or_default()),
    }
}

/// A running program and all that it starts.
struct Group {
    leader: Child,
    id: Option<Pid>,
    pipe: Option<Receiver>,
    said: Vec<u8>,
    read: usize,
}

impl Group {
    fn start(command: &CommandLine) -> io::Result<Self> {
        // One pipe for both, so that their order is kept.
        let (reader, writer) = io::pipe()?;
        let stderr = writer.try_clone()?;
        let leader = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(stderr)
            .process_group(0)
            // The runtime reaps a leader that is dropped.
            .kill_on_drop(true)
            .spawn()?;
        let id = leader.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            leader,
            id: id.and_then(Pid::from_raw),
            pipe: Some(receiver(reader)?),
            said: Vec::new(),
            read: 0,
        })
    }

    /// Waits for the leader, and hears what is said meanwhile.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        loop {
            tokio::select! {
                status = self.leader.wait() => return status,
                () = readable(self.pipe.as_ref()) => {
                    self.hear();
                }
            }
        }
    }

    /// First politely. Returns what was said until then.
    async fn terminate(&mut self) -> String {
        self.kill(Signal::TERM);
        // How it ends now is of no interest.
        let _ = timeout(GRACE, self.end()).await;
        self.kill(Signal::KILL);
        let _ = timeout(REAPED, self.end()).await;
        self.said()
    }

    /// Takes one piece of what can be read. `false`: there is none.
    fn hear(&mut self) -> bool {
        let mut piece = [0; 4096];
        let Some(pipe) = &self.pipe else {
            return false;
        };
        match pipe.try_read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => {
                self.pipe = None;
                false
            }
            Ok(length) => {
                self.read += length;
                if self.read > READ {
                    self.pipe = None;
                }
                let room = KEPT.saturating_sub(self.said.len());
                let heard = piece.get(..length.min(room)).unwrap_or_default();
                self.said.extend_from_slice(heard);
                true
            }
        }
    }

    /// Reads what is in the pipe now. Its end may never come: who left the group may hold it open.
    fn drain(&mut self) {
        while self.hear() {}
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// The number is not another group's by now: as long as anybody is left in this one it is taken,
    /// and a number that has just become free is the last to be given again.
    fn kill(&mut self, signal: Signal) {
        if let Some(id) = self.id {
            // Nobody left to be killed is what we want.
            let _ = kill_process_group(id, signal);
        }
        if signal == Signal::KILL {
            self.id = None;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill(Signal::KILL);
    }
}

fn receiver(pipe: PipeReader) -> io::Result<Receiver> {
    Receiver::from_owned_fd(OwnedFd::from(pipe))
}

async fn readable(pipe: Option<&Receiver>) {
    match pipe {
        // An error shows at the read that follows.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use std::fs;
    use std::path::Path;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn shell(script: &str) -> CommandLine {
        CommandLine {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
        }
    }

    async fn said(script: &str) -> (End, String) {
        let output = run(&shell(script), LONG).await.unwrap();
        (output.end, output.said)
    }

    /// Neither running nor waiting to be reaped by us. A grandchild is init's to reap.
    fn is_gone(pid: &str) -> bool {
        let Ok(stat) = fs::read_to_string(Path::new("/proc").join(pid).join("stat")) else {
            return true;
        };
        let state = stat.rsplit(") ").next().unwrap_or_default();
        state.starts_with(['Z', 'X'])
    }

    async fn until(condition: impl Fn() -> bool) {
        let reached = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, reached).await.unwrap();
    }

    #[tokio::test]
    async fn its_end_and_its_words_are_told() {
        assert_eq!(
            said("echo one; echo two >&2; echo three; exit 3").await,
            (End::Exited(3), "one\ntwo\nthree\n".to_owned())
        );
        assert_eq!(said("kill -9 $$").await, (End::Killed(9), String::new()));
        assert_eq!(said("cat").await, (End::Exited(0), String::new()));
        let (end, words) = said("head -c 100000 /dev/zero | tr '\\0' x; exit 4").await;
        assert_eq!((end, words.len()), (End::Exited(4), KEPT));
        // Whoever never stops writing is stopped.
        let (end, words) = said("yes").await;
        assert_ne!(end, End::Exited(0));
        assert_eq!(words.len(), KEPT);
    }

    #[tokio::test]
    async fn arguments_and_environment_are_passed_as_they_are() {
        let command = CommandLine {
            program: "printf".to_owned(),
            arguments: vec!["[%s]".to_owned(), "a b".to_owned(), "$HOME 'x'".to_owned()],
        };
        let output = run(&command, LONG).await.unwrap();
        assert_eq!(output.said, "[a b][$HOME 'x']");
        let path = std::env::var("PATH").unwrap();
        assert_eq!(said("echo \"$PATH\"").await.1, format!("{path}\n"));
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("not-executable");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        for (program, kind) in [
            ("/no/such/program", io::ErrorKind::NotFound),
            ("no-such-program", io::ErrorKind::NotFound),
            (file.to_str().unwrap(), io::ErrorKind::PermissionDenied),
        ] {
            let command = CommandLine {
                program: program.to_owned(),
                arguments: Vec::new(),
            };
            match run(&command, LONG).await {
                Err(ChildError::Start(error)) => assert_eq!(error.kind(), kind),
                other => panic!("{program}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn at_the_deadline_the_whole_group_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let script = format!(
            "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 60; done' > {0} & \
             echo begun; while :; do sleep 60; done",
            file.display()
        );
        let mut deadline = Duration::from_millis(500);
        let pid = loop {
            match run(&shell(&script), deadline).await {
                Err(ChildError::Deadline { said, .. }) => assert!("begun\n".starts_with(&said)),
                other => panic!("{other:?}"),
            }
            match fs::read_to_string(&file) {
                Ok(pid) if pid.ends_with('\n') => break pid,
                // On a busy machine it was killed before its traps were set.
                _ => deadline *= 2,
            }
        };
        until(|| is_gone(pid.trim())).await;
    }

    #[tokio::test]
    async fn what_it_leaves_behind_ends_with_it() {
        let (end, words) = said("sleep 600 & echo $!").await;
        assert_eq!(end, End::Exited(0));
        until(|| is_gone(words.trim())).await;
    }

    #[tokio::test]
    async fn dropping_the_future_ends_the_group_and_leaves_no_zombie() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let script = format!(
            "trap '' TERM; sleep 600 & echo $$ $! > {}; wait",
            file.display()
        );
        let command = shell(&script);
        let pids = || fs::read_to_string(&file).unwrap_or_default();
        tokio::select! {
            other = run(&command, LONG) => panic!("{other:?}"),
            () = until(|| pids().ends_with('\n')) => {}
        }
        let pids = pids();
        let (leader, child) = pids.trim().split_once(' ').unwrap();
        until(|| is_gone(child)).await;
        // Reaped, not only dead: the runtime does that when the next child ends.
        let path = Path::new("/proc").join(leader);
        until(|| !path.exists()).await;
    }
}
