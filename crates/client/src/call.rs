//! One JSON-RPC call: a substream of its own, one request, one answer, one deadline.
//!
//! Whoever waits for an answer must know afterwards whether the call can have happened. So the error tells four things
//! apart: nothing was sent ([`CallError::Refused`]), the service answered with an error of its own, the time is up,
//! and the line broke after delivery may have happened. A call is never sent twice.

use std::time::Duration;

use reachback_link::{OpenError, Session, StreamEnd, Substream};
use reachback_wire::{Code, EndStatus, Open, Record, RecordKind, Refusal, Target, limits, text::sanitize};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

/// Calls `method` with `params` (an object, an array, or null for none) and waits at most `limit` for the answer.
///
/// # Errors
/// See [`CallError`]; the service's own error is [`CallError::Service`].
pub async fn call(
    session: &Session,
    target: Target,
    method: &str,
    params: &Value,
    limit: Duration,
) -> Result<Value, CallError> {
    let deadline = Instant::now() + limit;
    let request =
        Request { jsonrpc: "2.0", id: 1, method, params: Some(params).filter(|params| !params.is_null()) };
    let request = serde_json::to_vec(&request).map_err(|error| CallError::Unusable(error.to_string()))?;
    if request.len() > limits::CALL_BODY_MAX {
        return Err(CallError::TooLarge { what: "request", limit: limits::CALL_BODY_MAX });
    }
    let mut substream = session.open(Open::call(target, limit)).await?;
    match timeout_at(deadline, exchange(&mut substream, &request)).await {
        Ok(Ok(body)) => read_answer(&body),
        Ok(Err(error)) => {
            // The answer goes on, but nobody here will read it.
            if let CallError::TooLarge { .. } = error {
                substream.reset(Code::TooLarge, &error.to_string());
            }
            Err(error)
        }
        Err(_) => {
            substream.reset(Code::Timeout, "the caller waited long enough");
            Err(CallError::Timeout(limit))
        }
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The call was turned away before anything reached the service; [`Refusal::code`] says why.
    #[error("{0}")]
    Refused(Refusal),
    /// The service answered with an error of its own, passed on unchanged.
    #[error("the service answered with error {code}: {message}")]
    Service {
        /// The service's number.
        code: i64,
        /// The service's text, control characters escaped.
        message: String,
        /// What it sent along.
        data: Option<Value>,
    },
    /// No answer in time. Whether the call happened is unknown.
    #[error("no answer within {0:?}; whether the call was carried out is unknown")]
    Timeout(Duration),
    /// The stream ended before the answer was whole. Whether the call happened is unknown.
    #[error("{message}; whether the call was carried out is unknown")]
    Broken {
        /// `reset`, `lost`, or what the other end said.
        code: Code,
        /// The same as a sentence.
        message: String,
    },
    /// The session was over before anything was sent.
    #[error("the session with the explorer is over: {message}")]
    NotConnected {
        /// Why it ended.
        code: Code,
        /// The same as a sentence.
        message: String,
    },
    /// Request or answer is larger than a call may be.
    #[error("the {what} is larger than {limit} bytes; use a stream (connect, forward) for bulk data")]
    TooLarge {
        /// `request` or `answer`.
        what: &'static str,
        /// Bytes.
        limit: usize,
    },
    /// The answer is not what JSON-RPC says an answer is.
    #[error("the answer can't be read: {0}")]
    Garbled(String),
    /// The parameters can't be written as JSON.
    #[error("the parameters can't be sent: {0}")]
    Unusable(String),
}

impl CallError {
    /// The error as one of our codes; none for the service's own error, which has a code of its own.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Service { .. } => None,
            Self::Refused(refusal) => Some(refusal.code),
            Self::Timeout(_) => Some(Code::Timeout),
            Self::Broken { code, .. } | Self::NotConnected { code, .. } => Some(*code),
            Self::TooLarge { .. } => Some(Code::TooLarge),
            Self::Garbled(_) | Self::Unusable(_) => Some(Code::BadFrame),
        }
    }
}

impl From<OpenError> for CallError {
    fn from(error: OpenError) -> Self {
        let code = error.code();
        match error {
            OpenError::Refused(refusal) => Self::Refused(refusal),
            OpenError::Ended(end) => Self::NotConnected { code, message: end.to_string() },
            // Our own permits: nothing was sent either.
            OpenError::Saturated(_) => Self::Refused(Refusal::new(code, error.to_string())),
            other => Self::Broken { code, message: other.to_string() },
        }
    }
}

impl From<StreamEnd> for CallError {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Finished => Self::Garbled("it ended before it was whole".into()),
            other => Self::Broken { code: other.code(), message: other.to_string() },
        }
    }
}

/// Sends the request and reads the answer's body up to its `End`.
async fn exchange(substream: &mut Substream, request: &[u8]) -> Result<Vec<u8>, CallError> {
    substream.send(RecordKind::Head, b"{}").await?;
    substream.send(RecordKind::Data, request).await?;
    substream.finish(None).await?;
    let mut body = Vec::new();
    loop {
        match substream.next().await? {
            Record::Head(_) => {}
            Record::Data(bytes) | Record::Item(bytes) => {
                if body.len() + bytes.len() > limits::CALL_BODY_MAX {
                    return Err(CallError::TooLarge { what: "answer", limit: limits::CALL_BODY_MAX });
                }
                body.extend_from_slice(&bytes);
            }
            Record::End(None) => return Ok(body),
            Record::End(Some(EndStatus { code, message })) => {
                return Err(CallError::Broken { code, message: sanitize(&message, 400) });
            }
            Record::Reset { code, text } => {
                let code = Code::from_number(code).unwrap_or(Code::Reset);
                return Err(CallError::Broken { code, message: sanitize(&text, 400) });
            }
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    jsonrpc: &'static str,
    id: u32,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Value>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "present")]
    result: Option<Value>,
    error: Option<ServiceError>,
}

#[derive(Deserialize)]
struct ServiceError {
    code: i64,
    message: String,
    data: Option<Value>,
}

/// `"result": null` is a result.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn read_answer(body: &[u8]) -> Result<Value, CallError> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| CallError::Garbled(error.to_string()))?;
    match answer {
        Answer { error: Some(error), .. } => Err(CallError::Service {
            code: error.code,
            message: sanitize(&error.message, 1000),
            data: error.data,
        }),
        Answer { result: Some(result), .. } => Ok(result),
        Answer { .. } => Err(CallError::Garbled("it has neither result nor error".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_and_what_they_mean() {
        assert_eq!(read_answer(br#"{"jsonrpc":"2.0","id":1,"result":[1]}"#).unwrap(), json!([1]));
        assert_eq!(read_answer(br#"{"jsonrpc":"2.0","id":1,"result":null}"#).unwrap(), Value::Null);
        let error =
            read_answer(br#"{"id":1,"error":{"code":-32601,"message":"no\u001b[1m","data":7}}"#).unwrap_err();
        let CallError::Service { code, message, data } = error else { panic!("{error}") };
        assert_eq!((code, data), (-32601, Some(json!(7))));
        assert!(!message.contains('\x1b'), "{message:?}");
        for garbled in [&b""[..], b"{}", b"[]", b"nonsense", br#"{"result":1"#] {
            assert!(matches!(read_answer(garbled), Err(CallError::Garbled(_))), "{garbled:?}");
        }
    }
}
