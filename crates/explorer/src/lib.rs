//! The hub: accepts connections, keeps the registry of nodes, routes and proxies.
//!
//! Nodes and clients dial it; it dials nobody but nodes that have an address of their own. The way of a connection through this crate:
//!
//! ```text
//! listen.rs               accepted, nothing else ──▶ worker.rs      becomes a task
//! door.rs                 which language? through TLS where the listener wants it (keys.rs, modes.rs)
//! ingress.rs              handshake; auth.rs asks who it is (judge.rs: ours); takeover.rs says who keeps the name
//! connection.rs           the session's life: driver, inbound substreams; leash.rs ends it when a credential does
//!   access.rs             what its principal may do, asked at every open
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

mod access;
mod api;
mod auth;
mod bodies;
mod buckets;
mod call;
mod clock;
mod compat;
mod config;
mod connection;
mod direct;
mod door;
mod entry;
mod events;
mod explorer;
mod flood;
mod headers;
mod http;
mod hub;
mod ingress;
mod items;
mod join;
mod json_text;
mod judge;
mod keys;
mod leash;
mod limits;
mod line;
mod listen;
mod modes;
mod opens;
pub mod proxy_protocol;
mod publish;
mod rate;
mod raw;
mod registry;
mod renewal;
mod route;
pub mod security;
mod stats;
mod strict;
mod takeover;
mod view;
mod worker;
mod workers;

pub use auth::{Authenticator, Development, Principal, Verdict, Visit};
pub use config::{ConfigError, DirectNode, ExplorerConfig, Framing, HeroCompat, Publication, SocketConfig};
pub use entry::NodeState;
pub use events::{Change, Watcher};
pub use explorer::{Addresses, Explorer, StartError};
pub use join::JoinLine;
pub use keys::KeysError;
pub use modes::{ListenerConfig, ListenerMode, Mode, NodeIdVerification, TlsFiles, WebFiles, WordError};
pub use rate::{RateBucketView, RateError, RateLimit, RatePer, RateView};
pub use reachback_link::SocketError;
pub use stats::Stats;
pub use view::{EndView, HealthView, NodeView, NodesView, ServiceView};
