//! How often somebody may do something: a bucket of tokens that fills up again at a steady rate.
//!
//! A bucket forgives a burst and holds to a rate. It is kept as one point in time, the moment at which it will be full,
//! so that it costs a few bytes for each peer, needs no timer, and its waits are exact to the nanosecond. A bucket that
//! is full is as good as none, which is how owners of many know which ones they can forget.

use std::time::Duration;

use tokio::time::Instant;

/// How many tokens a bucket holds, and how fast they come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketRules {
    every: Duration,
    whole: Duration,
}

/// Numbers that make no bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// Nothing would ever pass, or everything.
    #[error("a bucket holds 1 to {most} tokens", most = BucketRules::SIZE_MAX)]
    Size,
    /// Nothing would ever come back, or faster than anyone can ask.
    #[error("a bucket is refilled at {least} to {most} tokens a second", least = BucketRules::RATE_MIN, most = BucketRules::RATE_MAX)]
    Rate,
}

impl BucketRules {
    /// The largest bucket: beyond a million the rate alone decides.
    pub const SIZE_MAX: u32 = 1_000_000;
    /// The slowest refill, in tokens a second: one in about a quarter of an hour.
    pub const RATE_MIN: f64 = 0.001;
    /// The fastest refill, in tokens a second.
    pub const RATE_MAX: f64 = 1_000_000.0;

    /// A bucket of `size` tokens that gets `per_second` back.
    ///
    /// # Errors
    /// One of the numbers is out of range.
    pub fn new(size: u32, per_second: f64) -> Result<Self, BucketError> {
        if !(1..=Self::SIZE_MAX).contains(&size) {
            return Err(BucketError::Size);
        }
        // Also refuses what is no number.
        if !(Self::RATE_MIN..=Self::RATE_MAX).contains(&per_second) {
            return Err(BucketError::Rate);
        }
        let every = Duration::from_secs_f64(1.0 / per_second);
        Ok(Self { every, whole: every.saturating_mul(size) })
    }

    /// A bucket of `size` tokens of which one comes back `every` so often: for bounds that are constants.
    #[must_use]
    pub const fn every(size: u32, every: Duration) -> Self {
        Self { every, whole: every.saturating_mul(size) }
    }
}

/// What is left for one of those who share the same [`BucketRules`]. Begins full.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// There is none: how long until there is. Nothing is taken then.
    pub fn take(&mut self, rules: BucketRules, now: Instant) -> Result<(), Duration> {
        let missing = self.full_at.saturating_duration_since(now) + rules.every;
        match missing.checked_sub(rules.whole) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.full_at = now + missing;
                Ok(())
            }
        }
    }

    /// Puts one token back that was taken.
    pub fn give_back(&mut self, rules: BucketRules) {
        // Before the clock began it was full too.
        self.full_at = self.full_at.checked_sub(rules.every).unwrap_or(self.full_at);
    }

    /// Whether it holds all it can: forgetting it changes nothing.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// How many tokens can be taken at once.
    #[must_use]
    pub fn available(&self, rules: BucketRules, now: Instant) -> u32 {
        let left = rules.whole.saturating_sub(self.full_at.saturating_duration_since(now));
        u32::try_from(left.as_nanos() / rules.every.as_nanos().max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_one_token_comes_every_twenty_milliseconds() {
        let rules = BucketRules::new(100, 50.0).unwrap();
        let begun = Instant::now();
        let mut bucket = TokenBucket::full(begun);
        for taken in 0..100 {
            assert_eq!(bucket.available(rules, begun), 100 - taken);
            bucket.take(rules, begun).unwrap();
        }
        assert_eq!(bucket.take(rules, begun), Err(20 * MILLISECOND));
        let mut now = begun;
        for _ in 0..10 {
            now += 19 * MILLISECOND;
            assert_eq!(bucket.take(rules, now), Err(MILLISECOND), "what is refused costs nothing");
            now += MILLISECOND;
            bucket.take(rules, now).unwrap();
            assert_eq!(bucket.take(rules, now), Err(20 * MILLISECOND));
        }
        assert!(!bucket.is_full(now + 1999 * MILLISECOND) && bucket.is_full(now + 2000 * MILLISECOND));
        assert_eq!(bucket.available(rules, now + Duration::from_secs(3600)), 100, "it never holds more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_can_be_taken_again() {
        let rules = BucketRules::every(2, Duration::from_secs(1));
        let now = Instant::now();
        let mut bucket = TokenBucket::full(now);
        for _ in 0..100 {
            bucket.take(rules, now).unwrap();
            bucket.give_back(rules);
        }
        assert!(bucket.is_full(now));
        bucket.give_back(rules);
        bucket.take(rules, now).unwrap();
        bucket.take(rules, now).unwrap();
        assert!(bucket.take(rules, now).is_err(), "more than was taken can't be given back");
    }

    #[test]
    fn numbers_that_make_no_bucket_are_refused() {
        for (size, rate) in [(0, 1.0), (1_000_001, 1.0)] {
            assert_eq!(BucketRules::new(size, rate), Err(BucketError::Size), "{size}");
        }
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 0.0001, 2e6] {
            assert_eq!(BucketRules::new(1, rate), Err(BucketError::Rate), "{rate}");
        }
        BucketRules::new(1_000_000, 0.001).unwrap();
    }
}
