//! What moves on a shared connection: requests out, lines in, each line to whom it belongs.
//!
//! The connection is always read, whoever waits for what: a service that can't get rid of its answers stops answering
//! everybody. So what can't be understood is dropped with a word in the log, a line too long to be kept is read over, and
//! nobody's slowness is waited for but that of the callers whose answers fill the memory.

use std::sync::Arc;

use bytes::BytesMut;
use reachback_link::Transport;
use reachback_wire::{ServiceName, limits::CALL_BODY_MAX, text::sanitize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{Semaphore, mpsc},
};

use super::{
    super::envelope::{self, Line},
    connection::{Connection, Outcome, Write, units},
};
use crate::limits::{CALL_READ, LINES_TAIL};

/// What incoming lines may take until they are read by callers, of the node as a whole.
pub(super) struct Rooms {
    pub(super) answers: Arc<Semaphore>,
    pub(super) notices: Arc<Semaphore>,
}

/// Reads and writes until the connection is over, and tells everybody on it.
pub(super) async fn serve(
    connection: Arc<Connection>,
    transport: Transport,
    writes: mpsc::Receiver<Write>,
    rooms: Rooms,
    service: ServiceName,
) {
    let (from, to) = split(transport);
    let reason = tokio::select! {
        reason = read(&connection, from, &rooms, &service) => reason,
        reason = write(&connection, to, writes) => reason,
    };
    tracing::info!(%service, %reason, "the connection that calls share is closed");
    connection.close(&reason);
}

async fn write(
    connection: &Connection,
    mut to: impl AsyncWrite + Unpin,
    mut writes: mpsc::Receiver<Write>,
) -> String {
    while let Some(Write { line, call, room, written }) = writes.recv().await {
        if call.is_some_and(|first| !connection.is_wanted(first)) {
            continue;
        }
        let outcome = match to.write_all(&line).await {
            Ok(()) => to.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            return format!("a request could not be written: {error}");
        }
        drop(room);
        // Whoever stopped waiting need not be told.
        written.send(()).ok();
    }
    "nobody uses it any more".to_owned()
}

async fn read(
    connection: &Connection,
    mut from: impl AsyncRead + Unpin,
    rooms: &Rooms,
    service: &ServiceName,
) -> String {
    let mut buffer = BytesMut::new();
    // Bytes at the begin of the buffer in which there is no line break.
    let mut searched = 0;
    loop {
        if let Some(at) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(searched + at + 1);
            searched = 0;
            take_line(connection, line.trim_ascii(), rooms, service).await;
            continue;
        }
        searched = buffer.len();
        // An id of ours may be longer than the caller's, whose answer is what is limited.
        if buffer.len() > CALL_BODY_MAX + CALL_READ {
            if let Err(reason) = skip_line(connection, &mut from, &mut buffer).await {
                return reason;
            }
            searched = 0;
            continue;
        }
        buffer.reserve(CALL_READ);
        match from.read_buf(&mut buffer).await {
            Ok(0) if buffer.is_empty() => return "the service closed it".to_owned(),
            Ok(0) => return "the service closed it in the middle of a line".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

/// Understands one line and hands it to whom it belongs.
async fn take_line(connection: &Connection, line: &[u8], rooms: &Rooms, service: &ServiceName) {
    if line.is_empty() {
        return;
    }
    match envelope::read_line(line) {
        Ok(Line::Answer { ids, batch }) => {
            let Some((first, waiting)) = connection.take(&ids, batch) else {
                tracing::debug!(%service, "an answer that nobody waits for");
                return;
            };
            let own = ids.into_iter().filter_map(|(id, place)| {
                let index = usize::try_from(id.checked_sub(first)?).ok()?;
                Some((place, &**waiting.ids.get(index)?))
            });
            let text = envelope::replace(line, own);
            if text.len() > CALL_BODY_MAX {
                waiting.tell(Outcome::TooLarge);
                return;
            }
            // Slow callers hold up their service before they fill the memory; each has a deadline.
            let room = rooms.answers.clone().acquire_many_owned(units(text.len())).await;
            waiting.tell(Outcome::Answer(text, room.expect("nobody closes the semaphore")));
        }
        Ok(Line::Notice) if line.len() > CALL_BODY_MAX => {
            tracing::warn!(%service, "a message larger than a call may be; dropped");
        }
        Ok(Line::Notice) => connection.notice(line, &rooms.notices),
        Ok(Line::Unknown) => {
            tracing::warn!(%service, "an answer whose id was not asked with; dropped");
        }
        Err(error) => {
            let error = sanitize(&error, 200);
            tracing::warn!(%service, %error, "a line that is no JSON-RPC; dropped");
        }
    }
}

/// Reads over the rest of a line that is too long to be kept, and tells its owner if that can be made out.
async fn skip_line(
    connection: &Connection,
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<(), String> {
    let begin = buffer.split_to(LINES_TAIL);
    let mut tail = buffer.split_off(buffer.len() - LINES_TAIL);
    buffer.clear();
    let line_end = loop {
        if let Some(at) = tail.iter().position(|byte| *byte == b'\n') {
            break at;
        }
        let keep = tail.len().min(LINES_TAIL);
        tail = tail.split_off(tail.len() - keep);
        tail.reserve(CALL_READ);
        match from.read_buf(&mut tail).await {
            Ok(0) => return Err("the service closed it in the middle of a line".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    };
    *buffer = tail.split_off(line_end + 1);
    match envelope::guess_id(&begin, &tail).and_then(|id| connection.take_one(id)) {
        Some(waiting) => waiting.tell(Outcome::TooLarge),
        None => tracing::warn!("a line larger than a call may be, whose owner can't be made out; dropped"),
    }
    Ok(())
}
