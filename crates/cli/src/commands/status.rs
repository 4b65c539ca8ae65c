//! `reachback status`: whether this machine's side of things works, in a few lines and in one exit code.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    args::{ControlArguments, StatusArguments},
    commands::{api, client, line::short, local::Local},
    environment::Environment,
    exit::Failure,
    output::Output,
};

/// Asks the explorer, and the node of this machine if there is one. Fails if the explorer does not answer.
pub(crate) async fn run(
    arguments: StatusArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let way = client::explorer(arguments.client, environment)?;
    let node = local_node(environment).await;
    let explorer = async {
        let session = client::connect(&way).await?;
        let answer = api::call(&session, "explorer.status", &Value::Null).await;
        session.close().await;
        answer
    }
    .await;
    if arguments.json {
        if explorer.is_ok() || !node.is_null() {
            let known = explorer.as_ref().unwrap_or(&Value::Null);
            output.unless_quiet(format_args!("{:#}", json!({"explorer": known, "node": node})))?;
        }
        return explorer.map(drop);
    }
    if let Ok(explorer) = &explorer {
        output.unless_quiet(explorer_line(explorer, &way.address.to_string()))?;
    }
    for line in node_lines(&node) {
        output.unless_quiet(line)?;
    }
    explorer.map(drop)
}

/// Null where none runs: most machines that ask have none.
async fn local_node(environment: &Environment) -> Value {
    let Ok(local) = Local::find(ControlArguments { control_socket: None }, environment) else {
        return Value::Null;
    };
    local.ask("node.status", &Value::Null).await.unwrap_or_default()
}

fn explorer_line(status: &Value, address: &str) -> String {
    let number = |field: &Value| field.as_u64().unwrap_or_default();
    let name = status["explorer"].as_str().unwrap_or("?");
    let version = status["version"].as_str().unwrap_or("?");
    let nodes = &status["nodes"];
    let up = short(Duration::from_secs(number(&status["uptime_s"])));
    format!(
        "explorer {name} ({address})  {version}  up {up}  nodes {} online, {} offline",
        number(&nodes["online"]),
        number(&nodes["offline"])
    )
}

fn node_lines(status: &Value) -> Vec<String> {
    let name = status["node"].as_str().unwrap_or("?");
    let lines = status["lines"].as_array().into_iter().flatten();
    lines
        .map(|line| {
            let to = line["explorer"].as_str().unwrap_or("?");
            let state = line["state"].as_str().unwrap_or("?");
            let reason = line["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("node {name} at {to}  {state}{reason}")
        })
        .collect()
}
