//! What the commands of callers have in common: which explorer, as whom, and over which network.

use std::path::PathBuf;

use clap::Args;

use crate::config::{dialled::Dialled, proxy::ProxyChoice};

/// The way out of this machine's network.
#[derive(Debug, Args)]
pub(crate) struct ProxyArguments {
    /// Dial explorers through this proxy: http://HOST:PORT, socks5://HOST:PORT, or off. HTTPS_PROXY is
    /// used if absent; NO_PROXY names what goes around it.
    #[arg(long, value_name = "PROXY", env = "REACHBACK_PROXY", hide_env_values = true)]
    pub(crate) proxy: Option<ProxyChoice>,
}

/// What is shown to an explorer by whoever has not joined it or logged in, and how it is recognised. Secrets stand in
/// files: a command line can be read by everybody on the machine.
#[derive(Debug, Args)]
pub(crate) struct CredentialArguments {
    /// A file with a token to show instead of a certificate; - is stdin.
    #[arg(long, value_name = "FILE", env = "REACHBACK_TOKEN_FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the secret that a lab's explorer and all who use it share; - is stdin.
    #[arg(long, value_name = "FILE", env = "REACHBACK_SECRET_FILE", hide_env_values = true)]
    pub(crate) secret_file: Option<PathBuf>,
    /// The certificate authorities, PEM, by which the explorer is recognised.
    #[arg(long, value_name = "FILE", env = "REACHBACK_CA_FILE", hide_env_values = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// A certificate of another authority to show, PEM; with --key-file and --ca-file.
    #[arg(long, value_name = "FILE", env = "REACHBACK_CERT_FILE", hide_env_values = true)]
    pub(crate) cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", env = "REACHBACK_KEY_FILE", hide_env_values = true)]
    pub(crate) key_file: Option<PathBuf>,
    /// For labs: dial other machines although nothing is encrypted and anybody could be that explorer.
    #[arg(
        long,
        env = "REACHBACK_INSECURE_PLAINTEXT",
        hide_env_values = true,
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) insecure_plaintext: bool,
}

/// Whether what passes between here and the explorer is compressed.
#[derive(Debug, Args)]
pub(crate) struct CompressArguments {
    /// Compress what passes between here and the explorer: for text over a thin line.
    #[arg(
        long,
        env = "REACHBACK_COMPRESS",
        hide_env_values = true,
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub(crate) compress: bool,
}

/// Which explorer a client command asks, and as whom.
#[derive(Debug, Args)]
pub(crate) struct ClientArguments {
    /// The explorer to ask: HOST:PORT, HOST (port 9002) or unix:///path. If absent that of the profile, else
    /// the local Unix socket.
    #[arg(long, value_name = "ADDRESS", env = "REACHBACK_EXPLORER", hide_env_values = true)]
    pub(crate) explorer: Option<Dialled>,
    /// A profile of `reachback login`; the last one made if absent.
    #[arg(long, value_name = "NAME", env = "REACHBACK_PROFILE", hide_env_values = true)]
    pub(crate) profile: Option<String>,
    #[command(flatten)]
    pub(crate) credentials: CredentialArguments,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}
