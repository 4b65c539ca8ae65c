//! Calls as a caller makes them: headers, notifications, items, waiting for a node, many nodes at once.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use reachback_client::{Answer, Call, CallError, Client, ClientOptions, Random, Selector, fan_out, resolve};
use reachback_link::{Inbound, RealNet, StreamEnd, Substream};
use reachback_wire::{Code, Record, RecordKind, Refusal, Target, limits};
use serde_json::{Value, json};
use support::{Hub, PATIENCE, Peer, within};
use tokio::time::Instant;

async fn connected() -> (Client, Peer) {
    let mut hub = Hub::bind().await;
    let address = hub.address();
    let options = ClientOptions::new("ann".parse().unwrap(), Random::seeded(3)).unwrap();
    let (client, peer) = tokio::join!(Client::connect(Arc::new(RealNet), &address, options), hub.admit());
    (client.unwrap(), peer)
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn sum() -> Call {
    Call::new(target("edge-7/rpc"), "sum", json!([1, 2]), PATIENCE)
}

async fn inbound(peer: &mut Peer) -> Inbound {
    within("an open", peer.incoming.next()).await.unwrap()
}

/// Accepts a call and reads head and body of the request.
async fn request(mut inbound: Inbound) -> (Target, Substream, Value, Value) {
    let open = inbound.open().await.unwrap();
    let (mut substream, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
    let Record::Head(head) = within("the head", substream.next()).await.unwrap() else { panic!() };
    let mut body = Vec::new();
    loop {
        match within("the request", substream.next()).await.unwrap() {
            Record::Data(bytes) => body.extend_from_slice(&bytes),
            Record::End(None) => break,
            other => panic!("{other:?}"),
        }
    }
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    (open.target.unwrap(), substream, parse(&head), parse(&body))
}

async fn answer(mut substream: Substream, head: &str, body: &[u8]) {
    substream.send(RecordKind::Head, head.as_bytes()).await.unwrap();
    if substream.send(RecordKind::Data, body).await.is_ok() {
        drop(substream.finish(None).await);
    }
    // Held until its caller has read it.
    drop(within("the caller's end", std::future::poll_fn(|cx| substream.poll_gone(cx))).await);
}

#[tokio::test]
async fn headers_and_wishes_stand_in_the_head() {
    let (client, mut peer) = connected().await;
    let call = sum().header("X-Hero-Context", "c1").header("X-B", "2").streaming();
    let serving = async {
        let (_, substream, head, body) = request(inbound(&mut peer).await).await;
        assert_eq!(head, json!({"headers": {"X-B": "2", "X-Hero-Context": "c1"}, "stream": true}));
        assert_eq!(body["id"], 1);
        substream
    };
    let (answers, substream) = tokio::join!(client.send(&call), serving);
    let mut answers = answers.unwrap();
    assert!(answers.status().is_none());
    let body = br#"{"jsonrpc":"2.0","id":1,"result":3}"#;
    let reading = async {
        let result = answers.next().await.unwrap().unwrap();
        assert_eq!(result, Answer::Result(json!(3)));
        assert!(answers.next().await.is_none());
        assert_eq!((answers.status(), &answers.headers().unwrap()["x-a"][..]), (Some(201), "b"));
        drop(answers);
    };
    tokio::join!(reading, answer(substream, r#"{"status":201,"headers":{"x-a":"b"}}"#, body));
}

#[tokio::test]
async fn a_notification_has_no_id_and_is_done_when_it_was_delivered() {
    let (client, mut peer) = connected().await;
    let note = sum().notification();
    let serving = async {
        let (_, substream, _, body) = request(inbound(&mut peer).await).await;
        assert_eq!(body, json!({"jsonrpc": "2.0", "method": "sum", "params": [1, 2]}));
        answer(substream, r#"{"status":204}"#, b"").await;
    };
    let (outcome, ()) = tokio::join!(client.result(&note), serving);
    assert_eq!(outcome.unwrap(), Value::Null);

    // Nothing is no answer to a call, and no success of a notification that the service turned away.
    for (call, status, part) in [(sum(), 200, "can't be read"), (sum().notification(), 403, "status 403")] {
        let serving = async {
            let (_, substream, ..) = request(inbound(&mut peer).await).await;
            answer(substream, &format!("{{\"status\":{status}}}"), b"").await;
        };
        let (outcome, ()) = tokio::join!(client.result(&call), serving);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn items_come_while_they_are_made_and_the_result_is_told_from_them() {
    let (client, mut peer) = connected().await;
    let call = sum();
    let (answers, (_, mut substream, ..)) =
        tokio::join!(client.send(&call), async { request(inbound(&mut peer).await).await });
    let mut answers = answers.unwrap();
    substream.send(RecordKind::Head, b"{\"status\":200}").await.unwrap();
    let long = "x".repeat(100_000);
    for item in [json!({"n": 1}), json!({"id": 2, "result": 0}), json!(long)] {
        let text = item.to_string();
        let (front, back) = text.split_at(text.len() / 2);
        substream.send(RecordKind::Data, front.as_bytes()).await.unwrap();
        substream.send(RecordKind::Item, back.as_bytes()).await.unwrap();
        let answer = within("an item", answers.next()).await.unwrap().unwrap();
        assert_eq!(answer, Answer::Item(item), "before the next one exists");
    }
    substream.send(RecordKind::Item, br#"{"id":1,"result":"done"}"#).await.unwrap();
    substream.finish(None).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), Answer::Result(json!("done")));
    assert!(answers.next().await.is_none());
    assert!(answers.next().await.is_none(), "over is over");
}

#[tokio::test]
async fn dropping_the_answers_takes_the_call_back() {
    let (client, mut peer) = connected().await;
    let call = sum();
    let (answers, (_, mut substream, ..)) =
        tokio::join!(client.send(&call), async { request(inbound(&mut peer).await).await });
    drop(answers.unwrap());
    let gone = within("the reset", std::future::poll_fn(|cx| substream.poll_gone(cx))).await;
    assert!(matches!(gone, StreamEnd::Dropped), "{gone}");
}

#[tokio::test]
async fn a_status_without_json_rpc_is_the_services_own_word() {
    let (client, mut peer) = connected().await;
    let call = sum();
    let serving = async {
        let (_, substream, ..) = request(inbound(&mut peer).await).await;
        answer(substream, r#"{"status":404}"#, b"<h1>no\x1b such page</h1>\n").await;
    };
    let (outcome, ()) = tokio::join!(client.result(&call), serving);
    let error = outcome.unwrap_err();
    assert!(
        matches!(&error, CallError::Status { status: 404, text } if text == "<h1>no\\u{1b} such page</h1>"),
        "{error}"
    );
    assert_eq!(error.code(), None);

    // With JSON-RPC in it the status says nothing more.
    let serving = async {
        let (_, substream, ..) = request(inbound(&mut peer).await).await;
        answer(substream, r#"{"status":500}"#, br#"{"error":{"code":-7,"message":"sad"},"id":1}"#).await;
    };
    let (outcome, ()) = tokio::join!(client.result(&call), serving);
    assert!(matches!(outcome, Err(CallError::Service { code: -7, .. })), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_may_have_sixteen_mebibytes_and_not_one_byte_more() {
    let (client, mut peer) = connected().await;
    let call = sum();
    for excess in [0, 1] {
        let mut body = br#"{"jsonrpc":"2.0","id":1,"result":""#.to_vec();
        body.resize(limits::CALL_BODY_MAX + excess - 2, b'r');
        body.extend_from_slice(b"\"}");
        let serving = async {
            let (_, substream, ..) = request(inbound(&mut peer).await).await;
            answer(substream, "{}", &body).await;
        };
        let (outcome, ()) = tokio::join!(client.result(&call), serving);
        match outcome {
            Ok(Value::String(text)) => assert!(excess == 0 && text.len() == limits::CALL_BODY_MAX - 36),
            Err(CallError::TooLarge { what: "answer", .. }) => assert_eq!(excess, 1),
            other => panic!("{excess}: {:?}", other.map(|_| ())),
        }
    }
    let large = Call::new(target("edge-7/rpc"), "m", json!("x".repeat(limits::CALL_BODY_MAX)), PATIENCE);
    assert!(matches!(client.result(&large).await, Err(CallError::TooLarge { what: "request", .. })));
    let headers = sum().header("x-a", "b".repeat(limits::HEAD_MAX));
    assert!(matches!(client.result(&headers).await, Err(CallError::TooLarge { what: "headers", .. })));
}

#[tokio::test]
async fn waiting_tries_again_while_nothing_was_sent_and_never_after() {
    let (client, mut peer) = connected().await;
    let refuse = |code| Refusal::new(code, "not now");
    let waiting = sum().waiting(PATIENCE);
    let serving = async {
        for code in [Code::NodeOffline, Code::NotHere, Code::NodeOffline] {
            inbound(&mut peer).await.refuse(refuse(code)).await;
        }
        let (_, substream, ..) = request(inbound(&mut peer).await).await;
        answer(substream, "{}", br#"{"id":1,"result":3}"#).await;
    };
    let (outcome, ()) = tokio::join!(client.result(&waiting), serving);
    assert_eq!(outcome.unwrap(), json!(3));

    for code in [Code::NodeNotFound, Code::Denied, Code::Timeout] {
        let serving = async { inbound(&mut peer).await.refuse(refuse(code)).await };
        let (outcome, ()) = tokio::join!(client.result(&waiting), serving);
        assert_eq!(outcome.unwrap_err().code(), Some(code));
    }
    let serving = async {
        let (_, substream, ..) = request(inbound(&mut peer).await).await;
        substream.reset(Code::NodeOffline, "after it was sent");
    };
    let (outcome, ()) = tokio::join!(client.result(&waiting), serving);
    assert!(matches!(outcome, Err(CallError::Broken { .. })), "{outcome:?}");
    // Nothing of these was tried again.
    let none = tokio::time::timeout(Duration::from_millis(150), peer.incoming.next()).await;
    assert!(none.is_err());
}

#[tokio::test]
async fn waiting_has_an_end_and_its_last_try_is_there() {
    let (client, mut peer) = connected().await;
    let wait = Duration::from_millis(400);
    let begun = Instant::now();
    let waiting = sum().waiting(wait);
    let calling = client.result(&waiting);
    let refusing = async {
        let mut tries = 0;
        loop {
            let inbound = inbound(&mut peer).await;
            inbound.refuse(Refusal::new(Code::NodeOffline, "offline for 3 min")).await;
            tries += 1;
            if begun.elapsed() >= wait {
                return tries;
            }
        }
    };
    let (outcome, tries) = tokio::join!(calling, refusing);
    assert!(matches!(outcome, Err(CallError::Refused(refusal)) if refusal.code == Code::NodeOffline));
    assert!(tries >= 2, "{tries}");
}

#[tokio::test]
async fn a_try_comes_when_the_refusal_says_and_not_before() {
    let (client, mut peer) = connected().await;
    let asked = Duration::from_millis(1500);
    let busy = || Refusal::new(Code::Saturated, "busy").retry_after(asked);
    let waiting = sum().waiting(PATIENCE);
    let serving = async {
        inbound(&mut peer).await.refuse(busy()).await;
        let refused = Instant::now();
        let (_, substream, ..) = request(inbound(&mut peer).await).await;
        answer(substream, "{}", br#"{"id":1,"result":3}"#).await;
        refused.elapsed()
    };
    let (outcome, between) = tokio::join!(client.result(&waiting), serving);
    assert_eq!(outcome.unwrap(), json!(3));
    assert!(between >= asked, "tried again after {between:?}");

    // One that would come too late is not waited for, and not made early either.
    let waiting = sum().waiting(Duration::from_millis(300));
    let serving = async {
        inbound(&mut peer).await.refuse(busy()).await;
        tokio::time::timeout(Duration::from_millis(600), peer.incoming.next()).await.is_err()
    };
    let (outcome, nothing_more) = tokio::join!(client.result(&waiting), serving);
    assert!(matches!(outcome, Err(CallError::Refused(refusal)) if refusal.code == Code::Saturated));
    assert!(nothing_more);
}

/// What the explorer would say of forty nodes and some that are not meant.
fn nodes() -> Value {
    let node = |name: String, state: &str, service: &str, region: &str| json!({"node": name, "state": state, "services": [{"name": service}], "labels": {"region": region}, "x": 1});
    let mut nodes: Vec<Value> = (0..40)
        .map(|n| node(format!("edge-{n}"), "online", "rpc", if n < 5 { "eu" } else { "us" }))
        .collect();
    nodes.push(node("gone".into(), "offline", "rpc", "eu"));
    nodes.push(node("other".into(), "online", "ssh", "eu"));
    json!({"explorer": "hub-1", "nodes": nodes})
}

async fn serve_nodes(peer: &mut Peer) {
    let (target, substream, _, body) = request(inbound(peer).await).await;
    assert_eq!((target.to_string(), &body["method"]), ("@explorer/api".into(), &json!("explorer.nodes")));
    let body = json!({"jsonrpc": "2.0", "id": 1, "result": nodes()}).to_string();
    answer(substream, "{}", body.as_bytes()).await;
}

#[tokio::test]
async fn a_selector_means_nodes_that_are_online_and_have_all_it_asks_for() {
    let (client, mut peer) = connected().await;
    for (selector, count) in
        [("any/rpc", 40), ("region=eu/rpc", 5), ("region=eu/ssh", 1), ("region=mars/rpc", 0)]
    {
        let selector: Selector = selector.parse().unwrap();
        let (meant, ()) =
            tokio::join!(resolve(client.session(), &selector, PATIENCE), serve_nodes(&mut peer));
        match meant {
            Ok(meant) => assert_eq!(meant.len(), count, "{selector}"),
            Err(CallError::Refused(refusal)) => {
                assert_eq!((count, refusal.code), (0, Code::NodeNotFound), "{refusal}");
            }
            Err(error) => panic!("{selector}: {error}"),
        }
    }
    let one: Selector = "edge-7/rpc".parse().unwrap();
    assert_eq!(resolve(client.session(), &one, PATIENCE).await.unwrap(), [target("edge-7/rpc")]);
}

#[tokio::test]
async fn a_fan_out_hands_out_each_answer_with_its_node_as_it_comes() {
    let (client, mut peer) = connected().await;
    let targets: Vec<Target> = (0..40).map(|n| target(&format!("edge-{n}/rpc"))).collect();
    let mut outcomes = Box::pin(fan_out(client.session(), targets, &sum()));
    // The first sixteen are asked, and nobody else before one of them is done.
    let mut open = Vec::new();
    let asking = async {
        for _ in 0..16 {
            open.push(request(inbound(&mut peer).await).await);
        }
        assert!(tokio::time::timeout(Duration::from_millis(100), peer.incoming.next()).await.is_err());
    };
    tokio::select! {
        outcome = outcomes.next() => panic!("{outcome:?}"),
        () = asking => {}
    }
    // The first never answers, and holds up nobody.
    let silent = open.remove(0);
    let mut serving = tokio::task::JoinSet::new();
    let reply = |(target, substream, ..): (Target, Substream, Value, Value)| async move {
        let body = json!({"jsonrpc": "2.0", "id": 1, "result": target.to_string()}).to_string();
        answer(substream, "{}", body.as_bytes()).await;
    };
    for call in open {
        serving.spawn(reply(call));
    }
    let serve_rest = async {
        for _ in 16..40 {
            let call = request(inbound(&mut peer).await).await;
            serving.spawn(reply(call));
        }
    };
    let collect = async {
        let mut seen = Vec::new();
        while seen.len() < 39 {
            let (target, outcome) = within("an outcome", outcomes.next()).await.unwrap();
            assert_eq!(outcome.unwrap(), json!(target.to_string()));
            seen.push(target);
        }
        seen.sort();
        seen.dedup();
        seen
    };
    let (seen, ()) = tokio::join!(collect, serve_rest);
    assert_eq!(seen.len(), 39);
    drop(silent);
    let (last, outcome) = within("the last", outcomes.next()).await.unwrap();
    assert!(!seen.contains(&last) && outcome.is_err());
    assert!(outcomes.next().await.is_none());
}

#[tokio::test]
async fn one_budget_covers_all_calls_of_a_fan_out() {
    let (client, mut peer) = connected().await;
    let limit = Duration::from_millis(400);
    let targets: Vec<Target> = (0..20).map(|n| target(&format!("edge-{n}/rpc"))).collect();
    let begun = Instant::now();
    let outcomes = fan_out(client.session(), targets, &sum().within(limit));
    let keep = async {
        let mut kept = Vec::new();
        while let Some(inbound) = peer.incoming.next().await {
            kept.push(inbound);
        }
    };
    let outcomes: Vec<_> = tokio::select! {
        outcomes = outcomes.collect() => outcomes,
        () = keep => panic!("the session ended"),
    };
    assert_eq!(outcomes.len(), 20);
    let errors: Vec<_> = outcomes.iter().map(|(_, outcome)| outcome.as_ref().unwrap_err()).collect();
    assert!(errors.iter().all(|error| error.code() == Some(Code::Timeout)), "{errors:?}");
    let not_called = errors.iter().filter(|error| error.to_string().contains("was not called")).count();
    assert_eq!(not_called, 4, "those beyond the first sixteen were never opened");
    // Deadlines travel in whole milliseconds, rounded down.
    assert!(begun.elapsed() >= limit - Duration::from_millis(20));
}

#[tokio::test]
async fn the_budget_of_a_fan_out_covers_waiting_for_a_node_too() {
    let (client, mut peer) = connected().await;
    let limit = Duration::from_millis(400);
    let call = sum().within(limit).waiting(PATIENCE);
    let begun = Instant::now();
    let mut outcomes = Box::pin(fan_out(client.session(), vec![target("edge-7/rpc")], &call));
    let mut deadlines = Vec::new();
    let refusing = async {
        loop {
            let mut inbound = inbound(&mut peer).await;
            deadlines.push(inbound.open().await.unwrap().deadline().unwrap());
            inbound.refuse(Refusal::new(Code::NodeOffline, "offline for 3 min")).await;
        }
    };
    let outcome = tokio::select! {
        outcome = outcomes.next() => outcome.unwrap().1,
        () = refusing => unreachable!(),
    };
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), Some(Code::NodeOffline), "the node's own state is the answer: {error}");
    assert!(begun.elapsed() < PATIENCE / 2, "it went on for {:?}", begun.elapsed());
    assert!(
        deadlines.len() > 1 && deadlines.is_sorted_by(|a, b| a > b),
        "each has what is left: {deadlines:?}"
    );
}
