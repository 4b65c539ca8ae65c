//! What an explorer is told to be, checked before anything is bound.
//!
//! This is the checked shape: files, flags and variables are the command line's business. A configuration that
//! [`ExplorerConfig::check`] accepts can still meet a taken port, but no rule of ours.

use std::{
    collections::BTreeSet,
    path::{Component, PathBuf},
    sync::Arc,
    time::Duration,
};

use reachback_link::{
    Address, Cidr, Congestion, ListenAddress, MemoryBudget, SocketPlace, SocketWords, Stats as LinkStats,
};
use reachback_wire::{NodeId, Target, text::sanitize};

use tokio::runtime::Handle;

use crate::{limits, stats::Stats};

/// Everything an explorer is told.
#[derive(Debug, Clone)]
pub struct ExplorerConfig {
    /// Its name, shown to nodes and clients.
    pub id: NodeId,
    /// TCP addresses that speak the tunnel. Empty: only the Unix socket.
    pub listen: Vec<ListenAddress>,
    /// The local socket. `None`: none, which leaves an explorer without `listen` unreachable.
    pub socket: Option<SocketConfig>,
    /// The group that the local socket belongs to, by number; unchanged without one.
    pub socket_group: Option<u32>,
    /// TCP ports that lead to one service each.
    pub publish: Vec<Publication>,
    /// Host names by which HTTP may be asked, besides IP addresses and `localhost`. A browser that was led here under
    /// another name is refused.
    pub hosts: Vec<String>,
    /// Nodes that this explorer dials itself.
    pub direct: Vec<DirectNode>,
    /// What the programs of the hero stack are used to. `None`: the explorer's own interface only.
    pub hero: Option<HeroCompat>,
    /// How often both ends of a session ask whether the other is there; everything about liveness follows from it.
    pub heartbeat: Duration,
    /// Allows `listen` addresses that strangers can reach, although nothing is encrypted or authenticated.
    pub insecure_plaintext: bool,
    /// How long [`crate::Explorer::shutdown`] waits for sessions to say goodbye.
    pub shutdown_grace: Duration,
    /// Counters of the explorer.
    pub stats: Arc<Stats>,
    /// Counters of its sessions.
    pub link_stats: Arc<LinkStats>,
    /// What all peers together may make this process hold.
    pub budget: Arc<MemoryBudget>,
    /// Which congestion control its sessions should have.
    pub congestion: Congestion,
    /// Runtimes that take connections besides the one that starts the explorer. Each should be of one thread; whoever
    /// made them keeps them running until the explorer has ended.
    pub runtimes: Vec<Handle>,
}

/// Where the Unix socket is and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// An absolute path.
    pub path: PathBuf,
    /// Permission bits; 0o600 by default.
    pub mode: u32,
}

/// A node that is called at its address instead of through its own session. Its one service is `rpc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectNode {
    /// Its name.
    pub node: NodeId,
    /// Where its RPC server listens, as seen from this explorer.
    pub address: Address,
    /// How calls are put to it.
    pub framing: Framing,
}

/// How a call is put to a service that is dialled from here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// One `POST /rpc`.
    #[default]
    Http,
    /// The body and a newline; the answer is one JSON text.
    Lines,
    /// The body as it is; the answer is one JSON text.
    Raw,
}

/// What old programs of the hero stack expect of an explorer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeroCompat {
    /// Further names of `explorer.heartbeat`.
    pub heartbeat_methods: Vec<String>,
    /// Members of a request's parameters that name a node, the first one that does wins.
    pub node_fields: Vec<String>,
    /// Passes requests that are not the explorer's own, and name a node in one of `node_fields`, to that node's `rpc`
    /// service, bytes unchanged.
    pub forward: bool,
    /// How calls are put to nodes that registered themselves with an address.
    pub framing: Framing,
    /// Directories below which a heartbeat may name Unix sockets when it comes over the network, or from a user who
    /// does not own the socket. Absolute, without `..`.
    pub heartbeat_sockets: Vec<PathBuf>,
    /// Blocks in which a heartbeat may name TCP addresses, besides the address it comes from.
    pub heartbeat_networks: Vec<Cidr>,
}

/// A TCP port that leads to one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where visitors connect. It is bound only while the target can be reached.
    pub listen: ListenAddress,
    /// `NODE/SERVICE`.
    pub target: Target,
}

/// A configuration that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A tunnel listener that strangers could reach.
    #[error(
        "listen {0}: other machines can reach it, and this version has no TLS: anyone on the way could read and change \
         what passes, and anyone could connect. Listen on 127.0.0.1, or, on a network you trust, add --insecure-plaintext"
    )]
    Plaintext(ListenAddress),
    /// A Unix path where a TCP address belongs.
    #[error("{key} {address}: a Unix socket can't be used here; {remedy}")]
    UnixPath {
        /// The key of the configuration.
        key: &'static str,
        /// What was given.
        address: ListenAddress,
        /// What to write instead.
        remedy: &'static str,
    },
    /// A publication of something that is no service of a node.
    #[error("publish {listen}={target}: only a service of a node can be published, as in 5432=edge-7/db")]
    PublishTarget {
        /// Where it was to listen.
        listen: ListenAddress,
        /// What it was to lead to.
        target: Target,
    },
    /// A publication of a node that is dialled from here.
    #[error(
        "publish {listen}={target}: this explorer dials that node itself, and publishes only what is reached through a \
         tunnel; let visitors connect to {address}, or run reachback node beside it"
    )]
    PublishDirect {
        /// Where it was to listen.
        listen: ListenAddress,
        /// What it was to lead to.
        target: Target,
        /// Where that is.
        address: Address,
    },
    /// Nothing could ever connect.
    #[error(
        "this explorer has neither a TCP address nor a Unix socket, so nothing could reach it; give it --listen or --socket"
    )]
    Unreachable,
    /// A socket path that is not absolute.
    #[error("socket {0:?}: the path must be absolute")]
    RelativeSocket(PathBuf),
    /// Permission bits that are none.
    #[error(
        "socket mode {0:o}: permission bits go from 0600 to 0777, and the owner must be able to read and write"
    )]
    SocketMode(u32),
    /// A host name that can't be one.
    #[error("host \"{}\": write a name as browsers send it, without scheme and port, as in hub.example.com", sanitize(.0, 80))]
    Host(String),
    /// Two direct nodes of one name.
    #[error("node {0} has two addresses; a node has one")]
    DirectTwice(NodeId),
    /// Requests are to be forwarded, and nothing says to whom.
    #[error("compat.hero: forward needs node_fields, the members that name a node, as in [\"node_id\"]")]
    ForwardWithoutFields,
    /// A directory that is no place, or every place.
    #[error(
        "compat.hero.heartbeat_sockets {0:?}: write the absolute path of a directory of its own, without .., as in /run/hero"
    )]
    HeartbeatSockets(PathBuf),
    /// A heartbeat that would make liveness meaningless.
    #[error("heartbeat {given:?}: it must lie between {min:?} and {max:?}", min = limits::HEARTBEAT_MIN, max = limits::HEARTBEAT_MAX)]
    Heartbeat {
        /// What was given.
        given: Duration,
    },
}

impl ExplorerConfig {
    /// An explorer with this name, the standard heartbeat and nothing to listen on yet.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            listen: Vec::new(),
            socket: None,
            socket_group: None,
            publish: Vec::new(),
            hosts: Vec::new(),
            direct: Vec::new(),
            hero: None,
            heartbeat: limits::HEARTBEAT,
            insecure_plaintext: false,
            shutdown_grace: limits::SHUTDOWN_GRACE,
            stats: Arc::default(),
            link_stats: Arc::default(),
            budget: Arc::new(MemoryBudget::new(limits::PROCESS_BUDGET)),
            congestion: Congestion::default(),
            runtimes: Vec::new(),
        }
    }

    /// Checks every rule that needs no system call.
    ///
    /// # Errors
    /// The first rule that is broken, with what to type instead.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() && self.socket.is_none() {
            return Err(ConfigError::Unreachable);
        }
        for address in &self.listen {
            if matches!(address, ListenAddress::Unix(_)) {
                return Err(ConfigError::UnixPath {
                    key: "listen",
                    address: address.clone(),
                    remedy: "use --socket for it",
                });
            }
            if !address.is_loopback() && !self.insecure_plaintext {
                return Err(ConfigError::Plaintext(address.clone()));
            }
        }
        if let Some(socket) = &self.socket {
            if !socket.path.is_absolute() {
                return Err(ConfigError::RelativeSocket(socket.path.clone()));
            }
            if socket.mode & !0o777 != 0 || socket.mode & 0o600 != 0o600 {
                return Err(ConfigError::SocketMode(socket.mode));
            }
        }
        for publication in &self.publish {
            publication.check()?;
        }
        for host in &self.hosts {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
                return Err(ConfigError::Host(host.clone()));
            }
        }
        let mut seen = BTreeSet::new();
        for direct in &self.direct {
            if !seen.insert(&direct.node) {
                return Err(ConfigError::DirectTwice(direct.node.clone()));
            }
            let leads_there = |publication: &&Publication| matches!(&publication.target, Target::Service { node, .. } if *node == direct.node);
            if let Some(publication) = self.publish.iter().find(leads_there) {
                return Err(ConfigError::PublishDirect {
                    listen: publication.listen.clone(),
                    target: publication.target.clone(),
                    address: direct.address.clone(),
                });
            }
        }
        if self.hero.as_ref().is_some_and(|hero| hero.forward && hero.node_fields.is_empty()) {
            return Err(ConfigError::ForwardWithoutFields);
        }
        let sockets = self.hero.iter().flat_map(|hero| &hero.heartbeat_sockets);
        for directory in sockets {
            let climbs = directory.components().any(|part| part == Component::ParentDir);
            if !directory.is_absolute() || climbs || directory.parent().is_none() {
                return Err(ConfigError::HeartbeatSockets(directory.clone()));
            }
        }
        if !(limits::HEARTBEAT_MIN..=limits::HEARTBEAT_MAX).contains(&self.heartbeat) {
            return Err(ConfigError::Heartbeat { given: self.heartbeat });
        }
        Ok(())
    }
}

impl SocketConfig {
    /// A socket that only its owner can use.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o600 }
    }

    /// As a socket to be made.
    pub(crate) fn place(&self, group: Option<u32>) -> SocketPlace {
        let words = SocketWords { what: "socket", owner: "explorer", flag: "--socket" };
        SocketPlace { path: self.path.clone(), mode: self.mode, group, words }
    }
}

impl Publication {
    fn check(&self) -> Result<(), ConfigError> {
        if matches!(self.listen, ListenAddress::Unix(_)) {
            return Err(ConfigError::UnixPath {
                key: "publish",
                address: self.listen.clone(),
                remedy: "publish on a TCP address",
            });
        }
        if !matches!(self.target, Target::Service { .. }) {
            return Err(ConfigError::PublishTarget {
                listen: self.listen.clone(),
                target: self.target.clone(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ExplorerConfig {
        let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
        config.listen.push("127.0.0.1:0".parse().unwrap());
        config
    }

    fn refused(change: impl FnOnce(&mut ExplorerConfig)) -> String {
        let mut config = config();
        config.check().unwrap();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn strangers_need_the_exact_flag() {
        let mut config = config();
        config.listen.push(":9002".parse().unwrap());
        let refusal = config.check().unwrap_err().to_string();
        assert!(refusal.contains(":9002") && refusal.contains("--insecure-plaintext"), "{refusal}");
        config.insecure_plaintext = true;
        config.check().unwrap();
    }

    #[test]
    fn every_other_rule_says_what_to_write() {
        let unix: ListenAddress = "/run/x.sock".parse().unwrap();
        let publication = |listen: &str, target: &str| Publication {
            listen: listen.parse().unwrap(),
            target: target.parse().unwrap(),
        };
        assert!(refused(|c| c.listen.clear()).contains("--listen or --socket"));
        assert!(refused(|c| c.listen.push(unix.clone())).contains("--socket"));
        assert!(refused(|c| c.publish.push(publication("/run/x.sock", "edge-7/db"))).contains("TCP address"));
        assert!(
            refused(|c| c.publish.push(publication("127.0.0.1:0", "@explorer/api"))).contains("edge-7/db")
        );
        assert!(refused(|c| c.socket = Some(SocketConfig::new("x.sock"))).contains("absolute"));
        assert!(
            refused(|c| c.socket = Some(SocketConfig { path: "/x".into(), mode: 0o1777 })).contains("1777")
        );
        assert!(
            refused(|c| c.socket = Some(SocketConfig { path: "/x".into(), mode: 0o066 })).contains("owner")
        );
        assert!(refused(|c| c.hosts.push("http://hub".into())).contains("hub.example.com"));
        let direct = |node: &str| DirectNode {
            node: node.parse().unwrap(),
            address: "/run/x.sock".parse().unwrap(),
            framing: Framing::Http,
        };
        assert!(refused(|c| c.direct.extend([direct("a"), direct("a")])).contains("two addresses"));
        let dialled = refused(|c| {
            c.direct.push(direct("a"));
            c.publish.push(publication("127.0.0.1:0", "a/rpc"));
        });
        assert!(dialled.contains("a/rpc") && dialled.contains("/run/x.sock"), "{dialled}");
        let forward = HeroCompat { forward: true, ..HeroCompat::default() };
        assert!(refused(|c| c.hero = Some(forward)).contains("node_fields"));
        for wrong in ["run/hero", "/", "/run/hero/../x"] {
            let hero = HeroCompat { heartbeat_sockets: vec![wrong.into()], ..HeroCompat::default() };
            let refusal = refused(|c| c.hero = Some(hero));
            assert!(refusal.contains(wrong) && refusal.contains("/run/hero"), "{refusal}");
        }
        assert!(refused(|c| c.heartbeat = Duration::ZERO).contains("heartbeat"));
        assert!(refused(|c| c.heartbeat = Duration::from_secs(86_400)).contains("heartbeat"));
    }

    #[test]
    fn publications_may_face_strangers_because_each_was_written_down() {
        let mut config = config();
        config
            .publish
            .push(Publication { listen: ":0".parse().unwrap(), target: "edge-7/db".parse().unwrap() });
        config.check().unwrap();
    }
}
