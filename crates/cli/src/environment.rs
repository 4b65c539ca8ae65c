//! The environment, read once at the start and handed on as a value.
//!
//! clap reads the variables of single flags by itself. This is for what it can't say: second names that other tools
//! already set (`EXPLORER_TCP_ADDR`), lists whose entries hold commas, and variables nobody knows, which are most
//! often misspelt ones. A variable that is set but empty counts as absent: `${X:-}` in a compose file means that.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf, str::FromStr};

use reachback_wire::nearest;

use crate::exit::Failure;

/// The variables of this process that are text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the process's environment. Variables that are not UTF-8 are none of ours.
    pub(crate) fn read() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of `name`, if it is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    }

    /// Whether `name` is set, to nothing.
    pub(crate) fn is_blank(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.trim().is_empty())
    }

    /// The value of `name` as a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// The value of `name`, checked. A wrong one is a usage error that names the variable.
    pub(crate) fn parse<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: FromStr<Err: Display>,
    {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => Err(Failure::usage(format!("{name}: {error}"))),
        }
    }

    /// The entries of a list, separated by any of `separators`; empty entries are skipped.
    pub(crate) fn list<'a>(&'a self, name: &str, separators: &'a [char]) -> impl Iterator<Item = &'a str> {
        self.get(name).unwrap_or_default().split(separators).map(str::trim).filter(|entry| !entry.is_empty())
    }

    /// The entries of a list, checked. A wrong one is a usage error that names the variable.
    pub(crate) fn entries<T, E: Display>(
        &self,
        name: &str,
        separators: &[char],
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, Failure> {
        self.list(name, separators)
            .map(|entry| parse(entry).map_err(|error| Failure::usage(format_args!("{name}: {error}"))))
            .collect()
    }

    /// One warning for each `REACHBACK_…` variable that is not in `known`, with the nearest name that is.
    pub(crate) fn unknown(&self, known: &[String]) -> Vec<String> {
        let mut warnings = Vec::new();
        for name in self.0.keys().filter(|name| name.starts_with("REACHBACK_")) {
            if known.contains(name) {
                continue;
            }
            let hint = match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("; did you mean {near}?"),
                None => "; it has no effect".to_owned(),
            };
            warnings.push(format!("this version knows no variable {name}{hint}"));
        }
        warnings
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn empty_is_absent() {
        let environment = environment(&[("A", ""), ("B", "  "), ("C", "x")]);
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.get("B"), None);
        assert_eq!(environment.get("C"), Some("x"));
        assert!(environment.is_blank("A") && !environment.is_blank("C") && !environment.is_blank("D"));
        assert_eq!(environment.parse::<u16>("A").unwrap(), None);
    }

    #[test]
    fn wrong_values_name_the_variable() {
        let failure = environment(&[("PORT", "x")]).parse::<u16>("PORT").unwrap_err();
        assert!(failure.to_string().contains("PORT: "), "{failure}");
    }

    #[test]
    fn lists_skip_what_is_empty() {
        let environment = environment(&[("L", "a:1,, b:2 ,")]);
        assert_eq!(environment.list("L", &[',']).collect::<Vec<_>>(), ["a:1", "b:2"]);
        let failure = environment.entries("L", &[','], str::parse::<u16>).unwrap_err();
        assert!(failure.to_string().contains("L: "), "{failure}");
    }

    #[test]
    fn misspelt_variables_are_named_with_the_nearest() {
        let environment = environment(&[("REACHBACK_LISTN", ":1"), ("REACHBACK_ID", "x"), ("OTHER", "y")]);
        let warnings = environment.unknown(&["REACHBACK_LISTEN".to_owned(), "REACHBACK_ID".to_owned()]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("REACHBACK_LISTN; did you mean REACHBACK_LISTEN?"), "{warnings:?}");
    }
}
