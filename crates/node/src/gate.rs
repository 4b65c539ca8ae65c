//! How many opens one service may keep waiting.
//!
//! A service that accepts nothing must cost a bounded number of half-made connections and never the turn of another
//! service: each has a gate of its own. Up to 128 opens dial at once, up to 1,024 more (or as many as the operator says)
//! wait in order within their deadline, and the next is told so at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use reachback_wire::limits;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// The gate of one service.
#[derive(Debug)]
pub(crate) struct Gate {
    dialing: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
}

/// Why an open did not get its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoTurn {
    /// As many wait already as may: this many.
    Full(usize),
    /// It waited until its deadline.
    TooLate,
}

impl Gate {
    /// A gate with room for this many to wait.
    pub(crate) fn new(most_waiting: usize) -> Self {
        let dialing = Semaphore::new(limits::SERVICE_OPENS_IN_FLIGHT);
        Self { dialing, waiting: AtomicUsize::new(0), most_waiting }
    }

    /// A turn to dial, in order of asking. Held while dialing, not while the stream lives.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, NoTurn> {
        if let Ok(turn) = self.dialing.try_acquire() {
            return Ok(turn);
        }
        let _place = self.take_place().ok_or(NoTurn::Full(self.most_waiting))?;
        match timeout_at(deadline, self.dialing.acquire()).await {
            // A turn that comes because the one before gave up at the same deadline is of no use.
            Ok(Ok(turn)) if Instant::now() < deadline => Ok(turn),
            // The semaphore is never closed; were it, nobody would get a turn in time either.
            Ok(_) | Err(_) => Err(NoTurn::TooLate),
        }
    }

    fn take_place(&self) -> Option<Place<'_>> {
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.most_waiting).then_some(n + 1))
            .ok()
            .map(|_| Place(&self.waiting))
    }
}

/// A place in the queue, given back however the wait ends.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::{
        future::poll_fn,
        pin::{Pin, pin},
        task::Poll,
        time::Duration,
    };

    /// Not the usual number: what the operator says counts.
    const MOST_WAITING: usize = 40;

    async fn waits<F: Future>(mut future: Pin<&mut F>) -> bool {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_dial_so_many_wait_and_the_next_is_told_at_once() {
        let gate = Gate::new(MOST_WAITING);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut turns = Vec::new();
        for _ in 0..limits::SERVICE_OPENS_IN_FLIGHT {
            turns.push(gate.enter(deadline).await.unwrap());
        }
        let mut queue = pin!(join_all((0..MOST_WAITING).map(|_| gate.enter(deadline))));
        assert!(waits(queue.as_mut()).await);
        assert_eq!(gate.enter(deadline).await.unwrap_err(), NoTurn::Full(MOST_WAITING));

        turns.pop();
        assert!(waits(queue.as_mut()).await);
        let mut next = pin!(gate.enter(deadline));
        assert!(waits(next.as_mut()).await, "a place came free, a turn did not");

        let outcomes = queue.await;
        assert!(outcomes[0].is_ok(), "first come, first served");
        assert!(outcomes[1..].iter().all(|turn| matches!(turn, Err(NoTurn::TooLate))));
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 1, "only the last still holds a place");
    }
}
