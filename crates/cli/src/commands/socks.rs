//! `reachback socks`: every program that knows SOCKS reaches services by name.

use reachback_client::{Reconnecting, Socks};
use reachback_link::RealNet;

use crate::{
    args::SocksArguments,
    commands::{client, forward, line::AT_SIGHUP},
    environment::Environment,
    exit::{Exit, Failure},
    output::Output,
    signals::Signals,
};

/// Listens until a signal.
pub(crate) async fn run(
    arguments: SocksArguments,
    environment: &Environment,
    output: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let way =
        client::explorer(arguments.client, environment)?.compressed(&arguments.compress).settled().await?;
    let address = way.address.clone();
    let line = Reconnecting::start(way.net.clone(), way.address.clone(), way.options()?);
    let mut states = line.states();
    let started = Socks::start(&RealNet, line.uplink(), &arguments.listen, arguments.via.clone());
    let mut socks =
        started.await.map_err(|error| forward::cant_listen(&arguments.listen.to_string(), &error))?;
    let serving = async {
        if let Err(failure) = forward::first_session(&mut states, &address).await {
            return failure;
        }
        let reaches = match &arguments.via {
            Some(node) => format!("hosts behind {node}"),
            None => "hosts SERVICE.NODE".to_owned(),
        };
        output.status(format_args!("socks5h://{}  {reaches}", socks.local()));
        tokio::select! {
            error = socks.failed() => Failure::new(Exit::Failed, format_args!("the SOCKS port broke: {error}")),
            () = forward::tell(&mut states, &address, output) => {
                Failure::new(Exit::Failed, "the line to the explorer ended")
            }
        }
    };
    let hangup = async || {
        output.status(AT_SIGHUP);
        line.dial_now();
    };
    let result = signals.serve(hangup, serving).await;
    signals
        .orderly(async {
            socks.shutdown().await;
            line.shutdown().await;
        })
        .await?;
    result
}
