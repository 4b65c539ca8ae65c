//! `framing=lines`: one connection that all calls of a service share, one JSON text a line.
//!
//! Answers come in any order, so each call's id is exchanged for one of this connection's own. A call that nobody waits
//! for any more is forgotten, and its answer with it. When the connection is lost, so is every call on it: what the
//! service had done by then nobody knows.
//!
//! ```text
//! lines.rs        one call: its place on the connection, its request, what comes back
//! connection.rs   who waits for what
//! pump.rs         reads and writes
//! ```

mod connection;
mod pump;

use std::{ops::Range, sync::Arc};

use parking_lot::Mutex;
use reachback_wire::{Code, Refusal, ServiceName, text::sanitize};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};

pub(super) use self::connection::Connection;
use self::{
    connection::{Outcome, Ticket, Unread, Write},
    pump::Rooms,
};
use super::{
    Reach, Trouble,
    answer::Answer,
    envelope::{self, Unit},
    request::{Request, UNIT},
};
use crate::limits::{LINES_DIALS, LINES_WRITES};

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
        let connection = Arc::new(Connection::new(writes));
        let bodies = &reach.desk.bodies;
        let rooms = Rooms { answers: bodies.answers.clone(), notices: bodies.notices.clone() };
        let mut task = JoinSet::new();
        task.spawn(pump::serve(connection.clone(), transport, to_write, rooms, self.service.clone()));
        *self.live.lock() = Some(Live { connection: connection.clone(), _task: task });
        Ok(connection)
    }

    fn live(&self) -> Option<Arc<Connection>> {
        let live = self.live.lock();
        let connection = &live.as_ref()?.connection;
        (!connection.is_over()).then(|| connection.clone())
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
    let streams = ticket.notices.is_some();
    let too_slow = ticket.too_slow.clone();
    let outcome = loop {
        let next = async {
            tokio::select! {
                biased;
                () = too_slow.cancelled() => Next::TooSlow,
                Some(notice) = next_notice(&mut ticket.notices) => Next::Notice(notice),
                outcome = &mut ticket.answer => Next::Outcome(outcome),
            }
        };
        match answer.unless_gone(next).await? {
            Next::Notice(notice) => {
                answer.items_head().await?;
                // Whoever reads nothing at all is not waited for either.
                tokio::select! {
                    biased;
                    sent = answer.item(notice.text()) => sent?,
                    () = too_slow.cancelled() => return Err(behind(service)),
                }
            }
            Next::TooSlow => return Err(behind(service)),
            Next::Outcome(outcome) => break outcome,
        }
    };
    match outcome {
        Ok(Outcome::Answer(text, _room)) => {
            if streams {
                answer.items_head().await?;
                answer.item(&text).await
            } else {
                answer.json_head().await?;
                answer.data(&text).await
            }
        }
        Ok(Outcome::TooLarge) => Err(answer.too_large()),
        Ok(Outcome::Lost(reason)) => {
            let text = format!("the connection to service {service} was lost: {reason}");
            Err(Trouble::Failed(Code::Lost, text))
        }
        // The task that would have told is gone with the node's shutdown.
        Err(_) => Err(Trouble::Failed(Code::Lost, format!("the connection to service {service} was closed"))),
    }
}

/// What a call waits for.
enum Next {
    Notice(Unread),
    Outcome(Result<Outcome, oneshot::error::RecvError>),
    TooSlow,
}

/// `None`, for ever, without such messages and when there will be no more.
async fn next_notice(notices: &mut Option<mpsc::Receiver<Unread>>) -> Option<Unread> {
    notices.as_mut()?.recv().await
}

fn behind(service: &ServiceName) -> Trouble {
    let text = format!("the caller reads more slowly than service {service} streams");
    Trouble::Failed(Code::Reset, text)
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("service", &self.service).finish_non_exhaustive()
    }
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
