//! One runtime's share of the connections.
//!
//! A worker takes raw sockets from its queue and makes each a task of the runtime it runs on; a connection lives and
//! dies there.

use std::sync::Arc;

use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

use crate::{
    hub::Hub,
    ingress,
    listen::{Arrival, Door},
    publish,
    stats::count,
    workers::{Inbox, Place, WorkerId},
};

/// Serves what arrives until the hub stops, then waits for the connections to end, but not for ever.
pub(crate) async fn run(hub: Arc<Hub>, mut inbox: Inbox) {
    let mut connections = JoinSet::new();
    let mut arriving = true;
    loop {
        tokio::select! {
            () = hub.stopping.cancelled() => break,
            arrival = inbox.arrivals.recv(), if arriving => match arrival {
                Some((arrival, place)) => serve(&hub, inbox.id, arrival, place, &mut connections),
                None => arriving = false,
            },
            Some(done) = connections.join_next() => { note(&hub, done); }
        }
    }
    drop(inbox);
    let goodbyes = async {
        while let Some(done) = connections.join_next().await {
            note(&hub, done);
        }
    };
    if timeout(hub.grace, goodbyes).await.is_err() {
        tracing::info!(left = connections.len(), "connections that did not end in time are cut");
        connections.shutdown().await;
    }
}

/// A task for each kind, so that one kind's does not have the size of the other's.
fn serve(hub: &Arc<Hub>, worker: WorkerId, arrival: Arrival, place: Place, connections: &mut JoinSet<()>) {
    let hub = hub.clone();
    let Arrival { socket, peer, door } = arrival;
    match door {
        Door::Tunnel(rules) => connections.spawn(async move {
            let _place = place;
            ingress::serve(hub, worker, socket, peer, rules).await;
        }),
        Door::Published(target) => connections.spawn(async move {
            let _place = place;
            publish::visit(hub, socket, peer, target).await;
        }),
    };
}

/// A task that panicked took one connection with it; the process lives, and somebody should know.
pub(crate) fn note<T>(hub: &Hub, done: Result<T, JoinError>) -> Option<T> {
    match done {
        Ok(outcome) => Some(outcome),
        Err(error) => {
            if error.is_panic() {
                count(&hub.stats.panics);
                tracing::error!(%error, "a task panicked; its connection ends");
            }
            None
        }
    }
}
