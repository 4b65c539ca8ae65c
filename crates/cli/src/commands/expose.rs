//! `reachback expose` and `unexpose`: changes to the node that runs on this machine, through its control socket.

use serde_json::{Value, json};

use crate::{
    args::{ExposeArguments, UnexposeArguments},
    commands::local::Local,
    environment::Environment,
    exit::Failure,
    output::Output,
};

/// Adds a service.
pub(crate) async fn expose(
    arguments: ExposeArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let service: reachback_node::Service = arguments.service.parse().map_err(Failure::usage)?;
    let node = Local::find(arguments.control, environment)?;
    node.ask("node.expose", &json!({"service": arguments.service})).await?;
    let id = id(&node).await?;
    output.unless_quiet(format_args!("{id}/{} can be reached, until the node restarts", service.name()))
}

/// Takes one away.
pub(crate) async fn unexpose(
    arguments: UnexposeArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let node = Local::find(arguments.control, environment)?;
    node.ask("node.unexpose", &json!({"name": arguments.name})).await?;
    let id = id(&node).await?;
    output.unless_quiet(format_args!("{id}/{} can't be reached any more", arguments.name))
}

async fn id(node: &Local) -> Result<String, Failure> {
    let status = node.ask("node.status", &Value::Null).await?;
    Ok(status["node"].as_str().unwrap_or("this node").to_owned())
}
