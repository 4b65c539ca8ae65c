//! `reachback check`: what would hold if the command were started now, and where each value comes from.
//!
//! The configuration goes through the very code that the running program uses; nothing is bound, dialled or written.

use std::path::{Path, PathBuf};

use clap::ArgMatches;

use crate::{
    args::{self, CheckArguments, CheckRole, ExplorerArguments, NodeArguments},
    commands::modes,
    config::{self, file, origin::Origins},
    environment::Environment,
    exit::Failure,
    output::Output,
    paths,
    table::Table,
};

/// Prints the values, or the first mistake.
pub(crate) fn run(
    arguments: CheckArguments,
    matches: &ArgMatches,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let own = matches.subcommand_matches("check");
    let file = arguments.config;
    let (name, origins, listeners) = match arguments.role {
        Some(CheckRole::Explorer(role)) => explorer(*role, file, own, environment)?,
        Some(CheckRole::Node(role)) => node(*role, file, own, environment)?,
        None => {
            let Some(path) = file else {
                return Err(Failure::usage(
                    "what is to be checked? write `check explorer`, `check node`, or `check --config FILE`",
                ));
            };
            // As if it had been typed: what comes from variables is what the command itself would read.
            let role = role_of(&path)?;
            let typed =
                ["reachback".into(), "check".into(), role.into(), "--config".into(), path.into_os_string()];
            let (arguments, matches) = args::parse_from(typed, environment).map_err(|error| {
                Failure::usage(error.to_string().trim_end().trim_start_matches("error: "))
            })?;
            let args::Command::Check(arguments) = arguments.command else {
                return Err(Failure::usage("write `check explorer` or `check node`"));
            };
            return run(arguments, &matches, environment, output);
        }
    };
    let mut table = Table::new(["KEY", "VALUE", "FROM"], 1);
    for setting in origins.settings() {
        table.row([setting.key.to_owned(), setting.value.clone(), setting.origin.clone()], Vec::new());
    }
    output.unless_quiet(table.render())?;
    if let Some(listeners) = listeners {
        output.unless_quiet(format_args!("\n{listeners}\n"))?;
    }
    for warning in origins.warnings() {
        output.warning(warning);
    }
    output.unless_quiet(format_args!("fine: `reachback {name}` would start with these"))
}

/// The command, where its values come from, and who comes in at which listener.
type Checked = (&'static str, Origins, Option<String>);

fn explorer(
    mut role: ExplorerArguments,
    file: Option<PathBuf>,
    matches: Option<&ArgMatches>,
    environment: &Environment,
) -> Result<Checked, Failure> {
    role.config = role.config.or(file);
    let mut origins = origins("explorer", matches, role.config.as_deref());
    let setup = config::explorer::resolve(role, environment, paths::is_root(), &mut origins)?;
    setup.config.check_files().map_err(Failure::config)?;
    let listeners = modes::table(&setup.config);
    Ok(("explorer", origins, Some(listeners)))
}

fn node(
    mut role: NodeArguments,
    file: Option<PathBuf>,
    matches: Option<&ArgMatches>,
    environment: &Environment,
) -> Result<Checked, Failure> {
    role.config = role.config.or(file);
    let mut origins = origins("node", matches, role.config.as_deref());
    config::node::resolve(role, environment, paths::is_root(), &mut origins)?;
    Ok(("node", origins, None))
}

fn origins(role: &str, matches: Option<&ArgMatches>, file: Option<&Path>) -> Origins {
    let command = args::command();
    let command = command.find_subcommand(role);
    match (matches.and_then(|matches| matches.subcommand_matches(role)), command) {
        (Some(matches), Some(command)) => Origins::of(matches, command, file),
        _ => Origins::default(),
    }
}

/// Keys that only one of both has.
const NODE_KEYS: [&str; 6] = ["explorers", "service", "labels", "forward", "join", "join_file"];
const EXPLORER_KEYS: [&str; 8] =
    ["listen", "listener", "socket", "publish", "heartbeat", "mode", "advertise", "rate_limit"];

fn role_of(path: &Path) -> Result<&'static str, Failure> {
    let keys: Vec<String> = file::read::<toml::Table>(path)?.keys().cloned().collect();
    let has = |known: &[&str]| keys.iter().any(|key| known.contains(&key.as_str()));
    match (has(&EXPLORER_KEYS), has(&NODE_KEYS)) {
        (true, false) => Ok("explorer"),
        (false, true) => Ok("node"),
        _ => Err(Failure::config(format_args!(
            "{}: its keys don't tell whether it is an explorer's or a node's; say it: check explorer --config {0}",
            path.display()
        ))),
    }
}
