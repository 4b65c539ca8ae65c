//! The bare yamux crate on a pipe: no layer below, no records above. What any other implementation would be.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::future::poll_fn;
use reachback_link::{Side, Transport};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use yamux::{Config, Connection, Mode, Stream};

/// A connection and the task that drives it, stopped when this is dropped.
pub struct Bare {
    requests: mpsc::Sender<oneshot::Sender<Stream>>,
    inbound: mpsc::Receiver<Stream>,
    task: JoinHandle<()>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bare {
    /// Starts it with the crate's own settings.
    #[allow(clippy::disallowed_methods, reason = "the connection owns the task and stops it")]
    pub fn start(io: Transport, side: Side) -> Self {
        let mode = if side == Side::Dialer { Mode::Client } else { Mode::Server };
        let mut connection = Connection::new(Futures(io), Config::default(), mode);
        let (requests, mut requested) = mpsc::channel::<oneshot::Sender<Stream>>(8);
        let (arrived, inbound) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            let mut waiting = None;
            poll_fn(|cx| {
                loop {
                    if waiting.is_none()
                        && let Poll::Ready(Some(request)) = requested.poll_recv(cx)
                    {
                        waiting = Some(request);
                    }
                    let Some(request) = waiting.take() else { break };
                    match connection.poll_new_outbound(cx) {
                        Poll::Ready(Ok(stream)) => drop(request.send(stream)),
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Pending => {
                            waiting = Some(request);
                            break;
                        }
                    }
                }
                while let Some(stream) = ready!(connection.poll_next_inbound(cx)) {
                    match stream {
                        Ok(stream) => arrived.try_send(stream).expect("tests open few streams"),
                        Err(_) => break,
                    }
                }
                Poll::Ready(())
            })
            .await;
        });
        Self { requests, inbound, task }
    }

    /// A new stream; the peer sees it with its first bytes.
    pub async fn open(&self) -> Stream {
        let (stream, opened) = oneshot::channel();
        self.requests.send(stream).await.expect("the connection lives");
        opened.await.expect("the connection lives")
    }

    /// The next stream of the peer.
    pub async fn next(&mut self) -> Option<Stream> {
        self.inbound.recv().await
    }
}

/// A transport in the words of `futures`.
struct Futures(Transport);

impl futures::AsyncRead for Futures {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }
}

impl futures::AsyncWrite for Futures {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
