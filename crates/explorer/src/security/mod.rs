//! Who is who, for an explorer that faces strangers: keys, tokens, names, and taking them back.
//!
//! An operator who knows nothing about certificates gets mutual TLS with an identity per node out of one pasted line; one who
//! knows everything brings his own. Both ask the same questions here, and every answer comes from memory, so that no
//! handshake waits for a disk. What changes something is written down before it counts.
//!
//! ```text
//! admit.rs           who is this? a certificate or a token ─▶ Principal; asked again when something is revoked
//! issue.rs           tokens for others       tokens.rs, jwt_crypto.rs   how they are signed and read
//! enrol.rs renew.rs  a token for a certificate, a certificate for the next; certify.rs makes it, names.rs says for whom
//! revocation.rs      revoke, release         refusals.rs                why not, and the way back
//! ca.rs material.rs  the authority, and what is shown; rotation.rs exchanges it while everybody stays
//! store.rs tables.rs what must not be forgotten (SQLite)
//! audit.rs           what was done           files.rs, backup.rs        files that nobody else reads; all in one
//! ```
//!
//! In the state directory: `keys/` (`ca.pem`, `token.pem`, older ones during a rotation), `security.db`, `audit.jsonl`, `lock`.

mod admit;
mod audit;
mod backup;
mod ca;
mod certify;
mod config;
mod enrol;
mod error;
mod files;
mod issue;
mod jwt_crypto;
mod material;
mod names;
mod presence;
mod refusals;
mod renew;
mod revocation;
mod rotation;
mod store;
mod tables;
mod tokens;
mod wall;

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use reachback_link::tls::{PeerCertificate, TlsPeer};
use tokio::sync::watch;

pub use self::{
    admit::{CredentialId, Principal},
    audit::{Audit, Entry, Record},
    config::SecurityConfig,
    error::SecurityError,
    files::FileError,
    issue::{CreatedToken, TokenInfo, TokenRequest, TokenState, Uses},
    material::Material,
    presence::Attendance,
    revocation::{Revocable, Revocation, RevokedKind},
    store::StoreError,
    tokens::TokenRole,
    wall::WallClock,
};
use self::{ca::Authority, material::Keys, presence::Presence, store::Store, tokens::TokenKeys};

const KEYS: &str = "keys";
const DATABASE: &str = "security.db";
const AUDIT: &str = "audit.jsonl";
const LOCK: &str = "lock";

/// Who asks for something, as the audit has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name of an admin.
    pub who: String,
    /// The address.
    pub from: String,
}

impl Actor {
    /// An admin of this name at this address.
    #[must_use]
    pub fn new(who: &str, from: &str) -> Self {
        Self { who: who.to_owned(), from: from.to_owned() }
    }
}

/// Who is who at one explorer. Everything that only asks is answered from memory; what changes something blocks.
pub struct Security {
    config: SecurityConfig,
    directory: PathBuf,
    made_now: bool,
    keys: RwLock<Arc<Keys>>,
    /// Held by whoever exchanges keys.
    changing: Mutex<()>,
    store: Store,
    presence: Presence,
    audit: Audit,
    revocations: watch::Sender<u64>,
    material: watch::Sender<u64>,
    _lock: Option<File>,
}

impl Security {
    /// Reads everything in the state directory, and makes what is missing on the first start. Blocks.
    ///
    /// # Errors
    /// Something is there and can't be used. It is never passed over and never made anew.
    pub fn open(directory: &Path, config: SecurityConfig) -> Result<Self, SecurityError> {
        files::directory(directory, false)?;
        let keys_directory = directory.join(KEYS);
        files::directory(&keys_directory, true)?;
        let lock = lock(directory)?;
        let database = directory.join(DATABASE);
        let is_there = database.exists();
        let now_ms = config.clock.now_ms();
        let authority = Authority::load(&keys_directory)?;
        let made_now = authority.is_none() && !is_there;
        if authority.is_some() && !is_there {
            return Err(SecurityError::DatabaseMissing { path: database });
        }
        if authority.is_none() && database_in_use(&database) {
            return Err(SecurityError::KeysMissing { path: keys_directory.join("ca.pem"), database });
        }
        let store = Store::open(&database)?;
        let audience = store.meta("audience", || random_name(&config))?;
        let tokens = match TokenKeys::load(&keys_directory, &audience)? {
            Some(tokens) => tokens,
            None if authority.is_some() => {
                return Err(SecurityError::KeysMissing { path: keys_directory.join("token.pem"), database });
            }
            None => TokenKeys::create(&keys_directory, &audience)?,
        };
        // Last: where it is, everything else is.
        let authority = match authority {
            Some(authority) => authority,
            None => Authority::create(&keys_directory, now_ms)?,
        };
        let keys = Keys::assemble(&config, authority, tokens)?;
        let audit = Audit::new(directory.join(AUDIT), config.clock.clone());
        if made_now {
            audit.record(&Entry::new("authority made", &keys.authority_pin.to_string()));
        }
        Ok(Self {
            config,
            directory: directory.to_owned(),
            made_now,
            keys: RwLock::new(Arc::new(keys)),
            changing: Mutex::new(()),
            store,
            presence: Presence::default(),
            audit,
            revocations: watch::channel(0).0,
            material: watch::channel(0).0,
            _lock: lock,
        })
    }

    /// Whether this was the first start in this directory.
    #[must_use]
    pub fn made_now(&self) -> bool {
        self.made_now
    }

    /// What to show and whom to believe, from now until [`Security::subscribe_material`] says otherwise.
    #[must_use]
    pub fn material(&self) -> Material {
        self.keys().material.clone()
    }

    /// What the certificate of a dialer is worth. Its key is proved already.
    #[must_use]
    pub fn judge(&self, peer: &TlsPeer) -> PeerCertificate {
        peer.certificate(&self.keys().roots, self.config.clock.now_ms())
    }

    /// Changes whenever [`Security::material`] does.
    #[must_use]
    pub fn subscribe_material(&self) -> watch::Receiver<u64> {
        self.material.subscribe()
    }

    /// Changes whenever something was revoked or released: ask [`Security::still_good`] again.
    #[must_use]
    pub fn subscribe_revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// Says that a session of this principal is there, as long as the answer lives.
    #[must_use]
    pub fn attend(&self, who: &Principal) -> Attendance {
        if who.ephemeral { self.presence.attend(&who.id) } else { Presence::nobody() }
    }

    /// What was done here.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().clone()
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Keeps the directory for this process. `None` on a file system that can't be written.
fn lock(directory: &Path) -> Result<Option<File>, SecurityError> {
    let path = directory.join(LOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(None),
        opened => opened.map_err(FileError::io(&path, "can't be made"))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(SecurityError::InUse { path: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(FileError::io(&path, "can't be locked")(error).into()),
    }
}

/// An empty file is no database yet.
fn database_in_use(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.len() > 0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Under which tokens know the explorers they are for.
fn random_name(config: &SecurityConfig) -> String {
    tokens::random_hex::<8>().unwrap_or_else(|_| config.explorer.to_string())
}
