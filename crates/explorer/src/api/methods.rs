//! What the explorer answers itself: who may ask for it, and one function a method.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reachback_link::ListenAddress;
use reachback_wire::{Code, NodeId, Refusal, Role, nearest, text::sanitize};

use super::{
    Asking, openrpc, operator,
    rpc::{METHOD_NOT_FOUND, Outcome, Problem, Request, RpcError, raw},
    service,
    table::{HEARTBEAT, METHODS, WATCH},
    types::{
        EventView, EventsParams, EventsResult, HeartbeatParams, HeartbeatResult, KickParams, ListenerView,
        MemoryView, NodeParams, NodesParams, StatusResult,
    },
};
use crate::{
    access::{sees, subject},
    clock::unix_ms_of,
    direct::{
        NodeAddress, NodeAddressError,
        permit::{self, NamedBy},
    },
    entry::NodeState,
    hub::Hub,
    limits,
    modes::Mode,
    security::Entry,
    view::{NodeView, NodesView},
};

/// Whether the explorer itself answers this method, under one of its names.
pub(super) fn is_own(hub: &Hub, method: &str) -> bool {
    METHODS.iter().any(|own| own.name == method) || is_heartbeat(hub, method)
}

/// What a node may ask. It lives beside services that nobody here vouches for, so it may look around, and what changes
/// this explorer or calls in its name is for clients; a node's own calls go over its line, as its own.
const FOR_NODES: [&str; 6] =
    ["explorer.nodes", "explorer.node", "explorer.status", WATCH, "explorer.events", "rpc.discover"];

/// What changes this explorer, or shows who may do what: for admins.
const FOR_ADMINS: [&str; 9] = [
    "explorer.kick",
    "explorer.forget",
    "explorer.release",
    "explorer.token_create",
    "explorer.token_list",
    "explorer.revoke",
    "explorer.audit",
    "explorer.backup",
    "explorer.ca_rotate",
];

/// Whether whoever asks may ask for this method. Who may not stands in the audit.
///
/// # Errors
/// The refusal, with what it may ask for.
pub(super) fn permit(hub: &Hub, method: &str, asking: &Asking) -> Result<(), Problem> {
    let Err(refusal) = permitted(hub, method, asking) else { return Ok(()) };
    let method = sanitize(method, limits::TEXT);
    let entry = Entry::new("ask", &method).by(&subject(&asking.who)).from(&asking.peer.to_string());
    hub.note_refused(entry, &refusal);
    Err(refusal.into())
}

/// As [`permit`], for a look in advance.
pub(super) fn permitted(hub: &Hub, method: &str, asking: &Asking) -> Result<(), Refusal> {
    let who = &asking.who;
    if who.role == Role::Node && !FOR_NODES.contains(&method) {
        let message = format!(
            "node {} may not ask for {}; a node may ask for: {}. Ask as a client, with: reachback call",
            who.id,
            sanitize(method, limits::TEXT),
            FOR_NODES.join(", ")
        );
        return Err(Refusal::new(Code::Denied, message));
    }
    if FOR_ADMINS.contains(&method) && !who.admin {
        let message = format!(
            "{} may not ask for {method}: that is for admins. Ask one, or run the command on the explorer's machine as \
             the explorer's user or root, over its local socket",
            subject(who)
        );
        return Err(Refusal::new(Code::Denied, message));
    }
    // It makes this explorer dial what the request names.
    if is_heartbeat(hub, method) && !who.admin && !who.rights.allows_method(super::target(), HEARTBEAT) {
        let message = format!(
            "{} may not say where nodes are. Ask an admin for: reachback token create --role user --name {} --allow \
             '@explorer/api:{HEARTBEAT}'",
            subject(who),
            who.name
        );
        return Err(Refusal::new(Code::Denied, message));
    }
    Ok(())
}

/// Carries out a request whose answer is one value.
pub(super) async fn perform(hub: &Arc<Hub>, request: &Request<'_>, asking: &Asking) -> Outcome {
    let method = request.method.as_ref();
    permit(hub, method, asking)?;
    match method {
        "explorer.nodes" => {
            let NodesParams { labels } = request.params()?;
            let mut nodes = NodesView::of(hub);
            nodes.nodes.retain(|node| node.has_labels(&labels) && sees(&asking.who, method, &node.node));
            Ok(raw(&nodes))
        }
        "explorer.node" => {
            let NodeParams { id } = request.params()?;
            let found = NodeView::find(hub, &id).filter(|_| sees(&asking.who, method, &id));
            found.map(|view| raw(&view)).ok_or_else(|| unknown_node(hub, &id, asking))
        }
        "explorer.status" => {
            request.takes_nothing()?;
            Ok(raw(&status(hub)))
        }
        "explorer.call" => service::call(hub, request.params()?, asking).await,
        "explorer.kick" => {
            let KickParams { id, for_ms } = request.params()?;
            operator::kick(hub, &id, Duration::from_millis(for_ms), asking)
        }
        "explorer.forget" => {
            let NodeParams { id } = request.params()?;
            operator::forget(hub, &id, asking)
        }
        "explorer.release" => operator::release(hub, request.params()?, asking).await,
        "explorer.token_create" => operator::token_create(hub, request.params()?, asking).await,
        "explorer.token_list" => {
            request.takes_nothing()?;
            operator::token_list(hub)
        }
        "explorer.revoke" => operator::revoke(hub, request.params()?, asking).await,
        "explorer.audit" => operator::audit(hub, request.params()?).await,
        "explorer.backup" => operator::backup(hub, request.params()?, asking).await,
        "explorer.ca_rotate" => operator::ca_rotate(hub, request.params()?, asking).await,
        "explorer.events" => {
            let EventsParams { limit } = request.params()?;
            Ok(raw(&events(hub, limit.unwrap_or(usize::MAX), asking)))
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

/// The refusal for a node that is not known, or not to be known to whoever asks.
pub(super) fn unknown_node(hub: &Hub, id: &NodeId, asking: &Asking) -> Problem {
    let known = NodesView::of(hub);
    let names = known.nodes.iter().filter(|view| sees(&asking.who, "explorer.nodes", &view.node));
    let near = nearest(id.as_ref(), names.map(|view| view.node.as_ref()));
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
        let tunnel = |address: String, mode: Option<Mode>| {
            let mode = mode.map(Mode::name);
            ListenerView { kind: "tunnel", address, mode, target: None }
        };
        let listen = addresses.listen.iter().zip(&hub.modes);
        listeners.extend(listen.map(|(address, mode)| tunnel(address.to_string(), Some(*mode))));
        let socket = addresses.socket.iter().map(|path| ListenAddress::Unix(path.clone()).to_string());
        listeners.extend(socket.map(|socket| tunnel(socket, None)));
        listeners.extend(addresses.published.iter().map(|(address, target)| ListenerView {
            kind: "publish",
            address: address.to_string(),
            mode: None,
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
        sessions: hub.link_stats.snapshot().into_iter().collect(),
        memory: MemoryView { held: hub.budget.used(), budget: hub.budget.limit() },
        rate_limit: hub.rates.view(),
    }
}

fn events(hub: &Hub, limit: usize, asking: &Asking) -> EventsResult {
    let mut all = hub.registry.recent();
    all.retain(|happened| sees(&asking.who, "explorer.events", &happened.node));
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
