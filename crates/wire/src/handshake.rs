//! The handshake, before the mux exists: who dials, which version, and whether it may come in.
//!
//! It happens outside the mux so that a stranger costs an acceptor one bounded read and one bounded write, and so that
//! a refusal can be read without any mux at all.
//!
//! 1. The dialer sends `Hello`, with what it shows for its name ([`Credential`]).
//! 2. If that is a shared secret, the acceptor proves first that it knows it (`Challenge`), and the dialer answers with
//!    its own `Proof`. The secret itself never crosses the link.
//! 3. The acceptor answers `Welcome`, and the mux begins right behind it; or `Denied`, and closes. A dialer that came
//!    for a certificate gets `Enrolled`, and both close: it dials again with it.
//!
//! [`Dialer`] and [`Acceptor`] are the two ends as machines. Each step consumes the machine and gives the next thing
//! there is to do, so that nothing can be done twice or too early. What a proof is made of is decided in
//! `link::tls::secret`; here it is 32 bytes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{
    Code, Frame, FrameError, FrameType, Generation, Hex, NodeId, Nonce, PROTOCOL_VERSION, Refusal, Secret,
    SessionId, Stage, decimal, frame, hex, limits,
};

/// As what a dialer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An agent beside some services.
    Node,
    /// Whoever calls them.
    Client,
    /// A peer explorer.
    Explorer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Client => "client",
            Self::Explorer => "explorer",
        })
    }
}

/// The protocol versions an end speaks, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl ProtocolRange {
    /// What this crate speaks.
    pub const SUPPORTED: Self = Self { min: PROTOCOL_VERSION, max: PROTOCOL_VERSION };

    /// The newest version both speak.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// What a dialer shows for its name, besides the certificate it may have shown to TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Credential {
    /// A token whose rights it wants.
    Token {
        /// As it was issued.
        token: Secret,
    },
    /// It knows the shared secret and wants to be asked for a proof.
    Secret {
        /// The secret, at the end that shows it: what the proof is made with. Never sent, so an acceptor sees `None`.
        #[serde(skip)]
        key: Option<Secret>,
    },
    /// It wants a certificate for its key and has a token that permits one.
    Join {
        /// As it was issued.
        token: Secret,
        /// A certificate request (PKCS#10, DER).
        csr: Hex,
    },
    /// It wants a new certificate in place of the one it has shown to TLS, which may have expired.
    Renew {
        /// A certificate request (PKCS#10, DER) for the same key.
        csr: Hex,
    },
    /// Something of a later version.
    #[serde(other)]
    Unknown,
}

/// 32 bytes that only somebody who knows the shared secret can make: HMAC-SHA256.
#[derive(Clone, Copy)]
pub struct Mac(pub [u8; 32]);

impl PartialEq for Mac {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
    }
}

impl Eq for Mac {}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac(..)")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Nonce(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex::read(deserializer).map(Self)
    }
}

/// The acceptor knows the shared secret, and asks whether the dialer does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Fresh random bytes of the acceptor.
    pub nonce: Nonce,
    /// The acceptor's own proof, over both nonces.
    pub proof: Mac,
}

/// The dialer knows it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The dialer's proof, over both nonces.
    pub proof: Mac,
}

/// A certificate for the dialer's key. The connection ends behind it; the dialer comes back with the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The dialer's certificate and those between it and a root (DER), its own first.
    pub chain: Vec<Hex>,
    /// The authorities by which the explorer is to be known from now on (DER).
    pub ca: Vec<Hex>,
    /// Whom the certificate names: the node's id, or the user's name.
    pub name: String,
}

/// The dialer's first words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// As what it comes.
    pub role: Role,
    /// Its name.
    pub id: NodeId,
    /// Which process, line and attempt this is.
    pub generation: Generation,
    /// The versions it speaks.
    pub protocol: ProtocolRange,
    /// Program and version, for logs. Chosen by the peer: show it through [`sanitize`](crate::text::sanitize).
    #[serde(default)]
    pub agent: String,
    /// Fresh random bytes; proofs of later credentials are bound to them.
    pub nonce: Nonce,
    /// What it can do beyond the version; unknown ones are ignored.
    #[serde(default)]
    pub features: Vec<String>,
    /// What it shows for its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// The session it wants to go on with, if it can resume one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Value>,
}

/// What an end may do in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLimits {
    /// Substreams the dialer may have open at once, without control.
    pub max_substreams: u32,
}

/// The dialer is let in; the mux begins right behind this frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Who answers.
    pub explorer: NodeId,
    /// What this session is called in logs and lists of this explorer.
    pub session: SessionId,
    /// Milliseconds between heartbeats, for both ends; from [`limits::HEARTBEAT_MIN`] to [`limits::HEARTBEAT_MAX`].
    pub heartbeat_ms: u64,
    /// The acceptor's clock: milliseconds since 1970.
    #[serde(with = "decimal")]
    pub time_unix_ms: u64,
    /// What the dialer may do.
    pub limits: SessionLimits,
    /// What the acceptor can do beyond the version.
    #[serde(default)]
    pub features: Vec<String>,
    /// Addresses of other explorers of the same cluster.
    #[serde(default)]
    pub siblings: Vec<String>,
    /// After a healthy session was lost, the first new attempt waits a random part of this many milliseconds.
    #[serde(default)]
    pub reconnect_window_ms: u64,
    /// The session goes on where it was, and from which byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Value>,
}

/// The dialer, waiting for an answer.
#[derive(Debug)]
pub struct Dialer {
    awaits: Awaits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    /// To be let in.
    Welcome,
    /// To be let in, its proof sent.
    Verdict,
    /// That the acceptor proves the shared secret: an end that does not is not the one we mean.
    Challenge,
    /// A certificate.
    Enrolment,
}

/// What the acceptor's answer means for the dialer.
#[derive(Debug, PartialEq)]
pub enum DialerStep {
    /// It is in.
    Welcome(Welcome),
    /// It is not, and why.
    Denied(Refusal),
    /// The acceptor proves the shared secret, if its proof is right, and wants the same.
    Challenge(Challenge, Challenged),
    /// It has a certificate; the connection is over.
    Enrolled(Enrolled),
}

/// A dialer that has been challenged. It goes on only if the acceptor's own proof was right.
#[derive(Debug, PartialEq)]
pub struct Challenged {
    _challenged: (),
}

impl Dialer {
    /// Begins a handshake; the bytes are to be sent.
    pub fn new(hello: &Hello) -> (Self, Vec<u8>) {
        let awaits = match &hello.credential {
            Some(Credential::Secret { .. }) => Awaits::Challenge,
            Some(Credential::Join { .. } | Credential::Renew { .. }) => Awaits::Enrolment,
            Some(Credential::Token { .. } | Credential::Unknown) | None => Awaits::Welcome,
        };
        (Self { awaits }, frame::encode(FrameType::Hello, hello))
    }

    /// With which rules the next answer is to be read.
    pub fn stage(&self) -> Stage {
        match self.awaits {
            Awaits::Welcome | Awaits::Challenge => Stage::HelloReply,
            Awaits::Enrolment => Stage::EnrolmentReply,
            Awaits::Verdict => Stage::ProofReply,
        }
    }

    /// Takes the answer.
    ///
    /// # Errors
    /// It is no answer to what this dialer asked, can't be read, or demands what can't be kept to.
    pub fn on_frame(self, frame: Frame) -> Result<DialerStep, HandshakeError> {
        match (frame.kind, self.awaits) {
            (FrameType::Denied, _) => Ok(DialerStep::Denied(frame.parse()?)),
            (FrameType::Welcome, Awaits::Challenge) => Err(HandshakeError::Unproven),
            (FrameType::Welcome, Awaits::Welcome | Awaits::Verdict) => {
                let welcome: Welcome = frame.parse()?;
                let (min, max) = (limits::HEARTBEAT_MIN.as_millis(), limits::HEARTBEAT_MAX.as_millis());
                if !(min..=max).contains(&u128::from(welcome.heartbeat_ms)) {
                    return Err(HandshakeError::Heartbeat { asked_ms: welcome.heartbeat_ms, min, max });
                }
                Ok(DialerStep::Welcome(welcome))
            }
            (FrameType::Challenge, Awaits::Challenge) => {
                Ok(DialerStep::Challenge(frame.parse()?, Challenged { _challenged: () }))
            }
            (FrameType::Enrolled, Awaits::Enrolment) => Ok(DialerStep::Enrolled(frame.parse()?)),
            (kind, awaits) => Err(FrameError::Unexpected { kind, expected: awaits.expects() }.into()),
        }
    }
}

impl Challenged {
    /// The dialer's own proof; the bytes are to be sent.
    pub fn prove(self, proof: Mac) -> (Dialer, Vec<u8>) {
        (Dialer { awaits: Awaits::Verdict }, frame::encode(FrameType::Proof, &Proof { proof }))
    }
}

impl Awaits {
    fn expects(self) -> &'static str {
        match self {
            Self::Welcome | Self::Verdict => "Welcome or Denied",
            Self::Challenge => "Challenge or Denied",
            Self::Enrolment => "Enrolled or Denied",
        }
    }
}

/// The acceptor, before `Hello`, which is read with [`Stage::HelloExpected`].
#[derive(Debug)]
pub struct Acceptor {
    versions: ProtocolRange,
}

impl Acceptor {
    /// An acceptor that speaks `versions`.
    pub fn new(versions: ProtocolRange) -> Self {
        Self { versions }
    }

    /// Takes the dialer's `Hello`. Whether it may come in is for the caller to decide.
    ///
    /// # Errors
    /// It is no `Hello` this end can talk to; [`HandshakeError::refusal`] is what to answer.
    pub fn on_frame(self, frame: Frame) -> Result<Admission, HandshakeError> {
        /// All that every version of `Hello` has.
        #[derive(Deserialize)]
        struct Versions {
            protocol: ProtocolRange,
        }
        if frame.kind != FrameType::Hello {
            return Err(FrameError::Unexpected {
                kind: frame.kind,
                expected: Stage::HelloExpected.expects(),
            }
            .into());
        }
        // First of all, because a Hello of another version may differ in everything else.
        let Versions { protocol } = frame.parse()?;
        let version = self
            .versions
            .common(protocol)
            .ok_or(HandshakeError::Version { theirs: protocol, ours: self.versions })?;
        Ok(Admission { hello: frame.parse()?, version })
    }
}

/// A dialer at the door.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// What it said.
    pub hello: Hello,
    /// The version to speak with it.
    pub version: u32,
}

impl Admission {
    /// The bytes that let it in.
    pub fn welcome(&self, welcome: &Welcome) -> Vec<u8> {
        frame::encode(FrameType::Welcome, welcome)
    }

    /// The bytes that send it away.
    pub fn deny(&self, refusal: &Refusal) -> Vec<u8> {
        deny(refusal)
    }

    /// The bytes that give it a certificate and end the connection.
    pub fn enrolled(&self, enrolled: &Enrolled) -> Vec<u8> {
        frame::encode(FrameType::Enrolled, enrolled)
    }

    /// The bytes that ask it for a proof, which is read with [`Stage::ProofExpected`].
    pub fn challenge(&self, challenge: &Challenge) -> Vec<u8> {
        frame::encode(FrameType::Challenge, challenge)
    }

    /// Reads the proof that was asked for. Whether it is right is for the caller to see.
    ///
    /// # Errors
    /// It is none; [`HandshakeError::refusal`] is what to answer.
    pub fn on_proof(&self, frame: &Frame) -> Result<Proof, HandshakeError> {
        match frame.kind {
            FrameType::Proof => Ok(frame.parse()?),
            kind => Err(FrameError::Unexpected { kind, expected: Stage::ProofExpected.expects() }.into()),
        }
    }
}

/// A `Denied` frame, for a dialer that got no further than its first bytes.
pub fn deny(refusal: &Refusal) -> Vec<u8> {
    frame::encode(FrameType::Denied, refusal)
}

/// Why a handshake can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// What came is no message of a handshake.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No version in common.
    #[error(
        "the dialer speaks protocol {theirs}, this end speaks protocol {ours}; \
         update the {}", if theirs.max < ours.min { "dialer" } else { "explorer" }
    )]
    Version {
        /// What the dialer offers.
        theirs: ProtocolRange,
        /// What this end speaks.
        ours: ProtocolRange,
    },
    /// The acceptor asks for heartbeats this end won't send.
    #[error("the explorer asks for a heartbeat every {asked_ms} ms; between {min} and {max} ms are possible")]
    Heartbeat {
        /// What it asks for.
        asked_ms: u64,
        /// Milliseconds.
        min: u128,
        /// Milliseconds.
        max: u128,
    },
    /// The acceptor lets a dialer in that wanted to see the shared secret proved first.
    #[error(
        "it answers without proving that it knows the shared secret; either it has none configured, or somebody else \
         answers in its place"
    )]
    Unproven,
}

impl HandshakeError {
    /// The error as one of our codes.
    pub fn code(&self) -> Code {
        match self {
            Self::Frame(error) => error.code(),
            Self::Version { .. } => Code::VersionMismatch,
            Self::Heartbeat { .. } | Self::Unproven => Code::HandshakeFailed,
        }
    }

    /// What to answer the dialer.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code(), self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Instance;

    fn hello() -> Hello {
        Hello {
            role: Role::Node,
            id: "edge-7".parse().unwrap(),
            generation: Generation { instance: Instance::from_bytes([1; 16]), slot: 0, seq: 1 },
            protocol: ProtocolRange::SUPPORTED,
            agent: "reachback/0.1.0".into(),
            nonce: Nonce([2; 32]),
            features: vec![],
            credential: Some(Credential::Token { token: Secret::new("hunter2") }),
            resume: None,
        }
    }

    fn with(credential: Credential) -> Hello {
        Hello { credential: Some(credential), ..hello() }
    }

    fn welcome() -> Welcome {
        Welcome {
            explorer: "hub-1".parse().unwrap(),
            session: SessionId(41),
            heartbeat_ms: 10_000,
            time_unix_ms: 1_790_000_000_000,
            limits: SessionLimits { max_substreams: 1024 },
            features: vec![],
            siblings: vec![],
            reconnect_window_ms: 0,
            resume: None,
        }
    }

    fn read(stage: Stage, bytes: Vec<u8>) -> Frame {
        let mut decoder = frame::FrameDecoder::new(stage);
        decoder.push(bytes.into());
        decoder.next().unwrap().unwrap()
    }

    fn answer(dialer: Dialer, bytes: Vec<u8>) -> Result<DialerStep, HandshakeError> {
        let frame = read(dialer.stage(), bytes);
        dialer.on_frame(frame)
    }

    fn greet(hello: &serde_json::Value) -> Result<Admission, HandshakeError> {
        let bytes = frame::encode(FrameType::Hello, hello);
        Acceptor::new(ProtocolRange::SUPPORTED).on_frame(read(Stage::HelloExpected, bytes))
    }

    #[test]
    fn both_ends_meet() {
        let (dialer, bytes) = Dialer::new(&hello());
        let acceptor = Acceptor::new(ProtocolRange { min: 1, max: 3 });
        let admission = acceptor.on_frame(read(Stage::HelloExpected, bytes)).unwrap();
        assert_eq!((&admission.hello, admission.version), (&hello(), 1));
        let step = dialer.on_frame(read(Stage::HelloReply, admission.welcome(&welcome()))).unwrap();
        assert_eq!(step, DialerStep::Welcome(welcome()));

        let refusal = Refusal::new(Code::Replaced, "another process has this name");
        let (dialer, _) = Dialer::new(&hello());
        let step = dialer.on_frame(read(Stage::HelloReply, admission.deny(&refusal))).unwrap();
        assert_eq!(step, DialerStep::Denied(refusal));
    }

    #[test]
    fn versions_meet_at_the_newest_common_one() {
        let range = |min, max| ProtocolRange { min, max };
        for (a, b, common) in [
            (range(1, 1), range(1, 1), Some(1)),
            (range(1, 3), range(2, 5), Some(3)),
            (range(2, 5), range(1, 3), Some(3)),
            (range(1, 1), range(2, 9), None),
            (range(4, 2), range(1, 9), None),
            (range(0, u32::MAX), range(7, 7), Some(7)),
        ] {
            assert_eq!(a.common(b), common, "{a} and {b}");
            assert_eq!(b.common(a), common, "{b} and {a}");
        }
    }

    #[test]
    fn another_version_is_told_even_if_nothing_else_can_be_read() {
        for (theirs, old) in
            [(json!({ "min": 2, "max": 3 }), "explorer"), (json!({ "min": 0, "max": 0 }), "dialer")]
        {
            let refusal = greet(&json!({ "protocol": theirs, "role": ["satellite"] })).unwrap_err().refusal();
            assert_eq!(refusal.code, Code::VersionMismatch);
            assert!(refusal.message.contains(&format!("update the {old}")), "{refusal}");
            assert!(refusal.message.contains("protocol 1"), "{refusal}");
        }
    }

    #[test]
    fn a_hello_that_lacks_something_or_has_the_wrong_thing() {
        for (field, wrong) in [
            ("role", json!("root")),
            ("id", json!("../etc")),
            ("id", json!("a\u{0}b")),
            ("id", json!("x\r\nSet-Cookie: y")),
            ("id", json!("*")),
            ("id", json!("edge->x")),
            ("id", json!("all")),
            ("id", json!("x".repeat(2048))),
            ("generation", json!({ "instance": "00", "slot": 0, "seq": "1" })),
            ("nonce", json!("")),
            ("protocol", json!(null)),
            ("protocol", json!({ "min": -1, "max": 1 })),
        ] {
            let mut hello = serde_json::to_value(hello()).unwrap();
            hello[field] = wrong;
            let refusal = greet(&hello).unwrap_err().refusal();
            assert_eq!(refusal.code, Code::BadFrame, "{field}");
            assert!(refusal.message.contains("Hello"), "{refusal}");
            assert!(
                !refusal.message.contains(|c: char| c.is_control()) && refusal.message.len() < 600,
                "{refusal}"
            );

            hello.as_object_mut().unwrap().remove(field);
            let refusal = greet(&hello).unwrap_err().refusal();
            assert!(refusal.message.contains(field), "{refusal}");
        }
    }

    #[test]
    fn only_the_right_frames_are_taken() {
        for kind in FrameType::ALL {
            let frame = || Frame { kind: *kind, payload: "{}".into() };
            let acceptor = Acceptor::new(ProtocolRange::SUPPORTED).on_frame(frame()).unwrap_err();
            let unexpected = matches!(acceptor, HandshakeError::Frame(FrameError::Unexpected { .. }));
            assert_eq!(unexpected, *kind != FrameType::Hello, "{acceptor}");
            let dialer = Dialer::new(&hello()).0.on_frame(frame()).unwrap_err();
            let unexpected = matches!(dialer, HandshakeError::Frame(FrameError::Unexpected { .. }));
            assert_eq!(unexpected, !matches!(kind, FrameType::Welcome | FrameType::Denied), "{dialer}");
        }
    }

    #[test]
    fn a_heartbeat_that_would_spin_or_sleep_is_not_agreed_to() {
        for (ms, fine) in
            [(0, false), (99, false), (100, true), (60_000, true), (60_001, false), (u64::MAX, false)]
        {
            let bytes = frame::encode(FrameType::Welcome, &Welcome { heartbeat_ms: ms, ..welcome() });
            let outcome = Dialer::new(&hello()).0.on_frame(read(Stage::HelloReply, bytes));
            assert_eq!(outcome.is_ok(), fine, "{ms}");
        }
    }

    #[test]
    fn a_credential_travels_and_does_not_show() {
        let json = serde_json::to_value(hello()).unwrap();
        assert_eq!(json["credential"], json!({ "kind": "token", "token": "hunter2" }));
        assert!(!format!("{:?}", greet(&json).unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_shared_secret_stays_where_it_is() {
        let key = Some(Secret::new("hunter2"));
        let (_, bytes) = Dialer::new(&with(Credential::Secret { key }));
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"));
        let admission =
            Acceptor::new(ProtocolRange::SUPPORTED).on_frame(read(Stage::HelloExpected, bytes)).unwrap();
        assert_eq!(admission.hello.credential, Some(Credential::Secret { key: None }));
    }

    #[test]
    fn a_credential_of_a_later_version_is_no_reason_not_to_talk() {
        let mut hello = serde_json::to_value(hello()).unwrap();
        hello["credential"] = json!({ "kind": "passkey", "assertion": [1, 2] });
        assert_eq!(greet(&hello).unwrap().hello.credential, Some(Credential::Unknown));
        for wrong in [json!({ "token": "t" }), json!({ "kind": "join", "token": "t" }), json!("t"), json!([])]
        {
            hello["credential"] = wrong;
            assert_eq!(greet(&hello).unwrap_err().refusal().code, Code::BadFrame);
        }
    }

    #[test]
    fn who_shows_a_secret_is_let_in_only_by_who_proves_it_first() {
        let (dialer, bytes) = Dialer::new(&with(Credential::Secret { key: None }));
        let admission =
            Acceptor::new(ProtocolRange::SUPPORTED).on_frame(read(Stage::HelloExpected, bytes)).unwrap();
        let asked = Challenge { nonce: Nonce([3; 32]), proof: Mac([4; 32]) };
        let step = dialer.on_frame(read(Stage::HelloReply, admission.challenge(&asked))).unwrap();
        let DialerStep::Challenge(challenge, challenged) = step else { panic!("{step:?}") };
        assert_eq!(challenge, asked);
        let (dialer, bytes) = challenged.prove(Mac([5; 32]));
        let proof = admission.on_proof(&read(Stage::ProofExpected, bytes)).unwrap();
        assert_eq!(proof, Proof { proof: Mac([5; 32]) });
        let step = answer(dialer, admission.welcome(&welcome())).unwrap();
        assert_eq!(step, DialerStep::Welcome(welcome()));

        let (dialer, _) = Dialer::new(&with(Credential::Secret { key: None }));
        let error = dialer.on_frame(read(Stage::HelloReply, admission.welcome(&welcome()))).unwrap_err();
        assert_eq!(error, HandshakeError::Unproven);
        // Nor is anybody asked who does not know one.
        let (dialer, _) = Dialer::new(&hello());
        dialer.on_frame(read(Stage::HelloReply, admission.challenge(&asked))).unwrap_err();
    }

    #[test]
    fn who_asks_for_a_certificate_gets_that_or_a_reason() {
        let request = with(Credential::Join { token: Secret::new("t"), csr: Hex(vec![1, 2]) });
        let admission = greet(&serde_json::to_value(&request).unwrap()).unwrap();
        let enrolled =
            Enrolled { chain: vec![Hex(vec![1; 5000])], ca: vec![Hex(vec![2; 500])], name: "edge-7".into() };
        let (dialer, _) = Dialer::new(&request);
        let step = answer(dialer, admission.enrolled(&enrolled)).unwrap();
        assert_eq!(step, DialerStep::Enrolled(enrolled));

        let (dialer, _) = Dialer::new(&request);
        let refusal = Refusal::new(Code::Expired, "the join token ended an hour ago");
        let step = answer(dialer, admission.deny(&refusal)).unwrap();
        assert_eq!(step, DialerStep::Denied(refusal));

        let welcome = Frame { kind: FrameType::Welcome, payload: "{}".into() };
        let error = Dialer::new(&request).0.on_frame(welcome).unwrap_err();
        assert!(matches!(error, HandshakeError::Frame(FrameError::Unexpected { .. })), "{error}");
    }
}
