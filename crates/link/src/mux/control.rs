//! The control substream, driven inside the session's own task.
//!
//! Heartbeats are answered here, so a busy owner never makes a healthy peer look dead. Everything else is handed to
//! the owner through a bounded queue; while that is full, control is not read, and its stream window holds the peer
//! back. A peer that sends more of them than any healthy one needs costs work that nobody else can bound, so it loses
//! its session.

use std::task::{Context, Poll};

use reachback_wire::{
    Code, ControlMessage, FrameDecoder, FrameType, HeartbeatAck, Open, OpenKind, Opened, Refusal, Stage,
    frame, limits,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::PollSender;

use super::{
    StreamEnd,
    session::Shared,
    substream::{Outgoing, Raw},
};
use crate::{BucketRules, Side, TokenBucket};

/// The owner's end of control: everything but heartbeats, in order.
#[derive(Debug)]
pub struct ControlInbox(mpsc::Receiver<Box<ControlMessage>>);

impl ControlInbox {
    /// The next message; `None` once the session is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<ControlMessage> {
        self.0.recv().await.map(|message| *message)
    }
}

/// How many frames a peer may send.
const FRAMES: BucketRules = BucketRules::every(limits::CONTROL_FRAMES_BURST, limits::CONTROL_FRAMES_EVERY);

/// The driver's end.
pub(super) struct Control {
    raw: Raw,
    frames: FrameDecoder,
    phase: Phase,
    out: Vec<u8>,
    writing: Option<Outgoing>,
    inbox: PollSender<Box<ControlMessage>>,
    held: Option<Box<ControlMessage>>,
    allowance: TokenBucket,
}

#[derive(PartialEq, Eq)]
enum Phase {
    /// Acceptor: the peer's `Open` is awaited.
    OpenExpected,
    /// Dialer: the answer to our `Open` is awaited. The peer takes opens from the moment it sends that.
    AnswerExpected,
    Stands,
}

/// What control means for the session.
pub(super) enum Event {
    /// An answer to the heartbeat with this number.
    Acknowledged(u64),
    /// The peer says goodbye.
    Bye(String),
    /// Control can't go on, so the session can't.
    Broken(Code, String),
}

impl Control {
    pub(super) fn channel() -> (PollSender<Box<ControlMessage>>, ControlInbox) {
        let (sender, receiver) = mpsc::channel(limits::CONTROL_QUEUE);
        (PollSender::new(sender), ControlInbox(receiver))
    }

    pub(super) fn new(side: Side, raw: Raw, inbox: PollSender<Box<ControlMessage>>) -> Self {
        let (phase, stage, out) = match side {
            Side::Dialer => {
                (Phase::AnswerExpected, Stage::OpenReply, frame::encode(FrameType::Open, &Open::control()))
            }
            Side::Acceptor => (Phase::OpenExpected, Stage::OpenExpected, Vec::new()),
        };
        let allowance = TokenBucket::full(Instant::now());
        Self {
            raw,
            frames: FrameDecoder::new(stage),
            phase,
            out,
            writing: None,
            inbox,
            held: None,
            allowance,
        }
    }

    /// Queues a message, heartbeats in front of nothing: control is one ordered stream.
    pub(super) fn send(&mut self, message: &ControlMessage) {
        self.out.extend_from_slice(&message.encode());
    }

    /// Whether more may be queued: the owner waits until it may.
    pub(super) fn has_room(&self) -> bool {
        self.phase != Phase::OpenExpected && self.out.len() < limits::CONTROL_OUT_MAX
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.writing.is_none()
    }

    /// Reads and writes what can be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Event> {
        loop {
            if let Some(event) = self.read_frames(cx, shared) {
                return Poll::Ready(event);
            }
            if let Poll::Ready(Err(end)) = self.poll_out(cx) {
                return Poll::Ready(broken(&end));
            }
            if self.held.is_some() || self.out.len() >= limits::CONTROL_OUT_MAX {
                // Answers are owed faster than they can be written, or the owner is busy: the window holds the peer.
                return Poll::Pending;
            }
            match self.raw.poll_read(cx) {
                Poll::Ready(Ok(bytes)) => self.frames.push(bytes),
                Poll::Ready(Err(end)) => return Poll::Ready(broken(&end)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn read_frames(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Option<Event> {
        loop {
            if self.held.is_some() {
                match self.inbox.poll_reserve(cx) {
                    Poll::Ready(Ok(())) => {
                        if let Some(message) = self.held.take() {
                            // Reserved just now.
                            let _ = self.inbox.send_item(message);
                        }
                    }
                    // The owner no longer listens; the session lives on without telling it.
                    Poll::Ready(Err(_)) => self.held = None,
                    Poll::Pending => return None,
                }
            }
            let frame = match self.frames.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return None,
                Err(error) => return Some(Event::Broken(error.code(), format!("on control: {error}"))),
            };
            if self.allowance.take(FRAMES, Instant::now()).is_err() {
                let message = format!(
                    "more than {} control frames at once and one every {:?} is more than a healthy peer sends",
                    limits::CONTROL_FRAMES_BURST,
                    limits::CONTROL_FRAMES_EVERY
                );
                return Some(Event::Broken(Code::RateLimited, message));
            }
            match self.phase {
                Phase::OpenExpected => match frame.parse::<Open>() {
                    Ok(open) if open.kind == OpenKind::Control => {
                        self.out.splice(0..0, frame::encode(FrameType::Opened, &Opened::default()));
                        self.stand(shared);
                    }
                    Ok(_) => {
                        return Some(Event::Broken(
                            Code::BadFrame,
                            "the first substream is not control".into(),
                        ));
                    }
                    Err(error) => return Some(Event::Broken(error.code(), format!("on control: {error}"))),
                },
                Phase::AnswerExpected => match frame.kind {
                    FrameType::Accepted => {}
                    FrameType::Opened => self.stand(shared),
                    _ => {
                        let why = frame.parse::<Refusal>().map_or_else(|e| e.to_string(), |r| r.to_string());
                        return Some(Event::Broken(Code::BadFrame, format!("control was refused: {why}")));
                    }
                },
                Phase::Stands => match ControlMessage::from_frame(&frame) {
                    Ok(ControlMessage::Heartbeat(beat)) => {
                        self.send(&ControlMessage::HeartbeatAck(HeartbeatAck { seq: beat.seq }));
                    }
                    Ok(ControlMessage::HeartbeatAck(ack)) => return Some(Event::Acknowledged(ack.seq)),
                    Ok(ControlMessage::Bye(bye)) => return Some(Event::Bye(bye.reason)),
                    Ok(message) => self.held = Some(Box::new(message)),
                    Err(error) => return Some(Event::Broken(error.code(), format!("on control: {error}"))),
                },
            }
        }
    }

    fn stand(&mut self, shared: &Shared) {
        self.phase = Phase::Stands;
        self.frames.set_stage(Stage::Control);
        shared.stands.send_replace(true);
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        loop {
            if let Some(writing) = &mut self.writing {
                std::task::ready!(self.raw.poll_write(cx, writing))?;
                self.writing = None;
            }
            if self.out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.writing = Some(Outgoing::framed(std::mem::take(&mut self.out)));
        }
    }
}

fn broken(end: &StreamEnd) -> Event {
    Event::Broken(Code::BadFrame, format!("the peer ended control: {end}"))
}
