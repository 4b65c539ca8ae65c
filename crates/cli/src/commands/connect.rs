//! `reachback connect`: stdin and stdout are one end of a stream, so nothing else may be printed there.

use std::io;

use reachback_client::pipe;
use reachback_link::{SpliceError, StreamEnd};
use reachback_wire::Code;

use crate::{
    args::ConnectArguments,
    commands::client,
    environment::Environment,
    exit::{Exit, Failure},
    stdio,
};

/// Connects, copies both ways, and ends with the service: 0 only if both directions ended in order.
pub(crate) async fn run(arguments: ConnectArguments, environment: &Environment) -> Result<(), Failure> {
    let way = client::explorer(arguments.client, environment)?.compressed(&arguments.compress);
    let session = client::connect(&way).await?;
    let target = arguments.target;
    let (input, output) = stdio::pair();
    let piped = pipe(&session, target.clone(), input, output).await.map_err(client::not_opened)?;
    session.close().await;
    let amount = format!("sent {} bytes, got {}", piped.to_service, piped.from_service);
    match piped.end {
        Ok(()) => Ok(()),
        // Whoever reads our stdout has seen enough; ssh leaves its ProxyCommand like this.
        Err(SpliceError::Local(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(SpliceError::Local(error)) => {
            Err(Failure::new(Exit::Failed, format_args!("stdin or stdout failed: {error} ({amount})")))
        }
        Err(SpliceError::Peer(StreamEnd::Reset { code, text })) => Err(Failure::coded(
            code,
            format_args!("the other end reset the stream to {target}: {text} ({amount})"),
        )),
        Err(SpliceError::Stopped(why)) => Err(why.into()),
        Err(SpliceError::Peer(StreamEnd::Lost(end))) => Err(Failure::coded(
            Code::Lost,
            format_args!("the stream to {target} was cut off with its line: {end} ({amount})"),
        )),
        Err(SpliceError::Peer(end)) => {
            Err(Failure::coded(end.code(), format_args!("the stream to {target} broke: {end} ({amount})")))
        }
    }
}
