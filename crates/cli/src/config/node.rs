//! The node's configuration: flags, variables and `node.toml`, brought together.

use std::collections::BTreeMap;

use reachback_link::Address;
use reachback_node::{Endpoint, Framing, NodeConfig, Service};
use reachback_wire::{NodeId, ServiceName};
use serde::Deserialize;

use crate::{
    args::NodeArguments,
    config::{
        file::{self, Checked},
        own_id,
    },
    environment::Environment,
    exit::Failure,
    paths,
};

/// `node.toml`, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodeFile {
    id: Option<Checked<NodeId>>,
    explorers: Vec<Checked<Address>>,
    labels: BTreeMap<String, String>,
    service: Vec<ServiceTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTable {
    name: Checked<ServiceName>,
    address: Checked<Endpoint>,
    framing: Option<Checked<Framing>>,
}

/// Brings the sources together: the command line (which holds the variables that clap knows), further variables,
/// the file, and the local socket if no explorer is named anywhere.
pub(crate) fn resolve(
    arguments: NodeArguments,
    environment: &Environment,
    root: bool,
) -> Result<NodeConfig, Failure> {
    if let Some(name) = arguments.looked_at {
        return Err(Failure::usage(format_args!(
            "\"{name}\": `reachback node` runs the agent of this machine and takes no name; to see how {name} is, type: \
             reachback nodes"
        )));
    }
    let file: NodeFile = match &arguments.config {
        Some(path) => file::read(path)?,
        None => NodeFile::default(),
    };
    let id = own_id(arguments.id, file.id, "--id edge-7")?;
    let explorers = explorers(arguments.explorer, environment, file.explorers, root)?;
    let mut config = NodeConfig::new(id, explorers).map_err(Failure::config)?;
    for service in services(&arguments.service, environment, file.service)? {
        config = config.with_service(service).map_err(Failure::config)?;
    }
    for (key, value) in labels(&arguments.label, environment, file.labels)? {
        config = config.with_label(&key, &value).map_err(Failure::config)?;
    }
    Ok(config)
}

fn explorers(
    typed: Vec<Address>,
    environment: &Environment,
    file: Vec<Checked<Address>>,
    root: bool,
) -> Result<Vec<Address>, Failure> {
    if !typed.is_empty() {
        return Ok(typed);
    }
    let listed = environment.entries("EXPLORER_ADDRESSES", &[','], str::parse)?;
    if !listed.is_empty() {
        return Ok(listed);
    }
    if !file.is_empty() {
        return Ok(file.into_iter().map(|address| address.0).collect());
    }
    Ok(vec![Address::Unix(paths::explorer_socket(environment, root)?)])
}

fn services(
    typed: &[String],
    environment: &Environment,
    file: Vec<ServiceTable>,
) -> Result<Vec<Service>, Failure> {
    if !typed.is_empty() {
        return typed.iter().map(|entry| entry.parse().map_err(Failure::usage)).collect();
    }
    let listed = environment.entries("REACHBACK_SERVICE", &[' ', '\n', '\t'], str::parse)?;
    if !listed.is_empty() {
        return Ok(listed);
    }
    let tables = file.into_iter();
    Ok(tables
        .map(|table| {
            let service = Service::new(table.name.0, table.address.0);
            match table.framing {
                Some(framing) => service.with_framing(framing.0),
                None => service,
            }
        })
        .collect())
}

fn labels(
    typed: &[String],
    environment: &Environment,
    file: BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, Failure> {
    let split = |entry: &str| match entry.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(format!("label \"{entry}\": write KEY=VALUE, for example region=eu")),
    };
    if !typed.is_empty() {
        return typed.iter().map(|entry| split(entry).map_err(Failure::usage)).collect();
    }
    let listed = environment.entries("REACHBACK_LABEL", &[','], split)?;
    if !listed.is_empty() {
        return Ok(listed);
    }
    Ok(file.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Command, config::typed::typed};

    fn resolved(
        flags: &[&str],
        variables: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<NodeConfig, Failure> {
        let (command, _file, environment) = typed("node", flags, variables, file);
        let Command::Node(arguments) = command else { panic!() };
        resolve(arguments, &environment, true)
    }

    fn explorers(config: &NodeConfig) -> Vec<String> {
        config.explorers().iter().map(ToString::to_string).collect()
    }

    const FILE: &str = "id = \"edge-7\"\nexplorers = [\"hub:1\", \"hub:2\"]\nlabels = { region = \"eu\" }\n\
        [[service]]\nname = \"rpc\"\naddress = \"unix:///run/rpc.sock\"\nframing = \"http\"\n\
        [[service]]\nname = \"ssh\"\naddress = \"22\"\n";

    #[test]
    fn the_file_is_read() {
        let config = resolved(&[], &[], Some(FILE)).unwrap();
        assert_eq!(config.id().as_ref(), "edge-7");
        assert_eq!(explorers(&config), ["hub:1", "hub:2"]);
        assert_eq!(config.labels()["region"], "eu");
        let services: Vec<String> = config
            .services()
            .values()
            .map(|s| format!("{}={} {:?}", s.name(), s.endpoint(), s.framing()))
            .collect();
        assert_eq!(services, ["rpc=unix:///run/rpc.sock Some(Http)", "ssh=127.0.0.1:22 None"]);
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let variables = [
            ("EXPLORER_ADDRESSES", "hub:3, hub:4"),
            ("REACHBACK_SERVICE", "a=1,framing=raw b=2"),
            ("REACHBACK_LABEL", "x=1,y=2"),
        ];
        let config = resolved(&[], &variables, Some(FILE)).unwrap();
        assert_eq!(explorers(&config), ["hub:3", "hub:4"]);
        assert_eq!(config.services().len(), 2);
        assert_eq!(config.labels().len(), 2);
        let flags =
            ["--explorer", "hub:5,hub:6", "--explorer", "hub:7", "--service", "c=3", "--label", "z=3"];
        let config = resolved(&flags, &variables, Some(FILE)).unwrap();
        assert_eq!(explorers(&config), ["hub:5", "hub:6", "hub:7"]);
        assert_eq!(config.services().keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["c"]);
        assert_eq!(config.labels().keys().collect::<Vec<_>>(), ["z"]);
    }

    #[test]
    fn without_an_explorer_the_local_one_is_dialled() {
        let config = resolved(&["--id", "edge-7"], &[], None).unwrap();
        assert_eq!(explorers(&config), ["unix:///run/reachback/explorer.sock"]);
    }

    #[test]
    fn refusals_name_the_place() {
        for (flags, variables, file, exit, part) in [
            (&["edge-7"][..], &[][..], None, 64, "reachback nodes"),
            (&["--service", "ssh"], &[], None, 64, "NAME=ADDRESS"),
            (
                &["--service", "rpc=80,framng=http"],
                &[],
                None,
                64,
                "unknown key \"framng\"; the one there is is \"framing\"",
            ),
            (&["--service", "a=1", "--service", "a=2"], &[], None, 78, "declared twice"),
            (&["--label", "eu"], &[], None, 64, "KEY=VALUE"),
            (&[], &[("EXPLORER_ADDRESSES", "ok:1,http://x")], None, 64, "EXPLORER_ADDRESSES"),
            (&[], &[("REACHBACK_SERVICE", "a=1 b")], None, 64, "REACHBACK_SERVICE"),
            (&[], &[], Some("explorers = [\n\"hub\",\n\"http://x\"]\n"), 78, "unknown scheme"),
            (&[], &[], Some("\n[[service]]\nname = \"a.b\"\naddress = \"1\"\n"), 78, "line 3"),
            (&[], &[], Some("[[service]]\nname = \"a\"\nadress = \"1\"\n"), 78, "did you mean \"address\"?"),
        ] {
            let mut line = flags.to_vec();
            if !line.contains(&"edge-7") {
                line.extend(["--id", "edge-7"]);
            }
            let failure = resolved(&line, variables, file).unwrap_err();
            assert_eq!(failure.exit.number(), exit, "{failure}");
            assert!(failure.to_string().contains(part), "{part}: {failure}");
        }
    }
}
