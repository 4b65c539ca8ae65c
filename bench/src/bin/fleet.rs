//! `fleet`: thousands of simulated nodes with real connections on one explorer. `scripts/bench` runs it.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use reachback_bench::{
    fleet::{
        TITLES,
        nodes::{self, Crew},
        trial::Trial,
    },
    links,
    load::service,
    program,
    report::{json, tables},
};

/// The congestion control of all connections.
const PINNED: &str = "cubic";

/// Many nodes on one explorer, on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and write the results.
    Run(RunArguments),
    /// Be some of the nodes (started by `run`).
    #[command(hide = true)]
    Nodes {
        #[arg(long)]
        first: usize,
        #[arg(long)]
        count: usize,
        #[arg(long)]
        explorer: SocketAddr,
        #[arg(long)]
        service: SocketAddr,
    },
    /// Be the service of every node (started by `run`).
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// How many nodes.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Seconds for which they rest.
    #[arg(long, default_value_t = 30)]
    rest: u64,
    /// This process is alone in its network namespace and may change it.
    #[arg(long)]
    isolated: bool,
    /// The binary to measure.
    #[arg(long)]
    reachback: PathBuf,
    /// For the head of the results.
    #[arg(long)]
    date: String,
    /// Where the results go.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run(arguments),
        Command::Nodes { first, count, explorer, service } => {
            nodes::serve(&Crew { first, count, explorer, service })
        }
        Command::Serve { listen } => service::serve(listen),
    };
    program::end("fleet", outcome)
}

fn run(arguments: RunArguments) -> io::Result<()> {
    let RunArguments { nodes, rest, isolated, reachback, date, out } = arguments;
    if isolated {
        links::prepare_own_namespace(PINNED)?;
    }
    let trial = Trial { nodes, rest: Duration::from_secs(rest), reachback: reachback.canonicalize()?, date };
    let results = trial.run(&mut |line| program::say("fleet", line))?;
    json::write(&out, &results)?;
    let mut to = io::stdout().lock();
    for (key, title) in TITLES {
        if let Some(value) = results.figures.get(key) {
            writeln!(to, "{:>10}  {title}", tables::number(*value))?;
        }
    }
    writeln!(to, "results: {}", out.display())
}
