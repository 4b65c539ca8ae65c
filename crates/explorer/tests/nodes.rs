//! A node's way through its states, and what is said about each.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use reachback_explorer::{HealthView, NodeState};
use reachback_wire::{
    Code, ControlMessage, EndReport, Ends, Health, HealthState, ServiceHealth,
    control::{ServiceInfo, Services},
};
use support::{Hub, generation};
use tokio::time::{Instant, advance, sleep};

#[tokio::test(start_paused = true)]
async fn a_node_is_online_once_it_has_said_what_it_has() {
    let hub = Hub::start().await;
    let node = hub.dial(reachback_wire::Role::Node, "edge-7", generation(1, 0, 1)).await.unwrap();
    sleep(Duration::from_secs(35)).await;
    let view = hub.view("edge-7").unwrap();
    assert_eq!(view.state, NodeState::Offline, "heartbeats alone don't make a node: {view:?}");

    node.declare(&["echo"]).await;
    let view = hub.until_state("edge-7", NodeState::Online).await;
    assert_eq!(view.since_s, 0);
    assert!(view.rtt_ms.is_some());
    assert_eq!(view.session, Some(node.welcome.session));
    assert_eq!(view.services.iter().map(|s| s.name.to_string()).collect::<Vec<_>>(), ["echo"]);
    assert_eq!(view.services[0].health, HealthView::Ok);
    assert_eq!(view.labels["region"], "eu\\n", "what a node says is made safe to print");
    assert!(!view.agent.unwrap().contains('\u{1b}'));
    assert_eq!(view.explorer.as_ref(), "hub-1");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_declares_but_never_answers_is_not_online() {
    let hub = Hub::start().await;
    let node = hub.dial(reachback_wire::Role::Node, "edge-7", generation(1, 0, 1)).await.unwrap();
    // Let the first heartbeats pass, so that only the one after the declaration is missing.
    sleep(Duration::from_secs(1)).await;
    node.hand.hold(true);
    node.declare(&["echo"]).await;
    let view = hub.until("edge-7", |view| view.reason.contains("heartbeat")).await;
    assert_eq!(view.state, NodeState::Offline);
    sleep(Duration::from_secs(15)).await;
    assert_eq!(hub.view("edge-7").unwrap().state, NodeState::Offline);
    let refused = hub.client().await.stream("edge-7/echo").await.unwrap_err();
    assert_eq!(refused.code(), Code::NodeOffline);
    node.hand.hold(false);
    hub.until_state("edge-7", NodeState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_offline_after_two_heartbeats_and_the_reason_says_so() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    node.freeze(true);
    let begun = Instant::now();
    let view = hub.until_state("edge-7", NodeState::Offline).await;
    assert!((15..=25).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(view.reason.contains("20 s"), "{}", view.reason);
    let end = view.last_end.unwrap();
    assert_eq!((end.session, &end.message), (Some(node.welcome.session), &view.reason));
    assert!(end.at_unix_ms > 1_700_000_000_000);

    advance(Duration::from_secs(660)).await;
    let later = hub.view("edge-7").unwrap();
    assert_eq!(later.since_s, 660, "since when it is offline, not since it was asked");
    assert_eq!(later.services.len(), 4, "what it had is still known");
    assert_eq!((later.session, later.rtt_ms, later.streams), (None, None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_bytes_come_but_whose_answers_do_not_is_late_and_recovers() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    node.freeze(true);
    // A mux ping keeps bytes coming while the process behind the line does nothing.
    let mux_ping = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
    let begun = Instant::now();
    while hub.view("edge-7").unwrap().state == NodeState::Online {
        node.hand.inject(&mux_ping).await;
        sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    let view = hub.view("edge-7").unwrap();
    assert_eq!(view.state, NodeState::Late);
    assert!((15..=35).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(view.reason.contains("unanswered"), "{}", view.reason);
    assert!(hub.client().await.stream("edge-7/down").await.is_err(), "a late node still takes opens");

    node.freeze(false);
    hub.until_state("edge-7", NodeState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_line_is_noticed_at_once() {
    let hub = Hub::start().await;
    let mut node = hub.online("edge-7", generation(1, 0, 1)).await;
    let begun = Instant::now();
    node.hand.cut();
    let view = hub.until_state("edge-7", NodeState::Offline).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(!view.reason.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_orderly_goodbye_is_told_from_a_loss() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    node.session.close(Code::Cancelled, "the operator stopped it\u{1b}[1m");
    let view = hub.until_state("edge-7", NodeState::Offline).await;
    assert!(view.reason.contains("the operator stopped it"), "{}", view.reason);
    assert!(!view.reason.contains('\u{1b}'), "{:?}", view.reason);
}

#[tokio::test(start_paused = true)]
async fn the_last_ends_are_kept_latest_first_and_so_is_the_nodes_own_view() {
    let hub = Hub::start().await;
    for seq in 1..=13 {
        let node = hub.online("edge-7", generation(1, 0, seq)).await;
        node.session.close(Code::Cancelled, &format!("end {seq}"));
        hub.until_state("edge-7", NodeState::Offline).await;
    }
    let node = hub.online("edge-7", generation(1, 0, 14)).await;
    let report =
        |n: u64| EndReport { at_unix_ms: n, session: None, code: Code::Lost, message: format!("seen {n}\n") };
    let ends = Ends { ends: (1..=12).map(report).collect() };
    node.session.send_control(ControlMessage::Ends(ends)).await.unwrap();
    node.declare(&["echo", "sign"]).await;
    let view = hub.until("edge-7", |view| view.services.len() == 2).await;
    assert_eq!(view.ends.len(), 10);
    assert!(
        view.ends[0].message.contains("end 13") && view.ends[9].message.contains("end 4"),
        "{:?}",
        view.ends
    );
    assert_eq!(view.last_end.as_ref(), view.ends.first());
    assert_eq!(view.node_ends.len(), 10);
    assert_eq!(view.node_ends[0].message, "seen 12\\n");
}

#[tokio::test(start_paused = true)]
async fn health_changes_reach_the_view_and_strange_names_do_not() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let failing = HealthState::Failing { reason: "connection refused\r".to_owned() };
    let services = ["echo", "stranger"]
        .map(|name| ServiceHealth { name: name.parse().unwrap(), health: failing.clone() })
        .to_vec();
    node.session.send_control(ControlMessage::Health(Health { services })).await.unwrap();
    let view = hub.until("edge-7", |view| view.services[0].health == HealthView::Failing).await;
    assert_eq!(view.services.len(), 4);
    assert_eq!(view.services[0].reason.as_deref(), Some("connection refused\\r"));
    assert_eq!(view.services[1].health, HealthView::Ok);

    // A new declaration replaces everything.
    let info = ServiceInfo {
        name: "db".parse().unwrap(),
        framing: Some("raw".to_owned()),
        compression: None,
        health: HealthState::Unknown,
    };
    let said = Services { services: vec![info], ..Services::default() };
    node.session.send_control(ControlMessage::Services(said)).await.unwrap();
    let view = hub.until("edge-7", |view| view.services.len() == 1).await;
    assert_eq!(view.services[0].framing.as_deref(), Some("raw"));
    assert!(view.labels.is_empty());
    assert_eq!(view.state, NodeState::Online);
}

#[tokio::test(start_paused = true)]
async fn a_large_fleet_is_asked_to_come_back_over_a_while() {
    let hub = Hub::start().await;
    let mut fleet = Vec::new();
    for n in 0..60 {
        fleet.push(hub.online(&format!("edge-{n}"), generation(n, 0, 1)).await);
    }
    assert_eq!(hub.client().await.welcome.reconnect_window_ms, 120);
    for node in fleet.drain(20..) {
        node.session.close(Code::Cancelled, "done");
    }
    hub.until_state("edge-59", NodeState::Offline).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(hub.client().await.welcome.reconnect_window_ms, 0);
}
