//! Join strings: everything a machine or a person needs to come in for the first time, in one line.
//!
//! The token and the pin are the security core's; where this explorer is, is known here. Nobody but its operator can know
//! under which address others reach it, so without one it is guessed from what it listens on, and said to be a guess.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reachback_link::{LocalAddress, outward_address};
use reachback_wire::{
    Code, Refusal, Secret,
    rights::{NamePattern, Rights},
};
use tokio::task::spawn_blocking;

use crate::{
    config::ExplorerConfig,
    explorer::Addresses,
    hub::Hub,
    security::{Actor, CreatedToken, TokenRequest, TokenRole, Uses},
};

/// A join string, and what has to be said with it.
#[derive(Debug, Clone)]
pub struct JoinLine {
    /// The string itself: whoever has it can come in.
    pub string: Secret,
    /// Where it says that this explorer is.
    pub addresses: Vec<String>,
    /// Nobody has said where it is: the addresses are a guess.
    pub guessed: bool,
    /// How long it is valid.
    pub ttl: Duration,
}

/// Where this explorer can be reached, as others are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    pub(crate) addresses: Vec<String>,
    pub(crate) guessed: bool,
}

/// What its operator says; without that, what its listeners with TLS look like from here.
pub(crate) fn whereabouts(config: &ExplorerConfig, addresses: &Addresses) -> Whereabouts {
    if !config.advertise.is_empty() {
        let addresses = config.advertise.iter().map(ToString::to_string).collect();
        return Whereabouts { addresses, guessed: false };
    }
    let modes = config.modes();
    let encrypted = modes.iter().zip(&addresses.listen).filter(|(has, _)| has.mode.is_encrypted());
    let mut whereabouts = Whereabouts { addresses: Vec::new(), guessed: false };
    for bound in encrypted.filter_map(|(_, local)| LocalAddress::socket_addr(local)) {
        let ip = if bound.ip().is_unspecified() {
            whereabouts.guessed = true;
            outward_address().unwrap_or(Ipv4Addr::LOCALHOST.into())
        } else {
            bound.ip()
        };
        whereabouts.addresses.push(SocketAddr::new(ip, bound.port()).to_string());
    }
    whereabouts
}

/// A token for one node, of whatever name.
pub(crate) fn one_node(ttl: Duration) -> TokenRequest {
    TokenRequest {
        role: TokenRole::Register,
        name: None,
        node: Some(NamePattern::any()),
        allow: Rights::default(),
        ttl,
        uses: Some(Uses::Limited(1)),
        ephemeral: false,
    }
}

/// Makes a token and the join string for it. `by` is who wanted it.
///
/// # Errors
/// There are no tokens here, or this one can't be made or kept.
pub(crate) async fn create(
    hub: &Arc<Hub>,
    request: TokenRequest,
    by: Actor,
) -> Result<(JoinLine, CreatedToken), Refusal> {
    let Some(keys) = &hub.keys else { return Err(no_tokens()) };
    let (security, ttl) = (keys.security.clone(), request.ttl);
    let Whereabouts { addresses, guessed } = hub.whereabouts.get().cloned().unwrap_or_else(nowhere);
    let to = addresses.clone();
    let making = spawn_blocking(move || {
        let made = security.create_token(&request, &by)?;
        Ok((security.join_string(to, &made.token)?.expose(), made))
    });
    let made = making
        .await
        .unwrap_or_else(|error| Err(Refusal::new(Code::Internal, format!("making a token failed: {error}"))));
    made.map(|(string, made)| (JoinLine { string, addresses, guessed, ttl }, made))
}

/// The refusal where nothing needs a token.
pub(crate) fn no_tokens() -> Refusal {
    Refusal::new(
        Code::Denied,
        "this explorer has no listener with TLS, so there are neither certificates nor tokens; give it one that other \
         machines can reach, as in: reachback explorer --listen :9002",
    )
}

fn nowhere() -> Whereabouts {
    Whereabouts { addresses: Vec::new(), guessed: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(config: &ExplorerConfig, bound: &[&str]) -> Whereabouts {
        let listen = bound.iter().map(|bound| LocalAddress::Tcp(bound.parse().unwrap())).collect();
        whereabouts(config, &Addresses { listen, ..Addresses::default() })
    }

    #[test]
    fn what_the_operator_says_holds_and_anything_else_that_is_not_certain_is_a_guess() {
        let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
        config.listen = vec!["127.0.0.1:0".parse().unwrap(), "10.0.0.7:0".parse().unwrap()];
        let certain = at(&config, &["127.0.0.1:4711", "10.0.0.7:4712"]);
        assert_eq!(certain, Whereabouts { addresses: vec!["10.0.0.7:4712".into()], guessed: false });

        config.listen.push(":0".parse().unwrap());
        let guess = at(&config, &["127.0.0.1:4711", "10.0.0.7:4712", "[::]:4713"]);
        assert!(guess.guessed && guess.addresses.len() == 2, "{guess:?}");
        assert!(
            guess.addresses[1].ends_with(":4713") && !guess.addresses[1].starts_with("[::]"),
            "{guess:?}"
        );

        config.advertise = vec!["hub.example.com:9002".parse().unwrap()];
        let said = at(&config, &["127.0.0.1:4711", "10.0.0.7:4712", "[::]:4713"]);
        assert_eq!(said, Whereabouts { addresses: vec!["hub.example.com:9002".into()], guessed: false });
    }
}
