//! `explorer.call`: a service's method as a method of the explorer, for whoever has no way to a target of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use reachback_wire::{Code, Refusal, Target, text::sanitize};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{
    Asking, pass_on,
    rpc::{Outcome, Problem, bytes},
    types::CallParams,
};
use crate::{
    call::{Piece, RequestHead, too_late},
    hub::Hub,
    limits,
};

#[derive(Serialize)]
struct Outgoing<'a> {
    jsonrpc: &'static str,
    id: u32,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Incoming {
    /// `null` is a result.
    #[serde(default, deserialize_with = "present")]
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

/// Carries out `explorer.call`.
pub(super) async fn call(hub: &Arc<Hub>, params: CallParams, asking: &Asking) -> Outcome {
    let CallParams { target, method, params, timeout_ms, headers } = params;
    let wanted = timeout_ms.map_or(limits::API_TIMEOUT, Duration::from_millis);
    let deadline = Instant::now() + wanted.min(limits::OPEN_DEADLINE_MAX);
    let deadline = asking.deadline.map_or(deadline, |given| given.min(deadline));
    let body = bytes(&Outgoing { jsonrpc: "2.0", id: 1, method: &method, params: params.as_deref() });
    let headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let head = RequestHead { headers, stream: false };
    let shown = target.clone();
    let asking = Asking { head, deadline: Some(deadline), ..asking.clone() };
    let mut answer = pass_on(hub, target, Bytes::from(body), &asking).await?;
    let mut whole = hub.bodies.begin();
    let reading = async {
        while let Some(piece) = answer.pieces.next().await {
            match piece? {
                Piece::Data(bytes) | Piece::Item(bytes) => whole.push(&bytes)?,
            }
        }
        Ok::<_, Refusal>(whole.finish())
    };
    let whole = timeout_at(deadline + limits::CALL_GRACE, reading).await.map_err(|_| too_late())??;
    match serde_json::from_slice(&whole.bytes) {
        Ok(Incoming { error: Some(error), .. }) if error.get() != "null" => Err(Problem::Passed(error)),
        Ok(Incoming { result: Some(result), .. }) => Ok(result),
        Ok(_) => Err(garbled(&shown, answer.head.status, "it has neither result nor error")),
        Err(error) => Err(garbled(&shown, answer.head.status, &error.to_string())),
    }
}

fn garbled(target: &Target, status: u16, what: &str) -> Problem {
    let what = sanitize(what, limits::TEXT);
    let message = format!("{target} answered (HTTP {status}) with what is no JSON-RPC answer: {what}");
    Refusal::new(Code::BadFrame, message).into()
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}
