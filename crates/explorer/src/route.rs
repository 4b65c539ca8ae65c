//! From a target to a substream: where its node is, whether it has the service, and the open itself.
//!
//! An opener hears the truth at once where it is known (no such node, offline since when and why, no such service) and
//! within its deadline where it has to be found out. What it hears is a refusal, which promises that nothing reached
//! the service; so the early bytes of an opener stay here until the node has said yes.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use reachback_link::{Early, MemoryBudget, OpenError, Substream};
use reachback_wire::{
    Code, NodeId, Refusal, ServiceName, SessionId, Target, lz4, nearest,
    open::{Caller, Open, OpenKind},
    text::sanitize,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    clock::spoken,
    limits,
    opens::{NoPlace, Opens},
    registry::{Here, Located, Registry},
    stats::{Stats, count},
};

/// Opens substreams to services, wherever their nodes are.
#[derive(Debug)]
pub(crate) struct Router {
    registry: Arc<Registry>,
    opens: Opens,
    budget: Arc<MemoryBudget>,
    stats: Arc<Stats>,
    /// Trace ids must differ; they need not be secret.
    random: Mutex<fastrand::Rng>,
}

/// How a node is reached from here.
enum Route {
    /// Over a session of this explorer. A peer explorer's would be the other kind.
    Here(Here),
}

impl Router {
    /// `most_waiting`: how many opens of one service may wait for their turn.
    pub(crate) fn new(
        registry: Arc<Registry>,
        most_waiting: usize,
        budget: Arc<MemoryBudget>,
        stats: Arc<Stats>,
    ) -> Self {
        let opens = Opens::new(most_waiting);
        Self { registry, opens, budget, stats, random: Mutex::new(fastrand::Rng::new()) }
    }

    /// Opens what `open` asks for on behalf of `caller`. Caller, hop and trace are ours to say, whatever the opener
    /// wrote there.
    ///
    /// # Errors
    /// The refusal for the opener; nothing reached the service.
    pub(crate) async fn open(&self, open: Open, caller: Caller) -> Result<Substream, Refusal> {
        self.open_with(open, caller, None).await
    }

    /// As [`Router::open`], sending what `early` has to say before the answer comes.
    ///
    /// # Errors
    /// As [`Router::open`]; [`Code::Lost`] and [`Code::Timeout`] don't promise that nothing reached the service.
    pub(crate) async fn open_early(
        &self,
        open: Open,
        caller: Caller,
        early: &mut Early<'_>,
    ) -> Result<Substream, Refusal> {
        self.open_with(open, caller, Some(early)).await
    }

    async fn open_with(
        &self,
        mut open: Open,
        caller: Caller,
        early: Option<&mut Early<'_>>,
    ) -> Result<Substream, Refusal> {
        let target = match &open.target {
            Some(Target::Explorer { service }) => return Err(no_own_service(service)),
            Some(target) => target.clone(),
            None => {
                return Err(Refusal::new(
                    Code::BadFrame,
                    "this kind of open needs a target, as in edge-7/rpc",
                ));
            }
        };
        let begun = Instant::now();
        let allowed = open.deadline_ms.map_or(limits::OPEN_TIMEOUT, Duration::from_millis);
        let deadline = begun + allowed.min(limits::OPEN_DEADLINE_MAX);
        open.caller = Some(caller);
        open.hop = 0;
        open.trace = Some(self.trace());

        // A session's open has heard this from the link; visitors and HTTP come without one.
        let outcome = if self.budget.is_strained() {
            Err(Refusal::new(
                Code::Saturated,
                "this explorer holds as much for others as its memory_budget lets it; try again",
            )
            .retry_after(limits::SATURATED_RETRY))
        } else {
            self.open_target(&target, open, deadline, early).await
        };
        match &outcome {
            Ok(_) => count(&self.stats.opens_relayed),
            Err(_) => count(&self.stats.opens_refused),
        }
        outcome
    }

    async fn open_target(
        &self,
        target: &Target,
        mut open: Open,
        deadline: Instant,
        mut early: Option<&mut Early<'_>>,
    ) -> Result<Substream, Refusal> {
        let (node, service) = match target {
            Target::Service { node, service } => (node, Some(service)),
            // Which hosts it reaches is the node's to say.
            Target::Dial { node, .. } => (node, None),
            Target::Explorer { service } => return Err(no_own_service(service)),
        };
        let begun = Instant::now();
        // A call's deadline is its service's; a stream's is over once it is open.
        let allowed = deadline.saturating_duration_since(begun);
        let grace =
            if open.kind == OpenKind::Stream { limits::OPEN_GRACE.min(allowed / 2) } else { Duration::ZERO };
        let deadline = deadline - grace;
        self.arrive(node, deadline.min(begun + limits::ARRIVING_WAIT)).await;
        self.route(node, service)?;
        let _place =
            self.opens.enter(node, service, deadline).await.map_err(|none| no_place(target, none))?;
        let mut first: Option<(SessionId, Refusal)> = None;
        loop {
            let Route::Here(here) = self.route(node, service)?;
            open.compression = here.compression(service);
            if let Some((_, refusal)) = first.take_if(|(session, _)| *session == here.id) {
                return Err(refusal);
            }
            open.expect_instance = Some(here.instance);
            let left = deadline.saturating_duration_since(Instant::now());
            open.deadline_ms = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
            let opening = async {
                match early.as_deref_mut() {
                    Some(early) => here.session.open_early(open.clone(), early).await,
                    None => here.session.open(open.clone()).await,
                }
            };
            let error = match opening.await {
                Ok(substream) => return Ok(substream),
                Err(error) => error,
            };
            let again = first.is_none() && may_be_elsewhere(&error);
            let sent = early.as_ref().is_some_and(|early| !early.is_empty());
            let refusal = refusal(target, node, error, begun.elapsed(), sent);
            if !again {
                return Err(refusal);
            }
            // Once more if the node has a newer session by now: nothing reached the service.
            first = Some((here.id, refusal));
        }
    }

    /// Waits while the node's only session is being set up, not beyond `deadline`.
    async fn arrive(&self, node: &NodeId, deadline: Instant) {
        if !matches!(self.registry.locate(node), Located::Arriving) {
            return;
        }
        let mut changes = self.registry.watch();
        let arriving = async {
            while matches!(self.registry.locate(node), Located::Arriving) && changes.next().await.is_some() {}
        };
        // Whether it arrived or not, what is known then is the answer.
        drop(timeout_at(deadline, arriving).await);
    }

    fn route(&self, node: &NodeId, service: Option<&ServiceName>) -> Result<Route, Refusal> {
        match self.registry.locate(node) {
            Located::Here(here) => {
                let Some(service) = service else { return Ok(Route::Here(here)) };
                if here.declared.services.iter().any(|info| info.name == *service) {
                    return Ok(Route::Here(here));
                }
                let names: Vec<_> = here.declared.services.iter().map(|info| info.name.to_string()).collect();
                Err(Refusal::new(Code::ServiceNotFound, no_service(node, service, &names)))
            }
            Located::Offline { since, reason } => Err(Refusal::new(
                Code::NodeOffline,
                format!(
                    "{node} has been offline for {}: {reason}. Nothing was sent. If it is running it dials in again by \
                     itself; see: reachback nodes",
                    spoken(since.elapsed())
                ),
            )),
            Located::Arriving => Err(Refusal::new(
                Code::NodeOffline,
                format!(
                    "{node} is connecting and has not said yet what it offers. Nothing was sent; try again"
                ),
            )),
            Located::Unknown => Err(Refusal::new(Code::NodeNotFound, self.no_node(node))),
        }
    }

    fn no_node(&self, node: &NodeId) -> String {
        let names = self.registry.names();
        let remedy = "see: reachback nodes";
        match nearest(node.as_ref(), names.iter().map(AsRef::as_ref)) {
            Some(near) => format!("no node {node} has connected here; the nearest name is {near}; {remedy}"),
            None => format!("no node {node} has connected here; {remedy}"),
        }
    }

    /// A W3C `traceparent`: version, trace, span, sampled.
    fn trace(&self) -> String {
        let mut random = self.random.lock();
        format!("00-{:032x}-{:016x}-01", random.u128(1..), random.u64(1..))
    }
}

impl Here {
    /// What its service asks for. What the opener's own hop has is the opener's business.
    fn compression(&self, service: Option<&ServiceName>) -> Option<String> {
        let declared = self.declared.services.iter().find(|info| Some(&info.name) == service)?;
        declared.asks_for_lz4().then(|| lz4::NAME.to_owned())
    }
}

/// The refusal for a service of the explorer itself that doesn't exist.
pub(crate) fn no_own_service(service: &ServiceName) -> Refusal {
    Refusal::new(
        Code::ServiceNotFound,
        format!("the explorer has no service {service}; it has: @explorer/api"),
    )
}

fn no_service(node: &NodeId, service: &ServiceName, names: &[String]) -> String {
    let listed = names[..names.len().min(limits::NAMES_LISTED)].join(", ");
    let has = match names.len() - names.len().min(limits::NAMES_LISTED) {
        _ if names.is_empty() => "it declares none".to_owned(),
        0 => format!("it has: {listed}"),
        more => format!("it has: {listed} and {more} more; see: reachback nodes"),
    };
    match nearest(service.as_ref(), names.iter().map(String::as_str)) {
        Some(near) => format!("{node} has no service {service}, did you mean {node}/{near}? {has}"),
        None => format!("{node} has no service {service}; {has}"),
    }
}

fn no_place(target: &Target, none: NoPlace) -> Refusal {
    match none {
        NoPlace::Full(_) => {
            Refusal::new(Code::Saturated, format!("{target} is overloaded: {none}; try again"))
                .retry_after(limits::SATURATED_RETRY)
        }
        NoPlace::Timeout => Refusal::new(Code::Timeout, format!("{target} is overloaded: {none}")),
    }
}

/// Whether another session of the node, or a newer one, could still take this open.
fn may_be_elsewhere(error: &OpenError) -> bool {
    match error {
        OpenError::Refused(refusal) => matches!(refusal.code, Code::NotHere | Code::Draining),
        OpenError::Ended(_) => true,
        OpenError::Timeout | OpenError::Saturated(_) | OpenError::Lost(_) | OpenError::Protocol(_) => false,
    }
}

/// `sent`: bytes of the opener went out behind the open, so only the node's own word says that nothing reached the service.
fn refusal(target: &Target, node: &NodeId, error: OpenError, waited: Duration, sent: bool) -> Refusal {
    match error {
        OpenError::Refused(refusal) => refusal,
        OpenError::Timeout => {
            Refusal::new(Code::Timeout, format!("{target} did not answer the open within {}", spoken(waited)))
        }
        OpenError::Saturated(_) => Refusal::new(
            Code::Saturated,
            format!("the session of {node} carries as much as it may; try again or close something"),
        )
        .retry_after(limits::SATURATED_RETRY),
        OpenError::Lost(end) if sent => Refusal::new(
            Code::Lost,
            format!(
                "the session of {node} ended before {target} answered: {end}. Whether what was sent reached the service is \
                 unknown"
            ),
        ),
        // The opener's bytes are still here, so even after the open was sent nothing reached the service.
        OpenError::Ended(end) | OpenError::Lost(end) => Refusal::new(
            Code::NodeOffline,
            format!(
                "the session of {node} ended before {target} answered: {end}. Nothing was sent to the service"
            ),
        ),
        OpenError::Protocol(what) => Refusal::new(
            Code::BadFrame,
            format!(
                "{node} answered the open with something that is no answer: {}",
                sanitize(&what, limits::TEXT)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use reachback_link::SessionEnd;

    use super::*;

    #[test]
    fn nothing_was_sent_is_said_only_where_it_is_true() {
        let (target, node) = ("edge-7/rpc".parse().unwrap(), "edge-7".parse().unwrap());
        let told = |error, sent| refusal(&target, &node, error, Duration::ZERO, sent);
        let end = || SessionEnd::new(Code::Lost, "cut");
        let kept = told(OpenError::Lost(end()), false);
        assert_eq!(kept.code, Code::NodeOffline);
        assert!(kept.message.contains("Nothing was sent"), "{kept}");
        let unknown = told(OpenError::Lost(end()), true);
        assert_eq!(unknown.code, Code::Lost);
        assert!(unknown.message.contains("unknown"), "{unknown}");
        assert_eq!(told(OpenError::Ended(end()), true).code, Code::NodeOffline, "the open was never sent");
    }
}
