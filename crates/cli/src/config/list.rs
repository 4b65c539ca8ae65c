//! Settings that are lists: typed several times, separated in a variable of their own, or an array of the file.
//!
//! Each has the same rule, so that nobody has to look it up: the first of the three that has an entry holds, and what
//! the others say is not merged in.

use std::fmt::Display;

use reachback_link::ListenAddress;
use reachback_wire::Target;
use serde::Deserialize;

use crate::{
    config::{
        file::Checked,
        origin::{Origin, Origins},
        port_spec::PortSpec,
    },
    environment::Environment,
    exit::Failure,
};

/// A list setting: its name, and the variable that clap does not read because its entries are not separated as clap
/// would.
pub(super) struct List {
    pub(super) key: &'static str,
    pub(super) variable: &'static str,
    pub(super) separators: &'static [char],
}

impl List {
    /// Separated by commas in its variable.
    pub(super) const fn with_commas(key: &'static str, variable: &'static str) -> Self {
        Self { key, variable, separators: &[','] }
    }

    /// The entries that hold, none if nobody says any. A wrong one in the variable is a usage error that names it.
    pub(super) fn pick<T, E: Display>(
        &self,
        typed: Vec<T>,
        (environment, parse): (&Environment, impl Fn(&str) -> Result<T, E>),
        file: Vec<T>,
        origins: &mut Origins,
        shown: impl Fn(&T) -> String,
    ) -> Result<Vec<T>, Failure> {
        let listed = environment.entries(self.variable, self.separators, parse)?;
        let sources =
            [(Origin::Typed, typed), (Origin::Variable(self.variable), listed), (Origin::File, file)];
        Ok(origins.pick_list(self.key, sources, shown))
    }

    /// The same for ports and where they lead.
    pub(super) fn ports(
        &self,
        typed: Vec<PortSpec>,
        environment: &Environment,
        file: Vec<PortTable>,
        origins: &mut Origins,
    ) -> Result<Vec<PortSpec>, Failure> {
        let file = file.into_iter().map(|PortTable { listen: Checked(listen), target: Checked(target) }| {
            PortSpec { listen, target }
        });
        self.pick(typed, (environment, PortSpec::with_port), file.collect(), origins, |spec| {
            format!("{}={}", spec.listen, spec.target)
        })
    }
}

/// `[[publish]]` of an explorer, `[[forward]]` of a node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortTable {
    listen: Checked<ListenAddress>,
    target: Checked<Target>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: List = List::with_commas("number", "REACHBACK_NUMBER");

    fn picked(typed: &[u8], variable: &str, file: &[u8]) -> Result<Vec<u8>, Failure> {
        let environment: Environment =
            [("REACHBACK_NUMBER".to_owned(), variable.to_owned())].into_iter().collect();
        let mut origins = Origins::default();
        LIST.pick(
            typed.to_vec(),
            (&environment, str::parse),
            file.to_vec(),
            &mut origins,
            ToString::to_string,
        )
    }

    #[test]
    fn the_first_that_has_an_entry_holds_alone() {
        assert_eq!(picked(&[1], "2,3", &[4]).unwrap(), [1]);
        assert_eq!(picked(&[], "2,3", &[4]).unwrap(), [2, 3]);
        assert_eq!(picked(&[], " ", &[4]).unwrap(), [4]);
        assert!(picked(&[], "", &[]).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_entry_names_the_variable_even_where_flags_win() {
        let failure = picked(&[1], "2,x", &[]).unwrap_err();
        assert!(
            failure.exit.number() == 64 && failure.to_string().contains("REACHBACK_NUMBER: "),
            "{failure}"
        );
    }
}
