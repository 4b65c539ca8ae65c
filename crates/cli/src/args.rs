//! The command line: what can be typed, and the help that teaches it.
//!
//! Every flag has a variable, `REACHBACK_` + the flag in capitals. Flags win over variables, variables over the
//! configuration file; lists are not merged, the first source that has one holds. clap's exit code 2 becomes 64.

mod access;
mod call;
mod client;
mod daemons;
mod everyday;
mod operator;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use reachback_wire::Target;

use crate::{
    config::{duration::Span, port_spec::PortSpec},
    environment::Environment,
    logging::LogFormat,
};

pub(crate) use access::{
    AuditArguments, BackupArguments, CaArguments, CaCommand, GrantArguments, JoinText, LoginArguments,
    ReleaseArguments, RevokeArguments, RotateStep, TokenArguments, TokenCommand, TokenCreateArguments,
    TokenListArguments, TokenRole, UngrantArguments, Uses,
};
pub(crate) use call::{CallArguments, SocksArguments};
pub(crate) use client::{ClientArguments, CompressArguments, CredentialArguments, ProxyArguments};
pub(crate) use daemons::{ExplorerArguments, NodeArguments};
pub(crate) use everyday::{ShowArguments, SshArguments, SshConfigArguments, StatusArguments};
pub(crate) use operator::{
    CheckArguments, CheckRole, CompletionsArguments, ControlArguments, ExposeArguments, ForgetArguments,
    KickArguments, ManArguments, UnexposeArguments,
};

/// The variables that clap does not know of.
const OTHER_VARIABLES: [&str; 5] = [
    "REACHBACK_PUBLISH",
    "REACHBACK_SERVICE",
    "REACHBACK_LABEL",
    "REACHBACK_ALLOW_DIAL",
    "REACHBACK_FORWARD",
];

const EXAMPLES: &str = "\
Commands to know:
  reachback demo                              see it work, here and now
  reachback explorer --listen :9002           the hub that everyone can reach
  reachback node --join rb1_... --service ssh=22
                                              the agent beside the services
  reachback login rb1_...                     this machine, as its caller
  reachback nodes                             who is online, who is not and why
  reachback call edge-7/rpc list_vms          a JSON-RPC call to its service
  reachback ssh root@edge-7                   a shell on its machine
  reachback forward 5432=edge-7/db            its database as a local port

Exit codes: 0 fine, 1 failed or the service answered with an error, 64 usage,
69 explorer, node or service unreachable, 75 try again, 77 denied,
78 configuration refused, 124 timeout, 130 and 143 ended by a second signal.";

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
  reachback forward 2222=edge-7/10.0.0.9:22   a host behind it that it allows
  reachback forward --file ports.txt --wait 30s

While a node is offline its ports are closed, so visitors are refused as they
would be on the machine itself; with --wait they are kept until it is back. A
visitor whose connection can't be carried on gets a reset.";

const DEMO_HELP: &str = "\
Examples:
  reachback demo            go through it, then stay up with commands to try
  reachback demo --once     go through it and end: 0 if every step worked";

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
    // Also where no terminal says how wide it is, as in `--help | less`.
    max_term_width = crate::table::WIDTH
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
    #[command(after_help = daemons::EXPLORER_HELP)]
    Explorer(ExplorerArguments),
    /// Run a node: the agent that dials out and offers services through its own line.
    #[command(after_help = daemons::NODE_HELP)]
    Node(NodeArguments),
    /// List the nodes an explorer knows: who is online, who is not and why.
    #[command(after_help = everyday::NODES_HELP)]
    Nodes(NodesArguments),
    /// Show one node: its state, services, labels, and how its last sessions ended.
    #[command(after_help = everyday::SHOW_HELP)]
    Show(ShowArguments),
    /// Say how the explorer is, and the node of this machine.
    #[command(after_help = everyday::STATUS_HELP)]
    Status(StatusArguments),
    /// Call a method of a JSON-RPC service, on one node or on many.
    #[command(after_help = call::CALL_HELP)]
    Call(CallArguments),
    /// Connect stdin and stdout to a service (for ssh's ProxyCommand, pipes, scripts).
    #[command(after_help = CONNECT_HELP)]
    Connect(ConnectArguments),
    /// Forward local ports to services, for as long as this runs.
    #[command(after_help = FORWARD_HELP)]
    Forward(ForwardArguments),
    /// Run a SOCKS server through which every service can be reached by name.
    #[command(after_help = call::SOCKS_HELP)]
    Socks(SocksArguments),
    /// Open a shell on a node, with your own ssh and its keys.
    #[command(after_help = everyday::SSH_HELP)]
    Ssh(SshArguments),
    /// Print lines for ~/.ssh/config, so that ssh, scp, rsync and git reach nodes by name.
    #[command(after_help = everyday::SSH_CONFIG_HELP)]
    SshConfig(SshConfigArguments),
    /// Add a service to the node of this machine while it runs.
    #[command(after_help = operator::EXPOSE_HELP)]
    Expose(ExposeArguments),
    /// Take a service from the node of this machine while it runs.
    #[command(after_help = operator::EXPOSE_HELP)]
    Unexpose(UnexposeArguments),
    /// Let one of this node's services be used by somebody for a while.
    #[command(
        after_help = access::GRANT_HELP,
        override_usage = "reachback grant <SERVICE> --to <WHO> --for <TIME> --reason <TEXT>"
    )]
    Grant(GrantArguments),
    /// Take such a grant back before its time.
    #[command(after_help = access::GRANT_HELP)]
    Ungrant(UngrantArguments),
    /// Log in at an explorer with the line its admin has made.
    #[command(after_help = access::LOGIN_HELP)]
    Login(LoginArguments),
    /// Make and list tokens: lines that let nodes join and people log in.
    #[command(after_help = access::TOKEN_HELP)]
    Token(TokenArguments),
    /// Take away what a node, a token or a user may do, now.
    #[command(after_help = access::REVOKE_HELP)]
    Revoke(RevokeArguments),
    /// Let another key have a node's name.
    #[command(after_help = access::RELEASE_HELP)]
    Release(ReleaseArguments),
    /// Show who was let in, refused, changed what.
    #[command(after_help = access::AUDIT_HELP)]
    Audit(AuditArguments),
    /// Have the explorer write what it keeps into one file.
    #[command(after_help = access::BACKUP_HELP)]
    Backup(BackupArguments),
    /// Replace the explorer's certificate authority.
    #[command(after_help = access::CA_HELP)]
    Ca(CaArguments),
    /// End a node's session, and turn it away for a while.
    #[command(after_help = operator::KICK_HELP)]
    Kick(KickArguments),
    /// Strike an offline node off the list.
    #[command(after_help = operator::FORGET_HELP)]
    Forget(ForgetArguments),
    /// Check a configuration: print each value and where it comes from.
    #[command(after_help = operator::CHECK_HELP)]
    Check(CheckArguments),
    /// Print what a shell needs to complete this command line.
    #[command(after_help = operator::COMPLETIONS_HELP)]
    Completions(CompletionsArguments),
    /// Write man pages.
    #[command(hide = true, after_help = operator::MAN_HELP)]
    Man(ManArguments),
    /// See all of it work: an explorer, three nodes and services in this process, on loopback only.
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArguments),
}

/// `reachback nodes`.
#[derive(Debug, Args)]
pub(crate) struct NodesArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// Only nodes that have these labels, separated by commas.
    #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// Stay, and show every change: redrawn on a terminal, a block for each change otherwise.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print the explorer's answer as JSON; with --watch one line for each change.
    #[arg(long)]
    pub(crate) json: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("label \"{text}\": write KEY=VALUE, for example region=eu")),
    }
}

/// `reachback connect`.
#[derive(Debug, Args)]
pub(crate) struct ConnectArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The service: NODE/SERVICE, for example edge-7/ssh.
    #[arg(value_name = "NODE/SERVICE")]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) compress: CompressArguments,
}

/// `reachback forward`.
#[derive(Debug, Args)]
pub(crate) struct ForwardArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The port here and the service it leads to. BIND is 127.0.0.1, PORT a free one if absent.
    #[arg(
        value_name = "[[BIND:]PORT=]TARGET",
        required_unless_present = "file",
        value_parser = PortSpec::with_free_port
    )]
    pub(crate) forward: Vec<PortSpec>,
    /// A file with one such entry on each line, besides those typed; # begins a comment.
    #[arg(long, value_name = "FILE", env = "REACHBACK_FILE", hide_env_values = true)]
    pub(crate) file: Option<PathBuf>,
    /// Keep the ports open while a node is offline, and keep visitors waiting this long for it.
    #[arg(long, value_name = "TIME", value_parser = everyday::some_time, env = "REACHBACK_WAIT", hide_env_values = true)]
    pub(crate) wait: Option<Span>,
    #[command(flatten)]
    pub(crate) compress: CompressArguments,
}

/// `reachback demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Go through all steps and end: exit code 0 if each worked, else 1.
    #[arg(long)]
    pub(crate) once: bool,
}

/// Reads the command line, and where each value of it came from. The error is clap's: help and version texts are such
/// errors too.
pub(crate) fn parse(environment: &Environment) -> Result<(Arguments, ArgMatches), clap::Error> {
    parse_from(std::env::args_os(), environment)
}

/// The same for a command line that is made here.
pub(crate) fn parse_from(
    typed: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<(Arguments, ArgMatches), clap::Error> {
    let matches = without_empty_variables(Arguments::command(), environment)
        .try_get_matches_from(typed)
        .map_err(without_wrong_tip)?;
    Ok((Arguments::from_arg_matches(&matches)?, matches))
}

/// The whole command line as clap knows it.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
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

    /// Flags that say what is done this once. Settings, which hold every time, have variables.
    const ACTS: [&str; 13] = [
        "help", "version", "json", "once", "for", "header", "all", "notify", "watch", "to", "reason", "last",
        "node",
    ];

    #[test]
    fn every_help_fits_a_small_terminal_and_shows_examples() {
        fn look(command: &clap::Command, path: &str, seen: &mut usize) {
            let help = command.clone().render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= crate::table::WIDTH, "{path}: {line}");
            }
            // What is checked has the flags of the command itself, where the examples are.
            let teaches = help.contains("Examples:\n") || help.contains("Commands to know:\n");
            assert!(teaches || path.starts_with("reachback check "), "{path} --help shows no example");
            *seen += 1;
            for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
                look(subcommand, &format!("{path} {}", subcommand.get_name()), seen);
            }
        }
        let mut command = Arguments::command();
        command.build();
        let mut seen = 0;
        look(&command, "reachback", &mut seen);
        assert!(seen > 15, "only {seen} commands");
    }

    #[test]
    fn every_flag_has_a_variable() {
        let names = variables();
        let command = Arguments::command();
        for subcommand in command.get_subcommands() {
            for argument in subcommand.get_arguments() {
                let Some(flag) = argument.get_long() else { continue };
                if ACTS.contains(&flag) {
                    continue;
                }
                let expected = format!("REACHBACK_{}", flag.to_uppercase().replace('-', "_"));
                assert!(names.contains(&expected), "{} --{flag} has no {expected}", subcommand.get_name());
            }
        }
    }
}
