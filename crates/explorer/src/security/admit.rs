//! Who somebody is, by what was shown.
//!
//! These questions are asked at every handshake and every request, from memory alone. What comes out, the
//! [`Principal`], is asked again whenever something was revoked: a right that was taken away ends what rests on it, and not only
//! what comes next.

use std::{fmt, sync::Arc};

use reachback_link::tls::{CertificateNames, utc};
use reachback_wire::{Code, NodeId, Refusal, Role, Secret, rights::Rights, text::sanitize};

use super::{
    Security,
    names::Subject,
    refusals::{bound_elsewhere, foreign_user, revoked_identity, revoked_node, unknown_key, usable_token},
    store::{Key, Kind, Revoked, State},
    tokens::{Claims, TokenRole},
};
use crate::{limits, modes::NodeIdVerification};

/// Who a peer turned out to be, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// As what it came.
    pub role: Role,
    /// Its node id, or what a client calls itself.
    pub id: NodeId,
    /// The name that was proved: the node's id, the user's name; the id itself when everybody is believed.
    pub name: String,
    /// What it may reach.
    pub rights: Arc<Rights>,
    /// What it rests on.
    pub credential: CredentialId,
    /// Whether it may operate the explorer, and reach everything.
    pub admin: bool,
    /// A node whose id may be taken by another once its session is gone.
    pub ephemeral: bool,
    /// When its credential ends, in milliseconds since 1970. Sessions that rest on a token end then; those that rest on a
    /// certificate go on, and need a new one for the next.
    pub expires_unix_ms: Option<u64>,
}

/// What an identity rests on.
#[derive(Clone, PartialEq, Eq)]
pub enum CredentialId {
    /// Nothing: whoever connects here is believed.
    Believed,
    /// A certificate.
    Certificate {
        /// Its number at its authority, in hex.
        serial: String,
        /// SHA-256 of its SubjectPublicKeyInfo.
        key: [u8; 32],
    },
    /// A token.
    Token {
        /// Which.
        id: String,
        /// The claims it was admitted with, in seconds since 1970.
        issued_unix_s: u64,
        /// The key of the certificate that was shown with it.
        key: Option<[u8; 32]>,
    },
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Believed => f.write_str("Believed"),
            Self::Certificate { serial, .. } => write!(f, "Certificate({serial})"),
            Self::Token { id, .. } => write!(f, "Token({id})"),
        }
    }
}

impl Principal {
    /// Somebody who is believed as he comes and may do everything; an admin unless he comes as a node.
    #[must_use]
    pub fn believed(role: Role, id: NodeId) -> Self {
        Self {
            role,
            name: id.to_string(),
            id,
            rights: Arc::new(Rights::everything()),
            credential: CredentialId::Believed,
            admin: role == Role::Client,
            ephemeral: false,
            expires_unix_ms: None,
        }
    }
}

impl Security {
    /// Who comes with this certificate, which is of an authority we believe and whose key was proved. Never blocks.
    ///
    /// # Errors
    /// The refusal for the dialer.
    pub fn admit_certificate(
        &self,
        names: &CertificateNames,
        role: Role,
        id: &NodeId,
    ) -> Result<Principal, Refusal> {
        match Subject::of(names)? {
            Some(subject) => self.admit_own(names, &subject, role, id),
            None => self.admit_foreign(names, role, id),
        }
    }

    /// Who comes with this token. `key`: of the certificate that was shown with it, if one was. Never blocks.
    ///
    /// # Errors
    /// The refusal for the dialer or the caller.
    pub fn admit_token(
        &self,
        token: &Secret,
        role: Role,
        id: &NodeId,
        key: Option<[u8; 32]>,
    ) -> Result<Principal, Refusal> {
        let claims = self.keys().tokens.verify(token, self.config.clock.now_ms())?;
        self.store.read(|state| {
            usable_token(state, &claims)?;
            match role {
                Role::Node => bearer_node(state, &claims, id)?,
                Role::Client => bearer_user(state, &claims, key)?,
                Role::Explorer => return Err(Refusal::new(Code::Denied, "this version has no cluster")),
            }
            Ok(Principal {
                role,
                id: id.clone(),
                name: if role == Role::Node { id.to_string() } else { claims.sub.to_string() },
                rights: Arc::new(claims.allow.clone()),
                credential: CredentialId::Token { id: claims.jti.clone(), issued_unix_s: claims.iat, key },
                admin: claims.role == TokenRole::Admin,
                ephemeral: claims.ephemeral == Some(true),
                expires_unix_ms: Some(claims.exp.saturating_mul(1000)),
            })
        })
    }

    /// Whether a node may be believed under this id where nothing has to be shown: not if a key has the id, which would be
    /// worth nothing then, nor if it was revoked. Never blocks.
    ///
    /// # Errors
    /// The refusal for the dialer.
    pub fn may_be_believed(&self, id: &NodeId) -> Result<(), Refusal> {
        self.store.read(|state| free(state, id))
    }

    /// Whether somebody who was admitted still is: ask again after every change of [`Security::subscribe_revocations`], and
    /// when [`Principal::expires_unix_ms`] of one with a token has passed. Never blocks.
    ///
    /// # Errors
    /// Why not, for the peer: [`Code::Revoked`] or [`Code::Expired`], and how to come back.
    pub fn still_good(&self, who: &Principal) -> Result<(), Refusal> {
        let kind = if who.role == Role::Node { Kind::Node } else { Kind::User };
        let name = NodeId::parse(&who.name).ok();
        match &who.credential {
            CredentialId::Believed => Ok(()),
            CredentialId::Certificate { key, .. } => self.store.read(|state| {
                let Some(name) = name else { return Ok(()) };
                revoked_identity(state, kind, &name, key)?;
                let ours = state.enrolment(kind, &name, key).is_some();
                if ours { Ok(()) } else { foreign_user(state, kind, &name) }
            }),
            CredentialId::Token { id, issued_unix_s, key } => {
                let now_ms = self.config.clock.now_ms();
                let leeway = super::millis(limits::TOKEN_LEEWAY);
                if let Some(at_ms) = who.expires_unix_ms.filter(|at_ms| at_ms.saturating_add(leeway) < now_ms)
                {
                    let text =
                        format!("token \"{}\" expired at {}; ask an admin for another", who.name, utc(at_ms));
                    return Err(Refusal::new(Code::Expired, text));
                }
                self.store.read(|state| {
                    let row = state.tokens.get(id);
                    let of_user = name
                        .and_then(|name| state.revoked(&Revoked::User(name)))
                        .filter(|at_ms| row.is_none() && issued_unix_s.saturating_mul(1000) <= *at_ms);
                    if let Some(at_ms) = state.revoked(&Revoked::Token(id.clone())).or(of_user) {
                        let text = format!(
                            "token \"{}\" was revoked at {}; ask an admin for another",
                            who.name,
                            utc(at_ms)
                        );
                        return Err(Refusal::new(Code::Revoked, text));
                    }
                    match row.and_then(|row| row.bound) {
                        Some(bound) if *key != Some(bound) => Err(bound_elsewhere(&who.name)),
                        _ => Ok(()),
                    }
                })
            }
        }
    }

    fn admit_own(
        &self,
        names: &CertificateNames,
        subject: &Subject,
        role: Role,
        id: &NodeId,
    ) -> Result<Principal, Refusal> {
        let (kind, name) = match (subject, role) {
            (Subject::Node(name), Role::Node) => (Kind::Node, name),
            (Subject::User(name), Role::Client) => (Kind::User, name),
            _ => {
                return Err(Refusal::new(
                    Code::Denied,
                    format!(
                        "this is the certificate {subject}, which can't be used as a {role}; join or log in for that"
                    ),
                ));
            }
        };
        if kind == Kind::Node && name != id {
            return Err(mismatch(
                name.as_str(),
                id,
                "start it with --id as the certificate says, or join again",
            ));
        }
        self.store.read(|state| {
            revoked_identity(state, kind, name, &names.spki)?;
            let admitted = |rights: &Arc<Rights>, admin, ephemeral| Principal {
                role,
                id: id.clone(),
                name: name.to_string(),
                rights: rights.clone(),
                credential: credential(names),
                admin,
                ephemeral,
                expires_unix_ms: Some(names.not_after_unix_ms),
            };
            if let Some(row) = state.enrolment(kind, name, &names.spki) {
                return Ok(admitted(&row.rights, row.admin, row.ephemeral));
            }
            // A node from after the backup that was restored: that it was let in is certain, with which rights is not.
            if kind == Kind::Node && self.is_ours_alone() && !state.nodes.contains_key(name) {
                return Ok(admitted(&Arc::default(), false, false));
            }
            Err(unknown_key(state, kind, name))
        })
    }

    /// With a certificate that somebody else made.
    fn admit_foreign(&self, names: &CertificateNames, role: Role, id: &NodeId) -> Result<Principal, Refusal> {
        let verification = self.config.verification();
        let kind = match role {
            Role::Node => Kind::Node,
            Role::Client => Kind::User,
            Role::Explorer => return Err(Refusal::new(Code::Denied, "this version has no cluster")),
        };
        let said = said(names, verification);
        if role == Role::Node && verification != NodeIdVerification::None && !said.contains(id) {
            let named = said.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ");
            let where_ = match verification {
                NodeIdVerification::CommonName => "common name",
                _ => "DNS names",
            };
            let remedy =
                format!("its {where_} must be the node id, or the node started with --id as it says");
            return Err(mismatch(if named.is_empty() { "nobody" } else { &named }, id, &remedy));
        }
        // What a node is called, or by which of its names a rule knows the user.
        let candidates = if role == Role::Node { vec![id.clone()] } else { said };
        let rule = |name: &NodeId| {
            let mut rules = self.config.callers.iter();
            rules.find(|(pattern, _)| pattern.matches(name.as_str())).map(|(_, rights)| rights.clone())
        };
        let found = candidates.iter().find_map(|name| rule(name).map(|rights| (name.clone(), rights)));
        let (name, rights) = match found {
            Some(found) => found,
            None if role == Role::Node => (id.clone(), Arc::default()),
            None => {
                let named = candidates.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ");
                return Err(Refusal::new(
                    Code::Unauthenticated,
                    format!(
                        "this certificate is for {}, and no [[caller]] of the explorer's configuration names that; add one there",
                        if named.is_empty() { "nobody whose name is known here" } else { &named }
                    ),
                ));
            }
        };
        self.store.read(|state| {
            revoked_identity(state, kind, &name, &names.spki)?;
            foreign_user(state, kind, &name)?;
            if kind == Kind::Node && state.nodes.contains_key(&name) {
                return Err(unknown_key(state, kind, &name));
            }
            Ok(Principal {
                role,
                id: id.clone(),
                name: name.to_string(),
                rights,
                credential: credential(names),
                admin: false,
                ephemeral: false,
                expires_unix_ms: Some(names.not_after_unix_ms),
            })
        })
    }
}

/// A node with a token of role `register` on a listener that asks for no certificate.
fn bearer_node(state: &State, claims: &Claims, id: &NodeId) -> Result<(), Refusal> {
    let Some(pattern) = claims.node.as_ref().filter(|_| claims.role == TokenRole::Register) else {
        return Err(Refusal::new(
            Code::Denied,
            format!(
                "token \"{}\" is of role {}, and a node needs one of role register",
                claims.sub,
                claims.role.name()
            ),
        ));
    };
    if !pattern.matches(id.as_str()) {
        return Err(Refusal::new(
            Code::NodeIdMismatch,
            format!("token \"{}\" lets in nodes called {pattern}, not {id}", claims.sub),
        ));
    }
    if state.tokens.get(&claims.jti).is_none_or(|row| row.uses_left.is_some()) {
        return Err(Refusal::new(
            Code::Denied,
            format!(
                "token \"{}\" is for joining; give it to the node as --join, which exchanges it for a certificate",
                claims.sub
            ),
        ));
    }
    free(state, id)
}

/// Whether nobody's key has this id, and nobody has barred it.
fn free(state: &State, id: &NodeId) -> Result<(), Refusal> {
    if let Some(at_ms) = state.revoked(&Revoked::Node(id.clone())) {
        return Err(revoked_node(id, at_ms));
    }
    if state.nodes.contains_key(id) {
        return Err(unknown_key(state, Kind::Node, id));
    }
    Ok(())
}

fn bearer_user(state: &State, claims: &Claims, key: Option<Key>) -> Result<(), Refusal> {
    if claims.role == TokenRole::Register {
        return Err(Refusal::new(
            Code::Denied,
            format!("token \"{}\" is of role register: it lets nodes in and calls nothing", claims.sub),
        ));
    }
    match state.tokens.get(&claims.jti).and_then(|row| row.bound) {
        Some(bound) if key != Some(bound) => Err(bound_elsewhere(claims.sub.as_str())),
        _ => Ok(()),
    }
}

/// The names in a certificate of others that could be ids, as far as they count.
fn said(names: &CertificateNames, verification: NodeIdVerification) -> Vec<NodeId> {
    let all: Vec<&String> = match verification {
        NodeIdVerification::SubjectAltName => names.dns.iter().collect(),
        NodeIdVerification::CommonName | NodeIdVerification::None => names.cn.iter().collect(),
    };
    all.into_iter().filter_map(|name| NodeId::parse(name).ok()).collect()
}

fn credential(names: &CertificateNames) -> CredentialId {
    CredentialId::Certificate { serial: names.serial.clone(), key: names.spki }
}

fn mismatch(named: &str, id: &NodeId, remedy: &str) -> Refusal {
    Refusal::new(
        Code::NodeIdMismatch,
        format!(
            "the certificate is for {}, and this node calls itself {id}; {remedy}",
            sanitize(named, limits::TEXT)
        ),
    )
}
