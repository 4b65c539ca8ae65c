//! A key and the certificates for it.
//!
//! Keys are written and read here only, so that there is one type that hides them and overwrites them when they go, and
//! one sentence for each way in which files can be wrong.

use std::{fmt, sync::Arc};

use rustls::{
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
        pem::{PemObject, SectionKind},
    },
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use super::provider;

/// What is wrong with a key or a certificate that this machine is to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub(super) String);

/// A private key. Overwritten when dropped, never shown.
#[derive(Clone)]
pub struct PrivateKey {
    form: Form,
    der: Zeroizing<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Pkcs8,
    /// What `openssl ecparam -genkey` writes.
    Sec1,
    /// What `openssl genrsa -traditional` writes.
    Pkcs1,
}

impl PrivateKey {
    /// A key as PKCS#8, DER.
    pub fn from_pkcs8(der: impl Into<Vec<u8>>) -> Self {
        Self { form: Form::Pkcs8, der: Zeroizing::new(der.into()) }
    }

    /// The first private key in a PEM file. Anything else in it is passed over.
    ///
    /// # Errors
    /// There is none, or it is locked with a passphrase.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        for section in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|error| TlsError(format!("this is no PEM file: {error:?}")))?;
            let der = Zeroizing::new(der);
            let form = match kind {
                SectionKind::PrivateKey => Form::Pkcs8,
                SectionKind::EcPrivateKey => Form::Sec1,
                SectionKind::RsaPrivateKey => Form::Pkcs1,
                _ => continue,
            };
            return Ok(Self { form, der });
        }
        let locked = pem.windows(LOCKED.len()).any(|part| part == LOCKED);
        Err(TlsError(match locked {
            true => {
                "the key is locked with a passphrase; unlock it once: openssl pkey -in FILE -out FILE".into()
            }
            false => "there is no private key in it (a section that begins with BEGIN PRIVATE KEY)".into(),
        }))
    }

    /// The key itself, DER, in the form it came in: for the one place that signs with it or stores it.
    pub fn expose_der(&self) -> &[u8] {
        &self.der
    }

    /// As a PEM file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let label = match self.form {
            Form::Pkcs8 => "PRIVATE KEY",
            Form::Sec1 => "EC PRIVATE KEY",
            Form::Pkcs1 => "RSA PRIVATE KEY",
        };
        Zeroizing::new(to_pem(label, &self.der))
    }

    fn as_rustls(&self) -> PrivateKeyDer<'_> {
        match self.form {
            Form::Pkcs8 => PrivatePkcs8KeyDer::from(self.der.as_slice()).into(),
            Form::Sec1 => PrivateSec1KeyDer::from(self.der.as_slice()).into(),
            Form::Pkcs1 => PrivatePkcs1KeyDer::from(self.der.as_slice()).into(),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Who this end is: a key and a chain of certificates for it.
#[derive(Debug, Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// A key with its certificate and those between that and a root, its own first. An explorer puts the root behind
    /// them too: dialers that know only its pin have to see it.
    ///
    /// # Errors
    /// The chain is empty, can't be read, or its first certificate is for another key; or the key is of a kind that is
    /// not used here.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, TlsError> {
        let signing = provider().key_provider.load_private_key(key.as_rustls().clone_key()).map_err(|_| {
            TlsError("the private key is of a kind that is not used here; make one with P-256, P-384 or Ed25519, \
                      or with RSA of 2,048 bits or more"
                .into())
        })?;
        if chain.is_empty() {
            return Err(TlsError("there is no certificate".into()));
        }
        let certified = CertifiedKey::new(chain.clone(), signing);
        match certified.keys_match() {
            // Some keys can't tell their public half; then the first handshake tells.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(TlsError(
                    "the certificate is for another key; its file must begin with the certificate of this key".into(),
                ));
            }
            Err(_) => return Err(TlsError("the certificate can't be read".into())),
        }
        Ok(Self { chain, certified: Arc::new(certified) })
    }

    /// From the contents of two PEM files, as openssl writes them.
    ///
    /// # Errors
    /// As [`new`](Self::new), [`certificates_from_pem`] and [`PrivateKey::from_pem`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::new(certificates_from_pem(chain)?, &PrivateKey::from_pem(key)?)
    }

    /// Its certificates, its own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// A key and a request for a certificate for it. The key stays here; the request may travel.
#[derive(Debug)]
pub struct KeyAndCsr {
    key: PrivateKey,
    csr: Vec<u8>,
}

impl KeyAndCsr {
    /// A new key (Ed25519), and a request that names `name`. What the certificate will say is for the authority to
    /// decide.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn generate(name: &str) -> Result<Self, TlsError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .map_err(|error| TlsError(format!("a key can't be made: {error}")))?;
        Self::with(name, &key, PrivateKey::from_pkcs8(key.serialize_der()))
    }

    /// A request for a key that is there already: a certificate is renewed for the same one.
    ///
    /// # Errors
    /// The key is of a kind that no request can be made for.
    pub fn with_key(name: &str, key: PrivateKey) -> Result<Self, TlsError> {
        let pair = rcgen::KeyPair::try_from(&key.as_rustls())
            .map_err(|error| TlsError(format!("no request can be made for this key: {error}")))?;
        Self::with(name, &pair, key)
    }

    /// The key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The request: PKCS#10, DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    fn with(name: &str, pair: &rcgen::KeyPair, key: PrivateKey) -> Result<Self, TlsError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let csr = params
            .serialize_request(pair)
            .map_err(|error| TlsError(format!("a certificate request can't be made: {error}")))?;
        Ok(Self { key, csr: csr.der().to_vec() })
    }
}

/// Every certificate in a PEM file, in its order. Anything else in it is passed over.
///
/// # Errors
/// There is none, or the file is damaged.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError(format!("this is no PEM file: {error:?}")))?;
    if certificates.is_empty() {
        return Err(TlsError(
            "there is no certificate in it (a section that begins with BEGIN CERTIFICATE)".into(),
        ));
    }
    Ok(certificates)
}

/// Certificates as a PEM file, in this order.
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| to_pem("CERTIFICATE", certificate)).collect()
}

/// What a key that is locked with a passphrase begins with, in both forms openssl knows.
const LOCKED: &[u8] = b"ENCRYPTED";

/// Base64 in lines of 64 between the two marks (RFC 7468).
fn to_pem(label: &str, der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let bits =
                three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            for place in 0..4 {
                let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
                pem.push(if place <= three.len() { char::from(letter) } else { '=' });
            }
        }
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
