//! Where to dial and where to listen, as people type it.
//!
//! The scheme names the transport, not the trust: `tcp://` and a bare `HOST[:PORT]` are the same. Refusals name the
//! entry, because addresses arrive in comma-separated lists.

use std::{fmt, path::PathBuf, str::FromStr};

use reachback_wire::text::sanitize;

/// The port of an address that names none.
pub const DEFAULT_PORT: u16 = 9002;

/// Where a dialer finds its peer: `HOST[:PORT]`, `tcp://HOST[:PORT]`, `unix:///path` or `/path`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A host name or IP literal (IPv6 without its brackets) and a port.
    Tcp {
        /// Looked up anew at every attempt.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A Unix socket's absolute path.
    Unix(PathBuf),
}

/// Where a listener binds: `:9002` (dual stack), `127.0.0.1:0`, `[::1]:9002`, `9002`, `unix:///path`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// `host` absent: every address of the machine, IPv6 and IPv4 on one socket where the kernel can.
    Tcp {
        /// An IP literal or a name that resolves to a local address.
        host: Option<String>,
        /// 0 lets the kernel choose.
        port: u16,
    },
    /// A Unix socket's absolute path.
    Unix(PathBuf),
}

/// An address that can't be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address \"{entry}\": {reason}")]
pub struct AddressError {
    entry: String,
    reason: &'static str,
}

impl AddressError {
    fn new(entry: &str, reason: &'static str) -> Self {
        Self { entry: sanitize(entry, 80), reason }
    }

    /// What is wrong, without the entry: for who got it out of a longer one.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = text.trim();
        if let Some(path) = unix_path(entry)? {
            return Ok(Self::Unix(path));
        }
        let (host, port) = host_and_port(entry)?;
        let port = port.unwrap_or(DEFAULT_PORT);
        if port == 0 {
            return Err(AddressError::new(
                entry,
                "port 0 can't be dialled; name the port the explorer listens on",
            ));
        }
        if host.is_empty() {
            return Err(AddressError::new(
                entry,
                "no host; write HOST:PORT, for example hub.example.com:9002",
            ));
        }
        Ok(Self::Tcp { host, port })
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = text.trim();
        if let Some(path) = unix_path(entry)? {
            return Ok(Self::Unix(path));
        }
        if let Ok(port) = entry.parse::<u16>() {
            return Ok(Self::Tcp { host: None, port });
        }
        let (host, port) = host_and_port(entry)?;
        let host = Some(host).filter(|host| !host.is_empty() && host != "*");
        Ok(Self::Tcp { host, port: port.unwrap_or(DEFAULT_PORT) })
    }
}

impl ListenAddress {
    /// Whether only this machine can reach it: a Unix socket, `localhost`, or a loopback IP literal.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host: None, .. } => false,
            Self::Tcp { host: Some(host), .. } => {
                host == "localhost"
                    || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host: None, port } => write!(f, ":{port}"),
            Self::Tcp { host: Some(host), port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host: Some(host), port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

fn unix_path(entry: &str) -> Result<Option<PathBuf>, AddressError> {
    let path = match entry.strip_prefix("unix://") {
        Some(path) => path,
        None if entry.starts_with('/') => entry,
        None => return Ok(None),
    };
    if !path.starts_with('/') {
        return Err(AddressError::new(
            entry,
            "a Unix socket needs an absolute path, as in unix:///run/reachback.sock",
        ));
    }
    if path.contains('\0') {
        return Err(AddressError::new(entry, "a path can't hold a NUL byte"));
    }
    Ok(Some(PathBuf::from(path)))
}

/// `HOST`, `HOST:PORT`, `[v6]`, `[v6]:PORT`, `:PORT`, with or without `tcp://`.
fn host_and_port(entry: &str) -> Result<(String, Option<u16>), AddressError> {
    let rest = match entry.split_once("://") {
        None => entry,
        Some(("tcp", rest)) => rest,
        Some(("tls", _)) => {
            return Err(AddressError::new(
                entry,
                "tls:// is not written here: whether it is encrypted follows from the explorer's mode and from what the \
                 dialer shows; write HOST:PORT",
            ));
        }
        Some(_) => {
            return Err(AddressError::new(entry, "unknown scheme; use tcp://HOST:PORT or unix:///path"));
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() {
        return Err(AddressError::new(entry, "it is empty; write HOST:PORT or unix:///path"));
    }
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let Some((host, after)) = bracketed.split_once(']') else {
            return Err(AddressError::new(entry, "the bracket of the IPv6 address is not closed"));
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(AddressError::new(entry, "what stands in brackets is not an IPv6 address"));
        }
        match after {
            "" => (host, None),
            _ => match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return Err(AddressError::new(entry, "after the bracket only :PORT may follow")),
            },
        }
    } else {
        match rest.rsplit_once(':') {
            None => (rest, None),
            Some((host, _)) if host.contains(':') => {
                return Err(AddressError::new(entry, "an IPv6 address goes in brackets, as in [::1]:9002"));
            }
            Some((host, port)) => (host, Some(port)),
        }
    };
    if host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/' || c == '@' || c == '?') {
        return Err(AddressError::new(entry, "the host has a character that no host name has"));
    }
    if host.len() > 253 {
        return Err(AddressError::new(entry, "the host is longer than a name can be (253)"));
    }
    let port = match port {
        None => None,
        Some(port) => Some(port.parse::<u16>().map_err(|_| AddressError::new(entry, no_port(host)))?),
    };
    Ok((host.to_owned(), port))
}

/// A scheme with too few slashes reads as a host.
fn no_port(host: &str) -> &'static str {
    match host {
        "unix" => "a Unix socket is written unix:///path",
        "tcp" => "write tcp://HOST:PORT, or HOST:PORT alone",
        _ => "the port is not a number from 0 to 65535",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_people_type() {
        for (typed, shown) in [
            ("hub", "hub:9002"),
            (" hub.example.com:443 ", "hub.example.com:443"),
            ("tcp://10.0.0.1:9002/", "10.0.0.1:9002"),
            ("[::1]", "[::1]:9002"),
            ("tcp://[2001:db8::1]:1", "[2001:db8::1]:1"),
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("/run/x.sock", "unix:///run/x.sock"),
        ] {
            let address: Address = typed.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address, "what is shown can be typed");
        }
    }

    #[test]
    fn refusals_name_the_entry() {
        for (typed, part) in [
            ("", "empty"),
            ("http://hub", "unknown scheme"),
            ("unix:path", "unix:///path"),
            ("tcp:hub", "tcp://HOST:PORT"),
            ("hub:port", "0 to 65535"),
            ("tls://hub", "follows from the explorer's mode"),
            ("::1", "brackets"),
            ("[::1", "not closed"),
            ("[zz]:1", "not an IPv6"),
            ("hub:99999", "not a number"),
            ("hub:0", "can't be dialled"),
            ("unix://relative", "absolute path"),
            ("a b:1", "no host name has"),
            (":9002", "no host"),
        ] {
            let refusal = typed.parse::<Address>().unwrap_err().to_string();
            assert!(refusal.contains(part), "{typed}: {refusal}");
            assert!(refusal.contains(typed), "{typed}: {refusal}");
        }
    }

    #[test]
    fn listeners_know_whether_they_are_local() {
        for (typed, loopback) in [
            (":9002", false),
            ("9002", false),
            ("0.0.0.0:1", false),
            ("*:1", false),
            ("127.0.0.1:0", true),
            ("127.9.9.9:0", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            ("localhost:0", true),
            ("10.0.0.1:0", false),
            ("unix:///x", true),
        ] {
            assert_eq!(typed.parse::<ListenAddress>().unwrap().is_loopback(), loopback, "{typed}");
        }
        assert_eq!("9002".parse::<ListenAddress>().unwrap().to_string(), ":9002");
    }
}
