//! One file per command: checked arguments in, libraries called, what happened told.

mod access;
mod api;
mod call;
mod check;
mod client;
mod connect;
mod demo;
mod explorer;
mod expose;
mod forward;
mod grant;
mod line;
mod local;
mod login;
mod modes;
mod node;
mod nodes;
mod operator;
mod shell;
mod show;
mod socks;
mod ssh;
mod status;
mod tokens;
mod watch;

use clap::ArgMatches;

use crate::{args::Command, environment::Environment, exit::Failure, output::Output};

/// Runs one command to its end.
/// `matches` says where the values of the command line came from.
pub(crate) async fn run(
    command: Command,
    matches: &ArgMatches,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    match command {
        Command::Explorer(arguments) => explorer::run(arguments, environment, output).await,
        Command::Node(arguments) => node::run(arguments, environment, output).await,
        Command::Nodes(arguments) => nodes::run(arguments, environment, output).await,
        Command::Connect(arguments) => connect::run(arguments, environment).await,
        Command::Forward(arguments) => forward::run(arguments, environment, output).await,
        Command::Show(arguments) => show::run(arguments, environment, output).await,
        Command::Call(arguments) => call::run(arguments, environment, output).await,
        Command::Socks(arguments) => socks::run(arguments, environment, output).await,
        Command::Status(arguments) => status::run(arguments, environment, output).await,
        Command::Ssh(arguments) => ssh::run(arguments, environment).await,
        Command::SshConfig(arguments) => ssh::config(arguments, environment, output).await,
        Command::Expose(arguments) => expose::expose(arguments, environment, output).await,
        Command::Unexpose(arguments) => expose::unexpose(arguments, environment, output).await,
        Command::Grant(arguments) => grant::grant(arguments, environment, output).await,
        Command::Ungrant(arguments) => grant::ungrant(arguments, environment, output).await,
        Command::Login(arguments) => login::run(arguments, environment, output).await,
        Command::Token(arguments) => tokens::run(arguments, environment, output).await,
        Command::Revoke(arguments) => access::revoke(arguments, environment, output).await,
        Command::Release(arguments) => access::release(arguments, environment, output).await,
        Command::Audit(arguments) => access::audit(arguments, environment, output).await,
        Command::Backup(arguments) => access::backup(arguments, environment, output).await,
        Command::Ca(arguments) => access::ca(arguments, environment, output).await,
        Command::Kick(arguments) => operator::kick(arguments, environment, output).await,
        Command::Forget(arguments) => operator::forget(arguments, environment, output).await,
        Command::Check(arguments) => check::run(arguments, matches, environment, output),
        Command::Completions(arguments) => shell::completions(&arguments, output),
        Command::Man(arguments) => shell::man(&arguments, output),
        Command::Demo(arguments) => demo::run(arguments, output).await,
    }
}
