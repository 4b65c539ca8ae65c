//! From somebody at the door to an admitted session, or to a conversation in one of the other languages.
//!
//! Up to the end of the handshake a peer has bounded time and bounded bytes, and one of a bounded number of places. Who
//! it is is asked once: of a session here, of HTTP with every request, because each can show another token. A peer that
//! asks for a certificate gets it and is sent to dial again: a connection has one identity from its first byte to its
//! last.

use std::{sync::Arc, time::Duration};

use reachback_link::{Admission, Established, PeerAddress, RawSocket, SessionEnd, greet_by, tls::TlsPeer};
use reachback_wire::{
    Code, Hello, ProtocolRange, Refusal, Role, SessionId, SessionLimits, Welcome, text::sanitize,
};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    auth::{Principal, Verdict, Visit},
    clock::unix_ms,
    connection,
    door::{self, Guest, Language, refuse},
    entry::Newcomer,
    flood::Entry,
    http,
    hub::Hub,
    limits,
    listen::ListenerRules,
    raw,
    registry::Presence,
    security,
    stats::count,
    takeover,
    workers::WorkerId,
};

/// Serves one connection of the tunnel port or the Unix socket, from its first byte to its last.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    worker: WorkerId,
    socket: RawSocket,
    peer: PeerAddress,
    rules: Arc<ListenerRules>,
) {
    count(&hub.stats.connections);
    // One deadline from the first byte to the welcome.
    let deadline = Instant::now() + limits::HANDSHAKE_TIMEOUT;
    // Boxed, as what follows is: each stage needs much, and none needs what the others do.
    let admitting = Box::pin(async {
        let entry = hub.flood.enter(socket, peer, &rules.proxy_from, deadline).await?;
        let Entry { transport, peer, mut place } = entry;
        let evicted = place.evicted();
        let entering = async {
            let guest = door::receive(&hub, worker, &rules, transport, &peer, &mut place, deadline).await?;
            if guest.language == Language::Tunnel {
                return admit(&hub, worker, guest, deadline).await.map(Box::new).map(Next::Session);
            }
            Some(Next::Talk(guest))
        };
        let next = tokio::select! {
            next = entering => next?,
            () = evicted => {
                tracing::debug!(%peer, "a connection that had been idle longest is closed for a newer one");
                return None;
            }
        };
        match &next {
            // With TLS a guest that only talks has shown nothing yet but that it is there.
            Next::Talk(_) if rules.mode.is_encrypted() => place.through(),
            Next::Talk(_) | Next::Session(_) => place.admitted(),
        }
        Some(next)
    });
    let admitted = tokio::select! {
        admitted = admitting => admitted,
        () = hub.stopping.cancelled() => None,
    };
    match admitted {
        None => {}
        Some(Next::Session(admitted)) => Box::pin(connection::serve(hub, admitted)).await,
        Some(Next::Talk(guest)) => Box::pin(talk(&hub, guest)).await,
    }
}

/// How somebody goes on who may.
enum Next {
    Session(Box<Admitted>),
    Talk(Guest),
}

/// A peer that has been let in, and everything known about it.
pub(crate) struct Admitted {
    pub(crate) established: Established,
    pub(crate) id: SessionId,
    pub(crate) who: Principal,
    pub(crate) peer: PeerAddress,
    /// What TLS says of it.
    pub(crate) tls: Option<Arc<TlsPeer>>,
    /// A node's place in the registry.
    pub(crate) presence: Option<Presence>,
}

/// Serves a connection that speaks HTTP or raw JSON.
async fn talk(hub: &Arc<Hub>, guest: Guest) {
    let Guest { language, transport, visit } = guest;
    let (_place, who) = match plain(hub, language, &visit) {
        Ok(let_in) => let_in,
        Err(refusal) => {
            count(&hub.stats.plain_refused);
            tracing::info!(peer = %visit.peer, %refusal, "an HTTP or raw JSON connection is refused");
            return refuse(transport, &language.says(&refusal)).await;
        }
    };
    match who {
        Some(who) => raw::serve(hub.clone(), transport, &visit.peer, who).await,
        None => http::serve(hub.clone(), transport, visit).await,
    }
}

/// A place for a conversation, and who leads it where that does not change from one request to the next.
fn plain<'a>(
    hub: &'a Hub,
    language: Language,
    visit: &Visit,
) -> Result<(SemaphorePermit<'a>, Option<Principal>), Refusal> {
    let who = match language {
        Language::Json => Some(hub.authenticator.admit_plain(visit, None)?),
        Language::Http | Language::Tunnel => None,
    };
    let place = hub.plain.try_acquire().map_err(|_| {
        Refusal::new(Code::Saturated, "too many HTTP and raw JSON connections; try again")
            .retry_after(limits::SATURATED_RETRY)
    })?;
    Ok((place, who))
}

/// The handshake of a tunnel connection, and what is decided in it.
async fn admit(hub: &Arc<Hub>, worker: WorkerId, guest: Guest, deadline: Instant) -> Option<Admitted> {
    let Guest { transport, visit, .. } = guest;
    let peer = &visit.peer;
    let admission = match greet_by(transport, ProtocolRange::SUPPORTED, deadline).await {
        Ok(admission) => admission,
        Err(error) => {
            failed(hub, peer, &error);
            return None;
        }
    };
    let id = hub.next_session();
    let (admission, who) = identify(hub, admission, &visit, deadline).await?;
    match place(hub, worker, &admission.hello, &who, peer, id).await {
        Ok(presence) => {
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
            Some(Admitted { established, id, who, peer: visit.peer, tls: visit.tls, presence })
        }
        Err(refusal) => {
            deny(hub, admission, peer, &refusal).await;
            None
        }
    }
}

/// Who it is, after whatever it had to prove; `None`: it was told no, or got a certificate to come back with.
async fn identify(
    hub: &Hub,
    admission: Admission,
    visit: &Visit,
    deadline: Instant,
) -> Option<(Admission, Principal)> {
    let peer = &visit.peer;
    match hub.authenticator.admit(&admission.hello, visit) {
        Ok(Verdict::Admit(who)) => Some((admission, who)),
        Ok(Verdict::Prove { secret, then }) => match admission.challenge(&secret).await {
            Ok(admission) => Some((admission, then)),
            Err(error) => {
                failed(hub, peer, &error);
                None
            }
        },
        Ok(Verdict::Enrol(making)) => {
            let made = timeout_at(deadline, making).await;
            let made = made.unwrap_or_else(|_| {
                Err(Refusal::new(Code::Timeout, "no certificate could be made in time; try again"))
            });
            match made {
                Ok(enrolled) => {
                    count(&hub.stats.enrolled);
                    let (id, role) = (admission.hello.id.clone(), admission.hello.role);
                    tracing::info!(%peer, %role, %id, name = %enrolled.name, "a certificate is given");
                    admission.enrolled(&enrolled).await;
                }
                Err(refusal) => deny(hub, admission, peer, &refusal).await,
            }
            None
        }
        Err(refusal) => {
            let Hello { role, id, .. } = &admission.hello;
            let entry = security::Entry::new("connect", &format!("{role} {id}")).from(&peer.to_string());
            hub.note_refused(entry, &refusal);
            deny(hub, admission, peer, &refusal).await;
            None
        }
    }
}

fn failed(hub: &Hub, peer: &PeerAddress, error: &dyn std::error::Error) {
    count(&hub.stats.handshakes_refused);
    tracing::info!(%peer, error = %sanitize(&error.to_string(), limits::TEXT), "a handshake failed");
}

async fn deny(hub: &Hub, admission: Admission, peer: &PeerAddress, refusal: &Refusal) {
    count(&hub.stats.handshakes_refused);
    tracing::info!(%peer, id = %admission.hello.id, %refusal, "a peer is denied");
    admission.deny(refusal).await;
}

/// A node's place in the registry, if it gets one; others need none.
async fn place(
    hub: &Arc<Hub>,
    worker: WorkerId,
    hello: &Hello,
    who: &Principal,
    peer: &PeerAddress,
    id: SessionId,
) -> Result<Option<Presence>, Refusal> {
    match who.role {
        Role::Node => {
            let newcomer = Newcomer {
                node: who.id.clone(),
                generation: hello.generation,
                session: id,
                peer: peer.to_string(),
                agent: sanitize(&hello.agent, limits::TEXT),
                worker,
                ephemeral: who.ephemeral,
            };
            takeover::claim(&hub.registry, newcomer).await.map(Some)
        }
        Role::Client => Ok(None),
        Role::Explorer => Err(Refusal::new(Code::Denied, "this version has no cluster; connect as a client")),
    }
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
        features: hub.compression.features(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_fleets_come_back_at_once_and_large_ones_five_hundred_a_second() {
        for (fleet, seconds) in [(0, 0.0), (50, 0.0), (51, 0.102), (500, 1.0), (10_000, 20.0)] {
            assert_eq!(reconnect_window(fleet).as_secs_f64(), seconds, "{fleet}");
        }
    }
}
