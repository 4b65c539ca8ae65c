//! What enrolling brought, and how it is kept: a key, the certificate for it, and by which authorities explorers are known.
//!
//! Key and certificate are one file, because one without the other is nothing and a loss of power must not come between
//! them. It is PEM, so that whoever wonders can ask `openssl x509 -in identity.pem -noout -dates`. The authorities are
//! written before it: a new certificate never meets an old list.

use reachback_link::tls::{self, CertificateDer, CertificateNames, PrivateKey};
use reachback_wire::{Enrolled, Hex, NodeId, Role};
use serde::{Deserialize, Serialize};

use crate::state_dir::{StateDir, StateError};

const IDENTITY: &str = "identity.pem";
const AUTHORITIES: &str = "ca.pem";
const ABOUT: &str = "enrolment.json";
const CLOCK: &str = "clock";

const AGAIN: &str =
    "restore the directory from a backup, or remove it and enrol again with a new join string";

/// One enrolment.
#[derive(Clone)]
pub(crate) struct Enrolment {
    pub(crate) about: About,
    pub(crate) key: PrivateKey,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) not_after_unix_ms: u64,
}

/// What no certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    version: u32,
    pub(crate) role: Role,
    /// What the process calls itself.
    pub(crate) id: NodeId,
    /// Whom the certificate names.
    pub(crate) name: String,
    /// Where to dial.
    pub(crate) explorers: Vec<String>,
    /// SHA-256 of the token that was used up for it: another one is the word of an operator.
    #[serde(default)]
    pub(crate) joined_with: Hex,
    /// When the certificate came, by the clock that is believed: half of its life is counted from there.
    pub(crate) obtained_unix_ms: u64,
}

/// An answer of an explorer that is no enrolment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the explorer's certificate for this machine can't be used: {0}; is the explorer of another version?"
)]
pub struct EnrolmentError(String);

impl Enrolment {
    /// What an explorer has answered to a request for `key`.
    ///
    /// # Errors
    /// There is no certificate in it, or not one for this key.
    pub(crate) fn new(about: About, key: PrivateKey, enrolled: &Enrolled) -> Result<Self, EnrolmentError> {
        let ders = |hexes: &[Hex]| hexes.iter().map(|hex| CertificateDer::from(hex.0.clone())).collect();
        let (chain, authorities): (Vec<_>, Vec<_>) = (ders(&enrolled.chain), ders(&enrolled.ca));
        if authorities.is_empty() {
            return Err(EnrolmentError("it names no authority".into()));
        }
        let about = About { name: enrolled.name.clone(), ..about };
        Self::checked(about, key, chain, authorities).map_err(EnrolmentError)
    }

    /// What is kept; nothing if nothing is.
    ///
    /// # Errors
    /// It is there and can't be used.
    pub(crate) fn load(state: &StateDir) -> Result<Option<Self>, StateError> {
        let Some(identity) = state.read(IDENTITY)? else { return Ok(None) };
        let damaged = |file: &str, what: String| StateError::Damaged {
            path: state.path().join(file),
            what,
            remedy: AGAIN,
        };
        let gone = |file| damaged(file, "is missing beside identity.pem".into());
        let about = state.read(ABOUT)?.ok_or_else(|| gone(ABOUT))?;
        let authorities = state.read(AUTHORITIES)?.ok_or_else(|| gone(AUTHORITIES))?;
        let about: About = serde_json::from_slice(&about)
            .map_err(|error| damaged(ABOUT, format!("can't be read: {error}")))?;
        if about.version != 1 {
            let what = format!("was written by a newer version (format {})", about.version);
            return Err(damaged(ABOUT, what));
        }
        let broken = |file| move |error| damaged(file, format!("can't be read: {error}"));
        let key = PrivateKey::from_pem(&identity).map_err(|error| broken(IDENTITY)(error.to_string()))?;
        let chain =
            tls::certificates_from_pem(&identity).map_err(|error| broken(IDENTITY)(error.to_string()))?;
        let authorities = tls::certificates_from_pem(&authorities)
            .map_err(|error| broken(AUTHORITIES)(error.to_string()))?;
        Self::checked(about, key, chain, authorities).map(Some).map_err(broken(IDENTITY))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// As [`StateDir::write`]. What was kept before is whole, or all of this is.
    pub(crate) fn store(&self, state: &StateDir) -> Result<(), StateError> {
        let about = serde_json::to_vec_pretty(&self.about).map_err(|error| StateError::Io {
            doing: "writing",
            path: state.path().join(ABOUT),
            source: error.into(),
        })?;
        state.write(AUTHORITIES, tls::certificates_to_pem(&self.authorities).as_bytes())?;
        state.write(ABOUT, &about)?;
        let mut identity = self.key.to_pem();
        identity.push_str(&tls::certificates_to_pem(&self.chain));
        state.write(IDENTITY, identity.as_bytes())
    }

    /// How it is shown to TLS.
    pub(crate) fn identity(&self) -> Result<tls::Identity, tls::TlsError> {
        tls::Identity::new(self.chain.clone(), &self.key)
    }

    /// When it should be renewed: half way between its coming and its end.
    pub(crate) fn renew_at_unix_ms(&self) -> u64 {
        let life = self.not_after_unix_ms.saturating_sub(self.about.obtained_unix_ms);
        self.about.obtained_unix_ms.saturating_add(life / 2)
    }

    fn checked(
        about: About,
        key: PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let Some(own) = chain.first() else { return Err("there is no certificate in it".into()) };
        let names = CertificateNames::of(own).map_err(|error| error.to_string())?;
        let not_after_unix_ms = names.not_after_unix_ms;
        tls::Identity::new(chain.clone(), &key).map_err(|error| error.to_string())?;
        Ok(Self { about, key, chain, authorities, not_after_unix_ms })
    }
}

impl About {
    /// About a certificate that comes at this time and names nobody yet.
    pub(crate) fn new(role: Role, id: NodeId, now_unix_ms: u64) -> Self {
        let (name, explorers, joined_with) = (String::new(), Vec::new(), Hex::default());
        Self { version: 1, role, id, name, explorers, joined_with, obtained_unix_ms: now_unix_ms }
    }
}

/// The latest time that an explorer has told, if it is kept. A clock file that makes no sense is no reason to stay away.
pub(crate) fn load_clock(state: &StateDir) -> Option<u64> {
    let bytes = match state.read(CLOCK) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!(%error, "the last known time is not used");
            return None;
        }
    };
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

/// Keeps it.
pub(crate) fn store_clock(state: &StateDir, unix_ms: u64) -> Result<(), StateError> {
    state.write(CLOCK, format!("{unix_ms}\n").as_bytes())
}
