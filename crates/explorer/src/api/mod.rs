//! The explorer's own service, `@explorer/api`: JSON-RPC 2.0 over a substream of kind `call`.
//!
//! There is one way to talk to an explorer: a session; the API is a service behind it like any other. A request is
//! `Head` (passed over), `Data`, `End`; the answer is `Head`, `Data`, `End`. Bodies are counted while they stream, one
//! by one and all together, and a request is never built into a tree whose size its sender chooses.

use std::{borrow::Cow, sync::Arc};

use reachback_link::{Inbound, InboundError, StreamEnd, Substream};
use reachback_wire::{Code, NodeId, Open, Record, RecordKind, text::sanitize};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    limits,
    registry::Registry,
    stats::{Stats, count},
    view::NodesView,
};

/// What `@explorer/api` knows and how much it may hold.
pub(crate) struct Api {
    explorer: NodeId,
    registry: Arc<Registry>,
    stats: Arc<Stats>,
    /// Room for bodies, in units of [`UNIT`].
    room: Arc<Semaphore>,
}

/// Bodies take room in steps of this many bytes.
const UNIT: usize = 1024;

/// The longest id of a request that is repeated in its answer.
const ID_MAX: usize = 256;

/// The head of every answer: the outcome of a method is in the JSON.
const ANSWER_HEAD: &[u8] = br#"{"status":200,"headers":{"content-type":"application/json"}}"#;

impl Api {
    pub(crate) fn new(explorer: NodeId, registry: Arc<Registry>, stats: Arc<Stats>) -> Self {
        Self { explorer, registry, stats, room: Arc::new(Semaphore::new(limits::API_BODIES / UNIT)) }
    }

    /// Serves one call. Whoever may open it may call every method of this version.
    pub(crate) async fn serve(&self, inbound: Inbound, open: &Open) -> Result<(), InboundError> {
        let allowed =
            open.deadline().map_or(limits::API_TIMEOUT, |given| given.min(limits::OPEN_DEADLINE_MAX));
        let (mut substream, ()) = inbound.answer(async { Ok(()) }).await?;
        match timeout(allowed, self.converse(&mut substream)).await {
            Ok(Ok(())) => count(&self.stats.api_calls),
            Ok(Err(Trouble::Gone(end))) => tracing::debug!(%end, "a caller of the API went away"),
            Ok(Err(Trouble::Refused(code, text))) => substream.reset(code, &text),
            Err(_) => substream.reset(Code::Timeout, "the call took longer than its deadline"),
        }
        Ok(())
    }

    async fn converse(&self, substream: &mut Substream) -> Result<(), Trouble> {
        let answer = {
            let (body, _room) = self.read(substream).await?;
            self.respond(&body)
        };
        substream.send(RecordKind::Head, ANSWER_HEAD).await?;
        if let Some(answer) = answer {
            substream.send(RecordKind::Data, &answer).await?;
        }
        substream.finish(None).await?;
        Ok(())
    }

    async fn read(
        &self,
        substream: &mut Substream,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Trouble> {
        let mut body = Vec::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        loop {
            match substream.next().await? {
                Record::Head(_) => {}
                Record::Data(bytes) | Record::Item(bytes) => {
                    let length = body.len() + bytes.len();
                    if length > limits::CALL_BODY_MAX {
                        let text = format!("the body of a call may have {} bytes", limits::CALL_BODY_MAX);
                        return Err(Trouble::Refused(Code::TooLarge, text));
                    }
                    self.make_room(&mut room, length)?;
                    body.extend_from_slice(&bytes);
                }
                Record::End(_) => return Ok((body, room)),
                Record::Reset { .. } => return Err(Trouble::Gone(StreamEnd::Dropped)),
            }
        }
    }

    /// Grows what a body may take to `length` bytes.
    fn make_room(&self, room: &mut Option<OwnedSemaphorePermit>, length: usize) -> Result<(), Trouble> {
        let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = length.div_ceil(UNIT).saturating_sub(held);
        // At most API_BODIES / UNIT, which is far below u32::MAX.
        let more = self.room.clone().try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
        match (more, room.as_mut()) {
            (Ok(more), Some(room)) => room.merge(more),
            (Ok(more), None) => *room = Some(more),
            (Err(_), _) => {
                let text = "too many large calls to the API at once; try again";
                return Err(Trouble::Refused(Code::Saturated, text.to_owned()));
            }
        }
        Ok(())
    }

    /// The answer to a request; `None` to a notification.
    fn respond(&self, body: &[u8]) -> Option<Vec<u8>> {
        let (id, outcome) = match parse(body) {
            Ok(request) => {
                let outcome = self.call(&request);
                (Some(request.id?), outcome)
            }
            Err(error) => (None, Err(error)),
        };
        let reply = match outcome {
            Ok(result) => Reply { jsonrpc: "2.0", id, result: Some(result), error: None },
            Err(error) => Reply { jsonrpc: "2.0", id, result: None, error: Some(error) },
        };
        Some(serde_json::to_vec(&reply).expect("plain structs and raw JSON can be written as JSON"))
    }

    fn call(&self, request: &Request<'_>) -> Result<Box<RawValue>, RpcError> {
        match request.method.as_ref() {
            "explorer.nodes" => {
                request.takes_nothing()?;
                let nodes = NodesView::of(&self.explorer, &self.registry);
                to_raw_value(&nodes).map_err(|error| RpcError::new(INTERNAL, error.to_string()))
            }
            unknown => {
                let unknown = sanitize(unknown, limits::TEXT);
                Err(RpcError::new(
                    METHOD_NOT_FOUND,
                    format!("no method {unknown}; this version has: explorer.nodes"),
                ))
            }
        }
    }
}

/// Why a call got no answer.
enum Trouble {
    Gone(StreamEnd),
    Refused(Code, String),
}

impl From<StreamEnd> for Trouble {
    fn from(end: StreamEnd) -> Self {
        Self::Gone(end)
    }
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    /// Absent on a notification; `null` is an id.
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
}

#[derive(Debug, Serialize)]
struct RpcError {
    code: i32,
    message: String,
}

/// JSON-RPC 2.0, section 5.1.
const PARSE_ERROR: i32 = -32_700;
const INVALID_REQUEST: i32 = -32_600;
const METHOD_NOT_FOUND: i32 = -32_601;
const INVALID_PARAMS: i32 = -32_602;
const INTERNAL: i32 = -32_603;

impl RpcError {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Request<'_> {
    fn takes_nothing(&self) -> Result<(), RpcError> {
        let Some(params) = self.params else { return Ok(()) };
        let mut given = params.get().bytes().filter(|byte| !byte.is_ascii_whitespace());
        let given = [given.next(), given.next(), given.next()];
        if matches!(given, [Some(b'{'), Some(b'}'), None] | [Some(b'['), Some(b']'), None]) {
            return Ok(());
        }
        Err(RpcError::new(INVALID_PARAMS, format!("{} takes no parameters", self.method)))
    }
}

fn parse(body: &[u8]) -> Result<Request<'_>, RpcError> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(RpcError::new(INVALID_REQUEST, "this version takes one request at a time, no batches"));
    }
    let request: Request<'_> = serde_json::from_slice(body).map_err(|error| {
        let what = sanitize(&error.to_string(), limits::TEXT);
        match error.classify() {
            serde_json::error::Category::Data => {
                RpcError::new(INVALID_REQUEST, format!("no JSON-RPC request: {what}"))
            }
            _ => RpcError::new(PARSE_ERROR, format!("no JSON: {what}")),
        }
    })?;
    if request.jsonrpc != "2.0" {
        return Err(RpcError::new(INVALID_REQUEST, "the member \"jsonrpc\" must be \"2.0\""));
    }
    let usable = |id: &&RawValue| id.get().len() <= ID_MAX && !id.get().starts_with(['{', '[', 't', 'f']);
    if !request.id.as_ref().is_none_or(usable) {
        return Err(RpcError::new(
            INVALID_REQUEST,
            format!("the id must be a string or a number of at most {ID_MAX} bytes"),
        ));
    }
    Ok(request)
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn api() -> Api {
        let stats = Arc::new(Stats::default());
        let registry = Arc::new(Registry::new(stats.clone()));
        Api::new("hub-1".parse().unwrap(), registry, stats)
    }

    fn answer(body: &str) -> Value {
        serde_json::from_slice(&api().respond(body.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_request_is_answered_with_its_own_id() {
        for id in [json!(1), json!("a"), json!(null), json!(-1.5)] {
            for params in ["", r#","params":{}"#, r#","params":[ ]"#, r#","params":null"#] {
                let body = format!(r#"{{"jsonrpc":"2.0","method":"explorer.nodes","id":{id}{params}}}"#);
                let expected =
                    json!({ "jsonrpc": "2.0", "id": id, "result": { "explorer": "hub-1", "nodes": [] } });
                assert_eq!(answer(&body), expected);
            }
        }
    }

    #[test]
    fn wrong_requests_each_have_their_code() {
        for (body, code, part) in [
            ("", PARSE_ERROR, "no JSON"),
            ("{", PARSE_ERROR, "no JSON"),
            ("\"x\"", INVALID_REQUEST, "no JSON-RPC request"),
            ("{}", INVALID_REQUEST, "jsonrpc"),
            (" [{}]", INVALID_REQUEST, "no batches"),
            (r#"{"jsonrpc":"1.0","method":"explorer.nodes","id":1}"#, INVALID_REQUEST, "2.0"),
            (r#"{"jsonrpc":"2.0","method":"explorer.nodes","id":[1]}"#, INVALID_REQUEST, "the id"),
            (
                r#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1,"params":{"a":1}}"#,
                INVALID_PARAMS,
                "no parameters",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1,"params":[[]]}"#,
                INVALID_PARAMS,
                "no parameters",
            ),
            (r#"{"jsonrpc":"2.0","method":"node\u001b[1m","id":1}"#, METHOD_NOT_FOUND, "explorer.nodes"),
        ] {
            let answer = answer(body);
            assert_eq!(answer["error"]["code"], code, "{body}: {answer}");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(part) && !message.contains('\u{1b}'), "{body}: {message}");
        }
    }

    #[test]
    fn nesting_that_would_overflow_the_stack_is_an_answer() {
        let deep = format!(r#"{{"jsonrpc":"2.0","method":"m","id":1,"params":{}"#, "[".repeat(1_000_000));
        assert_eq!(answer(&deep)["error"]["code"], PARSE_ERROR);
    }

    #[test]
    fn notifications_are_not_answered() {
        assert!(api().respond(br#"{"jsonrpc":"2.0","method":"explorer.nodes"}"#).is_none());
    }

    #[test]
    fn all_bodies_together_have_a_bound() {
        let api = api();
        let mut held = Vec::new();
        for _ in 0..limits::API_BODIES / limits::CALL_BODY_MAX {
            let mut room = None;
            assert!(api.make_room(&mut room, 1).is_ok());
            assert!(api.make_room(&mut room, limits::CALL_BODY_MAX).is_ok());
            held.push(room);
        }
        assert!(matches!(api.make_room(&mut None, 1), Err(Trouble::Refused(Code::Saturated, _))));
        held.pop();
        assert!(api.make_room(&mut None, 1).is_ok());
    }
}
