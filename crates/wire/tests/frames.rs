//! Frames survive any cut of the byte stream, and nothing but frames gets through.

mod common;

use std::fmt::Debug;

use bytes::Bytes;
use common::{challenge, control, cuts, enrolled, hello, open, opened, pieces, proof, refusal, welcome};
use proptest::{collection::vec, prelude::*, sample::select};
use reachback_wire::{
    Accepted, ControlMessage, Frame, FrameDecoder, FrameError, FrameType, Stage,
    frame::{HEADER_LEN, MAGIC, encode},
    limits,
};
use serde::{Serialize, de::DeserializeOwned};

const STAGES: [Stage; 8] = [
    Stage::HelloExpected,
    Stage::HelloReply,
    Stage::EnrolmentReply,
    Stage::ProofExpected,
    Stage::ProofReply,
    Stage::OpenExpected,
    Stage::OpenReply,
    Stage::Control,
];

/// All frames in `bytes`, pushed piece by piece, and what is left after them.
fn decode(stage: Stage, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<Frame>, Bytes), FrameError> {
    let mut decoder = FrameDecoder::new(stage);
    let mut frames = Vec::new();
    for piece in pieces(bytes, cuts) {
        decoder.push(piece);
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
        assert!(decoder.needed() > 0, "waits for more without saying how much");
    }
    Ok((frames, decoder.take_rest()))
}

/// One frame read as a handshake reads it: never more bytes than asked for.
fn read_exactly(stage: Stage, mut source: &[u8]) -> Result<(Frame, usize), FrameError> {
    let before = source.len();
    let mut decoder = FrameDecoder::new(stage);
    loop {
        if let Some(frame) = decoder.next()? {
            assert!(decoder.take_rest().is_empty());
            return Ok((frame, before - source.len()));
        }
        let (wanted, rest) = source.split_at(decoder.needed());
        decoder.push(Bytes::copy_from_slice(wanted));
        source = rest;
    }
}

fn round_trip<T>(stage: Stage, kind: FrameType, message: &T, cuts: &[usize]) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let bytes = encode(kind, message);
    let (frames, rest) = decode(stage, &bytes, cuts).expect("own frame");
    prop_assert!(rest.is_empty());
    prop_assert_eq!(frames.len(), 1);
    prop_assert_eq!(frames[0].kind, kind);
    prop_assert_eq!(&frames[0].parse::<T>().expect("own payload"), message);

    let mut longer = bytes.clone();
    longer.extend_from_slice(b"what follows");
    let (frame, used) = read_exactly(stage, &longer).expect("own frame");
    prop_assert_eq!(&frame, &frames[0]);
    prop_assert_eq!(used, bytes.len());
    Ok(())
}

fn header(number: u8, len: u32) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.push(number);
    header.extend_from_slice(&len.to_be_bytes());
    header
}

proptest! {
    #[test]
    fn hello_round_trips(hello in hello(), cuts in cuts()) {
        round_trip(Stage::HelloExpected, FrameType::Hello, &hello, &cuts)?;
    }

    #[test]
    fn welcome_round_trips(welcome in welcome(), cuts in cuts()) {
        round_trip(Stage::HelloReply, FrameType::Welcome, &welcome, &cuts)?;
    }

    #[test]
    fn proofs_and_certificates_round_trip(
        challenge in challenge(), proof in proof(), enrolled in enrolled(), cuts in cuts()
    ) {
        round_trip(Stage::HelloReply, FrameType::Challenge, &challenge, &cuts)?;
        round_trip(Stage::ProofExpected, FrameType::Proof, &proof, &cuts)?;
        round_trip(Stage::EnrolmentReply, FrameType::Enrolled, &enrolled, &cuts)?;
    }

    #[test]
    fn refusals_round_trip(refusal in refusal(), cuts in cuts()) {
        round_trip(Stage::HelloReply, FrameType::Denied, &refusal, &cuts)?;
        round_trip(Stage::OpenReply, FrameType::Refused, &refusal, &cuts)?;
    }

    #[test]
    fn open_and_its_replies_round_trip(open in open(), opened in opened(), cuts in cuts()) {
        round_trip(Stage::OpenExpected, FrameType::Open, &open, &cuts)?;
        round_trip(Stage::OpenReply, FrameType::Opened, &opened, &cuts)?;
        round_trip(Stage::OpenReply, FrameType::Accepted, &Accepted {}, &cuts)?;
    }

    /// Frames of later versions between them change nothing.
    #[test]
    fn control_messages_round_trip_among_unknown_ones(
        messages in vec((control(), prop::option::of(("[ -~]{0,300}", select(vec![0_u8, 36, 43, 200, 255])))), 0..8),
        cuts in cuts(),
    ) {
        let mut bytes = Vec::new();
        for (message, unknown) in &messages {
            if let Some((payload, number)) = unknown {
                bytes.extend(header(*number, u32::try_from(payload.len()).unwrap()));
                bytes.extend_from_slice(payload.as_bytes());
            }
            bytes.extend(message.encode());
        }
        let (frames, rest) = decode(Stage::Control, &bytes, &cuts).unwrap();
        let read: Vec<_> = frames.iter().map(|frame| ControlMessage::from_frame(frame).unwrap()).collect();
        let sent: Vec<_> = messages.into_iter().map(|(message, _)| message).collect();
        prop_assert_eq!(read, sent);
        prop_assert!(rest.is_empty());
    }

    /// Whatever comes, in whatever pieces: the same outcome, no panic, and no more asked for than may come.
    #[test]
    fn hostile_bytes_are_bounded_and_cuts_do_not_matter(
        stage in select(STAGES.to_vec()),
        parts in vec(prop_oneof![
            vec(any::<u8>(), 0..40),
            (any::<u8>(), any::<u32>()).prop_map(|(number, len)| header(number, len)),
            (select(FrameType::ALL), 0..40_u32).prop_map(|(kind, len)| header(kind.number(), len)),
        ], 0..6),
        cuts in cuts(),
    ) {
        let bytes = parts.concat();
        let whole = decode(stage, &bytes, &[]);
        match (whole, decode(stage, &bytes, &cuts)) {
            (Ok(whole), Ok(cut)) => prop_assert_eq!(whole, cut),
            (Err(whole), Err(cut)) => {
                // A wrong magic is told as soon as it shows, so how much of it is shown depends on the cut.
                let is_magic = |error: &FrameError| matches!(error, FrameError::Magic { .. });
                prop_assert!(whole == cut || is_magic(&whole) && is_magic(&cut), "{} / {}", whole, cut);
            }
            (whole, cut) => prop_assert!(false, "{:?} / {:?}", whole, cut),
        }
        let mut decoder = FrameDecoder::new(stage);
        decoder.push(bytes.into());
        while let Ok(Some(_)) = decoder.next() {}
        prop_assert!(decoder.needed() <= limits::SERVICES_MAX + HEADER_LEN);
    }

    #[test]
    fn no_json_makes_parsing_panic(payload in "[\\[{\"a:,1}\\] ]{0,200}", kind in select(FrameType::ALL)) {
        let frame = Frame { kind, payload: payload.into() };
        drop(ControlMessage::from_frame(&frame));
        drop(frame.parse::<reachback_wire::Hello>());
        drop(frame.parse::<reachback_wire::Open>());
        drop(frame.parse::<reachback_wire::Refusal>());
    }
}

#[test]
fn an_error_stays() {
    let mut decoder = FrameDecoder::new(Stage::HelloExpected);
    decoder.push(Bytes::from_static(b"GET / HTTP/1.1\r\n"));
    let first = decoder.next().unwrap_err();
    decoder.push(encode(FrameType::Hello, &Accepted {}).into());
    assert_eq!(decoder.next().unwrap_err(), first);
    assert_eq!(decoder.needed(), 0);
    assert!(first.to_string().contains("\"GET \""), "{first}");
}

#[test]
fn a_length_of_4_gib_is_refused_on_the_header_alone() {
    for stage in STAGES {
        for kind in FrameType::ALL.iter().filter(|kind| stage.limit(**kind).is_some()) {
            let mut decoder = FrameDecoder::new(stage);
            decoder.push(header(kind.number(), u32::MAX).into());
            let error = decoder.next().unwrap_err();
            assert!(matches!(error, FrameError::TooLarge { len: u32::MAX, .. }), "{error}");
            assert_eq!(decoder.needed(), 0);
        }
    }
}
