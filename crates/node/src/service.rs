//! What a node offers: a name, where it lives, how calls are framed.
//!
//! A service is written once and read in three places: on a command line, in a configuration file, in an embedding
//! program. One grammar serves all: `NAME=ADDRESS[,key=value…]`. Nothing in it needs quoting in a shell, and a refusal
//! repeats the entry, because entries come in lists.

use std::{fmt, str::FromStr, sync::Arc};

use reachback_link::Address;
use reachback_wire::{CallerPattern, CallerPatternError, ServiceName, nearest, text::sanitize};

use crate::{handler::Handler, rpc::CallHandler};

/// A service that others may reach through this node. Only declared services can be reached.
#[derive(Debug, Clone)]
pub struct Service {
    name: ServiceName,
    endpoint: Endpoint,
    framing: Option<Framing>,
    path: Option<Box<str>>,
    probe: Option<Probe>,
    compression: Option<ServiceCompression>,
    allow: Option<Vec<CallerPattern>>,
}

/// Where a call is posted when nothing else was said.
const DEFAULT_PATH: &str = "/rpc";

/// The longest path, in bytes.
const PATH_MAX: usize = 1024;

/// Where a service lives.
#[derive(Clone)]
pub enum Endpoint {
    /// A TCP or Unix socket near the node, dialled once per stream.
    Address(Address),
    /// A function of the embedding program, called once per stream.
    Handler(Arc<dyn Handler>),
    /// A function of the embedding program that answers calls and takes no streams.
    Calls(Arc<dyn CallHandler>),
}

/// How one call is told from the next on a connection to the service. Streams don't need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One HTTP POST per call.
    Http,
    /// One JSON text per line.
    Lines,
    /// A connection per call.
    Raw,
}

/// Whether the node connects to a service now and then only to see whether it can; see
/// [`NodeConfig::probe_every`](crate::NodeConfig::probe_every).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It does, so that a service that died is known before its next visitor comes.
    On,
    /// It does not: for a service that logs every connection, takes only one, or is started by it.
    Off,
}

/// Whether what passes between the explorer and this node for a service is compressed, where both of them can.
///
/// It pays for text over a thin line. Leave it out for what is compressed or encrypted already, and where secrets and
/// what strangers choose go through one stream: how well they compress together tells of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceCompression {
    /// By LZ4, record by record.
    Lz4,
    /// Not.
    Off,
}

/// A service entry that can't be used: which, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service \"{entry}\": {reason}")]
pub struct ServiceError {
    entry: String,
    reason: String,
}

impl Service {
    /// A service at an endpoint.
    pub fn new(name: ServiceName, endpoint: Endpoint) -> Self {
        Self { name, endpoint, framing: None, path: None, probe: None, compression: None, allow: None }
    }

    /// A service that is a function of this program and takes streams; see [`Handler`].
    ///
    /// # Errors
    /// The name breaks the grammar of service names.
    pub fn handler(name: &str, handler: impl Handler) -> Result<Self, ServiceError> {
        let name = name.parse().map_err(|error| ServiceError::new(name, error))?;
        Ok(Self::new(name, Endpoint::Handler(Arc::new(handler))))
    }

    /// A service that is a function of this program and answers calls; see [`CallHandler`].
    ///
    /// # Errors
    /// The name breaks the grammar of service names.
    pub fn calls(name: &str, handler: impl CallHandler) -> Result<Self, ServiceError> {
        let name = name.parse().map_err(|error| ServiceError::new(name, error))?;
        Ok(Self::new(name, Endpoint::Calls(Arc::new(handler))))
    }

    /// Reads `NAME=ADDRESS[,key=value…]`, as in `ssh=22` or `rpc=/run/app/rpc.sock,framing=http`. ADDRESS is
    /// `unix:///path`, `/path`, `tcp://HOST:PORT`, `HOST:PORT` or `PORT` (on 127.0.0.1). Keys: `framing` (see
    /// [`Framing`]), `path` (where calls are posted), `probe` (see [`Probe`]), `compression` (see
    /// [`ServiceCompression`]) and `allow` (a caller who may use it, see [`CallerPattern`]; once for each).
    ///
    /// # Errors
    /// The entry breaks the grammar; the error says where and what to write.
    pub fn parse(entry: &str) -> Result<Self, ServiceError> {
        let refuse = |reason: String| ServiceError::new(entry, reason);
        let Some((name, rest)) = entry.split_once('=') else {
            return Err(refuse("write NAME=ADDRESS, for example ssh=22".into()));
        };
        let name: ServiceName = name.trim().parse().map_err(|error| ServiceError::new(entry, error))?;
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default();
        let mut service = Self::new(name, address.parse().map_err(|error: AddressReason| refuse(error.0))?);
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                return Err(refuse(format!("\"{}\" is not key=value", sanitize(part, 64))));
            };
            match key.trim() {
                "framing" if service.framing.is_some() => {
                    return Err(refuse("framing is given twice".into()));
                }
                "framing" => {
                    service.framing = Some(value.parse().map_err(|error: FramingError| refuse(error.0))?)
                }
                "path" if service.path.is_some() => return Err(refuse("path is given twice".into())),
                "path" => service.path = Some(check_path(value.trim()).map_err(refuse)?),
                "probe" if service.probe.is_some() => return Err(refuse("probe is given twice".into())),
                "probe" => {
                    service.probe = Some(value.parse().map_err(|error: ProbeError| refuse(error.0))?);
                }
                "compression" if service.compression.is_some() => {
                    return Err(refuse("compression is given twice".into()));
                }
                "compression" => {
                    service.compression =
                        Some(value.parse().map_err(|error: ServiceCompressionError| refuse(error.0))?);
                }
                "allow" => {
                    let caller =
                        value.parse().map_err(|error: CallerPatternError| refuse(error.to_string()))?;
                    service.allow.get_or_insert_default().push(caller);
                }
                other => return Err(refuse(unknown_key(other))),
            }
        }
        match service.framing {
            Some(other @ (Framing::Lines | Framing::Raw)) if service.path.is_some() => {
                Err(refuse(format!("path is for framing=http; with framing={} leave it out", other.as_str())))
            }
            _ => Ok(service),
        }
    }

    /// The same service with its calls framed this way.
    #[must_use]
    pub fn with_framing(mut self, framing: Framing) -> Self {
        self.framing = Some(framing);
        self
    }

    /// The same service with its calls posted to this path. Means nothing for other framings than HTTP.
    ///
    /// # Errors
    /// It is not a path.
    pub fn with_path(mut self, path: &str) -> Result<Self, ServiceError> {
        self.path = Some(check_path(path).map_err(|reason| ServiceError::new(self.name.as_ref(), reason))?);
        Ok(self)
    }

    /// The same service, probed or not. Means nothing for a handler, which is never probed.
    #[must_use]
    pub fn with_probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// The same service, compressed or not.
    #[must_use]
    pub fn with_compression(mut self, compression: ServiceCompression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// The same service for these callers alone, whatever the explorer thinks; for none of them, if there are none.
    #[must_use]
    pub fn with_allow(mut self, callers: Vec<CallerPattern>) -> Self {
        self.allow = Some(callers);
        self
    }

    /// What callers write after the node's id.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// Where it lives.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How its calls are framed, where that was said. Calls of a service that didn't are HTTP.
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Where its calls are posted.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(DEFAULT_PATH)
    }

    /// Whether it is probed where its node probes. It is unless something else was said.
    pub fn probe(&self) -> Probe {
        self.probe.unwrap_or(Probe::On)
    }

    /// Who may use it, where that was said; otherwise everybody whom the explorer lets through.
    pub fn allow(&self) -> Option<&[CallerPattern]> {
        self.allow.as_deref()
    }

    /// Whether it is compressed, where that was said. One that didn't say is not.
    pub fn compression(&self) -> Option<ServiceCompression> {
        self.compression
    }
}

impl ServiceError {
    fn new(entry: &str, reason: impl fmt::Display) -> Self {
        Self { entry: sanitize(entry, 120), reason: reason.to_string() }
    }
}

impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(entry: &str) -> Result<Self, Self::Err> {
        Self::parse(entry)
    }
}

/// Why an address is not the address of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressReason(String);

impl FromStr for Endpoint {
    type Err = AddressReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse =
            |reason: &str| Err(AddressReason(format!("address \"{}\": {reason}", sanitize(text, 80))));
        let text = text.trim();
        if text.is_empty() {
            return refuse("it is empty; write PORT, HOST:PORT or /path/of/a.sock");
        }
        if text.starts_with("udp://") || text.ends_with("/udp") {
            return refuse("UDP is not in this version; TCP and Unix sockets are");
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse::<u16>() {
                Ok(port) if port > 0 => Ok(Self::Address(Address::Tcp { host: "127.0.0.1".into(), port })),
                _ => refuse("a port is a number from 1 to 65535"),
            };
        }
        let bare = text.strip_prefix("tcp://").unwrap_or(text);
        let is_path = text.starts_with('/') || text.starts_with("unix://");
        // The port an explorer has by default means nothing for a service.
        if !is_path && !text.contains("://") || bare.len() < text.len() {
            match bare.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') && !host.is_empty() => {}
                Some(("", _)) => return refuse("no host; write the port alone for this machine"),
                _ => return refuse("no port; write HOST:PORT, PORT for this machine, or /path/of/a.sock"),
            }
        }
        match text.parse::<Address>() {
            Ok(address) => Ok(Self::Address(address)),
            Err(error) => Err(AddressReason(error.to_string())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Handler(_) => f.write_str("a handler of this program"),
            Self::Calls(_) => f.write_str("a function of this program"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// A framing nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FramingError(String);

impl Framing {
    const ALL: [Self; 3] = [Self::Http, Self::Lines, Self::Raw];

    /// As it is written in configuration and announced to explorers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Lines => "lines",
            Self::Raw => "raw",
        }
    }
}

impl FromStr for Framing {
    type Err = FramingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|framing| framing.as_str() == text.trim());
        known.ok_or_else(|| {
            FramingError(format!("framing \"{}\" is not http, lines or raw", sanitize(text, 64)))
        })
    }
}

/// A word that says neither on nor off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(String);

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            other => Err(ProbeError(format!("probe \"{}\" is not on or off", sanitize(other, 64)))),
        }
    }
}

/// A compression nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServiceCompressionError(String);

impl FromStr for ServiceCompression {
    type Err = ServiceCompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "lz4" => Ok(Self::Lz4),
            "off" => Ok(Self::Off),
            other => Err(ServiceCompressionError(format!(
                "compression \"{}\" is not lz4 or off",
                sanitize(other, 64)
            ))),
        }
    }
}

/// Keys of an entry behind its address.
const KEYS: [&str; 5] = ["framing", "path", "probe", "compression", "allow"];

/// A path as it stands in the first line of an HTTP request.
fn check_path(path: &str) -> Result<Box<str>, String> {
    let fine = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    if path.starts_with('/') && path.len() <= PATH_MAX && path.bytes().all(fine) {
        return Ok(path.into());
    }
    Err(format!("path \"{}\" is none; write /rpc or the like, everything unusual as %XX", sanitize(path, 64)))
}

fn unknown_key(key: &str) -> String {
    let written = sanitize(key, 64);
    match nearest(key, KEYS) {
        Some(meant) => format!("unknown key \"{written}\"; did you mean \"{meant}\"?"),
        None => format!("unknown key \"{written}\"; there are {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_people_write() {
        for (entry, name, endpoint, framing) in [
            ("ssh=22", "ssh", "127.0.0.1:22", None),
            ("db=10.0.0.5:5432", "db", "10.0.0.5:5432", None),
            ("db=tcp://db.local:5432", "db", "db.local:5432", None),
            ("v6=[::1]:80", "v6", "[::1]:80", None),
            ("rpc=/run/app/rpc.sock,framing=http", "rpc", "unix:///run/app/rpc.sock", Some(Framing::Http)),
            ("rpc=unix:///run/x=y.sock,framing=lines", "rpc", "unix:///run/x=y.sock", Some(Framing::Lines)),
            ("RPC=80,framing=raw", "rpc", "127.0.0.1:80", Some(Framing::Raw)),
        ] {
            let service: Service = entry.parse().unwrap_or_else(|error| panic!("{entry}: {error}"));
            assert_eq!(service.name().as_ref(), name, "{entry}");
            assert_eq!(service.endpoint().to_string(), endpoint, "{entry}");
            assert_eq!(service.framing(), framing, "{entry}");
        }
    }

    #[test]
    fn a_path_is_where_calls_are_posted() {
        assert_eq!(Service::parse("rpc=80").unwrap().path(), "/rpc");
        assert_eq!(Service::parse("rpc=80,path=/v1/rpc?x=%20").unwrap().path(), "/v1/rpc?x=%20");
        assert_eq!(Service::parse("rpc=80").unwrap().with_path("/").unwrap().path(), "/");
        assert!(Service::parse("rpc=80").unwrap().with_path("x").unwrap_err().to_string().contains("rpc"));
    }

    #[test]
    fn a_service_is_probed_unless_it_says_otherwise() {
        for (entry, probe) in [
            ("rpc=80", Probe::On),
            ("rpc=80,probe=on,framing=raw", Probe::On),
            ("rpc=80,framing=raw,probe=off", Probe::Off),
        ] {
            assert_eq!(Service::parse(entry).unwrap().probe(), probe, "{entry}");
        }
        assert_eq!(Service::parse("rpc=80").unwrap().with_probe(Probe::Off).probe(), Probe::Off);
    }

    #[test]
    fn a_service_is_compressed_only_if_it_says_so() {
        for (entry, compression) in [
            ("log=80", None),
            ("log=80,compression=lz4", Some(ServiceCompression::Lz4)),
            ("log=80,framing=raw,compression=off", Some(ServiceCompression::Off)),
        ] {
            assert_eq!(Service::parse(entry).unwrap().compression(), compression, "{entry}");
        }
        let service = Service::parse("log=80").unwrap().with_compression(ServiceCompression::Lz4);
        assert_eq!(service.compression(), Some(ServiceCompression::Lz4));
    }

    #[test]
    fn the_callers_of_a_service_are_named_one_by_one() {
        let shown = |entry: &str| {
            let service = Service::parse(entry).unwrap_or_else(|error| panic!("{error}"));
            service.allow().map(|callers| callers.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(shown("rpc=80"), None);
        let both = shown("rpc=80,allow=ann,framing=raw,allow=node:edge-*");
        assert_eq!(both, Some(vec!["ann".into(), "node:edge-*".into()]));
        assert_eq!(Service::parse("rpc=80").unwrap().with_allow(Vec::new()).allow(), Some([].as_slice()));
    }

    #[test]
    fn refusals_say_what_and_what_instead() {
        for (entry, part) in [
            ("ssh", "write NAME=ADDRESS"),
            ("=22", "service"),
            ("a.b=22", "service"),
            ("ssh=", "it is empty"),
            ("ssh=0", "from 1 to 65535"),
            ("ssh=70000", "from 1 to 65535"),
            ("ssh=localhost", "no port"),
            ("ssh=[::1]", "no port"),
            ("ssh=::1", "brackets"),
            ("ssh=:22", "write the port alone"),
            ("ssh=tcp://host", "no port"),
            ("ssh=http://host:80", "unknown scheme"),
            ("dns=53/udp", "UDP is not in this version"),
            ("dns=udp://1.1.1.1:53", "UDP is not in this version"),
            ("rpc=unix://relative", "absolute path"),
            ("rpc=80,framing", "is not key=value"),
            ("rpc=80,framing=grpc", "is not http, lines or raw"),
            ("rpc=80,framing=http,framing=raw", "given twice"),
            ("rpc=80,framng=http", "unknown key \"framng\"; did you mean \"framing\"?"),
            ("rpc=80,Probe=off", "did you mean \"probe\"?"),
            (
                "rpc=80,colour=red",
                "unknown key \"colour\"; there are framing, path, probe, compression, allow",
            ),
            ("rpc=80,probe=no", "probe \"no\" is not on or off"),
            ("rpc=80,probe=on,probe=off", "given twice"),
            ("rpc=80,compression=zstd", "is not lz4 or off"),
            ("rpc=80,compression=lz4,compression=lz4", "given twice"),
            ("rpc=80,allow=", "write a user's name"),
            ("rpc=80,allow=admin:ann", "is no kind of caller"),
            ("rpc=80,path=rpc", "is none"),
            ("rpc=80,path=", "is none"),
            ("rpc=80,path=/a b", "is none"),
            ("rpc=80,path=/a#b", "is none"),
            ("rpc=80,path=/a,path=/b", "given twice"),
            ("rpc=80,framing=lines,path=/rpc", "for framing=http"),
            ("rpc=80,path=/rpc,framing=raw", "for framing=http"),
        ] {
            let refusal = Service::parse(entry).expect_err(entry).to_string();
            assert!(refusal.contains(part), "{entry}: {refusal}");
            assert!(refusal.contains(&format!("\"{entry}\"")), "the entry is named: {refusal}");
        }
    }

    #[test]
    fn a_refusal_never_carries_control_characters() {
        let refusal = Service::parse("a\x1b[31m\n=22,x=\x07").unwrap_err().to_string();
        assert!(!refusal.chars().any(char::is_control), "{refusal:?}");
    }
}
