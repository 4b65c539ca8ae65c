//! An explorer on several runtimes: a connection lives where it landed, and a visitor of a published port where the
//! session of its node is. To see where something lives, the other runtime is stopped: what lives there stands still.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use reachback_explorer::{Explorer, Publication};
use reachback_link::RealNet;
use reachback_wire::Role;
use support::{Line, Peer, config, generation, hello};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

/// A runtime on a thread of its own that moves only when it is told to.
struct Stoppable {
    handle: Handle,
    run: Option<std::sync::mpsc::Sender<()>>,
    stop: mpsc::UnboundedSender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Stoppable {
    fn stopped() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (run, running) = std::sync::mpsc::channel();
        let (stop, mut stopping) = mpsc::unbounded_channel();
        let thread = thread::spawn(move || {
            while running.recv().is_ok() {
                runtime.block_on(stopping.recv());
            }
        });
        Self { handle, run: Some(run), stop, thread: Some(thread) }
    }

    fn run(&self) {
        self.run.as_ref().unwrap().send(()).unwrap();
    }

    fn stop(&self) {
        self.stop.send(()).unwrap();
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        drop(self.run.take());
        // One that runs ends now, one that is stopped has ended.
        let _ = self.stop.send(());
        let _ = self.thread.take().unwrap().join();
    }
}

/// A node over a real connection.
async fn node(address: SocketAddr, id: &str) -> (Peer, JoinSet<()>) {
    let mut far = TcpStream::connect(address).await.unwrap();
    let (near, mut pipe) = tokio::io::duplex(64 * 1024);
    let mut bridge = JoinSet::new();
    bridge.spawn(async move {
        drop(tokio::io::copy_bidirectional(&mut pipe, &mut far).await);
    });
    let peer = Peer::dial(Line::to(near), &hello(Role::Node, id, generation(1, 0, 1))).await.unwrap();
    peer.declare(&["echo"]).await;
    (peer, bridge)
}

/// Whether a visitor of this port gets its bytes back.
async fn answers(port: SocketAddr) -> bool {
    let visit = async {
        loop {
            // The port follows the registry a moment later.
            let Ok(mut visitor) = TcpStream::connect(port).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            visitor.write_all(b"hello").await.unwrap();
            visitor.shutdown().await.unwrap();
            let mut answer = Vec::new();
            visitor.read_to_end(&mut answer).await.unwrap();
            return answer.ends_with(b"hello");
        }
    };
    timeout(Duration::from_secs(20), visit).await.expect("an answer")
}

#[tokio::test]
async fn connections_are_spread_and_visitors_join_the_session_of_their_node() {
    let second = Stoppable::stopped();
    let mut config = config();
    config.runtimes.push(second.handle.clone());
    for target in ["edge-1/echo", "edge-2/echo"] {
        config
            .publish
            .push(Publication { listen: "127.0.0.1:0".parse().unwrap(), target: target.parse().unwrap() });
    }
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let address = explorer.addresses().listen[0].socket_addr().unwrap();
    let ports: Vec<_> =
        explorer.addresses().published.iter().map(|(local, _)| local.socket_addr().unwrap()).collect();

    // The first lands on the runtime that started the explorer, the second on the one that stands still.
    let (_first, _bridge_1) = node(address, "edge-1").await;
    assert!(answers(ports[0]).await);
    let coming = node(address, "edge-2");
    tokio::pin!(coming);
    assert!(timeout(Duration::from_millis(300), &mut coming).await.is_err(), "nobody is there to welcome it");
    second.run();
    let (_second, _bridge_2) = timeout(Duration::from_secs(20), coming).await.unwrap();
    assert!(answers(ports[1]).await);

    // Visitors of the first don't notice that the other runtime stands still, visitors of the second do.
    second.stop();
    for _ in 0..4 {
        assert!(answers(ports[0]).await);
    }
    let waiting = answers(ports[1]);
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "its session stands still");
    second.run();
    assert!(waiting.await);

    // Everything ends, wherever it lives.
    timeout(Duration::from_secs(20), explorer.shutdown()).await.unwrap();
}
