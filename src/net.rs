//! Byte streams: TCP or Unix socket, their options and addresses.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::config::General;

/// A connected stream, registered with the runtime that accepted or dialled it.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix socket.
    Unix(UnixStream),
}

/// The same without a runtime: it can go to another thread.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// The two ends of a stream, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// The other side; `None` for a Unix socket.
    pub remote: Option<SocketAddr>,
    /// Our side; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
}

impl Ends {
    /// Remote address without port.
    pub fn remote_ip(&self) -> Option<IpAddr> {
        self.remote.map(|addr| addr.ip())
    }

    /// Remote port, 0 for a Unix socket.
    pub fn remote_port(&self) -> u16 {
        self.remote.map_or(0, |addr| addr.port())
    }

    /// Our port, 0 for a Unix socket.
    pub fn local_port(&self) -> u16 {
        self.local.map_or(0, |addr| addr.port())
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote {
            Some(addr) => addr.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// Socket options for both sides of the pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    keepalive: bool,
    idle: Option<Duration>,
    interval: Option<Duration>,
    count: Option<u32>,
    user_timeout: Option<Duration>,
}

impl TcpOptions {
    /// PgBouncer's `tcp_*` settings.
    pub fn from_config(general: &General) -> Self {
        Self {
            keepalive: general.tcp_keepalive,
            idle: general.tcp_keepidle,
            interval: general.tcp_keepintvl,
            count: general.tcp_keepcnt,
            user_timeout: general.tcp_user_timeout,
        }
    }

    /// Sets them. `TCP_NODELAY` always: we write whole messages, Nagle would only add delay. What
    /// is set on a listening socket, its connections are born with (Linux).
    pub fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            let mut keepalive = TcpKeepalive::new();
            if let Some(idle) = self.idle {
                keepalive = keepalive.with_time(idle);
            }
            if let Some(interval) = self.interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(count) = self.count {
                keepalive = keepalive.with_retries(count);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }
}

impl Stream {
    /// Connects to `host`, which is a name, an address, or the directory of a Unix socket (libpq's
    /// rule: it begins with `/`). The addresses of a name are tried in order.
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever it had opened.
    pub async fn connect(host: &str, port: u16, options: &TcpOptions) -> io::Result<Self> {
        if host.starts_with('/') {
            let path = unix_socket_path(Path::new(host), port);
            return Ok(Self::Unix(UnixStream::connect(path).await?));
        }
        let stream = TcpStream::connect((host, port)).await?;
        options.apply(&SockRef::from(&stream))?;
        Ok(Self::Tcp(stream))
    }

    /// Addresses of both ends.
    pub fn ends(&self) -> Ends {
        match self {
            Self::Tcp(stream) => Ends {
                remote: stream.peer_addr().ok(),
                local: stream.local_addr().ok(),
            },
            Self::Unix(_) => Ends::default(),
        }
    }

    /// User id of the process at the other end of a Unix socket.
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => stream.peer_cred().ok().map(|cred| cred.uid()),
        }
    }

    /// Takes the stream off its runtime.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Self::Unix(stream) => stream.into_std().map(Detached::Unix),
        }
    }

    /// Is the stream open with nothing to read? Asks the kernel, not the runtime's memory of it.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Self::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        };
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Detached {
    /// Registers the stream with the current runtime.
    pub fn attach(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

/// libpq's name of the socket in a directory.
pub fn unix_socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
