//! Raw JSON-RPC on a connection, as old socket bridges send it: texts with or without newlines, no length in front.
//!
//! A text is answered as soon as its last bracket is there, because its sender may send nothing behind it and wait.
//! Answers come in the order of the requests. A sender that has closed its half still gets its answers.

use std::{io, sync::Arc};

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use reachback_link::{PeerAddress, Transport};
use reachback_wire::{Code, Refusal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    access,
    api::{self, Asking, Reply, rpc},
    auth::Principal,
    bodies::Whole,
    call::{Answer, Piece, RequestHead},
    hub::Hub,
    json_text::Scanner,
    limits,
};

/// Serves one connection until its sender has no more to say.
pub(crate) async fn serve(hub: Arc<Hub>, transport: Transport, peer: &PeerAddress, who: Principal) {
    let caller = access::caller(&who, None, peer.to_string());
    let asking = Asking { who, caller, peer: peer.clone(), head: RequestHead::default(), deadline: None };
    let mut connection = Connection { transport, unread: BytesMut::new(), over: false };
    let outcome = tokio::select! {
        outcome = connection.run(&hub, &asking) => outcome,
        () = hub.stopping.cancelled() => Ok(()),
    };
    match outcome {
        Ok(()) => {
            if let Err(error) = connection.transport.shutdown().await {
                tracing::debug!(%peer, %error, "a raw JSON connection was gone before it was closed");
            }
        }
        Err(error) => {
            // An answer that broke off must not look like one that ended.
            connection.transport.close_with_reset(true);
            tracing::debug!(%peer, %error, "a raw JSON connection ended");
        }
    }
}

struct Connection {
    transport: Transport,
    unread: BytesMut,
    /// The sender has closed its half.
    over: bool,
}

/// A request as it was framed.
struct Framed {
    body: Whole,
    /// A newline came with it.
    line: bool,
}

impl Connection {
    async fn run(&mut self, hub: &Arc<Hub>, asking: &Asking) -> io::Result<()> {
        loop {
            let request = match self.request(hub).await? {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(refusal) => {
                    let (_, answer) = rpc::reply(None, Err(refusal.into()));
                    self.write(&line(answer)).await?;
                    return self.transport.flush().await;
                }
            };
            match api::answer(hub, &request.body.bytes, asking).await {
                Reply::Nothing => {}
                Reply::Json { body, .. } => {
                    // Its room is for others while this one reads.
                    drop(request.body);
                    self.write(&body.line().bytes).await?;
                }
                Reply::Passed(answer) => {
                    let refused = self.pass(answer, request.line).await?;
                    if let Some(refusal) = refused {
                        let (_, answer) = rpc::refused(&request.body.bytes, refusal);
                        self.write(&line(answer)).await?;
                    }
                }
                Reply::Items(mut items) => {
                    drop(request.body);
                    while let Some(item) = items.next().await {
                        self.write(&line(item.to_vec())).await?;
                        self.transport.flush().await?;
                    }
                }
            }
            self.transport.flush().await?;
        }
    }

    /// Passes an answer on unchanged. A refusal: it failed before its first byte.
    async fn pass(&mut self, mut answer: Answer, as_line: bool) -> io::Result<Option<Refusal>> {
        let mut last = None;
        while let Some(piece) = answer.pieces.next().await {
            match piece {
                Ok(Piece::Data(bytes)) => {
                    last = bytes.last().copied().or(last);
                    self.write(&bytes).await?;
                }
                Ok(Piece::Item(bytes)) => {
                    self.write(&bytes).await?;
                    if bytes.last() != Some(&b'\n') {
                        self.write(b"\n").await?;
                    }
                    self.transport.flush().await?;
                    last = Some(b'\n');
                }
                Err(refusal) if last.is_none() => return Ok(Some(refusal)),
                Err(refusal) => return Err(io::Error::other(refusal)),
            }
        }
        // Whoever asked in lines waits for the end of one.
        if as_line && last.is_some_and(|last| last != b'\n') {
            self.write(b"\n").await?;
        }
        Ok(None)
    }

    /// Writes to somebody who reads. Whoever does not is gone, or means harm.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(READ) {
            match timeout(limits::WRITE_STALL, self.transport.write_all(piece)).await {
                Ok(written) => written?,
                Err(_) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is not being read"));
                }
            }
        }
        Ok(())
    }

    /// The next text; `None`: the sender is done.
    async fn request(&mut self, hub: &Hub) -> io::Result<Result<Option<Framed>, Refusal>> {
        let mut body = hub.bodies.begin();
        let mut scanner = Scanner::default();
        let mut begun = false;
        loop {
            if !begun {
                let blank = self.unread.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                self.unread.advance(blank);
                match self.unread.first() {
                    None => {}
                    Some(b'{' | b'[') => begun = true,
                    Some(_) => {
                        let message =
                            "what follows is no JSON text; send one JSON-RPC request after the other";
                        return Ok(Err(Refusal::new(Code::BadFrame, message)));
                    }
                }
            }
            if begun {
                let end = scanner.end_in(&self.unread);
                let take = end.unwrap_or(self.unread.len());
                if let Err(refusal) = body.push(&self.unread[..take]) {
                    return Ok(Err(refusal));
                }
                self.unread.advance(take);
                if end.is_some() {
                    let line = matches!(self.unread.first(), Some(b'\n' | b'\r'));
                    return Ok(Ok(Some(Framed { body: body.finish(), line })));
                }
            }
            if self.over {
                return Ok(Ok(None));
            }
            self.unread.reserve(READ);
            match timeout(limits::RAW_IDLE, self.transport.read_buf(&mut self.unread)).await {
                Ok(Ok(0)) if begun => {
                    return Ok(Err(Refusal::new(Code::BadFrame, "the request ends before it is whole")));
                }
                Ok(Ok(0)) => self.over = true,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) if begun => {
                    return Ok(Err(Refusal::new(
                        Code::Timeout,
                        "the rest of the request did not come in time",
                    )));
                }
                Err(_) => return Ok(Ok(None)),
            }
        }
    }
}

/// One read: what most requests fit in.
const READ: usize = 16 * 1024;

fn line(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    text
}
