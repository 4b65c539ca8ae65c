//! `NODE/HOST:PORT`: what a node with `allow_dial` reaches for others, and above all what it does not.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use reachback_client::Random;
use reachback_link::{Address, ListenAddress, Listener, Net, OpenError, RealNet, Substream, Transport};
use reachback_node::{Node, NodeConfig};
use reachback_wire::{Code, Open, OpenKind, Record, RecordKind, Refusal, Target};
use support::{Hub, PATIENCE, Peer, node_id, stream, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The real network with names of our own. A name that is asked for twice has other addresses the second time.
struct Names {
    names: BTreeMap<&'static str, Vec<&'static str>>,
    asked: AtomicUsize,
    dialled: parking_lot::Mutex<Vec<String>>,
}

impl Net for Names {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        self.dialled.lock().push(to.to_string());
        RealNet.connect(to)
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        RealNet.listen(on)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let Some(addresses) = self.names.get(host) else { return RealNet.resolve(host, port) };
        let again = self.asked.fetch_add(1, Ordering::Relaxed) > 0;
        let addresses: &[&str] = if again { &["203.0.113.1"] } else { addresses };
        let addresses = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
        Box::pin(async { Ok(addresses) })
    }
}

/// A node called edge-7 that allows these, its explorer's end, and its network.
async fn world(allow: &[&str], names: &[(&'static str, &[&'static str])]) -> (Node, Peer, Arc<Names>) {
    let mut hub = Hub::bind().await;
    let mut config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
    config.random = Random::seeded(5);
    config.allow_dial = allow.iter().map(|rule| rule.parse().unwrap()).collect();
    let names = names.iter().map(|(name, addresses)| (*name, addresses.to_vec())).collect();
    let net = Arc::new(Names { names, asked: AtomicUsize::new(0), dialled: parking_lot::Mutex::default() });
    let node = Node::start(config, net.clone()).unwrap();
    let peer = hub.admit().await;
    net.dialled.lock().clear();
    (node, peer, net)
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn refused(peer: &Peer, open: Open) -> Refusal {
    match within("the refusal", peer.session.open(open)).await {
        Err(OpenError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    within("the node's dial", listener.accept()).await.unwrap().0
}

async fn pass_bytes(mut stream: Substream, mut socket: TcpStream) {
    stream.send(RecordKind::Data, b"question").await.unwrap();
    let mut question = [0; 8];
    within("the question", socket.read_exact(&mut question)).await.unwrap();
    assert_eq!(&question, b"question");
    socket.write_all(b"answer").await.unwrap();
    let answer = within("the answer", stream.next()).await.unwrap();
    assert!(matches!(answer, Record::Data(bytes) if bytes == b"answer"[..]));
}

#[tokio::test]
async fn without_a_rule_there_is_no_way_to_any_host() {
    let (listener, port) = listener().await;
    let (_node, peer, net) = world(&[], &[]).await;
    for target in [format!("edge-7/127.0.0.1:{port}"), format!("edge-7/localhost:{port}")] {
        let refusal = refused(&peer, stream(&target)).await;
        assert_eq!(refusal.code, Code::Denied, "{refusal}");
        assert!(refusal.message.contains("--allow-dial"), "{refusal}");
    }
    assert!(net.dialled.lock().is_empty());
    assert!(tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await.is_err());
}

#[tokio::test]
async fn an_allowed_address_is_reached_and_its_neighbours_are_not() {
    let (listener, port) = listener().await;
    let rule = format!("127.0.0.1:{port}");
    let (_node, peer, net) = world(&[&rule, "10.0.0.0/8:22"], &[]).await;
    let substream = within("the open", peer.session.open(stream(&format!("edge-7/127.0.0.1:{port}")))).await;
    pass_bytes(substream.unwrap(), accept(&listener).await).await;
    net.dialled.lock().clear();

    for target in [
        format!("edge-7/127.0.0.2:{port}"),
        format!("edge-7/127.0.0.1:{}", port ^ 1),
        format!("edge-7/[::1]:{port}"),
        "edge-7/10.0.0.1:23".to_owned(),
        "edge-7/169.254.169.254:22".to_owned(),
    ] {
        let refusal = refused(&peer, stream(&target)).await;
        assert_eq!(refusal.code, Code::Denied, "{target}: {refusal}");
        assert!(
            refusal.message.contains(&format!("127.0.0.1/32:{port}, 10.0.0.0/8:22")),
            "says what is: {refusal}"
        );
    }
    assert!(net.dialled.lock().is_empty(), "nothing of it was dialled");

    let call = Open::call(format!("edge-7/127.0.0.1:{port}").parse::<Target>().unwrap(), PATIENCE);
    assert_eq!(call.kind, OpenKind::Call);
    assert_eq!(refused(&peer, call).await.code, Code::BadFrame);
    let other = refused(&peer, stream(&format!("edge-8/127.0.0.1:{port}"))).await;
    assert_eq!(other.code, Code::NotHere, "{other}");
}

#[tokio::test]
async fn mapped_spellings_of_an_address_pass_no_rule() {
    let (_listener, port) = listener().await;
    let (_node, peer, net) = world(&[&format!("[::/0]:{port}"), &format!("0.0.0.0/0:{port}")], &[]).await;
    for host in ["[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "0.0.0.0", "[::]"] {
        let refusal = refused(&peer, stream(&format!("edge-7/{host}:{port}"))).await;
        assert_eq!(refusal.code, Code::Denied, "{host}: {refusal}");
        assert!(refusal.message.contains("by itself"), "{host}: {refusal}");
    }
    assert!(net.dialled.lock().is_empty());
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_that_address_is_dialled() {
    let (listener, port) = listener().await;
    let (_node, peer, net) = world(&[&format!("127.0.0.1:{port}")], &[("db.internal", &["127.0.0.1"])]).await;
    let substream =
        within("the open", peer.session.open(stream(&format!("edge-7/db.internal:{port}")))).await;
    pass_bytes(substream.unwrap(), accept(&listener).await).await;
    assert_eq!(net.asked.load(Ordering::Relaxed), 1);
    assert_eq!(*net.dialled.lock(), [format!("127.0.0.1:{port}")], "the address, not the name");
}

#[tokio::test]
async fn one_forbidden_address_of_a_name_forbids_the_name() {
    let (listener, port) = listener().await;
    let mixed = ["127.0.0.1", "169.254.169.254"];
    let (_node, peer, net) = world(&[&format!("127.0.0.1:{port}")], &[("rebind.example", &mixed)]).await;
    let refusal = refused(&peer, stream(&format!("edge-7/rebind.example:{port}"))).await;
    assert_eq!(refusal.code, Code::Denied, "{refusal}");
    assert!(refusal.message.contains("rebind.example: 169.254.169.254 is link-local"), "{refusal}");
    assert!(net.dialled.lock().is_empty());
    drop(listener);
}

#[tokio::test]
async fn a_port_that_no_rule_has_is_refused_before_any_lookup() {
    let (_node, peer, net) = world(&["10.0.0.0/8:22"], &[("db.internal", &["10.0.0.1"])]).await;
    let refusal = refused(&peer, stream("edge-7/db.internal:23")).await;
    assert_eq!(refusal.code, Code::Denied, "{refusal}");
    assert_eq!(net.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_allowed_host_that_is_down_is_unreachable_with_the_reason() {
    let (listener, port) = listener().await;
    drop(listener);
    let rules = [format!("127.0.0.1:{port}")];
    let (_node, peer, _net) = world(&[&rules[0]], &[("empty.example", &[])]).await;
    let refusal = refused(&peer, stream(&format!("edge-7/127.0.0.1:{port}"))).await;
    assert_eq!(refusal.code, Code::ServiceUnreachable, "{refusal}");
    assert!(refusal.message.contains("refused"), "{refusal}");
    let refusal = refused(&peer, stream(&format!("edge-7/empty.example:{port}"))).await;
    assert_eq!(refusal.code, Code::ServiceUnreachable, "{refusal}");
    assert!(refusal.message.contains("no address"), "{refusal}");
}
