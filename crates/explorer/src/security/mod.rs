//! Who is who, for an explorer that faces strangers: keys, tokens, names, and taking them back.
//!
//! An operator who knows nothing about certificates gets mutual TLS with an identity per node out of one pasted line; one who
//! knows everything brings his own. Both ask the same questions here, and every answer comes from memory, so that no
//! handshake waits for a disk. What changes something is written down before it counts.
//!
//! ```text
//! admit.rs       who is this?      a certificate or a token ─▶ Principal, which is asked again when something is revoked
//! enrol.rs       a token for a certificate, a certificate for the next one; one key per id
//! revocation.rs  revoke, release
//! ca.rs tokens.rs    the keys that certificates and tokens are signed with, two generations during a rotation
//! store.rs       what must not be forgotten (SQLite)      audit.rs    what was done
//! files.rs       files that nobody else reads             backup.rs   all of it in one file
//! ```
//!
//! In the state directory: `keys/` (`ca.pem`, `token.pem`, older ones during a rotation), `security.db`, `audit.jsonl`, `lock`.

mod admit;
mod audit;
mod backup;
mod ca;
mod enrol;
mod files;
mod jwt_crypto;
mod names;
mod presence;
mod revocation;
mod store;
mod tokens;
mod wall;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use reachback_link::tls::{
    self, CertificateDer, CertificateNames, EXPLORER_NAME, Identity, PeerCertificate, Roots, TlsPeer,
};
use reachback_wire::{
    Code, NodeId, Refusal, Secret,
    join::{JoinString, Pin},
    rights::{NamePattern, Right, Rights},
};
use tokio::sync::watch;

use crate::{
    limits,
    modes::{NodeIdVerification, TlsFiles},
};

pub use self::{
    admit::{CredentialId, Principal},
    audit::{Audit, Entry, Record},
    files::FileError,
    presence::Attendance,
    revocation::{Revocable, Revocation, RevokedKind},
    store::StoreError,
    tokens::{TokenRequest, TokenRole, Uses},
    wall::WallClock,
};
use self::{
    ca::Authority,
    presence::Presence,
    store::{Change, Revoked, Store, TokenRow},
    tokens::{Claims, TokenKeys},
};

const KEYS: &str = "keys";
const DATABASE: &str = "security.db";
const AUDIT: &str = "audit.jsonl";
const LOCK: &str = "lock";

/// What it has to know besides its state directory.
#[derive(Debug, Clone)]
pub struct SecurityConfig {
    /// The explorer's name, which is in its own certificate.
    pub explorer: NodeId,
    /// Certificates that somebody else made, if any.
    pub files: TlsFiles,
    /// What those may do who come with such certificates: the first pattern that fits a name counts.
    pub callers: Vec<(NamePattern, Arc<Rights>)>,
    /// How long certificates of nodes and users are valid.
    pub certificate_life: Duration,
    /// The same for nodes that come and go.
    pub ephemeral_life: Duration,
    /// The date.
    pub clock: WallClock,
}

impl SecurityConfig {
    /// An explorer of this name that makes everything itself.
    #[must_use]
    pub fn new(explorer: NodeId) -> Self {
        Self {
            explorer,
            files: TlsFiles::default(),
            callers: Vec::new(),
            certificate_life: limits::CERTIFICATE,
            ephemeral_life: limits::EPHEMERAL_CERTIFICATE,
            clock: WallClock::system(),
        }
    }

    /// With what a `[[caller]]` table says.
    ///
    /// # Errors
    /// It has more rights than one caller can have.
    pub fn allow(
        mut self,
        callers: &[(NamePattern, Vec<Right>)],
    ) -> Result<Self, reachback_wire::rights::PatternError> {
        for (pattern, rights) in callers {
            self.callers.push((pattern.clone(), Arc::new(Rights::new(rights.clone())?)));
        }
        Ok(self)
    }

    fn verification(&self) -> NodeIdVerification {
        self.files.node_id_verification.unwrap_or(NodeIdVerification::SubjectAltName)
    }
}

/// Why an explorer can't be secured, so that it must not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another explorer has the directory.
    #[error(
        "{}: another explorer uses this state directory; stop it, or give this one another: --state-dir DIR",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Keys without the database that goes with them.
    #[error(
        "{0}: the keys of this explorer are there and its database is not, so nobody knows what was revoked. Restore the directory \
         from a backup. Without one, and if it may be forgotten what was revoked and what users may do, make an empty one: \
         touch {0}",
        path.display()
    )]
    DatabaseMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A database without the keys that go with it.
    #[error(
        "{}: the database of this explorer is there and this key is not, so none of its nodes would believe it. Restore the \
         directory from a backup. Without one everybody has to join again: move {} away and start once more",
        path.display(),
        database.display()
    )]
    KeysMissing {
        /// Where it should be.
        path: PathBuf,
        /// The database.
        database: PathBuf,
    },
    /// A certificate authority or certificate that is no good.
    #[error("{}: {problem}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The key that signs tokens is no good.
    #[error("{}: {problem}; restore it from a backup", path.display())]
    TokenKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers, so no key can be made")]
    Random,
}

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

/// A token, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its number.
    pub id: String,
    /// What it is for.
    pub role: TokenRole,
    /// Whose it is.
    pub name: NodeId,
    /// Role `register`: which nodes it lets in.
    pub node: Option<NamePattern>,
    /// What it allows.
    pub allow: Rights,
    /// Role `register`: how many nodes it still lets in; `None`: any number, or not counted.
    pub uses_left: Option<u32>,
    /// Role `register`: for nodes that come and go.
    pub ephemeral: bool,
    /// Whether somebody has logged in with it.
    pub bound: bool,
    /// When it ends, in milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// What has become of it.
    pub state: TokenState,
}

/// What has become of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It can be used.
    Valid,
    /// It has let in all it may, or somebody has logged in with it.
    Used,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// A token just made.
#[derive(Debug)]
pub struct CreatedToken {
    /// The token itself, which is nowhere else.
    pub token: Secret,
    /// What lists show of it.
    pub info: TokenInfo,
}

/// Keys of one moment; all of them are exchanged at once.
struct Keys {
    authority: Authority,
    authority_pin: Pin,
    tokens: TokenKeys,
    material: Material,
    /// Whose certificates dialers may show.
    roots: Roots,
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

    /// The one line that lets somebody in at these addresses.
    ///
    /// # Errors
    /// There are none, or too many.
    pub fn join_string(&self, addresses: Vec<String>, token: &Secret) -> Result<JoinString, Refusal> {
        JoinString::new(addresses, self.keys().material.pin, token.clone()).map_err(|error| {
            Refusal::new(
                Code::Internal,
                format!("no join string can be made: {error}; set advertise in the configuration"),
            )
        })
    }

    /// Makes a token. Blocks.
    ///
    /// # Errors
    /// The request makes no sense, or it can't be written down.
    pub fn create_token(&self, request: &TokenRequest, by: &Actor) -> Result<CreatedToken, Refusal> {
        let now_ms = self.config.clock.now_ms();
        let name = request.name.as_ref().map_or("", NodeId::as_str);
        let entry = Entry::new("token create", &format!("{} {name}", request.role.name())).actor(by);
        let outcome = request.check().and_then(|checked| {
            let (token, claims) = self.keys().tokens.sign(&checked, now_ms)?;
            let row = TokenRow { uses_left: checked.uses, created_ms: now_ms, ..TokenRow::of(&claims) };
            let info = self.store.commit(|state| {
                let mut changes = outdated(state, now_ms);
                if state.tokens.len() - changes.len() >= limits::TOKENS {
                    return Err(Refusal::new(
                        Code::Saturated,
                        format!("this explorer has {} tokens that are still valid, and that is the most; revoke some, or make one with more uses", limits::TOKENS),
                    ));
                }
                let info = row.info(state, now_ms);
                changes.push(Change::Token(row));
                Ok((changes, info))
            })?;
            Ok(CreatedToken { token, info })
        });
        match &outcome {
            Ok(made) => {
                let text = format!("{}; may call {}", made.info.id, made.info.allow);
                let subject = format!("{} {}", request.role.name(), made.info.name);
                self.audit.record(&Entry::new("token create", &subject).actor(by).detail(&text));
            }
            Err(refusal) => self.audit.record(&entry.refused(refusal)),
        }
        outcome
    }

    /// All tokens that are on record, the newest first.
    #[must_use]
    pub fn list_tokens(&self) -> Vec<TokenInfo> {
        let now_ms = self.config.clock.now_ms();
        self.store.read(|state| {
            let mut rows: Vec<_> = state.tokens.values().collect();
            rows.sort_by(|a, b| b.created_ms.cmp(&a.created_ms).then_with(|| a.id.cmp(&b.id)));
            rows.into_iter().map(|row| row.info(state, now_ms)).collect()
        })
    }

    /// Reads the files of certificates that others made again. Blocks.
    ///
    /// # Errors
    /// They can't be used; then those from before go on.
    pub fn reload(&self) -> Result<(), SecurityError> {
        let _changing = self.changing.lock();
        self.exchange(|keys| Ok((keys.authority.again()?, keys.tokens.again()?)))
    }

    /// Does what has become due: a new certificate for the explorer itself, and forgetting ephemeral nodes whose certificates
    /// have ended. Returns when to call it again. Blocks.
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
        if let Err(refusal) = forgotten {
            tracing::warn!(%refusal, "ephemeral nodes that are gone are not forgotten yet");
        }
        let left = self.material().not_after_unix_ms.saturating_sub(now_ms);
        if self.config.files.cert_path.is_none() && left < millis(limits::OWN_CERTIFICATE) / 2 {
            self.reload()?;
        }
        Ok(limits::KEEP_UP)
    }

    /// Begins to replace the authority and the key of tokens: the new ones sign from now on, the old ones are still believed.
    /// Blocks.
    ///
    /// # Errors
    /// A rotation is under way already, or the keys can't be written; then nothing has changed.
    pub fn begin_rotation(&self, by: &Actor) -> Result<(), Refusal> {
        let entry = Entry::new("rotation begun", "authority and token key").actor(by);
        let outcome = self.rotate(|keys, now_ms| {
            if keys.authority.is_rotating() {
                return Err(Refusal::new(
                    Code::Denied,
                    "a rotation is under way already; finish it first: reachback ca rotate finish",
                ));
            }
            let next = || Ok((keys.authority.begin_rotation(now_ms)?, keys.tokens.begin_rotation()?));
            next().map_err(not_rotated)
        });
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
    }

    /// Ends it: the old authority and the old key of tokens are believed no more. Blocks.
    ///
    /// # Errors
    /// No rotation is under way; nodes or users still have certificates of the old authority and `force` does not accept that
    /// they have to join again; or the keys can't be written.
    pub fn finish_rotation(&self, force: bool, by: &Actor) -> Result<(), Refusal> {
        let entry = Entry::new("rotation finished", "authority and token key").actor(by);
        let outcome = self.rotate(|keys, now_ms| {
            if !keys.authority.is_rotating() {
                return Err(Refusal::new(
                    Code::Denied,
                    "no rotation is under way; begin one: reachback ca rotate begin",
                ));
            }
            if !force {
                self.nobody_left_behind(keys.authority_pin, now_ms)?;
            }
            let next = || Ok((keys.authority.finish_rotation()?, keys.tokens.finish_rotation()?));
            next().map_err(not_rotated)
        });
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
    }

    /// Whether older authorities are still believed.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.keys().authority.is_rotating()
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().clone()
    }

    fn rotate(
        &self,
        next: impl FnOnce(&Keys, u64) -> Result<(Authority, TokenKeys), Refusal>,
    ) -> Result<(), Refusal> {
        let _changing = self.changing.lock();
        let now_ms = self.config.clock.now_ms();
        let (authority, tokens) = next(&self.keys(), now_ms)?;
        self.exchange(|_| Ok((authority, tokens))).map_err(not_rotated)
    }

    /// Puts other keys in place of those that are there. Held: `changing`.
    fn exchange(
        &self,
        next: impl FnOnce(&Keys) -> Result<(Authority, TokenKeys), SecurityError>,
    ) -> Result<(), SecurityError> {
        let (authority, tokens) = next(&self.keys())?;
        let keys = Keys::assemble(&self.config, authority, tokens)?;
        *self.keys.write() = Arc::new(keys);
        self.material.send_modify(|changes| *changes += 1);
        Ok(())
    }

    fn nobody_left_behind(&self, current: Pin, now_ms: u64) -> Result<(), Refusal> {
        let current = current.to_string();
        let behind: Vec<String> = self.store.read(|state| {
            let all = state.nodes.values().chain(state.users.values());
            all.filter(|row| row.authority != current && row.not_after_ms > now_ms)
                .map(|row| row.name.to_string())
                .collect()
        });
        if behind.is_empty() {
            return Ok(());
        }
        let named =
            behind.iter().take(limits::NAMES_LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = behind.len().saturating_sub(limits::NAMES_LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Refusal::new(
            Code::Denied,
            format!(
                "{named}{more} still have certificates of the old authority and would have to join again; they get new ones at \
                 half of their life, so wait, or accept it with --force"
            ),
        ))
    }
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Keys {
    fn assemble(
        config: &SecurityConfig,
        authority: Authority,
        tokens: TokenKeys,
    ) -> Result<Self, SecurityError> {
        let now_ms = config.clock.now_ms();
        let authority_pin = authority.pin()?;
        let foreign = match &config.files.ca_cert_path {
            Some(path) => certificates(path)?,
            None => Vec::new(),
        };
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

impl TokenRow {
    /// As far as the token says it itself.
    fn of(claims: &Claims) -> Self {
        Self {
            id: claims.jti.clone(),
            role: claims.role,
            name: claims.sub.clone(),
            node: claims.node.clone(),
            rights: claims.allow.clone(),
            ephemeral: claims.ephemeral == Some(true),
            uses_left: None,
            created_ms: claims.iat.saturating_mul(1000),
            expires_ms: claims.exp.saturating_mul(1000),
            bound: None,
        }
    }

    fn info(&self, state: &store::State, now_ms: u64) -> TokenInfo {
        let become_of = if state.revoked(&Revoked::Token(self.id.clone())).is_some() {
            TokenState::Revoked
        } else if self.uses_left == Some(0) || self.bound.is_some() {
            TokenState::Used
        } else if self.expires_ms < now_ms {
            TokenState::Expired
        } else {
            TokenState::Valid
        };
        TokenInfo {
            id: self.id.clone(),
            role: self.role,
            name: self.name.clone(),
            node: self.node.clone(),
            allow: self.rights.clone(),
            uses_left: self.uses_left,
            ephemeral: self.ephemeral,
            bound: self.bound.is_some(),
            expires_unix_ms: self.expires_ms,
            state: become_of,
        }
    }
}

/// Tokens that nobody asks about any more.
fn outdated(state: &store::State, now_ms: u64) -> Vec<Change> {
    let kept = millis(limits::TOKENS_KEPT);
    let old = state
        .tokens
        .values()
        .filter(|row| row.bound.is_none() && row.expires_ms.saturating_add(kept) < now_ms);
    old.map(|row| Change::DropToken(row.id.clone())).collect()
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

fn not_rotated(error: SecurityError) -> Refusal {
    Refusal::new(Code::Internal, format!("the keys are not exchanged: {error}"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Under which tokens know the explorers they are for.
fn random_name(config: &SecurityConfig) -> String {
    tokens::random_hex::<8>().unwrap_or_else(|_| config.explorer.to_string())
}
