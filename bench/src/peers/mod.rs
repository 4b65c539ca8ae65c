//! The tunnels that are measured side by side, each started as its users start it: plain, with its default options.
//! Visitors come to [`VISITORS`] on the hub, the service is on [`SERVICE`] on the edge, and what is between them is one
//! connection or many over the link between the two.
//!
//! `direct` is no tunnel: visitors connect to the service itself. `socat2` is two relays in a row without any protocol,
//! the honest ceiling of whatever has two processes.

mod commands;
mod ssh;

use std::{
    ffi::OsStr,
    fmt, fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use reachback_client::Access;
use tempfile::TempDir;

use commands::Encryption;

use crate::{
    load::{
        calls,
        figures::{now, pass},
        small::Echo,
    },
    procs::Family,
    sys,
};

/// Where visitors come.
pub const VISITORS: u16 = 7001;
/// Where the service is.
pub const SERVICE: u16 = 7002;
/// Where the far end of a tunnel connects.
pub const TUNNEL: u16 = 7003;

/// The ports of connections that are tunnels.
pub const TUNNEL_PORTS: [u16; 2] = [TUNNEL, ssh::PORT];

/// How long a tunnel may take until the first round trip goes through it.
const COMING_UP: Duration = Duration::from_secs(20);

/// One way from visitors to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// No tunnel.
    Direct,
    /// Two relays in a row.
    Socat2,
    /// rathole 0.5: a connection per stream.
    Rathole,
    /// OpenSSH's remote forwarding: one connection, always encrypted.
    SshR,
    /// A published port of an explorer: one connection.
    Reachback,
    /// The same with mutual TLS, as an explorer is that other machines can reach.
    ReachbackTls,
    /// rathole with TLS: a TLS connection per stream.
    RatholeTls,
    /// rathole with the Noise protocol: an encrypted connection per stream.
    RatholeNoise,
}

impl Peer {
    /// All, in the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Socat2,
        Self::Rathole,
        Self::SshR,
        Self::Reachback,
        Self::ReachbackTls,
        Self::RatholeTls,
        Self::RatholeNoise,
    ];

    /// As it stands in tables and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Socat2 => "socat2",
            Self::Rathole => "rathole",
            Self::SshR => "ssh-R",
            Self::Reachback => "reachback",
            Self::ReachbackTls => "reachback-tls",
            Self::RatholeTls => "rathole-tls",
            Self::RatholeNoise => "rathole-noise",
        }
    }

    /// Whether it is there to be compared with what is encrypted: of no use where encryption costs nothing.
    pub fn only_encrypted(self) -> bool {
        matches!(self, Self::ReachbackTls | Self::RatholeTls | Self::RatholeNoise)
    }

    /// The program, and the argument with which it says its version; nothing for `direct`.
    fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Direct => None,
            Self::Socat2 => Some(("socat", "-V")),
            Self::Rathole | Self::RatholeTls | Self::RatholeNoise => Some(("rathole", "--version")),
            Self::SshR => Some(("ssh", "-V")),
            Self::Reachback | Self::ReachbackTls => Some(("reachback", "--version")),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One end of the link: where a process runs, and its address there.
#[derive(Debug, Clone)]
pub struct Side {
    /// A named network namespace; this process's own without.
    pub namespace: Option<String>,
    /// Its address on the link.
    pub address: Ipv4Addr,
}

impl Side {
    /// Both ends on this machine's loopback.
    pub fn loopback() -> Self {
        Self { namespace: None, address: Ipv4Addr::LOCALHOST }
    }

    /// A command that runs `program` there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }
}

/// Where programs are, besides `PATH`.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The `reachback` binary that is measured.
    pub reachback: PathBuf,
    /// Where `scripts/tools` puts what it fetched; absolute, since sshd starts itself again by its path.
    pub fetched: PathBuf,
}

impl Tools {
    /// Where `program` is.
    ///
    /// # Errors
    /// It is nowhere.
    pub fn find(&self, program: &str) -> io::Result<PathBuf> {
        if program == "reachback" {
            return Ok(self.reachback.clone());
        }
        let fetched = ["bin", "usr/bin", "usr/sbin", "sbin"].map(|directory| self.fetched.join(directory));
        let system = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let found = fetched
            .into_iter()
            .chain(system)
            .map(|directory| directory.join(program))
            .find(|path| path.is_file());
        found.ok_or_else(|| {
            io::Error::new(ErrorKind::NotFound, format!("no {program} here; scripts/bench fetches it"))
        })
    }

    /// A command that runs `program` on `side`.
    ///
    /// # Errors
    /// It is nowhere.
    pub fn command(&self, side: &Side, program: &str) -> io::Result<Command> {
        let mut command = side.command(self.find(program)?);
        self.equip(&mut command);
        Ok(command)
    }

    /// What `peer` says its version is.
    ///
    /// # Errors
    /// When its program is missing or can't be run.
    pub fn version(&self, peer: Peer) -> io::Result<String> {
        let Some((program, argument)) = peer.program() else { return Ok("-".into()) };
        let output = self.command(&Side::loopback(), program)?.arg(argument).output()?;
        let said = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
        let text = String::from_utf8_lossy(said);
        let numbered = || text.lines().filter(|line| line.bytes().any(|byte| byte.is_ascii_digit()));
        // Some say when and of what they were built, too.
        let line =
            numbered().find(|line| line.to_lowercase().contains("version")).or_else(|| numbered().next());
        let line = line.unwrap_or("unknown");
        Ok(line.trim().to_owned())
    }

    /// Lets fetched programs find the fetched libraries, which the machine may lack.
    fn equip(&self, command: &mut Command) {
        let libraries = self.fetched.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
        if libraries.is_dir() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
    }
}

/// A running tunnel. Dropping it ends its processes.
#[derive(Debug)]
pub struct Tunnel {
    /// Which.
    pub peer: Peer,
    /// Where visitors come.
    pub visitors: SocketAddr,
    children: Vec<Child>,
    // After the children: what they read goes last.
    _directory: TempDir,
}

impl Tunnel {
    /// Starts `peer` between two sides and waits until a round trip has gone through it. The service must be up.
    ///
    /// # Errors
    /// When a program is missing, ends, or nothing comes through within 20 s; with what it said.
    pub fn start(peer: Peer, tools: &Tools, hub: &Side, edge: &Side) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("reachback-bench-").tempdir()?;
        let mut tunnel = Self {
            peer,
            visitors: match peer {
                Peer::Direct => edge.at(SERVICE),
                _ => SocketAddr::from((Ipv4Addr::LOCALHOST, VISITORS)),
            },
            children: Vec::new(),
            _directory: directory,
        };
        let directory = tunnel._directory.path().to_owned();
        let commands = match peer {
            Peer::Direct => Vec::new(),
            Peer::Socat2 => commands::socat2(tools, hub, edge)?,
            Peer::Rathole => commands::rathole(tools, hub, edge, &directory, Encryption::None)?,
            Peer::RatholeTls => commands::rathole(tools, hub, edge, &directory, Encryption::Tls)?,
            Peer::RatholeNoise => commands::rathole(tools, hub, edge, &directory, Encryption::Noise)?,
            Peer::SshR => ssh::commands(tools, hub, edge, &directory)?,
            Peer::Reachback => commands::reachback(tools, hub, edge, &directory)?,
            Peer::ReachbackTls => commands::reachback_tls(tools, hub, edge, &directory)?,
        };
        if peer != Peer::Direct {
            until_free(hub, tunnel.visitors)?;
        }
        for (number, command) in commands.into_iter().enumerate() {
            let child = spawn(command, &directory.join(format!("{number}.log")))?;
            tunnel.children.push(child);
        }
        tunnel.wait(hub, &directory)?;
        Ok(tunnel)
    }

    /// Its processes, whatever they have started included.
    pub fn family(&self) -> Family {
        Family::new(self.children.iter().map(Child::id).collect())
    }

    /// How sessions come in at the explorer: with an identity where it asks for one.
    ///
    /// # Errors
    /// When it gives us none.
    pub fn access(&self, tools: &Tools) -> io::Result<Access> {
        if self.peer != Peer::ReachbackTls {
            return Ok(Access::plain());
        }
        let join = commands::join_string(tools, self._directory.path())?;
        calls::log_in(&join, &self._directory.path().join("profiles"))
    }

    /// The explorer's port, for calls and sessions; only of `reachback` and `reachback-tls`.
    pub fn explorer(&self, hub: &Side) -> SocketAddr {
        hub.at(TUNNEL)
    }

    fn wait(&mut self, hub: &Side, directory: &Path) -> io::Result<()> {
        let begun = now();
        loop {
            let target = self.visitors;
            let tried = hub.within(|| Echo::connect(target))?;
            let Err(error) = tried else { return Ok(()) };
            let ended = self.children.iter_mut().any(|child| matches!(child.try_wait(), Ok(Some(_))));
            if ended || begun.elapsed() > COMING_UP {
                let said = words(directory);
                return Err(io::Error::other(format!("{} does not come up: {error}\n{said}", self.peer)));
            }
            pass(Duration::from_millis(20));
        }
    }
}

/// Waits until nobody listens there: a server that was ended may have left a child that takes a moment longer.
fn until_free(side: &Side, address: SocketAddr) -> io::Result<()> {
    let begun = now();
    loop {
        match side.within(|| TcpListener::bind(address))? {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > COMING_UP => {
                return Err(io::Error::new(error.kind(), format!("{address} does not become free: {error}")));
            }
            Err(_) => pass(Duration::from_millis(20)),
        }
    }
}

impl Side {
    /// Runs `work` on a thread that is there.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.namespace {
            Some(namespace) => crate::netns::within(namespace, work),
            None => Ok(work()),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Each leads a group of its own, with what it has started. One that has ended is in no group any more.
            let _already_gone = sys::signal_group(child.id(), sys::Signal::Kill);
            let _already_reaped = child.wait();
        }
    }
}

fn spawn(mut command: Command, log: &Path) -> io::Result<Child> {
    let log = fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    sys::tie_to_this_thread(&mut command)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{command:?}: {error}")))
}

/// The last words of every process.
fn words(directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let logs =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    let text: Vec<String> = logs.filter_map(|path| fs::read_to_string(path).ok()).collect();
    let text = text.concat();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
