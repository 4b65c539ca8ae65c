//! What is typed by whoever runs explorers and nodes.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reachback_wire::{NodeId, ServiceName};

use super::{ClientArguments, ExplorerArguments, NodeArguments};
use crate::config::duration::Span;

pub(super) const KICK_HELP: &str = "\
Examples:
  reachback kick edge-7              end its session; it dials again at once
  reachback kick edge-7 --for 10m    and turn it away for ten minutes";

pub(super) const FORGET_HELP: &str = "\
Examples:
  reachback forget edge-9     off the list, with what was known of it

A node that is online can't be forgotten; end it first. If a forgotten node
dials again, it is a new one.";

pub(super) const MAN_HELP: &str = "\
Examples:
  reachback man /usr/local/share/man/man1";

pub(super) const EXPOSE_HELP: &str = "\
Asks the node that runs on this machine, through its control socket. The service
is there at once and gone when the node is restarted; node.toml keeps it.

Examples:
  reachback expose web=8080
  reachback expose rpc=/run/hero/rpc.sock,framing=http
  reachback unexpose web";

pub(super) const CHECK_HELP: &str = "\
Prints each value that would hold, and where it comes from: flag, variable, file
or default. Nothing is started. Takes the flags of the command itself.

Examples:
  reachback check node --config /etc/reachback/node.toml
  reachback check explorer --listen :9002
  reachback check --config explorer.toml      its keys tell which of both it is";

pub(super) const COMPLETIONS_HELP: &str = "\
Examples:
  reachback completions bash > /etc/bash_completion.d/reachback
  reachback completions zsh > ~/.zfunc/_reachback
  reachback completions fish > ~/.config/fish/completions/reachback.fish";

/// `reachback kick`.
#[derive(Debug, Args)]
pub(crate) struct KickArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The node whose session ends.
    #[arg(value_name = "NODE")]
    pub(crate) node: NodeId,
    /// How long it is turned away when it dials again: 30s, 10m; not at all if absent.
    #[arg(long = "for", value_name = "TIME")]
    pub(crate) span: Option<Span>,
}

/// `reachback forget`.
#[derive(Debug, Args)]
pub(crate) struct ForgetArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// An offline node that will not come back.
    #[arg(value_name = "NODE")]
    pub(crate) node: NodeId,
}

/// Which node of this machine is asked.
#[derive(Debug, Args)]
pub(crate) struct ControlArguments {
    /// The node's control socket: /run/reachback/node.sock for root, else under $XDG_RUNTIME_DIR.
    #[arg(long, value_name = "PATH", env = "REACHBACK_CONTROL_SOCKET", hide_env_values = true)]
    pub(crate) control_socket: Option<PathBuf>,
    /// The file the node was started with, if that names its control socket.
    #[arg(long, value_name = "FILE", env = "REACHBACK_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

/// `reachback expose`.
#[derive(Debug, Args)]
pub(crate) struct ExposeArguments {
    #[command(flatten)]
    pub(crate) control: ControlArguments,
    /// The service, written as for `node --service`.
    #[arg(value_name = "NAME=ADDRESS")]
    pub(crate) service: String,
}

/// `reachback unexpose`.
#[derive(Debug, Args)]
pub(crate) struct UnexposeArguments {
    #[command(flatten)]
    pub(crate) control: ControlArguments,
    /// The service's name.
    #[arg(value_name = "NAME")]
    pub(crate) name: ServiceName,
}

/// `reachback check`.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "explorer|node", subcommand_help_heading = "What to check")]
pub(crate) struct CheckArguments {
    /// The file to check; whether it is an explorer's or a node's is seen from its keys.
    #[arg(long, value_name = "FILE", env = "REACHBACK_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) role: Option<CheckRole>,
}

/// Whose configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckRole {
    /// What `reachback explorer` would run with.
    Explorer(Box<ExplorerArguments>),
    /// What `reachback node` would run with.
    Node(Box<NodeArguments>),
}

/// `reachback completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// `reachback man`.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Where the pages are written, one for each command; made if it is not there.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}
