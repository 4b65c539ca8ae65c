//! Listening sockets, and what an accept loop hands on.
//!
//! An accept loop only accepts: what it passes on is a raw socket bound to no runtime, so that the connection can
//! live on whichever runtime has room. Everything that takes time or can be attacked happens there.
//!
//! The last descriptors of a process are not for strangers: who is in needs some, to reach a service or to write to disk.
//! A process that accepts until there are none can only fail.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
};

use reachback_wire::limits;
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
};

use crate::Transport;
pub use crate::net::pause_after;

/// A bound listener. [`Listener::accept`] is cancel-safe.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Memory(mpsc::Receiver<DuplexStream>, String),
}

/// One accepted connection, not yet part of any runtime.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: RawSocket,
    /// Who connected, as the kernel says.
    pub peer: PeerAddress,
}

/// A socket that can be sent to another runtime.
#[derive(Debug)]
pub struct RawSocket(Raw);

#[derive(Debug)]
enum Raw {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Memory(DuplexStream),
}

/// Where a listener really listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    /// With the port that the kernel chose, if it was asked to.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
    /// An in-memory listener's name.
    Memory(String),
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAddress {
    /// The address the connection came from.
    Tcp(SocketAddr),
    /// What SO_PEERCRED says, where the platform has it.
    Unix {
        /// The peer's user id.
        uid: Option<u32>,
        /// The peer's process id.
        pid: Option<i32>,
    },
    /// An in-memory pipe.
    Memory,
}

impl Listener {
    /// A listener on a bound Unix socket.
    pub fn unix(listener: UnixListener, path: PathBuf) -> Self {
        Self { kind: Kind::Unix(listener, path) }
    }

    /// A listener whose connections come over a channel: the far end of each pipe is with whoever sent it.
    pub fn memory(connections: mpsc::Receiver<DuplexStream>, name: impl Into<String>) -> Self {
        Self { kind: Kind::Memory(connections, name.into()) }
    }

    /// The next connection. One that would take the last descriptors of the process is closed.
    ///
    /// # Errors
    /// What accept(2) says, or that there are no descriptors left for this; [`pause_after`] tells whether to wait before the
    /// next call.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        match &mut self.kind {
            Kind::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                leave_some(socket.as_raw_fd())?;
                let peer = PeerAddress::Tcp(SocketAddr::new(peer.ip().to_canonical(), peer.port()));
                Ok(Accepted { socket: RawSocket(Raw::Tcp(socket.into_std()?)), peer })
            }
            Kind::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                leave_some(socket.as_raw_fd())?;
                let credentials = socket.peer_cred().ok();
                let peer = PeerAddress::Unix {
                    uid: credentials.map(|c| c.uid()),
                    pid: credentials.and_then(|c| c.pid()),
                };
                Ok(Accepted { socket: RawSocket(Raw::Unix(socket.into_std()?)), peer })
            }
            Kind::Memory(connections, name) => match connections.recv().await {
                Some(pipe) => {
                    Ok(Accepted { socket: RawSocket(Raw::Memory(pipe)), peer: PeerAddress::Memory })
                }
                None => {
                    Err(io::Error::new(io::ErrorKind::BrokenPipe, format!("the network of {name} is gone")))
                }
            },
        }
    }

    /// Where this listener listens.
    pub fn local(&self) -> LocalAddress {
        match &self.kind {
            Kind::Tcp(listener) => match listener.local_addr() {
                Ok(address) => LocalAddress::Tcp(address),
                // getsockname fails only on a descriptor that is no socket.
                Err(error) => LocalAddress::Memory(format!("unknown ({error})")),
            },
            Kind::Unix(_, path) => LocalAddress::Unix(path.clone()),
            Kind::Memory(_, name) => LocalAddress::Memory(name.clone()),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { kind: Kind::Tcp(listener) }
    }
}

impl RawSocket {
    /// Makes the socket part of the runtime this is called in.
    ///
    /// # Errors
    /// When the runtime can't register it.
    pub fn into_transport(self) -> io::Result<Transport> {
        match self.0 {
            Raw::Tcp(socket) => Ok(TcpStream::from_std(socket)?.into()),
            Raw::Unix(socket) => Ok(UnixStream::from_std(socket)?.into()),
            Raw::Memory(pipe) => Ok(Transport::from(pipe)),
        }
    }
}

impl LocalAddress {
    /// The socket address of a TCP listener.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) | Self::Memory(_) => None,
        }
    }
}

/// Refuses a descriptor that is among the last. New ones get the lowest number that is free, so the number says how many
/// are in use.
fn leave_some(descriptor: RawFd) -> io::Result<()> {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let reserve = limits::DESCRIPTORS_RESERVED.min(limit / 4);
    if u64::try_from(descriptor).unwrap_or_default() < limit - reserve {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EMFILE))
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { uid: Some(uid), pid: Some(pid) } => write!(f, "local (uid {uid}, pid {pid})"),
            Self::Unix { uid: Some(uid), pid: None } => write!(f, "local (uid {uid})"),
            Self::Unix { .. } => f.write_str("local"),
            Self::Memory => f.write_str("memory"),
        }
    }
}
