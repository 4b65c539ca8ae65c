//! TLS over a pipe, once its handshake is over.
//!
//! The crate that drives handshakes reads 4 KiB at a time and can't say whether there is anything to read; a session asks
//! that before it takes a buffer, and moves megabytes. So after the handshake the connection moves in here: ciphertext is
//! read ahead, a whole frame of the mux with one system call, into a buffer that exists while bytes move; what is written
//! at once is sealed at once and leaves with one call.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use reachback_wire::limits;
use rustls::Connection;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::{TlsPeer, words};
use crate::Transport;

/// TLS over the transport below.
pub(crate) struct TlsPipe {
    below: Transport,
    tls: Connection,
    peer: Arc<TlsPeer>,
    /// Ciphertext that was read and not yet opened.
    ahead: BytesMut,
    /// How reading has ended, if it has.
    ended: Option<End>,
    closing: bool,
}

enum End {
    /// The peer said so.
    Notified,
    /// The bytes below just stopped.
    Cut,
    /// What came is no TLS of this connection, and why.
    Broken(String),
}

impl TlsPipe {
    /// Takes a connection over whose handshake is complete.
    pub(super) fn new(below: Transport, mut tls: Connection, peer: Arc<TlsPeer>) -> io::Result<Self> {
        tls.set_buffer_limit(Some(limits::TLS_SEALED_MAX));
        let mut pipe = Self { below, tls, peer, ahead: BytesMut::new(), ended: None, closing: false };
        // The first words may have come together with the end of the handshake.
        pipe.open();
        match &pipe.ended {
            Some(End::Broken(why)) => Err(broken(why)),
            _ => Ok(pipe),
        }
    }

    pub(crate) fn peer(&self) -> &Arc<TlsPeer> {
        &self.peer
    }

    pub(crate) fn below(&self) -> &Transport {
        &self.below
    }

    /// Ready when there is something to read, or nothing will come any more.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.has_opened() && self.ended.is_none() {
            if !self.ahead.is_empty() {
                self.open();
                continue;
            }
            match self.poll_fetch(cx) {
                Poll::Ready(fetched) => fetched?,
                Poll::Pending => {
                    self.ahead = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One read into several buffers, filled in order. `Ok(0)` is the end that the peer announced.
    pub(crate) fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if buffers.iter().all(|buffer| buffer.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_readable(cx))?;
        let mut read = 0;
        for buffer in buffers {
            let mut filled = 0;
            while filled < buffer.len() && self.has_more() {
                let n = self.tls.reader().read(&mut buffer[filled..])?;
                filled += n;
            }
            read += filled;
        }
        // What was good before an end is good.
        match &self.ended {
            Some(End::Cut) if read == 0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Some(End::Broken(why)) if read == 0 => Poll::Ready(Err(broken(why))),
            _ => Poll::Ready(Ok(read)),
        }
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Nothing is sealed while something sealed waits: what has not been sealed can still be overtaken.
        ready!(self.poll_push(cx))?;
        let taken = self.tls.writer().write_vectored(buffers)?;
        match self.poll_push(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_push(cx))?;
        Pin::new(&mut self.below).poll_flush(cx)
    }

    /// Announces the end, then ends the pipe below.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            self.tls.send_close_notify();
        }
        ready!(self.poll_push(cx))?;
        Pin::new(&mut self.below).poll_shutdown(cx)
    }

    /// Whether there are opened bytes, opening what was read ahead.
    fn has_more(&mut self) -> bool {
        while !self.has_opened() && self.ended.is_none() && !self.ahead.is_empty() {
            self.open();
        }
        self.has_opened()
    }

    fn has_opened(&mut self) -> bool {
        self.tls.reader().into_first_chunk().is_ok_and(|chunk| !chunk.is_empty())
    }

    /// Reads ciphertext.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.below.poll_readable(cx))?;
        self.ahead.reserve(limits::TLS_READ_AHEAD);
        if ready!(poll_read_buf(Pin::new(&mut self.below), cx, &mut self.ahead))? == 0 {
            self.ended = Some(End::Cut);
        }
        Poll::Ready(Ok(()))
    }

    /// Opens some of what was read ahead.
    fn open(&mut self) {
        if !self.ahead.is_empty() {
            match self.tls.read_tls(&mut &self.ahead[..]) {
                Ok(taken) => self.ahead.advance(taken),
                Err(error) => self.ended = Some(End::Broken(error.to_string())),
            }
        }
        match self.tls.process_new_packets() {
            Ok(state) if state.peer_has_closed() => self.ended = Some(End::Notified),
            Ok(_) => {}
            Err(error) => {
                self.ended = Some(End::Broken(words::of(&error)));
                // The alert that says why may find room or not.
                let _ = self.poll_push(&mut Context::from_waker(Waker::noop()));
            }
        }
    }

    /// Writes what is sealed.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Below { below: &mut self.below, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for TlsPipe {
    /// Whoever drops an idle connection ends it, as a plain one would be; whoever drops it in the middle of something
    /// breaks it off.
    fn drop(&mut self) {
        if !self.closing && !self.tls.wants_write() {
            self.tls.send_close_notify();
            let _ = self.poll_push(&mut Context::from_waker(Waker::noop()));
        }
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// The pipe below in the words of the standard library.
struct Below<'a, 'b> {
    below: &'a mut Transport,
    cx: &'a mut Context<'b>,
}

impl Write for Below<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.below).poll_write_vectored(self.cx, buffers) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::{
        Transport,
        tls::{
            AcceptIdentity, AcceptTls, DialTls, EXPLORER_NAME, Identity, PrivateKey, ServerTrust, TrustClock,
        },
    };

    /// TLS on this pair: who dials, and who is dialled.
    pub(crate) async fn secured(near: Transport, far: Transport) -> (Transport, Transport) {
        let (key, authority) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let ca = rcgen::CertifiedIssuer::self_signed(rcgen::CertificateParams::default(), authority).unwrap();
        let params = rcgen::CertificateParams::new(vec![EXPLORER_NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &ca).unwrap().der().clone();
        let tunnel = Identity::new(vec![leaf], &PrivateKey::from_pkcs8(key.serialize_der())).unwrap();
        let accept = AcceptTls::new(AcceptIdentity { tunnel, web: Vec::new() }).unwrap();
        let trust = ServerTrust { pins: Vec::new(), roots: vec![ca.der().clone()] };
        let dial = DialTls::new(&trust, None, TrustClock::system()).unwrap();
        let to = "hub:9002".parse().unwrap();
        let places = tokio::sync::Semaphore::new(1);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        let (near, far) = tokio::join!(dial.connect(near, &to), accept.accept(far, &places, deadline));
        (near.unwrap_or_else(|_| panic!("not connected")), far.unwrap())
    }
}
