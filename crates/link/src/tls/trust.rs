//! Whether to believe an explorer.
//!
//! The web's rule, that a name was dialled and the certificate has it, is the wrong one here: an explorer moves, stands
//! behind a balancer, is dialled by address. Ours: the chain ends at an authority that this machine was told, by its
//! certificate or by its pin, and the certificate is one of an explorer, which only that authority can say.

use std::sync::Arc;

use parking_lot::Mutex;
use reachback_wire::{join::Pin, text::sanitize};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{CertificateNames, EXPLORER_NAME, TlsError, TrustClock, clock::utc, names::pin, words};

/// By whom an explorer must be vouched for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerTrust {
    /// Authorities known by the hash of their key: what a join string can carry.
    pub pins: Vec<Pin>,
    /// Authorities known by their certificates.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why an explorer is not believed. Nothing was said to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Nobody vouches for it whom this machine was told to trust.
    #[error(
        "its certificate comes from another authority than the one this machine was told. If the explorer was set up anew, \
         join it again with a new join string; otherwise somebody is in between"
    )]
    Authority,
    /// It has a certificate, but not that of an explorer.
    #[error(
        "it shows a certificate for {names}, not for an explorer: this is another server, or a proxy that looks into TLS. \
         Check the address; an intercepting proxy must let this one through untouched"
    )]
    Name {
        /// For whom, escaped and cut.
        names: String,
    },
    /// Its certificate is from the future.
    #[error(
        "its certificate is valid from {}, and here it is {}; set the clock of this machine", utc(*.from_unix_ms), utc(*.now_unix_ms)
    )]
    NotYetValid {
        /// When it begins.
        from_unix_ms: u64,
        /// What time it is here.
        now_unix_ms: u64,
    },
    /// Its certificate is over.
    #[error(
        "its certificate ended at {}, and here it is {}; renew the explorer's certificate, or set the clock of this machine", utc(*.until_unix_ms), utc(*.now_unix_ms)
    )]
    Expired {
        /// When it ended.
        until_unix_ms: u64,
        /// What time it is here.
        now_unix_ms: u64,
    },
    /// It was to prove that it knows the shared secret, and does not.
    #[error(
        "it does not know the shared secret of this machine. Compare the secret files of both; if they are the same, \
         somebody else answers in its place"
    )]
    Secret,
    /// Its certificate is broken.
    #[error("its certificate can't be used: {0}")]
    Certificate(String),
}

/// A [`ServerTrust`] that has been read, and the clock it is used with.
#[derive(Debug)]
pub(super) struct Trust {
    pins: Vec<Pin>,
    roots: RootCertStore,
    clock: TrustClock,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    pub(super) fn new(trust: &ServerTrust, clock: TrustClock) -> Result<Self, TlsError> {
        if trust.pins.is_empty() && trust.roots.is_empty() {
            return Err(TlsError("no authority is named by which to know the explorer".into()));
        }
        let mut roots = RootCertStore::empty();
        for root in &trust.roots {
            roots
                .add(root.clone())
                .map_err(|error| TlsError(format!("an authority's certificate can't be used: {error}")))?;
        }
        let algorithms = super::provider().signature_verification_algorithms;
        Ok(Self { pins: trust.pins.clone(), roots, clock, algorithms })
    }

    pub(super) fn clock(&self) -> &TrustClock {
        &self.clock
    }

    fn judge(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), (Untrusted, rustls::Error)> {
        let damaged =
            |what: String| (Untrusted::Certificate(what), rustls::Error::from(CertificateError::BadEncoding));
        let names = CertificateNames::of(own).map_err(|error| damaged(error.to_string()))?;
        if !names.dns.iter().any(|name| name.eq_ignore_ascii_case(EXPLORER_NAME)) {
            let names = sanitize(&names.listed(), NAMES_SHOWN);
            return Err((Untrusted::Name { names }, CertificateError::NotValidForName.into()));
        }
        let mut roots = self.roots.clone();
        let pinned = |other: &CertificateDer<'_>| pin(other).is_ok_and(|pin| self.pins.contains(&pin));
        for other in others.iter().filter(|other| pinned(other)) {
            roots.add(other.clone().into_owned()).map_err(|error| damaged(error.to_string()))?;
        }
        let parsed = ParsedCertificate::try_from(own).map_err(|error| damaged(words::of(&error)))?;
        let verified = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            others,
            self.clock.now(),
            self.algorithms.all,
        );
        verified.map_err(|error| match self.reason(&names, &error) {
            // An authority of the same name and another key is another authority; the alert is to say so too.
            Untrusted::Authority => (Untrusted::Authority, CertificateError::UnknownIssuer.into()),
            reason => (reason, error),
        })
    }

    fn reason(&self, names: &CertificateNames, error: &rustls::Error) -> Untrusted {
        use CertificateError as C;
        let now_unix_ms = self.clock.now_unix_ms();
        let rustls::Error::InvalidCertificate(error) = error else {
            return Untrusted::Certificate(words::of(error));
        };
        match error {
            C::UnknownIssuer | C::BadSignature | C::UnsupportedSignatureAlgorithmContext { .. } => {
                Untrusted::Authority
            }
            // Of the chain, not of its own certificate only; that one is what people can look at.
            C::Expired | C::ExpiredContext { .. } => {
                Untrusted::Expired { until_unix_ms: names.not_after_unix_ms, now_unix_ms }
            }
            C::NotValidYet | C::NotValidYetContext { .. } => {
                Untrusted::NotYetValid { from_unix_ms: names.not_before_unix_ms, now_unix_ms }
            }
            error => Untrusted::Certificate(words::of(&rustls::Error::InvalidCertificate(error.clone()))),
        }
    }
}

/// One judgement, and where its reason is kept: rustls passes on no more than a code.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Arc<Trust>,
    pub(super) reason: Arc<Mutex<Option<Untrusted>>>,
}

impl Verifier {
    pub(super) fn new(trust: &Arc<Trust>) -> Self {
        Self { trust: Arc::clone(trust), reason: Arc::default() }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.trust.judge(own, others).map(|()| ServerCertVerified::assertion()).map_err(|(reason, error)| {
            *self.reason.lock() = Some(reason);
            error
        })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, own, signature, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// How much of the names in a stranger's certificate is shown.
const NAMES_SHOWN: usize = 120;
