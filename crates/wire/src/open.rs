//! What a substream is for: the first frame on it, and the positive replies.
//!
//! The opener writes `Open` at once, because the mux shows a substream to the peer only with its first bytes; the
//! acceptor always answers, because "refused before anything happened" is the one outcome that may be tried again.
//! An `Open` that makes no sense (a stream without target) can't be built by parsing one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Instance, Role, SessionId, Target, lz4};

/// What a substream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenKind {
    /// The session's own messages; the dialer's first substream, and the only one of its kind.
    Control,
    /// A two-way pipe of bytes to a service.
    Stream,
    /// One JSON-RPC request and its answer.
    Call,
}

/// The header of a substream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Open {
    /// What is to be reached; absent for [`OpenKind::Control`] and only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// What it is for.
    pub kind: OpenKind,
    /// Who asks. Set by the explorer; what a client says here is not believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// Milliseconds left for the answer to this open (and, on a call, for the whole call) at the time of sending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How many explorers have passed it on to another one.
    pub hop: u8,
    /// A W3C `traceparent`, passed along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// How records of this substream may be compressed on this hop, in both directions: [`lz4::NAME`], which holds if both
    /// ends named it among their features. What a reader doesn't know announces nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// The process that is meant; another one answers `not_here`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_instance: Option<Instance>,
}

impl Open {
    /// The session's control substream.
    pub fn control() -> Self {
        Self::new(OpenKind::Control, None)
    }

    /// A pipe to `target`.
    pub fn stream(target: Target) -> Self {
        Self::new(OpenKind::Stream, Some(target))
    }

    /// A call of `target` that is over after `limit`.
    pub fn call(target: Target, limit: Duration) -> Self {
        Self::new(OpenKind::Call, Some(target)).within(limit)
    }

    /// The same, to be answered within `limit`.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.deadline_ms = Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// The same, meant for one process and no other.
    #[must_use]
    pub fn expecting(mut self, instance: Instance) -> Self {
        self.expect_instance = Some(instance);
        self
    }

    /// The same with compression announced. It is taken back where the session's peer has not agreed to any.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.compression = Some(lz4::NAME.to_owned());
        self
    }

    /// Whether it announces records that may be compressed.
    pub fn announces_lz4(&self) -> bool {
        self.compression.as_deref() == Some(lz4::NAME)
    }

    /// What remains for it at the time of sending, if it says so.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline_ms.map(Duration::from_millis)
    }

    fn new(kind: OpenKind, target: Option<Target>) -> Self {
        Self {
            target,
            kind,
            caller: None,
            deadline_ms: None,
            hop: 0,
            trace: None,
            compression: None,
            expect_instance: None,
        }
    }
}

/// Who asks for a substream, as the explorer knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// In which role it is connected.
    pub role: Role,
    /// Its id, as it calls itself.
    pub id: String,
    /// The name that its credential gives it: a user's, or a node's id. Absent if nobody has verified one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is let through only because the node has announced a grant for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub granted: bool,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// The open was read; the answer follows. Sent when that takes longer than
/// [`ACCEPTED_AFTER`](crate::limits::ACCEPTED_AFTER).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {}

/// The service is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The process that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
}

/// What arrived, before kind and target were compared.
#[derive(Deserialize)]
struct Unchecked {
    #[serde(default)]
    target: Option<Target>,
    kind: OpenKind,
    #[serde(default)]
    caller: Option<Caller>,
    #[serde(default)]
    deadline_ms: Option<u64>,
    #[serde(default)]
    hop: u8,
    #[serde(default)]
    trace: Option<String>,
    #[serde(default)]
    compression: Option<String>,
    #[serde(default)]
    expect_instance: Option<Instance>,
}

impl TryFrom<Unchecked> for Open {
    type Error = &'static str;

    fn try_from(open: Unchecked) -> Result<Self, Self::Error> {
        match (open.kind, &open.target) {
            (OpenKind::Control, Some(_)) => return Err("an open of kind control has no target"),
            (OpenKind::Stream | OpenKind::Call, None) => {
                return Err("an open of kind stream or call names its target, such as \"edge-7/rpc\"");
            }
            (OpenKind::Control, None) | (OpenKind::Stream | OpenKind::Call, Some(_)) => {}
        }
        Ok(Self {
            target: open.target,
            kind: open.kind,
            caller: open.caller,
            deadline_ms: open.deadline_ms,
            hop: open.hop,
            trace: open.trace,
            compression: open.compression,
            expect_instance: open.expect_instance,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json, to_value};

    use super::*;

    fn target() -> Target {
        "edge-7/rpc".parse().unwrap()
    }

    #[test]
    fn says_only_what_there_is_to_say() {
        assert_eq!(to_value(Open::control()).unwrap(), json!({ "kind": "control", "hop": 0 }));
        let call = Open::call(target(), Duration::from_secs(2)).expecting(Instance::from_bytes([0xab; 16]));
        let json = json!({
            "target": "edge-7/rpc",
            "kind": "call",
            "deadline_ms": 2000,
            "hop": 0,
            "expect_instance": "ab".repeat(16),
        });
        assert_eq!(to_value(&call).unwrap(), json);
        assert_eq!(call.deadline(), Some(Duration::from_secs(2)));
        assert_eq!(serde_json::from_value::<Open>(json).unwrap(), call);
    }

    #[test]
    fn only_a_compression_that_is_known_is_announced() {
        let open = Open::stream(target()).compressed();
        let json = json!({ "target": "edge-7/rpc", "kind": "stream", "hop": 0, "compression": "lz4" });
        assert_eq!(to_value(&open).unwrap(), json);
        assert!(open.announces_lz4());
        let later: Open =
            from_str(r#"{"kind":"stream","target":"edge-7/rpc","compression":"zstd"}"#).unwrap();
        assert!(!later.announces_lz4() && !Open::stream(target()).announces_lz4());
    }

    #[test]
    fn the_shortest_open_and_fields_of_later_versions() {
        let open: Open = from_str(r#"{"kind":"stream","target":"edge-7/rpc","priority":9}"#).unwrap();
        assert_eq!(open, Open::stream(target()));
        assert_eq!(from_str::<Opened>(r#"{"later":1}"#).unwrap(), Opened::default());
        assert_eq!(from_str::<Accepted>("{}").unwrap(), Accepted {});
    }

    #[test]
    fn opens_that_make_no_sense() {
        for (json, why) in [
            (r#"{"kind":"control","target":"edge-7/rpc"}"#, "no target"),
            (r#"{"kind":"stream"}"#, "names its target"),
            (r#"{"kind":"call"}"#, "names its target"),
            (r#"{"kind":"datagram","target":"edge-7/rpc"}"#, "datagram"),
            (r#"{"kind":"stream","target":"../etc/passwd"}"#, ""),
            (r#"{"kind":"stream","target":"*/rpc"}"#, ""),
            (r#"{"kind":"stream","target":"edge-7/rpc","hop":256}"#, "256"),
            (r#"{"kind":"stream","target":"edge-7/rpc","deadline_ms":-1}"#, "-1"),
            (r#"{"kind":"stream","target":"edge-7/rpc","expect_instance":"zz"}"#, ""),
            (r#"{"target":"edge-7/rpc"}"#, "kind"),
        ] {
            let error = from_str::<Open>(json).unwrap_err().to_string();
            assert!(error.contains(why), "{json}: {error}");
        }
    }

    #[test]
    fn a_deadline_beyond_all_measure_does_not_overflow() {
        assert_eq!(Open::call(target(), Duration::MAX).deadline_ms, Some(u64::MAX));
    }
}
