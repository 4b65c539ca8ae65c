//! One call to a service, for callers that have no substream of their own: HTTP, raw JSON and the API.
//!
//! Whatever stands at the other end (a node's session, or a node with an address that is dialled from here) a call is
//! the same: a body that is complete before it is sent, an answer that comes in pieces, one deadline, and never a
//! second try. The JSON in both is passed on as bytes. Dropping the answer takes the call back.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reachback_link::{Outgoing, StreamEnd, Substream};
use reachback_wire::{
    Code, Open, Record, RecordKind, Refusal, Target, open::Caller, record::EndStatus, text::sanitize,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::{direct, hub::Hub, limits};

/// What is to be asked, of whom, until when.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) target: Target,
    pub(crate) head: RequestHead,
    pub(crate) body: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) caller: Caller,
}

/// The head of a request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RequestHead {
    /// Header names in lower case.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The caller takes an answer of several JSON texts.
    #[serde(default)]
    pub(crate) stream: bool,
}

/// The head of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AnswerHead {
    /// As in HTTP.
    #[serde(default = "ok")]
    pub(crate) status: u16,
    /// Header names in lower case.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
}

/// An answer on its way. An error in its pieces means that it will never be whole.
pub(crate) struct Answer {
    pub(crate) head: AnswerHead,
    pub(crate) pieces: BoxStream<'static, Result<Piece, Refusal>>,
}

/// Some bytes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// More to come.
    Data(Bytes),
    /// The last of one JSON text of a streamed answer.
    Item(Bytes),
}

impl AnswerHead {
    /// JSON with this status.
    pub(crate) fn json(status: u16) -> Self {
        let headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
        Self { status, headers }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("head", &self.head).finish_non_exhaustive()
    }
}

/// Calls a service and waits for the head of its answer.
///
/// # Errors
/// The code tells whether anything can have reached the service.
pub(crate) async fn call(hub: &Arc<Hub>, call: Call) -> Result<Answer, Refusal> {
    // The node says when time is up; whoever asked it waits a little longer, so that this is what is heard.
    let deadline = call.deadline + limits::CALL_GRACE;
    let answer = match direct::find(hub, &call.target) {
        Some(node) => direct::call(hub, &node, call).await?,
        None => over_session(hub, call, deadline).await?,
    };
    Ok(Answer { head: answer.head, pieces: bounded(answer.pieces, deadline, hub.bodies.most()) })
}

/// Why a call under way has no answer.
pub(crate) fn broken(target: &Target, end: &StreamEnd) -> Refusal {
    let code = end.code();
    Refusal::new(
        code,
        format!("the answer of {target} is not whole: {}", sanitize(&end.to_string(), limits::TEXT)),
    )
}

/// Every wait for a piece ends at the deadline, and the pieces of one text have a limit in sum.
fn bounded(
    pieces: BoxStream<'static, Result<Piece, Refusal>>,
    deadline: Instant,
    most: usize,
) -> BoxStream<'static, Result<Piece, Refusal>> {
    stream::unfold(Some((pieces, 0)), move |state| async move {
        let (mut pieces, seen) = state?;
        let next = match timeout_at(deadline, pieces.next()).await {
            Ok(next) => next?,
            Err(_) => Err(too_late()),
        };
        Some(match next {
            Ok(Piece::Data(bytes)) if seen + bytes.len() > most => (Err(too_large(most)), None),
            Ok(Piece::Item(bytes)) if seen + bytes.len() > most => (Err(too_large(most)), None),
            Ok(Piece::Data(bytes)) => {
                let seen = seen + bytes.len();
                (Ok(Piece::Data(bytes)), Some((pieces, seen)))
            }
            Ok(item) => (Ok(item), Some((pieces, 0))),
            Err(refusal) => (Err(refusal), None),
        })
    })
    .boxed()
}

pub(crate) fn too_late() -> Refusal {
    Refusal::new(
        Code::Timeout,
        "no complete answer within the time allowed; whether the call was carried out is unknown",
    )
}

fn too_large(most: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("the answer has more than {most} bytes; use a stream (connect, forward) for bulk data"),
    )
}

async fn over_session(hub: &Arc<Hub>, call: Call, deadline: Instant) -> Result<Answer, Refusal> {
    let left = call.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let substream = hub.router.open(Open::call(call.target.clone(), left), call.caller).await?;
    let head = serde_json::to_vec(&call.head).expect("names and texts can be written as JSON");
    if head.len() > RecordKind::Head.limit() {
        let text = format!("the headers of a call may have {} bytes in all", RecordKind::Head.limit());
        return Err(Refusal::new(Code::TooLarge, text));
    }
    let stream = call.head.stream;
    let sending = Sending { next: Some(Outgoing::record(RecordKind::Head, &head)), body: call.body };
    let mut exchange = Exchange { target: call.target, substream, sending: Some(sending) };
    let first = timeout_at(deadline, poll_fn(|cx| exchange.poll_record(cx)));
    let first = first.await.map_err(|_| too_late())?;
    let (head, early) = match first {
        Ok(Record::Head(bytes)) => (read_head(&exchange.target, &bytes)?, None),
        Ok(other) => (AnswerHead::json(200), Some(other)),
        Err(end) => return Err(broken(&exchange.target, &end)),
    };
    let pieces = stream::unfold((exchange, early, false), |(mut exchange, mut early, over)| async move {
        if over {
            return None;
        }
        loop {
            let record = match early.take() {
                Some(record) => Ok(record),
                None => poll_fn(|cx| exchange.poll_record(cx)).await,
            };
            let (piece, over) = match record {
                Ok(Record::Data(bytes)) => (Ok(Piece::Data(bytes)), false),
                Ok(Record::Item(bytes)) => (Ok(Piece::Item(bytes)), false),
                Ok(Record::Head(_)) => continue,
                Ok(Record::End(None)) => return None,
                Ok(Record::End(Some(EndStatus { code, message }))) => {
                    (Err(Refusal::new(code, sanitize(&message, limits::TEXT))), true)
                }
                Ok(Record::Reset { .. }) => (Err(broken(&exchange.target, &StreamEnd::Dropped)), true),
                Err(end) => (Err(broken(&exchange.target, &end)), true),
            };
            return Some((piece, (exchange, None, over)));
        }
    });
    let answer = Answer { head, pieces: pieces.boxed() };
    if stream {
        return Ok(answer);
    }
    settled(answer, deadline).await
}

/// Waits for the first piece, so that a call that fails before it is answered with the reason.
async fn settled(mut answer: Answer, deadline: Instant) -> Result<Answer, Refusal> {
    match timeout_at(deadline, answer.pieces.next()).await {
        Err(_) => Err(too_late()),
        Ok(None) => Ok(Answer { head: answer.head, pieces: stream::empty().boxed() }),
        Ok(Some(Err(refusal))) => Err(refusal),
        Ok(Some(Ok(first))) => {
            let pieces = stream::iter([Ok(first)]).chain(answer.pieces).boxed();
            Ok(Answer { head: answer.head, pieces })
        }
    }
}

fn read_head(target: &Target, bytes: &[u8]) -> Result<AnswerHead, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = sanitize(&error.to_string(), limits::TEXT);
        Refusal::new(Code::BadFrame, format!("the head of the answer of {target} can't be read: {what}"))
    })
}

fn ok() -> u16 {
    200
}

/// A call on a substream: the request goes out while the answer may already come.
struct Exchange {
    target: Target,
    substream: Substream,
    sending: Option<Sending>,
}

/// What has not been sent yet.
struct Sending {
    next: Option<Outgoing>,
    body: Bytes,
}

impl Exchange {
    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Result<Record, StreamEnd>> {
        // An error to send shows itself to the reading, with the peer's reason.
        if let Some(sending) = &mut self.sending
            && sending.poll(cx, &mut self.substream).is_ready()
        {
            self.sending = None;
        }
        self.substream.poll_next(cx)
    }
}

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>, substream: &mut Substream) -> Poll<Result<(), StreamEnd>> {
        loop {
            if let Some(record) = &mut self.next {
                std::task::ready!(substream.poll_send(cx, record))?;
                self.next = None;
            }
            if self.body.is_empty() {
                return substream.poll_finish(cx, None);
            }
            let piece = self.body.split_to(self.body.len().min(RecordKind::Data.limit()));
            self.next = Some(Outgoing::record(RecordKind::Data, &piece));
        }
    }
}
