//! The frame of everything that is not a record: handshake, open header and reply, control.
//!
//! These messages are rare and must stay readable for other implementations and for a person with a packet capture,
//! so they are JSON behind nine fixed bytes. What may be sent, and how long it may be, depends on where in its life a
//! connection stands ([`Stage`]); the length is judged on the header alone, before a byte of payload is kept.
//!
//! ```text
//! 0        4    5            9
//! | magic  |type| length BE  | payload: JSON
//! | RBK 01 | u8 | u32        |
//! ```

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Code, chunks::Chunks, limits, text::sanitize};

/// `RBK` and the number of the frame format, which never changes: versions are negotiated in `Hello`.
pub const MAGIC: [u8; 4] = *b"RBK\x01";

/// Bytes before the payload.
pub const HEADER_LEN: usize = 9;

/// How much of a JSON error is told; it can contain text the peer chose.
const JSON_REASON_MAX: usize = 200;

/// What a frame is. Numbers are never used twice; those missing here are reserved in PROTOCOL.md.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameType {
    /// The dialer's first words.
    Hello = 1,
    /// The acceptor proves the shared secret and asks for the same.
    Challenge = 2,
    /// The dialer proves it.
    Proof = 3,
    /// The dialer is let in.
    Welcome = 4,
    /// The dialer is not let in.
    Denied = 5,
    /// The dialer gets a certificate.
    Enrolled = 6,
    /// What a new substream is for.
    Open = 16,
    /// The open was read; its answer takes longer than [`limits::ACCEPTED_AFTER`].
    Accepted = 17,
    /// The other end of the substream is connected.
    Opened = 18,
    /// The open was turned away and nothing reached the service.
    Refused = 19,
    /// Are you there?
    Heartbeat = 32,
    /// Yes.
    HeartbeatAck = 33,
    /// What a node has.
    Services = 34,
    /// Changed health of some services.
    Health = 35,
    /// Another process took this node's name.
    Replaced = 37,
    /// A new certificate, please.
    Renew = 38,
    /// The session ends on purpose.
    Bye = 39,
    /// How the sender's last sessions ended, in its own view.
    Ends = 40,
    /// Here it is.
    Renewed = 41,
    /// There is none.
    NotRenewed = 42,
}

impl FrameType {
    /// All of them, by number.
    pub const ALL: &[Self] = &[
        Self::Hello,
        Self::Challenge,
        Self::Proof,
        Self::Welcome,
        Self::Denied,
        Self::Enrolled,
        Self::Open,
        Self::Accepted,
        Self::Opened,
        Self::Refused,
        Self::Heartbeat,
        Self::HeartbeatAck,
        Self::Services,
        Self::Health,
        Self::Replaced,
        Self::Renew,
        Self::Bye,
        Self::Ends,
        Self::Renewed,
        Self::NotRenewed,
    ];

    /// The number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The type of a number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.number() == number)
    }
}

/// Where a reader of frames stands. It decides which types may come and how long each may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// An acceptor before `Hello`.
    HelloExpected,
    /// A dialer that has sent `Hello` to be let in.
    HelloReply,
    /// A dialer that has sent `Hello` for a certificate.
    EnrolmentReply,
    /// An acceptor that has sent `Challenge`.
    ProofExpected,
    /// A dialer that has sent `Proof`.
    ProofReply,
    /// The acceptor of a substream before `Open`.
    OpenExpected,
    /// The opener of a substream before `Opened` or `Refused`.
    OpenReply,
    /// Either end of control. Types this version doesn't know are passed over.
    Control,
}

impl Stage {
    /// The longest payload of `kind`, in bytes; `None`: not allowed here.
    pub fn limit(self, kind: FrameType) -> Option<usize> {
        use FrameType as F;
        match (self, kind) {
            (Self::HelloExpected, F::Hello)
            | (Self::HelloReply | Self::ProofReply, F::Welcome | F::Denied)
            | (Self::EnrolmentReply, F::Denied) => Some(limits::HANDSHAKE_BYTES_MAX - HEADER_LEN),
            (Self::HelloReply, F::Challenge) | (Self::ProofExpected, F::Proof) => Some(limits::PROOF_MAX),
            (Self::EnrolmentReply, F::Enrolled) => Some(limits::CERTIFICATES_MAX),
            (Self::OpenExpected, F::Open) | (Self::OpenReply, F::Accepted | F::Opened | F::Refused) => {
                Some(limits::OPEN_MAX)
            }
            (
                Self::Control,
                F::Heartbeat | F::HeartbeatAck | F::Replaced | F::Renew | F::NotRenewed | F::Bye,
            ) => Some(limits::OPEN_MAX),
            (Self::Control, F::Renewed) => Some(limits::CERTIFICATES_MAX),
            (Self::Control, F::Services | F::Health | F::Ends) => Some(limits::SERVICES_MAX),
            _ => None,
        }
    }

    pub(crate) fn expects(self) -> &'static str {
        match self {
            Self::HelloExpected => "Hello",
            Self::HelloReply => "Welcome, Challenge or Denied",
            Self::EnrolmentReply => "Enrolled or Denied",
            Self::ProofExpected => "Proof",
            Self::ProofReply => "Welcome or Denied",
            Self::OpenExpected => "Open",
            Self::OpenReply => "Accepted, Opened or Refused",
            Self::Control => "a control message",
        }
    }
}

/// One frame, its payload not yet looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameType,
    /// JSON.
    pub payload: Bytes,
}

impl Frame {
    /// Reads the payload, a JSON object. Fields `T` doesn't know are ignored.
    ///
    /// # Errors
    /// [`FrameError::Utf8`] or [`FrameError::Json`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        let text = std::str::from_utf8(&self.payload)
            .map_err(|error| FrameError::Utf8 { kind: self.kind, at: error.valid_up_to() })?;
        // Otherwise an array with the fields in order would do as well, and become part of the protocol by accident.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(FrameError::Json { kind: self.kind, reason: "a JSON object is expected".to_owned() });
        }
        serde_json::from_str(text).map_err(|error| FrameError::Json {
            kind: self.kind,
            reason: sanitize(&error.to_string(), JSON_REASON_MAX),
        })
    }
}

/// Header and payload of one frame, ready to send.
///
/// The sender keeps to [`Stage::limit`]; a longer payload is refused by whoever reads it.
///
/// # Panics
/// If `payload` can't be written as JSON, which no message of this crate does.
pub fn encode<T: Serialize>(kind: FrameType, payload: &T) -> Vec<u8> {
    let mut frame = Vec::with_capacity(256);
    frame.extend_from_slice(&MAGIC);
    frame.push(kind.number());
    frame.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut frame, payload)
        .expect("messages have string keys and writing to a Vec can't fail");
    // A payload of 4 GiB would be refused by every reader; the highest length says the same.
    let len = u32::try_from(frame.len() - HEADER_LEN).unwrap_or(u32::MAX);
    frame[5..HEADER_LEN].copy_from_slice(&len.to_be_bytes());
    frame
}

/// Cuts frames out of a byte stream.
///
/// Push what arrived, call [`next`](Self::next) until it gives `None`. A reader that must not read beyond a frame asks
/// [`needed`](Self::needed) how much it may read.
#[derive(Debug)]
pub struct FrameDecoder {
    stage: Stage,
    bytes: Chunks,
    /// What is still to come of the payload of an unknown control frame.
    skipping: usize,
}

impl FrameDecoder {
    /// A decoder for a connection or substream that stands at `stage`.
    pub fn new(stage: Stage) -> Self {
        Self { stage, bytes: Chunks::default(), skipping: 0 }
    }

    /// From the next frame on, the rules of `stage` hold.
    pub fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
    }

    /// Adds what arrived. The decoder keeps it until it is decoded or taken, so a reader pushes no more than it can
    /// decode before it reads again.
    pub fn push(&mut self, bytes: Bytes) {
        self.bytes.push(bytes);
    }

    /// The next frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes break the rules of the stage. Nothing is consumed then: asked again, it says the same.
    #[expect(clippy::should_implement_trait, reason = "the end of an iterator would mean something else")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            self.skipping -= self.bytes.skip(self.skipping);
            let Some(header) = self.bytes.peek::<HEADER_LEN>() else {
                // Wrong first bytes are told at once: a peer that speaks another protocol may never send nine.
                return self.check_magic().map(|()| None);
            };
            let Header { kind, len } = self.read_header(header)?;
            if self.bytes.len() < HEADER_LEN + len && kind.is_some() {
                return Ok(None);
            }
            self.bytes.skip(HEADER_LEN);
            match kind {
                Some(kind) => {
                    let payload = self.bytes.take(len).unwrap_or_default();
                    return Ok(Some(Frame { kind, payload }));
                }
                None => self.skipping = len,
            }
        }
    }

    /// How many more bytes [`next`](Self::next) needs before it can get any further: what is missing of the header,
    /// then what is missing of the payload. 0 if a frame (or an error) is ready.
    pub fn needed(&self) -> usize {
        if self.skipping > 0 {
            return (self.skipping + HEADER_LEN).saturating_sub(self.bytes.len());
        }
        match self.bytes.peek::<HEADER_LEN>() {
            None if self.check_magic().is_err() => 0,
            None => HEADER_LEN - self.bytes.len(),
            Some(header) => match self.read_header(header) {
                Ok(Header { kind: Some(_), len }) => (HEADER_LEN + len).saturating_sub(self.bytes.len()),
                Ok(Header { kind: None, .. }) | Err(_) => 0,
            },
        }
    }

    /// What was pushed and not consumed: after the last frame of a handshake or open header, the first bytes of what
    /// follows it.
    pub fn take_rest(&mut self) -> Bytes {
        self.bytes.take_all()
    }

    /// Says whether the input may end here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.bytes.len() > 0 || self.skipping > 0 {
            return Err(FrameError::Truncated { expected: self.stage.expects(), got: self.bytes.len() });
        }
        Ok(())
    }

    fn check_magic(&self) -> Result<(), FrameError> {
        let seen = self.bytes.len().min(MAGIC.len());
        let got = match seen {
            0 => return Ok(()),
            1 => pad(self.bytes.peek::<1>()),
            2 => pad(self.bytes.peek::<2>()),
            3 => pad(self.bytes.peek::<3>()),
            _ => pad(self.bytes.peek::<4>()),
        };
        if got[..seen] == MAGIC[..seen] { Ok(()) } else { Err(FrameError::Magic { got, seen }) }
    }

    /// `kind` is `None` for a control frame to pass over.
    fn read_header(&self, header: [u8; HEADER_LEN]) -> Result<Header, FrameError> {
        self.check_magic()?;
        let [_, _, _, _, number, a, b, c, d] = header;
        let announced = u32::from_be_bytes([a, b, c, d]);
        let kind = FrameType::from_number(number);
        let limit = match kind {
            Some(kind) => self
                .stage
                .limit(kind)
                .ok_or(FrameError::Unexpected { kind, expected: self.stage.expects() })?,
            // Passed over without being kept, but still bounded: one frame must not occupy control for minutes.
            None if self.stage == Stage::Control => limits::SERVICES_MAX,
            None => return Err(FrameError::UnknownType { number, expected: self.stage.expects() }),
        };
        let len = usize::try_from(announced).unwrap_or(usize::MAX);
        if len > limit {
            return Err(FrameError::TooLarge { number, len: announced, limit });
        }
        Ok(Header { kind, len })
    }
}

struct Header {
    kind: Option<FrameType>,
    len: usize,
}

fn pad<const N: usize>(bytes: Option<[u8; N]>) -> [u8; 4] {
    let mut padded = [0; 4];
    if let Some(bytes) = bytes {
        padded[..N].copy_from_slice(&bytes);
    }
    padded
}

/// Why bytes are no frame, or not one that may come now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol.
    #[error(
        "the peer doesn't speak the tunnel protocol: its first bytes are \"{}\" where a frame begins with \"RBK\\x01\"; \
         check that the address is a reachback explorer",
        got[..*seen].escape_ascii()
    )]
    Magic {
        /// The first bytes.
        got: [u8; 4],
        /// How many of them arrived.
        seen: usize,
    },
    /// A type this version doesn't know, outside control.
    #[error(
        "frame type {number} is not known to this version, where {expected} is expected; use matching versions on both ends"
    )]
    UnknownType {
        /// Its number.
        number: u8,
        /// What may come here.
        expected: &'static str,
    },
    /// A known type at the wrong time.
    #[error("the peer sent {kind:?} where {expected} is expected")]
    Unexpected {
        /// What came.
        kind: FrameType,
        /// What may come here.
        expected: &'static str,
    },
    /// Longer than its type may be here.
    #[error("a frame of type {number} announces {len} bytes; {limit} are allowed here")]
    TooLarge {
        /// Its type.
        number: u8,
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        limit: usize,
    },
    /// The payload is no UTF-8.
    #[error("the payload of the {kind:?} frame is not UTF-8 (byte {at})")]
    Utf8 {
        /// What it was sent as.
        kind: FrameType,
        /// The first wrong byte.
        at: usize,
    },
    /// The payload is not the JSON that belongs to its type.
    #[error("the payload of the {kind:?} frame can't be read: {reason}")]
    Json {
        /// What it was sent as.
        kind: FrameType,
        /// What is wrong and where, made safe to print.
        reason: String,
    },
    /// The input ended inside a frame.
    #[error("the connection ended in the middle of a frame, after {got} bytes, where {expected} is expected")]
    Truncated {
        /// What may come here.
        expected: &'static str,
        /// Bytes of the frame that arrived.
        got: usize,
    },
}

impl FrameError {
    /// What to tell the peer.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Magic { .. }
            | Self::UnknownType { .. }
            | Self::Unexpected { .. }
            | Self::Utf8 { .. }
            | Self::Json { .. }
            | Self::Truncated { .. } => Code::BadFrame,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decoder(stage: Stage, bytes: &[u8]) -> FrameDecoder {
        let mut decoder = FrameDecoder::new(stage);
        decoder.push(Bytes::copy_from_slice(bytes));
        decoder
    }

    fn with_length(kind: u8, len: u32) -> Vec<u8> {
        [&MAGIC[..], &[kind], &len.to_be_bytes()].concat()
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(FrameType::HeartbeatAck, &json!({ "seq": "7" }));
        assert_eq!(bytes, b"RBK\x01\x21\x00\x00\x00\x0b{\"seq\":\"7\"}");
        let frame = decoder(Stage::Control, &bytes).next().unwrap().unwrap();
        assert_eq!(frame.kind, FrameType::HeartbeatAck);
        assert_eq!(frame.parse::<Value>().unwrap(), json!({ "seq": "7" }));
    }

    #[test]
    fn numbers_and_types_belong_together() {
        for kind in FrameType::ALL {
            assert_eq!(FrameType::from_number(kind.number()), Some(*kind));
        }
        // Reserved for later versions.
        for number in [0, 7, 36, 43, 255] {
            assert_eq!(FrameType::from_number(number), None);
        }
    }

    #[test]
    fn every_type_has_its_place() {
        let stages = [
            (Stage::HelloExpected, &[FrameType::Hello][..]),
            (Stage::HelloReply, &[FrameType::Challenge, FrameType::Welcome, FrameType::Denied]),
            (Stage::EnrolmentReply, &[FrameType::Denied, FrameType::Enrolled]),
            (Stage::ProofExpected, &[FrameType::Proof]),
            (Stage::ProofReply, &[FrameType::Welcome, FrameType::Denied]),
            (Stage::OpenExpected, &[FrameType::Open]),
            (Stage::OpenReply, &[FrameType::Accepted, FrameType::Opened, FrameType::Refused]),
            (Stage::Control, &FrameType::ALL[10..]),
        ];
        for (stage, allowed) in stages {
            for kind in FrameType::ALL {
                let outcome = decoder(stage, &encode(*kind, &json!({}))).next();
                if allowed.contains(kind) {
                    assert_eq!(outcome.unwrap().unwrap().kind, *kind);
                } else {
                    let error = outcome.unwrap_err();
                    assert!(matches!(error, FrameError::Unexpected { kind: k, .. } if k == *kind), "{error}");
                    assert_eq!(error.code(), Code::BadFrame);
                }
            }
        }
    }

    #[test]
    fn the_length_is_judged_before_the_payload_comes() {
        for (stage, kind, limit) in [
            (Stage::HelloExpected, FrameType::Hello, limits::HANDSHAKE_BYTES_MAX - HEADER_LEN),
            (Stage::HelloReply, FrameType::Challenge, limits::PROOF_MAX),
            (Stage::EnrolmentReply, FrameType::Enrolled, limits::CERTIFICATES_MAX),
            (Stage::OpenExpected, FrameType::Open, limits::OPEN_MAX),
            (Stage::Control, FrameType::Renewed, limits::CERTIFICATES_MAX),
            (Stage::Control, FrameType::Services, limits::SERVICES_MAX),
        ] {
            let len = u32::try_from(limit).unwrap();
            let mut fits = decoder(stage, &with_length(kind.number(), len));
            assert_eq!(fits.next(), Ok(None));
            assert_eq!(fits.needed(), limit);
            let error = decoder(stage, &with_length(kind.number(), len + 1)).next().unwrap_err();
            assert_eq!(error, FrameError::TooLarge { number: kind.number(), len: len + 1, limit });
            assert_eq!(error.code(), Code::TooLarge);
        }
    }

    #[test]
    fn unknown_types_are_passed_over_on_control_only() {
        let mut bytes = with_length(200, 5);
        bytes.extend_from_slice(b"12345");
        bytes.extend(encode(FrameType::Bye, &json!({ "reason": "" })));
        assert_eq!(decoder(Stage::Control, &bytes).next().unwrap().unwrap().kind, FrameType::Bye);
        let error = decoder(Stage::OpenReply, &bytes).next().unwrap_err();
        assert!(matches!(error, FrameError::UnknownType { number: 200, .. }), "{error}");
        let error = decoder(Stage::Control, &with_length(200, u32::MAX)).next().unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { number: 200, .. }), "{error}");
    }

    #[test]
    fn an_unknown_frame_is_dropped_while_it_comes() {
        let mut decoder = decoder(Stage::Control, &with_length(200, 1000));
        for _ in 0..9 {
            decoder.push(Bytes::from_static(&[b'x'; 100]));
            assert_eq!(decoder.next(), Ok(None));
            assert_eq!(decoder.bytes.len(), 0);
        }
        assert_eq!(decoder.needed(), 100 + HEADER_LEN);
        decoder.finish().unwrap_err();
        decoder.push(Bytes::from_static(&[b'x'; 100]));
        assert_eq!(decoder.next(), Ok(None));
        decoder.finish().unwrap();
    }

    #[test]
    fn a_wrong_protocol_is_told_by_its_first_byte() {
        for first in ["G", "\x16\x03\x01", "RBK\x02", "SSH-2.0-x"] {
            let error = decoder(Stage::HelloExpected, first.as_bytes()).next().unwrap_err();
            assert!(matches!(error, FrameError::Magic { .. }), "{error}");
        }
        assert_eq!(decoder(Stage::HelloExpected, b"RBK").next(), Ok(None));
    }

    #[test]
    fn the_stage_holds_from_the_next_frame_on() {
        let mut bytes = encode(FrameType::Open, &json!({}));
        bytes.extend(encode(FrameType::Services, &json!({})));
        let mut decoder = decoder(Stage::OpenExpected, &bytes);
        assert_eq!(decoder.next().unwrap().unwrap().kind, FrameType::Open);
        decoder.set_stage(Stage::Control);
        assert_eq!(decoder.next().unwrap().unwrap().kind, FrameType::Services);
        assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn what_follows_a_frame_is_kept_as_it_is() {
        let mut bytes = encode(FrameType::Opened, &json!({}));
        bytes.extend_from_slice(b"\x00\x00\x00\x02hi");
        let mut decoder = decoder(Stage::OpenReply, &bytes);
        decoder.next().unwrap().unwrap();
        assert_eq!(decoder.take_rest(), &b"\x00\x00\x00\x02hi"[..]);
        decoder.finish().unwrap();
    }

    #[test]
    fn payloads_that_are_no_message() {
        let frame =
            |payload: &'static [u8]| Frame { kind: FrameType::Bye, payload: Bytes::from_static(payload) };
        let parse = |payload| frame(payload).parse::<crate::Bye>().unwrap_err();
        assert_eq!(parse(b"{\"reason\":\"\xff\"}"), FrameError::Utf8 { kind: FrameType::Bye, at: 11 });
        for wrong in [
            &b""[..],
            b"{",
            b"null",
            b"[\"reason\"]",
            b"{}",
            b"{\"reason\":1}",
            b"{\"reason\":\"\"} x",
            b"\xef\xbb\xbf{}",
        ] {
            let error = parse(wrong);
            assert!(matches!(error, FrameError::Json { .. }), "{error}");
            assert_eq!(error.code(), Code::BadFrame);
        }
        let deep = Frame { kind: FrameType::Services, payload: Bytes::from("[".repeat(100_000)) };
        deep.parse::<Value>().unwrap_err();
    }

    #[test]
    fn an_error_never_repeats_what_the_peer_chose_unescaped() {
        let payload = Bytes::from_static(b"{\"kind\":\"\\u001b[2J\\r\\nfake log line\"}");
        let error = Frame { kind: FrameType::Open, payload }.parse::<crate::Open>().unwrap_err().to_string();
        assert!(!error.contains(|c: char| c.is_control()), "{error:?}");
        assert!(error.contains("fake log line"), "{error}");
    }
}
