//! Thousands of nodes on one explorer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a fleet showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FleetResults {
    /// How many nodes.
    pub nodes: usize,
    /// In how many processes.
    pub processes: usize,
    /// The figures; see [`TITLES`].
    pub figures: BTreeMap<String, f64>,
}

/// Every figure with a title for people, in the order of the report.
pub const TITLES: [(&str, &str); 1] = [("KiB_per_node", "KiB per idle node on the explorer")];
