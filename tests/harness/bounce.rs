//! A TCP relay that misbehaves on demand: what lies between two machines.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the relay does to a direction of each connection, old and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Passes everything on.
    Clear,
    /// Passes it on after this time.
    Slow(Duration),
    /// One byte in each packet.
    Crumbs,
    /// Accepts and reads, and passes nothing on.
    BlackHole,
    /// Keeps what comes, and passes it on when the weather changes.
    Held,
    /// Passes on so many bytes of a connection, all that it had before included; then the
    /// connection is closed, in both directions.
    EndsAfter(usize),
    /// Passes nothing on and tells the receiver that nothing more comes, while the other direction
    /// goes on.
    HalfClosed,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// A running relay on a port of its own.
#[derive(Debug)]
pub struct Bounce {
    port: u16,
    road: Arc<Road>,
    acceptor: JoinHandle<()>,
}

/// What all connections of a relay look at.
#[derive(Debug)]
struct Road {
    target: AtomicU16,
    to_server: watch::Sender<Weather>,
    to_client: watch::Sender<Weather>,
    /// Changes whenever the connections of that moment shall be reset.
    resets: watch::Sender<u64>,
}

impl Bounce {
    /// Relays to `target` on this machine.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let road = Arc::new(Road {
            target: AtomicU16::new(target),
            to_server: watch::Sender::new(Weather::Clear),
            to_client: watch::Sender::new(Weather::Clear),
            resets: watch::Sender::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&road)));
        Self {
            port,
            road,
            acceptor,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where connections lead from now on.
    pub fn retarget(&self, target: u16) {
        self.road.target.store(target, Ordering::Relaxed);
    }

    /// Resets every connection there is.
    pub fn reset(&self) {
        self.road.resets.send_modify(|count| *count += 1);
    }

    /// Changes the weather both ways, also for what is connected already.
    pub fn set(&self, weather: Weather) {
        self.set_way(Direction::ToServer, weather);
        self.set_way(Direction::ToClient, weather);
    }

    /// Changes the weather one way.
    pub fn set_way(&self, direction: Direction, weather: Weather) {
        match direction {
            Direction::ToServer => &self.road.to_server,
            Direction::ToClient => &self.road.to_client,
        }
        .send_replace(weather);
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, road: Arc<Road>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        connections.spawn(relay(client, Arc::clone(&road)));
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(client: TcpStream, road: Arc<Road>) {
    let mut resets = road.resets.subscribe();
    let address = SocketAddr::from(([127, 0, 0, 1], road.target.load(Ordering::Relaxed)));
    let Ok(server) = TcpStream::connect(address).await else {
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let hangup = [linger_handle(&to_client), linger_handle(&to_server)];
    tokio::select! {
        () = both(
            pump(from_client, to_server, road.to_server.subscribe()),
            pump(from_server, to_client, road.to_client.subscribe()),
        ) => {}
        _ = resets.changed() => {
            // Closed with linger 0, a socket sends a reset in place of an orderly end.
            for stream in hangup.into_iter().flatten() {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

/// A second handle of the same socket.
fn linger_handle(half: &OwnedWriteHalf) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    let stream: &TcpStream = half.as_ref();
    stream.as_fd().try_clone_to_owned().ok()
}

/// How a direction ended.
enum End {
    /// As its sender wished: the other direction may go on.
    Orderly,
    /// The connection is over.
    Over,
}

/// Until both directions ended, or one ended both.
async fn both(to_server: impl Future<Output = End>, to_client: impl Future<Output = End>) {
    tokio::pin!(to_server, to_client);
    let (end, other) = tokio::select! {
        end = &mut to_server => (end, Direction::ToClient),
        end = &mut to_client => (end, Direction::ToServer),
    };
    let _ = match (end, other) {
        (End::Over, _) => End::Over,
        (End::Orderly, Direction::ToClient) => to_client.await,
        (End::Orderly, Direction::ToServer) => to_server.await,
    };
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> End {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        let count = tokio::select! {
            count = from.read(&mut buffer) => count.unwrap_or(0),
            () = closes(&mut weather) => 0,
        };
        let Some(now) = after_held(&mut weather).await else {
            return End::Over;
        };
        let bytes = &buffer[..count];
        let sent = match now {
            Weather::HalfClosed => {
                let _ = to.shutdown().await;
                swallow(from).await;
                return End::Orderly;
            }
            Weather::BlackHole => Ok(()),
            _ if count == 0 => break,
            Weather::Slow(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(bytes).await
            }
            Weather::Crumbs => crumbs(&mut to, bytes).await,
            Weather::EndsAfter(most) => {
                let bytes = &bytes[..count.min(most.saturating_sub(passed))];
                let sent = to.write_all(bytes).await;
                if passed + count >= most {
                    return End::Over;
                }
                sent
            }
            Weather::Clear | Weather::Held => to.write_all(bytes).await,
        };
        passed += count;
        if sent.is_err() || count == 0 {
            break;
        }
    }
    let _ = to.shutdown().await;
    End::Orderly
}

/// The weather, once nothing is held back any more. None: the relay is gone.
async fn after_held(weather: &mut watch::Receiver<Weather>) -> Option<Weather> {
    let now = weather.wait_for(|now| *now != Weather::Held).await;
    now.ok().map(|now| *now)
}

/// Until that direction is closed on purpose, also while nothing is sent.
async fn closes(weather: &mut watch::Receiver<Weather>) {
    let closed = weather.wait_for(|now| *now == Weather::HalfClosed);
    if closed.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Reads what nobody will get.
async fn swallow(mut from: OwnedReadHalf) {
    let mut buffer = vec![0; 16 * 1024];
    while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

async fn crumbs(to: &mut OwnedWriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        to.write_all(std::slice::from_ref(byte)).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
