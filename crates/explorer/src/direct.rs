//! Nodes with an address: un-upgraded ones of the hero stack, which this explorer dials itself.
//!
//! Such a node listens somewhere the explorer can reach (a Unix socket of the same machine, a TCP port, the end of an
//! old socket bridge) and says so in a heartbeat or stands in the configuration. It has one service, `rpc`. Calls and
//! streams to it look from outside like those to any other node; a session of the same name goes before.

use std::{collections::BTreeMap, pin::pin, str::FromStr, sync::Arc};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, body::Body as _, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use reachback_link::{Address, AddressError, Inbound, InboundError, Transport, splice};
use reachback_wire::{Code, NodeId, Open, Refusal, ServiceName, Target, text::sanitize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    call::{Answer, AnswerHead, Call, Piece, RequestHead, too_late},
    config::{ExplorerConfig, Framing},
    entry::NodeState,
    hub::Hub,
    json_text::Scanner,
    limits,
    registry::Registry,
    stats::count,
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
    framing: Framing,
    state: NodeState,
    since: Instant,
    reason: String,
    /// When it last said something; a configured node says nothing.
    heard: Option<Instant>,
}

/// A copy of one.
#[derive(Debug, Clone)]
pub(crate) struct DirectCopy {
    pub(crate) node: NodeId,
    pub(crate) service: ServiceName,
    pub(crate) address: Address,
    pub(crate) framing: Framing,
    pub(crate) state: NodeState,
    pub(crate) since: Instant,
    pub(crate) reason: String,
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
                framing: direct.framing,
                state: NodeState::Online,
                since: now,
                reason: "in the configuration; dialled when it is called".to_owned(),
                heard: None,
            };
            (direct.node.clone(), entry)
        });
        let framing = config.hero.as_ref().map_or(Framing::Http, |hero| hero.framing);
        Self { inner: Mutex::new(configured.collect()), registry, framing }
    }

    /// A node says where it is and that it lives.
    ///
    /// # Errors
    /// There are too many others, or the name stands in the configuration with another address.
    pub(crate) fn heartbeat(&self, node: &NodeId, address: Address) -> Result<(), Refusal> {
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
                entry.address = address;
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
                let entry = Entry { address, framing, state, since: now, reason, heard: Some(now) };
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
            framing: self.framing,
            state: self.state,
            since: self.since,
            reason: self.reason.clone(),
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

/// Connects to the service.
///
/// # Errors
/// There is no such service, the node has fallen silent, or nobody listens there; nothing was sent.
pub(crate) async fn connect(
    hub: &Hub,
    node: &DirectCopy,
    target: &Target,
    deadline: Instant,
) -> Result<Transport, Refusal> {
    if let Target::Service { service, .. } = target
        && *service != node.service
    {
        let message = format!("{} has no service {service}; it has: {}", node.node, node.service);
        return Err(Refusal::new(Code::ServiceNotFound, message));
    }
    if node.state == NodeState::Offline {
        let message = format!("{} is offline: {}; nothing was sent", node.node, node.reason);
        return Err(Refusal::new(Code::NodeOffline, message));
    }
    let unreachable = |why: &str| {
        let message = format!(
            "{target} can't be connected at {}: {}; is its server running there?",
            node.address,
            sanitize(why, limits::TEXT)
        );
        Refusal::new(Code::ServiceUnreachable, message)
    };
    let until = deadline.min(Instant::now() + limits::DIRECT_DIAL);
    match timeout_at(until, hub.net.connect(&node.address)).await {
        Ok(Ok(transport)) => Ok(transport),
        Ok(Err(error)) => Err(unreachable(&error.to_string())),
        Err(_) => Err(unreachable("nobody answers there")),
    }
}

/// Serves one stream to the service.
///
/// # Errors
/// As [`connect`], which the opener has been told; or the opener went away.
pub(crate) async fn serve(
    hub: &Hub,
    inbound: Inbound,
    node: &DirectCopy,
    target: &Target,
    open: &Open,
) -> Result<(), InboundError> {
    let allowed = open.deadline().unwrap_or(limits::OPEN_TIMEOUT).min(limits::OPEN_DEADLINE_MAX);
    let deadline = Instant::now() + allowed;
    let answered = inbound.answer(connect(hub, node, target, deadline)).await;
    count(if answered.is_ok() { &hub.stats.opens_relayed } else { &hub.stats.opens_refused });
    let (substream, transport) = answered?;
    let spliced = splice(substream, transport).await;
    let (to_service, from_service) = (spliced.to_peer, spliced.from_peer);
    tracing::debug!(%target, to_service, from_service, end = ?spliced.end, "a stream ended");
    Ok(())
}

/// Puts a call to the service, over a connection of its own.
///
/// # Errors
/// As [`connect`], and what happens before the head of the answer.
pub(crate) async fn call(hub: &Hub, node: &DirectCopy, call: Call) -> Result<Answer, Refusal> {
    let deadline = call.deadline;
    let target = call.target.clone();
    let transport = connect(hub, node, &target, deadline).await?;
    let exchange = async {
        match node.framing {
            Framing::Http => over_http(transport, &target, call.head, call.body).await,
            Framing::Lines => over_bytes(transport, &target, call.body, b"\n").await,
            Framing::Raw => over_bytes(transport, &target, call.body, b"").await,
        }
    };
    timeout_at(deadline, exchange).await.map_err(|_| too_late())?
}

/// One POST, one answer, closed.
async fn over_http(
    transport: Transport,
    target: &Target,
    head: RequestHead,
    body: Bytes,
) -> Result<Answer, Refusal> {
    let lost = {
        let target = target.clone();
        move |error: &dyn std::fmt::Display| lost(&target, error)
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(transport)).await.map_err(|error| lost(&error))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a node with an address ended");
        }
    });
    let mut request = hyper::Request::post("/rpc").header(header::HOST, SERVICE);
    let told = callers_own(&head.headers);
    for (name, value) in &told {
        request = request.header(name, *value);
    }
    if !told.iter().any(|(name, _)| name == "content-type") {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.header(header::CONNECTION, "close").body(Full::new(body)).map_err(|error| {
        Refusal::new(Code::BadFrame, format!("the headers of the call can't be sent: {error}"))
    })?;
    let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
    let head = AnswerHead { status: response.status().as_u16(), headers: headers(response.headers()) };
    // Without length or pieces a body ends when the connection does, and so does one that is cut off.
    let unframed = response.body().size_hint().exact().is_none()
        && !response.headers().contains_key(header::TRANSFER_ENCODING)
        && head.headers.get("content-type").is_some_and(|kind| kind.contains("json"));
    let cut = unframed.then(Scanner::default);
    let pieces = stream::unfold(Some((response.into_body(), driver, lost, cut)), |state| async move {
        let (mut body, driver, lost, mut cut) = state?;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => {
                        if let Some(scanner) = &mut cut {
                            scanner.follow(&bytes);
                        }
                        return Some((Ok(Piece::Data(bytes)), Some((body, driver, lost, cut))));
                    }
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Some((Err(lost(&error)), None)),
                None if cut.is_some_and(|scanner| scanner.is_inside()) => {
                    return Some((Err(lost(&"it closed in the middle of its answer")), None));
                }
                None => return None,
            }
        }
    });
    Ok(Answer { head, pieces: pieces.boxed() })
}

/// The body as it is and an end; the answer is one JSON text.
async fn over_bytes(
    mut transport: Transport,
    target: &Target,
    body: Bytes,
    end: &[u8],
) -> Result<Answer, Refusal> {
    let outgoing = async {
        transport.write_all(&body).await?;
        if !end.is_empty() && !body.ends_with(end) {
            transport.write_all(end).await?;
        }
        transport.flush().await
    };
    pin!(outgoing).await.map_err(|error| lost(target, &error))?;
    let state = Some((transport, Scanner::default(), target.clone()));
    let pieces = stream::unfold(state, |state| async move {
        let (mut transport, mut scanner, target) = state?;
        let mut bytes = bytes::BytesMut::with_capacity(READ);
        match transport.read_buf(&mut bytes).await {
            Ok(0) => {
                let refusal = lost(&target, &"it closed before its answer was a whole JSON text");
                Some((Err(refusal), None))
            }
            Ok(_) => match scanner.end_in(&bytes) {
                // What follows the text is a line's end, if anything.
                Some(end) => Some((Ok(Piece::Data(bytes.freeze().slice(..end))), None)),
                None => Some((Ok(Piece::Data(bytes.freeze())), Some((transport, scanner, target)))),
            },
            Err(error) => Some((Err(lost(&target, &error)), None)),
        }
    });
    Ok(Answer { head: AnswerHead::json(200), pieces: pieces.boxed() })
}

/// One read: what most answers fit in.
const READ: usize = 16 * 1024;

fn lost(target: &Target, error: &dyn std::fmt::Display) -> Refusal {
    let what = sanitize(&error.to_string(), limits::TEXT);
    Refusal::new(
        Code::Lost,
        format!("the connection to {target} ended: {what}; whether the call was carried out is unknown"),
    )
}

/// Headers that belong to one connection (RFC 9110, section 7.6.1), and not to a call.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.contains(&name)
}

/// What the node is told of a caller's headers, names in lower case. A caller with a session writes its names as it
/// likes; what it must not say it must not say in capitals either.
fn callers_own(given: &BTreeMap<String, String>) -> Vec<(String, &String)> {
    let all: Vec<_> = given.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let connection = all.iter().filter(|(name, _)| name == "connection");
    let named: Vec<_> = connection.flat_map(|(_, value)| names_in(value)).collect();
    all.into_iter().filter(|(name, _)| !is_of_the_hop(name) && !named.contains(name)).collect()
}

/// Whether a header is not part of a call: it belongs to one connection, or is ours to say. The name in lower case.
fn is_of_the_hop(name: &str) -> bool {
    name.starts_with("x-reachback-")
        || matches!(name, "host" | "content-length" | "expect")
        || is_hop_by_hop(name)
}

/// The headers that a `Connection` header takes for its own.
fn names_in(connection: &str) -> impl Iterator<Item = String> + use<'_> {
    connection.split(',').map(|name| name.trim().to_ascii_lowercase())
}

/// What of a message's headers belongs to the call: names in lower case, values that are text.
pub(crate) fn headers(all: &HeaderMap) -> BTreeMap<String, String> {
    let named: Vec<_> = all
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(names_in)
        .collect();
    let mut kept = BTreeMap::<String, String>::new();
    for (name, value) in all {
        let name = name.as_str();
        if is_of_the_hop(name) || named.iter().any(|named| named == name) {
            continue;
        }
        // A header that is no text can't be said in JSON; nobody in this family of programs sends one.
        let Ok(value) = value.to_str() else { continue };
        kept.entry(name.to_owned())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    kept
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

    #[test]
    fn a_node_is_told_the_callers_own_headers_however_they_are_written() {
        let given = [
            ("Transfer-Encoding", "chunked"),
            ("CONTENT-LENGTH", "7"),
            ("Host", "evil"),
            ("Expect", "100-continue"),
            ("Connection", "close, X-Secret-Hop"),
            ("X-secret-hop", "1"),
            ("X-Reachback-Caller", "root"),
            ("X-Hero-Claims", "a"),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(callers_own(&given), [("x-hero-claims".to_owned(), &"a".to_owned())]);
    }
}
