//! `reachback completions` and the hidden `man`: what packagers and shells need, made from the command line itself.

use std::{fs, io};

use crate::{
    args::{self, CompletionsArguments, ManArguments},
    exit::{Exit, Failure},
    output::Output,
};

/// Prints a completion script.
pub(crate) fn completions(arguments: &CompletionsArguments, output: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut args::command(), "reachback", &mut script);
    output.result(String::from_utf8_lossy(&script).trim_end())
}

/// Writes one page for the program and one for each command.
pub(crate) fn man(arguments: &ManArguments, output: Output) -> Result<(), Failure> {
    let directory = &arguments.directory;
    let written =
        fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(args::command(), directory));
    written.map_err(|error: io::Error| {
        Failure::new(Exit::Failed, format_args!("can't write man pages to {}: {error}", directory.display()))
    })?;
    output
        .unless_quiet(format_args!("man pages are in {}; read one: man {0}/reachback.1", directory.display()))
}
