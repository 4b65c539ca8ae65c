//! What a caller may reach, as patterns over targets and methods: nothing unless a right says so.
//!
//! Rights are written by operators, carried by tokens, kept by explorers and shown to people, so they have one text
//! form and one meaning, here, where no surface can read them differently. A pattern covers whole names: `edge-*` is
//! no `xedge-7`, `edge-7` is no `edge-77`, and a pattern for services covers neither the hosts behind a node nor the
//! explorer itself.
//!
//! | text | allows |
//! |---|---|
//! | `edge-*/rpc` | the service `rpc` of every node whose id begins with `edge-` |
//! | `edge-*/rpc:vm.*` | calls to it of methods that begin with `vm.`, and no streams |
//! | `dial:edge-*` | hosts behind those nodes, as far as each node dials for others |
//! | `@explorer/api:explorer.nodes` | one method of the explorer's own API |

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    id::{NODE_ID_MAX, NodeId, SERVICE_NAME_MAX},
    target::Target,
    text::sanitize,
};

/// Rights of one caller: more can be said with fewer patterns, and all of them travel in a token.
pub const RIGHTS_MAX: usize = 64;
/// The longest method pattern, in bytes: method names of common servers are a tenth of it.
pub const METHOD_PATTERN_MAX: usize = 128;
/// How much of a wrong pattern an error repeats.
const ECHO_MAX: usize = 64;

const DIAL: &str = "dial:";
const EXPLORER: &str = "@explorer/";

/// A whole name of a node or a service, in which each `*` stands for any characters, or none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern(Box<str>);

/// A whole method name, in which each `*` stands for any characters, or none. Case counts, as it does in JSON-RPC.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodPattern(Box<str>);

/// Which targets a right covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetPattern {
    /// Services of nodes.
    Service {
        /// Of which nodes.
        node: NamePattern,
        /// Which of their services.
        service: NamePattern,
    },
    /// Hosts behind nodes. Each node has its own list of those it dials.
    Dial {
        /// Behind which nodes.
        node: NamePattern,
    },
    /// Services of the explorer itself.
    Explorer {
        /// Which of them.
        service: NamePattern,
    },
}

/// One thing that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Where.
    pub target: TargetPattern,
    /// Calls of these methods alone. `None`: calls of all methods, and streams.
    pub method: Option<MethodPattern>,
}

/// Everything a caller may do. Empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights(Vec<Right>);

/// Why something is no pattern. The text repeats at most 64 escaped characters of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A name has characters that no name can have, or is too long.
    #[error("\"{given}\" {problem}; {grammar}")]
    Name {
        /// What was given, escaped and cut.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
        /// What would be right.
        grammar: &'static str,
    },
    /// Not of the form of a right.
    #[error(
        "\"{given}\" is no right: write NODE/SERVICE, NODE/SERVICE:METHOD, dial:NODE or @explorer/api:METHOD, each name \
         with * for any characters, for example edge-*/rpc"
    )]
    Form {
        /// What was given, escaped and cut.
        given: String,
    },
    /// More rights than one caller can have.
    #[error(
        "{given} rights are more than the {RIGHTS_MAX} one caller can have; say it with fewer, wider patterns"
    )]
    TooMany {
        /// How many there were.
        given: usize,
    },
}

impl NamePattern {
    /// Whether the whole name fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.as_bytes())
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pattern of every name.
    #[must_use]
    pub fn any() -> Self {
        Self("*".into())
    }
}

impl From<&NodeId> for NamePattern {
    /// The pattern of this one name.
    fn from(id: &NodeId) -> Self {
        Self(id.as_str().into())
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    /// Upper case is folded, as it is in names.
    fn from_str(given: &str) -> Result<Self, PatternError> {
        name(given, NODE_ID_MAX, true)
    }
}

impl MethodPattern {
    /// Whether the whole method name fits.
    #[must_use]
    pub fn matches(&self, method: &str) -> bool {
        fits(self.0.as_bytes(), method.as_bytes())
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MethodPattern {
    type Err = PatternError;

    fn from_str(given: &str) -> Result<Self, PatternError> {
        let problem = if given.is_empty() {
            "is empty"
        } else if given.len() > METHOD_PATTERN_MAX {
            "is too long"
        } else if !given.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
            "has a character that is not allowed"
        } else {
            return Ok(Self(given.into()));
        };
        Err(PatternError::Name {
            given: sanitize(given, ECHO_MAX),
            problem,
            grammar: "a method pattern is 1 to 128 visible characters without commas, with * for any, as in vm.*",
        })
    }
}

impl TargetPattern {
    /// Whether this one place is covered.
    #[must_use]
    pub fn covers(&self, target: &Target) -> bool {
        match (self, target) {
            (Self::Service { node, service }, Target::Service { node: on, service: named }) => {
                node.matches(on.as_str()) && service.matches(named.as_str())
            }
            (Self::Dial { node }, Target::Dial { node: behind, .. }) => node.matches(behind.as_str()),
            (Self::Explorer { service }, Target::Explorer { service: named }) => {
                service.matches(named.as_str())
            }
            _ => false,
        }
    }
}

impl FromStr for Right {
    type Err = PatternError;

    fn from_str(given: &str) -> Result<Self, PatternError> {
        let form = || PatternError::Form { given: sanitize(given, ECHO_MAX) };
        if let Some(node) = given.strip_prefix(DIAL) {
            let node = name(node, NODE_ID_MAX, true)?;
            return Ok(Self { target: TargetPattern::Dial { node }, method: None });
        }
        // The first colon: names have none, methods may.
        let (place, method) = match given.split_once(':') {
            Some((place, method)) => (place, Some(method.parse()?)),
            None => (given, None),
        };
        let target = if let Some(service) = place.strip_prefix(EXPLORER) {
            TargetPattern::Explorer { service: name(service, SERVICE_NAME_MAX, false)? }
        } else {
            let (node, service) = place.split_once('/').ok_or_else(form)?;
            let node = name(node, NODE_ID_MAX, true)?;
            TargetPattern::Service { node, service: name(service, SERVICE_NAME_MAX, false)? }
        };
        Ok(Self { target, method })
    }
}

impl Rights {
    /// These rights and no others.
    ///
    /// # Errors
    /// [`PatternError::TooMany`] beyond [`RIGHTS_MAX`].
    pub fn new(rights: Vec<Right>) -> Result<Self, PatternError> {
        if rights.len() > RIGHTS_MAX {
            return Err(PatternError::TooMany { given: rights.len() });
        }
        Ok(Self(rights))
    }

    /// Everything there is: services, hosts behind nodes, the explorer.
    #[must_use]
    pub fn everything() -> Self {
        let any = NamePattern::any;
        let targets = [
            TargetPattern::Service { node: any(), service: any() },
            TargetPattern::Dial { node: any() },
            TargetPattern::Explorer { service: any() },
        ];
        Self(targets.map(|target| Right { target, method: None }).into())
    }

    /// Whether anything at this target is allowed: all of it, or some methods.
    #[must_use]
    pub fn allows_target(&self, target: &Target) -> bool {
        self.covering(target).next().is_some()
    }

    /// Whether a call of this method there is allowed.
    #[must_use]
    pub fn allows_method(&self, target: &Target, method: &str) -> bool {
        self.covering(target).any(|right| right.method.as_ref().is_none_or(|named| named.matches(method)))
    }

    /// Whether the methods of calls to it have to be looked at, and streams refused: no right allows all of it.
    #[must_use]
    pub fn restricts_methods(&self, target: &Target) -> bool {
        self.covering(target).all(|right| right.method.is_some())
    }

    /// Whether any right is about this node, so that its caller may know that it exists.
    #[must_use]
    pub fn concerns(&self, node: &NodeId) -> bool {
        self.0.iter().any(|right| match &right.target {
            TargetPattern::Service { node: pattern, .. } | TargetPattern::Dial { node: pattern } => {
                pattern.matches(node.as_str())
            }
            TargetPattern::Explorer { .. } => false,
        })
    }

    /// The rights one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Right> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn covering<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a Right> {
        self.0.iter().filter(move |right| right.target.covers(target))
    }
}

impl fmt::Display for TargetPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { node, service } => write!(f, "{node}/{service}"),
            Self::Dial { node } => write!(f, "{DIAL}{node}"),
            Self::Explorer { service } => write!(f, "{EXPLORER}{service}"),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target)?;
        self.method.iter().try_for_each(|method| write!(f, ":{method}"))
    }
}

impl fmt::Display for Rights {
    /// All of them with commas; `nothing` when there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (index, right) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{right}")?;
        }
        Ok(())
    }
}

macro_rules! behaves_like_its_text {
    ($($name:ident)*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )* };
}

macro_rules! travels_as_text {
    ($($name:ident)*) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )* };
}

behaves_like_its_text!(NamePattern MethodPattern);
travels_as_text!(NamePattern MethodPattern Right);

impl Serialize for Rights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Checks a pattern over names of at most `max` characters and folds it.
fn name(given: &str, max: usize, dots: bool) -> Result<NamePattern, PatternError> {
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'*') || (dots && byte == b'.')
    };
    let problem = if given.is_empty() {
        "is empty"
    } else if given.len() > max {
        "is too long"
    } else if !given.bytes().all(allowed) {
        "has a character that is not allowed"
    } else {
        return Ok(NamePattern(given.to_ascii_lowercase().into()));
    };
    let grammar = if dots {
        "a pattern over node ids is 1 to 63 of a-z 0-9 . _ - and *, as in edge-*"
    } else {
        "a pattern over service names is 1 to 32 of a-z 0-9 _ - and *, as in rpc"
    };
    Err(PatternError::Name { given: sanitize(given, ECHO_MAX), problem, grammar })
}

/// Whether all of `name` fits all of `pattern`. In time of their product at most: only the last `*` is ever tried again.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and how much of the name it has been given.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, n));
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after, given)) = retry else { return false };
                (p, n) = (after, given + 1);
                retry = Some((after, given + 1));
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rights(texts: &[&str]) -> Rights {
        Rights::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn each_form_covers_what_it_says_and_nothing_beside_it() {
        let places = ["edge-7/rpc", "edge-7/ssh", "xedge-7/rpc", "edge-7/10.0.0.5:22", "@explorer/api"];
        for (right, covered) in [
            ("edge-*/rpc", vec!["edge-7/rpc"]),
            ("EDGE-7/RPC", vec!["edge-7/rpc"]),
            ("edge-/rpc", vec![]),
            ("edge/rpc", vec![]),
            ("*/*", vec!["edge-7/rpc", "edge-7/ssh", "xedge-7/rpc"]),
            ("*edge*7/*p*", vec!["edge-7/rpc", "xedge-7/rpc"]),
            ("dial:edge-*", vec!["edge-7/10.0.0.5:22"]),
            ("@explorer/api", vec!["@explorer/api"]),
            ("@explorer/*", vec!["@explorer/api"]),
        ] {
            let rights = rights(&[right]);
            let found: Vec<_> =
                places.into_iter().filter(|place| rights.allows_target(&target(place))).collect();
            assert_eq!(found, covered, "{right}");
        }
        assert!(places.iter().all(|place| Rights::everything().allows_target(&target(place))));
        assert!(places.iter().all(|place| !Rights::everything().restricts_methods(&target(place))));
    }

    #[test]
    fn methods_narrow_a_right_unless_another_one_has_none() {
        let rpc = target("edge-7/rpc");
        let narrow = rights(&["edge-*/rpc:vm.*", "edge-*/rpc:ping"]);
        assert!(narrow.allows_target(&rpc) && narrow.restricts_methods(&rpc));
        for (method, allowed) in [
            ("vm.list", true),
            ("vm.", true),
            ("ping", true),
            ("vm", false),
            ("Vm.list", false),
            ("pings", false),
            ("xvm.list", false),
            ("", false),
        ] {
            assert_eq!(narrow.allows_method(&rpc, method), allowed, "{method}");
        }
        let wide = rights(&["edge-*/rpc:vm.*", "*/rpc"]);
        assert!(wide.allows_method(&rpc, "anything") && !wide.restricts_methods(&rpc));
        let api = rights(&["@explorer/api:explorer.nodes"]);
        assert!(api.allows_method(&target("@explorer/api"), "explorer.nodes"));
        assert!(!api.allows_method(&target("@explorer/api"), "explorer.kick"));
    }

    #[test]
    fn a_node_is_known_to_whom_a_right_concerns_it() {
        let rights = rights(&["edge-*/rpc:vm.*", "dial:lab-1", "@explorer/api"]);
        for (node, known) in [("edge-7", true), ("lab-1", true), ("lab-2", false), ("edge", false)] {
            assert_eq!(rights.concerns(&node.parse().unwrap()), known, "{node}");
        }
    }

    #[test]
    fn text_goes_in_and_comes_out_the_same() {
        let texts =
            ["edge-*/rpc", "edge-*/rpc:vm.*", "dial:edge-*", "@explorer/api:explorer.nodes", "a.b/s:x:y"];
        let rights = rights(&texts);
        assert_eq!(rights.to_string(), texts.join(", "));
        let json = serde_json::to_string(&rights).unwrap();
        assert_eq!(serde_json::from_str::<Rights>(&json).unwrap(), rights);
        assert_eq!(Rights::default().to_string(), "nothing");
    }

    #[test]
    fn refuses_what_is_no_right_and_says_what_is() {
        for (given, word) in [
            ("", "is no right"),
            ("edge-7", "is no right"),
            ("edge-7/", "is empty"),
            ("/rpc", "is empty"),
            ("edge-7/rpc:", "is empty"),
            ("edge-7/rpc/x", "not allowed"),
            ("edge-7/a.b", "not allowed"),
            ("edge 7/rpc", "not allowed"),
            ("dial:", "is empty"),
            ("dial:edge-7/10.0.0.1", "not allowed"),
            ("@explorer/", "is empty"),
            ("@other/api", "not allowed"),
            ("ä/rpc", "not allowed"),
            ("edge-7/rpc:vm list", "not allowed"),
            ("edge-7/rpc:a,b", "not allowed"),
        ] {
            let error = given.parse::<Right>().unwrap_err().to_string();
            assert!(error.contains(word), "{given}: {error}");
        }
        for long in [format!("{}/rpc", "a".repeat(64)), format!("a/{}", "s".repeat(33))] {
            assert!(long.parse::<Right>().unwrap_err().to_string().contains("too long"));
        }
        assert!(
            format!("a/b:{}", "m".repeat(129)).parse::<Right>().unwrap_err().to_string().contains("too long")
        );
        let hostile = format!("\x1b[2J{}", "x".repeat(4096)).parse::<Right>().unwrap_err().to_string();
        assert!(hostile.len() < 400 && !hostile.chars().any(char::is_control), "{hostile}");
        let many = serde_json::to_string(&vec!["a/b"; RIGHTS_MAX + 1]).unwrap();
        assert!(serde_json::from_str::<Rights>(&many).unwrap_err().to_string().contains("65 rights"));
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let pattern: NamePattern = "*a".repeat(31).parse().unwrap();
        assert!(!pattern.matches(&"a".repeat(30)) && pattern.matches(&"a".repeat(63)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(100_000))));
    }

    proptest! {
        #[test]
        fn what_no_right_covers_is_denied(node in "[a-c]{1,4}", service in "[a-c]{1,3}", texts in prop::collection::vec("[a-c*]{1,3}/[a-c*]{1,3}(:[mn*]{1,2})?", 0..4), method in "[mn]{0,3}") {
            let target = target(&format!("{node}/{service}"));
            let rights = rights(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let (mut covered, mut called, mut whole) = (false, false, false);
            for text in &texts {
                let (place, pattern) = text.split_once(':').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
                let (left, right) = place.split_once('/').unwrap();
                if plain(left, &node) && plain(right, &service) {
                    covered = true;
                    whole |= pattern.is_none();
                    called |= pattern.is_none_or(|pattern| plain(pattern, &method));
                }
            }
            prop_assert_eq!(rights.allows_target(&target), covered);
            prop_assert_eq!(rights.allows_method(&target, &method), called);
            prop_assert_eq!(rights.restricts_methods(&target), !whole);
        }

        #[test]
        fn without_a_star_only_the_same_name_fits(pattern in "[a-z0-9]{1,8}", name in "[a-z0-9]{1,8}") {
            let parsed: NamePattern = pattern.parse().unwrap();
            prop_assert_eq!(parsed.matches(&name), pattern == name);
            prop_assert!(parsed.matches(&pattern));
            let (behind, before) = (format!("{pattern}{name}"), format!("{name}{pattern}"));
            prop_assert!(!parsed.matches(&behind));
            prop_assert!(!parsed.matches(&before));
        }
    }

    /// The meaning of a pattern, written as plainly as it can be.
    fn plain(pattern: &str, name: &str) -> bool {
        match pattern.split_at_checked(1) {
            None => name.is_empty(),
            Some(("*", rest)) => (0..=name.len()).any(|skip| plain(rest, &name[skip..])),
            Some((first, rest)) => name.strip_prefix(first).is_some_and(|name| plain(rest, name)),
        }
    }
}
