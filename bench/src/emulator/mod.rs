//! A link between two network namespaces whose faults are chosen: delay, rate, queue, loss, silence, and an end that
//! cannot be dialled. The machines this runs on have no netem and no packet filter, and a broken link made of sockets
//! (a proxy that stops copying) is not the same: its TCP still acknowledges. So the packets themselves pass through here.
//!
//! ```text
//! namespace "hub"                                                    namespace "edge"
//!   TCP/IP ── TUN rbk0 ──▶ lane ToEdge: filter, shape, hole ──▶ TUN rbk0 ── TCP/IP
//!                     ◀── lane ToHub:  filter, shape, hole ◀──
//! ```
//! Each direction is one blocking thread (`lane`); what it does to a packet is decided by a pure part (`shape`,
//! `packet`). IPv4 only.

mod lane;
mod packet;
mod shape;

use std::{
    io::{self, PipeWriter},
    net::Ipv4Addr,
    process::Command,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::Duration,
};

use self::{
    lane::{Lane, Shared},
    shape::Shaper,
};
use crate::{netns, sys};

/// The name of the TUN device, the same in both namespaces.
pub const DEVICE: &str = "rbk0";

/// Bytes that one direction holds at most, waiting or travelling; more are dropped. 256 MiB is 10 Gbit/s over 200 ms.
pub const IN_FLIGHT_MAX: usize = 256 << 20;

/// Packets the kernel keeps for us in front of a device: two full bursts of a large TCP window at an MTU of 1,500.
const DEVICE_QUEUE: &str = "5000";

/// What the link is like. [`EmulatorConfig::new`] is a perfect one.
#[derive(Debug, Clone)]
pub struct EmulatorConfig {
    /// The namespace of the end that everyone can reach, as `ip netns` names it.
    pub hub_ns: String,
    /// The namespace of the other end.
    pub edge_ns: String,
    /// The hub's address on the link.
    pub hub_addr: Ipv4Addr,
    /// The edge's address on the link.
    pub edge_addr: Ipv4Addr,
    /// Largest packet in bytes (68 to 65,535).
    pub mtu: u32,
    /// One-way delay, both directions.
    pub delay: Duration,
    /// Bits per second of each direction; unlimited without.
    pub rate: Option<u64>,
    /// Bytes that may wait for the wire in each direction when there is a rate; the newest is dropped beyond that.
    pub queue: usize,
    /// Probability that a packet is lost, 0 to 1, both directions.
    pub loss: f64,
    /// Seed of the losses.
    pub seed: u64,
    /// Swallow TCP connection attempts from the hub to the edge, as a NAT or a firewall does.
    pub outbound_only: bool,
}

impl EmulatorConfig {
    /// A link between two namespaces without delay, limit or loss, that can be dialled from both ends.
    pub fn new(hub_ns: impl Into<String>, edge_ns: impl Into<String>) -> Self {
        Self {
            hub_ns: hub_ns.into(),
            edge_ns: edge_ns.into(),
            hub_addr: Ipv4Addr::new(10, 87, 0, 1),
            edge_addr: Ipv4Addr::new(10, 87, 0, 2),
            mtu: 65_000,
            delay: Duration::ZERO,
            rate: None,
            queue: 256 << 10,
            loss: 0.0,
            seed: 1,
            outbound_only: false,
        }
    }
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Either way.
    Both,
    /// From the edge to the hub.
    ToHub,
    /// From the hub to the edge.
    ToEdge,
}

/// Counters of both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmulatorStats {
    /// From the edge to the hub.
    pub to_hub: LaneStats,
    /// From the hub to the edge.
    pub to_edge: LaneStats,
}

/// What became of the packets of one direction since the start. All but `bytes` count packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Delivered.
    pub packets: u64,
    /// Delivered, in bytes.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub crowded: u64,
    /// Swallowed by a black hole.
    pub swallowed: u64,
    /// Connection attempts that `outbound_only` swallowed.
    pub dials_refused: u64,
    /// Not IPv4.
    pub foreign: u64,
    /// Not accepted by the device on the other side.
    pub unwritable: u64,
}

/// A running link. Dropping it stops its threads and removes both devices.
#[derive(Debug)]
pub struct Emulator {
    to_hub: Arc<Shared>,
    to_edge: Arc<Shared>,
    lanes: Vec<JoinHandle<io::Result<()>>>,
    /// Closing it stops the lanes.
    stop: Option<PipeWriter>,
}

impl Emulator {
    /// Makes the two devices, gives them their addresses and starts to move packets.
    ///
    /// # Errors
    /// When a value makes no sense, a namespace is missing, a device cannot be made (root is needed) or `ip` refuses an
    /// address; what was made is gone again then.
    pub fn start(config: EmulatorConfig) -> io::Result<Self> {
        check(&config)?;
        let hub = Arc::new(netns::within(&config.hub_ns, || sys::open_tun(DEVICE))??);
        let edge = Arc::new(netns::within(&config.edge_ns, || sys::open_tun(DEVICE))??);
        let (stopped, stop) = io::pipe()?;

        let shaper = |seed| Shaper::new(config.delay, config.rate, config.queue, config.loss, seed);
        let to_hub = Lane {
            from: Arc::clone(&edge),
            to: Arc::clone(&hub),
            stop: stopped.try_clone()?,
            shaper: shaper(config.seed),
            refuse_dials: false,
            shared: Arc::default(),
        };
        let to_edge = Lane {
            from: hub,
            to: edge,
            stop: stopped,
            shaper: shaper(!config.seed),
            refuse_dials: config.outbound_only,
            shared: Arc::default(),
        };
        // The emulator owns the threads before anything else can fail.
        let mut emulator = Self {
            to_hub: Arc::clone(&to_hub.shared),
            to_edge: Arc::clone(&to_edge.shared),
            lanes: Vec::new(),
            stop: Some(stop),
        };
        for (name, lane) in [("link to hub", to_hub), ("link to edge", to_edge)] {
            emulator.lanes.push(thread::Builder::new().name(name.into()).spawn(move || lane.run())?);
        }
        plug_in(&config.hub_ns, config.hub_addr, config.edge_addr, config.mtu)?;
        plug_in(&config.edge_ns, config.edge_addr, config.hub_addr, config.mtu)?;
        Ok(emulator)
    }

    /// Switches a black hole on or off: packets in that direction vanish, nobody is told.
    pub fn black_hole(&self, direction: Direction, on: bool) {
        if direction != Direction::ToEdge {
            self.to_hub.black_hole.store(on, Relaxed);
        }
        if direction != Direction::ToHub {
            self.to_edge.black_hole.store(on, Relaxed);
        }
    }

    /// What became of the packets so far.
    pub fn stats(&self) -> EmulatorStats {
        EmulatorStats { to_hub: self.to_hub.stats(), to_edge: self.to_edge.stats() }
    }

    /// Whether both directions still work; one ends when its device is taken away under it.
    pub fn is_running(&self) -> bool {
        self.lanes.iter().all(|lane| !lane.is_finished())
    }

    /// Stops the link.
    ///
    /// # Errors
    /// The reason why a direction had ended before.
    pub fn stop(mut self) -> io::Result<()> {
        self.stop_lanes()
    }

    fn stop_lanes(&mut self) -> io::Result<()> {
        drop(self.stop.take());
        let mut result = Ok(());
        for lane in self.lanes.drain(..) {
            let ended =
                lane.join().unwrap_or_else(|_| Err(io::Error::other("a direction of the link panicked")));
            result = result.and(ended);
        }
        result
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Whoever wants to know why a direction ended early asks `stop`.
        let _ended = self.stop_lanes();
    }
}

fn check(config: &EmulatorConfig) -> io::Result<()> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !(68..=65_535).contains(&config.mtu) {
        return wrong(format!("mtu {}: 68 to 65535", config.mtu));
    }
    if !(0.0..=1.0).contains(&config.loss) {
        return wrong(format!("loss {}: a probability, 0 to 1", config.loss));
    }
    if config.rate == Some(0) {
        return wrong("rate 0: use a black hole".into());
    }
    Ok(())
}

/// Gives the device of one end its addresses and switches it on.
fn plug_in(namespace: &str, own: Ipv4Addr, peer: Ipv4Addr, mtu: u32) -> io::Result<()> {
    let (own, peer, mtu) = (own.to_string(), peer.to_string(), mtu.to_string());
    ip(&["-n", namespace, "address", "add", &own, "peer", &peer, "dev", DEVICE])?;
    ip(&["-n", namespace, "link", "set", DEVICE, "mtu", &mtu, "txqueuelen", DEVICE_QUEUE, "up"])
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let line = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error} (Debian: iproute2)", line())))?;
    if !output.status.success() {
        return Err(io::Error::other(format!(
            "{}: {}",
            line(),
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    Ok(())
}
