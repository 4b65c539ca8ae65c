//! Published ports over real sockets: what a visitor with ordinary tools finds out.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use reachback_explorer::{Explorer, ExplorerConfig, Publication, StartError};
use reachback_link::{Address, MemoryBudget, Net, RealNet};
use reachback_wire::Role;
use support::{Line, Peer, config, count, generation, hello};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

fn publishing(targets: &[&str]) -> ExplorerConfig {
    let mut config = config();
    for target in targets {
        config
            .publish
            .push(Publication { listen: "127.0.0.1:0".parse().unwrap(), target: target.parse().unwrap() });
    }
    config
}

async fn start(targets: &[&str]) -> (Explorer, Vec<SocketAddr>) {
    let explorer = Explorer::start(publishing(targets), Arc::new(RealNet)).await.unwrap();
    let ports =
        explorer.addresses().published.iter().map(|(local, _)| local.socket_addr().unwrap()).collect();
    (explorer, ports)
}

/// A node over a real connection, with a hand in the middle.
async fn node(explorer: &Explorer, seq: u64, services: &[&str]) -> (Peer, JoinSet<()>) {
    let address = explorer.addresses().listen[0].socket_addr().unwrap();
    let mut far = TcpStream::connect(address).await.unwrap();
    let (near, mut pipe) = tokio::io::duplex(64 * 1024);
    let mut bridge = JoinSet::new();
    bridge.spawn(async move {
        drop(tokio::io::copy_bidirectional(&mut pipe, &mut far).await);
    });
    let peer = Peer::dial(Line::to(near), &hello(Role::Node, "edge-7", generation(1, 0, seq))).await.unwrap();
    peer.declare(services).await;
    (peer, bridge)
}

/// Connects until it is as expected; publications follow the registry, a moment later.
async fn until_connected(port: SocketAddr) -> TcpStream {
    for _ in 0..1_000 {
        match TcpStream::connect(port).await {
            Ok(visitor) => return visitor,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{port} stays closed");
}

async fn until_refused(port: SocketAddr) {
    for _ in 0..1_000 {
        match TcpStream::connect(port).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{port} stays open");
}

/// Reads to the end; what came, and how it ended.
async fn read_all(visitor: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = visitor.read_to_end(&mut bytes).await.map(drop);
    (bytes, end)
}

#[tokio::test]
async fn a_port_is_open_exactly_while_its_target_can_be_reached() {
    let (explorer, ports) = start(&["edge-7/echo", "edge-7/other"]).await;
    until_refused(ports[0]).await;
    let (node_1, _bridge) = node(&explorer, 1, &["echo"]).await;
    let mut visitor = until_connected(ports[0]).await;
    until_refused(ports[1]).await;

    visitor.write_all(b"hello").await.unwrap();
    visitor.shutdown().await.unwrap();
    let (answer, end) = read_all(&mut visitor).await;
    end.unwrap();
    assert!(answer.ends_with(b"hello"), "{}", String::from_utf8_lossy(&answer));
    assert!(String::from_utf8_lossy(&answer).contains("visitor"), "the node learns that it is a visitor");

    node_1.declare(&["other"]).await;
    until_refused(ports[0]).await;
    drop(until_connected(ports[1]).await);

    drop(node_1);
    until_refused(ports[1]).await;
    let (_node_2, _bridge) = node(&explorer, 2, &["echo"]).await;
    drop(until_connected(ports[0]).await);
    assert!(count(&explorer, "visitors_served") >= 1);
}

#[tokio::test]
async fn a_visitor_that_cant_be_served_sees_a_reset_and_never_an_end() {
    let (explorer, ports) = start(&["edge-7/down"]).await;
    let (_node, _bridge) = node(&explorer, 1, &["down"]).await;
    let mut visitor = until_connected(ports[0]).await;
    let (_, end) = read_all(&mut visitor).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(count(&explorer, "visitors_refused") >= 1);
    assert_eq!(count(&explorer, "visitors_served"), 0);
}

#[tokio::test]
async fn a_node_that_dies_under_a_visitor_is_a_reset() {
    let (explorer, ports) = start(&["edge-7/echo"]).await;
    let (mut node, _bridge) = node(&explorer, 1, &["echo"]).await;
    let mut visitor = until_connected(ports[0]).await;
    let mut first = [0; 1];
    visitor.read_exact(&mut first).await.unwrap();
    node.hand.cut();
    let (_, end) = read_all(&mut visitor).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn visitors_are_sent_away_while_too_much_is_held_and_served_again_afterwards() {
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    let mut config = publishing(&["edge-7/echo"]);
    config.budget = budget.clone();
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let port = explorer.addresses().published[0].0.socket_addr().unwrap();
    let (_node, _bridge) = node(&explorer, 1, &["echo"]).await;
    let mut before = until_connected(port).await;
    assert_eq!(before.read_exact(&mut [0; 1]).await.unwrap(), 1);

    let mut others = budget.reserve();
    others.grow(budget.limit() / 4 * 3 + 1);
    let mut visitor = until_connected(port).await;
    let (_, end) = read_all(&mut visitor).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(count(&explorer, "opens_refused"), 1);
    before.write_all(b"still here").await.unwrap();
    before.shutdown().await.unwrap();
    assert!(read_all(&mut before).await.0.ends_with(b"still here"));

    drop(others);
    let mut visitor = until_connected(port).await;
    assert_eq!(visitor.read_exact(&mut [0; 1]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_visitor_during_the_stop_is_reset_too() {
    let (explorer, ports) = start(&["edge-7/hang"]).await;
    let (_node, _bridge) = node(&explorer, 1, &["hang"]).await;
    let mut visitor = until_connected(ports[0]).await;
    visitor.write_all(b"x").await.unwrap();
    let (_, (_, end)) = tokio::join!(explorer.shutdown(), read_all(&mut visitor));
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    until_refused(ports[0]).await;
}

#[tokio::test]
async fn a_port_in_use_is_found_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = publishing(&["edge-7/echo"]);
    config.publish[0].listen = taken.local_addr().unwrap().to_string().parse().unwrap();
    match Explorer::start(config, Arc::new(RealNet)).await {
        Err(error @ StartError::Listen { key: "publish", .. }) => {
            assert!(error.to_string().contains("another program listens there"), "{error}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("started"),
    }
}

#[tokio::test]
async fn a_port_taken_meanwhile_is_bound_as_soon_as_it_is_free() {
    let (explorer, ports) = start(&["edge-7/echo"]).await;
    let thief = TcpListener::bind(ports[0]).await.unwrap();
    let (_node, _bridge) = node(&explorer, 1, &["echo"]).await;
    let mut changes = explorer.watch();
    while explorer.nodes()[0].session.is_none() {
        changes.next().await;
    }
    drop(thief);
    let mut visitor = until_connected(ports[0]).await;
    let mut first = [0; 1];
    visitor.read_exact(&mut first).await.unwrap();
    let address: Address = ports[0].to_string().parse().unwrap();
    RealNet.connect(&address).await.unwrap();
}
