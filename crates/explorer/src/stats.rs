//! What the explorer counts.
//!
//! One struct per explorer, passed in by whoever starts it, so that nothing global exists and an embedding program
//! can read its own explorer's figures. Every counter only grows, and every one of them is moved by a test.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counters of one explorer.
        #[derive(Debug, Default)]
        pub struct Stats { $($(#[$doc])* pub $field: AtomicU64,)* }

        impl Stats {
            /// Every counter with its name, in the order of declaration.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Connections taken from the tunnel port and the Unix socket.
    connections,
    /// Times an accept loop paused because the machine ran out of something (file descriptors, memory).
    accept_pauses,
    /// Strangers who lost their place to a newcomer, because all were taken and they had been idle longest.
    connections_shed,
    /// Connections closed because their network had left too many handshakes unfinished.
    sources_limited,
    /// Connections closed because too many strangers came at once.
    strangers_limited,
    /// Connections of listed balancers that did not say for whom they were, or not properly.
    proxy_headers_refused,
    /// Opens and calls that were told to wait, because their caller or service had used up its rate.
    rate_limited,
    /// Connections that spoke HTTP.
    greetings_http,
    /// Connections that spoke raw JSON-RPC.
    greetings_json_rpc,
    /// HTTP and raw JSON connections that were refused: too many others, or not allowed in.
    plain_refused,
    /// HTTP requests, whatever became of them.
    http_requests,
    /// Connections that spoke TLS.
    greetings_tls,
    /// TLS handshakes that succeeded.
    tls_handshakes,
    /// TLS handshakes that failed, or came to a listener without TLS.
    tls_refused,
    /// Connections that came without TLS to a listener that wants it.
    plaintext_refused,
    /// Connections from addresses that a listener does not allow.
    outside_refused,
    /// Connections whose first bytes were no language we know, or that said nothing in time.
    greetings_unknown,
    /// Tunnel handshakes that broke the protocol or were refused.
    handshakes_refused,
    /// Certificates given to peers that joined or renewed in a handshake.
    enrolled,
    /// Sessions cut because their credential was revoked, or its token was over.
    cut,
    /// Sessions of nodes that were welcomed.
    node_sessions,
    /// Sessions of clients that were welcomed.
    client_sessions,
    /// Sessions replaced by a later one of the same process.
    successions,
    /// Newcomers that took the name of a session which no longer answered.
    ghosts_replaced,
    /// Newcomers that took the name of a session which still answered: two processes use one id.
    clones_replaced,
    /// Newcomers sent away because two processes kept taking the same id from each other.
    clones_refused,
    /// Substreams that reached their service.
    opens_relayed,
    /// Substreams refused, by us or by the node.
    opens_refused,
    /// Sessions ended because their opener reset too many opens before the reply.
    rapid_resets,
    /// Visitors of publications that were connected.
    visitors_served,
    /// Visitors of publications that were sent away with a reset.
    visitors_refused,
    /// Requests to the explorer's own API that were answered, errors included.
    api_calls,
    /// Tasks that panicked; each took one connection or one substream with it and nothing else.
    panics,
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
