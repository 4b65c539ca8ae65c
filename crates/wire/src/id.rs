//! Names and numbers that identify things, checked where they enter.
//!
//! A node id ends in host names, file names, log lines and rights patterns. Checking it at each of those
//! places would be forgotten at one of them, so an id that exists is an id that is fine: the only way to get
//! a [`NodeId`] or a [`ServiceName`] is to parse it, from the wire as well as from a flag.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{decimal, hex, text::sanitize};

/// The longest node id, in characters: it has to fit one label of a host name.
pub const NODE_ID_MAX: usize = 63;
/// The longest service name, in characters: `SERVICE--NODE` shares a host name with its node.
pub const SERVICE_NAME_MAX: usize = 32;

const NODE_GRAMMAR: &str =
    "a node id is 1 to 63 of a-z 0-9 . _ -, begins and ends with a letter or digit, and has no \"--\"";
const SERVICE_GRAMMAR: &str =
    "a service name is 1 to 32 of a-z 0-9 _ -, begins and ends with a letter or digit, and has no \"--\"";
/// Words that targets use for something else.
const RESERVED: [&str; 4] = ["any", "all", "self", "explorer"];
/// How much of a wrong id an error repeats.
const ECHO_MAX: usize = 64;

/// Why something is not an id. The text says what was wrong, repeats at most 64 escaped characters of it,
/// and names the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not of the form the id must have.
    #[error("\"{given}\" {problem}; {grammar}")]
    Grammar {
        /// What was given, escaped and cut.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
        /// What would be right.
        grammar: &'static str,
    },
    /// A node id that has another meaning in targets.
    #[error("\"{given}\" is reserved; a node id may not be any, all, self or explorer: choose another")]
    Reserved {
        /// The reserved word.
        given: String,
    },
}

/// The name of a node: unique in its fleet, lower case, safe in a host name, a path and a log line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Checks an id; upper case is folded.
    ///
    /// # Errors
    /// When it breaks the grammar or is a reserved word.
    pub fn parse(given: &str) -> Result<Self, IdError> {
        let id = check(given, NODE_ID_MAX, true, NODE_GRAMMAR)?;
        if RESERVED.contains(&id.as_str()) {
            return Err(IdError::Reserved { given: id });
        }
        Ok(Self(id.into()))
    }
}

/// The name of a service within its node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Checks a name; upper case is folded.
    ///
    /// # Errors
    /// When it breaks the grammar.
    pub fn parse(given: &str) -> Result<Self, IdError> {
        Ok(Self(check(given, SERVICE_NAME_MAX, false, SERVICE_GRAMMAR)?.into()))
    }
}

macro_rules! behaves_like_its_text {
    ($name:ident) => {
        impl $name {
            /// The text of it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(given: &str) -> Result<Self, IdError> {
                Self::parse(given)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Equality, order and hash are those of the text, so maps can be asked with a `&str`.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

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

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

behaves_like_its_text!(NodeId);
behaves_like_its_text!(ServiceName);

/// 128 random bits per process start: tells a restart or a clone from a reconnect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub [u8; 16]);

impl Instance {
    /// From random bytes of the caller's source (this crate has none).
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl Serialize for Instance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Instance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex::read(deserializer).map(Self)
    }
}

/// 256 random bits, used once: what makes a proof worthless the second time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Hex<'a>(&'a [u8]);
        impl fmt::Display for Hex<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex::write(self.0, f)
            }
        }
        serializer.collect_str(&Hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex::read(deserializer).map(Self)
    }
}

/// The number of a session at its explorer, counted from 1 since the explorer started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(#[serde(with = "decimal")] pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which attempt of which line of which process this is. Says who is newer without any clock, and only
/// within one line of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// The process.
    pub instance: Instance,
    /// Which of its lines, one per explorer it keeps.
    pub slot: u32,
    /// Grows with every attempt on this line.
    #[serde(with = "decimal")]
    pub seq: u64,
}

impl Generation {
    /// Whether both are attempts of the same line of the same process.
    #[must_use]
    pub fn same_line(&self, other: &Self) -> bool {
        self.instance == other.instance && self.slot == other.slot
    }

    /// Whether this attempt is newer than `other`; `None` when they cannot be compared.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> Option<bool> {
        self.same_line(other).then_some(self.seq > other.seq)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.instance, self.slot, self.seq)
    }
}

fn check(given: &str, max: usize, dots: bool, grammar: &'static str) -> Result<String, IdError> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (dots && byte == b'.');
    let bytes = given.as_bytes();
    let problem = if bytes.is_empty() {
        "is empty"
    } else if given.chars().nth(max).is_some() {
        "is too long"
    } else if !bytes.iter().all(|byte| inner(*byte)) {
        "has a character that is not allowed"
    } else if !edge(bytes.first()) || !edge(bytes.last()) {
        "begins or ends with a sign"
    } else if given.contains("--") {
        "has two hyphens in a row"
    } else {
        return Ok(given.to_ascii_lowercase());
    };
    Err(IdError::Grammar { given: sanitize(given, ECHO_MAX), problem, grammar })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_what_the_grammar_allows_and_folds_upper_case() {
        let longest = "a".repeat(63);
        for id in ["a", "7", "edge-7", "a.b_c-d", "hub-1.example", longest.as_str()] {
            assert_eq!(NodeId::parse(id).unwrap(), id);
        }
        assert_eq!(NodeId::parse("Edge-7.LAB").unwrap(), "edge-7.lab");
        assert_eq!(ServiceName::parse("RPC_2").unwrap(), "rpc_2");
        assert_eq!(ServiceName::parse(&"s".repeat(32)).unwrap().as_str().len(), 32);
        assert_eq!(ServiceName::parse("any").unwrap(), "any", "only node ids have reserved words");
    }

    #[test]
    fn refuses_hostile_ids_and_shows_them_escaped_and_short() {
        let endless = "a".repeat(2048);
        let hostile = [
            "",
            "a\0b",
            "../etc",
            "a/b",
            "a\r\nb",
            "*",
            "edge-*",
            ">",
            "a b",
            "-a",
            "a-",
            ".a",
            "a.",
            "_",
            "a--b",
            "ä",
            "a\u{202e}b",
            "\x1b[2J",
            endless.as_str(),
            "٣",
        ];
        for given in hostile {
            for error in [NodeId::parse(given).unwrap_err(), ServiceName::parse(given).unwrap_err()] {
                let text = error.to_string();
                assert!(text.chars().count() < 300 && !text.chars().any(char::is_control), "{text}");
                let IdError::Grammar { given, .. } = error else { panic!("{given:?} is not reserved") };
                assert!(given.chars().count() <= 64);
            }
        }
        assert!(NodeId::parse(&"a".repeat(64)).unwrap_err().to_string().contains("too long"));
        assert!(ServiceName::parse(&"a".repeat(33)).unwrap_err().to_string().contains("too long"));
        assert!(ServiceName::parse("a.b").unwrap_err().to_string().contains("not allowed"));
    }

    #[test]
    fn reserved_words_are_no_node_ids_in_any_case() {
        for given in ["any", "all", "self", "explorer", "Explorer", "ANY"] {
            let error = NodeId::parse(given).unwrap_err();
            assert_eq!(error, IdError::Reserved { given: given.to_ascii_lowercase() });
        }
        NodeId::parse("explorer-1").unwrap();
    }

    #[test]
    fn json_is_checked_like_everything_else() {
        let id: NodeId = serde_json::from_str("\"EDGE-7\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"edge-7\"");
        let error = serde_json::from_str::<NodeId>("\"../x\"").unwrap_err().to_string();
        assert!(error.contains("a node id is"), "{error}");
        serde_json::from_str::<ServiceName>("7").unwrap_err();
    }

    #[test]
    fn maps_can_be_asked_with_text() {
        let map = BTreeMap::from([(NodeId::parse("b").unwrap(), 2), (NodeId::parse("a").unwrap(), 1)]);
        assert_eq!(map.get("b"), Some(&2));
        assert_eq!(map.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(format!("{:>4}|", NodeId::parse("a").unwrap()), "   a|");
    }

    #[test]
    fn binary_values_are_lower_case_hex() {
        let mut bytes = [0_u8; 16];
        bytes[0] = 0xab;
        bytes[15] = 0x01;
        let instance = Instance::from_bytes(bytes);
        assert_eq!(instance.to_string(), "ab0000000000000000000000000000 01".replace(' ', ""));
        let json = serde_json::to_string(&instance).unwrap();
        assert_eq!(serde_json::from_str::<Instance>(&json).unwrap(), instance);
        for wrong in
            [json.to_uppercase(), json.replace("ab", "a"), json.replace("ab", "xx"), "\"\"".to_owned()]
        {
            serde_json::from_str::<Instance>(&wrong).unwrap_err();
        }
        let long = format!("\"{}\"", "0".repeat(1 << 16));
        assert!(serde_json::from_str::<Instance>(&long).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_nonce_never_shows_itself() {
        let nonce = Nonce([0xcd; 32]);
        assert!(!format!("{nonce:?}").contains("cd"));
        assert_eq!(serde_json::to_string(&nonce).unwrap(), format!("\"{}\"", "cd".repeat(32)));
    }

    #[test]
    fn long_numbers_are_decimal_strings() {
        assert_eq!(serde_json::to_string(&SessionId(u64::MAX)).unwrap(), "\"18446744073709551615\"");
        assert_eq!(serde_json::from_str::<SessionId>("\"41\"").unwrap(), SessionId(41));
        for wrong in
            ["41", "\"\"", "\"+1\"", "\"-1\"", "\" 1\"", "\"0x1\"", "\"18446744073709551616\"", "null"]
        {
            serde_json::from_str::<SessionId>(wrong).unwrap_err();
        }
    }

    #[test]
    fn generations_compare_only_within_one_line_of_one_process() {
        let one = Generation { instance: Instance([1; 16]), slot: 0, seq: 5 };
        let newer = Generation { seq: 6, ..one };
        assert_eq!(newer.supersedes(&one), Some(true));
        assert_eq!(one.supersedes(&newer), Some(false));
        assert_eq!(one.supersedes(&one), Some(false));
        assert_eq!(newer.supersedes(&Generation { slot: 1, ..one }), None);
        assert_eq!(newer.supersedes(&Generation { instance: Instance([2; 16]), ..one }), None);
        assert_eq!(
            serde_json::to_string(&one).unwrap(),
            format!(r#"{{"instance":"{}","slot":0,"seq":"5"}}"#, "01".repeat(16))
        );
    }

    proptest! {
        #[test]
        fn whatever_parses_is_within_the_grammar(given in "[a-cA-C0-2._*/ é-]{0,70}") {
            if let Ok(id) = NodeId::parse(&given) {
                prop_assert_eq!(id.as_str(), given.to_lowercase());
                prop_assert!(id.as_str().len() <= NODE_ID_MAX && !id.as_str().contains("--"));
                prop_assert_eq!(NodeId::parse(id.as_str()).unwrap(), id);
            }
        }

        #[test]
        fn identities_round_trip(instance in any::<[u8; 16]>(), slot in any::<u32>(), seq in any::<u64>(), nonce in any::<[u8; 32]>()) {
            let generation = Generation { instance: Instance(instance), slot, seq };
            let json = serde_json::to_vec(&(generation, Nonce(nonce))).unwrap();
            prop_assert_eq!(serde_json::from_slice::<(Generation, Nonce)>(&json).unwrap(), (generation, Nonce(nonce)));
        }
    }
}
