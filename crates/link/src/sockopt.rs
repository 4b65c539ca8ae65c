//! What the kernel is told about our sockets, in one place.
//!
//! Every option has a stated fallback: a kernel without it loses a backstop or some latency, never correctness, so a
//! failure is logged once per socket at debug level and the socket is used as it is.

use std::{io, time::Duration};

use reachback_wire::limits;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// For every TCP socket: send small writes at once. Nagle against delayed acknowledgement costs 40 ms per exchange.
pub fn interactive(socket: &TcpStream) {
    note("TCP_NODELAY", socket.set_nodelay(true));
}

/// For the connection that carries a session: the backstops behind our own heartbeats, and a shallow send queue.
///
/// * keepalive finds a dead path when nothing is in flight, TCP_USER_TIMEOUT when something is (keepalive alone never
///   fires then); both are slower than the heartbeat, which decides.
/// * TCP_NOTSENT_LOWAT keeps what is not yet sent in our own queues, where streams take turns, instead of in one
///   kernel queue where a small answer waits behind megabytes of bulk. Where the option is missing (not Linux, not
///   macOS) that wait remains.
pub fn tunnel(socket: &TcpStream) {
    unsent_limit(socket, limits::NOTSENT_LOWAT);
    watch_over(socket, Some(limits::KEEPALIVE_IDLE), limits::TCP_USER_TIMEOUT);
}

/// How the kernel finds out that a path is dead: after `idle` without traffic it asks, and again a few times within as
/// much again; or, without `idle`, never. What nobody has acknowledged for `unacknowledged` ends the connection.
pub(crate) fn watch_over(socket: &TcpStream, idle: Option<Duration>, unacknowledged: Duration) {
    let socket = SockRef::from(socket);
    match idle {
        Some(idle) => {
            // At the usual 15 s this is the usual 5 s.
            let every = (idle / limits::KEEPALIVE_RETRIES).max(Duration::from_secs(1));
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(every);
            #[cfg(target_os = "linux")]
            let keepalive = keepalive.with_retries(limits::KEEPALIVE_RETRIES);
            note("keepalive", socket.set_tcp_keepalive(&keepalive));
        }
        None => note("keepalive", socket.set_keepalive(false)),
    }
    #[cfg(target_os = "linux")]
    note("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(unacknowledged)));
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
}

/// How many unsent bytes the kernel may hold. Only Linux is told.
pub(crate) fn unsent_limit(socket: &TcpStream, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        note("TCP_NOTSENT_LOWAT", SockRef::from(socket).set_tcp_notsent_lowat(bytes));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, bytes);
}

/// Which congestion control the connection has from now on.
///
/// # Errors
/// What setsockopt(2) says: the kernel has none of this name, or does not give it to us. `Unsupported` elsewhere.
pub(crate) fn congestion(socket: &TcpStream, name: &str) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return SockRef::from(socket).set_tcp_congestion(name.as_bytes());
    #[cfg(not(target_os = "linux"))]
    return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{name} for {socket:?}")));
}

/// Whether a close is a reset (RST), so that the peer can tell an abort from an end.
pub fn close_with_reset(socket: &TcpStream, reset: bool) {
    note("SO_LINGER", SockRef::from(socket).set_linger(reset.then_some(Duration::ZERO)));
}

fn note(option: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(option, %error, "socket option not set");
    }
}
