//! Data directories fresh from initdb, with the roles of the tests.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::client::{APP, APP_MD5, APP_PLAIN, APP_TRUST, DATABASE, MONITOR};
use super::node::{NodeSpec, bin, project};
use super::workspace::{
    Workspace, as_server_account, give_to_server_account, is_root, random, run,
};

/// Changes when the templates must be made anew.
const TEMPLATE_VERSION: u32 = 2;

/// A data directory after initdb, made once per release and node name and then copied: initdb
/// takes seconds. One per name, since two copies would share their system identifier, and that is
/// how a pooler tells two nodes from one.
pub fn template(spec: &NodeSpec, workspace: &Arc<Workspace>) -> PathBuf {
    let version = run(as_server_account(&bin(spec.release, "postgres")).arg("--version"));
    let number = version.split_whitespace().nth(2).expect("version");
    let account = if is_root() { "root" } else { "user" };
    let name = format!("{number}-{}-{account}-{TEMPLATE_VERSION}", spec.name);
    let store = project().join(".dev/templates");
    let finished = store.join(&name);
    if finished.exists() {
        return finished;
    }
    let made = initdb(spec, workspace);
    fs::create_dir_all(&store).expect("mkdir .dev/templates");
    let copy = store.join(format!("{name}.{:016x}", random()));
    run(Command::new("cp").arg("-a").arg(&made).arg(&copy));
    // Another test may have been faster: its copy is as good as ours.
    if fs::rename(&copy, &finished).is_err() {
        let _ = fs::remove_dir_all(&copy);
    }
    finished
}

/// A data directory of its own, with a system identifier that no other has.
pub fn initdb(spec: &NodeSpec, workspace: &Arc<Workspace>) -> PathBuf {
    let data = workspace
        .directory(&format!("{}-initdb", spec.name))
        .join("template");
    run(as_server_account(&bin(spec.release, "initdb"))
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ])
        .args([
            "--no-sync",
            "--data-checksums",
            "--wal-segsize=1",
            "--pgdata",
        ])
        .arg(&data));
    let mut conf = fs::read_to_string(data.join("postgresql.conf")).expect("postgresql.conf");
    conf.push_str("\ninclude_if_exists 'harness.conf'\n");
    fs::write(data.join("postgresql.conf"), conf).expect("postgresql.conf");
    fs::write(data.join("pg_hba.conf"), HBA).expect("pg_hba.conf");
    let statements = data.join("roles.sql");
    fs::write(&statements, roles()).expect("roles.sql");
    give_to_server_account(&statements);
    // The single-user server takes one statement a line and exits 0 whatever became of them.
    let output = run(Command::new("sh")
        .args(["-c", r#"input=$1; shift; exec "$@" <"$input" 2>&1"#, "sh"])
        .arg(&statements)
        .args(argv(&as_server_account(&bin(spec.release, "postgres"))))
        .args(["--single", "-D"])
        .arg(&data)
        .arg("postgres"));
    assert!(!output.contains("ERROR"), "roles: {output}");
    fs::remove_file(statements).expect("roles.sql");
    data
}

/// Program and arguments of a command.
fn argv(command: &Command) -> Vec<OsString> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_owned)
        .collect()
}

fn roles() -> String {
    format!(
        "CREATE ROLE {monitor} LOGIN PASSWORD '{monitor_password}'\n\
         GRANT pg_monitor TO {monitor}\n\
         CREATE ROLE {app} LOGIN PASSWORD '{app_password}'\n\
         CREATE ROLE {plain} LOGIN PASSWORD '{plain_password}'\n\
         CREATE ROLE {trust} LOGIN\n\
         SET password_encryption = 'md5'\n\
         CREATE ROLE {md5} LOGIN PASSWORD '{md5_password}'\n\
         CREATE DATABASE {DATABASE}\n",
        monitor = MONITOR.user,
        monitor_password = MONITOR.password,
        app = APP.user,
        app_password = APP.password,
        plain = APP_PLAIN.user,
        plain_password = APP_PLAIN.password,
        trust = APP_TRUST.user,
        md5 = APP_MD5.user,
        md5_password = APP_MD5.password,
    )
}

/// Each role is asked what its name says, on TCP and on the Unix socket alike.
const HBA: &str = "\
local all,replication postgres                trust
host  all,replication postgres   127.0.0.1/32 trust
local all             app_trust               trust
host  all             app_trust  127.0.0.1/32 trust
local all             app_md5                 md5
host  all             app_md5    127.0.0.1/32 md5
local all             app_plain               password
host  all             app_plain  127.0.0.1/32 password
local all             all                     scram-sha-256
host  all             all        127.0.0.1/32 scram-sha-256
";
