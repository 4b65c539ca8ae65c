//! Why somebody is not let in, and the way back.
//!
//! Joining, renewing, coming back with a certificate or a token and being asked again later are refused for the same
//! reasons, so they are decided and said once. Each sentence names the command that helps, and who has to give it.

use reachback_link::tls::utc;
use reachback_wire::{Code, NodeId, Refusal};

use super::{
    store::{Key, Kind, Revoked, State, TokenRow},
    tokens::Claims,
};

/// What is known of this token, if anything; a refusal when it was revoked.
pub(super) fn usable_token<'a>(state: &'a State, claims: &Claims) -> Result<Option<&'a TokenRow>, Refusal> {
    let row = state.tokens.get(&claims.jti);
    let revoked = state.revoked(&Revoked::Token(claims.jti.clone())).or_else(|| {
        // Of one that is on record everything is known; of others, that all of this user's were revoked.
        let of_user = state.revoked(&Revoked::User(claims.sub.clone())).filter(|_| row.is_none())?;
        (claims.iat.saturating_mul(1000) <= of_user).then_some(of_user)
    });
    match revoked {
        None => Ok(row),
        Some(at_ms) => Err(Refusal::new(
            Code::Revoked,
            format!(
                "token \"{}\" was revoked at {}; ask an admin for another: reachback token create --role {}",
                claims.sub,
                utc(at_ms),
                claims.role.name()
            ),
        )),
    }
}

/// A refusal when this name or this key was revoked.
pub(super) fn revoked_identity(state: &State, kind: Kind, name: &NodeId, key: &Key) -> Result<(), Refusal> {
    let of_node = || state.revoked(&Revoked::Node(name.clone())).filter(|_| kind == Kind::Node);
    match (of_node(), state.revoked(&Revoked::Key(*key))) {
        (Some(at_ms), _) => Err(revoked_node(name, at_ms)),
        (None, Some(at_ms)) => Err(Refusal::new(
            Code::Revoked,
            format!("the certificate of {name} was revoked at {}; {}", utc(at_ms), come_back(kind, name)),
        )),
        (None, None) => Ok(()),
    }
}

/// Why a certificate with this name and a key that has not it is refused.
pub(super) fn unknown_key(state: &State, kind: Kind, name: &NodeId) -> Refusal {
    if kind == Kind::Node && state.nodes.contains_key(name) {
        return id_taken(name);
    }
    Refusal::new(
        Code::Unauthenticated,
        format!("this explorer has no record of {name} with this key; {}", come_back(kind, name)),
    )
}

pub(super) fn id_taken(id: &NodeId) -> Refusal {
    Refusal::new(
        Code::IdTaken,
        format!(
            "the id {id} is another machine's, which joined with another key. If that is gone for good, run on the explorer: \
             reachback release {id}; or choose another id here with --id"
        ),
    )
}

pub(super) fn revoked_node(id: &NodeId, at_ms: u64) -> Refusal {
    Refusal::new(
        Code::Revoked,
        format!(
            "node {id} was revoked at {}. To let it in again, an admin runs on the explorer: reachback release {id}, and then \
             reachback token create --role register --node {id} for a new join string",
            utc(at_ms)
        ),
    )
}

/// The remedy for whoever has to begin anew.
pub(super) fn come_back(kind: Kind, name: &NodeId) -> String {
    match kind {
        Kind::Node => {
            format!("to join again, ask an admin for: reachback token create --role register --node {name}")
        }
        Kind::User => {
            format!("to log in again, ask an admin for: reachback token create --role user --name {name}")
        }
    }
}

/// Certificates of others carry no date by which they could be told from those made after the name was revoked.
pub(super) fn foreign_user(state: &State, kind: Kind, name: &NodeId) -> Result<(), Refusal> {
    match state.revoked(&Revoked::User(name.clone())).filter(|_| kind == Kind::User) {
        None => Ok(()),
        Some(at_ms) => Err(Refusal::new(
            Code::Revoked,
            format!(
                "user {name} was revoked at {}; a certificate under another name can be let in with a [[caller]]",
                utc(at_ms)
            ),
        )),
    }
}

pub(super) fn bound_elsewhere(name: &str) -> Refusal {
    Refusal::new(
        Code::Unauthenticated,
        format!(
            "token \"{name}\" was used to log in, so it is good for nothing else; use that login, or ask an admin for another token"
        ),
    )
}
