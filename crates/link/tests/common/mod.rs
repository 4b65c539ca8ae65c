//! Two sessions joined by a pipe, with their drivers running; what every contract test starts from.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{sync::Arc, time::Duration};

use reachback_link::{
    ControlInbox, Inbound, Incoming, MemoryBudget, Session, SessionConfig, SessionEnd, Side, Stats,
    Substream, Transport, session,
};
use reachback_wire::{Open, Target};
use tokio::task::JoinHandle;

/// One end of a link: its session and the task that drives it, stopped when the end is dropped.
pub struct End {
    pub session: Session,
    pub incoming: Incoming,
    pub control: ControlInbox,
    pub stats: Arc<Stats>,
    pub budget: Arc<MemoryBudget>,
    pub driver: JoinHandle<SessionEnd>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Settings of one end.
pub struct Settings {
    pub heartbeat: Duration,
    pub max_open: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(10), max_open: 1024 }
    }
}

/// Starts one end on a transport.
#[allow(clippy::disallowed_methods, reason = "the end owns the task and stops it")]
pub fn end(transport: Transport, side: Side, settings: &Settings) -> End {
    let stats = Arc::new(Stats::default());
    let budget = Arc::new(MemoryBudget::new(1 << 30));
    let config = SessionConfig {
        side,
        heartbeat: settings.heartbeat,
        max_open: settings.max_open,
        stats: Arc::clone(&stats),
        budget: Arc::clone(&budget),
    };
    let (session, incoming, control, driver) = session(transport, config);
    End { session, incoming, control, stats, budget, driver: tokio::spawn(driver) }
}

/// A dialer and an acceptor joined in memory.
pub fn pair() -> (End, End) {
    pair_with(64 * 1024, &Settings::default(), &Settings::default())
}

/// As [`pair`], with a pipe of this capacity and these settings.
pub fn pair_with(capacity: usize, dialer: &Settings, acceptor: &Settings) -> (End, End) {
    let (near, far) = Transport::memory_pair(capacity);
    (end(near, Side::Dialer, dialer), end(far, Side::Acceptor, acceptor))
}

/// A dialer and an acceptor joined by a real TCP connection on loopback.
pub async fn tcp_pair() -> (End, End) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    (
        end(near.into(), Side::Dialer, &Settings::default()),
        end(far.into(), Side::Acceptor, &Settings::default()),
    )
}

/// An open for a service of this name.
pub fn to(service: &str) -> Open {
    Open::stream(format!("n/{service}").parse::<Target>().unwrap())
}

/// Opens a substream from `opener` and takes it at `acceptor`.
pub async fn open(opener: &Session, acceptor: &mut Incoming) -> (Substream, Substream) {
    let (opened, accepted) = tokio::join!(opener.open(to("s")), async {
        let mut inbound: Inbound = acceptor.next().await.unwrap();
        inbound.open().await.unwrap();
        inbound.answer(async { Ok(()) }).await.unwrap().0
    });
    (opened.unwrap(), accepted)
}
