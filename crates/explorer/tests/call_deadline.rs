//! A call ends by its deadline even if its node forgets it.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use reachback_link::StreamEnd;
use reachback_wire::{Code, Open, Record, RecordKind};
use support::{Hub, generation, seen_open, target};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn a_call_that_its_node_forgets_is_ended_a_moment_after_its_deadline() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let begun = Instant::now();
    let limit = Duration::from_secs(2);
    // The echo ends when its caller does, and this caller waits.
    let mut substream = client.session.open(Open::call(target("edge-7/echo"), limit)).await.unwrap();
    let seen = seen_open(&mut substream).await;
    assert!(seen.deadline().is_some_and(|left| left <= limit && left > limit / 2), "{seen:?}");
    let StreamEnd::Reset { code, text } = substream.next().await.unwrap_err() else { panic!() };
    assert_eq!(code, Code::Timeout, "{text}");
    let waited = begun.elapsed();
    assert!(
        waited >= limit + Duration::from_millis(250) && waited < limit + Duration::from_secs(1),
        "{waited:?}"
    );
    drop(substream);
    hub.until("edge-7", |view| view.streams == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_no_deadline_once_it_stands() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let open = Open::stream(target("edge-7/echo")).within(Duration::from_secs(2));
    let mut substream = client.session.open(open).await.unwrap();
    seen_open(&mut substream).await;
    sleep(Duration::from_secs(10)).await;
    substream.send(RecordKind::Data, b"still").await.unwrap();
    let record = timeout(Duration::from_secs(5), substream.next()).await.unwrap();
    assert_eq!(record, Ok(Record::Data("still".into())));
}
