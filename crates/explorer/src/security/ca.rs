//! The certificate authority that an explorer is for its own fleet.
//!
//! Operators who know nothing about certificates get one made on the first start; those who have their own bring it.
//! Both are needed at once while one replaces another, so there is a current authority, which signs, and there are older
//! ones, which are still believed. The new one is also signed by the one before it: a node that was away while
//! everything was replaced believes the explorer as long as the old authority is not dropped.
//!
//! The explorer's own certificate is made in memory, at every start and again before it ends. Nothing depends on its key,
//! so there is none on disk to be stolen.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use reachback_link::tls::{self, CertificateDer, EXPLORER_NAME, Identity, PrivateKey};
use reachback_wire::{NodeId, join::Pin};

use super::{
    SecurityError,
    files::{self, FileError},
    names::Subject,
    wall::date,
};
use crate::limits;

/// Our own authority: one that signs, and those before it as long as they are believed.
pub(crate) struct Authority {
    directory: PathBuf,
    current: Signer,
    /// The current authority, signed by the one before it.
    cross: Option<CertificateDer<'static>>,
    old: Vec<CertificateDer<'static>>,
}

struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Reads it; `None` when there is none yet.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, SecurityError> {
        let path = current_path(directory);
        let Some(pem) = files::read_secret(&path)? else { return Ok(None) };
        let unusable = |what: &dyn std::fmt::Display| SecurityError::Authority {
            path: path.clone(),
            problem: what.to_string(),
        };
        let key = PrivateKey::from_pem(&pem).map_err(|error| unusable(&error))?;
        let mut certificates =
            tls::certificates_from_pem(&pem).map_err(|error| unusable(&error))?.into_iter();
        let certificate = certificates.next().ok_or_else(|| unusable(&"there is no certificate in it"))?;
        let key = KeyPair::try_from(key.expose_der()).map_err(|error| unusable(&error))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unusable(&error))?;
        let current = Signer { issuer, certificate };
        let mut old = match files::read(&old_path(directory))? {
            Some(pem) => tls::certificates_from_pem(&pem).map_err(|error| SecurityError::Authority {
                path: old_path(directory),
                problem: error.to_string(),
            })?,
            None => Vec::new(),
        };
        // A rotation that was interrupted before its new key was written.
        old.retain(|old| *old != current.certificate);
        Ok(Some(Self { directory: directory.to_owned(), current, cross: certificates.next(), old }))
    }

    /// Makes one and writes it.
    pub(crate) fn create(directory: &Path, now_ms: u64) -> Result<Self, SecurityError> {
        let (key, params) = new_authority(now_ms)?;
        let certificate = params.self_signed(&key)?.der().clone();
        let made = Self {
            directory: directory.to_owned(),
            current: Signer { issuer: Issuer::new(params, key), certificate },
            cross: None,
            old: Vec::new(),
        };
        made.write()?;
        Ok(made)
    }

    /// A new authority from now on; the one before is still believed.
    pub(crate) fn begin_rotation(&self, now_ms: u64) -> Result<Self, SecurityError> {
        let (key, params) = new_authority(now_ms)?;
        let certificate = params.self_signed(&key)?.der().clone();
        let cross = params.signed_by(&key, &self.current.issuer)?.der().clone();
        let mut old = vec![self.current.certificate.clone()];
        old.extend(self.old.iter().cloned());
        let next = Self {
            directory: self.directory.clone(),
            current: Signer { issuer: Issuer::new(params, key), certificate },
            cross: Some(cross),
            old,
        };
        // First what is believed besides: after a crash between the two it names the authority that is still current.
        files::write(&old_path(&self.directory), tls::certificates_to_pem(&next.old).as_bytes())?;
        next.write()?;
        Ok(next)
    }

    /// The current authority alone from now on.
    pub(crate) fn finish_rotation(&self) -> Result<Self, SecurityError> {
        let next = Self { cross: None, old: Vec::new(), ..self.again()? };
        next.write()?;
        files::remove(&old_path(&self.directory))?;
        Ok(next)
    }

    /// The same, for keys that are put together anew.
    pub(crate) fn again(&self) -> Result<Self, SecurityError> {
        let key = KeyPair::try_from(self.current.issuer.key().serialized_der())?;
        let issuer = Issuer::from_ca_cert_der(&self.current.certificate, key)?;
        let current = Signer { issuer, certificate: self.current.certificate.clone() };
        Ok(Self {
            directory: self.directory.clone(),
            current,
            cross: self.cross.clone(),
            old: self.old.clone(),
        })
    }

    /// The pin of the current one.
    pub(crate) fn pin(&self) -> Result<Pin, SecurityError> {
        tls::pin(&self.current.certificate).map_err(|error| self.unusable(&error))
    }

    /// Whether older authorities are still believed.
    pub(crate) fn is_rotating(&self) -> bool {
        !self.old.is_empty()
    }

    /// All that are believed, the current one first.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        [&self.current.certificate].into_iter().chain(&self.old).cloned().collect()
    }

    /// What is sent behind a certificate of ours: enough for whoever knows one of [`Authority::roots`] or its pin.
    pub(crate) fn path_to_roots(&self) -> Vec<CertificateDer<'static>> {
        match &self.cross {
            // The crossed one stands for the current one: same name, same key.
            Some(cross) => [cross].into_iter().chain(&self.old).cloned().collect(),
            None => vec![self.current.certificate.clone()],
        }
    }

    /// A certificate for this subject and key, from a day ago until `life_ms` from now.
    pub(crate) fn issue(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        now_ms: u64,
        life_ms: u64,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = params(now_ms, life_ms)?;
        params.distinguished_name.push(DnType::CommonName, subject.name().as_str());
        let mut names = Vec::new();
        if let Subject::Explorer(_) = subject {
            names.push(SanType::DnsName(EXPLORER_NAME.try_into()?));
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if is_dns_name(subject.name()) {
            names.push(SanType::DnsName(subject.name().as_str().try_into()?));
        }
        names.push(SanType::URI(subject.to_string().try_into()?));
        params.subject_alt_names = names;
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.current.issuer)?.der().clone())
    }

    /// A new key and certificate for the explorer itself, with everything that leads to the roots.
    pub(crate) fn own_identity(&self, explorer: &NodeId, now_ms: u64) -> Result<Identity, SecurityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let life = millis(limits::OWN_CERTIFICATE);
        let mut chain = vec![self.issue(&Subject::Explorer(explorer.clone()), &key, now_ms, life)?];
        chain.extend(self.path_to_roots());
        let key = PrivateKey::from_pkcs8(key.serialized_der());
        Identity::new(chain, &key).map_err(|error| self.unusable(&error))
    }

    fn write(&self) -> Result<(), FileError> {
        let key = PrivateKey::from_pkcs8(self.current.issuer.key().serialized_der());
        let certificates: Vec<_> =
            [&self.current.certificate].into_iter().chain(&self.cross).cloned().collect();
        let mut pem = key.to_pem();
        pem.push_str(&tls::certificates_to_pem(&certificates));
        files::write(&current_path(&self.directory), pem.as_bytes())
    }

    fn unusable(&self, problem: &dyn std::fmt::Display) -> SecurityError {
        SecurityError::Authority { path: current_path(&self.directory), problem: problem.to_string() }
    }
}

/// Who of these has signed it, unless it has signed itself.
pub(crate) fn issuer_of(
    certificate: &CertificateDer<'_>,
    among: &[CertificateDer<'static>],
) -> Option<CertificateDer<'static>> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let signed = |authority: &&CertificateDer<'static>| {
        x509_parser::parse_x509_certificate(authority).is_ok_and(|(_, by)| {
            by.subject() == read.issuer() && read.verify_signature(Some(by.public_key())).is_ok()
        })
    };
    if read.subject() == read.issuer() { None } else { among.iter().find(signed).cloned() }
}

fn current_path(directory: &Path) -> PathBuf {
    directory.join("ca.pem")
}

fn old_path(directory: &Path) -> PathBuf {
    directory.join("ca-old.pem")
}

fn new_authority(now_ms: u64) -> Result<(KeyPair, CertificateParams), SecurityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = params(now_ms, millis(limits::AUTHORITY))?;
    // Authorities that follow each other must not be mistaken for each other by their names.
    let mut distinct = [0; 4];
    random(&mut distinct)?;
    let distinct = u32::from_be_bytes(distinct);
    params.distinguished_name.push(DnType::CommonName, format!("reachback authority {distinct:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((key, params))
}

/// What all our certificates have in common.
fn params(now_ms: u64, life_ms: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date(now_ms.saturating_sub(millis(limits::BACKDATED)));
    params.not_after = date(now_ms.saturating_add(life_ms));
    let mut serial = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive, and of the same length every time.
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn random(bytes: &mut [u8]) -> Result<(), SecurityError> {
    use ring::rand::SecureRandom;
    ring::rand::SystemRandom::new().fill(bytes).map_err(|_| SecurityError::Random)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An id can have signs that a DNS name can't.
fn is_dns_name(id: &NodeId) -> bool {
    id.as_str().split('.').all(|label| {
        !label.is_empty() && !label.contains('_') && !label.starts_with('-') && !label.ends_with('-')
    })
}
