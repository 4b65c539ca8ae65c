//! `reachback login`: a join string becomes an identity of this machine, once.
//!
//! The token in the string belongs to the first key that shows it, so the key is made here and never leaves. Logging in
//! again with the same string renews what there is instead of failing: people do that when they are unsure.

use std::sync::Arc;

use reachback_link::{Address, Net};
use reachback_wire::{NodeId, Role, join::JoinString};

use crate::{
    access::{Access, Attempt, enrol},
    client::ConnectError,
    identity::{Identity, Random, RandomError},
    profiles::{Profile, ProfileError, Profiles},
};

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The profile can't be kept or used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// No explorer of the join string let us in; what the last one said.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// This machine can't even say who it is.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// Exchanges a join string for a certificate and keeps it as a profile, called `name` or as its explorer's host, which
/// becomes the current one. `machine` is what this machine calls itself.
///
/// # Errors
/// No explorer of the string let us in, or the profile can't be kept.
pub async fn login(
    net: Arc<dyn Net>,
    join: JoinString,
    machine: NodeId,
    random: Random,
    profiles: &Profiles,
    name: Option<&str>,
) -> Result<Profile, LoginError> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => host(join.addresses()),
    };
    let membership = profiles.join(&name, machine, join)?;
    let identity = Identity::new(Role::Client, membership.id().clone(), random)?;
    let addresses = membership.explorers().map_err(ProfileError::from)?;
    let mut last = None;
    for (seq, to) in (1..).zip(&addresses) {
        let attempt =
            Attempt { net: net.as_ref(), to, identity: &identity, slot: 0, seq, features: Vec::new() };
        let papers = match membership.join_papers() {
            Ok(papers) => papers,
            Err(error) => return Err(ConnectError::new(&error.into(), &Access::plain()).into()),
        };
        match enrol(&membership, papers, &attempt).await {
            Ok(()) => {
                profiles.choose(&name)?;
                return Ok(profiles.get(&name)?);
            }
            Err(error) => last = Some(ConnectError::new(&error, &Access::member(membership.clone()))),
        }
    }
    // A join string has an address.
    Err(last.map_or_else(|| ProfileError::Name(name).into(), LoginError::from))
}

/// The host of the first address, as the name of a profile.
fn host(addresses: &[String]) -> String {
    let parsed = addresses.first().and_then(|address| address.parse().ok());
    let host = match parsed {
        Some(Address::Tcp { host, .. }) => host,
        Some(Address::Unix(_)) | None => "local".to_owned(),
    };
    let fine = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    host.chars().map(fine).take(64).collect::<String>().trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_called_as_its_explorer() {
        for (address, name) in [
            ("hub.example.com:9002", "hub.example.com"),
            ("hub", "hub"),
            ("[2001:db8::1]:9002", "2001_db8__1"),
            ("unix:///run/x.sock", "local"),
        ] {
            assert_eq!(host(&[address.to_owned()]), name, "{address}");
        }
    }
}
