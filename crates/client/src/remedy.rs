//! What whoever is not let in is told to do, where the explorer has not said it.
//!
//! An explorer of another version, or one in front of which somebody has put another authority, may refuse in its own
//! words. The remedy is a command on the other machine, so it is repeated here, on the screen that somebody looks at.

use reachback_wire::{Code, NodeId, Role};

use crate::state_dir::StateError;

/// A refusal with its remedy: as it is if it names a command of ours.
pub(crate) fn explain(role: Role, id: &NodeId, code: Code, message: &str) -> String {
    if message.contains("reachback ") {
        return message.to_owned();
    }
    let token = token(role, id);
    match code {
        Code::IdTaken => format!(
            "{message}; if this machine is meant to have the id now, on the explorer: reachback release {id}"
        ),
        Code::Revoked if role == Role::Node => format!(
            "{message}; to let it in again, on the explorer: reachback release {id}, and then a join string from: {token}"
        ),
        Code::Revoked | Code::Expired | Code::Unauthenticated => {
            format!("{message}; for a new join string, on the explorer: {token}")
        }
        _ => message.to_owned(),
    }
}

/// That an identity lasts as long as the process.
pub(crate) fn unkept(role: Role, error: &StateError) -> String {
    let kind = if role == Role::Node { "register" } else { "user" };
    format!(
        "the certificate of this machine can't be kept ({error}); it is held in memory and has to be got again after a \
         restart, for which the token must be good for more than one use (reachback token create --role {kind} --uses \
         unlimited)"
    )
}

/// The machine as the beginning of a sentence.
pub(crate) fn whose(role: Role, id: &NodeId) -> String {
    match role {
        Role::Client => "this machine".to_owned(),
        role => format!("{role} \"{id}\""),
    }
}

/// How an operator makes a join string for it.
pub(crate) fn token(role: Role, id: &NodeId) -> String {
    match role {
        Role::Client => "reachback token create --role user --allow 'NODE/SERVICE'".to_owned(),
        _ => format!("reachback token create --role register --node {id}"),
    }
}
