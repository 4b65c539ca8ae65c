//! The same tunnels over a long link: two network namespaces with the link emulator between them.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::Path,
    process::{self, Command},
    time::Duration,
};

use crate::{
    emulator::{Emulator, EmulatorConfig},
    netns,
    peers::Side,
    procs,
};

/// Round trip of the long links.
pub const ROUND_TRIP: Duration = Duration::from_millis(100);

/// Their rate, bits per second.
pub const RATE: u64 = 200_000_000;

/// The largest packet of a real path.
const MTU: u32 = 1500;

/// A long link by name: what it loses, and with which congestion control.
#[derive(Debug, Clone, Copy)]
pub struct LinkKind {
    /// As it stands in results.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Probability of losing a packet.
    pub loss: f64,
    /// The congestion control of all sockets that choose none themselves.
    pub congestion: &'static str,
}

/// All that are measured.
pub const LINKS: [LinkKind; 3] = [
    LinkKind {
        name: "clean",
        title: "100 ms RTT, no loss, 200 Mbit/s, cubic",
        loss: 0.0,
        congestion: "cubic",
    },
    LinkKind {
        name: "lossy-cubic",
        title: "100 ms RTT, 1 % loss, 200 Mbit/s, cubic",
        loss: 0.01,
        congestion: "cubic",
    },
    LinkKind {
        name: "lossy-bbr",
        title: "100 ms RTT, 1 % loss, 200 Mbit/s, bbr",
        loss: 0.01,
        congestion: "bbr",
    },
];

/// A standing link with its two ends. Dropping it removes all of it; what runs on its ends must be gone by then.
#[derive(Debug)]
pub struct Link {
    // First the link, then what it joins.
    _emulator: Emulator,
    hub: End,
    edge: End,
}

impl Link {
    /// Makes the link.
    ///
    /// # Errors
    /// Without root, `/dev/net/tun`, or the congestion control in this kernel.
    pub fn new(kind: LinkKind) -> io::Result<Self> {
        fs::metadata("/dev/net/tun")
            .map_err(|error| io::Error::new(error.kind(), format!("/dev/net/tun: {error}")))?;
        let name = |side| format!("rbk-bench-{}-{side}", process::id());
        let link = EmulatorConfig {
            mtu: MTU,
            delay: ROUND_TRIP / 2,
            rate: Some(RATE),
            queue: (RATE as f64 / 8.0 * ROUND_TRIP.as_secs_f64()) as usize,
            loss: kind.loss,
            ..EmulatorConfig::new(name("hub"), name("edge"))
        };
        let hub = End::new(link.hub_ns.clone(), link.hub_addr, kind.congestion)?;
        let edge = End::new(link.edge_ns.clone(), link.edge_addr, kind.congestion)?;
        Ok(Self { _emulator: Emulator::start(link)?, hub, edge })
    }

    /// Where visitors are.
    pub fn hub(&self) -> &Side {
        &self.hub.side
    }

    /// Where the service is.
    pub fn edge(&self) -> &Side {
        &self.edge.side
    }
}

/// A network namespace of one end.
#[derive(Debug)]
struct End {
    side: Side,
    name: String,
}

impl End {
    fn new(name: String, address: Ipv4Addr, congestion: &str) -> io::Result<Self> {
        ip(&["netns", "add", &name])?;
        let end = Self { side: Side { namespace: Some(name.clone()), address }, name };
        ip(&["-n", &end.name, "link", "set", "lo", "up"])?;
        netns::within(&end.name, || procs::pin_congestion_control(congestion))??;
        Ok(end)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // The namespaces live in a mount namespace of the run, so that even one that stays is gone with it.
        let _gone_with_the_run = ip(&["netns", "delete", &self.name]);
    }
}

/// Prepares the namespace this process is in: loopback up, congestion control pinned, room for many short connections.
///
/// # Errors
/// What was refused, for a report: figures of an unpinned run say so.
pub fn prepare_own_namespace(congestion: &str) -> io::Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    procs::pin_congestion_control(congestion)?;
    // Closed connections would keep their ports for a minute, and a run makes more of them than there are ports.
    for (name, value) in [("ip_local_port_range", "10240 65000"), ("tcp_max_tw_buckets", "4096")] {
        fs::write(Path::new("/proc/sys/net/ipv4").join(name), value)
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    }
    Ok(())
}

/// The congestion controls that the established sockets on `side` have, as the kernel says: those of the connections to or
/// from `ports`, and those of all others.
///
/// # Errors
/// When `ss` (Debian: iproute2) is missing or fails.
pub fn congestion_in_use(side: &Side, ports: &[u16]) -> io::Result<[Vec<String>; 2]> {
    let output = side.command("ss").args(["-tinHO", "state", "established"]).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("ss: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(congestion_of(&String::from_utf8_lossy(&output.stdout), ports))
}

fn congestion_of(sockets: &str, ports: &[u16]) -> [Vec<String>; 2] {
    let mut used = [Vec::new(), Vec::new()];
    for line in sockets.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = |word: &&str| word.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let tunnel = words.iter().skip(2).take(2).filter_map(port).any(|port| ports.contains(&port));
        // The kernel's name for it stands before the window scale.
        let Some(at) = words.iter().position(|word| word.starts_with("wscale:")) else { continue };
        let Some(name) = at.checked_sub(1).and_then(|at| words.get(at)) else { continue };
        let list = &mut used[usize::from(!tunnel)];
        if !list.iter().any(|known| known == name) {
            list.push((*name).to_owned());
        }
    }
    used
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_say_what_they_use() {
        let sockets = "\
0 0 127.0.0.1:7003 127.0.0.1:41000 ts sack bbr wscale:7,7 rto:201 rtt:0.05/0.02
0 0 127.0.0.1:41000 127.0.0.1:7003 ts sack cubic wscale:7,7 rto:201
0 0 127.0.0.1:7001 127.0.0.1:7777 cubic wscale:7,7 rto:201
0 0 [::1]:1 [::1]:2 cubic rto:1";
        let [tunnel, others] = congestion_of(sockets, &[7003]);
        assert_eq!(tunnel, ["bbr", "cubic"]);
        assert_eq!(others, ["cubic"]);
    }
}
