//! The API and calls over HTTP, and what is refused before it is understood.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{sync::Arc, time::Duration};

use reachback_explorer::{Explorer, NodeState};
use reachback_link::RealNet;
use serde_json::{Value, json};
use support::{Http, Hub, generation, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

const NODES: &str = r#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1}"#;

fn call(method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 5 }).to_string()
}

async fn with_node() -> (Hub, support::Peer) {
    let hub = Hub::start().await;
    let node = hub.callable("edge-7", generation(1, 0, 1)).await;
    (hub, node)
}

#[tokio::test(start_paused = true)]
async fn the_api_answers_posts() {
    let (hub, _node) = with_node().await;
    let answer = hub.http(&post("/rpc", "", NODES)).await;
    assert_eq!((answer.status, &answer.json()["result"]["nodes"][0]["node"]), (200, &json!("edge-7")));
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);

    let status = hub.http(&post("/rpc", "", &call("explorer.status", json!({})))).await.json();
    assert_eq!(status["result"]["nodes"]["online"], 1, "{status}");
    assert_eq!(status["result"]["ready"], true);
    assert_eq!(status["result"]["listeners"][0]["kind"], "tunnel");
    assert!(status["result"]["counters"]["http_requests"].as_u64().unwrap() >= 2);

    let node = hub.http(&post("/rpc", "", &call("explorer.node", json!(["edge-7"])))).await.json();
    assert_eq!(node["result"]["state"], "online", "{node}");
    let wrong = hub.http(&post("/rpc", "", &call("explorer.node", json!({ "id": "edge-8" })))).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["data"]["code"]), (404, &json!("node_not_found")));
    assert!(wrong.json()["error"]["message"].as_str().unwrap().contains("edge-7"));

    let batch = format!("[{NODES},{}, 1]", r#"{"jsonrpc":"2.0","method":"explorer.events"}"#);
    let batch = hub.http(&post("/rpc", "", &batch)).await.json();
    assert_eq!(batch.as_array().unwrap().len(), 2, "a notification has no answer: {batch}");
    assert_eq!((&batch[0]["id"], &batch[1]["error"]["code"]), (&json!(1), &json!(-32600)));

    let nothing = hub.http(&post("/rpc", "", r#"{"jsonrpc":"2.0","method":"explorer.nodes"}"#)).await;
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    assert_eq!(hub.http(&post("/rpc", "", &call("x", json!({})))).await.status, 404);
    assert_eq!(hub.http(&post("/rpc", "", "{")).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_service_is_called_and_its_words_pass_unchanged() {
    let (hub, _node) = with_node().await;
    let body = r#"{"jsonrpc":"2.0","method":"echo","id":"x","params":{"n":1.10}}"#;
    for path in ["/n/edge-7/rpc", "/n/edge-7/rpc/rpc"] {
        let headers = "X-Hero-Context: 7\r\nX-Reachback-Timeout: 2s\r\nConnection: close, x-private\r\nX-Private: 1\r\n";
        let answer = hub.http(&post(path, headers, body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.head.contains("x-hero-context"), "{}", answer.head);
        let seen = answer.head.lines().find(|line| line.starts_with("x-seen")).unwrap();
        for stripped in ["x-reachback", "connection", "host", "content-length", "private"] {
            assert!(!seen.contains(stripped), "{seen}");
        }
        let text = r#"{"jsonrpc":"2.0" ,  "id":"x", "result":{"n":1.1}}"#;
        assert_eq!(String::from_utf8(answer.body).unwrap(), text);
    }
    let failed = hub.http(&post("/n/edge-7/rpc", "", &call("fail", json!({})))).await;
    let error = json!({ "code": 7, "message": "no", "data": [1] });
    assert_eq!((failed.status, &failed.json()["error"]), (200, &error));

    let params = json!({ "target": "edge-7/rpc", "method": "echo", "params": [1, null] });
    let answer = hub.http(&post("/rpc", "", &call("explorer.call", params))).await;
    assert_eq!(answer.json(), json!({ "jsonrpc": "2.0", "id": 5, "result": [1, null] }));
    let params = json!({ "target": "edge-7/rpc", "method": "fail" });
    let failed = hub.http(&post("/rpc", "", &call("explorer.call", params))).await;
    assert_eq!((failed.status, &failed.json()["error"]), (200, &error));
}

#[tokio::test(start_paused = true)]
async fn the_ways_a_call_can_fail_are_told_apart() {
    let (hub, mut node) = with_node().await;
    let mut gone = hub.online("edge-9", generation(2, 0, 1)).await;
    gone.hand.cut();
    hub.until_state("edge-9", NodeState::Offline).await;
    let body = call("never", json!({}));
    for (path, status, code) in [
        ("/n/edge-1/rpc", 404, "node_not_found"),
        ("/n/edge-9/rpc", 503, "node_offline"),
        ("/n/edge-7/nix", 404, "service_not_found"),
        ("/n/edge-7/down", 502, "service_unreachable"),
        ("/n/edge-7/rpc", 504, "timeout"),
        ("/n/a--b/rpc", 404, "service_not_found"),
    ] {
        let answer = hub.http(&post(path, "X-Reachback-Timeout: 500ms\r\n", &body)).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["data"]["code"]), (status, &json!(code)), "{path}: {error}");
        if code != "service_not_found" || path.contains("nix") {
            assert_eq!(answer.json()["id"], 5, "{path}");
        }
    }
    let wrong = hub.http(&post("/n/edge-7/rpc", "X-Reachback-Timeout: soon\r\n", &body)).await;
    assert_eq!(wrong.status, 400);
    // The connection of the node breaks with a call under way: the outcome is unknown.
    let mut pipe = hub.net.pipe().await;
    pipe.write_all(&post("/n/edge-7/rpc", "", &body)).await.unwrap();
    hub.until("edge-7", |view| view.streams == 1).await;
    node.hand.cut();
    let answer = Http::read(&mut pipe).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["data"]["code"]), (502, &json!("lost")));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let (hub, _node) = with_node().await;
    let mut pipe = hub.net.pipe().await;
    pipe.write_all(&post("/n/edge-7/rpc", "", &call("die", json!({})))).await.unwrap();
    assert!(Http::read(&mut pipe).await.is_none_or(|answer| answer.status == 502));
    let request = String::from_utf8(post("/n/edge-7/rpc", "", &call("die", json!({})))).unwrap();
    let old = hub.http(request.replace("HTTP/1.1", "HTTP/1.0").as_bytes()).await;
    assert_eq!((old.status, &old.json()["error"]["data"]["code"]), (502, &json!("reset")));
}

#[tokio::test]
async fn bodies_of_every_size_pass_and_one_more_byte_does_not() {
    let (hub, _node) = with_node().await;
    for size in [1, 2, 65_532, 65_533, 1 << 20, 16 << 20] {
        let body: String = (0..size).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        let answer = hub.http(&post("/n/edge-7/mirror", "", &body)).await;
        assert_eq!(answer.status, 200, "{size}");
        assert!(answer.body == body.as_bytes(), "{size}");
    }
    let body = "x".repeat((16 << 20) + 1);
    let mut pipe = hub.net.pipe().await;
    let request = post("/n/edge-7/mirror", "", &body);
    let (mut from, mut to) = tokio::io::split(&mut pipe);
    // Refused by its length: whether all of it can be written is not what counts.
    let (answer, _) = tokio::join!(Http::read(&mut from), to.write_all(&request));
    let answer = answer.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["data"]["code"]), (413, &json!("too_large")));
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_holds_up_nobody() {
    let (hub, _node) = with_node().await;
    let mut slow = hub.net.pipe().await;
    slow.write_all(&post("/n/edge-7/rpc", "", &call("late", json!({ "ms": 10_000 })))).await.unwrap();
    // Its sender has no more to say, and waits.
    slow.shutdown().await.unwrap();
    let begun = tokio::time::Instant::now();
    for n in 0..20 {
        let answer = hub.http(&post("/n/edge-7/rpc", "", &call("echo", json!(n)))).await;
        assert_eq!(answer.json()["result"], n);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let late = Http::read(&mut slow).await.unwrap();
    assert_eq!(late.json()["result"]["ms"], 10_000);
    assert!(begun.elapsed() >= Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_and_requests_may_follow_at_once() {
    let (hub, _node) = with_node().await;
    let mut pipe = hub.net.pipe().await;
    for n in 0..3 {
        pipe.write_all(&post("/n/edge-7/rpc", "", &call("echo", json!(n)))).await.unwrap();
        assert_eq!(Http::read(&mut pipe).await.unwrap().json()["result"], n);
    }
    let both =
        [post("/n/edge-7/rpc", "", &call("late", json!({ "ms": 50 }))), post("/rpc", "", NODES)].concat();
    pipe.write_all(&both).await.unwrap();
    assert_eq!(Http::read(&mut pipe).await.unwrap().json()["result"]["ms"], 50);
    assert_eq!(Http::read(&mut pipe).await.unwrap().json()["id"], 1);
    let chunked = "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=utf-8\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    let (a, b) = NODES.split_at(7);
    let chunks = format!("{chunked}{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n", a.len(), b.len());
    pipe.write_all(chunks.as_bytes()).await.unwrap();
    assert_eq!(Http::read(&mut pipe).await.unwrap().json()["id"], 1);
}

#[tokio::test(start_paused = true)]
async fn streamed_answers_are_lines_or_events_as_the_caller_asks() {
    let (hub, _node) = with_node().await;
    let answer =
        hub.http(&post("/n/edge-7/rpc", "Accept: application/x-ndjson\r\n", &call("count", json!({})))).await;
    assert!(answer.head.contains("content-type: application/x-ndjson"), "{}", answer.head);
    assert_eq!(answer.body, b"{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
    let answer =
        hub.http(&post("/n/edge-7/rpc", "Accept: text/event-stream\r\n", &call("count", json!({})))).await;
    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    assert_eq!(answer.body, b"data: {\"n\":0}\n\ndata: {\"n\":1}\n\ndata: {\"n\":2}\n\n");
}

#[tokio::test(start_paused = true)]
async fn only_our_own_hosts_and_only_json() {
    let hub = Hub::start_with(|config| config.hosts.push("Hub.example.com".to_owned())).await;
    let host = |host: &str| String::from_utf8(post("/rpc", "", NODES)).unwrap().replace("localhost", host);
    for good in ["127.0.0.1", "127.0.0.1:9002", "[::1]:1", "LOCALHOST", "localhost.", "hub.example.com:80"] {
        assert_eq!(hub.http(host(good).as_bytes()).await.status, 200, "{good}");
    }
    for wrong in ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "127.0.0.1@evil", "[::1", ""]
    {
        let answer = hub.http(host(wrong).as_bytes()).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["data"]["code"]),
            (421, &json!("denied")),
            "{wrong}"
        );
        let service = host(wrong).replace("/rpc HTTP", "/n/edge-7/rpc HTTP");
        assert_eq!(hub.http(service.as_bytes()).await.status, 421, "{wrong}");
    }
    let twice = host("localhost\r\nHost: localhost");
    assert_eq!(hub.http(twice.as_bytes()).await.status, 400);
    let line = host("localhost").replace("POST /rpc", "POST http://evil.example/rpc");
    assert_eq!(hub.http(line.as_bytes()).await.status, 421);

    let kind = |kind: &str| host("localhost").replace("Content-Type: application/json\r\n", kind);
    for wrong in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/jsonp\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json; charset=utf-7\r\n",
    ] {
        assert_eq!(hub.http(kind(wrong).as_bytes()).await.status, 415, "{wrong}");
    }
    assert_eq!(
        hub.http(kind("content-type: APPLICATION/json;charset=UTF-8\r\n").as_bytes()).await.status,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn other_paths_and_methods() {
    let hub = Hub::start().await;
    for (line, status) in [
        ("GET /healthz", 200),
        ("HEAD /healthz", 200),
        ("GET /readyz", 200),
        ("GET /rpc", 405),
        ("DELETE /n/edge-7/rpc", 405),
        ("POST /healthz", 404),
        ("GET /", 404),
        ("OPTIONS /rpc", 405),
    ] {
        let mut pipe = hub.net.pipe().await;
        let request = format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        pipe.write_all(request.as_bytes()).await.unwrap();
        pipe.shutdown().await.unwrap();
        let mut answer = String::new();
        pipe.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
    }
    let document = hub.http(b"GET /openrpc.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.json();
    let discovered = hub.http(&post("/rpc", "", &call("rpc.discover", json!({})))).await.json();
    assert_eq!(document, discovered["result"]);
    let methods = document["methods"].as_array().unwrap();
    assert!(methods.len() >= 10);
    for method in methods {
        let name = method["name"].as_str().unwrap();
        let answer = hub.http(&post("/rpc", "", &call(name, json!({ "no such parameter": 1 })))).await.json();
        assert_ne!(answer["error"]["code"], -32601, "{name} is described and does not exist");
    }
    assert_eq!(hub.count("greetings_http"), 10 + methods.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn requests_that_two_programs_could_read_in_two_ways_are_refused() {
    let hub = Hub::start().await;
    let head = |lines: &str| {
        format!(
            "POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lines}\r\n{NODES}"
        )
    };
    let length = NODES.len();
    for (lines, status) in [
        (format!("Content-Length: {length}\r\nContent-Length: 3\r\n"), 400),
        (format!("Content-Length: +{length}\r\n"), 400),
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), 400),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), 400),
        (format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"), 400),
        (format!("Content-Length: {length}\r\nX: y\n"), 400),
        (format!("Content-Length: {length}\r\nX: y\r\n z\r\n"), 400),
        (format!("Content-Length: {length}\r\nTransfer-Encoding: gzip\r\n"), 400),
        (format!("Content-Length : {length}\r\n"), 400),
        ("Transfer-Encoding: chunked\r\n\r\n7\n".to_owned(), 400),
        (format!("X-Long: {}\r\n", "x".repeat(200_000)), 431),
        ("X: y\r\n".repeat(200), 431),
    ] {
        let request = head(&lines);
        // However it is cut on its way, the parser answers.
        for size in [request.len(), 97, 1] {
            let (mut from, mut to) = tokio::io::split(hub.net.pipe().await);
            let sending = async {
                for piece in request.as_bytes().chunks(size) {
                    // It may be refused before it is whole.
                    if to.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let begun = tokio::time::Instant::now();
            let (answer, ()) = tokio::join!(Http::read(&mut from), sending);
            let answer = answer.unwrap_or_else(|| panic!("no answer: {lines:.80}"));
            assert_eq!(answer.status, status, "{lines:.80} in pieces of {size}: {answer:?}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{lines:.80} in pieces of {size}");
            assert_eq!(hub.count("api_calls"), 0, "{lines:.80}");
        }
    }
    for half in ["GET /healthz HTTP/1.1\r\nHost: local", "GET /healthz HTTP/1.1\r\nHost: a\r\n", "GET /heal"]
    {
        let answer = hub.raw(half.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{half:?}: {:?}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn whoever_is_refused_hears_why_while_it_still_talks() {
    let explorer = Explorer::start(support::config(), Arc::new(RealNet)).await.unwrap();
    let port = explorer.addresses().listen[0].socket_addr().unwrap();
    for lines in
        ["Content-Length: 7\r\nContent-Length: 9\r\n".to_owned(), format!("X: {}\r\n", "x".repeat(40_000))]
    {
        let mut stream = TcpStream::connect(port).await.unwrap();
        let request = format!("POST /rpc HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        // More than the parser reads of it: what lies unread in the kernel when a connection is closed resets it.
        let all = [request.as_bytes(), &[b'x'; 20_000]].concat();
        stream.write_all(&all).await.unwrap();
        stream.write_all(b"and more").await.unwrap();
        let answer = Http::read(&mut stream).await.unwrap_or_else(|| panic!("no answer: {lines:.40}"));
        assert!([400, 431].contains(&answer.status), "{answer:?}");
        // And the end of it is an end, not a reset.
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "{lines:.40}");
        assert!(stream.take_error().unwrap().is_none(), "{lines:.40}");
    }
    explorer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_followed_as_they_happen() {
    let (hub, _node) = with_node().await;
    let mut pipe = hub.net.pipe().await;
    pipe.write_all(&post("/rpc", "", &call("explorer.watch", json!({ "node": "edge-8" })))).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(pipe.read_u8().await.unwrap());
    }
    async fn item(pipe: &mut tokio::io::DuplexStream) -> Value {
        let mut text = Vec::new();
        loop {
            text.push(pipe.read_u8().await.unwrap());
            if text.ends_with(b"\n\r\n") {
                let json = text.splitn(2, |byte| *byte == b'\n').nth(1).unwrap();
                return serde_json::from_slice(json).unwrap();
            }
        }
    }
    assert_eq!(item(&mut pipe).await, json!({ "explorer": "hub-1", "nodes": [] }));
    let mut other = hub.online("edge-8", generation(2, 0, 1)).await;
    while item(&mut pipe).await["state"] != "online" {}
    other.hand.cut();
    while item(&mut pipe).await["state"] != "offline" {}
    hub.http(&post("/rpc", "", &call("explorer.forget", json!({ "id": "edge-8" })))).await;
    while item(&mut pipe).await != json!({ "node": "edge-8", "state": "forgotten" }) {}
    let events = hub.http(&post("/rpc", "", &call("explorer.events", json!({ "limit": 2 })))).await.json();
    let states: Vec<_> = events["result"]["events"].as_array().unwrap().iter().map(|e| &e["state"]).collect();
    assert_eq!(states, ["online", "offline"], "{events}");
}

#[tokio::test(start_paused = true)]
async fn nodes_are_kicked_for_a_time_and_forgotten_when_they_are_gone() {
    let (hub, mut node) = with_node().await;
    let forget = post("/rpc", "", &call("explorer.forget", json!({ "id": "edge-7" })));
    assert_eq!(hub.http(&forget).await.status, 403, "it is online");
    let kick = call("explorer.kick", json!({ "id": "edge-7", "for_ms": 60_000 }));
    let answer = hub.http(&post("/rpc", "", &kick)).await.json();
    assert_eq!(answer["result"], json!({ "id": "edge-7", "sessions": 1, "for_ms": 60_000 }));
    assert!(node.session.ended().await.message.contains("kicked"), "it is told why");
    node.hand.cut();
    hub.until_state("edge-7", NodeState::Offline).await;
    let refused = hub.dial(reachback_wire::Role::Node, "edge-7", generation(1, 0, 2)).await;
    match refused.err().unwrap() {
        reachback_link::DialError::Denied(refusal) => {
            assert!((50_000..=60_000).contains(&refusal.retry_after_ms.unwrap()), "{refusal:?}");
        }
        other => panic!("{other}"),
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    let back = hub.online("edge-7", generation(1, 0, 3)).await;
    drop(back);
    hub.until_state("edge-7", NodeState::Offline).await;
    assert_eq!(hub.http(&forget).await.json()["result"]["forgotten"], true);
    assert_eq!(hub.http(&forget).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_read_its_answer_loses_its_place() {
    let hub = Hub::start().await;
    let many: Vec<_> =
        (0..100).map(|id| json!({ "jsonrpc": "2.0", "id": id, "method": "rpc.discover" })).collect();
    let request = post("/rpc", "", &serde_json::to_string(&many).unwrap());
    let mut slow = hub.net.pipe().await;
    slow.write_all(&request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    let whole = Http::read(&mut slow).await.expect("slow is not silent");
    assert!(whole.body.len() > 256 * 1024, "more than lies in the pipe: {}", whole.body.len());

    let mut silent = hub.net.pipe().await;
    silent.write_all(&request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(Http::read(&mut silent).await.is_none(), "the connection is still held for it");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_cut_off_and_a_slow_body_is_not() {
    let hub = Hub::start().await;
    let mut dripping = hub.net.pipe().await;
    let begun = Instant::now();
    let drip = async {
        let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Padding: {}", "a".repeat(1000));
        for byte in head.into_bytes() {
            if dripping.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut answer = [0; 12];
            if let Ok(read) = tokio::time::timeout(Duration::ZERO, dripping.read(&mut answer)).await {
                assert_eq!(&answer[..read.unwrap()], b"HTTP/1.1 400");
                return;
            }
        }
        panic!("it was never cut off");
    };
    drip.await;
    // The time to tell that it is HTTP, and the time of a head.
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());

    let mut slow = hub.net.pipe().await;
    let request = post("/rpc", "", r#"{"jsonrpc":"2.0","id":1,"method":"explorer.status"}"#);
    let body = request.len() - 20;
    slow.write_all(&request[..body]).await.unwrap();
    for byte in &request[body..] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        slow.write_all(&[*byte]).await.unwrap();
    }
    assert_eq!(Http::read(&mut slow).await.unwrap().status, 200);
}
