//! What ends somebody's stay before they leave: their credential is revoked, or the token they came with is over.
//!
//! Identity is decided once, at the door; whoever is in stays until something here says otherwise. So a session, and a
//! request that is being answered, holds a leash: a wait that ends, with the words for both ends, when the principal
//! may no longer be here. A certificate that runs out ends nothing: it is renewed over the very session that it opened.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Body as _;
use parking_lot::Mutex;
use reachback_wire::{Refusal, SessionId};
use tokio::time::{Duration, sleep};

use crate::{
    auth::Principal,
    clock::unix_ms,
    http::Body,
    hub::Hub,
    limits,
    security::{CredentialId, Security},
};

/// Who of those whose stay can end is in with a session, so that an operator can be told whom a revocation reached.
#[derive(Default)]
pub(crate) struct Present(Arc<Mutex<BTreeMap<SessionId, Principal>>>);

/// Somebody's place among them; given up on drop.
pub(crate) struct Place {
    present: Arc<Mutex<BTreeMap<SessionId, Principal>>>,
    session: SessionId,
}

impl Present {
    /// A session begins. `None`: nothing can end its stay.
    pub(crate) fn enter(&self, session: SessionId, who: &Principal) -> Option<Place> {
        if who.credential == CredentialId::Believed {
            return None;
        }
        self.0.lock().insert(session, who.clone());
        Some(Place { present: self.0.clone(), session })
    }

    /// All of them, as they are now.
    pub(crate) fn all(&self) -> Vec<Principal> {
        self.0.lock().values().cloned().collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.present.lock().remove(&self.session);
    }
}

/// The hold that an explorer keeps on somebody who is in.
#[derive(Clone)]
pub(crate) struct Leash {
    security: Option<Arc<Security>>,
    who: Principal,
}

impl Leash {
    pub(crate) fn of(hub: &Hub, who: &Principal) -> Self {
        Self { security: hub.security().cloned(), who: who.clone() }
    }

    /// The body of an answer, which breaks off when the leash is pulled. What nothing can pull stays as it is.
    pub(crate) fn hold(self, mut body: Body) -> Body {
        if self.security.is_none() || self.who.credential == CredentialId::Believed {
            return body;
        }
        let mut pulled = Box::pin(async move { self.pulled().await });
        let frames = stream::poll_fn(move |cx| match pulled.as_mut().poll(cx) {
            Poll::Ready(refusal) => Poll::Ready(Some(Err(refusal))),
            Poll::Pending => Pin::new(&mut body).poll_frame(cx),
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// Waits until the principal may no longer be here, and says why. For ever, if nothing can end its stay.
    pub(crate) async fn pulled(&self) -> Refusal {
        tokio::select! {
            refusal = self.revoked() => refusal,
            refusal = self.over() => refusal,
        }
    }

    async fn revoked(&self) -> Refusal {
        let Some(security) = &self.security else { return pending().await };
        let mut revocations = security.subscribe_revocations();
        loop {
            // What was revoked between the door and here is seen at once.
            revocations.mark_unchanged();
            if let Err(refusal) = security.still_good(&self.who) {
                return refusal;
            }
            if revocations.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// A token ends by the wall clock, which may be set meanwhile: so it is looked at again before the time seems over.
    async fn over(&self) -> Refusal {
        let (CredentialId::Token { .. }, Some(until), Some(security)) =
            (&self.who.credential, self.who.expires_unix_ms, &self.security)
        else {
            return pending().await;
        };
        loop {
            let left = Duration::from_millis(until.saturating_sub(unix_ms())) + limits::TOKEN_LEEWAY;
            sleep(left.min(LOOK)).await;
            if let Err(refusal) = security.still_good(&self.who) {
                return refusal;
            }
        }
    }
}

/// How far a wait trusts the wall clock: a clock that is set forward ends a token at most this much later.
const LOOK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use reachback_wire::{Code, Role, rights::Rights};
    use tokio::time::timeout;

    use super::*;
    use crate::security::{Actor, SecurityConfig, TokenRequest, TokenRole, WallClock};

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_over_ends_the_stay_that_it_began() {
        let state = tempfile::tempdir().unwrap();
        let date = Arc::new(AtomicU64::new(unix_ms()));
        let mut config = SecurityConfig::new("hub-1".parse().unwrap());
        let told = date.clone();
        config.clock = WallClock::new(move || told.load(Ordering::Relaxed));
        let security = Arc::new(Security::open(state.path(), config).unwrap());
        let request = TokenRequest {
            role: TokenRole::User,
            name: Some("ann".parse().unwrap()),
            node: None,
            allow: Rights::everything(),
            ttl: Duration::from_secs(10),
            uses: None,
            ephemeral: false,
        };
        let made = security.create_token(&request, &Actor::new("a test", "here")).unwrap();
        let who = security.admit_token(&made.token, Role::Client, &"laptop".parse().unwrap(), None).unwrap();
        let leash = Leash { security: Some(security.clone()), who };
        let mut pulled = std::pin::pin!(leash.pulled());
        assert!(timeout(LOOK * 3, &mut pulled).await.is_err(), "its clock stands still: it is not over");
        date.fetch_add(80_000, Ordering::Relaxed);
        let refusal = timeout(LOOK * 2, &mut pulled).await.expect("it is over");
        assert!(refusal.code == Code::Expired && refusal.message.contains("ann"), "{refusal}");

        let who = Principal::believed(Role::Client, "laptop".parse().unwrap());
        let believed = Leash { security: Some(security), who };
        assert!(timeout(LOOK * 3, believed.pulled()).await.is_err(), "nothing can end it");
    }
}
