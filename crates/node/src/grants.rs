//! Grants: callers that whoever runs this machine lets in to one service, for a while.
//!
//! Rights are given on the explorer, by its operator. A grant is given here, by the owner of what is reached, for the
//! afternoon in which somebody should have a look. It is announced, so that the explorer lets the caller through; it is
//! checked here, so that nobody has to be believed; and it ends by itself, with the streams that it let in. It survives
//! a restart of the node, which is no reason to lock anybody out.
//!
//! The running node counts on the monotonic clock. Dates are only for the file, and a date that was read while the
//! machine had no idea what day it is gets corrected by the first explorer that says.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reachback_client::{StateDir, StateError};
use reachback_wire::{Caller, CallerPattern, Code, GrantInfo, Refusal, ServiceName};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::limits::{CLOCKS_DIFFER, GRANT_LONGEST, GRANT_REASON_MAX, GRANTS_MAX};

/// The file in the node's state directory.
const FILE: &str = "grants.json";

/// What is granted at one moment.
pub(crate) type Granted = Arc<BTreeMap<(ServiceName, CallerPattern), Arc<Grant>>>;

/// All grants of the node.
pub(crate) struct Grants {
    granted: watch::Sender<Granted>,
    state: Option<StateDir>,
}

/// One of them. Giving it again replaces it.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) until: Instant,
    pub(crate) until_unix_ms: u64,
    pub(crate) reason: String,
    /// Read from the file, so that `until` is as good as the clock was then.
    from_file: bool,
    over: Arc<Over>,
}

/// How a grant ended, for those whom it let in.
#[derive(Debug, Default)]
struct Over {
    ended: CancellationToken,
    taken_back: AtomicBool,
}

/// A grant that can't be given, and what to do instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct GrantError(String);

/// Why a visit may not go on for ever.
#[derive(Clone)]
pub(crate) struct Lease {
    grants: Arc<Grants>,
    service: ServiceName,
    caller: Caller,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    grants: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    service: ServiceName,
    to: CallerPattern,
    until_unix_ms: u64,
    reason: String,
}

impl Grants {
    /// What the file says is still granted at `now_unix_ms`; nothing without a state directory.
    ///
    /// # Errors
    /// The file is there and can't be used.
    pub(crate) fn load(state: Option<StateDir>, now_unix_ms: u64) -> Result<Self, StateError> {
        let mut granted = BTreeMap::new();
        if let Some(state) = &state
            && let Some(bytes) = state.read(FILE)?
        {
            let damaged = |what| StateError::Damaged {
                path: state.path().join(FILE),
                what,
                remedy: "remove it and give the grants again",
            };
            let File { version, grants } =
                serde_json::from_slice(&bytes).map_err(|error| damaged(format!("can't be read: {error}")))?;
            if version != 1 {
                return Err(damaged(format!("was written by a newer version (format {version})")));
            }
            for Entry { service, to, until_unix_ms, reason } in grants {
                let left = Duration::from_millis(until_unix_ms.saturating_sub(now_unix_ms));
                if !left.is_zero() {
                    let mut grant = Grant::new(left.min(GRANT_LONGEST), until_unix_ms, reason);
                    grant.from_file = true;
                    granted.insert((service, to), Arc::new(grant));
                }
            }
        }
        Ok(Self { granted: watch::Sender::new(Arc::new(granted)), state })
    }

    /// A grant under which this caller may use this service now.
    pub(crate) fn find(&self, service: &ServiceName, caller: &Caller) -> Option<Arc<Grant>> {
        let now = Instant::now();
        let granted = self.granted.borrow();
        let mut all = granted.iter();
        let meant =
            all.find(|((name, to), grant)| name == service && to.matches(caller) && grant.until > now);
        meant.map(|(_, grant)| grant.clone())
    }

    /// Lets callers in for so long, or for so long instead.
    ///
    /// # Errors
    /// It would be for no time or for ever, without a reason, or one too many.
    pub(crate) fn give(
        &self,
        service: ServiceName,
        to: CallerPattern,
        length: Duration,
        reason: String,
        now_unix_ms: u64,
    ) -> Result<Arc<Grant>, GrantError> {
        let refuse = |text: String| Err(GrantError(text));
        if length.is_zero() || length > GRANT_LONGEST {
            let days = GRANT_LONGEST.as_secs() / 86_400;
            return refuse(format!(
                "a grant lasts up to {days} days; what is needed for longer is a right, given on the explorer"
            ));
        }
        if reason.trim().is_empty() || reason.chars().count() > GRANT_REASON_MAX {
            return refuse(format!(
                "say why, in 1 to {GRANT_REASON_MAX} characters: it is what others find when they wonder"
            ));
        }
        let until_unix_ms = now_unix_ms.saturating_add(millis(length));
        let grant = Arc::new(Grant::new(length, until_unix_ms, reason));
        let mut outcome = Ok(grant.clone());
        self.change(|granted| {
            if granted.len() >= GRANTS_MAX && !granted.contains_key(&(service.clone(), to.clone())) {
                outcome =
                    refuse(format!("{GRANTS_MAX} grants are in force, which is the most; take one back"));
                return None;
            }
            Some(granted.insert((service, to), grant).into_iter().collect())
        });
        outcome
    }

    /// Takes a grant back, and with it the streams that it let in. False if there was none.
    pub(crate) fn take_back(&self, service: &ServiceName, to: &CallerPattern) -> bool {
        let mut found = false;
        self.change(|granted| {
            let taken = granted.remove(&(service.clone(), to.clone()))?;
            found = true;
            taken.over.taken_back.store(true, Ordering::Relaxed);
            Some(vec![taken])
        });
        found
    }

    /// What is granted now.
    pub(crate) fn list(&self) -> Granted {
        self.granted.borrow().clone()
    }

    /// The same, and its changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Granted> {
        self.granted.subscribe()
    }

    /// An explorer has said what time it is: dates that were read or made with a wrong clock are put right.
    pub(crate) fn correct(&self, now_unix_ms: u64) {
        let now = Instant::now();
        self.change(|granted| {
            let mut wrong = false;
            for grant in granted.values_mut() {
                let left = grant.until.saturating_duration_since(now);
                let by_date = Duration::from_millis(grant.until_unix_ms.saturating_sub(now_unix_ms));
                if left.abs_diff(by_date) < CLOCKS_DIFFER {
                    continue;
                }
                wrong = true;
                let Grant { until, until_unix_ms, from_file, .. } = **grant;
                let (until, until_unix_ms) = match from_file {
                    true => (now + left.min(by_date), until_unix_ms),
                    false => (until, now_unix_ms.saturating_add(millis(left))),
                };
                let (reason, over) = (grant.reason.clone(), grant.over.clone());
                *grant = Arc::new(Grant { until, until_unix_ms, reason, from_file, over });
            }
            wrong.then(Vec::new)
        });
    }

    /// Ends what is over and keeps the file, until told to stop.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut changes = self.granted.subscribe();
        let mut complained = false;
        loop {
            let first = changes.borrow_and_update().values().map(|grant| grant.until).min();
            let expiry = async {
                match first {
                    Some(first) => sleep_until(first).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if changes.has_changed().unwrap_or(false)
                        && let Err(error) = self.save().await
                    {
                        tracing::warn!(%error, "the last change of the grants was not kept");
                    }
                    return;
                }
                // The sender is ours.
                Ok(()) = changes.changed() => {}
                () = expiry => self.expire(),
            }
            if let Err(error) = self.save().await {
                if !complained {
                    tracing::warn!(%error, "grants can't be kept; they are gone after a restart");
                }
                complained = true;
            }
        }
    }

    fn expire(&self) {
        let now = Instant::now();
        self.change(|granted| {
            let over: Vec<_> =
                granted.iter().filter(|(_, grant)| grant.until <= now).map(|(of, _)| of.clone()).collect();
            for (service, to) in &over {
                tracing::info!(%service, %to, "a grant has ended");
            }
            let over: Vec<_> = over.iter().filter_map(|of| granted.remove(of)).collect();
            (!over.is_empty()).then_some(over)
        });
    }

    /// Changes what is granted, unless there is nothing to change, and only then ends what `change` gives back: whoever
    /// wakes sees what is left.
    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<(ServiceName, CallerPattern), Arc<Grant>>) -> Option<Vec<Arc<Grant>>>,
    ) {
        let mut over = None;
        self.granted.send_if_modified(|granted| {
            let mut next = BTreeMap::clone(granted);
            over = change(&mut next);
            if over.is_some() {
                *granted = Arc::new(next);
            }
            over.is_some()
        });
        over.iter().flatten().for_each(|grant| grant.over.ended.cancel());
    }

    async fn save(&self) -> Result<(), StateError> {
        let Some(state) = self.state.clone() else { return Ok(()) };
        let granted = self.list();
        let entry = |((service, to), grant): (&(ServiceName, CallerPattern), &Arc<Grant>)| Entry {
            service: service.clone(),
            to: to.clone(),
            until_unix_ms: grant.until_unix_ms,
            reason: grant.reason.clone(),
        };
        let file = File { version: 1, grants: granted.iter().map(entry).collect() };
        let path = state.path().join(FILE);
        let failed = |source| StateError::Io { doing: "writing", path, source };
        let saving = spawn_blocking(move || match serde_json::to_vec_pretty(&file) {
            Ok(_) if file.grants.is_empty() => state.remove(FILE),
            Ok(bytes) => state.write(FILE, &bytes),
            Err(error) => Err(failed(error.into())),
        });
        // The runtime is going away.
        saving.await.unwrap_or(Ok(()))
    }
}

impl Grant {
    fn new(length: Duration, until_unix_ms: u64, reason: String) -> Self {
        Self { until: Instant::now() + length, until_unix_ms, reason, from_file: false, over: Arc::default() }
    }

    /// How long it lasts yet.
    pub(crate) fn left_ms(&self) -> u64 {
        millis(self.until.saturating_duration_since(Instant::now()))
    }
}

/// What is told to explorers.
pub(crate) fn announced(granted: &Granted) -> Vec<GrantInfo> {
    let info = |((service, to), grant): (&(ServiceName, CallerPattern), &Arc<Grant>)| GrantInfo {
        service: service.clone(),
        to: to.clone(),
        left_ms: grant.left_ms(),
    };
    granted.iter().map(info).collect()
}

impl Lease {
    pub(crate) fn new(grants: Arc<Grants>, service: ServiceName, caller: Caller) -> Self {
        Self { grants, service, caller }
    }

    /// Resolves when no grant covers the visit any more, with what to tell it.
    pub(crate) async fn end(&self) -> Refusal {
        let mut taken_back = false;
        while let Some(grant) = self.grants.find(&self.service, &self.caller) {
            // Ended, or replaced by one that goes on.
            tokio::select! {
                () = grant.over.ended.cancelled() => {}
                () = sleep_until(grant.until) => {}
            }
            taken_back = grant.over.taken_back.load(Ordering::Relaxed);
        }
        over(&self.service, &self.caller, taken_back)
    }
}

/// What somebody is told whose grant is over.
pub(crate) fn over(service: &ServiceName, caller: &Caller, taken_back: bool) -> Refusal {
    let (code, happened) = match taken_back {
        true => (Code::Revoked, "was taken back"),
        false => (Code::Expired, "has ended"),
    };
    let who = who(caller);
    Refusal::new(
        code,
        format!(
            "the grant of {service} to {who} {happened}; to go on, its owner runs there: reachback grant {service} --to \
             {who} --for 1h --reason TEXT"
        ),
    )
}

/// A caller as a grant would name it.
pub(crate) fn who(caller: &Caller) -> String {
    let name = caller.name.as_deref().unwrap_or(&caller.id);
    let name = reachback_wire::text::sanitize(name, 80);
    match caller.role {
        reachback_wire::Role::Client => name,
        role => format!("{role}:{name}"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;
    use reachback_wire::Role;

    use super::*;

    const NOW: u64 = 1_790_000_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn ann() -> Caller {
        let (id, name) = ("laptop".to_owned(), Some("ann".to_owned()));
        Caller { role: Role::Client, id, name, granted: true, session: None, address: None }
    }

    fn rpc() -> ServiceName {
        "rpc".parse().unwrap()
    }

    fn to(pattern: &str) -> CallerPattern {
        pattern.parse().unwrap()
    }

    fn give(grants: &Grants, pattern: &str, length: Duration) -> Result<Arc<Grant>, GrantError> {
        grants.give(rpc(), to(pattern), length, "a look at the logs".into(), NOW)
    }

    fn none() -> Arc<Grants> {
        Arc::new(Grants::load(None, NOW).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_is_for_a_caller_a_service_and_a_while() {
        let grants = none();
        give(&grants, "ann", HOUR).unwrap();
        assert!(grants.find(&rpc(), &ann()).is_some());
        assert!(grants.find(&"ssh".parse().unwrap(), &ann()).is_none());
        assert!(grants.find(&rpc(), &Caller { name: Some("bob".into()), ..ann() }).is_none());
        assert!(grants.find(&rpc(), &Caller { role: Role::Node, ..ann() }).is_none());
        tokio::time::advance(HOUR - Duration::from_millis(1)).await;
        assert!(grants.find(&rpc(), &ann()).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        // Nobody has cleaned up, and still it is over.
        assert!(grants.find(&rpc(), &ann()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_visit_ends_with_the_last_grant_that_covers_it() {
        let grants = none();
        give(&grants, "ann", HOUR).unwrap();
        let lease = Lease::new(grants.clone(), rpc(), ann());
        let mut end = pin!(lease.end());
        assert!(end.as_mut().now_or_never().is_none());
        // Given again for longer, and another one besides: the visit goes on.
        give(&grants, "ann", 2 * HOUR).unwrap();
        give(&grants, "user:*", 3 * HOUR).unwrap();
        let began = Instant::now();
        let over = end.await;
        assert_eq!(began.elapsed().as_secs(), 3 * HOUR.as_secs());
        assert_eq!(over.code, Code::Expired);
        assert!(over.message.contains("reachback grant rpc --to ann"), "{over}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_back_ends_at_once_and_says_so() {
        let grants = none();
        give(&grants, "ann", HOUR).unwrap();
        let lease = Lease::new(grants.clone(), rpc(), ann());
        let mut end = pin!(lease.end());
        assert!(end.as_mut().now_or_never().is_none());
        assert!(!grants.take_back(&rpc(), &to("bob")));
        // A clock that is put right between does not lose track of who waits.
        grants.correct(NOW + 86_400_000);
        assert!(grants.take_back(&rpc(), &to("ann")));
        let over = end.as_mut().now_or_never().expect("at once");
        assert_eq!(over.code, Code::Revoked);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_leaves_the_list() {
        let grants = none();
        give(&grants, "ann", HOUR).unwrap();
        give(&grants, "bob", 2 * HOUR).unwrap();
        let stop = CancellationToken::new();
        let mut list = grants.watch();
        let watching = async {
            list.wait_for(|list| list.len() == 1).await.unwrap();
            stop.cancel();
        };
        tokio::join!(grants.run(stop.clone()), watching);
        assert_eq!(grants.list().keys().next().unwrap().1, to("bob"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_keeps_what_has_not_ended() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::at(directory.path().join("node"));
        let grants = Grants::load(Some(state.clone()), NOW).unwrap();
        give(&grants, "ann", HOUR).unwrap();
        give(&grants, "bob", HOUR / 4).unwrap();
        grants.save().await.unwrap();

        let again = Grants::load(Some(state.clone()), NOW + millis(HOUR / 2)).unwrap();
        let grant = again.find(&rpc(), &ann()).unwrap();
        assert_eq!(grant.left_ms(), millis(HOUR / 2));
        assert_eq!(grant.reason, "a look at the logs");
        assert_eq!(again.list().len(), 1, "the other one is over");

        // A machine that woke in the past believes it for longer, until an explorer says what day it is.
        let lost = Grants::load(Some(state.clone()), 0).unwrap();
        assert!(lost.find(&rpc(), &Caller { name: Some("bob".into()), ..ann() }).is_some());
        lost.correct(NOW + millis(HOUR / 2));
        assert_eq!(lost.find(&rpc(), &ann()).unwrap().left_ms(), millis(HOUR / 2));
        assert!(lost.find(&rpc(), &Caller { name: Some("bob".into()), ..ann() }).is_none());

        state.write(FILE, b"{").unwrap();
        let error = Grants::load(Some(state), NOW).err().unwrap().to_string();
        assert!(error.contains("grants.json") && error.contains("remove it"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_made_with_a_wrong_clock_keeps_its_length() {
        let grants = Grants::load(None, 0).unwrap();
        let grant = grants.give(rpc(), to("ann"), HOUR, "x".into(), 0).unwrap();
        assert_eq!(grant.until_unix_ms, millis(HOUR));
        grants.correct(NOW);
        let grant = grants.find(&rpc(), &ann()).unwrap();
        assert_eq!((grant.left_ms(), grant.until_unix_ms), (millis(HOUR), NOW + millis(HOUR)));
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_bounds() {
        let grants = none();
        for length in [Duration::ZERO, GRANT_LONGEST + Duration::from_millis(1)] {
            assert!(give(&grants, "ann", length).unwrap_err().to_string().contains("30 days"));
        }
        for reason in ["", "  ", &"x".repeat(GRANT_REASON_MAX + 1)] {
            let refused = grants.give(rpc(), to("ann"), HOUR, reason.into(), NOW);
            assert!(refused.unwrap_err().to_string().contains("say why"), "{reason}");
        }
        for n in 0..GRANTS_MAX {
            give(&grants, &format!("user{n}"), HOUR).unwrap();
        }
        assert!(give(&grants, "ann", HOUR).unwrap_err().to_string().contains("take one back"));
        give(&grants, "user7", HOUR).expect("the same one again is none more");
        assert_eq!(announced(&grants.list()).len(), GRANTS_MAX);
    }
}
