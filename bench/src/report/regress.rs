//! Whether something got slower than it was. Figures of two runs can't be compared (another machine, another hour), but
//! ratios to rathole within each run can, within the noise of a short run.

use super::{
    bars::Better::{self, Higher, Lower},
    results::Results,
};

/// A figure that is watched, and how much worse its ratio to rathole may be than it was. The factors are the noise seen
/// between short runs of one binary on two shared cores: half of the rates lie within a tenth, percentiles of a few
/// dozen samples within a factor of two.
#[derive(Debug, Clone, Copy)]
struct Watched {
    figure: &'static str,
    better: Better,
    noise: f64,
}

/// A rate, or CPU time.
const STEADY: f64 = 1.3;
/// A median latency.
const LATENCY: f64 = 1.5;
/// A latency with few samples, or a 99th percentile.
const TAIL: f64 = 2.5;

const WATCHED: [Watched; 17] = [
    watched("bulk1.up.MBps", Higher, STEADY),
    watched("bulk1.down.MBps", Higher, STEADY),
    watched("bulk8.up.MBps", Higher, STEADY),
    watched("bulk8.down.MBps", Higher, STEADY),
    watched("bulk64.up.MBps", Higher, STEADY),
    watched("bulk64.down.MBps", Higher, STEADY),
    watched("bulk1.up.cpu_s_per_GB", Lower, STEADY),
    watched("bulk1.down.cpu_s_per_GB", Lower, STEADY),
    watched("bulk8.up.cpu_s_per_GB", Lower, STEADY),
    watched("bulk8.down.cpu_s_per_GB", Lower, STEADY),
    watched("lat.p50_us", Lower, LATENCY),
    watched("lat.p99_us", Lower, TAIL),
    watched("load8.up.p50_us", Lower, TAIL),
    watched("load8.down.p50_us", Lower, TAIL),
    watched("conn1.p50_us", Lower, LATENCY),
    watched("conn50.per_s", Higher, STEADY),
    watched("mem.1000.KiB_per_stream", Lower, STEADY),
];

/// One watched figure beside what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub figure: &'static str,
    /// Ratio to rathole then.
    pub before: f64,
    /// Ratio to rathole now.
    pub now: f64,
    /// Whether it is worse by more than the noise.
    pub worse: bool,
    /// The factor that counts as noise.
    pub noise: f64,
}

/// Every watched figure that both runs have.
pub fn compare(before: &Results, now: &Results) -> Vec<Change> {
    let ratio = |results: &Results, figure: &str| {
        let ours = results.spread("reachback", figure)?.median;
        let ratio = ours / results.spread("rathole", figure)?.median;
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    };
    let changes = WATCHED.iter().filter_map(|watched| {
        let (before, now) = (ratio(before, watched.figure)?, ratio(now, watched.figure)?);
        let worsening = if watched.better == Higher { before / now } else { now / before };
        Some(Change {
            figure: watched.figure,
            before,
            now,
            worse: worsening > watched.noise,
            noise: watched.noise,
        })
    });
    changes.collect()
}

const fn watched(figure: &'static str, better: Better, noise: f64) -> Watched {
    Watched { figure, better, noise }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_machine_is_no_regression_and_a_slower_product_is() {
        let before =
            Results::of(&[("reachback", "bulk8.up.MBps", 1500.0), ("rathole", "bulk8.up.MBps", 1000.0)]);
        let slow_machine =
            Results::of(&[("reachback", "bulk8.up.MBps", 150.0), ("rathole", "bulk8.up.MBps", 100.0)]);
        assert!(!compare(&before, &slow_machine)[0].worse);
        let slow_product =
            Results::of(&[("reachback", "bulk8.up.MBps", 1000.0), ("rathole", "bulk8.up.MBps", 1000.0)]);
        assert!(compare(&before, &slow_product)[0].worse);
        assert!(!compare(&slow_product, &before)[0].worse, "faster is not worse");
    }

    #[test]
    fn less_is_better_for_latencies() {
        let before = Results::of(&[("reachback", "lat.p50_us", 100.0), ("rathole", "lat.p50_us", 100.0)]);
        let now = Results::of(&[("reachback", "lat.p50_us", 200.0), ("rathole", "lat.p50_us", 100.0)]);
        assert!(compare(&before, &now)[0].worse);
        assert!(!compare(&now, &before)[0].worse);
    }

    #[test]
    fn what_one_of_the_runs_lacks_is_not_compared() {
        let before = Results::of(&[("reachback", "lat.p50_us", 100.0)]);
        assert_eq!(compare(&before, &before), []);
    }
}
