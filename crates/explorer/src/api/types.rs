//! Parameters and results of the explorer's methods.
//!
//! Parameters that are not known are errors, because a misspelt one that is passed over looks like a fault of ours;
//! only heartbeats may hold more than is read here. Results gain members, they don't lose them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use reachback_wire::{
    NodeId, Secret, Target,
    rights::{NamePattern, Right},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{
    entry::NodeState,
    rate::RateView,
    security::{Record, RevokedKind, TokenRole, TokenState},
};

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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenParams {
    pub(super) role: TokenRole,
    #[serde(default)]
    pub(super) name: Option<NodeId>,
    #[serde(default)]
    pub(super) node: Option<NamePattern>,
    #[serde(default)]
    pub(super) allow: Vec<Right>,
    pub(super) ttl_ms: u64,
    /// Absent: the default of its role; `null`: any number.
    #[serde(default, deserialize_with = "given")]
    pub(super) uses: Option<Option<u32>>,
    #[serde(default)]
    pub(super) ephemeral: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeParams {
    pub(super) what: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AuditParams {
    pub(super) last: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupParams {
    pub(super) path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateParams {
    pub(super) step: RotateStep,
    #[serde(default)]
    pub(super) force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RotateStep {
    Begin,
    Finish,
}

/// Tells `null` from a member that is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
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

/// Shows a token once, to whoever had it made.
#[derive(Serialize)]
pub(super) struct TokenResult {
    pub(super) id: String,
    pub(super) role: TokenRole,
    pub(super) name: NodeId,
    /// The join string.
    pub(super) join: Secret,
    /// Where it says that this explorer is.
    pub(super) addresses: Vec<String>,
    /// Nobody has said where it is.
    pub(super) address_is_guess: bool,
    pub(super) expires_unix_ms: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct TokensResult {
    pub(super) tokens: Vec<TokenView>,
}

#[derive(Debug, Serialize)]
pub(super) struct TokenView {
    pub(super) id: String,
    pub(super) role: TokenRole,
    pub(super) name: NodeId,
    pub(super) node: Option<NamePattern>,
    pub(super) allow: Vec<String>,
    /// `null`: any number.
    pub(super) uses_left: Option<u32>,
    pub(super) ephemeral: bool,
    /// Somebody has logged in with it; nobody else can.
    pub(super) bound: bool,
    pub(super) expires_unix_ms: u64,
    pub(super) state: TokenState,
}

#[derive(Debug, Serialize)]
pub(super) struct RevokeResult {
    pub(super) kind: RevokedKind,
    pub(super) name: String,
    /// What its operator should know besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// How many were ended by it.
    pub(super) sessions: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct ReleaseResult<'a> {
    pub(super) id: &'a NodeId,
    /// Somebody had it.
    pub(super) released: bool,
    pub(super) sessions: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct AuditResult {
    /// Oldest first, as they were written.
    pub(super) records: Vec<Record>,
}

#[derive(Debug, Serialize)]
pub(super) struct BackupResult<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct RotateResult {
    /// How many authorities are believed now.
    pub(super) cas: usize,
    pub(super) message: &'static str,
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
    /// Counters of all its sessions together.
    pub(super) sessions: BTreeMap<&'static str, u64>,
    pub(super) memory: MemoryView,
    /// Where there is a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_limit: Option<RateView>,
}

/// What peers make this process hold, in bytes.
#[derive(Debug, Serialize)]
pub(super) struct MemoryView {
    pub(super) held: usize,
    pub(super) budget: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct ListenerView {
    /// `tunnel` or `publish`.
    pub(super) kind: &'static str,
    pub(super) address: String,
    /// What a tunnel's TCP listener asks of whoever connects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<&'static str>,
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
