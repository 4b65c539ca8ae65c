//! A whole explorer, and a stranger at its port: TLS, the tunnel, HTTP and raw JSON, told apart by their first bytes.
//!
//! Whatever comes, in whatever pieces: no task of the explorer panics, it holds nothing of the stranger afterwards, and it
//! still answers the next one.

use std::{io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reachback_explorer::{Explorer, ExplorerConfig, Stats};
use reachback_link::{Address, ListenAddress, Listener, MemoryBudget, Net, Transport};
use reachback_wire::{Code, Dialer, DialerStep, FrameDecoder, Stage, frame::MAGIC};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::yield_now,
    time::timeout,
};

use super::{Verdict, hello, pieces, situation};

/// What is kept of an answer: enough to tell what it is. A peer that asks much is answered much.
const KEPT: usize = 64 * 1024;

/// Longer than any deadline of a connection that says nothing more. The clock is the test's own and jumps.
const PATIENCE: Duration = Duration::from_secs(120);

/// A question that every explorer without a lock on its door answers.
const WELL: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

thread_local! {
    static HOUSE: House = House::build();
}

/// An explorer with two doors, in memory.
struct House {
    runtime: Runtime,
    net: Arc<Doors>,
    stats: Arc<Stats>,
    budget: Arc<MemoryBudget>,
    _explorer: Explorer,
}

/// Listeners in the order in which they were asked for.
#[derive(Default)]
struct Doors(Mutex<Vec<mpsc::Sender<DuplexStream>>>);

/// The first byte chooses the door (everybody is believed; TLS only) and whether the stranger stays on the line.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (selector, cuts, bytes) = situation(input);
    HOUSE.with(|house| {
        house.runtime.block_on(async {
            let answer = house.visit(usize::from(selector % 2), bytes, cuts, selector & 2 == 0).await;
            house.is_well().await;
            understand(&answer)
        })
    })
}

impl House {
    fn build() -> Self {
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let net = Arc::new(Doors::default());
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = ExplorerConfig::new("hub-1".parse().expect("an id"));
        config.listen.push("127.0.0.1:9002".parse().expect("an address"));
        config.listen.push("0.0.0.0:9003".parse().expect("an address"));
        config.advertise.push("hub.example.com:9003".parse().expect("an address"));
        config.state_dir = Some(directory.path().to_owned());
        let (stats, budget) = (config.stats.clone(), config.budget.clone());
        let explorer = runtime.block_on(Explorer::start(config, net.clone())).expect("an explorer");
        // Its keys are in memory by now, and nobody is left to tidy up afterwards.
        drop(directory);
        Self { runtime, net, stats, budget, _explorer: explorer }
    }

    /// Says all of it and reads what comes back, to the end or for as long as anybody would wait.
    async fn visit(&self, door: usize, bytes: &[u8], cuts: [usize; 2], hang_up: bool) -> Vec<u8> {
        let (mut from, mut to) = tokio::io::split(self.net.pipe(door).await);
        let talking = async {
            for piece in pieces(bytes, cuts) {
                if to.write_all(&piece).await.is_err() {
                    return;
                }
                yield_now().await;
            }
            if hang_up {
                // Gone already: then there is nothing to hang up.
                let _ = to.shutdown().await;
            }
        };
        let mut answer = Vec::new();
        let listening = async {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut chunk).await {
                answer.extend_from_slice(&chunk[..n.min(KEPT - answer.len())]);
            }
        };
        // Over time is not an error: a session that stands goes on.
        let _ = timeout(PATIENCE, async { tokio::join!(talking, listening) }).await;
        answer
    }

    async fn is_well(&self) {
        let answer = self.visit(0, WELL, [usize::MAX; 2], true).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "it answers {}", answer.escape_ascii());
        let panics =
            self.stats.snapshot().into_iter().find(|(name, _)| *name == "panics").expect("the counter");
        assert_eq!(panics.1, 0, "a task panicked");
        let gone = async {
            while self.budget.used() > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        assert!(timeout(PATIENCE, gone).await.is_ok(), "it keeps {} bytes", self.budget.used());
    }
}

impl Doors {
    async fn pipe(&self, door: usize) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let listener = self.0.lock()[door].clone();
        listener.send(far).await.expect("somebody accepts");
        near
    }
}

impl Net for Doors {
    fn connect<'a>(&'a self, _to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async { Err(io::ErrorKind::NetworkUnreachable.into()) })
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(16);
            self.0.lock().push(sender);
            Ok(Listener::memory(receiver, on.to_string()))
        })
    }
}

/// What an answer says, in the language in which it was given.
fn understand(answer: &[u8]) -> Verdict {
    if answer.is_empty() {
        return Verdict::Incomplete;
    }
    if answer.starts_with(&MAGIC) {
        let mut frames = FrameDecoder::new(Stage::HelloReply);
        frames.push(answer.to_vec().into());
        let frame = frames.next().expect("frames of ours are right").expect("and whole");
        let (dialer, _) = Dialer::new(&hello::hello());
        return match dialer.on_frame(frame).expect("an answer to a Hello") {
            DialerStep::Denied(refusal) => Verdict::Refused(refusal.code),
            DialerStep::Welcome(_) | DialerStep::Challenge(..) | DialerStep::Enrolled(_) => Verdict::Fine,
        };
    }
    // Version 1.0 is answered in version 1.0.
    if let Some([b'0' | b'1', b' ', class, ..]) = answer.strip_prefix(b"HTTP/1.") {
        return if *class == b'2' { Verdict::Fine } else { Verdict::Refused(Code::BadFrame) };
    }
    match answer[0] {
        // A TLS record: an alert, or the server's part of a handshake.
        21 => Verdict::Refused(Code::HandshakeFailed),
        22 => Verdict::Fine,
        b'{' | b'[' => {
            let text = String::from_utf8_lossy(answer);
            if text.contains("\"result\"") { Verdict::Fine } else { Verdict::Refused(Code::BadFrame) }
        }
        _ => panic!("an answer in no language: {}", answer[..answer.len().min(80)].escape_ascii()),
    }
}
