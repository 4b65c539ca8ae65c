//! Two machines with a line between them, on one machine: a `hub` that everyone can reach and an `edge` that nobody can
//! dial, each a network namespace, joined by the [link emulator](reachback_bench::emulator).
//!
//! Labs are heavy (packets are moved by hand, services are real), so one runs at a time: [`Lab::new`] waits for its turn,
//! also across processes. Everything is gone when the lab is dropped, also after a panic. What a killed run left behind
//! has the name `rbk-lab-PID-…` of a process that is no more; `scripts/test` removes it.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

pub use reachback_bench::emulator::{Direction, EmulatorStats};
use reachback_bench::{
    emulator::{Emulator, EmulatorConfig},
    netns, sys,
};

use crate::tools;

/// Every namespace of a lab is named PREFIX PID - NUMBER - SIDE.
const PREFIX: &str = "rbk-lab-";

/// `ip netns exec` lays the files below `/etc/netns/NAME` over `/etc`.
const ETC: &str = "/etc/netns";

/// CAP_NET_ADMIN (devices) and CAP_SYS_ADMIN (namespaces), as bits of /proc/self/status.
const CAPABILITIES: u64 = 1 << 12 | 1 << 21;

/// The line between the two sides.
#[derive(Debug, Clone)]
pub struct LabConfig {
    /// Largest packet in bytes. Large ones keep the emulator out of the way of what is measured.
    pub mtu: u32,
    /// One-way delay.
    pub delay: Duration,
    /// Bits per second of each direction; unlimited without.
    pub rate: Option<u64>,
    /// Bytes that may wait for the wire in each direction when there is a rate.
    pub queue: usize,
    /// Probability that a packet is lost, 0 to 1.
    pub loss: f64,
    /// Seed of the losses.
    pub seed: u64,
    /// Nobody can dial the edge.
    pub outbound_only: bool,
}

impl Default for LabConfig {
    fn default() -> Self {
        let link = EmulatorConfig::new("", "");
        let EmulatorConfig { mtu, delay, rate, queue, loss, seed, .. } = link;
        Self { mtu, delay, rate, queue, loss, seed, outbound_only: true }
    }
}

/// Why a lab could not be made.
#[derive(Debug, thiserror::Error)]
#[error("lab: {what}: {source}")]
pub struct LabError {
    what: String,
    source: io::Error,
}

/// Two namespaces and the line between them. Dropping it kills every process inside and removes all of it.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they have to go: the line, then its ends, then the turn.
    emulator: Emulator,
    hub: Side,
    edge: Side,
    _turn: File,
}

/// One of the two machines.
#[derive(Debug)]
pub struct Side {
    namespace: String,
    address: Ipv4Addr,
}

/// Whether this process may make a lab; the reason why not.
///
/// # Errors
/// A sentence for people.
pub fn possible() -> Result<(), String> {
    let status =
        fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let held =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    if held.unwrap_or(0) & CAPABILITIES != CAPABILITIES {
        return Err("network namespaces need root (CAP_NET_ADMIN and CAP_SYS_ADMIN)".into());
    }
    if tools::find("ip").is_none() {
        return Err("missing ip (Debian: iproute2)".into());
    }
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tun.map_err(|error| format!("/dev/net/tun: {error}"))?;
    Ok(())
}

impl Lab {
    /// Waits until no other lab runs, and makes this one.
    ///
    /// # Errors
    /// When a step fails; what was made is gone again then. Ask [`possible`] first.
    pub fn new(config: LabConfig) -> Result<Self, LabError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let turn = take_turn().map_err(because("waiting for a turn"))?;
        let name = |side| format!("{PREFIX}{}-{}-{side}", process::id(), NUMBER.fetch_add(1, Relaxed));
        let hub_ns = name("hub");
        let edge_ns = name("edge");
        let link = EmulatorConfig {
            mtu: config.mtu,
            delay: config.delay,
            rate: config.rate,
            queue: config.queue,
            loss: config.loss,
            seed: config.seed,
            outbound_only: config.outbound_only,
            ..EmulatorConfig::new(&hub_ns, &edge_ns)
        };
        let hub = Side::new(hub_ns, link.hub_addr)?;
        let edge = Side::new(edge_ns, link.edge_addr)?;
        let emulator = Emulator::start(link).map_err(because("the link"))?;
        Ok(Self { emulator, hub, edge, _turn: turn })
    }

    /// The machine that everyone can reach.
    pub fn hub(&self) -> &Side {
        &self.hub
    }

    /// The machine that nobody can dial (unless the configuration says otherwise).
    pub fn edge(&self) -> &Side {
        &self.edge
    }

    /// Lets packets in that direction vanish, or pass again. Nobody is told: no reset, no ICMP.
    pub fn black_hole(&self, direction: Direction, on: bool) {
        self.emulator.black_hole(direction, on);
    }

    /// What became of the packets so far.
    pub fn stats(&self) -> EmulatorStats {
        self.emulator.stats()
    }
}

impl Side {
    fn new(namespace: String, address: Ipv4Addr) -> Result<Self, LabError> {
        ip(&["netns", "add", &namespace]).map_err(because("a namespace"))?;
        // From here on the drop of the side cleans up.
        let side = Self { namespace, address };
        ip(&["-n", &side.namespace, "link", "set", "lo", "up"]).map_err(because("its loopback"))?;
        Ok(side)
    }

    /// Its address on the line.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The name of its namespace, as `ip netns` knows it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command that runs `program` on this machine. The process is `program` itself, not a wrapper.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Runs `work` on a thread that is on this machine; sockets opened there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        netns::within(&self.namespace, work)
    }

    /// Replaces `/etc/NAME` for the commands of this machine.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace_etc(&self, name: &str, content: &str) -> io::Result<()> {
        let directory = self.etc();
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), content)
    }

    fn etc(&self) -> PathBuf {
        Path::new(ETC).join(&self.namespace)
    }

    fn remove(&self) -> io::Result<()> {
        // Twice: what forks while it is being killed is caught by the second round.
        for _ in 0..2 {
            for pid in
                ip(&["netns", "pids", &self.namespace])?.lines().filter_map(|pid| pid.trim().parse().ok())
            {
                sys::kill_process(pid)?;
            }
        }
        ip(&["netns", "delete", &self.namespace])?;
        match fs::remove_dir_all(self.etc()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _removed => Ok(()),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            // In a test's cleanup there is nobody to return it to, and the test's own failure must not be hidden.
            let _unheard =
                io::stderr().write_all(format!("cleaning up {}: {error}\n", self.namespace).as_bytes());
        }
    }
}

fn take_turn() -> io::Result<File> {
    let target = tools::target();
    fs::create_dir_all(&target)?;
    let turn = OpenOptions::new().create(true).append(true).open(target.join("lab.lock"))?;
    turn.lock()?;
    Ok(turn)
}

fn because(what: &'static str) -> impl FnOnce(io::Error) -> LabError {
    move |source| LabError { what: what.into(), source }
}

fn ip(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
