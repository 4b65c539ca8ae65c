//! What a node does for its own machine: the control socket, probes of its services, and its lines as a way out.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};

use reachback_client::{Forward, NoStream, Random};
use reachback_link::{Net, OpenError, RealNet, SocketError};
use reachback_node::{ControlSocket, LineState, Node, NodeConfig, Service};
use reachback_wire::{
    Code, ControlMessage, HealthState, OpenKind, Record, RecordKind, Refusal, Services, Target,
};
use serde_json::{Value, json};
use support::{Hub, Peer, node_id, stream, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixListener, UnixStream},
};

fn config(hub: &Hub, services: &[&str]) -> NodeConfig {
    let mut config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
    config.random = Random::seeded(5);
    for service in services {
        config = config.with_service(service.parse::<Service>().unwrap()).unwrap();
    }
    config
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn announced(peer: &mut Peer) -> Services {
    loop {
        if let ControlMessage::Services(services) = peer.control().await {
            return services;
        }
    }
}

fn names(services: &Services) -> Vec<&str> {
    services.services.iter().map(|service| service.name.as_ref()).collect()
}

/// A connection to a control socket.
struct Asker(BufReader<UnixStream>);

impl Asker {
    async fn connect(path: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }

    async fn say(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).await.unwrap();
        self.0.write_all(b"\n").await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        within("an answer", self.0.read_line(&mut line)).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.say(&json!({"jsonrpc": "2.0", "id": "a-1", "method": method, "params": params}).to_string())
            .await;
        let answer = self.hear().await;
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!("a-1")), "{answer}");
        answer
    }
}

#[tokio::test]
async fn services_come_and_go_while_the_node_runs() {
    let mut hub = Hub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run").join("node.sock");
    let (service, address) = listener().await;
    let mut node =
        Node::start(config(&hub, &["rpc=/run/none.sock,framing=http"]), Arc::new(RealNet)).unwrap();
    node.serve_control(ControlSocket::bind(&path).await.unwrap());
    let mut peer = hub.admit().await;
    assert_eq!(names(&announced(&mut peer).await), ["rpc"]);

    let mut asker = Asker::connect(&path).await;
    let answer = asker.ask("node.expose", json!({"service": format!("db={address}")})).await;
    assert_eq!(answer["result"], json!({"name": "db", "address": address}), "{answer}");
    assert_eq!(names(&announced(&mut peer).await), ["db", "rpc"], "said at once");
    let mut substream = within("the open", peer.session.open(stream("edge-7/db"))).await.unwrap();
    let mut visitor = within("the node's dial", service.accept()).await.unwrap().0;

    let again = asker.ask("node.expose", json!({"service": "db=22"})).await;
    assert!(again["error"]["message"].as_str().unwrap().contains("declared already"), "{again}");
    assert_eq!(again["error"]["data"]["code"], "denied");

    let answer = asker.ask("node.unexpose", json!({"name": "db"})).await;
    assert_eq!(answer["result"], json!({"name": "db"}), "{answer}");
    assert_eq!(names(&announced(&mut peer).await), ["rpc"]);
    let outcome = within("the refusal", peer.session.open(stream("edge-7/db"))).await;
    assert!(
        matches!(&outcome, Err(OpenError::Refused(refusal)) if refusal.code == Code::ServiceNotFound),
        "{outcome:?}"
    );
    // Who is in stays in.
    visitor.write_all(b"still here").await.unwrap();
    assert!(matches!(within("bytes", substream.next()).await, Ok(Record::Data(_))));

    let missing = asker.ask("node.unexpose", json!({"name": "db"})).await;
    assert!(missing["error"]["message"].as_str().unwrap().contains("it has: rpc"), "{missing}");
    // What changed at run time is said again on the next session.
    asker.ask("node.expose", json!({"service": "web=80"})).await;
    drop(peer);
    let mut peer = hub.admit().await;
    assert_eq!(names(&announced(&mut peer).await), ["rpc", "web"]);
    within("the shutdown", node.shutdown()).await;
    assert!(!path.exists(), "the socket goes with the node");
}

#[tokio::test]
async fn the_node_says_how_it_is() {
    let mut hub = Hub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.sock");
    let (gone, refusing) = listener().await;
    drop(gone);
    let explorers = vec![hub.address(), refusing.parse().unwrap()];
    let config = NodeConfig::new(node_id("edge-7"), explorers).unwrap();
    let config = config.with_label("region", "eu").unwrap().with_service("ssh=22".parse().unwrap()).unwrap();
    let mut node = Node::start(config, Arc::new(RealNet)).unwrap();
    node.serve_control(ControlSocket::bind(&path).await.unwrap());
    let _peer = hub.admit().await;
    let mut states = node.states();
    let settled = states.wait_for(|lines| {
        matches!(lines[0].state, LineState::Serving { rtt: Some(_), .. })
            && matches!(lines[1].state, LineState::BackingOff { .. })
    });
    within("the lines", settled).await.unwrap();

    let status = Asker::connect(&path).await.ask("node.status", Value::Null).await["result"].clone();
    assert_eq!(status["node"], "edge-7");
    assert_eq!(status["labels"], json!({"region": "eu"}));
    assert_eq!(status["lines"][0]["state"], "online", "{status}");
    assert_eq!(status["lines"][0]["name"], "hub-1");
    assert!(status["lines"][0]["rtt_ms"].is_number(), "{status}");
    assert_eq!(status["lines"][1]["explorer"], json!(refusing));
    // It may be dialling again by now.
    assert_ne!(status["lines"][1]["state"], "online");
    assert_eq!(
        status["services"],
        json!([{"name": "ssh", "address": "127.0.0.1:22", "health": {"state": "unknown"}}])
    );
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_what_is_wrong() {
    let hub = Hub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.sock");
    let mut node = Node::start(config(&hub, &[]), Arc::new(RealNet)).unwrap();
    node.serve_control(ControlSocket::bind(&path).await.unwrap());
    let mut asker = Asker::connect(&path).await;
    for (line, number, part) in [
        ("nonsense", -32700, "no JSON"),
        ("[]", -32600, "no JSON-RPC request"),
        (r#"{"jsonrpc":"1.0","id":1,"method":"node.status"}"#, -32600, "2.0"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"node.stop"}"#, -32601, "node.status, node.expose"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"node.expose"}"#, -32602, "NAME=ADDRESS"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"node.expose","params":{"service":"ssh"}}"#, -32602, "ssh=22"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"node.expose","params":{"service":"a=1","x":1}}"#,
            -32602,
            "`x`",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"node.unexpose","params":{"name":"../x"}}"#, -32602, "service"),
    ] {
        asker.say(line).await;
        let answer = asker.hear().await;
        assert_eq!(answer["error"]["code"], number, "{line}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{line}: {answer}");
    }
    // A notification is done and not answered; the next request is.
    asker.say(r#"{"jsonrpc":"2.0","method":"node.expose","params":{"service":"web=80"}}"#).await;
    let status = asker.ask("node.status", Value::Null).await;
    assert_eq!(status["result"]["services"][0]["name"], "web", "{status}");

    let endless = vec![b'x'; 70_000];
    let mut flood = Asker::connect(&path).await;
    flood.0.write_all(&endless).await.unwrap();
    assert_eq!(flood.hear().await["error"]["code"], -32600);
    let mut rest = [0; 1];
    let closed = within("the close", flood.0.read(&mut rest)).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_destroys_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("private").join("node.sock");
    let socket = ControlSocket::bind(&path).await.unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    let error = ControlSocket::bind(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::InUse(_)), "{error}");
    // Another one that took the place is not removed with ours.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());

    // A socket nobody listens on is what a killed node leaves behind.
    drop(other);
    drop(ControlSocket::bind(&path).await.unwrap());
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    let error = ControlSocket::bind(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::Occupied { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    symlink("/nowhere", &path).unwrap();
    let error = ControlSocket::bind(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::Occupied { .. }), "{error}");

    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let error = ControlSocket::bind(&open.join("node.sock")).await.unwrap_err();
    assert!(matches!(error, SocketError::OpenDirectory { .. }), "{error}");
}

async fn next_health(peer: &mut Peer) -> Vec<(String, HealthState)> {
    loop {
        if let ControlMessage::Health(health) = peer.control().await {
            return health
                .services
                .into_iter()
                .map(|service| (service.name.to_string(), service.health))
                .collect();
        }
    }
}

#[tokio::test]
async fn a_probe_finds_a_service_that_dies_and_comes_back_before_any_visitor_does() {
    let mut hub = Hub::bind().await;
    let (up, address) = listener().await;
    let mut config = config(&hub, &[&format!("db={address}")])
        .with_service(Service::handler("fn", |_| async { Ok(()) }).unwrap())
        .unwrap();
    config.probe_every = Some(Duration::from_millis(60));
    let _node = Node::start(config, Arc::new(RealNet)).unwrap();
    let mut peer = hub.admit().await;
    let first = announced(&mut peer).await;
    assert_eq!(names(&first), ["db", "fn"]);
    if first.services[0].health == HealthState::Unknown {
        assert_eq!(next_health(&mut peer).await, [("db".to_owned(), HealthState::Ok)]);
    }
    // Several probes find the same: nothing is said.
    for _ in 0..3 {
        within("a probe", up.accept()).await.unwrap();
    }
    assert!(
        tokio::time::timeout(Duration::ZERO, peer.control.next()).await.is_err(),
        "only changes are said"
    );

    drop(up);
    let health = next_health(&mut peer).await;
    assert!(
        matches!(&health[..], [(name, HealthState::Failing { reason })] if name == "db" && reason.contains("refused")),
        "{health:?}"
    );
    let _up = TcpListener::bind(&address).await.unwrap();
    assert_eq!(next_health(&mut peer).await, [("db".to_owned(), HealthState::Ok)], "never a handler");
}

#[tokio::test]
async fn a_service_that_wants_no_probes_gets_none() {
    let mut hub = Hub::bind().await;
    let (probed, address) = listener().await;
    let (quiet, quiet_address) = listener().await;
    let quiet_entry = format!("quiet={quiet_address},probe=off");
    let mut config = config(&hub, &[&format!("db={address}"), &quiet_entry]);
    config.probe_every = Some(Duration::from_millis(60));
    let _node = Node::start(config, Arc::new(RealNet)).unwrap();
    let mut peer = hub.admit().await;
    let first = announced(&mut peer).await;
    assert_eq!(names(&first), ["db", "quiet"]);
    for _ in 0..3 {
        within("a probe", probed.accept()).await.unwrap();
    }
    assert!(tokio::time::timeout(Duration::ZERO, quiet.accept()).await.is_err(), "three rounds, no visitor");
    assert_eq!(first.services[1].health, HealthState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_costs_a_probe_two_seconds_and_the_others_nothing() {
    let (near, mut far) = (Silent::default(), tokio::task::JoinSet::new());
    let started = near.started.clone();
    let services = ["a=10.0.0.1:1", "b=10.0.0.2:1"];
    let explorer = vec!["10.9.9.9:9".parse().unwrap()];
    let mut config = NodeConfig::new(node_id("edge-7"), explorer).unwrap();
    config.probe_every = Some(Duration::from_secs(30));
    config.random = Random::seeded(5);
    for service in services {
        config = config.with_service(service.parse().unwrap()).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.sock");
    let mut node = Node::start(config, Arc::new(near)).unwrap();
    node.serve_control(ControlSocket::bind(&path).await.unwrap());
    far.spawn(async move {
        while started.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await
        }
    });
    far.join_next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let status = Asker::connect(&path).await.ask("node.status", Value::Null).await;
    for service in status["result"]["services"].as_array().unwrap() {
        assert_eq!(service["health"]["state"], "failing", "{service}");
        assert!(service["health"]["reason"].as_str().unwrap().contains("no answer within 2"), "{service}");
    }
}

/// A network in which nothing ever answers.
#[derive(Default)]
struct Silent {
    started: Arc<std::sync::atomic::AtomicUsize>,
}

impl Net for Silent {
    fn connect<'a>(
        &'a self,
        to: &'a reachback_link::Address,
    ) -> futures::future::BoxFuture<'a, std::io::Result<reachback_link::Transport>> {
        if to.to_string().ends_with(":1") {
            self.started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Box::pin(std::future::pending())
    }

    fn listen<'a>(
        &'a self,
        on: &'a reachback_link::ListenAddress,
    ) -> futures::future::BoxFuture<'a, std::io::Result<reachback_link::Listener>> {
        RealNet.listen(on)
    }
}

#[tokio::test]
async fn a_node_calls_others_over_its_own_line() {
    let mut hub = Hub::bind().await;
    let node = Node::start(config(&hub, &[]), Arc::new(RealNet)).unwrap();
    let uplink = node.uplink();
    let target: Target = "mac1/exo".parse().unwrap();
    let early = uplink.open(&target).await;
    assert!(matches!(early, Err(NoStream::NotConnected(_))), "{early:?}");

    let mut peer = hub.admit().await;
    let mut states = node.states();
    within("the session", states.wait_for(|lines| matches!(lines[0].state, LineState::Serving { .. })))
        .await
        .unwrap();
    let on = "127.0.0.1:0".parse().unwrap();
    let forward = Forward::start(Arc::new(RealNet), uplink.clone(), &on, target.clone(), None).await.unwrap();
    let address = forward.local().to_string().parse().unwrap();
    let mut visitor = within("the connection", async {
        loop {
            // The session has to reach the forward first.
            if let Ok(visitor) = RealNet.connect(&address).await {
                return visitor;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut service = loop {
        let mut inbound = within("an open", peer.incoming.next()).await.unwrap();
        let open = inbound.open().await.unwrap();
        if open.kind == OpenKind::Stream {
            assert_eq!(open.target, Some(target.clone()));
            break inbound.answer(async { Ok(()) }).await.unwrap().0;
        }
        inbound.refuse(Refusal::new(Code::ServiceNotFound, "no watch here")).await;
    };
    visitor.write_all(b"question").await.unwrap();
    let question = within("the question", service.next()).await.unwrap();
    assert!(matches!(&question, Record::Data(bytes) if bytes == &b"question"[..]), "{question:?}");
    service.send(RecordKind::Data, b"answer").await.unwrap();
    let mut answer = [0; 6];
    within("the answer", visitor.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"answer");

    drop(peer);
    within("the end", states.wait_for(|lines| !matches!(lines[0].state, LineState::Serving { .. })))
        .await
        .unwrap();
    let late = uplink.open(&target).await;
    assert!(matches!(late, Err(NoStream::NotConnected(_))), "{late:?}");
    forward.shutdown().await;
    node.shutdown().await;
}
