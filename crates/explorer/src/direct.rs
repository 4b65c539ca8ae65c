//! Nodes with an address: un-upgraded ones of the hero stack, which this explorer dials itself.
//!
//! Such a node listens somewhere the explorer can reach (a Unix socket of the same machine, a TCP port, the end of an
//! old socket bridge) and says so in a heartbeat or stands in the configuration. It has one service, `rpc`. Calls and
//! streams to it look from outside like those to any other node; a session of the same name goes before.

mod exchange;
pub(crate) mod permit;
mod reach;

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use parking_lot::Mutex;
use reachback_link::{Address, AddressError};
use reachback_wire::{Code, NodeId, Refusal, ServiceName, Target, text::sanitize};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use permit::NamedBy;
pub(crate) use reach::{call, serve};

use crate::{
    config::{ExplorerConfig, Framing},
    entry::NodeState,
    hub::Hub,
    limits,
    registry::Registry,
};

/// The one service of a node with an address.
const SERVICE: &str = "rpc";

/// Where a node says it can be reached: `tunnel`, `unix:///path`, `/path`, `tcp://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeAddress {
    /// Through the session it keeps, and in no other way.
    Tunnel,
    /// By dialling it.
    Dial(Address),
}

/// The nodes with an address.
#[derive(Debug)]
pub(crate) struct DirectNodes {
    inner: Mutex<BTreeMap<NodeId, Entry>>,
    registry: Arc<Registry>,
    framing: Framing,
}

#[derive(Debug)]
struct Entry {
    address: Address,
    by: NamedBy,
    framing: Framing,
    state: NodeState,
    since: Instant,
    reason: String,
    /// When it last said something; a configured node says nothing.
    heard: Option<Instant>,
    /// Calls at a time.
    places: Arc<Semaphore>,
}

/// A copy of one.
#[derive(Debug, Clone)]
pub(crate) struct DirectCopy {
    pub(crate) node: NodeId,
    pub(crate) service: ServiceName,
    pub(crate) address: Address,
    pub(crate) by: NamedBy,
    pub(crate) framing: Framing,
    pub(crate) state: NodeState,
    pub(crate) since: Instant,
    pub(crate) reason: String,
    pub(crate) places: Arc<Semaphore>,
}

/// Why a node can't be where it says it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeAddressError {
    /// A word without a scheme: a path that begins somewhere on the node, or a host without `tcp://`. Taken for a host,
    /// a socket's name would be answered with `ok` and looked up for ever after.
    #[error(
        "address \"{}\": neither an absolute path nor an address with a scheme; write /path, unix:///path, \
         tcp://HOST:PORT or tunnel",
        sanitize(.0, 80)
    )]
    Relative(String),
    /// It has a scheme, or is a path, and is wrong in itself.
    #[error(transparent)]
    Wrong(#[from] AddressError),
}

impl FromStr for NodeAddress {
    type Err = NodeAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = text.trim();
        if entry == "tunnel" {
            return Ok(Self::Tunnel);
        }
        if !entry.starts_with('/') && !entry.contains("://") {
            return Err(NodeAddressError::Relative(entry.to_owned()));
        }
        Ok(Self::Dial(entry.parse()?))
    }
}

impl DirectNodes {
    pub(crate) fn new(config: &ExplorerConfig, registry: Arc<Registry>) -> Self {
        let now = Instant::now();
        let configured = config.direct.iter().map(|direct| {
            let entry = Entry {
                address: direct.address.clone(),
                by: NamedBy::Operator,
                framing: direct.framing,
                state: NodeState::Online,
                since: now,
                reason: "in the configuration; dialled when it is called".to_owned(),
                heard: None,
                places: places(),
            };
            (direct.node.clone(), entry)
        });
        let framing = config.hero.as_ref().map_or(Framing::Http, |hero| hero.framing);
        Self { inner: Mutex::new(configured.collect()), registry, framing }
    }

    /// A node says where it is and that it lives. Whether that may be dialled has been judged.
    ///
    /// # Errors
    /// There are too many others, or the name stands in the configuration with another address.
    pub(crate) fn heartbeat(&self, node: &NodeId, address: Address, by: NamedBy) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let came = match inner.get_mut(node) {
            Some(entry) if entry.heard.is_none() => {
                if entry.address != address {
                    let message = format!(
                        "{node} stands in the configuration with the address {}; change it there",
                        entry.address
                    );
                    return Err(Refusal::new(Code::IdTaken, message));
                }
                false
            }
            Some(entry) => {
                let came = entry.state == NodeState::Offline || entry.address != address;
                entry.heard = Some(now);
                if came {
                    entry.since = now;
                }
                entry.state = NodeState::Online;
                entry.reason = format!("its heartbeats name {address}");
                (entry.address, entry.by) = (address, by);
                came
            }
            None => {
                if inner.len() >= limits::DIRECT_NODES && !forget_longest_gone(&mut inner) {
                    let message =
                        format!("{} nodes with an address are online; that is all there may be", inner.len());
                    return Err(Refusal::new(Code::Saturated, message).retry_after(limits::DIRECT_TIMEOUT));
                }
                let reason = format!("its heartbeats name {address}");
                let (state, framing) = (NodeState::Online, self.framing);
                let heard = Some(now);
                let entry =
                    Entry { address, by, framing, state, since: now, reason, heard, places: places() };
                inner.insert(node.clone(), entry);
                true
            }
        };
        let reason = inner.get(node).map(|entry| entry.reason.clone()).unwrap_or_default();
        drop(inner);
        if came {
            self.registry.note(node, NodeState::Online, &reason);
        }
        Ok(())
    }

    /// A node is reached through its session and in no other way from now on: an address that its heartbeats named is
    /// not dialled any more, not even when the session ends. One that stands in the configuration stays.
    pub(crate) fn withdraw(&self, node: &NodeId) {
        let mut inner = self.inner.lock();
        if inner.get(node).is_some_and(|entry| entry.heard.is_some()) {
            inner.remove(node);
        }
    }

    /// All of them, in the order of names.
    pub(crate) fn copy(&self) -> Vec<DirectCopy> {
        self.inner.lock().iter().map(|(node, entry)| entry.copy(node)).collect()
    }

    /// One of them.
    pub(crate) fn get(&self, node: &NodeId) -> Option<DirectCopy> {
        self.inner.lock().get(node).map(|entry| entry.copy(node))
    }

    /// Forgets one that is silent. `true`: it did; `false`: it is online.
    pub(crate) fn forget(&self, node: &NodeId) -> Option<bool> {
        let mut inner = self.inner.lock();
        let gone = inner.get(node)?.state == NodeState::Offline;
        if gone {
            inner.remove(node);
        }
        Some(gone)
    }

    fn expire(&self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        for (node, entry) in self.inner.lock().iter_mut() {
            let silent = entry.heard.is_some_and(|heard| now - heard >= limits::DIRECT_TIMEOUT);
            if silent && entry.state != NodeState::Offline {
                entry.state = NodeState::Offline;
                entry.since = now;
                entry.reason = format!("no heartbeat for {} s", limits::DIRECT_TIMEOUT.as_secs());
                gone.push((node.clone(), entry.reason.clone()));
            }
        }
        for (node, reason) in gone {
            self.registry.note(&node, NodeState::Offline, &reason);
        }
    }
}

impl Framing {
    /// As it is written in configurations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Lines => "lines",
            Self::Raw => "raw",
        }
    }
}

impl Entry {
    fn copy(&self, node: &NodeId) -> DirectCopy {
        DirectCopy {
            node: node.clone(),
            service: ServiceName::parse(SERVICE).expect("a constant that is a name"),
            address: self.address.clone(),
            by: self.by,
            framing: self.framing,
            state: self.state,
            since: self.since,
            reason: self.reason.clone(),
            places: self.places.clone(),
        }
    }
}

/// Notices who has fallen silent, until the explorer closes.
pub(crate) async fn watch_over(hub: Arc<Hub>) {
    let looking = async {
        loop {
            sleep(limits::DIRECT_LOOK).await;
            hub.direct.expire();
        }
    };
    hub.closing.run_until_cancelled(looking).await;
}

/// The node with an address that this target means, if there is one and no session of that name.
pub(crate) fn find(hub: &Hub, target: &Target) -> Option<DirectCopy> {
    let Target::Service { node, .. } = target else { return None };
    let direct = hub.direct.get(node)?;
    (!hub.registry.has_session(node)).then_some(direct)
}

fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits::DIRECT_CALLS))
}

fn forget_longest_gone(inner: &mut BTreeMap<NodeId, Entry>) -> bool {
    let gone = inner.iter().filter(|(_, entry)| entry.state == NodeState::Offline);
    let oldest = gone.min_by_key(|(_, entry)| entry.since).map(|(node, _)| node.clone());
    oldest.is_some_and(|oldest| inner.remove(&oldest).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_where_it_is_with_a_scheme_or_an_absolute_path() {
        for (said, dialled) in [
            ("tunnel", None),
            (" unix:///run/rpc.sock", Some("unix:///run/rpc.sock")),
            ("/run/rpc.sock", Some("unix:///run/rpc.sock")),
            ("tcp://10.0.0.7:9003", Some("10.0.0.7:9003")),
        ] {
            let address = match said.parse::<NodeAddress>().unwrap() {
                NodeAddress::Tunnel => None,
                NodeAddress::Dial(address) => Some(address.to_string()),
            };
            assert_eq!(address.as_deref(), dialled, "{said}");
        }
        for said in ["rpc.sock", "./rpc.sock", "run/rpc.sock", "sockets/", "host:9003", ""] {
            let refusal = said.parse::<NodeAddress>().unwrap_err().to_string();
            assert!(refusal.contains(&format!("\"{said}\"")) && refusal.contains("/path"), "{refusal}");
        }
        for (said, why) in [("unix://rpc.sock", "absolute path"), ("ftp://hub", "unknown scheme")] {
            let refusal = said.parse::<NodeAddress>().unwrap_err().to_string();
            assert!(refusal.contains(said) && refusal.contains(why), "{refusal}");
        }
    }
}
