//! The explorer's configuration: flags, variables and `explorer.toml`, brought together.

use std::path::PathBuf;

use reachback_explorer::{ExplorerConfig, Publication, SocketConfig};
use reachback_link::ListenAddress;
use reachback_wire::{NodeId, Target};
use serde::Deserialize;

use crate::{
    args::ExplorerArguments,
    config::{
        duration::Span,
        file::{self, Checked},
        mode::SocketMode,
        own_id,
        port_spec::PortSpec,
    },
    environment::Environment,
    exit::Failure,
    paths,
};

/// `explorer.toml`, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExplorerFile {
    id: Option<Checked<NodeId>>,
    listen: Option<Checked<ListenAddress>>,
    socket: Option<PathBuf>,
    socket_mode: Option<Checked<SocketMode>>,
    heartbeat: Option<Checked<Span>>,
    insecure_plaintext: bool,
    publish: Vec<PublishTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishTable {
    listen: Checked<ListenAddress>,
    target: Checked<Target>,
}

/// Brings the sources together: the command line (which holds the variables that clap knows), further variables,
/// the file, and what holds without any of them.
pub(crate) fn resolve(
    arguments: ExplorerArguments,
    environment: &Environment,
    root: bool,
) -> Result<ExplorerConfig, Failure> {
    let file: ExplorerFile = match &arguments.config {
        Some(path) => file::read(path)?,
        None => ExplorerFile::default(),
    };
    let id = own_id(arguments.id, file.id, "--id hub-1")?;
    let mut config = ExplorerConfig::new(id);
    let listen = match arguments.listen {
        Some(listen) => Some(listen),
        None => environment.parse("EXPLORER_TCP_ADDR")?.or(file.listen.map(|listen| listen.0)),
    };
    config.listen.extend(listen);
    let path = match arguments.socket.or(file.socket) {
        Some(path) => path,
        None => paths::explorer_socket(environment, root)?,
    };
    let mut socket = SocketConfig::new(path);
    if let Some(SocketMode(mode)) = arguments.socket_mode.or(file.socket_mode.map(|mode| mode.0)) {
        socket.mode = mode;
    }
    config.socket = Some(socket);
    if let Some(Span(heartbeat)) = arguments.heartbeat.or(file.heartbeat.map(|heartbeat| heartbeat.0)) {
        config.heartbeat = heartbeat;
    }
    config.insecure_plaintext = arguments.insecure_plaintext || file.insecure_plaintext;
    config.publish = publications(arguments.publish, environment, file.publish)?;
    config.check().map_err(Failure::config)?;
    Ok(config)
}

fn publications(
    typed: Vec<PortSpec>,
    environment: &Environment,
    file: Vec<PublishTable>,
) -> Result<Vec<Publication>, Failure> {
    let specs = match typed.is_empty() {
        true => environment.entries("REACHBACK_PUBLISH", &[','], PortSpec::with_port)?,
        false => typed,
    };
    if specs.is_empty() {
        let tables = file.into_iter();
        return Ok(tables
            .map(|table| Publication { listen: table.listen.0, target: table.target.0 })
            .collect());
    }
    Ok(specs.into_iter().map(|spec| Publication { listen: spec.listen, target: spec.target }).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{args::Command, config::typed::typed};

    fn resolved(
        flags: &[&str],
        variables: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<ExplorerConfig, Failure> {
        let (command, _file, environment) = typed("explorer", flags, variables, file);
        let Command::Explorer(arguments) = command else { panic!() };
        resolve(arguments, &environment, true)
    }

    const FILE: &str = "id = \"hub-1\"\nlisten = \"127.0.0.1:1\"\nsocket = \"/file.sock\"\nsocket_mode = \"0660\"\n\
        heartbeat = \"2s\"\n[[publish]]\nlisten = \"tcp://127.0.0.1:5432\"\ntarget = \"edge-7/db\"\n";

    #[test]
    fn the_file_is_read() {
        let config = resolved(&[], &[], Some(FILE)).unwrap();
        assert_eq!(config.id.as_ref(), "hub-1");
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:1");
        assert_eq!(config.socket, Some(SocketConfig { path: "/file.sock".into(), mode: 0o660 }));
        assert_eq!(config.heartbeat, Duration::from_secs(2));
        assert_eq!(config.publish[0].target.to_string(), "edge-7/db");
        assert!(!config.insecure_plaintext);
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let variables = [("EXPLORER_TCP_ADDR", "127.0.0.1:2"), ("REACHBACK_PUBLISH", "6=a/b, 7=c/d")];
        let config = resolved(&[], &variables, Some(FILE)).unwrap();
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:2");
        assert_eq!(config.publish.len(), 2);
        let flags =
            ["--listen", "127.0.0.1:3", "--publish", "8=e/f", "--id", "hub-2", "--socket", "/flag.sock"];
        let config = resolved(&flags, &variables, Some(FILE)).unwrap();
        assert_eq!(config.listen.len(), 1);
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:3");
        assert_eq!(config.publish[0].listen.to_string(), "127.0.0.1:8");
        assert_eq!(config.id.as_ref(), "hub-2");
        assert_eq!(config.socket.unwrap().path, PathBuf::from("/flag.sock"));
    }

    #[test]
    fn without_anything_there_is_only_the_socket() {
        let config = resolved(&["--id", "hub-1"], &[], None).unwrap();
        assert!(config.listen.is_empty());
        assert_eq!(config.socket, Some(SocketConfig::new("/run/reachback/explorer.sock")));
    }

    #[test]
    fn refusals_name_the_place() {
        let refusal = |flags: &[&str], variables: &[(&str, &str)], file| {
            let failure = resolved(flags, variables, file).unwrap_err();
            (failure.exit.number(), failure.to_string())
        };
        let (exit, text) = refusal(&["--id", "hub-1", "--listen", ":9002"], &[], None);
        assert!(exit == 78 && text.contains("--insecure-plaintext"), "{exit} {text}");
        let (exit, text) = refusal(&["--id", "hub-1"], &[("EXPLORER_TCP_ADDR", "tls://x")], None);
        assert!(exit == 64 && text.contains("EXPLORER_TCP_ADDR"), "{exit} {text}");
        let (exit, text) = refusal(&["--id", "hub-1"], &[("REACHBACK_PUBLISH", "edge-7/db")], None);
        assert!(exit == 64 && text.contains("REACHBACK_PUBLISH"), "{exit} {text}");
        let (exit, text) = refusal(&[], &[], Some("id = \"hub-1\"\n\nlisten = \"ftp://x\"\n"));
        assert!(exit == 78 && text.contains("line 3") && text.contains("unknown scheme"), "{exit} {text}");
        let (exit, text) = refusal(&[], &[], Some("lisen = \"x\"\n"));
        assert!(exit == 78 && text.contains("did you mean \"listen\"?"), "{exit} {text}");
    }
}
