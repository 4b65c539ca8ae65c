//! The command line: what can be typed, and the help that teaches it.
//!
//! Every flag has a variable, `REACHBACK_` + the flag in capitals. Flags win over variables, variables over the
//! configuration file; lists are not merged, the first source that has one holds. clap's exit code 2 becomes 64.

use std::path::PathBuf;

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use reachback_link::{Address, ListenAddress};
use reachback_wire::{NodeId, Target};

use crate::{
    config::{duration::Span, mode::SocketMode, port_spec::PortSpec},
    environment::Environment,
    logging::LogFormat,
};

/// The variables that clap does not know of.
const OTHER_VARIABLES: [&str; 3] = ["REACHBACK_PUBLISH", "REACHBACK_SERVICE", "REACHBACK_LABEL"];

const EXAMPLES: &str = "\
Five commands to know:
  reachback demo                                    see it work, here and now
  reachback explorer --listen 127.0.0.1:9002        the hub everyone can reach
  reachback node --explorer hub --service ssh=22    the agent beside a service
  reachback nodes                                   who is online, who is not
  reachback connect edge-7/ssh                      a stream on stdin and stdout

Exit codes: 0 fine, 1 failed or the service answered with an error, 64 usage,
69 explorer, node or service unreachable, 75 try again, 77 denied,
78 configuration refused, 124 timeout, 130 and 143 ended by a second signal.";

const EXPLORER_HELP: &str = "\
Examples:
  reachback explorer                            local Unix socket only
  reachback explorer --listen 127.0.0.1:9002    and a port for this machine
  reachback explorer --listen 127.0.0.1:9002 --publish 5432=edge-7/db
                            and edge-7's db on port 5432 of this machine

This version has no TLS and no authentication: whoever can connect can register
nodes and reach services. A listener that other machines can reach is therefore
refused without --insecure-plaintext.";

const NODE_HELP: &str = "\
A service is NAME=ADDRESS[,key=value]:
  ssh=22                                 a port on 127.0.0.1
  db=tcp://10.0.0.5:5432                 a host and port this machine can reach
  rpc=/run/hero/rpc.sock,framing=http    a Unix socket, and what it speaks:
                                         http, lines or raw

Examples:
  reachback node --explorer hub:9002 --service ssh=22
  reachback node --explorer hub-1,hub-2 --id edge-7 --service web=8080";

const CONNECT_HELP: &str = "\
Examples:
  echo hello | reachback connect edge-7/echo
  ssh -o ProxyCommand='reachback connect %h/ssh' root@edge-7

The end of stdin is passed on as a half-close; the command ends when the service
has ended too.";

const FORWARD_HELP: &str = "\
Examples:
  reachback forward 5432=edge-7/db            127.0.0.1:5432 here is edge-7's db
  reachback forward 0.0.0.0:8080=edge-7/web   for all who can reach this machine
  reachback forward edge-7/db edge-7/web      free ports, printed at the start

A visitor whose connection can't be carried on (the node is offline, the service
is down) gets a reset.";

/// Reach services behind NAT through the line their node dialled out.
///
/// A node dials out once, to an explorer, and listens nowhere on a network. Whoever needs one of its services
/// reaches back through that same line.
#[derive(Debug, Parser)]
#[command(
    name = "reachback",
    version,
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) log: LogArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How much is said, and in which form.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct LogArguments {
    /// Log more: -v for each stream, -vv for each frame. RUST_LOG says it in detail.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Log errors only, and print no status lines.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log lines on stderr as text or json; with json, status lines become log lines too.
    #[arg(
        long,
        value_enum,
        default_value = "text",
        global = true,
        env = "REACHBACK_LOG",
        hide_env_values = true,
        hide_possible_values = true,
        value_name = "FORM"
    )]
    pub(crate) log: LogFormat,
}

/// The commands of this version.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an explorer: the hub that nodes dial and clients ask.
    #[command(after_help = EXPLORER_HELP)]
    Explorer(ExplorerArguments),
    /// Run a node: the agent that dials out and offers services through its own line.
    #[command(after_help = NODE_HELP)]
    Node(NodeArguments),
    /// List the nodes an explorer knows: who is online, who is not and why.
    Nodes(NodesArguments),
    /// Connect stdin and stdout to a service (for ssh's ProxyCommand, pipes, scripts).
    #[command(after_help = CONNECT_HELP)]
    Connect(ConnectArguments),
    /// Forward local ports to services, for as long as this runs.
    #[command(after_help = FORWARD_HELP)]
    Forward(ForwardArguments),
    /// See all of it work: an explorer, three nodes and services in this process, on loopback only.
    Demo(DemoArguments),
}

/// `reachback explorer`.
#[derive(Debug, Args)]
pub(crate) struct ExplorerArguments {
    /// Where nodes and clients connect: 127.0.0.1:9002, :9002 for every address, port 0 for a free one.
    /// Without it there is only the Unix socket. EXPLORER_TCP_ADDR is another name of the variable.
    #[arg(long, value_name = "ADDRESS", env = "REACHBACK_LISTEN", hide_env_values = true)]
    pub(crate) listen: Option<ListenAddress>,
    /// This explorer's name; the host name if absent.
    #[arg(long, value_name = "NAME", env = "REACHBACK_ID", hide_env_values = true)]
    pub(crate) id: Option<NodeId>,
    /// The local Unix socket: /run/reachback/explorer.sock for root, else under $XDG_RUNTIME_DIR.
    #[arg(long, value_name = "PATH", env = "REACHBACK_SOCKET", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,
    /// Who may use the Unix socket, in octal: 0600 (only this user) if absent.
    #[arg(long, value_name = "MODE", env = "REACHBACK_SOCKET_MODE", hide_env_values = true)]
    pub(crate) socket_mode: Option<SocketMode>,
    /// Offer a node's service on a TCP port of this machine; closed while the node is offline. BIND is
    /// 127.0.0.1 if absent. Can be given several times; variable REACHBACK_PUBLISH (comma-separated).
    #[arg(long, value_name = "[BIND:]PORT=TARGET", value_parser = PortSpec::with_port)]
    pub(crate) publish: Vec<PortSpec>,
    /// Listen where other machines can connect although nothing is encrypted and nobody is authenticated.
    #[arg(
        long,
        env = "REACHBACK_INSECURE_PLAINTEXT",
        hide_env_values = true,
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) insecure_plaintext: bool,
    /// How often both ends of a connection show that they live, 10s if absent; a dead peer is noticed within
    /// 2.5 of these.
    #[arg(long, value_name = "TIME", env = "REACHBACK_HEARTBEAT", hide_env_values = true)]
    pub(crate) heartbeat: Option<Span>,
    /// A TOML file with id, listen, socket, socket_mode, heartbeat, insecure_plaintext, and publish tables.
    #[arg(long, value_name = "FILE", env = "REACHBACK_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

/// `reachback node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// The explorers to dial, each kept up independently; HOST:PORT, HOST (port 9002) or
    /// unix:///path, several separated by commas. EXPLORER_ADDRESSES is another name of the variable. The local socket if absent.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        env = "REACHBACK_EXPLORER",
        hide_env_values = true
    )]
    pub(crate) explorer: Vec<Address>,
    /// This node's name; the host name if absent.
    #[arg(long, value_name = "NAME", env = "REACHBACK_ID", hide_env_values = true)]
    pub(crate) id: Option<NodeId>,
    /// A service to offer; nothing else can be reached. Can be given several times; variable
    /// REACHBACK_SERVICE (separated by blanks).
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub(crate) service: Vec<String>,
    /// A label. Can be given several times; variable REACHBACK_LABEL (comma-separated).
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// A TOML file with id, explorers, labels, and service tables (name, address, framing).
    #[arg(long, value_name = "FILE", env = "REACHBACK_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Catches `node edge-7`, which people type when they want to look at a node.
    #[arg(hide = true)]
    pub(crate) looked_at: Option<String>,
}

/// Which explorer a client command asks.
#[derive(Debug, Args)]
pub(crate) struct ClientArguments {
    /// The explorer to ask: HOST:PORT, HOST (port 9002) or unix:///path; the local Unix socket if absent.
    #[arg(long, value_name = "ADDRESS", env = "REACHBACK_EXPLORER", hide_env_values = true)]
    pub(crate) explorer: Option<Address>,
}

/// `reachback nodes`.
#[derive(Debug, Args)]
pub(crate) struct NodesArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// Print the explorer's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reachback connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The service: NODE/SERVICE, for example edge-7/ssh.
    #[arg(value_name = "NODE/SERVICE")]
    pub(crate) target: Target,
}

/// `reachback forward`.
#[derive(Debug, Args)]
pub(crate) struct ForwardArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The port here and the service it leads to. BIND is 127.0.0.1, PORT a free one if absent.
    #[arg(value_name = "[[BIND:]PORT=]TARGET", required = true, value_parser = PortSpec::with_free_port)]
    pub(crate) forward: Vec<PortSpec>,
}

/// `reachback demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Go through all steps and end: exit code 0 if each worked, else 1.
    #[arg(long)]
    pub(crate) once: bool,
}

/// Reads the command line. The error is clap's: help and version texts are such errors too.
pub(crate) fn parse(environment: &Environment) -> Result<Arguments, clap::Error> {
    let command = without_empty_variables(Arguments::command(), environment);
    let matches = command.try_get_matches().map_err(without_wrong_tip)?;
    Arguments::from_arg_matches(&matches)
}

/// clap advises to pass an unknown flag as a value wherever a command takes any value; here no value begins like one.
fn without_wrong_tip(mut error: clap::Error) -> clap::Error {
    let is_wrong = |tips: &ContextValue| matches!(tips, ContextValue::StyledStrs(tips) if tips.iter().any(|tip| tip.to_string().contains("as a value")));
    if error.get(ContextKind::Suggested).is_some_and(is_wrong) {
        error.remove(ContextKind::Suggested);
    }
    error
}

/// Every variable of this version that begins with `REACHBACK_`.
pub(crate) fn variables() -> Vec<String> {
    let mut names: Vec<String> = OTHER_VARIABLES.map(str::to_owned).to_vec();
    collect_variables(&Arguments::command(), &mut names);
    names
}

fn collect_variables(command: &clap::Command, into: &mut Vec<String>) {
    into.extend(
        command.get_arguments().filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned())),
    );
    for subcommand in command.get_subcommands() {
        collect_variables(subcommand, into);
    }
}

/// clap takes a variable that is set but empty for a value; here it counts as absent.
fn without_empty_variables(command: clap::Command, environment: &Environment) -> clap::Command {
    let is_blank = |argument: &clap::Arg| {
        argument.get_env().and_then(|name| name.to_str()).is_some_and(|name| environment.is_blank(name))
    };
    let command =
        command.mut_args(|argument| if is_blank(&argument) { argument.env(None::<&str>) } else { argument });
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |subcommand| without_empty_variables(subcommand, environment))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_line_of_the_help_is_broken_by_a_small_terminal() {
        for text in [EXAMPLES, EXPLORER_HELP, NODE_HELP, CONNECT_HELP, FORWARD_HELP] {
            for line in text.lines() {
                assert!(line.chars().count() <= crate::table::WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn every_flag_has_a_variable() {
        let names = variables();
        let command = Arguments::command();
        for subcommand in command.get_subcommands() {
            for argument in subcommand.get_arguments() {
                let Some(flag) = argument.get_long() else { continue };
                if ["help", "version", "json", "once"].contains(&flag) {
                    continue;
                }
                let expected = format!("REACHBACK_{}", flag.to_uppercase().replace('-', "_"));
                assert!(names.contains(&expected), "{} --{flag} has no {expected}", subcommand.get_name());
            }
        }
    }
}
