//! The simulated nodes: the node library as it is, many times in one process, each with an address of its own as far as
//! the explorer's port is concerned.

use std::{
    io::{self, BufRead, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use reachback_link::{Address, ListenAddress, Listener, Net, Pulse, RealNet, Stats, Transport};
use reachback_node::{LineState, Node, NodeConfig, Service};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpSocket, sync::mpsc};

use crate::{load::runtime, sys};

/// Nodes in one process at most: each has a descriptor, more while it is called, and a process may have 20,000 where this
/// was made.
pub const PER_PROCESS: usize = 8_000;

/// Descriptors of a process beside those of its nodes.
const FILES_SPARE: u64 = 500;

/// Connections from one source address: an address pair has some 28,000 ports, fewer once some wait to be used again.
const PER_SOURCE: u32 = 2_000;

/// What the process is told when its nodes shall dial.
pub(super) const DIAL: &str = "dial";
/// What it is asked for a [`Report`].
pub(super) const REPORT: &str = "report";

/// Which nodes, and where they go.
#[derive(Debug, Clone)]
pub struct Crew {
    /// The number of the first.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// The explorer.
    pub explorer: SocketAddr,
    /// What each of them offers as `rpc`.
    pub service: SocketAddr,
}

/// How the nodes of a process are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Sessions that stand and whose heartbeats are answered.
    pub live: usize,
    /// Sessions that became late since the start.
    pub late: u64,
    /// Sessions that ended since the start.
    pub ended: u64,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.live += other.live;
        self.late += other.late;
        self.ended += other.ended;
    }
}

/// The name of node `number`.
pub(super) fn name(number: usize) -> String {
    format!("sim-{number}")
}

/// Runs the nodes until standard input ends: says `ready`, starts them when told to, and answers each question for a
/// report with a line of JSON.
///
/// # Errors
/// Too many nodes for the descriptors there are, or for one process.
pub fn serve(crew: &Crew) -> io::Result<()> {
    let files = sys::raise_open_files()?;
    if crew.count > PER_PROCESS || files < crew.count as u64 + FILES_SPARE {
        return Err(io::Error::other(format!(
            "{} nodes in one process: at most {PER_PROCESS}, and {files} open files are allowed",
            crew.count
        )));
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("orders".into()).spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    })?;
    let mut out = io::stdout();
    writeln!(out, "{}", crate::load::READY)?;
    runtime()?.block_on(async {
        let stats = Arc::new(Stats::default());
        let mut nodes = Vec::new();
        while let Some(order) = told.recv().await {
            match order.as_str() {
                DIAL => nodes = start(crew, &stats)?,
                REPORT => writeln!(out, "{}", serde_json::to_string(&report(&nodes, &stats))?)?,
                other => return Err(io::Error::other(format!("unknown order {other:?}"))),
            }
        }
        Ok(())
    })
}

fn start(crew: &Crew, stats: &Arc<Stats>) -> io::Result<Vec<Node>> {
    let net: Arc<dyn Net> = Arc::new(ManySources { first: crew.first as u32, used: AtomicU32::new(0) });
    let explorer: Address = crew.explorer.to_string().parse().map_err(io::Error::other)?;
    let mut nodes = Vec::with_capacity(crew.count);
    for number in crew.first..crew.first + crew.count {
        let id = name(number).parse().map_err(io::Error::other)?;
        let service =
            Service::parse(&format!("rpc={},framing=http", crew.service)).map_err(io::Error::other)?;
        let mut config = NodeConfig::new(id, vec![explorer.clone()])
            .and_then(|config| config.with_service(service))
            .map_err(io::Error::other)?;
        config.link_stats = stats.clone();
        nodes.push(Node::start(config, net.clone()).map_err(io::Error::other)?);
    }
    Ok(nodes)
}

fn report(nodes: &[Node], stats: &Stats) -> Report {
    let live = |node: &&Node| {
        let live = |line: &reachback_node::LineStatus| {
            matches!(line.state, LineState::Serving { pulse: Pulse::Live, .. })
        };
        node.states().borrow().iter().any(live)
    };
    Report {
        live: nodes.iter().filter(live).count(),
        late: stats.sessions_late.load(Relaxed),
        ended: stats.sessions_ended.load(Relaxed),
    }
}

/// The real network, dialled from many addresses of 127.0.0.0/8: one address has too few ports for a fleet.
struct ManySources {
    /// Keeps the addresses of processes apart.
    first: u32,
    used: AtomicU32,
}

impl ManySources {
    fn next(&self) -> Ipv4Addr {
        let number = self.first.wrapping_add(self.used.fetch_add(1, Relaxed)) / PER_SOURCE;
        // 127.1.0.1 to 127.1.250.250: away from 127.0.0.1, where everything listens.
        let [high, low] = [number / 250 % 250, number % 250].map(|part| part as u8);
        Ipv4Addr::new(127, 1, high, low + 1)
    }
}

impl Net for ManySources {
    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            let target = match to {
                Address::Tcp { host, port } => {
                    host.parse().map(|host: Ipv4Addr| SocketAddr::from((host, *port)))
                }
                Address::Unix(_) => return RealNet.connect(to).await,
            };
            let target = target.map_err(io::Error::other)?;
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((self.next(), 0)))?;
            Ok(socket.connect(target).await?.into())
        })
    }

    fn listen<'a>(&'a self, on: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        RealNet.listen(on)
    }
}

/// How often the one who waits for a fleet looks.
pub(super) const LOOK: Duration = Duration::from_millis(100);
