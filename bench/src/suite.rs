//! What is measured of one tunnel, in which order. Every tunnel gets the same, from fresh processes.
//!
//! A part that fails is written down with its reason and the next one is measured: a tunnel that can't carry 64 streams
//! still has a latency.

use std::{collections::BTreeMap, io, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    links::congestion_in_use,
    load::{
        backend::Backend,
        bulk::{Bulk, Direction},
        calls,
        figures::{Figures, add_latencies, jain, now, pass},
        small::{Echo, Idle, Visits, stalled_readers, visits_at_once, visits_in_turn},
    },
    peers::{Peer, Side, TUNNEL_PORTS, Tools, Tunnel},
    procs::{Family, Memory},
};

/// Visitors at a time where many come at once.
pub const AT_ONCE: usize = 50;

/// Visitors that download and never read.
pub const STALLED: usize = 8;

/// How long memory and queues may take to come to rest before they are looked at.
const SETTLE: Duration = Duration::from_millis(700);

/// How long what was queued may take to drain before the next part begins.
const DRAIN: Duration = Duration::from_millis(150);

/// How much of it there is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Seconds of each measurement.
    pub window_s: f64,
    /// Seconds of load before it begins.
    pub warmup_s: f64,
    /// How often each tunnel is measured, in alternating order.
    pub repetitions: usize,
    /// Idle connections at which memory is looked at, growing.
    pub idle: Vec<usize>,
}

impl Settings {
    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.window_s)
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_s)
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Measured {
    /// The figures.
    pub figures: Figures,
    /// Parts that could not be measured, and why.
    pub failed: BTreeMap<String, String>,
    /// The congestion control that its sockets had under load, as the kernel says.
    pub congestion: Option<Congestion>,
}

/// Congestion control in use. More than one name means that sockets differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Congestion {
    /// Of the connections that are the tunnel.
    pub tunnel: Vec<String>,
    /// Of all others: visitors, the service.
    pub others: Vec<String>,
}

/// One tunnel under measurement.
#[derive(Debug)]
pub struct Suite<'a> {
    tunnel: &'a Tunnel,
    tools: &'a Tools,
    backend: &'a mut Backend,
    settings: &'a Settings,
    hub: &'a Side,
    edge: &'a Side,
    family: Family,
    measured: Measured,
}

impl<'a> Suite<'a> {
    /// Nothing measured yet. `backend` is the service behind `tunnel`, which is between `hub` and `edge`.
    pub fn new(
        tunnel: &'a Tunnel,
        tools: &'a Tools,
        backend: &'a mut Backend,
        settings: &'a Settings,
        [hub, edge]: [&'a Side; 2],
    ) -> Self {
        Self {
            tunnel,
            tools,
            backend,
            settings,
            hub,
            edge,
            family: tunnel.family(),
            measured: Measured::default(),
        }
    }

    /// Everything that is measured on loopback, but for memory.
    pub fn loopback(mut self) -> Measured {
        self.part("lat", Self::idle_latency);
        self.part("conn1", |suite| suite.visits("conn1", 1));
        self.part("conn50", |suite| suite.visits("conn50", AT_ONCE));
        for streams in [1, 8, 64] {
            for direction in Direction::BOTH {
                let name = format!("bulk{streams}.{}", direction.name());
                self.part(&name, |suite| suite.bulk(&name, direction, streams));
            }
        }
        for streams in [1, 8] {
            for direction in Direction::BOTH {
                let name = format!("load{streams}.{}", direction.name());
                self.part(&name, |suite| suite.echo_under_load(&name, direction, streams));
            }
        }
        self.part("stall8", Self::stalled);
        if self.tunnel.peer == Peer::Reachback {
            self.part("calls", Self::calls);
            self.part("dial", Self::sessions);
        }
        self.measured
    }

    /// What encryption costs on loopback: bytes, and the handshakes of whoever makes one for every stream.
    pub fn encrypted(mut self) -> Measured {
        self.part("lat", Self::idle_latency);
        self.part("conn1", |suite| suite.visits("conn1", 1));
        self.part("conn50", |suite| suite.visits("conn50", AT_ONCE));
        for streams in [1, 8] {
            for direction in Direction::BOTH {
                let name = format!("bulk{streams}.{}", direction.name());
                self.part(&name, |suite| suite.bulk(&name, direction, streams));
            }
        }
        if self.tunnel.peer == Peer::ReachbackTls {
            self.part("dial", Self::sessions);
        }
        self.measured
    }

    /// What idle streams cost: the first thing that is asked of fresh processes.
    pub fn memory(mut self) -> Measured {
        self.part("mem", Self::idle_memory);
        self.measured
    }

    /// What is measured on a long link: bulk of one stream, and small round trips under one and eight of them.
    pub fn long_link(mut self) -> Measured {
        self.part("lat", Self::idle_latency);
        self.part("bulk1.down", |suite| suite.bulk("bulk1.down", Direction::Down, 1));
        for streams in [1, 8] {
            let name = format!("load{streams}.down");
            self.part(&name, |suite| suite.echo_under_load(&name, Direction::Down, streams));
        }
        self.measured
    }

    fn part(&mut self, name: &str, measure: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(error) = measure(self) {
            self.measured.failed.insert(name.to_owned(), error.to_string());
        }
        pass(DRAIN);
    }

    fn set(&mut self, name: &str, key: &str, value: f64) {
        self.measured.figures.insert(format!("{name}.{key}"), value);
    }

    fn idle_latency(&mut self) -> io::Result<()> {
        let mut echo = Echo::connect(self.tunnel.visitors)?;
        echo.round_trips(self.settings.warmup() / 4)?;
        let cpu = self.family.cpu_seconds();
        let samples = echo.round_trips(self.settings.window())?;
        let per_call = (self.family.cpu_seconds() - cpu) * 1e6 / samples.len() as f64;
        self.set_cpu("lat", "cpu_us_per_call", per_call);
        add_latencies(&mut self.measured.figures, "lat", samples);
        Ok(())
    }

    fn visits(&mut self, name: &str, at_once: usize) -> io::Result<()> {
        let (target, window) = (self.tunnel.visitors, self.settings.window());
        let cpu = self.family.cpu_seconds();
        let visits = if at_once == 1 {
            visits_in_turn(target, window)
        } else {
            visits_at_once(target, window, at_once)?
        };
        let per_visit = (self.family.cpu_seconds() - cpu) * 1e6 / visits.samples.len() as f64;
        self.set_cpu(name, "cpu_us_per_conn", per_visit);
        self.add_visits(name, visits);
        Ok(())
    }

    fn add_visits(&mut self, name: &str, visits: Visits) {
        self.set(name, "per_s", visits.samples.len() as f64 / visits.seconds);
        self.set(name, "failed", visits.failed as f64);
        add_latencies(&mut self.measured.figures, name, visits.samples);
    }

    fn bulk(&mut self, name: &str, direction: Direction, streams: usize) -> io::Result<()> {
        let bulk = Bulk::start(self.tunnel.visitors, direction, streams)?;
        pass(self.settings.warmup());
        let before = Sample::take(&bulk, self.backend, &self.family)?;
        pass(self.settings.window());
        let after = Sample::take(&bulk, self.backend, &self.family)?;
        let rates = before.rates(&after);
        let bytes = rates.iter().sum::<f64>() * before.seconds_to(&after);
        self.set(name, "MBps", rates.iter().sum::<f64>() / 1e6);
        self.set_cpu(name, "cpu_s_per_GB", (after.cpu - before.cpu) / (bytes / 1e9));
        if streams > 1 {
            self.set(name, "jain", jain(&rates));
        }
        self.set(name, "broken", bulk.broken() as f64);
        if self.measured.congestion.is_none() {
            self.measured.congestion = Some(self.congestion()?);
        }
        Ok(())
    }

    fn congestion(&self) -> io::Result<Congestion> {
        let mut used = Congestion::default();
        for side in [self.hub, self.edge] {
            let [tunnel, others] = congestion_in_use(side, &TUNNEL_PORTS)?;
            used.tunnel.extend(tunnel);
            used.others.extend(others);
        }
        for names in [&mut used.tunnel, &mut used.others] {
            names.sort();
            names.dedup();
        }
        Ok(used)
    }

    fn echo_under_load(&mut self, name: &str, direction: Direction, streams: usize) -> io::Result<()> {
        let bulk = Bulk::start(self.tunnel.visitors, direction, streams)?;
        pass(self.settings.warmup());
        let mut echo = Echo::connect(self.tunnel.visitors)?;
        let before = Sample::take(&bulk, self.backend, &self.family)?;
        let samples = echo.round_trips(self.settings.window())?;
        let after = Sample::take(&bulk, self.backend, &self.family)?;
        self.set(name, "MBps", before.rates(&after).iter().sum::<f64>() / 1e6);
        self.set(name, "broken", bulk.broken() as f64);
        add_latencies(&mut self.measured.figures, name, samples);
        Ok(())
    }

    fn stalled(&mut self) -> io::Result<()> {
        let mut echo = Echo::connect(self.tunnel.visitors)?;
        let before = self.family.memory();
        let stalled = stalled_readers(self.tunnel.visitors, STALLED)?;
        pass(SETTLE);
        let samples = echo.round_trips(self.settings.window())?;
        let growth = self.family.memory().rss - before.rss;
        drop(stalled);
        self.set_cpu("stall8", "rss_growth_MiB", mebibytes(growth));
        add_latencies(&mut self.measured.figures, "stall8", samples);
        Ok(())
    }

    fn calls(&mut self) -> io::Result<()> {
        let (explorer, window) = (self.tunnel.explorer(self.hub), self.settings.window());
        for at_once in [1, AT_ONCE] {
            let node = calls::posts(explorer, "/n/bench/rpc/rpc", "any", at_once, window)?;
            self.add_visits(&format!("post{at_once}.node"), node);
            let own = calls::posts(explorer, "/rpc", "explorer.status", at_once, window)?;
            self.add_visits(&format!("post{at_once}.explorer"), own);
            let session = calls::session_calls(explorer, "bench/rpc", "any", at_once, window)?;
            self.add_visits(&format!("session{at_once}.node"), session);
            let own = calls::session_calls(explorer, "@explorer/api", "explorer.status", at_once, window)?;
            self.add_visits(&format!("session{at_once}.explorer"), own);
        }
        Ok(())
    }

    fn sessions(&mut self) -> io::Result<()> {
        let (explorer, window) = (self.tunnel.explorer(self.hub), self.settings.window());
        let access = self.tunnel.access(self.tools)?;
        for at_once in [1, AT_ONCE] {
            let name = format!("dial{at_once}");
            let cpu = self.family.cpu_seconds();
            let visits = calls::sessions(explorer, &access, at_once, window)?;
            let each = (self.family.cpu_seconds() - cpu) * 1e6 / visits.samples.len() as f64;
            self.set_cpu(&name, "cpu_us_per_session", each);
            self.add_visits(&name, visits);
        }
        Ok(())
    }

    fn idle_memory(&mut self) -> io::Result<()> {
        let start = self.family.memory();
        self.set_cpu("mem", "start_pss_MiB", mebibytes(start.pss));
        let mut idle = Idle::default();
        for &streams in &self.settings.idle {
            let name = format!("mem.{streams}");
            let begun = now();
            idle.grow_to(self.tunnel.visitors, streams)?;
            self.set(&name, "open_s", begun.elapsed().as_secs_f64());
            self.set(&name, "failed", idle.failed as f64);
            pass(SETTLE);
            let Memory { pss, .. } = self.family.memory();
            self.set_cpu(&name, "pss_MiB", mebibytes(pss));
            self.set_cpu(&name, "KiB_per_stream", (pss - start.pss) / 1024.0 / idle.open() as f64);
        }
        drop(idle);
        pass(SETTLE);
        self.set_cpu("mem", "after_rss_MiB", mebibytes(self.family.memory().rss));
        Ok(())
    }

    /// A figure about processes: `direct` has none.
    fn set_cpu(&mut self, name: &str, key: &str, value: f64) {
        if self.tunnel.peer != Peer::Direct {
            self.set(name, key, value);
        }
    }
}

/// How far bulk streams are at one moment.
struct Sample {
    at: std::time::Instant,
    delivered: Vec<u64>,
    cpu: f64,
}

impl Sample {
    fn take(bulk: &Bulk, backend: &mut Backend, family: &Family) -> io::Result<Self> {
        let cpu = family.cpu_seconds();
        Ok(Self { delivered: bulk.delivered(backend)?, at: now(), cpu })
    }

    fn seconds_to(&self, later: &Self) -> f64 {
        (later.at - self.at).as_secs_f64()
    }

    /// Bytes per second of each stream until `later`.
    fn rates(&self, later: &Self) -> Vec<f64> {
        let seconds = self.seconds_to(later);
        let pairs = self.delivered.iter().zip(&later.delivered);
        pairs.map(|(before, after)| after.saturating_sub(*before) as f64 / seconds).collect()
    }
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
