//! `reachback grant`: the node's owner opens a service to somebody for a while, at the node itself.

use serde_json::{Value, json};

use crate::{
    args::GrantArguments,
    commands::{line::short, local::Local},
    environment::Environment,
    exit::Failure,
    output::Output,
};

/// Grants.
pub(crate) async fn run(
    arguments: GrantArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let GrantArguments { control, service, to, span, reason } = arguments;
    let node = Local::find(control, environment)?;
    let params = json!({"service": service, "to": to, "for_ms": span.0.as_millis(), "reason": reason});
    node.ask("node.grant", &params).await?;
    let status = node.ask("node.status", &Value::Null).await?;
    let id = status["node"].as_str().unwrap_or("this node");
    output.unless_quiet(format_args!("{to} may use {id}/{service} for {}", short(span.0)))
}
