//! A refusal is a sentence with a remedy, never a closed socket.
//!
//! The same three fields travel in `Denied` (the session), in `Refused` (a substream) and in the errors of
//! every surface, so that what the last hop knew reaches the person who asked.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{brief, code::Code, limits, text::sanitize};

/// Why something was refused: what was wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What programs decide by.
    pub code: Code,
    /// What people read; sent with at most [`limits::END_TEXT_MAX`] bytes. Chosen by the peer: shown only through [`Display`](fmt::Display) or
    /// [`sanitize`].
    #[serde(default, serialize_with = "brief::serialize")]
    pub message: String,
    /// When to try again, in milliseconds from now; absent when the code's own row says all there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal without a time of its own.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    /// The same, to be tried again after `wait` (whole milliseconds).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// How long to wait before trying again, if the refusing side said so. A peer may name any time: whoever
    /// obeys it sets a limit of its own.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }
}

impl fmt::Display for Refusal {
    /// `code: message`, one line, safe to log and to print.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if self.message.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", sanitize(&self.message, limits::END_TEXT_MAX))
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_as_one_safe_sentence() {
        let refusal = Refusal::new(Code::Denied, "no right\r\n\x1b[2J; ask an admin");
        assert_eq!(refusal.to_string(), "denied: no right\\r\\n\\u{1b}[2J; ask an admin");
        assert_eq!(Refusal::new(Code::Timeout, "").to_string(), "timeout");
        let long = Refusal::new(Code::Internal, "x".repeat(1 << 20)).to_string();
        assert_eq!(long.chars().count(), "internal: ".len() + limits::END_TEXT_MAX);
    }

    #[test]
    fn json_has_only_what_was_said() {
        let plain = Refusal::new(Code::NotHere, "elsewhere");
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"code":"not_here","message":"elsewhere"}"#);
        let timed = plain.retry_after(Duration::from_secs(60));
        assert_eq!(
            serde_json::to_string(&timed).unwrap(),
            r#"{"code":"not_here","message":"elsewhere","retry_after_ms":60000}"#
        );
        assert_eq!(timed.wait(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_newer_peers_refusal_stays_one() {
        let json = r#"{"code":"moon_phase","message":"wait","retry_after_ms":null,"hint":{"deep":[1]}}"#;
        assert_eq!(serde_json::from_str::<Refusal>(json).unwrap(), Refusal::new(Code::Internal, "wait"));
        assert_eq!(
            serde_json::from_str::<Refusal>(r#"{"code":"lost"}"#).unwrap(),
            Refusal::new(Code::Lost, "")
        );
        serde_json::from_str::<Refusal>(r#"{"message":"no code"}"#).unwrap_err();
    }

    #[test]
    fn a_wait_beyond_all_measure_does_not_overflow() {
        assert_eq!(
            Refusal::new(Code::Saturated, "").retry_after(Duration::MAX).retry_after_ms,
            Some(u64::MAX)
        );
    }

    proptest! {
        #[test]
        fn round_trips(index in 0..Code::ALL.len(), message in any::<String>(), wait in any::<Option<u64>>()) {
            let refusal = Refusal { code: Code::ALL[index], message, retry_after_ms: wait };
            let json = serde_json::to_vec(&refusal).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Refusal>(&json).unwrap(), refusal);
        }
    }
}
