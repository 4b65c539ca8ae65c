//! What must be reached (the first bar) and what is wanted (the goal), beside the others of the same run. A figure of
//! another machine, or of another run, says nothing here: every limit is a ratio to a peer or a count of the thing itself.

use super::results::Results;

/// One figure and its two limits.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Whose figure it is.
    pub tunnel: &'static str,
    /// Where the figure is.
    pub place: Place,
    /// For people, as in `bulk 8 up`.
    pub title: &'static str,
    /// Its name in the results.
    pub figure: &'static str,
    /// Whether more is better.
    pub better: Better,
    /// What must be reached.
    pub first: &'static [Limit],
    /// What is wanted.
    pub goal: &'static [Limit],
}

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// Where a figure was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Loopback.
    Loopback,
    /// The long link of this name.
    Link(&'static str),
    /// The simulated fleet.
    Fleet,
}

/// What a figure is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// So many times what this peer reached in the same run.
    Times(f64, &'static str),
    /// A value.
    Value(f64),
}

/// How it stands with one bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The key of an explanation: place and figure.
    pub key: String,
    /// What was reached.
    pub reached: Option<f64>,
    /// The same against each peer that a limit names, in their order.
    pub ratios: Vec<(&'static str, f64)>,
    /// Whether the first bar was met; nothing when a figure is missing.
    pub first: Option<bool>,
    /// Whether the goal was met.
    pub goal: Option<bool>,
}

use Better::{Higher, Lower};
use Limit::{Times, Value};

/// The fleet that the bar about it means.
const FLEET: usize = 10_000;

const OURS: &str = "reachback";
const OURS_TLS: &str = "reachback-tls";
const RATHOLE_TLS: &str = "rathole-tls";
const RATHOLE: &str = "rathole";
const SOCAT: &str = "socat2";
const DIRECT: &str = "direct";
/// The best one-connection peer that is measured here.
const SSH: &str = "ssh-R";

/// Round trip of the long links in microseconds.
const RTT: f64 = 100_000.0;

const BULK: (&[Limit], &[Limit]) = (&[Times(1.2, RATHOLE)], &[Times(1.6, RATHOLE), Times(0.85, SOCAT)]);
const CPU: (&[Limit], &[Limit]) = (&[Times(0.8, RATHOLE)], &[Times(0.6, RATHOLE)]);
const BULK_TLS: (&[Limit], &[Limit]) = (&[Times(1.5, SSH)], &[Times(3.0, SSH), Times(1.3, RATHOLE_TLS)]);
const CPU_TLS: (&[Limit], &[Limit]) =
    (&[Times(1.0 / 1.5, SSH)], &[Times(1.0 / 3.0, SSH), Times(1.0 / 1.3, RATHOLE_TLS)]);
const FAIR: (&[Limit], &[Limit]) = (&[Value(0.97)], &[Value(0.99)]);
const IDLE: (&[Limit], &[Limit]) = (&[Times(1.0, RATHOLE)], &[Times(0.7, RATHOLE)]);
const LOADED_P50: (&[Limit], &[Limit]) = (&[Times(0.1, RATHOLE)], &[Times(0.05, RATHOLE)]);
const LOADED_P99: (&[Limit], &[Limit]) = (&[Times(0.25, RATHOLE)], &[Times(0.1, RATHOLE)]);

/// All bars, in the order of the report.
#[rustfmt::skip]
pub fn all() -> Vec<Bar> {
    let loopback = |title, figure, better, (first, goal)| Bar { tunnel: OURS, place: Place::Loopback, title, figure, better, first, goal };
    let tls = |title, figure, better, (first, goal)| Bar { tunnel: OURS_TLS, place: Place::Loopback, title, figure, better, first, goal };
    let link = |name, title, figure, better, first, goal| Bar { tunnel: OURS, place: Place::Link(name), title, figure, better, first, goal };
    vec![
        loopback("bulk, 1 stream up, MB/s", "bulk1.up.MBps", Higher, BULK),
        loopback("bulk, 1 stream down, MB/s", "bulk1.down.MBps", Higher, BULK),
        loopback("bulk, 8 streams up, MB/s", "bulk8.up.MBps", Higher, BULK),
        loopback("bulk, 8 streams down, MB/s", "bulk8.down.MBps", Higher, BULK),
        loopback("bulk, 64 streams up, MB/s", "bulk64.up.MBps", Higher, BULK),
        loopback("bulk, 64 streams down, MB/s", "bulk64.down.MBps", Higher, BULK),
        loopback("CPU s per GB, 1 stream up", "bulk1.up.cpu_s_per_GB", Lower, CPU),
        loopback("CPU s per GB, 1 stream down", "bulk1.down.cpu_s_per_GB", Lower, CPU),
        loopback("CPU s per GB, 8 streams up", "bulk8.up.cpu_s_per_GB", Lower, CPU),
        loopback("CPU s per GB, 8 streams down", "bulk8.down.cpu_s_per_GB", Lower, CPU),
        loopback("CPU s per GB, 64 streams up", "bulk64.up.cpu_s_per_GB", Lower, CPU),
        loopback("CPU s per GB, 64 streams down", "bulk64.down.cpu_s_per_GB", Lower, CPU),
        loopback("fairness (Jain), 64 streams up", "bulk64.up.jain", Higher, FAIR),
        loopback("fairness (Jain), 64 streams down", "bulk64.down.jain", Higher, FAIR),
        loopback("64 B echo, idle, p50 µs", "lat.p50_us", Lower, IDLE),
        loopback("64 B echo, idle, p99 µs", "lat.p99_us", Lower, IDLE),
        loopback("64 B echo under 8 bulk up, p50 µs", "load8.up.p50_us", Lower, LOADED_P50),
        loopback("64 B echo under 8 bulk down, p50 µs", "load8.down.p50_us", Lower, LOADED_P50),
        loopback("64 B echo under 8 bulk up, p99 µs", "load8.up.p99_us", Lower, LOADED_P99),
        loopback("64 B echo under 8 bulk down, p99 µs", "load8.down.p99_us", Lower, LOADED_P99),
        loopback("new connections one at a time, p50 µs", "conn1.p50_us", Lower, (&[Times(1.0, RATHOLE)], &[Times(0.8, RATHOLE)])),
        loopback("new connections 50 at a time, per s", "conn50.per_s", Higher, (&[Times(1.0, RATHOLE)], &[Times(1.3, RATHOLE)])),
        loopback("KiB per idle stream, at 5,000", "mem.5000.KiB_per_stream", Lower, (&[Value(8.0)], &[Value(4.0)])),
        tls("with TLS: bulk, 1 stream up, MB/s", "bulk1.up.MBps", Higher, BULK_TLS),
        tls("with TLS: bulk, 1 stream down, MB/s", "bulk1.down.MBps", Higher, BULK_TLS),
        tls("with TLS: bulk, 8 streams up, MB/s", "bulk8.up.MBps", Higher, BULK_TLS),
        tls("with TLS: bulk, 8 streams down, MB/s", "bulk8.down.MBps", Higher, BULK_TLS),
        tls("with TLS: CPU s per GB, 1 stream up", "bulk1.up.cpu_s_per_GB", Lower, CPU_TLS),
        tls("with TLS: CPU s per GB, 1 stream down", "bulk1.down.cpu_s_per_GB", Lower, CPU_TLS),
        tls("with TLS: CPU s per GB, 8 streams up", "bulk8.up.cpu_s_per_GB", Lower, CPU_TLS),
        tls("with TLS: CPU s per GB, 8 streams down", "bulk8.down.cpu_s_per_GB", Lower, CPU_TLS),
        Bar { tunnel: OURS, place: Place::Fleet, title: "KiB per idle node, at 10,000", figure: "KiB_per_node", better: Lower, first: &[Value(16.0)], goal: &[Value(8.0)] },
        link("clean", "100 ms, 200 Mbit/s: bulk of one stream, MB/s", "bulk1.down.MBps", Higher, &[Times(0.95, DIRECT)], &[Times(0.98, DIRECT)]),
        link("clean", "the same, echo under 8 bulk, p50 µs", "load8.down.p50_us", Lower, &[Value(1.5 * RTT)], &[Value(1.2 * RTT)]),
        link("clean", "the same, echo under 8 bulk, p99 µs", "load8.down.p99_us", Lower, &[Value(2.5 * RTT)], &[Value(1.6 * RTT)]),
        link("lossy-bbr", "the same with 1 % loss, bbr: 8 bulk streams, MB/s", "load8.down.MBps", Higher, &[Times(0.9, SSH)], &[Times(1.0, SSH)]),
        link("lossy-bbr", "the same, echo under 8 bulk, p50 µs", "load8.down.p50_us", Lower, &[Value(3.0 * RTT)], &[Value(2.3 * RTT)]),
    ]
}

impl Bar {
    /// How it stands with this bar in `results`.
    pub fn judge(&self, results: &Results) -> Verdict {
        let ours = self.value(results, self.tunnel);
        let theirs = |peer: &str| self.value(results, peer);
        let met = |limits: &[Limit]| {
            let mut all = true;
            for limit in limits {
                let bound = match limit {
                    Times(times, peer) => times * theirs(peer)?,
                    Value(value) => *value,
                };
                all &= match self.better {
                    Higher => ours? >= bound,
                    Lower => ours? <= bound,
                };
            }
            Some(all)
        };
        let mut ratios: Vec<(&'static str, f64)> = Vec::new();
        for limit in self.first.iter().chain(self.goal) {
            if let Times(_, peer) = limit
                && !ratios.iter().any(|(known, _)| known == peer)
                && let (Some(ours), Some(theirs)) = (ours, theirs(peer))
            {
                ratios.push((peer, ours / theirs));
            }
        }
        Verdict { key: self.key(), reached: ours, ratios, first: met(self.first), goal: met(self.goal) }
    }

    /// The key of this bar's explanation in `bench/explanations.toml`.
    pub fn key(&self) -> String {
        match self.place {
            Place::Loopback if self.tunnel == OURS_TLS => format!("tls.{}", self.figure),
            Place::Loopback => self.figure.to_owned(),
            Place::Link(name) => format!("{name}.{}", self.figure),
            Place::Fleet => format!("fleet.{}", self.figure),
        }
    }

    fn value(&self, results: &Results, peer: &str) -> Option<f64> {
        match self.place {
            Place::Loopback => results.spread(peer, self.figure).map(|spread| spread.median),
            Place::Link(name) => results.link_spread(name, peer, self.figure).map(|spread| spread.median),
            // Fewer nodes share what the explorer needs for itself.
            Place::Fleet => {
                let fleet = results.fleet.as_ref().filter(|fleet| fleet.nodes >= FLEET && peer == OURS)?;
                fleet.figures.get(self.figure).copied()
            }
        }
    }
}

/// A limit as it stands in a report.
pub fn describe(better: Better, limits: &[Limit]) -> String {
    let sign = if better == Higher { "≥" } else { "≤" };
    let one = |limit: &Limit| match limit {
        Times(times, peer) => format!("{sign} {} × {peer}", rounded(*times)),
        Value(value) => format!("{sign} {}", rounded(*value)),
    };
    limits.iter().map(one).collect::<Vec<_>>().join(" and ")
}

/// A limit without the digits that come of computing it.
fn rounded(limit: f64) -> f64 {
    (limit * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn judge(figure: &str, results: &Results) -> Verdict {
        all().into_iter().find(|bar| bar.key() == figure).unwrap().judge(results)
    }

    #[test]
    fn a_rate_is_judged_beside_every_peer_that_its_limits_name() {
        let figure = "bulk8.up.MBps";
        let reached = |ours, socat| {
            let results = Results::of(&[
                ("reachback", figure, ours),
                (RATHOLE, figure, 1000.0),
                (SOCAT, figure, socat),
            ]);
            let verdict = judge(figure, &results);
            (verdict.first, verdict.goal)
        };
        assert_eq!(reached(1100.0, 2000.0), (Some(false), Some(false)));
        assert_eq!(reached(1200.0, 2000.0), (Some(true), Some(false)));
        assert_eq!(reached(1700.0, 2000.0), (Some(true), Some(true)));
        assert_eq!(reached(1700.0, 2100.0), (Some(true), Some(false)), "1.7 x rathole, 0.81 x socat2");
    }

    #[test]
    fn less_latency_is_better_and_what_is_missing_is_not_judged() {
        let figure = "lat.p50_us";
        let verdict = judge(figure, &Results::of(&[("reachback", figure, 101.0), (RATHOLE, figure, 100.0)]));
        assert_eq!((verdict.first, verdict.ratios), (Some(false), vec![(RATHOLE, 1.01)]));
        let verdict = judge(figure, &Results::of(&[("reachback", figure, 70.0), (RATHOLE, figure, 100.0)]));
        assert_eq!((verdict.first, verdict.goal), (Some(true), Some(true)));
        let verdict = judge(figure, &Results::of(&[("reachback", figure, 70.0)]));
        assert_eq!((verdict.first, verdict.goal), (None, None));
    }

    #[test]
    fn every_bar_has_a_key_of_its_own() {
        let keys: BTreeSet<String> = all().iter().map(Bar::key).collect();
        assert_eq!(keys.len(), all().len());
    }
}
