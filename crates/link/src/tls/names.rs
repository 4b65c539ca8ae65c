//! What a certificate says of its holder.
//!
//! Reading is not believing: these are the words of whoever made the certificate, to be used only once its chain has been
//! verified. A subject with two common names names nobody, because two readers could choose different ones.

use reachback_wire::join::Pin;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{GeneralName, parse_x509_certificate};

use super::TlsError;

/// The DNS name in every explorer's own certificate, whatever its address.
pub const EXPLORER_NAME: &str = "explorer.reachback";

/// The names in a certificate, and what else identifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// The common name of the subject, if there is exactly one.
    pub cn: Option<String>,
    /// The DNS names among its alternative names, as written.
    pub dns: Vec<String>,
    /// The URIs among them.
    pub uris: Vec<String>,
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`, DER): the same for every certificate of one key.
    pub spki: [u8; 32],
    /// Its number at its authority, as hex.
    pub serial: String,
    /// Valid from: milliseconds since 1970.
    pub not_before_unix_ms: u64,
    /// Valid until.
    pub not_after_unix_ms: u64,
}

impl CertificateNames {
    /// Reads a certificate.
    ///
    /// # Errors
    /// It is none, or not of version 3.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let unreadable = |what: &str| TlsError(format!("the certificate can't be read: {what}"));
        let (rest, read) =
            parse_x509_certificate(certificate).map_err(|_| unreadable("it is no X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(unreadable("there is something behind it"));
        }
        let mut common_names = read.subject().iter_common_name();
        let cn = match (common_names.next(), common_names.next()) {
            (Some(only), None) => only.as_str().ok().map(ToOwned::to_owned),
            _ => None,
        };
        let mut names = Self {
            cn,
            dns: Vec::new(),
            uris: Vec::new(),
            spki: sha256(read.public_key().raw),
            serial: read.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before_unix_ms: unix_ms(read.validity().not_before.timestamp()),
            not_after_unix_ms: unix_ms(read.validity().not_after.timestamp()),
        };
        let alternative =
            read.subject_alternative_name().map_err(|_| unreadable("its alternative names are damaged"))?;
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                _ => {}
            }
        }
        Ok(names)
    }

    /// Its names as a list for people; what peers chose is in it.
    pub(super) fn listed(&self) -> String {
        let mut all: Vec<&str> = self.dns.iter().chain(&self.uris).map(String::as_str).collect();
        if let Some(cn) = self.cn.as_deref().filter(|cn| !all.contains(cn)) {
            all.push(cn);
        }
        if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
    }
}

/// What an authority is known by where its certificate is not at hand: SHA-256 of its public key.
///
/// # Errors
/// It is no certificate.
pub fn pin(authority: &CertificateDer<'_>) -> Result<Pin, TlsError> {
    CertificateNames::of(authority).map(|names| Pin(names.spki))
}

/// SHA-256 of these bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

/// Certificates may begin before 1970, where everything is over.
fn unix_ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}
