//! Where each value of a configuration comes from: the question behind "why does it listen there?".
//!
//! The same code that brings the sources together for the running program notes the origin, so `check` can't say
//! anything else than what would happen.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, parser::ValueSource};

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    /// Flags that came from variables; clap reads both.
    variables: BTreeMap<String, String>,
    file: Option<PathBuf>,
    settings: Vec<Setting>,
    warnings: Vec<String>,
}

/// One value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) origin: String,
}

/// A place that values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag, or the variable that is its other name.
    Typed,
    /// Another variable.
    Variable(&'static str),
    /// The configuration file.
    File,
    /// The join line, or what joining with it has left in the state directory.
    Joined,
    /// Nobody said anything.
    Default,
}

impl Origins {
    /// Origins for a command line: `matches` are those of the command, `command` names its variables.
    pub(crate) fn of(matches: &ArgMatches, command: &clap::Command, file: Option<&Path>) -> Self {
        let from_variable = |argument: &&clap::Arg| {
            matches.value_source(argument.get_id().as_str()) == Some(ValueSource::EnvVariable)
        };
        let variables = command
            .get_arguments()
            .filter(from_variable)
            .filter_map(|argument| {
                Some((argument.get_id().to_string(), argument.get_env()?.to_str()?.to_owned()))
            })
            .collect();
        Self { variables, file: file.map(Path::to_owned), ..Self::default() }
    }

    /// The first source that has a value holds; which one is noted.
    pub(crate) fn pick<T>(
        &mut self,
        key: &'static str,
        sources: impl IntoIterator<Item = (Origin, Option<T>)>,
        shown: impl Fn(&T) -> String,
    ) -> Option<T> {
        let (origin, value) =
            sources.into_iter().find_map(|(origin, value)| value.map(|value| (origin, value)))?;
        self.note(key, shown(&value), origin);
        Some(value)
    }

    /// The same for lists, whose sources are not merged: the first that has an entry holds.
    pub(crate) fn pick_list<T>(
        &mut self,
        key: &'static str,
        sources: impl IntoIterator<Item = (Origin, Vec<T>)>,
        shown: impl Fn(&T) -> String,
    ) -> Vec<T> {
        let found = sources.into_iter().find(|(_, entries)| !entries.is_empty());
        let Some((origin, entries)) = found else { return Vec::new() };
        for entry in &entries {
            self.note(key, shown(entry), origin);
        }
        entries
    }

    /// Notes a value that was chosen elsewhere.
    pub(crate) fn note(&mut self, key: &'static str, value: impl Display, origin: Origin) {
        let origin = match origin {
            Origin::Typed => match self.variables.get(key) {
                Some(variable) => format!("variable {variable}"),
                None => format!("flag --{}", key.replace('_', "-")),
            },
            Origin::Variable(name) => format!("variable {name}"),
            Origin::File => match &self.file {
                Some(file) => file.display().to_string(),
                None => "file".to_owned(),
            },
            Origin::Joined => "join line".to_owned(),
            Origin::Default => "default".to_owned(),
        };
        self.settings.push(Setting { key, value: value.to_string(), origin });
    }

    /// Notes what is set and does not do what whoever set it may think.
    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Every such warning.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Everything noted, in the order in which it was.
    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_holds_and_is_named() {
        let mut origins = Origins { file: Some("x.toml".into()), ..Origins::default() };
        origins.variables.insert("id".to_owned(), "REACHBACK_ID".to_owned());
        let sources = |typed, variable, file| {
            [(Origin::Typed, typed), (Origin::Variable("OTHER"), variable), (Origin::File, file)]
        };
        let shown = |value: &i32| value.to_string();
        assert_eq!(origins.pick("id", sources(Some(1), Some(2), Some(3)), shown), Some(1));
        assert_eq!(origins.pick("socket_mode", sources(Some(1), None, Some(3)), shown), Some(1));
        assert_eq!(origins.pick("a", sources(None, Some(2), Some(3)), shown), Some(2));
        assert_eq!(origins.pick("b", sources(None, None, Some(3)), shown), Some(3));
        assert_eq!(origins.pick("c", [], shown), None);
        let lists = [(Origin::Typed, vec![]), (Origin::File, vec![4, 5])];
        assert_eq!(origins.pick_list("d", lists, shown), [4, 5]);
        let told: Vec<&str> = origins.settings().iter().map(|setting| setting.origin.as_str()).collect();
        assert_eq!(
            told,
            ["variable REACHBACK_ID", "flag --socket-mode", "variable OTHER", "x.toml", "x.toml", "x.toml"]
        );
    }
}
