//! `reachback forward`: local ports that are services far away, for as long as this runs.
//!
//! An explorer that can't be reached at the start is an error, because the address is then most often wrong. Once the
//! line has stood it is dialled again for ever.

use std::{io, path::Path, sync::Arc, time::Duration};

use futures::future::{FutureExt, join_all, select_all};
use reachback_client::{Forward, LineState, Reconnecting, Uplink};
use reachback_link::{Address, RealNet};
use reachback_wire::Target;
use tokio::{sync::watch, time::timeout};

use crate::{
    args::ForwardArguments,
    commands::{
        client,
        line::{AT_SIGHUP, Change, Told, short},
    },
    config::{duration::Span, port_spec::PortSpec},
    environment::Environment,
    exit::{Exit, Failure},
    limits,
    output::Output,
    signals::Signals,
};

/// Opens the ports, says where they lead, and keeps them open until a signal.
pub(crate) async fn run(
    arguments: ForwardArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let mut specs = arguments.forward;
    if let Some(file) = &arguments.file {
        specs.extend(listed(file)?);
    }
    let way =
        client::explorer(arguments.client, environment)?.compressed(&arguments.compress).settled().await?;
    let address = way.address.clone();
    let line = Arc::new(Reconnecting::start(way.net.clone(), way.address.clone(), way.options()?));
    let wait = arguments.wait.map(|Span(wait)| wait);
    let mut forwards = Vec::new();
    let result = {
        let hangup = async || {
            output.status(AT_SIGHUP);
            line.dial_now();
        };
        signals.serve(hangup, forward(&line, &address, specs, wait, &mut forwards, output)).await
    };
    signals
        .orderly(async {
            for forward in forwards {
                forward.shutdown().await;
            }
            // The visitors' tasks, which shared it, are gone.
            if let Some(line) = Arc::into_inner(line) {
                line.shutdown().await;
            }
        })
        .await?;
    result
}

/// Returns only when something broke.
async fn forward(
    client: &Reconnecting,
    address: &Address,
    specs: Vec<PortSpec>,
    wait: Option<Duration>,
    forwards: &mut Vec<Forward>,
    output: Output,
) -> Failure {
    let mut states = client.states();
    let targets = match open(&client.uplink(), specs, wait, forwards).await {
        Ok(targets) => targets,
        Err(failure) => return failure,
    };
    if let Err(failure) = first_session(&mut states, address).await {
        return failure;
    }
    let doors = doors(forwards, targets, &client.uplink(), output);
    tokio::select! {
        error = broken(forwards) => Failure::new(Exit::Failed, format_args!("a forwarded port broke: {error}")),
        () = doors => Failure::new(Exit::Failed, "the forwarded ports ended"),
        () = tell(&mut states, address, output) => Failure::new(Exit::Failed, "the line to the explorer ended"),
    }
}

/// Opens every port, or says which can't be.
pub(crate) async fn open(
    uplink: &Uplink,
    specs: Vec<PortSpec>,
    wait: Option<Duration>,
    forwards: &mut Vec<Forward>,
) -> Result<Vec<Target>, Failure> {
    let mut targets = Vec::new();
    for PortSpec { listen, target } in specs {
        let started = Forward::start(Arc::new(RealNet), uplink.clone(), &listen, target.clone(), wait).await;
        forwards.push(started.map_err(|error| cant_listen(&listen.to_string(), &error))?);
        targets.push(target);
    }
    Ok(targets)
}

/// One line for each port, and one whenever it is closed or opened again; for ever if there is none.
pub(crate) fn doors(
    forwards: &[Forward],
    targets: Vec<Target>,
    uplink: &Uplink,
    output: Output,
) -> impl Future<Output = ()> + use<> {
    let doors: Vec<_> = forwards
        .iter()
        .zip(targets)
        .map(|(forward, target)| {
            door(forward.local().to_string(), target, uplink.clone(), forward.listening(), output)
        })
        .collect();
    async move {
        match doors.is_empty() {
            true => std::future::pending().await,
            false => drop(join_all(doors).await),
        }
    }
}

async fn door(
    at: String,
    target: Target,
    uplink: Uplink,
    mut listening: watch::Receiver<bool>,
    output: Output,
) {
    // Before a line stands nobody knows whether the node is there, and what is said then is wrong a moment later.
    stands(&uplink).await;
    let opened = timeout(limits::FIRST_WORD, listening.wait_for(|open| *open)).await;
    let mut open = opened.is_ok_and(|listening| listening.is_ok());
    loop {
        match open {
            true => output.status(format_args!("{at} -> {target}")),
            false => output.status(format_args!("{at} is closed: {target} is offline")),
        }
        let Ok(now) = listening.wait_for(|now| *now != open).await else { return };
        open = *now;
    }
}

/// Waits until one of the lines has a session.
async fn stands(uplink: &Uplink) {
    let lines = uplink.lines().iter().map(|line| {
        let mut session = line.session.clone();
        async move { session.wait_for(Option::is_some).await.is_ok() }.boxed()
    });
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        select_all(lines).await;
    }
}

/// The ports that a file lists.
fn listed(path: &Path) -> Result<Vec<PortSpec>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::config(format_args!("can't read {}: {error}", path.display())))?;
    let mut specs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        specs.push(PortSpec::with_free_port(entry).map_err(|why| {
            Failure::config(format_args!("{}, line {}: {why}", path.display(), number + 1))
        })?);
    }
    if specs.is_empty() {
        return Err(Failure::config(format_args!(
            "{} lists no port; write one [[BIND:]PORT=]TARGET on each line, as in 5432=edge-7/db",
            path.display()
        )));
    }
    Ok(specs)
}

/// Waits until the line stands; the first failed attempt is the answer.
pub(crate) async fn first_session(
    states: &mut watch::Receiver<LineState>,
    address: &Address,
) -> Result<(), Failure> {
    let settled = states
        .wait_for(|state| {
            matches!(state, LineState::Serving { .. } | LineState::BackingOff { .. } | LineState::Stopped)
        })
        .await;
    match settled.as_deref() {
        Ok(LineState::BackingOff { code, reason, .. }) => Err(client::no_explorer(address, *code, reason)),
        Ok(LineState::Stopped) | Err(_) => Err(Failure::new(Exit::Failed, "the line to the explorer ended")),
        Ok(_) => Ok(()),
    }
}

/// One line per change that matters. Returns when there is nothing more to tell.
pub(crate) async fn tell(states: &mut watch::Receiver<LineState>, address: &Address, output: Output) {
    // That it stands is what the first lines said.
    let mut told = Told::online();
    loop {
        match told.change(&states.borrow_and_update().clone()) {
            None => {}
            Some(Change::Online { explorer, .. }) => {
                output.status(format_args!("the line to {explorer} ({address}) stands"));
            }
            Some(Change::Late) => {
                output.status(format_args!("{address} does not answer heartbeats, but bytes arrive"))
            }
            Some(Change::Offline { reason, wait }) => output.status(format_args!(
                "no line to {address}: {reason}; the ports are closed; next attempt in {}",
                short(wait)
            )),
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Why one of them broke; never while all work.
pub(crate) async fn broken(forwards: &mut [Forward]) -> io::Error {
    if forwards.is_empty() {
        return std::future::pending().await;
    }
    select_all(forwards.iter_mut().map(|forward| forward.failed().boxed())).await.0
}

pub(crate) fn cant_listen(address: &str, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has that port: end it, or name another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need root: name a higher one",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    };
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Denied,
        _ => Exit::TryAgain,
    };
    Failure::new(exit, format_args!("can't listen on {address}: {error}{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_list_a_port_a_line() {
        let write = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            file
        };
        let file = write("# ports\n5432=edge-7/db   # the database\n\nedge-7/web\n");
        let specs = listed(file.path()).unwrap();
        let targets: Vec<String> = specs.iter().map(|spec| spec.target.to_string()).collect();
        assert_eq!(targets, ["edge-7/db", "edge-7/web"]);
        let refused = listed(write("5432=edge-7/db\nx=edge-7/db\n").path()).unwrap_err();
        assert!(refused.to_string().contains(", line 2: \"x\" is no port"), "{refused}");
        assert_eq!(refused.exit.number(), 78);
        assert!(listed(write("# nothing\n").path()).unwrap_err().to_string().contains("lists no port"));
    }
}
