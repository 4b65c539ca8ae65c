//! How keys get names: joining, logging in, renewing, being revoked and released.

use std::{sync::Barrier, thread};

use reachback_explorer::security::{RevokedKind, TokenRequest, Uses};
use reachback_link::tls::KeyAndCsr;
use reachback_wire::{Code, Role};

use crate::support::{DAY, HOUR, Lab, MINUTE, admin, id, key, refused, register, replicas, rights, user};

#[test]
fn a_node_joins_with_one_use_and_is_known_by_its_key() {
    let lab = Lab::new();
    let (token, first) =
        (lab.token(&TokenRequest { allow: rights(&["mac/rpc"]), ..register("edge-*") }), key());
    let names = lab.join(&token, "edge-7", &first).unwrap();
    assert_eq!(
        (names.cn.as_deref(), &names.dns, &names.uris),
        (Some("edge-7"), &vec!["edge-7".to_owned()], &vec!["reachback:node/edge-7".to_owned()])
    );
    assert_eq!(names.not_after_unix_ms - names.not_before_unix_ms, 91 * 24 * 3600 * 1000);
    let edge = lab.as_node(&names, "edge-7").unwrap();
    assert_eq!(
        (edge.name.as_str(), edge.rights.to_string().as_str(), edge.admin),
        ("edge-7", "mac/rpc", false)
    );
    assert_eq!(edge.expires_unix_ms, Some(names.not_after_unix_ms));
    lab.security().still_good(&edge).unwrap();

    // The answer may be lost on the way: the same key asks again, and that is no second use.
    let again = lab.join(&token, "edge-7", &first).unwrap();
    assert!(again.serial != names.serial && again.spki == names.spki);
    refused(
        lab.join(&token, "edge-8", &key()),
        Code::Denied,
        &["as often as it may", "reachback token create"],
    );
    refused(lab.join(&token, "mac", &key()), Code::NodeIdMismatch, &["edge-*", "not mac"]);
    lab.pass(HOUR);
    refused(lab.join(&token, "edge-7", &first), Code::Expired, &["expired"]);
}

#[test]
fn the_first_key_holds_the_id_until_it_is_released() {
    let lab = Lab::new();
    let (names, first) = lab.node("edge-7");
    let (token, second) = (lab.one_node(), key());
    refused(
        lab.join(&token, "edge-7", &second),
        Code::IdTaken,
        &["edge-7", "reachback release edge-7", "--id"],
    );
    // Not by this way, either: the key has one id.
    refused(lab.join(&token, "edge-8", &first), Code::IdTaken, &["node edge-7's"]);
    // The refusals cost no use.
    let edge = lab.as_node(&names, "edge-7").unwrap();
    let mut changes = lab.security().subscribe_revocations();
    changes.mark_unchanged();
    assert!(lab.security().release(&id("edge-7"), &admin()).unwrap());
    assert!(changes.has_changed().unwrap(), "its session has to end");
    refused(lab.security().still_good(&edge), Code::Revoked, &["edge-7"]);
    refused(lab.as_node(&names, "edge-7"), Code::Revoked, &["to join again", "--node edge-7"]);
    refused(lab.renew(&names, &first), Code::Revoked, &[]);
    let new = lab.join(&token, "edge-7", &second).unwrap();
    lab.as_node(&new, "edge-7").unwrap();
    refused(lab.as_node(&names, "edge-7"), Code::Revoked, &[]);
    assert!(!lab.security().release(&id("edge-9"), &admin()).unwrap(), "nobody has that");
    // With a token of its own the old machine may be another node.
    let moved = lab.join(&lab.one_node(), "edge-8", &first).unwrap();
    lab.as_node(&moved, "edge-8").unwrap();
}

#[test]
fn a_revoked_node_stays_away_until_it_is_released() {
    let lab = Lab::new();
    let (names, first) = lab.node("edge-7");
    let edge = lab.as_node(&names, "edge-7").unwrap();
    let (other, _) = lab.node("edge-8");
    let mut changes = lab.security().subscribe_revocations();
    changes.mark_unchanged();
    lab.revoke("edge-7");
    assert!(changes.has_changed().unwrap(), "its session has to end");
    let words = &["edge-7 was revoked at 2026-11-20", "reachback release edge-7"];
    refused(lab.security().still_good(&edge), Code::Revoked, words);
    refused(lab.as_node(&names, "edge-7"), Code::Revoked, words);
    refused(lab.renew(&names, &first), Code::Revoked, words);
    refused(lab.join(&lab.one_node(), "edge-7", &first), Code::Revoked, words);
    refused(lab.join(&lab.one_node(), "edge-7", &key()), Code::Revoked, words);
    lab.as_node(&other, "edge-8").unwrap();
    // Never by waiting.
    lab.pass(400 * DAY);
    refused(lab.renew(&names, &first), Code::Revoked, words);
    refused(lab.join(&lab.one_node(), "edge-7", &first), Code::Revoked, words);
    assert!(lab.security().release(&id("edge-7"), &admin()).unwrap());
    lab.join(&lab.one_node(), "edge-7", &key()).unwrap();
}

#[test]
fn revoking_a_node_tells_of_the_token_that_still_lets_others_in() {
    let lab = Lab::new();
    let many =
        lab.token(&TokenRequest { uses: Some(Uses::Unlimited), name: Some(id("rack")), ..register("*") });
    lab.join(&many, "edge-7", &key()).unwrap();
    let note = lab.revoke("edge-7").unwrap();
    assert!(note.contains("token \"rack\"") && note.contains("reachback revoke token:"), "{note}");
    let note = lab.revoke("rack").unwrap();
    assert!(note.contains("1 nodes that joined with it stay"), "{note}");
    refused(lab.join(&many, "edge-8", &key()), Code::Revoked, &["token \"rack\" was revoked"]);
    lab.node("edge-9");
    assert_eq!(lab.revoke("edge-9"), None, "its token let in one node");
}

#[test]
fn a_login_binds_the_token_to_one_machine() {
    let lab = Lab::new();
    let (token, laptop) = (lab.token(&user("ann", &["edge-*/rpc"])), key());
    let before = lab.bearer(&token).unwrap();
    let names = lab.login(&token, &laptop).unwrap();
    assert_eq!(names.uris, ["reachback:user/ann"]);
    let ann = lab.as_user(&names).unwrap();
    assert_eq!(
        (ann.name.as_str(), ann.id.as_str(), ann.rights.to_string()),
        ("ann", "laptop", "edge-*/rpc".to_owned())
    );
    lab.login(&token, &laptop).unwrap();
    refused(lab.login(&token, &key()), Code::IdTaken, &["on another machine", "--name ann"]);
    refused(lab.bearer(&token), Code::Unauthenticated, &["was used to log in"]);
    refused(lab.security().still_good(&before), Code::Unauthenticated, &["was used to log in"]);
    let with = |key| lab.security().admit_token(&token, Role::Client, &id("laptop"), key);
    refused(with(Some([0; 32])), Code::Unauthenticated, &["was used to log in"]);
    with(Some(names.spki)).unwrap();
    // A second machine with a token of its own is the same user, and the first stays.
    let second = lab.login(&lab.token(&user("ann", &["mac/rpc"])), &key()).unwrap();
    assert_eq!(lab.as_user(&second).unwrap().rights.to_string(), "mac/rpc");
    assert_eq!(lab.as_user(&names).unwrap().rights.to_string(), "edge-*/rpc");
}

#[test]
fn a_revoked_user_needs_a_new_token_on_every_machine() {
    let lab = Lab::new();
    let tokens = [
        lab.token(&user("ann", &["a/b"])),
        lab.token(&user("ann", &["a/b"])),
        lab.token(&user("ann", &["a/b"])),
    ];
    let (laptop, bob) = (key(), key());
    let names = lab.login(&tokens[0], &laptop).unwrap();
    let bobs = lab.login(&lab.token(&user("bob", &["a/b"])), &bob).unwrap();
    let (session, bearer) = (lab.as_user(&names).unwrap(), lab.bearer(&tokens[1]).unwrap());
    lab.revoke("ann");
    for who in [&session, &bearer] {
        refused(lab.security().still_good(who), Code::Revoked, &["ann", "revoked at 2026-11-20"]);
    }
    refused(lab.as_user(&names), Code::Revoked, &["to log in again", "--name ann"]);
    refused(lab.renew(&names, &laptop), Code::Revoked, &[]);
    refused(lab.bearer(&tokens[1]), Code::Revoked, &[]);
    refused(lab.login(&tokens[2], &key()), Code::Revoked, &["token \"ann\" was revoked"]);
    lab.as_user(&bobs).unwrap();
    // The same second is late enough, and the machine that was found again may be used.
    let names = lab.login(&lab.token(&user("ann", &["a/b"])), &laptop).unwrap();
    lab.as_user(&names).unwrap();
}

#[test]
fn revoking_a_token_ends_the_login_that_was_made_with_it_and_no_other() {
    let lab = Lab::new();
    let made = lab.security().create_token(&user("ann", &["a/b"]), &admin()).unwrap();
    let first = lab.login(&made.token, &key()).unwrap();
    let second = lab.login(&lab.token(&user("ann", &["a/b"])), &key()).unwrap();
    let what = format!("token:{}", &made.info.id[..8]);
    let done = lab.security().revoke(&what.parse().unwrap(), &admin()).unwrap();
    assert_eq!((done.kind, done.name), (RevokedKind::Token, made.info.id));
    refused(lab.as_user(&first), Code::Revoked, &[]);
    lab.as_user(&second).unwrap();
}

#[test]
fn what_is_revoked_is_named_without_doubt() {
    let lab = Lab::new();
    lab.node("ann");
    lab.login(&lab.token(&user("ann", &["a/b"])), &key()).unwrap();
    let revoke = |what: &str| what.parse().and_then(|what| lab.security().revoke(&what, &admin()));
    refused(revoke("ann"), Code::BadFrame, &["a node and a user", "node:ann", "user:ann"]);
    assert_eq!(revoke("user:ann").unwrap().kind, RevokedKind::User);
    refused(revoke("nobody"), Code::NodeNotFound, &["nobody", "reachback token list"]);
    refused(revoke("token:nothing"), Code::NodeNotFound, &["nothing"]);
    refused(revoke("token:ab"), Code::NodeNotFound, &["ab"]);
    refused(revoke("cat:ann"), Code::BadFrame, &["node:ID"]);
    refused(revoke("node:../x"), Code::BadFrame, &["a node id is"]);
    // One that never came can be barred.
    assert_eq!(revoke("node:edge-9").unwrap().kind, RevokedKind::Node);
    refused(lab.join(&lab.one_node(), "edge-9", &key()), Code::Revoked, &[]);
}

#[test]
fn a_certificate_is_renewed_for_its_own_key_even_long_after_its_end() {
    let lab = Lab::new();
    let allow = rights(&["mac/rpc"]);
    let first = key();
    let token = lab.token(&TokenRequest { allow, ..register("edge-7") });
    let names = lab.join(&token, "edge-7", &first).unwrap();
    refused(lab.renew(&names, &first), Code::RateLimited, &["just now"]);
    lab.pass(45 * DAY);
    let renewed = lab.renew(&names, &first).unwrap();
    assert_eq!((renewed.spki, &renewed.uris), (names.spki, &names.uris));
    assert_eq!(renewed.not_after_unix_ms - names.not_after_unix_ms, 45 * 24 * 3600 * 1000);
    assert_eq!(lab.as_node(&renewed, "edge-7").unwrap().rights.to_string(), "mac/rpc");
    refused(lab.renew(&names, &key()), Code::IdTaken, &["for the key it is for"]);
    lab.pass(90 * DAY + 365 * DAY);
    let late = lab.renew(&renewed, &first).unwrap();
    lab.pass(90 * DAY + 365 * DAY + MINUTE);
    refused(lab.renew(&late, &first), Code::Expired, &["ended 365 d ago", "--node edge-7"]);
}

#[test]
fn requests_are_read_before_they_are_believed() {
    let lab = Lab::new();
    let token = lab.one_node();
    let enrol = |csr: &[u8]| lab.security().enrol(&token, csr, Role::Node, &id("edge-7"), "test");
    let good = key();
    let mut forged = good.csr().to_vec();
    // A letter of the name in it: the signature fits no more.
    let at = forged.windows(8).position(|part| part == b"somebody").unwrap();
    forged[at] = b'S';
    let behind = [good.csr(), b"x"].concat();
    let p384 = csr(&rcgen::PKCS_ECDSA_P384_SHA384);
    let cases: [(&[u8], &str); 6] = [
        (b"", "no PKCS#10"),
        (b"\x30\x82\xff\xff", "no PKCS#10"),
        (&forged, "not signed with its own key"),
        (&behind, "something behind it"),
        (&p384, "neither Ed25519 nor on the curve P-256"),
        (&[0x30; 4096], "too long"),
    ];
    for (csr, words) in cases {
        refused(enrol(csr), Code::BadFrame, &["certificate request", words]);
    }
    // What the request asks to be called is nobody's business: the token and the id decide.
    let made = enrol(&csr(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    assert_eq!(made.name, "edge-7");
}

fn csr(kind: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(kind).unwrap();
    let params = rcgen::CertificateParams::new(vec!["admin".to_owned()]).unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn fifty_replicas_join_at_once_with_fifty_uses_and_the_next_does_not() {
    let lab = Lab::new();
    let token = lab.token(&replicas("web-*", Uses::Limited(50)));
    let (together, keys) = (Barrier::new(60), [(); 60].map(|()| key()));
    let joined = thread::scope(|scope| {
        let replicas = keys.iter().enumerate().map(|(index, key)| {
            let (lab, token, together) = (&lab, &token, &together);
            scope.spawn(move || {
                together.wait();
                lab.join(token, &format!("web-{index}"), key).is_ok()
            })
        });
        let replicas: Vec<_> = replicas.collect();
        replicas.into_iter().map(|replica| replica.join().unwrap()).filter(|joined| *joined).count()
    });
    assert_eq!(joined, 50);
    refused(lab.join(&token, "web-99", &key()), Code::Denied, &["as often as it may"]);
}

#[test]
fn the_id_of_a_container_goes_to_the_next_one_and_not_while_it_runs() {
    let lab = Lab::new();
    let token = lab.token(&TokenRequest { ttl: 30 * DAY, ..replicas("web-*", Uses::Unlimited) });
    let (first, second) = (key(), key());
    let names = lab.join(&token, "web-1", &first).unwrap();
    assert_eq!(names.not_after_unix_ms - names.not_before_unix_ms, 2 * 24 * 3600 * 1000);
    let web = lab.as_node(&names, "web-1").unwrap();
    assert!(web.ephemeral);
    let session = lab.security().attend(&web);
    let refusal =
        refused(lab.join(&token, "web-1", &second), Code::IdTaken, &["connected from another place"]);
    assert!(refusal.wait().is_some(), "it will be gone");
    drop(session);
    let taken = lab.join(&token, "web-1", &second).unwrap();
    lab.as_node(&taken, "web-1").unwrap();
    refused(lab.as_node(&names, "web-1"), Code::IdTaken, &["web-1"]);
    // What has ended is forgotten, unless it is there.
    lab.join(&token, "web-2", &key()).unwrap();
    let web = lab.as_node(&taken, "web-1").unwrap();
    let session = lab.security().attend(&web);
    lab.pass(25 * HOUR);
    lab.security().keep_up().unwrap();
    lab.renew(&taken, &second).unwrap();
    drop(session);
    lab.pass(25 * HOUR);
    lab.security().keep_up().unwrap();
    let count = |names: &str| lab.audit().iter().filter(|record| record.subject == names).count();
    assert_eq!(count("node web-1"), 3);
    lab.join(&token, "web-1", &key()).unwrap();
    refused(lab.renew(&taken, &second), Code::IdTaken, &[]);
}

#[test]
fn a_lasting_node_keeps_its_id_from_containers() {
    let lab = Lab::new();
    let (names, _) = lab.node("web-1");
    let token = lab.token(&replicas("*", Uses::Unlimited));
    refused(lab.join(&token, "web-1", &key()), Code::IdTaken, &["reachback release web-1"]);
    lab.as_node(&names, "web-1").unwrap();
}

#[test]
fn every_answer_stands_in_the_audit_with_who_and_where() {
    let lab = Lab::new();
    let made = lab
        .security()
        .create_token(&TokenRequest { name: Some(id("rack")), ..register("edge-*") }, &admin())
        .unwrap();
    let (first, second): (KeyAndCsr, KeyAndCsr) = (key(), key());
    let names = lab.join(&made.token, "edge-7", &first).unwrap();
    refused(lab.join(&made.token, "edge-8", &second), Code::Denied, &[]);
    lab.pass(DAY);
    lab.renew(&names, &first).unwrap();
    lab.revoke("edge-7");
    lab.security().release(&id("edge-7"), &admin()).unwrap();
    let lines: Vec<_> = lab
        .audit()
        .into_iter()
        .map(|line| {
            format!("{} | {} | {} | {} | {}", line.action, line.subject, line.by, line.from, line.outcome)
        })
        .collect();
    let rack = format!("token rack ({})", made.info.id);
    assert_eq!(
        lines[1..],
        [
            "token create | register rack | user \"root\" | local socket | ok".to_owned(),
            format!("join | node edge-7 | {rack} | 198.51.100.7:4711 | ok"),
            "join | node edge-8 |  | 198.51.100.7:4711 | denied".to_owned(),
            "renew | reachback:node/edge-7 |  | 198.51.100.7:4711 | ok".to_owned(),
            "revoke | node edge-7 | user \"root\" | local socket | ok".to_owned(),
            "release | edge-7 | user \"root\" | local socket | ok".to_owned(),
        ]
    );
    assert!(lab.audit()[1].at.starts_with("2026-11-20T16:14:32"));
}
