//! The calls on one shared connection: who waits for what, and what each has been told so far.
//!
//! Callers don't know of each other, so nothing that one of them does may cost another its answer. A call that nobody
//! waits for any more is taken out, and so is one that leaves unread what the service sends of its own accord: neither
//! holds up the connection.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use parking_lot::Mutex;
use reachback_wire::limits::CALL_BODY_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::{
    envelope::{self, Unit},
    request::UNIT,
};
use crate::limits::{LINES_ITEMS, LINES_UNREAD};

/// One connection and the calls on it.
pub(in crate::call) struct Connection {
    pub(super) writes: mpsc::Sender<Write>,
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

/// A call that has been taken out because something has come for it.
pub(super) struct Waiting {
    /// The caller's ids, as it wrote them.
    pub(super) ids: Vec<Box<str>>,
    batch: bool,
    answer: oneshot::Sender<Outcome>,
    notices: Option<Notices>,
}

/// Where a call gets what the service sends of its own accord.
struct Notices {
    queue: mpsc::Sender<Unread>,
    /// How much more of it may be unread, in units of [`UNIT`].
    room: Arc<Semaphore>,
    /// It was too much; the call is over.
    too_slow: CancellationToken,
}

/// A message of the service's own accord, kept once for all calls that asked for such.
struct Notice {
    text: Box<[u8]>,
    /// Its part of what the node may keep for callers that are behind.
    _room: OwnedSemaphorePermit,
}

/// The same, in the queue of one call.
pub(super) struct Unread {
    notice: Arc<Notice>,
    /// Its part of what that call may leave unread.
    _room: OwnedSemaphorePermit,
}

/// A line to be written.
pub(super) struct Write {
    pub(super) line: Vec<u8>,
    /// The call it belongs to; not written when nobody waits for that any more.
    pub(super) call: Option<u64>,
    /// Given back when it is written.
    pub(super) room: Option<OwnedSemaphorePermit>,
    pub(super) written: oneshot::Sender<()>,
}

/// How a call ends, unless its caller gives it up.
pub(super) enum Outcome {
    Answer(Vec<u8>, OwnedSemaphorePermit),
    TooLarge,
    Lost(String),
}

/// A call's place on the connection; given up when dropped.
pub(super) struct Ticket {
    connection: Arc<Connection>,
    pub(super) first: u64,
    pub(super) answer: oneshot::Receiver<Outcome>,
    /// What the service sends of its own accord, if the call asked for it.
    pub(super) notices: Option<mpsc::Receiver<Unread>>,
    /// The call has left too much of it unread and is over.
    pub(super) too_slow: CancellationToken,
}

impl Ticket {
    /// The request as one line, with ids of this connection. JSON has line breaks only where blanks may stand.
    pub(super) fn line(&self, unit: &Unit, body: Vec<u8>) -> Vec<u8> {
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
    pub(super) fn new(writes: mpsc::Sender<Write>) -> Self {
        Self { writes, calls: Mutex::default() }
    }

    /// Takes a call in, or says why this connection is over.
    pub(super) fn register(
        self: &Arc<Self>,
        unit: &Unit,
        body: &[u8],
        stream: bool,
    ) -> Result<Ticket, String> {
        let ids: Vec<Box<str>> = unit
            .ids
            .iter()
            .map(|place| String::from_utf8_lossy(&body[place.clone()]).into_owned().into_boxed_str())
            .collect();
        let (tell, answer) = oneshot::channel();
        let (queue, unread) = mpsc::channel(LINES_ITEMS);
        let too_slow = CancellationToken::new();
        let mut open = self.calls.lock();
        if let Some(reason) = &open.closed {
            return Err(reason.clone());
        }
        open.next += 1;
        let first = open.next;
        // One more than there are ids, so that a notification has a number too.
        open.next += ids.len() as u64;
        if !ids.is_empty() {
            let room = Arc::new(Semaphore::new(LINES_UNREAD / UNIT));
            let notices = stream.then(|| Notices { queue, room, too_slow: too_slow.clone() });
            open.waiting.insert(first, Waiting { ids, batch: unit.batch, answer: tell, notices });
        }
        let notices = stream.then_some(unread);
        Ok(Ticket { connection: self.clone(), first, answer, notices, too_slow })
    }

    /// Why nothing can be asked here any more, if so.
    pub(super) fn is_over(&self) -> bool {
        self.calls.lock().closed.is_some()
    }

    /// Whether somebody still waits for this call.
    pub(super) fn is_wanted(&self, first: u64) -> bool {
        self.calls.lock().waiting.contains_key(&first)
    }

    /// Takes out the call that one of these ids belongs to.
    pub(super) fn take(&self, ids: &[(u64, Range<usize>)], batch: bool) -> Option<(u64, Waiting)> {
        let mut open = self.calls.lock();
        let first = ids.iter().find_map(|(id, _)| open.owner(*id))?;
        if open.waiting.get(&first)?.batch != batch {
            return None;
        }
        Some((first, open.waiting.remove(&first)?))
    }

    pub(super) fn take_one(&self, id: u64) -> Option<Waiting> {
        let mut open = self.calls.lock();
        let first = open.owner(id)?;
        open.waiting.remove(&first)
    }

    /// Hands a message of the service's own accord to every call that asked for such. `rooms` is what all that callers
    /// have not read yet may take; a call that can't be given the message is over, because to leave one out would be a
    /// gap that nobody sees.
    pub(super) fn notice(&self, text: &[u8], rooms: &Arc<Semaphore>) {
        let wanted = |waiting: &Waiting| waiting.notices.is_some();
        if !self.calls.lock().waiting.values().any(wanted) {
            return;
        }
        let units = units(text.len());
        let notice = rooms
            .clone()
            .try_acquire_many_owned(units)
            .ok()
            .map(|room| Arc::new(Notice { text: text.into(), _room: room }));
        let mut open = self.calls.lock();
        open.waiting.retain(|_, waiting| {
            let Some(notices) = &waiting.notices else { return true };
            let taken = notice.as_ref().is_some_and(|notice| notices.push(notice, units));
            if !taken {
                notices.too_slow.cancel();
            }
            taken
        });
    }

    pub(super) fn close(&self, reason: &str) {
        let waiting = {
            let mut open = self.calls.lock();
            open.closed = Some(reason.to_owned());
            std::mem::take(&mut open.waiting)
        };
        for waiting in waiting.into_values() {
            waiting.tell(Outcome::Lost(reason.to_owned()));
        }
    }
}

impl Open {
    fn owner(&self, id: u64) -> Option<u64> {
        let (first, waiting) = self.waiting.range(..=id).next_back()?;
        (id - first < waiting.ids.len() as u64).then_some(*first)
    }
}

impl Waiting {
    /// Whoever stopped waiting need not be told.
    pub(super) fn tell(self, outcome: Outcome) {
        drop(self.answer.send(outcome));
    }
}

impl Notices {
    /// Whether the call can have it, too, beside what it has not read yet.
    fn push(&self, notice: &Arc<Notice>, units: u32) -> bool {
        let Ok(room) = self.room.clone().try_acquire_many_owned(units) else { return false };
        self.queue.try_send(Unread { notice: notice.clone(), _room: room }).is_ok()
    }
}

impl Unread {
    pub(super) fn text(&self) -> &[u8] {
        &self.notice.text
    }
}

/// What a text takes of a room.
pub(super) fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

const _: () = assert!(LINES_UNREAD >= CALL_BODY_MAX, "a call that is up to date can be given any message");

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(mpsc::channel(1).0))
    }

    fn asking(connection: &Arc<Connection>, stream: bool) -> Ticket {
        let body = br#"{"id":1,"method":"m"}"#;
        let unit = envelope::read_request(body).unwrap();
        connection.register(&unit, body, stream).unwrap()
    }

    fn rooms(bytes: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(bytes / UNIT))
    }

    #[test]
    fn a_call_may_leave_so_many_bytes_unread_and_not_one_more() {
        let (connection, rooms) = (connection(), rooms(1 << 30));
        let (mut reader, sleeper, plain) =
            (asking(&connection, true), asking(&connection, true), asking(&connection, false));
        let quarter = vec![b'1'; LINES_UNREAD / 4];
        for _ in 0..4 {
            connection.notice(&quarter, &rooms);
        }
        assert!(!sleeper.too_slow.is_cancelled(), "all of it may be unread");
        let held = (1 << 30) / UNIT - rooms.available_permits();
        assert_eq!(held * UNIT, LINES_UNREAD, "kept once for both");

        assert_eq!(reader.notices.as_mut().unwrap().try_recv().unwrap().text().len(), quarter.len());
        connection.notice(b"1", &rooms);
        assert!(sleeper.too_slow.is_cancelled() && !connection.is_wanted(sleeper.first));
        assert!(!reader.too_slow.is_cancelled() && connection.is_wanted(plain.first));
        drop((reader, sleeper));
        assert_eq!(rooms.available_permits(), (1 << 30) / UNIT, "nothing is kept for nobody");
    }

    #[test]
    fn a_call_may_leave_so_many_messages_unread_and_not_one_more() {
        let (connection, rooms) = (connection(), rooms(1 << 30));
        let sleeper = asking(&connection, true);
        for _ in 0..LINES_ITEMS {
            connection.notice(b"{}", &rooms);
        }
        assert!(!sleeper.too_slow.is_cancelled());
        connection.notice(b"{}", &rooms);
        assert!(sleeper.too_slow.is_cancelled());
    }

    #[test]
    fn what_all_connections_keep_for_slow_callers_has_a_bound() {
        let rooms = rooms(2 * LINES_UNREAD);
        let whole = vec![b'1'; LINES_UNREAD];
        let connections = [connection(), connection(), connection()];
        let asked = connections.each_ref().map(|connection| asking(connection, true));
        for connection in &connections {
            connection.notice(&whole, &rooms);
        }
        assert_eq!(asked.each_ref().map(|ticket| ticket.too_slow.is_cancelled()), [false, false, true]);
        drop(asked);
        let late = asking(&connections[2], true);
        connections[2].notice(&whole, &rooms);
        assert!(!late.too_slow.is_cancelled(), "room is given back");
    }
}
