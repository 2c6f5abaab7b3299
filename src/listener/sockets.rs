//! Opening the sockets: all of them, or none.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;
use crate::net::unix_socket_path;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A name without address.
    #[error("cannot resolve listen address \"{address}\"")]
    Resolve {
        /// As configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The path cannot be had.
    #[error("cannot listen on unix socket {}", path.display())]
    Unix {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Open sockets, one set for each worker: the kernel spreads connections over the sockets of an
/// address (`SO_REUSEPORT`), so a connection stays on the thread that accepted it.
#[derive(Debug)]
pub struct Sockets {
    tcp: Vec<Vec<StdTcpListener>>,
    unix: Vec<StdUnixListener>,
    /// Removed at the end.
    unix_path: Option<PathBuf>,
}

/// One worker's share.
#[derive(Debug)]
pub struct WorkerSockets {
    pub(super) tcp: Vec<StdTcpListener>,
    pub(super) unix: Option<StdUnixListener>,
}

impl Sockets {
    /// Opens everything, or nothing.
    pub fn bind(listen: &Listen, workers: usize) -> Result<Self, BindError> {
        let mut tcp: Vec<Vec<StdTcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        for address in addresses(listen)? {
            let group = bind_group(address, listen.backlog, workers)
                .map_err(|source| BindError::Tcp { address, source })?;
            for (worker, socket) in tcp.iter_mut().zip(group) {
                worker.push(socket);
            }
        }
        let (unix, unix_path) = match &listen.unix_socket_dir {
            None => (Vec::new(), None),
            Some(directory) => {
                let path = unix_socket_path(directory, listen.port);
                let sockets =
                    bind_unix(&path, listen.unix_socket_mode, workers).map_err(|source| {
                        BindError::Unix {
                            path: path.clone(),
                            source,
                        }
                    })?;
                (sockets, Some(path))
            }
        };
        Ok(Self {
            tcp,
            unix,
            unix_path,
        })
    }

    /// Where TCP clients can come to.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let first = self.tcp.first().into_iter().flatten();
        first
            .filter_map(|socket| socket.local_addr().ok())
            .collect()
    }

    /// One share per worker, and the path to remove at the end.
    pub fn split(self) -> (Vec<WorkerSockets>, Option<PathBuf>) {
        let mut unix = self.unix.into_iter();
        let shares = self.tcp.into_iter().map(|tcp| WorkerSockets {
            tcp,
            unix: unix.next(),
        });
        (shares.collect(), self.unix_path)
    }
}

fn addresses(listen: &Listen) -> Result<Vec<SocketAddr>, BindError> {
    let mut all = Vec::new();
    for address in &listen.address {
        let names: &[&str] = if address == "*" {
            &["0.0.0.0", "::"]
        } else {
            &[address]
        };
        for name in names {
            let found =
                (*name, listen.port)
                    .to_socket_addrs()
                    .map_err(|source| BindError::Resolve {
                        address: address.clone(),
                        source,
                    })?;
            all.extend(found);
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The first socket binds alone: another process on the port is an error, not a partner. Only then
/// the others may share it.
fn bind_group(
    address: SocketAddr,
    backlog: u32,
    workers: usize,
) -> io::Result<Vec<StdTcpListener>> {
    let mut sockets = Vec::with_capacity(workers);
    let mut bound = address;
    for number in 0..workers {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if number > 0 {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&bound.into())?;
        if number == 0 {
            socket.set_reuse_port(workers > 1)?;
            // Port 0 became a port.
            bound = socket.local_addr()?.as_socket().unwrap_or(address);
        }
        sockets.push(socket);
    }
    for socket in &sockets {
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        socket.set_nonblocking(true)?;
    }
    Ok(sockets.into_iter().map(Into::into).collect())
}

fn bind_unix(path: &Path, mode: u32, workers: usize) -> io::Result<Vec<StdUnixListener>> {
    if path.exists() {
        // A file that nobody listens on was left behind by a process that died.
        if StdUnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let first = StdUnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    first.set_nonblocking(true)?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        sockets.push(first.try_clone()?);
    }
    sockets.push(first);
    Ok(sockets)
}
