//! Taking back what was given, and freeing names.
//!
//! What is revoked is remembered for ever and looked at in every decision; sessions that are up are told that something
//! changed and ask again. It holds from the moment it is said, even when it can't be written down.

use std::{fmt, str::FromStr};

use reachback_wire::{Code, NodeId, Refusal, text::sanitize};

use super::{
    Actor, Security,
    audit::Entry,
    store::{Change, Kind, Revoked, State, TokenRow},
    tokens::TokenRole,
};
use crate::limits;

/// Who or what is meant: `node:edge-7`, `user:ann`, `token:3f2a…`, or one of the names alone where it can mean one thing only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocable {
    kind: Option<RevokedKind>,
    name: String,
}

/// What was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokedKind {
    /// A node: nobody comes in under its id until it is released.
    Node,
    /// A user: every login and every token so far.
    User,
    /// One token, and the login that was made with it.
    Token,
}

/// What [`Security::revoke`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What it was.
    pub kind: RevokedKind,
    /// Which; of a token its number.
    pub name: String,
    /// What the operator has to know besides, if anything.
    pub note: Option<String>,
}

impl FromStr for Revocable {
    type Err = Refusal;

    fn from_str(given: &str) -> Result<Self, Refusal> {
        let (kind, name) = match given.split_once(':') {
            None => (None, given),
            Some(("node", name)) => (Some(RevokedKind::Node), name),
            Some(("user", name)) => (Some(RevokedKind::User), name),
            Some(("token", name)) => (Some(RevokedKind::Token), name),
            Some(_) => {
                let text = format!("\"{}\": write node:ID, user:NAME or token:ID", sanitize(given, 64));
                return Err(Refusal::new(Code::BadFrame, text));
            }
        };
        Ok(Self { kind, name: name.to_ascii_lowercase() })
    }
}

impl fmt::Display for RevokedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "node",
            Self::User => "user",
            Self::Token => "token",
        })
    }
}

impl Security {
    /// Takes back a node's, a user's or a token's rights, at once; sessions that rest on them are told through
    /// [`Security::subscribe_revocations`]. Blocks.
    ///
    /// # Errors
    /// There is nothing of that name, or several things are; or it could not be written down, in which case it holds until the
    /// explorer is started again.
    pub fn revoke(&self, what: &Revocable, by: &Actor) -> Result<Revocation, Refusal> {
        let now_ms = self.config.clock.now_ms();
        let entry = Entry::new("revoke", &what.name).actor(by);
        let outcome = self.store.enforce(|state| {
            let kind = what.find(state)?;
            match kind {
                RevokedKind::Node => revoke_node(state, &what.name, now_ms),
                RevokedKind::User => revoke_user(state, &what.name, now_ms),
                RevokedKind::Token => revoke_token(state, &what.name, now_ms),
            }
        });
        let (revocation, written) = match outcome {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.audit.record(&entry.refused(&refusal));
                return Err(refusal);
            }
        };
        self.revocations.send_modify(|changes| *changes += 1);
        let subject = format!("{} {}", revocation.kind, revocation.name);
        let entry = Entry::new("revoke", &subject).actor(by);
        match written {
            Ok(()) => {
                self.audit.record(&entry);
                Ok(revocation)
            }
            Err(mut refusal) => {
                refusal.message = format!(
                    "{subject} is revoked until this explorer is started again, and not for good: {}. Revoke it once more then",
                    refusal.message
                );
                self.audit.record(&entry.refused(&refusal));
                Err(refusal)
            }
        }
    }

    /// Frees a node's id for another key, and lets in again a node that was revoked. The key that had it is believed no more
    /// until it joins again. Returns whether there was anything to free. Blocks.
    ///
    /// # Errors
    /// It can't be written down; then nothing has changed.
    pub fn release(&self, id: &NodeId, by: &Actor) -> Result<bool, Refusal> {
        let now_ms = self.config.clock.now_ms();
        let entry = Entry::new("release", id.as_str()).actor(by);
        let outcome = self.store.commit(|state| {
            let mut changes = Vec::new();
            if let Some(row) = state.nodes.get(id) {
                changes.push(Change::Forget(Kind::Node, row.key));
                changes.push(Change::Revoke(Revoked::Key(row.key), now_ms));
            }
            if state.revoked(&Revoked::Node(id.clone())).is_some() {
                changes.push(Change::Restore(Revoked::Node(id.clone())));
            }
            let anything = !changes.is_empty();
            Ok((changes, anything))
        });
        self.revocations.send_modify(|changes| *changes += 1);
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
    }
}

impl Revocable {
    /// What it can mean.
    fn find(&self, state: &State) -> Result<RevokedKind, Refusal> {
        if let Some(kind) = self.kind {
            return Ok(kind);
        }
        let node = state.nodes.contains_key(self.name.as_str());
        let user = state.users.values().any(|row| row.name == self.name.as_str())
            || state
                .tokens
                .values()
                .any(|row| row.role != TokenRole::Register && row.name == self.name.as_str());
        let token = !tokens(state, &self.name).is_empty();
        let mut found = [(node, RevokedKind::Node), (user, RevokedKind::User), (token, RevokedKind::Token)]
            .into_iter()
            .filter_map(|(is_there, kind)| is_there.then_some(kind));
        match (found.next(), found.next()) {
            (Some(kind), None) => Ok(kind),
            (Some(one), Some(other)) => Err(Refusal::new(
                Code::BadFrame,
                format!(
                    "{} is a {one} and a {other}; say which: {one}:{} or {other}:{}",
                    self.name, self.name, self.name
                ),
            )),
            (None, _) => Err(Refusal::new(
                Code::NodeNotFound,
                format!(
                    "this explorer knows no node, user or token called {}; see reachback nodes and reachback token list, or say \
                     node:ID to bar an id that never came",
                    sanitize(&self.name, limits::TEXT)
                ),
            )),
        }
    }
}

type Decided = Result<(Vec<Change>, Revocation), Refusal>;

fn revoke_node(state: &State, name: &str, now_ms: u64) -> Decided {
    let id = parsed(name)?;
    let token = state.nodes.get(&id).and_then(|row| state.tokens.get(&row.token));
    let usable = |row: &&TokenRow| {
        row.expires_ms > now_ms
            && row.uses_left != Some(0)
            && state.revoked(&Revoked::Token(row.id.clone())).is_none()
    };
    let note = token.filter(usable).map(|row| {
        format!(
            "it joined with token \"{}\", which still lets nodes in; if that is known to others, run: reachback revoke token:{}",
            row.name, row.id
        )
    });
    let revocation = Revocation { kind: RevokedKind::Node, name: id.to_string(), note };
    Ok((vec![Change::Revoke(Revoked::Node(id), now_ms)], revocation))
}

fn revoke_user(state: &State, name: &str, now_ms: u64) -> Decided {
    let name = parsed(name)?;
    let mut changes = vec![Change::Revoke(Revoked::User(name.clone()), now_ms)];
    for row in state.users.values().filter(|row| row.name == name) {
        changes.push(Change::Forget(Kind::User, row.key));
        changes.push(Change::Revoke(Revoked::Key(row.key), now_ms));
    }
    for row in state.tokens.values().filter(|row| row.role != TokenRole::Register && row.name == name) {
        changes.push(Change::Revoke(Revoked::Token(row.id.clone()), now_ms));
    }
    let revocation = Revocation { kind: RevokedKind::User, name: name.to_string(), note: None };
    Ok((changes, revocation))
}

fn revoke_token(state: &State, name: &str, now_ms: u64) -> Decided {
    let found = tokens(state, name);
    let (id, row) = match found.as_slice() {
        // One that was made before a backup was restored is known by its number only.
        [] if name.len() == limits::TOKEN_ID_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            (name.to_owned(), None)
        }
        [] => {
            let text =
                format!("there is no token {}; see: reachback token list", sanitize(name, limits::TEXT));
            return Err(Refusal::new(Code::NodeNotFound, text));
        }
        [row] => (row.id.clone(), Some(*row)),
        [one, other, ..] => {
            let text = format!(
                "several tokens are called {name}; say which: token:{} or token:{}",
                one.id, other.id
            );
            return Err(Refusal::new(Code::BadFrame, text));
        }
    };
    let mut changes = vec![Change::Revoke(Revoked::Token(id.clone()), now_ms)];
    if let Some(key) = row.and_then(|row| row.bound) {
        changes.push(Change::Forget(Kind::User, key));
        changes.push(Change::Revoke(Revoked::Key(key), now_ms));
    }
    let let_in = state.nodes.values().filter(|row| row.token == id).count();
    let note = (let_in > 0)
        .then(|| format!("{let_in} nodes that joined with it stay; revoke them one by one if they must go"));
    Ok((changes, Revocation { kind: RevokedKind::Token, name: id, note }))
}

/// Tokens with this number or the beginning of it, or that let nodes in under this name.
fn tokens<'a>(state: &'a State, name: &str) -> Vec<&'a TokenRow> {
    let by_number = |row: &TokenRow| name.len() >= limits::TOKEN_ID_BEGIN && row.id.starts_with(name);
    let by_name = |row: &TokenRow| row.role == TokenRole::Register && row.name == name;
    state.tokens.values().filter(|row| by_number(row) || by_name(row)).collect()
}

fn parsed(name: &str) -> Result<NodeId, Refusal> {
    NodeId::parse(name).map_err(|error| Refusal::new(Code::BadFrame, error.to_string()))
}
