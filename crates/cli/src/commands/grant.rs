//! `reachback grant` and `ungrant`: the node's owner opens a service to somebody for a while, at the node itself.

use serde_json::{Value, json};

use crate::{
    args::{GrantArguments, UngrantArguments},
    commands::{line::short, local::Local},
    environment::Environment,
    exit::Failure,
    output::Output,
};

/// Takes a grant back before its time.
pub(crate) async fn ungrant(
    arguments: UngrantArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let UngrantArguments { control, service, to } = arguments;
    let node = Local::find(control, environment)?;
    node.ask("node.revoke_grant", &json!({"service": service, "to": to})).await?;
    output.unless_quiet(format_args!(
        "{to} may not use {service} any more, unless the explorer's rights say so"
    ))
}

/// Grants.
pub(crate) async fn grant(
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
