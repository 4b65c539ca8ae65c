//! `reachback nodes --watch`: the same table, kept true by what the explorer says of every change.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
};

use reachback_client::{Answer, Call, CallStream, Client};
use reachback_explorer::NodeView;
use reachback_wire::{Code, NodeId};
use serde_json::Value;

use crate::{
    commands::{api, nodes},
    exit::{Exit, Failure},
    limits,
    output::Output,
    signals::Signals,
};

/// Shows every change until a signal.
pub(crate) async fn run(
    client: &Client,
    labels: &BTreeMap<String, String>,
    json: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    tokio::select! {
        _ = signals.next() => Ok(()),
        failure = follow(client, labels, json, output) => failure,
    }
}

/// A watch is a call and ends like one; then it is asked for anew.
async fn follow(
    client: &Client,
    labels: &BTreeMap<String, String>,
    json: bool,
    output: Output,
) -> Result<(), Failure> {
    loop {
        let call = Call::new(api::target()?, METHOD, Value::Null, limits::WATCH).streaming();
        let mut answers = client.send(&call).await.map_err(|error| api::refused(METHOD, error))?;
        match listen(&mut answers, labels, json, output).await {
            // Its time is up, or it has carried as many bytes as one call may: that is no trouble.
            Err(failure) if matches!(failure.exit, Exit::Coded(Code::Timeout | Code::TooLarge)) => {}
            Err(failure) => return Err(failure),
            Ok(()) => return Err(Failure::new(Exit::Failed, "the explorer ended the watch")),
        }
    }
}

const METHOD: &str = "explorer.watch";

async fn listen(
    answers: &mut CallStream,
    labels: &BTreeMap<String, String>,
    json: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut known: BTreeMap<NodeId, NodeView> = BTreeMap::new();
    while let Some(answer) = answers.next().await {
        let (Answer::Item(item) | Answer::Result(item)) =
            answer.map_err(|error| api::refused(METHOD, error))?;
        if json {
            output.result(&item)?;
            continue;
        }
        apply(&mut known, item)?;
        let shown: Vec<NodeView> = known.values().filter(|node| has(node, labels)).cloned().collect();
        let table = nodes::table(&shown);
        match io::stdout().is_terminal() {
            // Home, the table, and nothing below it: no flicker, and what was there before scrolls as usual.
            true => output.result(format_args!("\x1b[H\x1b[J{table}"))?,
            false => output.result(format_args!("{table}\n"))?,
        }
    }
    Ok(())
}

/// First the state of all, then one node for each change.
fn apply(known: &mut BTreeMap<NodeId, NodeView>, item: Value) -> Result<(), Failure> {
    if item["nodes"].is_array() {
        *known = nodes::view(item)?.nodes.into_iter().map(|node| (node.node.clone(), node)).collect();
        return Ok(());
    }
    if item["state"] == "forgotten" {
        let gone = item["node"].as_str().and_then(|node| node.parse::<NodeId>().ok());
        gone.map(|node| known.remove(&node));
        return Ok(());
    }
    let node: NodeView = serde_json::from_value(item).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format_args!("the explorer's word can't be read ({error}); --json shows it"),
        )
    })?;
    known.insert(node.node.clone(), node);
    Ok(())
}

fn has(node: &NodeView, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, state: &str) -> Value {
        json!({
            "node": name, "state": state, "since_unix_ms": 1, "since_s": 1, "reason": "", "services": [],
            "labels": {"region": "eu"}, "streams": 0, "explorer": "hub-1", "ends": [], "node_ends": []
        })
    }

    #[test]
    fn what_is_known_follows_what_is_said() {
        let mut known = BTreeMap::new();
        apply(&mut known, json!({"explorer": "hub-1", "nodes": [node("a", "online")]})).unwrap();
        apply(&mut known, node("b", "online")).unwrap();
        apply(&mut known, node("a", "offline")).unwrap();
        assert_eq!(known.values().map(nodes::state).collect::<Vec<_>>(), ["offline", "online"]);
        assert!(has(&known["a"], &BTreeMap::from([("region".into(), "eu".into())])));
        assert!(!has(&known["a"], &BTreeMap::from([("region".into(), "us".into())])));
        apply(&mut known, json!({"node": "a", "state": "forgotten"})).unwrap();
        assert_eq!(known.len(), 1);
        assert!(apply(&mut known, json!({"state": 1})).is_err());
    }
}
