//! Whom a certificate of ours is for.
//!
//! The name stands in a URI with its role, `reachback:node/edge-7` or `reachback:user/ann`, because a bare common name
//! says nothing about what it is the name of: elsewhere a user called like a node became that node. A certificate with two of
//! them is nobody's.

use std::fmt;

use reachback_link::tls::CertificateNames;
use reachback_wire::{Code, NodeId, Refusal, text::sanitize};

use crate::limits;

const SCHEME: &str = "reachback:";

/// Somebody with a certificate of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Node(NodeId),
    User(NodeId),
    Explorer(NodeId),
}

impl Subject {
    /// The name, without the role.
    pub(crate) fn name(&self) -> &NodeId {
        match self {
            Self::Node(name) | Self::User(name) | Self::Explorer(name) => name,
        }
    }

    /// Reads it from a certificate; `None` when that is none of ours.
    pub(crate) fn of(names: &CertificateNames) -> Result<Option<Self>, Refusal> {
        let mut ours = names.uris.iter().filter(|uri| uri.starts_with(SCHEME));
        let Some(uri) = ours.next() else { return Ok(None) };
        if ours.next().is_some() {
            return Err(Refusal::new(
                Code::Unauthenticated,
                "this certificate has more than one reachback: name, so it is nobody's; use one with a single name",
            ));
        }
        let read = || {
            let (role, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
            let name = NodeId::parse(name).ok().filter(|parsed| *parsed == name)?;
            match role {
                "node" => Some(Self::Node(name)),
                "user" => Some(Self::User(name)),
                "explorer" => Some(Self::Explorer(name)),
                _ => None,
            }
        };
        read().map(Some).ok_or_else(|| {
            Refusal::new(
                Code::Unauthenticated,
                format!(
                    "this certificate is for \"{}\", which is no name that this version knows",
                    sanitize(uri, limits::TEXT)
                ),
            )
        })
    }
}

impl fmt::Display for Subject {
    /// As it stands in certificates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self {
            Self::Node(_) => "node",
            Self::User(_) => "user",
            Self::Explorer(_) => "explorer",
        };
        write!(f, "{SCHEME}{role}/{}", self.name())
    }
}
