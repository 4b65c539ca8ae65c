//! Many token buckets, one for each of those who share a rule, and no more of them than that is worth.
//!
//! Who is counted is chosen by peers, so their number is bounded: a bucket that is full again is forgotten after a while,
//! since it says nothing, and whoever comes when all places are taken shares one bucket with all others who do.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use reachback_link::{BucketRules, TokenBucket};
use tokio::time::Instant;

/// Below this many there is nothing to gain by looking for some to forget.
const FEW: usize = 64;

/// One bucket for each key.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rules: BucketRules,
    most: usize,
    keep: Duration,
    kept: Mutex<Kept<K>>,
}

#[derive(Debug)]
struct Kept<K> {
    known: BTreeMap<K, Counted>,
    /// For those who came when all places were taken.
    others: Counted,
    /// How many there may be before some are forgotten.
    look_at: usize,
    looked: Instant,
}

/// One bucket, and what came of asking it.
#[derive(Debug, Clone, Copy)]
struct Counted {
    bucket: TokenBucket,
    passed: u64,
    refused: u64,
    used: Instant,
}

/// How one key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing<K> {
    /// `None` stands for all who share a bucket.
    pub(crate) key: Option<K>,
    pub(crate) passed: u64,
    pub(crate) refused: u64,
    pub(crate) available: u32,
}

impl<K: Ord + Clone> Buckets<K> {
    /// At most `most` buckets; one that is full and was not used for `keep` is forgotten.
    pub(crate) fn new(rules: BucketRules, most: usize, keep: Duration) -> Self {
        let now = Instant::now();
        let kept = Kept { known: BTreeMap::new(), others: Counted::new(now), look_at: FEW, looked: now };
        Self { rules, most, keep, kept: Mutex::new(kept) }
    }

    /// Takes a token of this key.
    ///
    /// # Errors
    /// It has none: how long until it has.
    pub(crate) fn take(&self, key: &K) -> Result<(), Duration> {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if !kept.known.contains_key(key) {
            self.forget_some(&mut kept, now);
            if kept.known.len() < self.most {
                kept.known.insert(key.clone(), Counted::new(now));
            }
        }
        let kept = &mut *kept;
        kept.known.get_mut(key).unwrap_or(&mut kept.others).take(self.rules, now)
    }

    /// Gives a token back that was taken for this key.
    pub(crate) fn give_back(&self, key: &K) {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        // One that was forgotten was full.
        if let Some(counted) = kept.known.get_mut(key) {
            counted.bucket.give_back(self.rules);
        }
    }

    /// How everyone stands who is known, the most refused first; then those who share a bucket, if there are any.
    pub(crate) fn standings(&self) -> Vec<Standing<K>> {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        self.forget(&mut kept, now);
        let stands = |key: Option<&K>, counted: &Counted| Standing {
            key: key.cloned(),
            passed: counted.passed,
            refused: counted.refused,
            available: counted.bucket.available(self.rules, now),
        };
        let mut all: Vec<_> = kept.known.iter().map(|(key, counted)| stands(Some(key), counted)).collect();
        all.sort_by_key(|standing| std::cmp::Reverse(standing.refused));
        if kept.others.passed + kept.others.refused > 0 {
            all.push(stands(None, &kept.others));
        }
        all
    }

    /// Looks for some to forget, seldom enough that it costs each newcomer next to nothing.
    fn forget_some(&self, kept: &mut Kept<K>, now: Instant) {
        let due = if kept.known.len() < self.most {
            kept.known.len() >= kept.look_at
        } else {
            now.duration_since(kept.looked) >= LOOK_AGAIN
        };
        if due {
            self.forget(kept, now);
        }
    }

    fn forget(&self, kept: &mut Kept<K>, now: Instant) {
        kept.known.retain(|_, counted| {
            !counted.bucket.is_full(now) || now.duration_since(counted.used) < self.keep
        });
        kept.look_at = (2 * kept.known.len()).max(FEW);
        kept.looked = now;
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.kept.lock().known.len()
    }
}

/// How often all are looked at while every place is taken.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Counted {
    fn new(now: Instant) -> Self {
        Self { bucket: TokenBucket::full(now), passed: 0, refused: 0, used: now }
    }

    fn take(&mut self, rules: BucketRules, now: Instant) -> Result<(), Duration> {
        self.used = now;
        let taken = self.bucket.take(rules, now);
        *(if taken.is_ok() { &mut self.passed } else { &mut self.refused }) += 1;
        taken
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn buckets(most: usize) -> Buckets<u32> {
        Buckets::new(BucketRules::every(2, Duration::from_secs(1)), most, KEEP)
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_a_bucket_of_its_own_and_is_counted() {
        let buckets = buckets(10);
        for key in [1, 2] {
            assert_eq!([buckets.take(&key), buckets.take(&key)], [Ok(()), Ok(())]);
        }
        assert_eq!(buckets.take(&1), Err(Duration::from_secs(1)));
        buckets.give_back(&2);
        buckets.take(&2).unwrap();
        let standing = |key, passed, refused| Standing { key: Some(key), passed, refused, available: 0 };
        assert_eq!(buckets.standings(), [standing(1, 2, 1), standing(2, 3, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_without_number_take_no_more_than_their_places() {
        let buckets = buckets(200);
        for key in 0..10_000 {
            // What becomes of each is looked at below.
            buckets.take(&key).ok();
        }
        assert_eq!(buckets.len(), 200);
        let shared = buckets.standings().pop().unwrap();
        assert_eq!((shared.key, shared.passed, shared.refused), (None, 2, 9_798), "the rest share a bucket");
        // Those who are known keep their own.
        buckets.take(&0).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_is_not_full_is_never_forgotten() {
        let buckets = Buckets::new(BucketRules::every(2, Duration::from_secs(1)), 200, Duration::ZERO);
        for key in 0..FEW as u32 {
            buckets.take(&key).unwrap();
            buckets.take(&key).unwrap();
        }
        advance(Duration::from_millis(500)).await;
        buckets.take(&1_000).unwrap();
        assert_eq!(buckets.len(), FEW + 1);
        assert!(buckets.take(&0).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_forgotten_and_who_is_not_full_is_not() {
        let buckets = buckets(200);
        for key in 0..200 {
            buckets.take(&key).unwrap();
        }
        advance(KEEP).await;
        buckets.take(&7).unwrap();
        buckets.take(&7).unwrap();
        buckets.take(&1_000).unwrap();
        assert_eq!(buckets.len(), 2);
        assert!(buckets.take(&7).is_err(), "it is not filled by being looked at");
        advance(KEEP).await;
        assert!(buckets.standings().is_empty());
    }
}
