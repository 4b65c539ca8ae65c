//! `framing=raw`: a connection per call, on which the request is written as it is.
//!
//! Such a service ends its answer by completing one JSON text, or by closing. It is never told that the request is
//! over by a half-close: many take that for a caller who went away, and answer nothing.

use bytes::BytesMut;
use futures::FutureExt;
use reachback_link::Transport;
use reachback_wire::{Code, ServiceName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    time::timeout,
};

use super::{Trouble, answer::Answer, envelope, request::Request, scan::Scanner};
use crate::limits::{CALL_READ, NOTIFICATION_LINGER};

/// One call on a connection of its own.
pub(super) async fn call(
    transport: Transport,
    service: &ServiceName,
    request: Request,
    answer: &mut Answer<'_>,
) -> Result<(), Trouble> {
    // Until the answer is complete every end is an abort, whichever way this ends.
    transport.close_with_reset(true);
    let (mut from, mut to) = split(transport);
    let Request { body, room, .. } = request;
    // What can't be read as JSON-RPC is for the service to judge, and answered as far as we know.
    let wants_answer = envelope::read_request(&body).map_or(true, |unit| unit.wants_answer());
    let writing = async {
        let written = to.write_all(&body).await;
        match written {
            Ok(()) => to.flush().await,
            Err(error) => Err(error),
        }
    };
    let mut writing = Box::pin(writing).fuse();
    if !wants_answer {
        answer
            .unless_gone(&mut writing)
            .await?
            .map_err(|error| broken(service, "before it had the whole request", Some(&error)))?;
        answer.json_head().await?;
        answer.end().await?;
        // The service takes it in at its leisure; closing now could cost it the request.
        let until_closed = async { while from.read(&mut [0; 512]).await.is_ok_and(|n| n > 0) {} };
        if timeout(NOTIFICATION_LINGER, until_closed).await.is_err() {
            tracing::debug!(%service, "a service keeps the connection of a notification; closed");
        }
        return Ok(());
    }
    let mut scanner = Scanner::default();
    let mut piece = BytesMut::new();
    let mut write_error = None;
    let mut written = false;
    let mut any = false;
    loop {
        piece.clear();
        piece.reserve(CALL_READ);
        let reading = async {
            tokio::select! {
                outcome = &mut writing, if !written => Err(outcome),
                read = from.read_buf(&mut piece) => Ok(read),
            }
        };
        let read = match answer.unless_gone(reading).await? {
            Err(outcome) => {
                written = true;
                // It may have answered without reading on; if not, the reading finds that out.
                write_error = outcome.err();
                continue;
            }
            Ok(read) => read.map_err(|error| broken(service, "in the middle of its answer", Some(&error)))?,
        };
        if read == 0 {
            if !any {
                return Err(broken(service, "without an answer", write_error.as_ref()));
            }
            if !scanner.may_end() {
                return Err(broken(service, "in the middle of its answer", write_error.as_ref()));
            }
            break;
        }
        let end = scanner.feed(&piece);
        any |= !piece.trim_ascii().is_empty();
        answer.json_head().await?;
        answer.data(&piece[..end.unwrap_or(piece.len())]).await?;
        if end.is_some() {
            break;
        }
    }
    drop(writing);
    drop(room);
    from.unsplit(to).close_with_reset(false);
    answer.end().await
}

fn broken(service: &ServiceName, when: &str, error: Option<&std::io::Error>) -> Trouble {
    let mut text = format!("service {service} closed its connection {when}");
    if let Some(error) = error {
        text = format!("{text} ({error})");
    }
    Trouble::Failed(Code::Reset, text)
}
