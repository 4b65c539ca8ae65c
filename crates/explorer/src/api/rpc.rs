//! JSON-RPC 2.0 as the explorer speaks it: what a request is, what an answer is, and what the errors mean.
//!
//! A request is looked at, never built into a tree whose size its sender chooses: parameters, ids and the service's
//! own words stay the JSON they came as.

use std::borrow::Cow;

use reachback_wire::{Code, Refusal, text::sanitize};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use crate::limits;

/// The longest id of a request that is repeated in its answer.
const ID_MAX: usize = 256;

/// JSON-RPC 2.0, section 5.1.
pub(crate) const PARSE_ERROR: i32 = -32_700;
pub(crate) const INVALID_REQUEST: i32 = -32_600;
pub(crate) const METHOD_NOT_FOUND: i32 = -32_601;
pub(crate) const INVALID_PARAMS: i32 = -32_602;

#[derive(Deserialize)]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) method: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) params: Option<&'a RawValue>,
    /// Absent on a notification; `null` is an id.
    #[serde(borrow, default, deserialize_with = "present")]
    pub(crate) id: Option<&'a RawValue>,
}

/// What came of a request.
pub(crate) type Outcome = Result<Box<RawValue>, Problem>;

/// Why a request has no result.
#[derive(Debug)]
pub(crate) enum Problem {
    /// An error of ours.
    Ours(RpcError),
    /// The error that a service answered with, as it said it.
    Passed(Box<RawValue>),
}

/// An error as JSON-RPC says it.
#[derive(Debug, Serialize)]
pub(crate) struct RpcError {
    pub(crate) code: i32,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<ErrorData>,
    #[serde(skip)]
    status: u16,
}

#[derive(Debug, Serialize)]
struct ErrorData {
    /// The one code everywhere.
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RawValue>,
}

impl<'a> Request<'a> {
    /// Reads one request.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, RpcError> {
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

    /// The parameters, by name or by position.
    pub(crate) fn params<P: DeserializeOwned>(&self) -> Result<P, RpcError> {
        let given = self.params.map_or("{}", RawValue::get);
        let given = if given == "null" { "{}" } else { given };
        serde_json::from_str(given).map_err(|error| {
            let what = sanitize(&error.to_string(), limits::TEXT);
            let method = sanitize(&self.method, limits::TEXT);
            RpcError::new(INVALID_PARAMS, format!("the parameters of {method}: {what}"))
        })
    }

    /// For methods without parameters.
    pub(crate) fn takes_nothing(&self) -> Result<(), RpcError> {
        let Some(params) = self.params else { return Ok(()) };
        let mut given = params.get().bytes().filter(|byte| !byte.is_ascii_whitespace());
        let given = [given.next(), given.next(), given.next()];
        if params.get() == "null"
            || matches!(given, [Some(b'{'), Some(b'}'), None] | [Some(b'['), Some(b']'), None])
        {
            return Ok(());
        }
        Err(RpcError::new(INVALID_PARAMS, format!("{} takes no parameters", self.method)))
    }
}

impl RpcError {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        let status = match code {
            PARSE_ERROR | INVALID_REQUEST | INVALID_PARAMS => 400,
            METHOD_NOT_FOUND => 404,
            _ => 500,
        };
        Self { code, message: message.into(), data: None, status }
    }
}

impl From<Refusal> for RpcError {
    fn from(refusal: Refusal) -> Self {
        let row = refusal.code.row();
        Self {
            code: row.jsonrpc,
            message: sanitize(&refusal.message, reachback_wire::limits::END_TEXT_MAX),
            data: Some(ErrorData { code: refusal.code, retry_after_ms: refusal.retry_after_ms }),
            status: row.http,
        }
    }
}

impl From<RpcError> for Problem {
    fn from(error: RpcError) -> Self {
        Self::Ours(error)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Ours(refusal.into())
    }
}

/// An answer, and its HTTP status.
pub(crate) fn reply(id: Option<&RawValue>, outcome: Outcome) -> (u16, Vec<u8>) {
    let (status, result, error) = match outcome {
        Ok(result) => (200, Some(result), None),
        Err(Problem::Passed(error)) => (200, None, Some(error)),
        Err(Problem::Ours(error)) => (error.status, None, Some(raw(&error))),
    };
    let reply = Reply { jsonrpc: "2.0", id, result: result.as_deref(), error: error.as_deref() };
    (status, bytes(&reply))
}

/// The answer to a body that was refused before it was understood; with its id where it has a usable one.
pub(crate) fn refused(body: &[u8], refusal: Refusal) -> (u16, Vec<u8>) {
    let id = Request::parse(body).ok().and_then(|request| request.id);
    reply(id, Err(refusal.into()))
}

/// The error for a body that can't be read at all.
pub(crate) fn no_json(body: &[u8]) -> RpcError {
    match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        Err(error) => {
            let what = sanitize(&error.to_string(), limits::TEXT);
            RpcError::new(PARSE_ERROR, format!("no JSON: {what}"))
        }
        Ok(_) => RpcError::new(INVALID_REQUEST, "no JSON-RPC request"),
    }
}

/// A value of ours as JSON.
pub(crate) fn raw<T: Serialize>(value: &T) -> Box<RawValue> {
    to_raw_value(value).expect("plain structs and raw JSON can be written as JSON")
}

/// The same as bytes.
pub(crate) fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs and raw JSON can be written as JSON")
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn error(body: &str) -> RpcError {
        Request::parse(body.as_bytes()).err().unwrap_or_else(|| panic!("{body} is a request"))
    }

    #[test]
    fn a_request_is_answered_with_its_own_id() {
        for id in [json!(1), json!("a"), json!(null), json!(-1.5)] {
            for params in ["", r#","params":{}"#, r#","params":[ ]"#, r#","params":null"#] {
                let body = format!(r#"{{"jsonrpc":"2.0","method":"m","id":{id}{params}}}"#);
                let request = Request::parse(body.as_bytes()).unwrap();
                request.takes_nothing().unwrap();
                let (status, answer) = reply(request.id, Ok(raw(&[1])));
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!((status, answer), (200, json!({ "jsonrpc": "2.0", "id": id, "result": [1] })));
            }
        }
        assert!(Request::parse(br#"{"jsonrpc":"2.0","method":"m"}"#).unwrap().id.is_none());
    }

    #[test]
    fn wrong_requests_each_have_their_code() {
        for (body, code, part) in [
            ("", PARSE_ERROR, "no JSON"),
            ("{", PARSE_ERROR, "no JSON"),
            ("\"x\"", INVALID_REQUEST, "no JSON-RPC request"),
            ("{}", INVALID_REQUEST, "jsonrpc"),
            (r#"{"jsonrpc":"1.0","method":"m","id":1}"#, INVALID_REQUEST, "2.0"),
            (r#"{"jsonrpc":"2.0","method":"m","id":[1]}"#, INVALID_REQUEST, "the id"),
        ] {
            let error = error(body);
            assert_eq!(error.code, code, "{body}");
            assert!(error.message.contains(part), "{body}: {}", error.message);
        }
    }

    #[test]
    fn nesting_that_would_overflow_the_stack_is_an_error() {
        let deep = format!(r#"{{"jsonrpc":"2.0","method":"m","id":1,"params":{}"#, "[".repeat(1_000_000));
        assert_eq!(error(&deep).code, PARSE_ERROR);
    }
}
