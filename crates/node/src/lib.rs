//! The agent beside some services; it dials out and listens nowhere.
//!
//! A node keeps one line per explorer and serves, over each, what was declared and nothing else. The way of a visit:
//!
//! ```text
//! node.rs      one line per explorer (reachback_client::line), owned tasks, shutdown
//! agent.rs     per line: announce, serve, remember how it ended
//! control.rs   Services first, then the last ends (ends.rs), then health as it changes (health.rs)
//! serve.rs     an open comes in → admit.rs: is it meant for us, is it declared, and for this caller? → a visit
//! grants.rs    callers that are let in for a while, and their end
//! catalogue.rs what is served right now
//! gate.rs      its turn among the opens of that service
//! allow.rs     … or a host behind the node, if that is allowed
//! dial.rs      connect to it, with a reason when that fails ─▶ link's splice
//! handler.rs   or call the function that is the service
//! call/        or, for a call, speak the service's own framing, or call a function (rpc.rs)
//!
//! caller.rs    the lines, for what listens on this machine (forwarded ports)
//! control_socket.rs, local.rs   what this machine asks the node: status, expose, unexpose
//! ```
//!
//! Embedding takes a configuration and one call; see `examples/` of the repository.

pub mod allow;
pub mod config;
pub mod control_socket;
pub mod handler;
pub mod node;
pub mod rpc;
pub mod service;
pub mod stats;

mod admit;
mod agent;
mod call;
mod caller;
mod catalogue;
mod control;
mod dial;
mod ends;
mod gate;
mod grants;
mod health;
mod limits;
mod local;
mod serve;

pub use allow::{AllowDial, AllowDialError};
pub use config::{ConfigError, NodeConfig};
pub use control_socket::ControlSocket;
pub use handler::{Handler, Visit};
pub use limits::PROBE_EVERY;
pub use node::{LineStatus, Node, StartError};
pub use reachback_client::LineState;
pub use reachback_link::SocketError;
pub use rpc::{CallHandler, Invocation, RpcError};
pub use service::{Endpoint, Framing, Probe, Service, ServiceCompression, ServiceError};
pub use stats::Stats;
