//! The protocol needs nothing of a peer's mux but the yamux specification: here the peer is the bare crate, without
//! our layer, and speaks frames and records by hand. Any other yamux library could stand in its place.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use common::{End, Settings, across, bare::Bare, empty, end, pattern, read_all, soon, to};
use futures::{AsyncWrite, StreamExt, future::poll_fn};
use reachback_link::{OpenError, Pulse, Side, StreamEnd, Substream, Transport};
use reachback_wire::{
    Accepted, Bye, Code, ControlMessage, Delivery, Frame, FrameDecoder, FrameType, Heartbeat, HeartbeatAck,
    Open, Opened, Record, RecordDecoder, RecordKind, Refusal, Replaced, Stage, frame,
    record::{encode_end, encode_reset, record_header},
};
use tokio::time::Instant;

/// A stream of the bare crate, and what was read too far.
struct Stream {
    mux: yamux::Stream,
    rest: Bytes,
}

impl Stream {
    fn new(mux: yamux::Stream) -> Self {
        Self { mux, rest: Bytes::new() }
    }

    async fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wrote = poll_fn(|cx| Pin::new(&mut self.mux).poll_write(cx, bytes)).await.unwrap();
            bytes = &bytes[wrote..];
        }
    }

    async fn close(&mut self) {
        poll_fn(|cx| Pin::new(&mut self.mux).poll_close(cx)).await.unwrap();
    }

    /// Some bytes; `None` at the end of the stream.
    async fn read(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            return Some(std::mem::take(&mut self.rest));
        }
        let packet = soon("bytes", self.mux.next()).await?.ok()?;
        Some(Bytes::copy_from_slice(packet.as_ref()))
    }

    async fn frame(&mut self, decoder: &mut FrameDecoder) -> Frame {
        loop {
            if let Some(frame) = decoder.next().unwrap() {
                return frame;
            }
            let bytes = self.read().await.expect("a frame, not the end");
            decoder.push(bytes);
        }
    }

    /// One frame; what follows it stays.
    async fn one(&mut self, stage: Stage) -> Frame {
        let mut decoder = FrameDecoder::new(stage);
        let frame = self.frame(&mut decoder).await;
        self.rest = decoder.take_rest();
        frame
    }

    /// Everything up to the end of the direction.
    async fn records(&mut self) -> (Vec<u8>, Record) {
        let mut decoder = RecordDecoder::new(Delivery::Streamed);
        let mut data = Vec::new();
        loop {
            match decoder.next().unwrap() {
                Some(Record::Data(bytes)) => data.extend_from_slice(&bytes),
                Some(end) => return (data, end),
                None => decoder.push(self.read().await.expect("an end in band")),
            }
        }
    }

    async fn data(&mut self, payload: &[u8]) {
        for piece in payload.chunks(1000) {
            self.write(&record_header(RecordKind::Data, piece.len())).await;
            self.write(piece).await;
        }
    }
}

const SIDES: [Side; 2] = [Side::Dialer, Side::Acceptor];

/// The bare crate on this side, a session of ours on the other, control standing.
async fn bare_with_session(side: Side) -> (Bare, End, Stream) {
    let (near, far) = Transport::memory_pair(64 * 1024);
    let ours = end(far, across(side), &Settings::default());
    let mut bare = Bare::start(near, side);
    let control = match side {
        Side::Dialer => {
            let mut control = Stream::new(bare.open().await);
            control.write(&frame::encode(FrameType::Open, &Open::control())).await;
            assert_eq!(control.one(Stage::OpenReply).await.kind, FrameType::Opened);
            control
        }
        Side::Acceptor => {
            let mut control = Stream::new(soon("control", bare.next()).await.unwrap());
            let open: Open = control.one(Stage::OpenExpected).await.parse().unwrap();
            assert_eq!(open, Open::control());
            control.write(&frame::encode(FrameType::Opened, &Opened::default())).await;
            control
        }
    };
    (bare, ours, control)
}

/// The bare crate opens, our session serves.
async fn bare_opens(bare: &Bare, ours: &mut End, early: &[u8]) -> (Stream, Substream) {
    let mut theirs = Stream::new(bare.open().await);
    theirs.write(&frame::encode(FrameType::Open, &to("s"))).await;
    theirs.data(early).await;
    let mut inbound = soon("the bare open", ours.incoming.next()).await.unwrap();
    assert_eq!(inbound.open().await.unwrap(), to("s"));
    let (substream, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
    assert_eq!(theirs.one(Stage::OpenReply).await.kind, FrameType::Opened);
    (theirs, substream)
}

/// Our session opens, the bare crate serves; it says `Accepted` first, as anyone may.
async fn we_open(bare: &mut Bare, ours: &End) -> (Stream, Substream) {
    let (opened, theirs) = tokio::join!(soon("the answer", ours.session.open(to("s"))), async {
        let mut theirs = Stream::new(soon("our open", bare.next()).await.unwrap());
        let open: Open = theirs.one(Stage::OpenExpected).await.parse().unwrap();
        assert_eq!(open.target, to("s").target);
        theirs.write(&frame::encode(FrameType::Accepted, &Accepted::default())).await;
        theirs.write(&frame::encode(FrameType::Opened, &Opened::default())).await;
        theirs
    });
    (theirs, opened.unwrap())
}

#[tokio::test]
async fn records_go_both_ways_and_end_in_order_whoever_opens() {
    for side in SIDES {
        for bare_is_opener in [true, false] {
            let (mut bare, mut ours, _control) = bare_with_session(side).await;
            let (mut theirs, mut substream) = if bare_is_opener {
                bare_opens(&bare, &mut ours, b"early").await
            } else {
                we_open(&mut bare, &ours).await
            };
            if bare_is_opener {
                assert_eq!(soon("early bytes", substream.next()).await, Ok(Record::Data("early".into())));
            }
            // Several windows each way at once.
            let sent = pattern(1_000_000);
            let there = async {
                theirs.data(&sent).await;
                theirs.write(&encode_end(None)).await;
                // What comes back came after ours: half-closed is not closed.
                theirs.records().await
            };
            let back = async {
                let (got, end) = read_all(&mut substream).await;
                assert_eq!(end, Ok(()));
                assert!(got == sent);
                substream.send(RecordKind::Data, &got).await.unwrap();
                substream.finish(None).await.unwrap();
            };
            let ((got, end), ()) = tokio::join!(soon("everything", there), soon("everything", back));
            assert!(got == sent);
            assert_eq!(end, Record::End(None));
            theirs.close().await;
            assert!(substream.is_finished());
            drop(substream);
            // After both ends the mux's own is all there is;
            assert!(theirs.read().await.is_none());
            drop(theirs);
            empty(&ours).await;
        }
    }
}

#[tokio::test]
async fn resets_and_drops_of_either_side_are_told_apart() {
    for side in SIDES {
        let (mut bare, mut ours, _control) = bare_with_session(side).await;

        let (mut theirs, mut substream) = we_open(&mut bare, &ours).await;
        theirs.data(b"half an ans").await;
        theirs.write(&encode_reset(Code::ServiceUnreachable, "it crashed")).await;
        drop(theirs);
        let told = StreamEnd::Reset { code: Code::ServiceUnreachable, text: "it crashed".into() };
        assert_eq!(read_all(&mut substream).await, (b"half an ans".to_vec(), Err(told)));
        drop(substream);

        // A peer that knows nothing of records and closes as muxes do has not finished anything.
        for close in [false, true] {
            let (mut theirs, mut substream) = bare_opens(&bare, &mut ours, b"").await;
            theirs.data(b"half").await;
            if close {
                theirs.close().await;
            } else {
                drop(theirs);
            }
            assert_eq!(read_all(&mut substream).await, (b"half".to_vec(), Err(StreamEnd::Dropped)));
        }

        let (mut theirs, mut substream) = bare_opens(&bare, &mut ours, b"").await;
        substream.send(RecordKind::Data, b"half").await.unwrap();
        substream.reset(Code::Cancelled, "enough");
        let reset = Record::Reset { code: Code::Cancelled.number(), text: "enough".into() };
        assert_eq!(theirs.records().await, (b"half".to_vec(), reset));
        assert!(theirs.read().await.is_none());
        drop(theirs);
        empty(&ours).await;
    }
}

#[tokio::test]
async fn refusals_pass_both_ways() {
    let refusal = Refusal::new(Code::ServiceNotFound, "there is no such service; declare it on the node")
        .retry_after(Duration::from_secs(3));
    for side in SIDES {
        let (mut bare, mut ours, _control) = bare_with_session(side).await;
        let (opened, ()) = tokio::join!(soon("the answer", ours.session.open(to("s"))), async {
            let mut theirs = Stream::new(soon("our open", bare.next()).await.unwrap());
            theirs.one(Stage::OpenExpected).await;
            theirs.write(&frame::encode(FrameType::Refused, &refusal)).await;
        });
        assert_eq!(opened.unwrap_err(), OpenError::Refused(refusal.clone()));

        let mut theirs = Stream::new(bare.open().await);
        theirs.write(&frame::encode(FrameType::Open, &to("s"))).await;
        let mut inbound = soon("the bare open", ours.incoming.next()).await.unwrap();
        inbound.open().await.unwrap();
        inbound.refuse(refusal.clone()).await;
        let told = theirs.one(Stage::OpenReply).await;
        assert_eq!((told.kind, told.parse::<Refusal>().unwrap()), (FrameType::Refused, refusal.clone()));
        drop(theirs);
        empty(&ours).await;
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_both_alive_and_a_goodbye_ends_it() {
    for side in SIDES {
        let begun = Instant::now();
        let (_bare, mut ours, mut control) = bare_with_session(side).await;
        let mut frames = FrameDecoder::new(Stage::Control);
        frames.push(std::mem::take(&mut control.rest));
        let ours_asks = ControlMessage::Heartbeat(Heartbeat { seq: 1, sent_ms: 5 });
        control.write(&ours_asks.encode()).await;
        let (mut asked, mut answered) = (0, 0);
        // A minute and a half at one heartbeat in ten seconds: four times what a dead peer gets.
        while asked < 10 || answered < 1 {
            let frame = control.frame(&mut frames).await;
            match ControlMessage::from_frame(&frame).unwrap() {
                ControlMessage::Heartbeat(Heartbeat { seq, .. }) => {
                    asked += 1;
                    assert_eq!(seq, asked);
                    assert!(asked > 1 || begun.elapsed() < Duration::from_secs(1), "the first comes at once");
                    control.write(&ControlMessage::HeartbeatAck(HeartbeatAck { seq }).encode()).await;
                }
                ControlMessage::HeartbeatAck(HeartbeatAck { seq }) => {
                    answered += 1;
                    assert_eq!(seq, 1);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ours.session.end(), None);
        assert_eq!(*ours.session.pulse().borrow(), Pulse::Live);

        let replaced = ControlMessage::Replaced(Replaced { message: "a newer one".into() });
        control.write(&replaced.encode()).await;
        assert_eq!(soon("the message", ours.control.next()).await, Some(replaced));
        control.write(&ControlMessage::Bye(Bye { reason: "going home".into() }).encode()).await;
        let end = soon("the end", ours.session.ended()).await;
        assert!(end.message.contains("going home"), "{end}");
    }
}

#[tokio::test]
async fn our_goodbye_reaches_a_bare_peer() {
    for side in SIDES {
        let (_bare, ours, mut control) = bare_with_session(side).await;
        ours.session.close(Code::Draining, "the machine restarts");
        let mut frames = FrameDecoder::new(Stage::Control);
        frames.push(std::mem::take(&mut control.rest));
        loop {
            let frame = control.frame(&mut frames).await;
            match ControlMessage::from_frame(&frame).unwrap() {
                ControlMessage::Bye(bye) => break assert_eq!(bye.reason, "the machine restarts"),
                ControlMessage::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
