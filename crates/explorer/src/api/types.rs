//! Parameters and results of the explorer's methods.
//!
//! Parameters that are not known are errors, because a misspelt one that is passed over looks like a fault of ours;
//! only heartbeats may hold more than is read here. Results gain members, they don't lose them.

use std::collections::BTreeMap;

use reachback_wire::{NodeId, Target};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::entry::NodeState;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NodesParams {
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeParams {
    pub(super) id: NodeId,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WatchParams {
    pub(super) node: Option<NodeId>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EventsParams {
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KickParams {
    pub(super) id: NodeId,
    #[serde(default)]
    pub(super) for_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallParams {
    pub(super) target: Target,
    pub(super) method: String,
    #[serde(default)]
    pub(super) params: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
}

/// What an un-upgraded node says; whatever else it says is passed over.
#[derive(Debug, Deserialize)]
pub(super) struct HeartbeatParams {
    #[serde(alias = "node", alias = "id")]
    pub(super) node_id: NodeId,
    #[serde(alias = "socket_path", default)]
    pub(super) address: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct HeartbeatResult<'a> {
    pub(super) ok: bool,
    pub(super) explorer: &'a NodeId,
    pub(super) node_id: &'a NodeId,
    pub(super) offline_after_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct KickResult<'a> {
    pub(super) id: &'a NodeId,
    pub(super) sessions: usize,
    pub(super) for_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct ForgetResult<'a> {
    pub(super) id: &'a NodeId,
    pub(super) forgotten: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct StatusResult<'a> {
    pub(super) explorer: &'a NodeId,
    pub(super) version: &'static str,
    pub(super) uptime_s: u64,
    pub(super) ready: bool,
    pub(super) nodes: BTreeMap<&'static str, usize>,
    pub(super) streams: usize,
    pub(super) listeners: Vec<ListenerView>,
    pub(super) counters: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ListenerView {
    /// `tunnel` or `publish`.
    pub(super) kind: &'static str,
    pub(super) address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct EventsResult {
    pub(super) events: Vec<EventView>,
}

#[derive(Debug, Serialize)]
pub(super) struct EventView {
    pub(super) seq: u64,
    pub(super) at_unix_ms: u64,
    pub(super) node: NodeId,
    pub(super) state: NodeState,
    pub(super) reason: String,
}

/// A node that `explorer.watch` has shown before and that is not known any more.
#[derive(Debug, Serialize)]
pub(super) struct Forgotten<'a> {
    pub(super) node: &'a NodeId,
    pub(super) state: &'static str,
}
