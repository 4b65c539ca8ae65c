//! The API over a substream of kind `call`, and calls of nodes that are dialled from here.
//!
//! There is one way to talk to an explorer: a session; the API is a service behind it like any other. A request is
//! `Head`, `Data`, `End`; the answer is `Head`, `Data` or `Item`s, `End`. Whoever takes a call back ends the work.

use std::{future::poll_fn, sync::Arc};

use futures::StreamExt;
use reachback_link::{Inbound, InboundError, PeerAddress, StreamEnd, Substream};
use reachback_wire::{Code, Open, Record, RecordKind, Refusal, Target, open::Caller};
use tokio::time::{Instant, timeout_at};

use super::{Asking, Reply, answer, pass_on, rpc};
use crate::{
    auth::Principal,
    bodies::Whole,
    call::{Answer, AnswerHead, Piece, RequestHead},
    hub::Hub,
    limits,
};

/// Serves one call to `@explorer/api`, or to a node with an address. Who may open it has been decided.
pub(crate) async fn serve(
    hub: &Arc<Hub>,
    inbound: Inbound,
    open: &Open,
    who: &Principal,
    caller: &Caller,
    peer: &PeerAddress,
) -> Result<(), InboundError> {
    let allowed = open.deadline().map(|given| given.min(limits::OPEN_DEADLINE_MAX));
    let deadline = allowed.map(|allowed| Instant::now() + allowed);
    let (mut substream, ()) = inbound.answer(async { Ok(()) }).await?;
    let (who, caller, peer) = (who.clone(), caller.clone(), peer.clone());
    let asking = Asking { who, caller, peer, head: RequestHead::default(), deadline };
    match converse(hub, &mut substream, open.target.as_ref(), asking).await {
        Ok(()) => {}
        Err(Trouble::Gone(end)) => tracing::debug!(%end, "a caller went away"),
        Err(Trouble::Refused(refusal)) => substream.reset(refusal.code, &refusal.message),
    }
    Ok(())
}

async fn converse(
    hub: &Arc<Hub>,
    substream: &mut Substream,
    target: Option<&Target>,
    mut asking: Asking,
) -> Result<(), Trouble> {
    let deadline = asking.deadline();
    let reading = timeout_at(deadline, read(hub, substream));
    let (head, body) = reading.await.map_err(|_| too_late())??;
    asking.head = head;
    let own = !matches!(target, Some(Target::Service { .. } | Target::Dial { .. }));
    let work = async {
        match target {
            Some(target) if !own => {
                pass_on(hub, target.clone(), body.bytes.clone(), &asking).await.map(Reply::Passed)
            }
            _ => Ok(answer(hub, &body.bytes, &asking).await),
        }
    };
    // A call to a service has its own deadline in the work, and some grace beyond it.
    let reply = tokio::select! {
        reply = work => reply?,
        end = poll_fn(|cx| substream.poll_gone(cx)) => return Err(Trouble::Gone(end)),
    };
    drop(body);
    let sending = async {
        match reply {
            Reply::Nothing => send(substream, 200, &[]).await,
            Reply::Json { status, body } => send(substream, status, &body.bytes).await,
            Reply::Passed(answer) => pass(substream, answer).await,
            Reply::Items(mut items) => {
                substream.send(RecordKind::Head, &rpc::bytes(&AnswerHead::json(200))).await?;
                loop {
                    let item = tokio::select! {
                        item = items.next() => item,
                        end = poll_fn(|cx| substream.poll_gone(cx)) => return Err(Trouble::Gone(end)),
                    };
                    let Some(item) = item else { break };
                    send_item(substream, &item).await?;
                }
                Ok(substream.finish(None).await?)
            }
        }
    };
    match asking.deadline {
        Some(deadline) => timeout_at(deadline + limits::CALL_GRACE, sending).await.map_err(|_| too_late())?,
        None => sending.await,
    }
}

async fn read(hub: &Hub, substream: &mut Substream) -> Result<(RequestHead, Whole), Trouble> {
    let mut head = RequestHead::default();
    let mut body = hub.bodies.begin();
    loop {
        match substream.next().await? {
            Record::Head(bytes) => {
                head = serde_json::from_slice(&bytes).map_err(|error| {
                    Refusal::new(Code::BadFrame, format!("the head of the call can't be read: {error}"))
                })?;
            }
            Record::Data(bytes) | Record::Item(bytes) => body.push(&bytes)?,
            Record::End(_) => return Ok((head, body.finish())),
            Record::Reset { .. } => return Err(Trouble::Gone(StreamEnd::Dropped)),
        }
    }
}

async fn send(substream: &mut Substream, status: u16, body: &[u8]) -> Result<(), Trouble> {
    substream.send(RecordKind::Head, &rpc::bytes(&AnswerHead::json(status))).await?;
    if !body.is_empty() {
        substream.send(RecordKind::Data, body).await?;
    }
    Ok(substream.finish(None).await?)
}

/// All but the last piece of a long text are data.
async fn send_item(substream: &mut Substream, item: &[u8]) -> Result<(), StreamEnd> {
    let limit = RecordKind::Item.limit();
    let last = item.len().saturating_sub(1) / limit * limit;
    if last > 0 {
        substream.send(RecordKind::Data, &item[..last]).await?;
    }
    substream.send(RecordKind::Item, &item[last..]).await
}

async fn pass(substream: &mut Substream, mut answer: Answer) -> Result<(), Trouble> {
    substream.send(RecordKind::Head, &rpc::bytes(&answer.head)).await?;
    loop {
        let piece = tokio::select! {
            piece = answer.pieces.next() => piece,
            end = poll_fn(|cx| substream.poll_gone(cx)) => return Err(Trouble::Gone(end)),
        };
        match piece {
            Some(Ok(Piece::Data(bytes))) => substream.send(RecordKind::Data, &bytes).await?,
            Some(Ok(Piece::Item(bytes))) => send_item(substream, &bytes).await?,
            Some(Err(refusal)) => return Err(refusal.into()),
            None => return Ok(substream.finish(None).await?),
        }
    }
}

fn too_late() -> Trouble {
    Trouble::Refused(Refusal::new(Code::Timeout, "the call took longer than its deadline"))
}

/// Why a call got no answer.
enum Trouble {
    Gone(StreamEnd),
    Refused(Refusal),
}

impl From<StreamEnd> for Trouble {
    fn from(end: StreamEnd) -> Self {
        Self::Gone(end)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
