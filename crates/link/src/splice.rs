//! Copies between a substream and a socket, or between two substreams, until both directions have ended for a reason.
//!
//! One future, no split halves, and buffers only while bytes move: an idle stream costs its sockets and little else.
//! A half-close is carried in either direction and the other goes on; a reset arrives as a reset; and a substream that
//! ends badly never looks like a clean end at the socket. For that a TCP socket is set to close with a reset for as
//! long as the copy runs, so that it holds even if this process is killed; only a clean end takes that back.
//!
//! What a side sent before it went away is still delivered, as long as the other takes it. One that takes nothing is
//! not waited for: a service that hangs would keep every stream that was ever given up on it.

use std::{
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use reachback_wire::{Code, EndStatus, Record, RecordKind, Refusal, limits};
use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};

use crate::{Outgoing, Reserved, StreamEnd, Substream, Transport};

/// What a copy moved, and how it ended.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes from the socket (or the first substream) to the peer (or the second).
    pub to_peer: u64,
    /// Bytes the other way.
    pub from_peer: u64,
    /// `Ok` when both directions were finished in order.
    pub end: Result<(), SpliceError>,
}

/// Why a copy ended early. Each side has been told in its own way.
#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    /// The socket was reset or failed; the peer got a reset.
    #[error("the local end failed: {0}")]
    Local(#[source] io::Error),
    /// The substream ended; the socket was reset.
    #[error("{0}")]
    Peer(#[source] StreamEnd),
    /// We ended it; both sides were told why.
    #[error("{0}")]
    Stopped(#[source] Refusal),
}

/// Steps (a record read, or written) in one turn, after which other tasks have theirs: with 64 streams of bulk each step takes
/// its time, and with more of them some streams get twice what others do.
const STEPS_A_TURN: usize = 1;

/// Copies between a substream and a local pipe. Dropping the future, polled or not, resets both.
pub fn splice(substream: Substream, local: Transport) -> impl Future<Output = Spliced> + Send {
    local.close_with_reset(true);
    run(substream, local)
}

/// As [`splice`], until `stop` is ready: then both are reset, the substream with its code and its sentence.
pub async fn splice_until(
    substream: Substream,
    local: Transport,
    stop: impl Future<Output = Refusal> + Send,
) -> Spliced {
    local.close_with_reset(true);
    let mut pump = Pump::new(substream, local);
    let mut stop = pin!(stop);
    let end = poll_fn(|cx| match pump.poll(cx) {
        Poll::Pending => stop.as_mut().poll(cx).map(|why| Err(SpliceError::Stopped(why))),
        over => over,
    })
    .await;
    pump.conclude(end)
}

/// Copies records between two substreams, ends included: what ended one ends the other with the same code.
pub async fn relay(a: Substream, b: Substream) -> Spliced {
    relay_until(a, b, pending()).await
}

/// As [`relay`], until `stop` is ready: then both sides are reset with its code and its sentence.
pub async fn relay_until(mut a: Substream, mut b: Substream, stop: impl Future<Output = Refusal>) -> Spliced {
    let mut stop = pin!(stop);
    let (mut forth, mut back) = (Relay::default(), Relay::default());
    let end = poll_fn(|cx| {
        let forth = forth.poll(cx, &mut a, &mut b);
        let back = back.poll(cx, &mut b, &mut a);
        let ended = |(of_a, end)| Poll::Ready(Err(Over::Ended(of_a, end)));
        let now = match (forth, back) {
            (Poll::Ready(Err((from_a, end))), _) => ended((from_a, end)),
            (_, Poll::Ready(Err((from_b, end)))) => ended((!from_b, end)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Ready(Ok(())), Poll::Pending) => a.poll_gone(cx).map(|end| Err(Over::Ended(true, end))),
            (Poll::Pending, Poll::Ready(Ok(()))) => b.poll_gone(cx).map(|end| Err(Over::Ended(false, end))),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        };
        match now {
            Poll::Pending => stop.as_mut().poll(cx).map(|why| Err(Over::Stopped(why))),
            over => over,
        }
    })
    .await;
    let end = end.map_err(|over| match over {
        Over::Ended(of_a, end) => {
            pass_on(if of_a { b } else { a }, &end);
            SpliceError::Peer(end)
        }
        Over::Stopped(why) => {
            a.reset(why.code, &why.message);
            b.reset(why.code, &why.message);
            SpliceError::Stopped(why)
        }
    });
    Spliced { to_peer: forth.bytes, from_peer: back.bytes, end }
}

async fn run(substream: Substream, local: Transport) -> Spliced {
    let mut pump = Pump::new(substream, local);
    let end = poll_fn(|cx| pump.poll(cx)).await;
    pump.conclude(end)
}

struct Pump {
    substream: Option<Substream>,
    local: Transport,
    outgoing: Option<Outgoing>,
    /// What it takes in the books while it can't be sent.
    waiting: Option<Reserved>,
    incoming: Bytes,
    to_peer: u64,
    from_peer: u64,
    local_ended: bool,
    peer_ended: bool,
    local_shut: bool,
    finish_sent: bool,
    /// Writing to the peer failed; its reason may still be on the way behind data.
    peer_deaf: Option<StreamEnd>,
    patience: Patience,
}

impl Pump {
    fn new(substream: Substream, local: Transport) -> Self {
        Self {
            substream: Some(substream),
            local,
            outgoing: None,
            waiting: None,
            incoming: Bytes::new(),
            to_peer: 0,
            from_peer: 0,
            local_ended: false,
            peer_ended: false,
            local_shut: false,
            finish_sent: false,
            peer_deaf: None,
            patience: Patience::default(),
        }
    }

    /// Tells each side how it ended, in its own way.
    fn conclude(mut self, end: Result<(), SpliceError>) -> Spliced {
        match (&end, self.substream.take()) {
            (Ok(()), _) => self.local.close_with_reset(false),
            (Err(SpliceError::Local(error)), Some(substream)) => {
                substream
                    .reset(Code::Reset, &format!("the local end failed: {}", crate::mux::describe(error)));
            }
            (Err(SpliceError::Stopped(why)), Some(substream)) => substream.reset(why.code, &why.message),
            (Err(_), _) => {}
        }
        Spliced { to_peer: self.to_peer, from_peer: self.from_peer, end }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SpliceError>> {
        let up = self.poll_to_peer(cx)?;
        let down = self.poll_from_peer(cx)?;
        if down.is_ready() {
            if let Some(end) = self.peer_deaf.take() {
                return Poll::Ready(Err(SpliceError::Peer(end)));
            }
            if up.is_ready() {
                return Poll::Ready(Ok(()));
            }
            // The peer has finished speaking but may yet let go of what we say.
            if let Some(substream) = &mut self.substream
                && let Poll::Ready(end) = substream.poll_gone(cx)
            {
                return Poll::Ready(Err(SpliceError::Peer(end)));
            }
        } else if !self.incoming.is_empty() {
            // The local end takes nothing now, so the substream is not read: a peer that goes away has to show itself
            // in another way.
            let gone = match (&self.peer_deaf, &mut self.substream) {
                (None, Some(substream)) => ready!(substream.poll_torn(cx)),
                (Some(end), _) => end.clone(),
                (None, None) => return Poll::Pending,
            };
            if gone != StreamEnd::OverBudget {
                ready!(self.patience.poll(cx, self.from_peer));
            }
            return Poll::Ready(Err(SpliceError::Peer(gone)));
        }
        Poll::Pending
    }

    fn poll_to_peer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SpliceError>> {
        let Some(substream) = &mut self.substream else { return Poll::Ready(Ok(())) };
        if self.peer_deaf.is_some() {
            return Poll::Pending;
        }
        for _ in 0..STEPS_A_TURN {
            let sent = if let Some(record) = &mut self.outgoing {
                let Poll::Ready(sent) = substream.poll_send(cx, record) else {
                    self.waiting.get_or_insert_with(|| substream.keep(record.payload_len()));
                    return Poll::Pending;
                };
                self.waiting = None;
                if sent.is_ok() {
                    self.to_peer += record.payload_len() as u64;
                    self.outgoing = None;
                }
                sent
            } else if self.local_ended {
                if self.finish_sent {
                    return Poll::Ready(Ok(()));
                }
                let sent = ready!(substream.poll_finish(cx, None));
                self.finish_sent = true;
                sent
            } else {
                ready!(self.local.poll_readable(cx)).map_err(SpliceError::Local)?;
                match ready!(Outgoing::poll_read_from(
                    Pin::new(&mut self.local),
                    cx,
                    substream.record_payload()
                ))
                .map_err(SpliceError::Local)?
                {
                    Some(record) => self.outgoing = Some(record),
                    None => self.local_ended = true,
                }
                Ok(())
            };
            if let Err(end) = sent {
                self.peer_deaf = Some(end);
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_from_peer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SpliceError>> {
        let Some(substream) = &mut self.substream else { return Poll::Ready(Ok(())) };
        for _ in 0..STEPS_A_TURN {
            if !self.incoming.is_empty() {
                let written = ready!(Pin::new(&mut self.local).poll_write(cx, &self.incoming));
                let n = written.and_then(nonzero).map_err(SpliceError::Local)?;
                self.incoming.advance(n);
                self.from_peer += n as u64;
                continue;
            }
            if self.peer_ended {
                if !self.local_shut {
                    let shut = ready!(Pin::new(&mut self.local).poll_shutdown(cx));
                    // A socket that is gone already has nothing to be told.
                    if let Err(error) = shut
                        && error.kind() != io::ErrorKind::NotConnected
                    {
                        return Poll::Ready(Err(SpliceError::Local(error)));
                    }
                    self.local_shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            match substream.poll_next(cx) {
                Poll::Ready(Ok(Record::Data(bytes) | Record::Item(bytes))) => self.incoming = bytes,
                Poll::Ready(Ok(Record::End(_))) => self.peer_ended = true,
                Poll::Ready(Ok(Record::Head(_) | Record::Reset { .. })) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(Err(SpliceError::Peer(end))),
                Poll::Pending => {
                    // For pipes that buffer; a socket does nothing here.
                    ready!(Pin::new(&mut self.local).poll_flush(cx)).map_err(SpliceError::Local)?;
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Why a relay did not end in order.
enum Over {
    /// A side ended: the first (true) or the second.
    Ended(bool, StreamEnd),
    Stopped(Refusal),
}

/// One direction of a relay.
#[derive(Default)]
struct Relay {
    record: Option<Outgoing>,
    /// What is left of a record that is too long for the path ahead.
    rest: Option<(RecordKind, Bytes)>,
    finishing: Option<Option<EndStatus>>,
    done: bool,
    deaf: Option<StreamEnd>,
    bytes: u64,
    patience: Patience,
}

impl Relay {
    /// An error says whether the reading side (true) or the writing side (false) ended, and how.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Substream,
        to: &mut Substream,
    ) -> Poll<Result<(), (bool, StreamEnd)>> {
        if let Some(end) = self.deaf.take() {
            // The other direction has had one turn to find the reason behind what it still had to read.
            return Poll::Ready(Err((false, end)));
        }
        for _ in 0..STEPS_A_TURN {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            let sent = if let Some(record) = &mut self.record {
                let Poll::Ready(sent) = to.poll_send(cx, record) else { return self.poll_given_up(cx, from) };
                self.record = None;
                sent
            } else if let Some((kind, payload)) = self.rest.take() {
                self.begin(kind, payload, to.record_payload());
                Ok(())
            } else if let Some(status) = &self.finishing {
                let Poll::Ready(sent) = to.poll_finish(cx, status.as_ref()) else {
                    return self.poll_given_up(cx, from);
                };
                self.done = true;
                sent
            } else {
                match ready!(from.poll_next(cx)) {
                    Ok(record) => self.take(record),
                    Err(end) => return Poll::Ready(Err((true, end))),
                }
                // It has been seen to be right; compressing it again would give the same.
                if let Some(compressed) = from.take_compressed()
                    && let Some((kind, payload)) =
                        self.rest.take_if(|(_, payload)| to.takes_compressed(payload.len(), compressed.len()))
                {
                    self.record = Some(Outgoing::as_it_came(kind, &compressed, payload.len()));
                }
                Ok(())
            };
            if let Err(end) = sent {
                self.deaf = Some(end);
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// While the one side takes nothing: ready when the other is gone and has been for long enough.
    fn poll_given_up(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Substream,
    ) -> Poll<Result<(), (bool, StreamEnd)>> {
        let gone = ready!(from.poll_torn(cx));
        // Whoever was cut off to make room makes it now.
        if gone != StreamEnd::OverBudget {
            ready!(self.patience.poll(cx, self.bytes));
        }
        Poll::Ready(Err((true, gone)))
    }

    fn take(&mut self, record: Record) {
        let (kind, payload) = match record {
            Record::Data(payload) => (RecordKind::Data, payload),
            Record::Item(payload) => (RecordKind::Item, payload),
            Record::Head(payload) => (RecordKind::Head, payload),
            Record::End(status) => {
                self.finishing = Some(status);
                return;
            }
            // Handed out as an error, never as a record.
            Record::Reset { .. } => return,
        };
        self.bytes += payload.len() as u64;
        self.rest = Some((kind, payload));
    }

    /// The next record of this payload: as it came, or in pieces of at most `size` bytes if that may be cut.
    fn begin(&mut self, kind: RecordKind, mut payload: Bytes, size: usize) {
        // An item ends a text: what comes before its last piece is only data.
        let cut = matches!(kind, RecordKind::Data | RecordKind::Item) && payload.len() > size;
        let (kind, piece) = if cut {
            let piece = payload.split_to(size);
            self.rest = Some((kind, payload));
            (RecordKind::Data, piece)
        } else {
            (kind, payload)
        };
        self.record = Some(Outgoing::record(kind, &piece));
    }
}

/// How long a side that takes nothing is waited for once the other is gone: as long as the kernel waits for one.
#[derive(Default)]
struct Patience {
    since: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Patience {
    /// Ready when `moved` has stayed as it is for the whole time.
    fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<()> {
        let since = match self.since.take() {
            Some(since) if since.0 == moved => since,
            _ => (moved, Box::pin(sleep(limits::TCP_USER_TIMEOUT))),
        };
        self.since.insert(since).1.as_mut().poll(cx)
    }
}

/// Tells the other side of a relay why its partner ended.
fn pass_on(to: Substream, end: &StreamEnd) {
    match end {
        // No record came, so none goes out: the drop resets.
        StreamEnd::Dropped | StreamEnd::Finished => drop(to),
        StreamEnd::Reset { code, text } => to.reset(*code, text),
        StreamEnd::Lost(_) | StreamEnd::Protocol(..) | StreamEnd::OverBudget => {
            to.reset(end.code(), &end.to_string())
        }
    }
}

fn nonzero(n: usize) -> io::Result<usize> {
    if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(record: Record, size: usize) -> Vec<(u8, usize)> {
        let mut relay = Relay::default();
        relay.take(record);
        let mut pieces = Vec::new();
        while let Some((kind, payload)) = relay.rest.take() {
            relay.begin(kind, payload, size);
            let piece = relay.record.take().unwrap();
            pieces.push((piece.kind(), piece.payload_len()));
        }
        pieces
    }

    #[test]
    fn records_too_long_for_the_path_ahead_are_cut_and_an_item_ends_where_it_did() {
        let [data, head, item] = [RecordKind::Data, RecordKind::Head, RecordKind::Item]
            .map(|kind| Outgoing::record(kind, b"").kind());
        let bytes = |n| Bytes::from(vec![b'x'; n]);
        assert_eq!(pieces(Record::Data(bytes(0)), 10), [(data, 0)]);
        assert_eq!(pieces(Record::Data(bytes(10)), 10), [(data, 10)]);
        assert_eq!(pieces(Record::Data(bytes(21)), 10), [(data, 10), (data, 10), (data, 1)]);
        assert_eq!(pieces(Record::Item(bytes(25)), 10), [(data, 10), (data, 10), (item, 5)]);
        assert_eq!(pieces(Record::Head(bytes(25)), 10), [(head, 25)], "a head is one record");
    }
}
