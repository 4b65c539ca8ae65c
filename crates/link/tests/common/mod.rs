//! Two sessions joined by a pipe, with their drivers running; what every contract test starts from.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    fmt::Debug,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub mod bare;
pub mod raw;
pub mod tls;

use reachback_link::{
    Compression, Congestion, ControlInbox, Inbound, Incoming, MemoryBudget, Session, SessionConfig,
    SessionEnd, SessionRules, Side, Stats, StreamEnd, Substream, Transport, session,
};
use reachback_wire::{Open, Record, RecordKind, Target};
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
    pub compression: Compression,
    pub rules: SessionRules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(10),
            max_open: 1024,
            compression: Compression::default(),
            rules: SessionRules::default(),
        }
    }
}

/// Starts one end on a transport.
pub fn end(transport: Transport, side: Side, settings: &Settings) -> End {
    end_within(transport, side, settings, &Arc::new(MemoryBudget::new(1 << 30)))
}

/// As [`end`], with the memory budget of a process that may have other sessions.
#[allow(clippy::disallowed_methods, reason = "the end owns the task and stops it")]
pub fn end_within(transport: Transport, side: Side, settings: &Settings, budget: &Arc<MemoryBudget>) -> End {
    let stats = Arc::new(Stats::default());
    let budget = Arc::clone(budget);
    let config = SessionConfig {
        side,
        heartbeat: settings.heartbeat,
        max_open: settings.max_open,
        stats: Arc::clone(&stats),
        budget: Arc::clone(&budget),
        congestion: Congestion::default(),
        compression: settings.compression,
        rules: settings.rules,
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
    pair_over(Over::Tcp).await
}

/// What joins two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// A real TCP connection on loopback.
    Tcp,
    /// TLS on such a one.
    Tls,
}

impl Over {
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Tls];

    /// A new connection: who dialled, and who was dialled.
    pub async fn join(self) -> (Transport, Transport) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (near, far) = (near.unwrap().into(), far.unwrap().0.into());
        match self {
            Self::Tcp => (near, far),
            Self::Tls => tls::secured(near, far).await,
        }
    }
}

/// A dialer and an acceptor joined by a new connection.
pub async fn pair_over(over: Over) -> (End, End) {
    let (near, far) = over.join().await;
    (end(near, Side::Dialer, &Settings::default()), end(far, Side::Acceptor, &Settings::default()))
}

/// An open for a service of this name. It has more time than [`soon`] gives: the ten seconds of an open without a
/// deadline of its own are over on a machine that stands still for as long, and that would be told as a fault.
pub fn to(service: &str) -> Open {
    let target = format!("n/{service}").parse::<Target>().unwrap();
    Open::stream(target).within(Duration::from_secs(120))
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

/// The other side.
pub fn across(side: Side) -> Side {
    match side {
        Side::Dialer => Side::Acceptor,
        Side::Acceptor => Side::Dialer,
    }
}

/// Fails a test that hangs, with what it waited for. Generous: it measures nothing.
#[track_caller]
pub fn soon<F: Future>(what: &str, work: F) -> impl Future<Output = F::Output> {
    let at = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(Duration::from_secs(60), work).await {
            Ok(output) => output,
            Err(_) => panic!("{what}: still not after a minute ({at})"),
        }
    }
}

/// Waits until a figure is as wanted.
#[track_caller]
pub fn until<T: Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let begun = tokio::time::Instant::now();
        loop {
            let seen = look();
            if wanted(&seen) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: last seen {seen:?} ({at})");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Waits until this end has read so many bytes from its transport.
#[track_caller]
pub fn received(end: &End, bytes: u64) -> impl Future<Output = ()> {
    let stats = Arc::clone(&end.stats);
    until(
        "bytes read from the transport",
        move || stats.bytes_in.load(Ordering::Relaxed),
        move |n| *n >= bytes,
    )
}

/// Waits until nothing is left of any substream: no stream, no byte.
#[track_caller]
pub fn empty(end: &End) -> impl Future<Output = ()> {
    let (session, budget) = (end.session.clone(), Arc::clone(&end.budget));
    until("substreams and bytes left", move || (session.substreams(), budget.used()), |left| *left == (0, 0))
}

/// Reads to the end: all data, and how it ended. `Ok` is an `End`, after which the direction must say `Finished`.
pub async fn read_all(substream: &mut Substream) -> (Vec<u8>, Result<(), StreamEnd>) {
    let mut data = Vec::new();
    loop {
        match soon("the next record", substream.next()).await {
            Ok(Record::Data(bytes)) => data.extend_from_slice(&bytes),
            Ok(Record::End(None)) => {
                assert_eq!(soon("the end again", substream.next()).await, Err(StreamEnd::Finished));
                return (data, Ok(()));
            }
            Ok(other) => panic!("{other:?} among data"),
            Err(end) => return (data, Err(end)),
        }
    }
}

/// One message there and back, answered by the other end of the same substream.
pub async fn echo(near: &mut Substream, far: &mut Substream, message: &[u8]) {
    pass(near, far, message).await;
    pass(far, near, message).await;
}

/// One message from here to there.
pub async fn pass(from: &mut Substream, to: &mut Substream, message: &[u8]) {
    soon("sending", from.send(RecordKind::Data, message)).await.unwrap();
    let mut got = Vec::new();
    while got.len() < message.len() {
        match soon("receiving", to.next()).await.unwrap() {
            Record::Data(bytes) => got.extend_from_slice(&bytes),
            other => panic!("{other:?} among data"),
        }
    }
    assert_eq!(got, message);
}

/// Bytes that show if any is missing, doubled or out of place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
