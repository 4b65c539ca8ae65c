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

mod access;
pub mod call;
pub mod client;
pub mod connect;
mod enrolment;
pub mod fanout;
pub mod forward;
pub mod identity;
pub mod limits;
pub mod line;
pub mod login;
pub mod membership;
mod plan;
mod presence;
pub mod profiles;
pub mod reconnecting;
mod remedy;
pub mod renewal;
pub mod selector;
pub mod socks;
pub mod state_dir;
pub mod stats;
pub mod uplink;

pub use access::{Access, AccessError};
pub use call::{Answer, Call, CallError, CallStream};
pub use client::{Client, ClientOptions, ConnectError};
pub use connect::{Piped, pipe};
pub use fanout::{fan_out, resolve};
pub use forward::Forward;
pub use identity::{Identity, Random, RandomError};
pub use limits::DEFAULT_BUDGET;
pub use line::{LineError, LineState};
pub use login::{LoginError, login};
pub use membership::{Membership, MembershipError};
pub use profiles::{Profile, ProfileError, Profiles};
pub use reconnecting::{NoStream, Reconnecting};
pub use renewal::keep_renewed;
pub use selector::{Selector, SelectorError};
pub use socks::Socks;
pub use state_dir::{StateDir, StateError};
pub use stats::Stats;
pub use uplink::{Uplink, UplinkLine};
