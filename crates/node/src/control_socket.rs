//! The node's local Unix socket: what runs on this machine asks it how it is, and changes what it serves.
//!
//! Whoever may connect decides what others can reach on this machine, so the socket is its owner's alone. One JSON-RPC
//! text per line, both ways.

use std::path::Path;

use reachback_link::{SocketError, SocketFile, SocketPlace, SocketWords};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{CONTROL_IDLE, CONTROL_LINE_MAX, CONTROL_VISITORS},
    local::Local,
};

/// A bound control socket. The file is removed on drop, if it is still ours.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl ControlSocket {
    /// Makes the socket, for its owner alone, and its directory if that is missing. What connects waits until a node
    /// serves it: [`Node::serve_control`](crate::Node::serve_control).
    ///
    /// # Errors
    /// The place is taken or unsafe, or a system call failed.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let words = SocketWords { what: "control socket", owner: "node", flag: "--control-socket" };
        let place = SocketPlace { path: path.to_owned(), mode: 0o600, group: None, words };
        let (listener, file) = place.bind().await?;
        Ok(Self { listener, file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Answers everybody until told to stop.
    pub(crate) async fn serve(self, local: Local, stop: CancellationToken) {
        let mut visitors = JoinSet::new();
        loop {
            let room = visitors.len() < CONTROL_VISITORS;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(finished) = visitors.join_next() => {
                    if let Err(error) = finished {
                        tracing::error!(%error, "a visitor of the control socket failed");
                    }
                }
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((visitor, _)) => {
                        visitors.spawn(attend(visitor, local.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept on the control socket failed");
                        if let Some(pause) = reachback_link::accept::pause_after(&error) {
                            sleep(pause).await;
                        }
                    }
                },
            }
        }
    }
}

/// One visitor: a line in, a line out, in order.
async fn attend(visitor: UnixStream, local: Local) {
    let mut visitor = BufReader::new(visitor);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut visitor).take(CONTROL_LINE_MAX as u64);
        match timeout(CONTROL_IDLE, limited.read_until(b'\n', &mut line)).await {
            Ok(Ok(0)) | Err(_) => return,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a visitor of the control socket is gone");
                return;
            }
        }
        let too_long = line.len() == CONTROL_LINE_MAX && !line.ends_with(b"\n");
        let answer = if too_long { Some(local.too_long()) } else { local.answer(&line) };
        if let Some(answer) = answer {
            let written = async {
                visitor.write_all(&answer).await?;
                visitor.write_all(b"\n").await?;
                visitor.flush().await
            };
            match timeout(CONTROL_IDLE, written).await {
                Ok(Ok(())) if !too_long => {}
                _ => return,
            }
        }
    }
}
