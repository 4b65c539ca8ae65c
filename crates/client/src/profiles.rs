//! What `reachback login` leaves behind: one profile per explorer that a person has an identity at, one of them current.
//!
//! A person may have three explorers and types none of their addresses. A profile is a state directory of its own, so
//! that logging out of one is removing one directory.

use reachback_link::Address;
use reachback_wire::{NodeId, Role, join::JoinString, text::sanitize};

use crate::{
    access::Access,
    enrolment::Enrolment,
    membership::{Membership, MembershipError},
    state_dir::{StateDir, StateError},
};

/// The file that names the current profile.
const CURRENT: &str = "current";
/// The longest name of a profile: a directory's.
const NAME_MAX: usize = 64;

/// All profiles of a user of this machine.
#[derive(Debug, Clone)]
pub struct Profiles(StateDir);

/// One of them.
#[derive(Debug, Clone)]
pub struct Profile {
    name: String,
    user: String,
    explorers: Vec<Address>,
    membership: Membership,
}

/// Why there is no such profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// What is kept can't be used or changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// It makes no identity.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// Nobody has logged in under this name.
    #[error("there is no profile \"{name}\"{}; log in with: reachback login JOIN-STRING", others(.there))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// It would be no directory.
    #[error("\"{0}\" can't be the name of a profile: use letters, digits, '.', '_' and '-', at most 64")]
    Name(String),
}

impl Profiles {
    /// Those in this directory, which need not be there yet.
    pub fn at(directory: impl Into<std::path::PathBuf>) -> Self {
        Self(StateDir::at(directory))
    }

    /// Their names, in order.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn list(&self) -> Result<Vec<String>, ProfileError> {
        Ok(self.0.directories()?)
    }

    /// The one that is used when nobody says which; none if nobody has logged in.
    ///
    /// # Errors
    /// It is there and can't be used.
    pub fn current(&self) -> Result<Option<Profile>, ProfileError> {
        let Some(bytes) = self.0.read(CURRENT)? else { return Ok(None) };
        match self.get(String::from_utf8_lossy(&bytes).trim()) {
            // Its directory was removed, which is how one logs out.
            Err(ProfileError::Unknown { .. }) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Makes a profile the current one.
    ///
    /// # Errors
    /// There is none of this name, or it can't be written down.
    pub(crate) fn choose(&self, name: &str) -> Result<(), ProfileError> {
        let profile = self.get(name)?;
        Ok(self.0.write(CURRENT, format!("{}\n", profile.name).as_bytes())?)
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// There is none, or it can't be used.
    pub fn get(&self, name: &str) -> Result<Profile, ProfileError> {
        let state = self.state(name)?;
        let Some(enrolment) = Enrolment::load(&state)? else {
            let name = sanitize(name, NAME_MAX);
            return Err(ProfileError::Unknown { name, there: self.list()? });
        };
        let (id, user) = (enrolment.about.id, enrolment.about.name);
        let membership = Membership::open(Role::Client, id, Some(state.path()), None)?;
        let explorers = membership.explorers()?;
        Ok(Profile { name: name.to_owned(), user, explorers, membership })
    }

    /// A membership that a login keeps under this name.
    pub(crate) fn join(&self, name: &str, id: NodeId, join: JoinString) -> Result<Membership, ProfileError> {
        let state = self.state(name)?;
        // A token that is used up for an identity that can't be kept is lost.
        state.probe()?;
        // Who logs in again is the machine that logged in first, whatever it is called by now.
        let id = Enrolment::load(&state)?.map_or(id, |kept| kept.about.id);
        Ok(Membership::open(Role::Client, id, Some(state.path()), Some(join))?)
    }

    fn state(&self, name: &str) -> Result<StateDir, ProfileError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > NAME_MAX || name.starts_with('.') || !name.chars().all(fine) {
            return Err(ProfileError::Name(sanitize(name, NAME_MAX)));
        }
        Ok(self.0.inside(name))
    }
}

impl Profile {
    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who one is there.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Where the explorer is: addresses to try in this order.
    pub fn explorers(&self) -> &[Address] {
        &self.explorers
    }

    /// Until when its certificate is good: milliseconds since 1970. It is renewed by itself where it is used before.
    pub fn not_after_unix_ms(&self) -> u64 {
        self.membership.not_after_unix_ms().unwrap_or_default()
    }

    /// How to come in with it.
    pub fn access(&self) -> Access {
        Access::member(self.membership.clone())
    }
}

fn others(there: &[String]) -> String {
    match there {
        [] => String::new(),
        there => format!("; there are: {}", there.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_directory_and_not_a_way_out_of_one() {
        let root = tempfile::tempdir().unwrap();
        let profiles = Profiles::at(root.path());
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a b", "a\n", &"x".repeat(65)] {
            assert!(matches!(profiles.get(name), Err(ProfileError::Name(_))), "{name:?}");
        }
        let error = profiles.get("hub.example.com").unwrap_err().to_string();
        assert!(
            error.contains("no profile \"hub.example.com\"") && error.contains("reachback login"),
            "{error}"
        );
        assert!(profiles.current().unwrap().is_none());
        assert!(matches!(profiles.choose("hub"), Err(ProfileError::Unknown { .. })));
    }
}
