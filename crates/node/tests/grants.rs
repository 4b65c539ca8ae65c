//! Whom a node lets in to its services, beside what its explorer says: lists, grants, and their ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::{path::Path, sync::Arc, time::Duration};

use reachback_client::Random;
use reachback_link::{OpenError, RealNet, StreamEnd, Substream};
use reachback_node::{ControlSocket, Invocation, Node, NodeConfig, RpcError, Service, Visit};
use reachback_wire::{
    Caller, Code, ControlMessage, Open, OpenKind, Record, RecordKind, Refusal, Role, Services,
};
use serde_json::{Value, json};
use support::{Hub, Peer, node_id, stream, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixStream},
    task::JoinSet,
};

/// A node with a control socket, and the explorer's end of its line.
struct World {
    _hub: Hub,
    peer: Peer,
    node: Node,
    directory: tempfile::TempDir,
}

async fn world(services: impl IntoIterator<Item = Service>) -> World {
    let mut hub = Hub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
    config.random = Random::seeded(5);
    config.state_dir = Some(directory.path().join("state"));
    for service in services {
        config = config.with_service(service).unwrap();
    }
    let mut node = Node::start(config, Arc::new(RealNet)).unwrap();
    node.serve_control(ControlSocket::bind(&directory.path().join("node.sock")).await.unwrap());
    let peer = hub.admit().await;
    World { _hub: hub, peer, node, directory }
}

impl World {
    async fn ask(&self, method: &str, params: Value) -> Value {
        ask(&self.directory.path().join("node.sock"), method, params).await
    }

    async fn grant(&self, service: &str, to: &str, length: Duration) {
        let length = u64::try_from(length.as_millis()).unwrap();
        let params = json!({"service": service, "to": to, "for_ms": length, "reason": "a look"});
        let answer = self.ask("node.grant", params).await;
        assert!(answer["result"]["until_unix_ms"].as_u64().unwrap() > 1_700_000_000_000, "{answer}");
    }

    async fn announced(&mut self) -> Services {
        loop {
            if let ControlMessage::Services(services) = self.peer.control().await {
                return services;
            }
        }
    }
}

async fn ask(socket: &Path, method: &str, params: Value) -> Value {
    let mut asker = BufReader::new(UnixStream::connect(socket).await.unwrap());
    let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string() + "\n";
    asker.write_all(line.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", asker.read_line(&mut answer)).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

fn caller(role: Role, name: Option<&str>, granted: bool) -> Option<Caller> {
    let name = name.map(str::to_owned);
    Some(Caller { role, id: "some-machine".into(), name, granted, session: None, address: None })
}

fn by(mut open: Open, caller: Option<Caller>) -> Open {
    open.caller = caller;
    open
}

fn ann() -> Option<Caller> {
    caller(Role::Client, Some("ann"), true)
}

async fn open(peer: &Peer, open: Open) -> Substream {
    within("the open", peer.session.open(open)).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn refused(peer: &Peer, open: Open) -> Refusal {
    match within("the refusal", peer.session.open(open)).await {
        Err(OpenError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn ended(substream: &mut Substream) -> StreamEnd {
    loop {
        if let Err(end) = within("the end", substream.next()).await {
            return end;
        }
    }
}

fn greeter(name: &str) -> Service {
    Service::handler(name, |mut visit: Visit| async move {
        visit.write_all(b"hello").await?;
        visit.shutdown().await?;
        visit.read_to_end(&mut Vec::new()).await.map(drop)
    })
    .unwrap()
}

#[tokio::test]
async fn a_list_of_callers_holds_whatever_the_explorer_says() {
    let listed = |patterns: [&str; 2]| {
        greeter("rpc").with_allow(patterns.map(|pattern| pattern.parse().unwrap()).to_vec())
    };
    let world =
        world([listed(["ann", "node:edge-*"]), greeter("open"), greeter("shut").with_allow(vec![])]).await;
    let peer = &world.peer;
    for (who, service, expected) in [
        (caller(Role::Client, Some("ann"), false), "rpc", true),
        (caller(Role::Node, Some("edge-9"), false), "rpc", true),
        (caller(Role::Client, Some("bob"), false), "rpc", false),
        (caller(Role::Node, Some("ann"), false), "rpc", false),
        (caller(Role::Client, Some("edge-9"), false), "rpc", false),
        // The machine calls itself so, and nobody has verified that it may.
        (caller(Role::Client, None, false), "rpc", false),
        (None, "rpc", false),
        (caller(Role::Client, Some("bob"), false), "open", true),
        (None, "open", true),
        (caller(Role::Client, Some("ann"), false), "shut", false),
    ] {
        let asked = by(stream(&format!("edge-7/{service}")), who.clone());
        if expected {
            open(peer, asked).await;
            continue;
        }
        let refusal = refused(peer, asked).await;
        assert_eq!(refusal.code, Code::Denied, "{who:?}: {refusal}");
        assert!(refusal.message.contains("edge-7") && refusal.message.contains(service), "{refusal}");
        if let Some(name) = who.and_then(|who| who.name) {
            assert!(
                refusal.message.contains("reachback grant") && refusal.message.contains(&name),
                "{refusal}"
            );
        }
    }
}

#[tokio::test]
async fn a_grant_is_announced_lets_in_and_cuts_what_it_let_in() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service: Service = format!("db={}", listener.local_addr().unwrap()).parse().unwrap();
    let mut world = world([service.with_allow(vec![])]).await;
    assert!(world.announced().await.grants.is_empty());

    let refusal = refused(&world.peer, by(stream("edge-7/db"), ann())).await;
    assert_eq!(refusal.code, Code::Expired, "the explorer believes in a grant that is none: {refusal}");

    world.grant("db", "ann", Duration::from_millis(1500)).await;
    let told = world.announced().await.grants;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].service.as_ref(), told[0].to.to_string()), ("db", "ann".into()));
    assert!((1..=1500).contains(&told[0].left_ms), "{told:?}");
    refused(&world.peer, by(stream("edge-7/db"), caller(Role::Client, Some("bob"), true))).await;

    let mut substream = open(&world.peer, by(stream("edge-7/db"), ann())).await;
    let mut visitor = within("the node's dial", listener.accept()).await.unwrap().0;
    visitor.write_all(b"in").await.unwrap();
    assert!(matches!(within("bytes", substream.next()).await, Ok(Record::Data(_))));
    match ended(&mut substream).await {
        StreamEnd::Reset { code: Code::Expired, text } => {
            assert!(text.contains("reachback grant db --to ann"), "{text}")
        }
        other => panic!("{other:?}"),
    }
    let error = within("the service's end", visitor.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the service can tell");
    assert!(world.announced().await.grants.is_empty(), "that it is over is said too");
}

#[tokio::test]
async fn who_may_come_in_anyway_is_not_cut_by_the_end_of_a_grant() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service: Service = format!("db={}", listener.local_addr().unwrap()).parse().unwrap();
    let mut world = world([service]).await;
    world.announced().await;
    world.grant("db", "ann", Duration::from_millis(300)).await;
    let by_right = by(stream("edge-7/db"), caller(Role::Client, Some("ann"), false));
    let mut substream = open(&world.peer, by_right).await;
    let mut visitor = within("the node's dial", listener.accept()).await.unwrap().0;
    while !world.announced().await.grants.is_empty() {}
    visitor.write_all(b"still here").await.unwrap();
    assert!(matches!(within("bytes", substream.next()).await, Ok(Record::Data(_))));
}

#[tokio::test]
async fn taking_a_grant_back_ends_every_kind_of_visit() {
    let mut own_tasks = JoinSet::new();
    let (visits, mut moved) = tokio::sync::mpsc::unbounded_channel::<Visit>();
    let waits = Service::handler("waits", |mut visit: Visit| async move {
        visit.read_to_end(&mut Vec::new()).await.map(drop)
    });
    // Neither reads nor writes, and is told all the same.
    let idles = Service::handler("idles", |visit: Visit| async move {
        let _kept = visit;
        std::future::pending().await
    });
    let moves = Service::handler("moves", move |visit: Visit| {
        let kept = visits.send(visit).is_ok();
        async move { if kept { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) } }
    });
    let calls = Service::calls("calls", |_: Invocation| async {
        std::future::pending::<()>().await;
        Ok::<_, RpcError>(())
    });
    own_tasks.spawn(async move {
        let mut visit = moved.recv().await.unwrap();
        visit.read_to_end(&mut Vec::new()).await.unwrap_err().kind()
    });
    let world = world([waits.unwrap(), idles.unwrap(), moves.unwrap(), calls.unwrap()]).await;
    for service in ["waits", "idles", "moves", "calls"] {
        world.grant(service, "user:*", Duration::from_secs(3600)).await;
    }
    let mut substreams = Vec::new();
    for service in ["waits", "idles", "moves"] {
        substreams.push(open(&world.peer, by(stream(&format!("edge-7/{service}")), ann())).await);
    }
    let target = "edge-7/calls".parse().unwrap();
    let call = by(Open::call(target, Duration::from_secs(600)), ann());
    assert_eq!(call.kind, OpenKind::Call);
    let mut call = open(&world.peer, call).await;
    call.send(RecordKind::Head, b"{}").await.unwrap();
    call.send(RecordKind::Data, br#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await.unwrap();
    call.finish(None).await.unwrap();

    for service in ["waits", "idles", "moves", "calls"] {
        let answer = world.ask("node.revoke_grant", json!({"service": service, "to": "user:*"})).await;
        assert_eq!(answer["result"]["service"], service, "{answer}");
    }
    for mut substream in substreams {
        let end = ended(&mut substream).await;
        assert!(matches!(&end, StreamEnd::Reset { code: Code::Revoked, .. }), "{end:?}");
    }
    match within("the call's end", call.next()).await {
        Ok(Record::End(Some(status))) => assert_eq!(status.code, Code::Revoked, "{status:?}"),
        other => panic!("{other:?}"),
    }
    let kind = within("the handler's own task", own_tasks.join_next()).await.unwrap().unwrap();
    assert_eq!(kind, std::io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn the_control_socket_says_what_is_granted_and_refuses_nonsense() {
    let world = world([greeter("rpc")]).await;
    world.grant("rpc", "node:edge-*", Duration::from_secs(3600)).await;
    let grants = world.ask("node.grants", json!({})).await;
    let grant = &grants["result"]["grants"][0];
    assert_eq!(
        (&grant["service"], &grant["to"], &grant["reason"]),
        (&json!("rpc"), &json!("node:edge-*"), &json!("a look"))
    );
    assert!(grant["left_ms"].as_u64().unwrap() <= 3_600_000, "{grant}");
    assert_eq!(world.ask("node.status", json!({})).await["result"]["grants"][0]["to"], "node:edge-*");
    for (method, params, part) in [
        ("node.grant", json!({"service": "db", "to": "ann", "for_ms": 1, "reason": "x"}), "it has: rpc"),
        (
            "node.grant",
            json!({"service": "rpc", "to": "admin:ann", "for_ms": 1, "reason": "x"}),
            "no kind of caller",
        ),
        ("node.grant", json!({"service": "rpc", "to": "ann", "for_ms": 0, "reason": "x"}), "30 days"),
        ("node.grant", json!({"service": "rpc", "to": "ann", "for_ms": 1, "reason": ""}), "say why"),
        ("node.grant", json!({"service": "rpc"}), "params"),
        ("node.revoke_grant", json!({"service": "rpc", "to": "ann"}), "nothing is granted to ann"),
    ] {
        let answer = world.ask(method, params).await;
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{part}: {answer}");
    }
}

#[tokio::test]
async fn a_grant_outlives_the_node_that_gave_it() {
    let world = world([greeter("rpc").with_allow(vec![])]).await;
    world.grant("rpc", "ann", Duration::from_secs(3600)).await;
    let World { node, directory, .. } = world;
    within("the shutdown", node.shutdown()).await;

    let mut hub = Hub::bind().await;
    let config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
    let mut config = config.with_service(greeter("rpc").with_allow(vec![])).unwrap();
    config.state_dir = Some(directory.path().join("state"));
    let _node = Node::start(config, Arc::new(RealNet)).unwrap();
    let peer = hub.admit().await;
    open(&peer, by(stream("edge-7/rpc"), ann())).await;
}
