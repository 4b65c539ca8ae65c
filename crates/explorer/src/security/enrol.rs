//! How a key gets a name, and keeps it.
//!
//! A token is exchanged once for a certificate that binds a name to a key, and the key never leaves the machine that made
//! it. From then on the key is the name: whoever comes with another one is refused until an operator releases the name.
//! The exchange may be repeated with the same key, because an answer can be lost on the way; that costs no use.

use std::sync::Arc;

use rcgen::SubjectPublicKeyInfo;
use reachback_link::tls::{CertificateDer, CertificateNames};
use reachback_wire::{Code, Enrolled, Hex, NodeId, Refusal, Role, Secret, rights::Rights};
use ring::digest::{SHA256, digest};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{
    Keys, Security,
    audit::Entry,
    names::Subject,
    store::{Change, Enrolment, Key, Kind, Revoked, State, TokenRow},
    tokens::{Claims, TokenRole},
};
use crate::{clock::spoken, limits};

/// What the SubjectPublicKeyInfo of the two kinds of keys begins with; the rest is the key.
const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

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

    /// A new certificate for a name and key that have one already. It may have expired, if it is not for too long; `names`
    /// is what it says, its key proved. Blocks.
    ///
    /// # Errors
    /// The refusal for the dialer.
    pub fn renew(&self, names: &CertificateNames, csr: &[u8], from: &str) -> Result<Enrolled, Refusal> {
        let subject = Subject::of(names)?;
        let spoken =
            subject.as_ref().map_or("a certificate of another authority".to_owned(), ToString::to_string);
        let entry = Entry::new("renew", &spoken).from(from);
        let outcome = self.renew_subject(names, subject, csr);
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
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

    fn renew_subject(
        &self,
        names: &CertificateNames,
        subject: Option<Subject>,
        csr: &[u8],
    ) -> Result<Enrolled, Refusal> {
        let (kind, subject) = match subject {
            Some(subject @ Subject::Node(_)) => (Kind::Node, subject),
            Some(subject @ Subject::User(_)) => (Kind::User, subject),
            Some(Subject::Explorer(_)) | None => {
                return Err(Refusal::new(
                    Code::Denied,
                    "this certificate is not one that this explorer renews; renew it where it was made",
                ));
            }
        };
        let name = subject.name().clone();
        let requested = Requested::read(csr)?;
        if requested.key != names.spki {
            return Err(Refusal::new(
                Code::IdTaken,
                format!(
                    "a certificate is renewed for the key it is for; to give {name} another key, release it and join again"
                ),
            ));
        }
        let keys = self.keys();
        let now_ms = self.config.clock.now_ms();
        let expired_for = now_ms.saturating_sub(names.not_after_unix_ms);
        if expired_for > super::millis(limits::RENEW_EXPIRED) {
            return Err(Refusal::new(
                Code::Expired,
                format!(
                    "the certificate of {name} ended {} ago, and only one that ended within {} is renewed; {}",
                    spoken(std::time::Duration::from_millis(expired_for)),
                    spoken(limits::RENEW_EXPIRED),
                    come_back(kind, &name)
                ),
            ));
        }
        self.store.commit(|state| {
            revoked_identity(state, kind, &name, &names.spki)?;
            let known = state.enrolment(kind, &name, &names.spki);
            let (rights, flags, token) = match known {
                Some(row) => {
                    not_too_often(row, now_ms)?;
                    (row.rights.clone(), (row.admin, row.ephemeral), row.token.clone())
                }
                // From before a backup that was restored: its certificate still proves that it was let in.
                None if kind == Kind::Node && expired_for == 0 && !state.nodes.contains_key(&name) => {
                    room_for_one(state)?;
                    (Arc::new(Rights::default()), (false, false), String::new())
                }
                None => return Err(unknown_key(state, kind, &name)),
            };
            let life = if flags.1 { self.config.ephemeral_life } else { self.config.certificate_life };
            let issued = keys.issue(&subject, &requested.info, now_ms, life)?;
            let enrolment = issued.enrolment(kind, &name, rights, flags, &token, now_ms);
            Ok((vec![Change::Enrol(enrolment)], issued.answer(&keys, &name)))
        })
    }
}

/// A request that may be answered: somebody holds the key, and it is of a kind that is used here.
struct Requested {
    key: Key,
    info: SubjectPublicKeyInfo,
}

impl Requested {
    fn read(csr: &[u8]) -> Result<Self, Refusal> {
        let refuse = |problem: &str| {
            Refusal::new(Code::BadFrame, format!("this certificate request can't be used: {problem}"))
        };
        if csr.len() > limits::CSR_MAX {
            return Err(refuse("it is too long"));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(csr).map_err(|_| refuse("it is no PKCS#10 in DER"))?;
        if !rest.is_empty() {
            return Err(refuse("there is something behind it"));
        }
        let spki = request.certification_request_info.subject_pki.raw;
        let kinds = [(ED25519, 32), (P256, 64)];
        if !kinds.iter().any(|(begin, length)| spki.starts_with(begin) && spki.len() == begin.len() + length)
        {
            return Err(refuse("its key is neither Ed25519 nor on the curve P-256"));
        }
        request.verify_signature().map_err(|_| refuse("it is not signed with its own key"))?;
        let info = SubjectPublicKeyInfo::from_der(spki).map_err(|_| refuse("its key can't be read"))?;
        Ok(Self { key: sha256(spki), info })
    }
}

/// A certificate just made, and what is to be known of it.
struct Certified {
    certificate: CertificateDer<'static>,
    names: CertificateNames,
    authority: String,
}

impl Keys {
    fn issue(
        &self,
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
        now_ms: u64,
        life: std::time::Duration,
    ) -> Result<Certified, Refusal> {
        let failed = |error: &dyn std::fmt::Display| {
            Refusal::new(Code::Internal, format!("no certificate can be made: {error}"))
        };
        let certificate = self
            .authority
            .issue(subject, key, now_ms, super::millis(life))
            .map_err(|error| failed(&error))?;
        let names = CertificateNames::of(&certificate).map_err(|error| failed(&error))?;
        Ok(Certified { certificate, names, authority: self.authority_pin.to_string() })
    }
}

impl Certified {
    fn enrolment(
        &self,
        kind: Kind,
        name: &NodeId,
        rights: Arc<Rights>,
        (admin, ephemeral): (bool, bool),
        token: &str,
        now_ms: u64,
    ) -> Enrolment {
        Enrolment {
            kind,
            name: name.clone(),
            key: self.names.spki,
            serial: self.names.serial.clone(),
            authority: self.authority.clone(),
            issued_ms: now_ms,
            not_after_ms: self.names.not_after_unix_ms,
            rights,
            admin,
            ephemeral,
            token: token.to_owned(),
        }
    }

    fn answer(&self, keys: &Keys, name: &NodeId) -> Enrolled {
        let hex = |certificate: &CertificateDer<'_>| Hex(certificate.to_vec());
        Enrolled {
            chain: [&self.certificate].into_iter().chain(&keys.authority.path_to_roots()).map(hex).collect(),
            ca: keys.material.explorer_roots.iter().map(hex).collect(),
            name: name.to_string(),
        }
    }
}

/// What is known of this token, if anything; a refusal when it was revoked.
pub(super) fn usable_token<'a>(state: &'a State, claims: &Claims) -> Result<Option<&'a TokenRow>, Refusal> {
    let row = state.tokens.get(&claims.jti);
    let revoked = state.revoked(&Revoked::Token(claims.jti.clone())).or_else(|| {
        // Of one that is on record everything is known; of others, that all of this user's were revoked.
        let of_user = state.revoked(&Revoked::User(claims.sub.clone())).filter(|_| row.is_none())?;
        (claims.iat.saturating_mul(1000) <= of_user).then_some(of_user)
    });
    match revoked {
        None => Ok(row),
        Some(at_ms) => Err(Refusal::new(
            Code::Revoked,
            format!(
                "token \"{}\" was revoked at {}; ask an admin for another: reachback token create --role {}",
                claims.sub,
                reachback_link::tls::utc(at_ms),
                claims.role.name()
            ),
        )),
    }
}

/// A refusal when this name or this key was revoked.
pub(super) fn revoked_identity(state: &State, kind: Kind, name: &NodeId, key: &Key) -> Result<(), Refusal> {
    let of_node = || state.revoked(&Revoked::Node(name.clone())).filter(|_| kind == Kind::Node);
    match (of_node(), state.revoked(&Revoked::Key(*key))) {
        (Some(at_ms), _) => Err(revoked_node(name, at_ms)),
        (None, Some(at_ms)) => Err(Refusal::new(
            Code::Revoked,
            format!(
                "the certificate of {name} was revoked at {}; {}",
                reachback_link::tls::utc(at_ms),
                come_back(kind, name)
            ),
        )),
        (None, None) => Ok(()),
    }
}

/// Why a certificate with this name and a key that has not it is refused.
pub(super) fn unknown_key(state: &State, kind: Kind, name: &NodeId) -> Refusal {
    if kind == Kind::Node && state.nodes.contains_key(name) {
        return id_taken(name);
    }
    Refusal::new(
        Code::Unauthenticated,
        format!("this explorer has no record of {name} with this key; {}", come_back(kind, name)),
    )
}

fn id_taken(id: &NodeId) -> Refusal {
    Refusal::new(
        Code::IdTaken,
        format!(
            "the id {id} is another machine's, which joined with another key. If that is gone for good, run on the explorer: \
             reachback release {id}; or choose another id here with --id"
        ),
    )
}

fn revoked_node(id: &NodeId, at_ms: u64) -> Refusal {
    Refusal::new(
        Code::Revoked,
        format!(
            "node {id} was revoked at {}. To let it in again, an admin runs on the explorer: reachback release {id}, and then \
             reachback token create --role register --node {id} for a new join string",
            reachback_link::tls::utc(at_ms)
        ),
    )
}

/// The remedy for whoever has to begin anew.
fn come_back(kind: Kind, name: &NodeId) -> String {
    match kind {
        Kind::Node => {
            format!("to join again, ask an admin for: reachback token create --role register --node {name}")
        }
        Kind::User => {
            format!("to log in again, ask an admin for: reachback token create --role user --name {name}")
        }
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

fn room_for_one(state: &State) -> Result<(), Refusal> {
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

/// A node that renews in a loop writes to the disk in a loop.
fn not_too_often(row: &Enrolment, now_ms: u64) -> Result<(), Refusal> {
    let life = row.not_after_ms.saturating_sub(row.issued_ms);
    let pause = super::millis(limits::RENEW_PAUSE).min(life / 10);
    let since = now_ms.saturating_sub(row.issued_ms);
    if since >= pause {
        return Ok(());
    }
    Err(Refusal::new(Code::RateLimited, format!("the certificate of {} was renewed just now", row.name))
        .retry_after(std::time::Duration::from_millis(pause - since)))
}

fn sha256(bytes: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, bytes).as_ref());
    key
}
