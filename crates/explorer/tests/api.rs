//! Calls of `@explorer/api` over a session.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use reachback_explorer::{Framing, HeroCompat, NodeState, NodesView};
use reachback_link::{StreamEnd, Substream};
use reachback_wire::{Code, Open, Record, RecordKind};
use serde_json::{Value, json};
use support::{Hub, Peer, generation, post, read, seen_open, target};

async fn open(client: &Peer) -> Substream {
    client.session.open(Open::call(target("@explorer/api"), Duration::from_secs(5))).await.unwrap()
}

/// One call, as PROTOCOL.md says: `Head`, `Data`, `End` in both directions.
async fn call(client: &Peer, body: &[u8]) -> (Value, Vec<u8>) {
    let mut substream = open(client).await;
    substream.send(RecordKind::Head, b"{}").await.unwrap();
    for piece in body.chunks(7) {
        substream.send(RecordKind::Data, piece).await.unwrap();
    }
    substream.finish(None).await.unwrap();
    let Record::Head(head) = substream.next().await.unwrap() else { panic!("no head") };
    let mut answer = Vec::new();
    loop {
        match substream.next().await.unwrap() {
            Record::Data(bytes) => answer.extend_from_slice(&bytes),
            Record::End(None) => break,
            other => panic!("{other:?}"),
        }
    }
    (serde_json::from_slice(&head).unwrap(), answer)
}

#[tokio::test(start_paused = true)]
async fn the_nodes_are_listed_with_all_that_people_ask_about() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let mut gone = hub.online("edge-9", generation(2, 0, 1)).await;
    gone.hand.cut();
    hub.until_state("edge-9", NodeState::Offline).await;
    let client = hub.client().await;
    let _stream = client.stream("edge-7/echo").await.unwrap();

    let (head, answer) = call(&client, br#"{"jsonrpc":"2.0","method":"explorer.nodes","id":"a"}"#).await;
    assert_eq!(head["status"], 200);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["id"], "a");
    let view: NodesView = serde_json::from_value(answer["result"].clone()).unwrap();
    assert_eq!(view.explorer.as_ref(), "hub-1");
    let [edge7, edge9] = &view.nodes[..] else { panic!("{view:#?}") };
    assert_eq!((edge7.node.as_ref(), edge7.state, edge7.streams), ("edge-7", NodeState::Online, 1));
    assert_eq!(edge7.session, Some(node.welcome.session));
    assert_eq!((edge9.node.as_ref(), edge9.state), ("edge-9", NodeState::Offline));
    assert_eq!(edge9.last_end.as_ref().unwrap().message, edge9.reason);

    let raw = &answer["result"]["nodes"][0];
    assert_eq!(raw["state"], "online");
    assert_eq!(raw["services"][0], json!({ "name": "echo", "health": "ok" }));
    assert_eq!(hub.count("api_calls"), 1);
}

#[tokio::test(start_paused = true)]
async fn wrong_calls_are_answered_and_nothing_else_suffers() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    for (body, code) in [
        (&br#"{"jsonrpc":"2.0","method":"explorer.dance","id":1}"#[..], -32_601),
        (b"what?", -32_700),
        (b"\xff\xfe", -32_700),
        (b"", -32_700),
        (b"{}", -32_600),
    ] {
        let (_, answer) = call(&client, body).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    let (_, answer) = call(&client, br#"{"jsonrpc":"2.0","method":"explorer.nodes"}"#).await;
    assert_eq!(answer, b"", "a notification has no answer");
    assert_eq!(hub.count("api_calls"), 6);
}

#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_cut_off_at_its_limit() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    let mut substream = open(&client).await;
    let piece = vec![b' '; 65_532];
    let mut sent = 0;
    while substream.send(RecordKind::Data, &piece).await.is_ok() {
        sent += piece.len();
        assert!(sent < 64 << 20, "nobody stops it");
    }
    assert!(sent >= 16 << 20, "{sent}");
    match substream.next().await {
        Err(StreamEnd::Reset { code: Code::TooLarge, text }) => assert!(text.contains("16777216"), "{text}"),
        other => panic!("{other:?}"),
    }
    call(&client, br#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1}"#).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_cut_off_at_its_deadline() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    let mut substream = open(&client).await;
    substream.send(RecordKind::Data, b"{").await.unwrap();
    let begun = tokio::time::Instant::now();
    match substream.next().await {
        Err(StreamEnd::Reset { code: Code::Timeout, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!((4..=6).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_may_look_around_and_change_nothing() {
    let hub = Hub::start_with(|config| {
        config.hero = Some(HeroCompat {
            heartbeat_methods: vec!["compute.heartbeat".to_owned()],
            node_fields: vec!["node_id".to_owned()],
            forward: true,
            framing: Framing::Raw,
            ..HeroCompat::default()
        });
    })
    .await;
    let _other = hub.callable("edge-8", generation(2, 0, 1)).await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let ask = async |method: &str, params: &Value| {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let (_, single) = call(&node, body.to_string().as_bytes()).await;
        let (_, batch) = call(&node, json!([body]).to_string().as_bytes()).await;
        let (single, batch): (Value, Value) =
            (serde_json::from_slice(&single).unwrap(), serde_json::from_slice(&batch).unwrap());
        assert_eq!(single["error"], batch[0]["error"]);
        single
    };
    for (method, params) in [
        ("explorer.kick", json!({ "id": "edge-8" })),
        ("explorer.forget", json!({ "id": "edge-8" })),
        ("explorer.call", json!({ "target": "edge-8/rpc", "method": "echo" })),
        ("explorer.heartbeat", json!({ "node_id": "edge-9", "address": "unix:///tmp/x" })),
        ("compute.heartbeat", json!({ "node_id": "edge-9", "address": "unix:///tmp/x" })),
        ("vm.list", json!({ "node_id": "edge-8" })),
    ] {
        let answer = ask(method, &params).await;
        let error = &answer["error"];
        assert_eq!(error["data"]["code"], "denied", "{method}: {answer}");
        assert!(error["message"].as_str().unwrap().contains("explorer.nodes"), "{method}: {answer}");
    }
    assert!(hub.view("edge-9").is_none());
    assert_eq!(hub.view("edge-8").unwrap().state, NodeState::Online);
    for (method, params) in [
        ("explorer.nodes", json!({})),
        ("explorer.node", json!({ "id": "edge-8" })),
        ("explorer.status", json!({})),
        ("explorer.events", json!({})),
        ("rpc.discover", json!({})),
    ] {
        let answer = ask(method, &params).await;
        assert!(answer.get("result").is_some(), "{method}: {answer}");
    }
    let mut following = open(&node).await;
    let watch = br#"{"jsonrpc":"2.0","id":1,"method":"explorer.watch"}"#;
    following.send(RecordKind::Data, watch).await.unwrap();
    following.finish(None).await.unwrap();
    assert!(matches!(following.next().await.unwrap(), Record::Head(_)));
    assert!(matches!(following.next().await.unwrap(), Record::Item(_)));
}

#[tokio::test(start_paused = true)]
async fn the_counters_are_what_really_passed() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let status = async || {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"explorer.status"}"#;
        hub.http(&post("/rpc", "", body)).await.json()["result"].clone()
    };
    let before = status().await;
    let mut substream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut substream).await;
    let piece = vec![7; 50_000];
    for _ in 0..10 {
        substream.send(RecordKind::Data, &piece).await.unwrap();
        assert_eq!(read(&mut substream, piece.len()).await, piece);
    }
    let during = status().await;
    let grown = |place: &str, name: &str| {
        let value =
            |of: &Value| of[place][name].as_u64().unwrap_or_else(|| panic!("no {place}.{name}: {of}"));
        value(&during) - value(&before)
    };
    // From the client to the explorer and on to the node, and all of it back.
    for way in ["bytes_in", "bytes_out"] {
        let bytes = grown("sessions", way);
        assert!((1_000_000..1_050_000).contains(&bytes), "{way}: {bytes}");
    }
    assert_eq!((grown("sessions", "substreams_accepted"), grown("sessions", "substreams_opened")), (1, 1));
    assert_eq!((grown("counters", "opens_relayed"), grown("counters", "http_requests")), (1, 1));
    assert_eq!(
        (&during["counters"]["node_sessions"], &during["counters"]["client_sessions"]),
        (&json!(1), &json!(1))
    );
    assert_eq!((&during["nodes"]["online"], &during["streams"]), (&json!(1), &json!(1)));
}
