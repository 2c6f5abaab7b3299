//! pgsluice as a service manager and a person at the shell meet it: signals, exit codes, what is
//! left behind, and what a second instance is told.

use std::path::PathBuf;
use std::process::Command;

use tokio_postgres::error::SqlState;

use crate::front::{FrontSpec, front, plain_front};
use crate::harness::client::{APP, DATABASE, connect, simple};
use crate::harness::eventually;
use crate::harness::proxy::Proxy;
use crate::harness::workspace::free_port;
use crate::tool::{Running, Said, bare_psql, start_psql};

const BINARY: &str = env!("CARGO_BIN_EXE_pgsluice");

async fn pgsluice(arguments: &[&str]) -> Said {
    Running::start(Command::new(BINARY).args(arguments), "")
        .said()
        .await
}

fn socket(proxy: &Proxy) -> PathBuf {
    proxy.directory().join(format!(".s.PGSQL.{}", proxy.port()))
}

async fn logged(proxy: &Proxy, words: &str) {
    eventually(&format!("{words} is logged"), async || {
        proxy.log().contains(words)
    })
    .await;
}

async fn setting(proxy: &Proxy, table: &str, key: (&str, &str), column: &str) -> String {
    let rows = proxy.admin(&format!("SHOW {table}")).await.unwrap();
    let mut found = rows.into_iter().filter(|row| row[key.0] == key.1);
    found.next().unwrap_or_else(|| panic!("no {key:?}"))[column].clone()
}

async fn is_paused(proxy: &Proxy) -> bool {
    setting(proxy, "STATE", ("key", "paused"), "value").await == "yes"
}

/// New clients find nobody.
async fn closed(proxy: &Proxy) {
    eventually("nobody is taken in", async || {
        let said = start_psql(proxy, APP, "SELECT 1").said().await;
        said.err.contains("Connection refused")
    })
    .await;
}

/// It ended as told, and cleaned up.
async fn ended_well(proxy: &mut Proxy) {
    let status = proxy.ended().await;
    assert_eq!(status.code(), Some(0), "{status}: {}", proxy.log());
    assert!(!socket(proxy).exists(), "the socket's file is left");
    // Its lock on the state directory is gone with it.
    proxy.restart().await;
}

#[tokio::test]
async fn hup_reloads_and_says_in_the_log_what_was_wrong() {
    let proxy = plain_front().await;
    let good = proxy.read_config();
    let size = || setting(&proxy, "DATABASES", ("name", DATABASE), "pool_size");
    proxy.write_config(&good.replace("pool_size = 20", "pool_size = 7"));
    proxy.signal("HUP");
    eventually("the new size holds", async || size().await == "7").await;
    proxy.write_config(&good.replace("pool_size = 20", "pool_size = \"many\""));
    proxy.signal("HUP");
    logged(&proxy, "RELOAD failed, nothing was changed").await;
    logged(&proxy, "databases.app.pool_size").await;
    assert_eq!(size().await, "7");
}

#[tokio::test]
async fn usr1_pauses_and_usr2_resumes() {
    let proxy = plain_front().await;
    proxy.signal("USR1");
    eventually("paused", || is_paused(&proxy)).await;
    let held = start_psql(&proxy, APP, "SELECT 'served'");
    eventually("a client waits", async || {
        let rows = proxy.admin("SHOW POOLS").await.unwrap();
        rows.iter().any(|row| row["cl_waiting"] == "1")
    })
    .await;
    proxy.signal("USR2");
    assert!(held.said().await.ok().contains("served"));
    assert!(!is_paused(&proxy).await);
}

#[tokio::test]
async fn term_waits_for_the_clients_and_a_second_one_does_not() {
    let mut proxy = plain_front().await;
    let (session, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    proxy.signal("TERM");
    closed(&proxy).await;
    simple(&session, "BEGIN; SELECT 1; COMMIT")
        .await
        .expect("sessions go on");
    drop(session);
    ended_well(&mut proxy).await;

    let (_session, end) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    proxy.signal("TERM");
    closed(&proxy).await;
    proxy.signal("TERM");
    let error = end.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{error:?}");
    ended_well(&mut proxy).await;
}

#[tokio::test]
async fn int_waits_for_the_servers_in_use_alone() {
    let mut proxy = front(FrontSpec {
        database: "pool_size = 1",
        ..FrontSpec::default()
    })
    .await;
    let (session, _) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    let queued = start_psql(&proxy, APP, "SELECT 1");
    eventually("a client waits", async || {
        let rows = proxy.admin("SHOW POOLS").await.unwrap();
        rows.iter().any(|row| row["cl_waiting"] == "1")
    })
    .await;
    proxy.signal("INT");
    // It has no server, and another instance may have one.
    queued.said().await.refused(&["pooler is shutting down"]);
    closed(&proxy).await;
    simple(&session, "SELECT 1")
        .await
        .expect("its server is in use");
    drop(session);
    ended_well(&mut proxy).await;
}

#[tokio::test]
async fn quit_is_at_once() {
    let mut proxy = plain_front().await;
    let (session, end) = connect(proxy.port(), APP, DATABASE).await.unwrap();
    simple(&session, "BEGIN").await.unwrap();
    proxy.signal("QUIT");
    let error = end.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{error:?}");
    ended_well(&mut proxy).await;
}

#[tokio::test]
async fn a_second_instance_is_told_what_is_taken() {
    let proxy = plain_front().await;
    let config = proxy.read_config();
    let (directory, port) = (proxy.directory().display(), proxy.port());
    let second = proxy.directory().join("second.toml");
    let elsewhere = |path: &str| format!("{path} = \"{directory}/state/elsewhere\"");
    std::fs::create_dir_all(proxy.directory().join("state/elsewhere")).unwrap();
    let state = format!("state_dir = \"{directory}/state\"");
    let sockets = format!("unix_socket_dir = \"{directory}\"");
    let other_port = format!("port = {}\n", free_port());
    let port_line = format!("port = {port}\n");
    let cases = [
        (
            config
                .replace(&state, &elsewhere("state_dir"))
                .replace(&sockets, &elsewhere("unix_socket_dir")),
            format!("cannot listen on 127.0.0.1:{port}: Address already in use"),
        ),
        (
            config.replacen(&port_line, &other_port, 1),
            format!("state directory \"{directory}/state\" is in use by another instance"),
        ),
        (
            config
                .replace(&state, &elsewhere("state_dir"))
                .replace("[\"127.0.0.1\"]", "[]"),
            format!("cannot listen on unix socket {}", socket(&proxy).display()),
        ),
    ];
    for (text, why) in cases {
        std::fs::write(&second, text).unwrap();
        let said = pgsluice(&["-q", second.to_str().unwrap()]).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        said.refused(&[&why]);
    }
    assert!(socket(&proxy).exists());
    start_psql(&proxy, APP, "SELECT 1").said().await.ok();
}

#[tokio::test]
async fn a_socket_left_by_a_crash_is_taken_over() {
    let mut proxy = plain_front().await;
    proxy.kill9();
    assert!(socket(&proxy).exists(), "nobody could remove it");
    proxy.restart().await;
    let mut command = bare_psql();
    let directory = proxy.directory().display().to_string();
    command
        .args(["-h", &directory, "-p", &proxy.port().to_string()])
        .args(["-U", APP.user, "-d", DATABASE, "-c", "SELECT 'served'"]);
    assert!(
        Running::start(&mut command, "")
            .said()
            .await
            .ok()
            .contains("served")
    );
}

#[tokio::test]
async fn check_says_what_is_wrong_and_where() {
    let proxy = plain_front().await;
    let good = proxy.read_config();
    let path = proxy.directory().join("checked.toml");
    let name = path.display().to_string();
    let check = async |text: &str| {
        std::fs::write(&path, text).unwrap();
        pgsluice(&["check", &name]).await
    };
    let said = check(&good).await.ok();
    assert_eq!(
        said,
        format!("{name}: ok (1 clusters, 1 databases, 7 users)\n")
    );
    let bad =
        good.replace("pool_size = 20", "pool_size = 0\npol_mode = \"session\"") + "cluster_ = 1\n";
    let line = |key: &str| bad.lines().position(|line| line.starts_with(key)).unwrap() + 1;
    let places = ["pool_size", "pol_mode", "cluster_"].map(|key| format!("{name}:{}:", line(key)));
    let said = check(&bad).await;
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    let err = said.refused(&[&places[0], &places[1], &places[2], "pool_mode"]);
    assert_eq!(err.lines().count(), 3, "all mistakes at once: {err}");
    check("[listen").await.refused(&[":1"]);
    let nobody = good.replace("userlist.txt", "nobody.txt");
    check(&nobody)
        .await
        .refused(&["nobody.txt", "No such file"]);
    pgsluice(&["check", "/nowhere.toml"])
        .await
        .refused(&["/nowhere.toml", "No such file"]);
    // What cannot be checked is not started either.
    pgsluice(&["/nowhere.toml"])
        .await
        .refused(&["pgsluice: /nowhere.toml", "No such file"]);
}

#[tokio::test]
async fn the_command_line_explains_itself() {
    for flag in ["-V", "--version"] {
        let said = pgsluice(&[flag]).await.ok();
        assert!(
            said.starts_with("pgsluice ") && said.contains(env!("CARGO_PKG_VERSION")),
            "{said}"
        );
    }
    assert!(pgsluice(&["--help"]).await.ok().contains("check"));
    pgsluice(&[]).await.refused(&["which configuration file"]);
    pgsluice(&["--nonsense"]).await.refused(&["--nonsense"]);
}
