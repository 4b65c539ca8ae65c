//! The steps of the demo, in the order of what one wants to know first.

use std::{fmt::Write, io, net::SocketAddr};

use reachback_client::Client;
use reachback_explorer::{NodeState, NodeView};
use reachback_link::OpenError;
use reachback_wire::{Code, Refusal, Target};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    commands::{client, line::short, nodes},
    exit::{Exit, Failure},
    limits::DEMO_PAYLOAD,
};

use super::{stage::Stage, world::Scene};

const NODES: [&str; 3] = ["attic", "barn", "cellar"];

/// Goes through all steps.
pub(super) async fn tell(stage: &mut Stage, scene: &Scene) -> Result<(), Failure> {
    stage.step("An explorer is the hub that everyone can reach")?;
    let client = stage
        .within("a session with the explorer", client::connect(&client::Way::direct(scene.explorer.clone())))
        .await??;
    stage.seen(format_args!("{} listens on {}", client.explorer(), scene.explorer))?;

    stage.step("Three nodes dial out to it; they listen nowhere themselves")?;
    for node in NODES {
        // The round trip is measured a moment later, and the table below shows it.
        let row =
            until(stage, &client, node, |row| row.state == NodeState::Online && row.rtt_ms.is_some()).await?;
        stage.seen(format_args!("{node} is online and offers {}", nodes::services(&row)))?;
    }

    stage.step("A stream reaches back through the line that attic dialled out")?;
    let begun = Instant::now();
    let what = "1 MiB to attic/echo and back";
    stage
        .within(what, round_trip(&client))
        .await?
        .map_err(|error| stage.failed(format_args!("{what}: {error}")))?;
    stage.seen(format_args!("{what}, every byte the same, in {}", short(begun.elapsed())))?;

    stage.step("Who is there: reachback nodes")?;
    stage.show(&nodes::table(&rows(stage, &client).await?))?;

    stage.step("A service is broken on purpose: nobody listens where barn/broken should be")?;
    let refusal = refusal(stage, &client, "barn/broken", Code::ServiceUnreachable).await?;
    stage.seen(refusal)?;

    stage.step("The line of cellar is cut: both sockets are reset, and dialing fails")?;
    scene.cable.send_replace(true);
    let row = until(stage, &client, "cellar", |row| row.state == NodeState::Offline).await?;
    stage.seen(format_args!(
        "the explorer knows, and why: {}",
        row.last_end.map_or(row.reason, |end| end.message)
    ))?;
    let refusal = self::refusal(stage, &client, "cellar/echo", Code::NodeOffline).await?;
    stage.seen(refusal)?;
    until_port(stage, scene.published, false).await?;
    stage.seen(format_args!("its published port {} refuses connections", scene.published))?;

    stage.step("The line is mended; nobody touches the node")?;
    let begun = Instant::now();
    scene.cable.send_replace(false);
    until(stage, &client, "cellar", |row| row.state == NodeState::Online).await?;
    stage.seen(format_args!("cellar is online again after {}", short(begun.elapsed())))?;
    until_port(stage, scene.published, true).await?;
    stage.seen(format_args!("its published port answers again: bytes went to cellar/echo and back"))?;

    client.close().await;
    Ok(())
}

/// What to type in another terminal; each line works as it stands.
pub(super) fn to_try(scene: &Scene) -> Result<String, Failure> {
    let binary = std::env::current_exe().map_err(|error| {
        Failure::new(Exit::Failed, format_args!("this program's own path is not known: {error}"))
    })?;
    let binary = quoted(&binary.display().to_string());
    let explorer = &scene.explorer;
    let port = scene.published.port();
    let mut text =
        String::from("\nAll steps worked, and all of it stays up until Ctrl-C. In another terminal:\n");
    for (what, command) in [
        ("who is there", format!("{binary} nodes --explorer {explorer}")),
        ("a stream", format!("echo hello | {binary} connect attic/echo --explorer {explorer}")),
        (
            "a service inside a program",
            format!("{binary} connect attic/hello --explorer {explorer} </dev/null"),
        ),
        ("a refusal", format!("{binary} connect barn/broken --explorer {explorer}")),
        (
            "a local port; open the address it prints in a browser",
            format!("{binary} forward barn/web --explorer {explorer}"),
        ),
        ("a published port; type something", format!("nc 127.0.0.1 {port}")),
        (
            "the explorer's local socket",
            format!("{binary} nodes --explorer {}", quoted(&scene.socket.display().to_string())),
        ),
    ] {
        // Writing to a String can't fail.
        let _infallible = write!(text, "\n  {what}\n    {command}\n");
    }
    Ok(text)
}

async fn rows(stage: &Stage, client: &Client) -> Result<Vec<NodeView>, Failure> {
    nodes::ask(client).await.map_err(|failure| stage.failed(failure))
}

/// Waits until the explorer says what is expected of a node.
async fn until(
    stage: &Stage,
    client: &Client,
    node: &str,
    expected: impl Fn(&NodeView) -> bool,
) -> Result<NodeView, Failure> {
    stage
        .until(&format!("a change of {node}"), || async {
            let rows = nodes::ask(client).await.map_err(|failure| failure.to_string())?;
            match rows.into_iter().find(|row| row.node.as_ref() == node) {
                Some(row) if expected(&row) => Ok(row),
                Some(row) => Err(nodes::state(&row).to_owned()),
                None => Err("not known".to_owned()),
            }
        })
        .await
}

/// Opens what must be refused with `code`.
async fn refusal(stage: &Stage, client: &Client, target: &str, code: Code) -> Result<Refusal, Failure> {
    let parsed: Target = target.parse().map_err(|error| stage.failed(error))?;
    match stage.within(target, client.open(parsed)).await? {
        Err(OpenError::Refused(refusal)) if refusal.code == code => Ok(refusal),
        Err(other) => Err(stage.failed(format_args!("{target}: {} was expected, not: {other}", code.name()))),
        Ok(_) => Err(stage.failed(format_args!("{target}: {} was expected, and it opened", code.name()))),
    }
}

/// Waits until the published port serves, or until it refuses.
async fn until_port(stage: &Stage, port: SocketAddr, serves: bool) -> Result<(), Failure> {
    stage
        .until("a change of the published port", || async move {
            match (echoed(port).await, serves) {
                (Ok(()), true) => Ok(()),
                (Err(error), false) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                (Ok(()), false) => Err("it still serves".to_owned()),
                (Err(error), _) => Err(error.to_string()),
            }
        })
        .await
}

async fn echoed(port: SocketAddr) -> io::Result<()> {
    let mut visitor = TcpStream::connect(port).await?;
    visitor.write_all(b"ping").await?;
    visitor.shutdown().await?;
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).await?;
    match answer == b"ping" {
        true => Ok(()),
        false => Err(io::Error::other(format!("{} bytes came back that were not sent", answer.len()))),
    }
}

async fn round_trip(client: &Client) -> Result<(), String> {
    let target: Target = "attic/echo".parse().map_err(|error| format!("{error}"))?;
    let stream = client.open(target).await.map_err(|error| error.to_string())?.into_io();
    let sent: Vec<u8> = (0..DEMO_PAYLOAD).map(|index| (index % 251) as u8).collect();
    let mut came_back = Vec::with_capacity(sent.len());
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    let outcome = tokio::try_join!(sending, read.read_to_end(&mut came_back));
    outcome.map_err(|error| error.to_string())?;
    match came_back == sent {
        true => Ok(()),
        false => {
            Err(format!("{} bytes came back, and they differ from the {} sent", came_back.len(), sent.len()))
        }
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for (word, expected) in
            [("/usr/bin/reachback", "/usr/bin/reachback"), ("/a b", "'/a b'"), ("it's", "'it'\\''s'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
