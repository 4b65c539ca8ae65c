//! How a dialer comes in: what it shows, and whom it believes.
//!
//! Every session of every role begins here, so that there is one place that decides what is sent to whom. It refuses one
//! thing by itself: a token over a connection that others can read.

use std::{net::IpAddr, sync::Arc};

use parking_lot::RwLock;
use reachback_link::{
    Address, DialError, DialSecurity, Established, Net,
    tls::{self, DialTls, ServerTrust, TlsError, TrustClock},
};
use reachback_wire::{Code, Credential, NodeId, Secret, Welcome};

use crate::{
    enrolment::EnrolmentError,
    identity::{Identity, RandomError},
    membership::{Membership, Papers},
    plan::Step,
};

/// A way in. Clones are the same one.
#[derive(Clone, Default)]
pub struct Access(Arc<RwLock<Way>>);

#[derive(Clone, Default)]
enum Way {
    #[default]
    Plain,
    Fixed(Arc<Fixed>),
    Member(Membership),
}

struct Fixed {
    security: DialSecurity,
    credential: Option<Credential>,
    clock: TrustClock,
}

/// One try to get a session.
pub(crate) struct Attempt<'a> {
    pub(crate) net: &'a dyn Net,
    pub(crate) to: &'a Address,
    pub(crate) identity: &'a Identity,
    pub(crate) slot: u32,
    pub(crate) seq: u64,
    /// What this end can do beyond the version.
    pub(crate) features: Vec<String>,
}

/// Why nothing could be shown to an explorer.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The connection would give it away.
    #[error(
        "a token is not sent to {0} in plaintext, where everybody on the way could read it: give the explorer's authority \
         (--ca-file), or use a join string instead"
    )]
    Exposed(Address),
    /// There is neither an identity nor a join string.
    #[error("\"{0}\" has neither an identity nor a join string")]
    NoIdentity(NodeId),
    /// Certificate or key make no sense.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The explorer's answer to a request for a certificate makes no sense.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
}

/// Why an attempt gave no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComeInError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Random(#[from] RandomError),
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Access {
    /// In plaintext, with nothing to show: for the local socket, and for explorers in development mode.
    pub fn plain() -> Self {
        Self::default()
    }

    /// With a token. Without anybody to trust the connection is plaintext, and then only addresses of this machine are
    /// told the token.
    ///
    /// # Errors
    /// The trust makes no sense.
    pub fn token(token: Secret, trust: Option<&ServerTrust>) -> Result<Self, AccessError> {
        Self::fixed(trust, None, Some(Credential::Token { token }))
    }

    /// With a secret that the explorer has too, which never crosses the link.
    ///
    /// # Errors
    /// The trust makes no sense.
    pub fn secret(secret: Secret, trust: Option<&ServerTrust>) -> Result<Self, AccessError> {
        Self::fixed(trust, None, Some(Credential::Secret { key: Some(secret) }))
    }

    /// With a certificate of an authority that the operator brings.
    ///
    /// # Errors
    /// Certificate, key or trust make no sense.
    pub fn certificate(identity: &tls::Identity, trust: &ServerTrust) -> Result<Self, AccessError> {
        Self::fixed(Some(trust), Some(identity), None)
    }

    /// With a certificate that was got by enrolling, or is to be.
    pub fn member(membership: Membership) -> Self {
        Self::by(Way::Member(membership))
    }

    /// The membership, if that is the way in.
    pub fn membership(&self) -> Option<Membership> {
        match self.way() {
            Way::Member(membership) => Some(membership),
            Way::Plain | Way::Fixed(_) => None,
        }
    }

    /// From the next dial on this way in is as `other` is now: its files have been read again. Who is in stays in.
    pub fn replace(&self, other: &Self) {
        let way = other.way();
        *self.0.write() = way;
    }

    /// What time it is for this way in: what is believed of certificates, and the best there is for dates.
    pub fn clock(&self) -> TrustClock {
        match self.way() {
            Way::Plain => TrustClock::system(),
            Way::Fixed(fixed) => fixed.clock.clone(),
            Way::Member(membership) => membership.clock().clone(),
        }
    }

    /// Dials once and comes in; enrols before it where that is needed.
    pub(crate) async fn come_in(&self, attempt: Attempt<'_>) -> Result<Established, ComeInError> {
        let Attempt { net, to, identity, slot, seq, .. } = attempt;
        let (security, credential) = match self.way() {
            Way::Plain => (DialSecurity::Plain, None),
            Way::Fixed(fixed) => (fixed.security.clone(), fixed.credential.clone()),
            Way::Member(membership) => {
                let mut papers = membership.papers().await?;
                if papers.step != Step::Session {
                    enrol(&membership, papers, &attempt).await?;
                    papers = membership.session_papers()?;
                }
                (papers.security, papers.credential)
            }
        };
        if matches!(
            (&credential, &security),
            (Some(Credential::Token { .. }), DialSecurity::Plain) if !is_this_machine(to)
        ) {
            return Err(AccessError::Exposed(to.clone()).into());
        }
        let mut hello = identity.hello(slot, seq, credential)?;
        hello.features = attempt.features;
        match reachback_link::dial(net, to, &hello, &security).await {
            Ok(established) => {
                self.welcomed(&established.welcome).await;
                Ok(established)
            }
            Err(error) => {
                if let Way::Member(membership) = self.way() {
                    membership.failed(Step::Session, &error);
                }
                Err(error.into())
            }
        }
    }

    /// What a refusal means here, with what to do about it.
    pub(crate) fn explain(&self, code: Code, message: String) -> String {
        match self.way() {
            Way::Member(membership) => membership.explain(code, &message),
            Way::Plain | Way::Fixed(_) => message,
        }
    }

    async fn welcomed(&self, welcome: &Welcome) {
        match self.way() {
            Way::Plain | Way::Fixed(_) => {}
            Way::Member(membership) => membership.welcomed(welcome).await,
        }
    }

    fn fixed(
        trust: Option<&ServerTrust>,
        identity: Option<&tls::Identity>,
        credential: Option<Credential>,
    ) -> Result<Self, AccessError> {
        let clock = TrustClock::system();
        let security = match trust {
            Some(trust) => DialSecurity::Tls(Arc::new(DialTls::new(trust, identity, clock.clone())?)),
            None => DialSecurity::Plain,
        };
        Ok(Self::by(Way::Fixed(Arc::new(Fixed { security, credential, clock }))))
    }

    fn by(way: Way) -> Self {
        Self(Arc::new(RwLock::new(way)))
    }

    fn way(&self) -> Way {
        self.0.read().clone()
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.way() {
            Way::Plain => "Access(plain)",
            Way::Fixed(_) => "Access(..)",
            Way::Member(_) => "Access(member)",
        })
    }
}

/// Exchanges what `papers` shows for a certificate.
///
/// # Errors
/// There is none, and without one there is no session either.
pub(crate) async fn enrol(
    membership: &Membership,
    papers: Papers,
    attempt: &Attempt<'_>,
) -> Result<(), ComeInError> {
    let Attempt { net, to, identity, slot, seq, .. } = *attempt;
    let hello = identity.hello(slot, seq, papers.credential.clone())?;
    match reachback_link::enrol(net, to, &hello, &papers.security).await {
        Ok(enrolled) => Ok(membership.enrolled(papers, &enrolled).await?),
        Err(error) if membership.failed(papers.step, &error) => {
            tracing::warn!(%error, "the certificate was not renewed early; it is good for a while yet");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether nobody else is on the way to it.
fn is_this_machine(to: &Address) -> bool {
    match to {
        Address::Unix(_) => true,
        Address::Tcp { host, .. } => {
            host == "localhost"
                || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
        }
    }
}

impl ComeInError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Dial(error) => error.code(),
            Self::Access(AccessError::Exposed(_)) => Code::TlsRequired,
            Self::Access(AccessError::NoIdentity(_)) => Code::Unauthenticated,
            Self::Access(AccessError::Tls(_) | AccessError::Enrolment(_)) => Code::HandshakeFailed,
            Self::Random(_) => Code::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_told_a_token_in_plaintext() {
        for (address, expected) in [
            ("localhost:9002", true),
            ("127.0.0.1:9002", true),
            ("127.9.9.9:9002", true),
            ("[::1]:9002", true),
            ("[::ffff:127.0.0.1]:9002", true),
            ("unix:///run/x.sock", true),
            ("hub:9002", false),
            ("10.0.0.7:9002", false),
            ("localhost.evil.example:9002", false),
            ("0.0.0.0:9002", false),
        ] {
            assert_eq!(is_this_machine(&address.parse().unwrap()), expected, "{address}");
        }
    }
}
