//! The pure half of a direction of the link: when a packet that arrives now comes out at the other end, if it does.
//! No clock and no device, so that rate, queue and loss can be tested with numbers instead of stopwatches.

use std::time::Duration;

use super::IN_FLIGHT_MAX;

/// One direction's rate limit, drop-tail queue, loss and delay.
///
/// The rate is kept by a virtual clock: `free_at` is when the wire has finished with everything admitted so far. That is
/// a token bucket whose bucket holds exactly one packet.
#[derive(Debug)]
pub(crate) struct Shaper {
    delay: Duration,
    /// Bits per second.
    rate: Option<u64>,
    /// Bytes that may wait for the wire.
    queue: usize,
    /// Probability of losing a packet, 0 to 1.
    loss: f64,
    random: fastrand::Rng,
    free_at: Duration,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It comes out at this time.
    Arrives(Duration),
    /// It was sent and got lost on the way.
    Lost,
    /// The queue was full.
    Crowded,
}

impl Shaper {
    pub(crate) fn new(delay: Duration, rate: Option<u64>, queue: usize, loss: f64, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { delay, rate, queue, loss, random, free_at: Duration::ZERO }
    }

    /// Decides about a packet of `len` bytes that comes in at `now` (since the start), while `in_flight` bytes are
    /// waiting or travelling.
    pub(crate) fn admit(&mut self, now: Duration, len: usize, in_flight: usize) -> Fate {
        if in_flight + len > IN_FLIGHT_MAX {
            return Fate::Crowded;
        }
        let sent_at = match self.rate {
            None => now,
            Some(rate) => {
                let backlog = bytes_in(self.free_at.saturating_sub(now), rate);
                // An idle wire takes any packet, however small the queue.
                if backlog > 0 && backlog + len > self.queue {
                    return Fate::Crowded;
                }
                self.free_at = self.free_at.max(now) + time_for(len, rate);
                self.free_at
            }
        };
        if self.loss > 0.0 && self.random.f64() < self.loss {
            return Fate::Lost;
        }
        Fate::Arrives(sent_at + self.delay)
    }
}

fn time_for(bytes: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64)
}

fn bytes_in(time: Duration, rate: u64) -> usize {
    (time.as_secs_f64() * rate as f64 / 8.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn without_limits_only_the_delay_counts() {
        let mut shaper = Shaper::new(25 * MS, None, 0, 0.0, 1);
        assert_eq!(shaper.admit(7 * MS, 65_000, 0), Fate::Arrives(32 * MS));
        assert_eq!(shaper.admit(7 * MS, 65_000, 65_000), Fate::Arrives(32 * MS));
    }

    #[test]
    fn the_rate_spaces_packets_and_a_full_queue_drops_the_newest() {
        // 8 Mbit/s: 1,000 bytes take 1 ms; the queue holds two of them beside the one on the wire.
        let mut shaper = Shaper::new(10 * MS, Some(8_000_000), 3_000, 0.0, 1);
        assert_eq!(shaper.admit(Duration::ZERO, 1_000, 0), Fate::Arrives(11 * MS));
        assert_eq!(shaper.admit(Duration::ZERO, 1_000, 0), Fate::Arrives(12 * MS));
        assert_eq!(shaper.admit(Duration::ZERO, 1_000, 0), Fate::Arrives(13 * MS));
        assert_eq!(shaper.admit(Duration::ZERO, 1_000, 0), Fate::Crowded);
        assert_eq!(
            shaper.admit(MS, 1_000, 0),
            Fate::Arrives(14 * MS),
            "one packet later there is room again"
        );
        assert_eq!(shaper.admit(100 * MS, 1_000, 0), Fate::Arrives(111 * MS), "idle time earns no burst");
    }

    #[test]
    fn an_idle_wire_takes_a_packet_larger_than_the_queue() {
        let mut shaper = Shaper::new(Duration::ZERO, Some(8_000_000), 100, 0.0, 1);
        assert_eq!(shaper.admit(Duration::ZERO, 1_000, 0), Fate::Arrives(MS));
        assert_eq!(shaper.admit(Duration::ZERO, 1_000, 0), Fate::Crowded);
    }

    #[test]
    fn loss_has_the_chosen_share_and_repeats_with_its_seed() {
        let fates = |seed| {
            let mut shaper = Shaper::new(Duration::ZERO, None, 0, 0.1, seed);
            (0..10_000).map(|_| shaper.admit(Duration::ZERO, 100, 0)).collect::<Vec<_>>()
        };
        let lost = fates(7).iter().filter(|fate| **fate == Fate::Lost).count();
        assert!((900..1_100).contains(&lost), "{lost} of 10,000 lost at 10 %");
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }

    #[test]
    fn what_travels_is_bounded_even_without_a_rate() {
        let mut shaper = Shaper::new(1_000 * MS, None, 0, 0.0, 1);
        assert_eq!(shaper.admit(Duration::ZERO, 1, IN_FLIGHT_MAX), Fate::Crowded);
    }
}
