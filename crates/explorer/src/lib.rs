//! The hub: accepts connections, keeps the registry of nodes, routes and proxies.
//!
//! Nodes and clients dial it; it dials nobody but nodes that have an address of their own. The way of a connection through this crate:
//!
//! ```text
//! listen.rs               accepted, nothing else ──▶ worker.rs      becomes a task
//! ingress.rs              which language? handshake; auth.rs admits; takeover.rs says who keeps the name
//! connection.rs           the session's life: driver, inbound substreams
//!   line.rs               a node's control ─▶ registry.rs (entry.rs: the rules) ─▶ events.rs
//!   route.rs              a client's open ─▶ opens.rs (a place in line) ─▶ the node's session ─▶ relay
//!   api/                  … or @explorer/api (view.rs: what it shows)
//! http.rs / raw.rs        the same API, and calls to services, for whoever speaks no tunnel ─▶ call.rs
//! direct.rs / compat.rs   nodes that are dialled from here, and what old programs expect
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
mod bodies;
mod call;
mod clock;
mod compat;
mod config;
mod connection;
mod direct;
mod entry;
mod events;
mod explorer;
mod headers;
mod http;
mod hub;
mod ingress;
mod items;
mod json_text;
mod limits;
mod line;
mod listen;
mod opens;
mod publish;
mod raw;
mod registry;
mod route;
mod stats;
mod strict;
mod takeover;
mod view;
mod worker;
mod workers;

pub use auth::{Authenticator, Development, Principal, authorise};
pub use config::{ConfigError, DirectNode, ExplorerConfig, Framing, HeroCompat, Publication, SocketConfig};
pub use entry::NodeState;
pub use events::{Change, Watcher};
pub use explorer::{Addresses, Explorer, StartError};
pub use reachback_link::SocketError;
pub use stats::Stats;
pub use view::{EndView, HealthView, NodeView, NodesView, ServiceView};
