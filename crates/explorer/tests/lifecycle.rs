//! Starting, being reached, and stopping, on real sockets.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use reachback_explorer::{
    Authenticator, Explorer, ExplorerConfig, NodeState, Principal, SocketConfig, SocketError, StartError,
    Verdict, Visit,
};
use reachback_link::{DialError, DialSecurity, PeerAddress, RealNet, dial};
use reachback_wire::{Code, ControlMessage, Hello, Refusal, Role};
use support::{Hub, Peer, config, generation, hello};
use tokio::net::{TcpListener, TcpStream, UnixStream};

async fn start_error(config: ExplorerConfig) -> StartError {
    match Explorer::start(config, Arc::new(RealNet)).await {
        Err(error) => error,
        Ok(_) => panic!("started"),
    }
}

#[tokio::test]
async fn the_unix_socket_speaks_the_tunnel_and_goes_with_the_explorer() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run/x.sock");
    let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
    config.socket = Some(SocketConfig::new(&path));
    let explorer = Explorer::start(config.clone(), Arc::new(RealNet)).await.unwrap();
    assert_eq!(explorer.addresses().socket.as_ref(), Some(&path));
    assert!(explorer.addresses().listen.is_empty(), "nothing listens on a network");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let address = path.to_str().unwrap().parse().unwrap();
    let established =
        dial(&RealNet, &address, &hello(Role::Client, "laptop", generation(1, 0, 1)), &DialSecurity::Plain)
            .await
            .unwrap();
    assert_eq!(established.welcome.explorer.as_ref(), "hub-1");

    match start_error(config.clone()).await {
        StartError::Socket(SocketError::InUse(place)) => assert_eq!(place.path, path),
        other => panic!("{other}"),
    }
    drop(established);
    explorer.shutdown().await;
    assert!(!path.exists());
    Explorer::start(config, Arc::new(RealNet)).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_failed_start_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let path = root.path().join("x.sock");
    std::fs::write(&path, "precious").unwrap();
    let mut config = config();
    config.socket = Some(SocketConfig::new(&path));
    let error = start_error(config.clone()).await.to_string();
    assert!(error.contains("a regular file") && error.contains("--socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

    config.socket = Some(SocketConfig::new(root.path().join("y.sock")));
    config.listen.push(taken.local_addr().unwrap().to_string().parse().unwrap());
    let error = start_error(config).await.to_string();
    assert!(error.contains("another program listens there"), "{error}");
    assert!(!root.path().join("y.sock").exists());
}

#[tokio::test]
async fn strangers_are_not_listened_to_without_the_flag() {
    let mut config = config();
    config.listen = vec!["0.0.0.0:0".parse().unwrap()];
    let error = start_error(config.clone()).await.to_string();
    assert!(error.contains("--insecure-plaintext"), "{error}");
    config.insecure_plaintext = true;
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let port = explorer.addresses().listen[0].socket_addr().unwrap().port();
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    explorer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_says_goodbye_to_everyone_and_ends_in_time() {
    let hub = Hub::start().await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    let client = hub.client().await;
    let frozen = hub.online("edge-9", generation(2, 0, 1)).await;
    frozen.freeze(true);
    let silent = hub.net.pipe().await;
    let mut stream = client.stream("edge-7/echo").await.unwrap();
    let begun = tokio::time::Instant::now();
    hub.explorer.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for peer in [&node, &client] {
        let end = peer.session.ended().await;
        assert!(end.message.contains("the explorer is stopping"), "{end}");
    }
    while let Ok(record) = stream.next().await {
        assert!(!matches!(record, reachback_wire::Record::End(_)), "a stop is no end of a stream");
    }
    drop(silent);
}

#[tokio::test]
async fn dropping_it_ends_everything() {
    let explorer = Explorer::start(config(), Arc::new(RealNet)).await.unwrap();
    let address = explorer.addresses().listen[0].socket_addr().unwrap();
    let mut connected = TcpStream::connect(address).await.unwrap();
    drop(explorer);
    let mut nothing = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut connected, &mut nothing).await;
    assert!(ended.is_err() || nothing.is_empty());
    for _ in 0..1_000 {
        if TcpStream::connect(address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{address} stays open");
}

/// Lets in whoever its owner says, as something else.
struct OnlyLocal;

impl Authenticator for OnlyLocal {
    fn admit(&self, hello: &Hello, visit: &Visit) -> Result<Verdict, Refusal> {
        match visit.peer {
            PeerAddress::Unix { uid: Some(_), .. } => {
                Ok(Principal::believed(hello.role, "renamed".parse().expect("a valid id")).into())
            }
            _ => Err(Refusal::new(Code::Unauthenticated, "come in through the Unix socket")),
        }
    }
}

#[tokio::test]
async fn an_embedding_program_can_decide_who_comes_in() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.sock");
    let mut config = config();
    config.socket = Some(SocketConfig::new(&path));
    let explorer = Explorer::start_with(config, Arc::new(RealNet), Arc::new(OnlyLocal)).await.unwrap();
    let hello = hello(Role::Node, "edge-7", generation(1, 0, 1));
    let tcp = explorer.addresses().listen[0].to_string().parse().unwrap();
    match dial(&RealNet, &tcp, &hello, &DialSecurity::Plain).await {
        Err(DialError::Denied(refusal)) => assert_eq!(refusal.code, Code::Unauthenticated),
        other => panic!("{other:?}"),
    }
    UnixStream::connect(&path).await.unwrap();
    let unix = path.to_str().unwrap().parse().unwrap();
    let established = dial(&RealNet, &unix, &hello, &DialSecurity::Plain).await.unwrap();
    assert_eq!(established.welcome.explorer.as_ref(), "hub-1");
    assert_eq!(explorer.nodes()[0].node.as_ref(), "renamed", "the principal counts, not the claim");
    explorer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_authenticator_takes_one_connection_with_it() {
    struct Panics;
    impl Authenticator for Panics {
        fn admit(&self, hello: &Hello, _visit: &Visit) -> Result<Verdict, Refusal> {
            assert_ne!(hello.id.as_ref(), "bomb", "on purpose");
            Ok(Principal::believed(hello.role, hello.id.clone()).into())
        }
    }
    let net = Arc::new(support::Pipes::default());
    let explorer = Explorer::start_with(config(), net.clone(), Arc::new(Panics)).await.unwrap();
    let hub = Hub { explorer, net };
    let bomb = Peer::dial(hub.line().await, &hello(Role::Node, "bomb", generation(1, 0, 1))).await;
    assert!(bomb.is_err());
    hub.until_count("panics", 1).await;
    let node = hub.online("edge-7", generation(1, 0, 1)).await;
    node.session.send_control(ControlMessage::Ends(reachback_wire::Ends::default())).await.unwrap();
    assert_eq!(hub.view("edge-7").unwrap().state, NodeState::Online);
}
