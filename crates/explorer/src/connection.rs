//! The life of one admitted connection.
//!
//! Four things run side by side until the session ends: the driver (heartbeats, the mux) in a task of its own, so that
//! nothing here can delay it; the substreams the peer opens, each a task of its own; for a node the line to the
//! registry; and the wish of the explorer to stop. However it ends, the registry learns why, and only then is the
//! place given up.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::pending,
    sync::{Arc, OnceLock},
};

use reachback_link::{
    Inbound, InboundError, Incoming, PeerAddress, Session, SessionConfig, SessionEnd, relay_until, session,
};
use reachback_wire::{
    Code, OpenKind, Refusal, SessionId, Target,
    limits::CLOSE_FLUSH,
    open::{Caller, Open},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::{self, authorise, subject},
    api,
    auth::Principal,
    direct,
    hub::Hub,
    ingress::Admitted,
    leash::Leash,
    limits,
    line::Line,
    renewal::Renewals,
    route::no_own_service,
    security::Entry,
    stats::count,
    worker::note,
};

/// Serves an admitted peer until its session ends.
pub(crate) async fn serve(hub: Arc<Hub>, admitted: Box<Admitted>) {
    let Standing { id, opener, session, incoming, mut driving, mut line } = stand(&hub, admitted);
    let _place = hub.present.enter(id, &opener.who);
    // As long as it is held, nobody else takes an id that others may take.
    let _attendance = hub.security().map(|security| security.attend(&opener.who));
    let mut substreams = JoinSet::new();
    let end = {
        let serving = serve_inbound(&hub, &opener, &session, incoming, &mut substreams);
        let stopping = async {
            hub.stopping.cancelled().await;
            session.close(Code::Draining, "the explorer is stopping");
        };
        let leash = Leash::of(&hub, &opener.who);
        let pulled = async {
            let refusal = leash.pulled().await;
            count(&hub.stats.cut);
            cut(&session, &opener, refusal).await;
        };
        let beside = async {
            tokio::join!(serving, line.run(), stopping, pulled);
            pending::<Infallible>().await
        };
        // Only the driver knows when it is over, and why.
        tokio::select! {
            end = driven(&mut driving) => end,
            never = beside => match never {},
        }
    };
    tracing::info!(session = %id, id = %opener.who.id, code = end.code.name(), "disconnected: {end}");
    line.ended(&end);
    // What was under way has ended with the session; each task now tells its other side.
    let goodbyes = async {
        while let Some(done) = substreams.join_next().await {
            note(&hub, done);
        }
    };
    if timeout(CLOSE_FLUSH, goodbyes).await.is_err() {
        substreams.shutdown().await;
    }
}

/// A session that stands, and what belongs to it.
struct Standing {
    id: SessionId,
    opener: Arc<Opener>,
    session: Session,
    incoming: Incoming,
    driving: JoinSet<SessionEnd>,
    line: Line,
}

/// Begins the session. Not part of [`serve`], whose task would keep the room for everything that is only needed here.
fn stand(hub: &Hub, admitted: Box<Admitted>) -> Standing {
    let Admitted { established, id, who, peer, tls, presence } = *admitted;
    tracing::info!(session = %id, role = ?who.role, id = %who.id, %peer, "connected");
    let config = SessionConfig {
        side: established.side,
        heartbeat: hub.heartbeat,
        max_open: limits::SUBSTREAMS_FROM_CLIENT,
        stats: hub.link_stats.clone(),
        budget: hub.budget.clone(),
        congestion: hub.congestion.clone(),
        compression: hub.compression.with_peer(&established.hello.features),
        rules: hub.rules,
    };
    let (session, incoming, control, driver) = session(established.transport, config);
    let mut driving = JoinSet::new();
    driving.spawn(driver);
    let caller = access::caller(&who, Some(id), peer.to_string());
    let line = Line::new(presence, control, session.clone(), Renewals::new(hub.security(), tls, &peer));
    let opener = Arc::new(Opener { caller, who, peer, cut: Cut::default() });
    Standing { id, opener, session, incoming, driving, line }
}

/// Who opens substreams on this connection.
struct Opener {
    who: Principal,
    caller: Caller,
    peer: PeerAddress,
    cut: Cut,
}

/// The end of everything that an opener has under way, before it ends by itself.
#[derive(Default)]
struct Cut {
    now: CancellationToken,
    why: OnceLock<Refusal>,
}

impl Cut {
    fn begin(&self, why: Refusal) {
        // The first reason stands.
        let _ = self.why.set(why);
        self.now.cancel();
    }

    /// Ready once it has begun, with the reason.
    async fn begun(&self) -> Refusal {
        self.now.cancelled().await;
        self.why.get().cloned().unwrap_or_else(|| Refusal::new(Code::Revoked, "the session was cut"))
    }
}

/// Ends what the opener has under way, with the reason at both ends, and then its session.
async fn cut(session: &Session, opener: &Opener, refusal: Refusal) {
    tracing::warn!(id = %opener.who.id, %refusal, "a session is cut");
    opener.cut.begin(refusal.clone());
    let ending = async {
        while session.substreams() > 0 {
            sleep(limits::CUT_LOOK).await;
        }
    };
    // What does not end by then ends with the session.
    drop(timeout(limits::CUT_GRACE, ending).await);
    session.close(refusal.code, &refusal.message);
}

/// What became of one inbound substream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Served,
    Refused,
    /// Reset by its opener before the reply.
    TakenBack,
}

async fn driven(driver: &mut JoinSet<SessionEnd>) -> SessionEnd {
    match driver.join_next().await {
        Some(Ok(end)) => end,
        Some(Err(error)) => {
            tracing::error!(%error, "a session's driver panicked");
            SessionEnd::new(Code::Internal, "an error in the explorer ended the session")
        }
        None => SessionEnd::new(Code::Internal, "the session was not driven"),
    }
}

/// Serves every substream the peer opens, and ends the session of a peer that only opens to take back.
async fn serve_inbound(
    hub: &Arc<Hub>,
    opener: &Arc<Opener>,
    session: &Session,
    mut incoming: Incoming,
    substreams: &mut JoinSet<Outcome>,
) {
    let mut taken_back = RecentResets::default();
    loop {
        tokio::select! {
            inbound = incoming.next() => match inbound {
                Some(inbound) => { substreams.spawn(serve_one(hub.clone(), opener.clone(), inbound)); }
                None => return,
            },
            Some(done) = substreams.join_next() => {
                if note(hub, done) == Some(Outcome::TakenBack) && taken_back.too_many(Instant::now()) {
                    count(&hub.stats.rapid_resets);
                    tracing::warn!(id = %opener.who.id, "a peer opens substreams only to reset them; its session is ended");
                    let message = format!(
                        "more than {} opens were taken back within {} s",
                        limits::RAPID_RESETS,
                        limits::RAPID_RESET_WINDOW.as_secs()
                    );
                    session.close(Code::RateLimited, &message);
                    return;
                }
            }
        }
    }
}

async fn serve_one(hub: Arc<Hub>, opener: Arc<Opener>, mut inbound: Inbound) -> Outcome {
    let open = match inbound.open().await {
        Ok(open) => open,
        Err(error) => {
            if !matches!(error, InboundError::Gone(_)) {
                count(&hub.stats.opens_refused);
            }
            return outcome(&opener, None, Err(error));
        }
    };
    let target = open.target.clone();
    let Opener { who, caller, peer, .. } = &*opener;
    let allowed = authorise(who, caller, &open, &hub.registry)
        .inspect_err(|refusal| {
            let to = target.as_ref().map_or("no target".to_owned(), ToString::to_string);
            let entry = Entry::new("open", &to).by(&subject(who)).from(&peer.to_string());
            hub.note_refused(entry, refusal);
        })
        .and_then(|allowed| supported(&open).map(|()| allowed));
    let allowed = allowed.and_then(|allowed| match &target {
        // Each of its requests is counted where it is read.
        Some(Target::Explorer { .. }) => Ok(allowed),
        _ => hub.rates.admit(who, target.as_ref()).map(|()| allowed),
    });
    let allowed = match allowed {
        Ok(allowed) => allowed,
        Err(refusal) => {
            count(&hub.stats.opens_refused);
            inbound.refuse(refusal.clone()).await;
            return outcome(&opener, target.as_ref(), Err(InboundError::Refused(refusal)));
        }
    };
    let served = match &target {
        // Boxed: what a call or a beginning needs is many times what an idle stream keeps.
        Some(Target::Explorer { .. }) => Box::pin(api::serve(&hub, inbound, &open, who, caller, peer)).await,
        // It has to be read before anything of it reaches the service.
        Some(_) if allowed.by_method => Box::pin(api::serve(&hub, inbound, &open, who, caller, peer)).await,
        Some(target) if let Some(node) = direct::find(&hub, target) => match open.kind {
            OpenKind::Call => Box::pin(api::serve(&hub, inbound, &open, who, caller, peer)).await,
            OpenKind::Stream | OpenKind::Control => {
                Box::pin(direct::serve(&hub, inbound, &node, target, &open)).await
            }
        },
        Some(Target::Service { .. } | Target::Dial { .. }) | None => {
            let ending = ending(&opener, &open, allowed.until);
            let caller = Caller { granted: allowed.until.is_some(), ..caller.clone() };
            match Box::pin(inbound.answer(hub.router.open(open, caller))).await {
                Ok((from, to)) => {
                    let relayed = relay_until(from, to, ending).await;
                    tracing::debug!(id = %who.id, target = ?target.as_ref().map(ToString::to_string),
                        to_service = relayed.to_peer, from_service = relayed.from_peer, end = ?relayed.end, "a stream ended");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
    };
    outcome(&opener, target.as_ref(), served)
}

/// Ready when what was opened has to end although nobody at its two ends has ended it, with what they are told then: a
/// call that its node should long have ended, what a grant let through that is over, and everything of an opener that
/// is cut. A stream that needed no grant has no limit of its own.
fn ending(
    opener: &Arc<Opener>,
    open: &Open,
    granted_until: Option<Instant>,
) -> impl Future<Output = Refusal> + use<> {
    let overdue = (open.kind == OpenKind::Call).then(|| {
        let limit = open.deadline().unwrap_or(limits::OPEN_TIMEOUT).min(limits::OPEN_DEADLINE_MAX);
        Instant::now() + limit + limits::CALL_GRACE
    });
    let first = [overdue, granted_until].into_iter().flatten().min();
    let opener = opener.clone();
    async move {
        let time_is_up = async {
            match first {
                Some(first) => sleep_until(first).await,
                None => pending().await,
            }
        };
        tokio::select! {
            refusal = opener.cut.begun() => refusal,
            () = time_is_up => match granted_until {
                Some(until) if Some(until) == first => Refusal::new(
                    Code::Expired,
                    "the node's grant for this is over; whoever runs the node can give another one: reachback grant",
                ),
                _ => Refusal::new(
                    Code::Timeout,
                    "neither the service nor its node answered within the deadline of the call",
                ),
            },
        }
    }
}

/// What this version can't do for anyone.
fn supported(open: &Open) -> Result<(), Refusal> {
    match (&open.kind, &open.target) {
        (OpenKind::Control, _) => Err(Refusal::new(
            Code::BadFrame,
            "control is the first substream of the dialer, and there is only one",
        )),
        (_, Some(Target::Explorer { service })) if service.as_ref() != "api" => Err(no_own_service(service)),
        (OpenKind::Stream, Some(Target::Explorer { .. })) => Err(Refusal::new(
            Code::BadFrame,
            "@explorer/api takes calls, not streams; open it with kind \"call\"",
        )),
        (OpenKind::Stream | OpenKind::Call, Some(_)) => Ok(()),
        (OpenKind::Stream | OpenKind::Call, None) => {
            Err(Refusal::new(Code::BadFrame, "this kind of open needs a target, as in edge-7/rpc"))
        }
    }
}

fn outcome(opener: &Opener, target: Option<&Target>, served: Result<(), InboundError>) -> Outcome {
    let target = target.map(ToString::to_string);
    match served {
        Ok(()) => Outcome::Served,
        Err(InboundError::Gone(end)) => {
            tracing::debug!(id = %opener.who.id, ?target, %end, "an opener did not wait for the reply");
            Outcome::TakenBack
        }
        Err(error @ (InboundError::Timeout | InboundError::Protocol(_) | InboundError::Refused(_))) => {
            tracing::info!(id = %opener.who.id, ?target, %error, "an open is refused");
            Outcome::Refused
        }
    }
}

/// Counts what happened within the last [`limits::RAPID_RESET_WINDOW`], no further than it has to.
#[derive(Debug, Default)]
struct RecentResets {
    at: VecDeque<Instant>,
}

impl RecentResets {
    /// Notes one and says whether there were too many.
    fn too_many(&mut self, now: Instant) -> bool {
        while self.at.front().is_some_and(|then| now - *then >= limits::RAPID_RESET_WINDOW) {
            self.at.pop_front();
        }
        self.at.push_back(now);
        self.at.len() > limits::RAPID_RESETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn resets_count_only_while_they_are_recent() {
        let mut resets = RecentResets::default();
        for _ in 0..limits::RAPID_RESETS {
            assert!(!resets.too_many(Instant::now()));
        }
        tokio::time::advance(limits::RAPID_RESET_WINDOW).await;
        for _ in 0..limits::RAPID_RESETS {
            assert!(!resets.too_many(Instant::now()));
        }
        assert!(resets.too_many(Instant::now()));
    }
}
