//! `[tls]` and `[web]`: certificates that somebody else made.
//!
//! Both ends have the same `[tls]`, as programs that these replace had; what only one end can decide is told to the
//! other with a warning instead of being ignored.

use std::path::{Path, PathBuf};

use reachback_explorer::{NodeIdVerification, TlsFiles, WebFiles};
use serde::Deserialize;

use crate::{
    config::{
        file::Checked,
        origin::{Origin, Origins},
    },
    exit::Failure,
};

/// `[tls]` of both files.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsTable {
    cert_path: Option<PathBuf>,
    key_path: Option<PathBuf>,
    ca_cert_path: Option<PathBuf>,
    require_client_auth: Option<bool>,
    node_id_verification: Option<Checked<NodeIdVerification>>,
}

/// `[web]` of an explorer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebTable {
    cert_path: PathBuf,
    key_path: PathBuf,
}

/// A dialer's own certificate, made by somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnCertificate {
    /// The certificate and what leads to its authority, PEM.
    pub(crate) cert_path: PathBuf,
    /// Its key, PEM.
    pub(crate) key_path: PathBuf,
}

/// What `[tls]` says to a dialer.
#[derive(Debug, Default)]
pub(super) struct DialerFiles {
    pub(super) own: Option<OwnCertificate>,
    pub(super) ca: Option<PathBuf>,
}

impl OwnCertificate {
    /// Both files, or neither; `names` is what they are called where they are named.
    ///
    /// # Errors
    /// One without the other.
    pub(super) fn of(
        cert_path: Option<PathBuf>,
        key_path: Option<PathBuf>,
        names: (&str, &str),
    ) -> Result<Option<Self>, Failure> {
        let (given, missing) = match (cert_path, key_path) {
            (Some(cert_path), Some(key_path)) => return Ok(Some(Self { cert_path, key_path })),
            (None, None) => return Ok(None),
            (Some(_), None) => names,
            (None, Some(_)) => (names.1, names.0),
        };
        Err(Failure::config(format_args!(
            "{given} without {missing}: a certificate needs its key; name both files"
        )))
    }
}

impl TlsTable {
    /// As an explorer takes it.
    pub(super) fn for_explorer(self, origins: &mut Origins) -> TlsFiles {
        self.note(origins);
        if let Some(required) = self.require_client_auth {
            origins.note("tls.require_client_auth", required, Origin::File);
        }
        if let Some(Checked(way)) = &self.node_id_verification {
            origins.note("tls.node_id_verification", way, Origin::File);
        }
        TlsFiles {
            cert_path: self.cert_path,
            key_path: self.key_path,
            ca_cert_path: self.ca_cert_path,
            require_client_auth: self.require_client_auth,
            node_id_verification: self.node_id_verification.map(|way| way.0),
        }
    }

    /// As a node takes it.
    ///
    /// # Errors
    /// A certificate without its key, or a key without its certificate.
    pub(super) fn for_dialer(self, origins: &mut Origins) -> Result<DialerFiles, Failure> {
        self.note(origins);
        let explorers = [
            ("require_client_auth", self.require_client_auth.is_some()),
            ("node_id_verification", self.node_id_verification.is_some()),
        ];
        for (key, given) in explorers {
            if given {
                origins.warn(format!(
                    "[tls] {key} has no effect on a node: the explorer decides whom it believes"
                ));
            }
        }
        let own = OwnCertificate::of(self.cert_path, self.key_path, ("[tls] cert_path", "[tls] key_path"))?;
        Ok(DialerFiles { own, ca: self.ca_cert_path })
    }

    fn note(&self, origins: &mut Origins) {
        let paths = [
            ("tls.cert_path", &self.cert_path),
            ("tls.key_path", &self.key_path),
            ("tls.ca_cert_path", &self.ca_cert_path),
        ];
        for (key, path) in paths {
            if let Some(path) = path {
                origins.note(key, shown(path), Origin::File);
            }
        }
    }
}

impl WebTable {
    /// As an explorer takes it.
    pub(super) fn files(self, origins: &mut Origins) -> WebFiles {
        origins.note("web.cert_path", shown(&self.cert_path), Origin::File);
        origins.note("web.key_path", shown(&self.key_path), Origin::File);
        WebFiles { cert_path: self.cert_path, key_path: self.key_path }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
