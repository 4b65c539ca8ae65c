//! `reachback ssh` and `ssh-config`: the user's own ssh, carried by this program.
//!
//! Nothing of ssh is done here. It is run with this very binary as its ProxyCommand, so keys, agents, known hosts and
//! options stay as they are. What it can't say in a sentence (no such node, offline, no ssh offered) is said before.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
};

use reachback_explorer::NodeView;
use reachback_wire::Code;

use crate::{
    args::{SshArguments, SshConfigArguments},
    commands::{api, client, nodes},
    environment::Environment,
    exit::{Exit, Failure},
    output::Output,
};

/// The service that ssh reaches.
const SERVICE: &str = "ssh";

/// Runs ssh and ends with its exit code.
pub(crate) async fn run(arguments: SshArguments, environment: &Environment) -> Result<(), Failure> {
    // A proxy may hold a password, which must not stand in a command line that others can see.
    let proxy = arguments.client.proxy.proxy.as_ref().map(|choice| choice.typed().to_owned());
    let way = client::explorer(arguments.client, environment)?;
    let session = client::connect(&way).await?;
    let node = api::node(&session, &arguments.destination.node).await;
    session.close().await;
    let node = node?;
    offers_ssh(&node)?;
    api::reachable(&node)?;
    let mut command = Command::new("ssh");
    command.arg("-o").arg(format!("ProxyCommand={}", proxy_command(&way.again())?));
    if let Some(proxy) = proxy {
        command.env("REACHBACK_PROXY", proxy);
    }
    if let Some(user) = &arguments.destination.user {
        command.args(["-l", user]);
    }
    command.arg(node.node.as_ref()).args(arguments.rest);
    let status = in_foreground(command).await?;
    match passed(status) {
        0 => Ok(()),
        code => Err(Failure::said(Exit::Passed(code))),
    }
}

/// Prints one Host block for all nodes that offer ssh.
pub(crate) async fn config(
    arguments: SshConfigArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let way = client::explorer(arguments.client, environment)?;
    let session = client::connect(&way).await?;
    let nodes = nodes::ask(&session).await;
    session.close().await;
    let names: Vec<String> =
        nodes?.iter().filter(|node| has_ssh(node)).map(|node| node.node.to_string()).collect();
    if names.is_empty() {
        return Err(Failure::coded(
            Code::ServiceNotFound,
            "no node offers a service called ssh; on a node: --service ssh=22",
        ));
    }
    output.result(format_args!(
        "# Nodes that offer ssh; `reachback ssh-config` printed this.\nHost {}\n    ProxyCommand {}",
        names.join(" "),
        proxy_command(&way.again())?
    ))
}

fn has_ssh(node: &NodeView) -> bool {
    node.services.iter().any(|service| service.name.as_ref() == SERVICE)
}

fn offers_ssh(node: &NodeView) -> Result<(), Failure> {
    if has_ssh(node) {
        return Ok(());
    }
    Err(Failure::coded(
        Code::ServiceNotFound,
        format_args!(
            "{} offers no service called ssh (it offers: {}); on that machine: reachback expose ssh=22, or start its \
             node with --service ssh=22",
            node.node,
            nodes::services(node)
        ),
    ))
}

/// `%h` is the name that was typed after `ssh`, which is the node's.
fn proxy_command(again: &[String]) -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::new(Exit::Failed, format_args!("this program's own path is not known: {error}"))
    })?;
    proxy_command_of(&program, again).map_err(|why| Failure::new(Exit::Failed, why))
}

/// ssh replaces `%` and gives the rest to the user's shell.
fn proxy_command_of(program: &Path, again: &[String]) -> Result<String, String> {
    let program = program.to_str().ok_or("this program's path is not UTF-8, which ssh can't be told")?;
    let again: Vec<String> = again.iter().map(|part| quoted(part)).collect();
    Ok(format!("{} connect {} %h/{SERVICE}", quoted(program), again.join(" ")))
}

fn quoted(text: &str) -> String {
    let text = text.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:%[]".contains(c);
    match text.chars().all(plain) && !text.contains(['[', ']']) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A terminal's Ctrl-C is for ssh, which decides what it means; this process only waits for it.
async fn in_foreground(mut command: Command) -> Result<ExitStatus, Failure> {
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(|error| Failure::new(Exit::Failed, format_args!("can't catch signals: {error}")))?;
    let mut child = command.spawn().map_err(not_run)?;
    let waiting = tokio::task::spawn_blocking(move || child.wait());
    tokio::pin!(waiting);
    loop {
        tokio::select! {
            status = &mut waiting => {
                let status = status.map_err(io::Error::other).and_then(|status| status);
                return status.map_err(|error| Failure::new(Exit::Failed, format_args!("ssh: {error}")));
            }
            _ = interrupts.recv() => {}
        }
    }
}

fn not_run(error: io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; install OpenSSH's client (openssh-client)",
        _ => "",
    };
    Failure::new(Exit::Failed, format_args!("can't run ssh: {error}{remedy}"))
}

/// As a shell tells it.
fn passed(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_is_told_survives_ssh_and_the_shell() {
        let again = |address: &str| ["--explorer".to_owned(), address.to_owned()];
        let told = |path: &str| proxy_command_of(Path::new(path), &again("hub:9002")).unwrap();
        assert_eq!(told("/usr/bin/reachback"), "/usr/bin/reachback connect --explorer hub:9002 %h/ssh");
        assert_eq!(told("/a b/100%"), "'/a b/100%%' connect --explorer hub:9002 %h/ssh");
        assert_eq!(told("/it's"), r"'/it'\''s' connect --explorer hub:9002 %h/ssh");
        assert!(proxy_command_of(Path::new("/r"), &again("[::1]:9002")).unwrap().contains("'[::1]:9002'"));
        let profile = ["--profile", "it's"].map(str::to_owned);
        assert_eq!(
            proxy_command_of(Path::new("/r"), &profile).unwrap(),
            r"/r connect --profile 'it'\''s' %h/ssh"
        );
    }

    #[test]
    fn exit_codes_are_passed_and_signals_are_told_as_shells_do() {
        assert_eq!(passed(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(passed(ExitStatus::from_raw(255 << 8)), 255);
        assert_eq!(passed(ExitStatus::from_raw(2)), 130);
    }
}
