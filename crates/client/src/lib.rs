//! The caller: sessions of role client, calls, streams, forwarded ports; and the line that every dialer keeps.
//!
//! ```text
//! identity.rs      who dials                       line.rs          dial, live, wait, dial again
//! client.rs        one session, for one command    reconnecting.rs  a session that comes back
//! call.rs          one JSON-RPC call               forward.rs       a local port that is a service far away
//! selector.rs      several places in one word      fanout.rs        one call to all of them
//! uplink.rs        the lines of a process          presence.rs      whether a node is there, as the explorer tells
//! connect.rs       standard input and output as a stream                       socks.rs   all services by name
//! ```
//!
//! The node crate builds on `line` and `identity`: whoever dials lives by the same rules, whatever it dials for.

pub mod call;
pub mod client;
pub mod connect;
pub mod fanout;
pub mod forward;
pub mod identity;
pub mod limits;
pub mod line;
mod presence;
pub mod reconnecting;
pub mod selector;
pub mod socks;
pub mod stats;
pub mod uplink;

pub use call::{Answer, Call, CallError, CallStream};
pub use client::{Client, ClientOptions, ConnectError};
pub use connect::{Piped, pipe};
pub use fanout::{fan_out, resolve};
pub use forward::Forward;
pub use identity::{Identity, Random, RandomError};
pub use limits::DEFAULT_BUDGET;
pub use line::LineState;
pub use reconnecting::{NoStream, Reconnecting};
pub use selector::{Selector, SelectorError};
pub use socks::Socks;
pub use stats::Stats;
pub use uplink::{Uplink, UplinkLine};
