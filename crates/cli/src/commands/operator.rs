//! `reachback kick` and `forget`: what an operator does to a node's entry at the explorer.

use serde_json::json;

use crate::{
    args::{ForgetArguments, KickArguments},
    commands::{api, line::short},
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
    api::ask(client, environment, "explorer.kick", &params).await?;
    let after = match span {
        Some(span) => format!("it is turned away for {}", short(span.0)),
        None => "it may dial again at once".to_owned(),
    };
    output.unless_quiet(format_args!("{node}'s session is ended; {after}"))
}

/// Strikes an offline node off the list.
pub(crate) async fn forget(
    arguments: ForgetArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let ForgetArguments { client, node } = arguments;
    api::ask(client, environment, "explorer.forget", &json!({"id": node})).await?;
    output.unless_quiet(format_args!("{node} is forgotten; if it dials again, it is a new node"))
}
