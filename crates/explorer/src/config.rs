//! What an explorer is told to be, checked before anything is bound.
//!
//! This is the checked shape: files, flags and variables are the command line's business. A configuration that
//! [`ExplorerConfig::check`] accepts can still meet a taken port, but no rule of ours.

mod error;

use std::{
    collections::BTreeSet,
    path::{Component, PathBuf},
    sync::Arc,
    time::Duration,
};

use reachback_link::{
    Address, Cidr, Compression, Congestion, ListenAddress, MemoryBudget, SessionRules, SocketPlace,
    SocketWords, Stats as LinkStats,
};
use reachback_wire::{
    NodeId, Secret, Target,
    rights::{NamePattern, PatternError, Right},
};

use tokio::runtime::Handle;

pub use error::ConfigError;

use crate::{
    limits,
    modes::{ListenerConfig, Mode, TlsFiles, WebFiles},
    rate::RateLimit,
    security::SecurityConfig,
    stats::Stats,
};

/// Everything an explorer is told.
#[derive(Debug, Clone)]
pub struct ExplorerConfig {
    /// Its name, shown to nodes and clients.
    pub id: NodeId,
    /// TCP addresses that speak the tunnel. Empty: only the Unix socket.
    pub listen: Vec<ListenAddress>,
    /// What the listeners of `listen` ask of whoever connects; without it each one's address decides.
    pub mode: Option<Mode>,
    /// Further TCP listeners, each with rules of its own.
    pub listeners: Vec<ListenerConfig>,
    /// Where nodes and users reach it from outside: what join strings say. Empty: a guess.
    pub advertise: Vec<Address>,
    /// What has to outlive the process: its authority, enrolments, tokens, revocations. Needed by listeners with TLS.
    pub state_dir: Option<PathBuf>,
    /// Certificates that somebody else made.
    pub tls: Option<TlsFiles>,
    /// A certificate for browsers, chosen by the name they ask for.
    pub web: Option<WebFiles>,
    /// What nodes and users whose certificates somebody else made may reach, by name.
    pub callers: Vec<(NamePattern, Vec<Right>)>,
    /// What everybody must know who connects to a listener without TLS, and may show on a permissive one.
    pub secret: Option<Arc<Secret>>,
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
    /// Allows listeners that strangers can reach although nothing is encrypted, and makes plaintext the mode of those
    /// that have none of their own.
    pub insecure_plaintext: bool,
    /// How long [`crate::Explorer::shutdown`] waits for sessions to say goodbye.
    pub shutdown_grace: Duration,
    /// Counters of the explorer.
    pub stats: Arc<Stats>,
    /// Counters of its sessions.
    pub link_stats: Arc<LinkStats>,
    /// What all peers together may make this process hold.
    pub budget: Arc<MemoryBudget>,
    /// How often those who are in may open something; `None`: as often as they can.
    pub rate_limit: Option<RateLimit>,
    /// How its sessions watch over their connections.
    pub rules: SessionRules,
    /// What a request or an answer of a call may have, in bytes: at most [`limits::CALL_BODY_MAX`].
    pub max_message: usize,
    /// How many opens of one service may wait in order behind those in flight.
    pub max_pending: usize,
    /// Which congestion control its sessions should have.
    pub congestion: Congestion,
    /// Whether records may be compressed, towards nodes and clients that want it.
    pub compression: Compression,
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

impl ExplorerConfig {
    /// An explorer with this name, the standard heartbeat and nothing to listen on yet.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            listen: Vec::new(),
            mode: None,
            listeners: Vec::new(),
            advertise: Vec::new(),
            state_dir: None,
            tls: None,
            web: None,
            callers: Vec::new(),
            secret: None,
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
            rate_limit: None,
            rules: SessionRules::default(),
            max_message: limits::CALL_BODY_MAX,
            max_pending: limits::SERVICE_OPENS_WAITING,
            congestion: Congestion::default(),
            compression: Compression::default(),
            runtimes: Vec::new(),
        }
    }

    /// What the core of its security has to know of it.
    pub(crate) fn security(&self) -> Result<SecurityConfig, PatternError> {
        let files = self.tls.clone().unwrap_or_default();
        SecurityConfig { files, ..SecurityConfig::new(self.id.clone()) }.allow(&self.callers)
    }

    /// Checks every rule that needs no system call.
    ///
    /// # Errors
    /// The first rule that is broken, with what to type instead.
    pub fn check(&self) -> Result<(), ConfigError> {
        let listeners = self.all_listeners();
        if listeners.is_empty() && self.socket.is_none() {
            return Err(ConfigError::Unreachable);
        }
        if let Some(unix) = listeners.iter().find(|one| matches!(one.address, ListenAddress::Unix(_))) {
            let (address, remedy) = (unix.address.clone(), "use --socket for it");
            return Err(ConfigError::UnixPath { key: "listen", address, remedy });
        }
        self.check_modes()?;
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
        self.rules.check()?;
        if let Some(given) = self.rules.io_timeout
            && given < 2 * self.heartbeat
        {
            return Err(ConfigError::IoTimeout { given, heartbeat: self.heartbeat });
        }
        if let Some(limit) = &self.rate_limit {
            limit.check()?;
        }
        if !(1..=limits::CALL_BODY_MAX).contains(&self.max_message) {
            return Err(ConfigError::MaxMessage(self.max_message));
        }
        if !(1..=limits::OPENS_WAITING_MAX).contains(&self.max_pending) {
            return Err(ConfigError::MaxPending(self.max_pending));
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
