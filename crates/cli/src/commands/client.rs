//! What the client commands have in common: which explorer to ask, and what to say when it can't be asked.

use std::sync::Arc;

use reachback_client::{CallError, Client, ClientOptions, Random};
use reachback_link::{Address, Net, OpenError};
use reachback_wire::{Code, NodeId};

use crate::{
    args::ClientArguments,
    config::{origin::Origins, proxy},
    environment::Environment,
    exit::{Exit, Failure},
    paths,
};

/// The explorer to ask: the flag's or the variable's, else the local Unix socket.
pub(crate) fn explorer(arguments: ClientArguments, environment: &Environment) -> Result<Way, Failure> {
    let address = match arguments.explorer {
        Some(address) => address,
        None => Address::Unix(paths::explorer_socket(environment, paths::is_root())?),
    };
    let proxy = proxy::resolve(arguments.proxy.proxy, environment, None, &mut Origins::default())?;
    Ok(Way { address, net: proxy::net(proxy) })
}

/// An explorer and the network through which it is dialled.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) address: Address,
    pub(crate) net: Arc<dyn Net>,
}

impl Way {
    /// No proxy, whatever the variables say.
    pub(crate) fn direct(address: Address) -> Self {
        Self { address, net: proxy::net(None) }
    }
}

/// What the explorer's lists and logs call this client.
pub(crate) fn options() -> Result<ClientOptions, Failure> {
    // A client's name grants nothing in this version; a host whose name is no valid id is no reason to refuse.
    let id = match paths::host_name().parse::<NodeId>() {
        Ok(id) => id,
        Err(_) => "client".parse().map_err(|error| Failure::new(Exit::Failed, error))?,
    };
    ClientOptions::new(id, Random::system()).map_err(|error| Failure::new(Exit::Failed, error))
}

/// A session with that explorer.
pub(crate) async fn connect(way: &Way) -> Result<Client, Failure> {
    Client::connect(way.net.clone(), &way.address, options()?)
        .await
        .map_err(|error| no_explorer(&way.address, error.code(), &error.to_string()))
}

/// The explorer was not reached, or said no.
pub(crate) fn no_explorer(address: &Address, code: Code, reason: &str) -> Failure {
    let remedy = match (code, address) {
        (Code::PeerUnreachable, Address::Unix(_)) => {
            "; start an explorer on this machine with `reachback explorer`, or name one: --explorer HOST:PORT"
        }
        // A proxy that said no has said what to do; nobody has asked at the address yet.
        (Code::PeerUnreachable, Address::Tcp { .. }) if reason.contains(": proxy ") => "",
        (Code::PeerUnreachable, Address::Tcp { .. }) => "; is an explorer running, and is that its address?",
        _ => "",
    };
    Failure::coded(code, format_args!("{reason}{remedy}"))
}

/// Why a stream did not come about, in the words of whoever refused it.
pub(crate) fn not_opened(error: OpenError) -> Failure {
    match error {
        OpenError::Refused(refusal) => refusal.into(),
        other => Failure::coded(other.code(), &other),
    }
}

/// Why a call has no result.
pub(crate) fn not_called(error: CallError) -> Failure {
    match (error.code(), error) {
        (_, CallError::Refused(refusal)) => refusal.into(),
        (Some(code), error) => Failure::coded(code, &error),
        // The service's own error has no code of ours.
        (None, error) => Failure::new(Exit::Failed, &error),
    }
}
