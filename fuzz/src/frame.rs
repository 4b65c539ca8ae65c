//! Frames: cuts don't matter, nothing beyond a limit is held, and what was understood can be said again.

use std::fmt::Debug;

use bytes::Bytes;
use reachback_wire::{
    Accepted, Bye, Challenge, Code, ControlMessage, Ends, Enrolled, Frame, FrameDecoder, FrameError,
    FrameType, Health, Heartbeat, HeartbeatAck, Hello, Open, Opened, Proof, Refusal, Renew, Renewed,
    Replaced, Services, Stage, Welcome,
    frame::{HEADER_LEN, MAGIC, encode},
    limits,
    text::sanitize,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Verdict, pieces, situation};

/// New ones go to the end: the seeds name them by number.
const STAGES: [Stage; 8] = [
    Stage::HelloExpected,
    Stage::HelloReply,
    Stage::OpenExpected,
    Stage::OpenReply,
    Stage::Control,
    Stage::EnrolmentReply,
    Stage::ProofExpected,
    Stage::ProofReply,
];

/// The first byte chooses the stage.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (selector, cuts, bytes) = situation(input);
    let stage = STAGES[usize::from(selector) % STAGES.len()];

    let whole = read(stage, bytes, [usize::MAX; 2]);
    let cut = read(stage, bytes, cuts);
    assert_eq!(whole.frames, cut.frames, "a cut changed the frames");
    match (&whole.error, &cut.error) {
        // A wrong magic is told as soon as it shows, so how much of it is told depends on the cut.
        (Some(FrameError::Magic { .. }), Some(FrameError::Magic { .. })) => {}
        (whole, cut) => assert_eq!(whole, cut, "a cut changed the error"),
    }
    if whole.error.is_none() {
        assert_eq!(whole.rest, cut.rest, "a cut changed the rest");
    }
    assert_eq!(read_exactly(stage, bytes), whole.frames.first().cloned(), "reading no further than needed");
    if stage != Stage::Control && whole.error.is_none() {
        let again: Vec<u8> = whole.frames.iter().flat_map(framed).chain(whole.rest.iter().copied()).collect();
        assert_eq!(again, bytes, "outside control nothing is passed over");
    }

    let refused = whole.frames.iter().find_map(|frame| say_again(stage, frame).err());
    match refused.or(whole.error) {
        Some(error) => Verdict::Refused(told(&error)),
        None if whole.unfinished || whole.frames.is_empty() => Verdict::Incomplete,
        None => Verdict::Fine,
    }
}

/// Checks that an error can be shown to a person and sent to the peer as it is.
pub(super) fn told(error: &FrameError) -> Code {
    let text = error.to_string();
    assert_eq!(sanitize(&text, usize::MAX), text, "an error forges what it is printed on");
    assert!(text.len() <= limits::END_TEXT_MAX, "an error is too long to be sent: {text}");
    error.code()
}

/// Reads a frame as a handshake does: never more bytes than asked for.
pub(super) fn read_exactly(stage: Stage, mut source: &[u8]) -> Option<Frame> {
    let mut decoder = FrameDecoder::new(stage);
    let mut held = 0;
    loop {
        match decoder.next() {
            Ok(Some(frame)) => {
                assert!(decoder.take_rest().is_empty(), "more was asked for than needed");
                return Some(frame);
            }
            Ok(None) => {}
            Err(_) => return None,
        }
        let needed = decoder.needed();
        held += needed;
        if stage != Stage::Control {
            assert!(held <= HEADER_LEN + longest(stage), "asks for {held} bytes");
        }
        let (wanted, rest) = source.split_at_checked(needed)?;
        decoder.push(Bytes::copy_from_slice(wanted));
        source = rest;
    }
}

struct Reading {
    frames: Vec<Frame>,
    error: Option<FrameError>,
    rest: Bytes,
    unfinished: bool,
}

fn read(stage: Stage, bytes: &[u8], cuts: [usize; 2]) -> Reading {
    let mut decoder = FrameDecoder::new(stage);
    let mut frames = Vec::new();
    for piece in pieces(bytes, cuts) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    assert!(
                        stage.limit(frame.kind).is_some_and(|limit| frame.payload.len() <= limit),
                        "{frame:?} does not belong here"
                    );
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.needed(), 0, "waits for more after an error");
                    assert_eq!(decoder.next(), Err(error.clone()), "an error stays");
                    return Reading {
                        frames,
                        error: Some(error),
                        rest: decoder.take_rest(),
                        unfinished: true,
                    };
                }
            }
        }
        let needed = decoder.needed();
        assert!((1..=HEADER_LEN + longest(stage)).contains(&needed), "waits for {needed} bytes");
    }
    let unfinished = decoder.finish().is_err();
    let rest = decoder.take_rest();
    assert!(unfinished || rest.is_empty(), "half a frame looks like an end");
    assert!(rest.len() < HEADER_LEN + longest(stage), "holds {} bytes", rest.len());
    Reading { frames, error: None, rest, unfinished }
}

fn longest(stage: Stage) -> usize {
    FrameType::ALL.iter().filter_map(|kind| stage.limit(*kind)).max().expect("every stage expects something")
}

fn framed(frame: &Frame) -> Vec<u8> {
    let len = u32::try_from(frame.payload.len()).expect("below the limit");
    [&MAGIC[..], &[frame.kind.number()], &len.to_be_bytes(), &frame.payload].concat()
}

/// Reads the message, writes it and reads it again.
fn say_again(stage: Stage, frame: &Frame) -> Result<(), FrameError> {
    if stage == Stage::Control {
        let message = ControlMessage::from_frame(frame)?;
        assert_eq!(message.kind(), frame.kind);
    }
    match frame.kind {
        FrameType::Hello => round_trip::<Hello>(stage, frame),
        FrameType::Welcome => round_trip::<Welcome>(stage, frame),
        FrameType::Challenge => round_trip::<Challenge>(stage, frame),
        FrameType::Proof => round_trip::<Proof>(stage, frame),
        FrameType::Enrolled => round_trip::<Enrolled>(stage, frame),
        FrameType::Renew => round_trip::<Renew>(stage, frame),
        FrameType::Renewed => round_trip::<Renewed>(stage, frame),
        FrameType::Denied | FrameType::Refused | FrameType::NotRenewed => round_trip::<Refusal>(stage, frame),
        FrameType::Open => round_trip::<Open>(stage, frame),
        FrameType::Accepted => round_trip::<Accepted>(stage, frame),
        FrameType::Opened => round_trip::<Opened>(stage, frame),
        FrameType::Heartbeat => round_trip::<Heartbeat>(stage, frame),
        FrameType::HeartbeatAck => round_trip::<HeartbeatAck>(stage, frame),
        FrameType::Services => round_trip::<Services>(stage, frame),
        FrameType::Health => round_trip::<Health>(stage, frame),
        FrameType::Replaced => round_trip::<Replaced>(stage, frame),
        FrameType::Bye => round_trip::<Bye>(stage, frame),
        FrameType::Ends => round_trip::<Ends>(stage, frame),
    }
}

fn round_trip<T>(stage: Stage, frame: &Frame) -> Result<(), FrameError>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let message = frame.parse::<T>()?;
    let once = encode(frame.kind, &message);
    if stage.limit(frame.kind).is_none_or(|limit| once.len() > HEADER_LEN + limit) {
        // Defaults that were left out are written out, which can pass a limit that the input just kept.
        return Ok(());
    }
    let mut decoder = FrameDecoder::new(stage);
    decoder.push(once.clone().into());
    let read = decoder.next().expect("own frame").expect("whole").parse::<T>().expect("own message");
    // Sentences are cut when they are written; after that nothing changes any more.
    if frame.payload.len() <= limits::END_TEXT_MAX {
        assert_eq!(read, message, "what was said is not what was understood");
    }
    assert_eq!(encode(frame.kind, &read), once, "saying it again says something else");
    Ok(())
}
