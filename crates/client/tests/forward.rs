//! Forwarded ports, and an explorer that tells what a test wants it to about the node they lead to.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

mod support;

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use reachback_client::{ClientOptions, Forward, LineState, NoStream, Random, Reconnecting, Uplink};
use reachback_link::{Address, Inbound, Net, RealNet, Substream, Transport};
use reachback_wire::{Code, OpenKind, Record, RecordKind, Refusal, Target};
use serde_json::{Value, json};
use support::{Hub, Peer, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn options() -> ClientOptions {
    ClientOptions::new("ann".parse().unwrap(), Random::seeded(3)).unwrap()
}

fn target() -> Target {
    "edge-7/rpc".parse().unwrap()
}

/// A client, its hub, and the hub's end of the first session.
async fn connected() -> (Reconnecting, Hub, Peer) {
    let mut hub = Hub::bind().await;
    let client = Reconnecting::start(Arc::new(RealNet), hub.address(), options());
    let peer = hub.admit().await;
    serving(&client).await;
    (client, hub, peer)
}

async fn serving(client: &Reconnecting) {
    let mut states = client.states();
    let stands = states.wait_for(|state| matches!(state, LineState::Serving { .. }));
    within("the session", stands).await.unwrap();
}

async fn forward(uplink: Uplink, wait: Option<Duration>) -> Forward {
    let on = "127.0.0.1:0".parse().unwrap();
    Forward::start(Arc::new(RealNet), uplink, &on, target(), wait).await.unwrap()
}

fn address(forward: &Forward) -> Address {
    forward.local().to_string().parse().unwrap()
}

async fn visit(forward: &Forward) -> Transport {
    RealNet.connect(&address(forward)).await.unwrap()
}

async fn reset_seen(visitor: &mut Transport) {
    let read = within("the reset", visitor.read(&mut [0; 16])).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// Connecting fails as it does where nobody listens.
async fn refused(forward: &Forward) {
    let error = RealNet.connect(&address(forward)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

async fn listening(forward: &Forward, expected: bool) {
    let mut listening = forward.listening();
    within("the listener's change", listening.wait_for(|now| *now == expected)).await.unwrap();
}

async fn inbound(peer: &mut Peer) -> Inbound {
    within("an open", peer.incoming.next()).await.unwrap()
}

/// The forward's question about its node, and the stream to answer it on.
async fn watch(peer: &mut Peer) -> Substream {
    let (inbound, open) = loop {
        let mut inbound = inbound(peer).await;
        let open = inbound.open().await.unwrap();
        if open.kind == OpenKind::Call {
            break (inbound, open);
        }
        // A visitor who came before the first word.
        inbound.refuse(Refusal::new(Code::NodeOffline, "edge-7 is offline")).await;
    };
    assert_eq!(open.target, Some("@explorer/api".parse().unwrap()));
    assert_eq!(open.deadline_ms, None, "it lasts as long as the session");
    let (mut stream, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
    let Record::Head(head) = within("the head", stream.next()).await.unwrap() else { panic!() };
    assert_eq!(serde_json::from_slice::<Value>(&head).unwrap(), json!({"stream": true}));
    let Record::Data(request) = within("the request", stream.next()).await.unwrap() else { panic!() };
    let request: Value = serde_json::from_slice(&request).unwrap();
    assert_eq!(request["method"], "explorer.watch");
    assert_eq!(request["params"], json!({"node": "edge-7"}));
    assert!(matches!(within("the end", stream.next()).await, Ok(Record::End(None))));
    stream.send(RecordKind::Head, br#"{"status":200}"#).await.unwrap();
    stream
}

async fn say(watch: &mut Substream, what: &Value) {
    watch.send(RecordKind::Item, what.to_string().as_bytes()).await.unwrap();
}

/// The first word: all nodes that match.
async fn say_first(watch: &mut Substream, state: &str) {
    say(watch, &json!({"explorer": "hub", "nodes": [{"node": "edge-7", "state": state}]})).await;
}

async fn say_change(watch: &mut Substream, state: &str) {
    say(watch, &json!({"node": "edge-7", "state": state, "reason": "because"})).await;
}

/// A visitor's stream.
async fn accept(peer: &mut Peer) -> Substream {
    let mut inbound = inbound(peer).await;
    let open = inbound.open().await.unwrap();
    assert_eq!((open.kind, open.target), (OpenKind::Stream, Some(target())));
    inbound.answer(async { Ok(()) }).await.unwrap().0
}

#[tokio::test]
async fn every_visitor_gets_a_stream_of_its_own() {
    let (client, _hub, mut peer) = connected().await;
    let forward = forward(client.uplink(), None).await;
    say_first(&mut watch(&mut peer).await, "online").await;
    let mut visitors = Vec::new();
    for n in 0..3u8 {
        let mut visitor = visit(&forward).await;
        let mut service = within("the stream", next_stream(&mut peer)).await;
        service.send(RecordKind::Data, &[n]).await.unwrap();
        let mut greeting = [0];
        within("the greeting", visitor.read_exact(&mut greeting)).await.unwrap();
        assert_eq!(greeting, [n]);
        visitors.push((visitor, service));
    }
    let (mut visitor, mut service) = visitors.pop().unwrap();
    visitor.shutdown().await.unwrap();
    assert!(matches!(within("the half-close", service.next()).await, Ok(Record::End(None))));
    service.send(RecordKind::Data, b"late answer").await.unwrap();
    service.finish(None).await.unwrap();
    let mut answer = Vec::new();
    within("the answer", visitor.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"late answer");

    let (mut visitor, service) = visitors.pop().unwrap();
    service.reset(Code::Reset, "service died");
    reset_seen(&mut visitor).await;

    // The last one is still there when the forward is not.
    let (mut visitor, _service) = visitors.pop().unwrap();
    let address = address(&forward);
    within("the shutdown", forward.shutdown()).await;
    reset_seen(&mut visitor).await;
    assert!(RealNet.connect(&address).await.is_err(), "the port is closed");
}

/// The next stream of a visitor. A watch that was taken back is asked for again, and is left without an answer here.
async fn next_stream(peer: &mut Peer) -> Substream {
    loop {
        let mut inbound = inbound(peer).await;
        if inbound.open().await.unwrap().kind == OpenKind::Stream {
            return inbound.answer(async { Ok(()) }).await.unwrap().0;
        }
        inbound.refuse(Refusal::new(Code::Saturated, "not now")).await;
    }
}

#[tokio::test]
async fn the_port_is_closed_while_the_node_is_offline_and_is_the_same_afterwards() {
    let (client, _hub, mut peer) = connected().await;
    let forward = forward(client.uplink(), None).await;
    let mut watch = watch(&mut peer).await;
    say_first(&mut watch, "offline").await;
    listening(&forward, false).await;
    refused(&forward).await;

    say_change(&mut watch, "online").await;
    listening(&forward, true).await;
    let mut visitor = visit(&forward).await;
    let mut service = accept(&mut peer).await;

    // Gone again: nobody new gets in, and whoever is in stays.
    say_change(&mut watch, "offline").await;
    listening(&forward, false).await;
    refused(&forward).await;
    service.send(RecordKind::Data, b"still").await.unwrap();
    let mut still = [0; 5];
    within("the visitor's bytes", visitor.read_exact(&mut still)).await.unwrap();
    assert_eq!(&still, b"still");

    say(&mut watch, &json!({"node": "edge-8", "state": "online"})).await;
    say_change(&mut watch, "late").await;
    listening(&forward, true).await;
    visit(&forward).await;
    accept(&mut peer).await;
    say_change(&mut watch, "forgotten").await;
    listening(&forward, false).await;
}

#[tokio::test]
async fn a_node_that_the_explorer_does_not_know_is_offline() {
    let (client, _hub, mut peer) = connected().await;
    let forward = forward(client.uplink(), None).await;
    let mut watch = watch(&mut peer).await;
    // In pieces, as longer texts come.
    watch.send(RecordKind::Data, br#"{"explorer":"hub","#).await.unwrap();
    watch.send(RecordKind::Item, br#""nodes":[]}"#).await.unwrap();
    listening(&forward, false).await;
    refused(&forward).await;
}

#[tokio::test]
async fn without_a_line_the_port_is_closed_and_with_the_next_one_it_is_asked_again() {
    let (client, mut hub, mut peer) = connected().await;
    let forward = forward(client.uplink(), None).await;
    say_first(&mut watch(&mut peer).await, "online").await;
    drop(peer);
    listening(&forward, false).await;
    refused(&forward).await;
    let outcome = client.open(target()).await;
    assert!(matches!(outcome, Err(NoStream::NotConnected(_))), "{outcome:?}");

    let mut peer = hub.admit().await;
    serving(&client).await;
    say_first(&mut watch(&mut peer).await, "online").await;
    listening(&forward, true).await;
    let mut visitor = visit(&forward).await;
    let mut service = accept(&mut peer).await;
    service.send(RecordKind::Data, b"back").await.unwrap();
    let mut greeting = [0; 4];
    within("the greeting", visitor.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"back");
}

#[tokio::test]
async fn where_the_explorer_does_not_tell_visitors_are_tried_and_reset() {
    let unknown = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no method"}});
    for refuses in [true, false] {
        let (client, _hub, mut peer) = connected().await;
        let forward = forward(client.uplink(), None).await;
        if refuses {
            inbound(&mut peer).await.refuse(Refusal::new(Code::ServiceNotFound, "no API here")).await;
        } else {
            let mut watch = watch(&mut peer).await;
            watch.send(RecordKind::Data, unknown.to_string().as_bytes()).await.unwrap();
            watch.finish(None).await.unwrap();
        }
        let mut visitor = visit(&forward).await;
        inbound(&mut peer).await.refuse(Refusal::new(Code::NodeOffline, "edge-7 is offline")).await;
        reset_seen(&mut visitor).await;
        assert!(*forward.listening().borrow());
    }
}

#[tokio::test]
async fn a_forward_that_waits_keeps_its_visitors_until_the_node_is_back() {
    let (client, mut hub, mut peer) = connected().await;
    let forward = forward(client.uplink(), Some(support::PATIENCE)).await;
    let mut watched = watch(&mut peer).await;
    say_first(&mut watched, "offline").await;
    let mut visitor = visit(&forward).await;
    visitor.write_all(b"early question").await.unwrap();
    // Through the end of a session and into the next one.
    drop(peer);
    let mut peer = hub.admit().await;
    let mut watched = watch(&mut peer).await;
    say_first(&mut watched, "offline").await;
    say_change(&mut watched, "online").await;
    // It has been told of, and yet is not there: nothing was sent, so it is tried again.
    inbound(&mut peer).await.refuse(Refusal::new(Code::NodeOffline, "edge-7 is offline")).await;
    let mut service = accept(&mut peer).await;
    let question = within("the question", service.next()).await.unwrap();
    assert!(
        matches!(&question, Record::Data(bytes) if bytes == &b"early question"[..]),
        "once: {question:?}"
    );
    service.send(RecordKind::Data, b"answer").await.unwrap();
    let mut answer = [0; 6];
    within("the answer", visitor.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"answer");
    assert!(*forward.listening().borrow(), "it was open all the time");
}

#[tokio::test]
async fn a_wait_ends_and_what_waiting_cannot_mend_is_not_waited_for() {
    let (client, _hub, mut peer) = connected().await;
    let port = forward(client.uplink(), Some(Duration::from_millis(20))).await;
    let mut watched = watch(&mut peer).await;
    say_first(&mut watched, "offline").await;
    let mut visitor = visit(&port).await;
    // The last word is the explorer's own, however often it was asked.
    let refusing = async {
        loop {
            inbound(&mut peer).await.refuse(Refusal::new(Code::NodeOffline, "edge-7 is offline")).await;
        }
    };
    tokio::select! {
        () = reset_seen(&mut visitor) => {}
        () = refusing => {}
    }
    assert_eq!(client.stats().visitors_refused.load(Ordering::Relaxed), 1);
    within("the shutdown", port.shutdown()).await;

    let patient = forward(client.uplink(), Some(Duration::from_secs(3600))).await;
    let mut watched = watch(&mut peer).await;
    say_first(&mut watched, "online").await;
    let mut visitor = visit(&patient).await;
    inbound(&mut peer).await.refuse(Refusal::new(Code::Denied, "not yours")).await;
    reset_seen(&mut visitor).await;
}

#[tokio::test]
async fn of_several_lines_the_one_whose_explorer_has_the_node_carries_the_stream() {
    let (first, _hub, mut first_peer) = connected().await;
    let (second, _hub, mut second_peer) = connected().await;
    let lines = [first.uplink().lines(), second.uplink().lines()].concat();
    let forward = forward(Uplink::new(lines, first.stats().clone()), None).await;
    say_first(&mut watch(&mut first_peer).await, "offline").await;
    let mut watched = watch(&mut second_peer).await;
    say_first(&mut watched, "online").await;
    assert!(*forward.listening().borrow());
    let _visitor = visit(&forward).await;
    let refusal = Refusal::new(Code::NodeNotFound, "no node edge-7 has connected here");
    next_visitor(&mut first_peer).await.refuse(refusal).await;
    let _service = accept(&mut second_peer).await;

    // A refusal that is about the visitor is the answer, wherever it comes from.
    let mut visitor = visit(&forward).await;
    next_visitor(&mut first_peer).await.refuse(Refusal::new(Code::Denied, "not yours")).await;
    reset_seen(&mut visitor).await;
}

#[tokio::test]
async fn a_node_that_one_explorer_may_have_is_waited_for_whatever_another_says() {
    let unknown = || Refusal::new(Code::NodeNotFound, "no node edge-7 has connected here");
    let (first, mut hub, mut first_peer) = connected().await;
    let (second, _hub, mut second_peer) = connected().await;
    let lines = [first.uplink().lines(), second.uplink().lines()].concat();
    let uplink = Uplink::new(lines, first.stats().clone());
    let forward = forward(uplink.clone(), Some(support::PATIENCE)).await;

    // One knows it as offline, the other has never heard of it.
    let mut visitor = visit(&forward).await;
    next_visitor(&mut first_peer).await.refuse(Refusal::new(Code::NodeOffline, "edge-7 is offline")).await;
    next_visitor(&mut second_peer).await.refuse(unknown()).await;
    served(next_visitor(&mut first_peer).await, &mut visitor).await;

    // One can't be asked now.
    drop(first_peer);
    let mut states = first.states();
    within("the end", states.wait_for(|state| !matches!(state, LineState::Serving { .. }))).await.unwrap();
    let mut visitor = visit(&forward).await;
    next_visitor(&mut second_peer).await.refuse(unknown()).await;
    let mut first_peer = hub.admit().await;
    let serving = async {
        loop {
            next_visitor(&mut second_peer).await.refuse(unknown()).await;
        }
    };
    tokio::select! {
        found = next_visitor(&mut first_peer) => served(found, &mut visitor).await,
        () = serving => unreachable!(),
    }
    // Where nobody else could have it, it is the answer.
    let target = target();
    let opening = uplink.open(&target);
    let refusing = async {
        next_visitor(&mut first_peer).await.refuse(unknown()).await;
        next_visitor(&mut second_peer).await.refuse(unknown()).await;
    };
    let (outcome, ()) = tokio::join!(opening, refusing);
    assert_eq!(outcome.unwrap_err().code(), Code::NodeNotFound);
}

/// Takes a visitor in and greets it, so that it is over for the forward when the stream is.
async fn served(inbound: Inbound, visitor: &mut Transport) {
    let (mut service, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
    service.send(RecordKind::Data, b"hello").await.unwrap();
    let mut greeting = [0; 5];
    within("the greeting", visitor.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"hello");
}

/// The next open of a visitor: the watch's stream has been dropped by the test, so it may be asked for again.
async fn next_visitor(peer: &mut Peer) -> Inbound {
    let coming = async {
        loop {
            let mut inbound = inbound(peer).await;
            if inbound.open().await.unwrap().kind == OpenKind::Stream {
                return inbound;
            }
            inbound.refuse(Refusal::new(Code::Saturated, "not now")).await;
        }
    };
    within("a visitor's open", coming).await
}

#[tokio::test]
async fn a_unix_socket_comes_and_goes_with_the_node() {
    let directory = std::env::temp_dir().join(format!("reachback-forward-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("port.sock");
    let (client, _hub, mut peer) = connected().await;
    let on = path.to_str().unwrap().parse().unwrap();
    let forward = Forward::start(Arc::new(RealNet), client.uplink(), &on, target(), None).await.unwrap();
    let mut watched = watch(&mut peer).await;
    say_first(&mut watched, "offline").await;
    listening(&forward, false).await;
    assert!(!path.exists());
    say_change(&mut watched, "online").await;
    listening(&forward, true).await;
    RealNet.connect(&Address::Unix(path.clone())).await.unwrap();
    accept(&mut peer).await;

    // It goes with the forward too, or the next one could not listen there.
    drop(forward);
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("the socket's end", gone).await;
    let again = Forward::start(Arc::new(RealNet), client.uplink(), &on, target(), None).await.unwrap();
    assert!(path.exists());
    within("the shutdown", again.shutdown()).await;
    assert!(!path.exists());
    std::fs::remove_dir_all(directory).unwrap();
}
