//! One JSON-RPC call: a substream of its own, one request, one answer, one deadline.
//!
//! Whoever waits for an answer must know afterwards whether the call can have happened. So the error tells four things
//! apart: nothing was sent ([`CallError::Refused`]), the service answered with an error of its own, the time is up,
//! and the line broke after delivery may have happened. A call is never sent twice.

use std::{collections::BTreeMap, time::Duration};

use reachback_link::{OpenError, Session, StreamEnd, Substream};
use reachback_wire::{
    Code, EndStatus, Open, Record, RecordKind, Refusal, Target,
    code::{Delivered, Retry},
    limits,
    text::sanitize,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use tokio::time::{Instant, sleep, timeout_at};

use crate::limits::{RETRY_FIRST, RETRY_MAX};

/// A call to be made: whom, what, with which headers, for how long.
#[derive(Debug, Clone)]
pub struct Call {
    target: Target,
    method: String,
    params: Value,
    headers: BTreeMap<String, String>,
    limit: Duration,
    wait: Duration,
    stream: bool,
    notify: bool,
}

/// One text of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The result of the call.
    Result(Value),
    /// Something the service streamed before or instead of a result, as it is.
    Item(Value),
}

/// A call that was sent and whose answers are coming. Dropping it takes the call back.
#[derive(Debug)]
pub struct CallStream {
    /// Gone once the answer is over.
    substream: Option<Substream>,
    deadline: Instant,
    limit: Duration,
    head: Option<Head>,
    /// Of the text that is not complete yet.
    text: Vec<u8>,
    received: usize,
    notify: bool,
    any: bool,
}

impl Call {
    /// A call of `method` with `params` (an object, an array, or null for none), to be answered within `limit`.
    pub fn new(target: Target, method: impl Into<String>, params: Value, limit: Duration) -> Self {
        Self {
            target,
            method: method.into(),
            params,
            headers: BTreeMap::new(),
            limit,
            wait: Duration::ZERO,
            stream: false,
            notify: false,
        }
    }

    /// With a header for services that speak HTTP. Hop-by-hop headers and `X-Reachback-*` don't reach them.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Waits up to `wait` for a node that is not there: as long as a refusal promises that nothing was sent and that
    /// trying again can help, the call is tried again. The time for the answer begins anew with each try.
    #[must_use]
    pub fn waiting(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Asks for what the service sends of its own accord while the call is under way.
    #[must_use]
    pub fn streaming(mut self) -> Self {
        self.stream = true;
        self
    }

    /// Without an id: there will be no answer, only word that it was delivered.
    #[must_use]
    pub fn notification(mut self) -> Self {
        self.notify = true;
        self
    }

    /// The same call to another place.
    #[must_use]
    pub fn to(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// The same call with another limit.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Whom it calls.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How long the answer may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Sends it; the answers are read from what this returns.
    ///
    /// # Errors
    /// As [`call`]; but for [`CallError::Refused`] and [`CallError::NotConnected`] it may have been delivered.
    pub async fn send(&self, session: &Session) -> Result<CallStream, CallError> {
        let request = self.request()?;
        let head = self.head()?;
        let give_up = Instant::now() + self.wait;
        let mut pause = RETRY_FIRST;
        loop {
            match self.attempt(session, &head, &request).await {
                Err(CallError::Refused(refusal)) if may_wait(&refusal) => {
                    let pausing = refusal.wait().unwrap_or(pause).clamp(RETRY_FIRST, RETRY_MAX);
                    let next = Instant::now() + pausing;
                    // A last try at the very end of the wait, if the next one came too late.
                    if Instant::now() >= give_up {
                        return Err(CallError::Refused(refusal));
                    }
                    sleep(next.min(give_up).saturating_duration_since(Instant::now())).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends it and waits for its result; items on the way are passed over.
    ///
    /// # Errors
    /// As [`call`].
    pub async fn result(&self, session: &Session) -> Result<Value, CallError> {
        let mut answers = self.send(session).await?;
        while let Some(answer) = answers.next().await {
            if let Answer::Result(result) = answer? {
                return Ok(result);
            }
        }
        if self.notify {
            return Ok(Value::Null);
        }
        Err(CallError::Garbled("it has no result".into()))
    }

    async fn attempt(&self, session: &Session, head: &[u8], request: &[u8]) -> Result<CallStream, CallError> {
        let deadline = Instant::now() + self.limit;
        let mut substream = session.open(Open::call(self.target.clone(), self.limit)).await?;
        let sending = async {
            substream.send(RecordKind::Head, head).await?;
            substream.send(RecordKind::Data, request).await?;
            substream.finish(None).await
        };
        match timeout_at(deadline, sending).await {
            Ok(Ok(())) => {}
            // Whoever refuses a request in the middle of it says why where answers are read.
            Ok(Err(StreamEnd::Dropped | StreamEnd::Reset { .. })) => {}
            Ok(Err(end)) => return Err(end.into()),
            Err(_) => {
                substream.reset(Code::Timeout, "the caller waited long enough");
                return Err(CallError::Timeout(self.limit));
            }
        }
        Ok(CallStream {
            substream: Some(substream),
            deadline,
            limit: self.limit,
            head: None,
            text: Vec::new(),
            received: 0,
            notify: self.notify,
            any: false,
        })
    }

    fn request(&self) -> Result<Vec<u8>, CallError> {
        let request = Request {
            jsonrpc: "2.0",
            id: (!self.notify).then_some(ID),
            method: &self.method,
            params: Some(&self.params).filter(|params| !params.is_null()),
        };
        let request = serde_json::to_vec(&request).map_err(|error| CallError::Unusable(error.to_string()))?;
        if request.len() > limits::CALL_BODY_MAX {
            return Err(CallError::TooLarge { what: "request", limit: limits::CALL_BODY_MAX });
        }
        Ok(request)
    }

    fn head(&self) -> Result<Vec<u8>, CallError> {
        let head = RequestHead { headers: &self.headers, stream: self.stream };
        let head = serde_json::to_vec(&head).map_err(|error| CallError::Unusable(error.to_string()))?;
        if head.len() > limits::HEAD_MAX {
            return Err(CallError::TooLarge { what: "headers", limit: limits::HEAD_MAX });
        }
        Ok(head)
    }
}

impl CallStream {
    /// The next text of the answer; `None` when it is complete. Cancel-safe.
    ///
    /// # Errors
    /// After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Answer, CallError>> {
        let substream = self.substream.as_mut()?;
        let reading = read_text(substream, &mut self.head, &mut self.text, &mut self.received);
        let Ok(outcome) = timeout_at(self.deadline, reading).await else {
            self.give_up(Code::Timeout, "the caller waited long enough");
            return Some(Err(CallError::Timeout(self.limit)));
        };
        match outcome {
            Ok(Text::Item) => {
                self.any = true;
                let text = std::mem::take(&mut self.text);
                Some(self.noting(read_item(&text)))
            }
            Ok(Text::Last) => {
                self.substream = None;
                let text = std::mem::take(&mut self.text);
                if text.trim_ascii().is_empty() && (self.notify || self.any) {
                    return self.refused_status(&text).map(Err);
                }
                let answer = read_answer(&text).map(Answer::Result);
                Some(answer.map_err(|error| match error {
                    CallError::Garbled(_) => self.refused_status(&text).unwrap_or(error),
                    error => error,
                }))
            }
            Err(error @ CallError::TooLarge { .. }) => {
                self.give_up(Code::TooLarge, &error.to_string());
                Some(Err(error))
            }
            Err(error) => {
                self.substream = None;
                Some(Err(error))
            }
        }
    }

    /// The HTTP status, once an answer has begun.
    pub fn status(&self) -> Option<u16> {
        self.head.as_ref().map(|head| head.status)
    }

    /// The headers of the answer, once it has begun. Their names are lower case.
    pub fn headers(&self) -> Option<&BTreeMap<String, String>> {
        self.head.as_ref().map(|head| &head.headers)
    }

    /// What a service says with its status alone.
    fn refused_status(&self, text: &[u8]) -> Option<CallError> {
        let status = self.status().filter(|status| !(200..300).contains(status))?;
        let text = sanitize(String::from_utf8_lossy(text).trim(), STATUS_TEXT);
        Some(CallError::Status { status, text })
    }

    fn noting(&mut self, outcome: Result<Answer, CallError>) -> Result<Answer, CallError> {
        if let Err(CallError::Garbled(_)) = outcome {
            self.give_up(Code::BadFrame, "an item is no JSON");
        }
        outcome
    }

    fn give_up(&mut self, code: Code, why: &str) {
        if let Some(substream) = self.substream.take() {
            substream.reset(code, why);
        }
    }
}

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
    Call::new(target, method, params.clone(), limit).result(session).await
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
    /// The service answered with an HTTP status and no JSON-RPC.
    #[error("the service answered with HTTP status {status} and no JSON-RPC: {text}")]
    Status {
        /// Not 2xx.
        status: u16,
        /// The begin of what it said, control characters escaped.
        text: String,
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
        /// `request`, `headers` or `answer`.
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
    /// The error as one of our codes; none for the service's own errors, which have codes of their own.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Service { .. } | Self::Status { .. } => None,
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

/// The id of every request: it has its substream to itself.
const ID: u32 = 1;

/// How much of what a service says beside its status is repeated.
const STATUS_TEXT: usize = 400;

/// Which end a text came to.
enum Text {
    /// One of several.
    Item,
    /// The answer is over; the text may be empty.
    Last,
}

/// Reads up to the end of a text.
async fn read_text(
    substream: &mut Substream,
    head: &mut Option<Head>,
    text: &mut Vec<u8>,
    received: &mut usize,
) -> Result<Text, CallError> {
    loop {
        let (bytes, is_item) = match substream.next().await? {
            Record::Head(bytes) => {
                let read = serde_json::from_slice(&bytes);
                *head = Some(read.map_err(|error| CallError::Garbled(format!("its head: {error}")))?);
                continue;
            }
            Record::Data(bytes) => (bytes, false),
            Record::Item(bytes) => (bytes, true),
            Record::End(None) => return Ok(Text::Last),
            Record::End(Some(EndStatus { code, message })) => {
                return Err(CallError::Broken { code, message: sanitize(&message, 400) });
            }
            Record::Reset { code, text } => {
                let code = Code::from_number(code).unwrap_or(Code::Reset);
                return Err(CallError::Broken { code, message: sanitize(&text, 400) });
            }
        };
        *received += bytes.len();
        if *received > limits::CALL_BODY_MAX {
            return Err(CallError::TooLarge { what: "answer", limit: limits::CALL_BODY_MAX });
        }
        text.extend_from_slice(&bytes);
        if is_item {
            return Ok(Text::Item);
        }
    }
}

/// Whether trying again is safe and can help, by the code's own row.
fn may_wait(refusal: &Refusal) -> bool {
    let row = refusal.code.row();
    row.delivered == Delivered::No && row.retry != Retry::No
}

#[derive(Serialize)]
struct RequestHead<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
}

#[derive(Debug, Deserialize)]
struct Head {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

fn ok() -> u16 {
    200
}

#[derive(Serialize)]
struct Request<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Value>,
}

/// An item that is the answer to the call, and not something on the way.
#[derive(Deserialize)]
struct ItemKind<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
}

fn read_item(text: &[u8]) -> Result<Answer, CallError> {
    let is_answer = serde_json::from_slice::<ItemKind<'_>>(text)
        .is_ok_and(|kind| kind.method.is_none() && kind.id.is_some_and(|id| id.get() == ID.to_string()));
    if is_answer {
        match read_answer(text) {
            // An item of a service's own that merely has a member "id".
            Err(CallError::Garbled(_)) => {}
            answer => return answer.map(Answer::Result),
        }
    }
    serde_json::from_slice(text).map(Answer::Item).map_err(|error| CallError::Garbled(error.to_string()))
}

#[derive(Deserialize)]
struct RpcAnswer {
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
    let answer: RpcAnswer =
        serde_json::from_slice(body).map_err(|error| CallError::Garbled(error.to_string()))?;
    match answer {
        RpcAnswer { error: Some(error), .. } => Err(CallError::Service {
            code: error.code,
            message: sanitize(&error.message, 1000),
            data: error.data,
        }),
        RpcAnswer { result: Some(result), .. } => Ok(result),
        RpcAnswer { .. } => Err(CallError::Garbled("it has neither result nor error".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn items_and_what_they_mean() {
        let item = |text: &str| read_item(text.as_bytes());
        assert_eq!(item(r#"{"id":1,"result":7}"#).unwrap(), Answer::Result(json!(7)));
        assert!(matches!(
            item(r#"{"id":1,"error":{"code":5,"message":"m"}}"#),
            Err(CallError::Service { code: 5, .. })
        ));
        for own in
            [r#"{"id":2,"result":7}"#, r#"{"id":1,"method":"m"}"#, r#"{"id":1,"name":"x"}"#, "[1]", "3"]
        {
            assert_eq!(item(own).unwrap(), Answer::Item(serde_json::from_str(own).unwrap()), "{own}");
        }
        assert!(matches!(item("{"), Err(CallError::Garbled(_))));
    }

    #[test]
    fn only_what_promises_that_nothing_was_sent_is_tried_again() {
        for (code, again) in [
            (Code::NodeOffline, true),
            (Code::Draining, true),
            (Code::NotHere, true),
            (Code::Saturated, true),
            (Code::NodeNotFound, false),
            (Code::Denied, false),
            (Code::Lost, false),
            (Code::Timeout, false),
            (Code::Internal, false),
        ] {
            assert_eq!(may_wait(&Refusal::new(code, "")), again, "{code}");
        }
    }

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
