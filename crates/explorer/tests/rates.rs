//! `[rate_limit]`: who opens too often waits, exactly as long as it takes, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use futures::future::join_all;
use reachback_explorer::{RateLimit, RatePer};
use reachback_link::OpenError;
use reachback_wire::{Code, Refusal};
use serde_json::{Value, json};
use support::{Hub, Peer, generation, post};

const STEP: Duration = Duration::from_millis(20);

async fn limited(per: RatePer) -> Hub {
    Hub::start_with(|config| config.rate_limit = Some(RateLimit { per, ..RateLimit::default() })).await
}

/// Opens so many at once. How many were let in, and what the others were told.
async fn burst(from: &Peer, to: &str, opens: usize) -> (usize, Vec<Refusal>) {
    let mut refusals = Vec::new();
    let mut opened = 0;
    for outcome in join_all((0..opens).map(|_| from.stream(to))).await {
        match outcome {
            Ok(_) => opened += 1,
            Err(OpenError::Refused(refusal)) => refusals.push(refusal),
            Err(other) => panic!("{other}"),
        }
    }
    (opened, refusals)
}

#[tokio::test(start_paused = true)]
async fn the_hundred_and_first_open_of_a_burst_waits_and_a_second_node_sees_nothing_of_it() {
    let hub = limited(RatePer::Caller).await;
    let _service = hub.online("edge-9", generation(9, 0, 1)).await;
    let (eager, calm) =
        (hub.online("edge-7", generation(7, 0, 1)).await, hub.online("edge-8", generation(8, 0, 1)).await);

    let begun = tokio::time::Instant::now();
    let (opened, refusals) = burst(&eager, "edge-9/echo", 101).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "the test's clock stood still");
    assert_eq!((opened, refusals.len()), (100, 1));
    assert_eq!(refusals[0].code, Code::RateLimited);
    assert_eq!(refusals[0].retry_after_ms, Some(20));
    assert!(refusals[0].message.contains("node edge-7"), "{}", refusals[0]);

    // It comes back one at a time.
    for _ in 0..5 {
        tokio::time::advance(STEP).await;
        let (opened, refusals) = burst(&eager, "edge-9/echo", 2).await;
        assert_eq!((opened, refusals.len()), (1, 1));
        assert_eq!(refusals[0].retry_after_ms, Some(20));
    }
    let (opened, refusals) = burst(&calm, "edge-9/echo", 100).await;
    assert_eq!((opened, refusals.len()), (100, 0), "another node has a bucket of its own");
    assert_eq!(hub.count("rate_limited"), 6);
    assert_eq!(eager.session.end(), None, "it is told to wait, not thrown out");
}

#[tokio::test(start_paused = true)]
async fn the_limit_can_be_that_of_a_service_instead() {
    let hub = limited(RatePer::Service).await;
    let _service = hub.online("edge-9", generation(9, 0, 1)).await;
    let (one, other) =
        (hub.online("edge-7", generation(7, 0, 1)).await, hub.online("edge-8", generation(8, 0, 1)).await);
    assert_eq!(burst(&one, "edge-9/echo", 60).await.0, 60);
    let (opened, refusals) = burst(&other, "edge-9/echo", 60).await;
    assert_eq!((opened, refusals.len()), (40, 20));
    assert!(refusals[0].message.contains("edge-9/echo"), "{}", refusals[0]);
}

#[tokio::test(start_paused = true)]
async fn calls_over_http_and_raw_connections_count_and_the_status_says_for_whom() {
    let hub = limited(RatePer::Caller).await;
    let _service = hub.callable("edge-9", generation(9, 0, 1)).await;
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"explorer.nodes"}"#;
    // A batch is as many calls as there are in it.
    let batch = format!("[{}]", vec![request; 97].join(","));
    let answer = hub.http(&post("/rpc", "", &batch)).await;
    assert_eq!(answer.json().as_array().unwrap().iter().filter(|one| one["result"].is_object()).count(), 97);
    let raw = |answer: Vec<u8>| serde_json::from_slice::<Value>(&answer).unwrap();
    assert!(raw(hub.raw(request.as_bytes()).await)["result"].is_object());
    assert_eq!(hub.http(&post("/n/edge-9/rpc", "", request)).await.status, 200);
    let status = r#"{"jsonrpc":"2.0","id":1,"method":"explorer.status"}"#;
    let status = hub.http(&post("/rpc", "", status)).await.json();
    let limit = &status["result"]["rate_limit"];
    assert_eq!((&limit["bucket_size"], &limit["refill_rate"]), (&json!(100), &json!(50.0)));
    assert_eq!(
        limit["buckets"],
        json!([{ "who": "user visitor", "passed": 100, "refused": 0, "available": 0 }])
    );

    for path in ["/rpc", "/n/edge-9/rpc"] {
        let refused = hub.http(&post(path, "", request)).await;
        assert_eq!(refused.status, 429, "{path}");
        let data = &refused.json()["error"]["data"];
        assert_eq!((&data["code"], &data["retry_after_ms"]), (&json!("rate_limited"), &json!(20)));
    }
    let refused = raw(hub.raw(request.as_bytes()).await);
    assert_eq!(refused["error"]["data"]["code"], "rate_limited");
    tokio::time::advance(STEP).await;
    let two = hub.http(&post("/rpc", "", &format!("[{request},{request}]"))).await.json();
    assert!(two[0]["result"].is_object(), "{two}");
    assert_eq!(two[1]["error"]["data"]["code"], "rate_limited", "{two}");
    // Whether it is well is no call.
    assert_eq!(hub.http(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn without_the_table_nobody_waits() {
    let hub = Hub::start().await;
    let _service = hub.online("edge-9", generation(9, 0, 1)).await;
    let eager = hub.online("edge-7", generation(7, 0, 1)).await;
    for _ in 0..3 {
        assert_eq!(burst(&eager, "edge-9/echo", 120).await.0, 120);
    }
    let status = hub.http(&post("/rpc", "", r#"{"jsonrpc":"2.0","id":1,"method":"explorer.status"}"#)).await;
    assert!(status.json()["result"].get("rate_limit").is_none());
}
