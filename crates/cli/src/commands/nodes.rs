//! `reachback nodes`: what the explorer says about its nodes, for people and for programs.

use std::{collections::BTreeMap, time::Duration};

use reachback_client::Client;
use reachback_explorer::{HealthView, NodeState, NodeView, NodesView, ServiceView};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    args::NodesArguments,
    commands::{api, client, line::short, watch},
    environment::Environment,
    exit::{Exit, Failure},
    output::Output,
    table::Table,
};

/// Asks and prints.
pub(crate) async fn run(
    arguments: NodesArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let labels: BTreeMap<String, String> = arguments.label.into_iter().collect();
    let way = client::explorer(arguments.client, environment)?;
    let client = client::connect(&way).await?;
    if arguments.watch {
        let watched = watch::run(&client, &labels, arguments.json, output).await;
        client.close().await;
        return watched;
    }
    let params = json!({"labels": labels});
    let answer = api::call(&client, "explorer.nodes", &params).await;
    client.close().await;
    let answer = answer?;
    if arguments.json {
        return output.result(format_args!("{answer:#}"));
    }
    let nodes = view(answer)?.nodes;
    if nodes.is_empty() && !labels.is_empty() {
        return output.result("no node has these labels; `reachback nodes` lists all");
    }
    if nodes.is_empty() {
        return output.result(format_args!(
            "no node has dialled this explorer yet; start one: reachback node --explorer {} --service ssh=22",
            way.address
        ));
    }
    output.result(table(&nodes))
}

/// The nodes an explorer knows.
pub(crate) async fn ask(client: &Client) -> Result<Vec<NodeView>, Failure> {
    Ok(view(api::call(client, "explorer.nodes", &Value::Null).await?)?.nodes)
}

/// The table for people.
pub(crate) fn table(nodes: &[NodeView]) -> String {
    const SERVICES: usize = 4;
    let mut table = Table::new(["NODE", "STATE", "SINCE", "RTT", "SERVICES", "STREAMS", "WHERE"], SERVICES);
    for node in nodes {
        let offline = node.state == NodeState::Offline;
        let rtt = node.rtt_ms.map(|milliseconds| short(Duration::from_secs_f64(milliseconds.max(0.0) / 1e3)));
        table.row(
            [
                node.node.to_string(),
                state(node).to_owned(),
                since(node.since_s),
                rtt.unwrap_or_else(|| "-".to_owned()),
                services(node),
                if offline { "-".to_owned() } else { node.streams.to_string() },
                node.explorer.to_string(),
            ],
            notes(node),
        );
    }
    table.render()
}

/// The state in the word that the answer has for it.
pub(crate) fn state(node: &NodeView) -> &'static str {
    match node.state {
        NodeState::Online => "online",
        NodeState::Late => "late",
        NodeState::Offline => "offline",
        NodeState::Retiring => "retiring",
    }
}

/// The names of what a node declares, those that fail marked.
pub(crate) fn services(node: &NodeView) -> String {
    let shown = |service: &ServiceView| match service.health {
        HealthView::Failing => format!("{} (failing)", service.name),
        HealthView::Ok | HealthView::Unknown => service.name.to_string(),
    };
    match node.services.is_empty() {
        true => "-".to_owned(),
        false => node.services.iter().map(shown).collect::<Vec<_>>().join(", "),
    }
}

fn since(seconds: u64) -> String {
    match seconds {
        0 => "now".to_owned(),
        _ => short(Duration::from_secs(seconds)),
    }
}

/// What needs a sentence: why a node is not online, why a service fails.
fn notes(node: &NodeView) -> Vec<String> {
    let mut notes = Vec::new();
    match (node.state, &node.last_end) {
        (NodeState::Online, _) => {}
        (NodeState::Offline, Some(end)) => notes.push(format!("last end: {}", end.message)),
        _ if !node.reason.is_empty() => notes.push(format!("{}: {}", state(node), node.reason)),
        _ => {}
    }
    for service in &node.services {
        if let (HealthView::Failing, Some(reason)) = (service.health, &service.reason) {
            notes.push(format!("{} fails: {reason}", service.name));
        }
    }
    notes
}

/// An answer that lists nodes.
pub(crate) fn view(answer: Value) -> Result<NodesView, Failure> {
    read(answer)
}

/// An answer, or a word of a watch, that is one node.
pub(crate) fn one(answer: Value) -> Result<NodeView, Failure> {
    read(answer)
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format_args!(
                "the explorer's answer can't be read ({error}); `reachback nodes --json` shows it as it is"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, changes: Value) -> NodeView {
        let mut node = json!({
            "node": name, "state": "online", "since_unix_ms": 1, "since_s": 125, "reason": "", "rtt_ms": 38.2,
            "services": [{"name": "rpc", "health": "ok"}, {"name": "ssh", "health": "unknown"}],
            "streams": 2, "explorer": "hub-1", "ends": [], "node_ends": []
        });
        for (key, value) in changes.as_object().unwrap() {
            node[key] = value.clone();
        }
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn the_table_says_who_is_there_and_why_not() {
        let end =
            json!({"session": "41", "code": "lost", "message": "no heartbeat for 20 s", "at_unix_ms": 1});
        let failing = json!([{"name": "rpc", "health": "failing", "reason": "connection refused"}]);
        let nodes = [
            node("edge-7", json!({})),
            node("edge-8", json!({"services": failing, "rtt_ms": 0.2})),
            node(
                "edge-9",
                json!({"state": "offline", "since_s": 660, "rtt_ms": null, "last_end": end, "streams": 0}),
            ),
        ];
        let expected = "\
NODE    STATE    SINCE   RTT     SERVICES       STREAMS  WHERE
edge-7  online   2 min   38 ms   rpc, ssh       2        hub-1
edge-8  online   2 min   0.2 ms  rpc (failing)  2        hub-1
        rpc fails: connection refused
edge-9  offline  11 min  -       rpc, ssh       -        hub-1
        last end: no heartbeat for 20 s";
        assert_eq!(table(&nodes), expected);
    }

    #[test]
    fn moments_are_whole_seconds() {
        for (seconds, text) in [(0, "now"), (9, "9 s"), (10, "10 s"), (660, "11 min")] {
            assert_eq!(since(seconds), text);
        }
    }

    #[test]
    fn fields_of_a_later_explorer_are_no_reason_to_fail() {
        let answer = json!({"explorer": "hub-1", "nodes": [], "partial": false});
        assert!(view(answer).unwrap().nodes.is_empty());
        let failure = view(json!({"nodes": 1})).unwrap_err().to_string();
        assert!(failure.contains("--json"), "{failure}");
    }
}
