//! What the explorer can be asked: one function a method, one table of all of them.
//!
//! The table is what `rpc.discover` shows and what an unknown method is compared with, so a method that is not in it
//! does not exist.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use reachback_link::ListenAddress;
use reachback_wire::{Code, NodeId, Open, Refusal, Role, nearest, text::sanitize};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{
    Asking, openrpc,
    rpc::{METHOD_NOT_FOUND, Outcome, Problem, Request, RpcError, raw},
    types::{
        CallParams, EventView, EventsParams, EventsResult, ForgetResult, HeartbeatParams, HeartbeatResult,
        KickParams, KickResult, ListenerView, NodeParams, NodesParams, StatusResult,
    },
};
use crate::{
    auth::authorise,
    call::{self, Call, Piece, RequestHead},
    clock::unix_ms_of,
    direct::{
        NodeAddress, NodeAddressError,
        permit::{self, NamedBy},
    },
    entry::NodeState,
    hub::Hub,
    limits,
    registry::Unforgettable,
    view::{NodeView, NodesView},
};

/// The method whose answer is a stream.
pub(super) const WATCH: &str = "explorer.watch";
const HEARTBEAT: &str = "explorer.heartbeat";

/// One method, as `rpc.discover` shows it.
pub(super) struct Method {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) params: &'static [Param],
    pub(super) result: &'static str,
}

/// One parameter.
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

const fn required(name: &'static str, kind: &'static str, about: &'static str) -> Param {
    Param { name, kind, required: true, about }
}

const fn optional(name: &'static str, kind: &'static str, about: &'static str) -> Param {
    Param { name, kind, required: false, about }
}

/// Every method, in the order of the documentation.
pub(super) const METHODS: &[Method] = &[
    Method {
        name: "explorer.nodes",
        summary: "Every node the explorer knows, in the order of names.",
        params: &[optional("labels", "object", "Only nodes that have all of these labels.")],
        result: "{explorer, nodes}",
    },
    Method {
        name: "explorer.node",
        summary: "One node: state, services, sessions and how the last of them ended.",
        params: &[required("id", "string", "Its name.")],
        result: "one element of explorer.nodes",
    },
    Method {
        name: "explorer.status",
        summary: "The explorer itself: version, uptime, listeners, nodes by state, counters.",
        params: &[],
        result: "{explorer, version, uptime_s, ready, nodes, streams, listeners, counters}",
    },
    Method {
        name: "explorer.call",
        summary: "Calls a method of a service and gives its result; an error of the service comes back unchanged.",
        params: &[
            required("target", "string", "NODE/SERVICE"),
            required("method", "string", "The service's method."),
            optional("params", "any", "Its parameters."),
            optional("timeout_ms", "integer", "30000 if absent."),
            optional("headers", "object", "Headers for a service that takes HTTP."),
        ],
        result: "whatever the service answers",
    },
    Method {
        name: "explorer.kick",
        summary: "Ends every session of a node; with for_ms it may not come back before.",
        params: &[
            required("id", "string", "The node."),
            optional("for_ms", "integer", "How long its name stays locked; at most a day."),
        ],
        result: "{id, sessions, for_ms}",
    },
    Method {
        name: "explorer.forget",
        summary: "Forgets a node that is offline.",
        params: &[required("id", "string", "The node.")],
        result: "{id, forgotten}",
    },
    Method {
        name: HEARTBEAT,
        summary: "A node without a session of its own says where it can be dialled, and that it lives.",
        params: &[
            required("node_id", "string", "Its name."),
            optional("address", "string", "unix:///path, /path, tcp://HOST:PORT, or tunnel."),
            optional("socket_path", "string", "The old name of address."),
        ],
        result: "{ok, explorer, node_id, offline_after_ms}",
    },
    Method {
        name: WATCH,
        summary: "Streams the state of all nodes (or one) first, then every change: one JSON text each.",
        params: &[optional("node", "string", "Only this node.")],
        result: "a stream: first {explorer, nodes}, then elements of explorer.nodes as they change",
    },
    Method {
        name: "explorer.events",
        summary: "The last changes of state, oldest first.",
        params: &[optional("limit", "integer", "At most this many, the latest ones.")],
        result: "{events}",
    },
    Method {
        name: "rpc.discover",
        summary: "This description, as an OpenRPC document.",
        params: &[],
        result: "an OpenRPC document",
    },
];

/// Whether the explorer itself answers this method, under one of its names.
pub(super) fn is_own(hub: &Hub, method: &str) -> bool {
    METHODS.iter().any(|own| own.name == method) || is_heartbeat(hub, method)
}

/// What a node may ask. It lives beside services that nobody here vouches for, so it may look around, and what changes
/// this explorer or calls in its name is for clients; a node's own calls go over its line, as its own.
const FOR_NODES: [&str; 6] =
    ["explorer.nodes", "explorer.node", "explorer.status", WATCH, "explorer.events", "rpc.discover"];

/// Whether whoever asks may ask for this method.
///
/// # Errors
/// The refusal, with what it may ask for.
pub(super) fn permit(method: &str, asking: &Asking) -> Result<(), Problem> {
    if asking.who.role != Role::Node || FOR_NODES.contains(&method) {
        return Ok(());
    }
    let message = format!(
        "node {} may not ask for {}; a node may ask for: {}. Ask as a client, with: reachback call",
        asking.who.id,
        sanitize(method, limits::TEXT),
        FOR_NODES.join(", ")
    );
    Err(Refusal::new(Code::Denied, message).into())
}

/// Carries out a request whose answer is one value.
pub(super) async fn perform(hub: &Arc<Hub>, request: &Request<'_>, asking: &Asking) -> Outcome {
    let method = request.method.as_ref();
    permit(method, asking)?;
    match method {
        "explorer.nodes" => {
            let NodesParams { labels } = request.params()?;
            let mut nodes = NodesView::of(hub);
            nodes.nodes.retain(|node| node.has_labels(&labels));
            Ok(raw(&nodes))
        }
        "explorer.node" => {
            let NodeParams { id } = request.params()?;
            NodeView::find(hub, &id).map(|view| raw(&view)).ok_or_else(|| unknown_node(hub, &id))
        }
        "explorer.status" => {
            request.takes_nothing()?;
            Ok(raw(&status(hub)))
        }
        "explorer.call" => call_service(hub, request.params()?, asking).await,
        "explorer.kick" => {
            let KickParams { id, for_ms } = request.params()?;
            kick(hub, &id, Duration::from_millis(for_ms))
        }
        "explorer.forget" => {
            let NodeParams { id } = request.params()?;
            forget(hub, &id)
        }
        "explorer.events" => {
            let EventsParams { limit } = request.params()?;
            Ok(raw(&events(hub, limit.unwrap_or(usize::MAX))))
        }
        "rpc.discover" => {
            request.takes_nothing()?;
            Ok(raw(&openrpc::document()))
        }
        WATCH => Err(Problem::Ours(RpcError::new(
            super::rpc::INVALID_REQUEST,
            "explorer.watch answers with a stream, which a batch or a notification can't have",
        ))),
        heartbeat if is_heartbeat(hub, heartbeat) => self::heartbeat(hub, &request.params()?, asking).await,
        unknown => Err(Problem::Ours(no_method(unknown))),
    }
}

/// The refusal for a node that is not known.
pub(super) fn unknown_node(hub: &Hub, id: &NodeId) -> Problem {
    let known = NodesView::of(hub);
    let near = nearest(id.as_ref(), known.nodes.iter().map(|view| view.node.as_ref()));
    let near = near.map_or(String::new(), |near| format!("; the nearest name is {near}"));
    Refusal::new(Code::NodeNotFound, format!("no node {id} is known here{near}; see: explorer.nodes")).into()
}

fn is_heartbeat(hub: &Hub, method: &str) -> bool {
    let also = hub.hero.as_ref().map_or(&[][..], |hero| &hero.heartbeat_methods);
    method == HEARTBEAT || also.iter().any(|name| name == method)
}

fn no_method(unknown: &str) -> RpcError {
    let names = || METHODS.iter().map(|method| method.name);
    let near = nearest(unknown, names()).map_or(String::new(), |near| format!(", did you mean {near}?"));
    let all: Vec<_> = names().collect();
    let unknown = sanitize(unknown, limits::TEXT);
    RpcError::new(METHOD_NOT_FOUND, format!("no method {unknown}{near}; there are: {}", all.join(", ")))
}

fn status(hub: &Hub) -> StatusResult<'_> {
    let view = NodesView::of(hub);
    let mut nodes = BTreeMap::from([("online", 0), ("late", 0), ("retiring", 0), ("offline", 0)]);
    for node in &view.nodes {
        let state = match node.state {
            NodeState::Online => "online",
            NodeState::Late => "late",
            NodeState::Retiring => "retiring",
            NodeState::Offline => "offline",
        };
        *nodes.entry(state).or_default() += 1;
    }
    let mut listeners = Vec::new();
    if let Some(addresses) = hub.addresses.get() {
        let tunnel = |address: String| ListenerView { kind: "tunnel", address, target: None };
        listeners.extend(addresses.listen.iter().map(|address| tunnel(address.to_string())));
        let socket = addresses.socket.iter().map(|path| ListenAddress::Unix(path.clone()).to_string());
        listeners.extend(socket.map(tunnel));
        listeners.extend(addresses.published.iter().map(|(address, target)| ListenerView {
            kind: "publish",
            address: address.to_string(),
            target: Some(target.to_string()),
        }));
    }
    StatusResult {
        explorer: &hub.id,
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: hub.started.elapsed().as_secs(),
        ready: hub.is_ready(),
        nodes,
        streams: view.nodes.iter().map(|node| node.streams).sum(),
        listeners,
        counters: hub.stats.snapshot().into_iter().collect(),
    }
}

fn events(hub: &Hub, limit: usize) -> EventsResult {
    let all = hub.registry.recent();
    let skip = all.len().saturating_sub(limit);
    let shown = all.into_iter().skip(skip).map(|happened| EventView {
        seq: happened.seq,
        at_unix_ms: unix_ms_of(happened.at),
        node: happened.node,
        state: happened.state,
        reason: happened.reason,
    });
    EventsResult { events: shown.collect() }
}

fn kick(hub: &Hub, id: &NodeId, pause: Duration) -> Outcome {
    if pause > limits::KICK_MAX {
        let message = format!(
            "for_ms: a node can be kicked for {} ms at most; for longer, withdraw its right to come",
            limits::KICK_MAX.as_millis()
        );
        return Err(RpcError::new(super::rpc::INVALID_PARAMS, message).into());
    }
    let sessions = hub.registry.kick(id, "an operator has kicked this node", pause);
    let sessions = sessions.ok_or_else(|| unknown_node(hub, id))?;
    tracing::info!(node = %id, sessions, ?pause, "kicked");
    let for_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Ok(raw(&KickResult { id, sessions, for_ms }))
}

fn forget(hub: &Hub, id: &NodeId) -> Outcome {
    let direct = hub.direct.forget(id);
    match (hub.registry.forget(id), direct) {
        (Err(Unforgettable::Connected), _) | (_, Some(false)) => {
            let message = format!("{id} is online; only a node that is offline can be forgotten");
            Err(Refusal::new(Code::Denied, message).into())
        }
        (Err(Unforgettable::Unknown), None) => Err(unknown_node(hub, id)),
        (Ok(()), _) | (Err(Unforgettable::Unknown), Some(true)) => {
            tracing::info!(node = %id, "forgotten");
            Ok(raw(&ForgetResult { id, forgotten: true }))
        }
    }
}

async fn heartbeat(hub: &Hub, params: &HeartbeatParams, asking: &Asking) -> Outcome {
    let HeartbeatParams { node_id, address } = params;
    let address: Option<NodeAddress> =
        address.as_deref().map(str::parse).transpose().map_err(|error: NodeAddressError| {
            RpcError::new(super::rpc::INVALID_PARAMS, error.to_string())
        })?;
    match address {
        Some(NodeAddress::Dial(address)) => {
            let by = NamedBy::from(&asking.peer);
            permit::check(hub, &address, by).await?;
            hub.direct.heartbeat(node_id, address, by)?;
        }
        said if !hub.registry.has_session(node_id) => {
            let what = if said.is_some() { "names its tunnel" } else { "names no address" };
            let message = format!(
                "{node_id} {what} and has no session here; start it with reachback node, or send address \
                 (unix:///path or tcp://HOST:PORT)"
            );
            return Err(Refusal::new(Code::NodeOffline, message).into());
        }
        Some(NodeAddress::Tunnel) => hub.direct.withdraw(node_id),
        None => {}
    }
    let offline_after_ms = u64::try_from(limits::DIRECT_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    Ok(raw(&HeartbeatResult { ok: true, explorer: &hub.id, node_id, offline_after_ms }))
}

#[derive(Serialize)]
struct Outgoing<'a> {
    jsonrpc: &'static str,
    id: u32,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Incoming {
    /// `null` is a result.
    #[serde(default, deserialize_with = "present")]
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

async fn call_service(hub: &Arc<Hub>, params: CallParams, asking: &Asking) -> Outcome {
    let CallParams { target, method, params, timeout_ms, headers } = params;
    let wanted = timeout_ms.map_or(limits::API_TIMEOUT, Duration::from_millis);
    let deadline = Instant::now() + wanted.min(limits::OPEN_DEADLINE_MAX);
    let deadline = asking.deadline.map_or(deadline, |given| given.min(deadline));
    authorise(&asking.who, &Open::call(target.clone(), wanted))?;
    let body =
        super::rpc::bytes(&Outgoing { jsonrpc: "2.0", id: 1, method: &method, params: params.as_deref() });
    let headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let head = RequestHead { headers, stream: false };
    let (shown, caller) = (target.clone(), asking.caller.clone());
    let call = Call { target, head, body: Bytes::from(body), deadline, caller };
    let mut answer = call::call(hub, call).await?;
    let mut whole = hub.bodies.begin();
    let reading = async {
        while let Some(piece) = answer.pieces.next().await {
            match piece? {
                Piece::Data(bytes) | Piece::Item(bytes) => whole.push(&bytes)?,
            }
        }
        Ok::<_, Refusal>(whole.finish())
    };
    let whole = timeout_at(deadline + limits::CALL_GRACE, reading).await.map_err(|_| call::too_late())??;
    match serde_json::from_slice(&whole.bytes) {
        Ok(Incoming { error: Some(error), .. }) if error.get() != "null" => Err(Problem::Passed(error)),
        Ok(Incoming { result: Some(result), .. }) => Ok(result),
        Ok(_) => Err(garbled(&shown, answer.head.status, "it has neither result nor error")),
        Err(error) => Err(garbled(&shown, answer.head.status, &error.to_string())),
    }
}

fn garbled(target: &reachback_wire::Target, status: u16, what: &str) -> Problem {
    let what = sanitize(what, limits::TEXT);
    let message = format!("{target} answered (HTTP {status}) with what is no JSON-RPC answer: {what}");
    Refusal::new(Code::BadFrame, message).into()
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}
