//! Real drivers, each in a program of its own below `tests/drivers`: a session with all that a
//! driver does, the console, an instance that refuses, and a switchover.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_postgres::error::SqlState;

use crate::front::{FrontSpec, front, front_of, own_node, plain_front};
use crate::harness::client::{APP, DATABASE};
use crate::harness::eventually;
use crate::harness::node::project;
use crate::harness::proxy::{ADMIN, Proxy};
use crate::tool::{Running, bare_psql, console};
use crate::twins::{pair, twins};

/// Directories that `make test` fills.
fn dev(path: &str) -> PathBuf {
    project().join(".dev").join(path)
}

/// What a driver needs and is not there fails its test.
fn needed(path: &Path) -> &Path {
    assert!(
        path.exists(),
        "{} is missing: run make test",
        path.display()
    );
    path
}

/// An instance that answers every login with 57P03.
async fn refusing() -> Proxy {
    let proxy = front(FrontSpec {
        auth: "scram-sha-256",
        ..FrontSpec::default()
    })
    .await;
    console(&proxy, ADMIN, "DISABLE app").await.ok();
    proxy
}

/// Runs a driver's program to its good end.
async fn drive(name: &'static str, mut command: Command) {
    let (proxy, refusing) = tokio::join!(twins(name), refusing());
    command
        .env("PORT", proxy.port().to_string())
        .env("REFUSING", refusing.port().to_string())
        .env("TARGET_PORT", pair().await.n2.port().to_string());
    Running::start(&mut command, "").said().await.ok();
    assert_eq!(
        proxy.lead().await.as_deref(),
        Some("n2"),
        "it went to its end"
    );
}

fn python(script: &str) -> Command {
    let mut command = Command::new(needed(&dev("venv/bin/python")));
    command.arg(project().join("tests/drivers").join(script));
    command
}

#[tokio::test]
async fn psycopg() {
    drive("psycopg", python("with_psycopg.py")).await;
}

#[tokio::test]
async fn psycopg2() {
    drive("psycopg2", python("with_psycopg2.py")).await;
}

#[tokio::test]
async fn asyncpg() {
    drive("asyncpg", python("with_asyncpg.py")).await;
}

#[tokio::test]
async fn node_postgres() {
    let mut command = Command::new("node");
    command
        .arg(project().join("tests/drivers/with_pg.js"))
        .env("NODE_MODULES", needed(&dev("node/node_modules")));
    drive("node-postgres", command).await;
}

#[tokio::test]
async fn pgjdbc_and_hikari() {
    let jars = ["postgresql", "HikariCP", "slf4j-api", "slf4j-nop"]
        .map(|jar| PathBuf::from(format!("/usr/share/java/{jar}.jar")));
    let path = jars.iter().map(|jar| needed(jar).display().to_string());
    let mut command = Command::new("java");
    command
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(path.collect::<Vec<_>>().join(":"))
        .arg(project().join("tests/drivers/WithPgjdbc.java"));
    drive("pgjdbc", command).await;
}

/// psql with two hosts, the first of which has nothing to offer.
fn either(first: &Proxy, second: &Proxy) -> Running {
    let mut command = bare_psql();
    let ports = format!("{},{}", first.port(), second.port());
    command
        .args([
            "-h",
            "127.0.0.1,127.0.0.1",
            "-p",
            &ports,
            "-U",
            APP.user,
            "-d",
            DATABASE,
        ])
        .args(["-c", "SHOW port"]);
    Running::start(&mut command, "")
}

#[tokio::test]
async fn a_client_that_waits_for_a_lead_goes_on_to_the_next_host() {
    let mut node = own_node("").await;
    node.kill9();
    let (leadless, serving) = tokio::join!(front_of(&node, FrontSpec::default()), plain_front());
    let held = either(&leadless, &serving);
    eventually("it is held first", async || {
        let rows = leadless.admin("SHOW POOLS").await.unwrap();
        rows.iter().any(|row| row["cl_waiting"] == "1")
    })
    .await;
    let port = crate::front::node().await.port().to_string();
    assert!(held.said().await.ok().contains(&port));
    let error = leadless.connect_as(APP).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("57P03"), "{error:?}");
}

#[tokio::test]
async fn a_client_that_waits_when_the_instance_ends_goes_on_to_the_next_host() {
    let (mut ending, serving) = tokio::join!(plain_front(), plain_front());
    console(&ending, ADMIN, "PAUSE").await.ok();
    let held = either(&ending, &serving);
    eventually("it is held first", async || {
        let rows = ending.admin("SHOW POOLS").await.unwrap();
        rows.iter().any(|row| row["cl_waiting"] == "1")
    })
    .await;
    ending.signal("QUIT");
    held.said().await.ok();
    assert!(ending.ended().await.success());
}
