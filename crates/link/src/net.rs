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

/// The operating system's network, with a time of one's own for connecting.
#[derive(Debug, Clone, Copy)]
pub struct TimedNet {
    connect_timeout: Duration,
}

impl TimedNet {
    /// Connecting to the last address of a name takes at most this long; the ones before it have a moment each. The lookup
    /// of the name is not counted: where the first name server is dead it takes as long as all the rest.
    #[must_use]
    pub fn new(connect_timeout: Duration) -> Self {
        Self { connect_timeout }
    }
}

impl Net for RealNet {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move { TimedNet::new(limits::CONNECT_TIMEOUT).connect(to).await })
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async move { TimedNet::new(limits::CONNECT_TIMEOUT).listen(on).await })
    }
}

impl Net for TimedNet {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            match to {
                Address::Tcp { host, port } => {
                    Ok(connect_tcp(host, *port, self.connect_timeout).await?.into())
                }
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
/// dead IPv6 route in front does not eat the whole deadline. The last one has `limit`.
///
/// # Errors
/// The last address's error, or the name's.
async fn connect_tcp(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let Some((last, others)) = addresses.split_last() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
    };
    for address in others {
        let moment = limit.min(limits::CONNECT_NEXT_ADDRESS);
        match tokio::time::timeout(moment, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => tracing::debug!(%address, %error, "address failed, trying the next"),
            Err(_) => tracing::debug!(%address, "address silent, trying the next"),
        }
    }
    match tokio::time::timeout(limit, TcpStream::connect(last)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let what = format!("{last} did not answer within {limit:?}; is a firewall dropping packets?");
            Err(io::Error::new(io::ErrorKind::TimedOut, what))
        }
    }
}

/// Whether this machine has the address: what is dialled there is dialled here. Asks the kernel, which binds to
/// nothing else, and sends nothing.
pub fn is_this_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

/// The address from which this machine would reach others, as the kernel routes; nothing is sent. `None`: it would reach
/// nobody.
pub fn outward_address() -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): they belong to nobody, and are routed like any other.
    let ways = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let found = ways.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    found.filter(|address| !address.is_unspecified())
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

    /// A listener whose queue is full drops what comes next, as a firewall does.
    #[tokio::test]
    async fn connecting_to_an_address_that_never_answers_ends_in_time() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let deaf = listener.local_addr().unwrap();
        let to: Address = deaf.to_string().parse().unwrap();
        let mut queue = Vec::new();
        let net = TimedNet::new(Duration::from_millis(300));
        let (begun, error) = loop {
            let begun = tokio::time::Instant::now();
            match net.connect(&to).await {
                Ok(taken) => queue.push(taken),
                Err(error) => break (begun, error),
            }
            assert!(queue.len() < 100, "the queue has no end");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(error.to_string().contains("within 300ms"), "{error}");
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn this_machine_is_known_by_its_addresses() {
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(is_this_machine(here.parse().unwrap()), "{here}");
        }
        // Kept for documentation (RFC 5737, RFC 3849): nobody has them.
        for elsewhere in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_this_machine(elsewhere.parse().unwrap()), "{elsewhere}");
        }
        // A machine without any network reaches nobody.
        assert!(outward_address().is_none_or(is_this_machine));
    }
}
