//! `reachback forward`: local ports that are services far away, for as long as this runs.
//!
//! An explorer that can't be reached at the start is an error, because the address is then most often wrong. Once the
//! line has stood it is dialled again for ever.

use std::{io, pin::pin, sync::Arc};

use futures::future::{FutureExt, select_all};
use reachback_client::{Forward, LineState, Reconnecting};
use reachback_link::{Address, RealNet};
use tokio::sync::watch;

use crate::{
    args::ForwardArguments,
    commands::{
        client,
        line::{AT_SIGHUP, Change, Told, short},
    },
    config::port_spec::PortSpec,
    environment::Environment,
    exit::{Exit, Failure},
    output::Output,
    signals::{Asked, Signals},
};

/// Opens the ports, says where they lead, and keeps them open until a signal.
pub(crate) async fn run(
    arguments: ForwardArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let address = client::explorer(arguments.client, environment)?;
    let line = Arc::new(Reconnecting::start(Arc::new(RealNet), address.clone(), client::options()?));
    let mut forwards = Vec::new();
    let result = {
        let mut forwarding = pin!(forward(&line, &address, arguments.forward, &mut forwards, output));
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End(_) => break Ok(()),
                    Asked::Hangup => {
                        output.status(AT_SIGHUP);
                        line.dial_now();
                    }
                },
                failure = &mut forwarding => break Err(failure),
            }
        }
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
    client: &Arc<Reconnecting>,
    address: &Address,
    specs: Vec<PortSpec>,
    forwards: &mut Vec<Forward>,
    output: Output,
) -> Failure {
    let mut states = client.states();
    let mut lines = Vec::new();
    for PortSpec { listen, target } in specs {
        match Forward::start(&RealNet, client.clone(), &listen, target.clone()).await {
            Ok(forward) => {
                lines.push(format!("{} -> {target}", forward.local()));
                forwards.push(forward);
            }
            Err(error) => return cant_listen(&listen.to_string(), &error),
        }
    }
    if let Err(failure) = first_session(&mut states, address).await {
        return failure;
    }
    for line in lines {
        output.status(line);
    }
    tokio::select! {
        error = broken(forwards) => Failure::new(Exit::Failed, format_args!("a forwarded port broke: {error}")),
        () = tell(&mut states, address, output) => Failure::new(Exit::Failed, "the line to the explorer ended"),
    }
}

/// Waits until the line stands; the first failed attempt is the answer.
async fn first_session(states: &mut watch::Receiver<LineState>, address: &Address) -> Result<(), Failure> {
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
async fn tell(states: &mut watch::Receiver<LineState>, address: &Address, output: Output) {
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
                "no line to {address}: {reason}; visitors get a reset; next attempt in {}",
                short(wait)
            )),
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

async fn broken(forwards: &mut [Forward]) -> io::Error {
    select_all(forwards.iter_mut().map(|forward| forward.failed().boxed())).await.0
}

fn cant_listen(address: &str, error: &io::Error) -> Failure {
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
