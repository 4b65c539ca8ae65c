//! One JSON-RPC call: a substream of its own, one request, one answer, one deadline.
//!
//! Whoever waits for an answer must know afterwards whether the call can have happened. So the error tells four things
//! apart: nothing was sent ([`CallError::Refused`]), the service answered with an error of its own, the time is up,
//! and the line broke after delivery may have happened. A call is never sent twice.

mod answer;
mod error;

use std::{collections::BTreeMap, time::Duration};

use reachback_link::{Session, StreamEnd};
use reachback_wire::{
    Code, Open, RecordKind, Refusal, Target,
    code::{Delivered, Retry},
    limits,
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use answer::{Answer, CallStream};
pub use error::CallError;

use crate::limits::{FAN_OUT_LEAST, RETRY_FIRST, RETRY_MAX};

/// A call to be made: whom, what, with which headers, for how long.
#[derive(Debug, Clone)]
pub struct Call {
    target: Target,
    method: String,
    params: Value,
    headers: BTreeMap<String, String>,
    limit: Duration,
    /// When all of it is over, waiting included, if somebody has set a time.
    until: Option<Instant>,
    wait: Duration,
    stream: bool,
    notify: bool,
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
            until: None,
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

    /// The same call, over at this time, however many tries it takes.
    #[must_use]
    pub(crate) fn until(mut self, deadline: Instant) -> Self {
        self.until = Some(deadline);
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
        let give_up = self.last_try();
        let mut pause = RETRY_FIRST;
        loop {
            let refusal = match self.attempt(session, &head, &request).await {
                Err(CallError::Refused(refusal)) if may_wait(&refusal) => refusal,
                outcome => return outcome,
            };
            let now = Instant::now();
            let next = match refusal.wait() {
                // Who asks for patience is not tried before.
                Some(asked) => now + asked.max(RETRY_FIRST),
                // A last try at the very end of the wait, if the next one came too late.
                None => (now + pause).min(give_up),
            };
            if now >= give_up || next > give_up {
                return Err(CallError::Refused(refusal));
            }
            sleep_until(next).await;
            pause = (pause * 2).min(RETRY_MAX);
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
        let limit = self.limit_now();
        let deadline = Instant::now() + limit;
        let mut substream = session.open(Open::call(self.target.clone(), limit)).await?;
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
                return Err(CallError::Timeout(limit));
            }
        }
        Ok(CallStream::new(substream, deadline, limit, self.notify))
    }

    /// When the last try begins: it must have time to be answered.
    fn last_try(&self) -> Instant {
        let now = Instant::now();
        let end = now + self.wait;
        match self.until {
            Some(until) => end.min(now + until.saturating_duration_since(now).saturating_sub(FAN_OUT_LEAST)),
            None => end,
        }
    }

    /// What the answer to a try that begins now may take.
    fn limit_now(&self) -> Duration {
        match self.until {
            Some(until) => self.limit.min(until.saturating_duration_since(Instant::now())),
            None => self.limit,
        }
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

/// The id of every request: it has its substream to itself.
const ID: u32 = 1;

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

#[derive(Serialize)]
struct Request<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
