//! An explorer to dial, as it is typed: the address, and whether somebody insists on TLS.
//!
//! The scheme names the transport, not the trust. What is encrypted follows from what the dialer knows of the explorer;
//! `tls://` only refuses to go on where it knows nothing.

use std::{fmt, net::IpAddr, str::FromStr};

use reachback_link::{Address, AddressError};

use crate::exit::Failure;

/// `HOST[:PORT]`, `tcp://HOST[:PORT]`, `tls://HOST[:PORT]`, `unix:///path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialled {
    pub(crate) address: Address,
    tls: bool,
}

impl FromStr for Dialled {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().strip_prefix("tls://") {
            Some(rest) => Ok(Self { address: format!("tcp://{rest}").parse()?, tls: true }),
            None => Ok(Self::from(text.parse::<Address>()?)),
        }
    }
}

impl From<Address> for Dialled {
    fn from(address: Address) -> Self {
        Self { address, tls: false }
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.tls { "tls://" } else { "" }, self.address)
    }
}

impl Dialled {
    /// Whether it may be dialled by somebody who has nothing to recognise its explorer by. `insecure` is the word that
    /// this is fine.
    ///
    /// # Errors
    /// TLS was asked for, or others could listen on the way, or be that explorer, and nobody said that this is fine.
    pub(crate) fn in_plaintext(&self, insecure: bool, remedy: &str) -> Result<(), Failure> {
        match (self.tls, insecure || self.is_near()) {
            (false, true) => Ok(()),
            (true, _) => Err(Failure::config(format_args!(
                "{self}: nothing says how that explorer is recognised; {remedy}, or name its authority: --ca-file FILE"
            ))),
            (false, false) => Err(Failure::config(format_args!(
                "{self}: nothing says how that explorer is recognised, and in plaintext everybody on the way could read and \
                 change what passes; {remedy}, or, on a network you trust, add --insecure-plaintext"
            ))),
        }
    }

    /// Whether what is sent there passes no network.
    pub(crate) fn is_near(&self) -> bool {
        match &self.address {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => {
                host == "localhost"
                    || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        for (text, shown, tls) in [
            ("hub", "hub:9002", false),
            ("tcp://hub:1", "hub:1", false),
            ("tls://hub", "tls://hub:9002", true),
            ("tls://[::1]:1", "tls://[::1]:1", true),
            ("/run/x.sock", "unix:///run/x.sock", false),
        ] {
            let dialled: Dialled = text.parse().unwrap();
            assert_eq!((dialled.to_string().as_str(), dialled.tls), (shown, tls));
            assert_eq!(dialled.in_plaintext(true, "log in").is_err(), tls);
        }
        for (text, near) in [
            ("127.0.0.1:1", true),
            ("[::1]", true),
            ("localhost", true),
            ("/run/x.sock", true),
            ("hub", false),
            ("10.0.0.7", false),
            ("localhost.example.com", false),
        ] {
            let dialled: Dialled = text.parse().unwrap();
            assert_eq!(dialled.in_plaintext(false, "log in").is_ok(), near, "{text}");
        }
        let refusal =
            "hub".parse::<Dialled>().unwrap().in_plaintext(false, "log in").unwrap_err().to_string();
        assert!(refusal.contains("log in") && refusal.contains("--insecure-plaintext"), "{refusal}");
        assert!("tls:///run/x.sock".parse::<Dialled>().is_err());
        assert!("tls://".parse::<Dialled>().is_err());
    }
}
