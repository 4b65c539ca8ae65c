//! The one task that owns the mux: everything that moves on a connection moves in its turns.
//!
//! A turn asks the crate for streams, lets it read and write, runs control, cuts off streams that hold too much
//! memory, and flushes what the layer collected. Liveness is judged last, after everything that has arrived was
//! seen, so that a process that slept does not take its own sleep for the peer's silence.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use reachback_wire::{Bye, Code, ControlMessage, Heartbeat, Liveness, LivenessAction, limits, text};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::PollSender;

use super::{
    ControlInbox, Incoming, Pulse, Session, SessionConfig, SessionEnd,
    control::{Control, Event},
    layer::{Layer, LayerIo},
    session::{Request, Shared},
    substream::Raw,
};
use crate::{Side, Transport, stats, tuning::Tuning};

/// Runs a session; its output is the end. Whoever awaits it owns the session: dropping it ends everything on it.
pub struct Driver {
    shared: Arc<Shared>,
    side: Side,
    /// Gone once the session is over: that ends every stream.
    connection: Option<yamux::Connection<LayerIo>>,
    layer: Arc<Mutex<Layer>>,
    tuning: Tuning,
    opens: VecDeque<(OwnedSemaphorePermit, oneshot::Sender<Box<Raw>>)>,
    incoming: mpsc::Sender<Box<Raw>>,
    control: Option<Control>,
    inbox: Option<PollSender<Box<ControlMessage>>>,
    /// Ours, to be sent as soon as control has room.
    heartbeat: Option<Heartbeat>,
    /// A message whose turn comes when control has room.
    unsent: Option<Box<ControlMessage>>,
    probes: BTreeMap<u64, oneshot::Sender<()>>,
    next_probe: u64,
    opened: u64,
    roll_at: u64,
    begun: Instant,
    interval: Duration,
    liveness: Liveness,
    received: u64,
    /// What had been received when a sleep of ours was last forgiven to the peer.
    forgiven_at: Option<u64>,
    wake_at: Pin<Box<Sleep>>,
    closing: Option<(SessionEnd, Instant)>,
}

/// The control substream is the dialer's first.
const CONTROL_STREAM: u32 = 1;

/// Probes are heartbeats of their own numbering, so that liveness does not take them for its own.
const FIRST_PROBE: u64 = 1 << 63;

/// Builds a session on an established transport.
pub fn session(transport: Transport, config: SessionConfig) -> (Session, Incoming, ControlInbox, Driver) {
    let shared = Shared::new(&config);
    stats::count(&config.stats.sessions_started);
    transport.watch_over(config.rules, config.heartbeat);
    let layer = Arc::new(Mutex::new(Layer::new(transport, Arc::clone(&shared))));
    let mode = match config.side {
        Side::Dialer => yamux::Mode::Client,
        Side::Acceptor => yamux::Mode::Server,
    };
    let connection = yamux::Connection::new(LayerIo(Arc::clone(&layer)), mux_config(), mode);
    // As many as the mux lets exist: it never overflows.
    let (incoming, accepted) = mpsc::channel(limits::MUX_STREAMS_MAX);
    let (inbox, control_inbox) = Control::channel();
    let begun = Instant::now();
    let mut driver = Driver {
        shared: Arc::clone(&shared),
        side: config.side,
        connection: Some(connection),
        layer,
        tuning: Tuning::new(config.congestion),
        opens: VecDeque::new(),
        incoming,
        control: None,
        inbox: Some(inbox),
        heartbeat: None,
        unsent: None,
        probes: BTreeMap::new(),
        next_probe: FIRST_PROBE,
        opened: 0,
        roll_at: limits::STREAM_IDS_BEFORE_ROLL,
        begun,
        interval: config.heartbeat,
        liveness: Liveness::new(config.heartbeat, Duration::ZERO)
            .with_silence(config.rules.silence(config.heartbeat)),
        received: 0,
        forgiven_at: None,
        wake_at: Box::pin(sleep_until(begun)),
        closing: None,
    };
    driver.follow_path();
    (Session::new(shared), Incoming(accepted), control_inbox, driver)
}

impl Future for Driver {
    type Output = SessionEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let this = self.get_mut();
        this.shared.requests().register(cx.waker());
        this.layer.lock().begin_turn();
        this.turn(cx);
        if this.shared.end().is_none() {
            this.judge(cx);
        }
        match this.shared.end() {
            Some(end) => {
                this.tear_down();
                Poll::Ready(end)
            }
            None => Poll::Pending,
        }
    }
}

impl Driver {
    fn turn(&mut self, cx: &mut Context<'_>) {
        loop {
            self.open_control(cx);
            self.take_requests();
            self.open_streams(cx);
            let accepted = self.poll_mux(cx);
            // Streams that were given up and that the mux has let go of just now make room, and it wakes nobody for
            // that. It hears of a new stream's first frame only if it was polled since, hence another turn.
            let opened = self.open_streams(cx);
            self.cut_off_victims(cx);
            let control = self.poll_control(cx);
            self.roll();
            if self.shared.end().is_some() {
                return;
            }
            if !accepted && !opened && !control {
                break;
            }
        }
        let flushed = self.layer.lock().poll_push(cx);
        if let Poll::Ready(Ok(())) = flushed
            && let Some((end, _)) = &self.closing
            && self.control.as_ref().is_some_and(Control::is_flushed)
            && !self.shared.ledger.lock().is_sending(CONTROL_STREAM)
            && self.layer.lock().is_flushed()
        {
            self.shared.set_end(end.code, end.message.clone());
        }
    }

    /// Stream numbers run out. From half of them on the session ends at the first moment nobody would notice; the
    /// dialer is back with fresh ones at once.
    fn roll(&mut self) {
        let alone = self.shared.substreams.load(Ordering::Relaxed) <= 1 && self.opens.is_empty();
        if (self.opened >= self.roll_at && alone) || self.opened >= limits::STREAM_IDS_MAX {
            self.shared
                .set_end(Code::Draining, "its stream numbers are used up, a new connection follows".into());
        }
    }

    fn take_requests(&mut self) {
        while self.unsent.is_none() {
            let Some(request) = self.shared.requests().next() else { break };
            match request {
                Request::Open(permit, reply) => self.opens.push_back((permit, reply)),
                Request::Send(message) => self.unsent = Some(message),
                Request::Probe(answered) => self.probe(answered),
            }
            self.send_unsent();
        }
        // Last, so that what was said before the goodbye goes before it.
        if let Some(end) = self.shared.requests().closing() {
            self.close(end);
        }
    }

    fn send_unsent(&mut self) {
        let Some(control) = self.control.as_mut().filter(|control| control.has_room()) else { return };
        if let Some(heartbeat) = self.heartbeat.take() {
            control.send(&ControlMessage::Heartbeat(heartbeat));
        }
        if let Some(message) = self.unsent.take() {
            control.send(&message);
        }
    }

    /// Asks now, or as soon as control has room.
    fn probe(&mut self, answered: oneshot::Sender<()>) {
        self.probes.retain(|_, waiting| !waiting.is_closed());
        self.probes.insert(self.next_probe, answered);
        let probe = Heartbeat { seq: self.next_probe, sent_ms: 0 };
        self.unsent = Some(Box::new(ControlMessage::Heartbeat(probe)));
        self.next_probe += 1;
    }

    fn close(&mut self, end: SessionEnd) {
        if self.closing.is_none() {
            if let Some(control) = &mut self.control {
                control.send(&ControlMessage::Bye(Bye { reason: end.message.clone() }));
            }
            self.closing = Some((end, Instant::now() + limits::CLOSE_FLUSH));
        }
    }

    /// The dialer's first substream.
    fn open_control(&mut self, cx: &mut Context<'_>) {
        if self.side == Side::Dialer
            && self.control.is_none()
            && let Some(stream) = self.poll_open(cx)
        {
            let raw = self.raw(stream, None);
            self.take_control(raw);
        }
    }

    /// Control begins on this stream. False if it has begun already.
    fn take_control(&mut self, raw: Raw) -> bool {
        let Some(inbox) = self.inbox.take() else { return false };
        let mut control = Control::new(self.side, raw, inbox);
        if let Some((end, _)) = &self.closing {
            control.send(&ControlMessage::Bye(Bye { reason: end.message.clone() }));
        }
        self.control = Some(control);
        true
    }

    /// True if the mux has made a stream.
    fn open_streams(&mut self, cx: &mut Context<'_>) -> bool {
        let mut opened = false;
        while let Some((permit, reply)) = self.opens.pop_front() {
            if reply.is_closed() {
                continue;
            }
            match self.poll_open(cx) {
                Some(stream) => {
                    opened = true;
                    let raw = self.raw(stream, Some(permit));
                    // If nobody waits any more the drop resets it.
                    let _ = reply.send(Box::new(raw));
                }
                None => {
                    self.opens.push_front((permit, reply));
                    break;
                }
            }
        }
        opened
    }

    /// A stream from the crate; `None` while its backlog of unacknowledged opens is full, or for ever once it failed.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Option<yamux::Stream> {
        match self.connection.as_mut()?.poll_new_outbound(cx) {
            Poll::Ready(Ok(stream)) => {
                self.opened += 1;
                Some(stream)
            }
            Poll::Ready(Err(error)) => {
                self.fail(&error);
                None
            }
            Poll::Pending => None,
        }
    }

    fn raw(&self, stream: yamux::Stream, permit: Option<OwnedSemaphorePermit>) -> Raw {
        let id = stream.id().val();
        let raw = Raw::new(stream, &self.shared);
        self.shared.ledger.lock().attach(id, raw.core(), permit);
        raw
    }

    /// Lets the crate read and write until it waits. True if a stream came in.
    fn poll_mux(&mut self, cx: &mut Context<'_>) -> bool {
        let mut accepted = false;
        while let Some(connection) = &mut self.connection {
            match connection.poll_next_inbound(cx) {
                Poll::Pending => return accepted,
                Poll::Ready(Some(Ok(stream))) => {
                    accepted = true;
                    self.accept(stream);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.fail(&error);
                    return accepted;
                }
                Poll::Ready(None) => {
                    // The layer knows why.
                    self.shared.set_end(Code::Lost, "the peer closed the connection".into());
                    return accepted;
                }
            }
        }
        accepted
    }

    fn accept(&mut self, stream: yamux::Stream) {
        let id = stream.id().val();
        let raw = self.raw(stream, None);
        if id == CONTROL_STREAM {
            if !self.take_control(raw) {
                self.shared.set_end(Code::BadFrame, "the peer opened control twice".into());
            }
            return;
        }
        if self.incoming.try_send(Box::new(raw)).is_err() {
            // Nobody accepts here (any more): the drop has reset it.
            tracing::debug!(stream = id, "a substream that nobody accepts");
        }
    }

    fn cut_off_victims(&mut self, cx: &Context<'_>) {
        let victims = self.shared.ledger.lock().victims(cx.waker());
        for core in victims.iter().filter_map(std::sync::Weak::upgrade) {
            stats::count(&self.shared.stats.substreams_over_budget);
            core.cut_off();
        }
    }

    /// True if the mux has something new to write.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> bool {
        self.send_unsent();
        let Some(control) = &mut self.control else { return false };
        let flushed = control.is_flushed();
        while let Poll::Ready(event) = control.poll(cx, &self.shared) {
            match event {
                Event::Acknowledged(seq) if seq >= FIRST_PROBE => {
                    if let Some(waiting) = self.probes.remove(&seq) {
                        // Whoever asked may have stopped waiting.
                        let _ = waiting.send(());
                    }
                }
                Event::Acknowledged(seq) => {
                    if let Some(rtt) = self.liveness.on_ack(seq, self.begun.elapsed()) {
                        self.shared.set_rtt(rtt);
                        self.shared.pulse.send_if_modified(|pulse| {
                            let first = *pulse == Pulse::Opening;
                            if first {
                                *pulse = Pulse::Live;
                            }
                            first
                        });
                    }
                }
                Event::Bye(reason) => {
                    let reason = text::sanitize(&reason, limits::END_TEXT_MAX);
                    self.shared
                        .set_goodbye(SessionEnd::new(Code::Lost, format!("closed by the peer: {reason}")));
                    return false;
                }
                Event::Broken(code, what) => {
                    // If the transport failed, that is the reason, and it is set already.
                    if self.shared.end().is_none() {
                        stats::count(&self.shared.stats.protocol_errors);
                        self.shared.set_end(code, what);
                    }
                    return false;
                }
            }
        }
        let waiting = (self.heartbeat.is_some() || self.unsent.is_some()) && control.has_room();
        waiting || (!flushed && control.is_flushed())
    }

    /// The two clocks.
    fn judge(&mut self, cx: &mut Context<'_>) {
        let now = self.begun.elapsed();
        let received = self.layer.lock().received();
        if received != self.received {
            self.received = received;
            self.liveness.on_bytes(now);
        }
        self.forgive_sleep(now);
        let mut beat = false;
        while let Some(action) = self.liveness.poll(now) {
            match action {
                LivenessAction::SendHeartbeat { seq } => {
                    beat = true;
                    let sent_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                    // A later one replaces it: control may not stand yet, or be held back by its window.
                    self.heartbeat = Some(Heartbeat { seq, sent_ms });
                }
                LivenessAction::Late => {
                    stats::count(&self.shared.stats.sessions_late);
                    self.shared.pulse.send_replace(Pulse::Late);
                }
                LivenessAction::Recovered => {
                    self.shared.pulse.send_replace(Pulse::Live);
                }
                LivenessAction::Dead(death) => {
                    self.layer.lock().abandon();
                    self.shared.set_end(Code::Lost, death.to_string());
                    return;
                }
            }
        }
        if beat {
            self.follow_path();
            self.turn(cx);
        }
        let mut wake_at = self.begun + self.liveness.next_deadline();
        if let Some((end, deadline)) = &self.closing {
            if *deadline <= Instant::now() {
                self.shared.set_end(end.code, end.message.clone());
                return;
            }
            wake_at = wake_at.min(*deadline);
        }
        if self.wake_at.deadline() != wake_at {
            self.wake_at.as_mut().reset(wake_at);
        }
        if self.wake_at.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn follow_path(&mut self) {
        if let Some(record) = self.layer.lock().tune(&mut self.tuning) {
            self.shared.set_record_size(record);
        }
    }

    /// Who was stopped or starved may not know yet what waits in its socket: a timer can come before the news of it. So
    /// the peer's silence has a quarter of an interval left then; once only, or who is always late finds nobody dead.
    fn forgive_sleep(&mut self, now: Duration) {
        let late = Instant::now().saturating_duration_since(self.wake_at.deadline());
        if late >= self.interval / 4 && self.forgiven_at != Some(self.received) {
            self.forgiven_at = Some(self.received);
            self.liveness.on_bytes(now.saturating_sub(self.interval.saturating_mul(7) / 4));
        }
    }

    /// Ends every stream and wakes everyone who waits, the reason being set.
    fn tear_down(&mut self) {
        self.connection = None;
        self.control = None;
        self.opens.clear();
        self.shared.requests().end();
        self.shared.announce_end();
    }

    fn fail(&self, error: &yamux::ConnectionError) {
        self.shared.set_end(Code::BadFrame, format!("mux: {error}"));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.set_end(Code::Cancelled, "stopped by its owner".into());
        self.tear_down();
    }
}

fn mux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_connection_receive_window(Some(limits::MUX_WINDOW_SUM));
    config.set_max_num_streams(limits::MUX_STREAMS_MAX);
    // A full record is one frame.
    config.set_split_send_size(limits::RECORD_MAX);
    config.set_read_after_close(true);
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, Congestion, MemoryBudget, SessionRules, Stats};
    use reachback_wire::Open;

    #[tokio::test]
    async fn a_session_whose_numbers_run_out_ends_when_nobody_would_notice() {
        let config = |side| SessionConfig {
            side,
            heartbeat: limits::HEARTBEAT,
            max_open: 8,
            stats: Arc::new(Stats::default()),
            budget: Arc::new(MemoryBudget::new(1 << 20)),
            congestion: Congestion::default(),
            compression: Compression::OFF,
            rules: SessionRules::default(),
        };
        let (near, far) = Transport::memory_pair(4096);
        let (dialer, _incoming, _inbox, mut driver) = session(near, config(Side::Dialer));
        let (_acceptor, mut incoming, _far_inbox, far_driver) = session(far, config(Side::Acceptor));
        driver.roll_at = 3;
        let steps = async {
            let mut live = Vec::new();
            for _ in 0..4 {
                let open = Open::stream("n/s".parse().unwrap());
                let (opened, accepted) = tokio::join!(dialer.open(open), async {
                    let mut inbound = incoming.next().await.unwrap();
                    inbound.open().await.unwrap();
                    inbound.answer(async { Ok(()) }).await.unwrap().0
                });
                live.push((opened.unwrap(), accepted));
            }
            assert_eq!(dialer.end(), None, "live substreams are not cut");
            live.clear();
            dialer.ended().await
        };
        let running = async { tokio::join!(steps, driver, far_driver).0 };
        let end = tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends");
        assert_eq!(end.code, Code::Draining);
    }
}
