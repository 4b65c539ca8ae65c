//! What a client's open comes to, through a real session on either side.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use reachback_explorer::NodeState;
use reachback_link::{OpenError, StreamEnd};
use reachback_wire::{Caller, Code, Open, Record, RecordKind, Refusal, Role};
use support::{Hub, Peer, generation, read, seen_open, target};
use tokio::time::{Instant, sleep};

async fn refused(client: &Peer, open: Open) -> Refusal {
    match client.session.open(open).await {
        Err(OpenError::Refused(refusal)) => refusal,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened"),
    }
}

fn stream(to: &str) -> Open {
    Open::stream(target(to))
}

#[tokio::test(start_paused = true)]
async fn bytes_go_there_and_back_and_the_end_is_an_end() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut substream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut substream).await;
    let bulk: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    for piece in bulk.chunks(100_000) {
        substream.send(RecordKind::Data, piece).await.unwrap();
        assert_eq!(read(&mut substream, piece.len()).await, piece);
    }
    substream.finish(None).await.unwrap();
    assert_eq!(substream.next().await, Ok(Record::End(None)));
    drop(substream);
    hub.until("edge-7", |view| view.streams == 0).await;
    assert_eq!(hub.count("opens_relayed"), 1);
}

#[tokio::test(start_paused = true)]
async fn early_bytes_reach_the_service_once_it_is_there() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut substream = client.stream("edge-7/echo").await.unwrap();
    substream.send(RecordKind::Data, b"early").await.unwrap();
    seen_open(&mut substream).await;
    assert_eq!(read(&mut substream, 5).await, b"early");
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_said_by_the_explorer_and_not_by_the_opener() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut forged = stream("edge-7/echo");
    forged.caller = Some(Caller {
        role: Role::Explorer,
        id: "root".into(),
        name: Some("root".into()),
        granted: true,
        session: None,
        address: None,
    });
    forged.trace = Some("forged".into());
    let mut substream = client.session.open(forged).await.unwrap();
    let open = seen_open(&mut substream).await;
    let caller = open.caller.unwrap();
    assert_eq!((caller.role, caller.id.as_str()), (Role::Client, "laptop"));
    assert_eq!(caller.session, Some(client.welcome.session));
    assert_eq!(caller.address.as_deref(), Some("memory"));
    assert_eq!(open.hop, 0);
    assert_eq!(open.expect_instance, Some(generation(1, 0, 1).instance));
    let trace = open.trace.unwrap();
    assert_eq!(trace.len(), 55, "{trace}");
    assert_eq!(trace.split('-').map(str::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
    assert!((1..=10_000).contains(&open.deadline_ms.unwrap()));
    drop(node);
}

#[tokio::test(start_paused = true)]
async fn each_wrong_target_has_its_own_answer() {
    let hub = Hub::start().await;
    let mut gone = hub.online("edge-9", generation(9, 0, 1)).await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    gone.hand.cut();
    hub.until_state("edge-9", NodeState::Offline).await;
    sleep(Duration::from_secs(660)).await;
    let client = hub.client().await;
    for (to, code, parts) in [
        ("edge-8/echo", Code::NodeNotFound, &["edge-8", "edge-"][..]),
        ("database/echo", Code::NodeNotFound, &["no node database", "reachback nodes"]),
        ("edge-9/echo", Code::NodeOffline, &["edge-9 has been offline for 11 min: ", "Nothing was sent"]),
        ("edge-7/ehco", Code::ServiceNotFound, &["did you mean edge-7/echo?", "down, once"]),
        ("edge-7/down", Code::ServiceUnreachable, &["connection refused"]),
        ("edge-7/once", Code::ServiceNotFound, &["not here: once"]),
        ("@explorer/api", Code::BadFrame, &["calls, not streams"]),
        ("@explorer/web", Code::ServiceNotFound, &["@explorer/api"]),
    ] {
        let refusal = refused(&client, stream(to)).await;
        assert_eq!(refusal.code, code, "{to}: {refusal}");
        for part in parts {
            assert!(refusal.message.contains(part), "{to}: {refusal}");
        }
    }
    assert!(client.session.end().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_reaches_the_services_of_others_and_nobody_may_pass_on() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let caller = hub.online("edge-8", generation(2, 0, 1)).await;
    let refusal = refused(&caller, stream("edge-7/none")).await;
    assert_eq!(refusal.code, Code::ServiceNotFound, "{refusal}");
    let client = hub.client().await;
    let mut passed_on = stream("edge-7/echo");
    passed_on.hop = 1;
    let refusal = refused(&client, passed_on).await;
    assert_eq!(refusal.code, Code::NotHere, "{refusal}");
    assert_eq!(refused(&client, Open::control()).await.code, Code::BadFrame);
    assert!(node.session.end().is_none() && client.session.end().is_none());
    hub.until_count("opens_refused", 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_holds_up_nobody_else() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..400 {
        let session = client.session.clone();
        waiting.spawn(async move { session.open(stream("edge-7/hang")).await.map(drop) });
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.session.substreams(), 128, "the rest waits in the explorer");

    let begun = Instant::now();
    let mut other = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut other).await;
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());

    let mut timeouts = 0;
    while let Some(outcome) = waiting.join_next().await {
        match outcome.unwrap() {
            Err(OpenError::Timeout) => timeouts += 1,
            Err(OpenError::Refused(refusal)) if refusal.code == Code::Timeout => timeouts += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(timeouts, 400);
    assert!(begun.elapsed() < Duration::from_secs(15), "each within its own deadline: {:?}", begun.elapsed());
    drop(other);
    hub.until("edge-7", |view| view.streams == 0).await;
}

#[tokio::test(start_paused = true)]
async fn opens_beyond_the_queue_are_refused_at_once() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..1_200 {
        let session = client.session.clone();
        waiting.spawn(async move { session.open(stream("edge-7/hang")).await.map(drop) });
    }
    let mut saturated = 0;
    let begun = Instant::now();
    while saturated < 48 {
        match waiting.join_next().await.unwrap().unwrap() {
            Err(OpenError::Refused(refusal)) if refusal.code == Code::Saturated => {
                assert!(refusal.retry_after_ms.is_some());
                saturated += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_node_lost_before_its_answer_was_sent_nothing() {
    let hub = Hub::start().await;
    let mut node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let cutting = async {
        sleep(Duration::from_secs(1)).await;
        node.hand.cut();
    };
    let (refusal, ()) = tokio::join!(refused(&client, stream("edge-7/hang")), cutting);
    assert_eq!(refusal.code, Code::NodeOffline);
    assert!(refusal.message.contains("Nothing was sent to the service"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_node_lost_in_the_middle_is_lost_and_never_an_end() {
    let hub = Hub::start().await;
    let mut node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut substream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut substream).await;
    node.hand.cut();
    match substream.next().await {
        Err(StreamEnd::Reset { code: Code::Lost, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(client.session.end().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_lost_in_the_middle_frees_the_node() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let mut client = hub.client().await;
    let mut substream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut substream).await;
    assert_eq!(node.session.substreams(), 1);
    client.hand.cut();
    hub.until("edge-7", |view| view.streams == 0).await;
    for _ in 0..1_000 {
        if node.session.substreams() == 0 {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the node still has {}", node.session.substreams());
}

#[tokio::test(start_paused = true)]
async fn an_opener_that_only_takes_back_loses_its_session_and_nobody_else_does() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let (hasty, client) = (hub.client().await, hub.client().await);
    let mut opens = 0;
    while hasty.session.end().is_none() {
        let open = hasty.session.open(stream("edge-7/hang"));
        drop(tokio::time::timeout(Duration::from_millis(1), open).await);
        opens += 1;
        assert!(opens < 10_000, "nothing happens");
    }
    assert!(opens > 2_000, "{opens}");
    assert_eq!(hub.count("rapid_resets"), 1);
    assert!(hasty.session.ended().await.message.contains("taken back"));
    let mut substream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut substream).await;
    assert!(node.session.end().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_open_waits_for_a_node_that_is_just_arriving_but_not_for_long() {
    let hub = Hub::start().await;
    let node = hub.dial(Role::Node, "edge-7", generation(1, 0, 1)).await.unwrap();
    let client = hub.client().await;
    let begun = Instant::now();
    let (opened, ()) = tokio::join!(client.session.open(stream("edge-7/echo")), async {
        sleep(Duration::from_millis(500)).await;
        node.declare(&["echo"]).await;
    });
    drop(opened.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(1));

    let _silent = hub.dial(Role::Node, "edge-9", generation(2, 0, 1)).await.unwrap();
    let begun = Instant::now();
    let refusal = refused(&client, stream("edge-9/echo")).await;
    assert_eq!(refusal.code, Code::NodeOffline);
    assert!(refusal.message.contains("edge-9 is connecting"), "{refusal}");
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_meets_a_full_session_hears_so_before_its_own_clock_runs_out() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let mut live = Vec::new();
    for _ in 0..client.welcome.limits.max_substreams {
        live.push(client.stream("edge-7/echo").await.unwrap());
    }
    let other = hub.client().await;
    for allowed in [Duration::from_secs(1), Duration::from_millis(100)] {
        let told = refused(&other, Open::stream(target("edge-7/echo")).within(allowed)).await;
        assert_eq!(told.code, Code::Saturated, "{told}");
        assert!(told.retry_after_ms.is_some(), "{told}");
    }
    drop(live.pop());
    let mut again = other.stream("edge-7/echo").await.unwrap();
    seen_open(&mut again).await;
}
