//! Who in the registry has changed, told to whoever follows along.
//!
//! An event names the node and nothing more: followers read the present state from the registry, so an event that
//! comes late or twice does no harm. A follower that falls behind the bounded queue is told so and reads everything.

use reachback_wire::NodeId;
use tokio::sync::broadcast;

use crate::limits;

/// The sending side; the registry owns it.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<NodeId>,
}

/// One follower's place in the queue.
#[derive(Debug)]
pub struct Watcher {
    receiver: broadcast::Receiver<NodeId>,
}

/// What a follower learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This node's entry changed.
    Node(NodeId),
    /// Changes were missed: read everything again.
    Many,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(limits::REGISTRY_EVENTS) }
    }

    pub(crate) fn watch(&self) -> Watcher {
        Watcher { receiver: self.sender.subscribe() }
    }

    pub(crate) fn changed(&self, node: &NodeId) {
        // No receiver means that nobody follows, which is no error.
        drop(self.sender.send(node.clone()));
    }
}

impl Watcher {
    /// The next change since the last call; `None` when the registry is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        match self.receiver.recv().await {
            Ok(node) => Some(Change::Node(node)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::Many),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_that_fell_behind_is_told_so() {
        let events = Events::new();
        let node: NodeId = "edge-7".parse().unwrap();
        let mut watcher = events.watch();
        events.changed(&node);
        assert_eq!(watcher.next().await, Some(Change::Node(node.clone())));
        for _ in 0..=limits::REGISTRY_EVENTS * 2 {
            events.changed(&node);
        }
        assert_eq!(watcher.next().await, Some(Change::Many));
        drop(events);
        let mut left = 0;
        while watcher.next().await.is_some() {
            left += 1;
        }
        assert!(left > 0, "what was still queued is handed out before the end");
    }
}
