//! Tokens: who somebody is for the next minutes or days, signed by this explorer and checked without asking anybody.
//!
//! They are JSON Web Tokens (RFC 7519) of one kind only. Everything in which such tokens have been broken elsewhere is
//! pinned: the algorithm (EdDSA, whatever the header says), the key (one of ours), the issuer and the audience, and every
//! claim has to be there and of its type, so that a malformed date is an error and never "no date". What a token has been
//! used for, and whether it was revoked, is in the database.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    errors::{Error as JwtError, ErrorKind},
};
use reachback_link::tls::{PrivateKey, utc};
use reachback_wire::{
    Code, NodeId, Refusal, Secret, join,
    rights::{NamePattern, Rights},
};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde::{Deserialize, Serialize};

use super::{SecurityError, files, issue::Checked, jwt_crypto};
use crate::{clock::spoken, limits};

const ISSUER: &str = "reachback";

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// Lets nodes in: each exchanges it for a certificate.
    Register,
    /// Somebody who calls services.
    User,
    /// Somebody who calls everything and operates the explorer.
    Admin,
}

impl TokenRole {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// What a token says. Every claim has to be there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    aud: String,
    /// Whose it is.
    pub(crate) sub: NodeId,
    /// Which token it is.
    pub(crate) jti: String,
    /// Seconds since 1970, as the other two.
    pub(crate) iat: u64,
    nbf: u64,
    pub(crate) exp: u64,
    pub(crate) role: TokenRole,
    pub(crate) allow: Rights,
    /// Role `register` alone, and there it has to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NamePattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ephemeral: Option<bool>,
}

/// The key that signs, and the older ones that are still believed.
pub(crate) struct TokenKeys {
    directory: PathBuf,
    audience: String,
    pkcs8: PrivateKey,
    kid: String,
    signing: EncodingKey,
    verifying: BTreeMap<String, DecodingKey>,
    old: Vec<Vec<u8>>,
}

impl TokenKeys {
    /// Reads them; `None` when there are none yet.
    pub(crate) fn load(directory: &Path, audience: &str) -> Result<Option<Self>, SecurityError> {
        let path = current_path(directory);
        let Some(pem) = files::read_secret(&path)? else { return Ok(None) };
        let unusable = |problem: String| SecurityError::TokenKey { path: path.clone(), problem };
        let key = PrivateKey::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
        let old = match files::read(&old_path(directory))? {
            Some(lines) => old_keys(&lines).ok_or_else(|| {
                unusable("token-old.txt beside it is broken; restore it from a backup".to_owned())
            })?,
            None => Vec::new(),
        };
        Self::new(directory, audience, key, old).map(Some)
    }

    /// Makes a key and writes it.
    pub(crate) fn create(directory: &Path, audience: &str) -> Result<Self, SecurityError> {
        let made = Self::new(directory, audience, generate()?, Vec::new())?;
        made.write()?;
        Ok(made)
    }

    /// A new key from now on; tokens of the one before are still believed.
    pub(crate) fn begin_rotation(&self) -> Result<Self, SecurityError> {
        let mut old = vec![public_of(&self.pkcs8)?];
        old.extend(self.old.iter().cloned());
        let next = Self::new(&self.directory, &self.audience, generate()?, old)?;
        let lines: Vec<String> = next.old.iter().map(|key| hex(key)).collect();
        files::write(&old_path(&self.directory), lines.join("\n").as_bytes())?;
        next.write()?;
        Ok(next)
    }

    /// Tokens of older keys end.
    pub(crate) fn finish_rotation(&self) -> Result<Self, SecurityError> {
        let key = self.pkcs8.clone();
        let next = Self::new(&self.directory, &self.audience, key, Vec::new())?;
        files::remove(&old_path(&self.directory))?;
        Ok(next)
    }

    /// The same, for keys that are put together anew.
    pub(crate) fn again(&self) -> Result<Self, SecurityError> {
        Self::new(&self.directory, &self.audience, self.pkcs8.clone(), self.old.clone())
    }

    /// Signs a token.
    pub(crate) fn sign(&self, request: &Checked, now_ms: u64) -> Result<(Secret, Claims), Refusal> {
        let now = now_ms / 1000;
        let register = request.role == TokenRole::Register;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: self.audience.clone(),
            sub: request.name.clone(),
            jti: request.jti.clone(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(request.ttl.as_secs()),
            role: request.role,
            allow: request.allow.clone(),
            node: request.node.clone(),
            ephemeral: register.then_some(request.ephemeral),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.signing)
            .map_err(|error| Refusal::new(Code::Internal, format!("the token can't be signed: {error}")))?;
        if token.len() > join::TOKEN_MAX {
            return Err(Refusal::new(
                Code::TooLarge,
                format!(
                    "these rights make a token of {} bytes, and {} is the most; say them with fewer, wider patterns",
                    token.len(),
                    join::TOKEN_MAX
                ),
            ));
        }
        Ok((Secret::new(token), claims))
    }

    /// What a token says, if it is one of ours and this is its time.
    ///
    /// # Errors
    /// Each thing that can be wrong with a token has its own sentence; none repeats the token.
    pub(crate) fn verify(&self, token: &Secret, now_ms: u64) -> Result<Claims, Refusal> {
        let text = token.expose();
        if text.len() > join::TOKEN_MAX {
            return Err(unauthenticated("this token is far too long to be one of this explorer's"));
        }
        let header = jsonwebtoken::decode_header(text).map_err(|_| {
            unauthenticated("this is no token of this explorer: its header can't be read, or names no algorithm that is allowed")
        })?;
        if header.alg != Algorithm::EdDSA {
            return Err(unauthenticated("this token is not signed with EdDSA, and nothing else is accepted"));
        }
        let key = header.kid.as_deref().and_then(|kid| self.verifying.get(kid)).ok_or_else(|| {
            unauthenticated("this token is signed with a key that this explorer does not have: it is another explorer's, or from before its keys were exchanged")
        })?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        // Dates and audience are judged below, by our clock and in our words; a claim that is missing or of another type
        // does not get there.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims: Claims =
            jsonwebtoken::decode(text, key, &validation).map_err(|error| unreadable(&error))?.claims;
        self.judge(claims, now_ms)
    }

    fn judge(&self, claims: Claims, now_ms: u64) -> Result<Claims, Refusal> {
        let leeway = limits::TOKEN_LEEWAY.as_secs();
        let now = now_ms / 1000;
        let name = &claims.sub;
        if claims.iss != ISSUER {
            return Err(unauthenticated(format!("token \"{name}\" was not issued by a reachback explorer")));
        }
        if claims.aud != self.audience {
            return Err(unauthenticated(format!(
                "token \"{name}\" is for another explorer; check the address, or ask this explorer's admin for one"
            )));
        }
        if (claims.role == TokenRole::Register) != (claims.node.is_some() && claims.ephemeral.is_some()) {
            return Err(unauthenticated(format!(
                "token \"{name}\" has not the claims of its role; ask for another one"
            )));
        }
        if claims.nbf > now.saturating_add(leeway) {
            let wait = Duration::from_secs(claims.nbf - now);
            return Err(unauthenticated(format!(
                "token \"{name}\" is not valid before {}, in {}; is the explorer's clock right?",
                utc(claims.nbf.saturating_mul(1000)),
                spoken(wait)
            )));
        }
        if claims.exp.saturating_add(leeway) < now {
            return Err(Refusal::new(
                Code::Expired,
                format!(
                    "token \"{name}\" expired at {}, {} ago; ask an admin for another: reachback token create --role {}",
                    utc(claims.exp.saturating_mul(1000)),
                    spoken(Duration::from_secs(now - claims.exp)),
                    claims.role.name()
                ),
            ));
        }
        Ok(claims)
    }

    fn new(
        directory: &Path,
        audience: &str,
        pkcs8: PrivateKey,
        old: Vec<Vec<u8>>,
    ) -> Result<Self, SecurityError> {
        jwt_crypto::install();
        let public = public_of(&pkcs8)?;
        let kid = kid(&public);
        let signing = EncodingKey::from_ed_der(pkcs8.expose_der());
        let verifying = [&public]
            .into_iter()
            .chain(&old)
            .map(|key| (self::kid(key), DecodingKey::from_ed_der(key)))
            .collect();
        Ok(Self {
            directory: directory.to_owned(),
            audience: audience.to_owned(),
            pkcs8,
            kid,
            signing,
            verifying,
            old,
        })
    }

    fn write(&self) -> Result<(), SecurityError> {
        Ok(files::write(&current_path(&self.directory), self.pkcs8.to_pem().as_bytes())?)
    }
}

/// So many random bytes, in hex.
pub(crate) fn random_hex<const N: usize>() -> Result<String, Refusal> {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut bytes)
        .map_err(|_| Refusal::new(Code::Internal, "the system has no random numbers"))?;
    Ok(hex(&bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unauthenticated(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::Unauthenticated, message)
}

fn unreadable(error: &JwtError) -> Refusal {
    unauthenticated(match error.kind() {
        ErrorKind::InvalidSignature | ErrorKind::Base64(_) => {
            "the signature of this token is wrong: it was changed on the way, or is not one of this explorer's"
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "this token is not signed with EdDSA, and nothing else is accepted"
        }
        // The claims are not quoted: they are the peer's.
        _ => "a claim of this token is missing or malformed; ask for another one",
    })
}

fn generate() -> Result<PrivateKey, SecurityError> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SecurityError::Random)?;
    Ok(PrivateKey::from_pkcs8(pkcs8.as_ref()))
}

fn public_of(key: &PrivateKey) -> Result<Vec<u8>, SecurityError> {
    let pair = Ed25519KeyPair::from_pkcs8(key.expose_der()).map_err(|error| SecurityError::TokenKey {
        path: current_path(Path::new("keys")),
        problem: format!("it is no Ed25519 key ({error})"),
    })?;
    Ok(pair.public_key().as_ref().to_vec())
}

/// A short name of a public key.
fn kid(public: &[u8]) -> String {
    hex(&digest::digest(&digest::SHA256, public).as_ref()[..4])
}

fn current_path(directory: &Path) -> PathBuf {
    directory.join("token.pem")
}

fn old_path(directory: &Path) -> PathBuf {
    directory.join("token-old.txt")
}

/// Public keys in hex, one a line.
fn old_keys(lines: &[u8]) -> Option<Vec<Vec<u8>>> {
    let read = |line: &str| {
        let digit = |index: usize| u8::from_str_radix(line.get(index..index + 2)?, 16).ok();
        (line.len() == 64).then(|| (0..64).step_by(2).map(digit).collect::<Option<Vec<u8>>>())?
    };
    str::from_utf8(lines).ok()?.lines().map(read).collect()
}
