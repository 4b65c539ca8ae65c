//! How a session's socket follows its path.
//!
//! What is in the kernel's queue is in order, so a small answer waits behind all of it. How much that costs depends on
//! the path: on a fast one the queue should hold enough to keep the line busy between two wake-ups, on a slow one the
//! same bytes are a second of waiting. So the unsent bytes that the kernel may hold, and the size of one record, are
//! what a path of 3 ms or more carries in 5 ms, measured by the kernel and looked at with every heartbeat.
//!
//! What the other end's kernel has sent and ours has not handed over is in order too. The kernel lets that grow to megabytes
//! where the reader is the slower one, which on a short path buys nothing: so there the window is what a fast path holds,
//! and some more. That bounds what is on the way; what lies here unread is bounded by the room that the kernel gives the
//! socket, and on the shortest paths, where a busy second lets it grow to megabytes at once, it is told how much that is.
//!
//! A long path that loses packets also wants another congestion control than a short one: BBR does not take a lost
//! packet for a full line and keeps the queue at the narrowest place short, but costs a factor of two to three where
//! the round trip is a fraction of a millisecond.

use std::{convert::Infallible, fmt, str::FromStr, time::Duration};

use reachback_wire::limits;

use crate::{Transport, tcp::Path};

/// Which congestion control a session's TCP connection has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Congestion {
    /// BBR where the round trip is 3 ms or longer and the kernel lets us, the kernel's own choice elsewhere.
    #[default]
    Auto,
    /// The kernel's own choice.
    Keep,
    /// This one, if the kernel has it and lets us; else the kernel's own choice, and a warning.
    Named(String),
}

impl FromStr for Congestion {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "keep" => Self::Keep,
            name => Self::Named(name.to_owned()),
        })
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Keep => f.write_str("keep"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// What has been decided about one transport.
pub(crate) struct Tuning {
    congestion: Congestion,
    decided: bool,
    unsent: usize,
    window: Option<usize>,
    /// Whether the kernel gives the socket no more room by itself.
    held: bool,
}

impl Tuning {
    pub(crate) fn new(congestion: Congestion) -> Self {
        Self { congestion, decided: false, unsent: limits::NOTSENT_LOWAT, window: None, held: false }
    }

    /// Looks at the path and sets what follows from it. Returns the bytes that one record should have at most, if that
    /// is known by now.
    pub(crate) fn follow(&mut self, transport: &Transport) -> Option<usize> {
        let path = transport.path()?;
        if let Some(name) = self.congestion_for(&path) {
            let asked = matches!(self.congestion, Congestion::Named(_));
            match transport.set_congestion(name) {
                Err(error) if asked => {
                    tracing::warn!(congestion = name, %error, "the kernel does not give this congestion control; \
                        see /proc/sys/net/ipv4/tcp_allowed_congestion_control");
                }
                Err(error) => {
                    tracing::debug!(congestion = name, %error, "the kernel's own congestion control stays")
                }
                Ok(()) => tracing::debug!(congestion = name, rtt = ?path.min_rtt, "congestion control"),
            }
            self.decided = true;
        }
        if let Some(window) = window(path.min_rtt)
            .filter(|window| self.window.is_none_or(|old| old / 2 > *window || old < *window))
        {
            self.window = Some(window);
            transport.clamp_window(window);
        }
        let hold = path.min_rtt > Duration::ZERO && path.min_rtt < limits::SHORT_PATH;
        if hold != self.held {
            self.held = hold;
            transport.hold_receive_room(hold.then_some(limits::SHORT_WINDOW));
        }
        // On a short path a sample says more about who had the processor than about the path.
        let rate = path.rate.filter(|_| path.min_rtt >= limits::LONG_PATH)?;
        let unsent = unsent(rate);
        if unsent != self.unsent {
            self.unsent = unsent;
            transport.set_unsent_limit(unsent);
        }
        Some(record_size(rate))
    }

    /// The congestion control to be set now.
    fn congestion_for(&self, path: &Path) -> Option<&str> {
        match &self.congestion {
            _ if self.decided => None,
            Congestion::Auto if path.min_rtt >= limits::LONG_PATH => Some("bbr"),
            Congestion::Auto | Congestion::Keep => None,
            Congestion::Named(name) => Some(name),
        }
    }
}

/// What a path of this many bytes per second carries between two wake-ups.
fn carried(rate: u64) -> usize {
    let bytes = u128::from(rate) * WAKE_UP.as_micros() / 1_000_000;
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn unsent(rate: u64) -> usize {
    carried(rate).clamp(limits::NOTSENT_LOWAT_MIN, limits::NOTSENT_LOWAT_MAX)
}

/// What the peer may have on its way to us: twice what the fastest path of this length holds, and what keeps a reader busy
/// that was away for a moment. `None` as long as the length is not known.
fn window(min_rtt: Duration) -> Option<usize> {
    let on_the_way = u128::from(2 * limits::FAST_PATH) * min_rtt.as_micros() / 1_000_000;
    let window = usize::try_from(on_the_way).unwrap_or(usize::MAX).saturating_add(limits::SHORT_WINDOW);
    (min_rtt > Duration::ZERO).then_some(window.min(limits::LONG_WINDOW))
}

fn record_size(rate: u64) -> usize {
    carried(rate).clamp(limits::RECORD_SLOW, limits::RECORD_MAX)
}

/// How long a busy process may take to come back to a socket.
const WAKE_UP: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_and_records_follow_the_rate() {
        // Mbit/s, unsent bytes in the kernel, bytes of a record.
        for (megabits, queue, record) in [
            (1, 16_384, 4_096),
            (10, 16_384, 6_250),
            (40, 25_000, 25_000),
            (200, 125_000, 65_536),
            (10_000, 262_144, 65_536),
        ] {
            let rate = megabits * 1_000_000 / 8;
            assert_eq!((unsent(rate), record_size(rate)), (queue, record), "{megabits} Mbit/s");
        }
    }

    #[test]
    fn the_window_is_small_on_a_short_path_and_the_kernels_on_a_long_one() {
        for (micros, kibibytes) in [(50, 634), (500, 1_732), (3_000, 7_836)] {
            let window = window(Duration::from_micros(micros)).unwrap() / 1024;
            assert_eq!(window, kibibytes, "{micros} us");
        }
        assert_eq!(window(Duration::from_millis(200)), Some(limits::LONG_WINDOW));
        assert_eq!(window(Duration::ZERO), None);
    }

    #[test]
    fn bbr_is_for_long_paths_unless_somebody_says_otherwise_and_is_set_once() {
        let path = |ms| Path { min_rtt: Duration::from_millis(ms), rate: None };
        let chosen = |text: &str, ms| {
            Tuning::new(text.parse().unwrap()).congestion_for(&path(ms)).map(ToOwned::to_owned)
        };
        assert_eq!(chosen("auto", 2), None);
        assert_eq!(chosen("auto", 3).as_deref(), Some("bbr"));
        assert_eq!(chosen("keep", 300), None);
        assert_eq!(chosen("vegas", 0).as_deref(), Some("vegas"));
        let decided = Tuning { decided: true, ..Tuning::new(Congestion::Auto) };
        assert_eq!(decided.congestion_for(&path(300)), None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_decided_is_what_the_kernel_does() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) =
            tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (near, _far) = (Transport::from(near.unwrap()), far.unwrap());
        // Reno is part of every kernel and always allowed.
        let mut tuning = Tuning::new("reno".parse().unwrap());
        assert_eq!(tuning.follow(&near), None, "nothing was sent yet, so the rate is unknown");
        assert_eq!(near.congestion().unwrap(), "reno");
        let mut impossible = Tuning::new("no-such-thing".parse().unwrap());
        impossible.follow(&near);
        assert_eq!(near.congestion().unwrap(), "reno");
        assert!(tuning.window.is_some_and(|window| window < limits::LONG_WINDOW));
        let room = near.receive_room().unwrap();
        assert!(tuning.held && room <= limits::SHORT_WINDOW, "{room}");
        near.hold_receive_room(None);
        near.set_unsent_limit(20_000);
        assert_eq!(near.unsent_limit().unwrap(), 20_000);
    }
}
