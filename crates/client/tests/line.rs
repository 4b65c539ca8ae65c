//! When a line dials again, on a clock that tests turn: every delay the design names.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reachback_client::{
    ClientOptions, Identity, LineState, Random, Reconnecting,
    line::{Line, LineEnd, Standing, Tenant},
};
use reachback_link::{
    Address, ListenAddress, Listener, MemoryBudget, Net, Pulse, ReconnectRules, Transport, greet,
};
use reachback_wire::{Code, ProtocolRange, Refusal, Role};
use support::{Peer, welcome};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// What the network does with one attempt after the other; after the last step every attempt fails.
enum Step {
    Refuse,
    Connect,
    Hang,
}

struct Scripted {
    steps: Mutex<VecDeque<Step>>,
    dials: mpsc::UnboundedSender<(Instant, Option<Transport>)>,
}

impl Net for Scripted {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            let step = self.steps.lock().pop_front().unwrap_or(Step::Refuse);
            let (near, far) = Transport::memory_pair(64 * 1024);
            let connects = matches!(step, Step::Connect);
            self.dials.send((Instant::now(), connects.then_some(far))).unwrap();
            match step {
                Step::Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
                Step::Connect => Ok(near),
                Step::Hang => std::future::pending().await,
            }
        })
    }

    fn listen<'a>(&'a self, _: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct Stage {
    line: Reconnecting,
    states: watch::Receiver<LineState>,
    dials: mpsc::UnboundedReceiver<(Instant, Option<Transport>)>,
}

impl Stage {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let (dialled, dials) = mpsc::unbounded_channel();
        let net = Scripted { steps: Mutex::new(steps.into_iter().collect()), dials: dialled };
        let options = ClientOptions::new("ann".parse().unwrap(), Random::seeded(11)).unwrap();
        let line = Reconnecting::start(Arc::new(net), "hub".parse().unwrap(), options);
        let states = line.states();
        Self { line, states, dials }
    }

    async fn dial(&mut self) -> Instant {
        self.dials.recv().await.unwrap().0
    }

    /// The far end of the next attempt that connects.
    async fn connection(&mut self) -> Transport {
        self.dials.recv().await.unwrap().1.expect("the script lets this attempt connect")
    }

    async fn until(&mut self, what: impl FnMut(&LineState) -> bool) -> LineState {
        self.states.wait_for(what).await.unwrap().clone()
    }

    async fn backing_off(&mut self) -> (Duration, Code, String) {
        match self.until(|state| matches!(state, LineState::BackingOff { .. })).await {
            LineState::BackingOff { until, code, reason } => (until - Instant::now(), code, reason),
            other => panic!("{other:?}"),
        }
    }
}

async fn admit(transport: Transport) -> Peer {
    Peer::new(greet(transport, ProtocolRange::SUPPORTED).await.unwrap(), &welcome()).await
}

fn around(delay: Duration, middle_ms: u64) -> bool {
    let middle = Duration::from_millis(middle_ms);
    // A millisecond for the timer's granularity.
    delay + Duration::from_millis(1) >= middle.mul_f64(0.9)
        && delay <= middle.mul_f64(1.1) + Duration::from_millis(1)
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_from_100_ms_to_30_s_and_go_on_for_ever() {
    let mut stage = Stage::new([]);
    let mut last = stage.dial().await;
    for middle in [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600].into_iter().chain([30_000; 200]) {
        let next = stage.dial().await;
        assert!(around(next - last, middle), "{:?} instead of {middle} ms", next - last);
        last = next;
    }
    let (_, _, reason) = stage.backing_off().await;
    assert!(reason.contains("hub:9002"), "the reason names the address: {reason}");
}

#[tokio::test(start_paused = true)]
async fn a_line_gives_up_only_if_it_was_told_when() {
    let (dialled, mut dials) = mpsc::unbounded_channel();
    let net = Scripted { steps: Mutex::default(), dials: dialled };
    let mut options = ClientOptions::new("ann".parse().unwrap(), Random::seeded(11)).unwrap();
    options.reconnect = ReconnectRules {
        initial_delay: Duration::from_millis(50),
        max_delay: Duration::from_millis(150),
        multiplier: 3.0,
        jitter: 0.0,
        max_attempts: Some(4),
    };
    let line = Reconnecting::start(Arc::new(net), "hub".parse().unwrap(), options);
    let mut states = line.states();
    states.wait_for(|state| *state == LineState::Stopped).await.unwrap();
    let mut at = Vec::new();
    while let Ok((when, _)) = dials.try_recv() {
        at.push(when);
    }
    let waits: Vec<_> = at.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(waits, [50, 150, 150]);
}

#[tokio::test(start_paused = true)]
async fn rules_that_make_no_sense_end_a_line_before_it_dials() {
    let (dialled, mut dials) = mpsc::unbounded_channel();
    let net = Scripted { steps: Mutex::default(), dials: dialled };
    let mut options = ClientOptions::new("ann".parse().unwrap(), Random::seeded(11)).unwrap();
    options.reconnect.multiplier = f64::NAN;
    let line = Reconnecting::start(Arc::new(net), "hub".parse().unwrap(), options);
    let mut ended = line.states();
    while ended.changed().await.is_ok() {}
    assert!(dials.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_network_fails_after_10_s_and_is_tried_again() {
    let mut stage = Stage::new([Step::Hang]);
    let first = stage.dial().await;
    let (_, code, reason) = stage.backing_off().await;
    assert_eq!(code, Code::Timeout, "{reason}");
    assert!(around(Instant::now() - first, 10_000));
    stage.dial().await;
}

#[tokio::test(start_paused = true)]
async fn an_explorer_that_says_nothing_is_handshaking_and_then_a_timeout() {
    let mut stage = Stage::new([Step::Connect]);
    let _silent = stage.connection().await;
    stage.until(|state| *state == LineState::Handshaking).await;
    let (_, code, reason) = stage.backing_off().await;
    assert_eq!(code, Code::Timeout, "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_denied_line_waits_as_long_as_it_is_told_and_says_why() {
    let mut stage = Stage::new([Step::Connect, Step::Connect]);
    let refusal = Refusal::new(Code::Replaced, "another edge-7 is here").retry_after(Duration::from_secs(60));
    let transport = stage.connection().await;
    greet(transport, ProtocolRange::SUPPORTED).await.unwrap().deny(&refusal).await;
    let denied = Instant::now();
    let (wait, code, reason) = stage.backing_off().await;
    assert!(wait > Duration::from_secs(59) && wait <= Duration::from_secs(72), "{wait:?}");
    assert_eq!(code, Code::Replaced);
    assert!(reason.contains("another edge-7 is here"), "{reason}");
    let again = admit(stage.connection().await).await;
    assert!(Instant::now() - denied >= Duration::from_secs(60));
    assert_eq!(again.hello.generation.seq, 2, "each attempt has its number");
}

#[tokio::test(start_paused = true)]
async fn nobody_can_make_a_line_wait_for_ever() {
    let mut stage = Stage::new([Step::Connect]);
    let mut refusal = Refusal::new(Code::Denied, "go away");
    refusal.retry_after_ms = Some(u64::MAX);
    let transport = stage.connection().await;
    greet(transport, ProtocolRange::SUPPORTED).await.unwrap().deny(&refusal).await;
    let (wait, ..) = stage.backing_off().await;
    assert!(wait <= Duration::from_secs(3600), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_healthy_session_the_window_decides_and_after_a_short_one_the_backoff() {
    let mut stage =
        Stage::new([Step::Refuse, Step::Refuse, Step::Refuse, Step::Connect, Step::Connect, Step::Refuse]);
    for _ in 0..3 {
        stage.dial().await;
    }
    let peer = admit(stage.connection().await).await;
    stage.until(|state| matches!(state, LineState::Serving { .. })).await;
    sleep(Duration::from_secs(31)).await;
    let cut = Instant::now();
    drop(peer);
    let transport = stage.connection().await;
    assert!(Instant::now() - cut <= Duration::from_millis(1), "the window is 0: at once");

    let peer = admit(transport).await;
    stage.until(|state| matches!(state, LineState::Serving { .. })).await;
    sleep(Duration::from_secs(1)).await;
    drop(peer);
    let (wait, ..) = stage.backing_off().await;
    assert!(around(wait, 100), "it did not last; the doubling starts afresh: {wait:?}");
    stage.dial().await;
    let (wait, ..) = stage.backing_off().await;
    assert!(around(wait, 200), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn dial_now_ends_a_wait_and_is_forgotten_while_a_session_stands() {
    let mut stage = Stage::new((0..8).map(|_| Step::Refuse).chain([Step::Connect]));
    for _ in 0..8 {
        stage.dial().await;
    }
    let (wait, ..) = stage.backing_off().await;
    assert!(wait > Duration::from_secs(10));
    let asked = Instant::now();
    stage.line.dial_now();
    let peer = admit(stage.connection().await).await;
    assert_eq!(Instant::now(), asked, "no time has passed");

    stage.until(|state| matches!(state, LineState::Serving { .. })).await;
    stage.line.dial_now();
    sleep(Duration::from_secs(5)).await;
    drop(peer);
    let (wait, ..) = stage.backing_off().await;
    let began = Instant::now();
    assert!(!wait.is_zero());
    assert!(
        stage.dial().await - began + Duration::from_millis(1) >= wait,
        "the request was not for this wait"
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_answered_heartbeat_shows_with_its_round_trip() {
    let mut stage = Stage::new([Step::Connect]);
    let _peer = admit(stage.connection().await).await;
    let state = stage.until(|state| matches!(state, LineState::Serving { pulse: Pulse::Live, .. })).await;
    let LineState::Serving { explorer, session, rtt, .. } = state else { panic!() };
    assert_eq!((explorer.as_ref(), session.0), ("hub-1", 7));
    assert!(rtt.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stop_says_goodbye_and_is_final() {
    let mut stage = Stage::new([Step::Connect]);
    let mut peer = admit(stage.connection().await).await;
    stage.until(|state| matches!(state, LineState::Serving { .. })).await;
    let Stage { line, mut states, mut dials } = stage;
    line.shutdown().await;
    let end = peer.ended().await;
    assert!(end.message.contains("shutting down"), "{end}");
    assert_eq!(*states.borrow_and_update(), LineState::Stopped);
    sleep(Duration::from_secs(3600)).await;
    assert!(dials.try_recv().is_err(), "nobody dials any more");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_wait_at_once() {
    let mut stage = Stage::new([]);
    for _ in 0..10 {
        stage.dial().await;
    }
    stage.backing_off().await;
    let asked = Instant::now();
    let Stage { line, states, .. } = stage;
    line.shutdown().await;
    assert_eq!(Instant::now(), asked);
    assert_eq!(*states.borrow(), LineState::Stopped);
}

struct Nobody;

impl Tenant for Nobody {
    fn live(&mut self, _: Standing) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn ended(&mut self, _: &LineEnd) {}

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_made_at_the_word_that_it_waits_is_for_that_wait() {
    let (dialled, mut dials) = mpsc::unbounded_channel();
    let (redial, redialled) = watch::channel(0);
    let publish = move |state| {
        if matches!(state, LineState::BackingOff { .. }) && *redial.borrow() == 0 {
            redial.send_replace(1);
        }
    };
    let line = Line {
        net: Arc::new(Scripted { steps: Mutex::default(), dials: dialled }),
        to: "hub".parse().unwrap(),
        slot: 0,
        identity: Arc::new(Identity::new(Role::Client, "ann".parse().unwrap(), Random::seeded(11)).unwrap()),
        access: reachback_client::Access::plain(),
        stats: Arc::default(),
        budget: Arc::new(MemoryBudget::new(1 << 20)),
        congestion: reachback_link::Congestion::default(),
        compression: reachback_link::Compression::OFF,
        rules: reachback_link::SessionRules::default(),
        reconnect: reachback_link::ReconnectRules::default(),
        publish: Arc::new(publish),
        redial: redialled,
        stop: CancellationToken::new(),
    };
    let dials = async {
        let mut at = Vec::new();
        while at.len() < 3 {
            at.push(dials.recv().await.unwrap().0);
        }
        at
    };
    let mut nobody = Nobody;
    let at = tokio::select! {
        ended = line.run(&mut nobody) => panic!("{ended:?}"),
        at = dials => at,
    };
    assert_eq!(at[0], at[1], "the request ended the wait at once");
    assert!(at[2] > at[1], "and only that one");
}
