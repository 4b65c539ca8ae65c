//! The one binary, `reachback`: reads the command line and the environment, prints, and ends the process.
//!
//! The libraries do none of these three. What a command does stands in `commands/`, what it takes in `args.rs`,
//! how typed values become checked configurations in `config/`.

mod args;
mod commands;
mod config;
mod environment;
mod exit;
mod limits;
mod logging;
mod memory;
mod open_files;
mod output;
mod paths;
mod runtimes;
mod signals;
mod stdio;
mod table;
mod time;

use std::process::ExitCode;

use crate::{environment::Environment, exit::Failure, output::Output};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let environment = Environment::read();
    let (arguments, matches) = match args::parse(&environment) {
        Ok(parsed) => parsed,
        Err(error) => return output::clap(&error),
    };
    let output = Output::new(&arguments.log);
    match run(arguments, &matches, &environment, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn run(
    arguments: args::Arguments,
    matches: &clap::ArgMatches,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    logging::install(environment, &arguments)?;
    for warning in environment.unknown(&args::variables()) {
        output.warning(warning);
    }
    let runtime = runtimes::one()
        .map_err(|error| Failure::new(exit::Exit::TryAgain, format_args!("no runtime: {error}")))?;
    let result = runtime.block_on(commands::run(arguments.command, matches, environment, output));
    // A read of stdin can't be called back; it ends with the process.
    runtime.shutdown_background();
    result
}
