//! A certificate is renewed over the session that it brought about, half way through its life, so that nobody notices.
//!
//! Half of a life is left for everything that can go wrong with it. When to ask is counted on the explorer's clock, which
//! is the one that will judge the certificate; the machine's own may be anywhere.

use std::time::Duration;

use reachback_link::Session;
use reachback_wire::{ControlMessage, Refusal, Renew, Renewed, Welcome};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    limits::{RENEWAL_ANSWER, RENEWAL_LEAST, RENEWAL_PAUSE},
    membership::Membership,
};

/// What an explorer answers to a request.
pub type Answer = Result<Renewed, Refusal>;

/// Keeps the certificate of a membership fresh for as long as a session lives. `answers` is what the explorer says on
/// control; `welcome` came at `since`. Returns when the session is over, or with nothing to renew.
pub async fn keep_renewed(
    membership: &Membership,
    session: &Session,
    welcome: &Welcome,
    since: Instant,
    mut answers: mpsc::Receiver<Answer>,
) {
    let now_unix_ms = || {
        welcome.time_unix_ms.saturating_add(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    };
    while let Some(at) = membership.renew_at_unix_ms() {
        sleep(Duration::from_millis(at.saturating_sub(now_unix_ms())).max(RENEWAL_LEAST)).await;
        let csr = match membership.request() {
            Ok(Some(csr)) => csr,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "no new certificate can be asked for");
                return;
            }
        };
        if session.send_control(ControlMessage::Renew(Renew { csr })).await.is_err() {
            return;
        }
        let trouble = match timeout(RENEWAL_ANSWER, answers.recv()).await {
            Ok(None) => return,
            Ok(Some(Ok(renewed))) => match membership.renewed(renewed).await {
                Ok(()) => continue,
                Err(error) => error.to_string(),
            },
            Ok(Some(Err(refusal))) => membership.explain(refusal.code, &refusal.message),
            Err(_) => format!("the explorer did not answer within {} s", RENEWAL_ANSWER.as_secs()),
        };
        let left = membership.not_after_unix_ms().unwrap_or_default().saturating_sub(now_unix_ms());
        let pause = Duration::from_millis(left / 8).clamp(RENEWAL_LEAST, RENEWAL_PAUSE);
        tracing::warn!(reason = %trouble, next_try = ?pause, left = ?Duration::from_millis(left), "the certificate was not renewed");
        sleep(pause).await;
    }
}
