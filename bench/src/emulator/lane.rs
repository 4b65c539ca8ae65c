//! One direction of the link: a thread that takes packets from one TUN device and gives them to the other one, late,
//! slowly, or never, as the shape says. It sleeps in `ppoll` until a packet comes, one is due, or the emulator stops.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, PipeReader, Read, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    LaneStats,
    packet::{self, Packet},
    shape::{Fate, Shaper},
};
use crate::sys;

/// Packets read in a row before the clock and the stop pipe are looked at again: enough to spread the cost of a poll,
/// few enough that a packet that is due waits less than a millisecond.
const BURST: usize = 32;

/// Larger than any IPv4 packet.
const PACKET_MAX: usize = 65_536;

/// What the emulator and its lane share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// While set, nothing comes out, not even what is already under way.
    pub(crate) black_hole: AtomicBool,
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    crowded: AtomicU64,
    swallowed: AtomicU64,
    dials_refused: AtomicU64,
    foreign: AtomicU64,
    unwritable: AtomicU64,
}

impl Shared {
    pub(crate) fn stats(&self) -> LaneStats {
        LaneStats {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            lost: self.lost.load(Relaxed),
            crowded: self.crowded.load(Relaxed),
            swallowed: self.swallowed.load(Relaxed),
            dials_refused: self.dials_refused.load(Relaxed),
            foreign: self.foreign.load(Relaxed),
            unwritable: self.unwritable.load(Relaxed),
        }
    }
}

/// One direction, ready to run on a thread of its own.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) from: Arc<File>,
    pub(crate) to: Arc<File>,
    /// Readable (at its end) when the lane is to stop.
    pub(crate) stop: PipeReader,
    pub(crate) shaper: Shaper,
    /// Whether new TCP connections in this direction are swallowed.
    pub(crate) refuse_dials: bool,
    pub(crate) shared: Arc<Shared>,
}

impl Lane {
    /// Moves packets until told to stop.
    ///
    /// # Errors
    /// When the device that packets come from is gone.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let start = now();
        let mut under_way = UnderWay::default();
        let mut buffer = vec![0; PACKET_MAX];
        loop {
            while let Some(packet) = under_way.take_due(start.elapsed()) {
                self.deliver(&packet);
            }
            let timeout = under_way.next_due().map(|due| due.saturating_sub(start.elapsed()));
            let [readable, stopped] = sys::wait_readable(self.from.as_fd(), self.stop.as_fd(), timeout)?;
            if stopped {
                return Ok(());
            }
            if !readable {
                continue;
            }
            let now = start.elapsed();
            for _ in 0..BURST {
                let len = match (&*self.from).read(&mut buffer) {
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                self.take_in(&buffer[..len], now, &mut under_way);
            }
        }
    }

    fn take_in(&mut self, packet: &[u8], now: Duration, under_way: &mut UnderWay) {
        match packet::classify(packet) {
            Packet::Foreign => return count(&self.shared.foreign, 1),
            Packet::Dial if self.refuse_dials => return count(&self.shared.dials_refused, 1),
            Packet::Dial | Packet::Other => {}
        }
        match self.shaper.admit(now, packet.len(), under_way.bytes) {
            Fate::Lost => count(&self.shared.lost, 1),
            Fate::Crowded => count(&self.shared.crowded, 1),
            // Nothing waits and this need not wait: no copy.
            Fate::Arrives(due) if due <= now && under_way.packets.is_empty() => self.deliver(packet),
            Fate::Arrives(due) => under_way.add(due, packet),
        }
    }

    fn deliver(&self, packet: &[u8]) {
        if self.shared.black_hole.load(Relaxed) {
            return count(&self.shared.swallowed, 1);
        }
        match (&*self.to).write(packet) {
            // A TUN device takes a packet whole or not at all.
            Ok(written) if written == packet.len() => {
                count(&self.shared.packets, 1);
                count(&self.shared.bytes, packet.len() as u64);
            }
            // A link may lose a packet; whoever cares reads the counter.
            Ok(_) | Err(_) => count(&self.shared.unwritable, 1),
        }
    }
}

/// Packets between the two ends, oldest first. The delay is the same for all, so they leave in order.
#[derive(Debug, Default)]
struct UnderWay {
    packets: VecDeque<(Duration, Box<[u8]>)>,
    bytes: usize,
}

impl UnderWay {
    fn add(&mut self, due: Duration, packet: &[u8]) {
        self.bytes += packet.len();
        self.packets.push_back((due, packet.into()));
    }

    fn take_due(&mut self, now: Duration) -> Option<Box<[u8]>> {
        let (_, packet) = self.packets.pop_front_if(|(due, _)| *due <= now)?;
        self.bytes -= packet.len();
        Some(packet)
    }

    fn next_due(&self) -> Option<Duration> {
        self.packets.front().map(|(due, _)| *due)
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

#[allow(
    clippy::disallowed_methods,
    reason = "a link is real time: blocking threads, no runtime whose clock could be paused"
)]
fn now() -> Instant {
    Instant::now()
}
