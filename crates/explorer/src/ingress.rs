//! From an accepted socket to an admitted session.
//!
//! One port takes every language and, in this version, speaks one of them: the tunnel. A peer that speaks another is
//! told so in its own language, once, and closed, so that whoever typed the address into a browser reads a sentence
//! and not "connection reset". Up to the end of the handshake a peer has bounded time and bounded bytes, and one of a
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
    time::{Instant, timeout},
};

use crate::{
    auth::Principal, clock::unix_ms, connection, entry::Newcomer, hub::Hub, limits, registry::Presence,
    stats::count, takeover,
};

/// Serves one connection of the tunnel port or the Unix socket, from its first byte to its last.
pub(crate) async fn serve(hub: Arc<Hub>, socket: RawSocket, peer: PeerAddress) {
    count(&hub.stats.connections);
    // One deadline from the first byte to the welcome.
    let deadline = Instant::now() + limits::HANDSHAKE_TIMEOUT;
    let admitting = async {
        let Ok(_place) = hub.unadmitted.try_acquire() else {
            count(&hub.stats.connections_shed);
            tracing::warn!(%peer, "too many connections have not finished their handshake; this one is closed");
            return None;
        };
        let transport = socket
            .into_transport()
            .map_err(|error| tracing::warn!(%peer, %error, "the runtime can't take the connection"))
            .ok()?;
        let transport = recognise(&hub, transport, &peer).await?;
        admit(&hub, transport, &peer, deadline).await
    };
    let admitted = tokio::select! {
        admitted = admitting => admitted,
        () = hub.stopping.cancelled() => None,
    };
    if let Some(admitted) = admitted {
        connection::serve(hub, admitted).await;
    }
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

/// Gives the transport on if it speaks the tunnel; answers and closes it if not.
async fn recognise(hub: &Hub, transport: Transport, peer: &PeerAddress) -> Option<Transport> {
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
    let (counter, language, answer) = match greeting {
        Greeting::Tunnel => return Some(transport),
        Greeting::Http => (&stats.greetings_http, "HTTP", http_refusal()),
        Greeting::JsonRpc => (&stats.greetings_json_rpc, "raw JSON-RPC", json_rpc_refusal()),
        Greeting::Tls => (&stats.greetings_tls, "TLS", TLS_REFUSAL.to_vec()),
        Greeting::Unknown => (&stats.greetings_unknown, "no language of this port", Vec::new()),
    };
    count(counter);
    tracing::info!(%peer, "a connection spoke {language} and is refused: this version has only the tunnel");
    refuse(transport, &answer).await;
    None
}

/// The handshake of a tunnel connection, and what is decided in it.
async fn admit(
    hub: &Arc<Hub>,
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
    match judge(hub, &admission.hello, peer, id).await {
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

const ONLY_TUNNEL: &str = "this port speaks the Reachback tunnel; its HTTP and JSON-RPC interfaces are not in this version. \
                           Use the command line: reachback nodes --explorer ADDRESS";

fn http_refusal() -> Vec<u8> {
    format!(
        "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{ONLY_TUNNEL}\n",
        ONLY_TUNNEL.len() + 1
    )
    .into_bytes()
}

fn json_rpc_refusal() -> Vec<u8> {
    let refusal = serde_json::json!({
        "jsonrpc": "2.0",
        "error": { "code": Code::Denied.row().jsonrpc, "message": ONLY_TUNNEL, "data": { "code": Code::Denied.name() } },
        "id": null,
    });
    format!("{refusal}\n").into_bytes()
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
