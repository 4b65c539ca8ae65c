//! What the demo is made of: an explorer, three nodes, their services, and a cable that can be cut.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use reachback_explorer::{Explorer, ExplorerConfig, Publication, SocketConfig};
use reachback_link::{Address, RealNet};
use reachback_node::{Node, NodeConfig, Service, Visit};
use reachback_wire::NodeId;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, sync::watch};

use crate::{
    exit::{Exit, Failure},
    limits::DEMO_HEARTBEAT,
};

use super::{
    cutter::Cutter,
    services::{NobodyListens, Services},
};

/// Everything that runs.
pub(super) struct World {
    explorer: Explorer,
    nodes: Vec<Node>,
    services: Services,
    cutter: Cutter,
    _nobody: NobodyListens,
    directory: TempDir,
}

/// What the story needs to know of it.
pub(super) struct Scene {
    /// Where clients connect.
    pub(super) explorer: Address,
    /// The explorer's local socket.
    pub(super) socket: PathBuf,
    /// The published port that leads to cellar's echo.
    pub(super) published: SocketAddr,
    /// The cable between cellar and the explorer.
    pub(super) cable: watch::Sender<bool>,
}

impl World {
    /// Starts all of it; nodes may still be dialing when this returns.
    pub(super) async fn build() -> Result<(Self, Scene), Failure> {
        let broken = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| {
                Failure::new(Exit::Failed, format_args!("the demo can't start: {what}: {error}"))
            }
        };
        let directory = tempfile::Builder::new()
            .prefix("reachback-demo-")
            .tempdir()
            .map_err(broken("temporary directory"))?;
        let socket = directory.path().join("explorer.sock");

        let mut config = ExplorerConfig::new(id("hub")?);
        config.listen.push(parsed("127.0.0.1:0")?);
        config.socket = Some(SocketConfig::new(&socket));
        config.heartbeat = DEMO_HEARTBEAT;
        config.publish.push(Publication { listen: parsed("127.0.0.1:0")?, target: parsed("cellar/echo")? });
        let explorer = Explorer::start(config, Arc::new(RealNet)).await.map_err(failed)?;
        let (tunnel, published) = addresses(&explorer)?;

        let mut services = Services::new();
        let echo = services.echo().await.map_err(broken("echo service"))?;
        let web = directory.path().join("web.sock");
        services.web(&web).map_err(broken("web service"))?;
        let nobody = NobodyListens::hold().map_err(broken("a port without a service"))?;
        let cutter = Cutter::start(tunnel).await.map_err(broken("cutting proxy"))?;

        let nodes = vec![
            node(
                "attic",
                tunnel,
                vec![entry(&format!("echo={echo}"))?, Service::handler("hello", hello).map_err(failed)?],
            )?,
            node(
                "barn",
                tunnel,
                vec![
                    entry(&format!("web={}", web.display()))?,
                    entry(&format!("broken={}", nobody.address()))?,
                ],
            )?,
            node("cellar", cutter.address(), vec![entry(&format!("echo={echo}"))?])?,
        ];
        let scene = Scene { explorer: address(tunnel), socket, published, cable: cutter.cable() };
        Ok((Self { explorer, nodes, services, cutter, _nobody: nobody, directory }, scene))
    }

    /// Resolves when a part of it broke by itself, with the reason.
    pub(super) async fn failed(&mut self) -> String {
        let [attic, barn, cellar] = self.nodes.as_mut_slice() else { return "a node is missing".to_owned() };
        tokio::select! {
            reason = self.explorer.failed() => reason,
            reason = attic.failed() => reason,
            reason = barn.failed() => reason,
            reason = cellar.failed() => reason,
            reason = self.services.failed() => reason,
            reason = self.cutter.failed() => reason,
        }
    }

    /// Ends all of it in order: nodes say goodbye, then the explorer, then what they used goes away.
    pub(super) async fn end(self) {
        futures::future::join_all(self.nodes.into_iter().map(Node::shutdown)).await;
        self.explorer.shutdown().await;
        drop((self.cutter, self.services));
        if let Err(error) = self.directory.close() {
            tracing::warn!(%error, "the temporary directory could not be removed");
        }
    }
}

fn node(name: &str, explorer: SocketAddr, services: Vec<Service>) -> Result<Node, Failure> {
    let mut config = NodeConfig::new(id(name)?, vec![address(explorer)]).map_err(failed)?;
    for service in services {
        config = config.with_service(service).map_err(failed)?;
    }
    Node::start(config, Arc::new(RealNet)).map_err(failed)
}

/// A service that is a function of this process.
async fn hello(mut visit: Visit) -> io::Result<()> {
    visit.write_all(b"hello from attic; you came through the line it dialled out\n").await
}

fn addresses(explorer: &Explorer) -> Result<(SocketAddr, SocketAddr), Failure> {
    let addresses = explorer.addresses();
    let tunnel = addresses.listen.first().and_then(|local| local.socket_addr());
    let published = addresses.published.first().and_then(|(local, _)| local.socket_addr());
    tunnel.zip(published).ok_or_else(|| Failure::new(Exit::Failed, "the explorer of the demo has no ports"))
}

fn address(socket: SocketAddr) -> Address {
    Address::Tcp { host: socket.ip().to_string(), port: socket.port() }
}

fn entry(text: &str) -> Result<Service, Failure> {
    Service::parse(text).map_err(failed)
}

fn id(text: &str) -> Result<NodeId, Failure> {
    parsed(text)
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format_args!("the demo can't start: {error}"))
}
