//! Bodies of calls while they are being read: each has a limit, and all of them together have one.
//!
//! A request is handed on only when it is whole, so that one that is too large or breaks off never reaches a service.
//! Until then its bytes wait here, and somebody who opens a thousand calls must not make a thousand bodies wait. They are
//! part of what the whole process may hold for its peers.

use std::sync::Arc;

use bytes::Bytes;
use reachback_link::{MemoryBudget, Reserved};
use reachback_wire::{Code, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// Bodies take room in steps of this many bytes.
const UNIT: usize = 1024;

/// Room for the bodies of one explorer.
#[derive(Debug)]
pub(crate) struct Bodies {
    room: Arc<Semaphore>,
    budget: Arc<MemoryBudget>,
}

/// One body that grows; its room is given back on drop.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    budget: Arc<MemoryBudget>,
    reserved: Reserved,
}

/// A whole body, and its room.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    _held: Option<OwnedSemaphorePermit>,
    _reserved: Reserved,
}

impl Bodies {
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { room: Arc::new(Semaphore::new(limits::API_BODIES / UNIT)), budget }
    }

    pub(crate) fn begin(&self) -> Body {
        Body {
            bytes: Vec::new(),
            room: self.room.clone(),
            held: None,
            budget: self.budget.clone(),
            reserved: self.budget.reserve(),
        }
    }
}

impl Body {
    /// Adds what arrived.
    ///
    /// # Errors
    /// `too_large` beyond the limit of one body, `saturated` beyond that of all.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let length = self.bytes.len() + bytes.len();
        if length > limits::CALL_BODY_MAX {
            let text = format!(
                "the body of a call may have {} bytes; use a stream (connect, forward) for bulk data",
                limits::CALL_BODY_MAX
            );
            return Err(Refusal::new(Code::TooLarge, text));
        }
        let saturated = || {
            let text = "too many large calls are being read at once; try again";
            Refusal::new(Code::Saturated, text).retry_after(limits::SATURATED_RETRY)
        };
        if self.budget.is_strained() {
            return Err(saturated());
        }
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = length.div_ceil(UNIT).saturating_sub(held);
        // At most CALL_BODY_MAX / UNIT, which is far below u32::MAX.
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        match (self.room.clone().try_acquire_many_owned(missing), self.held.as_mut()) {
            (Ok(more), Some(held)) => held.merge(more),
            (Ok(more), None) => self.held = Some(more),
            (Err(_), _) => return Err(saturated()),
        }
        self.reserved.grow(bytes.len());
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn finish(self) -> Whole {
        Whole { bytes: self.bytes.into(), _held: self.held, _reserved: self.reserved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bodies_together_have_a_bound_and_give_their_room_back() {
        let bodies = Bodies::new(Arc::new(MemoryBudget::new(usize::MAX)));
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
        let bodies = Bodies::new(budget.clone());
        let mut body = bodies.begin();
        body.push(&[b' '; 751]).unwrap();
        assert_eq!(budget.used(), 751);
        let whole = body.finish();
        assert_eq!(bodies.begin().push(b"x").unwrap_err().code, Code::Saturated);
        drop(whole);
        assert_eq!(budget.used(), 0);
        bodies.begin().push(b"x").unwrap();
    }
}
