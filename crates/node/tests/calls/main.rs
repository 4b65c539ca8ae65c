//! Calls through a node to services that tests write themselves, on real sockets: every framing, every way to end.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "../../../client/tests/support/mod.rs"]
mod support;

mod function;
mod http;
mod lines;
mod raw;

use std::{sync::Arc, time::Duration};

use reachback_client::Random;
use reachback_link::{OpenError, RealNet, Session, StreamEnd, Substream};
use reachback_node::{Node, NodeConfig, Service, Stats};
use reachback_wire::{Code, Open, Record, RecordKind, limits::CALL_BODY_MAX};
use serde_json::{Value, json};
use support::{Hub, PATIENCE, Peer, node_id, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Bodies of these sizes arrive as they were sent.
const SIZES: [usize; 6] = [40, 4_095, 65_532, 65_533, 1_000_000, CALL_BODY_MAX];

/// A node called edge-7 with one service called rpc at a listener of the test's.
struct World {
    service: TcpListener,
    peer: Peer,
    stats: Arc<Stats>,
    _node: Node,
    _hub: Hub,
}

/// What came back of a call.
#[derive(Debug, Default)]
struct Answer {
    head: Value,
    body: Vec<u8>,
    items: Vec<Vec<u8>>,
}

impl World {
    /// `keys` of the service, such as `framing=raw`.
    async fn new(keys: &str) -> Self {
        Self::with(keys, |_| {}).await
    }

    /// The same with a configuration of one's own.
    async fn with(keys: &str, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entry = format!("rpc={},{keys}", service.local_addr().unwrap());
        let mut hub = Hub::bind().await;
        let mut config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
        config.random = Random::seeded(5);
        change(&mut config);
        let config = config.with_service(entry.parse::<Service>().unwrap()).unwrap();
        let stats = config.stats.clone();
        let node = Node::start(config, Arc::new(RealNet)).unwrap();
        let peer = hub.admit().await;
        Self { service, peer, stats, _node: node, _hub: hub }
    }

    fn session(&self) -> Session {
        self.peer.session.clone()
    }

    async fn accept(&self) -> TcpStream {
        within("the node's dial", self.service.accept()).await.unwrap().0
    }

    /// No connection waits to be accepted.
    async fn nobody_dialled(&self) -> bool {
        tokio::time::timeout(Duration::ZERO, self.service.accept()).await.is_err()
    }
}

fn open(limit: Duration) -> Open {
    Open::call("edge-7/rpc".parse().unwrap(), limit)
}

/// Sends a whole request.
async fn begin(session: &Session, limit: Duration, head: &Value, body: &[u8]) -> Substream {
    let mut substream = within("the open", session.open(open(limit))).await.unwrap();
    substream.send(RecordKind::Head, head.to_string().as_bytes()).await.unwrap();
    // Whoever is refused in the middle learns it by reading.
    if substream.send(RecordKind::Data, body).await.is_ok() {
        drop(substream.finish(None).await);
    }
    substream
}

async fn read(substream: &mut Substream) -> Result<Answer, StreamEnd> {
    let mut answer = Answer::default();
    let mut item = Vec::new();
    loop {
        match within("a record", substream.next()).await? {
            Record::Head(head) => {
                assert!(answer.head.is_null() && answer.body.is_empty(), "one head, in front");
                answer.head = serde_json::from_slice(&head).unwrap();
            }
            Record::Data(bytes) => {
                answer.body.extend_from_slice(&bytes);
                item.extend_from_slice(&bytes);
            }
            Record::Item(bytes) => {
                answer.body.extend_from_slice(&bytes);
                item.extend_from_slice(&bytes);
                answer.items.push(std::mem::take(&mut item));
            }
            Record::End(None) => return Ok(answer),
            Record::End(Some(status)) => {
                return Err(StreamEnd::Reset { code: status.code, text: status.message });
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn call(session: &Session, limit: Duration, body: &[u8]) -> Result<Answer, StreamEnd> {
    read(&mut begin(session, limit, &json!({}), body).await).await
}

/// A request with an id whose text has exactly this many bytes.
fn request_of(size: usize) -> Vec<u8> {
    let mut body = br#"{"jsonrpc":"2.0","id":"q","method":""#.to_vec();
    body.resize(size - 2, b'm');
    body.extend_from_slice(br#""}"#);
    body
}

/// What a service answers to that one, just as long.
fn answer_of(size: usize) -> Vec<u8> {
    let mut body = br#"{"jsonrpc":"2.0","id":"q","result":""#.to_vec();
    body.resize(size - 2, b'r');
    body.extend_from_slice(br#""}"#);
    body
}

/// Reads up to what ends with `end`.
async fn read_until(socket: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let read = within("more of the request", socket.read_buf(&mut bytes)).await.unwrap();
        assert!(read > 0, "the node closed after {} bytes", bytes.len());
    }
    bytes
}

async fn write(socket: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    within("the service's write", socket.write_all(bytes.as_ref())).await.unwrap();
}

/// Waits until the node has closed its end.
async fn closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is a closing too.
    drop(within("the node's closing", socket.read_to_end(&mut rest)).await);
}

/// The bytes that can be read right now, without waiting.
async fn closes_its_half(socket: &mut TcpStream, wait: Duration) -> bool {
    tokio::time::timeout(wait, socket.read(&mut [0; 1])).await.is_ok()
}

#[tokio::test]
async fn a_service_that_is_down_is_a_refusal_which_says_that_nothing_was_sent() {
    for framing in ["http", "raw", "lines"] {
        let World { service, peer, stats: _, _node, _hub } = World::new(&format!("framing={framing}")).await;
        drop(service);
        let refused = within("the refusal", peer.session.open(open(PATIENCE))).await.unwrap_err();
        let OpenError::Refused(refusal) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.code, Code::ServiceUnreachable, "{framing}: {refusal}");
        assert!(refusal.message.contains("connection refused"), "{refusal}");
    }
}

#[tokio::test]
async fn a_request_too_large_or_taken_back_never_reaches_a_service() {
    for framing in ["http", "raw", "lines"] {
        let world = World::new(&format!("framing={framing}")).await;
        let end = call(&world.session(), PATIENCE, &request_of(CALL_BODY_MAX + 1)).await.unwrap_err();
        assert_eq!(end.code(), Code::TooLarge, "{framing}: {end}");

        let mut substream = within("the open", world.session().open(open(PATIENCE))).await.unwrap();
        substream.send(RecordKind::Data, br#"{"jsonrpc":"2.0","#).await.unwrap();
        substream.reset(Code::Cancelled, "changed my mind");

        let garbled = begin(&world.session(), PATIENCE, &json!({"headers": 1}), b"{}").await;
        let end = read(&mut { garbled }).await.unwrap_err();
        assert_eq!(end.code(), Code::BadFrame, "{framing}: {end}");

        // Whatever connections were made for these carried nothing.
        let connections = if framing == "lines" { 1 } else { 3 };
        for _ in 0..connections {
            let mut socket = world.accept().await;
            if framing == "lines" {
                assert!(
                    !closes_its_half(&mut socket, Duration::from_millis(50)).await,
                    "kept, and nothing written"
                );
            } else {
                let mut bytes = Vec::new();
                drop(within("the closing", socket.read_to_end(&mut bytes)).await);
                assert!(bytes.is_empty(), "{framing}: {}", String::from_utf8_lossy(&bytes));
            }
        }
        assert!(world.nobody_dialled().await);
    }
}

#[tokio::test]
async fn an_operator_may_say_how_large_a_message_can_be() {
    const MOST: usize = 100_000;
    for framing in ["http", "raw", "lines"] {
        let world = World::with(&format!("framing={framing}"), |config| config.max_message = MOST).await;
        let end = call(&world.session(), PATIENCE, &request_of(MOST + 1)).await.unwrap_err();
        assert_eq!(end.code(), Code::TooLarge, "{framing}: {end}");
        assert!(end.to_string().contains("100000 bytes"), "{end}");
        if framing != "raw" {
            continue;
        }
        drop(world.accept().await);
        let session = world.session();
        for (size, fits) in [(MOST, true), (MOST + 1, false)] {
            let request = request_of(MOST);
            let (outcome, ()) = tokio::join!(call(&session, PATIENCE, &request), async {
                let mut socket = world.accept().await;
                read_until(&mut socket, &request).await;
                // Whoever is told that it is too much does not take all of it.
                drop(socket.write_all(&answer_of(size)).await);
            });
            match outcome {
                Ok(answer) => assert!(fits && answer.body.len() == MOST),
                Err(end) => assert!(!fits && end.code() == Code::TooLarge, "{end}"),
            }
        }
    }
    let all = World::with("framing=raw", |config| config.max_message = usize::MAX).await;
    let end = call(&all.session(), PATIENCE, &request_of(CALL_BODY_MAX + 1)).await.unwrap_err();
    assert_eq!(end.code(), Code::TooLarge, "what both ends agreed on holds all the same: {end}");
}

#[tokio::test]
async fn a_service_that_never_answers_is_a_timeout_of_the_node() {
    for framing in ["http", "raw", "lines"] {
        let world = World::new(&format!("framing={framing}")).await;
        let session = world.session();
        let calling = call(&session, Duration::from_millis(300), br#"{"id":1,"method":"m"}"#);
        let (outcome, mut socket) = tokio::join!(calling, world.accept());
        let end = outcome.unwrap_err();
        assert_eq!(end.code(), Code::Timeout, "{framing}: {end}");
        // What is left of the 300 ms when the open goes out.
        assert!(end.to_string().contains("did not answer within "), "{end}");
        if framing != "lines" {
            closed(&mut socket).await;
        }
    }
}

#[tokio::test]
async fn giving_up_closes_the_connection_of_the_call() {
    for framing in ["http", "raw"] {
        let world = World::new(&format!("framing={framing}")).await;
        let substream = begin(&world.session(), PATIENCE, &json!({}), br#"{"id":1,"method":"m"}"#).await;
        let mut socket = world.accept().await;
        read_until(&mut socket, br#"{"id":1,"method":"m"}"#).await;
        substream.reset(Code::Cancelled, "changed my mind");
        closed(&mut socket).await;
    }
}
