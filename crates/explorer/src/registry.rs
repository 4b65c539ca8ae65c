//! Who is here: every node this explorer knows, under one short lock.
//!
//! Presence is a guard. A connection that was let in holds a [`Presence`]; dropping it, for whatever reason and on
//! whatever path, takes exactly that session out and nothing else, because removal compares the session. Everything
//! that leaves the lock is a copy, and nothing is awaited under it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use reachback_link::{Session, SessionEnd};
use reachback_wire::{
    Caller, Code, EndReport, Health, Instance, NodeId, Refusal, ServiceName, Services, SessionId,
    text::sanitize,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    clock::spoken,
    entry::{Declared, End, Entry, Grant, Newcomer, NodeState, Order, Promotion, Standing, printable},
    events::{Events, Watcher},
    limits,
    stats::{Stats, count},
    takeover::{self, Settlement, Verdict},
    workers::WorkerId,
};

/// The nodes of one explorer.
#[derive(Debug)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    events: Events,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<NodeId, Entry>,
    /// Entries that are not offline.
    up: usize,
    /// The last changes of state, oldest first.
    recent: VecDeque<Happened>,
    /// How many there were since the start.
    happened: u64,
}

/// A change of a node's state.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    /// Grows by one with each.
    pub(crate) seq: u64,
    pub(crate) at: Instant,
    pub(crate) node: NodeId,
    pub(crate) state: NodeState,
    pub(crate) reason: String,
}

/// Why a node can't be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unforgettable {
    /// It has a session.
    Connected,
    /// There is no such node.
    Unknown,
}

/// One session's place in the registry; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Presence {
    registry: Arc<Registry>,
    node: NodeId,
    session: SessionId,
    orders: watch::Receiver<Order>,
    end: Option<(Code, String)>,
}

/// Why a newcomer has no place yet.
pub(crate) enum Objection {
    /// It gets none.
    Refused(Refusal),
    /// It gets none, because two living processes keep taking the name from each other.
    Stays(Refusal),
    /// Ask this session whether it is alive, then claim again with the answer.
    Challenge { incumbent: SessionId, session: Session },
}

/// Where a node is.
pub(crate) enum Located {
    /// On this session, here.
    Here(Here),
    /// A session of it is being set up, and none serves.
    Arriving,
    /// Known, and not connected.
    Offline { since: Instant, reason: String },
    /// Never seen, or forgotten.
    Unknown,
}

/// A node's serving session and what it declares.
#[derive(Clone)]
pub(crate) struct Here {
    pub(crate) id: SessionId,
    pub(crate) instance: Instance,
    pub(crate) session: Session,
    pub(crate) declared: Arc<Declared>,
}

/// A copy of one entry.
#[derive(Clone)]
pub(crate) struct NodeCopy {
    pub(crate) node: NodeId,
    pub(crate) state: NodeState,
    pub(crate) since: Instant,
    pub(crate) reason: String,
    pub(crate) declared: Arc<Declared>,
    /// The line that gets opens, if there is one.
    pub(crate) serving: Option<Newcomer>,
    /// The sessions of all its lines, the serving one first.
    pub(crate) sessions: Vec<Session>,
    pub(crate) ends: Vec<End>,
    pub(crate) reported: Vec<EndReport>,
}

impl Registry {
    pub(crate) fn new(stats: Arc<Stats>) -> Self {
        Self { inner: Mutex::default(), events: Events::new(), stats }
    }

    /// Follows changes from now on.
    pub(crate) fn watch(&self) -> Watcher {
        self.events.watch()
    }

    /// How many nodes have a session.
    pub(crate) fn fleet(&self) -> usize {
        self.inner.lock().up
    }

    /// Whether an open to this service could work now: its node is connected and declares it.
    pub(crate) fn offers(&self, node: &NodeId, service: &ServiceName) -> bool {
        let inner = self.inner.lock();
        inner
            .nodes
            .get(node)
            .is_some_and(|entry| entry.state != NodeState::Offline && entry.declares(service))
    }

    /// Until when the node lets this caller in to this service by a grant, if it does now.
    pub(crate) fn granted(&self, node: &NodeId, service: &ServiceName, caller: &Caller) -> Option<Instant> {
        let inner = self.inner.lock();
        let entry = inner.nodes.get(node).filter(|entry| entry.state != NodeState::Offline)?;
        let now = Instant::now();
        let meant =
            |grant: &&Grant| grant.service == *service && grant.until > now && grant.to.matches(caller);
        entry.declared.grants.iter().filter(meant).map(|grant| grant.until).max()
    }

    pub(crate) fn locate(&self, node: &NodeId) -> Located {
        let inner = self.inner.lock();
        let Some(entry) = inner.nodes.get(node) else { return Located::Unknown };
        match entry.serving() {
            Some((line, session)) => Located::Here(Here {
                id: line.who.session,
                instance: line.who.generation.instance,
                session: session.clone(),
                declared: entry.declared.clone(),
            }),
            None if entry.is_arriving() => Located::Arriving,
            None => Located::Offline { since: entry.since, reason: entry.reason.clone() },
        }
    }

    /// The names of all nodes, in order.
    pub(crate) fn names(&self) -> Vec<NodeId> {
        self.inner.lock().nodes.keys().cloned().collect()
    }

    /// One node.
    pub(crate) fn find(&self, node: &NodeId) -> Option<NodeCopy> {
        self.inner.lock().nodes.get(node).map(|entry| entry.copy(node))
    }

    /// Where the node's serving session lives, if it has one.
    pub(crate) fn worker_of(&self, node: &NodeId) -> Option<WorkerId> {
        let inner = self.inner.lock();
        let (line, _) = inner.nodes.get(node)?.serving()?;
        Some(line.who.worker)
    }

    /// Whether the node has a session, or one in the making.
    pub(crate) fn has_session(&self, node: &NodeId) -> bool {
        self.inner
            .lock()
            .nodes
            .get(node)
            .is_some_and(|entry| entry.serving().is_some() || entry.is_arriving())
    }

    /// The last changes of state, oldest first.
    pub(crate) fn recent(&self) -> Vec<Happened> {
        self.inner.lock().recent.iter().cloned().collect()
    }

    /// Notes a change of a node that has no entry here, and tells the followers.
    pub(crate) fn note(&self, node: &NodeId, state: NodeState, reason: &str) {
        self.inner.lock().remember(node, state, reason);
        self.events.changed(node);
    }

    /// Ends the sessions of a node and keeps its name free for a time. Says how many sessions there were; `None`: no
    /// such node.
    pub(crate) fn kick(&self, node: &NodeId, message: &str, pause: Duration) -> Option<usize> {
        let until = Some(Instant::now() + pause).filter(|_| !pause.is_zero());
        self.change(node, message, |entry| {
            entry.kicked_until = until;
            entry.dismiss_all(Code::Denied, message)
        })
    }

    /// Forgets a node that is not connected.
    pub(crate) fn forget(&self, node: &NodeId) -> Result<(), Unforgettable> {
        let mut inner = self.inner.lock();
        match inner.nodes.get(node) {
            None => return Err(Unforgettable::Unknown),
            Some(entry) if !entry.lines.is_empty() => return Err(Unforgettable::Connected),
            Some(_) => drop(inner.nodes.remove(node)),
        }
        drop(inner);
        self.events.changed(node);
        Ok(())
    }

    /// Forgets the nodes that come and go and have been gone for a while.
    pub(crate) fn forget_ephemeral(&self) {
        let mut inner = self.inner.lock();
        let gone = |entry: &Entry| {
            entry.ephemeral
                && entry.lines.is_empty()
                && entry.since.elapsed() >= limits::EPHEMERAL_FORGOTTEN
                && entry.kicked_until.is_none_or(|until| until <= Instant::now())
        };
        let gone: Vec<NodeId> =
            inner.nodes.iter().filter(|(_, entry)| gone(entry)).map(|(node, _)| node.clone()).collect();
        gone.iter().for_each(|node| drop(inner.nodes.remove(node)));
        drop(inner);
        gone.iter().for_each(|node| self.events.changed(node));
    }

    /// Every node, in the order of names.
    pub(crate) fn copy(&self) -> Vec<NodeCopy> {
        self.inner.lock().nodes.iter().map(|(node, entry)| entry.copy(node)).collect()
    }

    /// Asks for a place. `challenged` is the answer to an earlier [`Objection::Challenge`]; if it decided, the
    /// settlement comes with the place.
    pub(crate) fn claim(
        self: &Arc<Self>,
        newcomer: &Newcomer,
        challenged: Option<(SessionId, bool)>,
    ) -> Result<(Presence, Option<Settlement>), Objection> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if let Some(refusal) = inner.nodes.get(&newcomer.node).and_then(|entry| entry.kicked(now)) {
            return Err(Objection::Refused(refusal));
        }
        let settlement = match inner.nodes.get_mut(&newcomer.node) {
            Some(entry) => self.judge(entry, newcomer, challenged, now)?,
            None => None,
        };
        let entry = inner.nodes.entry(newcomer.node.clone()).or_insert_with(|| Entry::new(now));
        let Some(orders) = entry.add(newcomer.clone()) else {
            let message =
                format!("{} sessions of this node are being set up already; dial once", entry.lines.len());
            return Err(Objection::Refused(
                Refusal::new(Code::RateLimited, message).retry_after(limits::HANDSHAKE_TIMEOUT),
            ));
        };
        inner.forget_surplus(&newcomer.node);
        drop(inner);
        let (node, session) = (newcomer.node.clone(), newcomer.session);
        Ok((Presence { registry: self.clone(), node, session, orders, end: None }, settlement))
    }

    fn judge(
        &self,
        entry: &mut Entry,
        newcomer: &Newcomer,
        challenged: Option<(SessionId, bool)>,
        now: Instant,
    ) -> Result<Option<Settlement>, Objection> {
        let incumbent = match takeover::decide(&newcomer.generation, &entry.incumbents()) {
            Verdict::Admit => return Ok(None),
            Verdict::Refuse(refusal) => return Err(Objection::Refused(refusal)),
            Verdict::Challenge(incumbent) => incumbent,
        };
        let Some((_, answered)) = challenged.filter(|(asked, _)| *asked == incumbent) else {
            let session = entry.line_mut(incumbent).and_then(|line| line.standing.session().cloned());
            return match session {
                Some(session) => Err(Objection::Challenge { incumbent, session }),
                None => Ok(None),
            };
        };
        let settlement = takeover::settle(incumbent, answered, entry.recent_changes(now));
        match &settlement {
            Settlement::Ghost => count(&self.stats.ghosts_replaced),
            Settlement::Clone => {
                entry.changes.push_back(now);
                count(&self.stats.clones_replaced);
            }
            Settlement::Stays(refusal) => {
                count(&self.stats.clones_refused);
                return Err(Objection::Stays(refusal.clone()));
            }
        }
        Ok(Some(settlement))
    }

    /// Changes one entry under the lock, restates it and tells the followers.
    fn change<T>(&self, node: &NodeId, why: &str, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut inner = self.inner.lock();
        let entry = inner.nodes.get_mut(node)?;
        let was = entry.state;
        let outcome = change(entry);
        entry.restate(Instant::now(), why);
        let (is, reason) = (entry.state, entry.reason.clone());
        let up = |state| usize::from(state != NodeState::Offline);
        inner.up = inner.up + up(is) - up(was);
        if is != was {
            inner.remember(node, is, &reason);
        }
        inner.forget_surplus(node);
        drop(inner);
        self.events.changed(node);
        Some(outcome)
    }
}

impl Inner {
    fn remember(&mut self, node: &NodeId, state: NodeState, reason: &str) {
        self.happened += 1;
        if self.recent.len() == limits::EVENTS_KEPT {
            self.recent.pop_front();
        }
        let (node, reason) = (node.clone(), reason.to_owned());
        self.recent.push_back(Happened { seq: self.happened, at: Instant::now(), node, state, reason });
    }

    /// Forgets the nodes that have been offline longest while more are remembered than may be. The scan is paid only
    /// by whoever goes over the limit.
    fn forget_surplus(&mut self, just_changed: &NodeId) {
        while self.nodes.len() - self.up > limits::OFFLINE_NODES {
            let idle = |(node, entry): &(&NodeId, &Entry)| entry.lines.is_empty() && *node != just_changed;
            let oldest = self.nodes.iter().filter(idle).min_by_key(|(_, entry)| entry.since);
            let Some(oldest) = oldest.map(|(node, _)| node.clone()) else { return };
            self.nodes.remove(&oldest);
        }
    }
}

impl Entry {
    /// The refusal for whoever comes with a name that was kicked.
    fn kicked(&self, now: Instant) -> Option<Refusal> {
        let left = self.kicked_until?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let message = format!("an operator has kicked this node; it may come back in {}", spoken(left));
        Some(Refusal::new(Code::Denied, message).retry_after(left))
    }

    fn copy(&self, node: &NodeId) -> NodeCopy {
        let serving = self.serving();
        let first = serving.map(|(line, _)| line.who.session);
        let mut sessions: Vec<_> = serving.map(|(_, session)| session.clone()).into_iter().collect();
        let others = self.lines.iter().filter(|line| Some(line.who.session) != first);
        sessions.extend(others.filter_map(|line| line.standing.session().cloned()));
        NodeCopy {
            node: node.clone(),
            state: self.state,
            since: self.since,
            reason: self.reason.clone(),
            declared: self.declared.clone(),
            serving: serving.map(|(line, _)| line.who.clone()),
            sessions,
            ends: self.ends.iter().cloned().collect(),
            reported: self.reported.clone(),
        }
    }
}

impl Presence {
    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.node
    }

    /// What the registry wants of this session; changes are seen with `changed()`.
    pub(crate) fn orders(&mut self) -> &mut watch::Receiver<Order> {
        &mut self.orders
    }

    /// The node says what it has. `true`: for the first time.
    pub(crate) fn declare(&self, services: Services) -> bool {
        let declared = Arc::new(Declared::from(services));
        let (id, node) = (self.session, &self.node);
        let first = self.registry.change(node, "waiting for its first answered heartbeat", |entry| {
            let Some(line) = entry.line_mut(id) else { return false };
            let first = line.declared.replace(declared.clone()).is_none();
            if matches!(line.standing, Standing::Current(_)) {
                entry.declared = declared;
            }
            first
        });
        first.unwrap_or(false)
    }

    /// The health of some services changed; names that were never declared are passed over.
    pub(crate) fn health(&self, health: Health) {
        let id = self.session;
        self.registry.change(&self.node, "waiting for its first answered heartbeat", |entry| {
            let Some(line) = entry.line_mut(id) else { return };
            let Some(declared) = &mut line.declared else { return };
            let declared = Arc::make_mut(declared);
            for news in health.services {
                if let Some(info) = declared.services.iter_mut().find(|info| info.name == news.name) {
                    info.health = printable(news.health);
                }
            }
            let declared = line.declared.clone();
            if let (Standing::Current(_), Some(declared)) = (&line.standing, declared) {
                entry.declared = declared;
            }
        });
    }

    /// The node's own view of how its last sessions ended, newest last.
    pub(crate) fn reported(&self, mut ends: Vec<EndReport>) {
        ends.drain(..ends.len().saturating_sub(limits::ENDS_KEPT));
        for end in &mut ends {
            end.message = sanitize(&end.message, limits::TEXT);
        }
        let mut inner = self.registry.inner.lock();
        if let Some(entry) = inner.nodes.get_mut(&self.node) {
            entry.reported = ends;
        }
    }

    /// The node has declared its services and answered a heartbeat after that: it is online from now on, on this
    /// session. An error is the sentence to end this session with: a newer one serves already.
    pub(crate) fn confirm(&self, session: Session) -> Result<Promotion, String> {
        let id = self.session;
        let promoted = self.registry.change(&self.node, "", |entry| entry.promote(id, session));
        let promotion = promoted.unwrap_or_else(|| Err("the registry forgot this node".to_owned()))?;
        for _ in 0..promotion.retired {
            count(&self.registry.stats.successions);
        }
        Ok(promotion)
    }

    /// Whether heartbeats stay unanswered while bytes arrive.
    pub(crate) fn late(&self, late: bool) {
        let id = self.session;
        self.registry.change(&self.node, "waiting for its first answered heartbeat", |entry| {
            if let Some(line) = entry.line_mut(id) {
                line.late = late;
            }
        });
    }

    /// Gives the place up with the reason people will read.
    pub(crate) fn ended(mut self, end: &SessionEnd) {
        self.end = Some((end.code, sanitize(&end.message, limits::TEXT)));
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let (code, message) = self
            .end
            .take()
            .unwrap_or_else(|| (Code::Internal, "the explorer stopped serving this session".to_owned()));
        let id = self.session;
        let why = message.clone();
        self.registry.change(&self.node, &why, |entry| {
            entry.lines.retain(|line| line.who.session != id);
            entry.ends.push_front(End { session: id, at: Instant::now(), code, message });
            entry.ends.truncate(limits::ENDS_KEPT);
        });
    }
}

#[cfg(test)]
mod tests {
    use reachback_wire::Generation;

    use super::*;

    fn newcomer(node: &str, session: u64) -> Newcomer {
        Newcomer {
            node: node.parse().unwrap(),
            generation: Generation { instance: Instance([1; 16]), slot: 0, seq: session },
            session: SessionId(session),
            peer: "test".to_owned(),
            agent: "test".to_owned(),
            worker: WorkerId::FIRST,
            ephemeral: node.starts_with("web-"),
        }
    }

    fn registry() -> Arc<Registry> {
        Arc::new(Registry::new(Arc::default()))
    }

    fn claim(registry: &Arc<Registry>, node: &str, session: u64) -> Presence {
        match registry.claim(&newcomer(node, session), None) {
            Ok((presence, _)) => presence,
            Err(_) => panic!("{node} gets no place"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_takes_out_its_own_session_and_no_other() {
        let registry = registry();
        let first = claim(&registry, "edge-7", 1);
        let second = claim(&registry, "edge-7", 2);
        let lines = || -> Vec<u64> {
            let inner = registry.inner.lock();
            inner.nodes.values().flat_map(|entry| &entry.lines).map(|line| line.who.session.0).collect()
        };
        assert_eq!(lines(), [1, 2]);
        drop(first);
        assert_eq!(lines(), [2]);
        drop(second);
        assert_eq!(lines(), [0; 0]);
        let ends: Vec<_> = registry.copy()[0].ends.iter().map(|end| (end.session.0, end.code)).collect();
        assert_eq!(ends, [(2, Code::Internal), (1, Code::Internal)], "a guard that was just dropped says so");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_and_goes_is_forgotten_and_what_stays_away_is_not() {
        let registry = registry();
        let still_here = claim(&registry, "web-1", 1);
        drop(claim(&registry, "web-2", 2));
        drop(claim(&registry, "edge-7", 3));
        drop(claim(&registry, "web-3", 4));
        registry.kick(&"web-3".parse().unwrap(), "for an hour", Duration::from_secs(3600));
        let names = || registry.names().iter().map(ToString::to_string).collect::<Vec<_>>();
        tokio::time::advance(limits::EPHEMERAL_FORGOTTEN - Duration::from_secs(1)).await;
        registry.forget_ephemeral();
        assert_eq!(names(), ["edge-7", "web-1", "web-2", "web-3"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        registry.forget_ephemeral();
        assert_eq!(names(), ["edge-7", "web-1", "web-3"], "nobody has lifted the pause of web-3");
        drop(still_here);
        tokio::time::advance(Duration::from_secs(3600)).await;
        registry.forget_ephemeral();
        assert_eq!(names(), ["edge-7"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_nodes_that_are_gone_are_remembered_and_the_longest_gone_goes_first() {
        let registry = registry();
        let still_here = claim(&registry, "stays", 1);
        for n in 0..=limits::OFFLINE_NODES {
            drop(claim(&registry, &format!("n-{n}"), 2));
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        let names = registry.names();
        assert_eq!(names.len(), limits::OFFLINE_NODES);
        let has = |name: &str| names.iter().any(|known| known.as_ref() == name);
        assert!(
            !has("n-0") && !has("n-1") && has("n-2") && has("stays"),
            "a session in the making is not gone"
        );
        drop(still_here);
    }
}
