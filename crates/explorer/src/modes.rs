//! Which listener believes whom.
//!
//! An explorer is as safe as its most careless listener, so each has a mode of its own, and without one the address it
//! is bound to decides: loopback is for trying things out, everything else is strict. It is never the peer's address
//! that counts, because a port mapping makes every stranger look local. A listener whose mode needs what is not
//! there, or authentication that no listener would ask for, is refused before anything is bound: what is configured
//! and ignored looks like safety.

use std::{fmt, path::PathBuf, str::FromStr};

use reachback_link::{Cidr, ListenAddress};
use reachback_wire::{nearest, text::sanitize};

use crate::config::{ConfigError, ExplorerConfig};

/// How much a listener asks of whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// TLS, and certificates of nodes that name the node they come as.
    Strict,
    /// TLS, and a token or a certificate.
    Permissive,
    /// Nothing is encrypted and everybody is believed, unless a shared secret is configured.
    Development,
    /// As `development`, under the name of those who had it before.
    Legacy,
}

/// Where a node's certificate must name the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeIdVerification {
    /// Nowhere: any certificate of a trusted authority is any node.
    None,
    /// The common name of its subject is the node id.
    CommonName,
    /// One of its DNS names is the node id.
    SubjectAltName,
}

/// One TCP listener that speaks the tunnel, HTTP and raw JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where it listens.
    pub address: ListenAddress,
    /// What it asks; without one the address decides.
    pub mode: Option<Mode>,
    /// Who may connect at all; empty: everybody.
    pub allow: Vec<Cidr>,
    /// Balancers that say in the PROXY protocol whom they connect for; nobody else may.
    pub proxy_from: Vec<Cidr>,
}

/// Certificates that somebody else made: `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The explorer's certificate and what leads to its authority, PEM. Without it the explorer makes its own.
    pub cert_path: Option<PathBuf>,
    /// The key to it, PEM.
    pub key_path: Option<PathBuf>,
    /// The authorities whose certificates nodes and users may show, PEM; several while one replaces the other.
    pub ca_cert_path: Option<PathBuf>,
    /// Whether nodes must show a certificate; without it the mode decides.
    pub require_client_auth: Option<bool>,
    /// Where such a certificate must name the node; without it: in a DNS name.
    pub node_id_verification: Option<NodeIdVerification>,
}

/// A certificate for browsers: `[web]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebFiles {
    /// The certificate and what leads to its authority, PEM.
    pub cert_path: PathBuf,
    /// The key to it, PEM.
    pub key_path: PathBuf,
}

/// A listener's mode, and why it has that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerMode {
    /// Where it listens, as configured.
    pub address: ListenAddress,
    /// What it asks.
    pub mode: Mode,
    /// Where the mode comes from, as in "it is bound to loopback".
    pub why: &'static str,
}

/// A word that is no mode, or no way to name a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is no {what}{near}; there are: {all}")]
pub struct WordError {
    given: String,
    what: &'static str,
    near: String,
    all: String,
}

impl Mode {
    /// Whether its listeners speak TLS and nothing else.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Strict | Self::Permissive)
    }

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Development => "development",
            Self::Legacy => "legacy",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = WordError;

    fn from_str(given: &str) -> Result<Self, WordError> {
        let all = [Self::Strict, Self::Permissive, Self::Development, Self::Legacy];
        word(given, "mode", all.map(|mode| (mode.name(), mode)))
    }
}

impl NodeIdVerification {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::CommonName => "CommonName",
            Self::SubjectAltName => "SubjectAltName",
        }
    }
}

impl fmt::Display for NodeIdVerification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NodeIdVerification {
    type Err = WordError;

    fn from_str(given: &str) -> Result<Self, WordError> {
        let all = [Self::None, Self::CommonName, Self::SubjectAltName];
        word(given, "node_id_verification", all.map(|way| (way.name(), way)))
    }
}

impl ListenerConfig {
    /// A listener whose address decides its mode, open to every address.
    #[must_use]
    pub fn new(address: ListenAddress) -> Self {
        Self { address, mode: None, allow: Vec::new(), proxy_from: Vec::new() }
    }
}

impl ExplorerConfig {
    /// Every TCP listener of the tunnel: those of `listen`, then the others.
    #[must_use]
    pub fn all_listeners(&self) -> Vec<ListenerConfig> {
        let main = self.listen.iter().cloned().map(ListenerConfig::new);
        main.map(|listener| ListenerConfig { mode: self.mode, ..listener })
            .chain(self.listeners.iter().cloned())
            .collect()
    }

    /// The mode of every TCP listener, in the order of [`ExplorerConfig::all_listeners`].
    #[must_use]
    pub fn modes(&self) -> Vec<ListenerMode> {
        let listeners = self.all_listeners().into_iter();
        listeners
            .map(|listener| {
                let (mode, why) = match listener.mode {
                    Some(mode) => (mode, "configured"),
                    None if listener.address.is_loopback() => {
                        (Mode::Development, "it is bound to a loopback address")
                    }
                    None if self.insecure_plaintext => (Mode::Development, "--insecure-plaintext"),
                    None => (Mode::Strict, "other machines can reach it"),
                };
                ListenerMode { address: listener.address, mode, why }
            })
            .collect()
    }

    /// Whether any listener speaks TLS, which is what needs certificates, tokens and a state directory.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.modes().iter().any(|listener| listener.mode.is_encrypted())
    }

    /// The rules about modes, and what they need.
    pub(crate) fn check_modes(&self) -> Result<(), ConfigError> {
        let modes = self.modes();
        let own = self.tls.clone().unwrap_or_default();
        let brought = own.cert_path.is_some();
        for ListenerMode { address, mode, .. } in &modes {
            let (address, mode) = (address.clone(), *mode);
            if !mode.is_encrypted() {
                if !address.is_loopback() && !self.insecure_plaintext {
                    return Err(ConfigError::Plaintext(address));
                }
                continue;
            }
            if self.state_dir.is_none() && !brought {
                return Err(ConfigError::TlsRequired { address, mode });
            }
            if self.state_dir.is_none() {
                return Err(ConfigError::StateDirRequired(address));
            }
            if mode == Mode::Strict && own.require_client_auth == Some(false) {
                return Err(ConfigError::MtlsRequired(address));
            }
            if mode == Mode::Strict && own.node_id_verification == Some(NodeIdVerification::None) {
                return Err(ConfigError::NodeIdVerificationRequired(address));
            }
        }
        if own.cert_path.is_some() != own.key_path.is_some() {
            let missing = if brought { "key_path" } else { "cert_path" };
            return Err(ConfigError::HalfAPair { missing });
        }
        if !self.is_secured() {
            let unused = [
                ("[tls]", self.tls.is_some()),
                ("[web]", self.web.is_some()),
                ("[[caller]]", !self.callers.is_empty()),
            ];
            if let Some((what, _)) = unused.into_iter().find(|(_, given)| *given) {
                return Err(ConfigError::Unused { what, remedy: "set mode = \"strict\" or \"permissive\"" });
            }
        }
        let strict = modes.iter().all(|listener| listener.mode == Mode::Strict);
        if self.secret.is_some() && strict {
            let remedy =
                "strict listeners take certificates only; take the secret out, or set mode = \"permissive\"";
            return Err(ConfigError::Unused { what: "the shared secret", remedy });
        }
        Ok(())
    }
}

fn word<T: Copy, const N: usize>(
    given: &str,
    what: &'static str,
    all: [(&'static str, T); N],
) -> Result<T, WordError> {
    if let Some((_, value)) = all.iter().find(|(name, _)| name.eq_ignore_ascii_case(given)) {
        return Ok(*value);
    }
    let near = nearest(given, all.iter().map(|(name, _)| *name));
    let near = near.map_or(String::new(), |near| format!(", did you mean {near}?"));
    let all: Vec<_> = all.iter().map(|(name, _)| *name).collect();
    Err(WordError { given: sanitize(given, 40), what, near, all: all.join(", ") })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reachback_wire::Secret;

    use super::*;
    use crate::limits;

    fn listen(config: &mut ExplorerConfig, address: &str) {
        config.listen.push(address.parse().unwrap());
    }

    fn config(address: &str) -> ExplorerConfig {
        let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
        listen(&mut config, address);
        config
    }

    fn modes(config: &ExplorerConfig) -> Vec<Mode> {
        config.modes().iter().map(|listener| listener.mode).collect()
    }

    #[test]
    fn without_a_mode_the_bound_address_decides() {
        for (address, mode) in [
            ("127.0.0.1:0", Mode::Development),
            ("[::1]:0", Mode::Development),
            ("localhost:0", Mode::Development),
            (":9002", Mode::Strict),
            ("0.0.0.0:9002", Mode::Strict),
            ("10.0.0.7:9002", Mode::Strict),
        ] {
            assert_eq!(modes(&config(address)), [mode], "{address}");
        }
        let mut both = config("127.0.0.1:0");
        listen(&mut both, ":9002");
        assert_eq!(modes(&both), [Mode::Development, Mode::Strict]);
        both.mode = Some(Mode::Permissive);
        assert_eq!(modes(&both), [Mode::Permissive, Mode::Permissive]);
        let legacy = ListenerConfig {
            mode: Some(Mode::Legacy),
            ..ListenerConfig::new("127.0.0.1:9003".parse().unwrap())
        };
        both.listeners.push(legacy);
        assert_eq!(modes(&both), [Mode::Permissive, Mode::Permissive, Mode::Legacy]);
    }

    /// What is refused, in the order in which it is looked for.
    #[test]
    fn what_a_mode_needs_is_asked_for_in_a_fixed_order() {
        let mut config = config(":9002");
        let refusal = |config: &ExplorerConfig| config.check().unwrap_err();
        config.tls = Some(TlsFiles {
            require_client_auth: Some(false),
            node_id_verification: Some(NodeIdVerification::None),
            ..TlsFiles::default()
        });
        let first = refusal(&config);
        assert!(matches!(&first, ConfigError::TlsRequired { mode: Mode::Strict, .. }), "{first}");
        assert!(first.to_string().contains("--state-dir"), "{first}");

        config.state_dir = Some("/var/lib/reachback/explorer".into());
        let second = refusal(&config);
        assert!(matches!(&second, ConfigError::MtlsRequired(_)), "{second}");
        config.tls.as_mut().unwrap().require_client_auth = Some(true);
        let third = refusal(&config);
        assert!(matches!(&third, ConfigError::NodeIdVerificationRequired(_)), "{third}");
        config.tls.as_mut().unwrap().node_id_verification = Some(NodeIdVerification::CommonName);
        config.check().unwrap();

        config.mode = Some(Mode::Permissive);
        config.tls.as_mut().unwrap().require_client_auth = Some(false);
        config.check().unwrap();
        config.tls.as_mut().unwrap().key_path = Some("/etc/hub.key".into());
        assert_eq!(refusal(&config), ConfigError::HalfAPair { missing: "cert_path" });
        config.tls.as_mut().unwrap().key_path = None;
        config.tls.as_mut().unwrap().cert_path = Some("/etc/hub.pem".into());
        assert_eq!(refusal(&config), ConfigError::HalfAPair { missing: "key_path" });
    }

    #[test]
    fn plaintext_for_strangers_needs_the_exact_flag_whatever_the_mode_is_called() {
        for mode in [Mode::Development, Mode::Legacy] {
            let mut config = config(":9002");
            config.mode = Some(mode);
            assert!(matches!(config.check(), Err(ConfigError::Plaintext(_))), "{mode}");
            config.insecure_plaintext = true;
            config.check().unwrap();
        }
        let mut lab = config(":9002");
        lab.insecure_plaintext = true;
        assert_eq!(modes(&lab), [Mode::Development], "the flag says what is wanted");
    }

    #[test]
    fn what_is_configured_and_would_be_ignored_is_refused() {
        let files = || Some("/x.pem".into());
        let loopback = || config("127.0.0.1:0");
        let mut tls = loopback();
        tls.tls = Some(TlsFiles { cert_path: files(), key_path: files(), ..TlsFiles::default() });
        let mut web = loopback();
        web.web = Some(WebFiles { cert_path: "/x.pem".into(), key_path: "/x.pem".into() });
        for (config, what) in [(&mut tls, "[tls]"), (&mut web, "[web]")] {
            let refusal = config.check().unwrap_err();
            assert!(
                matches!(&refusal, ConfigError::Unused { what: named, .. } if *named == what),
                "{refusal}"
            );
            config.mode = Some(Mode::Permissive);
            config.state_dir = Some("/var/lib/reachback/explorer".into());
            config.check().unwrap();
        }
        let mut secret = config(":9002");
        secret.state_dir = Some("/var/lib/reachback/explorer".into());
        secret.secret = Some(Arc::new(Secret::new("a secret of the lab".to_owned())));
        let refusal = secret.check().unwrap_err().to_string();
        assert!(refusal.contains("permissive") && !refusal.contains("of the lab"), "{refusal}");
        listen(&mut secret, "127.0.0.1:0");
        secret.check().unwrap();
    }

    #[test]
    fn words_are_taken_in_any_case_and_others_are_named() {
        assert_eq!("Strict".parse(), Ok(Mode::Strict));
        assert_eq!("SubjectAltName".parse(), Ok(NodeIdVerification::SubjectAltName));
        let refusal = "developement".parse::<Mode>().unwrap_err().to_string();
        assert!(refusal.contains("development?") && refusal.contains("legacy"), "{refusal}");
        let refusal = "x\u{1b}[31m".repeat(100).parse::<NodeIdVerification>().unwrap_err().to_string();
        assert!(refusal.len() < limits::TEXT && !refusal.contains('\u{1b}'), "{refusal}");
    }
}
