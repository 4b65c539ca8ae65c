//! Tokens as operators ask for them and see them.
//!
//! A token is signed and gone: what is kept is its number, what it allows, and what it has been used for. So a list never
//! shows one, and whoever has lost one makes another.

use std::time::Duration;

use reachback_wire::{
    Code, NodeId, Refusal, Secret,
    join::JoinString,
    rights::{NamePattern, Rights},
};

use super::{
    Actor, Security,
    audit::Entry,
    millis,
    store::{Change, Revoked, State, TokenRow},
    tokens::{Claims, TokenRole, random_hex},
};
use crate::limits;

/// How many nodes a token of role `register` lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// So many, at least one.
    Limited(u32),
    /// Any number, until it expires or is revoked.
    Unlimited,
}

/// A token that somebody wants made.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// What it is for.
    pub role: TokenRole,
    /// Who it is for; without one it gets a name by which it can be revoked.
    pub name: Option<NodeId>,
    /// Role `register`: which node ids it lets in.
    pub node: Option<NamePattern>,
    /// What may be called: by the user, or by the nodes it lets in.
    pub allow: Rights,
    /// How long it is good for.
    pub ttl: Duration,
    /// Role `register`: for how many nodes; one unless it says otherwise.
    pub uses: Option<Uses>,
    /// Role `register`: its nodes come and go, and their ids may be taken by others afterwards.
    pub ephemeral: bool,
}

/// A token, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its number.
    pub id: String,
    /// What it is for.
    pub role: TokenRole,
    /// Whose it is.
    pub name: NodeId,
    /// Role `register`: which nodes it lets in.
    pub node: Option<NamePattern>,
    /// What it allows.
    pub allow: Rights,
    /// Role `register`: how many nodes it still lets in; `None`: any number, or not counted.
    pub uses_left: Option<u32>,
    /// Role `register`: for nodes that come and go.
    pub ephemeral: bool,
    /// Whether somebody has logged in with it.
    pub bound: bool,
    /// When it ends, in milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// What has become of it.
    pub state: TokenState,
}

/// What has become of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It can be used.
    Valid,
    /// It has let in all it may, or somebody has logged in with it.
    Used,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// A token just made.
#[derive(Debug)]
pub struct CreatedToken {
    /// The token itself, which is nowhere else.
    pub token: Secret,
    /// What lists show of it.
    pub info: TokenInfo,
}

impl Security {
    /// The one line that lets somebody in at these addresses.
    ///
    /// # Errors
    /// There are none, or too many.
    pub fn join_string(&self, addresses: Vec<String>, token: &Secret) -> Result<JoinString, Refusal> {
        JoinString::new(addresses, self.keys().material.pin, token.clone()).map_err(|error| {
            Refusal::new(
                Code::Internal,
                format!("no join string can be made: {error}; set advertise in the configuration"),
            )
        })
    }

    /// Makes a token. Blocks.
    ///
    /// # Errors
    /// The request makes no sense, or it can't be written down.
    pub fn create_token(&self, request: &TokenRequest, by: &Actor) -> Result<CreatedToken, Refusal> {
        let now_ms = self.config.clock.now_ms();
        let name = request.name.as_ref().map_or("", NodeId::as_str);
        let entry = Entry::new("token create", &format!("{} {name}", request.role.name())).actor(by);
        let outcome = request.check().and_then(|checked| {
            let (token, claims) = self.keys().tokens.sign(&checked, now_ms)?;
            let row = TokenRow { uses_left: checked.uses, created_ms: now_ms, ..TokenRow::of(&claims) };
            let info = self.store.commit(|state| {
                let mut changes = outdated(state, now_ms);
                if state.tokens.len() - changes.len() >= limits::TOKENS {
                    return Err(Refusal::new(
                        Code::Saturated,
                        format!("this explorer has {} tokens that are still valid, and that is the most; revoke some, or make one with more uses", limits::TOKENS),
                    ));
                }
                let info = row.info(state, now_ms);
                changes.push(Change::Token(row));
                Ok((changes, info))
            })?;
            Ok(CreatedToken { token, info })
        });
        match &outcome {
            Ok(made) => {
                let text = format!("{}; may call {}", made.info.id, made.info.allow);
                let subject = format!("{} {}", request.role.name(), made.info.name);
                self.audit.record(&Entry::new("token create", &subject).actor(by).detail(&text));
            }
            Err(refusal) => self.audit.record(&entry.refused(refusal)),
        }
        outcome
    }

    /// All tokens that are on record, the newest first.
    #[must_use]
    pub fn list_tokens(&self) -> Vec<TokenInfo> {
        let now_ms = self.config.clock.now_ms();
        self.store.read(|state| {
            let mut rows: Vec<_> = state.tokens.values().collect();
            rows.sort_by(|a, b| b.created_ms.cmp(&a.created_ms).then_with(|| a.id.cmp(&b.id)));
            rows.into_iter().map(|row| row.info(state, now_ms)).collect()
        })
    }
}

/// A request in which everything fits together.
pub(crate) struct Checked {
    pub(crate) jti: String,
    pub(crate) role: TokenRole,
    pub(crate) name: NodeId,
    pub(crate) node: Option<NamePattern>,
    pub(crate) allow: Rights,
    pub(crate) ttl: Duration,
    /// `None`: unlimited, or not counted.
    pub(crate) uses: Option<u32>,
    pub(crate) ephemeral: bool,
}

impl TokenRequest {
    /// Whether it makes sense, and its defaults.
    pub(crate) fn check(&self) -> Result<Checked, Refusal> {
        let refuse =
            |problem: &str| Err(Refusal::new(Code::Denied, format!("no such token can be made: {problem}")));
        if self.ttl < limits::TOKEN_TTL_MIN || self.ttl > limits::TOKEN_TTL_MAX {
            return refuse("it has to be valid for 1 s to 10 years, as in --ttl 15m");
        }
        let register = self.role == TokenRole::Register;
        if register && self.node.is_none() {
            return refuse("role register needs the ids it lets in, as in --node 'edge-*'");
        }
        if !register && (self.node.is_some() || self.uses.is_some() || self.ephemeral) {
            return refuse(
                "--node, --uses and --ephemeral are for role register: users log in once and are no nodes",
            );
        }
        if self.uses == Some(Uses::Limited(0)) {
            return refuse("with no uses it would be good for nothing, as in --uses 1 or --uses unlimited");
        }
        if self.role == TokenRole::User && self.allow.is_empty() {
            return refuse("a user without a right could call nothing, as in --allow 'edge-*/rpc'");
        }
        if self.role == TokenRole::Admin && !self.allow.is_empty() {
            return refuse("an admin may do everything; leave --allow out, or make it a user");
        }
        let jti = random_hex::<12>()?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => NodeId::parse(&format!("{}-{}", self.role.name(), &jti[..6]))
                .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?,
        };
        let uses = match self.uses {
            _ if !register => None,
            None => Some(1),
            Some(Uses::Limited(uses)) => Some(uses),
            Some(Uses::Unlimited) => None,
        };
        let allow = if self.role == TokenRole::Admin { Rights::everything() } else { self.allow.clone() };
        Ok(Checked {
            jti,
            role: self.role,
            name,
            node: self.node.clone(),
            allow,
            ttl: self.ttl,
            uses,
            ephemeral: self.ephemeral,
        })
    }
}

impl TokenRow {
    /// As far as the token says it itself.
    pub(super) fn of(claims: &Claims) -> Self {
        Self {
            id: claims.jti.clone(),
            role: claims.role,
            name: claims.sub.clone(),
            node: claims.node.clone(),
            rights: claims.allow.clone(),
            ephemeral: claims.ephemeral == Some(true),
            uses_left: None,
            created_ms: claims.iat.saturating_mul(1000),
            expires_ms: claims.exp.saturating_mul(1000),
            bound: None,
        }
    }

    fn info(&self, state: &State, now_ms: u64) -> TokenInfo {
        let become_of = if state.revoked(&Revoked::Token(self.id.clone())).is_some() {
            TokenState::Revoked
        } else if self.uses_left == Some(0) || self.bound.is_some() {
            TokenState::Used
        } else if self.expires_ms < now_ms {
            TokenState::Expired
        } else {
            TokenState::Valid
        };
        TokenInfo {
            id: self.id.clone(),
            role: self.role,
            name: self.name.clone(),
            node: self.node.clone(),
            allow: self.rights.clone(),
            uses_left: self.uses_left,
            ephemeral: self.ephemeral,
            bound: self.bound.is_some(),
            expires_unix_ms: self.expires_ms,
            state: become_of,
        }
    }
}

/// Tokens that nobody asks about any more.
fn outdated(state: &State, now_ms: u64) -> Vec<Change> {
    let kept = millis(limits::TOKENS_KEPT);
    let old = state
        .tokens
        .values()
        .filter(|row| row.bound.is_none() && row.expires_ms.saturating_add(kept) < now_ms);
    old.map(|row| Change::DropToken(row.id.clone())).collect()
}
