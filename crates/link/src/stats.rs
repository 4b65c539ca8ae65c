//! What the link counts.
//!
//! Whoever builds sessions passes these in, so that a process with several roles has one set of counters per role and
//! nothing global exists.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$doc])* pub $field: AtomicU64,)* }

        impl $name {
            /// Every counter with its name, in the order of declaration.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Counters of all sessions that were given this struct. Each only grows.
    Stats {
        /// Sessions whose driver has started.
        sessions_started,
        /// Sessions that have ended, for whatever reason.
        sessions_ended,
        /// Times a session became `late`: bytes arrive, heartbeats stay unanswered.
        sessions_late,
        /// Substreams we opened and the peer answered with `Opened`.
        substreams_opened,
        /// Substreams the peer opened and we answered with `Opened`.
        substreams_accepted,
        /// Opens answered with `Refused`, by either side.
        substreams_refused,
        /// Substreams that ended by reset, by either side, with or without a record.
        substreams_reset,
        /// Substreams cut off by the end of their session.
        substreams_lost,
        /// Substreams reset because the peer had filled the memory they were allowed.
        substreams_over_budget,
        /// Bytes read from transports, mux headers included.
        bytes_in,
        /// Bytes written to transports, mux headers included.
        bytes_out,
        /// Mux pings of the peer, answered below the mux.
        pings_answered,
        /// Sessions ended because the peer broke the protocol.
        protocol_errors,
    }
}

/// Adds one to a counter.
pub fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
