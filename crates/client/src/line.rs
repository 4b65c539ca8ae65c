//! One line: dials one explorer, hands each session to its tenant, waits, dials again, for ever.
//!
//! A node and a client that wants to stay connected live by the same rules (when to dial again, what to say about it,
//! how to leave), so the rules are here once and the two differ in their [`Tenant`]. A line never gives up unless it was
//! told after how many attempts: whoever is denied waits and says so, because the remedy is usually on the other side and
//! nobody is there to start it again.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use reachback_link::{
    Address, Compression, Congestion, ControlInbox, DialError, Driver, Established, Incoming, ListenAddress,
    Listener, MemoryBudget, Net, Pulse, Reconnect, ReconnectRules, RulesError, Session, SessionConfig,
    SessionRules, Side, Stats, Transport, session,
};
use reachback_wire::{Code, NodeId, SessionId, Welcome};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::{Access, Attempt, ComeInError},
    identity::{Identity, RandomError},
    limits::{GOODBYE, LONGEST_WAIT},
};

/// What a line is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum LineState {
    /// Looking the name up and connecting.
    Dialing {
        /// Attempts since the process began, this one included.
        attempt: u64,
    },
    /// Connected; the explorer has not said yes yet.
    Handshaking,
    /// A session stands.
    Serving {
        /// Who answered.
        explorer: NodeId,
        /// The explorer's number for this session.
        session: SessionId,
        /// Whether heartbeats are answered: `Opening` until the first one is.
        pulse: Pulse,
        /// The last heartbeat's round trip.
        rtt: Option<Duration>,
    },
    /// Waiting for the next attempt.
    BackingOff {
        /// When it begins.
        until: Instant,
        /// What ended the last attempt or session.
        code: Code,
        /// The same as a sentence.
        reason: String,
    },
    /// Told to stop. Final.
    Stopped,
}

/// How an attempt or a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineEnd {
    /// When.
    pub at: Instant,
    /// The session, if there was one.
    pub session: Option<SessionId>,
    /// The reason as programs read it.
    pub code: Code,
    /// The reason as people read it.
    pub message: String,
}

/// A session that stands, as its tenant gets it.
pub struct Standing {
    /// The session.
    pub session: Session,
    /// What the explorer opens.
    pub incoming: Incoming,
    /// What the explorer says on control.
    pub control: ControlInbox,
    /// What the explorer said when it let us in.
    pub welcome: Welcome,
    /// When it said so.
    pub since: Instant,
}

/// Who lives on a line's sessions, one after the other.
pub trait Tenant: Send {
    /// Lives on a session; returns once `incoming` and `control` have ended. Returning earlier ends the session.
    fn live(&mut self, standing: Standing) -> BoxFuture<'_, ()>;

    /// Is told of every end: of sessions and of attempts that came to none.
    fn ended(&mut self, end: &LineEnd);

    /// Is told that the line stops: the last chance to let go of what outlived the sessions, in bounded time.
    fn leave(&mut self) -> BoxFuture<'_, ()>;
}

/// Where a line tells what it is doing.
pub type Publish = Arc<dyn Fn(LineState) + Send + Sync>;

/// Everything a line needs to know.
pub struct Line {
    /// The network to dial in.
    pub net: Arc<dyn Net>,
    /// The explorer.
    pub to: Address,
    /// Which of the process's lines this is.
    pub slot: u32,
    /// Who dials.
    pub identity: Arc<Identity>,
    /// What it shows, and whom it believes.
    pub access: Access,
    /// Counters of the sessions.
    pub stats: Arc<Stats>,
    /// The memory that all sessions of the process share.
    pub budget: Arc<MemoryBudget>,
    /// Which congestion control its sessions should have.
    pub congestion: Congestion,
    /// Whether records may be compressed.
    pub compression: Compression,
    /// How its sessions watch over their connections.
    pub rules: SessionRules,
    /// When it dials again, and whether it ever gives up.
    pub reconnect: ReconnectRules,
    /// Is called at every change of state.
    pub publish: Publish,
    /// A change of its value ends a wait at once.
    pub redial: watch::Receiver<u64>,
    /// Ends the line in order: `Bye`, then [`LineState::Stopped`].
    pub stop: CancellationToken,
}

/// Why a line ended though nobody told it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No chance for delays.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Its rules can't be.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// It was told after how many attempts to give up.
    #[error(
        "{to}: given up after {attempts} failed attempts, as reconnect.max_attempts says; the last one: {reason}"
    )]
    GaveUp {
        /// The explorer.
        to: Address,
        /// How many failed in a row.
        attempts: u32,
        /// Why the last one did.
        reason: String,
    },
}

impl Line {
    /// Runs until told to stop, or until its rules say to give up.
    ///
    /// # Errors
    /// [`LineError`] says why it ended by itself.
    pub async fn run(mut self, tenant: &mut dyn Tenant) -> Result<(), LineError> {
        self.reconnect.check()?;
        self.rules.check()?;
        let mut reconnect = Reconnect::new(self.identity.seed()?, self.reconnect);
        let mut outcome = Ok(());
        let stop = self.stop.clone();
        for attempt in 1.. {
            (self.publish)(LineState::Dialing { attempt });
            let dialled = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                dialled = self.dial(attempt) => dialled,
            };
            let (end, delay) = match dialled {
                Ok(established) => {
                    let window =
                        Duration::from_millis(established.welcome.reconnect_window_ms).min(LONGEST_WAIT);
                    let since = Instant::now();
                    let end = self.live(established, since, tenant).await;
                    let delay = reconnect.after_session(since.elapsed(), window, None);
                    (end, delay)
                }
                Err(failure) => {
                    let delay = reconnect.after_failure(failure.retry_after);
                    (
                        LineEnd {
                            at: Instant::now(),
                            session: None,
                            code: failure.code,
                            message: failure.message,
                        },
                        delay,
                    )
                }
            };
            if stop.is_cancelled() {
                break;
            }
            // An explorer may ask for patience, not for eternity.
            let delay = delay.min(LONGEST_WAIT);
            tracing::info!(explorer = %self.to, code = end.code.name(), reason = %end.message, next_attempt = ?delay, "line down");
            tenant.ended(&end);
            if let Some(attempts) = reconnect.exhausted() {
                outcome = Err(LineError::GaveUp { to: self.to.clone(), attempts, reason: end.message });
                break;
            }
            if !self.wait(&end, delay).await {
                break;
            }
        }
        tenant.leave().await;
        (self.publish)(LineState::Stopped);
        outcome
    }

    async fn dial(&self, seq: u64) -> Result<Established, Failure> {
        let net = Observed { net: self.net.clone(), publish: self.publish.clone() };
        let features = self.compression.features();
        let attempt =
            Attempt { net: &net, to: &self.to, identity: &self.identity, slot: self.slot, seq, features };
        let outcome = self.access.come_in(attempt).await;
        outcome.map_err(|error| Failure::new(&error, &self.access))
    }

    /// Lives through one session and says how it ended.
    async fn live(&self, established: Established, since: Instant, tenant: &mut dyn Tenant) -> LineEnd {
        let Established { transport, welcome, .. } = established;
        let (explorer, id) = (welcome.explorer.clone(), welcome.session);
        tracing::info!(explorer = %explorer, address = %self.to, session = %id, "session stands");
        let (session, incoming, control, driver) = begin(
            transport,
            &welcome,
            self.stats.clone(),
            self.budget.clone(),
            self.congestion.clone(),
            self.rules,
            self.compression,
        );
        let mut pulse = session.pulse();
        let serving =
            |pulse| LineState::Serving { explorer: explorer.clone(), session: id, pulse, rtt: session.rtt() };
        let state = serving(*pulse.borrow_and_update());
        (self.publish)(state);

        // The driver has a task of its own: what the tenant does between two awaits never delays a heartbeat.
        let mut driving = JoinSet::new();
        driving.spawn(driver);
        let mut tenancy =
            tenant.live(Standing { session: session.clone(), incoming, control, welcome, since });
        let mut tenant_is_in = true;
        let mut leaving_until = None;
        let end = loop {
            tokio::select! {
                biased;
                Some(ended) = driving.join_next() => break match ended {
                    Ok(end) => (end.code, end.to_string()),
                    Err(error) => (Code::Internal, format!("the session's driver failed: {error}")),
                },
                () = self.stop.cancelled(), if leaving_until.is_none() => {
                    session.close(Code::Cancelled, "shutting down");
                    leaving_until = Some(Instant::now() + GOODBYE);
                }
                // A peer that doesn't even take the goodbye is left without one.
                () = sleep_until(leaving_until.unwrap_or(since)), if leaving_until.is_some() => {
                    break (Code::Cancelled, "shutting down".to_owned());
                }
                Ok(()) = pulse.changed() => {
                    let now = *pulse.borrow_and_update();
                    (self.publish)(serving(now));
                }
                () = &mut tenancy, if tenant_is_in => {
                    tenant_is_in = false;
                    if session.end().is_none() {
                        session.close(Code::Internal, "this end stopped serving");
                    }
                }
            }
        };
        drop(driving);
        if tenant_is_in && timeout(GOODBYE, &mut tenancy).await.is_err() {
            tracing::warn!(session = %id, "what ran on the session did not see its end; it is dropped");
        }
        LineEnd { at: Instant::now(), session: Some(id), code: end.0, message: end.1 }
    }

    /// Waits for the next attempt; false if told to stop.
    async fn wait(&mut self, end: &LineEnd, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        // Requests made while the line was up are not for this wait; who hears of it may make the first.
        self.redial.mark_unchanged();
        (self.publish)(LineState::BackingOff { until, code: end.code, reason: end.message.clone() });
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            Ok(()) = self.redial.changed() => true,
            () = sleep_until(until) => true,
        }
    }
}

/// A session on the terms that the explorer named in its welcome.
pub(crate) fn begin(
    transport: Transport,
    welcome: &Welcome,
    stats: Arc<Stats>,
    budget: Arc<MemoryBudget>,
    congestion: Congestion,
    rules: SessionRules,
    compression: Compression,
) -> (Session, Incoming, ControlInbox, Driver) {
    let config = SessionConfig {
        // Explorers don't dial here.
        side: Side::Dialer,
        heartbeat: Duration::from_millis(welcome.heartbeat_ms),
        max_open: welcome.limits.max_substreams,
        stats,
        budget,
        congestion,
        compression: compression.with_peer(&welcome.features),
        rules,
    };
    session(transport, config)
}

/// An attempt that came to no session.
struct Failure {
    code: Code,
    message: String,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(error: &ComeInError, access: &Access) -> Self {
        let retry_after = match error {
            ComeInError::Dial(DialError::Denied(refusal)) => refusal.wait(),
            _ => None,
        };
        let code = error.code();
        Self { code, message: access.explain(code, error.to_string()), retry_after }
    }
}

/// A network that says when it has connected: the one moment between dialing and handshaking.
struct Observed {
    net: Arc<dyn Net>,
    publish: Publish,
}

impl Net for Observed {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            let transport = self.net.connect(to).await?;
            (self.publish)(LineState::Handshaking);
            Ok(transport)
        })
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        self.net.listen(on)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.net.resolve(host, port)
    }
}
