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
//! establish.rs dial ───── Hello … Welcome | Denied ─▶ establish.rs greet → Admission
//! mux/         session() ═══════ substreams ════════ session()
//! splice.rs    substream ⇄ local socket               splice.rs    relay: substream ⇄ substream
//! backoff.rs   when to dial again
//! ```
//!
//! The caller's runtime drives everything: a session is a future ([`Driver`]) that its owner polls.

pub mod accept;
pub mod address;
pub mod backoff;
pub mod cidr;
pub mod establish;
pub mod held;
pub mod local_socket;
mod memory;
pub mod mux;
pub mod net;
pub mod proxy;
pub mod sniff;
pub mod sockopt;
pub mod splice;
pub mod stats;
mod tcp;
pub mod transport;
mod tuning;

pub use accept::{Accepted, Listener, LocalAddress, PeerAddress, RawSocket};
pub use address::{Address, AddressError, ListenAddress};
pub use backoff::Reconnect;
pub use cidr::{Cidr, CidrError};
pub use establish::{Admission, DialError, Established, GreetError, Side, dial, greet, greet_by};
pub use held::{HeldSocket, own_uid};
pub use local_socket::{SocketError, SocketFile, SocketPlace, SocketWords};
pub use memory::{MemoryBudget, Reserved};
pub use mux::{
    ControlInbox, Driver, Early, Inbound, InboundError, Incoming, OpenError, Outgoing, Pulse, Session,
    SessionConfig, SessionEnd, StreamEnd, StreamIo, Substream, session,
};
pub use net::{Net, RealNet, is_this_machine};
pub use proxy::{NoProxy, Proxied, Proxy, ProxySyntaxError};
pub use sniff::{Greeting, SniffError, sniff};
pub use splice::{SpliceError, Spliced, relay, relay_until, splice};
pub use stats::Stats;
pub use transport::Transport;
pub use tuning::Congestion;
