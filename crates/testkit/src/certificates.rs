//! Authorities and certificates as tests want them: good ones, and every kind of wrong one.

use std::{ops::Range, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use reachback_link::tls::{
    CertificateDer, EXPLORER_NAME, Identity, PrivateKey, ServerTrust, TrustClock, certificates_to_pem,
};

/// An hour, in seconds.
pub const HOUR: i64 = 3600;

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate is to say.
#[derive(Debug, Clone, Default)]
pub struct Leaf {
    /// Common names; real ones have one.
    pub cn: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// From when to when, in seconds from now; an hour before and after if nothing is said.
    pub valid: Option<Range<i64>>,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, then its authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKey,
}

impl Authority {
    /// A new one with a new key, valid for twenty years before and after now.
    pub fn new(name: &str) -> Self {
        Self::valid_for(name, -20 * YEAR..20 * YEAR)
    }

    /// A new one that is valid for this time, in seconds from now. Those who trust an authority don't look at that.
    pub fn valid_for(name: &str, valid: Range<i64>) -> Self {
        let mut params = params(&[name.to_owned()], valid);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("random bytes");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate can be made") }
    }

    /// Its own certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Its own certificate as a file.
    pub fn pem(&self) -> String {
        certificates_to_pem(&[self.certificate()])
    }

    /// Believe explorers of this authority, known by its certificate.
    pub fn trusted(&self) -> ServerTrust {
        ServerTrust { pins: Vec::new(), roots: vec![self.certificate()] }
    }

    /// Believe explorers of this authority, known by its pin.
    pub fn pinned(&self) -> ServerTrust {
        let pin = reachback_link::tls::pin(&self.certificate()).expect("its own certificate");
        ServerTrust { pins: vec![pin], roots: Vec::new() }
    }

    /// A certificate for a new key.
    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().expect("random bytes");
        let certificate = leaf.params().signed_by(&key, &self.issuer).expect("a certificate can be made");
        Issued {
            chain: vec![certificate.der().clone(), self.certificate()],
            key: PrivateKey::from_pkcs8(key.serialize_der()),
        }
    }

    /// A certificate for whoever made a request, saying what `leaf` says and nothing of what was asked for; then the
    /// authority's.
    pub fn sign(&self, csr: &[u8], leaf: &Leaf) -> Vec<CertificateDer<'static>> {
        let mut request = CertificateSigningRequestParams::from_der(&csr.into()).expect("a request");
        request.params = leaf.params();
        let certificate = request.signed_by(&self.issuer).expect("a certificate can be made");
        vec![certificate.der().clone(), self.certificate()]
    }
}

impl Leaf {
    /// A certificate of an explorer.
    pub fn explorer() -> Self {
        Self { cn: vec!["hub-1".into()], dns: vec![EXPLORER_NAME.into()], ..Self::default() }
    }

    /// A certificate of a node, as our own authority makes it.
    pub fn node(id: &str) -> Self {
        let uris = vec![format!("reachback:node/{id}")];
        Self { cn: vec![id.into()], dns: vec![id.into()], uris, ..Self::default() }
    }

    /// The same for another time, in seconds from now.
    #[must_use]
    pub fn valid(mut self, valid: Range<i64>) -> Self {
        self.valid = Some(valid);
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = params(&self.cn, self.valid.clone().unwrap_or(-HOUR..HOUR));
        let text = |text: &String| text.as_str().try_into().expect("names in tests are ASCII");
        params.subject_alt_names = self.dns.iter().map(|name| SanType::DnsName(text(name))).collect();
        params.subject_alt_names.extend(self.uris.iter().map(|uri| SanType::URI(text(uri))));
        params
    }
}

impl Issued {
    /// For whoever is to be it.
    pub fn identity(&self) -> Identity {
        Identity::new(self.chain.clone(), &self.key).expect("certificate and key belong together")
    }
}

fn params(common_names: &[String], valid: Range<i64>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (place, name) in common_names.iter().enumerate() {
        // The crate keeps one name of a type; the same type by its number (2.5.4.3) is another to it.
        let kind = if place == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
        params.distinguished_name.push(kind, name.as_str());
    }
    let now = TrustClock::system().now_unix_ms() / 1000;
    let at =
        |seconds: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_add_signed(seconds));
    (params.not_before, params.not_after) = (at(valid.start), at(valid.end));
    params
}

const YEAR: i64 = 365 * 24 * HOUR;
