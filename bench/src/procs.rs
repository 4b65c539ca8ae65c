//! What processes cost, from `/proc`: CPU time and memory of a tunnel, with everything it has started (socat starts a
//! process per connection, sshd one per session).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

/// Clock ticks per second in `/proc/PID/stat`: a constant of Linux's interface, whatever the kernel's own tick is.
const TICKS: f64 = 100.0;

/// Bytes of a KiB as `/proc` counts memory.
const KIB: f64 = 1024.0;

/// Processes that belong together, with all their descendants.
#[derive(Debug, Clone, Default)]
pub struct Family(Vec<u32>);

/// What a family holds in memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// Proportional set size: shared pages are counted once.
    pub pss: f64,
    /// Resident set size.
    pub rss: f64,
}

impl Family {
    /// The processes `roots` and whatever they start.
    pub fn new(roots: Vec<u32>) -> Self {
        Self(roots)
    }

    /// CPU seconds used so far, children that have ended and were waited for included.
    pub fn cpu_seconds(&self) -> f64 {
        let seconds = |process: &u32| {
            let stat = Stat::read(*process)?;
            // Ticks lose up to 10 ms of each process, which is all that one of a hundred relays uses in a window; the
            // scheduler's own count loses threads that have ended.
            Some((stat.own / TICKS).max(scheduled_seconds(*process)) + stat.children / TICKS)
        };
        self.members().iter().filter_map(seconds).sum()
    }

    /// Memory held now.
    pub fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for process in self.members() {
            // One that has just ended holds nothing.
            let Ok(rollup) = fs::read_to_string(format!("/proc/{process}/smaps_rollup")) else { continue };
            memory.pss += kibibytes(&rollup, "Pss:") * KIB;
            memory.rss += kibibytes(&rollup, "Rss:") * KIB;
        }
        memory
    }

    fn members(&self) -> BTreeSet<u32> {
        let parents: BTreeMap<u32, u32> =
            processes().filter_map(|process| Some((process, Stat::read(process)?.parent))).collect();
        let mut members: BTreeSet<u32> =
            self.0.iter().copied().filter(|process| parents.contains_key(process)).collect();
        loop {
            let more: Vec<u32> = parents
                .iter()
                .filter(|(process, parent)| members.contains(parent) && !members.contains(process))
                .map(|(process, _)| *process)
                .collect();
            if more.is_empty() {
                return members;
            }
            members.extend(more);
        }
    }
}

/// CPU seconds that this machine has used since it started, all processes and the kernel.
pub fn machine_cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already. What is stolen is lost to us too.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks[..] else { return 0.0 };
    (user + nice + system + irq + softirq + steal) / TICKS
}

/// What this machine is, for the head of a report.
pub fn machine() -> String {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let model = first("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory =
        first("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, {:.0} GiB, Linux {}", memory.unwrap_or(0.0) / KIB / KIB, kernel.trim())
}

/// The congestion control of new connections in this network namespace.
///
/// # Errors
/// When the kernel refuses `name`, or this process may not choose.
pub fn pin_congestion_control(name: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net/ipv4/tcp_congestion_control");
    fs::write(path, name)
        .map_err(|error| io::Error::new(error.kind(), format!("congestion control {name}: {error}")))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Stat {
    parent: u32,
    /// Ticks of the process.
    own: f64,
    /// Ticks of its children that were waited for.
    children: f64,
}

impl Stat {
    fn read(process: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name is in brackets and may hold anything, brackets and blanks too.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { parent, own: number(11)? + number(12)?, children: number(13)? + number(14)? })
    }
}

/// CPU seconds of the threads that a process has now, in nanoseconds' resolution.
fn scheduled_seconds(process: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

fn kibibytes(rollup: &str, key: &str) -> f64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_brackets_hides_no_figures() {
        let stat = Stat::parse("7 (a) b (c)) S 3 7 7 0 -1 0 1 2 3 4 100 20 3 1 20 0 1 0").unwrap();
        assert_eq!(stat.parent, 3);
        assert_eq!((stat.own, stat.children), (120.0, 4.0));
    }

    #[test]
    fn less_than_a_tick_of_cpu_is_seen() {
        let own = Family::new(vec![std::process::id()]);
        // Asking costs CPU time itself.
        let seen: Vec<f64> = (0..500).map(|_| own.cpu_seconds()).collect();
        let steps = seen.windows(2).map(|pair| pair[1] - pair[0]).filter(|step| *step > 0.0);
        let smallest = steps.fold(f64::INFINITY, f64::min);
        assert!(smallest < 0.9 / TICKS, "the smallest step was {smallest} s");
    }

    #[test]
    fn a_family_is_all_that_was_started() {
        // A shell that waits for a child that waits for its standard input, and ends with it.
        let mut shell =
            Command::new("sh").args(["-c", "cat; :"]).stdin(Stdio::piped()).spawn().expect("sh runs");
        let family = Family::new(vec![shell.id()]);
        let deadline = crate::load::figures::now() + std::time::Duration::from_secs(10);
        while family.members().len() < 2 && crate::load::figures::now() < deadline {
            std::thread::yield_now();
        }
        let (members, memory) = (family.members(), family.memory());
        shell.kill().expect("the shell is there");
        shell.wait().expect("the shell ends");
        assert_eq!(members.len(), 2, "{members:?}");
        assert!(memory.pss > 0.0 && memory.rss >= memory.pss, "{memory:?}");
        assert_eq!(Family::new(vec![shell.id()]).memory(), Memory::default());
    }
}
