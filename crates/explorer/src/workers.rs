//! On which runtime a connection lives.
//!
//! There is one worker per runtime, and what landed on one stays there: a mux whose driver and pumps are on two threads
//! pays for every wakeup twice. A connection goes to the worker that has the fewest; a visitor of a published port
//! goes to where the session of its node is.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use crate::{limits, listen::Arrival};

/// The number of a worker: its place in [`Workers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerId(usize);

impl WorkerId {
    /// The first of what every worker has one of; there are as many as workers.
    pub(crate) fn of<T>(self, each: &[T]) -> Option<&T> {
        each.get(self.0)
    }
}

/// The ways to all workers of one explorer.
#[derive(Debug)]
pub(crate) struct Workers {
    desks: Vec<Desk>,
}

/// What one worker takes its work from.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) id: WorkerId,
    pub(crate) arrivals: mpsc::Receiver<(Arrival, Place)>,
}

/// A connection's place in the count of its worker, as long as it lives.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

#[derive(Debug)]
struct Desk {
    arrivals: mpsc::Sender<(Arrival, Place)>,
    connections: Arc<AtomicUsize>,
}

impl Workers {
    /// As many as there are runtimes, at least one.
    pub(crate) fn new(count: usize) -> (Self, Vec<Inbox>) {
        let (desks, inboxes) = (0..count.max(1))
            .map(|number| {
                let (sender, arrivals) = mpsc::channel(limits::ARRIVALS);
                (
                    Desk { arrivals: sender, connections: Arc::default() },
                    Inbox { id: WorkerId(number), arrivals },
                )
            })
            .unzip();
        (Self { desks }, inboxes)
    }

    /// Hands an arrival to the worker that has the fewest connections, or to this one. `false`: the worker is gone,
    /// and so is the explorer. Waits while that worker's queue is full.
    pub(crate) async fn hand(&self, arrival: Arrival, to: Option<WorkerId>) -> bool {
        let chosen = to.and_then(|id| self.desks.get(id.0)).or_else(|| self.idlest());
        let Some(desk) = chosen else { return false };
        // Counted before it is there: a burst must not all go to the same one.
        let place = Place::take(&desk.connections);
        desk.arrivals.send((arrival, place)).await.is_ok()
    }

    fn idlest(&self) -> Option<&Desk> {
        self.desks.iter().min_by_key(|desk| desk.connections.load(Ordering::Relaxed))
    }
}

impl Place {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl WorkerId {
    pub(crate) const FIRST: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use reachback_link::Listener;

    use super::*;
    use crate::listen::{Door, ListenerRules, accept};

    async fn arrival() -> Arrival {
        let (network, connections) = mpsc::channel(1);
        let (_far, near) = tokio::io::duplex(64);
        network.send(near).await.unwrap();
        let mut listener = Listener::memory(connections, "test");
        accept(&mut listener, Door::Tunnel(Arc::new(ListenerRules::local())), &Default::default())
            .await
            .unwrap()
    }

    fn waiting(inbox: &mut Inbox) -> Vec<(Arrival, Place)> {
        std::iter::from_fn(|| inbox.arrivals.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn connections_go_where_the_fewest_are_and_visitors_where_they_are_sent() {
        let (workers, mut inboxes) = Workers::new(3);
        for _ in 0..6 {
            assert!(workers.hand(arrival().await, None).await);
        }
        let mut living: Vec<_> = inboxes.iter_mut().map(waiting).collect();
        assert_eq!(living.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
        living[1].clear();
        for _ in 0..2 {
            assert!(workers.hand(arrival().await, None).await);
        }
        assert_eq!(waiting(&mut inboxes[1]).len(), 2, "what ended has made room there");
        let last = inboxes[2].id;
        for _ in 0..4 {
            assert!(workers.hand(arrival().await, Some(last)).await);
        }
        assert_eq!(waiting(&mut inboxes[2]).len(), 4);
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_is_told() {
        let (workers, inboxes) = Workers::new(0);
        assert_eq!(inboxes.len(), 1, "there is always one");
        drop(inboxes);
        assert!(!workers.hand(arrival().await, None).await);
    }
}
