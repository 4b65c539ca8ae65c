//! The frame-aware layer between the yamux crate and the transport.
//!
//! The crate on a bare socket writes a header and a body with a system call each, reads the same way, stops reading
//! while a pong waits to be written (two such ends stop each other for ever) and allocates whatever a header claims.
//! This layer sees every frame pass and
//!
//! * batches: small frames are collected, a large body leaves together with what was collected in one vectored write;
//!   a read fills the crate's buffer and prefetches the next frames in one call. Buffers exist only while bytes move.
//! * answers inbound pings itself, between frames, so the crate never has a pong to write;
//! * keeps the [`ledger`](super::ledger) of what the peer made us hold;
//! * notices what ends a session before the crate does, so that the reason is known before the first reader wakes.
//!
//! It changes no frame.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::io::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use reachback_wire::{Code, limits};
use tokio::io::ReadBuf;

use super::{
    header::{self, Header, Kind},
    session::Shared,
    slot::Slot,
};
use crate::{Transport, stats, tuning::Tuning};

/// What the crate is given as its socket. The driver holds the other reference.
pub(super) struct LayerIo(pub(super) Arc<Mutex<Layer>>);

pub(super) struct Layer {
    slot: Slot,
    shared: Arc<Shared>,
    reading: Reading,
    prefetch: Prefetch,
    writing: Writing,
    /// Collected for the next write.
    collected: Vec<u8>,
    collected_from: usize,
    /// The transport took less than it was offered last time.
    blocked: bool,
    pongs: Vec<u32>,
    /// The crate's own ping that waits for its answer.
    pinged: Option<u32>,
    received: u64,
    /// Bytes that may still move in this turn of the driver.
    turn: usize,
}

enum Reading {
    Header,
    /// A header that the crate has not had all of yet.
    PassHeader {
        bytes: [u8; header::LEN],
        passed: usize,
        body: usize,
    },
    Body {
        left: usize,
    },
}

enum Writing {
    Header { bytes: [u8; header::LEN], have: usize },
    Body { left: usize },
}

impl Layer {
    pub(super) fn new(transport: Transport, shared: Arc<Shared>) -> Self {
        Self {
            slot: Slot::filled(transport),
            shared,
            reading: Reading::Header,
            prefetch: Prefetch::default(),
            writing: Writing::between_frames(),
            collected: Vec::new(),
            collected_from: 0,
            blocked: false,
            pongs: Vec::new(),
            pinged: None,
            received: 0,
            turn: limits::TURN_BYTES,
        }
    }

    /// The driver has its turn: so much may move until others have theirs.
    pub(super) fn begin_turn(&mut self) {
        self.turn = limits::TURN_BYTES;
    }

    /// Pending, with another turn asked for, once enough has moved in this one.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn > 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Bytes received so far: the inbound clock of liveness.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Lets the transport follow its path; see [`Tuning::follow`].
    pub(super) fn tune(&self, tuning: &mut Tuning) -> Option<usize> {
        tuning.follow(self.slot.transport()?)
    }

    /// The peer is dead to us. If it is only one direction that fails, a reset still tells it so at once; an orderly close
    /// would wait behind everything the peer never acknowledged.
    pub(super) fn abandon(&self) {
        if let Some(transport) = self.slot.transport() {
            transport.close_with_reset(true);
        }
    }

    /// Whether everything handed to the layer is with the transport, to the end of a frame.
    pub(super) fn is_flushed(&self) -> bool {
        self.collected_len() == 0 && self.pongs.is_empty() && self.is_between_frames()
    }

    /// Really flushes. The crate asks for a flush after every frame; the driver calls this when the crate has nothing
    /// more to write, in the same turn, so batching costs no time.
    pub(super) fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.collect_pongs();
        ready!(self.poll_write_collected(cx))?;
        self.slot.poll_flush(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match &mut self.reading {
                Reading::Header => {
                    if self.shared.ledger.lock().has_victims() {
                        // The driver cuts them off before more is read.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let Some(bytes) = self.prefetch.take_header() else {
                        if ready!(self.poll_fetch(cx))? == 0 {
                            return Poll::Ready(Ok(0));
                        }
                        continue;
                    };
                    self.inspect(bytes)?;
                }
                Reading::PassHeader { bytes, passed, body } => {
                    let n = buf.len().min(header::LEN - *passed);
                    buf[..n].copy_from_slice(&bytes[*passed..*passed + n]);
                    *passed += n;
                    if *passed == header::LEN {
                        self.reading = Reading::body(*body);
                    }
                    return Poll::Ready(Ok(n));
                }
                Reading::Body { left } => {
                    let wanted = buf.len().min(*left);
                    let n = match self.prefetch.take(&mut buf[..wanted]) {
                        0 => ready!(self.poll_fetch_into(cx, &mut buf[..wanted]))?,
                        n => n,
                    };
                    if let Reading::Body { left } = &self.reading {
                        self.reading = Reading::body(left - n);
                    }
                    return Poll::Ready(Ok(n));
                }
            }
        }
    }

    /// Decides what becomes of the frame that this header opens.
    fn inspect(&mut self, bytes: [u8; header::LEN]) -> io::Result<()> {
        let header = Header::parse(&bytes).map_err(|error| self.broken(error.to_string()))?;
        let account = self.shared.ledger.lock().received(&header);
        account.map_err(|error| self.broken(error.to_string()))?;
        match header.kind {
            Kind::Ping if !header.has(header::ACK) => {
                stats::count(&self.shared.stats.pings_answered);
                self.pongs.push(header.value);
                if self.pongs.len() > limits::PONGS_OWED_MAX {
                    return Err(self.broken("pings faster than it reads their answers".into()));
                }
                return Ok(());
            }
            Kind::Ping if self.pinged != Some(header.value) || header.has(header::SYN) => {
                // An answer nobody asked for would make the crate end the session.
                return Ok(());
            }
            Kind::Ping => self.pinged = None,
            Kind::GoAway => {
                self.shared
                    .set_end(Code::Lost, format!("the peer ended the session (mux code {})", header.value));
            }
            Kind::Data | Kind::WindowUpdate => {}
        }
        self.reading = Reading::PassHeader { bytes, passed: 0, body: header.body() };
        Ok(())
    }

    /// Fetches headers, and what is behind them, into the prefetch buffer. Returns how much. 0 is the end of the
    /// transport, and of the session.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        let outcome = match self.slot.poll_readable(cx) {
            Poll::Ready(Ok(())) => {
                // A plain read that is not filled tells the runtime that the socket is empty, without asking it again.
                let mut room = ReadBuf::new(self.prefetch.room());
                self.slot.poll_read(cx, &mut room).map_ok(|()| room.filled().len())
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.fetched(outcome, 0)
    }

    /// Fetches into `first`, which is the body of a frame, and behind it the next header. Returns what came into
    /// `first`. 0 is the end of the transport, and of the session.
    fn poll_fetch_into(&mut self, cx: &mut Context<'_>, first: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        let outcome = match self.slot.poll_readable(cx) {
            Poll::Ready(Ok(())) => {
                // Little: what is fetched here of the next body is copied once more.
                let room = self.prefetch.room();
                let behind = room.len().min(limits::READ_BEHIND);
                let mut buffers = [IoSliceMut::new(first), IoSliceMut::new(&mut room[..behind])];
                self.slot.poll_read_vectored(cx, &mut buffers)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.fetched(outcome, first.len())
    }

    /// Accounts for a read whose first `direct` bytes have a place of their own.
    fn fetched(&mut self, outcome: Poll<io::Result<usize>>, direct: usize) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Pending => {
                self.prefetch.release_if_empty();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.shared.set_end(Code::Lost, "the peer closed the connection".into());
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Ok(n)) => {
                self.received += n as u64;
                self.turn = self.turn.saturating_sub(n);
                stats::add(&self.shared.stats.bytes_in, n as u64);
                self.prefetch.fetched(n.saturating_sub(direct));
                Poll::Ready(Ok(if direct == 0 { n } else { n.min(direct) }))
            }
            Poll::Ready(Err(error)) => {
                self.shared.set_end(Code::Lost, describe(&error));
                Poll::Ready(Err(error))
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.writing {
            Writing::Header { have, .. } => {
                let n = buf.len().min(header::LEN - *have);
                if *have == 0 {
                    self.collect_pongs();
                    ready!(self.poll_make_room(cx))?;
                }
                self.collected.extend_from_slice(&buf[..n]);
                if let Writing::Header { bytes, have } = &mut self.writing {
                    bytes[*have..*have + n].copy_from_slice(&buf[..n]);
                    *have += n;
                    if *have == header::LEN {
                        let bytes = *bytes;
                        self.outgoing(&bytes);
                    }
                }
                Poll::Ready(Ok(n))
            }
            Writing::Body { left } => {
                let offered = &buf[..buf.len().min(*left)];
                let n = if offered.len() >= limits::WRITE_DIRECT_MIN {
                    ready!(self.poll_write_behind(cx, offered))?
                } else {
                    ready!(self.poll_make_room(cx))?;
                    self.collected.extend_from_slice(offered);
                    offered.len()
                };
                if let Writing::Body { left } = &self.writing {
                    self.writing = Writing::body(left - n);
                }
                Poll::Ready(Ok(n))
            }
        }
    }

    /// A header of the crate's has passed.
    fn outgoing(&mut self, bytes: &[u8; header::LEN]) {
        self.writing = Writing::between_frames();
        // What the crate writes is well formed.
        let Ok(header) = Header::parse(bytes) else { return };
        match header.kind {
            Kind::Data => {
                self.shared.ledger.lock().sent(&header);
                self.writing = Writing::body(header.body());
            }
            Kind::Ping => self.pinged = Some(header.value),
            Kind::GoAway if header.value != 0 => {
                // The crate says so and goes on reading; for us the session is over.
                stats::count(&self.shared.stats.protocol_errors);
                self.shared.set_end(Code::BadFrame, "the peer broke the rules of the mux".into());
            }
            Kind::GoAway | Kind::WindowUpdate => {}
        }
    }

    /// Waits until the collection is below its limit: large while the transport takes everything, small once it does
    /// not, since what waits here waits in front of everything urgent.
    fn poll_make_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let limit = if self.blocked { limits::WRITE_BATCH_BLOCKED } else { limits::WRITE_BATCH };
        while self.collected_len() >= limit {
            ready!(self.poll_write_once(cx, &[]))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is collected and `body` behind it, until some of `body` has been taken.
    fn poll_write_behind(&mut self, cx: &mut Context<'_>, body: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let taken = ready!(self.poll_write_once(cx, body))?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    fn poll_write_collected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.collected_len() > 0 {
            ready!(self.poll_write_once(cx, &[]))?;
        }
        Poll::Ready(Ok(()))
    }

    /// One write; returns how many bytes of `body` it took.
    fn poll_write_once(&mut self, cx: &mut Context<'_>, body: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        let collected = self.collected.len() - self.collected_from;
        let offered = collected + body.len();
        let buffers = [IoSlice::new(&self.collected[self.collected_from..]), IoSlice::new(body)];
        let outcome = match collected {
            // A pipe without vectored writes takes the first buffer only, and an empty one would look like its end.
            0 => self.slot.poll_write_vectored(cx, &buffers[1..]),
            _ => self.slot.poll_write_vectored(cx, &buffers),
        };
        let n = match outcome {
            Poll::Pending => {
                self.blocked = true;
                return Poll::Pending;
            }
            Poll::Ready(Ok(0)) => Err(io::Error::from(io::ErrorKind::WriteZero)),
            Poll::Ready(outcome) => outcome,
        }
        .inspect_err(|error| self.shared.set_end(Code::Lost, describe(error)))?;
        stats::add(&self.shared.stats.bytes_out, n as u64);
        self.turn = self.turn.saturating_sub(n);
        self.blocked = n < offered;
        if n < collected {
            self.collected_from += n;
            return Poll::Ready(Ok(0));
        }
        // Freed, not kept: an idle session holds no buffers.
        self.collected = Vec::new();
        self.collected_from = 0;
        Poll::Ready(Ok(n - collected))
    }

    fn collect_pongs(&mut self) {
        if self.is_between_frames() {
            let room = limits::WRITE_BATCH.saturating_sub(self.collected_len()) / header::LEN;
            for value in self.pongs.drain(..room.min(self.pongs.len())) {
                self.collected.extend_from_slice(&Header::pong(value));
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        matches!(self.writing, Writing::Header { have: 0, .. })
    }

    fn collected_len(&self) -> usize {
        self.collected.len() - self.collected_from
    }

    fn broken(&self, what: String) -> io::Error {
        stats::count(&self.shared.stats.protocol_errors);
        self.shared.set_end(Code::BadFrame, format!("the peer sent {what}"));
        io::Error::new(io::ErrorKind::InvalidData, what)
    }
}

impl AsyncRead for LayerIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl AsyncWrite for LayerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, buf)
    }

    /// Nothing: the driver flushes when the crate has no more to write.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: the transport is not the crate's to close.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Reading {
    fn body(left: usize) -> Self {
        if left == 0 { Self::Header } else { Self::Body { left } }
    }
}

impl Writing {
    fn between_frames() -> Self {
        Self::Header { bytes: [0; header::LEN], have: 0 }
    }

    fn body(left: usize) -> Self {
        if left == 0 { Self::between_frames() } else { Self::Body { left } }
    }
}

/// Bytes read ahead of what the crate asked for. The buffer exists while it holds something or a read is about to
/// fill it.
#[derive(Default)]
struct Prefetch {
    buffer: Option<Box<[u8]>>,
    from: usize,
    to: usize,
}

impl Prefetch {
    /// The next header, once all of it is here.
    fn take_header(&mut self) -> Option<[u8; header::LEN]> {
        let buffer = self.buffer.as_ref()?;
        let bytes = buffer[self.from..self.to].first_chunk().copied()?;
        self.from += header::LEN;
        Some(bytes)
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let Some(buffer) = &self.buffer else { return 0 };
        let n = into.len().min(self.to - self.from);
        into[..n].copy_from_slice(&buffer[self.from..self.from + n]);
        self.from += n;
        n
    }

    /// Where the next bytes go. What is left of a header moves to the front; more than that is never left when a
    /// read is needed.
    fn room(&mut self) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(|| vec![0; limits::READ_PREFETCH].into_boxed_slice());
        buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        &mut buffer[self.to..]
    }

    fn fetched(&mut self, n: usize) {
        self.to += n;
    }

    fn release_if_empty(&mut self) {
        if self.from == self.to {
            *self = Self::default();
        }
    }
}

/// What happened to the transport, as an operator would say it.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "connection reset by the peer".into(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::WriteZero => "the peer closed the connection".into(),
        io::ErrorKind::TimedOut => "the network swallowed what was sent (TCP timeout)".into(),
        io::ErrorKind::UnexpectedEof => "the connection was cut in the middle of a message".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::{Wake, Waker},
    };

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::{Compression, Congestion, MemoryBudget, SessionConfig, SessionRules, Side, Stats};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn after_its_turn_a_busy_session_lets_others_have_theirs() {
        let (near, mut far) = Transport::memory_pair(4 * limits::TURN_BYTES);
        let shared = Shared::new(&SessionConfig {
            side: Side::Acceptor,
            heartbeat: limits::HEARTBEAT,
            max_open: 1,
            stats: Arc::new(Stats::default()),
            budget: Arc::new(MemoryBudget::new(usize::MAX)),
            congestion: Congestion::default(),
            compression: Compression::OFF,
            rules: SessionRules::default(),
        });
        // One frame after the other on a stream that nobody knows.
        let mut frame = vec![0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0x40, 0];
        frame.resize(header::LEN + 0x4000, 7);
        for _ in 0..3 * limits::TURN_BYTES / frame.len() {
            far.write_all(&frame).await.unwrap();
        }
        let mut layer = Layer::new(near, shared);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut buffer = vec![0; 65_536];
        // The runtime's own limit would come first.
        tokio::task::unconstrained(async {
            for turn in 1..=2 {
                layer.begin_turn();
                let mut moved = 0;
                while let Poll::Ready(read) = layer.poll_read(&mut cx, &mut buffer) {
                    moved += read.unwrap();
                }
                let most = limits::TURN_BYTES + frame.len();
                assert!((limits::TURN_BYTES / 2..=most).contains(&moved), "{moved} bytes in turn {turn}");
                assert_eq!(woken.0.load(Ordering::Relaxed), turn, "it asks for another turn");
            }
        })
        .await;
    }
}
