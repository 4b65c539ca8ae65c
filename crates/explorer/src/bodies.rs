//! Bodies of calls while they are held whole: each has a limit, and all of them together have one.
//!
//! A request is handed on only when it is whole, so that one that is too large or breaks off never reaches a service.
//! Until then its bytes wait here, and somebody who opens a thousand calls must not make a thousand bodies wait. They are
//! part of what the whole process may hold for its peers. So does an answer that is whole before it is sent, until its
//! caller has taken it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{self as http_body, Frame, SizeHint};
use reachback_link::{MemoryBudget, Reserved};
use reachback_wire::{Code, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// Bodies take room in steps of this many bytes.
const UNIT: usize = 1024;

/// What is handed over at a time.
const PIECE: usize = 16 * 1024;

/// Room for the bodies of one explorer.
#[derive(Debug)]
pub(crate) struct Bodies {
    room: Arc<Semaphore>,
    budget: Arc<MemoryBudget>,
    /// What one of them may have.
    most: usize,
}

/// One body that grows; its room is given back on drop.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    budget: Arc<MemoryBudget>,
    most: usize,
    reserved: Reserved,
}

/// A whole body, and its room.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    _held: Option<OwnedSemaphorePermit>,
    _reserved: Option<Reserved>,
}

/// A whole body on its way out over HTTP, with its length; it gives its room back when it is gone.
#[derive(Debug)]
pub(crate) struct Sending {
    whole: Whole,
}

impl Bodies {
    /// Bodies of at most `most` bytes each.
    pub(crate) fn new(budget: Arc<MemoryBudget>, most: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(limits::API_BODIES / UNIT)), budget, most }
    }

    /// What a request or an answer may have.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(crate) fn begin(&self) -> Body {
        Body {
            bytes: Vec::new(),
            room: self.room.clone(),
            held: None,
            budget: self.budget.clone(),
            most: self.most,
            reserved: self.budget.reserve(),
        }
    }
}

impl Bodies {
    /// Room for an answer that is there, as long as it is being sent. What a connection holds anyway is free.
    ///
    /// # Errors
    /// `saturated`: there is none.
    pub(crate) fn hold(&self, bytes: Vec<u8>) -> Result<Whole, Refusal> {
        let mut body = self.begin();
        if bytes.len() > limits::SMALL_ANSWER {
            // One that is larger than all the room there is takes all of it.
            body.claim(bytes.len().min(limits::API_BODIES))?;
        }
        body.reserved.grow(bytes.len());
        Ok(Body { bytes, ..body }.finish())
    }
}

impl Whole {
    /// A short text that needs no room.
    pub(crate) fn small(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), _held: None, _reserved: None }
    }

    /// With a newline at its end.
    pub(crate) fn line(self) -> Self {
        let mut bytes = BytesMut::from(self.bytes);
        bytes.extend_from_slice(b"\n");
        Self { bytes: bytes.freeze(), ..self }
    }

    /// As the body of an HTTP message.
    pub(crate) fn send(self) -> Sending {
        Sending { whole: self }
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Refusal;

    /// In pieces, because what was handed over is not ours any more, and a whole is freed only as a whole.
    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let left = &mut self.get_mut().whole.bytes;
        if left.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(left.split_to(left.len().min(PIECE))))))
    }

    fn is_end_stream(&self) -> bool {
        self.whole.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.whole.bytes.len() as u64)
    }
}

impl Body {
    /// Adds what arrived.
    ///
    /// # Errors
    /// `too_large` beyond the limit of one body, `saturated` beyond that of all.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let length = self.bytes.len() + bytes.len();
        if length > self.most {
            return Err(too_large(self.most));
        }
        self.claim(length)?;
        self.reserved.grow(bytes.len());
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes room for this many bytes in all.
    fn claim(&mut self, length: usize) -> Result<(), Refusal> {
        let saturated = || {
            let text = "too many large calls and answers are held at once; try again";
            Refusal::new(Code::Saturated, text).retry_after(limits::SATURATED_RETRY)
        };
        if self.budget.is_strained() {
            return Err(saturated());
        }
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = length.div_ceil(UNIT).saturating_sub(held);
        // At most API_BODIES / UNIT, which is far below u32::MAX.
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        match (self.room.clone().try_acquire_many_owned(missing), self.held.as_mut()) {
            (Ok(more), Some(held)) => held.merge(more),
            (Ok(more), None) => self.held = Some(more),
            (Err(_), _) => return Err(saturated()),
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Whole {
        Whole { bytes: self.bytes.into(), _held: self.held, _reserved: Some(self.reserved) }
    }
}

/// What a caller is told whose request is larger than a body may be.
pub(crate) fn too_large(most: usize) -> Refusal {
    let text =
        format!("the body of a call may have {most} bytes; use a stream (connect, forward) for bulk data");
    Refusal::new(Code::TooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bodies_together_have_a_bound_and_give_their_room_back() {
        let bodies = Bodies::new(Arc::new(MemoryBudget::new(usize::MAX)), limits::CALL_BODY_MAX);
        let piece = vec![b' '; limits::CALL_BODY_MAX];
        let mut held = Vec::new();
        for _ in 0..limits::API_BODIES / limits::CALL_BODY_MAX {
            let mut body = bodies.begin();
            body.push(&piece).unwrap();
            held.push(body.finish());
        }
        assert_eq!(bodies.begin().push(b"x").unwrap_err().code, Code::Saturated);
        held.pop();
        let mut body = bodies.begin();
        body.push(&piece).unwrap();
        assert_eq!(body.push(b"x").unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn they_are_part_of_what_the_process_may_hold() {
        let budget = Arc::new(MemoryBudget::new(1000));
        let bodies = Bodies::new(budget.clone(), 800);
        let mut body = bodies.begin();
        body.push(&[b' '; 751]).unwrap();
        assert_eq!(budget.used(), 751);
        let whole = body.finish();
        assert_eq!(bodies.begin().push(b"x").unwrap_err().code, Code::Saturated);
        drop(whole);
        assert_eq!(budget.used(), 0);
        bodies.begin().push(b"x").unwrap();
        let refused = bodies.begin().push(&[b' '; 801]).unwrap_err();
        assert_eq!(refused.code, Code::TooLarge);
        assert!(refused.message.contains("800 bytes"), "{refused}");
    }

    #[test]
    fn an_answer_has_room_until_its_last_piece_is_taken() {
        let budget = Arc::new(MemoryBudget::new(usize::MAX));
        let bodies = Bodies::new(budget.clone(), limits::CALL_BODY_MAX);
        let free = || bodies.room.available_permits();
        let all = free();
        let held = bodies.hold(vec![b'x'; limits::API_BODIES - UNIT]).unwrap();
        assert_eq!(free(), 1);
        assert_eq!(bodies.hold(vec![b'x'; limits::SMALL_ANSWER + 1]).unwrap_err().code, Code::Saturated);
        // A refusal and a short answer are always said.
        let small = bodies.hold(vec![b'x'; limits::SMALL_ANSWER]).unwrap();
        let mut sending = std::pin::pin!(held.send());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut sent = 0;
        while let Poll::Ready(Some(piece)) = http_body::Body::poll_frame(sending.as_mut(), &mut cx) {
            assert!(free() < all, "given back too early");
            sent += piece.unwrap().into_data().unwrap().len();
        }
        assert_eq!(sent, limits::API_BODIES - UNIT);
        sending.set(Whole::small(Vec::new()).send());
        drop(small);
        assert_eq!((free(), budget.used()), (all, 0));
        // One that is larger than everything goes alone.
        drop(bodies.hold(vec![b'x'; limits::API_BODIES + 1]).unwrap());
        assert_eq!(Whole::small(b"{}".to_vec()).line().bytes, b"{}\n"[..]);
    }
}
