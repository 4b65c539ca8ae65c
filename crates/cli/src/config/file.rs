//! Configuration files: TOML whose mistakes are named by file, line and nearest key.

use std::{
    fmt::Display,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
};

use reachback_wire::nearest;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::exit::Failure;

/// A file that can't be used; each says where and what to write instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Not there, not readable, not UTF-8.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value that is refused.
    #[error("{}{}: {message}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1, if the mistake has one.
        line: Option<usize>,
        /// What is wrong there.
        message: String,
    },
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::config(error)
    }
}

/// Reads `path` into its file shape.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let text =
        fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// A value that is written as text and checked by its own grammar, so that the refusal carries the line.
#[derive(Debug, Clone)]
pub(crate) struct Checked<T>(pub(crate) T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| FileError::Content {
        path: path.to_owned(),
        line: error.span().map(|span| line_of(text, &span)),
        message: worded(error.message()),
    })
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
}

/// serde lists every key it knows; the one that was meant comes first here.
fn worded(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field ") else { return message.to_owned() };
    let mut names = rest.split('`').skip(1).step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.collect();
    match nearest(unknown, known.iter().copied()) {
        Some(near) => format!("unknown key \"{unknown}\"; did you mean \"{near}\"?"),
        None => format!("unknown key \"{unknown}\"; this table has: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        #[serde(default)]
        port: Option<Checked<u16>>,
        #[serde(default)]
        entry: Vec<Entry>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        #[expect(dead_code, reason = "only its name is tested")]
        name: String,
    }

    fn refusal(text: &str) -> String {
        parse::<Shape>(Path::new("x.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_named_by_line_and_nearest_key() {
        assert_eq!(
            refusal("port = \"1\"\nprot = 2\n"),
            "x.toml, line 2: unknown key \"prot\"; did you mean \"port\"?"
        );
        assert_eq!(
            refusal("\n[[entry]]\nname = \"a\"\ncolour = 1\n"),
            "x.toml, line 4: unknown key \"colour\"; this table has: name"
        );
        let wrong = refusal("\n\nport = \"x\"\n");
        assert!(wrong.starts_with("x.toml, line 3: ") && wrong.contains("invalid digit"), "{wrong}");
        assert!(refusal("port = \n").starts_with("x.toml, line 1: "));
        assert!(refusal("[[entry]]\n").contains("name"));
    }

    #[test]
    fn what_is_right_is_read() {
        let shape: Shape = parse(Path::new("x.toml"), "port = \"7\"\n[[entry]]\nname = \"a\"\n").unwrap();
        assert_eq!((shape.port.map(|port| port.0), shape.entry.len()), (Some(7), 1));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read::<Shape>(Path::new("/nowhere/x.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/x.toml"), "{error}");
    }
}
