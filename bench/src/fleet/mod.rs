//! Thousands of nodes on one explorer: the figures that no other tunnel publishes.
//!
//! The nodes are the node library itself, with a connection each, heartbeats, services and reconnecting, in as few
//! processes as descriptors allow; the explorer is the released binary. Nothing of the handshake is left out, so that a
//! figure is what an operator would see.
//!
//! ```text
//! trial.rs   what is done with a fleet, and measured       nodes.rs      the simulated nodes, in a process of their own
//! crew.rs    those processes, as their starter sees them   explorer.rs   the explorer's process, and what it is asked
//! ```

mod crew;
mod explorer;
pub mod nodes;
pub mod trial;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a fleet showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FleetResults {
    /// When, in UTC.
    pub date: String,
    /// On what.
    pub machine: String,
    /// How many nodes.
    pub nodes: usize,
    /// In how many processes.
    pub processes: usize,
    /// The figures; see [`TITLES`].
    pub figures: BTreeMap<String, f64>,
}

/// Every figure with a title for people, in the order of the report.
pub const TITLES: [(&str, &str); 18] = [
    ("online_s", "seconds until all were online, all dialling at once"),
    ("online_cpu_ms_per_node", "CPU of the explorer to take one in, ms"),
    ("start_pss_MiB", "memory of the explorer without nodes, MiB"),
    ("pss_MiB", "memory of the explorer with all of them, MiB"),
    ("KiB_per_node", "KiB per idle node on the explorer"),
    ("rest_cpu_percent", "CPU of the explorer at rest, percent of a core"),
    ("rest_late", "sessions that became late in that time"),
    ("rest_ended", "sessions that ended in that time"),
    ("heartbeat_p50_ms", "heartbeat to its answer, p50, ms"),
    ("heartbeat_p99_ms", "heartbeat to its answer, p99, ms"),
    ("calls_per_s", "calls per second, one to each node, 50 at a time"),
    ("calls_p50_ms", "such a call, p50, ms"),
    ("calls_p99_ms", "such a call, p99, ms"),
    ("calls_failed", "such calls that failed"),
    ("restart_first_s", "after a restart of the explorer: seconds until the first is back"),
    ("restart_half_s", "until half of them are back"),
    ("restart_all_s", "until all are back"),
    ("after_pss_MiB", "memory of the new explorer with all of them, MiB"),
];
