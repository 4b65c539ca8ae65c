//! The messages of the control substream.
//!
//! Everything a session says about itself goes here, apart from the data: whether the other end is there, what a node
//! has, why a session is about to end. One substream for all of it keeps these messages in order, and its silence is
//! what tells a dead peer from a quiet one. Frame types this version doesn't know never get here: the decoder passes
//! over them, so that later versions can say more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    CallerPattern, Code, Frame, FrameError, FrameType, Hex, Refusal, ServiceName, SessionId, Stage, brief,
    decimal, frame, lz4,
};

/// One message on control.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlMessage {
    /// Are you there?
    Heartbeat(Heartbeat),
    /// Yes.
    HeartbeatAck(HeartbeatAck),
    /// What a node has: the first message of a node, and again after every change.
    Services(Services),
    /// Changed health of some services.
    Health(Health),
    /// Another process took this node's name.
    Replaced(Replaced),
    /// The dialer wants a new certificate.
    Renew(Renew),
    /// The acceptor's answer to it.
    Renewed(Renewed),
    /// The acceptor's other answer: why there is none.
    NotRenewed(Refusal),
    /// The session ends on purpose.
    Bye(Bye),
    /// How the sender's last sessions ended.
    Ends(Ends),
}

impl ControlMessage {
    /// Its frame type.
    pub fn kind(&self) -> FrameType {
        match self {
            Self::Heartbeat(_) => FrameType::Heartbeat,
            Self::HeartbeatAck(_) => FrameType::HeartbeatAck,
            Self::Services(_) => FrameType::Services,
            Self::Health(_) => FrameType::Health,
            Self::Replaced(_) => FrameType::Replaced,
            Self::Renew(_) => FrameType::Renew,
            Self::Renewed(_) => FrameType::Renewed,
            Self::NotRenewed(_) => FrameType::NotRenewed,
            Self::Bye(_) => FrameType::Bye,
            Self::Ends(_) => FrameType::Ends,
        }
    }

    /// The frame to send.
    pub fn encode(&self) -> Vec<u8> {
        let kind = self.kind();
        match self {
            Self::Heartbeat(message) => frame::encode(kind, message),
            Self::HeartbeatAck(message) => frame::encode(kind, message),
            Self::Services(message) => frame::encode(kind, message),
            Self::Health(message) => frame::encode(kind, message),
            Self::Replaced(message) => frame::encode(kind, message),
            Self::Renew(message) => frame::encode(kind, message),
            Self::Renewed(message) => frame::encode(kind, message),
            Self::NotRenewed(message) => frame::encode(kind, message),
            Self::Bye(message) => frame::encode(kind, message),
            Self::Ends(message) => frame::encode(kind, message),
        }
    }

    /// Reads a frame of the control substream.
    ///
    /// # Errors
    /// The payload is not what belongs to the type, or the type does not belong on control.
    pub fn from_frame(frame: &Frame) -> Result<Self, FrameError> {
        let message = match frame.kind {
            FrameType::Heartbeat => Self::Heartbeat(frame.parse()?),
            FrameType::HeartbeatAck => Self::HeartbeatAck(frame.parse()?),
            FrameType::Services => Self::Services(frame.parse()?),
            FrameType::Health => Self::Health(frame.parse()?),
            FrameType::Replaced => Self::Replaced(frame.parse()?),
            FrameType::Renew => Self::Renew(frame.parse()?),
            FrameType::Renewed => Self::Renewed(frame.parse()?),
            FrameType::NotRenewed => Self::NotRenewed(frame.parse()?),
            FrameType::Bye => Self::Bye(frame.parse()?),
            FrameType::Ends => Self::Ends(frame.parse()?),
            kind @ (FrameType::Hello
            | FrameType::Challenge
            | FrameType::Proof
            | FrameType::Welcome
            | FrameType::Denied
            | FrameType::Enrolled
            | FrameType::Open
            | FrameType::Accepted
            | FrameType::Opened
            | FrameType::Refused) => {
                return Err(FrameError::Unexpected { kind, expected: Stage::Control.expects() });
            }
        };
        Ok(message)
    }
}

/// Sent by both ends; answered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Grows by one with each of this end.
    #[serde(with = "decimal")]
    pub seq: u64,
    /// When it was sent: milliseconds since the session began, by the sender's clock. With it a capture shows how long
    /// a heartbeat lay in queues.
    #[serde(with = "decimal")]
    pub sent_ms: u64,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAck {
    /// The heartbeat's.
    #[serde(with = "decimal")]
    pub seq: u64,
}

/// What a node has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// What it is called by in groups.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Everything that can be reached on it.
    #[serde(default)]
    pub services: Vec<ServiceInfo>,
    /// Callers whom the node lets in for a while, whatever the explorer's rights say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantInfo>,
    /// What the machine is; passed along as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Value>,
}

impl Services {
    /// Says whether it can be sent at all, so that a node can refuse its configuration instead of losing every session.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] beyond [`SERVICES_MAX`](crate::limits::SERVICES_MAX).
    pub fn check(&self) -> Result<(), FrameError> {
        let kind = FrameType::Services;
        let len = frame::encode(kind, self).len() - frame::HEADER_LEN;
        match Stage::Control.limit(kind) {
            Some(limit) if len > limit => {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                Err(FrameError::TooLarge { number: kind.number(), len, limit })
            }
            _ => Ok(()),
        }
    }
}

/// Callers whom a node lets in to one of its services for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantInfo {
    /// The service.
    pub service: ServiceName,
    /// The callers.
    pub to: CallerPattern,
    /// Milliseconds left at the time of sending: no two clocks have to agree.
    #[serde(with = "decimal")]
    pub left_ms: u64,
}

/// One service of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Its name.
    pub name: ServiceName,
    /// How it takes calls: `http`, `lines` or `raw`; absent if it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framing: Option<String>,
    /// How whoever opens it should announce its records: [`lz4::NAME`], or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// How it is.
    #[serde(default)]
    pub health: HealthState,
}

impl ServiceInfo {
    /// Whether it asks for records that may be compressed.
    pub fn asks_for_lz4(&self) -> bool {
        self.compression.as_deref() == Some(lz4::NAME)
    }
}

/// How a service is, as its node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HealthState {
    /// It answers.
    Ok,
    /// It does not answer.
    Failing {
        /// What went wrong when it was last tried.
        #[serde(default, serialize_with = "brief::serialize")]
        reason: String,
    },
    /// Not tried yet, or a state of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Changed health of some services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Those that changed.
    pub services: Vec<ServiceHealth>,
}

/// The health of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// Its name.
    pub name: ServiceName,
    /// How it is now.
    pub health: HealthState,
}

/// Another process took this node's name. The session ends after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Who did, and what to do about it.
    #[serde(serialize_with = "brief::serialize")]
    pub message: String,
}

/// A certificate request for the key that the session's certificate is for: sent while that certificate is still good, so
/// that nobody has to notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// PKCS#10, DER.
    pub csr: Hex,
}

/// A new certificate. The session goes on as it is; the next one begins with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The dialer's certificate and those between it and a root (DER), its own first.
    pub chain: Vec<Hex>,
    /// The authorities by which the explorer is to be known from now on (DER).
    pub ca: Vec<Hex>,
}

/// The session ends on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Why.
    #[serde(serialize_with = "brief::serialize")]
    pub reason: String,
}

/// How the sender's last sessions and attempts ended, in its own view, newest last. It is what an operator reads when
/// the two ends disagree about what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// At most [`ENDS_KEPT`](crate::limits::ENDS_KEPT).
    pub ends: Vec<EndReport>,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReport {
    /// When, by the sender's clock: milliseconds since 1970.
    #[serde(with = "decimal")]
    pub at_unix_ms: u64,
    /// Which session; absent for an attempt that was never welcomed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What happened.
    pub code: Code,
    /// The same as a sentence.
    #[serde(serialize_with = "brief::serialize")]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json, to_value};

    use super::*;
    use crate::limits;

    #[test]
    fn health_reads_as_json_people_would_write() {
        let failing = HealthState::Failing { reason: "connection refused".into() };
        assert_eq!(
            to_value(&failing).unwrap(),
            json!({ "state": "failing", "reason": "connection refused" })
        );
        assert_eq!(to_value(HealthState::Ok).unwrap(), json!({ "state": "ok" }));
        assert_eq!(
            from_str::<HealthState>(r#"{"state":"failing"}"#).unwrap(),
            HealthState::Failing { reason: String::new() }
        );
        let later = r#"{"state":"warming","reason":"x","since":1}"#;
        assert_eq!(from_str::<HealthState>(later).unwrap(), HealthState::Unknown);
    }

    #[test]
    fn the_shortest_services() {
        assert_eq!(from_str::<Services>("{}").unwrap(), Services::default());
        let services: Services = from_str(r#"{"services":[{"name":"rpc"}]}"#).unwrap();
        assert_eq!(services.services[0].health, HealthState::Unknown);
        for wrong in ["", "..", "a/b", "a\0b", "a\r\nb", "*", "rpc>", &"x".repeat(2048)] {
            let json = json!({ "services": [{ "name": wrong }] }).to_string();
            let error = from_str::<Services>(&json).unwrap_err().to_string();
            assert!(!error.contains(|c: char| c.is_control()) && error.len() < 500, "{error:?}");
        }
    }

    #[test]
    fn deep_capabilities_are_refused_without_a_deep_stack() {
        for inner in ["[", "{\"a\":"] {
            let payload = format!("{{\"capabilities\":{}", inner.repeat(40_000));
            let frame = Frame { kind: FrameType::Services, payload: payload.into() };
            let error = ControlMessage::from_frame(&frame).unwrap_err();
            assert!(matches!(error, FrameError::Json { .. }), "{error}");
        }
    }

    #[test]
    fn services_that_are_too_many_are_told_before_they_are_sent() {
        let mut services = Services::default();
        services.check().unwrap();
        services.labels.insert("x".into(), "y".repeat(limits::SERVICES_MAX));
        let error = services.check().unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { limit: limits::SERVICES_MAX, .. }), "{error}");
    }

    #[test]
    fn frames_of_other_places_are_no_control_messages() {
        for kind in FrameType::ALL {
            let frame = Frame { kind: *kind, payload: "[]".into() };
            let belongs = Stage::Control.limit(*kind).is_some();
            let error = ControlMessage::from_frame(&frame).unwrap_err();
            assert_eq!(matches!(error, FrameError::Unexpected { .. }), !belongs, "{kind:?}: {error}");
        }
    }

    #[test]
    fn an_end_without_session() {
        let end = EndReport { at_unix_ms: 7, session: None, code: Code::Lost, message: "no route".into() };
        let json = json!({ "at_unix_ms": "7", "code": "lost", "message": "no route" });
        assert_eq!(to_value(&end).unwrap(), json);
        assert_eq!(serde_json::from_value::<EndReport>(json).unwrap(), end);
    }
}
