//! An explorer to test, in-memory lines that can be tampered with, and peers that do as they are told.

#![allow(dead_code, reason = "every test file uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

pub(crate) mod secure;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reachback_explorer::{Explorer, ExplorerConfig, NodeState, NodeView};
use reachback_link::{
    Address, Compression, Congestion, ControlInbox, DialError, DialSecurity, Driver, Inbound, ListenAddress,
    Listener, MemoryBudget, Net, Session, SessionConfig, SessionRules, Stats as LinkStats, Substream,
    Transport, dial, session,
};
use reachback_wire::{
    ControlMessage, Generation, HealthState, Hello, Instance, Nonce, Open, ProtocolRange, Record, RecordKind,
    Refusal, Role, ServiceInfo, Services, Target, Welcome,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

/// A network of pipes in memory: every listener takes what is dialled.
#[derive(Default)]
pub(crate) struct Pipes {
    listeners: Mutex<Option<mpsc::Sender<DuplexStream>>>,
}

impl Pipes {
    /// A connection to the listener, as raw bytes.
    pub(crate) async fn pipe(&self) -> DuplexStream {
        self.pipe_of(256 * 1024).await
    }

    /// One that holds this many bytes in each direction.
    pub(crate) async fn pipe_of(&self, bytes: usize) -> DuplexStream {
        let (near, far) = tokio::io::duplex(bytes);
        let listener = self.listeners.lock().clone().expect("somebody listens");
        listener.send(far).await.expect("somebody accepts");
        near
    }
}

impl Net for Pipes {
    fn connect<'a>(&'a self, _to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move { Ok(Transport::boxed(self.pipe().await)) })
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(16);
            *self.listeners.lock() = Some(sender);
            Ok(Listener::memory(receiver, on.to_string()))
        })
    }
}

/// A network with one connection on it that is already there.
struct OneLine(Mutex<Option<Transport>>);

impl Net for OneLine {
    fn connect<'a>(&'a self, _to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move { Ok(self.0.lock().take().expect("dialled once")) })
    }

    fn listen<'a>(&'a self, _on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

pub(crate) fn config() -> ExplorerConfig {
    let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
    config.listen.push("127.0.0.1:0".parse().unwrap());
    config
}

/// An explorer on pipes.
pub(crate) struct Hub {
    pub(crate) explorer: Explorer,
    pub(crate) net: Arc<Pipes>,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let net = Arc::new(Pipes::default());
        let explorer = Explorer::start(config(), net.clone()).await.unwrap();
        Self { explorer, net }
    }

    /// A line whose far end is the explorer, with a hand in the middle.
    pub(crate) async fn line(&self) -> Line {
        Line::to(self.net.pipe().await)
    }

    pub(crate) async fn node(&self, id: &str, generation: Generation) -> Peer {
        let node = self.dial(Role::Node, id, generation).await.unwrap();
        node.declare(&["echo", "hang", "down", "once"]).await;
        node
    }

    /// A node that is online.
    pub(crate) async fn online(&self, id: &str, generation: Generation) -> Peer {
        let node = self.node(id, generation).await;
        let session = node.welcome.session;
        self.until(id, |view| view.session == Some(session)).await;
        node
    }

    /// A node that is online and takes calls.
    pub(crate) async fn callable(&self, id: &str, generation: Generation) -> Peer {
        let node = self.dial(Role::Node, id, generation).await.unwrap();
        node.declare(&["rpc", "mirror", "down"]).await;
        let session = node.welcome.session;
        self.until(id, |view| view.session == Some(session)).await;
        node
    }

    pub(crate) async fn client(&self) -> Peer {
        self.dial(Role::Client, "laptop", generation(200, 0, 1)).await.unwrap()
    }

    pub(crate) async fn dial(&self, role: Role, id: &str, generation: Generation) -> Result<Peer, DialError> {
        Peer::dial(self.line().await, &hello(role, id, generation)).await
    }

    pub(crate) fn view(&self, id: &str) -> Option<NodeView> {
        self.explorer.nodes().into_iter().find(|view| view.node.as_ref() == id)
    }

    /// Waits for the node to look like this.
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&NodeView) -> bool) -> NodeView {
        let mut changes = self.explorer.watch();
        let looking = async {
            loop {
                if let Some(view) = self.view(id)
                    && wanted(&view)
                {
                    return view;
                }
                // Not everything that shows in a view is announced: how many streams there are is not.
                drop(tokio::time::timeout(Duration::from_millis(10), changes.next()).await);
            }
        };
        match tokio::time::timeout(Duration::from_secs(300), looking).await {
            Ok(view) => view,
            Err(_) => panic!("{id} is {:#?}", self.view(id)),
        }
    }

    pub(crate) async fn until_state(&self, id: &str, state: NodeState) -> NodeView {
        self.until(id, |view| view.state == state).await
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        count(&self.explorer, name)
    }

    /// Waits for a counter to get there: what a peer sees comes before what is counted.
    pub(crate) async fn until_count(&self, name: &str, wanted: u64) {
        for _ in 0..10_000 {
            if self.count(name) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{name} is {}, not {wanted}", self.count(name));
    }
}

pub(crate) fn count(explorer: &Explorer, name: &str) -> u64 {
    let counters = explorer.stats().snapshot();
    counters.iter().find(|(counter, _)| *counter == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

pub(crate) fn generation(instance: u8, slot: u32, seq: u64) -> Generation {
    Generation { instance: Instance([instance; 16]), slot, seq }
}

pub(crate) fn hello(role: Role, id: &str, generation: Generation) -> Hello {
    Hello {
        role,
        id: id.parse().unwrap(),
        generation,
        protocol: ProtocolRange::SUPPORTED,
        agent: "test/1\u{1b}[31m".to_owned(),
        nonce: Nonce([7; 32]),
        features: Vec::new(),
        credential: None,
        resume: None,
    }
}

pub(crate) fn target(text: &str) -> Target {
    text.parse().unwrap()
}

/// A connection with a hand in the middle: it can be cut, silenced, or have bytes put in.
pub(crate) struct Line {
    pub(crate) near: Transport,
    pub(crate) hand: Hand,
}

/// What is done to a line.
pub(crate) struct Hand {
    inject: mpsc::Sender<Vec<u8>>,
    held: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Line {
    pub(crate) fn to(far: DuplexStream) -> Self {
        let (near, middle) = tokio::io::duplex(256 * 1024);
        let (mut from_near, mut to_near) = tokio::io::split(middle);
        let (mut from_far, mut to_far) = tokio::io::split(far);
        let (inject, mut injected) = mpsc::channel::<Vec<u8>>(1);
        let held = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let bytes = tokio::select! {
                    read = from_near.read(&mut buffer) => match read {
                        Ok(0) | Err(_) => break,
                        Ok(n) => buffer[..n].to_vec(),
                    },
                    Some(bytes) = injected.recv() => bytes,
                };
                if to_far.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        });
        let mut hold = held.subscribe();
        tasks.spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from_far.read(&mut buffer).await {
                if hold.wait_for(|held| !held).await.is_err()
                    || to_near.write_all(&buffer[..n]).await.is_err()
                {
                    break;
                }
            }
        });
        Self { near: Transport::boxed(near), hand: Hand { inject, held, tasks } }
    }
}

impl Hand {
    /// Puts bytes into the line towards the explorer.
    pub(crate) async fn inject(&self, bytes: &[u8]) {
        self.inject.send(bytes.to_vec()).await.unwrap();
    }

    /// Keeps what the explorer says from the peer, and lets go of it.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Both ends find the line closed.
    pub(crate) fn cut(&mut self) {
        self.tasks.abort_all();
    }
}

/// A node or a client, made of the link alone.
pub(crate) struct Peer {
    pub(crate) session: Session,
    pub(crate) welcome: Welcome,
    pub(crate) control: ControlInbox,
    pub(crate) hand: Hand,
    pub(crate) stats: Arc<LinkStats>,
    frozen: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Peer {
    pub(crate) async fn dial(line: Line, hello: &Hello) -> Result<Self, DialError> {
        Self::dial_with(line, hello, &DialSecurity::Plain).await
    }

    /// With TLS or without.
    pub(crate) async fn dial_with(
        line: Line,
        hello: &Hello,
        security: &DialSecurity,
    ) -> Result<Self, DialError> {
        Self::dial_as(line, hello, security, Compression::OFF).await
    }

    /// One that can compress what it sends, or not.
    pub(crate) async fn dial_as(
        line: Line,
        hello: &Hello,
        security: &DialSecurity,
        compression: Compression,
    ) -> Result<Self, DialError> {
        let stats = Arc::new(LinkStats::default());
        let hello = &Hello { features: compression.features(), ..hello.clone() };
        let net = OneLine(Mutex::new(Some(line.near)));
        let established = dial(&net, &"hub:1".parse().unwrap(), hello, security).await?;
        let config = SessionConfig {
            side: established.side,
            heartbeat: Duration::from_millis(established.welcome.heartbeat_ms),
            max_open: established.welcome.limits.max_substreams,
            stats: stats.clone(),
            budget: Arc::new(MemoryBudget::new(64 << 20)),
            congestion: Congestion::default(),
            compression: compression.with_peer(&established.welcome.features),
            rules: SessionRules::default(),
        };
        let (session, mut incoming, control, driver) = session(established.transport, config);
        let frozen = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(driver, frozen.subscribe()));
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Some(inbound) = incoming.next().await {
                served.spawn(serve(inbound));
            }
        });
        Ok(Self { session, welcome: established.welcome, control, hand: line.hand, stats, frozen, tasks })
    }

    pub(crate) async fn declare(&self, services: &[&str]) {
        let services = services.iter().map(|name| ServiceInfo {
            name: name.parse().unwrap(),
            framing: None,
            compression: None,
            health: HealthState::Ok,
        });
        let labels = BTreeMap::from([("region".to_owned(), "eu\n".to_owned())]);
        let message = Services { labels, services: services.collect(), ..Services::default() };
        self.session.send_control(ControlMessage::Services(message)).await.unwrap();
    }

    /// As SIGSTOP: the process neither reads nor writes, its connection stays.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    pub(crate) async fn stream(&self, to: &str) -> Result<Substream, reachback_link::OpenError> {
        self.session.open(Open::stream(target(to))).await
    }
}

async fn drive(mut driver: Driver, mut frozen: watch::Receiver<bool>) {
    loop {
        if *frozen.borrow_and_update() {
            if frozen.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            _ = &mut driver => return,
            changed = frozen.changed() => if changed.is_err() { return },
        }
    }
}

/// What the services of a test node do.
async fn serve(mut inbound: Inbound) {
    let Ok(open) = inbound.open().await else { return };
    let service = match &open.target {
        Some(Target::Service { service, .. }) => service.to_string(),
        _ => String::new(),
    };
    match service.as_str() {
        // Says who asks, then repeats what it is told.
        "echo" => {
            let Ok((mut substream, ())) = inbound.answer(async { Ok(()) }).await else { return };
            let caller = serde_json::to_vec(&open).unwrap();
            if substream.send(RecordKind::Data, &caller).await.is_err() {
                return;
            }
            loop {
                match substream.next().await {
                    Ok(Record::Data(bytes)) => {
                        if substream.send(RecordKind::Data, &bytes).await.is_err() {
                            return;
                        }
                    }
                    Ok(Record::End(_)) => {
                        drop(substream.finish(None).await);
                        return;
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        }
        "rpc" | "mirror" => {
            let mirror = service == "mirror";
            let Ok((substream, ())) = inbound.answer(async { Ok(()) }).await else { return };
            // A caller that goes away is no news to a service.
            drop(serve_call(substream, mirror).await);
        }
        "hang" => {
            drop(inbound.answer(async { std::future::pending::<Result<(), Refusal>>().await }).await);
        }
        "down" => {
            let code = reachback_wire::Code::ServiceUnreachable;
            inbound.refuse(Refusal::new(code, "connection refused")).await;
        }
        other => {
            let code = reachback_wire::Code::ServiceNotFound;
            inbound.refuse(Refusal::new(code, format!("not here: {other}"))).await;
        }
    }
}

/// Reads data until there are this many bytes.
pub(crate) async fn read(substream: &mut Substream, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        match substream.next().await.unwrap() {
            Record::Data(piece) => bytes.extend_from_slice(&piece),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

/// The `Open` the test node's echo service saw.
pub(crate) async fn seen_open(substream: &mut Substream) -> Open {
    let mut bytes = Vec::new();
    loop {
        match substream.next().await.unwrap() {
            Record::Data(piece) => bytes.extend_from_slice(&piece),
            other => panic!("{other:?}"),
        }
        if let Ok(open) = serde_json::from_slice(&bytes) {
            return open;
        }
    }
}

/// A JSON-RPC service, or (`mirror`) one that answers with the bytes it was sent.
async fn serve_call(mut substream: Substream, mirror: bool) -> Result<(), reachback_link::StreamEnd> {
    let (mut head, mut body) = (json!({}), Vec::new());
    loop {
        match substream.next().await? {
            Record::Head(bytes) => head = serde_json::from_slice(&bytes).unwrap(),
            Record::Data(bytes) | Record::Item(bytes) => body.extend_from_slice(&bytes),
            Record::End(_) => break,
            Record::Reset { .. } => return Ok(()),
        }
    }
    let answer_head = json!({ "status": 200, "headers": { "content-type": "application/json", "x-seen": head["headers"].to_string() } });
    let answer_head = serde_json::to_vec(&answer_head).unwrap();
    if mirror {
        substream.send(RecordKind::Head, &answer_head).await?;
        substream.send(RecordKind::Data, &body).await?;
        return substream.finish(None).await;
    }
    let request: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let (id, params) = (&request["id"], &request["params"]);
    let answer = match request["method"].as_str().unwrap() {
        "fail" => json!({ "jsonrpc": "2.0", "id": id, "error": { "code": 7, "message": "no", "data": [1] } }),
        "never" => std::future::pending().await,
        "late" => {
            tokio::time::sleep(Duration::from_millis(params["ms"].as_u64().unwrap())).await;
            json!({ "jsonrpc": "2.0", "id": id, "result": params })
        }
        "die" => {
            substream.send(RecordKind::Head, &answer_head).await?;
            substream.send(RecordKind::Data, b"{\"half\":").await?;
            substream.reset(reachback_wire::Code::Reset, "on purpose");
            return Ok(());
        }
        "count" => {
            let head = br#"{"status":200,"headers":{"content-type":"application/x-ndjson"}}"#;
            substream.send(RecordKind::Head, head).await?;
            for n in 0..3 {
                substream.send(RecordKind::Item, format!("{{\"n\":{n}}}").as_bytes()).await?;
            }
            return substream.finish(None).await;
        }
        // Blanks where no program would put them: what passes them on did not write the JSON anew.
        _ => {
            let text = format!("{{\"jsonrpc\":\"2.0\" ,  \"id\":{id}, \"result\":{params}}}");
            substream.send(RecordKind::Head, &answer_head).await?;
            substream.send(RecordKind::Data, text.as_bytes()).await?;
            return substream.finish(None).await;
        }
    };
    substream.send(RecordKind::Head, &answer_head).await?;
    substream.send(RecordKind::Data, &serde_json::to_vec(&answer).unwrap()).await?;
    substream.finish(None).await
}

/// One HTTP response, as it was on the wire.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Http {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Reads one response. `None`: the connection ended before it was whole.
    pub(crate) async fn read(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(from.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        // A request has a path there.
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let mut body = Vec::new();
        if field("transfer-encoding").as_deref() == Some("chunked") {
            loop {
                let mut line = Vec::new();
                while !line.ends_with(b"\r\n") {
                    line.push(from.read_u8().await.ok()?);
                }
                let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                from.read_exact(&mut chunk).await.ok()?;
                body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = field("content-length") {
            body = vec![0; length.parse().unwrap()];
            from.read_exact(&mut body).await.ok()?;
        }
        Some(Self { status, head, body })
    }
}

/// A POST of JSON, as programs write it.
pub(crate) fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Hub {
    /// One request on a connection of its own.
    pub(crate) async fn http(&self, request: &[u8]) -> Http {
        let mut pipe = self.net.pipe().await;
        pipe.write_all(request).await.unwrap();
        Http::read(&mut pipe).await.expect("a whole response")
    }

    /// Everything that comes back for these bytes and a half-close.
    pub(crate) async fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut pipe = self.net.pipe().await;
        pipe.write_all(request).await.unwrap();
        pipe.shutdown().await.unwrap();
        let mut answer = Vec::new();
        pipe.read_to_end(&mut answer).await.unwrap();
        answer
    }

    /// As [`Hub::start`], with a configuration of one's own.
    pub(crate) async fn start_with(change: impl FnOnce(&mut ExplorerConfig)) -> Self {
        let net = Arc::new(Pipes::default());
        let mut config = config();
        change(&mut config);
        let explorer = Explorer::start(config, net.clone()).await.unwrap();
        Self { explorer, net }
    }
}
