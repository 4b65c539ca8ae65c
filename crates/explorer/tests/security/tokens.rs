//! Tokens: what is signed is believed, and nothing that merely looks like it.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reachback_explorer::security::{CredentialId, TokenRequest, TokenRole, TokenState, Uses};
use reachback_link::tls::PrivateKey;
use reachback_wire::{Code, Role, Secret, rights::Rights};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::{DAY, HOUR, Lab, MINUTE, admin, id, key, refused, register, user};

/// The claims of a token of this explorer.
fn claims(token: &Secret) -> Value {
    jsonwebtoken::dangerous::insecure_decode_claims(token.expose()).unwrap()
}

fn header(token: &Secret) -> Header {
    jsonwebtoken::decode_header(token.expose()).unwrap()
}

/// The key that signs them.
fn signing(lab: &Lab) -> PrivateKey {
    PrivateKey::from_pem(&std::fs::read(lab.file("keys/token.pem")).unwrap()).unwrap()
}

fn sign(lab: &Lab, header: &Header, claims: &Value) -> Secret {
    let key = EncodingKey::from_ed_der(signing(lab).expose_der());
    Secret::new(jsonwebtoken::encode(header, claims, &key).unwrap())
}

/// A token signed with the right key, in which one claim is another.
fn with(lab: &Lab, name: &str, value: Value) -> Secret {
    let good = lab.token(&user("ann", &["edge-*/rpc"]));
    let mut claims = claims(&good);
    claims[name] = value;
    sign(lab, &header(&good), &claims)
}

#[test]
fn a_token_says_who_somebody_is_and_what_he_may() {
    let lab = Lab::new();
    let ann = lab.bearer(&lab.token(&user("ann", &["edge-*/rpc", "mac/*:vm.*"]))).unwrap();
    assert_eq!((ann.name.as_str(), ann.id.as_str(), ann.role), ("ann", "laptop", Role::Client));
    assert_eq!(ann.rights.to_string(), "edge-*/rpc, mac/*:vm.*");
    assert!(!ann.admin && matches!(ann.credential, CredentialId::Token { .. }));
    assert_eq!(ann.expires_unix_ms, Some((lab.now_s() + 3600) * 1000));
    let root = TokenRequest { role: TokenRole::Admin, allow: Rights::default(), ..user("root", &[]) };
    let root = lab.bearer(&lab.token(&root)).unwrap();
    assert!(root.admin && root.rights.allows_target(&"edge-7/rpc".parse().unwrap()));
}

#[test]
fn only_its_own_signature_makes_a_token() {
    let lab = Lab::new();
    let good = lab.token(&user("ann", &["edge-*/rpc"]));
    let parts: Vec<&str> = good.expose().split('.').collect();
    let [head, body, signature] = parts[..] else { panic!("three parts") };
    let other = Lab::new();
    let theirs = other.token(&user("ann", &["*/*"]));
    // `alg` none, in both spellings in which libraries have taken it.
    let none = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0";
    let cases = [
        (String::new(), "no token"),
        ("x".to_owned(), "no token"),
        ("a.b.c".to_owned(), "no token"),
        (format!("{none}.{body}."), "no algorithm that is allowed"),
        (format!("{none}.{body}.{signature}"), "no algorithm that is allowed"),
        (format!("{head}.{body}."), "signature of this token is wrong"),
        (format!("{head}.{body}.{}", &signature[..80]), "signature of this token is wrong"),
        (format!("{head}.{}.{signature}", claims_part(&theirs)), "signature of this token is wrong"),
        (theirs.expose().to_owned(), "key that this explorer does not have"),
        ("x".repeat(5000), "far too long"),
    ];
    for (token, words) in cases {
        refused(lab.bearer(&Secret::new(token)), Code::Unauthenticated, &[words]);
    }
    lab.bearer(&good).unwrap();
}

fn claims_part(token: &Secret) -> String {
    token.expose().split('.').nth(1).unwrap().to_owned()
}

#[test]
fn a_header_chooses_neither_algorithm_nor_key() {
    let lab = Lab::new();
    let good = lab.token(&user("ann", &["edge-*/rpc"]));
    let public = Ed25519KeyPair::from_pkcs8(signing(&lab).expose_der()).unwrap();
    // HS256 with the public key as its secret: the signature is right, if one believes the header.
    let kid = header(&good).kid;
    let head = base64(&serde_json::to_vec(&json!({"typ": "JWT", "alg": "HS256", "kid": kid})).unwrap());
    let message = format!("{head}.{}", claims_part(&good));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.public_key().as_ref());
    let tag = ring::hmac::sign(&secret, message.as_bytes());
    let confused = Secret::new(format!("{message}.{}", base64(tag.as_ref())));
    refused(lab.bearer(&confused), Code::Unauthenticated, &["not signed with EdDSA"]);

    let mut unknown = header(&good);
    unknown.kid = Some("00000000".to_owned());
    refused(lab.bearer(&sign(&lab, &unknown, &claims(&good))), Code::Unauthenticated, &["does not have"]);
    refused(
        lab.bearer(&sign(&lab, &Header::new(Algorithm::EdDSA), &claims(&good))),
        Code::Unauthenticated,
        &["does not have"],
    );
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        text.extend(
            (0..=chunk.len()).map(|digit| char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63])),
        );
    }
    text
}

#[test]
fn a_claim_that_is_missing_or_of_another_type_is_an_error() {
    let lab = Lab::new();
    let good = lab.token(&user("ann", &["edge-*/rpc"]));
    for claim in ["iss", "aud", "sub", "jti", "iat", "nbf", "exp", "role", "allow"] {
        let mut without = claims(&good);
        without.as_object_mut().unwrap().remove(claim);
        let token = sign(&lab, &header(&good), &without);
        refused(lab.bearer(&token), Code::Unauthenticated, &["missing or malformed"]);
    }
    for claim in ["iat", "nbf", "exp"] {
        for value in
            [json!("1795191272"), json!(1.5), json!(-1), json!(null), json!([]), json!({}), json!(true)]
        {
            refused(lab.bearer(&with(&lab, claim, value)), Code::Unauthenticated, &["missing or malformed"]);
        }
    }
    for (claim, value) in [
        ("exp", json!("never")),
        ("role", json!("root")),
        ("role", json!(["admin"])),
        ("sub", json!("../ann")),
        ("aud", json!(["a", "b"])),
        ("allow", json!("*/*")),
        ("allow", json!(["*"])),
    ] {
        refused(lab.bearer(&with(&lab, claim, value)), Code::Unauthenticated, &["missing or malformed"]);
    }
    // What belongs to one role does not belong to the others.
    refused(
        lab.bearer(&with(&lab, "role", json!("register"))),
        Code::Unauthenticated,
        &["claims of its role"],
    );
    lab.bearer(&with(&lab, "more", json!("than is known"))).unwrap();
}

#[test]
fn issuer_audience_and_dates_are_judged_each_in_its_own_words() {
    let lab = Lab::new();
    let now = lab.now_s();
    refused(lab.bearer(&with(&lab, "iss", json!("somebody"))), Code::Unauthenticated, &["not issued by"]);
    refused(lab.bearer(&with(&lab, "aud", json!("00ff"))), Code::Unauthenticated, &["for another explorer"]);
    refused(
        lab.bearer(&with(&lab, "nbf", json!(now + 61))),
        Code::Unauthenticated,
        &["not valid before 2026-11-20", "in 61 s"],
    );
    lab.bearer(&with(&lab, "nbf", json!(now + 60))).unwrap();
    refused(
        lab.bearer(&with(&lab, "exp", json!(now - 61))),
        Code::Expired,
        &["expired at 2026-11-20", "61 s ago", "reachback token create --role user"],
    );
    lab.bearer(&with(&lab, "exp", json!(now - 60))).unwrap();
    refused(lab.bearer(&with(&lab, "exp", json!(0))), Code::Expired, &["expired at 1970"]);
    lab.bearer(&with(&lab, "exp", json!(u64::MAX))).unwrap();
}

#[test]
fn a_token_ends_with_its_time_and_so_does_what_rests_on_it() {
    let lab = Lab::new();
    let token = lab.token(&user("ann", &["edge-*/rpc"]));
    let ann = lab.bearer(&token).unwrap();
    lab.pass(HOUR + MINUTE);
    lab.security().still_good(&ann).unwrap();
    lab.pass(Duration::from_secs(1));
    refused(lab.security().still_good(&ann), Code::Expired, &["token \"ann\" expired"]);
    refused(lab.bearer(&token), Code::Expired, &["61 s ago"]);
    // A clock that was set back does not make it older than it is.
    lab.go_back(DAY);
    refused(lab.bearer(&token), Code::Unauthenticated, &["not valid before", "clock"]);
}

#[test]
fn each_role_has_its_place() {
    let lab = Lab::new();
    let (ann, nodes) = (lab.token(&user("ann", &["edge-*/rpc"])), lab.token(&register("edge-*")));
    refused(lab.bearer(&nodes), Code::Denied, &["role register", "calls nothing"]);
    refused(lab.join(&ann, "edge-7", &key()), Code::Denied, &["role user", "reachback login"]);
    refused(lab.login(&nodes, &key()), Code::Denied, &["role register", "node --join"]);
    let node = |token: &Secret, node: &str| lab.security().admit_token(token, Role::Node, &id(node), None);
    refused(node(&ann, "edge-7"), Code::Denied, &["needs one of role register"]);
    refused(node(&nodes, "edge-7"), Code::Denied, &["for joining", "--join"]);
    let many = lab.token(&TokenRequest { uses: Some(Uses::Unlimited), ..register("edge-*") });
    assert_eq!(node(&many, "edge-7").unwrap().name, "edge-7");
    refused(node(&many, "mac"), Code::NodeIdMismatch, &["edge-*", "not mac"]);
    // A name that has a key can't be taken by a token, and one that was revoked neither.
    lab.node("edge-7");
    refused(node(&many, "edge-7"), Code::IdTaken, &["edge-7", "reachback release edge-7"]);
    lab.revoke("node:edge-8");
    refused(node(&many, "edge-8"), Code::Revoked, &["reachback release edge-8"]);
    refused(
        lab.security().admit_token(&ann, Role::Explorer, &id("hub-2"), None),
        Code::Denied,
        &["no cluster"],
    );
}

#[test]
fn tokens_that_make_no_sense_are_not_made() {
    let lab = Lab::new();
    let ask = |request: TokenRequest| lab.security().create_token(&request, &admin());
    for (request, words) in [
        (TokenRequest { node: None, ..register("*") }, "--node"),
        (TokenRequest { uses: Some(Uses::Limited(0)), ..register("*") }, "--uses"),
        (TokenRequest { ttl: Duration::ZERO, ..register("*") }, "--ttl"),
        (TokenRequest { ttl: 3651 * DAY, ..register("*") }, "--ttl"),
        (user("ann", &[]), "--allow"),
        (TokenRequest { uses: Some(Uses::Limited(1)), ..user("ann", &["a/b"]) }, "for role register"),
        (TokenRequest { ephemeral: true, ..user("ann", &["a/b"]) }, "for role register"),
        (TokenRequest { node: Some("*".parse().unwrap()), ..user("ann", &["a/b"]) }, "for role register"),
        (TokenRequest { role: TokenRole::Admin, ..user("ann", &["a/b"]) }, "may do everything"),
    ] {
        refused(ask(request), Code::Denied, &["no such token", words]);
    }
    let long: Vec<String> =
        (0..64).map(|n| format!("{}-{n}/{}:{}", "a".repeat(40), "s".repeat(30), "m".repeat(60))).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    refused(ask(user("ann", &long)), Code::TooLarge, &["fewer, wider patterns"]);
    assert!(lab.security().list_tokens().is_empty());
}

#[test]
fn the_list_says_what_became_of_each() {
    let lab = Lab::new();
    let one = lab.security().create_token(&register("edge-*"), &admin()).unwrap();
    assert!(
        one.info.name.as_str().starts_with("register-") && one.info.uses_left == Some(1),
        "{:?}",
        one.info
    );
    lab.pass(MINUTE);
    let ann = lab.security().create_token(&user("ann", &["a/b"]), &admin()).unwrap();
    lab.pass(MINUTE);
    let bob = lab.security().create_token(&user("bob", &["a/b"]), &admin()).unwrap();
    let states =
        || -> Vec<_> { lab.security().list_tokens().into_iter().map(|info| (info.id, info.state)).collect() };
    let all = |states: [TokenState; 3]| -> Vec<_> {
        [&bob, &ann, &one].map(|made| made.info.id.clone()).into_iter().zip(states).collect()
    };
    assert_eq!(states(), all([TokenState::Valid; 3]));
    lab.join(&one.token, "edge-7", &key()).unwrap();
    lab.login(&ann.token, &key()).unwrap();
    lab.revoke("bob");
    assert_eq!(states(), all([TokenState::Revoked, TokenState::Used, TokenState::Used]));
    assert!(lab.security().list_tokens()[1].bound);
    // Long after its end nobody asks for it any more; one that somebody has logged in with stays.
    lab.pass(31 * DAY);
    let carl = lab.security().create_token(&user("carl", &["a/b"]), &admin()).unwrap();
    let left: Vec<_> = states().into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, [carl.info.id, ann.info.id]);
    lab.pass(2 * HOUR);
    assert_eq!(lab.security().list_tokens()[0].state, TokenState::Expired);
}

#[test]
fn neither_debug_nor_list_nor_audit_shows_a_token() {
    let lab = Lab::new();
    let made = lab.security().create_token(&user("ann", &["edge-*/rpc"]), &admin()).unwrap();
    let ann = lab.bearer(&made.token).unwrap();
    lab.login(&made.token, &key()).unwrap();
    refused(lab.login(&made.token, &key()), Code::IdTaken, &[]);
    let audit = std::fs::read_to_string(lab.file("audit.jsonl")).unwrap();
    let shown = format!("{made:?} {ann:?} {:?} {:?} {audit}", lab.security(), lab.security().list_tokens());
    let signature = made.token.expose().rsplit('.').next().unwrap();
    assert!(
        shown.contains("ann") && !shown.contains(signature) && !shown.contains(&claims_part(&made.token))
    );
}
