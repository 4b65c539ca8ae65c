//! Standard input and output as the local end of a stream, with ends that others can see.
//!
//! When the service has ended, whoever reads our stdout must see the end too, although we go on reading stdin: ssh,
//! which runs this as its `ProxyCommand`, closes our stdin only after it has seen that. tokio's stdout can't be closed,
//! so the descriptor itself is let go. On a terminal nobody is there to close stdin, so the service's end ends both.

use std::{
    fs::File,
    io::{self, IsTerminal},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Stdin, Stdout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Both ends; they know of each other.
pub(crate) fn pair() -> (Input, Output) {
    let ended = CancellationToken::new();
    let until = io::stdin().is_terminal().then(|| Box::pin(ended.clone().cancelled_owned()));
    (Input { stdin: tokio::io::stdin(), until }, Output { stdout: tokio::io::stdout(), ended })
}

/// Standard input; on a terminal it ends with the service.
pub(crate) struct Input {
    stdin: Stdin,
    until: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Standard output; its shutdown is seen by whoever reads it.
pub(crate) struct Output {
    stdout: Stdout,
    ended: CancellationToken,
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(until) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stdin).poll_read(cx, buf)
    }
}

impl AsyncWrite for Output {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdout).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stdout).poll_flush(cx))?;
        // Nothing is printed on stdout after this; what would be goes nowhere instead of into another file.
        rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        self.ended.cancel();
        Poll::Ready(Ok(()))
    }
}
