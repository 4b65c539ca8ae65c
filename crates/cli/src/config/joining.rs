//! How a node comes in: by the certificate it has or gets with its line, by what it is told to show instead, or, on
//! this machine and in labs, by nothing.
//!
//! One of them, never two: what is given and would not be used is refused.

use std::path::{Path, PathBuf};

use reachback_client::{Access, Membership, MembershipError};
use reachback_link::Address;
use reachback_wire::{NodeId, Role, Secret, join::JoinString};

use crate::{
    args::CredentialArguments,
    config::{
        dialled::Dialled,
        entry::Shown,
        origin::{Origin, Origins},
        secret,
    },
    exit::Failure,
};

/// The setting that names explorers.
const KEY: &str = "explorer";

/// The line that lets this node join, if somebody has given it one.
pub(super) struct Join {
    line: Option<JoinString>,
    /// A file was named, and nothing is in it (any more).
    empty: Option<PathBuf>,
}

impl Join {
    /// The first source that names a line or a file of one.
    pub(super) fn of(
        sources: [(Origin, Option<Secret>, Option<PathBuf>); 2],
        origins: &mut Origins,
    ) -> Result<Self, Failure> {
        for (origin, line, file) in sources {
            let secret = match (line, file) {
                (None, None) => continue,
                (Some(_), Some(_)) => {
                    return Err(Failure::config(
                        "join and join_file are two places for one line; give one of them",
                    ));
                }
                (Some(line), None) => {
                    origins.note("join", "a join string", origin);
                    line
                }
                (None, Some(file)) => {
                    origins.note("join_file", file.display(), origin);
                    match join_in(&file)? {
                        Some(line) => line,
                        None => return Ok(Self { line: None, empty: Some(file) }),
                    }
                }
            };
            let line = secret.expose().trim().parse::<JoinString>().map_err(Failure::config)?;
            return Ok(Self { line: Some(line), empty: None });
        }
        Ok(Self { line: None, empty: None })
    }
}

/// Whoever takes the line away after the node has joined leaves an empty file, or none.
fn join_in(file: &Path) -> Result<Option<Secret>, Failure> {
    match file.try_exists() {
        Ok(false) => Ok(None),
        _ => secret::read_if_any(file, "--join-file"),
    }
}

/// How the explorers are dialled, and which.
pub(super) struct WayIn {
    pub(super) access: Access,
    pub(super) explorers: Vec<Address>,
    pub(super) membership: Option<Membership>,
    pub(super) files: Option<CredentialFiles>,
}

/// Files that say how a node comes in, for when they have changed.
#[derive(Debug)]
pub(crate) struct CredentialFiles {
    shown: Shown,
    to: Vec<Dialled>,
}

impl CredentialFiles {
    /// The way in that they make now.
    ///
    /// # Errors
    /// As at the start.
    pub(crate) fn read_again(&self) -> Result<Option<Access>, Failure> {
        self.shown.clone().access(&self.to)
    }
}

pub(super) fn way_in(
    id: &NodeId,
    named: Vec<Dialled>,
    shown: Shown,
    join: Join,
    state_dir: Option<&Path>,
    local: impl FnOnce() -> Result<PathBuf, Failure>,
    origins: &mut Origins,
) -> Result<WayIn, Failure> {
    let addresses = |named: &[Dialled]| named.iter().map(|dialled| dialled.address.clone()).collect();
    if shown.is_anything() {
        if join.line.is_some() {
            return Err(Failure::config(
                "a join string brings a certificate; leave it out, or the token, secret, CA file and [tls]",
            ));
        }
        let to = if named.is_empty() { vec![Address::Unix(local()?).into()] } else { named };
        let access = shown.clone().access(&to)?.unwrap_or_else(Access::plain);
        let explorers = addresses(&to);
        let files = shown.can_be_read_again().then_some(CredentialFiles { shown, to });
        return Ok(WayIn { access, explorers, membership: None, files });
    }
    // Whoever may use a socket is known by the kernel.
    let only_sockets = !named.is_empty() && named.iter().all(|to| matches!(to.address, Address::Unix(_)));
    let membership = match only_sockets && join.line.is_none() {
        true => None,
        false => match Membership::open(Role::Node, id.clone(), state_dir, join.line) {
            Ok(membership) => Some(membership),
            Err(MembershipError::Nothing { .. }) => None,
            Err(error) => return Err(Failure::config(error)),
        },
    };
    match membership {
        Some(membership) => {
            let explorers = match named.is_empty() {
                true => {
                    let known = membership.explorers().map_err(Failure::config)?;
                    for address in &known {
                        origins.note(KEY, address, Origin::Joined);
                    }
                    known
                }
                false => addresses(&named),
            };
            let access = Access::member(membership.clone());
            Ok(WayIn { access, explorers, membership: Some(membership), files: None })
        }
        None => {
            if let Some(file) = join.empty {
                return Err(Failure::config(format_args!(
                    "join_file {}: nothing is in it, and this node has not joined yet; put a line there that was made \
                     on the explorer with: reachback token create --role register --node {id}",
                    file.display()
                )));
            }
            for to in &named {
                to.in_plaintext(shown.insecure, "give this node a line to join with: --join STRING")?;
            }
            let explorers = match named.is_empty() {
                true => {
                    let local = Address::Unix(local()?);
                    origins.note(KEY, &local, Origin::Default);
                    vec![local]
                }
                false => addresses(&named),
            };
            Ok(WayIn { access: Access::plain(), explorers, membership: None, files: None })
        }
    }
}

/// What the command line shows, and where it says nothing the file.
pub(super) fn shown(
    typed: CredentialArguments,
    file: Shown,
    origins: &mut Origins,
) -> Result<Shown, Failure> {
    let typed = Shown::of(typed)?;
    let mut pick = |key, typed, file| {
        origins.pick(key, [(Origin::Typed, typed), (Origin::File, file)], |path: &PathBuf| {
            path.display().to_string()
        })
    };
    let shown = Shown {
        token: pick("token_file", typed.token, file.token),
        secret: pick("secret_file", typed.secret, file.secret),
        ca: pick("ca_file", typed.ca, file.ca),
        own: typed.own.or(file.own),
        insecure: typed.insecure || file.insecure,
    };
    if shown.insecure {
        origins.note("insecure_plaintext", true, if typed.insecure { Origin::Typed } else { Origin::File });
    }
    Ok(shown)
}
