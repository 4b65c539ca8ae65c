//! One opaque two-way stream of records, and the four ways it can end.
//!
//! The mux underneath knows a half-close and a reset, and after a half-close it can't tell a clean end from a dropped
//! one. So ends travel in band, as records, and the mux's own half-close is only sent once both sides' `End` have
//! passed. Dropping a substream before that resets it, which frees the peer's writer.
//!
//! The crate's stream sits behind a small lock, so that the driver can take it away from an owner that does not read
//! while its peer fills our memory.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{AsyncWrite as _, Stream as _};
use parking_lot::Mutex;
use reachback_wire::{Code, Delivery, EndStatus, Record, RecordDecoder, RecordKind, limits, record, text};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::{StreamEnd, StreamIo, session::Shared};
use crate::{Reserved, stats};

/// A substream. One owner reads and writes both directions; dropping it unfinished resets it.
pub struct Substream {
    raw: Raw,
    records: RecordDecoder,
    /// Payloads from this size on are sent compressed, and compressed ones are taken.
    lz4: Option<usize>,
    /// Our own unfinished record of [`Substream::send`], finished first by the next call if that one was cancelled.
    unsent: Option<Outgoing>,
    sent_end: bool,
    received_end: bool,
}

/// One record on its way out: header and payload in one buffer, so that they leave in one write.
pub struct Outgoing {
    bytes: BytesMut,
    from: usize,
    /// Bytes of payload, however few are sent for them.
    payload_len: usize,
    /// Compressed, or seen to be better left as it is.
    settled: bool,
}

/// The stream under the records, as the crate sees it.
pub(super) struct Raw {
    core: Arc<Core>,
    id: u32,
    shared: Arc<Shared>,
    /// Frames are released in the ledger when their reader comes back for more, since until then it may wait with them in
    /// its hands for somebody slow; or all at once when the early phase is over.
    hold: bool,
    /// The body of the frame that was read last.
    handed_out: usize,
    held: VecDeque<usize>,
    held_bytes: usize,
    partly_written: bool,
    outcome: Outcome,
}

/// What the driver can take away.
pub(super) struct Core {
    stream: Mutex<Option<yamux::Stream>>,
    over_budget: AtomicBool,
}

/// How it ended, for the counters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unfinished,
    Finished,
    Uncounted,
}

impl Substream {
    /// `early` was received before it was open; `unsent` was begun and is sent before anything else. With a size in `lz4`
    /// records may be compressed, and are from that size on.
    pub(super) fn new(mut raw: Raw, early: Bytes, unsent: Option<Outgoing>, lz4: Option<usize>) -> Self {
        let mut records = RecordDecoder::new(Delivery::Streamed);
        if lz4.is_some() {
            records = records.with_lz4();
            // What is compressed waits here until it is whole.
            raw.hold();
        }
        if early.is_empty() {
            // What was read last was the open or its answer, and nobody holds that.
            raw.hand_back();
        } else {
            records.push(early);
        }
        Self { raw, records, lz4, unsent, sent_end: false, received_end: false }
    }

    /// The next record. `Record::End` is handed out once, then the direction is [`StreamEnd::Finished`]. Cancel-safe.
    ///
    /// # Errors
    /// What ended the stream instead; what was received before it has been handed out by then.
    pub async fn next(&mut self) -> Result<Record, StreamEnd> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Substream::next`].
    ///
    /// # Errors
    /// As [`Substream::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Record, StreamEnd>> {
        if self.received_end {
            return Poll::Ready(Err(StreamEnd::Finished));
        }
        self.poll_record(cx)
    }

    /// Sends a record. `Data` longer than a record is split, the other kinds are not. If this is cancelled, what it
    /// had begun is sent before anything else.
    ///
    /// # Errors
    /// What ended the stream. Read on to learn the peer's reason: it may be behind data not yet read.
    pub async fn send(&mut self, kind: RecordKind, payload: &[u8]) -> Result<(), StreamEnd> {
        let size = if kind == RecordKind::Data { self.record_payload() } else { limits::MAX_RECORD_PAYLOAD };
        let mut pieces = payload.chunks(size);
        let mut piece = pieces.next().unwrap_or_default();
        loop {
            poll_fn(|cx| self.poll_unsent(cx)).await?;
            let mut record = Outgoing::record(kind, piece);
            if let Some(min_size) = self.lz4 {
                record.compress(min_size);
            }
            self.unsent = Some(record);
            poll_fn(|cx| self.poll_unsent(cx)).await?;
            match pieces.next() {
                Some(next) => piece = next,
                None => return Ok(()),
            }
        }
    }

    /// Sends a record that its owner has built; call again with the same one until it is ready.
    ///
    /// # Errors
    /// As [`Substream::send`].
    pub fn poll_send(&mut self, cx: &mut Context<'_>, record: &mut Outgoing) -> Poll<Result<(), StreamEnd>> {
        ready!(self.poll_unsent(cx))?;
        if self.sent_end {
            return Poll::Ready(Err(StreamEnd::Finished));
        }
        if let Some(min_size) = self.lz4 {
            record.compress(min_size);
        }
        self.raw.poll_write(cx, record)
    }

    /// Sends `End`: this direction is complete. Reading goes on. Sending it again does nothing.
    ///
    /// # Errors
    /// As [`Substream::send`].
    pub async fn finish(&mut self, status: Option<EndStatus>) -> Result<(), StreamEnd> {
        poll_fn(|cx| self.poll_finish(cx, status.as_ref())).await
    }

    /// As [`Substream::finish`].
    ///
    /// # Errors
    /// As [`Substream::send`].
    pub fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        status: Option<&EndStatus>,
    ) -> Poll<Result<(), StreamEnd>> {
        ready!(self.poll_unsent(cx))?;
        if !self.sent_end {
            // From here on a repeated call only finishes the writing.
            self.sent_end = true;
            self.unsent = Some(Outgoing::framed(record::encode_end(status)));
            ready!(self.poll_unsent(cx))?;
        }
        self.note_finished();
        Poll::Ready(Ok(()))
    }

    /// Ends both directions at once. The peer learns the code and the sentence if the window takes them now, and that
    /// it was a reset in any case.
    pub fn reset(mut self, code: Code, text: &str) {
        self.say_reset(code, text);
    }

    /// After the peer's `End`: ready when it takes back what it asked for, lets go of what we still send, or the
    /// session ends.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        match ready!(self.poll_record(cx)) {
            Ok(_) => Poll::Ready(StreamEnd::Protocol(Code::BadFrame, "records after the end".into())),
            Err(end) => Poll::Ready(end),
        }
    }

    /// For who can't read now: ready when the peer has reset it, or it was cut off, or the session is over, before both
    /// sides have ended it. What is still unread may be read all the same. After our own `End` it says nothing, since
    /// a peer that is through with it may reset it too.
    pub(crate) fn poll_torn(&mut self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        if self.sent_end { Poll::Pending } else { self.raw.poll_torn(cx) }
    }

    /// Bytes of payload that a `Data` record sent here should have at most: what the path of its session carries while
    /// something urgent can wait. Longer ones are sent as well.
    pub fn record_payload(&self) -> usize {
        self.raw.shared.record_payload()
    }

    /// Room in the books of the process for what its owner has read elsewhere and can't send here now.
    pub(crate) fn keep(&self, bytes: usize) -> Reserved {
        let mut kept = self.raw.shared.budget.reserve();
        kept.grow(bytes);
        kept
    }

    /// The payload of the record that was read last as it came, if it came compressed.
    pub(crate) fn take_compressed(&mut self) -> Option<Bytes> {
        self.records.take_compressed()
    }

    /// Whether a payload of `plain` bytes may be sent here as the `compressed` bytes it came in: they were announced, and
    /// are what would be sent if it were compressed again.
    pub(crate) fn takes_compressed(&self, plain: usize, compressed: usize) -> bool {
        self.lz4.is_some_and(|min_size| plain >= min_size) && compressed <= self.record_payload()
    }

    /// Whether the peer has said everything: its `End` was read.
    pub fn is_half_finished(&self) -> bool {
        self.received_end
    }

    /// Whether both sides have ended it in order.
    pub fn is_finished(&self) -> bool {
        self.sent_end && self.received_end
    }

    /// Reads and writes as a byte pipe: end of file is the peer's `End`, shutdown sends ours, and every other end is
    /// an error whose source is a [`StreamEnd`].
    pub fn into_io(self) -> StreamIo {
        StreamIo::new(self)
    }

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Result<Record, StreamEnd>> {
        loop {
            if self.lz4.is_some() {
                self.raw.release_but(self.records.buffered());
            }
            match self.records.next() {
                Ok(Some(Record::Reset { code, text })) => {
                    let code = Code::from_number(code).unwrap_or(Code::Internal);
                    let text = text::sanitize(&text, limits::END_TEXT_MAX);
                    return Poll::Ready(Err(StreamEnd::Reset { code, text }));
                }
                Ok(Some(record)) => {
                    if matches!(record, Record::End(_)) {
                        self.received_end = true;
                        self.raw.hand_back();
                        self.raw.release_but(0);
                    }
                    self.note_finished();
                    return Poll::Ready(Ok(record));
                }
                Ok(None) => {}
                Err(error) => {
                    let (code, what) = (error.code(), error.to_string());
                    self.say_reset(code, &what);
                    return Poll::Ready(Err(StreamEnd::Protocol(code, what)));
                }
            }
            let bytes = ready!(self.raw.poll_read(cx))?;
            self.records.push(bytes);
        }
    }

    /// One try: whether it went or not, the drop that follows resets.
    fn say_reset(&mut self, code: Code, text: &str) {
        if self.unsent.is_none() && !self.raw.partly_written {
            let mut last = Outgoing::framed(record::encode_reset(code, text));
            let _ = self.raw.poll_write_now(&mut Context::from_waker(Waker::noop()), &mut last);
        }
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        if let Some(record) = &mut self.unsent {
            ready!(self.raw.poll_write(cx, record))?;
            self.unsent = None;
        }
        Poll::Ready(Ok(()))
    }

    fn note_finished(&mut self) {
        if self.sent_end && self.received_end && self.unsent.is_none() {
            self.raw.outcome = Outcome::Finished;
        }
    }
}

impl std::fmt::Debug for Substream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Substream({})", self.raw.id)
    }
}

impl Outgoing {
    /// A record of this kind.
    ///
    /// # Panics
    /// If the payload is longer than [`limits::MAX_RECORD_PAYLOAD`].
    pub fn record(kind: RecordKind, payload: &[u8]) -> Self {
        assert!(
            payload.len() <= limits::MAX_RECORD_PAYLOAD,
            "a record holds {} bytes at most",
            limits::MAX_RECORD_PAYLOAD
        );
        let mut bytes = BytesMut::with_capacity(record::RECORD_HEADER_LEN + payload.len());
        bytes.extend_from_slice(&record::record_header(kind, payload.len()));
        bytes.extend_from_slice(payload);
        Self { bytes, from: 0, payload_len: payload.len(), settled: false }
    }

    /// A `Data` record of what one read of at most `most` bytes gives, the header in front of it in the same buffer, so
    /// nothing is copied. `None` at the end of the pipe. Call it when the pipe is readable: it allocates.
    ///
    /// # Errors
    /// What the pipe says.
    pub fn poll_read_from<R: AsyncRead>(
        pipe: Pin<&mut R>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<Option<Self>>> {
        let most = most.min(limits::MAX_RECORD_PAYLOAD);
        let mut bytes = BytesMut::with_capacity(record::RECORD_HEADER_LEN + most);
        bytes.extend_from_slice(&[0; record::RECORD_HEADER_LEN]);
        // The limit matters: an allocator may give more room than was asked for.
        let mut room = bytes.limit(most);
        let n = ready!(poll_read_buf(pipe, cx, &mut room))?;
        let mut bytes = room.into_inner();
        bytes[..record::RECORD_HEADER_LEN].copy_from_slice(&record::record_header(RecordKind::Data, n));
        Poll::Ready(Ok((n > 0).then_some(Self { bytes, from: 0, payload_len: n, settled: false })))
    }

    /// The first byte of a record, which says its kind.
    #[cfg(test)]
    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0]
    }

    /// The payload, if this is a record and not compressed.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[record::RECORD_HEADER_LEN..]
    }

    /// Bytes of payload, before compression, if this is a record.
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Compresses a payload of `min_size` bytes or more if that makes it smaller; the second time nothing happens.
    pub(super) fn compress(&mut self, min_size: usize) {
        if std::mem::replace(&mut self.settled, true) || self.payload_len < min_size {
            return;
        }
        let compressed = RecordKind::from_number(self.bytes[0])
            .and_then(|kind| record::encode_compressed(kind, self.payload()));
        if let Some(compressed) = compressed {
            self.bytes = compressed;
        }
    }

    /// A record whose payload of `payload_len` bytes is compressed already.
    pub(crate) fn as_it_came(kind: RecordKind, compressed: &[u8], payload_len: usize) -> Self {
        let bytes = record::encode_as_it_came(kind, compressed);
        Self { bytes, from: 0, payload_len, settled: true }
    }

    /// Bytes that are already framed.
    pub(super) fn framed(bytes: Vec<u8>) -> Self {
        let payload_len = bytes.len().saturating_sub(record::RECORD_HEADER_LEN);
        Self { bytes: bytes.as_slice().into(), from: 0, payload_len, settled: true }
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({} of {} bytes)", self.from, self.bytes.len())
    }
}

impl Raw {
    pub(super) fn new(stream: yamux::Stream, shared: &Arc<Shared>) -> Self {
        shared.substreams.fetch_add(1, Ordering::Relaxed);
        let id = stream.id().val();
        let core = Arc::new(Core { stream: Mutex::new(Some(stream)), over_budget: AtomicBool::new(false) });
        Self {
            core,
            id,
            shared: Arc::clone(shared),
            hold: false,
            handed_out: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            partly_written: false,
            outcome: Outcome::Uncounted,
        }
    }

    pub(super) fn core(&self) -> std::sync::Weak<Core> {
        Arc::downgrade(&self.core)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Keeps what is read from now on in the books until [`Raw::release`]: early bytes are kept in memory.
    pub(super) fn hold(&mut self) {
        self.hold = true;
    }

    pub(super) fn release(&mut self) {
        self.hold = false;
        self.release_but(0);
    }

    /// Lets go in the books of all that was read but the last `kept` bytes, which are still in memory.
    fn release_but(&mut self, kept: usize) {
        let mut ledger = None;
        while let Some(body) = self.held.pop_front_if(|body| self.held_bytes - *body >= kept) {
            self.held_bytes -= body;
            ledger.get_or_insert_with(|| self.shared.ledger.lock()).taken(self.id, body);
        }
    }

    /// The open was answered with yes: from now on it is a substream to someone above, and how it ends is counted.
    pub(super) fn counted(&mut self) {
        self.outcome = Outcome::Unfinished;
    }

    /// Lets go in the books of what was read last.
    fn hand_back(&mut self) {
        let body = std::mem::take(&mut self.handed_out);
        if body > 0 {
            self.shared.ledger.lock().taken(self.id, body);
        }
    }

    /// The next frame's bytes.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamEnd>> {
        self.hand_back();
        let polled = match &mut *self.core.stream.lock() {
            Some(stream) => ready!(Pin::new(stream).poll_next(cx)),
            None => None,
        };
        match polled {
            Some(Ok(packet)) => {
                let body = packet.as_ref().len();
                if self.hold {
                    self.held.push_back(body);
                    self.held_bytes += body;
                } else {
                    self.handed_out = body;
                }
                Poll::Ready(Ok(Bytes::from_owner(packet)))
            }
            Some(Err(_)) | None => Poll::Ready(Err(self.end())),
        }
    }

    fn poll_torn(&self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        if self.shared.ledger.lock().is_torn(self.id, cx.waker()) {
            Poll::Ready(self.end())
        } else {
            Poll::Pending
        }
    }

    /// Writes all of a record; call again with the same one until it is ready.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        record: &mut Outgoing,
    ) -> Poll<Result<(), StreamEnd>> {
        while record.from < record.bytes.len() {
            let left = record.bytes.len() - record.from;
            if !self.shared.ledger.lock().may_send(self.id, left, cx.waker()) {
                // The gate opens when something leaves; if the session is over nothing will.
                return match self.shared.end() {
                    Some(end) => Poll::Ready(Err(StreamEnd::Lost(end))),
                    None => Poll::Pending,
                };
            }
            ready!(self.poll_write_now(cx, record))?;
        }
        Poll::Ready(Ok(()))
    }

    /// One write, whatever else is under way.
    fn poll_write_now(&mut self, cx: &mut Context<'_>, record: &mut Outgoing) -> Poll<Result<(), StreamEnd>> {
        let left = record.bytes.len() - record.from;
        // Counted first: on another thread the mux may have written it all before the call that hands it over is back.
        self.shared.ledger.lock().handed_over(self.id, left);
        let polled = match &mut *self.core.stream.lock() {
            Some(stream) => Pin::new(stream).poll_write(cx, &record.bytes[record.from..]),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        let taken = if let Poll::Ready(Ok(n)) = &polled { *n } else { 0 };
        self.shared.ledger.lock().not_taken(self.id, left - taken);
        if ready!(polled).is_err() {
            return Poll::Ready(Err(self.end()));
        }
        record.from += taken;
        self.partly_written = record.from < record.bytes.len();
        Poll::Ready(Ok(()))
    }

    fn end(&self) -> StreamEnd {
        if self.core.over_budget.load(Ordering::Relaxed) {
            return StreamEnd::OverBudget;
        }
        match self.shared.end() {
            Some(end) => StreamEnd::Lost(end),
            None => StreamEnd::Dropped,
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let finished = self.outcome == Outcome::Finished;
        // Both `End`s have passed: now the mux may know. If its queue is full the drop resets, which nobody can tell
        // from an end any more; but a reset is not answered, so then no answer is awaited.
        let closed = self.core.stream.lock().take().is_some_and(|mut stream| {
            let mut cx = Context::from_waker(Waker::noop());
            finished && Pin::new(&mut stream).poll_close(&mut cx).is_ready()
        });
        self.shared.ledger.lock().detach(self.id, closed);
        if self.outcome == Outcome::Unfinished {
            let stats = &self.shared.stats;
            stats::count(if self.shared.end().is_some() {
                &stats.substreams_lost
            } else {
                &stats.substreams_reset
            });
        }
        self.shared.substreams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Core {
    /// Takes the stream away from its owner: the crate drops what it holds for it and resets it.
    pub(super) fn cut_off(&self) {
        self.over_budget.store(true, Ordering::Relaxed);
        drop(self.stream.lock().take());
    }
}
