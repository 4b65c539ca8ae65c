//! What only admins ask for: nodes sent away or forgotten, credentials made and withdrawn, and what has to outlive a disk.
//!
//! Who may ask has been decided before anything here is called. What is written to the state directory is written by
//! threads that may wait; who asked for it goes into the audit with it.

use std::{sync::Arc, time::Duration};

use reachback_wire::{Code, NodeId, Refusal, rights::Rights, text::sanitize};
use tokio::task::spawn_blocking;

use super::{
    Asking,
    methods::unknown_node,
    rpc::{INVALID_PARAMS, Outcome, Problem, RpcError, raw},
    types::{
        AuditParams, AuditResult, BackupParams, BackupResult, ForgetResult, KickResult, NodeParams,
        ReleaseResult, RevokeParams, RevokeResult, RotateParams, RotateResult, RotateStep, TokenParams,
        TokenResult, TokenView, TokensResult,
    },
};
use crate::{
    access::subject,
    auth::Principal,
    hub::Hub,
    join, limits,
    registry::Unforgettable,
    security::{Actor, Revocable, Security, TokenRequest, Uses},
};

pub(super) fn kick(hub: &Hub, id: &NodeId, pause: Duration, asking: &Asking) -> Outcome {
    if pause > limits::KICK_MAX {
        let message = format!(
            "for_ms: a node can be kicked for {} ms at most; for longer, withdraw its right to come: reachback revoke {id}",
            limits::KICK_MAX.as_millis()
        );
        return Err(RpcError::new(INVALID_PARAMS, message).into());
    }
    let sessions = hub.registry.kick(id, "an operator has kicked this node", pause);
    let sessions = sessions.ok_or_else(|| unknown_node(hub, id, asking))?;
    tracing::info!(node = %id, sessions, ?pause, "kicked");
    let for_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Ok(raw(&KickResult { id, sessions, for_ms }))
}

pub(super) fn forget(hub: &Hub, id: &NodeId, asking: &Asking) -> Outcome {
    let direct = hub.direct.forget(id);
    match (hub.registry.forget(id), direct) {
        (Err(Unforgettable::Connected), _) | (_, Some(false)) => {
            let message = format!("{id} is online; only a node that is offline can be forgotten");
            Err(Refusal::new(Code::Denied, message).into())
        }
        (Err(Unforgettable::Unknown), None) => Err(unknown_node(hub, id, asking)),
        (Ok(()), _) | (Err(Unforgettable::Unknown), Some(true)) => {
            tracing::info!(node = %id, "forgotten");
            Ok(raw(&ForgetResult { id, forgotten: true }))
        }
    }
}

pub(super) async fn release(hub: &Hub, NodeParams { id }: NodeParams, asking: &Asking) -> Outcome {
    let security = security(hub)?;
    let (by, node) = (actor(asking), id.clone());
    let before = hub.present.all();
    let released = write(security, move |security| security.release(&node, &by)).await?;
    Ok(raw(&ReleaseResult { id: &id, released, sessions: ended(&before, security) }))
}

pub(super) async fn token_create(hub: &Arc<Hub>, params: TokenParams, asking: &Asking) -> Outcome {
    let TokenParams { role, name, node, allow, ttl_ms, uses, ephemeral } = params;
    let allow =
        Rights::new(allow).map_err(|error| RpcError::new(INVALID_PARAMS, format!("allow: {error}")))?;
    let uses = uses.map(|uses| uses.map_or(Uses::Unlimited, Uses::Limited));
    let ttl = Duration::from_millis(ttl_ms);
    let request = TokenRequest { role, name, node, allow, ttl, uses, ephemeral };
    let (line, made) = join::create(hub, request, actor(asking)).await?;
    Ok(raw(&TokenResult {
        id: made.info.id,
        role,
        name: made.info.name,
        join: line.string,
        addresses: line.addresses,
        address_is_guess: line.guessed,
        expires_unix_ms: made.info.expires_unix_ms,
    }))
}

pub(super) fn token_list(hub: &Hub) -> Outcome {
    let tokens = security(hub)?.list_tokens().into_iter().map(|token| TokenView {
        id: token.id,
        role: token.role,
        name: token.name,
        node: token.node,
        allow: token.allow.iter().map(ToString::to_string).collect(),
        uses_left: token.uses_left,
        ephemeral: token.ephemeral,
        bound: token.bound,
        expires_unix_ms: token.expires_unix_ms,
        state: token.state,
    });
    Ok(raw(&TokensResult { tokens: tokens.collect() }))
}

pub(super) async fn revoke(hub: &Hub, RevokeParams { what }: RevokeParams, asking: &Asking) -> Outcome {
    let security = security(hub)?;
    let what: Revocable = what.parse()?;
    let by = actor(asking);
    let before = hub.present.all();
    let done = write(security, move |security| security.revoke(&what, &by)).await?;
    let sessions = ended(&before, security);
    Ok(raw(&RevokeResult { kind: done.kind, name: done.name, note: done.note, sessions }))
}

pub(super) async fn audit(hub: &Hub, AuditParams { last }: AuditParams) -> Outcome {
    let last = last.unwrap_or(limits::AUDIT_SHOWN).min(limits::AUDIT_SHOWN_MAX);
    let records = write(security(hub)?, move |security| {
        security
            .audit()
            .last(last)
            .map_err(|error| Refusal::new(Code::Internal, format!("the audit can't be read: {error}")))
    });
    let records = records.await?;
    Ok(raw(&AuditResult { records }))
}

pub(super) async fn backup(hub: &Hub, BackupParams { path }: BackupParams, asking: &Asking) -> Outcome {
    if !path.is_absolute() {
        let shown = sanitize(&path.display().to_string(), limits::TEXT);
        let message = format!("path \"{shown}\": write an absolute path on the explorer's machine");
        return Err(RpcError::new(INVALID_PARAMS, message).into());
    }
    let (to, by) = (path.clone(), actor(asking));
    let bytes = write(security(hub)?, move |security| security.backup(&to, &by)).await?;
    Ok(raw(&BackupResult { path: &path, bytes }))
}

pub(super) async fn ca_rotate(
    hub: &Hub,
    RotateParams { step, force }: RotateParams,
    asking: &Asking,
) -> Outcome {
    let by = actor(asking);
    let security = security(hub)?;
    let rotating = write(security, move |security| match step {
        RotateStep::Begin => security.begin_rotation(&by),
        RotateStep::Finish => security.finish_rotation(force, &by),
    });
    rotating.await?;
    let cas = if security.is_rotating() { 2 } else { 1 };
    let message = match step {
        RotateStep::Begin => {
            "two authorities are believed now; nodes and users get certificates of the new one as they renew theirs. When all \
             have, finish it: reachback ca rotate finish"
        }
        RotateStep::Finish => {
            "the old authority is believed no more; who still has a certificate of it joins again"
        }
    };
    Ok(raw(&RotateResult { cas, message }))
}

fn security(hub: &Hub) -> Result<&Arc<Security>, Problem> {
    hub.security().ok_or_else(|| join::no_tokens().into())
}

/// Whoever asks, as the audit names them.
fn actor(asking: &Asking) -> Actor {
    Actor::new(&subject(&asking.who), &asking.peer.to_string())
}

/// Does what may have to wait for a disk.
async fn write<T: Send + 'static>(
    security: &Arc<Security>,
    work: impl FnOnce(&Security) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Problem> {
    let security = security.clone();
    match spawn_blocking(move || work(&security)).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            tracing::error!(%error, "a request of an admin failed");
            Err(Refusal::new(Code::Internal, "an error in the explorer; see its log").into())
        }
    }
}

/// How many of the sessions that there were end by what was just withdrawn.
fn ended(before: &[Principal], security: &Security) -> usize {
    before.iter().filter(|who| security.still_good(who).is_err()).count()
}
