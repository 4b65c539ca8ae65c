//! The explorer's own API, as the commands use it: one session, one method, one answer.

use reachback_client::{CallError, Client};
use reachback_explorer::{NodeState, NodeView};
use reachback_wire::{Code, NodeId, Target, nearest};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    args::ClientArguments,
    commands::{client, nodes},
    environment::Environment,
    exit::{Exit, Failure},
    limits,
};

/// Calls one method about one node, over a session of its own.
pub(crate) async fn ask_about(
    arguments: ClientArguments,
    environment: &Environment,
    method: &str,
    id: &NodeId,
    params: Value,
) -> Result<Value, Failure> {
    let client = client::connect(&client::explorer(arguments, environment)?).await?;
    let answer = about(&client, method, id, params).await;
    client.close().await;
    answer
}

/// Calls one method, over a session of its own.
pub(crate) async fn ask(
    arguments: ClientArguments,
    environment: &Environment,
    method: &str,
    params: Value,
) -> Result<Value, Failure> {
    let client = client::connect(&client::explorer(arguments, environment)?).await?;
    let answer = call(&client, method, &params).await;
    client.close().await;
    answer
}

/// An answer in the shape that this program knows.
pub(crate) fn read<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format_args!("the explorer's answer is not understood ({error}); is it of another version?"),
        )
    })
}

/// Calls one method.
pub(crate) async fn call(client: &Client, method: &str, params: &Value) -> Result<Value, Failure> {
    client.call(target()?, method, params, limits::ANSWER).await.map_err(|error| refused(method, error))
}

/// Where the explorer's own API is.
pub(crate) fn target() -> Result<Target, Failure> {
    "@explorer/api".parse().map_err(|error| Failure::new(Exit::Failed, error))
}

/// What the explorer says of one node, or the sentence that it does not know it.
pub(crate) async fn node(client: &Client, id: &NodeId) -> Result<NodeView, Failure> {
    nodes::one(about(client, "explorer.node", id, json!({"id": id})).await?)
}

/// Calls a method that is about one node. Where the explorer does not know the node, the refusal is told in words of
/// this command line instead of the API's.
pub(crate) async fn about(
    client: &Client,
    method: &str,
    id: &NodeId,
    params: Value,
) -> Result<Value, Failure> {
    let refused = match call(client, method, &params).await {
        Err(refused) if refused.exit == Exit::Coded(Code::NodeNotFound) => refused,
        answered => return answered,
    };
    // What it said stands if it can't be asked for names.
    let Ok(known) = nodes::ask(client).await else { return Err(refused) };
    let names: Vec<String> = known.into_iter().map(|node| node.node.to_string()).collect();
    Err(unknown_node(id, &names, client.explorer()))
}

/// A node must be there before anything is started for it.
pub(crate) fn reachable(node: &NodeView) -> Result<(), Failure> {
    if node.state != NodeState::Offline {
        return Ok(());
    }
    let why = node.last_end.as_ref().map(|end| format!(": {}", end.message)).unwrap_or_default();
    Err(Failure::coded(
        Code::NodeOffline,
        format_args!("{} has no line to {}{why}; nothing was sent", node.node, node.explorer),
    ))
}

fn unknown_node(id: &NodeId, names: &[String], explorer: &NodeId) -> Failure {
    let hint = match (nearest(id.as_ref(), names.iter().map(String::as_str)), names.is_empty()) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, true) => "it knows no node at all yet".to_owned(),
        (None, false) => "`reachback nodes` lists those it knows".to_owned(),
    };
    Failure::coded(Code::NodeNotFound, format_args!("{explorer} knows no node {id}; {hint}"))
}

/// The API puts its refusals into JSON-RPC errors with the number of the code; they are refusals like any other.
pub(crate) fn refused(method: &str, error: CallError) -> Failure {
    let CallError::Service { code, message, .. } = &error else { return client::not_called(error) };
    if *code == METHOD_NOT_FOUND {
        return Failure::new(
            Exit::Failed,
            format_args!("this explorer does not know {method}; it is of an older version than this program"),
        );
    }
    own_refusal(*code, message).unwrap_or_else(|| client::not_called(error))
}

/// What an error of the API is as a refusal; none for errors of JSON-RPC itself.
pub(crate) fn own_refusal(code: i64, message: &str) -> Option<Failure> {
    let known = Code::ALL.iter().find(|known| i64::from(known.row().jsonrpc) == code)?;
    Some(Failure::coded(*known, message))
}

/// JSON-RPC 2.0, section 5.1.
const METHOD_NOT_FOUND: i64 = -32_601;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_node_is_answered_with_the_nearest() {
        let id = "edge-9".parse().unwrap();
        let explorer = "hub-1".parse().unwrap();
        for (names, part) in [
            (&["edge-7", "attic"][..], "did you mean edge-7?"),
            (&["attic"], "`reachback nodes`"),
            (&[], "no node at all yet"),
        ] {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let failure = unknown_node(&id, &names, &explorer);
            assert!(failure.to_string().contains(part), "{failure}");
            assert_eq!(failure.exit.number(), 69);
        }
    }

    #[test]
    fn refusals_of_the_api_keep_their_code() {
        let service = |code| {
            let error = CallError::Service { code, message: "edge-7 is offline".into(), data: None };
            refused("explorer.kick", error)
        };
        let failure = service(Code::NodeOffline.row().jsonrpc.into());
        assert_eq!(failure.to_string(), "node_offline: edge-7 is offline");
        assert_eq!(failure.exit.number(), 69);
        assert_eq!(service(7).exit.number(), 1);
        assert!(service(METHOD_NOT_FOUND).to_string().contains("explorer.kick"));
    }
}
