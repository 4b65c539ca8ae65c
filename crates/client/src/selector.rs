//! Several places in one word: `any/rpc`, `region=eu/rpc`.
//!
//! A target is one place, because whoever opens something has to know where its bytes went. Words for several are taken
//! apart here, on the caller's side, before anything is opened.

use std::{collections::BTreeMap, fmt, str::FromStr};

use reachback_wire::{ServiceName, Target, id::IdError, target::TargetError, text::sanitize};

/// The longest key or value of a label, as nodes may declare them.
const LABEL_MAX: usize = 63;

/// What a caller wants to reach: one place, or a service wherever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// One place.
    One(Target),
    /// A service on every node that has it and all of these labels: `any/SERVICE` (none) or
    /// `label=value,…/SERVICE`.
    Every {
        /// Sorted by key.
        labels: BTreeMap<String, String>,
        /// The service.
        service: ServiceName,
    },
}

/// Why something is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It means one place and is not right.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It means several, and the service is none.
    #[error(transparent)]
    Service(#[from] IdError),
    /// A label that no node can have.
    #[error(
        "\"{given}\" is no label: write KEY=VALUE of letters, digits, '.', '_' and '-', as in region=eu,arch=arm/rpc"
    )]
    Label {
        /// What was given, escaped and cut.
        given: String,
    },
    /// The same key with two values: no node has both.
    #[error("label {key} is given twice; a node has one value for it")]
    LabelTwice {
        /// The key.
        key: String,
    },
}

impl Selector {
    /// The one place that it means, if it does.
    pub fn one(&self) -> Option<&Target> {
        match self {
            Self::One(target) => Some(target),
            Self::Every { .. } => None,
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(given: &str) -> Result<Self, SelectorError> {
        let Some((owner, service)) = given
            .split_once('/')
            .filter(|(owner, _)| owner.eq_ignore_ascii_case("any") || owner.contains('='))
        else {
            return Ok(Self::One(given.parse()?));
        };
        let service = ServiceName::parse(service)?;
        let mut labels = BTreeMap::new();
        if owner.contains('=') {
            for label in owner.split(',') {
                let fault = || SelectorError::Label { given: sanitize(label, 2 * LABEL_MAX) };
                let (key, value) = label.split_once('=').ok_or_else(fault)?;
                if !is_word(key) || !is_word(value) {
                    return Err(fault());
                }
                if labels.insert(key.to_owned(), value.to_owned()).is_some() {
                    return Err(SelectorError::LabelTwice { key: key.to_owned() });
                }
            }
        }
        Ok(Self::Every { labels, service })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(target) => target.fmt(f),
            Self::Every { labels, service } if labels.is_empty() => write!(f, "any/{service}"),
            Self::Every { labels, service } => {
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "{}/{service}", labels.join(","))
            }
        }
    }
}

fn is_word(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=LABEL_MAX).contains(&text.len()) && text.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_or_several() {
        for (given, shown, one) in [
            ("edge-7/rpc", "edge-7/rpc", true),
            ("edge-7/10.0.0.5:22", "edge-7/10.0.0.5:22", true),
            ("@explorer/api", "@explorer/api", true),
            ("any/rpc", "any/rpc", false),
            ("ANY/RPC", "any/rpc", false),
            ("region=eu/rpc", "region=eu/rpc", false),
            ("region=eu,arch=arm-v7/rpc", "arch=arm-v7,region=eu/rpc", false),
        ] {
            let selector: Selector = given.parse().unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(selector.to_string(), shown);
            assert_eq!(selector.one().is_some(), one, "{given}");
            assert_eq!(shown.parse::<Selector>().unwrap(), selector);
        }
    }

    #[test]
    fn what_is_neither_is_said() {
        for (given, part) in [
            ("edge-7", "write NODE/SERVICE"),
            ("*/rpc", "patterns"),
            ("any/", "service name"),
            ("any/10.0.0.1:22", "service name"),
            ("=eu/rpc", "is no label"),
            ("region=/rpc", "is no label"),
            ("region=eu,/rpc", "is no label"),
            ("region=e\u{1b}u/rpc", "is no label"),
            ("region=eu,region=us/rpc", "given twice"),
        ] {
            let error = given.parse::<Selector>().expect_err(given).to_string();
            assert!(error.contains(part) && !error.chars().any(char::is_control), "{given}: {error}");
        }
    }
}
