//! Who logs in, and an ordinary client: the logins of the tests and connections as a driver makes
//! them. For one that speaks byte by byte see [`super::raw`].

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

/// How long a connection may take; far more than any does where the network works.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The database that clients use.
pub const DATABASE: &str = "app";
/// Role of the monitor and of the gate: `pg_monitor` and what [`super::pair`] grants.
pub const MONITOR: Login = Login {
    user: "pgsluice",
    password: "monitor-secret",
};
/// Application role with a SCRAM-SHA-256 secret.
pub const APP: Login = Login {
    user: "app",
    password: "app-secret",
};
/// Application role with an MD5 secret.
pub const APP_MD5: Login = Login {
    user: "app_md5",
    password: "md5-secret",
};
/// Application role that is asked for its password in clear.
pub const APP_PLAIN: Login = Login {
    user: "app_plain",
    password: "plain-secret",
};
/// Application role that nobody asks for anything.
pub const APP_TRUST: Login = Login {
    user: "app_trust",
    password: "",
};
/// Superuser of the tests.
pub const SUPERUSER: Login = Login {
    user: "postgres",
    password: "",
};

/// A role and its password (empty: none).
#[derive(Debug, Clone, Copy)]
pub struct Login {
    pub user: &'static str,
    pub password: &'static str,
}

/// Rows as text, as `psql -At` would show them.
pub type Rows = Vec<Vec<Option<String>>>;

/// A connection over TCP, and the task that drives it: its result tells what the server said when
/// it closed the connection unasked.
pub async fn connect(
    port: u16,
    login: Login,
    dbname: &str,
) -> Result<(Client, JoinHandle<Result<(), Error>>), Error> {
    connect_named(port, login, dbname, "pgsluice-test").await
}

/// [`connect`] at another address than 127.0.0.1.
pub async fn connect_at(
    address: SocketAddr,
    login: Login,
    dbname: &str,
) -> Result<(Client, JoinHandle<Result<(), Error>>), Error> {
    open(address, login, dbname, "pgsluice-test").await
}

/// [`connect`] with an `application_name` of its own.
pub async fn connect_named(
    port: u16,
    login: Login,
    dbname: &str,
    application_name: &str,
) -> Result<(Client, JoinHandle<Result<(), Error>>), Error> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    open(address, login, dbname, application_name).await
}

async fn open(
    address: SocketAddr,
    login: Login,
    dbname: &str,
    application_name: &str,
) -> Result<(Client, JoinHandle<Result<(), Error>>), Error> {
    let mut config = Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user(login.user)
        .password(login.password)
        .dbname(dbname)
        .application_name(application_name)
        .connect_timeout(CONNECT_TIMEOUT);
    let (client, connection) = config.connect(NoTls).await?;
    Ok((client, tokio::spawn(connection)))
}

/// Runs `sql` by the simple protocol and gives all rows of all its results.
pub async fn simple(client: &Client, sql: &str) -> Result<Rows, Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|i| row.get(i).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        })
        .collect())
}
