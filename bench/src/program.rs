//! What the programs of this package have in common: how they say what they do, and how they end.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

/// Says on standard error that `program` is at this.
pub fn say(program: &str, what: impl Display) {
    // Nobody is left to tell when even standard error is closed.
    let _unheard = writeln!(io::stderr(), "{program}: {what}");
}

/// The exit code of `program`; a failure is said.
pub fn end(program: &str, outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(program, error);
            ExitCode::FAILURE
        }
    }
}
