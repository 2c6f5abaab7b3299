//! Sockets that clients come to, and where each connection goes.

mod sockets;

pub use sockets::{BindError, Sockets, WorkerSockets};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, Console, ConsoleLogin, Privilege};
use crate::net::{Ends, Stream, TcpOptions};
use crate::session::{self, ConsoleRights, Context, Login, Stage, Target};

/// Connections that may be in the middle of a login at a time, per worker. Held clients have
/// logged in and do not count.
const LOGINS_MAX: usize = 4096;
/// Shorter than any limit that a session sets itself.
const TICK: Duration = Duration::from_millis(100);
/// After accept failed for want of descriptors, so long nobody is taken in.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What sessions are left for their last words when the doors are closed.
const SESSIONS_END: Duration = Duration::from_secs(3);

/// What a worker needs to take connections in.
#[derive(Debug)]
pub struct Worker {
    /// For database sessions.
    pub context: Context,
    /// For consoles.
    pub console: Arc<Console>,
    /// What is still open for business.
    pub doors: watch::Receiver<Doors>,
}

/// Which connections are still taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doors {
    /// All.
    Open,
    /// Consoles only, over the Unix socket: the instance is draining.
    ConsoleOnly,
    /// None, and sessions have a moment left.
    Closed,
}

impl Worker {
    /// Takes connections in until the doors are closed, then gives its sessions a moment to end.
    pub async fn run(self, sockets: WorkerSockets) -> io::Result<()> {
        let mut doors = self.doors.clone();
        let worker = Arc::new(self);
        let (ended, mut last) = mpsc::channel(1);
        let entrance = Entrance {
            logins: Arc::new(Semaphore::new(LOGINS_MAX)),
            worker,
            ended,
        };
        let mut loops = JoinSet::new();
        for socket in sockets.tcp {
            loops.spawn(accept_tcp(entrance.clone(), TcpListener::from_std(socket)?));
        }
        if let Some(socket) = sockets.unix {
            loops.spawn(accept_unix(
                entrance.clone(),
                UnixListener::from_std(socket)?,
            ));
        }
        drop(entrance);
        let ticking = tokio::spawn(tick());
        while loops.join_next().await.is_some() {}
        // Every session holds a sender; nobody sends. When all are gone, all sessions are over.
        tokio::select! {
            _ = last.recv() => {}
            // A backend that is waited for, or a client that does not listen, ends with us.
            () = async {
                doors_at_least(&mut doors, Doors::Closed).await;
                tokio::time::sleep(SESSIONS_END).await;
            } => {}
        }
        ticking.abort();
        Ok(())
    }
}

/// A timer that is due before all others makes tokio wake its own thread through the kernel, and
/// every login and every reset sets a timer. One that is always near spares them that.
async fn tick() {
    let mut near = tokio::time::interval(TICK);
    loop {
        near.tick().await;
    }
}

/// What an accept loop hands to each connection.
#[derive(Debug, Clone)]
struct Entrance {
    worker: Arc<Worker>,
    logins: Arc<Semaphore>,
    ended: mpsc::Sender<()>,
}

async fn accept_tcp(entrance: Entrance, listener: TcpListener) {
    let mut doors = entrance.worker.doors.clone();
    let mut options = entrance.tcp_options();
    if let Err(error) = options.apply(&SockRef::from(&listener)) {
        tracing::warn!(%error, "cannot set the socket options of clients");
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = doors_at_least(&mut doors, Doors::ConsoleOnly) => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let now = entrance.tcp_options();
                if now != options {
                    // RELOAD changed them: for this connection, and for those to come.
                    options = now;
                    let _ = options.apply(&SockRef::from(&stream));
                    let _ = options.apply(&SockRef::from(&listener));
                }
                let ends = Ends {
                    remote: Some(remote),
                    local: stream.local_addr().ok(),
                };
                entrance.admit(Stream::Tcp(stream), ends);
            }
            Err(error) => back_off(&error).await,
        }
    }
}

async fn accept_unix(entrance: Entrance, listener: UnixListener) {
    let mut doors = entrance.worker.doors.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = doors_at_least(&mut doors, Doors::Closed) => return,
        };
        match accepted {
            Ok((stream, _)) => entrance.admit(Stream::Unix(stream), Ends::default()),
            Err(error) => back_off(&error).await,
        }
    }
}

/// Returns when the doors are closed so far.
async fn doors_at_least(doors: &mut watch::Receiver<Doors>, wanted: Doors) {
    // Without a sender the instance is gone, and so is its business.
    let _ = doors.wait_for(|now| *now >= wanted).await;
}

/// A connection that was gone before it was accepted is nothing; without descriptors it would be
/// offered again and again.
async fn back_off(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::error!(%error, "cannot accept connections");
        tokio::time::sleep(ACCEPT_BACKOFF).await;
    }
}

impl Entrance {
    fn tcp_options(&self) -> TcpOptions {
        TcpOptions::from_config(&self.worker.context.config.borrow().general)
    }

    fn admit(&self, stream: Stream, ends: Ends) {
        let Ok(permit) = Arc::clone(&self.logins).try_acquire_owned() else {
            tracing::warn!(peer = %ends, "too many logins at a time: closed");
            return;
        };
        let Self { worker, ended, .. } = self.clone();
        tokio::spawn(async move {
            // Boxed: what a login needs is not carried through the session's life.
            if let Some(login) = Box::pin(session::greet(&worker.context, stream, ends)).await {
                drop(permit);
                worker.host(login).await;
            }
            drop(ended);
        });
    }
}

impl Worker {
    async fn host(&self, login: Login) {
        match login.target {
            Target::Console(rights) => Box::pin(self.host_console(login, rights)).await,
            Target::Pool(_) if *self.doors.borrow() > Doors::Open => {
                Box::pin(session::turn_away(login, "pooler is shutting down")).await;
            }
            Target::Pool(ref pool) => {
                let pool = Arc::clone(pool);
                session::serve(&self.context, login, pool).await;
            }
        }
    }

    async fn host_console(&self, login: Login, rights: ConsoleRights) {
        let Login {
            mut stream,
            received,
            client,
            ..
        } = login;
        if session::admit(&mut stream).await.is_err() {
            return;
        }
        client.set_stage(Stage::Console);
        let who = ConsoleLogin {
            user: client.user.clone(),
            database: client.database.clone(),
            privilege: match rights {
                ConsoleRights::Admin => Privilege::Admin,
                ConsoleRights::Stats => Privilege::Stats,
            },
            key: client.key.clone(),
            cancelled: client.cancellations(),
        };
        let stop = session::dismissed(&client);
        let served = admin::serve(&mut stream, received, &self.console, who, stop).await;
        if let Err(error) = served {
            tracing::info!(client = client.id, %error, "console closed");
        }
        drop(client);
        session::linger(stream, &[]).await;
    }
}
