//! One type for every byte pipe a session can live on.
//!
//! TCP, Unix socket, in-memory pipe, and TLS over any of them, differ only here. Bytes that were read too early, while finding
//! out which language the peer speaks, are put back in front, so nobody above knows that anyone looked. Vectored
//! reads and writes are part of the type: bytes per system call decide how fast a multiplexed connection is.

use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::{
    SessionRules, sockopt,
    tcp::{self, Path},
    tls::{TlsPeer, pipe::TlsPipe},
};

/// An ordered, reliable, two-way byte pipe to one peer.
pub struct Transport {
    put_back: Bytes,
    pipe: Pipe,
}

/// Anything that reads and writes; for pipes that tests break on purpose.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

enum Pipe {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
    Boxed(Box<dyn Io>),
    Tls(Box<TlsPipe>),
}

impl Transport {
    /// Two connected ends in memory, each buffering at most `capacity` bytes.
    pub fn memory_pair(capacity: usize) -> (Self, Self) {
        let (a, b) = tokio::io::duplex(capacity);
        (Self::over(Pipe::Memory(a)), Self::over(Pipe::Memory(b)))
    }

    /// A pipe of the caller's own making.
    pub fn boxed(io: impl Io + 'static) -> Self {
        Self::over(Pipe::Boxed(Box::new(io)))
    }

    /// Puts bytes back that were read from this transport: they are read again first.
    pub fn put_back(&mut self, bytes: Bytes) {
        if self.put_back.is_empty() {
            self.put_back = bytes;
        } else {
            self.put_back = [bytes, std::mem::take(&mut self.put_back)].concat().into();
        }
    }

    /// Who is at the other end, if TLS says so.
    pub fn tls(&self) -> Option<&Arc<TlsPeer>> {
        match &self.pipe {
            Pipe::Tls(pipe) => Some(pipe.peer()),
            _ => None,
        }
    }

    /// What proofs of this connection are bound to: 32 bytes that only its two ends know, or zeros without TLS.
    pub fn exporter(&self) -> [u8; 32] {
        self.tls().map_or([0; 32], |peer| peer.exporter)
    }

    /// The TCP socket below everything, if there is one.
    fn tcp(&self) -> Option<&TcpStream> {
        match &self.pipe {
            Pipe::Tcp(socket) => Some(socket),
            Pipe::Tls(pipe) => pipe.below().tcp(),
            Pipe::Unix(_) | Pipe::Memory(_) | Pipe::Boxed(_) => None,
        }
    }

    /// Sets what a socket that carries a session needs; nothing for other pipes.
    pub fn tune_for_tunnel(&self) {
        if let Some(socket) = self.tcp() {
            sockopt::tunnel(socket);
        }
    }

    /// Has the kernel watch over the connection as the session above it does; nothing for pipes without a kernel.
    pub(crate) fn watch_over(&self, rules: SessionRules, heartbeat: Duration) {
        // What every tunnel has from its handshake on needs no telling again.
        if rules != SessionRules::default()
            && let Some(socket) = self.tcp()
        {
            sockopt::watch_over(socket, rules.keepalive, rules.user_timeout(heartbeat));
        }
    }

    /// What the kernel has measured about the way to the peer, where there is one and the kernel says.
    pub(crate) fn path(&self) -> Option<Path> {
        let socket = self.tcp()?;
        tcp::path(socket).inspect_err(|error| tracing::debug!(%error, "the path is not known")).ok()
    }

    /// See [`sockopt::congestion`]; nothing for pipes without one.
    pub(crate) fn set_congestion(&self, name: &str) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |socket| sockopt::congestion(socket, name))
    }

    /// How much the peer may send ahead of us; nothing for pipes and systems without that.
    pub(crate) fn clamp_window(&self, bytes: usize) {
        if let Some(socket) = self.tcp()
            && let Err(error) = tcp::clamp_window(socket, bytes)
        {
            tracing::debug!(%error, "the window is not clamped");
        }
    }

    /// Lets the kernel hold this many received bytes at most, or as many as it likes; nothing for pipes and systems without
    /// that.
    pub(crate) fn hold_receive_room(&self, bytes: Option<usize>) {
        if let Some(socket) = self.tcp()
            && let Err(error) = tcp::hold_receive_room(socket, bytes)
        {
            tracing::debug!(%error, "the kernel decides how much it holds");
        }
    }

    /// See [`sockopt::unsent_limit`]; nothing for pipes without one.
    pub(crate) fn set_unsent_limit(&self, bytes: usize) {
        if let Some(socket) = self.tcp() {
            sockopt::unsent_limit(socket, bytes);
        }
    }

    /// Makes whatever closes this transport, the death of the process included, a reset where the kernel can do that
    /// (TCP), or an ordinary end again.
    pub fn close_with_reset(&self, reset: bool) {
        if let Some(socket) = self.tcp() {
            sockopt::close_with_reset(socket, reset);
        }
    }

    /// Ready when a read may give bytes: callers allocate their buffer only then. TLS is read until it has opened some.
    ///
    /// # Errors
    /// What the runtime says of the socket, or TLS of what came; never for in-memory pipes.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.put_back.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.pipe {
            Pipe::Tcp(socket) => socket.poll_read_ready(cx),
            Pipe::Unix(socket) => socket.poll_read_ready(cx),
            Pipe::Memory(_) | Pipe::Boxed(_) => Poll::Ready(Ok(())),
            Pipe::Tls(pipe) => pipe.poll_readable(cx),
        }
    }

    /// One read into several buffers, filled in order. `Ok(0)` is the end of the pipe.
    ///
    /// # Errors
    /// What the pipe says.
    pub fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.put_back.is_empty() {
            let mut read = 0;
            for buffer in buffers {
                let n = buffer.len().min(self.put_back.len());
                self.put_back.copy_to_slice(&mut buffer[..n]);
                read += n;
            }
            return Poll::Ready(Ok(read));
        }
        match &mut self.pipe {
            Pipe::Tcp(socket) => loop {
                ready!(socket.poll_read_ready(cx))?;
                match socket.try_read_vectored(buffers) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => return Poll::Ready(outcome),
                }
            },
            Pipe::Unix(socket) => loop {
                ready!(socket.poll_read_ready(cx))?;
                match socket.try_read_vectored(buffers) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => return Poll::Ready(outcome),
                }
            },
            Pipe::Memory(pipe) => read_one_by_one(Pin::new(pipe), cx, buffers),
            Pipe::Boxed(pipe) => read_one_by_one(Pin::new(pipe.as_mut()), cx, buffers),
            Pipe::Tls(pipe) => pipe.poll_read_vectored(cx, buffers),
        }
    }

    /// The congestion control it has.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn congestion(&self) -> io::Result<String> {
        let Some(socket) = self.tcp() else { return Err(io::ErrorKind::Unsupported.into()) };
        let name = socket2::SockRef::from(socket).tcp_congestion()?;
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    }

    /// How many received bytes the kernel may hold.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn receive_room(&self) -> io::Result<usize> {
        let Pipe::Tcp(socket) = &self.pipe else { return Err(io::ErrorKind::Unsupported.into()) };
        socket2::SockRef::from(socket).recv_buffer_size()
    }

    /// How many unsent bytes the kernel may hold.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn unsent_limit(&self) -> io::Result<u32> {
        let Some(socket) = self.tcp() else { return Err(io::ErrorKind::Unsupported.into()) };
        socket2::SockRef::from(socket).tcp_notsent_lowat()
    }

    fn over(pipe: Pipe) -> Self {
        Self { put_back: Bytes::new(), pipe }
    }
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Self {
        sockopt::interactive(&socket);
        Self::over(Pipe::Tcp(socket))
    }
}

impl From<DuplexStream> for Transport {
    fn from(pipe: DuplexStream) -> Self {
        Self::over(Pipe::Memory(pipe))
    }
}

impl From<UnixStream> for Transport {
    fn from(socket: UnixStream) -> Self {
        Self::over(Pipe::Unix(socket))
    }
}

impl From<TlsPipe> for Transport {
    fn from(pipe: TlsPipe) -> Self {
        Self::over(Pipe::Tls(Box::new(pipe)))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.pipe {
            Pipe::Tls(_) => "Transport(tls)",
            Pipe::Tcp(_) => "Transport(tcp)",
            Pipe::Unix(_) => "Transport(unix)",
            Pipe::Memory(_) => "Transport(memory)",
            Pipe::Boxed(_) => "Transport(boxed)",
        })
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.put_back.is_empty() {
            let n = this.put_back.len().min(buf.remaining());
            buf.put_slice(&this.put_back.split_to(n));
            return Poll::Ready(Ok(()));
        }
        match &mut this.pipe {
            Pipe::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Pipe::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Pipe::Memory(io) => Pin::new(io).poll_read(cx, buf),
            Pipe::Boxed(io) => Pin::new(io).poll_read(cx, buf),
            Pipe::Tls(pipe) => {
                let room = buf.initialize_unfilled();
                let n = ready!(pipe.poll_read_vectored(cx, &mut [IoSliceMut::new(room)]))?;
                buf.advance(n);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().pipe {
            Pipe::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Pipe::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Pipe::Memory(io) => Pin::new(io).poll_write(cx, buf),
            Pipe::Boxed(io) => Pin::new(io).poll_write(cx, buf),
            Pipe::Tls(pipe) => pipe.poll_write_vectored(cx, &[IoSlice::new(buf)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().pipe {
            Pipe::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Pipe::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Pipe::Memory(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Pipe::Boxed(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Pipe::Tls(pipe) => pipe.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.pipe {
            Pipe::Tcp(io) => io.is_write_vectored(),
            Pipe::Unix(io) => io.is_write_vectored(),
            Pipe::Memory(io) => io.is_write_vectored(),
            Pipe::Boxed(io) => io.is_write_vectored(),
            Pipe::Tls(_) => true,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tcp(io) => Pin::new(io).poll_flush(cx),
            Pipe::Unix(io) => Pin::new(io).poll_flush(cx),
            Pipe::Memory(io) => Pin::new(io).poll_flush(cx),
            Pipe::Boxed(io) => Pin::new(io).poll_flush(cx),
            Pipe::Tls(pipe) => pipe.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Pipe::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Pipe::Memory(io) => Pin::new(io).poll_shutdown(cx),
            Pipe::Boxed(io) => Pin::new(io).poll_shutdown(cx),
            Pipe::Tls(pipe) => pipe.poll_shutdown(cx),
        }
    }
}

/// A pipe without vectored reads fills the first buffer that has room, then as many more as are ready.
fn read_one_by_one<T: AsyncRead + ?Sized>(
    mut pipe: Pin<&mut T>,
    cx: &mut Context<'_>,
    buffers: &mut [IoSliceMut<'_>],
) -> Poll<io::Result<usize>> {
    let mut read = 0;
    for buffer in buffers.iter_mut().filter(|buffer| !buffer.is_empty()) {
        let mut window = ReadBuf::new(buffer);
        match pipe.as_mut().poll_read(cx, &mut window) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) if read == 0 => return Poll::Ready(Err(error)),
            Poll::Pending if read == 0 => return Poll::Pending,
            // What was read counts; the error or the wait is met again by the next read.
            Poll::Ready(Err(_)) | Poll::Pending => break,
        }
        let filled = window.filled().len();
        read += filled;
        if filled < buffer.len() {
            break;
        }
    }
    Poll::Ready(Ok(read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pipe::tests::secured;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_put_back_is_read_first_and_in_order() {
        let (mut near, mut far) = Transport::memory_pair(64);
        far.write_all(b"world").await.unwrap();
        near.put_back(Bytes::from_static(b"lo "));
        near.put_back(Bytes::from_static(b"hel"));
        let mut text = [0; 11];
        near.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"hello world");
    }

    #[tokio::test]
    async fn vectored_reads_fill_buffers_in_order() {
        let (mut near, mut far) = Transport::memory_pair(64);
        far.write_all(b"abcdef").await.unwrap();
        let (mut a, mut b) = ([0; 4], [0; 4]);
        let n = std::future::poll_fn(|cx| {
            near.poll_read_vectored(cx, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)])
        })
        .await
        .unwrap();
        assert_eq!((n, &a, &b[..2]), (6, b"abcd", &b"ef"[..]));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_set_over_tls_is_set_on_the_socket_below() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (near, far) = secured(near.unwrap().into(), far.unwrap().0.into()).await;
        for transport in [near, far] {
            assert!(transport.tls().is_some());
            assert!(transport.path().is_some());
            transport.tune_for_tunnel();
            transport.set_congestion("reno").unwrap();
            assert_eq!(transport.congestion().unwrap(), "reno");
            transport.set_unsent_limit(20_000);
            assert_eq!(transport.unsent_limit().unwrap(), 20_000);
            let socket = socket2::SockRef::from(transport.tcp().unwrap());
            assert!(socket.keepalive().unwrap());
            transport.close_with_reset(true);
            assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        }
    }
}
