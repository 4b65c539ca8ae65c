//! Accept loops: they accept, and nothing else.
//!
//! What is accepted goes to a worker as a raw socket. A loop that read a byte, or waited for anything but room in that
//! worker's queue, could be held up by one peer; while the queue is full, the kernel's queue holds the rest.

use std::sync::{Arc, atomic::AtomicU64};

use reachback_link::{Cidr, Listener, PeerAddress, RawSocket, accept::pause_after};
use reachback_wire::Target;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{modes::Mode, stats::count, workers::Workers};

/// An accepted socket, and what it came to.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: RawSocket,
    pub(crate) peer: PeerAddress,
    pub(crate) door: Door,
}

/// Which listener it came through.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// A port that speaks the tunnel, or the Unix socket: what it wants shows in its first bytes.
    Tunnel(Arc<ListenerRules>),
    /// A published port: it wants this service.
    Published(Arc<Target>),
}

/// What a listener asks of whoever connects.
#[derive(Debug)]
pub(crate) struct ListenerRules {
    pub(crate) mode: Mode,
    /// Who may connect; empty: everybody.
    pub(crate) allow: Vec<Cidr>,
    /// Who says in the PROXY protocol for whom it connects.
    pub(crate) proxy_from: Vec<Cidr>,
}

impl ListenerRules {
    /// Those of the Unix socket: who may connect to it is for its permission bits, and who it is for the kernel to say.
    pub(crate) fn local() -> Self {
        Self { mode: Mode::Development, allow: Vec::new(), proxy_from: Vec::new() }
    }

    /// Whether somebody from there may connect at all.
    pub(crate) fn allows(&self, peer: &PeerAddress) -> bool {
        let listed = |from: &std::net::SocketAddr| self.allow.iter().any(|block| block.contains(from.ip()));
        self.allow.is_empty() || matches!(peer, PeerAddress::Tcp(from) if listed(from))
    }
}

/// Accepts until told to stop.
pub(crate) async fn accept_loop(
    mut listener: Listener,
    rules: Arc<ListenerRules>,
    workers: Arc<Workers>,
    pauses: &AtomicU64,
    closing: CancellationToken,
) {
    let accepting = async {
        loop {
            if let Some(arrival) = accept(&mut listener, Door::Tunnel(rules.clone()), pauses).await
                && !workers.hand(arrival, None).await
            {
                return;
            }
        }
    };
    closing.run_until_cancelled(accepting).await;
}

/// One connection; `None` after an error, which has been logged and waited out. Cancel-safe.
pub(crate) async fn accept(listener: &mut Listener, door: Door, pauses: &AtomicU64) -> Option<Arrival> {
    match listener.accept().await {
        Ok(accepted) => Some(Arrival { socket: accepted.socket, peer: accepted.peer, door }),
        Err(error) => {
            let Some(pause) = pause_after(&error) else {
                tracing::debug!(listener = %listener.local(), %error, "a connection was gone before it was accepted");
                return None;
            };
            count(pauses);
            tracing::warn!(listener = %listener.local(), %error, "accepting pauses for {pause:?}");
            sleep(pause).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_that_stays_pauses_the_loop_instead_of_spinning() {
        let (network, connections) = mpsc::channel(1);
        drop(network);
        let (workers, _inboxes) = Workers::new(1);
        let (pauses, closing) = (AtomicU64::new(0), CancellationToken::new());
        let listener = Listener::memory(connections, "gone");
        let waiting = async {
            sleep(std::time::Duration::from_secs(1)).await;
            closing.cancel();
        };
        let rules = Arc::new(ListenerRules::local());
        tokio::join!(accept_loop(listener, rules, Arc::new(workers), &pauses, closing.clone()), waiting);
        let pauses = pauses.load(Ordering::Relaxed);
        assert!((5..=11).contains(&pauses), "{pauses} pauses in a second");
    }
}
