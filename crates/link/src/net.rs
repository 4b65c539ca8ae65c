//! The one door to the network: dialing, listening, name lookup.
//!
//! Everything that reaches out goes through [`Net`], so that tests (and a simulated network later) can stand in for
//! the real one without the code above noticing.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use futures::future::BoxFuture;
use reachback_wire::limits;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};

use crate::{Address, ListenAddress, Listener, Transport};

/// A network to dial and listen on.
pub trait Net: Send + Sync + 'static {
    /// Connects, looking the name up anew and trying every address it has. Has no deadline of its own: the caller's
    /// covers the handshake too.
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>>;

    /// Binds a listener. Port 0 is resolved: [`Listener::local`] tells the real one.
    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>>;

    /// Every address of a name, for whoever has to look at them before one is dialled. An IP literal is its own only
    /// address. The operating system's answer, unless a network brings names of its own.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// The operating system's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealNet;

impl Net for RealNet {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            match to {
                Address::Tcp { host, port } => Ok(connect_tcp(host, *port).await?.into()),
                Address::Unix(path) => Ok(UnixStream::connect(path).await?.into()),
            }
        })
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async move {
            match on {
                ListenAddress::Tcp { host, port } => {
                    listen_tcp(host.as_deref(), *port).await.map(Listener::from)
                }
                ListenAddress::Unix(path) => {
                    Ok(Listener::unix(tokio::net::UnixListener::bind(path)?, path.clone()))
                }
            }
        })
    }
}

/// Connects to `host:port`, every address in turn; one that stays silent gives way to the next after a moment, so a
/// dead IPv6 route in front does not eat the whole deadline.
///
/// # Errors
/// The last address's error, or the name's.
pub async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let Some((last, others)) = addresses.split_last() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
    };
    for address in others {
        match tokio::time::timeout(limits::CONNECT_NEXT_ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => tracing::debug!(%address, %error, "address failed, trying the next"),
            Err(_) => tracing::debug!(%address, "address silent, trying the next"),
        }
    }
    TcpStream::connect(last).await
}

/// Whether this machine has the address: what is dialled there is dialled here. Asks the kernel, which binds to
/// nothing else, and sends nothing.
pub fn is_this_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

/// Binds a TCP listener that can be bound again at once after a restart. Without a host it is dual stack, or IPv4
/// where the kernel has no IPv6.
async fn listen_tcp(host: Option<&str>, port: u16) -> io::Result<TcpListener> {
    let Some(host) = host else {
        return match bind_dual_stack(port) {
            Err(error) if no_ipv6(&error) => bind(SocketAddr::from(([0, 0, 0, 0], port))),
            outcome => outcome,
        };
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in tokio::net::lookup_host((host, port)).await? {
        match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::LISTEN_BACKLOG)
}

fn bind_dual_stack(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket2::SockRef::from(&socket).set_only_v6(false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([0u16; 8], port)))?;
    socket.listen(limits::LISTEN_BACKLOG)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// How long an accept loop waits after this error, or `None` when the error concerns one connection only.
pub fn pause_after(error: &io::Error) -> Option<Duration> {
    match error.raw_os_error() {
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => None,
        _ => Some(limits::ACCEPT_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_its_addresses() {
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(is_this_machine(here.parse().unwrap()), "{here}");
        }
        // Kept for documentation (RFC 5737, RFC 3849): nobody has them.
        for elsewhere in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_this_machine(elsewhere.parse().unwrap()), "{elsewhere}");
        }
    }
}
