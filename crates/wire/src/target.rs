//! What a caller wants to reach: `edge-7/rpc`, `edge-7/10.0.0.5:22`, or `@explorer/api`.
//!
//! A target names one place. Forms that stand for several (any node, labels) are taken apart by whoever asks, before a
//! target is made of them; one that gets here is refused with a sentence that says so, never read as an odd node id.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    id::{IdError, NodeId, ServiceName},
    text::sanitize,
};

/// How much of a wrong target an error repeats.
const ECHO_MAX: usize = 64;
/// The longest name the DNS can hold, in characters.
const HOST_MAX: usize = 253;
/// The longest label of such a name.
const LABEL_MAX: usize = 63;
/// The owner of the explorer's own services.
const EXPLORER: &str = "@explorer";

/// A place that a substream can be opened to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A service of one node: `NODE/SERVICE`.
    Service {
        /// The node.
        node: NodeId,
        /// One of the services it declares.
        service: ServiceName,
    },
    /// A host behind a node: `NODE/HOST:PORT`. The node decides whether it dials it.
    Dial {
        /// The node.
        node: NodeId,
        /// A name in lower case or an address; an IPv6 address without its brackets.
        host: String,
        /// Not 0.
        port: u16,
    },
    /// A service of the explorer itself: `@explorer/SERVICE`.
    Explorer {
        /// Its name, such as `api`.
        service: ServiceName,
    },
}

/// Why something is not a target. The text repeats at most 64 escaped characters of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not of the form `A/B`.
    #[error("\"{given}\" is no target: write NODE/SERVICE, for example edge-7/rpc")]
    Form {
        /// What was given, escaped and cut.
        given: String,
    },
    /// A form that this version does not know.
    #[error("\"{given}\": this version does not know {form}; write NODE/SERVICE")]
    Unsupported {
        /// What was given, escaped and cut.
        given: String,
        /// The form it has.
        form: &'static str,
    },
    /// `NODE/HOST:PORT` whose host or port is none.
    #[error(
        "\"{given}\": {problem}; write NODE/HOST:PORT, for example edge-7/10.0.0.5:22 or edge-7/[::1]:22"
    )]
    Dial {
        /// What was given, escaped and cut.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A pattern where one place is meant.
    #[error("\"{given}\": '*' stands in rights patterns only; name one node and one service")]
    Pattern {
        /// What was given, escaped and cut.
        given: String,
    },
    /// The form is right and one of the two names is not.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(given: &str) -> Result<Self, TargetError> {
        let shown = || sanitize(given, ECHO_MAX);
        let unsupported = |form| Err(TargetError::Unsupported { given: shown(), form });
        let Some((owner, service)) =
            given.split_once('/').filter(|(owner, service)| !owner.is_empty() && !service.is_empty())
        else {
            return Err(TargetError::Form { given: shown() });
        };
        if given.contains('*') {
            return Err(TargetError::Pattern { given: shown() });
        }
        if owner.eq_ignore_ascii_case("any") {
            return unsupported("any/SERVICE here");
        }
        if owner.contains('=') {
            return unsupported("targets by label here");
        }
        if owner.eq_ignore_ascii_case(EXPLORER) {
            return Ok(Self::Explorer { service: ServiceName::parse(service)? });
        }
        if owner.starts_with('@') {
            return unsupported("an owner with '@' other than @explorer");
        }
        let node = NodeId::parse(owner)?;
        if service.contains(':') {
            let (host, port) =
                host_and_port(service).map_err(|problem| TargetError::Dial { given: shown(), problem })?;
            return Ok(Self::Dial { node, host, port });
        }
        Ok(Self::Service { node, service: ServiceName::parse(service)? })
    }
}

impl Target {
    /// The node that it leads to; none for the explorer's own services.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Service { node, .. } | Self::Dial { node, .. } => Some(node),
            Self::Explorer { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { node, service } => write!(f, "{node}/{service}"),
            Self::Dial { node, host, port } if host.contains(':') => write!(f, "{node}/[{host}]:{port}"),
            Self::Dial { node, host, port } => write!(f, "{node}/{host}:{port}"),
            Self::Explorer { service } => write!(f, "{EXPLORER}/{service}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Splits `HOST:PORT`, or says what is wrong with it.
fn host_and_port(given: &str) -> Result<(String, u16), &'static str> {
    let (host, port) = given.rsplit_once(':').ok_or("the port is missing")?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or("a port is 1 to 65535")?;
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("the bracket is not closed")?;
        let address: Ipv6Addr = inner.parse().map_err(|_| "that is no IPv6 address in brackets")?;
        return Ok((address.to_string(), port));
    }
    if host.contains(':') {
        return Err("an IPv6 address stands in brackets");
    }
    let host = host.to_ascii_lowercase();
    if !is_name(&host) {
        return Err("that is no host name");
    }
    // Resolvers read 10.1, 0x7f.1 and 2130706433 as addresses. Whoever allows addresses must see the same one.
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err("a host that ends in a number is an IPv4 address of four parts");
    }
    Ok((host, port))
}

fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= HOST_MAX && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(given: &str) -> Result<Target, TargetError> {
        given.parse()
    }

    #[test]
    fn knows_services_of_nodes_and_of_the_explorer() {
        let target = parse("Edge-7/RPC").unwrap();
        assert_eq!(target.to_string(), "edge-7/rpc");
        assert!(
            matches!(&target, Target::Service { node, service } if *node == "edge-7" && *service == "rpc")
        );
        let api = parse("@Explorer/api").unwrap();
        assert!(matches!(&api, Target::Explorer { service } if *service == "api"));
        assert_eq!(serde_json::to_string(&api).unwrap(), "\"@explorer/api\"");
        assert_eq!(serde_json::from_str::<Target>("\"@explorer/api\"").unwrap(), api);
    }

    #[test]
    fn hosts_behind_a_node() {
        let dial =
            |host: &str, port| Target::Dial { node: "edge-7".parse().unwrap(), host: host.to_owned(), port };
        for (given, target, shown) in [
            ("edge-7/10.0.0.1:22", dial("10.0.0.1", 22), "edge-7/10.0.0.1:22"),
            ("Edge-7/DB.local:5432", dial("db.local", 5432), "edge-7/db.local:5432"),
            ("edge-7/db_1:65535", dial("db_1", 65_535), "edge-7/db_1:65535"),
            ("edge-7/[::1]:22", dial("::1", 22), "edge-7/[::1]:22"),
            ("edge-7/[FE80:0:0::1]:22", dial("fe80::1", 22), "edge-7/[fe80::1]:22"),
        ] {
            let parsed = parse(given).unwrap();
            assert_eq!(parsed, target, "{given}");
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(parse(shown).unwrap(), target);
            assert_eq!(parsed.node().map(AsRef::as_ref), Some("edge-7"));
        }
        for (given, part) in [
            ("edge-7/host:", "a port"),
            ("edge-7/host:0", "a port"),
            ("edge-7/host:65536", "a port"),
            ("edge-7/host:+22", "a port"),
            ("edge-7/host:ssh", "a port"),
            ("edge-7/:22", "no host name"),
            ("edge-7/-a:22", "no host name"),
            ("edge-7/a..b:22", "no host name"),
            ("edge-7/a b:22", "no host name"),
            ("edge-7/a\r\n:22", "no host name"),
            ("edge-7/user@host:22", "no host name"),
            ("edge-7/::1:22", "brackets"),
            ("edge-7/[::1:22", "not closed"),
            ("edge-7/[fe80::1%eth0]:22", "no IPv6"),
            ("edge-7/[host]:22", "no IPv6"),
            ("edge-7/10.1:22", "four parts"),
            ("edge-7/010.0.0.1:22", "four parts"),
            ("edge-7/2130706433:22", "four parts"),
            ("edge-7/0x7f.1:22", "four parts"),
            ("edge-7/0x7f000001:22", "four parts"),
        ] {
            let error = parse(given).unwrap_err();
            assert!(matches!(error, TargetError::Dial { .. }), "{given}: {error}");
            assert!(error.to_string().contains(part), "{given}: {error}");
        }
        let long = format!("edge-7/{}:22", "a.".repeat(127));
        assert!(matches!(parse(&long), Err(TargetError::Dial { .. })));
        assert!(matches!(parse("any/host:22"), Err(TargetError::Unsupported { .. })));
        assert!(matches!(parse("@explorer/host:22"), Err(TargetError::Id(_))));
        assert!(matches!(parse("a--b/host:22"), Err(TargetError::Id(_))));
    }

    #[test]
    fn forms_that_name_several_places_are_refused_by_name() {
        for (given, form) in [
            ("any/rpc", "any/SERVICE here"),
            ("ANY/rpc", "any/SERVICE here"),
            ("region=eu/rpc", "targets by label here"),
            ("region=eu,arch=arm/rpc", "targets by label here"),
            ("@peer/api", "an owner with '@' other than @explorer"),
        ] {
            let error = parse(given).unwrap_err();
            assert_eq!(error, TargetError::Unsupported { given: given.to_owned(), form });
            assert!(error.to_string().contains("this version does not know"));
        }
    }

    #[test]
    fn patterns_are_never_targets() {
        for given in ["*/rpc", "edge-*/rpc", "edge-7/*", "*/*", "@explorer/*"] {
            assert_eq!(parse(given).unwrap_err(), TargetError::Pattern { given: given.to_owned() });
        }
    }

    #[test]
    fn everything_else_says_what_was_wrong() {
        for given in ["", "edge-7", "/", "/rpc", "edge-7/", "\0", "edge-7\r\n"] {
            assert!(matches!(parse(given), Err(TargetError::Form { .. })), "{given:?}");
        }
        for given in
            ["edge-7/rpc/x", "../../etc/passwd", "edge-7/a\0b", "explorer/api", "edge-7/a.b", "a--b/rpc"]
        {
            assert!(matches!(parse(given), Err(TargetError::Id(_))), "{given:?}");
        }
        let long = parse(&"\x1b".repeat(4096)).unwrap_err().to_string();
        assert!(long.chars().count() < 200 && !long.contains('\x1b'), "{long}");
    }

    proptest! {
        #[test]
        fn what_parses_round_trips(given in "(@explorer|[a-c.-]{1,5})/([a-c_-]{1,5}|[a-c0-9._-]{1,9}:[1-9][0-9]{0,3})") {
            if let Ok(target) = parse(&given) {
                prop_assert_eq!(target.to_string(), given);
                let json = serde_json::to_string(&target).unwrap();
                prop_assert_eq!(serde_json::from_str::<Target>(&json).unwrap(), target);
            }
        }

        #[test]
        fn any_text_is_answered_in_one_short_line(given in any::<String>()) {
            if let Err(error) = parse(&given) {
                let text = error.to_string();
                prop_assert!(text.chars().count() < 300 && !text.chars().any(char::is_control));
            }
        }
    }
}
