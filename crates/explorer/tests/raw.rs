//! Raw JSON-RPC on a connection, as old socket bridges send it.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Hub, generation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NODES: &[u8] = br#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1}"#;

#[tokio::test(start_paused = true)]
async fn a_text_without_newline_or_length_is_answered_at_once() {
    let hub = Hub::start().await;
    let mut pipe = hub.net.pipe().await;
    let begun = tokio::time::Instant::now();
    for piece in NODES.chunks(5) {
        pipe.write_all(piece).await.unwrap();
    }
    // As an old client reads: once, at most 4096 bytes, with nothing closed.
    let mut answer = [0; 4096];
    let n = pipe.read(&mut answer).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer[..n]).unwrap();
    assert_eq!(answer, json!({ "jsonrpc": "2.0", "id": 1, "result": { "explorer": "hub-1", "nodes": [] } }));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn several_texts_are_answered_in_their_order_however_they_are_framed() {
    let hub = Hub::start().await;
    let request = |id: u32| format!(r#"{{"jsonrpc":"2.0","method":"explorer.nodes","id":{id}}}"#);
    for between in ["", "\n", "\r\n", " \n "] {
        let all: String = (0..5).map(|id| request(id) + between).collect();
        let answer = String::from_utf8(hub.raw(all.as_bytes()).await).unwrap();
        let ids: Vec<Value> =
            answer.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4].map(Value::from), "{between:?}");
    }
    assert_eq!(hub.raw(br#"{"jsonrpc":"2.0","method":"explorer.nodes"}"#).await, b"", "a notification");
    assert_eq!(hub.count("greetings_json_rpc"), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_gets_a_sentence() {
    let hub = Hub::start().await;
    for (bytes, code) in [
        (&b"{\"jsonrpc\":"[..], -32022),
        (b"{]", -32700),
        (b"{} what?", -32600),
        (b"[]", -32600),
        (br#"{"jsonrpc":"2.0","method":"explorer.dance","id":1}"#, -32601),
    ] {
        let answer = String::from_utf8(hub.raw(bytes).await).unwrap();
        let first: Value = serde_json::from_str(answer.lines().next().unwrap()).unwrap();
        assert_eq!(first["error"]["code"], code, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_begins_and_never_ends_is_cut_off() {
    let hub = Hub::start().await;
    let mut pipe = hub.net.pipe().await;
    pipe.write_all(b"{\"a\":[").await.unwrap();
    let mut answer = Vec::new();
    pipe.read_to_end(&mut answer).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["error"]["data"]["code"], "timeout", "{answer}");
}

#[tokio::test(start_paused = true)]
async fn followers_get_lines_and_are_forgotten_when_they_leave() {
    let hub = Hub::start().await;
    let mut pipe = hub.net.pipe().await;
    pipe.write_all(br#"{"jsonrpc":"2.0","method":"explorer.watch","id":1}"#).await.unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(pipe));
    let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first["nodes"], json!([]));
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    loop {
        let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        if line["state"] == "online" {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_read_its_answer_loses_its_place() {
    let hub = Hub::start().await;
    let many: Vec<_> =
        (0..100).map(|id| json!({ "jsonrpc": "2.0", "id": id, "method": "rpc.discover" })).collect();
    let mut silent = hub.net.pipe().await;
    silent.write_all(&serde_json::to_vec(&many).unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(70)).await;
    silent.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // However it ends, it is not whole.
    drop(silent.read_to_end(&mut answer).await);
    assert!(answer.len() >= 200 * 1024, "it was under way: {}", answer.len());
    assert!(serde_json::from_slice::<Value>(&answer).is_err(), "the connection was still held for it");
}
