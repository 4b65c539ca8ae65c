//! One session of role client, for as long as its owner keeps it: what a command that runs once needs.
//!
//! Programs that stay use [`crate::Reconnecting`], which dials again.

use std::{fmt, sync::Arc, time::Duration};

use reachback_link::{
    Address, Compression, Congestion, ControlInbox, Established, Incoming, MemoryBudget, Net, OpenError,
    ReconnectRules, Session, SessionEnd, SessionRules, Substream,
};
use reachback_wire::{Code, NodeId, Open, Refusal, Role, SessionId, Target, Welcome};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    access::{Access, Attempt, ComeInError},
    call::{Call, CallError, CallStream},
    identity::{Identity, Random, RandomError},
    limits::{DEFAULT_BUDGET, GOODBYE},
    line::begin,
    stats::Stats,
};

/// What a client says of itself and what it may use.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Who asks; shows in the explorer's lists and logs.
    pub identity: Arc<Identity>,
    /// What it shows, and whom it believes; at first nothing and nobody, in plaintext.
    pub access: Access,
    /// Counters of calls and forwarded ports.
    pub stats: Arc<Stats>,
    /// Counters of the sessions.
    pub link_stats: Arc<reachback_link::Stats>,
    /// The memory that all sessions of the process share.
    pub budget: Arc<MemoryBudget>,
    /// Which congestion control its sessions should have.
    pub congestion: Congestion,
    /// Whether records may be compressed, and whether all that this client opens is.
    pub compression: Compression,
    /// How its sessions watch over their connections.
    pub rules: SessionRules,
    /// When [`crate::Reconnecting`] dials again.
    pub reconnect: ReconnectRules,
}

impl ClientOptions {
    /// Options for a client called `id`, counters at zero, with [`DEFAULT_BUDGET`] of memory.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn new(id: NodeId, random: Random) -> Result<Self, RandomError> {
        Ok(Self {
            identity: Arc::new(Identity::new(Role::Client, id, random)?),
            access: Access::plain(),
            stats: Arc::default(),
            link_stats: Arc::default(),
            budget: Arc::new(MemoryBudget::new(DEFAULT_BUDGET)),
            congestion: Congestion::default(),
            compression: Compression::default(),
            rules: SessionRules::default(),
            reconnect: ReconnectRules::default(),
        })
    }
}

/// A standing session with an explorer. Dropping it ends the session and every substream of it.
pub struct Client {
    session: Session,
    welcome: Welcome,
    stats: Arc<Stats>,
    tasks: JoinSet<()>,
}

impl Client {
    /// Dials and shakes hands under one deadline of 10 s.
    ///
    /// # Errors
    /// The explorer can't be reached or doesn't let us in; the error says why and what to do.
    pub async fn connect(
        net: Arc<dyn Net>,
        to: &Address,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        let (access, identity) = (&options.access, &*options.identity);
        let features = options.compression.features();
        let attempt = Attempt { net: net.as_ref(), to, identity, slot: 0, seq: 1, features };
        let outcome = access.come_in(attempt).await;
        let Established { transport, welcome, .. } =
            outcome.map_err(|error| ConnectError::new(&error, access))?;
        let (session, incoming, control, driver) = begin(
            transport,
            &welcome,
            options.link_stats,
            options.budget,
            options.congestion,
            options.rules,
            options.compression,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let end = driver.await;
            tracing::debug!(reason = %end, "session ended");
        });
        tasks.spawn(async move {
            tokio::join!(refuse_all(incoming), listen(control));
        });
        Ok(Self { session, welcome, stats: options.stats, tasks })
    }

    /// Opens a byte stream to a service.
    ///
    /// # Errors
    /// The stream did not come about; [`OpenError`] tells whether anything can have reached the service.
    pub async fn open(&self, target: Target) -> Result<Substream, OpenError> {
        self.session.open(Open::stream(target)).await
    }

    /// Calls `method` of a JSON-RPC service and waits at most `limit` for its answer.
    ///
    /// # Errors
    /// No answer, or the service's own error as [`CallError::Service`].
    pub async fn call(
        &self,
        target: Target,
        method: &str,
        params: &Value,
        limit: Duration,
    ) -> Result<Value, CallError> {
        self.result(&Call::new(target, method, params.clone(), limit)).await
    }

    /// Makes a call and waits for its result; null for a notification, once it was delivered.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn result(&self, call: &Call) -> Result<Value, CallError> {
        let outcome = call.result(&self.session).await;
        self.stats.note_call(&outcome);
        outcome
    }

    /// Makes a call whose answers are read one by one as they come.
    ///
    /// # Errors
    /// The call could not be sent; what becomes of it later is told by the stream.
    pub async fn send(&self, call: &Call) -> Result<CallStream, CallError> {
        call.send(&self.session).await
    }

    /// Who let us in.
    pub fn explorer(&self) -> &NodeId {
        &self.welcome.explorer
    }

    /// The explorer's number for this session.
    pub fn session_id(&self) -> SessionId {
        self.welcome.session
    }

    /// The session itself.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The counters given at the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Resolves when the session has ended, with the reason.
    pub async fn ended(&self) -> SessionEnd {
        self.session.ended().await
    }

    /// Says goodbye and waits until the session has gone, at most a second and a quarter.
    pub async fn close(mut self) {
        self.session.close(Code::Cancelled, "the client is done");
        let gone = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, gone).await.is_err() {
            tracing::debug!("the explorer did not take the goodbye in time");
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("explorer", &self.welcome.explorer)
            .field("session", &self.welcome.session)
            .finish_non_exhaustive()
    }
}

/// Why there is no session, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    code: Code,
    message: String,
}

impl ConnectError {
    pub(crate) fn new(error: &ComeInError, access: &Access) -> Self {
        let code = error.code();
        Self { code, message: access.explain(code, error.to_string()) }
    }

    /// The same as a code.
    pub fn code(&self) -> Code {
        self.code
    }
}

/// A client offers nothing: whatever is opened towards it is told so.
pub(crate) async fn refuse_all(mut incoming: Incoming) {
    while let Some(inbound) = incoming.next().await {
        inbound.refuse(Refusal::new(Code::ServiceNotFound, "this is a client; it offers no services")).await;
    }
}

/// Empties control: nothing on it asks a client to do something in this version. (A goodbye ends the session.)
pub(crate) async fn listen(mut control: ControlInbox) {
    while let Some(message) = control.next().await {
        tracing::debug!(kind = ?message.kind(), "control message without meaning for a client");
    }
}
