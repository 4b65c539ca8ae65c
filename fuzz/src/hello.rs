//! The handshake: whoever is let in has a checked name and a common version; whoever is not is told why, safely.

use bytes::Bytes;
use reachback_wire::{
    Acceptor, Code, Credential, Dialer, DialerStep, Frame, FrameDecoder, FrameType, HandshakeAdmission,
    HandshakeError, Hello, Hex, Mac, NodeId, ProtocolRange, Refusal, Stage, Welcome, frame::HEADER_LEN,
    handshake::deny, id::NODE_ID_MAX, limits, text::sanitize,
};

use super::{Verdict, frame, situation};

/// The versions of the acceptor: more than one, so that ranges really have to meet.
const VERSIONS: ProtocolRange = ProtocolRange { min: 1, max: 3 };

/// The first byte chooses the end and whether the input is all of the stream or the payload of one frame.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (selector, _, bytes) = situation(input);
    match selector % 8 {
        0 => stream(Stage::HelloExpected, bytes, accept),
        1 => stream(Stage::HelloReply, bytes, dial),
        2 => payload(FrameType::Hello, bytes, accept),
        3 => payload(FrameType::Welcome, bytes, dial),
        4 => payload(FrameType::Denied, bytes, dial),
        5 => payload(FrameType::Challenge, bytes, dial_with_a_secret),
        6 => payload(FrameType::Enrolled, bytes, dial_for_a_certificate),
        _ => payload(FrameType::Welcome, bytes, dial_with_a_secret),
    }
}

/// Reads the frame as a transport would hand it over.
fn stream(stage: Stage, bytes: &[u8], then: fn(Frame) -> Result<(), HandshakeError>) -> Verdict {
    if let Some(frame) = frame::read_exactly(stage, bytes) {
        assert!(HEADER_LEN + frame.payload.len() <= limits::HANDSHAKE_BYTES_MAX);
        return verdict(then(frame));
    }
    let mut decoder = FrameDecoder::new(stage);
    decoder.push(Bytes::copy_from_slice(bytes));
    match decoder.next() {
        Ok(_) => Verdict::Incomplete,
        Err(error) => verdict(Err(error.into())),
    }
}

/// Skips the header, so that the fuzzer does not have to find it.
fn payload(kind: FrameType, bytes: &[u8], then: fn(Frame) -> Result<(), HandshakeError>) -> Verdict {
    let stages = [Stage::HelloExpected, Stage::HelloReply, Stage::EnrolmentReply];
    let limit = stages.iter().find_map(|stage| stage.limit(kind)).expect("a frame of the handshake");
    if bytes.len() > limit {
        return Verdict::Refused(Code::TooLarge);
    }
    verdict(then(Frame { kind, payload: Bytes::copy_from_slice(bytes) }))
}

fn verdict(outcome: Result<(), HandshakeError>) -> Verdict {
    match outcome {
        Ok(()) => Verdict::Fine,
        Err(error) => {
            let refusal = error.refusal();
            arrives(&refusal);
            Verdict::Refused(refusal.code)
        }
    }
}

/// A refusal is one printable sentence and reaches the dialer unchanged.
fn arrives(refusal: &Refusal) {
    assert_eq!(
        sanitize(&refusal.message, usize::MAX),
        refusal.message,
        "a refusal forges what it is printed on"
    );
    let frame = frame::read_exactly(Stage::HelloReply, &deny(refusal)).expect("a refusal fits its frame");
    let (dialer, _) = Dialer::new(&hello());
    assert_eq!(dialer.on_frame(frame), Ok(DialerStep::Denied(refusal.clone())));
}

fn accept(frame: Frame) -> Result<(), HandshakeError> {
    let HandshakeAdmission { hello, version } = Acceptor::new(VERSIONS).on_frame(frame)?;
    is_an_id(&hello.id);
    for range in [VERSIONS, hello.protocol] {
        assert!((range.min..=range.max).contains(&version), "version {version} is not in {range}");
    }

    let (_, bytes) = Dialer::new(&hello);
    // Defaults that were left out are written out, which can pass a limit that the input just kept.
    if bytes.len() <= limits::HANDSHAKE_BYTES_MAX {
        let frame = frame::read_exactly(Stage::HelloExpected, &bytes).expect("own Hello");
        let again = Acceptor::new(VERSIONS).on_frame(frame).expect("own Hello");
        assert_eq!(again, HandshakeAdmission { hello, version }, "a Hello changed on its second way");
    }
    Ok(())
}

fn dial(frame: Frame) -> Result<(), HandshakeError> {
    answered(hello(), frame)
}

fn dial_with_a_secret(frame: Frame) -> Result<(), HandshakeError> {
    answered(Hello { credential: Some(Credential::Secret { key: None }), ..hello() }, frame)
}

fn dial_for_a_certificate(frame: Frame) -> Result<(), HandshakeError> {
    answered(Hello { credential: Some(Credential::Renew { csr: Hex::default() }), ..hello() }, frame)
}

fn answered(hello: Hello, frame: Frame) -> Result<(), HandshakeError> {
    let (dialer, _) = Dialer::new(&hello);
    match dialer.on_frame(frame)? {
        DialerStep::Welcome(Welcome { explorer, heartbeat_ms, .. }) => {
            is_an_id(&explorer);
            let asked = std::time::Duration::from_millis(heartbeat_ms);
            assert!(
                (limits::HEARTBEAT_MIN..=limits::HEARTBEAT_MAX).contains(&asked),
                "a heartbeat of {asked:?}"
            );
            assert_eq!(hello.credential, None, "let in without what was asked for");
        }
        DialerStep::Denied(refusal) => {
            let shown = refusal.to_string();
            assert_eq!(sanitize(&shown, usize::MAX), shown, "a refusal forges what it is printed on");
        }
        DialerStep::Challenge(_, challenged) => {
            let (dialer, proof) = challenged.prove(Mac([7; 32]));
            assert_eq!(dialer.stage(), Stage::ProofReply);
            frame::read_exactly(Stage::ProofExpected, &proof).expect("own proof");
        }
        DialerStep::Enrolled(enrolled) => {
            assert!(enrolled.chain.iter().all(|certificate| certificate.0.len() < limits::CERTIFICATES_MAX));
        }
    }
    Ok(())
}

/// What an id may look like, said a second time and differently: ids end in host names, paths and log lines.
fn is_an_id(id: &NodeId) {
    let id = id.as_str();
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    assert!((1..=NODE_ID_MAX).contains(&id.len()), "{id:?}");
    assert!(id.chars().all(|c| letters(c) || ".-_".contains(c)), "{id:?}");
    assert!(id.starts_with(letters) && id.ends_with(letters) && !id.contains("--"), "{id:?}");
    assert!(!["any", "all", "self", "explorer"].contains(&id), "{id:?}");
}

/// A dialer's first words.
pub fn hello() -> Hello {
    let frame = Frame {
        kind: FrameType::Hello,
        payload: Bytes::from_static(
            br#"{"role":"node","id":"edge-7","generation":{"instance":"00000000000000000000000000000000","slot":0,"seq":"1"},
                 "protocol":{"min":1,"max":1},"nonce":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
        ),
    };
    frame.parse().expect("a valid Hello")
}
