//! How often those who are in may open something: `[rate_limit]`, off unless an operator asks for it.
//!
//! Everything before a peer is known, and everything on control, has fixed bounds of its own. This one is for peers that
//! are known and too eager: each has a bucket, so that one of them is slowed down and nobody else. What is refused
//! says when to come back, exact to the millisecond, because a wait that is a guess is answered with a loop.

use std::{sync::Arc, time::Duration};

use reachback_link::{BucketError, BucketRules};
use reachback_wire::{Code, NodeId, Refusal, Role, ServiceName, Target, nearest};
use serde::{Deserialize, Serialize};

use crate::{
    auth::Principal,
    buckets::{Buckets, Standing},
    limits,
    stats::{Stats, count},
};

/// The table `[rate_limit]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// How many opens and calls may come at once.
    pub bucket_size: u32,
    /// How many a second in the long run.
    pub refill_rate: f64,
    /// Who has a bucket.
    pub per: RatePer,
}

/// Who has a bucket of his own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatePer {
    /// Whoever opens: each node, each user or token.
    #[default]
    Caller,
    /// What is opened: each service of each node, whoever comes. The explorer's own API stays with the caller, or one
    /// who floods it would lock out the operator.
    Service,
}

/// Numbers or words that are no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The numbers make no bucket.
    #[error("rate_limit.{}: {}", key_of(.0), .0)]
    Bucket(#[from] BucketError),
    /// No such preset.
    #[error("rate_limit.preset: \"{given}\" is none{near}; there are: default, aggressive, permissive")]
    Preset {
        /// What was given.
        given: String,
        /// What was probably meant.
        near: String,
    },
}

impl Default for RateLimit {
    /// 100 at once, 50 a second, per caller.
    fn default() -> Self {
        Self { bucket_size: 100, refill_rate: 50.0, per: RatePer::Caller }
    }
}

impl RateLimit {
    /// `default` (100 at once, 50 a second), `aggressive` (50 and 25) or `permissive` (200 and 100).
    ///
    /// # Errors
    /// It is none of these.
    pub fn preset(name: &str) -> Result<Self, RateError> {
        let (bucket_size, refill_rate) = match name {
            "default" => (100, 50.0),
            "aggressive" => (50, 25.0),
            "permissive" => (200, 100.0),
            _ => {
                let near = nearest(name, PRESETS).map(|near| format!(", did you mean \"{near}\"?"));
                let given = reachback_wire::text::sanitize(name, limits::TEXT);
                return Err(RateError::Preset { given, near: near.unwrap_or_default() });
            }
        };
        Ok(Self { bucket_size, refill_rate, per: RatePer::default() })
    }

    /// # Errors
    /// A number is out of range.
    pub fn check(&self) -> Result<(), RateError> {
        self.rules().map(drop).map_err(RateError::from)
    }

    fn rules(&self) -> Result<BucketRules, BucketError> {
        BucketRules::new(self.bucket_size, self.refill_rate)
    }
}

fn key_of(error: &BucketError) -> &'static str {
    match error {
        BucketError::Size => "bucket_size",
        BucketError::Rate => "refill_rate",
    }
}

const PRESETS: [&str; 3] = ["default", "aggressive", "permissive"];

/// The buckets of everyone, if there are any.
#[derive(Debug)]
pub(crate) struct Rates {
    limited: Option<Limited>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Limited {
    limit: RateLimit,
    buckets: Buckets<Key>,
}

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Node(NodeId),
    User(NodeId),
    Service(NodeId, Option<ServiceName>),
}

/// The limit and those it was asked about, as `explorer.status` shows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateView {
    /// How many may come at once.
    pub bucket_size: u32,
    /// How many a second in the long run.
    pub refill_rate: f64,
    /// Who has a bucket.
    pub per: RatePer,
    /// The most refused first; those who have been quiet for a minute are left out.
    pub buckets: Vec<RateBucketView>,
}

/// One bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateBucketView {
    /// `node edge-7`, `user ann`, `edge-7/rpc`, or `all others` where there were too many to tell apart.
    pub who: String,
    /// Opens and calls that it let through.
    pub passed: u64,
    /// Opens and calls that were told to wait.
    pub refused: u64,
    /// How many could come now.
    pub available: u32,
}

impl Rates {
    /// A limit that was checked; one that makes no bucket limits nothing.
    pub(crate) fn new(limit: Option<RateLimit>, stats: Arc<Stats>) -> Self {
        let limited = limit.and_then(|limit| {
            let rules = limit.rules().ok()?;
            Some(Limited { limit, buckets: Buckets::new(rules, limits::RATE_BUCKETS, limits::RATE_KEPT) })
        });
        Self { limited, stats }
    }

    /// Whether `who` may open `target` now.
    ///
    /// # Errors
    /// [`Code::RateLimited`] with the wait.
    pub(crate) fn admit(&self, who: &Principal, target: Option<&Target>) -> Result<(), Refusal> {
        let Some(Limited { limit, buckets }) = &self.limited else { return Ok(()) };
        let key = Key::of(limit.per, who, target);
        buckets.take(&key).map_err(|wait| {
            count(&self.stats.rate_limited);
            // Whole milliseconds, and never one too few.
            let wait = Duration::from_millis(
                u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
            );
            let RateLimit { bucket_size, refill_rate, .. } = limit;
            let message = format!(
                "{} gets {bucket_size} opens and calls at once and {refill_rate} a second after that; try again in {wait:?}",
                key.name()
            );
            Refusal::new(Code::RateLimited, message).retry_after(wait)
        })
    }

    /// The limit and who is near it, if there is one.
    pub(crate) fn view(&self) -> Option<RateView> {
        let Limited { limit, buckets } = self.limited.as_ref()?;
        let shown = buckets.standings().into_iter().take(limits::RATE_SHOWN);
        let view = |standing: Standing<Key>| RateBucketView {
            who: standing.key.map_or_else(|| "all others".to_owned(), |key| key.name()),
            passed: standing.passed,
            refused: standing.refused,
            available: standing.available,
        };
        let RateLimit { bucket_size, refill_rate, per } = *limit;
        Some(RateView { bucket_size, refill_rate, per, buckets: shown.map(view).collect() })
    }
}

impl Key {
    fn of(per: RatePer, who: &Principal, target: Option<&Target>) -> Self {
        match (per, target) {
            (RatePer::Service, Some(Target::Service { node, service })) => {
                Self::Service(node.clone(), Some(service.clone()))
            }
            (RatePer::Service, Some(Target::Dial { node, .. })) => Self::Service(node.clone(), None),
            (RatePer::Caller, _) | (RatePer::Service, Some(Target::Explorer { .. }) | None) => match who.role
            {
                Role::Node => Self::Node(who.id.clone()),
                Role::Client | Role::Explorer => Self::User(who.id.clone()),
            },
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Node(id) => format!("node {id}"),
            Self::User(id) => format!("user {id}"),
            Self::Service(node, Some(service)) => format!("{node}/{service}"),
            Self::Service(node, None) => format!("hosts behind {node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn who(role: Role, id: &str) -> Principal {
        Principal::believed(role, id.parse().unwrap())
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    fn rates(limit: RateLimit) -> Rates {
        Rates::new(Some(limit), Arc::default())
    }

    fn wait(outcome: Result<(), Refusal>) -> Option<u64> {
        let refusal = outcome.err()?;
        assert_eq!(refusal.code, Code::RateLimited);
        refusal.retry_after_ms
    }

    #[tokio::test(start_paused = true)]
    async fn the_hundred_and_first_waits_twenty_milliseconds_and_nobody_else_does() {
        let rates = rates(RateLimit::default());
        let (node, other) = (who(Role::Node, "edge-7"), who(Role::Node, "edge-8"));
        let rpc = target("edge-9/rpc");
        for _ in 0..100 {
            assert_eq!(wait(rates.admit(&node, Some(&rpc))), None);
        }
        for _ in 0..5 {
            let refusal = rates.admit(&node, Some(&rpc)).unwrap_err();
            assert!(
                refusal.message.contains("node edge-7") && refusal.message.contains("in 20ms"),
                "{refusal}"
            );
            assert_eq!(refusal.retry_after_ms, Some(20));
            advance(Duration::from_millis(20)).await;
            assert_eq!(wait(rates.admit(&node, None)), None, "one came back");
        }
        assert_eq!(wait(rates.admit(&other, Some(&rpc))), None);
        assert_eq!(wait(rates.admit(&who(Role::Client, "edge-7"), Some(&rpc))), None, "a user of that name");
        let view = rates.view().unwrap();
        let first = RateBucketView { who: "node edge-7".to_owned(), passed: 105, refused: 5, available: 0 };
        assert_eq!(view.buckets[0], first);
        let whos: Vec<_> = view.buckets.iter().map(|bucket| bucket.who.as_str()).collect();
        assert_eq!(whos, ["node edge-7", "node edge-8", "user edge-7"]);
        advance(Duration::from_secs(30)).await;
        assert_eq!(rates.view().unwrap().buckets[0].refused, 5, "who looks after a burst still sees it");
        advance(Duration::from_secs(32)).await;
        assert_eq!(rates.view().unwrap().buckets, [], "who is gone is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_can_have_the_bucket_instead_of_its_callers() {
        let rates = rates(RateLimit { bucket_size: 1, refill_rate: 3.0, per: RatePer::Service });
        let (ann, bob) = (who(Role::Client, "ann"), who(Role::Client, "bob"));
        assert_eq!(wait(rates.admit(&ann, Some(&target("edge-9/rpc")))), None);
        // A third of a second, and never less.
        assert_eq!(wait(rates.admit(&bob, Some(&target("edge-9/rpc")))), Some(334));
        assert_eq!(wait(rates.admit(&bob, Some(&target("edge-9/ssh")))), None);
        assert_eq!(wait(rates.admit(&bob, Some(&target("@explorer/api")))), None);
        assert_eq!(
            wait(rates.admit(&ann, Some(&target("@explorer/api")))),
            None,
            "each has a way to ask why"
        );
    }

    #[test]
    fn presets_and_numbers() {
        for (name, bucket_size, refill_rate) in
            [("default", 100, 50.0), ("aggressive", 50, 25.0), ("permissive", 200, 100.0)]
        {
            let preset = RateLimit::preset(name).unwrap();
            assert_eq!((preset.bucket_size, preset.refill_rate), (bucket_size, refill_rate));
            preset.check().unwrap();
        }
        assert_eq!(RateLimit::default(), RateLimit::preset("default").unwrap());
        let error = RateLimit::preset("agressive").unwrap_err().to_string();
        assert!(error.contains("did you mean \"aggressive\"?"), "{error}");
        let check = |bucket_size, refill_rate| {
            RateLimit { bucket_size, refill_rate, per: RatePer::Caller }.check().unwrap_err().to_string()
        };
        assert!(check(0, 50.0).starts_with("rate_limit.bucket_size: "));
        assert!(check(100, 0.0).starts_with("rate_limit.refill_rate: "));
        assert!(Rates::new(None, Arc::default()).view().is_none());
    }
}
