//! A call to a function of the embedding program: JSON-RPC is read and written here, since no server does it.
//!
//! The requests of a batch are carried out one after the other, so that a batch takes no more of the program at a time
//! than a call does.

use std::sync::Arc;

use reachback_link::Inbound;
use reachback_wire::{Open, ServiceName, text::sanitize};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};
use tokio::sync::mpsc;

use super::{Time, Trouble, answer::Answer, conclude, request::Request, within};
use crate::{
    grants::Lease,
    limits::BATCH_MAX,
    rpc::{CallHandler, Context, Invocation, RpcError},
    serve::{Desk, Visited},
    stats::{add, count},
};

/// JSON-RPC's number for what is no JSON.
const PARSE_ERROR: i64 = -32700;
/// JSON-RPC's number for JSON that is no request.
const INVALID_REQUEST: i64 = -32600;

/// Serves one call from its open to its end.
pub(crate) async fn serve(
    desk: &Desk,
    inbound: Inbound,
    open: &Open,
    service: &ServiceName,
    handler: &dyn CallHandler,
    lease: Option<Lease>,
) -> Result<(), Visited> {
    let time = Time::of(open);
    let (mut substream, ()) = inbound.answer(async { Ok(()) }).await?;
    count(&desk.stats.calls_served);
    let exchange = async {
        let Request { head, body, room } =
            Request::read(&mut substream, &desk.bodies.requests, desk.bodies.most).await?;
        add(&desk.stats.bytes_to_services, body.len() as u64);
        let context = Arc::new(Context {
            service: service.clone(),
            caller: open.caller.clone(),
            headers: head.headers,
            deadline: time.deadline,
        });
        let mut answer = Answer::new(&mut substream, &desk.stats, desk.bodies.most);
        let answered = carry_out(handler, &context, head.stream, &body, &mut answer).await;
        drop(room);
        answered
    };
    let outcome = time.limit(within(lease, exchange)).await;
    conclude(desk, service, time, substream, outcome).await
}

async fn carry_out(
    handler: &dyn CallHandler,
    context: &Arc<Context>,
    stream: bool,
    body: &[u8],
    answer: &mut Answer<'_>,
) -> Result<(), Trouble> {
    let is_batch = body.trim_ascii_start().first() == Some(&b'[');
    let text = if is_batch {
        batch(handler, context, body, answer).await?
    } else {
        single(handler, context, stream, body, answer).await?
    };
    if stream && !is_batch {
        answer.items_head().await?;
        if let Some(text) = text {
            answer.item(&text).await?;
        }
    } else {
        answer.json_head().await?;
        answer.data(&text.unwrap_or_default()).await?;
    }
    answer.end().await
}

async fn batch(
    handler: &dyn CallHandler,
    context: &Arc<Context>,
    body: &[u8],
    answer: &mut Answer<'_>,
) -> Result<Option<Vec<u8>>, Trouble> {
    let members: Vec<&RawValue> = match serde_json::from_slice(body) {
        Ok(members) => members,
        Err(error) => return Ok(Some(unreadable(&error))),
    };
    if members.is_empty() || members.len() > BATCH_MAX {
        let error = RpcError::new(INVALID_REQUEST, format!("a batch has 1 to {BATCH_MAX} requests"));
        return Ok(Some(encode(None, Err(&error))));
    }
    let mut texts = Vec::new();
    for member in members {
        if let Some(text) = single(handler, context, false, member.get().as_bytes(), answer).await? {
            texts.push(if texts.is_empty() { b'[' } else { b',' });
            texts.extend_from_slice(&text);
        }
        // The whole of it must fit into an answer, so it is not gathered any further than that.
        if texts.len() > answer.most() {
            return Err(answer.too_large());
        }
    }
    if texts.is_empty() {
        return Ok(None);
    }
    texts.push(b']');
    Ok(Some(texts))
}

/// Carries out one request. `None`: it was a notification.
async fn single(
    handler: &dyn CallHandler,
    context: &Arc<Context>,
    stream: bool,
    text: &[u8],
    answer: &mut Answer<'_>,
) -> Result<Option<Vec<u8>>, Trouble> {
    let asked: Asked<'_> = match serde_json::from_slice(text) {
        Ok(asked) => asked,
        Err(error) => return Ok(Some(unreadable(&error))),
    };
    // One at a time: who sends items goes on when the last one is on its way.
    let (sender, mut items) = mpsc::channel(1);
    let mut work = handler.call(Invocation {
        method: asked.method,
        params: asked.params.map(ToOwned::to_owned),
        notification: asked.id.is_none(),
        context: context.clone(),
        items: stream.then_some(sender),
    });
    let outcome = loop {
        let next = async {
            tokio::select! {
                biased;
                Some(item) = items.recv() => Err(item),
                outcome = &mut work => Ok(outcome),
            }
        };
        match answer.unless_gone(next).await? {
            Ok(outcome) => break outcome,
            Err(item) => {
                answer.items_head().await?;
                answer.item(&item).await?;
            }
        }
    };
    // What was sent last may still be here; what comes from now on is late.
    items.close();
    while let Ok(item) = items.try_recv() {
        answer.items_head().await?;
        answer.item(&item).await?;
    }
    match (asked.id, &outcome) {
        (Some(id), outcome) => Ok(Some(encode(Some(id), outcome.as_deref()))),
        (None, Ok(_)) => Ok(None),
        (None, Err(error)) => {
            tracing::info!(service = %context.service, %error, "a notification failed");
            Ok(None)
        }
    }
}

/// A request as far as JSON-RPC knows it.
#[derive(Deserialize)]
struct Asked<'a> {
    method: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    /// `null` is an id, too: whoever gives it wants an answer.
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Serialize)]
struct Answered<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failed<'a>>,
}

#[derive(Serialize)]
struct Failed<'a> {
    code: i64,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

fn encode(id: Option<&RawValue>, outcome: Result<&RawValue, &RpcError>) -> Vec<u8> {
    let (result, error) = match outcome {
        Ok(result) => (Some(result), None),
        Err(error) => {
            (None, Some(Failed { code: error.code(), message: error.message(), data: error.data() }))
        }
    };
    serde_json::to_vec(&Answered { jsonrpc: "2.0", id, result, error })
        .expect("texts, numbers and JSON are JSON")
}

fn unreadable(error: &serde_json::Error) -> Vec<u8> {
    let number = if error.is_data() { INVALID_REQUEST } else { PARSE_ERROR };
    let what = if error.is_data() { "no request" } else { "no JSON" };
    let message = format!("the call is {what}: {}", sanitize(&error.to_string(), 200));
    encode(None, Err(&RpcError::new(number, message)))
}
