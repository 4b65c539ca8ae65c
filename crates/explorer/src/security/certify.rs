//! From a request to a certificate.
//!
//! A request proves that somebody holds a key, and nothing else: what it asks to be called is not even read. What the
//! certificate says is what was decided here.

use std::{fmt, sync::Arc, time::Duration};

use rcgen::SubjectPublicKeyInfo;
use reachback_link::tls::{CertificateDer, CertificateNames};
use reachback_wire::{Code, Enrolled, Hex, NodeId, Refusal, rights::Rights};
use ring::digest::{SHA256, digest};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{
    material::Keys,
    millis,
    names::Subject,
    store::{Enrolment, Key, Kind},
};
use crate::limits;

/// What the SubjectPublicKeyInfo of the two kinds of keys begins with; the rest is the key.
const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// A request that may be answered: somebody holds the key, and it is of a kind that is used here.
pub(super) struct Requested {
    pub(super) key: Key,
    pub(super) info: SubjectPublicKeyInfo,
}

impl Requested {
    pub(super) fn read(csr: &[u8]) -> Result<Self, Refusal> {
        let refuse = |problem: &str| {
            Refusal::new(Code::BadFrame, format!("this certificate request can't be used: {problem}"))
        };
        if csr.len() > limits::CSR_MAX {
            return Err(refuse("it is too long"));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(csr).map_err(|_| refuse("it is no PKCS#10 in DER"))?;
        if !rest.is_empty() {
            return Err(refuse("there is something behind it"));
        }
        let spki = request.certification_request_info.subject_pki.raw;
        let kinds = [(ED25519, 32), (P256, 64)];
        if !kinds.iter().any(|(begin, length)| spki.starts_with(begin) && spki.len() == begin.len() + length)
        {
            return Err(refuse("its key is neither Ed25519 nor on the curve P-256"));
        }
        request.verify_signature().map_err(|_| refuse("it is not signed with its own key"))?;
        let info = SubjectPublicKeyInfo::from_der(spki).map_err(|_| refuse("its key can't be read"))?;
        Ok(Self { key: sha256(spki), info })
    }
}

/// A certificate just made, and what is to be known of it.
pub(super) struct Certified {
    certificate: CertificateDer<'static>,
    names: CertificateNames,
    authority: String,
}

impl Keys {
    pub(super) fn issue(
        &self,
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
        now_ms: u64,
        life: Duration,
    ) -> Result<Certified, Refusal> {
        let failed = |error: &dyn fmt::Display| {
            Refusal::new(Code::Internal, format!("no certificate can be made: {error}"))
        };
        let certificate =
            self.authority.issue(subject, key, now_ms, millis(life)).map_err(|error| failed(&error))?;
        let names = CertificateNames::of(&certificate).map_err(|error| failed(&error))?;
        Ok(Certified { certificate, names, authority: self.authority_pin.to_string() })
    }
}

impl Certified {
    pub(super) fn enrolment(
        &self,
        kind: Kind,
        name: &NodeId,
        rights: Arc<Rights>,
        (admin, ephemeral): (bool, bool),
        token: &str,
        now_ms: u64,
    ) -> Enrolment {
        Enrolment {
            kind,
            name: name.clone(),
            key: self.names.spki,
            serial: self.names.serial.clone(),
            authority: self.authority.clone(),
            issued_ms: now_ms,
            not_after_ms: self.names.not_after_unix_ms,
            rights,
            admin,
            ephemeral,
            token: token.to_owned(),
        }
    }

    pub(super) fn answer(&self, keys: &Keys, name: &NodeId) -> Enrolled {
        let hex = |certificate: &CertificateDer<'_>| Hex(certificate.to_vec());
        Enrolled {
            chain: [&self.certificate].into_iter().chain(&keys.authority.path_to_roots()).map(hex).collect(),
            ca: keys.material.explorer_roots.iter().map(hex).collect(),
            name: name.to_string(),
        }
    }
}

fn sha256(bytes: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, bytes).as_ref());
    key
}
