//! Why a call has no result, told apart by what its caller has to know next: whether it can have happened.

use std::time::Duration;

use reachback_link::{OpenError, StreamEnd};
use reachback_wire::{Code, Delivered, Refusal};
use serde_json::Value;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The call was turned away, or not even answered, before anything of it was sent; [`Refusal::code`] says why.
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
    #[error("{message}{}", doubt(*code))]
    Broken {
        /// `reset`, `lost`, or what the other end said.
        code: Code,
        /// The same as a sentence.
        message: String,
    },
    /// The session was over before anything was sent.
    #[error("the session with the explorer is over: {message}")]
    NotConnected {
        /// `node_offline`: what could not be sent can be sent again.
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
    /// The request is sent behind the answer to the open and not before: without that answer it is certain that nothing
    /// was sent, whatever became of the open.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(refusal) => Self::Refused(refusal),
            OpenError::Ended(end) | OpenError::Lost(end) => {
                Self::NotConnected { code: Code::NodeOffline, message: end.to_string() }
            }
            OpenError::Timeout | OpenError::Saturated(_) | OpenError::Protocol(_) => {
                Self::Refused(Refusal::new(error.code(), format!("{error}; nothing was sent")))
            }
        }
    }
}

impl From<StreamEnd> for CallError {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Finished => Self::Garbled("it ended before it was whole".into()),
            // The code is a field of its own, and what was said is the sentence.
            StreamEnd::Reset { code, text } if !text.is_empty() => Self::Broken { code, message: text },
            other => Self::Broken { code: other.code(), message: other.to_string() },
        }
    }
}

/// What the sentence leaves open. A code that only what was not delivered ends with leaves nothing open.
fn doubt(code: Code) -> &'static str {
    match code.row().delivered {
        Delivered::Maybe => "; whether the call was carried out is unknown",
        Delivered::No | Delivered::Yes => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_told_in_its_own_words_and_with_no_more_doubt_than_there_is() {
        let told =
            |code, text: &str| CallError::from(StreamEnd::Reset { code, text: text.into() }).to_string();
        assert_eq!(told(Code::ServiceUnreachable, "nobody listens there"), "nobody listens there");
        assert_eq!(
            told(Code::BadFrame, "that is no HTTP"),
            "that is no HTTP; whether the call was carried out is unknown"
        );
        assert!(told(Code::Internal, "").contains("internal"), "no sentence: the code is one");
    }
}
