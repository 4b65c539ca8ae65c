//! What the client commands have in common: which explorer to ask, as whom, and what to say when it can't be asked.

use std::sync::Arc;

use reachback_client::{Access, CallError, Client, ClientOptions, Profile, Profiles, Random};
use reachback_link::{Address, Compression, Net, OpenError};
use reachback_wire::{Code, NodeId};

use crate::{
    args::{ClientArguments, CompressArguments},
    config::{dialled::Dialled, entry::Shown, origin::Origins, proxy},
    environment::Environment,
    exit::{Exit, Failure},
    paths,
};

/// The explorer to ask: the one that is named, else that of the profile, else this machine's through its socket. Who
/// asks: whatever the files show that are named, else the profile, if its explorer is the one to ask.
pub(crate) fn explorer(arguments: ClientArguments, environment: &Environment) -> Result<Way, Failure> {
    let ClientArguments { explorer, profile, credentials, proxy } = arguments;
    let proxy = proxy::resolve(proxy.proxy, environment, None, &mut Origins::default())?;
    let shown = Shown::of(credentials)?;
    let insecure = shown.insecure;
    let profile = match (shown.is_anything(), profile) {
        (true, Some(name)) => {
            return Err(Failure::usage(format_args!(
                "profile {name} has its own certificate and knows its explorer; leave it out, or the token, secret or \
                 CA file"
            )));
        }
        (true, None) => None,
        (false, name) => chosen(name, explorer.as_ref(), environment)?,
    };
    let (dialled, others) = match (explorer, &profile) {
        (Some(explorer), _) => (explorer, Vec::new()),
        (None, Some(profile)) => known(profile)?,
        (None, None) => {
            (Address::Unix(paths::explorer_socket(environment, paths::is_root())?).into(), Vec::new())
        }
    };
    let mut again = shown.flags()?;
    let access = match profile {
        // Whoever may use a socket is known by the kernel.
        _ if matches!(dialled.address, Address::Unix(_)) => Access::plain(),
        Some(profile) => {
            again.extend(["--profile".to_owned(), profile.name().to_owned()]);
            profile.access()
        }
        None => match shown.access(std::slice::from_ref(&dialled))? {
            Some(access) => access,
            None => {
                let remedy = "log in with the line its admin has made: reachback login STRING";
                dialled.in_plaintext(insecure, remedy)?;
                Access::plain()
            }
        },
    };
    let compression = Compression::default();
    Ok(Way { address: dialled.address, others, net: proxy::net(proxy), access, shown: again, compression })
}

fn chosen(
    name: Option<String>,
    explorer: Option<&Dialled>,
    environment: &Environment,
) -> Result<Option<Profile>, Failure> {
    let Some(directory) = paths::profiles(environment) else { return Ok(None) };
    let profiles = Profiles::at(directory);
    match name {
        Some(name) => profiles.get(&name).map(Some).map_err(Failure::config),
        None => {
            let current = profiles.current().map_err(Failure::config)?;
            // Another explorer is nobody this profile has ever heard of.
            let knows = |profile: &Profile| {
                explorer.is_none_or(|dialled| profile.explorers().contains(&dialled.address))
            };
            Ok(current.filter(knows))
        }
    }
}

/// Where a profile's explorer is: the first address, and those to try after it.
fn known(profile: &Profile) -> Result<(Dialled, Vec<Address>), Failure> {
    let (first, others) = profile.explorers().split_first().ok_or_else(|| {
        Failure::config(format_args!(
            "profile {} names no explorer; log in again, or name one: --explorer HOST:PORT",
            profile.name()
        ))
    })?;
    Ok((first.clone().into(), others.to_vec()))
}

/// An explorer, the network through which it is dialled, and as whom.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) address: Address,
    /// Where the same explorer is too, if it does not answer there.
    others: Vec<Address>,
    pub(crate) net: Arc<dyn Net>,
    access: Access,
    /// The flags with which another process of this program shows the same.
    shown: Vec<String>,
    compression: Compression,
}

impl Way {
    /// No proxy and nothing to show, whatever the variables say.
    pub(crate) fn direct(address: Address) -> Self {
        let (others, shown) = (Vec::new(), Vec::new());
        let compression = Compression::default();
        Self { address, others, net: proxy::net(None), access: Access::plain(), shown, compression }
    }

    /// The flags that lead another process of this program the same way.
    pub(crate) fn again(&self) -> Vec<String> {
        [&["--explorer".to_owned(), self.address.to_string()][..], &self.shown].concat()
    }

    /// The same way, to the address that answers if there are several: for whoever keeps to one.
    pub(crate) async fn settled(self) -> Result<Self, Failure> {
        match self.others.is_empty() {
            true => Ok(self),
            false => {
                let (client, address) = dial(&self).await?;
                client.close().await;
                Ok(Self { address, others: Vec::new(), ..self })
            }
        }
    }

    /// The same way, compressed where the user wants it and the explorer can.
    pub(crate) fn compressed(mut self, arguments: &CompressArguments) -> Self {
        self.compression.every_open = arguments.compress;
        self
    }

    /// What a session on this way says of itself.
    pub(crate) fn options(&self) -> Result<ClientOptions, Failure> {
        let mut options = ClientOptions::new(own_id()?, Random::system())
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        options.access = self.access.clone();
        options.compression = self.compression;
        Ok(options)
    }
}

/// Where this user's profiles are.
pub(crate) fn profiles(environment: &Environment) -> Result<Profiles, Failure> {
    match paths::profiles(environment) {
        Some(directory) => Ok(Profiles::at(directory)),
        None => Err(Failure::config(
            "neither XDG_CONFIG_HOME nor HOME is set, so there is no place for profiles; set one of them",
        )),
    }
}

/// What the explorer's lists and logs call this client.
pub(crate) fn own_id() -> Result<NodeId, Failure> {
    // It grants nothing; a host whose name is no valid id is no reason to refuse.
    match paths::host_name().parse::<NodeId>() {
        Ok(id) => Ok(id),
        Err(_) => "client".parse().map_err(|error| Failure::new(Exit::Failed, error)),
    }
}

/// A session with that explorer.
pub(crate) async fn connect(way: &Way) -> Result<Client, Failure> {
    dial(way).await.map(|(client, _)| client)
}

/// The same, and the address that answered.
async fn dial(way: &Way) -> Result<(Client, Address), Failure> {
    let options = way.options()?;
    let mut first = None;
    for address in [&way.address].into_iter().chain(&way.others) {
        match Client::connect(way.net.clone(), address, options.clone()).await {
            Ok(client) => return Ok((client, address.clone())),
            Err(error) => {
                let code = error.code();
                let failure = no_explorer(address, code, &error.to_string());
                // Whoever was reached and said no would say it again.
                if !matches!(code, Code::PeerUnreachable | Code::Timeout) {
                    return Err(failure);
                }
                first.get_or_insert(failure);
            }
        }
    }
    Err(first.unwrap_or_else(|| Failure::usage("there is no explorer to dial")))
}

/// The explorer was not reached, or said no.
pub(crate) fn no_explorer(address: &Address, code: Code, reason: &str) -> Failure {
    let remedy = match (code, address) {
        (Code::PeerUnreachable, Address::Unix(_)) => {
            "; start an explorer on this machine with `reachback explorer`, or name one: --explorer HOST:PORT"
        }
        // A proxy that said no has said what to do; nobody has asked at the address yet.
        (Code::PeerUnreachable, Address::Tcp { .. }) if reason.contains(": proxy ") => "",
        // What did not answer at all was asked about already.
        (Code::PeerUnreachable, Address::Tcp { .. }) if reason.ends_with('?') => "",
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
