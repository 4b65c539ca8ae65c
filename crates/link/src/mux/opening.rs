//! What passes on a substream from its `Open` to its answer.
//!
//! A visitor that speaks first has said something before anybody knows whether its service can be reached. Waiting
//! for the answer with that would cost every new connection one more round trip of the line, so the beginning goes out
//! behind the `Open` at once. It is kept until the answer has come: a refusal promises that nothing reached the
//! service, and then the same bytes may be offered elsewhere.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use reachback_wire::{
    FrameDecoder, FrameType, Open, Opened, RecordKind, Refusal, Stage, frame, limits,
    record::RECORD_HEADER_LEN, text,
};

use super::{
    OpenError, StreamEnd,
    substream::{Outgoing, Raw},
};
use crate::Transport;

/// The beginning of what a local pipe says, for a substream that is not open yet.
pub struct Early<'a> {
    local: &'a mut Transport,
    kept: Vec<u8>,
    /// Bytes it took, headers of records included: a visitor that dribbles must not make us break the limit.
    sent: usize,
    /// The pipe has ended or failed, which is for later.
    over: bool,
}

impl<'a> Early<'a> {
    /// Nothing has been read yet.
    pub fn of(local: &'a mut Transport) -> Self {
        Self { local, kept: Vec::new(), sent: 0, over: false }
    }

    /// Bytes that were read.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// What was read for an attempt before this one.
    fn again(&self) -> Option<Outgoing> {
        (!self.is_empty()).then(|| Outgoing::record(RecordKind::Data, &self.kept))
    }

    /// More, as long as there is room for it before the answer.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Outgoing> {
        let room = limits::EARLY_READ.saturating_sub(self.sent + RECORD_HEADER_LEN);
        if self.over || room == 0 {
            return Poll::Pending;
        }
        if ready!(self.local.poll_readable(cx)).is_ok()
            && let Ok(Some(record)) = ready!(Outgoing::poll_read_from(Pin::new(&mut *self.local), cx, room))
        {
            self.kept.extend_from_slice(record.payload());
            self.sent += RECORD_HEADER_LEN + record.payload_len();
            return Poll::Ready(record);
        }
        self.over = true;
        Poll::Pending
    }
}

/// What an answered open leaves.
pub(super) struct Answered {
    /// What came behind the answer.
    pub(super) rest: Bytes,
    /// An early record that has not been sent to its end.
    pub(super) unsent: Option<Outgoing>,
}

/// Sends `Open`, then what comes early (compressed from `lz4` bytes on), and reads frames until the answer.
pub(super) async fn negotiate(
    raw: &mut Raw,
    open: &Open,
    mut early: Option<&mut Early<'_>>,
    lz4: Option<usize>,
) -> Result<Answered, OpenError> {
    let mut answers = FrameDecoder::new(Stage::OpenReply);
    let mut sending = Some(Outgoing::framed(frame::encode(FrameType::Open, open)));
    let mut kept = early.as_ref().and_then(|early| early.again());
    let mut deaf = false;
    let rest = poll_fn(|cx| {
        while !deaf {
            let Some(bytes) = &mut sending else {
                sending = kept.take();
                if sending.is_none() {
                    let Some(Poll::Ready(more)) = early.as_mut().map(|early| early.poll_more(cx)) else {
                        break;
                    };
                    sending = Some(more);
                }
                continue;
            };
            if let Some(min_size) = lz4 {
                bytes.compress(min_size);
            }
            match raw.poll_write(cx, bytes) {
                Poll::Ready(Ok(())) => sending = None,
                Poll::Ready(Err(StreamEnd::Lost(end))) => return Poll::Ready(Err(OpenError::Lost(end))),
                // May be a refusal's shadow: the answer is read all the same.
                Poll::Ready(Err(_)) => (deaf, sending) = (true, None),
                Poll::Pending => break,
            }
        }
        loop {
            if let Some(answer) = answer(&mut answers) {
                return Poll::Ready(answer);
            }
            match ready!(raw.poll_read(cx)) {
                Ok(bytes) => answers.push(bytes),
                Err(StreamEnd::Lost(end)) => return Poll::Ready(Err(OpenError::Lost(end))),
                Err(_) => {
                    let what = "the open was reset instead of answered".into();
                    return Poll::Ready(Err(OpenError::Protocol(what)));
                }
            }
        }
    })
    .await?;
    Ok(Answered { rest, unsent: sending })
}

/// The answer, once it is here, and what came behind it.
fn answer(frames: &mut FrameDecoder) -> Option<Result<Bytes, OpenError>> {
    let broken = |error: &dyn std::fmt::Display| Some(Err(OpenError::Protocol(error.to_string())));
    loop {
        let answer = match frames.next() {
            Ok(Some(answer)) => answer,
            Ok(None) => return None,
            Err(error) => return broken(&error),
        };
        match answer.kind {
            FrameType::Accepted => {}
            FrameType::Opened => match answer.parse::<Opened>() {
                Ok(_) => return Some(Ok(frames.take_rest())),
                Err(error) => return broken(&error),
            },
            _ => match answer.parse::<Refusal>() {
                Ok(refusal) => {
                    let message = text::sanitize(&refusal.message, limits::END_TEXT_MAX);
                    return Some(Err(OpenError::Refused(Refusal { message, ..refusal })));
                }
                Err(error) => return broken(&error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_visitor_that_dribbles_stays_below_what_the_peer_takes() {
        let (mut local, mut visitor) = Transport::memory_pair(64);
        let mut early = Early::of(&mut local);
        let mut cx = Context::from_waker(Waker::noop());
        let mut wire = 0;
        for _ in 0..limits::EARLY_READ {
            visitor.write_all(b"x").await.unwrap();
            match early.poll_more(&mut cx) {
                Poll::Ready(record) => wire += RECORD_HEADER_LEN + record.payload_len(),
                Poll::Pending => break,
            }
        }
        assert!((limits::EARLY_READ - 5..=limits::EARLY_READ).contains(&wire), "{wire}");
        assert_eq!(early.again().unwrap().payload_len(), early.len());
        assert_eq!(early.len(), wire / 5);
    }

    #[tokio::test]
    async fn the_end_of_a_visitor_is_for_later() {
        let (mut local, visitor) = Transport::memory_pair(64);
        drop(visitor);
        let mut early = Early::of(&mut local);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(early.poll_more(&mut cx).is_pending());
        assert!(early.is_empty() && early.again().is_none());
    }
}
