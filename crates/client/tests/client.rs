//! A client and an explorer that does what a test tells it: streams, calls, forwarded ports, and every way they end.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use reachback_client::{CallError, Client, ClientOptions, Random, Reconnecting, call, pipe};
use reachback_link::{Compression, Inbound, OpenError, Pulse, RealNet, StreamEnd, Substream};
use reachback_wire::{Code, EndStatus, Open, OpenKind, Record, RecordKind, Refusal, Target, limits};
use serde_json::{Value, json};
use support::{Hub, PATIENCE, Peer, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::JoinSet,
};

fn options() -> ClientOptions {
    ClientOptions::new("ann".parse().unwrap(), Random::seeded(3)).unwrap()
}

fn target() -> Target {
    "edge-7/rpc".parse().unwrap()
}

/// A connected client and the other end of its session.
async fn connected() -> (Client, Peer) {
    let mut hub = Hub::bind().await;
    let address = hub.address();
    let (client, peer) = tokio::join!(Client::connect(Arc::new(RealNet), &address, options()), hub.admit());
    (client.unwrap(), peer)
}

/// The next open of the peer's client.
async fn inbound(peer: &mut Peer) -> Inbound {
    within("an open", peer.incoming.next()).await.unwrap()
}

async fn accept(peer: &mut Peer) -> Substream {
    let mut inbound = inbound(peer).await;
    let open = inbound.open().await.unwrap();
    assert_eq!(open.target, Some(target()));
    inbound.answer(async { Ok(()) }).await.unwrap().0
}

/// Accepts a call and reads the whole request.
async fn request(peer: &mut Peer) -> (Substream, Value) {
    let mut inbound = inbound(peer).await;
    let open = inbound.open().await.unwrap();
    assert_eq!(open.kind, OpenKind::Call);
    assert!(open.deadline_ms.is_some_and(|ms| ms <= 20_000), "{open:?}");
    let (mut substream, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
    assert!(matches!(substream.next().await, Ok(Record::Head(_))), "headers come first");
    let mut body = Vec::new();
    loop {
        match within("the request", substream.next()).await.unwrap() {
            Record::Data(bytes) => body.extend_from_slice(&bytes),
            Record::End(None) => return (substream, serde_json::from_slice(&body).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// Calls `sum` with [1, 2] while the explorer's side does something with it.
async fn calling<T>(
    limit: Duration,
    other_side: impl AsyncFnOnce(&mut Peer) -> T,
) -> (Result<Value, CallError>, T) {
    let (client, mut peer) = connected().await;
    let params = json!([1, 2]);
    let call = client.call(target(), "sum", &params, limit);
    within("the call", async { tokio::join!(call, other_side(&mut peer)) }).await
}

#[tokio::test]
async fn all_that_a_client_opens_is_compressed_if_it_wants_and_its_explorer_can() {
    let every_open = Compression { every_open: true, ..Compression::default() };
    let lz4 = || vec!["lz4".to_owned()];
    for (what, compression, can, said, announced) in [
        ("both", every_open, lz4(), lz4(), true),
        ("nobody asks", Compression::default(), lz4(), lz4(), false),
        ("the explorer can't", every_open, vec![], lz4(), false),
        ("it may not", Compression::OFF, lz4(), vec![], false),
    ] {
        let mut hub = Hub::bind().await;
        hub.welcome.features = can;
        let address = hub.address();
        let options = || ClientOptions { compression, ..options() };
        let announced = announced.then_some("lz4");

        let (client, peer) =
            tokio::join!(Client::connect(Arc::new(RealNet), &address, options()), hub.admit());
        let (client, mut peer) = (client.unwrap(), peer);
        assert_eq!(peer.hello.features, said, "{what}");
        let (opened, told) = tokio::join!(client.open(target()), told(&mut peer));
        opened.unwrap();
        assert_eq!(told.compression.as_deref(), announced, "{what}: a stream");
        let params = json!([]);
        let call = client.call(target(), "sum", &params, PATIENCE);
        let (_, told) = tokio::join!(call, self::told(&mut peer));
        assert_eq!(told.compression.as_deref(), announced, "{what}: a call");

        let line = Reconnecting::start(Arc::new(RealNet), address, options());
        let mut peer = hub.admit().await;
        assert_eq!(peer.hello.features, said, "{what}");
        within("a session", async {
            while line.session().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let (opened, told) = tokio::join!(line.open(target()), self::told(&mut peer));
        opened.unwrap();
        assert_eq!(told.compression.as_deref(), announced, "{what}: a line");
    }
}

/// Takes the next open, lets go of it, and says what it was.
async fn told(peer: &mut Peer) -> Open {
    let mut inbound = inbound(peer).await;
    let open = inbound.open().await.unwrap();
    drop(inbound.answer(async { Ok(()) }).await.unwrap());
    open
}

#[tokio::test]
async fn a_call_is_one_request_and_its_answer_in_any_pieces() {
    let (outcome, request) = calling(PATIENCE, async |peer| {
        let (mut substream, request) = request(peer).await;
        substream.send(RecordKind::Head, br#"{"status":200}"#).await.unwrap();
        substream.send(RecordKind::Data, br#"{"jsonrpc":"2.0","id":1,"res"#).await.unwrap();
        substream.send(RecordKind::Data, br#"ult":3}"#).await.unwrap();
        substream.finish(None).await.unwrap();
        request
    })
    .await;
    assert_eq!(outcome.unwrap(), json!(3));
    assert_eq!(request, json!({"jsonrpc": "2.0", "id": 1, "method": "sum", "params": [1, 2]}));
}

#[tokio::test]
async fn the_services_error_is_not_ours() {
    let (outcome, ()) = calling(PATIENCE, async |peer| {
        let (mut substream, _) = request(peer).await;
        let answer =
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"too sad to add","data":[1]}}"#;
        substream.send(RecordKind::Data, answer).await.unwrap();
        substream.finish(None).await.unwrap();
    })
    .await;
    let error = outcome.unwrap_err();
    assert!(matches!(&error, CallError::Service { code: -32000, data: Some(_), .. }), "{error}");
    assert_eq!(error.code(), None);
}

#[tokio::test]
async fn nothing_sent_and_maybe_sent_are_told_apart() {
    let (refused, ()) = calling(PATIENCE, async |peer| {
        inbound(peer).await.refuse(Refusal::new(Code::NodeOffline, "edge-7 is offline for 3 min")).await;
    })
    .await;
    let error = refused.unwrap_err();
    assert!(matches!(&error, CallError::Refused(refusal) if refusal.code == Code::NodeOffline), "{error}");

    let (client, mut peer) = connected().await;
    let params = Value::Null;
    let call = client.call(target(), "sum", &params, PATIENCE);
    let cut = async {
        let (substream, sent) = request(&mut peer).await;
        assert_eq!(sent.get("params"), None, "null params are no params");
        drop(peer);
        substream
    };
    let (lost, _substream) = within("the call", async { tokio::join!(call, cut) }).await;
    let error = lost.unwrap_err();
    assert_eq!(error.code(), Some(Code::Lost), "{error}");
    assert!(error.to_string().contains("unknown"), "{error}");

    let over = within("the call", client.call(target(), "sum", &params, PATIENCE)).await.unwrap_err();
    assert!(matches!(over, CallError::NotConnected { .. }), "{over}");
}

#[tokio::test]
async fn a_call_whose_open_was_not_answered_was_not_sent() {
    // The request follows the answer to the open, so whatever comes instead of that answer: it is certain.
    let (lost, _inbound) = {
        let (client, mut peer) = connected().await;
        let params = Value::Null;
        let call = client.call(target(), "sum", &params, PATIENCE);
        let cut = async {
            let mut inbound = inbound(&mut peer).await;
            inbound.open().await.unwrap();
            drop(peer);
            inbound
        };
        within("the call", async { tokio::join!(call, cut) }).await
    };
    let (silent, _inbound) = calling(Duration::from_millis(200), inbound).await;
    let (dropped, ()) = calling(PATIENCE, async |peer| drop(inbound(peer).await)).await;
    for (outcome, code) in [(lost, Code::NodeOffline), (silent, Code::Timeout), (dropped, Code::BadFrame)] {
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(matches!(error, CallError::Refused(_) | CallError::NotConnected { .. }), "{error:?}");
        assert!(!error.to_string().contains("unknown"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_a_short_success() {
    let (outcome, ()) = calling(PATIENCE, async |peer| {
        let (mut substream, _) = request(peer).await;
        substream.send(RecordKind::Data, br#"{"jsonrpc":"2.0","id":1,"result":3}"#).await.unwrap();
        substream.reset(Code::Reset, "the service died");
    })
    .await;
    assert_eq!(outcome.unwrap_err().code(), Some(Code::Reset));

    let (outcome, ()) = calling(PATIENCE, async |peer| {
        let (mut substream, _) = request(peer).await;
        substream.send(RecordKind::Data, br#"{"jsonrpc":"2.0","id":1,"result":3}"#).await.unwrap();
        let status = EndStatus { code: Code::ServiceUnreachable, message: "gone".into() };
        substream.finish(Some(status)).await.unwrap();
    })
    .await;
    assert_eq!(outcome.unwrap_err().code(), Some(Code::ServiceUnreachable));

    let (outcome, ()) = calling(PATIENCE, async |peer| {
        let (mut substream, _) = request(peer).await;
        substream.send(RecordKind::Data, b"<html>").await.unwrap();
        substream.finish(None).await.unwrap();
    })
    .await;
    assert!(matches!(outcome, Err(CallError::Garbled(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_call_that_takes_too_long_ends_and_tells_the_other_side() {
    let (outcome, end) = calling(Duration::from_millis(300), async |peer| {
        let (mut substream, _) = request(peer).await;
        within("the reset", std::future::poll_fn(|cx| substream.poll_gone(cx))).await
    })
    .await;
    assert!(matches!(outcome, Err(CallError::Timeout(_))), "{outcome:?}");
    assert!(matches!(end, StreamEnd::Reset { code: Code::Timeout, .. }), "{end}");
}

#[tokio::test]
async fn bodies_are_limited_in_sum_both_ways() {
    let (client, _peer) = connected().await;
    let params = Value::String("x".repeat(limits::CALL_BODY_MAX));
    let outcome = client.call(target(), "sum", &params, PATIENCE).await;
    assert!(matches!(outcome, Err(CallError::TooLarge { what: "request", .. })), "{outcome:?}");

    let (outcome, end) = calling(PATIENCE, async |peer| {
        let (mut substream, _) = request(peer).await;
        let piece = vec![b' '; 1 << 20];
        loop {
            if let Err(end) = substream.send(RecordKind::Data, &piece).await {
                break end;
            }
        }
    })
    .await;
    assert!(matches!(outcome, Err(CallError::TooLarge { what: "answer", .. })), "{outcome:?}");
    assert!(!matches!(end, StreamEnd::Finished), "the sender is freed: {end}");
}

#[tokio::test]
async fn connecting_says_why_it_failed() {
    let mut hub = Hub::bind().await;
    let address = hub.address();
    let denied = Refusal::new(Code::Denied, "ann is not welcome here");
    let connect = Client::connect(Arc::new(RealNet), &address, options());
    let (outcome, ()) = tokio::join!(connect, hub.deny(denied));
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), Code::Denied);
    assert!(error.to_string().contains("ann is not welcome here"), "{error}");

    drop(hub);
    let error = Client::connect(Arc::new(RealNet), &address, options()).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_client_that_closes_says_goodbye_and_one_that_is_dropped_is_gone() {
    let (client, mut peer) = connected().await;
    let mut pulse = client.session().pulse();
    within("a heartbeat", pulse.wait_for(|pulse| *pulse == Pulse::Live)).await.unwrap();
    within("the close", client.close()).await;
    let end = peer.ended().await;
    assert!(end.message.contains("the client is done"), "{end}");

    let (client, mut peer) = connected().await;
    drop(client);
    peer.ended().await;
}

#[tokio::test]
async fn nobody_can_open_anything_at_a_client() {
    let (_client, peer) = connected().await;
    let outcome = within("the open", peer.session.open(support::stream("ann/shell"))).await;
    assert!(matches!(outcome, Err(OpenError::Refused(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_pipe_carries_both_ends_apart() {
    let (client, mut peer) = connected().await;
    let (mut keyboard, input) = duplex(64);
    let (output, mut screen) = duplex(64);
    let mut pipes = JoinSet::new();
    pipes.spawn(async move { pipe(&client, target(), input, output).await });
    let mut service = accept(&mut peer).await;

    keyboard.write_all(b"question").await.unwrap();
    drop(keyboard);
    let mut question = Vec::new();
    loop {
        match within("the question", service.next()).await.unwrap() {
            Record::Data(bytes) => question.extend_from_slice(&bytes),
            Record::End(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(question, b"question");
    service.send(RecordKind::Data, b"answer").await.unwrap();
    service.finish(None).await.unwrap();
    let mut answer = Vec::new();
    within("the answer", screen.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer");
    let piped = within("the pipe's end", pipes.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!((piped.to_service, piped.from_service, piped.code()), (8, 6, None));
}

#[tokio::test]
async fn a_pipe_that_breaks_says_how() {
    for (how, code) in [("reset", Code::Reset), ("cut", Code::Lost)] {
        let (client, mut peer) = connected().await;
        let (_keyboard, input) = duplex(64);
        let (output, mut screen) = duplex(64);
        let mut pipes = JoinSet::new();
        pipes.spawn(async move { pipe(&client, target(), input, output).await });
        let mut service = accept(&mut peer).await;
        service.send(RecordKind::Data, b"part").await.unwrap();
        within("the beginning", screen.read_exact(&mut [0; 4])).await.unwrap();
        if how == "reset" {
            service.reset(Code::Reset, "connection reset by peer");
        } else {
            drop(peer);
        }
        let piped = within("the pipe's end", pipes.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(piped.code(), Some(code), "{how}: {:?}", piped.end);
    }
}

#[tokio::test]
async fn the_free_function_and_the_method_are_the_same_call() {
    let (client, mut peer) = connected().await;
    let params = json!({});
    let call = call::call(client.session(), target(), "ping", &params, PATIENCE);
    let answer = async {
        let (mut substream, _) = request(&mut peer).await;
        substream.send(RecordKind::Item, br#"{"jsonrpc":"2.0","id":1,"result":null}"#).await.unwrap();
        substream.finish(None).await.unwrap();
    };
    let (outcome, ()) = within("the call", async { tokio::join!(call, answer) }).await;
    assert_eq!(outcome.unwrap(), Value::Null);
}
