//! Everything this program prints goes through here, and nothing else prints.
//!
//! Results (a table, JSON) go to stdout and are printed whatever `-q` says. Status lines of the programs that stay
//! up go to stdout too, unless `-q`; with `--log json` they become log records, so that a container's output holds
//! one kind of line. Failures and logs go to stderr, so stdout of `connect` is the service's bytes and nothing else.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use crate::{
    args::LogArguments,
    exit::{Exit, Failure},
    logging::{LogFormat, STATUS},
};

/// What the flags say about printing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    /// `-q`: no status lines.
    quiet: bool,
    /// `--log json`: status lines become log records.
    structured: bool,
}

impl Output {
    /// As the flags say.
    pub(crate) fn new(flags: &LogArguments) -> Self {
        Self { quiet: flags.quiet, structured: flags.log == LogFormat::Json }
    }

    /// What the user asked for: printed always, on stdout.
    pub(crate) fn result(self, text: impl Display) -> Result<(), Failure> {
        print(text)
    }

    /// What is only worth printing when nobody asked for silence.
    pub(crate) fn unless_quiet(self, text: impl Display) -> Result<(), Failure> {
        if self.quiet { Ok(()) } else { print(text) }
    }

    /// Whether somebody looks at status lines right now: what is secret is said to people only, never to a log.
    pub(crate) fn is_seen(self) -> bool {
        !self.structured && !self.quiet && io::stdout().is_terminal()
    }

    /// One status line of a program that stays up. A closed stdout is no reason to end it.
    pub(crate) fn status(self, line: impl Display) {
        if self.structured {
            tracing::info!(target: STATUS, "{line}");
        } else if !self.quiet {
            let _nobody_reads = print(line);
        }
    }

    /// What nobody may miss: printed even with `-q`, on stderr.
    pub(crate) fn warning(self, text: impl Display) {
        if self.structured {
            tracing::warn!(target: STATUS, "{text}");
        } else {
            complain(format_args!("warning: {text}"));
        }
    }

    /// Why the process ends with an error.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.is_said() {
            return;
        }
        if self.structured {
            tracing::error!(target: STATUS, exit = failure.exit.number(), "{failure}");
        } else {
            complain(failure);
        }
    }
}

/// What clap has to say: help and version on stdout, with 0; a wrong command line on stderr, with 64.
pub(crate) fn clap(error: &clap::Error) -> ExitCode {
    // clap knows whether its stream takes colours. Where it can't print, the exit code still tells.
    let _stream_is_closed = error.print();
    match error.use_stderr() {
        true => Exit::Usage.into(),
        false => ExitCode::SUCCESS,
    }
}

fn print(text: impl Display) -> Result<(), Failure> {
    printed(write(io::stdout().lock(), format_args!("{text}\n")))
}

fn complain(text: impl Display) {
    let _stderr_is_closed = write(io::stderr().lock(), format_args!("{text}\n"));
}

/// One write for the whole text: lines of two processes on one terminal don't mix.
fn write(mut to: impl Write, text: impl Display) -> io::Result<()> {
    to.write_all(text.to_string().as_bytes())?;
    to.flush()
}

/// A reader that has seen enough (`reachback nodes | head -1`) is no failure; a full disk is.
fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format_args!("can't write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
