//! What happens when someone reaches back: an open comes in, is checked (admit.rs), and becomes a visit.
//!
//! A visit owns what it needs from its open to its end, whichever line it came over, and its end is the reason that the
//! other side is told.

use std::{fmt::Display, sync::Arc, time::Duration};

use reachback_link::{
    Address, Inbound, InboundError, Incoming, Net, Spliced, Substream, Transport, splice, splice_until,
};
use reachback_wire::{Caller, Code, Instance, NodeId, Open, OpenKind, Refusal, ServiceName, limits};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    admit::Admitted,
    allow::AllowDial,
    call::{self, Bodies},
    catalogue::{Catalogue, Declared},
    config::NodeConfig,
    dial::{dial, dial_host},
    gate::Gate,
    grants::{Grants, Lease},
    handler::{self, Handler},
    health::Healths,
    limits::DEADLINE_GRACE,
    service::Endpoint,
    stats::{Stats, add, count},
};

/// Everything a visit needs, shared by all lines of the node: a service's gate doesn't care which explorer knocks.
pub(crate) struct Desk {
    pub(crate) id: NodeId,
    pub(crate) instance: Instance,
    pub(crate) catalogue: Catalogue,
    pub(crate) net: Arc<dyn Net>,
    pub(crate) healths: Healths,
    pub(crate) stats: Arc<Stats>,
    pub(crate) bodies: Bodies,
    pub(crate) grants: Arc<Grants>,
    pub(crate) allow_dial: Vec<AllowDial>,
    /// All hosts behind the node share one.
    host_gate: Gate,
}

impl Desk {
    pub(crate) fn new(
        config: &NodeConfig,
        instance: Instance,
        net: Arc<dyn Net>,
        grants: Arc<Grants>,
    ) -> Self {
        Self {
            id: config.id().clone(),
            instance,
            catalogue: Catalogue::new(config.services().values().cloned(), config.max_pending),
            net,
            healths: Healths::new(),
            stats: config.stats.clone(),
            bodies: Bodies::new(config.max_message),
            grants,
            allow_dial: config.allow_dial.clone(),
            host_gate: Gate::new(config.max_pending),
        }
    }

    /// Takes in what the explorer opens until the session ends. Visits outlive this call: they end by themselves,
    /// each as its session's end demands.
    pub(crate) async fn take_in(self: &Arc<Self>, mut incoming: Incoming, visits: &mut JoinSet<()>) {
        loop {
            tokio::select! {
                inbound = incoming.next() => match inbound {
                    Some(inbound) => {
                        visits.spawn(Arc::clone(self).attend(inbound));
                    }
                    None => return,
                },
                Some(finished) = visits.join_next() => note_panic(finished),
            }
        }
    }

    /// One visit from its open to its end.
    async fn attend(self: Arc<Self>, inbound: Inbound) {
        // Boxed: what a beginning or a call needs is many times what an idle stream keeps.
        let Some(stream) = Box::pin(self.begin(inbound)).await else { return };
        let Stream { to, substream, transport, lease } = stream;
        count(&self.stats.visits_served);
        let spliced = match lease {
            None => splice(substream, transport).await,
            // Boxed: most streams have no end of this kind.
            Some(lease) => Box::pin(splice_until(substream, transport, lease.end())).await,
        };
        self.note(&to, self.account(spliced));
    }

    /// Everything but the bytes of a stream; `None` if there is none, or none any more.
    async fn begin(&self, mut inbound: Inbound) -> Option<Stream> {
        let open = match inbound.open().await {
            Ok(open) => open,
            Err(error) => {
                tracing::info!(%error, "an open that can't be read");
                return None;
            }
        };
        let (declared, lease) = match self.admit(&open) {
            Ok(Admitted::Service(declared, lease)) => (declared, lease),
            Ok(Admitted::Host { host, port }) => {
                let to = format!("{host} port {port}");
                return self.stream(to, self.visit_host(inbound, &open, (&host, port)).await, None);
            }
            Err(refusal) => {
                count(&self.stats.opens_refused);
                tracing::info!(%refusal, "open refused");
                inbound.refuse(refusal).await;
                return None;
            }
        };
        let Declared { service, gate, .. } = &*declared;
        let name = service.name();
        let outcome = match service.endpoint() {
            Endpoint::Address(address) if open.kind == OpenKind::Call => {
                call::serve(self, inbound, &open, &declared, address, lease).await
            }
            Endpoint::Address(address) => {
                let begun = self.visit_socket(inbound, &open, name, address, gate).await;
                return self.stream(name.to_string(), begun, lease);
            }
            Endpoint::Handler(handler) => {
                self.visit_handler(inbound, open.caller, name, handler.as_ref(), lease).await
            }
            Endpoint::Calls(handler) => {
                call::function::serve(self, inbound, &open, name, handler.as_ref(), lease).await
            }
        };
        self.note(name, outcome);
        None
    }

    fn stream(
        &self,
        to: String,
        begun: Result<(Substream, Transport), Visited>,
        lease: Option<Lease>,
    ) -> Option<Stream> {
        match begun {
            Ok((substream, transport)) => Some(Stream { to, substream, transport, lease }),
            Err(visited) => {
                self.note(&to, Err(visited));
                None
            }
        }
    }

    fn note(&self, service: &dyn Display, outcome: Result<(), Visited>) {
        match outcome {
            Ok(()) => count(&self.stats.visits_finished),
            Err(Visited::Not(why)) => tracing::info!(%service, reason = %why, "no visit"),
            Err(Visited::Broken(why)) => {
                count(&self.stats.visits_broken);
                tracing::info!(%service, reason = %why, "visit broke");
            }
        }
    }

    async fn visit_socket(
        &self,
        inbound: Inbound,
        open: &Open,
        name: &ServiceName,
        address: &Address,
        gate: &Gate,
    ) -> Result<(Substream, Transport), Visited> {
        let deadline = Instant::now() + dial_time(open.deadline_ms);
        Ok(inbound.answer(self.reach(name, address, gate, deadline)).await?)
    }

    async fn visit_host(
        &self,
        inbound: Inbound,
        open: &Open,
        host: (&str, u16),
    ) -> Result<(Substream, Transport), Visited> {
        let deadline = Instant::now() + dial_time(open.deadline_ms);
        let work = async {
            let dialled =
                dial_host(self.net.as_ref(), &self.allow_dial, host, &self.host_gate, deadline).await;
            if let Err(refusal) = &dialled {
                count(match refusal.code {
                    Code::Denied => &self.stats.opens_refused,
                    Code::Saturated => &self.stats.opens_saturated,
                    _ => &self.stats.services_unreachable,
                });
            }
            dialled
        };
        Ok(inbound.answer(work).await?)
    }

    fn account(&self, spliced: Spliced) -> Result<(), Visited> {
        let Spliced { to_peer, from_peer, end } = spliced;
        add(&self.stats.bytes_to_services, from_peer);
        add(&self.stats.bytes_from_services, to_peer);
        end.map_err(|error| Visited::Broken(error.to_string()))
    }

    /// Connects to a service and remembers how that went.
    ///
    /// # Errors
    /// Nothing has reached the service; the refusal says why.
    pub(crate) async fn reach(
        &self,
        name: &ServiceName,
        address: &Address,
        gate: &Gate,
        deadline: Instant,
    ) -> Result<Transport, Refusal> {
        let dialled = dial(self.net.as_ref(), name, address, gate, deadline).await;
        match &dialled {
            Ok(_) => self.healths.reached(name),
            // That many wait is about the visitors, not about the service.
            Err(refusal) if refusal.code == Code::Saturated => count(&self.stats.opens_saturated),
            Err(refusal) => {
                count(&self.stats.services_unreachable);
                self.healths.failed(name, &refusal.message);
            }
        }
        dialled
    }

    async fn visit_handler(
        &self,
        inbound: Inbound,
        caller: Option<Caller>,
        name: &ServiceName,
        handler: &dyn Handler,
        lease: Option<Lease>,
    ) -> Result<(), Visited> {
        let (substream, ()): (Substream, ()) = inbound.answer(async { Ok(()) }).await?;
        count(&self.stats.visits_served);
        let outcome = handler::attend(handler, name.clone(), caller, substream.into_io(), lease).await;
        outcome.map_err(|error| Visited::Broken(error.to_string()))
    }
}

/// Logs a visit that panicked: its stream is reset, nothing else suffers.
pub(crate) fn note_panic(finished: Result<(), tokio::task::JoinError>) {
    if let Err(error) = finished
        && error.is_panic()
    {
        tracing::error!(%error, "a visit panicked; its stream was reset");
    }
}

/// A stream that has begun.
struct Stream {
    /// For the log.
    to: String,
    substream: Substream,
    transport: Transport,
    lease: Option<Lease>,
}

/// How a visit failed.
pub(crate) enum Visited {
    /// It did not begin.
    Not(String),
    /// It began and did not end in order.
    Broken(String),
}

impl From<InboundError> for Visited {
    fn from(error: InboundError) -> Self {
        Self::Not(error.to_string())
    }
}

/// What is left for dialing the service: the answer should be on its way before the opener stops waiting for it.
pub(crate) fn dial_time(deadline_ms: Option<u64>) -> Duration {
    let asked = deadline_ms.map_or(limits::OPEN_TIMEOUT, Duration::from_millis).min(limits::OPEN_TIMEOUT);
    // Who has little time still wants most of it used.
    asked - DEADLINE_GRACE.min(asked / 4)
}
