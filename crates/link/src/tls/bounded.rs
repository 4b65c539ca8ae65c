//! What a stranger may make us read before TLS stands.
//!
//! rustls would take handshake messages of 64 KiB each; ours are below two, and those of a chain of RSA certificates
//! below eight. The first bytes are remembered: what does not speak TLS at all is best described by what it said.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use reachback_wire::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Transport;

/// A transport during its TLS handshake: gives [`limits::HANDSHAKE_BYTES_MAX`] bytes and no more.
pub(super) struct Bounded {
    below: Transport,
    left: usize,
    first: Vec<u8>,
}

impl Bounded {
    pub(super) fn new(below: Transport) -> Self {
        Self { below, left: limits::HANDSHAKE_BYTES_MAX, first: Vec::with_capacity(FIRST) }
    }

    /// The first bytes that came.
    pub(super) fn first(&self) -> &[u8] {
        &self.first
    }

    pub(super) fn into_below(self) -> Transport {
        self.below
    }
}

impl AsyncRead for Bounded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            let most = limits::HANDSHAKE_BYTES_MAX;
            let what = format!("it sent more than {most} bytes before the end of the TLS handshake");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        let room = into.remaining().min(this.left);
        let mut window = ReadBuf::new(into.initialize_unfilled_to(room));
        ready!(Pin::new(&mut this.below).poll_read(cx, &mut window))?;
        let read = window.filled();
        this.left -= read.len();
        this.first.extend_from_slice(&read[..read.len().min(FIRST - this.first.len())]);
        let read = read.len();
        into.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.below).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.below).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.below.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}

/// The kinds of TLS records that an answer can begin with.
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;

/// Enough to tell protocols apart.
const FIRST: usize = 8;
