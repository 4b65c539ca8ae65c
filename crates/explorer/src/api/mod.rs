//! The explorer's one API: JSON-RPC 2.0 behind a substream, HTTP and raw JSON, with one dispatcher for all of them.
//!
//! A body comes in, a [`Reply`] goes out; how bytes travel is for `session.rs`, `http.rs` and `raw.rs` to know. What
//! the dispatcher does not answer itself it may pass on to a node, unchanged, where `[compat.hero]` says so.

mod methods;
mod openrpc;
mod operator;
pub(crate) mod rpc;
mod service;
mod session;
mod table;
mod types;
mod watch;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::stream::BoxStream;
use reachback_link::PeerAddress;
use reachback_wire::{Open, Refusal, Target, open::Caller};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    access::{authorise, check_methods, subject},
    auth::Principal,
    bodies::Whole,
    call::{self, Answer, Call, RequestHead},
    compat,
    hub::Hub,
    limits,
    security::Entry,
    stats::count,
};
use rpc::{INVALID_REQUEST, Request, RpcError};

pub(crate) use openrpc::document as openrpc;
pub(crate) use session::serve;

/// Who asks, and what came with the request.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) who: Principal,
    pub(crate) caller: Caller,
    /// Where it is.
    pub(crate) peer: PeerAddress,
    pub(crate) head: RequestHead,
    /// Until when the caller wants the answer, if it said so.
    pub(crate) deadline: Option<Instant>,
}

/// What goes back.
pub(crate) enum Reply {
    /// To a notification.
    Nothing,
    /// One JSON text.
    Json {
        /// As in HTTP.
        status: u16,
        body: Whole,
    },
    /// One JSON text after the other, for as long as the caller listens.
    Items(BoxStream<'static, Bytes>),
    /// What a node answered.
    Passed(Answer),
}

impl Asking {
    /// When the answer must be there.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline.unwrap_or_else(|| Instant::now() + limits::API_TIMEOUT)
    }
}

/// The service that this is.
pub(crate) fn target() -> &'static Target {
    static TARGET: LazyLock<Target> =
        LazyLock::new(|| "@explorer/api".parse().expect("a constant that is a target"));
    &TARGET
}

/// Answers a body: a request, a notification, or a batch of them.
pub(crate) async fn answer(hub: &Arc<Hub>, body: &Bytes, asking: &Asking) -> Reply {
    let reply = if body.trim_ascii_start().first() == Some(&b'[') {
        batch(hub, body, asking).await
    } else {
        single(hub, body, asking).await
    };
    count(&hub.stats.api_calls);
    reply
}

/// Puts a body to a service as it is.
///
/// # Errors
/// The code tells whether anything can have reached the service.
pub(crate) async fn pass_on(
    hub: &Arc<Hub>,
    target: Target,
    body: Bytes,
    asking: &Asking,
) -> Result<Answer, Refusal> {
    let deadline = asking.deadline();
    let left = deadline.saturating_duration_since(Instant::now());
    let open = Open::call(target.clone(), left);
    let noted = |refusal: &Refusal| {
        let by = subject(&asking.who);
        hub.note_refused(
            Entry::new("call", &target.to_string()).by(&by).from(&asking.peer.to_string()),
            refusal,
        );
    };
    let allowed = authorise(&asking.who, &asking.caller, &open, &hub.registry).inspect_err(noted)?;
    if allowed.by_method {
        check_methods(&asking.who, &target, &body).inspect_err(noted)?;
    }
    let deadline = allowed.until.map_or(deadline, |until| until.min(deadline));
    let head = asking.head.clone();
    let caller = Caller { granted: allowed.until.is_some(), ..asking.caller.clone() };
    call::call(hub, Call { target, head, body, deadline, caller }).await
}

async fn single(hub: &Arc<Hub>, body: &Bytes, asking: &Asking) -> Reply {
    let request = match Request::parse(body) {
        Ok(request) => request,
        Err(error) => return json(hub, body, rpc::reply(None, Err(error.into()))),
    };
    if let Err(refusal) = hub.rates.admit(&asking.who, Some(target())) {
        return match request.id {
            Some(id) => json(hub, body, rpc::reply(Some(id), Err(refusal.into()))),
            None => Reply::Nothing,
        };
    }
    if !methods::is_own(hub, &request.method)
        // Who may not is told so below, and it is noted once.
        && methods::permitted(hub, &request.method, asking).is_ok()
        && let Some(target) = compat::destination(hub, &request)
    {
        return match pass_on(hub, target, body.clone(), asking).await {
            Ok(answer) => Reply::Passed(answer),
            Err(refusal) if request.id.is_some() => {
                json(hub, body, rpc::reply(request.id, Err(refusal.into())))
            }
            Err(_) => Reply::Nothing,
        };
    }
    if request.method == table::WATCH && request.id.is_some() {
        return match methods::permit(hub, &request.method, asking)
            .and_then(|()| watch::items(hub, &request, asking))
        {
            Ok(items) => Reply::Items(items),
            Err(problem) => json(hub, body, rpc::reply(request.id, Err(problem))),
        };
    }
    let outcome = methods::perform(hub, &request, asking).await;
    match request.id {
        Some(id) => json(hub, body, rpc::reply(Some(id), outcome)),
        None => Reply::Nothing,
    }
}

/// Answers the requests of a batch one after the other; the explorer's own methods only.
async fn batch(hub: &Arc<Hub>, body: &Bytes, asking: &Asking) -> Reply {
    let refuse = |error: RpcError| json(hub, body, rpc::reply(None, Err(error.into())));
    let requests: Vec<&RawValue> = match serde_json::from_slice(body) {
        Ok(requests) => requests,
        // The same words as for a single request that is no JSON.
        Err(_) => return refuse(rpc::no_json(body)),
    };
    if requests.is_empty() || requests.len() > limits::BATCH_MAX {
        let message = format!("a batch holds 1 to {} requests, not {}", limits::BATCH_MAX, requests.len());
        return refuse(RpcError::new(INVALID_REQUEST, message));
    }
    let mut answers = Vec::new();
    for request in requests {
        let answer = match Request::parse(request.get().as_bytes()) {
            Ok(request) => {
                let outcome = match hub.rates.admit(&asking.who, Some(target())) {
                    Ok(()) => methods::perform(hub, &request, asking).await,
                    Err(refusal) => Err(refusal.into()),
                };
                request.id.map(|id| rpc::reply(Some(id), outcome))
            }
            Err(error) => Some(rpc::reply(None, Err(error.into()))),
        };
        answers.extend(answer.map(|(_, body)| body));
    }
    if answers.is_empty() {
        return Reply::Nothing;
    }
    let mut all = vec![b'['];
    all.extend(answers.join(&b","[..]));
    all.push(b']');
    json(hub, &[], (200, all))
}

/// An answer with room for it, or the refusal where there is none.
fn json(hub: &Hub, request: &[u8], (status, body): (u16, Vec<u8>)) -> Reply {
    match hub.bodies.hold(body) {
        Ok(body) => Reply::Json { status, body },
        Err(refusal) => {
            let (status, body) = rpc::refused(request, refusal);
            Reply::Json { status, body: Whole::small(body) }
        }
    }
}
