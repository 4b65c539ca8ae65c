//! When to dial again.
//!
//! Two dangers pull apart: a lone node should be back at once, ten thousand nodes must not come back in the same
//! second. So the first attempt after a healthy session is spread over a window the explorer chose, and only failed
//! attempts back off. The `backoff` crate gives the doubling and nothing else: its own give-up after 15 minutes and
//! its random source are both turned off, since we never give up and randomness must be seedable.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};
use reachback_wire::limits;

use crate::ReconnectRules;

/// The delays between one line's attempts.
pub struct Reconnect {
    rules: ReconnectRules,
    intervals: ExponentialBackoff,
    random: fastrand::Rng,
    /// In a row.
    failures: u32,
}

impl Reconnect {
    /// A fresh line. The same seed gives the same delays.
    pub fn new(seed: u64, rules: ReconnectRules) -> Self {
        Self {
            rules,
            intervals: ExponentialBackoff {
                current_interval: rules.initial_delay,
                initial_interval: rules.initial_delay,
                max_interval: rules.max_delay,
                multiplier: rules.multiplier,
                randomization_factor: 0.0,
                max_elapsed_time: None,
                ..ExponentialBackoff::default()
            },
            random: fastrand::Rng::with_seed(seed),
            failures: 0,
        }
    }

    /// The wait after an attempt that failed: unless the rules say otherwise 100 ms doubling to 30 s, each ±10 %. What
    /// the explorer asked for replaces it, plus up to 20 %, so that those it turned away together don't come back
    /// together.
    pub fn after_failure(&mut self, retry_after: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let backed_off = self.intervals.next_backoff().unwrap_or(self.rules.max_delay);
        let jitter = self.rules.jitter;
        match retry_after {
            Some(asked) => asked.mul_f64(1.0 + 0.2 * self.random.f64()),
            None => backed_off.mul_f64(1.0 - jitter + 2.0 * jitter * self.random.f64()),
        }
    }

    /// How many attempts have failed in a row, once the rules allow no more of them.
    pub fn exhausted(&self) -> Option<u32> {
        self.rules.max_attempts.is_some_and(|most| self.failures >= most).then_some(self.failures)
    }

    /// The wait after a session that lived for `lived`. One that was healthy (30 s) starts the doubling afresh and
    /// waits uniform(0, `window`), the window being what its `Welcome` or `Drain` said; a shorter one counts as a
    /// failed attempt, or a crashing explorer would be hammered.
    pub fn after_session(
        &mut self,
        lived: Duration,
        window: Duration,
        retry_after: Option<Duration>,
    ) -> Duration {
        if lived < limits::HEALTHY_AFTER || retry_after.is_some() {
            return self.after_failure(retry_after);
        }
        self.intervals.reset();
        self.failures = 0;
        window.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(seed: u64) -> Reconnect {
        Reconnect::new(seed, ReconnectRules::default())
    }

    fn within(delay: Duration, middle: Duration, spread: f64) -> bool {
        delay >= middle.mul_f64(1.0 - spread - 1e-9) && delay <= middle.mul_f64(1.0 + spread + 1e-9)
    }

    #[test]
    fn failures_double_from_100_ms_to_30_s_and_never_stop() {
        let mut line = fresh(7);
        let mut expected = Duration::from_millis(100);
        for attempt in 0..10_000 {
            let delay = line.after_failure(None);
            assert!(within(delay, expected, 0.1), "attempt {attempt}: {delay:?} around {expected:?}");
            expected = (expected * 2).min(Duration::from_secs(30));
        }
    }

    #[test]
    fn every_value_of_the_rules_is_obeyed() {
        let rules = ReconnectRules {
            initial_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(5),
            multiplier: 3.0,
            jitter: 0.0,
            max_attempts: Some(5),
        };
        let mut line = Reconnect::new(7, rules);
        for (failed, expected) in (1..).zip([200, 600, 1_800, 5_000, 5_000]) {
            assert_eq!(line.exhausted(), None);
            assert_eq!(line.after_failure(None), Duration::from_millis(expected), "attempt {failed}");
        }
        assert_eq!(line.exhausted(), Some(5));
        line.after_session(limits::HEALTHY_AFTER, Duration::ZERO, None);
        assert_eq!(line.exhausted(), None, "what worked in between counts");
        let wide = ReconnectRules { jitter: 0.5, ..ReconnectRules::default() };
        let delays: Vec<_> =
            (0..200).map(|seed| Reconnect::new(seed, wide).after_failure(None).as_millis()).collect();
        assert!(delays.iter().all(|delay| (50..=150).contains(delay)), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay < 70) && delays.iter().any(|delay| *delay > 130));
        assert_eq!(fresh(7).exhausted(), None);
    }

    #[test]
    fn delays_differ_between_lines_and_repeat_with_the_seed() {
        let delays = |seed| -> Vec<_> {
            let mut line = fresh(seed);
            (0..8).map(|_| line.after_failure(None)).collect()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn the_first_attempt_after_a_healthy_session_is_spread_over_the_window() {
        let mut line = fresh(3);
        for _ in 0..6 {
            line.after_failure(None);
        }
        let window = Duration::from_secs(20);
        let delays: Vec<_> =
            (0..1000).map(|_| line.after_session(Duration::from_secs(31), window, None)).collect();
        assert!(delays.iter().all(|delay| *delay <= window));
        for quarter in 0..4 {
            let (low, high) = (window * quarter / 4, window * (quarter + 1) / 4);
            let share = delays.iter().filter(|delay| **delay >= low && **delay < high).count();
            assert!(share > 150, "quarter {quarter} has {share} of 1000");
        }
        assert_eq!(line.after_session(Duration::from_secs(31), Duration::ZERO, None), Duration::ZERO);
        assert!(
            within(line.after_failure(None), Duration::from_millis(100), 0.1),
            "the doubling starts afresh"
        );
    }

    #[test]
    fn a_session_that_died_young_is_a_failed_attempt() {
        let mut line = fresh(3);
        line.after_failure(None);
        let delay = line.after_session(Duration::from_secs(1), Duration::ZERO, None);
        assert!(within(delay, Duration::from_millis(200), 0.1), "{delay:?}");
    }

    #[test]
    fn what_the_explorer_asks_for_replaces_the_delay() {
        let mut line = fresh(3);
        for _ in 0..100 {
            let delay = line.after_failure(Some(Duration::from_secs(60)));
            assert!(delay >= Duration::from_secs(60) && delay <= Duration::from_secs(72), "{delay:?}");
        }
    }
}
