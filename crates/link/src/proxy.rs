//! The way out of a network that only lets its proxy through.
//!
//! Many nodes stand in networks where a direct connection is dropped in silence and a proxy is the only way out. Its
//! address comes with credentials as often as not, so everything that shows a proxy (errors, logs, Debug) shows it
//! without them, and nothing here repeats an entry it could not read in full. Where the settings come from is the
//! caller's business: a library does not read the environment.

mod connect;

use std::{fmt, net::IpAddr, str::FromStr};

use reachback_wire::text::sanitize;

pub use connect::Proxied;

use crate::{Address, Cidr};

/// A proxy, how to sign in to it, and what goes around it.
#[derive(Clone)]
pub struct Proxy {
    language: Language,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
    except: NoProxy,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    /// `CONNECT` of HTTP/1.1.
    Http,
    /// SOCKS 5; names are looked up by the proxy.
    Socks5,
}

/// No Debug: a password must not end up in a log by accident.
#[derive(Clone)]
struct Credentials {
    user: String,
    password: String,
}

/// Hosts that are reached without the proxy. The part of the usual `NO_PROXY` that everybody agrees on, entries
/// separated by commas:
///
/// * `*`: everything
/// * `example.com`: this host and everything below it; `.example.com` and `*.example.com`: only what is below it
/// * `10.0.0.5`, `10.0.0.0/8`, `fd00::/8`: addresses, compared with targets that are addresses; no name is looked up
/// * any of these but a block with `:PORT` behind it (IPv6 in brackets): only that port
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    what: Matches,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matches {
    Everything,
    /// In lower case.
    HostAndBelow(String),
    Below(String),
    Block(Cidr),
}

/// A proxy or an exception that can't be used. Never repeats credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{entry}\": {reason}")]
pub struct ProxySyntaxError {
    what: &'static str,
    entry: String,
    reason: String,
}

impl Proxy {
    /// The same proxy with hosts that go around it.
    #[must_use]
    pub fn with_exceptions(mut self, except: NoProxy) -> Self {
        self.except = except;
        self
    }

    /// Whether this address is reached through the proxy. Unix sockets never are.
    pub fn carries(&self, to: &Address) -> bool {
        match to {
            Address::Tcp { host, port } => !self.except.covers(host, *port),
            Address::Unix(_) => false,
        }
    }

    /// Where the proxy is.
    fn address(&self) -> Address {
        Address::Tcp { host: self.host.clone(), port: self.port }
    }
}

impl FromStr for Proxy {
    type Err = ProxySyntaxError;

    /// `http://[USER:PASSWORD@]HOST[:PORT]` (port 80) or `socks5://…` (port 1080); without a scheme it is `http`. `%40`
    /// stands for an `@` in user or password, and so on.
    fn from_str(text: &str) -> Result<Self, ProxySyntaxError> {
        let text = text.trim();
        let refuse = |reason: String| Err(ProxySyntaxError { what: "proxy", entry: masked(text), reason });
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let (language, default) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Language::Http, 80),
            "socks5" | "socks5h" => (Language::Socks5, 1080),
            "https" => {
                return refuse(
                    "TLS to the proxy is not in this version; write http:// if it takes that too".into(),
                );
            }
            _ => {
                return refuse("unknown kind of proxy; write http://HOST:PORT or socks5://HOST:PORT".into());
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => match Credentials::parse(credentials, language) {
                Ok(credentials) => (Some(credentials), host),
                Err(reason) => return refuse(reason.into()),
            },
            None => (None, rest),
        };
        let with_port = match host_has_port(host) {
            true => host.to_owned(),
            false => format!("{host}:{default}"),
        };
        match with_port.parse::<Address>() {
            Ok(Address::Tcp { host, port }) if !host.is_empty() => {
                Ok(Self { language, host, port, credentials, except: NoProxy::default() })
            }
            Ok(_) => refuse("no host; write http://HOST:PORT".into()),
            // Its entry could be a password that stands in the host's place.
            Err(error) => refuse(error.reason().into()),
        }
    }
}

impl fmt::Display for Proxy {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.language {
            Language::Http => "http",
            Language::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.address())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signs_in = if self.credentials.is_some() { ", signs in" } else { "" };
        write!(f, "Proxy({self}{signs_in})")
    }
}

impl Credentials {
    fn parse(text: &str, language: Language) -> Result<Self, &'static str> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let not_decoded = "after % in user and password stand two hexadecimal digits (%25 is a %)";
        let user = percent_decoded(user).ok_or(not_decoded)?;
        let password = percent_decoded(password).ok_or(not_decoded)?;
        if user.is_empty() {
            return Err("the user before the @ is empty; write USER:PASSWORD@HOST:PORT");
        }
        match language {
            Language::Http if user.contains(':') => Err("a user with a colon can't sign in over HTTP"),
            Language::Socks5 if user.len() > 255 || password.is_empty() || password.len() > 255 => {
                Err("over SOCKS user and password have from 1 to 255 bytes each")
            }
            Language::Http | Language::Socks5 => Ok(Self { user, password }),
        }
    }
}

impl NoProxy {
    /// The same, and this machine as well: what people expect of `NO_PROXY` though they never write it.
    #[must_use]
    pub fn and_this_machine(mut self) -> Self {
        let local = "localhost,127.0.0.0/8,::1/128".parse::<Self>();
        self.0.extend(local.map(|local| local.0).unwrap_or_default());
        self
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().any(|exception| {
            exception.port.is_none_or(|only| only == port)
                && match &exception.what {
                    Matches::Everything => true,
                    Matches::HostAndBelow(name) => host == *name || is_below(&host, name),
                    Matches::Below(name) => is_below(&host, name),
                    Matches::Block(block) => host.parse::<IpAddr>().is_ok_and(|ip| block.contains(ip)),
                }
        })
    }
}

impl FromStr for NoProxy {
    type Err = ProxySyntaxError;

    fn from_str(list: &str) -> Result<Self, ProxySyntaxError> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Self(entries.map(Exception::parse).collect::<Result<_, _>>()?))
    }
}

impl Exception {
    fn parse(entry: &str) -> Result<Self, ProxySyntaxError> {
        let refuse = |reason: String| {
            Err(ProxySyntaxError { what: "exception from the proxy", entry: sanitize(entry, 80), reason })
        };
        if entry == "*" {
            return Ok(Self { what: Matches::Everything, port: None });
        }
        if entry.contains('/') {
            return match entry.parse() {
                Ok(block) => Ok(Self { what: Matches::Block(block), port: None }),
                Err(error) => refuse(format!("{error}")),
            };
        }
        let (host, port) = match entry.rsplit_once(':') {
            // `::1` is an address; `[::1]:80` and `host:80` have a port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => return refuse("after the colon stands a port".into()),
            },
            _ => (entry, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Ok(block) = host.parse::<Cidr>() {
            return Ok(Self { what: Matches::Block(block), port });
        }
        let (below, name) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
            Some(name) => (true, name),
            None => (false, host.as_str()),
        };
        let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(fine) {
            return refuse("write a host, .DOMAIN, an address or a block of addresses".into());
        }
        let name = name.to_owned();
        let what = if below { Matches::Below(name) } else { Matches::HostAndBelow(name) };
        Ok(Self { what, port })
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
}

fn host_has_port(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(bracketed) => bracketed.contains("]:"),
        None => host.contains(':'),
    }
}

/// The entry with everything that could be a secret replaced: what stands before an `@`, and where that was forgotten,
/// what stands for a port and is no number.
fn masked(entry: &str) -> String {
    let word = |scheme: &str| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let (scheme, rest) = match entry.split_once("://") {
        Some((scheme, rest)) if word(scheme) => (format!("{scheme}://"), rest),
        _ => (String::new(), entry),
    };
    let shown = match (rest.rsplit_once('@'), rest.rsplit_once(':')) {
        (Some((_, host)), _) => format!("***@{host}"),
        (None, Some((host, port))) if !is_number(port.trim_end_matches(['/', ']'])) => format!("{host}:***"),
        (None, _) => rest.to_owned(),
    };
    sanitize(&format!("{scheme}{shown}"), 80)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Proxy {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn proxies_people_write_and_how_they_are_shown() {
        for (text, shown) in [
            ("http://proxy:3128", "http://proxy:3128"),
            ("http://proxy.example.com/", "http://proxy.example.com:80"),
            ("proxy:3128", "http://proxy:3128"),
            ("HTTP://ann:s3cret@proxy:3128", "http://proxy:3128"),
            ("socks5://ann:s3cret@[::1]", "socks5://[::1]:1080"),
            ("socks5h://10.0.0.1:9050", "socks5://10.0.0.1:9050"),
        ] {
            let proxy = proxy(text);
            assert_eq!(proxy.to_string(), shown, "{text}");
            assert!(!format!("{proxy:?}").contains("s3cret"), "{proxy:?}");
        }
        let credentials = proxy("http://a%40b:p%3A%40%25@proxy:1").credentials.unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("a@b", "p:@%"));
    }

    #[test]
    fn refusals_say_what_is_wrong_and_keep_the_password() {
        for (text, part) in [
            ("https://ann:s3cret@proxy:1", "TLS to the proxy"),
            ("ftp://ann:s3cret@proxy", "unknown kind"),
            ("http://ann:s3cret@", "no host"),
            ("http://ann:s3cret@proxy:0", "port 0"),
            ("http://ann:s3cret@proxy:99999", "not a number"),
            ("http://:s3cret@proxy:1", "empty"),
            ("http://a%zz:s3cret@proxy:1", "hexadecimal"),
            ("http://a%3Ab:s3cret@proxy:1", "colon"),
            ("socks5://ann@proxy", "from 1 to 255"),
            ("http://ann:s3cret@pro xy:1", "no host name has"),
            ("ann:s3cret@pro/xy", "no host name has"),
            ("ann:s3cret://@proxy:1", "unknown kind"),
            ("http://ann:s3cret", "port"),
            ("ann:s3cret", "port"),
            ("http://[::1]:s3cret", "port"),
        ] {
            let refusal = text.parse::<Proxy>().expect_err(text).to_string();
            assert!(refusal.contains(part), "{text}: {refusal}");
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
    }

    #[test]
    fn exceptions_are_what_no_proxy_means_elsewhere() {
        for (list, around, through) in [
            ("*", "hub:1", ""),
            ("example.com", "example.com:1", "badexample.com:1"),
            ("example.com", "HUB.Example.com:1", "example.com.evil:1"),
            (".example.com", "hub.example.com:1", "example.com:1"),
            ("*.example.com", "hub.example.com:1", "example.com:1"),
            ("example.com:80", "example.com:80", "example.com:81"),
            ("a , ,10.0.0.0/8", "10.1.2.3:1", "11.0.0.1:1"),
            ("::1", "[::1]:9", "[::2]:9"),
            ("[::1]:9", "[::1]:9", "[::1]:8"),
            ("10.0.0.5:22", "10.0.0.5:22", "10.0.0.5:23"),
            ("", "/run/x.sock", "localhost:1"),
        ] {
            let proxy = proxy("http://p:1").with_exceptions(list.parse().unwrap());
            assert!(!proxy.carries(&around.parse().unwrap()), "{list}: {around} goes around");
            assert!(through.is_empty() || proxy.carries(&through.parse().unwrap()), "{list}: {through}");
        }
        let local = proxy("http://p:1").with_exceptions(NoProxy::default().and_this_machine());
        for around in ["localhost:1", "127.9.9.9:1", "[::1]:1"] {
            assert!(!local.carries(&around.parse().unwrap()), "{around}");
        }
        for (list, part) in [("10.0.0.0/99", "0 to 32"), ("a b", "write a host"), ("host:x", "port")] {
            let refusal = list.parse::<NoProxy>().unwrap_err().to_string();
            assert!(refusal.contains(part), "{list}: {refusal}");
        }
    }
}
