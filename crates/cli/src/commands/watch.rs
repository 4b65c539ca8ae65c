//! `reachback nodes --watch`: the same table, kept true by what the explorer says of every change.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
};

use reachback_client::{Answer, Call, CallStream, Client};
use reachback_explorer::NodeView;
use reachback_wire::{Code, NodeId};
use serde_json::Value;
use tokio::time::Instant;

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
    let mut known = Known::new();
    let terminal = io::stdout().is_terminal();
    let mut drawn = String::new();
    // A second is what the table counts in. Elsewhere than on a terminal time alone is no change.
    let mut ticks = tokio::time::interval(limits::REDRAW);
    loop {
        tokio::select! {
            answer = answers.next() => {
                let Some(answer) = answer else { return Ok(()) };
                let (Answer::Item(item) | Answer::Result(item)) =
                    answer.map_err(|error| api::refused(METHOD, error))?;
                if json {
                    output.result(&item)?;
                    continue;
                }
                apply(&mut known, item, Instant::now())?;
            }
            _ = ticks.tick(), if terminal && !known.is_empty() => {}
        }
        let table = nodes::table(&shown(&known, labels, Instant::now()));
        match terminal {
            true if table == drawn => {}
            // Home, the table, and nothing below it: no flicker, and what was there before scrolls as usual.
            true => output.result(format_args!("\x1b[H\x1b[J{table}"))?,
            false => output.result(format_args!("{table}\n"))?,
        }
        drawn = table;
    }
}

/// The nodes, and when each was heard of.
type Known = BTreeMap<NodeId, (NodeView, Instant)>;

/// Those with these labels, as long in their state as they are by now.
fn shown(known: &Known, labels: &BTreeMap<String, String>, now: Instant) -> Vec<NodeView> {
    let shown = known.values().filter(|(node, _)| has(node, labels));
    shown
        .map(|(node, heard)| {
            let since_s = node.since_s + now.duration_since(*heard).as_secs();
            NodeView { since_s, ..node.clone() }
        })
        .collect()
}

/// First the state of all, then one node for each change.
fn apply(known: &mut Known, item: Value, now: Instant) -> Result<(), Failure> {
    if item["nodes"].is_array() {
        let nodes = nodes::view(item)?.nodes.into_iter();
        *known = nodes.map(|node| (node.node.clone(), (node, now))).collect();
        return Ok(());
    }
    if item["state"] == "forgotten" {
        let gone = item["node"].as_str().and_then(|node| node.parse::<NodeId>().ok());
        gone.map(|node| known.remove(&node));
        return Ok(());
    }
    let node = nodes::one(item)?;
    known.insert(node.node.clone(), (node, now));
    Ok(())
}

fn has(node: &NodeView, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let (mut known, then) = (Known::new(), Instant::now());
        let mut hear = |item| apply(&mut known, item, then);
        hear(json!({"explorer": "hub-1", "nodes": [node("a", "online")]})).unwrap();
        hear(node("b", "online")).unwrap();
        hear(node("a", "offline")).unwrap();
        assert!(hear(json!({"state": 1})).is_err());
        let labels = |region: &str| BTreeMap::from([("region".to_owned(), region.to_owned())]);
        let later = then + Duration::from_secs(4);
        let nodes = shown(&known, &labels("eu"), later);
        assert_eq!(nodes.iter().map(nodes::state).collect::<Vec<_>>(), ["offline", "online"]);
        assert!(nodes.iter().all(|node| node.since_s == 5), "one second then, and four since");
        assert!(shown(&known, &labels("us"), later).is_empty());
        apply(&mut known, json!({"node": "a", "state": "forgotten"}), later).unwrap();
        assert_eq!(known.len(), 1);
    }
}
