//! Published ports: a TCP port on the explorer that leads to one service of one node.
//!
//! A visitor should find out from the port itself whether the service can be reached, with the tools it has: so the
//! port is bound only while the node is connected and declares the service, and refuses connections otherwise. A
//! port chosen by the kernel is chosen once. What can't be opened after the connection was taken ends with a reset,
//! never with a clean end that looks like an answer.

use std::sync::Arc;

use reachback_link::{
    Early, ListenAddress, Listener, LocalAddress, Net, PeerAddress, RawSocket, Substream, Transport, splice,
};
use reachback_wire::{
    Code, Refusal, Role, Target,
    open::{Caller, Open},
};
use tokio::time::sleep;

use crate::{
    config::Publication,
    events::Watcher,
    hub::Hub,
    limits,
    listen::{Arrival, Door, accept},
    stats::count,
    workers::{WorkerId, Workers},
};

/// A publication whose address is known to be free, or was when the explorer started.
pub(crate) struct Published {
    target: Arc<Target>,
    /// With the port the kernel chose.
    listen: ListenAddress,
    local: LocalAddress,
    changes: Watcher,
}

impl Published {
    /// Tries the address out: a port in use is found at the start, not when the node appears.
    pub(crate) async fn prepare(
        hub: &Hub,
        net: &dyn Net,
        publication: &Publication,
    ) -> std::io::Result<Self> {
        let listener = net.listen(&publication.listen).await?;
        let local = listener.local();
        let mut listen = publication.listen.clone();
        if let (ListenAddress::Tcp { port, .. }, Some(address)) = (&mut listen, local.socket_addr()) {
            *port = address.port();
        }
        Ok(Self {
            target: Arc::new(publication.target.clone()),
            listen,
            local,
            changes: hub.registry.watch(),
        })
    }

    pub(crate) fn local(&self) -> LocalAddress {
        self.local.clone()
    }

    /// Follows the target until the hub closes.
    pub(crate) async fn run(mut self, hub: Arc<Hub>, net: Arc<dyn Net>, workers: Arc<Workers>) {
        let mut listener: Option<Listener> = None;
        let mut complained = false;
        loop {
            let reachable = self.reachable(&hub);
            let mut retry = false;
            match (&listener, reachable) {
                (None, true) => match net.listen(&self.listen).await {
                    Ok(bound) => {
                        tracing::info!(listen = %self.listen, target = %self.target, "published");
                        listener = Some(bound);
                        complained = false;
                    }
                    Err(error) => {
                        if !complained {
                            tracing::warn!(listen = %self.listen, target = %self.target, %error,
                                "the published port can't be bound; trying until it can");
                        }
                        (complained, retry) = (true, true);
                    }
                },
                (Some(_), false) => {
                    tracing::info!(listen = %self.listen, target = %self.target, "withdrawn: the target is not reachable");
                    listener = None;
                }
                (Some(_), true) | (None, false) => {}
            }
            let door = Door::Published(self.target.clone());
            tokio::select! {
                () = hub.closing.cancelled() => return,
                change = self.changes.next() => if change.is_none() { return },
                visitor = accept_if(&mut listener, door, &hub) => {
                    if let Some(visitor) = visitor && !workers.hand(visitor, self.worker(&hub)).await {
                        return;
                    }
                }
                () = sleep(limits::REBIND), if retry => {}
            }
        }
    }

    /// Where the node's session lives, whose pump the visitor joins.
    fn worker(&self, hub: &Hub) -> Option<WorkerId> {
        self.target.node().and_then(|node| hub.registry.worker_of(node))
    }

    fn reachable(&self, hub: &Hub) -> bool {
        match &*self.target {
            Target::Service { node, service } => hub.registry.offers(node, service),
            Target::Dial { .. } | Target::Explorer { .. } => false,
        }
    }
}

/// Connects one visitor with the service behind the port.
pub(crate) async fn visit(hub: Arc<Hub>, socket: RawSocket, peer: PeerAddress, target: Arc<Target>) {
    // Boxed: what a beginning needs is many times what an idle visit keeps.
    let Some((substream, transport, early)) = Box::pin(begin(&hub, socket, &peer, &target)).await else {
        return;
    };
    let visit = splice(substream, transport).await;
    let (to_service, from_service) = (early as u64 + visit.to_peer, visit.from_peer);
    tracing::debug!(%peer, %target, to_service, from_service, end = ?visit.end, "a visit ended");
}

/// Opens the way to the service, and says how many bytes the visitor has sent by then; `None` if there is no way, which
/// has been said.
async fn begin(
    hub: &Hub,
    socket: RawSocket,
    peer: &PeerAddress,
    target: &Target,
) -> Option<(Substream, Transport, usize)> {
    let mut transport = match socket.into_transport() {
        Ok(transport) => transport,
        Err(error) => {
            tracing::warn!(%peer, %target, %error, "the runtime can't take a visitor");
            return None;
        }
    };
    // Until the service is connected every end is a reset, whichever way this task ends.
    transport.close_with_reset(true);
    let caller = Caller {
        role: Role::Client,
        id: "visitor".to_owned(),
        name: None,
        granted: false,
        session: None,
        address: Some(peer.to_string()),
    };
    let mut early = Early::of(&mut transport);
    let outcome = tokio::select! {
        outcome = hub.router.open_early(Open::stream(target.clone()), caller, &mut early) => outcome,
        () = hub.stopping.cancelled() => Err(Refusal::new(Code::Draining, "the explorer is stopping")),
    };
    match outcome {
        Ok(substream) => {
            count(&hub.stats.visitors_served);
            let early = early.len();
            Some((substream, transport, early))
        }
        Err(refusal) => {
            count(&hub.stats.visitors_refused);
            tracing::info!(%peer, %target, %refusal, "a visitor is sent away");
            None
        }
    }
}

async fn accept_if(listener: &mut Option<Listener>, door: Door, hub: &Hub) -> Option<Arrival> {
    match listener {
        Some(listener) => accept(listener, door, &hub.stats.accept_pauses).await,
        None => std::future::pending().await,
    }
}
