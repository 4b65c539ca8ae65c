//! Second sessions of one name: the same process again, a ghost, a clone.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use reachback_explorer::NodeState;
use reachback_link::{DialError, StreamEnd};
use reachback_wire::{Code, ControlMessage, RecordKind, Refusal, Role};
use support::{Hub, Peer, generation, read, seen_open};
use tokio::time::{Instant, sleep};

async fn denied(hub: &Hub, generation: reachback_wire::Generation) -> Refusal {
    match hub.dial(Role::Node, "edge-7", generation).await {
        Err(DialError::Denied(refusal)) => refusal,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_process_again_takes_new_opens_while_old_streams_go_on() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    let old = hub.online("edge-7", generation(1, 0, 1)).await;
    let mut stream = client.stream("edge-7/echo").await.unwrap();
    assert!(seen_open(&mut stream).await.expect_instance.is_some());
    sleep(Duration::from_secs(5)).await;

    let new = hub.online("edge-7", generation(1, 0, 2)).await;
    assert_eq!(hub.count("successions"), 1);
    let view = hub.view("edge-7").unwrap();
    assert_eq!((view.state, view.session), (NodeState::Online, Some(new.welcome.session)));
    assert!(view.since_s >= 5, "it was online all the time");

    let mut second = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut second).await;
    assert_eq!((old.session.substreams(), new.session.substreams()), (1, 1));
    stream.send(RecordKind::Data, b"still here").await.unwrap();
    assert_eq!(read(&mut stream, 10).await, b"still here");

    sleep(Duration::from_secs(3_600)).await;
    assert!(old.session.end().is_none(), "it retires no sooner than its last stream");
    stream.finish(None).await.unwrap();
    while stream.next().await.is_ok() {}
    drop(stream);
    old.session.ended().await;
    let view = hub.view("edge-7").unwrap();
    assert_eq!((view.state, view.session), (NodeState::Online, Some(new.welcome.session)));
}

#[tokio::test(start_paused = true)]
async fn until_the_new_session_stands_the_old_one_serves() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    let old = hub.online("edge-7", generation(1, 0, 1)).await;
    let new = hub.dial(Role::Node, "edge-7", generation(1, 0, 2)).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    let mut stream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut stream).await;
    assert_eq!((old.session.substreams(), new.session.substreams()), (1, 0));
    assert_eq!(hub.view("edge-7").unwrap().session, Some(old.welcome.session));

    // The newcomer dies before it was of any use: nobody notices.
    new.session.close(Code::Cancelled, "never mind");
    new.session.ended().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(hub.view("edge-7").unwrap().state, NodeState::Online);
}

#[tokio::test(start_paused = true)]
async fn a_retiring_session_still_takes_opens_when_the_new_one_dies() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    let old = hub.online("edge-7", generation(1, 0, 1)).await;
    let mut keeps = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut keeps).await;
    let mut new = hub.online("edge-7", generation(1, 0, 2)).await;
    new.hand.cut();
    let view = hub.until_state("edge-7", NodeState::Retiring).await;
    assert_eq!(view.session, Some(old.welcome.session));
    assert!(view.reason.contains("older session"), "{}", view.reason);
    let mut stream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut stream).await;
    assert_eq!(old.session.substreams(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_arrives_late_is_sent_away() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 5)).await;
    for seq in [4, 5] {
        let refusal = denied(&hub, generation(1, 0, seq)).await;
        assert_eq!(refusal.code, Code::Replaced, "{refusal}");
    }
    assert!(node.session.end().is_none());
    assert_eq!(hub.view("edge-7").unwrap().session, Some(node.welcome.session));
}

#[tokio::test(start_paused = true)]
async fn one_line_per_process_and_explorer() {
    let hub = Hub::start().await;
    let _node = hub.online("edge-7", generation(1, 0, 1)).await;
    let refusal = denied(&hub, generation(1, 1, 9)).await;
    assert_eq!(refusal.code, Code::AlreadyHere);
    assert!(refusal.message.contains("slot 0"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_ghost_gives_way_after_it_was_asked() {
    let hub = Hub::start().await;
    let ghost = hub.online("edge-7", generation(1, 0, 1)).await;
    ghost.freeze(true);
    let begun = Instant::now();
    let node = hub.online("edge-7", generation(2, 0, 1)).await;
    assert!((2..4).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!((hub.count("ghosts_replaced"), hub.count("clones_replaced")), (1, 0));
    // The ghost's end comes later and must not take the newcomer's place with it.
    ghost.freeze(false);
    ghost.session.ended().await;
    sleep(Duration::from_secs(1)).await;
    let view = hub.view("edge-7").unwrap();
    assert_eq!((view.state, view.session), (NodeState::Online, Some(node.welcome.session)));
    assert_eq!(view.ends.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_clones_the_newest_wins_and_the_other_is_told() {
    let hub = Hub::start().await;
    let client = hub.client().await;
    let mut old = hub.online("edge-7", generation(1, 0, 1)).await;
    let mut stream = client.stream("edge-7/echo").await.unwrap();
    seen_open(&mut stream).await;

    let begun = Instant::now();
    let new = hub.online("edge-7", generation(2, 0, 1)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "a living incumbent answers at once");
    assert_eq!((hub.count("ghosts_replaced"), hub.count("clones_replaced")), (0, 1));
    let mut told = None;
    while let Some(message) = old.control.next().await {
        if let ControlMessage::Replaced(replaced) = message {
            told = Some(replaced.message);
        }
    }
    assert!(told.expect("a Replaced message").contains("another process"));
    assert!(old.session.ended().await.message.contains("another process"));
    match stream.next().await {
        Err(StreamEnd::Reset { text, .. }) => assert!(text.contains("another process"), "{text}"),
        other => panic!("{other:?}"),
    }
    let mut stream = client.stream("edge-7/echo").await.unwrap();
    assert_eq!(seen_open(&mut stream).await.expect_instance, Some(generation(2, 0, 1).instance));
    assert_eq!(new.session.substreams(), 1);
}

#[tokio::test(start_paused = true)]
async fn clones_that_keep_fighting_are_told_to_wait_and_the_incumbent_stays() {
    let hub = Hub::start().await;
    let begun = Instant::now();
    let mut alive: Vec<Peer> = vec![hub.online("edge-7", generation(1, 0, 1)).await];
    for round in 1..=3 {
        alive.push(hub.online("edge-7", generation(1 + round % 2, 0, 1 + u64::from(round))).await);
    }
    let incumbent = alive.last().unwrap().welcome.session;
    let refusal = denied(&hub, generation(3, 0, 9)).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(refusal.code, Code::Replaced);
    assert!(refusal.retry_after_ms.unwrap() >= 60_000, "{refusal:?}");
    assert_eq!((hub.count("clones_replaced"), hub.count("clones_refused")), (3, 1));
    assert_eq!(hub.view("edge-7").unwrap().session, Some(incumbent));

    sleep(Duration::from_millis(refusal.retry_after_ms.unwrap())).await;
    hub.online("edge-7", generation(3, 0, 9)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dials_in_a_loop_has_a_bounded_number_of_sessions() {
    let hub = Hub::start().await;
    let mut pending = Vec::new();
    let refusal = loop {
        let seq = pending.len() as u64 + 1;
        match hub.dial(Role::Node, "edge-7", generation(1, 0, seq)).await {
            Ok(peer) => pending.push(peer),
            Err(DialError::Denied(refusal)) => break refusal,
            Err(other) => panic!("{other}"),
        }
        assert!(pending.len() < 50, "no bound");
    };
    assert_eq!(refusal.code, Code::RateLimited);
    assert!(refusal.retry_after_ms.is_some());
    assert_eq!(pending.len(), 8);
}
