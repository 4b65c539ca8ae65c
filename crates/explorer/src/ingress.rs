//! From an accepted socket to an admitted session.
//!
//! One port takes every language: the tunnel, HTTP and raw JSON. A peer that may not come in, or speaks one that this
//! version does not, is told so in its own language, once, and closed, so that whoever typed the address into a browser
//! reads a sentence and not "connection reset". Up to the end of the handshake a peer has bounded time and bounded bytes, and one of a
//! bounded number of places.

use std::{sync::Arc, time::Duration};

use reachback_link::{
    Established, Greeting, PeerAddress, RawSocket, SessionEnd, SniffError, Transport, greet_by, sniff,
};
use reachback_wire::{
    Code, Hello, ProtocolRange, Refusal, Role, SessionId, SessionLimits, Welcome, text::sanitize,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::SemaphorePermit,
    time::{Instant, timeout},
};

use crate::{
    api::rpc, auth::Principal, clock::unix_ms, connection, entry::Newcomer, http, hub::Hub, limits, raw,
    registry::Presence, stats::count, takeover, workers::WorkerId,
};

/// Serves one connection of the tunnel port or the Unix socket, from its first byte to its last.
pub(crate) async fn serve(hub: Arc<Hub>, worker: WorkerId, socket: RawSocket, peer: PeerAddress) {
    count(&hub.stats.connections);
    // One deadline from the first byte to the welcome.
    let deadline = Instant::now() + limits::HANDSHAKE_TIMEOUT;
    // Boxed, as what follows is: each stage needs much, and none needs what the others do.
    let admitting = Box::pin(async {
        let Ok(_place) = hub.unadmitted.try_acquire() else {
            count(&hub.stats.connections_shed);
            tracing::warn!(%peer, "too many connections have not finished their handshake; this one is closed");
            return None;
        };
        let transport = socket
            .into_transport()
            .map_err(|error| tracing::warn!(%peer, %error, "the runtime can't take the connection"))
            .ok()?;
        match recognise(&hub, transport, &peer).await? {
            Language::Tunnel(transport) => {
                admit(&hub, worker, transport, &peer, deadline).await.map(Box::new).map(Guest::Session)
            }
            Language::Http(transport) => Some(Guest::Http(transport)),
            Language::Json(transport) => Some(Guest::Json(transport)),
        }
    });
    let admitted = tokio::select! {
        admitted = admitting => admitted,
        () = hub.stopping.cancelled() => None,
    };
    match admitted {
        None => {}
        Some(Guest::Session(admitted)) => Box::pin(connection::serve(hub, admitted)).await,
        Some(Guest::Http(transport)) => match plain(&hub, &peer) {
            Ok((who, _place)) => Box::pin(http::serve(hub.clone(), transport, peer, who)).await,
            Err(refusal) => Box::pin(refuse(transport, &http_refusal(refusal))).await,
        },
        Some(Guest::Json(transport)) => match plain(&hub, &peer) {
            Ok((who, _place)) => Box::pin(raw::serve(hub.clone(), transport, &peer, who)).await,
            Err(refusal) => Box::pin(refuse(transport, &json_rpc_refusal(refusal))).await,
        },
    }
}

/// Who goes on after the first bytes.
enum Guest {
    Session(Box<Admitted>),
    Http(Transport),
    Json(Transport),
}

/// What the first bytes are, where this version speaks it.
enum Language {
    Tunnel(Transport),
    Http(Transport),
    Json(Transport),
}

/// Lets a connection in that speaks HTTP or raw JSON.
fn plain<'a>(hub: &'a Hub, peer: &PeerAddress) -> Result<(Principal, SemaphorePermit<'a>), Refusal> {
    let admitted = hub.authenticator.admit_plain(peer).and_then(|who| match hub.plain.try_acquire() {
        Ok(place) => Ok((who, place)),
        Err(_) => Err(Refusal::new(Code::Saturated, "too many HTTP and raw JSON connections; try again")
            .retry_after(limits::SATURATED_RETRY)),
    });
    if let Err(refusal) = &admitted {
        count(&hub.stats.plain_refused);
        tracing::info!(%peer, %refusal, "an HTTP or raw JSON connection is refused");
    }
    admitted
}

/// A peer that has been let in, and everything known about it.
pub(crate) struct Admitted {
    pub(crate) established: Established,
    pub(crate) id: SessionId,
    pub(crate) who: Principal,
    pub(crate) peer: PeerAddress,
    /// A node's place in the registry.
    pub(crate) presence: Option<Presence>,
}

/// Finds out what a connection speaks; answers and closes it if that is nothing of ours.
async fn recognise(hub: &Hub, transport: Transport, peer: &PeerAddress) -> Option<Language> {
    let stats = &hub.stats;
    let (greeting, transport) = match sniff(transport).await {
        Ok(sniffed) => sniffed,
        Err(error) => {
            count(&stats.greetings_unknown);
            match &error {
                // Port checks connect and leave; that is no news.
                SniffError::Closed(_) => tracing::debug!(%peer, %error, "a connection said nothing"),
                SniffError::Timeout => tracing::info!(%peer, %error, "a connection is closed"),
            }
            return None;
        }
    };
    match greeting {
        Greeting::Tunnel => return Some(Language::Tunnel(transport)),
        Greeting::Http => {
            count(&stats.greetings_http);
            return Some(Language::Http(transport));
        }
        Greeting::JsonRpc => {
            count(&stats.greetings_json_rpc);
            return Some(Language::Json(transport));
        }
        Greeting::Tls => {
            count(&stats.greetings_tls);
            tracing::info!(%peer, "a connection spoke TLS and is refused: this version has none");
            refuse(transport, &TLS_REFUSAL).await;
        }
        Greeting::Unknown => {
            count(&stats.greetings_unknown);
            tracing::info!(%peer, "a connection spoke no language of this port and is closed");
            refuse(transport, &[]).await;
        }
    }
    None
}

/// The handshake of a tunnel connection, and what is decided in it.
async fn admit(
    hub: &Arc<Hub>,
    worker: WorkerId,
    transport: Transport,
    peer: &PeerAddress,
    deadline: Instant,
) -> Option<Admitted> {
    let admission = match greet_by(transport, ProtocolRange::SUPPORTED, deadline).await {
        Ok(admission) => admission,
        Err(error) => {
            count(&hub.stats.handshakes_refused);
            tracing::info!(%peer, error = %sanitize(&error.to_string(), limits::TEXT), "a handshake failed");
            return None;
        }
    };
    let id = hub.next_session();
    match judge(hub, worker, &admission.hello, peer, id).await {
        Ok((who, presence)) => {
            let welcome = welcome(hub, id, who.role);
            let established = match admission.welcome(&welcome).await {
                Ok(established) => established,
                Err(error) => {
                    count(&hub.stats.handshakes_refused);
                    tracing::info!(%peer, id = %who.id, %error, "a peer left before it was welcomed");
                    if let Some(presence) = presence {
                        presence
                            .ended(&SessionEnd::new(Code::HandshakeFailed, "it left before it was welcomed"));
                    }
                    return None;
                }
            };
            let sessions =
                if presence.is_some() { &hub.stats.node_sessions } else { &hub.stats.client_sessions };
            count(sessions);
            Some(Admitted { established, id, who, peer: peer.clone(), presence })
        }
        Err(refusal) => {
            count(&hub.stats.handshakes_refused);
            tracing::info!(%peer, id = %admission.hello.id, %refusal, "a peer is denied");
            admission.deny(&refusal).await;
            None
        }
    }
}

async fn judge(
    hub: &Arc<Hub>,
    worker: WorkerId,
    hello: &Hello,
    peer: &PeerAddress,
    id: SessionId,
) -> Result<(Principal, Option<Presence>), Refusal> {
    let who = hub.authenticator.admit(hello, peer)?;
    let presence = match who.role {
        Role::Node => {
            let newcomer = Newcomer {
                node: who.id.clone(),
                generation: hello.generation,
                session: id,
                peer: peer.to_string(),
                agent: sanitize(&hello.agent, limits::TEXT),
                worker,
            };
            Some(takeover::claim(&hub.registry, newcomer).await?)
        }
        Role::Client => None,
        Role::Explorer => {
            return Err(Refusal::new(Code::Denied, "this version has no cluster; connect as a client"));
        }
    };
    Ok((who, presence))
}

fn welcome(hub: &Hub, session: SessionId, role: Role) -> Welcome {
    let max_substreams = match role {
        Role::Node => limits::SUBSTREAMS_FROM_NODE,
        Role::Client | Role::Explorer => limits::SUBSTREAMS_FROM_CLIENT,
    };
    Welcome {
        explorer: hub.id.clone(),
        session,
        heartbeat_ms: millis(hub.heartbeat),
        time_unix_ms: unix_ms(),
        limits: SessionLimits { max_substreams },
        features: Vec::new(),
        siblings: Vec::new(),
        reconnect_window_ms: millis(reconnect_window(hub.registry.fleet())),
        resume: None,
    }
}

/// Over what time a fleet of this size should come back after it lost this explorer.
fn reconnect_window(fleet: usize) -> Duration {
    if fleet <= limits::SMALL_FLEET {
        return Duration::ZERO;
    }
    Duration::from_millis((fleet * 1_000 / limits::RETURNS_PER_SECOND) as u64)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Says no and closes. The rest of what the peer sends is read first, within limits: closing over unread bytes would
/// reset the connection, and the reset can overtake the answer.
async fn refuse(mut transport: Transport, answer: &[u8]) {
    let goodbye = async {
        transport.write_all(answer).await?;
        transport.shutdown().await?;
        let mut left = limits::LINGER_BYTES;
        let mut scrap = [0; 1024];
        while left > 0 {
            match transport.read(&mut scrap).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        std::io::Result::Ok(())
    };
    match timeout(limits::LINGER, goodbye).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a refused peer was gone before it was told"),
    }
}

fn http_refusal(refusal: Refusal) -> Vec<u8> {
    let (status, body) = rpc::refused(&[], refusal);
    let head = format!(
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

fn json_rpc_refusal(refusal: Refusal) -> Vec<u8> {
    let (_, mut body) = rpc::refused(&[], refusal);
    body.push(b'\n');
    body
}

/// A TLS record (21 alert, version 3.3, two bytes) with a fatal alert (2), handshake_failure (40).
const TLS_REFUSAL: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_fleets_come_back_at_once_and_large_ones_five_hundred_a_second() {
        for (fleet, seconds) in [(0, 0.0), (50, 0.0), (51, 0.102), (500, 1.0), (10_000, 20.0)] {
            assert_eq!(reconnect_window(fleet).as_secs_f64(), seconds, "{fleet}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_peer_that_never_stops_talking_is_cut_off() {
        let (near, mut far) = Transport::memory_pair(1024);
        let talking = async {
            let mut sent = 0;
            while far.write_all(&[b'x'; 1024]).await.is_ok() {
                sent += 1024;
            }
            sent
        };
        let (sent, ()) = tokio::join!(talking, refuse(near, b"no\n"));
        assert!(sent <= limits::LINGER_BYTES + 4096, "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_peer_that_says_nothing_more_is_cut_off_too() {
        let (near, far) = Transport::memory_pair(1024);
        let begun = tokio::time::Instant::now();
        refuse(near, b"no\n").await;
        assert_eq!(begun.elapsed(), limits::LINGER);
        drop(far);
    }
}
