//! The SOCKS server, spoken to byte by byte and by a real client.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use reachback_client::{ClientOptions, LineState, Random, Reconnecting, Socks};
use reachback_link::{Address, Net, Proxied, RealNet, Substream, Transport};
use reachback_wire::{Code, NodeId, OpenKind, Record, RecordKind, Refusal, Target};
use support::{Hub, Peer, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct World {
    _hub: Hub,
    peer: Peer,
    client: Reconnecting,
    socks: Socks,
}

async fn world(via: Option<&str>) -> World {
    let mut hub = Hub::bind().await;
    let options = ClientOptions::new("ann".parse().unwrap(), Random::seeded(3)).unwrap();
    let client = Reconnecting::start(Arc::new(RealNet), hub.address(), options);
    let peer = hub.admit().await;
    let mut states = client.states();
    within("the session", states.wait_for(|state| matches!(state, LineState::Serving { .. }))).await.unwrap();
    let via = via.map(|node| node.parse::<NodeId>().unwrap());
    let on = "127.0.0.1:0".parse().unwrap();
    let socks = Socks::start(&RealNet, client.uplink(), &on, via).await.unwrap();
    World { _hub: hub, peer, client, socks }
}

impl World {
    fn address(&self) -> Address {
        self.socks.local().to_string().parse().unwrap()
    }

    async fn connect(&self) -> Transport {
        RealNet.connect(&self.address()).await.unwrap()
    }

    async fn accept(&mut self, target: &str) -> Substream {
        let mut inbound = within("an open", self.peer.incoming.next()).await.unwrap();
        let open = inbound.open().await.unwrap();
        assert_eq!((open.kind, open.target), (OpenKind::Stream, Some(target.parse::<Target>().unwrap())));
        inbound.answer(async { Ok(()) }).await.unwrap().0
    }
}

fn request(name: &str, port: u16) -> Vec<u8> {
    let mut request = vec![5, 1, 0, 3, name.len() as u8];
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    request
}

async fn hear<const N: usize>(visitor: &mut Transport) -> [u8; N] {
    let mut bytes = [0; N];
    within("an answer", visitor.read_exact(&mut bytes)).await.unwrap();
    bytes
}

async fn closed(visitor: &mut Transport) {
    let end = within("the close", visitor.read(&mut [0; 8])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_service_is_reached_by_its_name_and_bytes_go_both_ways() {
    let mut world = world(None).await;
    let mut visitor = world.connect().await;
    // Byte by byte, and with the first words behind the request.
    let mut all = vec![5, 2, 2, 0];
    all.extend_from_slice(&request("RPC.Edge-7.", 80));
    all.extend_from_slice(b"question");
    for byte in all {
        visitor.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(hear::<2>(&mut visitor).await, [5, 0]);
    let mut service = world.accept("edge-7/rpc").await;
    assert_eq!(hear::<10>(&mut visitor).await, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut question = Vec::new();
    while question.len() < 8 {
        let Record::Data(bytes) = within("the question", service.next()).await.unwrap() else { panic!() };
        question.extend_from_slice(&bytes);
    }
    assert_eq!(question, b"question");
    service.send(RecordKind::Data, b"answer").await.unwrap();
    service.finish(None).await.unwrap();
    assert_eq!(&hear::<6>(&mut visitor).await, b"answer");
    visitor.shutdown().await.unwrap();
    assert!(matches!(within("the half-close", service.next()).await, Ok(Record::End(None))));
}

#[tokio::test]
async fn with_a_way_every_host_is_behind_that_node() {
    let mut world = world(Some("gate")).await;
    let ipv6 = [&[5u8, 1, 0, 4][..], &[0; 15], &[1], &[0, 22]].concat();
    for (request, target) in [
        (request("db.internal", 5432), "gate/db.internal:5432"),
        (vec![5, 1, 0, 1, 10, 0, 0, 5, 0, 22], "gate/10.0.0.5:22"),
        (ipv6, "gate/[::1]:22"),
    ] {
        let mut visitor = world.connect().await;
        visitor.write_all(&[5, 1, 0]).await.unwrap();
        assert_eq!(hear::<2>(&mut visitor).await, [5, 0]);
        visitor.write_all(&request).await.unwrap();
        let _service = world.accept(target).await;
        assert_eq!(hear::<10>(&mut visitor).await[1], 0, "{target}");
    }
}

#[tokio::test]
async fn refusals_are_said_in_the_visitors_language() {
    let mut world = world(None).await;
    for (code, reply) in [
        (Code::Denied, 2),
        (Code::NodeOffline, 3),
        (Code::NodeNotFound, 4),
        (Code::ServiceNotFound, 4),
        (Code::Timeout, 4),
        (Code::ServiceUnreachable, 5),
        (Code::Saturated, 1),
    ] {
        let mut visitor = world.connect().await;
        visitor.write_all(&[5, 1, 0]).await.unwrap();
        assert_eq!(hear::<2>(&mut visitor).await, [5, 0]);
        visitor.write_all(&request("rpc.edge-7", 80)).await.unwrap();
        let inbound = within("an open", world.peer.incoming.next()).await.unwrap();
        inbound.refuse(Refusal::new(code, "because")).await;
        assert_eq!(hear::<10>(&mut visitor).await[..2], [5, reply], "{code}");
        closed(&mut visitor).await;
    }
    // What leads nowhere does not even ask the explorer.
    for (request, reply) in [
        (request("edge-7", 80), 4),
        (vec![5, 1, 0, 1, 10, 0, 0, 5, 0, 22], 4),
        ([&[5, 2, 0, 3, 10][..], b"rpc.edge-7", &[0, 80]].concat(), 7),
        (vec![5, 1, 0, 9], 8),
    ] {
        let mut visitor = world.connect().await;
        visitor.write_all(&[5, 1, 0]).await.unwrap();
        assert_eq!(hear::<2>(&mut visitor).await, [5, 0]);
        visitor.write_all(&request).await.unwrap();
        assert_eq!(hear::<10>(&mut visitor).await[..2], [5, reply], "{request:?}");
        closed(&mut visitor).await;
    }
    assert!(tokio::time::timeout(Duration::ZERO, world.peer.incoming.next()).await.is_err());
}

#[tokio::test]
async fn what_is_no_socks_is_closed() {
    let world = world(None).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[4, 1, 0, 22, 10, 0, 0, 5, 0]] {
        let mut visitor = world.connect().await;
        visitor.write_all(garbage).await.unwrap();
        closed(&mut visitor).await;
    }
    let mut visitor = world.connect().await;
    visitor.write_all(&[5, 1, 2]).await.unwrap();
    assert_eq!(hear::<2>(&mut visitor).await, [5, 0xff]);
    closed(&mut visitor).await;
    drop(world.client);
}

#[tokio::test]
async fn our_own_proxy_client_and_this_server_understand_each_other() {
    let mut world = world(None).await;
    let proxy = format!("socks5://{}", world.address()).parse().unwrap();
    let net = Proxied::new(Arc::new(RealNet), proxy);
    let to = "rpc.edge-7:80".parse().unwrap();
    let (dialled, mut service) =
        within("the connection", async { tokio::join!(net.connect(&to), world.accept("edge-7/rpc")) }).await;
    let mut visitor = dialled.unwrap();
    service.send(RecordKind::Data, b"hello").await.unwrap();
    assert_eq!(&hear::<5>(&mut visitor).await, b"hello");
    let address = world.address();
    within("the shutdown", world.socks.shutdown()).await;
    assert!(RealNet.connect(&address).await.is_err());
}

#[tokio::test]
async fn a_unix_socket_goes_with_its_server() {
    let world = world(None).await;
    let path = std::env::temp_dir().join(format!("reachback-socks-{}.sock", std::process::id()));
    let on = path.to_str().unwrap().parse().unwrap();
    for _ in 0..2 {
        let socks = Socks::start(&RealNet, world.client.uplink(), &on, None).await.unwrap();
        RealNet.connect(&Address::Unix(path.clone())).await.unwrap();
        within("the shutdown", socks.shutdown()).await;
        assert!(!path.exists());
    }
}
