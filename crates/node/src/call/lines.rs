//! `framing=lines`: one connection that all calls of a service share, one JSON text a line.
//!
//! Answers come in any order, so each call's id is exchanged for one of this connection's own. A call that nobody waits
//! for any more is forgotten, and its answer with it. When the connection is lost, so is every call on it: what the
//! service had done by then nobody knows.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::BytesMut;
use parking_lot::Mutex;
use reachback_link::Transport;
use reachback_wire::{Code, Refusal, ServiceName, limits::CALL_BODY_MAX, text::sanitize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Reach, Trouble,
    answer::{Answer, too_large},
    envelope::{self, Line, Unit},
    request::{Request, UNIT},
};
use crate::limits::{CALL_READ, LINES_DIALS, LINES_ITEMS, LINES_TAIL, LINES_WRITES};

/// The connection to one service, made when somebody calls and kept while it lasts.
pub(crate) struct Lines {
    service: ServiceName,
    /// One dials, the others take what it got.
    turn: Semaphore,
    live: Mutex<Option<Live>>,
}

struct Live {
    connection: Arc<Connection>,
    /// Reads and writes; ends with the connection.
    _task: JoinSet<()>,
}

/// One connection and the calls on it.
pub(super) struct Connection {
    writes: mpsc::Sender<Write>,
    calls: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// By the first of the ids that a call has here.
    waiting: BTreeMap<u64, Waiting>,
    /// Why nothing can be asked here any more.
    closed: Option<String>,
}

struct Waiting {
    /// The caller's ids, as it wrote them.
    ids: Vec<Box<str>>,
    batch: bool,
    answer: oneshot::Sender<Outcome>,
    items: Option<mpsc::Sender<Arc<[u8]>>>,
}

/// A line to be written.
struct Write {
    line: Vec<u8>,
    /// The call it belongs to; not written when nobody waits for that any more.
    call: Option<u64>,
    /// Given back when it is written.
    room: Option<OwnedSemaphorePermit>,
    written: oneshot::Sender<()>,
}

enum Outcome {
    Answer(Vec<u8>, OwnedSemaphorePermit),
    TooLarge,
    TooSlow,
    Lost(String),
}

/// A call's place on the connection; given up when dropped.
struct Ticket {
    connection: Arc<Connection>,
    first: u64,
    answer: oneshot::Receiver<Outcome>,
    items: Option<mpsc::Receiver<Arc<[u8]>>>,
}

impl Lines {
    pub(crate) fn new(service: ServiceName) -> Self {
        Self { service, turn: Semaphore::new(1), live: Mutex::new(None) }
    }

    /// The connection, dialled if there is none.
    ///
    /// # Errors
    /// Why the service can't be reached by then.
    pub(super) async fn connect(
        &self,
        reach: Reach<'_>,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Refusal> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let Ok(_turn) = timeout_at(deadline, self.turn.acquire()).await else {
            let text = format!("service {}: somebody else's attempt to connect takes too long", self.service);
            return Err(Refusal::new(Code::ServiceUnreachable, text));
        };
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let transport = reach.dial(deadline).await?;
        let (writes, to_write) = mpsc::channel(LINES_WRITES);
        let connection = Arc::new(Connection { writes, calls: Mutex::default() });
        let mut task = JoinSet::new();
        task.spawn(serve(
            connection.clone(),
            transport,
            to_write,
            reach.desk.bodies.answers.clone(),
            self.service.clone(),
        ));
        *self.live.lock() = Some(Live { connection: connection.clone(), _task: task });
        Ok(connection)
    }

    fn live(&self) -> Option<Arc<Connection>> {
        let live = self.live.lock();
        let connection = &live.as_ref()?.connection;
        connection.calls.lock().closed.is_none().then(|| connection.clone())
    }
}

/// One call, or one batch, over the shared connection.
pub(super) async fn call(
    mut connection: Arc<Connection>,
    reach: Reach<'_>,
    deadline: Instant,
    request: Request,
    answer: &mut Answer<'_>,
) -> Result<(), Trouble> {
    let lines = &reach.declared.lines;
    let Request { head, body, mut room } = request;
    let unit = envelope::read_request(&body).map_err(|error| {
        let what = sanitize(&error, 200);
        let text = format!("the request is no JSON-RPC, so nothing was sent to {}: {what}", lines.service);
        Trouble::Failed(Code::BadFrame, text)
    })?;
    // The ids are kept until the answer is there, and the caller chose their size.
    let _kept = room_of_ids(&unit, &mut room);
    let mut dials = 0;
    // A connection that closed since was not used for this call: another one may be.
    let ticket = loop {
        match connection.register(&unit, &body, head.stream) {
            Ok(ticket) => break ticket,
            Err(reason) if dials == LINES_DIALS => {
                let text = format!("service {} closes its connections: {reason}", lines.service);
                return Err(Trouble::Failed(Code::ServiceUnreachable, text));
            }
            Err(_) => dials += 1,
        }
        let connecting = lines.connect(reach, deadline);
        connection = answer
            .unless_gone(connecting)
            .await?
            .map_err(|refusal| Trouble::Failed(refusal.code, refusal.message))?;
    };
    let (written, is_written) = oneshot::channel();
    let line = ticket.line(&unit, body);
    let call = unit.wants_answer().then_some(ticket.first);
    let write = Write { line, call, room, written };
    let lost =
        || Trouble::Failed(Code::Lost, format!("the connection to service {} was lost", lines.service));
    // When this fails the connection is over, and the ticket knows why.
    let queued = answer.unless_gone(connection.writes.send(write)).await?.is_ok();
    if !unit.wants_answer() {
        if !queued || answer.unless_gone(is_written).await?.is_err() {
            return Err(lost());
        }
        answer.json_head().await?;
        return answer.end().await;
    }
    await_answer(ticket, &lines.service, answer).await?;
    answer.end().await
}

/// The part of a request's room that its ids take.
fn room_of_ids(unit: &Unit, room: &mut Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
    let bytes: usize = unit.ids.iter().map(Range::len).sum();
    room.as_mut()?.split(bytes.div_ceil(UNIT))
}

async fn await_answer(
    mut ticket: Ticket,
    service: &ServiceName,
    answer: &mut Answer<'_>,
) -> Result<(), Trouble> {
    let outcome = loop {
        let next = async {
            tokio::select! {
                biased;
                Some(item) = next_item(&mut ticket.items) => Ok(item),
                outcome = &mut ticket.answer => Err(outcome),
            }
        };
        match answer.unless_gone(next).await? {
            Ok(item) => {
                answer.json_head().await?;
                answer.item(&item).await?;
            }
            Err(outcome) => break outcome,
        }
    };
    match outcome {
        Ok(Outcome::Answer(text, _room)) => {
            answer.json_head().await?;
            if ticket.items.is_some() { answer.item(&text).await } else { answer.data(&text).await }
        }
        Ok(Outcome::TooLarge) => Err(too_large()),
        Ok(Outcome::TooSlow) => {
            let text = format!("the caller reads more slowly than service {service} streams");
            Err(Trouble::Failed(Code::Reset, text))
        }
        Ok(Outcome::Lost(reason)) => {
            let text = format!("the connection to service {service} was lost: {reason}");
            Err(Trouble::Failed(Code::Lost, text))
        }
        // The task that would have told is gone with the node's shutdown.
        Err(_) => Err(Trouble::Failed(Code::Lost, format!("the connection to service {service} was closed"))),
    }
}

/// Pending for ever without items, and when there will be no more.
async fn next_item(items: &mut Option<mpsc::Receiver<Arc<[u8]>>>) -> Option<Arc<[u8]>> {
    items.as_mut()?.recv().await
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Ticket {
    /// The request as one line, with ids of this connection. JSON has line breaks only where blanks may stand.
    fn line(&self, unit: &Unit, body: Vec<u8>) -> Vec<u8> {
        let ids: Vec<String> = (self.first..).take(unit.ids.len()).map(|id| id.to_string()).collect();
        let places = unit.ids.iter().cloned().zip(ids.iter().map(String::as_str));
        let mut line = envelope::replace(&body, places);
        for byte in &mut line {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        line.push(b'\n');
        line
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connection.calls.lock().waiting.remove(&self.first);
    }
}

impl Connection {
    /// Takes a call in, or says why this connection is over.
    fn register(self: &Arc<Self>, unit: &Unit, body: &[u8], stream: bool) -> Result<Ticket, String> {
        let ids: Vec<Box<str>> = unit
            .ids
            .iter()
            .map(|place| String::from_utf8_lossy(&body[place.clone()]).into_owned().into_boxed_str())
            .collect();
        let (tell, answer) = oneshot::channel();
        let (sender, items) = mpsc::channel(LINES_ITEMS);
        let mut open = self.calls.lock();
        if let Some(reason) = &open.closed {
            return Err(reason.clone());
        }
        open.next += 1;
        let first = open.next;
        // One more than there are ids, so that a notification has a number too.
        open.next += ids.len() as u64;
        if !ids.is_empty() {
            let items = stream.then_some(sender);
            open.waiting.insert(first, Waiting { ids, batch: unit.batch, answer: tell, items });
        }
        let items = stream.then_some(items);
        Ok(Ticket { connection: self.clone(), first, answer, items })
    }

    /// Whether somebody still waits for this call.
    fn is_wanted(&self, first: u64) -> bool {
        self.calls.lock().waiting.contains_key(&first)
    }

    /// Takes out the call that one of these ids belongs to.
    fn take(&self, ids: &[(u64, Range<usize>)], batch: bool) -> Option<(u64, Waiting)> {
        let mut open = self.calls.lock();
        let first = ids.iter().find_map(|(id, _)| open.owner(*id))?;
        if open.waiting.get(&first)?.batch != batch {
            return None;
        }
        Some((first, open.waiting.remove(&first)?))
    }

    fn take_one(&self, id: u64) -> Option<Waiting> {
        let mut open = self.calls.lock();
        let first = open.owner(id)?;
        open.waiting.remove(&first)
    }

    /// Hands a message of the service's own accord to every call that asked for such.
    fn notice(&self, text: &[u8]) {
        let mut open = self.calls.lock();
        if open.waiting.values().all(|waiting| waiting.items.is_none()) {
            return;
        }
        let text: Arc<[u8]> = text.into();
        let slow: Vec<u64> = open
            .waiting
            .iter()
            .filter(|(_, waiting)| {
                waiting.items.as_ref().is_some_and(|items| items.try_send(text.clone()).is_err())
            })
            .map(|(first, _)| *first)
            .collect();
        for first in slow {
            if let Some(waiting) = open.waiting.remove(&first) {
                tell(waiting.answer, Outcome::TooSlow);
            }
        }
    }

    fn close(&self, reason: &str) {
        let waiting = {
            let mut open = self.calls.lock();
            open.closed = Some(reason.to_owned());
            std::mem::take(&mut open.waiting)
        };
        for waiting in waiting.into_values() {
            tell(waiting.answer, Outcome::Lost(reason.to_owned()));
        }
    }
}

impl Open {
    fn owner(&self, id: u64) -> Option<u64> {
        let (first, waiting) = self.waiting.range(..=id).next_back()?;
        (id - first < waiting.ids.len() as u64).then_some(*first)
    }
}

/// Reads and writes until the connection is over, and tells everybody on it.
async fn serve(
    connection: Arc<Connection>,
    transport: Transport,
    writes: mpsc::Receiver<Write>,
    answers: Arc<Semaphore>,
    service: ServiceName,
) {
    let (from, to) = split(transport);
    let reason = tokio::select! {
        reason = read(&connection, from, &answers, &service) => reason,
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
        tell(written, ());
    }
    "nobody uses it any more".to_owned()
}

async fn read(
    connection: &Connection,
    mut from: impl AsyncRead + Unpin,
    answers: &Arc<Semaphore>,
    service: &ServiceName,
) -> String {
    let mut buffer = BytesMut::new();
    // Bytes at the begin of the buffer in which there is no line break.
    let mut searched = 0;
    loop {
        if let Some(at) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(searched + at + 1);
            searched = 0;
            take_line(connection, line.trim_ascii(), answers, service).await;
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
async fn take_line(connection: &Connection, line: &[u8], answers: &Arc<Semaphore>, service: &ServiceName) {
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
                tell(waiting.answer, Outcome::TooLarge);
                return;
            }
            // Slow callers hold up their service before they fill the memory; each has a deadline.
            let units = u32::try_from(text.len().div_ceil(UNIT)).unwrap_or(u32::MAX);
            let room = answers.clone().acquire_many_owned(units).await;
            tell(waiting.answer, Outcome::Answer(text, room.expect("nobody closes the semaphore")));
        }
        Ok(Line::Notice) if line.len() > CALL_BODY_MAX => {
            tracing::warn!(%service, "a message larger than a call may be; dropped");
        }
        Ok(Line::Notice) => connection.notice(line),
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
        Some(waiting) => tell(waiting.answer, Outcome::TooLarge),
        None => tracing::warn!("a line larger than a call may be, whose owner can't be made out; dropped"),
    }
    Ok(())
}

/// Whoever stopped waiting need not be told.
fn tell<T>(to: oneshot::Sender<T>, what: T) {
    drop(to.send(what));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_room_when_the_request_is_written() {
        let rooms = Arc::new(Semaphore::new(64));
        let mut room = Some(rooms.clone().try_acquire_many_owned(40).unwrap());
        let text =
            format!(r#"{{"id":"{}","method":"m","params":"{}"}}"#, "i".repeat(30_000), "p".repeat(9_000));
        let unit = envelope::read_request(text.as_bytes()).unwrap();
        let kept = room_of_ids(&unit, &mut room);
        drop(room);
        assert_eq!(rooms.available_permits(), 64 - 30);
        drop(kept);
        assert_eq!(rooms.available_permits(), 64);
    }
}
