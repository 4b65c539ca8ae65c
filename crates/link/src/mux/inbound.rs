//! Substreams that the peer opens: read its `Open`, do the work, answer.
//!
//! The acceptor always answers. Work that takes longer than [`limits::ACCEPTED_AFTER`] is announced with `Accepted`,
//! which also acknowledges the stream in the mux: a slow service never fills the opener's backlog of unanswered
//! opens, and other services of the node stay reachable.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use reachback_wire::{
    Accepted, Code, FrameDecoder, FrameError, FrameType, Open, OpenKind, Opened, Refusal, Stage, frame,
    limits,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    InboundError, StreamEnd, Substream,
    substream::{Outgoing, Raw},
};
use crate::stats;

/// The substreams that the peer opens, in order.
#[derive(Debug)]
pub struct Incoming(pub(super) mpsc::Receiver<Box<Raw>>);

/// One substream that the peer opened and that has not been answered yet. Dropping it resets it.
pub struct Inbound {
    raw: Box<Raw>,
    frames: FrameDecoder,
    /// From what size on records may be compressed, if the `Open` announced it.
    lz4: Option<usize>,
    answered: bool,
}

/// Why there is no `Open` to serve.
enum NoOpen {
    Gone(StreamEnd),
    Malformed(Refusal),
}

impl From<FrameError> for NoOpen {
    fn from(error: FrameError) -> Self {
        Self::Malformed(Refusal::new(error.code(), error.to_string()))
    }
}

impl Incoming {
    /// The next one; `None` once the session is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Inbound> {
        let raw = self.0.recv().await?;
        Some(Inbound { raw, frames: FrameDecoder::new(Stage::OpenExpected), lz4: None, answered: false })
    }
}

impl Inbound {
    /// Reads the `Open`. On a protocol error the opener has been refused already.
    ///
    /// # Errors
    /// When it does not come within [`limits::OPEN_HEADER_TIMEOUT`], is malformed, or the opener goes away; and when
    /// the process holds so much already that nothing new may begin, which the opener has been told.
    pub async fn open(&mut self) -> Result<Open, InboundError> {
        let deadline = Instant::now() + limits::OPEN_HEADER_TIMEOUT;
        let Ok(outcome) = timeout_at(deadline, self.read_open()).await else {
            let refusal = Refusal::new(Code::Timeout, "no open header came within its deadline");
            self.answer_with(FrameType::Refused, &refusal).await;
            return Err(InboundError::Timeout);
        };
        match outcome {
            Ok(_) if self.raw.shared().budget.is_strained() => {
                let refusal = Refusal::new(
                    Code::Saturated,
                    "this process holds as much unread data as it may; try again",
                )
                .retry_after(limits::SATURATED_RETRY);
                self.answer_with(FrameType::Refused, &refusal).await;
                Err(InboundError::Refused(refusal))
            }
            Ok(open) => Ok(open),
            Err(NoOpen::Gone(end)) => Err(InboundError::Gone(end)),
            Err(NoOpen::Malformed(refusal)) => {
                self.answer_with(FrameType::Refused, &refusal).await;
                Err(InboundError::Protocol(refusal.message))
            }
        }
    }

    /// Does the work that the open asks for and answers: `Opened` if it succeeds, `Refused` if not, `Accepted` in
    /// between if it takes long. Work stops (is dropped) when the opener goes away or sends more than
    /// [`limits::EARLY_BYTES_MAX`] before the answer.
    ///
    /// # Errors
    /// [`InboundError::Refused`] repeats the refusal that was sent; the rest say why nobody could be answered.
    pub async fn answer<T>(
        mut self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<(Substream, T), InboundError> {
        self.raw.hold();
        let mut early = BytesMut::from(self.frames.take_rest().as_ref());
        let done = {
            let mut work = pin!(work);
            let mut slow = pin!(sleep(limits::ACCEPTED_AFTER));
            let mut accepted = None;
            let mut announced = false;
            poll_fn(|cx| {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(Ok(done));
                }
                if !announced && slow.as_mut().poll(cx).is_ready() {
                    announced = true;
                    accepted =
                        Some(Outgoing::framed(frame::encode(FrameType::Accepted, &Accepted::default())));
                }
                if let Some(record) = &mut accepted
                    && self.raw.poll_write(cx, record).is_ready()
                {
                    // An error shows itself to the reading below.
                    accepted = None;
                }
                Poll::Ready(Err(std::task::ready!(self.poll_early(cx, &mut early))))
            })
            .await
        };
        let outcome = match done {
            Ok(outcome) => outcome,
            Err(InboundError::Protocol(what)) => {
                let refusal = Refusal::new(Code::BadFrame, what.clone());
                self.answer_with(FrameType::Refused, &refusal).await;
                return Err(InboundError::Protocol(what));
            }
            Err(gone) => return Err(gone),
        };
        match outcome {
            Ok(value) => {
                self.answer_with(FrameType::Opened, &Opened::default()).await;
                stats::count(&self.raw.shared().stats.substreams_accepted);
                self.raw.release();
                self.raw.counted();
                Ok((Substream::new(*self.raw, early.freeze(), None, self.lz4), value))
            }
            Err(refusal) => {
                self.answer_with(FrameType::Refused, &refusal).await;
                stats::count(&self.raw.shared().stats.substreams_refused);
                Err(InboundError::Refused(refusal))
            }
        }
    }

    /// Says no.
    pub async fn refuse(mut self, refusal: Refusal) {
        stats::count(&self.raw.shared().stats.substreams_refused);
        self.answer_with(FrameType::Refused, &refusal).await;
    }

    async fn read_open(&mut self) -> Result<Open, NoOpen> {
        let frame = loop {
            match self.frames.next().map_err(NoOpen::from)? {
                Some(frame) => break frame,
                None => {
                    let bytes = poll_fn(|cx| self.raw.poll_read(cx)).await.map_err(NoOpen::Gone)?;
                    self.frames.push(bytes);
                }
            }
        };
        let open: Open = frame.parse().map_err(NoOpen::from)?;
        if open.kind == OpenKind::Control {
            let message = "control is the dialer's first substream, the only one of its kind";
            return Err(NoOpen::Malformed(Refusal::new(Code::BadFrame, message)));
        }
        self.lz4 = self.raw.shared().announced(&open);
        Ok(open)
    }

    /// Keeps what comes before the answer. Ready only when that can't go on.
    fn poll_early(&mut self, cx: &mut Context<'_>, early: &mut BytesMut) -> Poll<InboundError> {
        loop {
            if early.len() > limits::EARLY_BYTES_MAX {
                let what = format!("more than {} bytes before the answer", limits::EARLY_BYTES_MAX);
                return Poll::Ready(InboundError::Protocol(what));
            }
            match std::task::ready!(self.raw.poll_read(cx)) {
                Ok(bytes) => early.extend_from_slice(&bytes),
                Err(end) => return Poll::Ready(InboundError::Gone(end)),
            }
        }
    }

    /// Writes an answer; if the opener is gone there is nobody to tell.
    async fn answer_with<T: serde::Serialize>(&mut self, kind: FrameType, payload: &T) {
        debug_assert!(!self.answered, "one answer");
        self.answered = true;
        let mut answer = Outgoing::framed(frame::encode(kind, payload));
        let written: Result<(), StreamEnd> = poll_fn(|cx| self.raw.poll_write(cx, &mut answer)).await;
        if let Err(end) = written {
            tracing::debug!(%end, "the opener went away before its answer");
        }
    }
}
