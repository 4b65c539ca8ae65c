//! Compression on the two lines of a stream: each has what its own ends agreed on, and what passes is the same.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use reachback_explorer::Explorer;
use reachback_link::{Compression, DialSecurity};
use reachback_wire::{
    ControlMessage, HealthState, Open, Record, RecordKind, Role, ServiceInfo, Services,
    limits::CALL_BODY_MAX, record::encode_head,
};
use serde_json::json;
use support::{Hub, Peer, Pipes, config, generation, hello, read, seen_open, target};

const ON: Compression = Compression { enabled: true, min_size: 256, every_open: false };
const OFF: Compression = Compression::OFF;
const EVERY: Compression = Compression { enabled: true, min_size: 256, every_open: true };
const SIZE: usize = 200_000;

async fn hub(compression: Compression) -> Hub {
    let net = Arc::new(Pipes::default());
    let mut config = config();
    config.compression = compression;
    let explorer = Explorer::start(config, net.clone()).await.unwrap();
    Hub { explorer, net }
}

/// A node that is online, whose services ask for this.
async fn node(hub: &Hub, compression: Compression, asks: Option<&str>) -> Peer {
    let hello = hello(Role::Node, "edge-7", generation(1, 0, 1));
    let node = Peer::dial_as(hub.line().await, &hello, &DialSecurity::Plain, compression).await.unwrap();
    let info = |name: &str| ServiceInfo {
        name: name.parse().unwrap(),
        framing: None,
        compression: asks.map(str::to_owned),
        health: HealthState::Ok,
    };
    let services = Services { services: vec![info("echo"), info("mirror")], ..Services::default() };
    node.session.send_control(ControlMessage::Services(services)).await.unwrap();
    hub.until("edge-7", |view| view.services.len() == 2).await;
    node
}

async fn client(hub: &Hub, compression: Compression) -> Peer {
    let hello = hello(Role::Client, "laptop", generation(200, 0, 1));
    Peer::dial_as(hub.line().await, &hello, &DialSecurity::Plain, compression).await.unwrap()
}

fn sent(peer: &Peer) -> usize {
    usize::try_from(peer.stats.bytes_out.load(Ordering::Relaxed)).unwrap()
}

fn text(len: usize) -> Vec<u8> {
    b"the same line again and again\n".iter().copied().cycle().take(len).collect()
}

#[tokio::test]
async fn each_line_of_a_stream_is_compressed_as_its_own_ends_agreed() {
    for (what, at_hub, at_node, asks, at_client, to_node, to_hub) in [
        ("the service asks", ON, ON, Some("lz4"), ON, true, false),
        ("the client asks", ON, ON, None, EVERY, false, true),
        ("both ask", ON, ON, Some("lz4"), EVERY, true, true),
        ("nobody asks", ON, ON, None, ON, false, false),
        ("the explorer is off", OFF, ON, Some("lz4"), EVERY, false, false),
        ("the node is off", ON, OFF, Some("lz4"), EVERY, false, true),
        ("the client is off", ON, ON, Some("lz4"), OFF, true, false),
        ("the service asks for something else", ON, ON, Some("zstd"), ON, false, false),
    ] {
        let hub = hub(at_hub).await;
        let node = node(&hub, at_node, asks).await;
        let client = client(&hub, at_client).await;
        let mut substream = client.stream("edge-7/echo").await.unwrap();
        let open = seen_open(&mut substream).await;
        assert_eq!(open.compression.as_deref(), to_node.then_some("lz4"), "{what}");
        let before = [sent(&client), sent(&node)];
        let payload = text(SIZE);
        substream.send(RecordKind::Data, &payload).await.unwrap();
        assert!(read(&mut substream, SIZE).await == payload, "{what}");
        let bytes = [sent(&client) - before[0], sent(&node) - before[1]];
        assert_eq!(bytes.map(|bytes| bytes < SIZE / 3), [to_hub, to_node], "{what}: {bytes:?}");
    }
}

#[tokio::test]
async fn what_a_client_announces_for_its_own_line_is_not_passed_on() {
    let hub = hub(ON).await;
    let _node = node(&hub, ON, None).await;
    let client = client(&hub, ON).await;
    let open = Open::stream(target("edge-7/echo")).compressed();
    let mut substream = client.session.open(open).await.unwrap();
    assert_eq!(seen_open(&mut substream).await.compression, None);
}

#[tokio::test]
async fn the_limit_of_a_body_is_about_what_comes_out() {
    let hub = hub(ON).await;
    let _node = node(&hub, ON, Some("lz4")).await;
    let client = client(&hub, EVERY).await;
    // The API reads bodies itself. This one is a few ten thousand bytes on the wire.
    let open = Open::call(target("@explorer/api"), Duration::from_secs(60));
    let mut substream = client.session.open(open).await.unwrap();
    let mut sending = substream.send(RecordKind::Head, &encode_head(&json!({})).unwrap()[4..]).await;
    let before = sent(&client);
    let piece = vec![b' '; 1 << 20];
    let mut total = 0;
    while sending.is_ok() && total <= 2 * CALL_BODY_MAX {
        sending = substream.send(RecordKind::Data, &piece).await;
        total += piece.len();
    }
    let answer = loop {
        match substream.next().await {
            Ok(Record::Head(_)) => {}
            answer => break format!("{answer:?}"),
        }
    };
    assert!(answer.contains("too_large") || answer.contains("TooLarge"), "{answer}");
    assert!(sent(&client) - before < CALL_BODY_MAX / 20, "{} bytes", sent(&client) - before);
}
