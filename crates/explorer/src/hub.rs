//! What every task of one explorer shares.
//!
//! Nothing here is bound to a runtime: a second worker would hold the same [`Hub`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reachback_link::{MemoryBudget, Stats as LinkStats};
use reachback_wire::{NodeId, SessionId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Api, auth::Authenticator, config::ExplorerConfig, limits, registry::Registry, route::Router,
    stats::Stats,
};

pub(crate) struct Hub {
    pub(crate) id: NodeId,
    pub(crate) heartbeat: Duration,
    pub(crate) grace: Duration,
    pub(crate) registry: Arc<Registry>,
    pub(crate) router: Router,
    pub(crate) api: Api,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// Places for connections that have not finished their handshake.
    pub(crate) unadmitted: Semaphore,
    pub(crate) stats: Arc<Stats>,
    pub(crate) link_stats: Arc<LinkStats>,
    pub(crate) budget: Arc<MemoryBudget>,
    /// No new connections, visitors or publications.
    pub(crate) closing: CancellationToken,
    /// Sessions say goodbye.
    pub(crate) stopping: CancellationToken,
    sessions: AtomicU64,
}

impl Hub {
    pub(crate) fn new(config: &ExplorerConfig, authenticator: Arc<dyn Authenticator>) -> Self {
        let registry = Arc::new(Registry::new(config.stats.clone()));
        Self {
            id: config.id.clone(),
            heartbeat: config.heartbeat,
            grace: config.shutdown_grace,
            router: Router::new(registry.clone(), config.stats.clone()),
            api: Api::new(config.id.clone(), registry.clone(), config.stats.clone()),
            registry,
            authenticator,
            unadmitted: Semaphore::new(limits::UNADMITTED),
            stats: config.stats.clone(),
            link_stats: config.link_stats.clone(),
            budget: config.budget.clone(),
            closing: CancellationToken::new(),
            stopping: CancellationToken::new(),
            sessions: AtomicU64::new(1),
        }
    }

    /// A number no other session of this explorer has had; later ones are larger.
    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }
}
