//! What a node counts. Passed in, so that a program with several nodes has the sum and nothing global exists.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of what a node serves. Each only grows.
#[derive(Debug, Default)]
pub struct Stats {
    /// Streams that reached their service.
    pub visits_served: AtomicU64,
    /// Of those, streams that ended in order on both sides.
    pub visits_finished: AtomicU64,
    /// Streams and calls that broke: reset by a side, timed out, or lost with the session.
    pub visits_broken: AtomicU64,
    /// Calls whose service was connected.
    pub calls_served: AtomicU64,
    /// Of those, calls that were answered whole; a service's own error is an answer.
    pub calls_answered: AtomicU64,
    /// Opens for something that is not here: undeclared service, other node, other instance.
    pub opens_refused: AtomicU64,
    /// Opens refused because too many others waited for the same service.
    pub opens_saturated: AtomicU64,
    /// Opens refused because the service could not be reached.
    pub services_unreachable: AtomicU64,
    /// Bytes that went to services.
    pub bytes_to_services: AtomicU64,
    /// Bytes that came from services.
    pub bytes_from_services: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
