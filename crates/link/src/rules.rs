//! What an operator may change about lines and sessions, with the names of the tables they are written in.
//!
//! The usual values are the ones that everything here was measured with. Whoever changes one is told what it can't be,
//! in the words of the file it stands in, before anything is dialled.

use std::time::Duration;

use reachback_wire::limits;

/// A value that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct RulesError {
    key: &'static str,
    reason: String,
}

/// When a line dials again: the table `[reconnect]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReconnectRules {
    /// The wait after the first attempt that failed.
    pub initial_delay: Duration,
    /// The longest wait.
    pub max_delay: Duration,
    /// What the wait is multiplied by after each further failure.
    pub multiplier: f64,
    /// By how much a wait may be shorter or longer, as a share of it.
    pub jitter: f64,
    /// After how many failed attempts in a row the line gives up; `None`: never.
    pub max_attempts: Option<u32>,
}

/// How a session watches over its connection: the table `[transport]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRules {
    /// How long a peer may be silent; `None`: two heartbeats. Never less than these, or an idle line would end.
    pub io_timeout: Option<Duration>,
    /// After how long without traffic the kernel asks whether the peer is there, three times in as long again; `None`:
    /// it doesn't.
    pub keepalive: Option<Duration>,
}

impl Default for ReconnectRules {
    fn default() -> Self {
        Self {
            initial_delay: limits::RECONNECT_FIRST,
            max_delay: limits::RECONNECT_MAX,
            multiplier: 2.0,
            jitter: 0.1,
            max_attempts: None,
        }
    }
}

impl ReconnectRules {
    /// # Errors
    /// The first value that can't be.
    pub fn check(&self) -> Result<(), RulesError> {
        let range = limits::RECONNECT_LEAST..=limits::RECONNECT_MOST;
        if !range.contains(&self.initial_delay) {
            return Err(not_within("reconnect.initial_delay_ms", self.initial_delay, &range));
        }
        if !range.contains(&self.max_delay) {
            return Err(not_within("reconnect.max_delay_ms", self.max_delay, &range));
        }
        if self.max_delay < self.initial_delay {
            let reason =
                format!("{:?} is shorter than initial_delay_ms, {:?}", self.max_delay, self.initial_delay);
            return Err(RulesError { key: "reconnect.max_delay_ms", reason });
        }
        if !(1.0..=100.0).contains(&self.multiplier) {
            let reason = format!(
                "{} is not between 1 and 100; waits don't shrink while nothing works",
                self.multiplier
            );
            return Err(RulesError { key: "reconnect.multiplier", reason });
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            let reason = format!("{} is not between 0 and 1; 0.1 is a tenth more or less", self.jitter);
            return Err(RulesError { key: "reconnect.jitter", reason });
        }
        if self.max_attempts == Some(0) {
            let reason = "nothing would ever be dialled; leave it out to try for ever".to_owned();
            return Err(RulesError { key: "reconnect.max_attempts", reason });
        }
        Ok(())
    }
}

impl Default for SessionRules {
    fn default() -> Self {
        Self::USUAL
    }
}

impl SessionRules {
    /// Those of whoever says nothing.
    pub const USUAL: Self = Self { io_timeout: None, keepalive: Some(limits::KEEPALIVE_IDLE) };

    /// # Errors
    /// The first value that can't be.
    pub fn check(&self) -> Result<(), RulesError> {
        let range = 2 * limits::HEARTBEAT_MIN..=limits::IO_TIMEOUT_MAX;
        if let Some(given) = self.io_timeout
            && !range.contains(&given)
        {
            return Err(not_within("transport.io_timeout_ms", given, &range));
        }
        let range = Duration::from_secs(1)..=limits::KEEPALIVE_MAX;
        if let Some(given) = self.keepalive
            && !range.contains(&given)
        {
            return Err(not_within("transport.keepalive_interval_secs", given, &range));
        }
        Ok(())
    }

    /// How long a peer may be silent in a session with this heartbeat.
    #[must_use]
    pub fn silence(&self, heartbeat: Duration) -> Duration {
        let least = 2 * heartbeat;
        self.io_timeout.map_or(least, |given| given.max(least))
    }

    /// When unacknowledged bytes end the connection in the kernel: behind our own verdict, as a backstop has to be.
    pub(crate) fn user_timeout(&self, heartbeat: Duration) -> Duration {
        limits::TCP_USER_TIMEOUT.max(self.silence(heartbeat) * 3 / 2)
    }
}

fn not_within(key: &'static str, given: Duration, range: &std::ops::RangeInclusive<Duration>) -> RulesError {
    let reason = format!("{given:?} is not between {:?} and {:?}", range.start(), range.end());
    RulesError { key, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_allowed_and_what_makes_no_sense_is_named() {
        ReconnectRules::default().check().unwrap();
        SessionRules::default().check().unwrap();
        type Change = fn(&mut ReconnectRules);
        let changes: [(Change, &str); 9] = [
            (|r| r.initial_delay = Duration::ZERO, "initial_delay_ms"),
            (|r| r.initial_delay = Duration::from_secs(7200), "initial_delay_ms"),
            (|r| r.max_delay = Duration::from_millis(50), "max_delay_ms"),
            (|r| r.max_delay = Duration::from_secs(7200), "max_delay_ms"),
            (|r| r.multiplier = 0.5, "multiplier"),
            (|r| r.multiplier = f64::NAN, "multiplier"),
            (|r| r.jitter = -0.1, "jitter"),
            (|r| r.jitter = 1.5, "jitter"),
            (|r| r.max_attempts = Some(0), "max_attempts"),
        ];
        for (change, key) in changes {
            let mut rules = ReconnectRules::default();
            change(&mut rules);
            let error = rules.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("reconnect.{key}: ")), "{key}: {error}");
        }
        for (io_timeout, keepalive, key) in [
            (Some(Duration::from_millis(199)), None, "io_timeout_ms"),
            (Some(Duration::from_secs(90_000)), None, "io_timeout_ms"),
            (None, Some(Duration::from_millis(999)), "keepalive_interval_secs"),
            (None, Some(Duration::from_secs(32_768)), "keepalive_interval_secs"),
        ] {
            let error = SessionRules { io_timeout, keepalive }.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("transport.{key}: ")), "{error}");
        }
    }

    #[test]
    fn an_idle_line_is_never_taken_for_a_dead_one() {
        let heartbeat = Duration::from_secs(10);
        let silence = |seconds| {
            let io_timeout = Some(Duration::from_secs(seconds));
            SessionRules { io_timeout, ..SessionRules::default() }.silence(heartbeat)
        };
        assert_eq!(SessionRules::default().silence(heartbeat), Duration::from_secs(20));
        assert_eq!(silence(5), Duration::from_secs(20));
        assert_eq!(silence(30), Duration::from_secs(30));
    }
}
