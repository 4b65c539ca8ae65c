//! `linkemu`: the link emulator by hand, for trying the product over a bad line.
//!
//! ```text
//! ip netns add hub; ip netns add edge
//! linkemu --hub-ns hub --edge-ns edge --delay-ms 40 --rate-mbit 20 --loss 0.01 --outbound-only
//! ```
//! It then obeys lines on its standard input: `hole both|to-hub|to-edge`, `open`, `stats`, `quit` (or the end of it).

use std::{
    io::{self, BufRead, Write},
    net::Ipv4Addr,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use reachback_bench::{
    emulator::{Direction, Emulator, EmulatorConfig},
    program,
};

/// A link with chosen faults between two network namespaces (root only).
#[derive(Debug, Parser)]
struct Args {
    /// The namespace of the hub's end.
    #[arg(long)]
    hub_ns: String,
    /// The namespace of the edge's end.
    #[arg(long)]
    edge_ns: String,
    /// The hub's address.
    #[arg(long, default_value = "10.87.0.1")]
    hub_addr: Ipv4Addr,
    /// The edge's address.
    #[arg(long, default_value = "10.87.0.2")]
    edge_addr: Ipv4Addr,
    /// Largest packet in bytes.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// One-way delay in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Rate of each direction in Mbit/s; unlimited without.
    #[arg(long)]
    rate_mbit: Option<u64>,
    /// Queue of each direction in KiB, when there is a rate.
    #[arg(long, default_value_t = 256)]
    queue_kib: usize,
    /// Probability of losing a packet, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Seed of the losses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Swallow TCP connection attempts from the hub to the edge.
    #[arg(long)]
    outbound_only: bool,
}

fn main() -> ExitCode {
    program::end("linkemu", run(Args::parse()))
}

fn run(args: Args) -> io::Result<()> {
    let emulator = Emulator::start(EmulatorConfig {
        hub_ns: args.hub_ns,
        edge_ns: args.edge_ns,
        hub_addr: args.hub_addr,
        edge_addr: args.edge_addr,
        mtu: args.mtu,
        delay: Duration::from_millis(args.delay_ms),
        rate: args.rate_mbit.map(|rate| rate * 1_000_000),
        queue: args.queue_kib << 10,
        loss: args.loss,
        seed: args.seed,
        outbound_only: args.outbound_only,
    })?;
    let mut out = io::stdout();
    writeln!(out, "up: hub {}, edge {}", args.hub_addr, args.edge_addr)?;
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "hole both" => emulator.black_hole(Direction::Both, true),
            "hole to-hub" => emulator.black_hole(Direction::ToHub, true),
            "hole to-edge" => emulator.black_hole(Direction::ToEdge, true),
            "open" => emulator.black_hole(Direction::Both, false),
            "stats" => writeln!(out, "{:#?}", emulator.stats())?,
            "quit" => break,
            "" => {}
            other => writeln!(out, "{other:?}: use hole both|to-hub|to-edge, open, stats, quit")?,
        }
    }
    emulator.stop()
}
