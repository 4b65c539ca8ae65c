//! One call to every node that a selector means, with the answers as they come.
//!
//! One slow node must not hold up the others, and a fleet must not be called all at once: so many are under way at a
//! time, and one budget of time covers all of them. Which nodes are meant is asked once, at the start.

use std::{collections::BTreeMap, time::Duration};

use futures::{Stream, StreamExt, stream};
use reachback_link::Session;
use reachback_wire::{Code, NodeId, Refusal, ServiceName, Target};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    call::{Call, CallError},
    limits::{FAN_OUT, FAN_OUT_LEAST, RESOLVE_LIMIT},
    selector::Selector,
};

/// The places that a selector means now: nodes that are online, have the service, and have all the labels, in the order
/// of their names. A service whose node says that it is failing counts: its call tells more than its absence.
///
/// # Errors
/// The explorer could not be asked within `limit`, or nobody is meant: [`CallError::Refused`] with `node_not_found`.
pub async fn resolve(
    session: &Session,
    selector: &Selector,
    limit: Duration,
) -> Result<Vec<Target>, CallError> {
    let (labels, service) = match selector {
        Selector::One(target) => return Ok(vec![target.clone()]),
        Selector::Every { labels, service } => (labels, service),
    };
    let api = "@explorer/api".parse().map_err(|error| CallError::Unusable(format!("{error}")))?;
    let nodes =
        Call::new(api, "explorer.nodes", Value::Null, limit.min(RESOLVE_LIMIT)).result(session).await?;
    let Nodes { nodes } =
        serde_json::from_value(nodes).map_err(|error| CallError::Garbled(error.to_string()))?;
    let meant: Vec<Target> = nodes
        .into_iter()
        .filter(|node| node.state == "online" && node.has(service, labels))
        .map(|node| Target::Service { node: node.node, service: service.clone() })
        .collect();
    if meant.is_empty() {
        let text = format!("no node that is online is meant by {selector}; see: reachback nodes");
        return Err(CallError::Refused(Refusal::new(Code::NodeNotFound, text)));
    }
    Ok(meant)
}

/// Makes `call` at each of `targets`, at most 16 at a time, and hands out each outcome with its place as it comes. The
/// limit of the call is the budget of all, its wait for a node included: a place whose turn comes when it is over, or as
/// good as over, gets [`CallError::Refused`] with `timeout`, and nothing was sent there.
pub fn fan_out(
    session: &Session,
    targets: Vec<Target>,
    call: &Call,
) -> impl Stream<Item = (Target, Result<Value, CallError>)> + Send + use<> {
    let (session, call) = (session.clone(), call.clone());
    let deadline = Instant::now() + call.limit();
    stream::iter(targets)
        .map(move |target| {
            let (session, call) = (session.clone(), call.clone().to(target.clone()));
            async move {
                let left = deadline.saturating_duration_since(Instant::now());
                if left < FAN_OUT_LEAST {
                    let text = format!("{target} was not called: the time for all calls was over");
                    return (target, Err(CallError::Refused(Refusal::new(Code::Timeout, text))));
                }
                let outcome = call.until(deadline).result(&session).await;
                (target, outcome)
            }
        })
        .buffer_unordered(FAN_OUT)
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    node: NodeId,
    state: String,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Service {
    name: ServiceName,
}

impl Node {
    fn has(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> bool {
        self.services.iter().any(|declared| declared.name == *service)
            && labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}
