//! `reachback status`: whether this machine's side of things works, in a few lines and in one exit code.

use std::time::Duration;

use reachback_wire::Code;
use serde_json::{Value, json};

use crate::{
    args::{ControlArguments, StatusArguments},
    commands::{api, client, line::short, local::Local},
    environment::Environment,
    exit::Failure,
    output::Output,
    table::{WIDTH, wrap},
};

/// Asks the explorer, and the node of this machine if there is one. Fails if the explorer does not answer; with `--node`
/// if none of the node's lines stands.
pub(crate) async fn run(
    arguments: StatusArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    if arguments.node {
        return node_alone(arguments, environment, output).await;
    }
    let way = client::explorer(arguments.client, environment)?;
    let node = local_node(arguments.control, environment).await;
    let explorer = async {
        let session = client::connect(&way).await?;
        let answer = api::call(&session, "explorer.status", &Value::Null).await;
        session.close().await;
        answer
    }
    .await;
    if arguments.json {
        let node = node.as_ref().unwrap_or(&Value::Null);
        if explorer.is_ok() || !node.is_null() {
            let known = explorer.as_ref().unwrap_or(&Value::Null);
            output.unless_quiet(format_args!("{:#}", json!({"explorer": known, "node": node})))?;
        }
        return explorer.map(drop);
    }
    if let Ok(explorer) = &explorer {
        output.unless_quiet(explorer_page(explorer, &way.address.to_string()))?;
    }
    match node {
        Ok(node) => node_lines(&node).into_iter().try_for_each(|line| output.unless_quiet(line))?,
        // Whether the explorer answers is what the exit code says.
        Err(failure) => output.unless_quiet(failure)?,
    }
    explorer.map(drop)
}

/// For whoever watches over a node: it may have no right to ask its explorer anything.
async fn node_alone(
    arguments: StatusArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let status = Local::find(arguments.control, environment)?.ask("node.status", &Value::Null).await?;
    if arguments.json {
        output.unless_quiet(format_args!("{:#}", json!({"explorer": Value::Null, "node": status})))?;
    } else {
        node_lines(&status).into_iter().try_for_each(|line| output.unless_quiet(line))?;
    }
    stands(&status)
}

fn stands(status: &Value) -> Result<(), Failure> {
    let mut lines = status["lines"].as_array().into_iter().flatten();
    // One that is late is still used.
    match lines.any(|line| line["state"] == "online" || line["state"] == "late") {
        true => Ok(()),
        false => {
            let name = status["node"].as_str().unwrap_or("?");
            Err(Failure::coded(
                Code::PeerUnreachable,
                format_args!("none of the lines of node {name} stands"),
            ))
        }
    }
}

/// Null where none runs and nobody says that one does: most machines that ask have none.
async fn local_node(control: ControlArguments, environment: &Environment) -> Result<Value, Failure> {
    let local = Local::find(control, environment)?;
    match local.ask("node.status", &Value::Null).await {
        Err(_) if !local.is_named() => Ok(Value::Null),
        answered => answered,
    }
}

fn explorer_page(status: &Value, address: &str) -> String {
    let number = |field: &Value| field.as_u64().unwrap_or_default();
    let name = status["explorer"].as_str().unwrap_or("?");
    let version = status["version"].as_str().unwrap_or("?");
    let nodes = &status["nodes"];
    let up = short(Duration::from_secs(number(&status["uptime_s"])));
    format!(
        "explorer {name} at {address}\n  {version}  up {up}  nodes {} online, {} offline",
        number(&nodes["online"]),
        number(&nodes["offline"])
    )
}

fn node_lines(status: &Value) -> Vec<String> {
    let name = status["node"].as_str().unwrap_or("?");
    let lines = status["lines"].as_array().into_iter().flatten();
    let mut said: Vec<String> = lines
        .map(|line| {
            let to = line["explorer"].as_str().unwrap_or("?");
            let state = line["state"].as_str().unwrap_or("?");
            let reason = line["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            // The address is kept whole; what does not fit beside it comes below.
            let said = format!("{state}{reason}");
            let place = format!("node {name} at {to}");
            match place.chars().count() + 2 + said.chars().count() <= WIDTH {
                true => format!("{place}  {said}"),
                false => format!("{place}\n  {}", wrap(&said, WIDTH - 2).join("\n  ")),
            }
        })
        .collect();
    for grant in status["grants"].as_array().into_iter().flatten() {
        let text = |field: &str| grant[field].as_str().unwrap_or("?");
        let left =
            short(Duration::from_millis(grant["left_ms"].as_u64().unwrap_or_default() / 1_000 * 1_000));
        let granted = format!("{} may use {} for {left}: {}", text("to"), text("service"), text("reason"));
        said.push(format!("  {}", wrap(&granted, WIDTH - 2).join("\n  ")));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_well_when_one_line_stands() {
        let node = |states: &[&str]| {
            let lines: Vec<Value> = states.iter().map(|state| json!({"state": state})).collect();
            stands(&json!({"node": "edge-7", "lines": lines}))
        };
        for fine in [&["online"][..], &["late"], &["waiting", "online"]] {
            assert_eq!(node(fine), Ok(()), "{fine:?}");
        }
        for down in [&[][..], &["waiting"], &["dialing", "waiting"]] {
            let failure = node(down).unwrap_err();
            assert_eq!(failure.exit.number(), 69, "{down:?}");
            assert_eq!(failure.to_string(), "peer_unreachable: none of the lines of node edge-7 stands");
        }
    }

    #[test]
    fn every_line_fits() {
        let reason =
            "peer_unreachable: can't connect to hub-2.example.com:9002: Connection refused (os error 111)";
        let status = json!({"node": "edge-7", "lines": [
            {"explorer": "hub-1:9002", "state": "online"},
            {"explorer": "hub-2.example.com:9002", "state": "waiting", "reason": reason},
        ], "grants": [{"service": "db", "to": "ann", "left_ms": 3_599_900, "reason": "ticket ".repeat(20)}]});
        let lines = node_lines(&status);
        assert_eq!(lines[0], "node edge-7 at hub-1:9002  online");
        assert!(lines[1].starts_with("node edge-7 at hub-2.example.com:9002\n  waiting: peer_unreachable: "));
        assert!(lines[2].starts_with("  ann may use db for 59 min: ticket"), "{}", lines[2]);
        let explorer = json!({"explorer": "hub-1", "version": "0.1.0", "uptime_s": 751, "nodes": {"online": 1, "offline": 2}});
        let page = explorer_page(&explorer, "unix:///run/user/1000/reachback/explorer.sock");
        assert_eq!(
            page,
            "explorer hub-1 at unix:///run/user/1000/reachback/explorer.sock\n  0.1.0  up 12 min  nodes 1 online, 2 offline"
        );
        for line in lines.iter().flat_map(|line| line.lines()).chain(page.lines()) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
