//! What listeners with TLS show, kept in step with what it is made from.
//!
//! The explorer's own certificate changes when it is renewed, when its authority is exchanged and when somebody puts new
//! files in place; the one for browsers when its files change. None of that may need a restart or touch a session that
//! stands, and a mistake in a file must leave what worked: so everything new is read and put together first, and
//! exchanged in one step.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use reachback_link::tls::{AcceptIdentity, AcceptTls, Identity, TlsError};
use reachback_wire::rights::PatternError;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    config::ExplorerConfig,
    limits,
    modes::WebFiles,
    security::{Security, SecurityConfig, SecurityError},
};

/// The certificates of an explorer, and what they are judged by.
pub(crate) struct Keys {
    pub(crate) security: Arc<Security>,
    pub(crate) accept: AcceptTls,
    web_files: Option<WebFiles>,
    web: Mutex<Vec<Identity>>,
}

/// Why certificates can't be used. Those in use before stay in use.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The explorer's own.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A file of `[web]`.
    #[error("[web] {path:?}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is in the files of `[web]`.
    #[error("[web] {path:?}: {source}")]
    Web {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it or its key.
        source: TlsError,
    },
    /// They fit together in no way that TLS can use.
    #[error("the certificates can't be used together: {0}")]
    Together(TlsError),
    /// A `[[caller]]` table.
    #[error("[[caller]] {0}")]
    Caller(#[from] PatternError),
    /// An error of ours.
    #[error("reading the certificates failed: {0}")]
    Panicked(String),
}

impl Keys {
    /// Reads what has to be read. Blocks.
    ///
    /// # Errors
    /// The first file that can't be used, and why.
    pub(crate) fn load(
        state_dir: &Path,
        rules: SecurityConfig,
        web_files: Option<WebFiles>,
    ) -> Result<Self, KeysError> {
        // First what others made: when that is wrong, nothing is made here.
        let web = read_web(web_files.as_ref())?;
        let security = Arc::new(Security::open(state_dir, rules)?);
        let identity = AcceptIdentity { tunnel: security.material().identity, web: web.clone() };
        let accept = AcceptTls::new(identity).map_err(KeysError::Together)?;
        Ok(Self { security, accept, web_files, web: Mutex::new(web) })
    }

    /// Reads every file again. Blocks.
    ///
    /// # Errors
    /// As [`Keys::load`]; what was in use stays in use.
    pub(crate) fn reload(&self) -> Result<(), KeysError> {
        let web = read_web(self.web_files.as_ref())?;
        self.security.reload()?;
        self.exchange(web)
    }

    /// Shows what there is now from the next handshake on.
    fn exchange(&self, web: Vec<Identity>) -> Result<(), KeysError> {
        let tunnel = self.security.material().identity;
        let identity = AcceptIdentity { tunnel, web: web.clone() };
        self.accept.replace(identity).map_err(KeysError::Together)?;
        *self.web.lock() = web;
        Ok(())
    }

    /// Follows the explorer's own certificate, and sees to it that it is renewed in time, until told to stop. What it has
    /// begun by then it ends: whoever starts an explorer in the same directory next must find it free.
    pub(crate) async fn follow(&self, closing: &CancellationToken) {
        let mut material = self.security.subscribe_material();
        let renewing = async {
            loop {
                let security = self.security.clone();
                let next = match spawn_blocking(move || security.keep_up()).await {
                    Ok(Ok(next)) => next,
                    Ok(Err(error)) => {
                        tracing::error!(%error, "the explorer's certificate can't be renewed; trying again");
                        limits::KEEP_UP_AGAIN
                    }
                    Err(error) => {
                        tracing::error!(%error, "looking after the explorer's certificates failed; trying again");
                        limits::KEEP_UP_AGAIN
                    }
                };
                let waiting = sleep(next.max(Duration::from_secs(1)));
                if closing.run_until_cancelled(waiting).await.is_none() {
                    return;
                }
            }
        };
        let following = async {
            while material.changed().await.is_ok() {
                let web = self.web.lock().clone();
                match self.exchange(web) {
                    Ok(()) => tracing::info!("the explorer shows a new certificate from now on"),
                    Err(error) => {
                        tracing::error!(%error, "a new certificate can't be used; the old one stays")
                    }
                }
            }
        };
        tokio::join!(renewing, closing.run_until_cancelled(following));
    }
}

impl ExplorerConfig {
    /// Reads the certificates that others made as a start would, in the same order and with the same words, and writes
    /// nothing. Blocks.
    ///
    /// # Errors
    /// The first file that can't be used, and why.
    pub fn check_files(&self) -> Result<(), KeysError> {
        if self.is_secured() {
            let rules = self.security()?;
            read_web(self.web.as_ref())?;
            rules.check_files()?;
        }
        Ok(())
    }
}

fn read_web(files: Option<&WebFiles>) -> Result<Vec<Identity>, KeysError> {
    let Some(WebFiles { cert_path, key_path }) = files else { return Ok(Vec::new()) };
    let read =
        |path: &PathBuf| fs::read(path).map_err(|source| KeysError::File { path: path.clone(), source });
    let (chain, key) = (read(cert_path)?, zeroize::Zeroizing::new(read(key_path)?));
    let identity = Identity::from_pem(&chain, &key);
    Ok(vec![identity.map_err(|source| KeysError::Web { path: cert_path.clone(), source })?])
}
