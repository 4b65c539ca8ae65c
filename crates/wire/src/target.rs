//! What a caller wants to reach: `edge-7/rpc`, or `@explorer/api`.
//!
//! Later versions will know more forms (any node, labels, hosts behind a node). A form this version does
//! not know must be refused with a sentence that says so, never be read as an odd node id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    id::{IdError, NodeId, ServiceName},
    text::sanitize,
};

/// How much of a wrong target an error repeats.
const ECHO_MAX: usize = 64;
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
            return unsupported("any/SERVICE");
        }
        if owner.contains('=') {
            return unsupported("targets by label");
        }
        if service.contains(':') {
            return unsupported("NODE/HOST:PORT");
        }
        if owner.eq_ignore_ascii_case(EXPLORER) {
            return Ok(Self::Explorer { service: ServiceName::parse(service)? });
        }
        if owner.starts_with('@') {
            return unsupported("an owner with '@' other than @explorer");
        }
        Ok(Self::Service { node: NodeId::parse(owner)?, service: ServiceName::parse(service)? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { node, service } => write!(f, "{node}/{service}"),
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
    fn forms_of_later_versions_are_refused_by_name() {
        for (given, form) in [
            ("any/rpc", "any/SERVICE"),
            ("ANY/rpc", "any/SERVICE"),
            ("region=eu/rpc", "targets by label"),
            ("region=eu,arch=arm/rpc", "targets by label"),
            ("edge-7/10.0.0.1:22", "NODE/HOST:PORT"),
            ("edge-7/[::1]:22", "NODE/HOST:PORT"),
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
        fn what_parses_round_trips(given in "(@explorer|[a-c.-]{1,5})/[a-c_-]{1,5}") {
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
