//! The product on loopback, one process each, and a cable between node and explorer that can be torn in the middle of
//! a frame.

#![allow(dead_code, reason = "each test target uses a part of it")]

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Stdio},
    thread::{self, JoinHandle},
};

use reachback_bench::sys;
use reachback_testkit::{eventually, process::Process};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream as Socket},
    runtime,
    sync::watch,
    task::JoinSet,
};

use crate::cli_support::{Home, SOON};

/// The node of every world.
pub(crate) const NODE: &str = "edge-7";

/// An explorer with a published port for each service, a node that offers them, and a client that forwards them.
/// Fields are dropped in order: programs first, then their home.
pub(crate) struct World {
    pub(crate) forward: Process,
    pub(crate) node: Process,
    pub(crate) explorer: Process,
    pub(crate) address: String,
    pub(crate) home: Home,
    services: Vec<String>,
    published: BTreeMap<String, u16>,
    forwarded: BTreeMap<String, u16>,
}

impl World {
    /// Starts everything and waits until it can be reached. `heartbeat` is as on the command line.
    pub(crate) fn start(heartbeat: &str, services: &[(&str, SocketAddr)]) -> Self {
        Self::start_through(heartbeat, services, str::to_owned)
    }

    /// The same with a node that dials what `cable` makes of the explorer's address.
    pub(crate) fn start_through(
        heartbeat: &str,
        services: &[(&str, SocketAddr)],
        cable: impl FnOnce(&str) -> String,
    ) -> Self {
        let home = Home::new();
        let targets: Vec<String> = services.iter().map(|(name, _)| format!("{NODE}/{name}")).collect();
        let publish: Vec<String> = targets.iter().map(|target| format!("--publish=0={target}")).collect();
        let mut arguments = vec!["--heartbeat", heartbeat];
        arguments.extend(publish.iter().map(String::as_str));
        let (explorer, address) = home.explorer(&arguments);
        let services: Vec<String> =
            services.iter().map(|(name, address)| format!("--service={name}={address}")).collect();
        let node =
            home.node(&cable(&address), NODE, &services.iter().map(String::as_str).collect::<Vec<_>>());
        let mut arguments = vec!["forward", "--explorer", &address];
        arguments.extend(targets.iter().map(String::as_str));
        let forward = home.start(&arguments);
        let ports = |process: &Process| -> BTreeMap<String, u16> {
            targets.iter().map(|target| (target.clone(), port_of(process, target))).collect()
        };
        let (published, forwarded) = (ports(&explorer), ports(&forward));
        Self { forward, node, explorer, address, home, services, published, forwarded }
    }

    /// The node again, after the test has ended it.
    pub(crate) fn restart_node(&mut self) {
        let services: Vec<&str> = self.services.iter().map(String::as_str).collect();
        self.node = self.home.node(&self.address, NODE, &services);
    }

    /// The ways to a service that are TCP ports: the explorer's published one and the client's forwarded one.
    pub(crate) fn ways(&self, service: &str) -> [(&'static str, u16); 2] {
        let target = format!("{NODE}/{service}");
        [("published port", self.published[&target]), ("forwarded port", self.forwarded[&target])]
    }

    /// A visitor at a published or forwarded port.
    pub(crate) fn visit(&self, (way, port): (&str, u16)) -> TcpStream {
        // A published port opens a moment after its node is known to be online.
        let connected = || TcpStream::connect(("127.0.0.1", port));
        let stream = eventually(SOON, &format!("a connection to the {way}"), connected);
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    /// What `nodes --json` says about the node.
    pub(crate) fn view(&self) -> Value {
        let json = self.home.run(&["nodes", "--json", "-q", "--explorer", &self.address]).stdout;
        let list: Value = serde_json::from_str(&json).unwrap();
        list["nodes"].as_array().unwrap().iter().find(|node| node["node"] == NODE).cloned().unwrap()
    }

    /// Waits until `nodes --json` says that the node is in this state.
    #[track_caller]
    pub(crate) fn until(&self, state: &str) -> Value {
        eventually(SOON, &format!("{NODE} is {state}"), || {
            let view = self.view();
            if view["state"] == state { Ok(view) } else { Err(view.to_string()) }
        })
    }

    /// Fails if a program ended or if anything in it panicked.
    #[track_caller]
    pub(crate) fn assert_sound(&mut self) {
        for process in [&mut self.explorer, &mut self.node, &mut self.forward] {
            let tail = process.tail();
            assert!(process.is_running().unwrap(), "it ended:\n{tail}");
            assert!(!tail.contains("panic"), "{tail}");
        }
    }
}

/// Sends a question and its end, and reads the answer to its end.
pub(crate) fn ask(mut stream: TcpStream, question: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(question)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Asserts that a connection ends with a reset: a clean end would be a lie, silence a hang.
#[track_caller]
pub(crate) fn assert_reset(stream: &mut TcpStream, what: &str) {
    match io::copy(stream, &mut io::sink()) {
        Ok(_) => panic!("{what} ended as if all was well"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{what}: {error}"),
    }
}

/// `reachback connect` whose output nobody reads but the test; gone when the test is over.
pub(crate) struct Connect(pub(crate) Child);

impl Connect {
    pub(crate) fn start(world: &World, service: &str) -> Self {
        let target = format!("{NODE}/{service}");
        let mut command = world.home.command(&["connect", &target, "--explorer", &world.address]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Self(sys::tie_to_this_thread(&mut command).spawn().unwrap())
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A TCP proxy between a node and its explorer. Tearing it passes half of the next large piece on and resets both
/// sides; connections made afterwards go through.
pub(crate) struct Cable {
    address: SocketAddr,
    torn: Option<watch::Sender<u32>>,
    runner: Option<JoinHandle<()>>,
}

/// So much at once is part of a bulk frame, and half of it ends inside of one.
const LARGE: usize = 4096;

impl Cable {
    /// Listens on a free loopback port.
    pub(crate) fn to(explorer: &str) -> Self {
        let explorer: SocketAddr = explorer.parse().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (torn, tearing) = watch::channel(0);
        let runner = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(listener, explorer, tearing));
        });
        Self { address, torn: Some(torn), runner: Some(runner) }
    }

    /// Where the node dials.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Tears every connection that stands, at its next large piece.
    pub(crate) fn tear(&self) {
        self.torn.as_ref().unwrap().send_modify(|times| *times += 1);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        drop(self.torn.take());
        let ended = self.runner.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the cable broke by itself");
    }
}

async fn run(listener: std::net::TcpListener, explorer: SocketAddr, mut tearing: watch::Receiver<u32>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    let mut stop = tearing.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tearing.mark_unchanged();
                // How a connection ends is seen at its ends.
                connections.spawn(pass_on(accepted.unwrap().0, explorer, tearing.clone()));
            }
            Some(_) = connections.join_next() => {}
            stopped = stop.wait_for(|_| false) => {
                assert!(stopped.is_err(), "only the end of the test ends this wait");
                return;
            }
        }
    }
}

async fn pass_on(mut near: Socket, explorer: SocketAddr, tearing: watch::Receiver<u32>) -> io::Result<()> {
    let mut far = Socket::connect(explorer).await?;
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        // From here on every end of this function is a reset of both sides.
        socket.set_zero_linger()?;
    }
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let (piece, to) = tokio::select! {
            read = near.read(&mut up) => (&up[..read?], &mut far),
            read = far.read(&mut down) => (&down[..read?], &mut near),
        };
        if piece.is_empty() {
            return Ok(());
        }
        if piece.len() >= LARGE && tearing.has_changed().unwrap_or(true) {
            return to.write_all(&piece[..piece.len() / 2]).await;
        }
        to.write_all(piece).await?;
    }
}

fn port_of(process: &Process, target: &str) -> u16 {
    let line = process.wait_for_line(&format!("-> {target}"), SOON).unwrap();
    let word = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap();
    word.rsplit(':').next().unwrap().parse().unwrap()
}
