//! `reachback explorer`: runs the hub and says where it can be reached.

use std::{io, sync::Arc};

use reachback_explorer::{Addresses, Explorer, ExplorerConfig, SocketError, StartError};
use reachback_link::RealNet;

use crate::{
    args::ExplorerArguments,
    config::{self, explorer::ExplorerSetup, origin::Origins},
    environment::Environment,
    exit::{Exit, Failure},
    open_files,
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
    let ExplorerSetup { mut config, threads } =
        config::explorer::resolve(arguments, environment, paths::is_root(), &mut Origins::default())?;
    let runtimes = Runtimes::start(threads - 1).map_err(|error| {
        Failure::new(Exit::TryAgain, format_args!("can't start {threads} threads: {error}"))
    })?;
    config.runtimes = runtimes.handles();
    let exposed = config.listen.iter().any(|address| !address.is_loopback());
    let head = head(&config, exposed);
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.map_err(not_started)?;
    output.status(head);
    for line in lines(explorer.addresses()) {
        output.status(line);
    }
    open_files::raise();
    if exposed {
        output.warning(
            "--insecure-plaintext: nothing is encrypted and nobody is authenticated; whoever reaches this port can read \
             what passes, register as any node and open every service",
        );
    }
    let hangup = || output.status("SIGHUP: nothing to do; a changed configuration needs a restart");
    let failed = async { Failure::new(Exit::Failed, explorer.failed().await) };
    let result = signals.serve(hangup, failed).await;
    signals.orderly(explorer.shutdown()).await?;
    drop(runtimes);
    result
}

fn head(config: &ExplorerConfig, exposed: bool) -> String {
    let mode = match (config.listen.is_empty(), exposed) {
        (true, _) => "local socket only",
        (false, false) => "plaintext, loopback only",
        (false, true) => "PLAINTEXT, reachable by other machines",
    };
    format!("reachback {}  explorer \"{}\"  {mode}", env!("CARGO_PKG_VERSION"), config.id)
}

fn lines(addresses: &Addresses) -> Vec<String> {
    let mut lines = Vec::new();
    for address in &addresses.listen {
        lines.push(format!("listening  {address}"));
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
        StartError::Socket(_) => Exit::Config,
    };
    Failure::new(exit, &error)
}
