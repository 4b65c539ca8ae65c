//! One multiplexed connection to one peer, the same code for every role.
//!
//! Everything above this crate trades in substreams that open with an answer, end for a stated reason and never
//! hang; everything below it is a byte pipe that may be slow, hostile or dead. The way of a connection:
//!
//! ```text
//! dialer                                              acceptor
//! net.rs       connect ─────────── TCP / Unix ──────▶ accept.rs    (accepts, nothing else)
//! proxy.rs     … through a proxy, where that is the only way out
//! transport.rs one type for every byte pipe           sniff.rs     (first bytes: whose language?)
//! tls/         dialing  ══════ TLS 1.3, if wanted ══▶ tls/         accepting, then sniff.rs again
//! establish.rs dial ───── Hello … Welcome | Denied ─▶ admission.rs greet → Admission
//! mux/         session() ═══════ substreams ════════ session()
//! splice.rs    substream ⇄ local socket               splice.rs    relay: substream ⇄ substream
//! backoff.rs   when to dial again
//! ```
//!
//! The caller's runtime drives everything: a session is a future ([`Driver`]) that its owner polls.

pub mod accept;
pub mod address;
pub mod admission;
pub mod backoff;
pub mod bucket;
pub mod cidr;
pub mod compress;
pub mod establish;
pub mod held;
pub mod local_socket;
mod memory;
pub mod mux;
pub mod net;
pub mod proxy;
pub mod rules;
pub mod sniff;
pub mod sockopt;
pub mod splice;
pub mod stats;
mod tcp;
pub mod tls;
pub mod transport;
mod tuning;

pub use accept::{Accepted, Listener, LocalAddress, PeerAddress, RawSocket};
pub use address::{Address, AddressError, ListenAddress};
pub use admission::{Admission, GreetError, greet, greet_by};
pub use backoff::Reconnect;
pub use bucket::{BucketError, BucketRules, TokenBucket};
pub use cidr::{Cidr, CidrError};
pub use compress::Compression;
pub use establish::{DialError, Established, Side, dial, enrol};
pub use held::{HeldSocket, own_uid};
pub use local_socket::{SocketError, SocketFile, SocketPlace, SocketWords};
pub use memory::{MemoryBudget, Reserved};
pub use mux::{
    ControlInbox, Driver, Early, Inbound, InboundError, Incoming, OpenError, Outgoing, Pulse, Session,
    SessionConfig, SessionEnd, StreamEnd, StreamIo, Substream, session,
};
pub use net::{Net, RealNet, TimedNet, is_this_machine, outward_address};
pub use proxy::{NoProxy, Proxied, Proxy, ProxySyntaxError};
pub use rules::{ReconnectRules, RulesError, SessionRules};
pub use sniff::{Greeting, SniffError, sniff};
pub use splice::{SpliceError, Spliced, relay, relay_until, splice, splice_until};
pub use stats::Stats;
pub use tls::DialSecurity;
pub use transport::Transport;
pub use tuning::Congestion;
