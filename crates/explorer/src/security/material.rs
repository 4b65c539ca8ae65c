//! What the explorer shows and whom it believes, put together from its own authority and from what its operator brought.
//!
//! It is put together as a whole and exchanged as a whole, so that nobody ever sees a certificate of one generation and the
//! authorities of another, and a mistake in a file leaves everything as it was.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reachback_link::tls::{self, CertificateDer, CertificateNames, EXPLORER_NAME, Identity, Roots};
use reachback_wire::join::Pin;

use super::{
    Security, SecurityConfig, SecurityError,
    ca::{self, Authority},
    files::{self, FileError},
    millis,
    store::Change,
    tokens::TokenKeys,
};
use crate::limits;

/// What the explorer shows and whom it believes, at one moment.
#[derive(Debug, Clone)]
pub struct Material {
    /// What it shows to those who dial it: its certificate, everything that leads to its authority, and its key.
    pub identity: Identity,
    /// By which authorities those who join are to believe explorers from then on.
    pub explorer_roots: Vec<CertificateDer<'static>>,
    /// The authority behind `identity`, for join strings.
    pub pin: Pin,
    /// When the certificate in `identity` ends, in milliseconds since 1970.
    pub not_after_unix_ms: u64,
}

/// Keys of one moment; all of them are exchanged at once.
pub(super) struct Keys {
    pub(super) authority: Authority,
    pub(super) authority_pin: Pin,
    pub(super) tokens: TokenKeys,
    pub(super) material: Material,
    /// Whose certificates dialers may show.
    pub(super) roots: Roots,
}

impl Security {
    /// Reads the files of certificates that others made again. Blocks.
    ///
    /// # Errors
    /// They can't be used; then those from before go on.
    pub fn reload(&self) -> Result<(), SecurityError> {
        let _changing = self.changing.lock();
        self.exchange(|keys| Ok((keys.authority.again()?, keys.tokens.again()?)))
    }

    /// Does what has become due: a new certificate for the explorer itself, and forgetting ephemeral nodes whose certificates
    /// have ended, and writing down what was refused meanwhile. Returns when to call it again. Blocks.
    ///
    /// # Errors
    /// The explorer's own certificate can't be renewed; the one before goes on as long as it is valid.
    pub fn keep_up(&self) -> Result<Duration, SecurityError> {
        let now_ms = self.config.clock.now_ms();
        let forgotten = self.store.commit(|state| {
            let gone = state.nodes.values().filter(|row| {
                row.ephemeral && row.not_after_ms < now_ms && !self.presence.is_there(&row.name)
            });
            let changes = gone.map(|row| Change::Forget(row.kind, row.key)).collect();
            Ok((changes, ()))
        });
        self.audit.flush();
        if let Err(refusal) = forgotten {
            tracing::warn!(%refusal, "ephemeral nodes that are gone are not forgotten yet");
        }
        let left = self.material().not_after_unix_ms.saturating_sub(now_ms);
        if self.config.files.cert_path.is_none() && left < millis(limits::OWN_CERTIFICATE) / 2 {
            self.reload()?;
        }
        Ok(limits::KEEP_UP)
    }

    /// Whether a certificate with a name of ours can only have been made here: other authorities write what they like.
    pub(super) fn is_ours_alone(&self) -> bool {
        self.config.files.ca_cert_path.is_none()
    }

    /// Puts other keys in place of those that are there. Held: `changing`.
    pub(super) fn exchange(
        &self,
        next: impl FnOnce(&Keys) -> Result<(Authority, TokenKeys), SecurityError>,
    ) -> Result<(), SecurityError> {
        let (authority, tokens) = next(&self.keys())?;
        let keys = Keys::assemble(&self.config, authority, tokens)?;
        *self.keys.write() = Arc::new(keys);
        self.material.send_modify(|changes| *changes += 1);
        Ok(())
    }
}

impl SecurityConfig {
    /// Reads the files that others made as a start would, and writes nothing. Blocks.
    ///
    /// # Errors
    /// The first that can't be used, in the words of a start.
    pub fn check_files(&self) -> Result<(), SecurityError> {
        let foreign = self.foreign()?;
        self.files.cert_path.as_ref().map_or(Ok(()), |path| brought(self, path, &foreign).map(drop))
    }

    /// The authorities that others made.
    fn foreign(&self) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
        self.files.ca_cert_path.as_deref().map_or(Ok(Vec::new()), certificates)
    }
}

impl Keys {
    pub(super) fn assemble(
        config: &SecurityConfig,
        authority: Authority,
        tokens: TokenKeys,
    ) -> Result<Self, SecurityError> {
        let now_ms = config.clock.now_ms();
        let authority_pin = authority.pin()?;
        let foreign = config.foreign()?;
        let material = match &config.files.cert_path {
            Some(path) => brought(config, path, &foreign)?,
            None => {
                let identity = authority.own_identity(&config.explorer, now_ms)?;
                let not_after_unix_ms = now_ms.saturating_add(millis(limits::OWN_CERTIFICATE));
                Material {
                    identity,
                    explorer_roots: authority.roots(),
                    pin: authority_pin,
                    not_after_unix_ms,
                }
            }
        };
        let believed: Vec<_> = authority.roots().into_iter().chain(foreign).collect();
        let roots = Roots::new(&believed).map_err(|error| SecurityError::Authority {
            path: config.files.ca_cert_path.clone().unwrap_or_else(|| PathBuf::from("keys/ca.pem")),
            problem: error.to_string(),
        })?;
        Ok(Self { authority, authority_pin, tokens, material, roots })
    }
}

/// The explorer's certificate as its operator brought it.
fn brought(
    config: &SecurityConfig,
    path: &Path,
    bundle: &[CertificateDer<'static>],
) -> Result<Material, SecurityError> {
    let unusable = |problem: String| SecurityError::Authority { path: path.to_owned(), problem };
    let key_path = config
        .files
        .key_path
        .as_ref()
        .ok_or_else(|| unusable("there is no key_path beside it".to_owned()))?;
    let mut chain = certificates(path)?;
    let own = chain.first().ok_or_else(|| unusable("there is no certificate in it".to_owned()))?;
    let names = CertificateNames::of(own).map_err(|error| unusable(error.to_string()))?;
    if !names.dns.iter().any(|name| name == EXPLORER_NAME) {
        return Err(unusable(format!(
            "its certificate has not the DNS name {EXPLORER_NAME}, by which nodes know an explorer at any address; make it with \
             subjectAltName = DNS:{EXPLORER_NAME}"
        )));
    }
    if names.not_after_unix_ms < config.clock.now_ms() {
        return Err(unusable(format!("it ended at {}; renew it", tls::utc(names.not_after_unix_ms))));
    }
    // Those who know the authority by its pin have to see it.
    if let Some(authority) = ca::issuer_of(chain.last().unwrap_or(own), bundle) {
        chain.push(authority);
    }
    let last = chain.last().ok_or_else(|| unusable("there is no certificate in it".to_owned()))?.clone();
    let pin = tls::pin(&last).map_err(|error| unusable(error.to_string()))?;
    let key = files::read_secret(key_path)?.ok_or_else(|| FileError::Io {
        path: key_path.clone(),
        doing: "can't be read",
        source: io::ErrorKind::NotFound.into(),
    })?;
    let key = tls::PrivateKey::from_pem(&key)
        .map_err(|error| SecurityError::Authority { path: key_path.clone(), problem: error.to_string() })?;
    let identity = Identity::new(chain, &key).map_err(|error| unusable(error.to_string()))?;
    let explorer_roots = if bundle.is_empty() { vec![last] } else { bundle.to_vec() };
    Ok(Material { identity, explorer_roots, pin, not_after_unix_ms: names.not_after_unix_ms })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let pem = files::read(path)?.ok_or_else(|| FileError::Io {
        path: path.to_owned(),
        doing: "can't be read",
        source: io::ErrorKind::NotFound.into(),
    })?;
    tls::certificates_from_pem(&pem)
        .map_err(|error| SecurityError::Authority { path: path.to_owned(), problem: error.to_string() })
}
