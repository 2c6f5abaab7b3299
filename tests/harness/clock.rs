//! A node whose clock is wrong, by the library of the Debian package `faketime`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::workspace::give_to_server_account;

/// The file that the server reads its clock's error from, each time it asks what time it is.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Wrong by so many milliseconds; negative: slow.
    pub fn new(directory: &Path, error_ms: i64) -> Self {
        let clock = Self {
            file: directory.join("clock"),
        };
        clock.set(error_ms);
        clock
    }

    /// Wrong by so many milliseconds from now on, also for what is running.
    pub fn set(&self, error_ms: i64) {
        let sign = if error_ms < 0 { '-' } else { '+' };
        let error = error_ms.unsigned_abs();
        let text = format!("{sign}{}.{:03}s\n", error / 1000, error % 1000);
        // Replaced as a whole: a server must never read half of it.
        let draft = self.file.with_extension("draft");
        fs::write(&draft, text).expect("clock");
        give_to_server_account(&draft);
        fs::rename(&draft, &self.file).expect("clock");
    }

    /// `program`, to be run under this clock: put in front of it by `env`, after any change of the
    /// account, since the library makes files that belong to who starts it.
    pub fn environment(&self) -> Vec<String> {
        vec![
            format!("LD_PRELOAD={}", library().display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            // Time since the start is the same everywhere: waits end when they should.
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "FAKETIME_DONT_RESET=1".to_owned(),
        ]
    }

    /// Removes what the library of a killed server left behind.
    pub fn clean_up(pid: u32) {
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = fs::remove_file(format!("/dev/shm/{name}{pid}"));
        }
    }
}

fn library() -> PathBuf {
    let found = Command::new("sh")
        .args(["-c", "ls /usr/lib/*/faketime/libfaketime.so.1"])
        .output()
        .expect("sh");
    let path = String::from_utf8_lossy(&found.stdout);
    let path = path.lines().next().unwrap_or_default();
    assert!(
        !path.is_empty(),
        "libfaketime is missing: run scripts/setup.sh test"
    );
    PathBuf::from(path)
}
