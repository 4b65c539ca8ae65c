//! Behind a balancer: who it says it connects for is who is counted, allowed and refused; and nobody else may say so.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reachback_explorer::{Explorer, ListenerConfig};
use reachback_link::RealNet;
use support::{Http, config, count};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// An explorer whose one listener has these rules, on real sockets.
async fn explorer(allow: &[&str], proxy_from: &[&str]) -> (Explorer, SocketAddr) {
    let blocks = |blocks: &[&str]| blocks.iter().map(|block| block.parse().unwrap()).collect();
    let mut config = config();
    let address = config.listen.remove(0);
    config.listeners.push(ListenerConfig {
        address,
        mode: None,
        allow: blocks(allow),
        proxy_from: blocks(proxy_from),
    });
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let address = explorer.addresses().listen[0].socket_addr().unwrap();
    (explorer, address)
}

fn header(source: &str) -> String {
    format!("PROXY TCP4 {source} 198.51.100.1 40000 9002\r\n")
}

/// The status of what comes back for these bytes; `None`: nothing.
async fn status(to: SocketAddr, bytes: &str) -> Option<u16> {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    Http::read(&mut socket).await.map(|answer| answer.status)
}

#[tokio::test]
async fn a_balancer_says_who_is_allowed_and_who_is_not() {
    let (explorer, address) = explorer(&["192.0.2.0/24"], &["127.0.0.1"]).await;
    assert_eq!(status(address, &(header("192.0.2.7") + HEALTH)).await, Some(200));
    assert_eq!(status(address, &(header("203.0.113.7") + HEALTH)).await, Some(403));
    assert_eq!(status(address, HEALTH).await, None, "a listed address has to say it");
    assert_eq!(count(&explorer, "proxy_headers_refused"), 1);
    explorer.shutdown().await;
}

#[tokio::test]
async fn nobody_else_may_say_who_he_is() {
    let (explorer, address) = explorer(&[], &["198.51.100.0/24"]).await;
    assert_eq!(status(address, HEALTH).await, Some(200), "who is no balancer comes as himself");
    assert_eq!(status(address, &(header("192.0.2.7") + HEALTH)).await, None);
    assert_eq!(count(&explorer, "greetings_unknown"), 1);
    explorer.shutdown().await;
}

#[tokio::test]
async fn a_network_behind_a_balancer_is_limited_and_the_next_one_is_not() {
    let (explorer, address) = explorer(&[], &["127.0.0.0/8"]).await;
    let mut silent = Vec::new();
    while count(&explorer, "sources_limited") == 0 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(header("192.0.2.7").as_bytes()).await.unwrap();
        silent.push(socket);
        assert!(silent.len() < 2_000, "nobody is turned away");
    }
    assert!(silent.len() >= 100, "{}", silent.len());
    let last = silent.last_mut().unwrap();
    // Whether it says goodbye or resets: it is closed.
    let closed = tokio::time::timeout(Duration::from_secs(30), last.read(&mut [0])).await.unwrap();
    assert!(!matches!(closed, Ok(1..)), "{closed:?}");
    assert_eq!(status(address, &(header("192.0.3.7") + HEALTH)).await, Some(200));
    explorer.shutdown().await;
}
