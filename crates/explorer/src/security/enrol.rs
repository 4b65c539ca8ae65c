//! How a key gets a name, and keeps it.
//!
//! A token is exchanged once for a certificate that binds a name to a key, and the key never leaves the machine that made
//! it. From then on the key is the name: whoever comes with another one is refused until an operator releases the name.
//! The exchange may be repeated with the same key, because an answer can be lost on the way; that costs no use.

use std::sync::Arc;

use reachback_wire::{Code, Enrolled, NodeId, Refusal, Role, Secret};

use super::{
    Keys, Security,
    audit::Entry,
    certify::Requested,
    names::Subject,
    refusals::{id_taken, revoked_node, usable_token},
    store::{Change, Key, Kind, Revoked, State, TokenRow},
    tokens::{Claims, TokenRole},
};
use crate::limits;

impl Security {
    /// Exchanges a token for a certificate: of a node for a token of role `register`, of a user for one of role `user` or
    /// `admin`. `csr` is a certificate request (PKCS#10, DER), `from` is where it comes from, for the audit. Blocks.
    ///
    /// # Errors
    /// The refusal for the dialer: each thing that can be wrong with token, request and name has its own sentence.
    pub fn enrol(
        &self,
        token: &Secret,
        csr: &[u8],
        role: Role,
        id: &NodeId,
        from: &str,
    ) -> Result<Enrolled, Refusal> {
        let keys = self.keys();
        let now_ms = self.config.clock.now_ms();
        let outcome = keys.tokens.verify(token, now_ms).and_then(|claims| {
            let requested = Requested::read(csr)?;
            let enrolled = match role {
                Role::Node => self.enrol_node(&keys, &claims, &requested, id, now_ms),
                Role::Client => self.enrol_user(&keys, &claims, &requested, now_ms),
                Role::Explorer => Err(Refusal::new(
                    Code::Denied,
                    "this version has no cluster: explorers can't join one another",
                )),
            };
            enrolled.map(|enrolled| (enrolled, claims))
        });
        let subject = format!("{role} {id}");
        let entry = Entry::new("join", &subject).from(from);
        match outcome {
            Ok((enrolled, claims)) => {
                self.audit.record(&entry.by(&format!("token {} ({})", claims.sub, claims.jti)));
                Ok(enrolled)
            }
            Err(refusal) => {
                self.audit.record(&entry.refused(&refusal));
                Err(refusal)
            }
        }
    }

    fn enrol_node(
        &self,
        keys: &Keys,
        claims: &Claims,
        requested: &Requested,
        id: &NodeId,
        now_ms: u64,
    ) -> Result<Enrolled, Refusal> {
        let Some(pattern) = claims.node.as_ref().filter(|_| claims.role == TokenRole::Register) else {
            return Err(Refusal::new(
                Code::Denied,
                format!(
                    "token \"{}\" is of role {}: it lets a user in and no node. On a laptop run: reachback login; for a node ask \
                     an admin for: reachback token create --role register --node {id}",
                    claims.sub,
                    claims.role.name()
                ),
            ));
        };
        if !pattern.matches(id.as_str()) {
            return Err(Refusal::new(
                Code::NodeIdMismatch,
                format!(
                    "token \"{}\" lets in nodes called {pattern}, not {id}; use such an id, or ask an admin for: reachback \
                     token create --role register --node {id}",
                    claims.sub
                ),
            ));
        }
        let ephemeral = claims.ephemeral == Some(true);
        self.store.commit(|state| {
            let row = usable_token(state, claims)?.ok_or_else(|| {
                Refusal::new(
                    Code::Unauthenticated,
                    format!(
                        "this explorer has no record of token \"{}\", perhaps because it was restored from a backup; ask an \
                         admin for another",
                        claims.sub
                    ),
                )
            })?;
            let again = self.may_take(state, id, &requested.key)?;
            let mut row = row.clone();
            if !again {
                use_once(&mut row)?;
                room_for_one(state)?;
            }
            let life = if ephemeral { self.config.ephemeral_life } else { self.config.certificate_life };
            let subject = Subject::Node(id.clone());
            let issued = keys.issue(&subject, &requested.info, now_ms, life)?;
            let rights = Arc::new(claims.allow.clone());
            let enrolment = issued.enrolment(Kind::Node, id, rights, (false, ephemeral), &claims.jti, now_ms);
            let mut changes = vec![Change::Enrol(enrolment), Change::Token(row)];
            // Whoever has a valid token may come back with a key that was released before.
            if state.revoked(&Revoked::Key(requested.key)).is_some() {
                changes.push(Change::Restore(Revoked::Key(requested.key)));
            }
            Ok((changes, issued.answer(keys, id)))
        })
    }

    fn enrol_user(
        &self,
        keys: &Keys,
        claims: &Claims,
        requested: &Requested,
        now_ms: u64,
    ) -> Result<Enrolled, Refusal> {
        let name = &claims.sub;
        if claims.role == TokenRole::Register {
            return Err(Refusal::new(
                Code::Denied,
                format!(
                    "token \"{name}\" is of role register: it lets nodes in and no users. Run: reachback node --join"
                ),
            ));
        }
        let admin = claims.role == TokenRole::Admin;
        self.store.commit(|state| {
            let mut row = match usable_token(state, claims)? {
                Some(row) => row.clone(),
                None => TokenRow::of(claims),
            };
            if row.bound.is_some_and(|bound| bound != requested.key) {
                return Err(Refusal::new(
                    Code::IdTaken,
                    format!(
                        "token \"{name}\" was used to log in on another machine; ask an admin for one for this machine: \
                         reachback token create --role {} --name {name}",
                        claims.role.name()
                    ),
                ));
            }
            if row.bound.is_none() {
                room_for_one(state)?;
            }
            row.bound = Some(requested.key);
            let subject = Subject::User(name.clone());
            let issued = keys.issue(&subject, &requested.info, now_ms, self.config.certificate_life)?;
            let rights = Arc::new(claims.allow.clone());
            let enrolment = issued.enrolment(Kind::User, name, rights, (admin, false), &claims.jti, now_ms);
            let mut changes = vec![Change::Enrol(enrolment), Change::Token(row)];
            if state.revoked(&Revoked::Key(requested.key)).is_some() {
                changes.push(Change::Restore(Revoked::Key(requested.key)));
            }
            Ok((changes, issued.answer(keys, name)))
        })
    }

    /// Whether the node id is this key's already; a refusal when it is another's.
    fn may_take(&self, state: &State, id: &NodeId, key: &Key) -> Result<bool, Refusal> {
        if let Some(at_ms) = state.revoked(&Revoked::Node(id.clone())) {
            return Err(revoked_node(id, at_ms));
        }
        if let Some(other) = state.nodes.values().find(|row| row.key == *key && row.name != *id) {
            return Err(Refusal::new(
                Code::IdTaken,
                format!(
                    "this key is node {}'s: a key has one id. Call this node {} too, or give it a state directory of its own",
                    other.name, other.name
                ),
            ));
        }
        let Some(row) = state.nodes.get(id) else { return Ok(false) };
        if row.key == *key {
            return Ok(true);
        }
        if !row.ephemeral {
            return Err(id_taken(id));
        }
        if self.presence.is_there(id) {
            return Err(Refusal::new(
                Code::IdTaken,
                format!(
                    "{id} is connected from another place; choose another id, or try again when that has gone"
                ),
            )
            .retry_after(limits::EPHEMERAL_RETRY));
        }
        Ok(false)
    }
}

fn use_once(row: &mut TokenRow) -> Result<(), Refusal> {
    match &mut row.uses_left {
        None => Ok(()),
        Some(0) => Err(Refusal::new(
            Code::Denied,
            format!(
                "token \"{}\" has been used as often as it may; ask an admin for another: reachback token create --role register",
                row.name
            ),
        )),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
    }
}

pub(super) fn room_for_one(state: &State) -> Result<(), Refusal> {
    if state.nodes.len() + state.users.len() < limits::ENROLMENTS {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Saturated,
        format!(
            "this explorer knows {} nodes and users, and that is the most; release those that are gone",
            limits::ENROLMENTS
        ),
    ))
}
