//! What clients count. Passed in, so that a program with several clients has the sum and nothing global exists.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::call::CallError;

/// Counters of calls and forwarded ports. Each only grows.
#[derive(Debug, Default)]
pub struct Stats {
    /// Calls that brought a result or the service's own error.
    pub calls_answered: AtomicU64,
    /// Calls that ended without the service's word.
    pub calls_failed: AtomicU64,
    /// Visitors of forwarded ports that got their stream.
    pub visitors_served: AtomicU64,
    /// Visitors of forwarded ports that were reset, because the line or the target was down.
    pub visitors_refused: AtomicU64,
    /// Bytes from visitors and standard input to services.
    pub bytes_to_services: AtomicU64,
    /// Bytes from services to visitors and standard output.
    pub bytes_from_services: AtomicU64,
}

impl Stats {
    pub(crate) fn note_call<T>(&self, outcome: &Result<T, CallError>) {
        match outcome {
            Ok(_) | Err(CallError::Service { .. } | CallError::Status { .. }) => add(&self.calls_answered, 1),
            Err(_) => add(&self.calls_failed, 1),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
