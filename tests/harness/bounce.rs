//! A TCP relay that misbehaves on demand: what lies between two machines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the relay does to each direction of each connection, old and new.
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
    weather: watch::Sender<Weather>,
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
            weather: watch::Sender::new(Weather::Clear),
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

    /// Changes the weather, also for what is connected already.
    pub fn set(&self, weather: Weather) {
        self.road.weather.send_replace(weather);
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
        ((), ()) = async { tokio::join!(
            pump(from_client, to_server, road.weather.subscribe()),
            pump(from_server, to_client, road.weather.subscribe()),
        ) } => {}
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

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await {
        let now = *weather.borrow();
        let sent = match now {
            Weather::BlackHole => Ok(()),
            _ if count == 0 => break,
            Weather::Slow(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(&buffer[..count]).await
            }
            Weather::Crumbs => crumbs(&mut to, &buffer[..count]).await,
            Weather::Clear => to.write_all(&buffer[..count]).await,
        };
        if sent.is_err() || count == 0 {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn crumbs(to: &mut OwnedWriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        to.write_all(std::slice::from_ref(byte)).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
