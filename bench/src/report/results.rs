//! The results of a run, as they are kept under `bench/results`.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use super::json;
use crate::{
    fleet::FleetResults,
    load::figures::Spread,
    suite::{Congestion, Measured, Settings},
};

/// Repeated measurements of every figure of every tunnel, by the tunnel's name.
pub type Table = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

/// Everything a run found out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// When, in UTC, as in `2026-11-20T13:45:00Z`.
    pub date: String,
    /// Which state of the sources the measured binary was built from.
    pub commit: String,
    /// On what.
    pub machine: String,
    /// Whether it was the short form.
    pub quick: bool,
    /// Cores that other programs kept busy meanwhile, on average. Much above 0 the figures are noise.
    pub foreign_cores: f64,
    /// How much was measured.
    pub settings: Settings,
    /// What each program says its version is.
    pub versions: BTreeMap<String, String>,
    /// Loopback.
    pub loopback: Table,
    /// Long links, by name.
    #[serde(default)]
    pub links: BTreeMap<String, Link>,
    /// The congestion control in use on loopback, by tunnel.
    pub congestion: BTreeMap<String, Congestion>,
    /// Thousands of nodes on one explorer.
    #[serde(default)]
    pub fleet: Option<FleetResults>,
    /// What could not be measured, and why.
    pub not_measured: BTreeMap<String, String>,
}

/// What was measured over one long link.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Link {
    /// For people.
    pub title: String,
    /// The figures.
    pub table: Table,
    /// The congestion control in use, by tunnel.
    pub congestion: BTreeMap<String, Congestion>,
}

impl Results {
    /// Nothing has been measured yet.
    pub fn new(date: String, commit: String, machine: String, quick: bool, settings: Settings) -> Self {
        Self {
            date,
            commit,
            machine,
            quick,
            foreign_cores: 0.0,
            settings,
            versions: BTreeMap::new(),
            loopback: BTreeMap::new(),
            links: BTreeMap::new(),
            congestion: BTreeMap::new(),
            fleet: None,
            not_measured: BTreeMap::new(),
        }
    }

    /// Reads results.
    ///
    /// # Errors
    /// When there are none at `path`, or they are not results.
    pub fn read(path: &Path) -> io::Result<Self> {
        json::read(path)
    }

    /// Writes results.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        json::write(path, self)
    }

    /// Takes in what one measurement of `peer` on loopback has brought.
    pub fn add(&mut self, peer: &str, measured: Measured) {
        absorb(
            &mut self.loopback,
            &mut self.congestion,
            &mut self.not_measured,
            ("loopback", peer),
            measured,
        );
    }

    /// The same for a long link.
    pub fn add_link(&mut self, name: &str, title: &str, peer: &str, measured: Measured) {
        let link = self.links.entry(name.to_owned()).or_default();
        title.clone_into(&mut link.title);
        absorb(&mut link.table, &mut link.congestion, &mut self.not_measured, (name, peer), measured);
    }

    /// The spread of a figure of loopback.
    pub fn spread(&self, peer: &str, figure: &str) -> Option<Spread> {
        spread(&self.loopback, peer, figure)
    }

    /// The spread of a figure of a long link.
    pub fn link_spread(&self, link: &str, peer: &str, figure: &str) -> Option<Spread> {
        spread(&self.links.get(link)?.table, peer, figure)
    }
}

/// The spread of a figure in a table.
pub fn spread(table: &Table, peer: &str, figure: &str) -> Option<Spread> {
    Spread::of(table.get(peer)?.get(figure)?)
}

fn absorb(
    table: &mut Table,
    congestion: &mut BTreeMap<String, Congestion>,
    not_measured: &mut BTreeMap<String, String>,
    (place, peer): (&str, &str),
    measured: Measured,
) {
    let row = table.entry(peer.to_owned()).or_default();
    for (figure, value) in measured.figures {
        // JSON has no word for the result of a division by nothing; neither has a table.
        if value.is_finite() {
            row.entry(figure).or_default().push(value);
        }
    }
    for (part, reason) in measured.failed {
        not_measured.insert(format!("{place}: {part} of {peer}"), reason);
    }
    if let Some(used) = measured.congestion {
        congestion.insert(peer.to_owned(), used);
    }
}

#[cfg(test)]
impl Results {
    /// Results with these figures of loopback (tunnel, figure, value) and nothing else.
    pub(crate) fn of(figures: &[(&str, &str, f64)]) -> Self {
        let settings = Settings { window_s: 1.0, warmup_s: 1.0, repetitions: 1, idle: Vec::new() };
        let mut results =
            Self::new("2026-01-01T00:00:00Z".into(), "none".into(), "none".into(), false, settings);
        for (peer, figure, value) in figures {
            let row = results.loopback.entry((*peer).to_owned()).or_default();
            row.entry((*figure).to_owned()).or_default().push(*value);
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_read_back_and_what_has_no_value_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below").join("results.json");
        let mut results = Results::of(&[("reachback", "lat.p50_us", 50.0)]);
        let mut measured = Measured::default();
        measured.figures.insert("lat.p50_us".into(), 70.0);
        measured.figures.insert("bulk1.up.cpu_s_per_GB".into(), f64::INFINITY);
        measured.failed.insert("bulk1.up".into(), "the tunnel ended".into());
        results.add("reachback", measured);
        results.write(&path).unwrap();
        let read = Results::read(&path).unwrap();
        assert_eq!(read.loopback["reachback"]["lat.p50_us"], [50.0, 70.0]);
        assert!(!read.loopback["reachback"].contains_key("bulk1.up.cpu_s_per_GB"));
        assert_eq!(read.not_measured["loopback: bulk1.up of reachback"], "the tunnel ended");
    }
}
