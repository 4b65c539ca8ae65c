//! What is known of the other end once TLS stands, and what its certificate is worth.
//!
//! TLS lets in whoever proves to hold the key of the certificate it shows, whoever made that. Only then is the
//! certificate judged, once, by authorities that can change while connections stand: a refusal, an expired certificate
//! that may only renew, and a missing one are different answers, and TLS has no words for them.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{CertificateNames, TlsError, clock::unix_time, clock::utc, provider, words};

/// What was agreed to be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// `reachback/1`: our own protocol and nothing else.
    Tunnel,
    /// `http/1.1`, or nothing was named: HTTP or raw JSON, never our own protocol.
    Web,
}

/// The other end of a TLS connection.
#[derive(Clone)]
pub struct TlsPeer {
    /// What is to be spoken.
    pub alpn: Alpn,
    /// 32 bytes that only the two ends of this connection know: what proofs are bound to.
    pub exporter: [u8; 32],
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl TlsPeer {
    /// Judges the certificate that a dialer has shown, by these authorities at this time.
    pub fn certificate(&self, roots: &Roots, now_unix_ms: u64) -> PeerCertificate {
        let Some((own, others)) = self.chain.split_first() else { return PeerCertificate::None };
        let names = match CertificateNames::of(own) {
            Ok(names) => names,
            Err(error) => return PeerCertificate::Refused(error.to_string()),
        };
        match roots.verify(own, others, unix_time(now_unix_ms)) {
            Ok(()) => PeerCertificate::Valid(names),
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                // A forged certificate may claim any time: the chain has to have been good once.
                let then = unix_time(names.not_after_unix_ms.saturating_sub(1000));
                match roots.verify(own, others, then) {
                    Ok(()) => PeerCertificate::Expired(names),
                    Err(error) => PeerCertificate::Refused(reason(&names, &error, now_unix_ms)),
                }
            }
            Err(error) => PeerCertificate::Refused(reason(&names, &error, now_unix_ms)),
        }
    }

    /// The certificate it has shown, unjudged.
    pub fn shown(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }
}

impl fmt::Debug for TlsPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsPeer({:?}, {} certificates)", self.alpn, self.chain.len())
    }
}

/// What a dialer's certificate is worth. Its key was proved in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerCertificate {
    /// It showed none.
    None,
    /// It is good.
    Valid(CertificateNames),
    /// It was good, and its time is over.
    Expired(CertificateNames),
    /// It is worth nothing, and why.
    Refused(String),
}

/// The authorities by which dialers are known.
#[derive(Clone)]
pub struct Roots(Option<Arc<dyn ClientCertVerifier>>);

impl Roots {
    /// Any of these. Without any, every certificate is refused.
    ///
    /// # Errors
    /// One of them can't be read.
    pub fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        if authorities.is_empty() {
            return Ok(Self(None));
        }
        let unusable =
            |error: &dyn fmt::Display| TlsError(format!("an authority's certificate can't be used: {error}"));
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|error| unusable(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        Ok(Self(Some(verifier.build().map_err(|error| unusable(&error))?)))
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match &self.0 {
            Some(verifier) => verifier.verify_client_cert(own, others, now).map(drop),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Roots(..)" } else { "Roots(none)" })
    }
}

fn reason(names: &CertificateNames, error: &rustls::Error, now_unix_ms: u64) -> String {
    use CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(
            C::UnknownIssuer | C::BadSignature | C::UnsupportedSignatureAlgorithmContext { .. },
        ) => "its certificate comes from an authority that this explorer does not know".into(),
        rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => format!(
            "its certificate is valid from {}, and here it is {}",
            utc(names.not_before_unix_ms),
            utc(now_unix_ms)
        ),
        error => format!("its certificate can't be used: {}", words::of(error)),
    }
}
