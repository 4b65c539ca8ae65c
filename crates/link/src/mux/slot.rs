//! The place below a session where its transport is, or is not.
//!
//! A session does not own its transport: it reads and writes a slot, and a slot that is empty makes it wait, not
//! end. That is the seam for resumption (an interrupted session goes on over a new connection). Today whoever fills
//! the slot once at the start is the only one who does.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Transport;

/// A slot for a transport. Reads and writes wait while it is empty.
pub(super) struct Slot {
    transport: Option<Transport>,
    waiting: Option<Waker>,
}

impl Slot {
    pub(super) fn filled(transport: Transport) -> Self {
        Self { transport: Some(transport), waiting: None }
    }

    /// Puts a transport in and wakes who waits. The one that was there is returned.
    #[cfg_attr(not(test), expect(dead_code, reason = "the seam for resumption, proved by the test below"))]
    pub(super) fn replace(&mut self, transport: Option<Transport>) -> Option<Transport> {
        if transport.is_some()
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
        std::mem::replace(&mut self.transport, transport)
    }

    /// The transport, if there is one.
    pub(super) fn transport(&self) -> Option<&Transport> {
        self.transport.as_ref()
    }

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get(cx) {
            Some(transport) => transport.poll_readable(cx),
            None => Poll::Pending,
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get(cx) {
            Some(transport) => Pin::new(transport).poll_read(cx, buffer),
            None => Poll::Pending,
        }
    }

    pub(super) fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get(cx) {
            Some(transport) => transport.poll_read_vectored(cx, buffers),
            None => Poll::Pending,
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get(cx) {
            Some(transport) => Pin::new(transport).poll_write_vectored(cx, buffers),
            None => Poll::Pending,
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get(cx) {
            Some(transport) => Pin::new(transport).poll_flush(cx),
            None => Poll::Pending,
        }
    }

    fn get(&mut self, cx: &mut Context<'_>) -> Option<&mut Transport> {
        if self.transport.is_none() {
            self.waiting = Some(cx.waker().clone());
        }
        self.transport.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn who_reads_an_empty_slot_waits_and_goes_on_over_the_new_transport() {
        let (near, mut far) = Transport::memory_pair(64);
        let mut slot = Slot::filled(near);
        far.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut slot).await, b"one");

        drop(slot.replace(None));
        let (second, mut far) = Transport::memory_pair(64);
        let mut reading = Box::pin(read(&mut slot));
        tokio::select! {
            biased;
            read = &mut reading => panic!("read {read:?} from nowhere"),
            () = tokio::task::yield_now() => {}
        }
        drop(reading);
        slot.replace(Some(second));
        far.write_all(b"two").await.unwrap();
        assert_eq!(read(&mut slot).await, b"two");

        let written = std::future::poll_fn(|cx| slot.poll_write_vectored(cx, &[IoSlice::new(b"back")])).await;
        assert_eq!(written.unwrap(), 4);
        let mut text = [0; 4];
        far.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"back");
    }

    async fn read(slot: &mut Slot) -> Vec<u8> {
        let mut buffer = [0; 16];
        let n =
            std::future::poll_fn(|cx| slot.poll_read_vectored(cx, &mut [IoSliceMut::new(&mut buffer)])).await;
        buffer[..n.unwrap()].to_vec()
    }
}
