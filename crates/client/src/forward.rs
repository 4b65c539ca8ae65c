//! A local port that is a service far away: every visitor gets a stream of its own.
//!
//! A visitor is never left guessing. Where no stream comes about (the line is down, the node is offline, the service
//! refuses) the visitor's connection is reset, which a program sees as an error and not as an empty answer. Closing
//! the listener itself while the target is offline needs the explorer to tell clients about nodes, which it does not
//! do yet.

use std::{io, sync::Arc};

use reachback_link::{Accepted, ListenAddress, Listener, LocalAddress, Net, accept::pause_after, splice};
use reachback_wire::Target;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{limits::FORWARD_VISITORS, reconnecting::Reconnecting, stats::add};

/// A listening forward. Dropping it closes the listener and every visitor's connection.
pub struct Forward {
    local: LocalAddress,
    stop: CancellationToken,
    tasks: JoinSet<io::Result<()>>,
}

impl Forward {
    /// Binds `on` and passes every visitor to `target` over `client`'s line.
    ///
    /// # Errors
    /// The address can't be bound.
    pub async fn start(
        net: &dyn Net,
        client: Arc<Reconnecting>,
        on: &ListenAddress,
        target: Target,
    ) -> io::Result<Self> {
        let listener = net.listen(on).await?;
        let local = listener.local();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_loop(listener, client, target, stop.clone()));
        Ok(Self { local, stop, tasks })
    }

    /// Where it listens, with the port that was really bound.
    pub fn local(&self) -> &LocalAddress {
        &self.local
    }

    /// Resolves when the listener has broken, with the reason; never while it works.
    pub async fn failed(&mut self) -> io::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => io::Error::other(error),
            Some(Ok(Ok(()))) | None => std::future::pending().await,
        }
    }

    /// Closes the listener and every visitor's connection.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Only accepts: whatever takes time happens in the visitor's own task.
async fn accept_loop(
    mut listener: Listener,
    client: Arc<Reconnecting>,
    target: Target,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut visitors = JoinSet::new();
    loop {
        let room = visitors.len() < FORWARD_VISITORS;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(finished) = visitors.join_next() => {
                if let Err(error) = finished {
                    tracing::error!(%error, "a visitor's task failed");
                }
            }
            accepted = listener.accept(), if room => match accepted {
                Ok(visitor) => {
                    visitors.spawn(serve(visitor, client.clone(), target.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    if let Some(pause) = pause_after(&error) {
                        tokio::time::sleep(pause).await;
                    }
                }
            },
        }
    }
}

async fn serve(visitor: Accepted, client: Arc<Reconnecting>, target: Target) {
    let peer = visitor.peer;
    let local = match visitor.socket.into_transport() {
        Ok(local) => local,
        Err(error) => {
            tracing::warn!(%peer, %error, "a visitor's socket can't be used");
            return;
        }
    };
    match client.open(target.clone()).await {
        Ok(substream) => {
            add(&client.stats().visitors_served, 1);
            let spliced = splice(substream, local).await;
            add(&client.stats().bytes_to_services, spliced.to_peer);
            add(&client.stats().bytes_from_services, spliced.from_peer);
            match spliced.end {
                Ok(()) => {
                    tracing::debug!(%peer, %target, up = spliced.to_peer, down = spliced.from_peer, "stream finished")
                }
                Err(error) => tracing::info!(%peer, %target, %error, "stream broke"),
            }
        }
        Err(error) => {
            add(&client.stats().visitors_refused, 1);
            tracing::warn!(%peer, %target, code = error.code().name(), reason = %error, "visitor turned away");
            local.close_with_reset(true);
        }
    }
}
