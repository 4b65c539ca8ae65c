//! Who holds how much of this process's memory.
//!
//! A connection is always read, so what a peer sends and nobody takes is held here: per stream, per session and for
//! the whole process there is a limit to it, and it is counted from the frame header on, because the crate allocates
//! on the header alone. A frame of one byte costs the crate far more than one byte, so every frame counts as at least
//! [`limits::LEDGER_MIN_CHARGE`]. The other direction is counted too: what streams have handed over for sending and
//! the transport has not taken.
//!
//! An entry also keeps the permit of a stream we opened until both sides are done with it, since the mux counts a
//! stream until then.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    task::Waker,
};

use reachback_wire::limits;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    header::{self, Header, Kind},
    substream::Core,
};
use crate::memory::{Account, MemoryBudget};

/// The books of one session.
pub(super) struct Ledger {
    account: Account,
    entries: BTreeMap<u32, Entry>,
    waiting_to_send: VecDeque<(u32, Waker)>,
    victims: Vec<u32>,
}

#[derive(Default)]
struct Entry {
    core: Weak<Core>,
    unread: usize,
    sending: usize,
    /// Ours: held until both sides are done.
    permit: Option<OwnedSemaphorePermit>,
    local_done: bool,
    remote_done: bool,
    remote_finished: bool,
    /// Reset by the peer, whatever of it is still unread.
    reset: bool,
    condemned: bool,
    /// An owner that has handed over as much as one stream may, and wants to know when it may go on.
    sender: Option<Waker>,
    /// An owner that does not read now and wants to know when the stream is torn.
    watcher: Option<Waker>,
}

/// A frame that breaks the rules of the stream it names.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LedgerError {
    #[error("data on stream {0} after its end")]
    DataAfterFin(u32),
}

impl Ledger {
    pub(super) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self {
            account: Account::open(budget),
            entries: BTreeMap::new(),
            waiting_to_send: VecDeque::new(),
            victims: Vec::new(),
        }
    }

    /// A header came in, its body has not.
    pub(super) fn received(&mut self, header: &Header) -> Result<(), LedgerError> {
        if !matches!(header.kind, Kind::Data | Kind::WindowUpdate) {
            return Ok(());
        }
        if header.has(header::SYN) && !header.has(header::RST) {
            // With both the crate makes no stream, so nobody would ever take the entry away.
            self.entries.entry(header.stream).or_default();
        }
        let Some(entry) = self.entries.get_mut(&header.stream) else {
            // The crate drops what comes for a stream it no longer knows.
            return Ok(());
        };
        if header.body() > 0 {
            if entry.remote_finished {
                return Err(LedgerError::DataAfterFin(header.stream));
            }
            if !entry.local_done && !entry.condemned {
                let charge = charge(header.body());
                entry.unread += charge;
                self.account.hold(charge);
            }
        }
        entry.remote_finished |= header.has(header::FIN);
        entry.remote_done |= header.has(header::FIN | header::RST);
        if header.has(header::RST) {
            entry.reset = true;
            entry.wake();
        }
        let (over, gone) = (entry.unread > limits::STREAM_UNREAD_MAX, entry.local_done && entry.remote_done);
        if gone {
            self.entries.remove(&header.stream);
        } else if over {
            self.condemn(header.stream);
        }
        let over = self.account.unread() > limits::SESSION_UNREAD_MAX;
        if (over || self.account.must_give()) && !self.has_victims() {
            self.condemn_largest();
        }
        Ok(())
    }

    /// A stream of ours or of the peer's has its owner now.
    pub(super) fn attach(&mut self, stream: u32, core: Weak<Core>, permit: Option<OwnedSemaphorePermit>) {
        let entry = self.entries.entry(stream).or_default();
        entry.core = core;
        entry.permit = permit;
    }

    /// The owner took a frame with `body` bytes.
    pub(super) fn taken(&mut self, stream: u32, body: usize) {
        if let Some(entry) = self.entries.get_mut(&stream) {
            let charge = charge(body).min(entry.unread);
            entry.unread -= charge;
            self.account.release(charge);
        }
    }

    /// The owner is done. `closed`: both directions ended in order and our FIN is on its way, so the peer's comes.
    pub(super) fn detach(&mut self, stream: u32, closed: bool) {
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        let unread = std::mem::take(&mut entry.unread);
        self.account.release(unread);
        entry.local_done = true;
        let awaited = entry.permit.is_some() && closed && !entry.remote_done;
        if !awaited && entry.sending == 0 {
            self.entries.remove(&stream);
        } else if !awaited {
            // Its last frames are still to be written; nothing more is awaited from the peer.
            entry.remote_done = true;
        }
    }

    /// Whether a stream was reset or cut off, or its session is over; if not, `waker` is woken when it is. Reading tells
    /// that too, but only behind what came before, and only to who reads.
    pub(super) fn is_torn(&mut self, stream: u32, waker: &Waker) -> bool {
        let Some(entry) = self.entries.get_mut(&stream) else { return true };
        entry.watcher = Some(waker.clone());
        entry.reset || entry.condemned
    }

    /// Whether a stream may hand over `len` more bytes for sending; if not, `waker` is woken when it may try again.
    pub(super) fn may_send(&mut self, stream: u32, len: usize, waker: &Waker) -> bool {
        let held = match self.entries.get_mut(&stream) {
            Some(entry) if entry.sending >= limits::STREAM_SENDING_MAX => {
                entry.sender = Some(waker.clone());
                return false;
            }
            Some(entry) => entry.sending,
            None => 0,
        };
        if self.account.sending() < limits::SESSION_SENDING_MAX || (held == 0 && len <= limits::SMALL_RECORD)
        {
            return true;
        }
        match self.waiting_to_send.iter_mut().find(|(waiting, _)| *waiting == stream) {
            Some((_, old)) => old.clone_from(waker),
            None => self.waiting_to_send.push_back((stream, waker.clone())),
        }
        false
    }

    /// A stream is about to hand over a frame with `body` bytes.
    pub(super) fn handed_over(&mut self, stream: u32, body: usize) {
        self.account.queue(body);
        if let Some(entry) = self.entries.get_mut(&stream) {
            entry.sending += body;
        }
    }

    /// Whether anything this stream handed over has not been written yet.
    pub(super) fn is_sending(&self, stream: u32) -> bool {
        self.entries.get(&stream).is_some_and(|entry| entry.sending > 0)
    }

    /// The mux did not take these last `body` bytes of what was to be handed over.
    pub(super) fn not_taken(&mut self, stream: u32, body: usize) {
        self.no_longer_sending(stream, body);
    }

    /// A frame's header went out, its body follows at once.
    pub(super) fn sent(&mut self, header: &Header) {
        self.no_longer_sending(header.stream, header.body());
    }

    /// Streams to be cut off, their memory already given back: cutting is the driver's task, since they may be locked
    /// right now. `driver` is woken when the process asks this session to give one up.
    pub(super) fn victims(&mut self, driver: &Waker) -> Vec<Weak<Core>> {
        let asked = self.account.is_asked(driver);
        if asked && !self.has_victims() {
            self.condemn_largest();
        }
        let mut cores = Vec::new();
        for stream in std::mem::take(&mut self.victims) {
            if let Some(entry) = self.entries.get_mut(&stream) {
                self.account.release(std::mem::take(&mut entry.unread));
                entry.wake();
                cores.push(entry.core.clone());
            }
        }
        if asked {
            self.account.has_given();
        }
        cores
    }

    pub(super) fn has_victims(&self) -> bool {
        !self.victims.is_empty()
    }

    /// Bytes held for this session.
    #[cfg(test)]
    fn unread(&self) -> usize {
        self.account.unread()
    }

    /// The session is over: everything is given back, everyone who waits is woken to find that out.
    pub(super) fn close(&mut self) {
        self.account.release(self.account.unread());
        self.account.sent(self.account.sending());
        if self.account.must_give() {
            self.account.has_given();
        }
        for (_, mut entry) in std::mem::take(&mut self.entries) {
            entry.wake();
        }
        for (_, waker) in self.waiting_to_send.drain(..) {
            waker.wake();
        }
    }

    fn no_longer_sending(&mut self, stream: u32, body: usize) {
        if body == 0 {
            return;
        }
        self.account.sent(body);
        if let Some(entry) = self.entries.get_mut(&stream) {
            entry.sending = entry.sending.saturating_sub(body);
            if entry.sending <= limits::STREAM_SENDING_MAX / 2
                && let Some(sender) = entry.sender.take()
            {
                sender.wake();
            }
            if entry.sending == 0 && entry.local_done && entry.remote_done {
                self.entries.remove(&stream);
            }
        }
        self.wake_senders();
    }

    /// Wakes as many as there is room for, in the order they came; all of them once nothing is under way any more,
    /// since then nobody else would.
    fn wake_senders(&mut self) {
        let mut room = limits::SESSION_SENDING_MAX.saturating_sub(self.account.sending());
        while room > 0 || self.account.sending() == 0 {
            let Some((_, waker)) = self.waiting_to_send.pop_front() else { return };
            waker.wake();
            room = room.saturating_sub(limits::RECORD_MAX);
        }
    }

    fn condemn_largest(&mut self) {
        let largest = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.condemned && entry.unread > 0)
            .max_by_key(|(_, entry)| entry.unread)
            .map(|(stream, _)| *stream);
        if let Some(stream) = largest {
            self.condemn(stream);
        }
    }

    fn condemn(&mut self, stream: u32) {
        if let Some(entry) = self.entries.get_mut(&stream)
            && !entry.condemned
        {
            entry.condemned = true;
            self.victims.push(stream);
        }
    }
}

impl Entry {
    /// Wakes the owner: the stream is no longer what it was.
    fn wake(&mut self) {
        for waker in [self.watcher.take(), self.sender.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

fn charge(body: usize) -> usize {
    body.max(limits::LEDGER_MIN_CHARGE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn data(stream: u32, flags: u16, len: u32) -> Header {
        Header { kind: Kind::Data, flags, stream, value: len }
    }

    struct Count(Arc<AtomicUsize>);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting_waker() -> (Arc<AtomicUsize>, Waker) {
        let woken = Arc::<AtomicUsize>::default();
        (woken.clone(), Waker::from(Arc::new(Count(woken))))
    }

    fn ledger() -> (Ledger, Arc<MemoryBudget>) {
        let budget = Arc::new(MemoryBudget::new(usize::MAX / 2));
        (Ledger::new(Arc::clone(&budget)), budget)
    }

    #[test]
    fn tiny_frames_are_charged_what_they_cost() {
        let (mut ledger, budget) = ledger();
        ledger.received(&data(2, header::SYN, 1)).unwrap();
        for _ in 0..9 {
            ledger.received(&data(2, 0, 1)).unwrap();
        }
        assert_eq!((ledger.unread(), budget.used()), (640, 640));
        ledger.taken(2, 1);
        assert_eq!(ledger.unread(), 576);
        ledger.detach(2, false);
        assert_eq!((ledger.unread(), budget.used()), (0, 0), "dropping the stream gives its memory back");
    }

    #[test]
    fn the_stream_that_holds_most_pays_for_the_session() {
        let (mut ledger, _budget) = ledger();
        for stream in [2, 4, 6] {
            ledger.received(&data(stream, header::SYN, 1)).unwrap();
        }
        while ledger.unread() + 65_536 <= limits::SESSION_UNREAD_MAX {
            for stream in [2, 4, 4, 6] {
                ledger.received(&data(stream, 0, 16_384)).unwrap();
            }
        }
        assert!(!ledger.has_victims());
        for _ in 0..4 {
            ledger.received(&data(2, 0, 65_536)).unwrap();
        }
        let held = ledger.unread();
        assert_eq!(ledger.victims(Waker::noop()).len(), 1, "one stream is condemned, once");
        assert!(ledger.entries[&4].condemned);
        assert!(ledger.unread() < held * 2 / 3, "what it held is given back");
        let held = ledger.unread();
        ledger.received(&data(4, 0, 65_536)).unwrap();
        assert_eq!(ledger.unread(), held, "what still comes for it is not kept, so not charged");
    }

    #[test]
    fn nothing_is_charged_for_a_stream_nobody_owns() {
        let (mut ledger, budget) = ledger();
        ledger.received(&data(8, 0, 1000)).unwrap();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_stream_that_is_reset_as_it_begins_leaves_nothing() {
        let (mut ledger, _budget) = ledger();
        for stream in 1..100 {
            ledger.received(&data(stream * 2, header::SYN | header::RST, 0)).unwrap();
        }
        assert!(ledger.entries.is_empty());
    }

    #[test]
    fn data_after_the_end_breaks_the_rules() {
        let (mut ledger, _budget) = ledger();
        ledger.received(&data(2, header::SYN | header::FIN, 5)).unwrap();
        assert_eq!(ledger.received(&data(2, 0, 5)), Err(LedgerError::DataAfterFin(2)));
    }

    #[tokio::test]
    async fn a_permit_comes_back_when_both_sides_are_done() {
        let permits = Arc::new(tokio::sync::Semaphore::new(2));
        let (mut ledger, _budget) = ledger();
        for stream in [1, 3] {
            let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
            ledger.attach(stream, Weak::new(), Some(permit));
        }
        ledger.detach(1, true);
        assert_eq!(permits.available_permits(), 0, "the peer still counts the stream");
        ledger.received(&data(1, header::FIN, 0)).unwrap();
        assert_eq!(permits.available_permits(), 1);
        ledger.detach(3, false);
        assert_eq!(permits.available_permits(), 2, "a reset is not answered");
    }

    #[test]
    fn one_stream_hands_over_no_more_than_its_share_and_is_woken_when_half_is_gone() {
        let (mut ledger, _budget) = ledger();
        let (woken, waker) = counting_waker();
        ledger.attach(1, Weak::new(), None);
        let mut records = 0;
        while ledger.may_send(1, 65_536, &waker) {
            ledger.handed_over(1, 65_536);
            records += 1;
        }
        assert_eq!(records * limits::RECORD_MAX, limits::STREAM_SENDING_MAX);
        ledger.sent(&data(1, 0, 60_000));
        assert_eq!(woken.load(Ordering::Relaxed), 0, "more than half is left");
        ledger.sent(&data(1, 0, 5_536));
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(ledger.may_send(1, 65_536, &waker));
    }

    #[test]
    fn a_full_send_queue_still_takes_one_small_record_a_stream() {
        let (mut ledger, budget) = ledger();
        let waker = Waker::noop();
        let streams: Vec<u32> = (1..100).step_by(2).collect();
        for stream in &streams {
            ledger.attach(*stream, Weak::new(), None);
        }
        let (small, bulk) = streams.split_last().unwrap();
        for stream in bulk {
            while ledger.may_send(*stream, 65_536, waker) {
                ledger.handed_over(*stream, 65_536);
            }
        }
        assert!(ledger.account.sending() >= limits::SESSION_SENDING_MAX);
        assert_eq!(
            budget.used(),
            ledger.account.sending(),
            "what waits to be sent is memory of the process too"
        );
        assert!(!ledger.may_send(*small, 65_536, waker));
        assert!(ledger.may_send(*small, limits::SMALL_RECORD, waker));
        ledger.handed_over(*small, 100);
        assert!(!ledger.may_send(*small, 100, waker), "one, not two");
        ledger.sent(&data(1, 0, 65_536));
        assert!(ledger.may_send(*small, 65_536, waker));
        drop(ledger);
        assert_eq!(budget.used(), 0);
    }
}
