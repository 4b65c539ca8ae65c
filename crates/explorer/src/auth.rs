//! Who a peer is: the question, asked once per connection or request, and the ways to answer it.
//!
//! Identity is decided by an [`Authenticator`] when a handshake or a request arrives, by what was shown and where it was
//! shown; what it returns, the [`Principal`], is the only thing later decisions look at. Ours, which knows the modes of
//! listeners, is in `judge.rs`; an embedding program can bring its own. What a principal may do is `access.rs`.

use std::sync::Arc;

use futures::future::BoxFuture;
use reachback_link::{PeerAddress, tls::TlsPeer};
use reachback_wire::{Code, Enrolled, Hello, NodeId, Refusal, Role, Secret};

pub use crate::security::Principal;

use crate::modes::Mode;

/// Decides who a peer is. An embedding program can bring its own.
pub trait Authenticator: Send + Sync + 'static {
    /// Judges a peer by what it said and where it came in. Must not block.
    ///
    /// # Errors
    /// The refusal the peer is sent: what was wrong and what to do.
    fn admit(&self, hello: &Hello, visit: &Visit) -> Result<Verdict, Refusal>;

    /// Judges a request over HTTP, by its bearer token if there is one, or a connection that speaks raw JSON and so
    /// says nothing about itself. Must not block. Refuses unless an implementation says otherwise: whoever brings its
    /// own rules must not be passed by.
    ///
    /// # Errors
    /// The refusal the peer is sent.
    fn admit_plain(&self, visit: &Visit, bearer: Option<&Secret>) -> Result<Principal, Refusal> {
        let _ = bearer;
        Err(Refusal::new(
            Code::Unauthenticated,
            format!(
                "{}: this explorer takes no HTTP or raw JSON from callers it can't identify; use: reachback call",
                visit.peer
            ),
        ))
    }
}

/// Where and how somebody came in: everything that is known before a word was said.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Who connected.
    pub peer: PeerAddress,
    /// What the listener asks. That of the Unix socket is [`Mode::Development`].
    pub mode: Mode,
    /// What TLS says of the peer, if it came over TLS.
    pub tls: Option<Arc<TlsPeer>>,
}

/// What is to be done with a peer at the door.
pub enum Verdict {
    /// It is let in.
    Admit(Principal),
    /// It is let in if it proves that it knows this secret.
    Prove {
        /// What it must know.
        secret: Arc<Secret>,
        /// Who it is then.
        then: Principal,
    },
    /// It gets the certificate that this makes, and is to dial again with it.
    Enrol(BoxFuture<'static, Result<Enrolled, Refusal>>),
}

impl From<Principal> for Verdict {
    fn from(who: Principal) -> Self {
        Self::Admit(who)
    }
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Admit(who) => f.debug_tuple("Admit").field(who).finish(),
            Self::Prove { then, .. } => f.debug_struct("Prove").field("then", then).finish_non_exhaustive(),
            Self::Enrol(_) => f.write_str("Enrol(..)"),
        }
    }
}

/// Believes what peers say, wherever they come in: for tests and for links that are trusted by other means.
#[derive(Debug, Clone, Copy, Default)]
pub struct Development;

impl Authenticator for Development {
    fn admit(&self, hello: &Hello, _visit: &Visit) -> Result<Verdict, Refusal> {
        no_cluster(hello.role)?;
        Ok(Principal::believed(hello.role, hello.id.clone()).into())
    }

    fn admit_plain(&self, _visit: &Visit, _bearer: Option<&Secret>) -> Result<Principal, Refusal> {
        Ok(Principal::believed(Role::Client, visitor()))
    }
}

/// Whoever comes without a name of its own.
pub(crate) fn visitor() -> NodeId {
    NodeId::parse("visitor").expect("a constant that is a name")
}

/// Other explorers are for a later version.
pub(crate) fn no_cluster(role: Role) -> Result<(), Refusal> {
    match role {
        Role::Node | Role::Client => Ok(()),
        Role::Explorer => Err(Refusal::new(
            Code::Denied,
            "this version has no cluster: an explorer can't connect to another one; connect as a node or a client",
        )),
    }
}
