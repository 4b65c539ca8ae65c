//! `reachback show NODE`: everything the explorer knows about one node, in the order in which people ask for it.

use std::time::Duration;

use reachback_explorer::{EndView, HealthView, NodeState, NodeView};

use crate::{
    args::ShowArguments,
    commands::{api, client, line::short, nodes},
    environment::Environment,
    exit::{Exit, Failure},
    output::Output,
    table::{WIDTH, wrap},
};

/// Asks and prints.
pub(crate) async fn run(
    arguments: ShowArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let session = client::connect(&client::explorer(arguments.client, environment)?).await?;
    let node = api::node(&session, &arguments.node).await;
    session.close().await;
    let node = node?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&node);
        return output.result(json.map_err(|error| Failure::new(Exit::Failed, error))?);
    }
    output.result(page(&node))
}

/// Where the values begin.
const INDENT: usize = 12;

fn page(node: &NodeView) -> String {
    let since = short(Duration::from_secs(node.since_s));
    let mut lines = vec![format!("{}  {} for {since}  at {}", node.node, nodes::state(node), node.explorer)];
    // The value wraps beside what leads it.
    let mut led = |lead: String, value: &str| {
        let indent = lead.chars().count();
        for (number, part) in wrap(value, WIDTH.saturating_sub(indent)).into_iter().enumerate() {
            let lead = if number == 0 { lead.as_str() } else { "" };
            lines.push(format!("{lead:<indent$}{part}"));
        }
    };
    let name_of = |name: &str| format!("  {name:<width$}", width = INDENT - 2);
    let mut field = |name: &str, value: &str| led(name_of(name), value);
    if node.state != NodeState::Online && !node.reason.is_empty() {
        field("reason", &node.reason);
    }
    if let Some(rtt) = node.rtt_ms {
        field("rtt", &short(Duration::from_secs_f64(rtt.max(0.0) / 1e3)));
    }
    for (name, value) in [("address", &node.address), ("agent", &node.agent)] {
        if let Some(value) = value {
            field(name, value);
        }
    }
    if let Some(session) = node.session {
        field("session", &format!("{session}, {} streams", node.streams));
    }
    if !node.labels.is_empty() {
        let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        field("labels", &labels.join(" "));
    }
    if node.services.is_empty() {
        field("services", "none, so nothing on it can be reached");
    }
    let wide = node.services.iter().map(|service| service.name.as_ref().len()).max().unwrap_or(0);
    for (number, service) in node.services.iter().enumerate() {
        // What was last heard of a service is no promise while the way to it is down.
        let was = if node.state == NodeState::Offline { "last known: " } else { "" };
        let health = match (service.health, &service.reason) {
            (HealthView::Ok, _) => "ok".to_owned(),
            (HealthView::Failing, Some(reason)) => format!("fails: {reason}"),
            (HealthView::Failing, None) => "fails".to_owned(),
            (HealthView::Unknown, _) => "not probed".to_owned(),
        };
        let framing =
            service.framing.as_ref().map(|framing| format!("; framing {framing}")).unwrap_or_default();
        let field = name_of(if number == 0 { "services" } else { "" });
        led(format!("{field}{:<wide$} ", service.name.as_ref()), &format!("{was}{health}{framing}"));
    }
    let now = node.since_unix_ms + node.since_s * 1_000;
    for (name, ends) in [("ends", &node.ends), ("its own", &node.node_ends)] {
        for (number, end) in ends.iter().take(ENDS).enumerate() {
            led(name_of(if number == 0 { name } else { "" }), &ended(end, now));
        }
    }
    lines.join("\n")
}

/// How many ends of each side are shown; --json has all.
const ENDS: usize = 5;

/// By the clock of the explorer, which wrote both moments.
fn ended(end: &EndView, now_unix_ms: u64) -> String {
    let age = short(Duration::from_secs(now_unix_ms.saturating_sub(end.at_unix_ms) / 1_000));
    format!("{age} ago  {}: {}", end.code.name(), end.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_has_what_there_is() {
        let end =
            json!({"session": "41", "code": "lost", "message": "no heartbeat for 20 s", "at_unix_ms": 1_000});
        let node: NodeView = serde_json::from_value(json!({
            "node": "edge-7", "state": "online", "since_unix_ms": 61_000, "since_s": 125,
            "reason": "said above", "rtt_ms": 38.2, "streams": 2, "explorer": "hub-1", "session": "42", "address": "192.0.2.1:4000",
            "labels": {"region": "eu"}, "ends": [end], "node_ends": [], "last_end": null,
            "services": [
                {"name": "rpc", "health": "failing", "reason": "connection refused", "framing": "http"},
                {"name": "database", "health": "unknown"}
            ]
        }))
        .unwrap();
        assert_eq!(
            page(&node),
            "\
edge-7  online for 2 min  at hub-1
  rtt       38 ms
  address   192.0.2.1:4000
  session   42, 2 streams
  labels    region=eu
  services  rpc      fails: connection refused; framing http
            database not probed
  ends      3 min ago lost: no heartbeat for 20 s"
        );
        let offline = NodeView { state: NodeState::Offline, ..node };
        assert!(page(&offline).contains("database last known: not probed"), "{}", page(&offline));
    }
}
