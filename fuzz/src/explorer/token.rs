//! Tokens: text from anybody. Whoever is let in holds one that this explorer signed, whose every claim is there, of its
//! type and of this time.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use reachback_explorer::security::{
    Actor, Principal, Security, SecurityConfig, TokenRequest, TokenRole, Uses,
};
use reachback_link::tls::PrivateKey;
use reachback_wire::{Code, NodeId, Role, Secret, rights::Rights, text::sanitize};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::Value;

use super::{Verdict, situation};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// How far two clocks may differ, and a bit for a slow machine.
const LEEWAY_S: f64 = 120.0;

/// An explorer's keys and database, and tokens of it.
pub(super) struct Bureau {
    pub(super) security: Security,
    /// One of each role.
    pub(super) tokens: [String; 3],
    key: Ed25519KeyPair,
    /// The header that a token of this explorer has.
    header: String,
}

pub(super) static BUREAU: LazyLock<Bureau> = LazyLock::new(Bureau::open);

/// The first byte chooses how much of the token is the input: all of it, the claims or the header of one that is rightly
/// signed, or a letter of a good one; and in which role it is shown.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let bureau = &*BUREAU;
    let (selector, [at, with], bytes) = situation(input);
    let good = &bureau.tokens[usize::from(selector / 4) % 3];
    let token = match selector % 4 {
        0 => String::from_utf8_lossy(bytes).into_owned(),
        1 => bureau.signed(&bureau.header, &bureau.filled_in(bytes)),
        2 => bureau.signed(&bureau.filled_in(bytes), part(good, 1)),
        _ => {
            let at = at * with % good.len();
            let other = char::from(DIGITS[with % DIGITS.len()]);
            format!("{}{other}{}", &good[..at], &good[at + 1..])
        }
    };
    let role = if selector & 0x80 == 0 { Role::Client } else { Role::Node };
    let id = NodeId::parse("edge-7").expect("an id");
    match bureau.security.admit_token(&Secret::new(token.clone()), role, &id, None) {
        Ok(who) => {
            bureau.is_ours(&token, &who);
            Verdict::Fine
        }
        Err(refusal) => {
            let told = refusal.to_string();
            assert_eq!(sanitize(&told, usize::MAX), told, "a refusal forges what it is printed on");
            assert!(told.len() < 600, "a refusal repeats too much: {told}");
            let signature = part(&token, 2);
            assert!(signature.len() < 8 || !told.contains(signature), "a refusal repeats the token");
            let known =
                [Code::Unauthenticated, Code::Expired, Code::Revoked, Code::Denied, Code::NodeIdMismatch];
            assert!(known.contains(&refusal.code), "{refusal:?}");
            Verdict::Refused(refusal.code)
        }
    }
}

impl Bureau {
    fn open() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = SecurityConfig::new(NodeId::parse("hub-1").expect("an id"));
        let security = Security::open(directory.path(), config).expect("a new state directory");
        let tokens = [TokenRole::User, TokenRole::Admin, TokenRole::Register].map(|role| {
            let register = role == TokenRole::Register;
            let request = TokenRequest {
                role,
                name: None,
                node: register.then(|| "edge-*".parse().expect("a pattern")),
                allow: if role == TokenRole::User { Rights::everything() } else { Rights::default() },
                ttl: Duration::from_secs(3600),
                uses: register.then_some(Uses::Unlimited),
                ephemeral: false,
            };
            let made = security.create_token(&request, &Actor::new("root", "local")).expect("a token");
            made.token.expose().to_owned()
        });
        let pem = std::fs::read(directory.path().join("keys/token.pem")).expect("the key");
        let key = PrivateKey::from_pem(&pem).expect("a key");
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.expose_der()).expect("an Ed25519 key");
        let header = part(&tokens[0], 0).to_owned();
        // Everything is in memory by now, and nobody is left to tidy up afterwards.
        drop(directory);
        Self { security, tokens, key, header }
    }

    /// With what no seed can know, since it is made anew each time, in place of `@aud`, `@kid` and `@jti`
    /// (of the token that lets nodes in).
    fn filled_in(&self, bytes: &[u8]) -> String {
        let [header, claims]: [Value; 2] = [0, 1].map(|index| json(part(&self.tokens[0], index)));
        let text = bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
        let word = |value: &Value| value.as_str().expect("a word").to_owned();
        let register: Value = json(part(&self.tokens[2], 1));
        let text = text.replace("@aud", &word(&claims["aud"])).replace("@kid", &word(&header["kid"]));
        let text = text.replace("@jti", &word(&register["jti"]));
        // Byte for byte, as it came: it need not be UTF-8.
        encode(&text.chars().map(|byte| u8::try_from(byte).unwrap_or(b'?')).collect::<Vec<_>>())
    }

    fn signed(&self, header: &str, claims: &str) -> String {
        let text = format!("{header}.{claims}");
        let signature = self.key.sign(text.as_bytes());
        format!("{text}.{}", encode(signature.as_ref()))
    }

    /// Says a second time and differently what makes a token good.
    fn is_ours(&self, token: &str, who: &Principal) {
        let (text, signature) = token.rsplit_once('.').expect("a signature");
        let key = UnparsedPublicKey::new(&ED25519, self.key.public_key().as_ref());
        let signature = decode(signature).expect("base64url");
        assert!(key.verify(text.as_bytes(), &signature).is_ok(), "let in without a signature");
        let header: Value = json(part(token, 0));
        assert_eq!(header["alg"], "EdDSA", "let in by another algorithm");
        let claims: Value = json(part(token, 1));
        let ours: Value = json(part(&self.tokens[0], 1));
        assert_eq!((&claims["iss"], &claims["aud"]), (&ours["iss"], &ours["aud"]), "somebody else's token");
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
        let time = |name: &str| claims[name].as_f64().unwrap_or_else(|| panic!("let in without {name}"));
        assert!(
            time("exp") > now - LEEWAY_S && time("nbf") < now + LEEWAY_S && time("iat") >= 0.0,
            "{claims}"
        );
        for name in ["sub", "jti", "role"] {
            assert!(claims[name].is_string(), "let in without {name}: {claims}");
        }
        assert!(claims["allow"].is_array(), "let in without its rights: {claims}");
        assert_eq!(who.admin, claims["role"] == "admin", "{claims}");
        assert_eq!(who.role == Role::Node, claims["role"] == "register", "{claims}");
    }
}

fn part(token: &str, index: usize) -> &str {
    token.split('.').nth(index).unwrap_or_default()
}

fn json(part: &str) -> Value {
    // Claims that nobody asks for may be anything.
    serde_json::from_str(&String::from_utf8_lossy(&decode(part).expect("base64url"))).expect("JSON")
}

fn encode(bytes: &[u8]) -> String {
    let bits: Vec<bool> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect();
    let digits = bits.chunks(6).map(|six| {
        let value = (0..6).fold(0, |value, at| value << 1 | usize::from(six.get(at) == Some(&true)));
        char::from(DIGITS[value])
    });
    digits.collect()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        bits.extend((0..6).rev().map(|bit| value >> bit & 1 == 1));
    }
    let bytes = bits.chunks_exact(8);
    Some(bytes.map(|eight| eight.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect())
}
