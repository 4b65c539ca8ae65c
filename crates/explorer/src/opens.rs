//! A place in line for every open that awaits its reply.
//!
//! One service that never answers must not hold up another one of the same node, nor fill the node's session with
//! opens. So each (node, service) has a fixed number of places; who finds none waits in order, within the deadline
//! its caller gave; and when even the queue is full, the answer is immediate. All hosts behind one node share one gate.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use reachback_wire::{NodeId, ServiceName};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::limits;

/// All places, by service.
#[derive(Debug)]
pub(crate) struct Opens {
    gates: Arc<Mutex<BTreeMap<Key, Gate>>>,
    /// How many may wait for one service behind those in flight.
    most_waiting: usize,
}

/// The right to have one open in flight; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    // Dropped first: whoever is next in line may go before the visit to the map below.
    _permit: OwnedSemaphorePermit,
    _visit: Visit,
}

/// Why there was no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    /// The queue is full too.
    #[error("{0} opens to it already wait for a reply")]
    Full(usize),
    /// The deadline passed while waiting in line.
    #[error("opens before this one took the whole time it had")]
    Timeout,
}

/// Without a service it is the gate of the hosts behind the node.
type Key = (NodeId, Option<ServiceName>);

/// In the map only while somebody is inside or in line, so the map can't outgrow the opens that exist.
#[derive(Debug)]
struct Gate {
    places: Arc<Semaphore>,
    visitors: usize,
}

#[derive(Debug)]
struct Visit {
    gates: Arc<Mutex<BTreeMap<Key, Gate>>>,
    key: Key,
}

impl Opens {
    /// Places with room for this many to wait, for each service.
    pub(crate) fn new(most_waiting: usize) -> Self {
        Self { gates: Arc::default(), most_waiting }
    }

    /// Waits for a place in the order of arrival.
    pub(crate) async fn enter(
        &self,
        node: &NodeId,
        service: Option<&ServiceName>,
        deadline: Instant,
    ) -> Result<Place, NoPlace> {
        let key = (node.clone(), service.cloned());
        let (places, visit) = self.join(key)?;
        let permit = match timeout_at(deadline, places.acquire_owned()).await {
            Ok(permit) => permit.expect("nobody closes the semaphore"),
            Err(_) => return Err(NoPlace::Timeout),
        };
        Ok(Place { _permit: permit, _visit: visit })
    }

    fn join(&self, key: Key) -> Result<(Arc<Semaphore>, Visit), NoPlace> {
        let mut gates = self.gates.lock();
        let gate = gates.entry(key.clone()).or_insert_with(|| Gate {
            places: Arc::new(Semaphore::new(limits::SERVICE_OPENS_IN_FLIGHT)),
            visitors: 0,
        });
        if gate.visitors >= limits::SERVICE_OPENS_IN_FLIGHT + self.most_waiting {
            return Err(NoPlace::Full(gate.visitors));
        }
        gate.visitors += 1;
        Ok((gate.places.clone(), Visit { gates: self.gates.clone(), key }))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get_mut(&self.key) {
            gate.visitors -= 1;
            if gate.visitors == 0 {
                gates.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    /// Not the usual number: what the operator says counts.
    const MOST_WAITING: usize = 40;

    fn names() -> (NodeId, ServiceName, ServiceName) {
        ("edge-7".parse().unwrap(), "slow".parse().unwrap(), "quick".parse().unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_service_queues_then_refuses_and_never_holds_up_another() {
        // More polls than tokio grants a task in one turn.
        tokio::task::unconstrained(fill_and_look()).await;
    }

    async fn fill_and_look() {
        let (node, slow, quick) = names();
        let opens = Opens::new(MOST_WAITING);
        let mut places = Vec::new();
        for _ in 0..limits::SERVICE_OPENS_IN_FLIGHT {
            places.push(opens.enter(&node, Some(&slow), soon()).now_or_never().unwrap().unwrap());
        }
        let mut line: Vec<_> =
            (0..MOST_WAITING).map(|_| Box::pin(opens.enter(&node, Some(&slow), soon()))).collect();
        for waiting in &mut line {
            assert!(waiting.as_mut().now_or_never().is_none(), "there is no place yet");
        }
        let total = limits::SERVICE_OPENS_IN_FLIGHT + MOST_WAITING;
        assert_eq!(
            opens.enter(&node, Some(&slow), soon()).now_or_never().unwrap().unwrap_err(),
            NoPlace::Full(total)
        );
        opens.enter(&node, Some(&quick), soon()).now_or_never().unwrap().unwrap();

        places.pop();
        assert!(line[1].as_mut().now_or_never().is_none(), "the order of arrival is kept");
        let first = line[0].as_mut().now_or_never().unwrap().unwrap();
        drop((line, places, first));
        assert!(opens.gates.lock().is_empty(), "nothing is kept of a service nobody opens");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_callers_deadline() {
        let (node, slow, _) = names();
        let opens = Opens::new(MOST_WAITING);
        let mut places = Vec::new();
        for _ in 0..limits::SERVICE_OPENS_IN_FLIGHT {
            places.push(opens.enter(&node, Some(&slow), soon()).await.unwrap());
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        assert_eq!(opens.enter(&node, Some(&slow), deadline).await.unwrap_err(), NoPlace::Timeout);
        assert_eq!(Instant::now(), deadline);
        places.pop();
        opens.enter(&node, Some(&slow), soon()).await.unwrap();
    }
}
