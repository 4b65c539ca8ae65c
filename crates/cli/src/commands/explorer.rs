//! `reachback explorer`: runs the hub and says where it can be reached.

use std::{io, path::PathBuf};

use reachback_explorer::{Addresses, Explorer, ExplorerConfig, ListenerMode, SocketError, StartError};

use crate::{
    args::ExplorerArguments,
    commands::{line::short, modes, tokens},
    config::{self, explorer::ExplorerSetup, origin::Origins, transport},
    environment::Environment,
    exit::{Exit, Failure},
    limits, open_files,
    output::Output,
    paths,
    runtimes::Runtimes,
    signals::Signals,
};

/// Runs until SIGINT or SIGTERM; says goodbye to every peer and removes the socket file.
pub(crate) async fn run(
    arguments: ExplorerArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let mut origins = Origins::default();
    let ExplorerSetup { mut config, threads, connect_timeout } =
        config::explorer::resolve(arguments, environment, paths::is_root(), &mut origins)?;
    for warning in origins.warnings() {
        output.warning(warning);
    }
    let runtimes = Runtimes::start(threads - 1).map_err(|error| {
        Failure::new(Exit::TryAgain, format_args!("can't start {threads} threads: {error}"))
    })?;
    config.runtimes = runtimes.handles();
    let exposed = modes::exposed(&config);
    let secret = config.secret.is_some();
    let kept = kept(&config);
    let modes = config.modes();
    let head = head(&config);
    let explorer = Explorer::start(config, transport::net(connect_timeout)).await.map_err(not_started)?;
    output.status(head);
    for line in lines(explorer.addresses(), &modes) {
        output.status(line);
    }
    open_files::raise();
    if let (Some((directory, certificate)), Some(security)) = (kept, explorer.security()) {
        let authority = match (certificate, security.made_now()) {
            (Some(certificate), _) => format!("certificate {}", certificate.display()),
            (None, true) => "new certificate authority made just now".to_owned(),
            (None, false) => "its own certificate authority".to_owned(),
        };
        output.status(format_args!("state      {}  ({authority})", directory.display()));
    }
    join(&explorer, output).await;
    if exposed {
        output.warning(match secret {
            false => {
                "--insecure-plaintext: nothing is encrypted and nobody is authenticated; whoever reaches this port can \
                 read what passes, register as any node and open every service"
            }
            true => {
                "--insecure-plaintext: nothing is encrypted; whoever is on the way can read and change what passes"
            }
        });
    }
    let hangup = async || match explorer.reload().await {
        Ok(()) if explorer.security().is_some() => output.status(
            "SIGHUP: certificates are read again; the rest of a changed configuration needs a restart",
        ),
        Ok(()) => output.status("SIGHUP: nothing to do; a changed configuration needs a restart"),
        Err(error) => {
            output.warning(format_args!("SIGHUP: {error}; the certificates from before stay in use"))
        }
    };
    let failed = async { Failure::new(Exit::Failed, explorer.failed().await) };
    let result = signals.serve(hangup, failed).await;
    signals.orderly(explorer.shutdown()).await?;
    drop(runtimes);
    result
}

fn head(config: &ExplorerConfig) -> String {
    let mode = modes::sentence(config);
    format!("reachback {}  explorer \"{}\"  {mode}", env!("CARGO_PKG_VERSION"), config.id)
}

/// Where it keeps what has to outlive it, and the certificate it was given if it does not make its own.
fn kept(config: &ExplorerConfig) -> Option<(PathBuf, Option<PathBuf>)> {
    let certificate = config.tls.as_ref().and_then(|files| files.cert_path.clone());
    Some((config.state_dir.clone()?, certificate))
}

/// A line to paste for whoever is looking, and how to get one for everybody else: it is a secret, and logs are kept.
async fn join(explorer: &Explorer, output: Output) {
    if explorer.security().is_none() {
        return;
    }
    if !output.is_seen() {
        output.status("join       reachback token create --role register --node NAME");
        return;
    }
    match explorer.first_join(limits::REGISTER_TOKEN).await {
        Ok(Some(line)) => {
            output.status(format_args!(
                "join       reachback node --join {}   (valid {}, one node)",
                line.string.expose(),
                short(line.ttl)
            ));
            if line.guessed {
                let at = line.addresses.join(", ");
                output.status(format_args!("           leads to {at}: {}", tokens::GUESS));
            }
        }
        Ok(None) => {}
        Err(refusal) => output.warning(format_args!("no join line: {refusal}")),
    }
}

/// Each listener's mode is said where they have several.
fn lines(addresses: &Addresses, modes: &[ListenerMode]) -> Vec<String> {
    let mut lines = Vec::new();
    let mixed = modes.iter().any(|one| one.mode != modes[0].mode);
    for (address, ListenerMode { mode, .. }) in addresses.listen.iter().zip(modes) {
        match mixed {
            true => lines.push(format!("listening  {address}  ({mode})")),
            false => lines.push(format!("listening  {address}")),
        }
    }
    if addresses.listen.is_empty() {
        lines.push("listening  nowhere; open a port with --listen 127.0.0.1:9002".to_owned());
    }
    if let Some(socket) = &addresses.socket {
        lines.push(format!("local      {}", socket.display()));
    }
    for (address, target) in &addresses.published {
        lines.push(format!("published  {address} -> {target}  (closed while {target} is offline)"));
    }
    lines
}

/// What would pass by itself may be tried again; what somebody has to change may not.
fn not_started(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Config(_) => Exit::Config,
        StartError::Listen { source, .. } | StartError::Socket(SocketError::Io { source, .. }) => {
            match source.kind() {
                io::ErrorKind::PermissionDenied => Exit::Denied,
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::ReadOnlyFilesystem => Exit::Config,
                _ => Exit::TryAgain,
            }
        }
        StartError::Socket(SocketError::InUse(_)) => Exit::TryAgain,
        StartError::Socket(_) | StartError::Keys(_) => Exit::Config,
    };
    Failure::new(exit, &error)
}
