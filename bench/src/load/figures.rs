//! From samples to figures. Percentiles are exact: all samples are kept and sorted, because a histogram's buckets would
//! be as wide as the differences that are looked for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Named figures of one measurement, as in `bulk8.up.MBps`.
pub type Figures = BTreeMap<String, f64>;

/// Median and extremes of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle value, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; nothing for none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

/// The value below which the share `share` (0 to 1) of the samples lies: the nearest rank, so always one of them.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Jain's index of fairness: 1 when all are equal, 1/n when one has everything.
pub fn jain(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (rates.len() as f64 * squares) }
}

/// Adds p50, p90, p99, the maximum and the number of round trips, in microseconds, below `prefix`.
pub fn add_latencies(figures: &mut Figures, prefix: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    for (name, share) in [("p50_us", 0.5), ("p90_us", 0.9), ("p99_us", 0.99), ("max_us", 1.0)] {
        if let Some(value) = percentile(&samples, share) {
            figures.insert(format!("{prefix}.{name}"), value);
        }
    }
    figures.insert(format!("{prefix}.samples"), samples.len() as f64);
}

/// Microseconds since `begun`.
pub fn micros_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6
}

#[allow(clippy::disallowed_methods, reason = "the load generator measures real time and blocks real threads")]
/// The real clock.
pub fn now() -> Instant {
    Instant::now()
}

#[allow(
    clippy::disallowed_methods,
    reason = "a window of a measurement is a span of real time, not a condition"
)]
/// Lets real time pass on this thread.
pub fn pass(span: Duration) {
    std::thread::sleep(span);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.5), Some(50.0));
        assert_eq!(percentile(&sorted, 0.99), Some(99.0));
        assert_eq!(percentile(&sorted, 1.0), Some(100.0));
        assert_eq!(percentile(&[7.0], 0.01), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn latencies_are_sorted_first() {
        let mut figures = Figures::new();
        add_latencies(&mut figures, "lat", vec![9.0, 1.0, 5.0]);
        assert_eq!(figures["lat.p50_us"], 5.0);
        assert_eq!(figures["lat.max_us"], 9.0);
        assert_eq!(figures["lat.samples"], 3.0);
    }

    #[test]
    fn fairness_of_known_shares() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!(jain(&[0.0, 0.0]), 0.0, "nothing moved: not fair, broken");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 8.0]), Some(Spread { median: 3.0, min: 1.0, max: 8.0 }));
        assert_eq!(Spread::of(&[2.0, 9.0, 1.0]).map(|spread| spread.median), Some(2.0));
        assert_eq!(Spread::of(&[]), None);
    }
}
