//! The configuration as an operator meets it: files in, a `Config` or messages out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may stop at what it did not expect"
)]

mod changes;
mod files;
mod values;

use std::io;
use std::path::{Path, PathBuf};

use super::{Config, Mistake, check};

/// A valid file: tests add to it or replace a part.
const VALID: &str = r#"
[listen]
port = 6432
[pgsluice]
auth_file = "/etc/userlist.txt"
[clusters.main]
monitor = { user = "pgsluice", password = "${GOOD}", dbname = "app" }
[clusters.main.nodes]
n1 = { host = "10.0.0.1", priority = 100 }
n2 = { host = "10.0.0.2", priority = 90 }
[clusters.other]
monitor = { user = "pgsluice", password = "file:/good", dbname = "app" }
[clusters.other.nodes]
n3 = { host = "10.0.0.3" }
[databases.app]
cluster = "main"
[databases.app2]
cluster = "other"
dbname = "app"
"#;

fn env(name: &str) -> Option<String> {
    match name {
        "GOOD" | "PGSLUICE_MONITOR_PASSWORD" => Some("sesame".to_owned()),
        "EMPTY" => Some(String::new()),
        "FILE" => Some("file:/secret".to_owned()),
        "PORT" => Some("7777".to_owned()),
        _ => None,
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/good") => Ok("open \n".to_owned()),
        Some("/empty") => Ok("\r\n".to_owned()),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn read(text: &str) -> Result<Config, Vec<Mistake>> {
    check(text, "pgsluice.toml", &env, &read_file)
}

/// [`VALID`] with one part replaced.
fn with(from: &str, to: &str) -> String {
    assert!(VALID.contains(from), "{from}");
    VALID.replacen(from, to, 1)
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
