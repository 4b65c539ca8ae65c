//! What happens to a connection before it is a session: wrong languages, wrong handshakes, and how each is told.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use reachback_explorer::{Authenticator, Explorer, Principal, Verdict, Visit};
use reachback_link::DialError;
use reachback_wire::{Code, FrameDecoder, FrameType, Hello, Refusal, Role, Stage, frame};
use support::{Hub, Pipes, config, generation, hello, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends these bytes and reads until the explorer closes.
async fn answer_to(hub: &Hub, bytes: &[u8]) -> Vec<u8> {
    let mut pipe = hub.net.pipe().await;
    pipe.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    pipe.read_to_end(&mut answer).await.unwrap();
    answer
}

/// Sends these bytes and expects a `Denied`.
async fn denial_of(hub: &Hub, bytes: &[u8]) -> Refusal {
    let answer = answer_to(hub, bytes).await;
    let mut frames = FrameDecoder::new(Stage::HelloReply);
    frames.push(answer.into());
    let frame = frames.next().unwrap().expect("a whole frame");
    assert_eq!(frame.kind, FrameType::Denied);
    frame.parse().unwrap()
}

fn hello_with(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut json = serde_json::to_value(hello(Role::Node, "edge-7", generation(1, 0, 1))).unwrap();
    change(&mut json);
    frame::encode(FrameType::Hello, &json)
}

/// Knows callers by their credential, so it has no rule for those that show none.
struct OnlyTunnel;

impl Authenticator for OnlyTunnel {
    fn admit(&self, hello: &Hello, _visit: &Visit) -> Result<Verdict, Refusal> {
        Ok(Principal::believed(hello.role, hello.id.clone()).into())
    }
}

#[tokio::test(start_paused = true)]
async fn rules_of_ones_own_are_not_passed_by_in_another_language() {
    let net = Arc::new(Pipes::default());
    let explorer = Explorer::start_with(config(), net.clone(), Arc::new(OnlyTunnel)).await.unwrap();
    let hub = Hub { explorer, net };
    let answer = hub.http(&post("/rpc", "", r#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1}"#)).await;
    assert_eq!((answer.status, &answer.json()["error"]["data"]["code"]), (401, &"unauthenticated".into()));
    let answer = hub.raw(br#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1}"#).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["error"]["data"]["code"], "unauthenticated");
    assert_eq!(hub.count("plain_refused"), 2);
    hub.node("edge-7", generation(1, 0, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn tls_is_answered_with_a_fatal_alert() {
    let hub = Hub::start().await;
    let answer = answer_to(&hub, &[0x16, 0x03, 0x01, 0x00, 0x05, 1, 0, 0, 1, 0]).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 40]);
    assert_eq!(hub.count("greetings_tls"), 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_bytes_and_silence_are_closed_without_a_word() {
    let hub = Hub::start().await;
    assert_eq!(answer_to(&hub, b"SSH-2.0-OpenSSH_9\r\n").await, b"");
    assert_eq!(answer_to(&hub, b"RBK\x02").await, b"");
    let begun = tokio::time::Instant::now();
    assert_eq!(answer_to(&hub, b"").await, b"");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    assert_eq!(hub.count("greetings_unknown"), 3);
    assert_eq!(hub.count("connections"), 3);
}

#[tokio::test(start_paused = true)]
async fn broken_hellos_are_denied_with_their_reason() {
    let hub = Hub::start().await;
    let long = "x".repeat(2048);
    for id in ["", "../etc", "a\u{0}b", "a\r\nb", "*", ">", &long] {
        let refusal = denial_of(&hub, &hello_with(|json| json["id"] = id.into())).await;
        assert_eq!(refusal.code, Code::BadFrame, "{id:?}: {refusal}");
        assert!(refusal.message.len() < 1024 && !refusal.message.contains(['\r', '\n', '\0']), "{refusal}");
    }

    let future =
        denial_of(&hub, &hello_with(|json| json["protocol"] = serde_json::json!({ "min": 7, "max": 9 })))
            .await;
    assert_eq!(future.code, Code::VersionMismatch);
    assert!(future.message.contains("7 to 9") && future.message.contains("protocol 1"), "{future}");

    let mut huge = frame::MAGIC.to_vec();
    huge.extend_from_slice(&[1, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(denial_of(&hub, &huge).await.code, Code::TooLarge);

    let mut not_utf8 = hello_with(|_| {});
    not_utf8[12] = 0xff;
    assert_eq!(denial_of(&hub, &not_utf8).await.code, Code::BadFrame);

    hub.until_count("handshakes_refused", 10).await;
    assert!(hub.explorer.nodes().is_empty(), "nobody got in");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_ended() {
    let hub = Hub::start().await;
    let mut pipe = hub.net.pipe().await;
    let hello = hello_with(|_| {});
    let begun = tokio::time::Instant::now();
    let dripping = async {
        for byte in &hello[..100] {
            if pipe.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    dripping.await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    hub.until_count("handshakes_refused", 1).await;
}

#[tokio::test(start_paused = true)]
async fn another_explorer_is_denied_in_this_version() {
    let hub = Hub::start().await;
    match hub.dial(Role::Explorer, "hub-2", generation(1, 0, 1)).await {
        Err(DialError::Denied(refusal)) => assert_eq!(refusal.code, Code::Denied),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_are_welcomed_learn_what_they_need() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    assert_eq!(client.welcome.explorer.as_ref(), "hub-1");
    assert_eq!(client.welcome.heartbeat_ms, 10_000);
    assert_eq!(client.welcome.limits.max_substreams, 8192);
    assert_eq!(client.welcome.reconnect_window_ms, 0);
    assert!(client.welcome.time_unix_ms > 1_700_000_000_000);
    let node = hub.node("edge-7", generation(1, 0, 1)).await;
    assert_eq!(node.welcome.limits.max_substreams, 1024);
    assert!(node.welcome.session > client.welcome.session);
    assert_eq!((hub.count("client_sessions"), hub.count("node_sessions")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_speaks_gets_the_place_of_the_one_that_was_silent_longest() {
    let hub = Hub::start().await;
    let mut silent = Vec::new();
    for _ in 0..1024 {
        silent.push(hub.net.pipe_of(64).await);
    }
    hub.until_count("connections", 1024).await;
    assert_eq!(hub.count("connections_shed"), 0);
    let begun = tokio::time::Instant::now();
    let _client = hub.client().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "it waited for nobody");
    assert_eq!(hub.count("connections_shed"), 1);
    assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap(), 0, "the first one is closed");
    assert!(silent[1].read(&mut [0; 1]).now_or_never().is_none(), "and no other");
}

#[tokio::test(start_paused = true)]
async fn strangers_that_say_nothing_take_no_place_from_those_who_are_in() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut silent = Vec::new();
    while hub.count("connections_shed") == 0 {
        silent.push(hub.net.pipe().await);
        assert!(silent.len() < 3_000, "nothing is shed");
        tokio::task::yield_now().await;
    }
    assert!(silent.len() >= 1024, "{}", silent.len());
    client.stream("edge-7/echo").await.unwrap();
    drop(node);
}
