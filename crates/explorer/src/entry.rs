//! What the registry knows of one node: its lines, its state and how it came to be in it.
//!
//! Pure data and the rules about it; the lock, the guard and the events are the registry's. A node has one line that
//! gets new opens (`Current`); older ones of the same process finish their streams beside it (`Retiring`). Which is
//! which is decided when a line is confirmed, not when it is dialled: until then the node is reached as before.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use reachback_link::Session;
use reachback_wire::{
    CallerPattern, Code, EndReport, Generation, HealthState, NodeId, ServiceInfo, ServiceName, Services,
    SessionId, text::sanitize,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::{limits, takeover::Incumbent, workers::WorkerId};

/// Whether a node can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its session answers heartbeats.
    Online,
    /// Bytes arrive, heartbeats stay unanswered: slow, or dying.
    Late,
    /// No session.
    Offline,
    /// Only an older session is left, which finishes its streams and still takes opens.
    Retiring,
}

/// How a session of a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// Which one.
    pub(crate) session: SessionId,
    /// When we noticed.
    pub(crate) at: Instant,
    /// Why, as a code.
    pub(crate) code: Code,
    /// Why, as a sentence.
    pub(crate) message: String,
}

/// What a node says it has; replaced as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    /// Its services with their health.
    pub(crate) services: Vec<ServiceInfo>,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whom it lets in for a while, whatever their rights.
    pub(crate) grants: Vec<Grant>,
}

/// A grant that a node has announced.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) service: ServiceName,
    pub(crate) to: CallerPattern,
    pub(crate) until: Instant,
}

/// What the registry wants of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// End when the last substream has, or at the deadline for it.
    Retire,
    /// End now.
    Leave { code: Code, message: String },
}

/// Who dials: everything about a session that is known before it exists.
#[derive(Debug, Clone)]
pub(crate) struct Newcomer {
    pub(crate) node: NodeId,
    pub(crate) generation: Generation,
    pub(crate) session: SessionId,
    /// Where it came from, for people.
    pub(crate) peer: String,
    /// What it says it is, made harmless.
    pub(crate) agent: String,
    /// Where its session lives.
    pub(crate) worker: WorkerId,
    /// It comes and goes: soon after its last session nobody remembers it.
    pub(crate) ephemeral: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) lines: Vec<Line>,
    pub(crate) state: NodeState,
    /// When `state` began.
    pub(crate) since: Instant,
    pub(crate) reason: String,
    /// Of the current line, or of the last one.
    pub(crate) declared: Arc<Declared>,
    /// Latest first.
    pub(crate) ends: VecDeque<End>,
    /// The node's own view of its last ends, as it sent it.
    pub(crate) reported: Vec<EndReport>,
    /// When a live process lost this name to another one.
    pub(crate) changes: VecDeque<Instant>,
    /// Nobody gets this name before.
    pub(crate) kicked_until: Option<Instant>,
    /// Whoever had this name last comes and goes.
    pub(crate) ephemeral: bool,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) who: Newcomer,
    pub(crate) standing: Standing,
    pub(crate) late: bool,
    pub(crate) declared: Option<Arc<Declared>>,
    orders: watch::Sender<Order>,
}

pub(crate) enum Standing {
    /// Welcomed, not yet confirmed: gets no opens.
    Pending,
    /// Gets new opens.
    Current(Session),
    /// Finishes its streams; still takes opens when there is no current one.
    Retiring(Session),
    /// Told to leave; nothing counts on it any more.
    Leaving,
}

impl Standing {
    pub(crate) fn session(&self) -> Option<&Session> {
        match self {
            Self::Current(session) | Self::Retiring(session) => Some(session),
            Self::Pending | Self::Leaving => None,
        }
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "Pending",
            Self::Current(_) => "Current",
            Self::Retiring(_) => "Retiring",
            Self::Leaving => "Leaving",
        })
    }
}

impl Entry {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lines: Vec::new(),
            state: NodeState::Offline,
            since: now,
            reason: "its first session is being set up".to_owned(),
            declared: Arc::default(),
            ends: VecDeque::new(),
            reported: Vec::new(),
            changes: VecDeque::new(),
            kicked_until: None,
            ephemeral: false,
        }
    }

    pub(crate) fn incumbents(&self) -> Vec<Incumbent> {
        self.lines
            .iter()
            .filter(|line| !matches!(line.standing, Standing::Leaving))
            .map(|line| Incumbent {
                session: line.who.session,
                generation: line.who.generation,
                serves: line.standing.session().is_some(),
            })
            .collect()
    }

    pub(crate) fn line_mut(&mut self, id: SessionId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.who.session == id)
    }

    /// The line that gets opens: the current one, else the newest that retires.
    pub(crate) fn serving(&self) -> Option<(&Line, &Session)> {
        let rank = |line: &Line| (matches!(line.standing, Standing::Current(_)), line.who.session);
        self.lines
            .iter()
            .filter_map(|line| line.standing.session().map(|session| (line, session)))
            .max_by_key(|(line, _)| rank(line))
    }

    /// Whether a line is being set up.
    pub(crate) fn is_arriving(&self) -> bool {
        self.lines.iter().any(|line| matches!(line.standing, Standing::Pending))
    }

    pub(crate) fn declares(&self, service: &ServiceName) -> bool {
        self.declared.services.iter().any(|info| info.name == *service)
    }

    /// How often a live process lost this name within the window that ends now.
    pub(crate) fn recent_changes(&mut self, now: Instant) -> usize {
        while self.changes.front().is_some_and(|then| now - *then >= limits::TAKEOVER_WINDOW) {
            self.changes.pop_front();
        }
        self.changes.len()
    }

    /// Adds a line that is not yet confirmed. `None`: too many others are being set up already.
    pub(crate) fn add(&mut self, who: Newcomer) -> Option<watch::Receiver<Order>> {
        let staying = self.lines.iter().filter(|line| !matches!(line.standing, Standing::Leaving)).count();
        if staying >= limits::LINES_PER_NODE {
            let retiring = |line: &&Line| matches!(line.standing, Standing::Retiring(_));
            let oldest = self.lines.iter().filter(retiring).map(|line| line.who.session).min()?;
            self.dismiss(oldest, Code::Replaced, "the node has too many older sessions; the oldest one goes");
        }
        let (orders, receiver) = watch::channel(Order::Serve);
        self.ephemeral = who.ephemeral;
        self.lines.push(Line { who, standing: Standing::Pending, late: false, declared: None, orders });
        Some(receiver)
    }

    /// Makes a pending line the current one and tells the others what that means for them. An error is the sentence
    /// for a line that came too late: a newer one serves already.
    pub(crate) fn promote(&mut self, id: SessionId, session: Session) -> Result<Promotion, String> {
        let Some(generation) = self.line_mut(id).map(|line| line.who.generation) else {
            return Err("the registry doesn't know this session".to_owned());
        };
        for other in self.lines.iter().filter(|line| line.standing.session().is_some()) {
            let theirs = &other.who.generation;
            let newer = match theirs.supersedes(&generation) {
                Some(newer) => newer,
                None => theirs.instance == generation.instance || other.who.session > id,
            };
            if newer {
                return Err(format!("session {} of this node is newer", other.who.session));
            }
        }
        let mut promotion = Promotion { retired: 0, replaced: Vec::new() };
        for line in &mut self.lines {
            if line.who.session == id || line.standing.session().is_none() {
                continue;
            }
            if line.who.generation.same_line(&generation) {
                promotion.retired += line.retire();
            } else {
                promotion.replaced.push(line.who.session);
            }
        }
        let message = format!("another process with this node id took over (session {id})");
        for replaced in &promotion.replaced {
            self.dismiss(*replaced, Code::Replaced, &message);
        }
        if let Some(line) = self.line_mut(id) {
            line.standing = Standing::Current(session);
            if let Some(declared) = line.declared.clone() {
                self.declared = declared;
            }
        }
        Ok(promotion)
    }

    /// Sets state, reason and time by what lines there are now. `why` is the reason if there is none.
    pub(crate) fn restate(&mut self, now: Instant, why: &str) {
        let (state, reason) = match self.serving() {
            Some((line, _)) => match (&line.standing, line.late) {
                (_, true) => (NodeState::Late, "bytes arrive, heartbeats stay unanswered".to_owned()),
                (Standing::Retiring(_), false) => (
                    NodeState::Retiring,
                    format!("{why}; an older session, {}, still finishes streams", line.who.session),
                ),
                _ => (NodeState::Online, format!("session {} from {}", line.who.session, line.who.peer)),
            },
            None => (NodeState::Offline, why.to_owned()),
        };
        if state != self.state {
            self.state = state;
            self.since = now;
        }
        self.reason = reason;
    }

    /// Tells every line to end. Says how many there were.
    pub(crate) fn dismiss_all(&mut self, code: Code, message: &str) -> usize {
        let staying = self.lines.iter().filter(|line| !matches!(line.standing, Standing::Leaving));
        let staying: Vec<_> = staying.map(|line| line.who.session).collect();
        for id in &staying {
            self.dismiss(*id, code, message);
        }
        staying.len()
    }

    fn dismiss(&mut self, id: SessionId, code: Code, message: &str) {
        if let Some(line) = self.line_mut(id) {
            line.standing = Standing::Leaving;
            line.orders.send_replace(Order::Leave { code, message: message.to_owned() });
        }
    }
}

impl From<Services> for Declared {
    fn from(said: Services) -> Self {
        let services = said.services.into_iter().map(|mut info| {
            info.health = printable(info.health);
            info.framing = info.framing.map(|framing| sanitize(&framing, limits::TEXT));
            info
        });
        let labels = said.labels.iter().map(|(k, v)| (sanitize(k, limits::TEXT), sanitize(v, limits::TEXT)));
        let now = Instant::now();
        let grants = said.grants.into_iter().take(limits::GRANTS_PER_NODE).map(|grant| Grant {
            service: grant.service,
            to: grant.to,
            until: now + Duration::from_millis(grant.left_ms).min(limits::GRANT_MAX),
        });
        Self { services: services.collect(), labels: labels.collect(), grants: grants.collect() }
    }
}

/// A node's words about a service, safe to show.
pub(crate) fn printable(health: HealthState) -> HealthState {
    match health {
        HealthState::Failing { reason } => HealthState::Failing { reason: sanitize(&reason, limits::TEXT) },
        HealthState::Ok | HealthState::Unknown => health,
    }
}

/// What a promotion did to the node's other lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Promotion {
    pub(crate) retired: usize,
    pub(crate) replaced: Vec<SessionId>,
}

impl Line {
    fn retire(&mut self) -> usize {
        match std::mem::replace(&mut self.standing, Standing::Leaving) {
            Standing::Current(session) => {
                self.standing = Standing::Retiring(session);
                self.orders.send_replace(Order::Retire);
                1
            }
            other => {
                self.standing = other;
                0
            }
        }
    }
}
