//! Whether a node is there, as its explorer tells it: `explorer.watch`, followed for as long as a line lives.
//!
//! Asking again and again would be late and a load; the explorer knows the moment a node comes or goes and says so. An
//! explorer that does not know the method leaves the question open, and then whoever wants to know has to try.

use std::time::Duration;

use reachback_link::{OpenError, Session, StreamEnd, Substream};
use reachback_wire::{Code, NodeId, Open, OpenKind, Record, RecordKind, Target, limits, text::sanitize};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::watch, time::sleep};

use crate::limits::{RETRY_PAUSE, WATCH_AGAIN, WATCH_ITEM_MAX};

/// What is known about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The first word has not come yet.
    Asking,
    /// It can be reached.
    Online,
    /// It can't.
    Offline,
    /// There is no session, so nothing can be reached.
    NoSession,
    /// The explorer does not say.
    Untold,
}

/// Follows one node over one line, for ever; `tell` hears every word, the same one perhaps again.
pub(crate) async fn follow(
    mut sessions: watch::Receiver<Option<Session>>,
    node: NodeId,
    tell: impl Fn(Presence),
) {
    loop {
        let session = sessions.borrow_and_update().clone();
        let Some(session) = session else {
            tell(Presence::NoSession);
            if sessions.changed().await.is_err() {
                return;
            }
            continue;
        };
        let pause = tokio::select! {
            ended = listen(&session, &node, &tell) => match ended {
                Ended::Again => RETRY_PAUSE,
                Ended::Untold(why) => {
                    tracing::debug!(%node, %why, "the explorer does not tell about the node");
                    tell(Presence::Untold);
                    WATCH_AGAIN
                }
            },
            _ = session.ended() => Duration::ZERO,
        };
        tokio::select! {
            _ = session.ended() => {
                tell(Presence::NoSession);
                // The line takes the session down a moment after its end.
                if sessions.changed().await.is_err() {
                    return;
                }
            }
            () = sleep(pause) => {}
        }
    }
}

/// Why nothing more is heard.
enum Ended {
    /// It broke off; asking again may help at once.
    Again,
    /// The explorer won't or can't tell.
    Untold(String),
}

async fn listen(session: &Session, node: &NodeId, tell: &impl Fn(Presence)) -> Ended {
    match watch_node(session, node, tell).await {
        Ok(ended) => ended,
        Err(end) => {
            tracing::debug!(%node, %end, "the explorer stopped telling about the node");
            Ended::Again
        }
    }
}

async fn watch_node(session: &Session, node: &NodeId, tell: &impl Fn(Presence)) -> Result<Ended, StreamEnd> {
    let Ok(target) = "@explorer/api".parse::<Target>() else {
        return Ok(Ended::Untold("the target of the API is not known".into()));
    };
    // A call without a deadline: it lasts as long as the session.
    let open = Open { kind: OpenKind::Call, ..Open::stream(target) };
    let mut stream = match session.open(open).await {
        Ok(stream) => stream,
        Err(OpenError::Refused(refusal)) => return Ok(Ended::Untold(refusal.to_string())),
        Err(OpenError::Ended(_) | OpenError::Lost(_)) => return Ok(Ended::Again),
        Err(error) => return Ok(Ended::Untold(error.to_string())),
    };
    let request =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "explorer.watch", "params": { "node": node } });
    stream.send(RecordKind::Head, br#"{"stream":true}"#).await?;
    stream.send(RecordKind::Data, request.to_string().as_bytes()).await?;
    stream.finish(None).await?;
    read(&mut stream, node, tell).await
}

async fn read(stream: &mut Substream, node: &NodeId, tell: &impl Fn(Presence)) -> Result<Ended, StreamEnd> {
    let mut text = Vec::new();
    loop {
        let (bytes, whole) = match stream.next().await? {
            Record::Head(_) => continue,
            Record::Data(bytes) => (bytes, false),
            Record::Item(bytes) => (bytes, true),
            Record::End(Some(status)) => {
                let code = status.code;
                return Ok(Ended::Untold(format!(
                    "{code}: {}",
                    sanitize(&status.message, limits::END_TEXT_MAX)
                )));
            }
            // A text that is no item is an answer that is no stream: an error, then.
            Record::End(None) if text.is_empty() => return Ok(Ended::Again),
            Record::End(None) => return Ok(Ended::Untold(sanitize(&String::from_utf8_lossy(&text), 200))),
            Record::Reset { code, text } => {
                let code = Code::from_number(code).unwrap_or(Code::Reset);
                return Ok(Ended::Untold(format!("{code}: {}", sanitize(&text, limits::END_TEXT_MAX))));
            }
        };
        text.extend_from_slice(&bytes);
        if text.len() > WATCH_ITEM_MAX {
            return Ok(Ended::Untold("what it says is too long".into()));
        }
        if whole {
            match serde_json::from_slice::<Said>(&text) {
                Ok(said) => {
                    if let Some(presence) = said.about(node) {
                        tell(presence);
                    }
                }
                Err(error) => return Ok(Ended::Untold(format!("what it says can't be read: {error}"))),
            }
            text.clear();
        }
    }
}

/// All matching nodes, or the one that has changed.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Nodes { nodes: Vec<Node> },
    Node(Node),
}

#[derive(Deserialize)]
struct Node {
    node: NodeId,
    state: String,
}

impl Said {
    fn about(&self, wanted: &NodeId) -> Option<Presence> {
        let (node, all) = match self {
            Self::Nodes { nodes } => (nodes.iter().find(|node| node.node == *wanted), true),
            Self::Node(node) => (Some(node).filter(|node| node.node == *wanted), false),
        };
        match node {
            // Whatever is not there is away, `forgotten` and states of later versions included: late and retiring
            // ones still take opens.
            Some(node) if matches!(node.state.as_str(), "online" | "late" | "retiring") => {
                Some(Presence::Online)
            }
            Some(_) => Some(Presence::Offline),
            None => all.then_some(Presence::Offline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_explorer() {
        let node: NodeId = "edge-7".parse().unwrap();
        for (text, expected) in [
            (
                r#"{"explorer":"hub","nodes":[{"node":"edge-7","state":"online","x":1}]}"#,
                Some(Presence::Online),
            ),
            (r#"{"explorer":"hub","nodes":[]}"#, Some(Presence::Offline)),
            (r#"{"node":"edge-7","state":"late","rtt_ms":1.5}"#, Some(Presence::Online)),
            (r#"{"node":"edge-7","state":"retiring"}"#, Some(Presence::Online)),
            (r#"{"node":"edge-7","state":"offline"}"#, Some(Presence::Offline)),
            (r#"{"node":"edge-7","state":"forgotten"}"#, Some(Presence::Offline)),
            (r#"{"node":"edge-8","state":"offline"}"#, None),
        ] {
            let said: Said = serde_json::from_str(text).unwrap();
            assert_eq!(said.about(&node), expected, "{text}");
        }
    }
}
