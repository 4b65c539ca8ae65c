//! The handle everyone holds: opens substreams, sends on control, tells how the session is and why it ended.
//!
//! Handles are cheap copies; none owns the connection. What they share is here, each part behind its own short lock,
//! and the one who does the work is the [`Driver`](super::Driver).

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use reachback_wire::{Code, ControlMessage, Open, OpenKind, limits, lz4, record::RECORD_HEADER_LEN};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    OpenError, SessionEnd, Substream,
    ledger::Ledger,
    opening::{Answered, Early, negotiate},
    substream::Raw,
};
use crate::{
    Compression, Congestion, SessionRules, Side,
    memory::MemoryBudget,
    stats::{self, Stats},
};

/// What a session needs to know from its owner.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Who dialled: decides stream ids and who opens control.
    pub side: Side,
    /// Between our heartbeats; everything about liveness follows from it.
    pub heartbeat: Duration,
    /// Substreams we may have open at a time, as agreed in `Welcome`. Control is not counted.
    pub max_open: u32,
    /// Where this session counts.
    pub stats: Arc<Stats>,
    /// The process's memory for what peers send.
    pub budget: Arc<MemoryBudget>,
    /// Which congestion control the connection should have.
    pub congestion: Congestion,
    /// What both ends agreed on: [`Compression::with_peer`] of what the peer named.
    pub compression: Compression,
    /// How it watches over its connection.
    pub rules: SessionRules,
}

/// How alive the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// No heartbeat of ours has been answered yet.
    Opening,
    /// Heartbeats are answered.
    Live,
    /// Bytes arrive, but heartbeats have gone unanswered for two intervals.
    Late,
}

/// A handle to a session.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

/// What handle, driver, layer and substreams have in common.
pub(super) struct Shared {
    pub(super) stats: Arc<Stats>,
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) ledger: Mutex<Ledger>,
    /// Raw streams alive, control included.
    pub(super) substreams: AtomicUsize,
    pub(super) pulse: watch::Sender<Pulse>,
    /// Substreams may be opened from now on.
    pub(super) stands: watch::Sender<bool>,
    rtt_us: AtomicU64,
    /// Bytes that a record should have at most on this path.
    record_size: AtomicUsize,
    compression: Compression,
    requests: Requests,
    permits: Arc<Semaphore>,
    max_open: u32,
    end: Mutex<Option<SessionEnd>>,
    ended: CancellationToken,
}

/// What the driver is asked for.
pub(super) enum Request {
    /// A stream; nothing has been written on it. The permit goes into the books with it.
    Open(OwnedSemaphorePermit, oneshot::Sender<Box<Raw>>),
    /// A control message to send.
    Send(Box<ControlMessage>),
    /// A heartbeat now; told when it is answered.
    Probe(oneshot::Sender<()>),
}

/// What the driver is told. No channel: an idle one costs every session of a large fleet a kilobyte.
#[derive(Default)]
pub(super) struct Requests {
    asked: Mutex<Asked>,
    /// A place became free in the queue.
    room: Notify,
    driver: AtomicWaker,
}

#[derive(Default)]
struct Asked {
    work: VecDeque<Request>,
    /// Say goodbye and end, for this reason. A wish to end does not queue behind what can't be sent.
    closing: Option<SessionEnd>,
    /// Nobody takes anything any more.
    over: bool,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Opens a substream and waits for the peer's answer, for `open.deadline_ms` or [`limits::OPEN_TIMEOUT`] in all:
    /// for control to stand, for a permit, for the answer. Dropping the future resets the substream.
    ///
    /// # Errors
    /// [`OpenError::Refused`] and [`OpenError::Ended`] guarantee that nothing reached the service.
    pub async fn open(&self, open: Open) -> Result<Substream, OpenError> {
        self.open_with(open, None).await
    }

    /// As [`Session::open`], sending what `early` has to say before the answer comes.
    ///
    /// # Errors
    /// As [`Session::open`]; after any other error what was sent early may have reached the service.
    pub async fn open_early(&self, open: Open, early: &mut Early<'_>) -> Result<Substream, OpenError> {
        self.open_with(open, Some(early)).await
    }

    async fn open_with(&self, mut open: Open, early: Option<&mut Early<'_>>) -> Result<Substream, OpenError> {
        let allowed = open.deadline_ms.map_or(limits::OPEN_TIMEOUT, Duration::from_millis);
        let deadline = Instant::now() + allowed;
        let mut raw = match timeout_at(deadline, self.raw()).await {
            Ok(raw) => raw?,
            Err(_) if self.shared.permits.available_permits() == 0 => {
                return Err(OpenError::Saturated(self.shared.max_open));
            }
            Err(_) => return Err(OpenError::Timeout),
        };
        if open.deadline_ms.is_some() {
            // What is left of it when it is sent, however long control or a permit took.
            let left = deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
            open.deadline_ms = Some(u64::try_from(left).unwrap_or(u64::MAX));
        }
        let lz4 = self.shared.announce(&mut open);
        let answer = match timeout_at(deadline, negotiate(&mut raw, &open, early, lz4)).await {
            Ok(answer) => answer,
            Err(_) => Err(OpenError::Timeout),
        };
        match answer {
            Ok(Answered { rest, unsent }) => {
                stats::count(&self.shared.stats.substreams_opened);
                raw.counted();
                Ok(Substream::new(*raw, rest, unsent, lz4))
            }
            Err(error) => {
                if matches!(error, OpenError::Refused(_)) {
                    stats::count(&self.shared.stats.substreams_refused);
                }
                Err(error)
            }
        }
    }

    /// Sends a control message, waiting for room in the queue of [`limits::CONTROL_QUEUE`].
    ///
    /// # Errors
    /// When the session is over.
    pub async fn send_control(&self, message: ControlMessage) -> Result<(), SessionEnd> {
        self.request(Request::Send(Box::new(message))).await
    }

    /// Ends the session for this reason. The peer is told with `Bye` if the transport takes it within
    /// [`limits::CLOSE_FLUSH`]; unfinished substreams end `lost`.
    pub fn close(&self, code: Code, message: &str) {
        self.shared.requests.close(SessionEnd::new(code, message));
    }

    /// Why the session is over, once it is.
    pub fn end(&self) -> Option<SessionEnd> {
        self.shared.end()
    }

    /// Waits for the end.
    pub async fn ended(&self) -> SessionEnd {
        self.shared.ended().await
    }

    /// The peer's pulse, and its changes.
    pub fn pulse(&self) -> watch::Receiver<Pulse> {
        self.shared.pulse.subscribe()
    }

    /// The last heartbeat's round trip, through everything that was queued in front of it.
    pub fn rtt(&self) -> Option<Duration> {
        match self.shared.rtt_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        }
    }

    /// Substreams open now, both directions, without control.
    pub fn substreams(&self) -> usize {
        self.shared.substreams.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Asks the peer for a sign of life now: true if it answers within this time. Tells a ghost from a clone.
    pub async fn answers(&self, within: Duration) -> bool {
        let (answered, answer) = oneshot::channel();
        let asking = async { self.request(Request::Probe(answered)).await.is_ok() && answer.await.is_ok() };
        tokio::time::timeout(within, asking).await.unwrap_or(false)
    }

    /// Whether two handles are of one session.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    async fn raw(&self) -> Result<Box<Raw>, OpenError> {
        let mut stands = self.shared.stands.subscribe();
        let shared = &self.shared;
        let waiting = async {
            // The sender lives as long as `shared`.
            let _ = stands.wait_for(|stands| *stands).await;
            let permit = Arc::clone(&shared.permits).acquire_owned().await.ok()?;
            let (give, taken) = oneshot::channel();
            self.request(Request::Open(permit, give)).await.ok()?;
            taken.await.ok()
        };
        tokio::select! {
            raw = waiting => match raw {
                Some(raw) => Ok(raw),
                None => Err(OpenError::Ended(shared.ended().await)),
            },
            end = shared.ended() => Err(OpenError::Ended(end)),
        }
    }

    async fn request(&self, request: Request) -> Result<(), SessionEnd> {
        if self.shared.requests.send(request).await { Ok(()) } else { Err(self.ended().await) }
    }
}

impl Requests {
    /// Waits for room. False if nobody takes requests any more.
    async fn send(&self, request: Request) -> bool {
        let mut request = Some(request);
        loop {
            let mut room = pin!(self.room.notified());
            // From here on no place that becomes free is missed.
            room.as_mut().enable();
            {
                let mut asked = self.asked.lock();
                if asked.over {
                    return false;
                }
                if asked.work.len() < limits::SESSION_REQUESTS {
                    asked.work.extend(request.take());
                    drop(asked);
                    self.driver.wake();
                    return true;
                }
            }
            room.await;
        }
    }

    /// Who comes second, or after the end, changes nothing.
    fn close(&self, end: SessionEnd) {
        self.asked.lock().closing.get_or_insert(end);
        self.driver.wake();
    }

    /// For the driver: the next piece of work. It is woken when there is more.
    pub(super) fn next(&self) -> Option<Request> {
        let request = self.asked.lock().work.pop_front()?;
        self.room.notify_one();
        Some(request)
    }

    /// For the driver: the wish to end, once.
    pub(super) fn closing(&self) -> Option<SessionEnd> {
        self.asked.lock().closing.take()
    }

    /// For the driver, at the beginning of each turn: who is to be woken.
    pub(super) fn register(&self, driver: &Waker) {
        self.driver.register(driver);
    }

    /// For the driver, at its end: who waits is told by the drop of what it asked for.
    pub(super) fn end(&self) {
        let left = {
            let mut asked = self.asked.lock();
            asked.over = true;
            std::mem::take(&mut asked.work)
        };
        drop(left);
        self.room.notify_waiters();
    }
}

impl Shared {
    pub(super) fn new(config: &SessionConfig) -> Arc<Self> {
        Arc::new(Self {
            stats: Arc::clone(&config.stats),
            budget: Arc::clone(&config.budget),
            ledger: Mutex::new(Ledger::new(Arc::clone(&config.budget))),
            substreams: AtomicUsize::new(0),
            pulse: watch::Sender::new(Pulse::Opening),
            stands: watch::Sender::new(false),
            rtt_us: AtomicU64::new(0),
            record_size: AtomicUsize::new(limits::RECORD_MAX),
            compression: config.compression,
            requests: Requests::default(),
            permits: Arc::new(Semaphore::new(config.max_open as usize)),
            max_open: config.max_open,
            end: Mutex::new(None),
            ended: CancellationToken::new(),
        })
    }

    /// What the driver is asked for.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Says in our own open what was agreed, and from what size on the records of its substream are compressed then.
    fn announce(&self, open: &mut Open) -> Option<usize> {
        if self.compression.enabled && self.compression.every_open {
            open.compression = Some(lz4::NAME.to_owned());
        }
        let lz4 = self.announced(open);
        if lz4.is_none() {
            open.compression = None;
        }
        lz4
    }

    /// From what size on the records of the substream that is opened by this may be compressed, if they may be.
    pub(super) fn announced(&self, open: &Open) -> Option<usize> {
        let possible = match open.kind {
            OpenKind::Stream | OpenKind::Call => self.compression.enabled,
            OpenKind::Control => false,
        };
        (possible && open.announces_lz4()).then_some(self.compression.min_size)
    }

    /// Bytes of payload that a record should have at most on this path.
    pub(super) fn record_payload(&self) -> usize {
        // Whoever can't send holds one, and there are thousands of them.
        let size = if self.budget.is_strained() {
            limits::SMALL_RECORD
        } else {
            self.record_size.load(Ordering::Relaxed)
        };
        size - RECORD_HEADER_LEN
    }

    pub(super) fn set_record_size(&self, bytes: usize) {
        self.record_size.store(bytes.clamp(limits::RECORD_SLOW, limits::RECORD_MAX), Ordering::Relaxed);
    }

    /// Ends the session for everyone who looks. The first reason stands.
    pub(super) fn set_end(&self, code: Code, message: String) {
        let mut end = self.end.lock();
        if end.is_none() {
            stats::count(&self.stats.sessions_ended);
            *end = Some(SessionEnd { code, message });
        }
    }

    /// The peer's own words, found in what arrived before the connection closed, say more than the closing.
    pub(super) fn set_goodbye(&self, end: SessionEnd) {
        if self.end.lock().replace(end).is_none() {
            stats::count(&self.stats.sessions_ended);
        }
    }

    /// Wakes whoever waits for the end: called by the driver once the reason is final.
    pub(super) fn announce_end(&self) {
        self.permits.close();
        self.ledger.lock().close();
        self.ended.cancel();
    }

    pub(super) fn end(&self) -> Option<SessionEnd> {
        self.end.lock().clone()
    }

    pub(super) fn set_rtt(&self, rtt: Duration) {
        self.rtt_us.store(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    async fn ended(&self) -> SessionEnd {
        self.ended.cancelled().await;
        self.end().unwrap_or_else(|| SessionEnd::new(Code::Lost, "the session ended"))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("end", &self.end()).finish_non_exhaustive()
    }
}
