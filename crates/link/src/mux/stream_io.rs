//! A substream as a plain byte pipe, for services and programs that know nothing of records.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::{Buf, Bytes};
use reachback_wire::{Code, Record, RecordKind, limits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Outgoing, StreamEnd, Substream};

/// Reads and writes a substream's data. Made by [`Substream::into_io`].
///
/// End of file is the peer's `End`; `shutdown` sends ours. A reset or a lost connection is an [`io::Error`] of kind
/// `ConnectionReset` or `ConnectionAborted` whose source is the [`StreamEnd`].
#[derive(Debug)]
pub struct StreamIo {
    substream: Substream,
    unread: Bytes,
    unsent: Option<Outgoing>,
    /// A writer that waits for `unsent`, in case it is a reader that sends it.
    writer: Option<Waker>,
}

impl StreamIo {
    pub(super) fn new(substream: Substream) -> Self {
        Self { substream, unread: Bytes::new(), unsent: None, writer: None }
    }

    /// Ends both directions at once, as [`Substream::reset`].
    pub fn reset(self, code: Code, text: &str) {
        self.substream.reset(code, text);
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(record) = &mut self.unsent {
            ready!(self.substream.poll_send(cx, record)).map_err(into_io_error)?;
            self.unsent = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever writes and then reads, without a flush, means its last words to be sent. An error shows itself to
        // the reading.
        if this.unsent.is_some() {
            let both =
                Waker::from(Arc::new(Both { reader: cx.waker().clone(), writer: this.writer.clone() }));
            if this.poll_unsent(&mut Context::from_waker(&both)).is_ready()
                && let Some(writer) = this.writer.take()
            {
                writer.wake();
            }
        }
        while this.unread.is_empty() {
            match ready!(this.substream.poll_next(cx)) {
                Ok(Record::Data(bytes) | Record::Item(bytes)) => this.unread = bytes,
                Ok(Record::Head(_)) => {}
                Ok(Record::End(None)) | Err(StreamEnd::Finished) => return Poll::Ready(Ok(())),
                Ok(Record::End(Some(status))) => {
                    return Poll::Ready(Err(io::Error::other(format!(
                        "{}: {}",
                        status.code.name(),
                        status.message
                    ))));
                }
                Ok(Record::Reset { .. }) => return Poll::Ready(Err(into_io_error(StreamEnd::Dropped))),
                Err(end) => return Poll::Ready(Err(into_io_error(end))),
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..n]);
        this.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.poll_unsent(cx)?.is_pending() {
            this.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = buf.len().min(limits::MAX_RECORD_PAYLOAD);
        this.unsent = Some(Outgoing::record(RecordKind::Data, &buf[..n]));
        // It is ours now; a write that can't go at once is finished by the next call or by a flush.
        match this.poll_unsent(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(n)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let sent = this.poll_unsent(cx);
        if sent.is_pending() {
            this.writer = Some(cx.waker().clone());
        }
        sent
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        this.substream.poll_finish(cx, None).map_err(into_io_error)
    }
}

/// The mux keeps one waker for writing; a reader that takes it over may be gone when it is called.
struct Both {
    reader: Waker,
    writer: Option<Waker>,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.reader.wake_by_ref();
        if let Some(writer) = &self.writer {
            writer.wake_by_ref();
        }
    }
}

fn into_io_error(end: StreamEnd) -> io::Error {
    let kind = match end {
        StreamEnd::Finished => io::ErrorKind::BrokenPipe,
        StreamEnd::Reset { .. } | StreamEnd::Dropped | StreamEnd::OverBudget => {
            io::ErrorKind::ConnectionReset
        }
        StreamEnd::Lost(_) => io::ErrorKind::ConnectionAborted,
        StreamEnd::Protocol(..) => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, end)
}
