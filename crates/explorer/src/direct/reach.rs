//! The way to a node with an address: whether it is there, the connection, and what goes over it.

use futures::StreamExt;
use reachback_link::{Inbound, InboundError, Transport, splice};
use reachback_wire::{Code, Open, Refusal, Target, text::sanitize};
use tokio::time::{Instant, timeout_at};

use super::{
    DirectCopy,
    exchange::{over_bytes, over_http},
    permit::{NoWay, dial},
};
use crate::{
    call::{Answer, Call, too_late},
    config::Framing,
    entry::NodeState,
    hub::Hub,
    limits,
    stats::count,
};

/// Connects to the service.
///
/// # Errors
/// There is no such service, the node has fallen silent, or nobody listens there; nothing was sent.
async fn connect(
    hub: &Hub,
    node: &DirectCopy,
    target: &Target,
    deadline: Instant,
) -> Result<Transport, Refusal> {
    if let Target::Service { service, .. } = target
        && *service != node.service
    {
        let message = format!("{} has no service {service}; it has: {}", node.node, node.service);
        return Err(Refusal::new(Code::ServiceNotFound, message));
    }
    if node.state == NodeState::Offline {
        let message = format!("{} is offline: {}; nothing was sent", node.node, node.reason);
        return Err(Refusal::new(Code::NodeOffline, message));
    }
    let unreachable = |why: &str| {
        let message = format!(
            "{target} can't be connected at {}: {}; is its server running there?",
            node.address,
            sanitize(why, limits::TEXT)
        );
        Refusal::new(Code::ServiceUnreachable, message)
    };
    let until = deadline.min(Instant::now() + limits::DIRECT_DIAL);
    dial(hub, &node.address, node.by, until).await.map_err(|no| match no {
        NoWay::Forbidden(refusal) => refusal,
        NoWay::Missing(why) => unreachable(&why),
    })
}

/// Serves one stream to the service.
///
/// # Errors
/// As [`connect`], which the opener has been told; or the opener went away.
pub(crate) async fn serve(
    hub: &Hub,
    inbound: Inbound,
    node: &DirectCopy,
    target: &Target,
    open: &Open,
) -> Result<(), InboundError> {
    let allowed = open.deadline().unwrap_or(limits::OPEN_TIMEOUT).min(limits::OPEN_DEADLINE_MAX);
    let deadline = Instant::now() + allowed;
    let answered = inbound.answer(connect(hub, node, target, deadline)).await;
    count(if answered.is_ok() { &hub.stats.opens_relayed } else { &hub.stats.opens_refused });
    let (substream, transport) = answered?;
    let spliced = splice(substream, transport).await;
    let (to_service, from_service) = (spliced.to_peer, spliced.from_peer);
    tracing::debug!(%target, to_service, from_service, end = ?spliced.end, "a stream ended");
    Ok(())
}

/// Puts a call to the service, over a connection of its own.
///
/// # Errors
/// As [`connect`], and what happens before the head of the answer.
pub(crate) async fn call(hub: &Hub, node: &DirectCopy, call: Call) -> Result<Answer, Refusal> {
    let deadline = call.deadline;
    let target = call.target.clone();
    let Ok(place) = node.places.clone().try_acquire_owned() else {
        let message = format!(
            "{} calls of {} are under way; that is all there may be",
            limits::DIRECT_CALLS,
            node.node
        );
        return Err(Refusal::new(Code::Saturated, message).retry_after(limits::SATURATED_RETRY));
    };
    let transport = connect(hub, node, &target, deadline).await?;
    let exchange = async {
        match node.framing {
            Framing::Http => over_http(transport, &target, call.head, call.body).await,
            Framing::Lines => over_bytes(transport, &target, call.body, b"\n").await,
            Framing::Raw => over_bytes(transport, &target, call.body, b"").await,
        }
    };
    let mut answer = timeout_at(deadline, exchange).await.map_err(|_| too_late())??;
    // Taken until the answer is whole, or nobody wants it any more.
    answer.pieces = answer
        .pieces
        .inspect(move |_| {
            let _taken = &place;
        })
        .boxed();
    Ok(answer)
}
