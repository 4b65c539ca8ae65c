//! Who may come in, and what they may open.
//!
//! Identity is decided once, at the handshake, by an [`Authenticator`]; what it returns, the [`Principal`], is the only
//! thing later decisions look at. Rights are checked by one function, [`authorise`], at every open: a check per
//! session would miss whatever comes after the handshake.

use reachback_link::PeerAddress;
use reachback_wire::{Code, Hello, NodeId, Refusal, Role, open::Open};

/// Decides who a peer is. An embedding program can bring its own.
pub trait Authenticator: Send + Sync + 'static {
    /// Judges a peer by what it said and where it came from. Must not block.
    ///
    /// # Errors
    /// The refusal the peer is sent: what was wrong and what to do.
    fn admit(&self, hello: &Hello, peer: &PeerAddress) -> Result<Principal, Refusal>;

    /// Judges a connection that speaks HTTP or raw JSON, and so says nothing about itself. Must not block. Refuses
    /// unless an implementation says otherwise: whoever brings its own rules must not be passed by.
    ///
    /// # Errors
    /// The refusal the peer is sent.
    fn admit_plain(&self, peer: &PeerAddress) -> Result<Principal, Refusal> {
        Err(Refusal::new(
            Code::Unauthenticated,
            format!(
                "{peer}: this explorer takes no HTTP or raw JSON from callers it can't identify; use: reachback call"
            ),
        ))
    }
}

/// Who a peer turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// As what it came.
    pub role: Role,
    /// Its node id, or what a client calls itself.
    pub id: NodeId,
}

/// Believes what peers say: for loopback, Unix sockets and links that are trusted by other means.
#[derive(Debug, Clone, Copy, Default)]
pub struct Development;

impl Authenticator for Development {
    fn admit(&self, hello: &Hello, _peer: &PeerAddress) -> Result<Principal, Refusal> {
        if hello.role == Role::Explorer {
            return Err(Refusal::new(
                Code::Denied,
                "this version has no cluster: an explorer can't connect to another one; connect as a node or a client",
            ));
        }
        Ok(Principal { role: hello.role, id: hello.id.clone() })
    }

    fn admit_plain(&self, _peer: &PeerAddress) -> Result<Principal, Refusal> {
        let id = NodeId::parse("visitor").expect("a constant that is a name");
        Ok(Principal { role: Role::Client, id })
    }
}

/// Whether this principal may open this substream. The one place where that is decided.
///
/// # Errors
/// The refusal for the opener.
pub fn authorise(principal: &Principal, open: &Open) -> Result<(), Refusal> {
    if open.hop > 0 && principal.role != Role::Explorer {
        return Err(Refusal::new(
            Code::NotHere,
            format!("hop is {}, but only an explorer may pass on what others opened; send 0", open.hop),
        ));
    }
    match principal.role {
        // A node is a caller like any other: its own services use those of other nodes over its line.
        Role::Client | Role::Node => Ok(()),
        Role::Explorer => Err(Refusal::new(Code::Denied, "this version has no cluster")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(role: Role) -> Principal {
        Principal { role, id: "edge-7".parse().unwrap() }
    }

    #[test]
    fn rights_table() {
        for (role, hop, expected) in [
            (Role::Client, 0, None),
            (Role::Client, 1, Some(Code::NotHere)),
            (Role::Node, 0, None),
            (Role::Node, 1, Some(Code::NotHere)),
            (Role::Explorer, 0, Some(Code::Denied)),
        ] {
            let mut open = Open::stream("edge-7/rpc".parse().unwrap());
            open.hop = hop;
            let outcome = authorise(&principal(role), &open);
            assert_eq!(outcome.err().map(|refusal| refusal.code), expected, "{role:?} hop {hop}");
        }
    }
}
