//! Rows of figures, for a terminal and for Markdown alike.

use super::results::{Table, spread};
use crate::peers::Peer;

/// One table: a title and the figures that are its columns.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Above it.
    pub title: &'static str,
    /// Names of figures.
    pub columns: &'static [&'static str],
}

/// The tables of loopback.
pub const LOOPBACK: [Layout; 9] = [
    Layout {
        title: "Bulk, MB/s (1e6 bytes/s)",
        columns: &[
            "bulk1.up.MBps",
            "bulk1.down.MBps",
            "bulk8.up.MBps",
            "bulk8.down.MBps",
            "bulk64.up.MBps",
            "bulk64.down.MBps",
        ],
    },
    Layout {
        title: "CPU seconds of the tunnel's processes per GB",
        columns: &[
            "bulk1.up.cpu_s_per_GB",
            "bulk1.down.cpu_s_per_GB",
            "bulk8.up.cpu_s_per_GB",
            "bulk8.down.cpu_s_per_GB",
            "bulk64.up.cpu_s_per_GB",
            "bulk64.down.cpu_s_per_GB",
        ],
    },
    Layout {
        title: "Fairness of bulk streams (Jain; 1 is equal shares)",
        columns: &["bulk8.up.jain", "bulk8.down.jain", "bulk64.up.jain", "bulk64.down.jain"],
    },
    Layout {
        title: "64-byte echo over one open stream, idle tunnel, µs",
        columns: &["lat.p50_us", "lat.p90_us", "lat.p99_us", "lat.max_us", "lat.cpu_us_per_call"],
    },
    Layout {
        title: "The same under one bulk stream, µs, and the bulk rate reached",
        columns: &[
            "load1.up.p50_us",
            "load1.up.p99_us",
            "load1.up.MBps",
            "load1.down.p50_us",
            "load1.down.p99_us",
            "load1.down.MBps",
        ],
    },
    Layout {
        title: "The same under eight",
        columns: &[
            "load8.up.p50_us",
            "load8.up.p99_us",
            "load8.up.MBps",
            "load8.down.p50_us",
            "load8.down.p99_us",
            "load8.down.MBps",
        ],
    },
    Layout {
        title: "While 8 visitors download and never read, µs; growth of the tunnel's memory",
        columns: &["stall8.p50_us", "stall8.p99_us", "stall8.max_us", "stall8.rss_growth_MiB"],
    },
    Layout {
        title: "New connections (connect, 64-byte echo, close), one at a time and 50 at a time",
        columns: &[
            "conn1.per_s",
            "conn1.p50_us",
            "conn1.p99_us",
            "conn1.cpu_us_per_conn",
            "conn50.per_s",
            "conn50.p50_us",
            "conn50.p99_us",
            "conn50.cpu_us_per_conn",
            "conn50.failed",
        ],
    },
    Layout {
        title: "Memory of all processes of the tunnel, fresh, with idle streams",
        columns: &[
            "mem.start_pss_MiB",
            "mem.1000.pss_MiB",
            "mem.1000.KiB_per_stream",
            "mem.1000.open_s",
            "mem.5000.pss_MiB",
            "mem.5000.KiB_per_stream",
            "mem.5000.open_s",
            "mem.5000.failed",
            "mem.after_rss_MiB",
        ],
    },
];

/// JSON-RPC calls and sessions, of Reachback alone.
pub const CALLS: [Layout; 3] = [
    Layout {
        title: "JSON-RPC calls to a service of a node: POST to the explorer, and over a session",
        columns: &[
            "post1.node.per_s",
            "post1.node.p50_us",
            "post50.node.per_s",
            "post50.node.p99_us",
            "session1.node.per_s",
            "session1.node.p50_us",
            "session50.node.per_s",
            "session50.node.p99_us",
        ],
    },
    Layout {
        title: "The same to the explorer's own API (explorer.status)",
        columns: &[
            "post1.explorer.per_s",
            "post1.explorer.p50_us",
            "post50.explorer.per_s",
            "post50.explorer.p99_us",
            "session1.explorer.per_s",
            "session1.explorer.p50_us",
            "session50.explorer.per_s",
            "session50.explorer.p99_us",
        ],
    },
    Layout {
        title: "Sessions set up and closed, one at a time and 50 at a time: with TLS a handshake with certificates on both sides",
        columns: &[
            "dial1.per_s",
            "dial1.p50_us",
            "dial1.cpu_us_per_session",
            "dial50.per_s",
            "dial50.p99_us",
            "dial50.cpu_us_per_session",
        ],
    },
];

/// The table of a long link.
pub const LINK: Layout = Layout {
    title: "",
    columns: &[
        "bulk1.down.MBps",
        "lat.p50_us",
        "load1.down.MBps",
        "load1.down.p50_us",
        "load1.down.p99_us",
        "load8.down.MBps",
        "load8.down.p50_us",
        "load8.down.p99_us",
    ],
};

/// Medians with their extremes, a row for each tunnel that has any of the figures. Empty when none has.
pub fn figures(table: &Table, columns: &[&str]) -> String {
    rows(table, columns, |peer, column| {
        let spread = spread(table, peer, column)?;
        if spread.min == spread.max {
            return Some(number(spread.median));
        }
        Some(format!("{} ({}..{})", number(spread.median), number(spread.min), number(spread.max)))
    })
}

/// The medians as ratios to `base`.
pub fn ratios(table: &Table, columns: &[&str], base: &str) -> String {
    rows(table, columns, |peer, column| {
        let ratio = spread(table, peer, column)?.median / spread(table, base, column)?.median;
        ratio.is_finite().then(|| format!("{ratio:.2}"))
    })
}

/// A figure with as many digits as it deserves.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn rows(table: &Table, columns: &[&str], cell: impl Fn(&str, &str) -> Option<String>) -> String {
    let mut text = String::new();
    for peer in Peer::ALL.map(Peer::name).into_iter().filter(|peer| table.contains_key(*peer)) {
        let cells: Vec<Option<String>> = columns.iter().map(|column| cell(peer, column)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let cells: Vec<String> = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".into())).collect();
        text.push_str(&format!("| {peer} | {} |\n", cells.join(" | ")));
    }
    if text.is_empty() {
        return text;
    }
    format!("| | {} |\n|---|{}\n{text}", columns.join(" | "), "---:|".repeat(columns.len()))
}
