//! A client that holds as many streams as it may: the next one is refused, the others don't notice.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use reachback_link::OpenError;
use reachback_wire::{Code, Open, RecordKind, limits};
use support::{Hub, generation, read, seen_open, target};

#[tokio::test(start_paused = true)]
async fn one_stream_more_than_agreed_is_saturated_and_both_sessions_live() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let most = client.welcome.limits.max_substreams;
    assert_eq!(most, limits::SUBSTREAMS_FROM_CLIENT);
    let mut live = Vec::new();
    for _ in 0..most {
        let mut substream = client.stream("edge-7/echo").await.unwrap();
        seen_open(&mut substream).await;
        live.push(substream);
    }
    for _ in 0..3 {
        let open = Open::stream(target("edge-7/echo")).within(Duration::from_secs(1));
        let told = client.session.open(open).await.unwrap_err();
        assert!(matches!(told, OpenError::Saturated(n) if n == most), "{told}");
        assert_eq!(told.code(), Code::Saturated);
    }
    // Another client's open meets the node's full session, and hears so before its own clock runs out.
    let other = hub.client().await;
    let open = Open::stream(target("edge-7/echo")).within(Duration::from_secs(1));
    let told = other.session.open(open).await.unwrap_err();
    assert_eq!(told.code(), Code::Saturated, "{told}");

    for substream in [0, most as usize / 2, most as usize - 1] {
        live[substream].send(RecordKind::Data, b"still here").await.unwrap();
        assert_eq!(read(&mut live[substream], 10).await, b"still here");
    }
    drop(live.pop());
    let mut again = other.stream("edge-7/echo").await.unwrap();
    seen_open(&mut again).await;
    assert_eq!((client.session.end(), node.session.end()), (None, None));
}
