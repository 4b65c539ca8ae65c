//! Services that are functions of the embedding program.
//!
//! A handler is called once per stream and gets a [`Visit`]: a byte pipe that knows who is at its other end. What the
//! handler returns decides how the visitor sees the end. `Ok` is a clean end: what was written arrives, even if the
//! handler never read what the visitor sent. `Err`, a panic, or being dropped is a reset. So a handler that says hello
//! and returns needs no ceremony, and one that fails half way can't pass for a short success.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use reachback_link::StreamIo;
use reachback_wire::{Caller, Code, Refusal, ServiceName, limits, text::sanitize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::oneshot,
    time::timeout,
};

use crate::{grants::Lease, limits::HANDLER_LINGER};

/// A service inside this program. Closures of the shape `Fn(Visit) -> Future<Output = io::Result<()>>` are handlers.
pub trait Handler: Send + Sync + 'static {
    /// Serves one visitor.
    ///
    /// # Errors
    /// Whatever went wrong: the visitor's stream is reset with the error's text.
    fn serve(&self, visit: Visit) -> BoxFuture<'static, io::Result<()>>;
}

impl<F, Fut> Handler for F
where
    F: Fn(Visit) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    fn serve(&self, visit: Visit) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(self(visit))
    }
}

/// One visitor: read what it sends (its half-close reads as the end), write what it shall get (`shutdown` is our
/// half-close).
#[derive(Debug)]
pub struct Visit {
    service: ServiceName,
    caller: Option<Caller>,
    /// Present until dropped.
    io: Option<StreamIo>,
    /// Takes the stream back at the end, to end it as the handler's outcome says.
    back: Option<oneshot::Sender<StreamIo>>,
    /// Ends it earlier, wherever the handler has taken it.
    cut: Option<Cut>,
}

/// Resolves when the visitor may no longer be here.
struct Cut(BoxFuture<'static, Refusal>);

impl Cut {
    fn new(lease: Lease) -> Self {
        Self(Box::pin(async move { lease.end().await }))
    }
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cut")
    }
}

impl Visit {
    /// Which of the node's services is visited.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Who visits, as the explorer says.
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }
}

/// Runs a handler on a stream and ends the stream as the outcome says.
pub(crate) async fn attend(
    handler: &dyn Handler,
    service: ServiceName,
    caller: Option<Caller>,
    io: StreamIo,
    lease: Option<Lease>,
) -> io::Result<()> {
    let (back, returned) = oneshot::channel();
    let cut = lease.clone().map(Cut::new);
    let serving = handler.serve(Visit { service, caller, io: Some(io), back: Some(back), cut });
    let outcome = match lease {
        None => Ok(serving.await),
        Some(lease) => tokio::select! {
            biased;
            outcome = serving => Ok(outcome),
            over = lease.end() => Err(over),
        },
    };
    // A handler may have moved its visit into a task of its own, which then decides how long the stream lives.
    let io = match (returned.await, &outcome) {
        (Ok(io), _) => io,
        (Err(_), Err(over)) => return Err(io::Error::other(over.message.clone())),
        (Err(_), Ok(_)) => {
            return Err(io::Error::other(
                "the handler's stream was cut off, or lost with a task that failed",
            ));
        }
    };
    match outcome {
        Ok(Ok(())) => finish(io).await,
        Err(over) => {
            io.reset(over.code, &over.message);
            Err(io::Error::other(over.message))
        }
        Ok(Err(error)) => {
            io.reset(Code::Reset, &sanitize(&error.to_string(), limits::END_TEXT_MAX / 4));
            Err(error)
        }
    }
}

/// A clean end: ours is sent, and the visitor's is waited for, because a stream dropped before it would be a reset and
/// could cost the visitor what was written last.
async fn finish(mut io: StreamIo) -> io::Result<()> {
    io.shutdown().await?;
    let drain = async {
        let mut unread = [0; 4096];
        while io.read(&mut unread).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    match timeout(HANDLER_LINGER, drain).await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::debug!("a visitor kept its half open after the service had ended; reset");
            Ok(())
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let (Some(io), Some(back)) = (self.io.take(), self.back.take()) {
            // Nobody waits if the serving task is gone: then the stream is dropped here, which resets it.
            drop(back.send(io));
        }
    }
}

impl Visit {
    fn io(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut StreamIo>> {
        if let Some(cut) = &mut self.cut
            && let Poll::Ready(over) = cut.0.as_mut().poll(cx)
        {
            self.cut = None;
            if let Some(io) = self.io.take() {
                io.reset(over.code, &over.message);
            }
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, over.message));
        }
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Visit {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().io(cx)?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io(cx)?.poll_shutdown(cx)
    }
}
