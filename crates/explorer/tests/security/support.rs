//! A security core in a directory of its own, with a clock that stands still.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reachback_explorer::security::{
    Actor, Principal, Record, Security, SecurityConfig, SecurityError, TokenRequest, TokenRole, Uses,
    WallClock,
};
use reachback_link::tls::{CertificateDer, CertificateNames, KeyAndCsr};
use reachback_wire::{Code, Enrolled, NodeId, Refusal, Role, Secret, rights::Rights};
use tempfile::TempDir;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// 2026-11-20 16:14:32.
const BEGIN: u64 = 1_795_191_272_000;

pub(crate) struct Lab {
    place: TempDir,
    clock: Arc<AtomicU64>,
    security: Option<Security>,
    once: OnceLock<Secret>,
    pub(crate) change: fn(&mut SecurityConfig),
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: fn(&mut SecurityConfig)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut lab = Self {
            place,
            clock: Arc::new(AtomicU64::new(BEGIN)),
            security: None,
            once: OnceLock::new(),
            change,
        };
        lab.restart();
        lab
    }

    pub(crate) fn security(&self) -> &Security {
        self.security.as_ref().unwrap()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.place.path().join("state")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    pub(crate) fn stop(&mut self) {
        self.security = None;
    }

    pub(crate) fn restart(&mut self) {
        self.try_restart().unwrap();
    }

    pub(crate) fn try_restart(&mut self) -> Result<(), SecurityError> {
        self.stop();
        self.security = Some(self.open(&self.directory())?);
        Ok(())
    }

    pub(crate) fn open(&self, directory: &Path) -> Result<Security, SecurityError> {
        let mut config = SecurityConfig::new(id("hub-1"));
        let clock = self.clock.clone();
        config.clock = WallClock::new(move || clock.load(Ordering::Relaxed));
        (self.change)(&mut config);
        Security::open(directory, config)
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.clock.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn go_back(&self, time: Duration) {
        self.clock.fetch_sub(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn now_s(&self) -> u64 {
        self.clock.load(Ordering::Relaxed) / 1000
    }

    pub(crate) fn token(&self, request: &TokenRequest) -> Secret {
        self.security().create_token(request, &admin()).unwrap().token
    }

    /// A token for one node of any name.
    pub(crate) fn one_node(&self) -> Secret {
        self.token(&register("*"))
    }

    /// The same token every time: some tests ask very often.
    pub(crate) fn one_node_once(&self) -> Secret {
        self.once.get_or_init(|| self.one_node()).clone()
    }

    pub(crate) fn join(
        &self,
        token: &Secret,
        node: &str,
        key: &KeyAndCsr,
    ) -> Result<CertificateNames, Refusal> {
        self.security()
            .enrol(token, key.csr(), Role::Node, &id(node), "198.51.100.7:4711")
            .map(|made| names(&made))
    }

    pub(crate) fn login(&self, token: &Secret, key: &KeyAndCsr) -> Result<CertificateNames, Refusal> {
        let laptop = id("laptop");
        self.security()
            .enrol(token, key.csr(), Role::Client, &laptop, "198.51.100.8:4711")
            .map(|made| names(&made))
    }

    pub(crate) fn renew(
        &self,
        names: &CertificateNames,
        key: &KeyAndCsr,
    ) -> Result<CertificateNames, Refusal> {
        self.security().renew(names, key.csr(), "198.51.100.7:4711").map(|made| self::names(&made))
    }

    /// A node that has joined.
    pub(crate) fn node(&self, node: &str) -> (CertificateNames, KeyAndCsr) {
        let key = key();
        (self.join(&self.one_node(), node, &key).unwrap(), key)
    }

    pub(crate) fn as_node(&self, names: &CertificateNames, node: &str) -> Result<Principal, Refusal> {
        self.security().admit_certificate(names, Role::Node, &id(node))
    }

    pub(crate) fn as_user(&self, names: &CertificateNames) -> Result<Principal, Refusal> {
        self.security().admit_certificate(names, Role::Client, &id("laptop"))
    }

    /// By a token alone.
    pub(crate) fn bearer(&self, token: &Secret) -> Result<Principal, Refusal> {
        self.security().admit_token(token, Role::Client, &id("laptop"), None)
    }

    pub(crate) fn revoke(&self, what: &str) -> Option<String> {
        self.security().revoke(&what.parse().unwrap(), &admin()).unwrap().note
    }

    pub(crate) fn audit(&self) -> Vec<Record> {
        self.security().audit().last(1000).unwrap()
    }
}

pub(crate) fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

pub(crate) fn admin() -> Actor {
    Actor::new("user \"root\"", "local socket")
}

pub(crate) fn rights(texts: &[&str]) -> Rights {
    Rights::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
}

pub(crate) fn register(nodes: &str) -> TokenRequest {
    TokenRequest {
        role: TokenRole::Register,
        name: None,
        node: Some(nodes.parse().unwrap()),
        allow: Rights::default(),
        ttl: 15 * MINUTE,
        uses: None,
        ephemeral: false,
    }
}

pub(crate) fn replicas(nodes: &str, uses: Uses) -> TokenRequest {
    TokenRequest { uses: Some(uses), ephemeral: true, ..register(nodes) }
}

pub(crate) fn user(name: &str, allow: &[&str]) -> TokenRequest {
    TokenRequest {
        role: TokenRole::User,
        name: Some(id(name)),
        node: None,
        allow: rights(allow),
        ttl: HOUR,
        uses: None,
        ephemeral: false,
    }
}

pub(crate) fn key() -> KeyAndCsr {
    KeyAndCsr::generate("somebody").unwrap()
}

/// What the first certificate of an answer says.
pub(crate) fn names(made: &Enrolled) -> CertificateNames {
    CertificateNames::of(&certificate(made)).unwrap()
}

pub(crate) fn certificate(made: &Enrolled) -> CertificateDer<'static> {
    CertificateDer::from(made.chain[0].0.clone())
}

/// The refusal must have this code, and these words.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    outcome: Result<T, Refusal>,
    code: Code,
    words: &[&str],
) -> Refusal {
    let refusal = outcome.unwrap_err();
    assert_eq!(refusal.code, code, "{refusal}");
    for word in words {
        assert!(refusal.message.contains(word), "{word:?} is missing: {refusal}");
    }
    assert!(refusal.message.len() < 1024, "it would be cut: {refusal}");
    refusal
}
