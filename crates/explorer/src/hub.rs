//! What every task of one explorer shares.
//!
//! Nothing here is bound to a runtime: every worker holds the same [`Hub`].

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reachback_link::{Compression, Congestion, MemoryBudget, Net, SessionRules, Stats as LinkStats};
use reachback_wire::{NodeId, Refusal, SessionId};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Authenticator,
    bodies::Bodies,
    config::{ExplorerConfig, HeroCompat},
    direct::{DirectNodes, permit::Permit},
    explorer::Addresses,
    flood::Flood,
    join::Whereabouts,
    keys::Keys,
    leash::Present,
    limits,
    modes::Mode,
    rate::Rates,
    registry::Registry,
    route::Router,
    security::{Entry, Security},
    stats::Stats,
    workers::WorkerId,
};

pub(crate) struct Hub {
    pub(crate) id: NodeId,
    pub(crate) heartbeat: Duration,
    pub(crate) grace: Duration,
    pub(crate) registry: Arc<Registry>,
    pub(crate) router: Router,
    /// Room for the bodies of calls that are being read.
    pub(crate) bodies: Bodies,
    pub(crate) direct: DirectNodes,
    pub(crate) hero: Option<HeroCompat>,
    /// Host names by which HTTP may be asked, in lower case.
    pub(crate) hosts: Vec<String>,
    /// What heartbeats may make this explorer dial.
    pub(crate) permit: Permit,
    /// To dial nodes that have an address.
    pub(crate) net: Arc<dyn Net>,
    /// Places for connections that speak HTTP or raw JSON.
    pub(crate) plain: Semaphore,
    /// Places for those who follow changes over the API.
    pub(crate) watchers: Arc<Semaphore>,
    pub(crate) started: Instant,
    /// Where this explorer can be reached, once everything is bound.
    pub(crate) addresses: OnceLock<Addresses>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// What its TCP listeners ask, in the order of their addresses.
    pub(crate) modes: Vec<Mode>,
    /// Certificates and what they are judged by; none where no listener has TLS.
    pub(crate) keys: Option<Keys>,
    /// Who is in with a credential that can be withdrawn.
    pub(crate) present: Present,
    /// What join strings say of where this explorer is, once everything is bound.
    pub(crate) whereabouts: OnceLock<Whereabouts>,
    /// TLS handshakes at a time, for each worker.
    tls_places: Vec<Semaphore>,
    /// What strangers may cost.
    pub(crate) flood: Arc<Flood>,
    /// How often those who are in may open something.
    pub(crate) rates: Rates,
    /// How sessions watch over their connections.
    pub(crate) rules: SessionRules,
    pub(crate) stats: Arc<Stats>,
    pub(crate) link_stats: Arc<LinkStats>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) congestion: Congestion,
    pub(crate) compression: Compression,
    /// No new connections, visitors or publications.
    pub(crate) closing: CancellationToken,
    /// Sessions say goodbye.
    pub(crate) stopping: CancellationToken,
    sessions: AtomicU64,
}

impl Hub {
    pub(crate) fn new(
        config: &ExplorerConfig,
        net: Arc<dyn Net>,
        authenticator: Arc<dyn Authenticator>,
        keys: Option<Keys>,
    ) -> Self {
        let registry = Arc::new(Registry::new(config.stats.clone()));
        Self {
            id: config.id.clone(),
            heartbeat: config.heartbeat,
            grace: config.shutdown_grace,
            router: Router::new(
                registry.clone(),
                config.max_pending,
                config.budget.clone(),
                config.stats.clone(),
            ),
            bodies: Bodies::new(config.budget.clone(), config.max_message),
            direct: DirectNodes::new(config, registry.clone()),
            hero: config.hero.clone(),
            hosts: config.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            permit: Permit::new(
                config.hero.as_ref(),
                !config.all_listeners().iter().all(|one| one.address.is_loopback()),
            ),
            net,
            plain: Semaphore::new(limits::PLAIN_CONNECTIONS),
            watchers: Arc::new(Semaphore::new(limits::WATCHERS)),
            started: Instant::now(),
            addresses: OnceLock::new(),
            registry,
            authenticator,
            modes: config.modes().iter().map(|listener| listener.mode).collect(),
            keys,
            present: Present::default(),
            whereabouts: OnceLock::new(),
            tls_places: (0..=config.runtimes.len()).map(|_| Semaphore::new(limits::TLS_HANDSHAKES)).collect(),
            flood: Flood::new(config.stats.clone()),
            rates: Rates::new(config.rate_limit, config.stats.clone()),
            rules: config.rules,
            stats: config.stats.clone(),
            link_stats: config.link_stats.clone(),
            budget: config.budget.clone(),
            congestion: config.congestion.clone(),
            compression: config.compression,
            closing: CancellationToken::new(),
            stopping: CancellationToken::new(),
            sessions: AtomicU64::new(1),
        }
    }

    /// Whether it takes on new work: what `/readyz` says.
    pub(crate) fn is_ready(&self) -> bool {
        self.addresses.get().is_some() && !self.closing.is_cancelled()
    }

    /// What knows certificates, tokens and what was revoked.
    pub(crate) fn security(&self) -> Option<&Arc<Security>> {
        self.keys.as_ref().map(|keys| &keys.security)
    }

    /// Puts a refusal into the audit, where there is one.
    pub(crate) fn note_refused(&self, entry: Entry, refusal: &Refusal) {
        if let Some(security) = self.security() {
            security.audit().defer(&entry.refused(refusal));
        }
    }

    /// Places for TLS handshakes where this worker lives: each keeps its thread busy for about a millisecond.
    pub(crate) fn tls_places(&self, worker: WorkerId) -> &Semaphore {
        worker.of(&self.tls_places).unwrap_or(&self.tls_places[0])
    }

    /// A number no other session of this explorer has had; later ones are larger.
    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }
}
