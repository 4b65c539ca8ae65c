//! What a dialer shows instead of a certificate that it got by joining or logging in: a token, a lab's secret, or a
//! certificate that somebody else made; and by which authorities it recognises the explorer.
//!
//! Everything stands in files. What is named and would not be used is refused: it looks like safety.

use std::{
    fs,
    path::{Path, PathBuf},
};

use reachback_client::{Access, AccessError};
use reachback_link::tls::{Identity, ServerTrust, certificates_from_pem};

use crate::{
    args::CredentialArguments,
    config::{certificates::OwnCertificate, dialled::Dialled, secret},
    exit::Failure,
};

/// The files that were named.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) token: Option<PathBuf>,
    pub(crate) secret: Option<PathBuf>,
    pub(crate) own: Option<OwnCertificate>,
    pub(crate) ca: Option<PathBuf>,
    /// The word that plaintext is fine.
    pub(crate) insecure: bool,
}

impl Shown {
    /// What the command line names.
    ///
    /// # Errors
    /// A certificate without its key, or a key without its certificate.
    pub(crate) fn of(arguments: CredentialArguments) -> Result<Self, Failure> {
        let CredentialArguments { token_file, secret_file, ca_file, cert_file, key_file, insecure_plaintext } =
            arguments;
        let own = OwnCertificate::of(cert_file, key_file, ("--cert-file", "--key-file"))?;
        Ok(Self { token: token_file, secret: secret_file, own, ca: ca_file, insecure: insecure_plaintext })
    }
}

impl Shown {
    /// Whether any was named.
    pub(crate) fn is_anything(&self) -> bool {
        self.token.is_some() || self.secret.is_some() || self.own.is_some() || self.ca.is_some()
    }

    /// Whether the files can be read a second time.
    pub(crate) fn can_be_read_again(&self) -> bool {
        let stdin = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
        !stdin(&self.token) && !stdin(&self.secret)
    }

    /// The flags with which another process shows the same.
    ///
    /// # Errors
    /// Something came from stdin, which can be read once, or the working directory has no name.
    pub(crate) fn flags(&self) -> Result<Vec<String>, Failure> {
        let mut flags = Vec::new();
        if self.insecure {
            flags.push("--insecure-plaintext".to_owned());
        }
        let own = self.own.as_ref();
        for (flag, path) in [
            ("--token-file", self.token.as_ref()),
            ("--secret-file", self.secret.as_ref()),
            ("--ca-file", self.ca.as_ref()),
            ("--cert-file", own.map(|own| &own.cert_path)),
            ("--key-file", own.map(|own| &own.key_path)),
        ] {
            let Some(path) = path else { continue };
            let path = match path.to_str() {
                Some("-") => Err("stdin can be read once only; write a file".to_owned()),
                _ => std::path::absolute(path).map_err(|error| error.to_string()),
            };
            let path = path.and_then(|path| {
                path.into_os_string().into_string().map_err(|_| "it is not UTF-8".to_owned())
            });
            let path = path.map_err(|why| Failure::usage(format_args!("{flag}: {why}")))?;
            flags.extend([flag.to_owned(), path]);
        }
        Ok(flags)
    }

    /// The way in that the files make; none if no file was named. `to` is what will be dialled.
    ///
    /// # Errors
    /// A file can't be read, two of them say different things, or one alone says nothing.
    pub(crate) fn access(self, to: &[Dialled]) -> Result<Option<Access>, Failure> {
        let Self { token, secret, own, ca, insecure } = self;
        let trust = ca.as_deref().map(trust).transpose()?;
        match (token, secret, own, trust) {
            (None, None, None, None) => Ok(None),
            (None, None, None, Some(_)) => Err(Failure::config(
                "the CA file says how the explorer is recognised, and there is nothing to show to it; add --token-file \
                 FILE, or join or log in, which need no CA file",
            )),
            (Some(path), None, None, trust) => {
                if trust.is_none()
                    && let Some(far) = to.iter().find(|dialled| !dialled.is_near())
                {
                    return Err(Failure::config(format_args!(
                        "{far}: without its authority the token would cross the network readable to everybody on the \
                         way; name it: --ca-file FILE"
                    )));
                }
                made(Access::token(secret::read(&path, "--token-file")?, trust.as_ref()))
            }
            (None, Some(path), None, trust) => {
                // Both ends prove that they know it, and what passes then is readable all the same.
                if trust.is_none() {
                    let remedy = "add its authority to the secret: --ca-file FILE";
                    to.iter().try_for_each(|dialled| dialled.in_plaintext(insecure, remedy))?;
                }
                made(Access::secret(secret::shared(&path)?, trust.as_ref()))
            }
            (None, None, Some(own), Some(trust)) => made(Access::certificate(&identity(&own)?, &trust)),
            (None, None, Some(_), None) => Err(Failure::config(
                "a certificate is shown to nobody who is not recognised: name the authorities of the explorer, --ca-file or \
                 [tls] ca_cert_path",
            )),
            _ => Err(Failure::config(
                "a token, a secret and a certificate are three ways to say who this is; give one of them",
            )),
        }
    }
}

fn made(access: Result<Access, AccessError>) -> Result<Option<Access>, Failure> {
    access.map(Some).map_err(Failure::config)
}

fn trust(path: &Path) -> Result<ServerTrust, Failure> {
    let roots = certificates_from_pem(&bytes(path)?).map_err(|error| refused(path, &error))?;
    Ok(ServerTrust { pins: Vec::new(), roots })
}

fn identity(own: &OwnCertificate) -> Result<Identity, Failure> {
    let (chain, key) = (bytes(&own.cert_path)?, bytes(&own.key_path)?);
    Identity::from_pem(&chain, &key).map_err(|error| {
        let key = own.key_path.display();
        Failure::config(format_args!("{} and {key}: {error}", own.cert_path.display()))
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| refused(path, &error))
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::config(format_args!("{}: {why}", path.display()))
}
