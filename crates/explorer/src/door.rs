//! The door: from an accepted socket to somebody who speaks a language of this port, in the way its listener allows.
//!
//! One port takes every language: TLS with any of the others inside, the tunnel, HTTP and raw JSON. What comes over TLS
//! must speak what it agreed to in the TLS handshake. A peer that may not come in is told so in its own language, once,
//! and closed, so that whoever typed the address into a browser reads a sentence and not "connection reset".

use reachback_link::{
    Greeting, PeerAddress, SniffError, Transport, sniff,
    tls::{AcceptTlsError, Alpn},
};
use reachback_wire::{Code, Refusal, handshake, text::sanitize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::{
    api::rpc, auth::Visit, flood::Place, hub::Hub, limits, listen::ListenerRules, modes::Mode, stats::count,
    workers::WorkerId,
};

/// Somebody who speaks a language of this port, before anything was decided about them.
pub(crate) struct Guest {
    pub(crate) language: Language,
    pub(crate) transport: Transport,
    pub(crate) visit: Visit,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Tunnel,
    Http,
    Json,
}

/// Finds out what a connection speaks, through TLS where the listener wants it; answers and closes it if that is
/// nothing of ours, or not allowed here.
pub(crate) async fn receive(
    hub: &Hub,
    worker: WorkerId,
    rules: &ListenerRules,
    transport: Transport,
    peer: &PeerAddress,
    place: &mut Place,
    deadline: Instant,
) -> Option<Guest> {
    let (greeting, mut transport) = greeting(hub, transport, peer).await?;
    place.progress();
    let outside = (!rules.allows(peer)).then(|| not_allowed(peer));
    let mut visit = Visit { peer: peer.clone(), mode: rules.mode, tls: None };
    if greeting == Greeting::Tls {
        count(&hub.stats.greetings_tls);
        let Some(keys) = hub.keys.as_ref().filter(|_| rules.mode.is_encrypted() && outside.is_none()) else {
            count(&hub.stats.tls_refused);
            let why = if outside.is_some() { "its address is not allowed" } else { "this listener has none" };
            tracing::info!(%peer, "a connection spoke TLS and is refused: {why}");
            let alert = if outside.is_some() { ACCESS_DENIED } else { HANDSHAKE_FAILURE };
            refuse(transport, &[21, 3, 3, 0, 2, 2, alert]).await;
            return None;
        };
        transport = match keys.accept.accept(transport, hub.tls_places(worker), deadline).await {
            Ok(transport) => transport,
            Err(error) => {
                count(&hub.stats.tls_refused);
                say_failed(peer, &error);
                return None;
            }
        };
        count(&hub.stats.tls_handshakes);
        place.progress();
        visit.tls = transport.tls().cloned();
        let (within, transport) = self::greeting(hub, transport, peer).await?;
        let language = language(hub, within, peer);
        return match language {
            Some(language) => agreed(hub, language, transport, visit).await,
            None => {
                refuse(transport, &[]).await;
                None
            }
        };
    }
    let Some(language) = language(hub, greeting, peer) else {
        refuse(transport, &[]).await;
        return None;
    };
    let refusal = match outside {
        Some(refusal) => refusal,
        None if rules.mode.is_encrypted() => plaintext(rules.mode),
        None => return Some(Guest { language, transport, visit }),
    };
    count(if refusal.code == Code::PlaintextRejected {
        &hub.stats.plaintext_refused
    } else {
        &hub.stats.outside_refused
    });
    tracing::info!(%peer, %refusal, "a connection is refused");
    refuse(transport, &language.says(&refusal)).await;
    None
}

impl Language {
    /// A refusal as this language says it.
    pub(crate) fn says(self, refusal: &Refusal) -> Vec<u8> {
        match self {
            Self::Tunnel => handshake::deny(refusal),
            Self::Http => {
                let upgrade = match refusal.code.row().http {
                    // RFC 9110 15.5.22: it says to what.
                    426 => "Upgrade: TLS/1.3\r\n",
                    401 => "WWW-Authenticate: Bearer\r\n",
                    _ => "",
                };
                let (status, body) = rpc::refused(&[], refusal.clone());
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{upgrade}\
                     Connection: close\r\n\r\n"
                );
                [head.into_bytes(), body].concat()
            }
            Self::Json => {
                let (_, mut body) = rpc::refused(&[], refusal.clone());
                body.push(b'\n');
                body
            }
        }
    }
}

/// Says no and closes. The rest of what the peer sends is read first, within limits: closing over unread bytes would
/// reset the connection, and the reset can overtake the answer.
pub(crate) async fn refuse(mut transport: Transport, answer: &[u8]) {
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

/// The first bytes, put back.
async fn greeting(hub: &Hub, transport: Transport, peer: &PeerAddress) -> Option<(Greeting, Transport)> {
    match sniff(transport).await {
        Ok(sniffed) => Some(sniffed),
        Err(error) => {
            count(&hub.stats.greetings_unknown);
            match &error {
                // Port checks connect and leave; that is no news.
                SniffError::Closed(_) => tracing::debug!(%peer, %error, "a connection said nothing"),
                SniffError::Timeout => tracing::info!(%peer, %error, "a connection is closed"),
            }
            None
        }
    }
}

fn language(hub: &Hub, greeting: Greeting, peer: &PeerAddress) -> Option<Language> {
    match greeting {
        Greeting::Tunnel => Some(Language::Tunnel),
        Greeting::Http => {
            count(&hub.stats.greetings_http);
            Some(Language::Http)
        }
        Greeting::JsonRpc => {
            count(&hub.stats.greetings_json_rpc);
            Some(Language::Json)
        }
        Greeting::Tls | Greeting::Unknown => {
            count(&hub.stats.greetings_unknown);
            tracing::info!(%peer, "a connection spoke no language of this port and is closed");
            None
        }
    }
}

/// What is spoken inside TLS must be what was agreed on outside: a request that was smuggled into a tunnel's
/// connection would come with the tunnel's certificate.
async fn agreed(hub: &Hub, language: Language, transport: Transport, visit: Visit) -> Option<Guest> {
    let alpn = visit.tls.as_ref().map(|tls| tls.alpn);
    let refusal = match (language, alpn) {
        (Language::Tunnel, Some(Alpn::Tunnel)) | (Language::Http, Some(Alpn::Web)) => {
            return Some(Guest { language, transport, visit });
        }
        (Language::Json, Some(Alpn::Web)) => Refusal::new(
            Code::Unauthenticated,
            "raw JSON can't say who asks, so it is taken on the local socket and on listeners without TLS only; use HTTP \
             with the header Authorization: Bearer TOKEN",
        ),
        (Language::Tunnel, _) => Refusal::new(
            Code::HandshakeFailed,
            "the tunnel was not agreed on in the TLS handshake; offer the protocol reachback/1 there (ALPN)",
        ),
        (Language::Http | Language::Json, _) => Refusal::new(
            Code::HandshakeFailed,
            "the TLS handshake agreed on the protocol reachback/1, and this is another one; offer http/1.1 or nothing",
        ),
    };
    count(&hub.stats.plain_refused);
    tracing::info!(peer = %visit.peer, %refusal, "a connection over TLS is refused");
    refuse(transport, &language.says(&refusal)).await;
    None
}

fn plaintext(mode: Mode) -> Refusal {
    let message = format!(
        "this listener is {mode} and speaks TLS only; nothing was done. Connect with TLS: a join string and reachback \
         login see to it, and a URL begins with https://"
    );
    Refusal::new(Code::PlaintextRejected, message)
}

fn not_allowed(peer: &PeerAddress) -> Refusal {
    let message = format!("{peer} is not among the addresses that may connect to this listener (allow)");
    Refusal::new(Code::Denied, message)
}

fn say_failed(peer: &PeerAddress, error: &AcceptTlsError) {
    let error = sanitize(&error.to_string(), limits::TEXT);
    tracing::info!(%peer, %error, "a TLS handshake failed");
}

/// RFC 8446 6.2: no agreement on parameters, and a valid peer that is not let in.
const HANDSHAKE_FAILURE: u8 = 40;
const ACCESS_DENIED: u8 = 49;

#[cfg(test)]
mod tests {
    use super::*;

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
