//! What is done with a fleet: all dial at once, rest, are called one by one, lose their explorer and come back.

use std::{
    collections::BTreeMap,
    env, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    FleetResults,
    crew::Fleet,
    explorer::Explorer,
    nodes::{LOOK, name},
};
use crate::{
    load::{
        backend::Backend,
        figures::{now, pass, percentile},
    },
    peers::{SERVICE, Side, TUNNEL},
    procs::{Memory, machine},
    suite::AT_ONCE,
    sys,
};

/// How long a fleet may take to be online, and to be back: several times what a nursing operator would accept.
const ONLINE: Duration = Duration::from_secs(180);

/// After this long all have had a heartbeat, and what coming in took is given back.
const SETTLE: Duration = Duration::from_secs(12);

/// Descriptors of the explorer beside those of its nodes.
const FILES_SPARE: u64 = 500;

/// What to try.
#[derive(Debug, Clone)]
pub struct Trial {
    /// How many nodes.
    pub nodes: usize,
    /// How long they rest while the explorer's CPU and their heartbeats are watched. At least half a minute: only nodes
    /// that were well for that long come back in an orderly way.
    pub rest: Duration,
    /// The binary to measure.
    pub reachback: PathBuf,
    /// When it began, for people.
    pub date: String,
}

impl Trial {
    /// Carries it out; `say` gets a line of progress now and then.
    ///
    /// # Errors
    /// When descriptors are too few, a process fails, or the fleet is not online in three minutes; with how far it came.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> io::Result<FleetResults> {
        let files = sys::raise_open_files()?;
        if files < self.nodes as u64 + FILES_SPARE {
            return Err(io::Error::other(format!(
                "{} nodes need more than the {files} open files that are allowed; raise ulimit -n",
                self.nodes
            )));
        }
        let directory = tempfile::Builder::new().prefix("reachback-fleet-").tempdir()?;
        let [listen, service] = [TUNNEL, SERVICE].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let _service = Backend::start(&env::current_exe()?, &Side::loopback(), service)?;
        let explorer = Explorer::start(&self.reachback, listen, directory.path())?;
        let mut fleet = Fleet::start(self.nodes, listen, service)?;
        let mut figures = BTreeMap::new();
        let mut set = |name: &str, value: f64| figures.insert(name.to_owned(), value);

        let family = explorer.family();
        let (start, cpu, begun) = (family.memory(), family.cpu_seconds(), now());
        fleet.dial()?;
        self.wait(&mut fleet, &explorer, begun, self.nodes)?;
        set("online_s", begun.elapsed().as_secs_f64());
        set("online_cpu_ms_per_node", (family.cpu_seconds() - cpu) * 1e3 / self.nodes as f64);
        say(&format!("{} nodes online after {:.1} s", self.nodes, begun.elapsed().as_secs_f64()));

        pass(SETTLE);
        let Memory { pss, .. } = family.memory();
        set("start_pss_MiB", start.pss / MIB);
        set("pss_MiB", pss / MIB);
        set("KiB_per_node", (pss - start.pss) / 1024.0 / self.nodes as f64);

        let (before, cpu, begun) = (fleet.report()?, family.cpu_seconds(), now());
        pass(self.rest);
        let after = fleet.report()?;
        set("rest_cpu_percent", (family.cpu_seconds() - cpu) / begun.elapsed().as_secs_f64() * 100.0);
        set("rest_late", (after.late - before.late) as f64);
        set("rest_ended", (after.ended - before.ended) as f64);
        let heartbeats = explorer.heartbeats_ms()?;
        for (name, share) in [("heartbeat_p50_ms", 0.5), ("heartbeat_p99_ms", 0.99)] {
            percentile(&heartbeats, share).and_then(|value| set(name, value));
        }
        say("rested; calling each of them");

        let targets = (0..self.nodes).map(|number| format!("{}/rpc", name(number))).collect();
        let mut calls = explorer.call_each(targets, AT_ONCE)?;
        calls.samples.sort_by(f64::total_cmp);
        set("calls_per_s", calls.samples.len() as f64 / calls.seconds);
        set("calls_failed", calls.failed as f64);
        for (name, share) in [("calls_p50_ms", 0.5), ("calls_p99_ms", 0.99)] {
            percentile(&calls.samples, share).and_then(|value| set(name, value / 1e3));
        }
        say("called; restarting the explorer");

        let begun = now();
        explorer.stop()?;
        let explorer = Explorer::start(&self.reachback, listen, directory.path())?;
        for (name, share) in [("restart_first_s", 0.0), ("restart_half_s", 0.5), ("restart_all_s", 1.0)] {
            self.wait(&mut fleet, &explorer, begun, ((self.nodes as f64 * share) as usize).max(1))?;
            set(name, begun.elapsed().as_secs_f64());
        }
        pass(SETTLE);
        set("after_pss_MiB", explorer.family().memory().pss / MIB);
        let processes = fleet.processes();
        Ok(FleetResults {
            date: self.date.clone(),
            machine: machine(),
            nodes: self.nodes,
            processes,
            figures,
        })
    }

    /// Waits until `wanted` nodes say that they are well, and, when that is all of them, until the explorer says so too.
    fn wait(&self, fleet: &mut Fleet, explorer: &Explorer, begun: Instant, wanted: usize) -> io::Result<()> {
        loop {
            let report = fleet.report()?;
            // The explorer is asked last: its answer costs time of the core that is measured.
            if report.live >= wanted && (wanted < self.nodes || explorer.online()? >= wanted) {
                return Ok(());
            }
            if begun.elapsed() > ONLINE {
                return Err(io::Error::other(format!(
                    "{} of {wanted} nodes are well after {} s, {} sessions ended; the explorer says {:?} are online",
                    report.live,
                    ONLINE.as_secs(),
                    report.ended,
                    explorer.online(),
                )));
            }
            pass(LOOK);
        }
    }
}

const MIB: f64 = 1_048_576.0;
