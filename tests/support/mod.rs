//! What the laboratory tests share: an explorer and a published port on the hub, a node and its services on an edge that
//! nobody can dial, and ways to get from one to the other.
#![allow(dead_code, reason = "each of the test files uses a part of it")]

use std::{
    fs,
    io::{self, PipeWriter, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use reachback_bench::sys;
use reachback_testkit::{
    eventually,
    lab::{Lab, Side},
    process::{self, Finished, Process, ProcessError},
};
use serde_json::Value;
use tempfile::TempDir;

/// The binary that cargo built for this test run.
pub(crate) const REACHBACK: &str = env!("CARGO_BIN_EXE_reachback");

/// The node on the edge.
pub(crate) const NODE: &str = "edge-7";

/// For what happens at once: generous, because machines are busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// For a node that has to dial again: its longest pause is 30 s, +10 %.
pub(crate) const BACK_AGAIN: Duration = Duration::from_secs(60);

/// The explorer's port; each lab has its own, so it can be a fixed one.
const EXPLORER_PORT: u16 = 9002;

/// The published port of the first service; the others follow.
const FIRST_PUBLISHED: u16 = 9100;

/// The forwarded port of the first service; the others follow.
const FIRST_FORWARDED: u16 = 9200;

/// Whether the full lengths and sizes are run (CI), or the short ones.
pub(crate) fn thorough() -> bool {
    std::env::var_os("CI").is_some_and(|ci| ci == "true")
}

/// The product, running in a lab. Fields are dropped in order: programs first, then their machines.
pub(crate) struct World {
    pub(crate) forward: Process,
    pub(crate) node: Process,
    pub(crate) explorer: Process,
    pub(crate) lab: Lab,
    pub(crate) home: TempDir,
    heartbeat: Option<&'static str>,
    services: Vec<(&'static str, u16)>,
}

/// A way to a service: its name for messages, and where to connect on the hub.
pub(crate) type Way = (&'static str, SocketAddr);

impl World {
    /// Starts explorer, node and a forwarding client, and waits until the node is online. `services` are names and
    /// ports on the loopback of the edge. `heartbeat` is the explorer's, 10 s without.
    pub(crate) fn start(lab: Lab, services: &[(&'static str, u16)], heartbeat: Option<&'static str>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let services = services.to_vec();
        let explorer = start_explorer(&lab, &home, &services, heartbeat);
        let node = start_node(&lab, &services);
        let forward = start_forward(&lab, &services);
        let world = Self { forward, node, explorer, lab, home, heartbeat, services };
        world.wait_until_published();
        world
    }

    /// Waits until every published port is open. The explorer knows that the node is online a moment after the node
    /// does; looking at the kernel's list disturbs no service.
    #[track_caller]
    pub(crate) fn wait_until_published(&self) {
        for (service, _) in &self.services {
            let (_, address) = self.published(service);
            eventually(SOON, &format!("{address} is published"), || listens(&self.explorer, address));
        }
    }

    /// The explorer again, after the test has ended it.
    pub(crate) fn restart_explorer(&mut self) {
        self.explorer = start_explorer(&self.lab, &self.home, &self.services, self.heartbeat);
    }

    /// The node again, after the test has ended it.
    pub(crate) fn restart_node(&mut self) {
        self.node = start_node(&self.lab, &self.services);
    }

    /// The published port of a service.
    pub(crate) fn published(&self, service: &str) -> Way {
        ("published port", self.port(FIRST_PUBLISHED, service))
    }

    /// The forwarded port of a service.
    pub(crate) fn forwarded(&self, service: &str) -> Way {
        ("forward", self.port(FIRST_FORWARDED, service))
    }

    /// Both.
    pub(crate) fn ways(&self, service: &str) -> [Way; 2] {
        [self.published(service), self.forwarded(service)]
    }

    fn port(&self, first: u16, service: &str) -> SocketAddr {
        let place =
            self.services.iter().position(|(name, _)| *name == service).expect("a service of this world");
        let place = u16::try_from(place).expect("few services");
        SocketAddr::from((Ipv4Addr::LOCALHOST, first + place))
    }

    /// A `reachback` command of a client on the hub: name of the command, then its arguments.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        client(&self.lab, arguments)
    }

    /// The command line of `reachback connect`, for a ProxyCommand.
    pub(crate) fn connect_line(&self, target: &str) -> String {
        format!(
            "{REACHBACK} connect --insecure-plaintext --explorer {} {target}",
            explorer_address(&self.lab)
        )
    }

    /// A TCP connection of a visitor on the hub.
    pub(crate) fn visit(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.lab.hub().within(|| TcpStream::connect_timeout(&to, SOON)).expect("on the hub")?;
        // A test that would hang fails instead; longer than anything it waits for.
        stream.set_read_timeout(Some(BACK_AGAIN))?;
        stream.set_write_timeout(Some(BACK_AGAIN))?;
        Ok(stream)
    }

    /// What `reachback nodes --json` says about the node.
    pub(crate) fn view(&self) -> Result<Value, String> {
        let listed = process::run("reachback nodes", &mut self.client(&["nodes", "--json"]), SOON);
        let Finished { status, stdout, stderr } = listed.map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("nodes: {status}: {stderr}"));
        }
        let list: Value =
            serde_json::from_str(&stdout).map_err(|error| format!("nodes: {error}: {stdout}"))?;
        let nodes =
            list.as_array().or_else(|| list["nodes"].as_array()).ok_or(format!("no list: {stdout}"))?;
        let found = nodes.iter().find(|node| node["node"] == NODE);
        found.cloned().ok_or(format!("no {NODE}: {stdout}"))
    }

    /// Waits until the explorer says that the node is in this state, and returns what it says.
    #[track_caller]
    pub(crate) fn wait_for_state(&self, state: &str, deadline: Duration) -> Value {
        eventually(deadline, &format!("{NODE} {state} in `nodes --json`"), || {
            let view = self.view()?;
            if view["state"] == state { Ok(view) } else { Err(view.to_string()) }
        })
    }

    /// Waits until an echo comes back that way, without touching anything.
    #[track_caller]
    pub(crate) fn wait_until_reachable(&self, (name, address): Way, deadline: Duration) {
        eventually(deadline, &format!("an echo through the {name}"), || {
            let mut stream = self.visit(address)?;
            let echoed = exchange(&mut stream, b"are you there?")?;
            if echoed == b"are you there?" { Ok(()) } else { Err(io::Error::other("another answer")) }
        });
    }
}

fn explorer_address(lab: &Lab) -> String {
    format!("{}:{EXPLORER_PORT}", lab.hub().address())
}

fn client(lab: &Lab, arguments: &[&str]) -> Command {
    let (name, rest) = arguments.split_first().expect("a command");
    let mut command = lab.hub().command(REACHBACK);
    command.args([name, "--insecure-plaintext", "--explorer", &explorer_address(lab)]).args(rest);
    command
}

fn start_explorer(lab: &Lab, home: &TempDir, services: &[(&str, u16)], heartbeat: Option<&str>) -> Process {
    let mut command = lab.hub().command(REACHBACK);
    command.args(["explorer", "--id", "hub", "--insecure-plaintext", "--listen", &explorer_address(lab)]);
    command.arg("--socket").arg(home.path().join("explorer.sock"));
    if let Some(heartbeat) = heartbeat {
        command.args(["--heartbeat", heartbeat]);
    }
    for ((service, _), port) in services.iter().zip(FIRST_PUBLISHED..) {
        command.args(["--publish", &format!("{port}={NODE}/{service}")]);
    }
    let explorer = Process::spawn("explorer", &mut command).expect("the explorer starts");
    explorer.wait_for_line("listening", SOON).expect("the explorer listens");
    explorer
}

fn start_node(lab: &Lab, services: &[(&str, u16)]) -> Process {
    let mut command = lab.edge().command(REACHBACK);
    command.args(["node", "--id", NODE, "--insecure-plaintext", "--explorer", &explorer_address(lab)]);
    for (service, port) in services {
        command.args(["--service", &format!("{service}={port}")]);
    }
    let node = Process::spawn("node", &mut command).expect("the node starts");
    node.wait_for_line(&format!("{NODE} online at"), BACK_AGAIN).expect("the node gets online");
    node
}

fn start_forward(lab: &Lab, services: &[(&str, u16)]) -> Process {
    let forwards =
        services.iter().zip(FIRST_FORWARDED..).map(|((service, _), port)| format!("{port}={NODE}/{service}"));
    let mut command = client(lab, &["forward"]);
    let forward = Process::spawn("forward", command.args(forwards)).expect("forward starts");
    for (service, _) in services {
        forward.wait_for_line(&format!("-> {NODE}/{service}"), SOON).expect("forward listens");
    }
    forward
}

/// Whether something listens on this address in the network namespace of a process.
fn listens(process: &Process, address: SocketAddr) -> Result<(), String> {
    const LISTEN: &str = "0A";
    let sockets =
        fs::read_to_string(format!("/proc/{}/net/tcp", process.pid())).map_err(|error| error.to_string())?;
    let port = format!(":{:04X}", address.port());
    let mut sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = sockets
        .any(|socket| socket.get(1).is_some_and(|local| local.ends_with(&port)) && socket[3] == LISTEN);
    if found { Ok(()) } else { Err(process.tail()) }
}

/// Writes everything, ends the direction, and reads to the end of the other one.
pub(crate) fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    thread::scope(|scope| {
        let mut to = &*stream;
        let writer = scope.spawn(move || {
            to.write_all(bytes)?;
            to.shutdown(Shutdown::Write)
        });
        let mut from = &*stream;
        let read = from.read_to_end(&mut answer);
        let written = writer.join().expect("the writer does not panic");
        read.and(written)
    })?;
    Ok(answer)
}

/// Runs a program that has to succeed, and returns what it printed.
#[track_caller]
pub(crate) fn succeed(
    name: &str,
    command: &mut Command,
    deadline: Duration,
) -> Result<Finished, ProcessError> {
    let finished = process::run(name, command, deadline)?;
    assert!(finished.status.success(), "{name}: {}\n{}{}", finished.status, finished.stdout, finished.stderr);
    Ok(finished)
}

/// A TCP service on the loopback of a side: a thread that accepts, and one per visitor.
pub(crate) struct Service {
    port: u16,
    /// Closing it stops the acceptor.
    stop: Option<PipeWriter>,
    acceptor: Option<JoinHandle<io::Result<()>>>,
}

impl Service {
    /// Serves every visitor with `visit`; a visitor's thread ends with its connection.
    pub(crate) fn start(
        side: &Side,
        visit: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let bound = side.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("on this side");
        let listener = bound.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (stopped, stop) = io::pipe().expect("a pipe");
        let visit = Arc::new(visit);
        let acceptor = thread::spawn(move || {
            loop {
                let [visitor, stopped] = sys::wait_readable(listener.as_fd(), stopped.as_fd(), None)?;
                if stopped {
                    return Ok(());
                }
                if visitor {
                    let (stream, visit) = (listener.accept()?.0, Arc::clone(&visit));
                    // How a visit ends is what the test sees at the other end.
                    thread::spawn(move || visit(stream).ok());
                }
            }
        });
        Self { port, stop: Some(stop), acceptor: Some(acceptor) }
    }

    /// A service that sends back what it gets.
    pub(crate) fn echo(side: &Side) -> Self {
        Self::start(side, |mut stream| {
            let mut from = stream.try_clone()?;
            io::copy(&mut from, &mut stream)?;
            stream.shutdown(Shutdown::Write)
        })
    }

    /// Its port on the loopback of its side.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.acceptor.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(Ok(())))), "a service could not go on accepting: {ended:?}");
        }
    }
}

/// Bytes that repeat only after a prime number of them, so that a missing, doubled or moved piece is seen.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    const PERIOD: usize = 65_521;

    pub(crate) fn new() -> Self {
        Self(
            (0..2 * Self::PERIOD)
                .map(|at| at % Self::PERIOD)
                .map(|at| ((at * 31) ^ (at >> 8)) as u8)
                .collect(),
        )
    }

    /// Writes the first `size` bytes of it.
    pub(crate) fn write(&self, to: &mut impl Write, size: u64) -> io::Result<()> {
        let mut at = 0;
        while at < size {
            let len = (size - at).min(Self::PERIOD as u64);
            let written = to.write(self.piece(at, len as usize))?;
            at += written as u64;
        }
        Ok(())
    }

    /// Reads to the end, which must come after exactly `size` bytes of it.
    pub(crate) fn check(&self, from: &mut impl Read, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; Self::PERIOD];
        let mut at = 0;
        loop {
            let len = from.read(&mut buffer)?;
            if len == 0 {
                let whole = at == size;
                return if whole {
                    Ok(())
                } else {
                    Err(io::Error::other(format!("the end came after {at} bytes")))
                };
            }
            if buffer[..len] != *self.piece(at, len) {
                return Err(io::Error::other(format!("other bytes between {at} and {}", at + len as u64)));
            }
            at += len as u64;
        }
    }

    fn piece(&self, at: u64, len: usize) -> &[u8] {
        &self.0[(at % Self::PERIOD as u64) as usize..][..len]
    }
}
