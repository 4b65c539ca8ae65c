//! How nodes look to whoever asks: the shape of an answer, separate from what the registry keeps.
//!
//! Programs depend on these names; fields are added, not renamed.

use std::collections::BTreeMap;

use reachback_wire::{Code, EndReport, HealthState, NodeId, ServiceInfo, ServiceName, SessionId};
use serde::{Deserialize, Serialize};

use crate::{
    clock::unix_ms_of,
    direct::DirectCopy,
    entry::{End, NodeState},
    hub::Hub,
    registry::NodeCopy,
};

/// The answer to `explorer.nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodesView {
    /// Who answers.
    pub explorer: NodeId,
    /// Every node it knows, in the order of names.
    pub nodes: Vec<NodeView>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub node: NodeId,
    /// Whether it can be reached.
    pub state: NodeState,
    /// When that state began, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// How long ago that was, in seconds, by a clock that nobody sets.
    pub since_s: u64,
    /// Why it is in that state.
    pub reason: String,
    /// Time from a heartbeat to its answer. Absent while offline, or until one was answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_ms: Option<f64>,
    /// What it declares; of an offline node what it declared last.
    pub services: Vec<ServiceView>,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// Substreams on all its sessions.
    pub streams: usize,
    /// Where it is connected.
    pub explorer: NodeId,
    /// The session that gets opens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<SessionId>,
    /// Where that session came from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// What it runs, as it says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<String>,
    /// How its last session ended, as seen from here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_end: Option<EndView>,
    /// How its last sessions ended, as seen from here, latest first.
    pub ends: Vec<EndView>,
    /// How its last sessions ended, as the node itself saw it.
    pub node_ends: Vec<EndView>,
}

/// One service of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// As its node sees it.
    pub health: HealthView,
    /// Why it is failing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// How calls are put to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub framing: Option<String>,
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthView {
    /// It answers.
    Ok,
    /// It does not.
    Failing,
    /// Nobody has tried.
    Unknown,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndView {
    /// Which session.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<SessionId>,
    /// Why, as a code.
    pub code: Code,
    /// Why, as a sentence.
    pub message: String,
    /// When, in milliseconds since 1970, by the clock of whoever says so.
    pub at_unix_ms: u64,
}

impl NodesView {
    /// Every node of this registry as it is now.
    pub(crate) fn of(hub: &Hub) -> Self {
        let connected = hub.registry.copy().into_iter().map(|node| NodeView::of(&hub.id, node));
        let mut nodes: BTreeMap<_, _> = connected.map(|view| (view.node.clone(), view)).collect();
        for direct in hub.direct.copy() {
            // A node that has both is reached through its own session while that lasts.
            if nodes.get(&direct.node).is_none_or(|view| view.state == NodeState::Offline) {
                nodes.insert(direct.node.clone(), NodeView::of_direct(&hub.id, direct));
            }
        }
        Self { explorer: hub.id.clone(), nodes: nodes.into_values().collect() }
    }
}

impl NodeView {
    /// One node by its name.
    pub(crate) fn find(hub: &Hub, node: &NodeId) -> Option<Self> {
        let connected = hub.registry.find(node).map(|copy| Self::of(&hub.id, copy));
        match connected {
            Some(view) if view.state != NodeState::Offline => Some(view),
            offline => hub.direct.get(node).map(|direct| Self::of_direct(&hub.id, direct)).or(offline),
        }
    }

    /// Whether it has all of these labels.
    pub(crate) fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }

    fn of_direct(explorer: &NodeId, direct: DirectCopy) -> Self {
        Self {
            node: direct.node,
            state: direct.state,
            since_unix_ms: unix_ms_of(direct.since),
            since_s: direct.since.elapsed().as_secs(),
            reason: direct.reason,
            rtt_ms: None,
            services: vec![ServiceView {
                name: direct.service,
                health: HealthView::Unknown,
                reason: None,
                framing: Some(direct.framing.name().to_owned()),
            }],
            labels: BTreeMap::new(),
            streams: 0,
            explorer: explorer.clone(),
            session: None,
            address: Some(direct.address.to_string()),
            agent: None,
            last_end: None,
            ends: Vec::new(),
            node_ends: Vec::new(),
        }
    }

    fn of(explorer: &NodeId, copy: NodeCopy) -> Self {
        let rtt = copy.sessions.first().and_then(reachback_link::Session::rtt);
        let ends: Vec<_> = copy.ends.iter().map(EndView::seen).collect();
        Self {
            node: copy.node,
            state: copy.state,
            since_unix_ms: unix_ms_of(copy.since),
            since_s: copy.since.elapsed().as_secs(),
            reason: copy.reason,
            rtt_ms: rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
            services: copy.declared.services.iter().map(ServiceView::of).collect(),
            labels: copy.declared.labels.clone(),
            streams: copy.sessions.iter().map(reachback_link::Session::substreams).sum(),
            explorer: explorer.clone(),
            session: copy.serving.as_ref().map(|line| line.session),
            address: copy.serving.as_ref().map(|line| line.peer.clone()),
            agent: copy.serving.map(|line| line.agent),
            last_end: ends.first().cloned(),
            ends,
            node_ends: copy.reported.iter().rev().map(EndView::reported).collect(),
        }
    }
}

impl ServiceView {
    fn of(info: &ServiceInfo) -> Self {
        let (health, reason) = match &info.health {
            HealthState::Ok => (HealthView::Ok, None),
            HealthState::Failing { reason } => (HealthView::Failing, Some(reason.clone())),
            HealthState::Unknown => (HealthView::Unknown, None),
        };
        Self { name: info.name.clone(), health, reason, framing: info.framing.clone() }
    }
}

impl EndView {
    fn seen(end: &End) -> Self {
        Self {
            session: Some(end.session),
            code: end.code,
            message: end.message.clone(),
            at_unix_ms: unix_ms_of(end.at),
        }
    }

    fn reported(end: &EndReport) -> Self {
        Self {
            session: end.session,
            code: end.code,
            message: end.message.clone(),
            at_unix_ms: end.at_unix_ms,
        }
    }
}
