//! What happens when someone reaches back: an open comes in, is checked, and becomes a visit.
//!
//! The explorer has authorised the open already; the node checks again what only it can know: that it is the process
//! that was meant, and that the service was declared (or the host allowed). Everything a refusal needs to say is here,
//! so that an explorer that lies, lags or is compromised still reaches nothing but what was declared.

use std::{fmt::Display, sync::Arc, time::Duration};

use reachback_link::{Address, Inbound, InboundError, Incoming, Net, Spliced, Substream, Transport, splice};
use reachback_wire::{Caller, Code, Instance, NodeId, Open, OpenKind, Refusal, ServiceName, Target, limits};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    allow::AllowDial,
    call::{self, Bodies},
    catalogue::{Catalogue, Declared},
    config::NodeConfig,
    dial::{dial, dial_host},
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
    pub(crate) bodies: Bodies,
    allow_dial: Vec<AllowDial>,
    /// All hosts behind the node share one.
    host_gate: Gate,
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
            bodies: Bodies::new(),
            allow_dial: config.allow_dial.clone(),
            host_gate: Gate::new(),
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
        let outcome = self.splice(stream.substream, stream.transport).await;
        self.note(&stream.to, outcome);
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
        let declared = match self.admit(&open) {
            Ok(Admitted::Service(declared)) => declared,
            Ok(Admitted::Host { host, port }) => {
                let to = format!("{host} port {port}");
                return self.stream(to, self.visit_host(inbound, &open, (&host, port)).await);
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
                call::serve(self, inbound, &open, &declared, address).await
            }
            Endpoint::Address(address) => {
                let begun = self.visit_socket(inbound, &open, name, address, gate).await;
                return self.stream(name.to_string(), begun);
            }
            Endpoint::Handler(handler) => {
                self.visit_handler(inbound, open.caller, name, handler.as_ref()).await
            }
            Endpoint::Calls(handler) => {
                call::function::serve(self, inbound, &open, name, handler.as_ref()).await
            }
        };
        self.note(name, outcome);
        None
    }

    fn stream(&self, to: String, begun: Result<(Substream, Transport), Visited>) -> Option<Stream> {
        match begun {
            Ok((substream, transport)) => Some(Stream { to, substream, transport }),
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

    /// What is meant: a declared service or a host behind the node, or why there is neither.
    fn admit(&self, open: &Open) -> Result<Admitted, Refusal> {
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
            Some(Target::Dial { node, host, port }) if *node == self.id => {
                if self.allow_dial.is_empty() {
                    let text = format!(
                        "node {} opens no way to other hosts; reach one of its services, or start it with --allow-dial \
                         CIDR:PORTS",
                        self.id
                    );
                    return refuse(Code::Denied, text);
                }
                if open.kind != OpenKind::Stream {
                    let text =
                        "calls go to services; a host behind a node takes streams (connect, forward, socks)";
                    return refuse(Code::BadFrame, text.into());
                }
                return Ok(Admitted::Host { host: host.clone(), port: *port });
            }
            Some(other) => return refuse(Code::NotHere, format!("this is node {}, not {other}", self.id)),
            None => return refuse(Code::BadFrame, "the open names no target".into()),
        };
        let Some(declared) = self.catalogue.find(name) else {
            return refuse(Code::ServiceNotFound, self.not_declared(name));
        };
        let here = format!("{}/{name}", self.id);
        match (open.kind, declared.service.endpoint()) {
            (OpenKind::Control, _) => refuse(Code::BadFrame, "control is opened by the dialer, once".into()),
            (OpenKind::Call, Endpoint::Handler(_)) => refuse(
                Code::ServiceNotFound,
                format!("{here} takes streams, not calls; reach it with connect or forward"),
            ),
            (OpenKind::Stream, Endpoint::Calls(_)) => refuse(
                Code::ServiceNotFound,
                format!("{here} takes calls, not streams; reach it with: reachback call {here} METHOD"),
            ),
            (OpenKind::Stream | OpenKind::Call, _) => Ok(Admitted::Service(declared)),
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

    async fn splice(&self, substream: Substream, transport: Transport) -> Result<(), Visited> {
        count(&self.stats.visits_served);
        let Spliced { to_peer, from_peer, end } = splice(substream, transport).await;
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

/// A stream that has begun.
struct Stream {
    /// For the log.
    to: String,
    substream: Substream,
    transport: Transport,
}

/// What an open may reach.
enum Admitted {
    /// A declared service.
    Service(Arc<Declared>),
    /// A host behind the node, whose addresses have still to be looked at.
    Host { host: String, port: u16 },
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
