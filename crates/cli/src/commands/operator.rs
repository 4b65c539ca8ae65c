//! `reachback kick` and `forget`: what an operator does to a node's entry at the explorer.

use reachback_wire::NodeId;
use serde_json::json;

use crate::{
    args::{ForgetArguments, KickArguments},
    commands::{api, line::short},
    config::duration::Span,
    environment::Environment,
    exit::Failure,
    output::Output,
};

/// Ends a node's session.
pub(crate) async fn kick(
    arguments: KickArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let KickArguments { client, node, span } = arguments;
    let mut params = json!({"id": node});
    if let Some(span) = span {
        params["for_ms"] = json!(span.0.as_millis());
    }
    let done = api::ask_about(client, environment, "explorer.kick", &node, params).await?;
    output.unless_quiet(kicked(&node, done["sessions"].as_u64(), span))
}

/// Strikes an offline node off the list.
pub(crate) async fn forget(
    arguments: ForgetArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let ForgetArguments { client, node } = arguments;
    api::ask_about(client, environment, "explorer.forget", &node, json!({"id": node})).await?;
    output.unless_quiet(format_args!("{node} is forgotten; if it dials again, it is a new node"))
}

/// A node without a session may be kicked too: that it was turned away before ends then, or begins.
fn kicked(node: &NodeId, sessions: Option<u64>, span: Option<Span>) -> String {
    let ended = match sessions {
        Some(0) => format!("{node} has no session to end"),
        _ => format!("{node}'s session is ended"),
    };
    match span {
        Some(span) => format!("{ended}; it is turned away for {}", short(span.0)),
        None => format!("{ended}; it may dial again at once"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_said_of_a_kick_is_what_happened() {
        let node: NodeId = "edge-7".parse().unwrap();
        for (sessions, span, said) in [
            (Some(1), None, "edge-7's session is ended; it may dial again at once"),
            (Some(0), None, "edge-7 has no session to end; it may dial again at once"),
            (Some(0), Some(600), "edge-7 has no session to end; it is turned away for 10 min"),
            // An explorer that does not say.
            (None, Some(3), "edge-7's session is ended; it is turned away for 3 s"),
        ] {
            let span = span.map(|seconds| Span(Duration::from_secs(seconds)));
            assert_eq!(kicked(&node, sessions, span), said);
        }
    }
}
