//! What people type every day to look at nodes, call their services and get onto their machines.

use clap::Args;
use reachback_wire::NodeId;

use super::{ClientArguments, ControlArguments};
use crate::config::duration::Span;

pub(super) const NODES_HELP: &str = "\
Examples:
  reachback nodes
  reachback nodes -l region=eu,arch=arm
  reachback nodes --watch
  reachback nodes --json | jq -r '.nodes[].node'";

pub(super) const SHOW_HELP: &str = "\
Examples:
  reachback show edge-7            its state, services, labels and last ends
  reachback show edge-7 --json     the same for programs";

pub(super) const STATUS_HELP: &str = "\
Examples:
  reachback status                 the explorer, and the node of this machine
  reachback status -q || alarm     prints nothing; 0 means the explorer answers
  reachback status -q --node       0 means this machine's node has a line";

pub(super) const SSH_HELP: &str = "\
Examples:
  reachback ssh edge-7
  reachback ssh root@edge-7 uptime
  reachback ssh edge-7 -L 8080:localhost:80

Runs ssh with this program as its ProxyCommand, so keys, known hosts and options
are ssh's own; host keys are kept under the node's name. The exit code is ssh's.
On the node: --service ssh=22. For scp, rsync, git see `reachback ssh-config`.";

pub(super) const SSH_CONFIG_HELP: &str = "\
Examples:
  reachback ssh-config > ~/.ssh/reachback
  echo 'Include reachback' >> ~/.ssh/config     (once, above every Host)
  scp edge-7:/etc/hostname .";

/// `reachback show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The node's name.
    #[arg(value_name = "NODE")]
    pub(crate) node: NodeId,
    /// Print what the explorer knows as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reachback status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    #[command(flatten)]
    pub(crate) control: ControlArguments,
    /// Ask the node of this machine and nobody else: fine when one of its lines stands. For health checks.
    #[arg(long)]
    pub(crate) node: bool,
    /// Print the answers as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reachback ssh`.
#[derive(Debug, Args)]
pub(crate) struct SshArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The node, and the user on it if it is another than here.
    #[arg(value_name = "[USER@]NODE", value_parser = Destination::parse)]
    pub(crate) destination: Destination,
    /// Passed to ssh as they are: its options, then a command.
    #[arg(value_name = "SSH-ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<std::ffi::OsString>,
}

/// `reachback ssh-config`.
#[derive(Debug, Args)]
pub(crate) struct SshConfigArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

/// `[USER@]NODE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) user: Option<String>,
    pub(crate) node: NodeId,
}

impl Destination {
    fn parse(text: &str) -> Result<Self, String> {
        let (user, node) = match text.rsplit_once('@') {
            Some((user, node)) => (Some(user.to_owned()), node),
            None => (None, text),
        };
        if user.as_ref().is_some_and(|user| user.is_empty() || user.starts_with('-')) {
            return Err(format!("\"{text}\" names no user; write NODE or USER@NODE"));
        }
        Ok(Self { user, node: node.parse().map_err(|error| format!("{error}"))? })
    }
}

/// A span that must not be nothing, such as how long an answer may take.
pub(crate) fn some_time(text: &str) -> Result<Span, String> {
    match text.parse::<Span>()? {
        Span(none) if none.is_zero() => Err("no time at all; write 500ms, 2s, 1m".to_owned()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let parsed = Destination::parse("root@edge-7").unwrap();
        assert_eq!((parsed.user.as_deref(), parsed.node.as_ref()), (Some("root"), "edge-7"));
        assert_eq!(Destination::parse("edge-7").unwrap().user, None);
        assert!(Destination::parse("@edge-7").unwrap_err().contains("USER@NODE"));
        assert!(Destination::parse("-oProxyCommand=x@edge-7").is_err(), "an option is no user");
        assert!(Destination::parse("root@../x").is_err());
    }

    #[test]
    fn no_time_is_refused() {
        assert!(some_time("0s").unwrap_err().contains("2s"));
        assert!(some_time("2s").is_ok());
    }
}
