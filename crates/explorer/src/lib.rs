//! The hub: accepts connections, keeps the registry of nodes, routes and proxies.
//!
//! Nodes and clients dial it; nothing it does needs to dial anyone. The way of a connection through this crate:
//!
//! ```text
//! listen.rs / socket.rs   accepted, nothing else ──▶ worker.rs      becomes a task
//! ingress.rs              which language? handshake; auth.rs admits; takeover.rs says who keeps the name
//! connection.rs           the session's life: driver, inbound substreams
//!   line.rs               a node's control ─▶ registry.rs (entry.rs: the rules) ─▶ events.rs
//!   route.rs              a client's open ─▶ opens.rs (a place in line) ─▶ the node's session ─▶ relay
//!   api.rs                … or @explorer/api (view.rs: what it shows)
//! publish.rs              a TCP port that leads to one service, bound while that can be reached
//! ```
//!
//! It prints nothing, reads no environment, installs nothing global, and runs on the runtime it is started on.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use reachback_explorer::{Explorer, ExplorerConfig};
//! use reachback_link::RealNet;
//!
//! let mut config = ExplorerConfig::new("hub-1".parse()?);
//! config.listen.push("127.0.0.1:9002".parse()?);
//! let explorer = Explorer::start(config, Arc::new(RealNet)).await?;
//! tracing::error!("{}", explorer.failed().await);
//! explorer.shutdown().await;
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod api;
mod auth;
mod clock;
mod config;
mod connection;
mod entry;
mod events;
mod explorer;
mod hub;
mod ingress;
mod limits;
mod line;
mod listen;
mod opens;
mod publish;
mod registry;
mod route;
mod socket;
mod stats;
mod takeover;
mod view;
mod worker;

pub use auth::{Authenticator, Development, Principal, authorise};
pub use config::{ConfigError, ExplorerConfig, Publication, SocketConfig};
pub use entry::NodeState;
pub use events::{Change, Watcher};
pub use explorer::{Addresses, Explorer, StartError};
pub use socket::SocketError;
pub use stats::Stats;
pub use view::{EndView, HealthView, NodeView, NodesView, ServiceView};
