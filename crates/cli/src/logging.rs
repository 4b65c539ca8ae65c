//! Log records on stderr: how much, and as text or JSON.
//!
//! Peers choose some of the text that is logged; tracing-subscriber escapes what a terminal would obey, and the
//! libraries sanitise it before. Levels: error = somebody has to act, warn = somebody should know, info = one line
//! per connection or state, debug = per substream, trace = per frame.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter,
    filter::{Directive, LevelFilter},
    fmt,
};

use crate::{
    args::{Arguments, Command, LogArguments},
    environment::Environment,
    exit::{Exit, Failure},
};

/// The target of status lines, warnings and failures that became log records.
pub(crate) const STATUS: &str = "status";

/// The shape of log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object per line for machines.
    Json,
}

/// Installs the subscriber. `-v` and `-q` say how much; without them `RUST_LOG`, and
/// without that each command has its usual level.
pub(crate) fn install(environment: &Environment, arguments: &Arguments) -> Result<(), Failure> {
    let LogArguments { verbose, quiet, log } = &arguments.log;
    let usual = match arguments.command {
        Command::Explorer(_) => LevelFilter::INFO,
        // It breaks things on purpose and says so itself.
        Command::Demo(_) => LevelFilter::OFF,
        // What these have to say stands in their results and status lines.
        _ => LevelFilter::WARN,
    };
    let filter = match environment.get("RUST_LOG") {
        Some(directives) if !quiet && *verbose == 0 => EnvFilter::builder()
            .parse(directives)
            .map_err(|error| Failure::usage(format_args!("RUST_LOG=\"{directives}\": {error}")))?,
        _ => {
            EnvFilter::builder().with_default_directive(level(usual, *verbose, *quiet).into()).parse_lossy("")
        }
    };
    // Status lines that became records are shown whatever the level, as they are without --log json.
    let status: Directive = format!("{STATUS}={}", if *quiet { "warn" } else { "info" })
        .parse()
        .map_err(|error| Failure::new(Exit::Failed, format_args!("status lines can't be logged: {error}")))?;
    let filter = filter.add_directive(status);
    let colours = io::stderr().is_terminal() && environment.get("NO_COLOR").is_none();
    // A record that can't be written (a full disk, a reader of stderr that has gone) is dropped. By default the library
    // would complain about it on stderr too, and that panics.
    let records =
        fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).log_internal_errors(false);
    let installed = match log {
        LogFormat::Text => records.with_target(false).compact().try_init(),
        LogFormat::Json => records.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| Failure::config(format_args!("logging can't start: {error}")))
}

fn level(usual: LevelFilter, verbose: u8, quiet: bool) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => usual,
        (false, 1) => LevelFilter::DEBUG,
        (false, 2..) => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_how_much() {
        for (verbose, quiet, expected) in [
            (0, false, LevelFilter::WARN),
            (0, true, LevelFilter::ERROR),
            (1, false, LevelFilter::DEBUG),
            (2, false, LevelFilter::TRACE),
            (9, false, LevelFilter::TRACE),
        ] {
            assert_eq!(level(LevelFilter::WARN, verbose, quiet), expected);
        }
    }
}
