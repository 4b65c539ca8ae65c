//! What happens when someone reaches back: an open comes in, is checked, and becomes a visit.
//!
//! The explorer has authorised the open already; the node checks again what only it can know: that it is the process
//! that was meant, and that the service was declared. Everything a refusal needs to say is here, so that an explorer
//! that lies, lags or is compromised still reaches nothing but declared services.

use std::{sync::Arc, time::Duration};

use reachback_link::{Address, Inbound, InboundError, Incoming, Net, Spliced, Substream, splice};
use reachback_wire::{Caller, Code, Instance, NodeId, Open, OpenKind, Refusal, ServiceName, Target, limits};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    catalogue::{Catalogue, Declared},
    config::NodeConfig,
    dial::dial,
    gate::Gate,
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
}

impl Desk {
    pub(crate) fn new(config: &NodeConfig, instance: Instance, net: Arc<dyn Net>) -> Self {
        Self {
            id: config.id().clone(),
            instance,
            catalogue: Catalogue::new(config.services().values().cloned()),
            net,
            healths: Healths::new(),
            stats: config.stats.clone(),
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
    async fn attend(self: Arc<Self>, mut inbound: Inbound) {
        let open = match inbound.open().await {
            Ok(open) => open,
            Err(error) => {
                tracing::info!(%error, "an open that can't be read");
                return;
            }
        };
        let declared = match self.admit(&open) {
            Ok(declared) => declared,
            Err(refusal) => {
                count(&self.stats.opens_refused);
                tracing::info!(%refusal, "open refused");
                inbound.refuse(refusal).await;
                return;
            }
        };
        let Declared { service, gate } = &*declared;
        let name = service.name();
        let outcome = match service.endpoint() {
            Endpoint::Address(address) => self.visit_socket(inbound, &open, name, address, gate).await,
            Endpoint::Handler(handler) => {
                self.visit_handler(inbound, open.caller, name, handler.as_ref()).await
            }
        };
        match outcome {
            Ok(()) => count(&self.stats.visits_finished),
            Err(Visited::Not(why)) => tracing::info!(service = %name, reason = %why, "no visit"),
            Err(Visited::Broken(why)) => {
                count(&self.stats.visits_broken);
                tracing::info!(service = %name, reason = %why, "visit broke");
            }
        }
    }

    /// The declared service that is meant, or why there is none.
    fn admit(&self, open: &Open) -> Result<Arc<Declared>, Refusal> {
        let refuse = |code, text: String| Err(Refusal::new(code, text));
        if let Some(expected) = open.expect_instance
            && expected != self.instance
        {
            return refuse(Code::NotHere, format!("node {} has been restarted since; try again", self.id));
        }
        if open.hop > 1 {
            return refuse(
                Code::NotHere,
                format!("the open came over {} explorers, 1 is the most", open.hop),
            );
        }
        let name = match &open.target {
            Some(Target::Service { node, service }) if *node == self.id => service,
            Some(Target::Dial { node, .. }) if *node == self.id => {
                let text = format!("node {} opens no way to other hosts; reach one of its services", self.id);
                return refuse(Code::Denied, text);
            }
            Some(other) => return refuse(Code::NotHere, format!("this is node {}, not {other}", self.id)),
            None => return refuse(Code::BadFrame, "the open names no target".into()),
        };
        let Some(declared) = self.catalogue.find(name) else {
            return refuse(Code::ServiceNotFound, self.not_declared(name));
        };
        match open.kind {
            OpenKind::Stream => Ok(declared),
            OpenKind::Call => refuse(
                Code::ServiceNotFound,
                format!(
                    "calls to services of nodes are not in this version; reach {}/{name} with connect or forward",
                    self.id
                ),
            ),
            OpenKind::Control => refuse(Code::BadFrame, "control is opened by the dialer, once".into()),
        }
    }

    fn not_declared(&self, name: &ServiceName) -> String {
        let listed = self.catalogue.list();
        if listed.is_empty() {
            return format!("node {} declares no services; start it with --service {name}=ADDRESS", self.id);
        }
        let declared: Vec<&str> = listed.keys().map(AsRef::as_ref).collect();
        format!("node {} declares no service \"{name}\"; it has: {}", self.id, declared.join(", "))
    }

    async fn visit_socket(
        &self,
        inbound: Inbound,
        open: &Open,
        name: &ServiceName,
        address: &Address,
        gate: &Gate,
    ) -> Result<(), Visited> {
        let deadline = Instant::now() + dial_time(open.deadline_ms);
        let work = async {
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
        };
        let (substream, transport) = inbound.answer(work).await?;
        count(&self.stats.visits_served);
        let Spliced { to_peer, from_peer, end } = splice(substream, transport).await;
        add(&self.stats.bytes_to_services, from_peer);
        add(&self.stats.bytes_from_services, to_peer);
        end.map_err(|error| Visited::Broken(error.to_string()))
    }

    async fn visit_handler(
        &self,
        inbound: Inbound,
        caller: Option<Caller>,
        name: &ServiceName,
        handler: &dyn Handler,
    ) -> Result<(), Visited> {
        let (substream, ()): (Substream, ()) = inbound.answer(async { Ok(()) }).await?;
        count(&self.stats.visits_served);
        let outcome = handler::attend(handler, name.clone(), caller, substream.into_io()).await;
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

/// How a visit failed.
enum Visited {
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
fn dial_time(deadline_ms: Option<u64>) -> Duration {
    let asked = deadline_ms.map_or(limits::OPEN_TIMEOUT, Duration::from_millis).min(limits::OPEN_TIMEOUT);
    asked.saturating_sub(DEADLINE_GRACE)
}
