//! What to say about a line to an explorer: one sentence per change that matters, none per attempt.

use std::time::Duration;

use reachback_client::LineState;
use reachback_link::Pulse;
use tokio::time::Instant;

/// What is done at SIGHUP, and what is not.
pub(crate) const AT_SIGHUP: &str = "SIGHUP: what is down is dialled now; the configuration is not read again";

/// What was said last about one line.
#[derive(Debug, Default)]
pub(crate) struct Told {
    last: Option<Said>,
}

#[derive(Debug, PartialEq)]
enum Said {
    Online,
    Late,
    Offline(String),
}

/// A change that people want to know of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// The session stands and its first heartbeat was answered.
    Online {
        /// Who answered.
        explorer: String,
        /// The heartbeat's round trip.
        rtt: Option<Duration>,
    },
    /// Bytes arrive and heartbeats are not answered.
    Late,
    /// There is no session.
    Offline {
        /// Why.
        reason: String,
        /// Until the next attempt.
        wait: Duration,
    },
}

impl Told {
    /// Something else has said already that the line stands.
    pub(crate) fn online() -> Self {
        Self { last: Some(Said::Online) }
    }

    /// The change that `state` is, unless it was told already. Attempts that fail for the same reason as the one
    /// before are no change.
    pub(crate) fn change(&mut self, state: &LineState) -> Option<Change> {
        let (said, change) = match state {
            LineState::Dialing { .. } | LineState::Handshaking | LineState::Stopped => return None,
            LineState::Serving { pulse: Pulse::Opening, .. } => return None,
            LineState::Serving { pulse: Pulse::Late, .. } => (Said::Late, Change::Late),
            LineState::Serving { pulse: Pulse::Live, explorer, rtt, .. } => {
                (Said::Online, Change::Online { explorer: explorer.to_string(), rtt: *rtt })
            }
            LineState::BackingOff { until, code, reason } => {
                let reason = format!("{}: {reason}", code.name());
                let wait = until.saturating_duration_since(Instant::now());
                (Said::Offline(reason.clone()), Change::Offline { reason, wait })
            }
        };
        if self.last.as_ref() == Some(&said) {
            return None;
        }
        self.last = Some(said);
        Some(change)
    }
}

/// A duration as short as people say it: `38 ms`, `1.2 s`, `3 s`, `20 s`, `2 min`, `11 h`, `3 d`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.is_zero() => "0 s".to_owned(),
        // What was counted in whole seconds does not look as if it had been measured.
        1..10 if duration.subsec_nanos() == 0 => format!("{seconds} s"),
        0 if duration.as_micros() < 1_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use reachback_wire::{Code, SessionId};

    use super::*;

    fn serving(pulse: Pulse) -> LineState {
        LineState::Serving {
            explorer: "hub-1".parse().unwrap(),
            session: SessionId(1),
            pulse,
            rtt: Some(Duration::from_millis(38)),
        }
    }

    fn waiting(reason: &str) -> LineState {
        LineState::BackingOff { until: Instant::now(), code: Code::Lost, reason: reason.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_told_once() {
        let mut told = Told::default();
        let offline =
            |reason: &str| Change::Offline { reason: format!("lost: {reason}"), wait: Duration::ZERO };
        let online = Change::Online { explorer: "hub-1".to_owned(), rtt: Some(Duration::from_millis(38)) };
        for (state, expected) in [
            (LineState::Dialing { attempt: 1 }, None),
            (LineState::Handshaking, None),
            (serving(Pulse::Opening), None),
            (serving(Pulse::Live), Some(online.clone())),
            (serving(Pulse::Live), None),
            (serving(Pulse::Late), Some(Change::Late)),
            (serving(Pulse::Live), Some(online.clone())),
            (waiting("no heartbeat for 20 s"), Some(offline("no heartbeat for 20 s"))),
            (LineState::Dialing { attempt: 2 }, None),
            (waiting("connection refused"), Some(offline("connection refused"))),
            (waiting("connection refused"), None),
            (serving(Pulse::Live), Some(online)),
            (LineState::Stopped, None),
        ] {
            assert_eq!(told.change(&state), expected, "{state:?}");
        }
        let mut told = Told::online();
        assert_eq!(told.change(&serving(Pulse::Live)), None);
        assert_eq!(told.change(&serving(Pulse::Late)), Some(Change::Late));
    }

    #[test]
    fn durations_are_short() {
        for (milliseconds, text) in [
            (0, "0 s"),
            (3_000, "3 s"),
            (38, "38 ms"),
            (1_234, "1.2 s"),
            (20_000, "20 s"),
            (119_000, "119 s"),
            (120_000, "2 min"),
            (660_000, "11 min"),
            (7_200_000, "2 h"),
            (259_200_000, "3 d"),
        ] {
            assert_eq!(short(Duration::from_millis(milliseconds)), text);
        }
    }
}
