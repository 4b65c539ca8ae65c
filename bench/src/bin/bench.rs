//! `bench`: Reachback beside other tunnels. `scripts/bench` builds what it needs, isolates it and runs it.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use reachback_bench::{
    load::service,
    peers::{Peer, Tools},
    program,
    report::{Results, bars, document, json, regress, tables},
    run::{Part, Plan, run},
};

/// Reachback beside other tunnels, on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and write the results.
    Run(RunArguments),
    /// Write the page from results that are there.
    Report(ReportArguments),
    /// Be the service behind a tunnel (started by `run`).
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// A few short windows instead of all, in under 3 minutes.
    #[arg(long)]
    quick: bool,
    /// This process is alone in its network namespace and may change it.
    #[arg(long)]
    isolated: bool,
    /// The binary to measure.
    #[arg(long)]
    reachback: PathBuf,
    /// Where fetched programs are.
    #[arg(long)]
    tools: PathBuf,
    /// Only these tunnels.
    #[arg(long, value_parser = peer, value_delimiter = ',')]
    only: Vec<Peer>,
    /// Leave out loopback, or links.
    #[arg(long, value_parser = part, value_delimiter = ',')]
    skip: Vec<Part>,
    /// Where the results go.
    #[arg(long)]
    out: PathBuf,
    /// Earlier results to compare with; a figure that got worse by more than the noise is an error.
    #[arg(long)]
    against: Option<PathBuf>,
    /// For the head of the results.
    #[arg(long)]
    date: String,
    /// For the head of the results.
    #[arg(long)]
    commit: String,
}

#[derive(Debug, Args)]
struct ReportArguments {
    /// The results.
    #[arg(long)]
    results: PathBuf,
    /// Results of the fleet to put into them first.
    #[arg(long)]
    fleet: Option<PathBuf>,
    /// Sentences about missed bars.
    #[arg(long)]
    explanations: PathBuf,
    /// Where the page goes.
    #[arg(long)]
    page: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => measure(arguments),
        Command::Report(arguments) => report(&arguments),
        Command::Serve { listen } => service::serve(listen),
    };
    program::end("bench", outcome)
}

fn measure(arguments: RunArguments) -> io::Result<()> {
    let RunArguments { quick, isolated, reachback, tools, only, skip, out, against, date, commit } =
        arguments;
    let tools = Tools { reachback: reachback.canonicalize()?, fetched: std::path::absolute(tools)? };
    let plan = Plan { quick, isolated, only, skip, date, commit };
    let before = against.as_deref().map(Results::read).transpose()?;
    let results = run(&plan, &tools, &mut |line: &str| program::say("bench", line))?;
    results.write(&out)?;
    show(&results, &out)?;
    match before {
        Some(before) => compare(&before, &results),
        None => Ok(()),
    }
}

fn show(results: &Results, out: &Path) -> io::Result<()> {
    let mut to = io::stdout().lock();
    for layout in tables::LOOPBACK.iter().chain(&tables::CALLS) {
        let table = tables::figures(&results.loopback, layout.columns);
        if !table.is_empty() {
            writeln!(to, "\n{}\n\n{table}", layout.title)?;
        }
    }
    for link in results.links.values() {
        writeln!(to, "\n{}\n\n{}", link.title, tables::figures(&link.table, tables::LINK.columns))?;
    }
    writeln!(to, "\nBars (medians of this run)\n")?;
    for bar in bars::all() {
        let verdict = bar.judge(results);
        let Some(reached) = verdict.reached else { continue };
        let ratios: Vec<String> =
            verdict.ratios.iter().map(|(peer, ratio)| format!("{ratio:.2} x {peer}")).collect();
        let stands = match (verdict.first, verdict.goal) {
            (_, Some(true)) => "goal met",
            (Some(true), _) => "first bar met",
            (Some(false), _) => "MISSED",
            (None, _) => "not compared",
        };
        writeln!(to, "{stands:<14} {:<52} {:>9}  {}", bar.title, tables::number(reached), ratios.join(", "))?;
    }
    for (what, why) in &results.not_measured {
        writeln!(to, "not measured: {what}: {}", why.trim())?;
    }
    for (peer, used) in &results.congestion {
        writeln!(to, "congestion control of {peer}: tunnel {:?}, others {:?}", used.tunnel, used.others)?;
    }
    writeln!(to, "other programs kept {:.2} cores busy meanwhile", results.foreign_cores)?;
    writeln!(to, "results: {}", out.display())
}

fn compare(before: &Results, results: &Results) -> io::Result<()> {
    let mut to = io::stdout().lock();
    writeln!(
        to,
        "\nBeside the results of {} ({}), ratios to rathole in the same run:\n",
        before.date, before.commit
    )?;
    let changes = regress::compare(before, results);
    for change in &changes {
        writeln!(
            to,
            "{:<8} {:<28} was {:>7.3}, is {:>7.3} (noise: factor {})",
            if change.worse { "WORSE" } else { "fine" },
            change.figure,
            change.before,
            change.now,
            change.noise
        )?;
    }
    let worse: Vec<&str> = changes.iter().filter(|change| change.worse).map(|change| change.figure).collect();
    if changes.is_empty() {
        return Err(io::Error::other("nothing could be compared: is rathole missing?"));
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!("worse than before by more than the noise: {}", worse.join(", "))))
}

fn report(arguments: &ReportArguments) -> io::Result<()> {
    let mut results = Results::read(&arguments.results)?;
    if let Some(fleet) = &arguments.fleet {
        results.fleet = Some(json::read(fleet)?);
        results.write(&arguments.results)?;
    }
    let said = document::explanations(&arguments.explanations)?;
    std::fs::write(&arguments.page, document::page(&results, &said))?;
    writeln!(io::stdout(), "{}", arguments.page.display())?;
    let unexplained = document::unexplained(&results, &said);
    if unexplained.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "MISSED BARS WITHOUT A SENTENCE; write one for each into {}:\n  {}",
        arguments.explanations.display(),
        unexplained.join("\n  ")
    )))
}

fn peer(name: &str) -> Result<Peer, String> {
    let known = Peer::ALL.into_iter().find(|peer| peer.name() == name);
    known.ok_or_else(|| format!("there are {}", Peer::ALL.map(Peer::name).join(", ")))
}

fn part(name: &str) -> Result<Part, String> {
    match name {
        "loopback" => Ok(Part::Loopback),
        "links" => Ok(Part::Links),
        _ => Err("there are loopback and links".into()),
    }
}
