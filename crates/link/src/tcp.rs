//! What the kernel has measured about a TCP connection (`TCP_INFO`, tcp(7)): the only one who sees the path. And how much
//! the peer may send ahead of us (`TCP_WINDOW_CLAMP`, `SO_BUF_LOCK`).
#![allow(unsafe_code, reason = "no crate in use wraps these options")]

use std::{io, time::Duration};

use tokio::net::TcpStream;

/// The path as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    /// The least round-trip time of the last minutes; zero until there is one.
    pub(crate) min_rtt: Duration,
    /// Bytes per second that arrived at the other end, if the path was what limited them and not we.
    pub(crate) rate: Option<u64>,
}

/// Looks now.
///
/// # Errors
/// What getsockopt(2) says; `Unsupported` on other systems and on kernels before 4.9, which don't measure the rate.
pub(crate) fn path(socket: &TcpStream) -> io::Result<Path> {
    parse(&read(socket)?).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Lets the peer have at most so many bytes on the way to us.
///
/// # Errors
/// What setsockopt(2) says; `Unsupported` on other systems.
#[cfg(target_os = "linux")]
pub(crate) fn clamp_window(socket: &TcpStream, bytes: usize) -> io::Result<()> {
    set(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_WINDOW_CLAMP,
        libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX),
    )
}

/// Lets the kernel hold this many received bytes at most, or less where that is more than it lets a socket ask for
/// (`net.core.rmem_max`); with `None` as many as it likes again, which is how a socket begins.
///
/// # Errors
/// What setsockopt(2) says, also that a kernel before 5.14 can't take it back; `Unsupported` on other systems.
#[cfg(target_os = "linux")]
pub(crate) fn hold_receive_room(socket: &TcpStream, bytes: Option<usize>) -> io::Result<()> {
    // asm-generic/socket.h, which all architectures but four old ones share.
    const SO_BUF_LOCK: libc::c_int = 72;
    match bytes {
        // The kernel doubles what it is asked for.
        Some(bytes) => socket2::SockRef::from(socket).set_recv_buffer_size(bytes / 2),
        None => set(socket, libc::SOL_SOCKET, SO_BUF_LOCK, 0),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn clamp_window(_: &TcpStream, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn hold_receive_room(_: &TcpStream, _: Option<usize>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn set(socket: &TcpStream, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // SAFETY: the kernel reads one int from `value`, which lives until the call is over; the descriptor is open as long as
    // `socket` is borrowed.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_os = "linux")]
fn read(socket: &TcpStream) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd;

    let mut bytes = vec![0u8; ENOUGH];
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `bytes`, which has as many, and then the count to `length`;
    // the descriptor is open as long as `socket` is borrowed.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    bytes.truncate(length as usize);
    Ok(bytes)
}

#[cfg(not(target_os = "linux"))]
fn read(_: &TcpStream) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// More than any kernel gives today; what lies behind the last field used here is not read.
#[cfg(target_os = "linux")]
const ENOUGH: usize = 256;

// `struct tcp_info` of linux/tcp.h, which only ever grows at its end.
const APP_LIMITED: usize = 7;
const MIN_RTT_US: usize = 148;
const DELIVERY_RATE: usize = 160;

fn parse(info: &[u8]) -> Option<Path> {
    let min_rtt = u32::from_ne_bytes(info.get(MIN_RTT_US..MIN_RTT_US + 4)?.try_into().ok()?);
    let rate = u64::from_ne_bytes(info.get(DELIVERY_RATE..DELIVERY_RATE + 8)?.try_into().ok()?);
    let app_limited = info.get(APP_LIMITED)? & 1 != 0;
    // All ones mean that there is none yet.
    let min_rtt = if min_rtt == u32::MAX { 0 } else { min_rtt };
    Some(Path {
        min_rtt: Duration::from_micros(min_rtt.into()),
        rate: (rate > 0 && !app_limited).then_some(rate),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_kernel_puts_them() {
        let mut info = vec![0; 232];
        info[MIN_RTT_US..MIN_RTT_US + 4].copy_from_slice(&100_500u32.to_ne_bytes());
        info[DELIVERY_RATE..DELIVERY_RATE + 8].copy_from_slice(&25_000_000u64.to_ne_bytes());
        let path = Path { min_rtt: Duration::from_micros(100_500), rate: Some(25_000_000) };
        assert_eq!(parse(&info), Some(path));
        info[APP_LIMITED] = 0b101;
        assert_eq!(parse(&info), Some(Path { rate: None, ..path }));
        info[MIN_RTT_US..MIN_RTT_US + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(parse(&info).unwrap().min_rtt, Duration::ZERO);
        assert_eq!(parse(&info[..104]), None, "an old kernel");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_real_connection_has_a_round_trip_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (near, _far) = (near.unwrap(), far.unwrap());
        let rtt = path(&near).unwrap().min_rtt;
        assert!(rtt > Duration::ZERO && rtt < Duration::from_secs(1), "{rtt:?}");
    }
}
