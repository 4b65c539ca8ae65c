//! From what people write to what the libraries take: flags over variables over the file, checked on the way.
//!
//! The shape of a file and the shape of a checked configuration are different types, so a value that was not checked
//! can't reach run time.

mod certificates;
mod compression;
pub(crate) mod dialled;
pub(crate) mod duration;
pub(crate) mod entry;
pub(crate) mod explorer;
pub(crate) mod file;
pub(crate) mod group;
pub(crate) mod joining;
mod list;
mod listeners;
mod memory_budget;
pub(crate) mod mode;
pub(crate) mod node;
pub(crate) mod origin;
pub(crate) mod port_spec;
pub(crate) mod proxy;
mod rates;
mod secret;
pub(crate) mod size;
pub(crate) mod transport;

use reachback_wire::NodeId;

use crate::{
    config::origin::{Origin, Origins},
    exit::Failure,
    paths,
};

/// The id of this process: the flag's, the file's, or the host's name where that is a valid id.
fn own_id(
    typed: Option<NodeId>,
    file: Option<file::Checked<NodeId>>,
    example: &str,
    origins: &mut Origins,
) -> Result<NodeId, Failure> {
    let sources = [(Origin::Typed, typed), (Origin::File, file.map(|id| id.0))];
    if let Some(id) = origins.pick("id", sources, ToString::to_string) {
        return Ok(id);
    }
    let host: NodeId = paths::host_name().parse().map_err(|error| {
        Failure::config(format_args!(
            "the host name can't serve as id ({error}); give one, for example {example}"
        ))
    })?;
    origins.note("id", &host, Origin::Default);
    Ok(host)
}

#[cfg(test)]
mod typed {
    use std::io::Write;

    use clap::Parser;
    use tempfile::NamedTempFile;

    use crate::{
        args::{Arguments, Command},
        environment::Environment,
    };

    /// What clap makes of `reachback COMMAND FLAGS`, with `--config` if there is a file, which lives as long as the
    /// second value; and an environment.
    pub(super) fn typed(
        command: &str,
        flags: &[&str],
        variables: &[(&str, &str)],
        file: Option<&str>,
    ) -> (Command, Option<NamedTempFile>, Environment) {
        let mut line = vec!["reachback", command];
        line.extend(flags);
        let held = file.map(|text| {
            let mut held = NamedTempFile::new().unwrap();
            held.write_all(text.as_bytes()).unwrap();
            held
        });
        if let Some(held) = &held {
            line.extend(["--config", held.path().to_str().unwrap()]);
        }
        let command = Arguments::try_parse_from(line).unwrap().command;
        let environment =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (command, held, environment)
    }
}
