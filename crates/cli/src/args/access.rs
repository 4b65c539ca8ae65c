//! Who may come in and do what: tokens, logins, grants, revocations, and what keeps them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use reachback_wire::{
    NodeId, ServiceName,
    rights::{NamePattern, Right},
};

use super::{ClientArguments, ControlArguments, ProxyArguments, everyday::some_time};
use crate::config::duration::Span;

pub(super) const TOKEN_HELP: &str = "\
Examples:
  reachback token create --role register --node edge-7
                                    a line that lets this one node join
  reachback token create --role register --node 'edge-*' --uses unlimited
      --ephemeral --ttl 30d         for containers that come and go
  reachback token create --role user --name ann --allow 'edge-*/rpc'
                                    a line for ann to log in with
  reachback token list";

pub(super) const TOKEN_CREATE_HELP: &str = "\
A right (--allow) is what may be reached:
  edge-7/rpc            one service of one node; * stands for any part of a name
  'edge-*/rpc:vm.*'     of a JSON-RPC service only these methods
  'dial:edge-*'         hosts behind these nodes, as far as the nodes allow it
  @explorer/api:explorer.nodes
                        of the explorer itself only the list of nodes

Examples:
  reachback token create --role register --node edge-7
  reachback token create --role register --node 'ci-*' --uses 50 --ephemeral
  reachback token create --role user --name ann --allow 'edge-*/rpc'
  reachback token create --role admin --name ops

The line that is printed is the secret: whoever has it may use it. It is shown
once and kept nowhere.";

pub(super) const TOKEN_LIST_HELP: &str = "\
Examples:
  reachback token list             what was made, what is left of it, until when
  reachback token list --json      the same for programs";

pub(super) const REVOKE_HELP: &str = "\
Examples:
  reachback revoke edge-7          a node: its session ends, its key is refused
  reachback revoke ann             a user: sessions and open streams end
  reachback revoke token:5f3a9c21  a token, by the id of `reachback token list`

A name that more than one of them has is asked for: node:edge-7, user:edge-7.
Takes effect within 5 s. It can't be taken back; what was revoked joins anew,
a node after `reachback release`.";

pub(super) const RELEASE_HELP: &str = "\
Examples:
  reachback release edge-7    the next key that joins as edge-7 gets the name

For new hardware under a known name. Without it a second key is refused.";

pub(super) const AUDIT_HELP: &str = "\
Examples:
  reachback audit                  the last 50 records, oldest first
  reachback audit --last 500 --json | jq -c 'select(.outcome != \"ok\")'";

pub(super) const BACKUP_HELP: &str = "\
Examples:
  reachback backup /var/backups/reachback.tar
                              written by the explorer, on its own machine

It holds the certificate authority's key: whoever has the file can make nodes and
users. To restore, unpack it where the explorer keeps its state, and start it:
  tar -xf reachback.tar -C /var/lib/reachback/explorer";

pub(super) const CA_HELP: &str = "\
Examples:
  reachback ca rotate begin     make a new authority; both are trusted
  reachback ca rotate finish    trust only the new one

Between the two every node and user gets a certificate of the new authority when
it renews: at half the life of a certificate, or at its next login.";

pub(super) const LOGIN_HELP: &str = "\
Examples:
  reachback login -                           reads the line from stdin
  reachback login rb1_...                     as an admin has given it to you
  reachback login - --profile work < line     a second explorer beside the first
  reachback --help                            what to do then

Makes a key on this machine and exchanges the line for a certificate. The line
is used up by that: with another key it is refused.";

pub(super) const GRANT_HELP: &str = "\
Asks the node that runs on this machine, through its control socket: its owner
opens one service to somebody for a while, whatever the explorer's rights say.

Examples:
  reachback grant db --to ann --for 2h --reason 'ticket 4711'
  reachback grant ssh --to node:ci-3 --for 30m --reason deploy
  reachback ungrant db --to ann

It ends by itself, and open streams with it; `reachback status` shows what is
left of it.";

/// `reachback token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What is done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a line that lets a node join, or a person or an operator log in.
    #[command(after_help = TOKEN_CREATE_HELP)]
    Create(TokenCreateArguments),
    /// List tokens: for whom, for what, what is left of them.
    #[command(after_help = TOKEN_LIST_HELP)]
    List(TokenListArguments),
}

/// What a token makes of whoever shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRole {
    /// A node.
    Register,
    /// Somebody who calls services.
    User,
    /// Somebody who may do everything.
    Admin,
}

impl TokenRole {
    /// As the explorer's API calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// How often a token may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uses {
    /// So often.
    Times(u32),
    /// Until it expires.
    Unlimited,
}

impl std::str::FromStr for Uses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse::<u32>()) {
            ("unlimited", _) => Ok(Self::Unlimited),
            (_, Ok(times @ 1..)) => Ok(Self::Times(times)),
            _ => Err(format!("\"{text}\": write how often it may be used, from 1, or unlimited")),
        }
    }
}

/// `reachback token create`.
#[derive(Debug, Args)]
pub(crate) struct TokenCreateArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// What it is for: register lets nodes join, user lets somebody call what --allow says, admin everything.
    #[arg(long, value_enum, value_name = "ROLE")]
    pub(crate) role: TokenRole,
    /// Which node may join, or a pattern as in 'edge-*'. Only and always with --role register.
    #[arg(long, value_name = "NODE", required_if_eq("role", "register"))]
    pub(crate) node: Option<NamePattern>,
    /// Who will use it. Only and always with --role user and admin.
    #[arg(long, value_name = "NAME", required_if_eq_any([("role", "user"), ("role", "admin")]))]
    pub(crate) name: Option<NodeId>,
    /// What may be reached, see below; for a node: what it may call itself, nothing if absent. Can be given
    /// several times.
    #[arg(long, value_name = "RIGHT", required_if_eq("role", "user"))]
    pub(crate) allow: Vec<Right>,
    /// How long it can be used: 15m for nodes, 24h for people if absent.
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    pub(crate) ttl: Option<Span>,
    /// How many nodes may join with it, a number or unlimited; 1 if absent. People log in once.
    #[arg(long, value_name = "N")]
    pub(crate) uses: Option<Uses>,
    /// For containers: a name may be taken by a new key once its session is gone, and is forgotten 10 min later.
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reachback token list`.
#[derive(Debug, Args)]
pub(crate) struct TokenListArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// Print the explorer's answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reachback revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// A node, a token's id or a user; node:NAME, token:ID, user:NAME where that is not clear.
    #[arg(value_name = "NODE|TOKEN|USER")]
    pub(crate) what: String,
}

/// `reachback release`.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The node whose name another key may take.
    #[arg(value_name = "NODE")]
    pub(crate) node: NodeId,
}

/// `reachback audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// How many records, the newest ones.
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) last: u32,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reachback backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// A file on the explorer's machine; one of that name is replaced.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `reachback ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArguments {
    #[command(subcommand)]
    pub(crate) command: CaCommand,
}

/// What is done with the certificate authority.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Replace it by a new one, in two steps, without anybody being cut off.
    #[command(after_help = CA_HELP)]
    Rotate(CaRotateArguments),
}

/// `reachback ca rotate`.
#[derive(Debug, Args)]
pub(crate) struct CaRotateArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// The step.
    #[arg(value_enum, value_name = "STEP")]
    pub(crate) step: RotateStep,
    /// Finish although nodes that have not renewed yet will have to join again.
    #[arg(long)]
    pub(crate) force: bool,
}

/// The two steps of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RotateStep {
    /// A new authority beside the old one.
    Begin,
    /// The old one is not trusted any more.
    Finish,
}

/// `reachback login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// The line an admin made with `reachback token create`; - reads it from stdin.
    #[arg(value_name = "STRING|-")]
    pub(crate) line: JoinText,
    /// The profile to write; one of the same name is replaced. The explorer's host name if absent.
    #[arg(long, value_name = "NAME", env = "REACHBACK_PROFILE", hide_env_values = true)]
    pub(crate) profile: Option<String>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}

/// A secret as it was typed; it has no `Debug`, so it can't get into a message.
#[derive(Clone)]
pub(crate) struct JoinText(pub(crate) String);

impl std::fmt::Debug for JoinText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl std::str::FromStr for JoinText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// `reachback grant`.
#[derive(Debug, Args)]
pub(crate) struct GrantArguments {
    #[command(flatten)]
    pub(crate) control: ControlArguments,
    /// One of this node's services.
    #[arg(value_name = "SERVICE")]
    pub(crate) service: ServiceName,
    /// Who may use it: a user, or node:NAME.
    #[arg(long, value_name = "WHO")]
    pub(crate) to: String,
    /// How long: 30m, 2h.
    #[arg(long = "for", value_name = "TIME", value_parser = some_time)]
    pub(crate) span: Span,
    /// Why, for whoever looks later.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

/// `reachback ungrant`.
#[derive(Debug, Args)]
pub(crate) struct UngrantArguments {
    #[command(flatten)]
    pub(crate) control: ControlArguments,
    /// The service that was granted.
    #[arg(value_name = "SERVICE")]
    pub(crate) service: ServiceName,
    /// To whom, as it was granted.
    #[arg(long, value_name = "WHO")]
    pub(crate) to: String,
}
