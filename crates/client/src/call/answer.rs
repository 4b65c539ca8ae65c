//! The answer to a call as it comes: its head, its items, its result, or what it has instead.
//!
//! What a service says and what became of the call are two things: its own error, a bare HTTP status and a stream that
//! broke must not be taken for each other. All of it is told apart here, where the bytes are read.

use std::{collections::BTreeMap, time::Duration};

use reachback_link::Substream;
use reachback_wire::{Code, EndStatus, Record, limits, text::sanitize};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::time::{Instant, timeout_at};

use super::{CallError, ID};

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

impl CallStream {
    /// The request has been sent on `substream`; its answer may take until `deadline`, which is `limit` from its begin.
    pub(super) fn new(substream: Substream, deadline: Instant, limit: Duration, notify: bool) -> Self {
        Self {
            substream: Some(substream),
            deadline,
            limit,
            head: None,
            text: Vec::new(),
            received: 0,
            notify,
            any: false,
        }
    }

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
    id: Option<Value>,
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
    // Without an id it can be about nothing else; with somebody else's it is no answer to this call.
    if let Some(id) = answer.id.filter(|id| *id != ID) {
        let id = sanitize(&id.to_string(), 40);
        return Err(CallError::Garbled(format!("it is for id {id}, the call has id {ID}; mend the service")));
    }
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
    fn answers_and_what_they_mean() {
        assert_eq!(read_answer(br#"{"jsonrpc":"2.0","id":1,"result":[1]}"#).unwrap(), json!([1]));
        assert_eq!(read_answer(br#"{"jsonrpc":"2.0","id":1,"result":null}"#).unwrap(), Value::Null);
        let error =
            read_answer(br#"{"id":1,"error":{"code":-32601,"message":"no\u001b[1m","data":7}}"#).unwrap_err();
        let CallError::Service { code, message, data } = error else { panic!("{error}") };
        assert_eq!((code, data), (-32601, Some(json!(7))));
        assert!(!message.contains('\x1b'), "{message:?}");
        for own in [&br#"{"result":1}"#[..], br#"{"id":null,"result":1}"#] {
            assert_eq!(read_answer(own).unwrap(), json!(1));
        }
        let others: [&[u8]; 2] =
            [br#"{"id":2,"result":1}"#, br#"{"id":"1","error":{"code":1,"message":""}}"#];
        for garbled in [&b""[..], b"{}", b"[]", b"nonsense", br#"{"result":1"#].into_iter().chain(others) {
            assert!(matches!(read_answer(garbled), Err(CallError::Garbled(_))), "{garbled:?}");
        }
    }
}
