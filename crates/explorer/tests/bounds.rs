//! How many may be here at a time, and what the next one is told; a place that is left is a place again.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use serde_json::{Value, json};
use support::{Http, Hub, generation, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// As `limits.rs` says.
const PLAIN_CONNECTIONS: usize = 4096;
const WATCHERS: usize = 1024;

async fn healthy(hub: &Hub) -> (DuplexStream, Http) {
    let mut pipe = hub.net.pipe_of(1024).await;
    pipe.write_all(HEALTH).await.unwrap();
    let answer = Http::read(&mut pipe).await.unwrap();
    (pipe, answer)
}

#[tokio::test]
async fn http_and_raw_connections_have_a_bound_and_their_places_are_given_back() {
    let hub = Hub::start().await;
    let mut kept = Vec::new();
    for _ in 0..PLAIN_CONNECTIONS {
        let (pipe, answer) = healthy(&hub).await;
        assert_eq!(answer.status, 200, "after {}", kept.len());
        kept.push(pipe);
    }
    let (_, refused) = healthy(&hub).await;
    assert_eq!((refused.status, &refused.json()["error"]["data"]["code"]), (503, &json!("saturated")));
    let raw = hub.raw(br#"{"jsonrpc":"2.0","id":1,"method":"explorer.status"}"#).await;
    let raw: Value = serde_json::from_slice(&raw).unwrap();
    assert_eq!(raw["error"]["data"]["code"], "saturated");
    assert!(raw["error"]["data"]["retry_after_ms"].as_u64().is_some(), "{raw}");
    assert_eq!(hub.count("plain_refused"), 2);
    // Sessions are another matter.
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;

    drop(kept.pop());
    while healthy(&hub).await.1.status != 200 {}
}

/// Follows all changes; the first line of the answer.
async fn watch(hub: &Hub) -> (DuplexStream, String) {
    let mut pipe = hub.net.pipe_of(1024).await;
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"explorer.watch"}"#;
    pipe.write_all(&post("/rpc", "", request)).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n") {
        head.push(pipe.read_u8().await.unwrap());
    }
    (pipe, String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn followers_have_a_bound_and_their_places_are_given_back() {
    let hub = Hub::start().await;
    let mut kept = Vec::new();
    for _ in 0..WATCHERS {
        let (pipe, line) = watch(&hub).await;
        assert!(line.contains(" 200 "), "after {}: {line}", kept.len());
        kept.push(pipe);
    }
    let (_, refused) = watch(&hub).await;
    assert!(refused.contains(" 503 "), "{refused}");
    // Whoever only asks is answered.
    assert_eq!(healthy(&hub).await.1.status, 200);
    drop(kept);
    // Whoever has closed its half may still read: that it does not shows at the next change.
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    while !watch(&hub).await.1.contains(" 200 ") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn answers_that_wait_to_be_read_are_held_to_the_bound_of_all_bodies() {
    let hub = Hub::start().await;
    let _node = hub.callable("edge-7", generation(1, 0, 1)).await;
    let body = "x".repeat(16 << 20);
    // Without chunks an answer is sent when it is whole.
    let request = String::from_utf8(post("/n/edge-7/mirror", "", &body)).unwrap();
    let request = request.replacen("HTTP/1.1", "HTTP/1.0", 1);
    let ask = async || {
        let mut pipe = hub.net.pipe().await;
        pipe.write_all(request.as_bytes()).await.unwrap();
        let mut status = vec![0; "HTTP/1.0 200".len()];
        pipe.read_exact(&mut status).await.unwrap();
        (pipe, String::from_utf8(status).unwrap())
    };
    let mut unread = Vec::new();
    for _ in 0..3 {
        let (pipe, status) = ask().await;
        assert!(status.ends_with("200"), "{status}");
        unread.push(pipe);
    }
    // The fourth is read, and then there is no room for its answer.
    let (_, status) = ask().await;
    assert!(status.ends_with("503"), "{status}");
    drop(unread);
    while !ask().await.1.ends_with("200") {}
}
