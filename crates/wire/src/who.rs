//! Who a caller is to a node: the words in which a node says whom it lets in, beside what its explorer thinks.
//!
//! A service's own list and a grant name callers the same way, and an explorer reads the grant in order to let the caller
//! through. So the words are read in one place: `ann` is a user, `node:edge-*` are nodes, `*` is any run of characters.
//! The kind is never guessed from the name: a user who is called as a node is still a user.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Caller, Role, rights::NamePattern, text::sanitize};

/// Some callers: `ann` or `user:ann`, `node:edge-*`, `user:*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallerPattern {
    role: Role,
    name: NamePattern,
}

/// What names no caller, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("caller \"{given}\": {reason}; write a user's name, as in ann, or node:NAME, as in node:edge-*")]
pub struct CallerPatternError {
    given: String,
    reason: String,
}

impl CallerPattern {
    /// Whether this caller is meant. A name that nobody has verified is no name: such a caller is never meant.
    pub fn matches(&self, caller: &Caller) -> bool {
        caller.role == self.role && caller.name.as_deref().is_some_and(|name| self.name.matches(name))
    }
}

impl FromStr for CallerPattern {
    type Err = CallerPatternError;

    fn from_str(text: &str) -> Result<Self, CallerPatternError> {
        let refuse = |reason: String| CallerPatternError { given: sanitize(text, 80), reason };
        let (role, name) = match text.trim().split_once(':') {
            None => (Role::Client, text.trim()),
            Some(("user", name)) => (Role::Client, name),
            Some(("node", name)) => (Role::Node, name),
            Some((kind, _)) => {
                return Err(refuse(format!("\"{}\" is no kind of caller", sanitize(kind, 40))));
            }
        };
        let name = name.parse().map_err(|error| refuse(format!("{error}")))?;
        Ok(Self { role, name })
    }
}

impl fmt::Display for CallerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Client => write!(f, "{}", self.name),
            role => write!(f, "{role}:{}", self.name),
        }
    }
}

impl TryFrom<String> for CallerPattern {
    type Error = CallerPatternError;

    fn try_from(text: String) -> Result<Self, CallerPatternError> {
        text.parse()
    }
}

impl From<CallerPattern> for String {
    fn from(pattern: CallerPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: Role, name: Option<&str>) -> Caller {
        let name = name.map(str::to_owned);
        Caller { role, id: "laptop".into(), name, granted: false, session: None, address: None }
    }

    fn meant(pattern: &str, role: Role, name: &str) -> bool {
        let pattern: CallerPattern = pattern.parse().unwrap_or_else(|error| panic!("{error}"));
        pattern.matches(&caller(role, Some(name)))
    }

    #[test]
    fn kind_and_name_both_count() {
        for (pattern, role, name, expected) in [
            ("ann", Role::Client, "ann", true),
            ("user:ann", Role::Client, "ann", true),
            ("ann", Role::Client, "anna", false),
            ("ann", Role::Client, "joann", false),
            ("ann", Role::Node, "ann", false),
            ("ann", Role::Explorer, "ann", false),
            ("node:edge-*", Role::Node, "edge-7", true),
            ("node:edge-*", Role::Node, "hedge-7", false),
            ("node:edge-*", Role::Client, "edge-7", false),
            ("user:*", Role::Client, "anybody", true),
            ("*", Role::Node, "edge-7", false),
            ("node:*", Role::Node, "edge-7", true),
        ] {
            assert_eq!(meant(pattern, role, name), expected, "{pattern}: {role} {name}");
        }
    }

    #[test]
    fn an_unverified_name_is_nobody() {
        let everyone: CallerPattern = "user:*".parse().unwrap();
        assert!(!everyone.matches(&caller(Role::Client, None)));
    }

    #[test]
    fn what_is_shown_reads_back() {
        for (given, shown) in [("user:ann", "ann"), ("ann", "ann"), (" node:edge-* ", "node:edge-*")] {
            let pattern: CallerPattern = given.parse().unwrap();
            assert_eq!(pattern.to_string(), shown);
            let json = serde_json::to_string(&pattern).unwrap();
            assert_eq!(serde_json::from_str::<CallerPattern>(&json).unwrap(), pattern, "{json}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_form() {
        for text in ["", "user:", "admin:ann", "node:", "a b", "x\r\ny", "node:a/b"] {
            let refusal = text.parse::<CallerPattern>().expect_err(text).to_string();
            assert!(refusal.contains("write a user's name"), "{refusal}");
            assert!(!refusal.contains(char::is_control), "{refusal:?}");
        }
    }
}
