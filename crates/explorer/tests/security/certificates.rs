//! Certificates: whose they are, and everything that looks like somebody else's.

use reachback_explorer::{NodeIdVerification, security::SecurityConfig};
use reachback_link::tls::CertificateNames;
use reachback_wire::{Code, Role};

use crate::support::{Lab, id, key, refused, user};

/// A certificate of a trusted authority, whatever it says.
fn saying(cn: Option<&str>, dns: &[&str], uris: &[&str]) -> CertificateNames {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    CertificateNames {
        cn: cn.map(str::to_owned),
        dns: texts(dns),
        uris: texts(uris),
        spki: [7; 32],
        serial: "0a".to_owned(),
        not_before_unix_ms: 0,
        not_after_unix_ms: 1_800_000_000_000,
    }
}

#[test]
fn our_names_stand_in_one_uri_and_nowhere_else() {
    let lab = Lab::new();
    let (edge, _) = lab.node("edge-7");
    let ann = lab.login(&lab.token(&user("ann", &["a/b"])), &key()).unwrap();
    for (uris, words) in [
        (&["reachback:node/edge-7", "reachback:user/ann"][..], "more than one reachback: name"),
        (&["reachback:node/edge-7", "reachback:node/edge-7"], "more than one reachback: name"),
        (&["reachback:node/"], "no name that this version knows"),
        (&["reachback:node/EDGE-7"], "no name that this version knows"),
        (&["reachback:node/edge-7/x"], "no name that this version knows"),
        (&["reachback:admin/ann"], "no name that this version knows"),
        (&["reachback:\u{1b}[2J"], "no name that this version knows"),
    ] {
        let names = saying(Some("edge-7"), &["edge-7"], uris);
        for outcome in [lab.as_node(&names, "edge-7"), lab.as_user(&names)] {
            let refusal = refused(outcome, Code::Unauthenticated, &[words]);
            assert!(!refusal.message.contains('\u{1b}'));
        }
    }
    // One for a role is none for the other, whatever the common name says.
    refused(lab.as_user(&edge), Code::Denied, &["reachback:node/edge-7", "as a client"]);
    refused(lab.as_node(&ann, "ann"), Code::Denied, &["reachback:user/ann", "as a node"]);
    refused(
        lab.as_node(&saying(None, &[], &["reachback:explorer/hub-2"]), "hub-2"),
        Code::Denied,
        &["explorer"],
    );
    refused(lab.security().admit_certificate(&edge, Role::Explorer, &id("edge-7")), Code::Denied, &[]);
    refused(
        lab.as_node(&edge, "edge-8"),
        Code::NodeIdMismatch,
        &["is for edge-7", "calls itself edge-8", "--id"],
    );
    lab.as_node(&edge, "edge-7").unwrap();
    lab.as_user(&ann).unwrap();
}

#[test]
fn a_name_with_another_key_is_somebody_else() {
    let lab = Lab::new();
    lab.node("edge-7");
    lab.login(&lab.token(&user("ann", &["a/b"])), &key()).unwrap();
    let node = saying(None, &[], &["reachback:node/edge-7"]);
    refused(lab.as_node(&node, "edge-7"), Code::IdTaken, &["another machine's", "reachback release edge-7"]);
    let ann = saying(None, &[], &["reachback:user/ann"]);
    refused(lab.as_user(&ann), Code::Unauthenticated, &["no record of ann", "to log in again"]);
}

#[test]
fn a_node_that_is_not_on_record_comes_in_without_rights_and_a_user_does_not() {
    let lab = Lab::new();
    let names = saying(None, &[], &["reachback:node/edge-9"]);
    let edge = lab.as_node(&names, "edge-9").unwrap();
    assert!(edge.rights.is_empty() && !edge.admin);
    lab.security().still_good(&edge).unwrap();
    refused(lab.as_user(&saying(None, &[], &["reachback:user/ann"])), Code::Unauthenticated, &["no record"]);
    lab.revoke("node:edge-9");
    refused(lab.security().still_good(&edge), Code::Revoked, &["edge-9"]);
}

fn by_common_name(config: &mut SecurityConfig) {
    config.files.node_id_verification = Some(NodeIdVerification::CommonName);
    callers(config);
}

fn by_nothing(config: &mut SecurityConfig) {
    config.files.node_id_verification = Some(NodeIdVerification::None);
    callers(config);
}

fn callers(config: &mut SecurityConfig) {
    let rules = [("ops-*", "edge-*/rpc"), ("ops-2", "*/*"), ("edge-7", "mac/rpc")];
    let rules = rules.map(|(name, right)| (name.parse().unwrap(), vec![right.parse().unwrap()]));
    *config = config.clone().allow(&rules).unwrap();
}

#[test]
fn certificates_of_others_name_the_node_where_it_was_agreed() {
    let both = saying(Some("edge-7"), &["edge-8", "edge-9"], &[]);
    for (change, good, bad, place) in [
        (callers as fn(&mut SecurityConfig), "edge-9", "edge-7", "DNS names"),
        (by_common_name, "edge-7", "edge-9", "common name"),
    ] {
        let lab = Lab::with(change);
        assert_eq!(lab.as_node(&both, good).unwrap().name, good);
        refused(lab.as_node(&both, bad), Code::NodeIdMismatch, &["the certificate is for", bad, place]);
    }
    let lab = Lab::with(by_nothing);
    lab.as_node(&both, "anything").unwrap();
    // Without any name, or with a wildcard, it is nobody's.
    for names in [
        saying(None, &[], &[]),
        saying(Some("*"), &["*.lab", "*"], &[]),
        saying(Some("Ann Smith"), &["."], &[]),
    ] {
        for change in [callers, by_common_name] {
            refused(Lab::with(change).as_node(&names, "edge-7"), Code::NodeIdMismatch, &["for nobody"]);
        }
    }
    // Names are compared as ids are: case does not count.
    Lab::with(callers).as_node(&saying(None, &["EDGE-7"], &[]), "edge-7").unwrap();
}

#[test]
fn what_others_may_stands_in_the_configuration_and_is_nothing_otherwise() {
    let lab = Lab::with(callers);
    let user = |dns: &[&str]| lab.as_user(&saying(Some("ops-1"), dns, &[]));
    let ops = user(&["host.example.com", "ops-2"]).unwrap();
    assert_eq!(
        (ops.name.as_str(), ops.rights.to_string(), ops.admin),
        ("ops-2", "edge-*/rpc".to_owned(), false)
    );
    refused(user(&["dev-1"]), Code::Unauthenticated, &["dev-1", "[[caller]]"]);
    refused(user(&[]), Code::Unauthenticated, &["nobody", "[[caller]]"]);
    let edge = |node: &str| lab.as_node(&saying(None, &[node], &[]), node).unwrap().rights.to_string();
    assert_eq!((edge("edge-7"), edge("edge-8")), ("mac/rpc".to_owned(), "nothing".to_owned()));
    let by_cn = Lab::with(by_common_name);
    assert_eq!(by_cn.as_user(&saying(Some("ops-1"), &["dev-1"], &[])).unwrap().name, "ops-1");
}

#[test]
fn certificates_of_others_are_revoked_by_name_and_take_no_id_that_has_a_key() {
    let lab = Lab::with(callers);
    let node = saying(None, &["edge-7"], &[]);
    let edge = lab.as_node(&node, "edge-7").unwrap();
    lab.revoke("node:edge-7");
    refused(lab.as_node(&node, "edge-7"), Code::Revoked, &["reachback release edge-7"]);
    refused(lab.security().still_good(&edge), Code::Revoked, &[]);
    assert!(lab.security().release(&id("edge-7"), &crate::support::admin()).unwrap());
    lab.as_node(&node, "edge-7").unwrap();
    lab.node("edge-7");
    refused(lab.as_node(&node, "edge-7"), Code::IdTaken, &["edge-7"]);

    let ops = saying(None, &["ops-1"], &[]);
    let session = lab.as_user(&ops).unwrap();
    lab.revoke("user:ops-1");
    refused(lab.as_user(&ops), Code::Revoked, &["ops-1", "[[caller]]"]);
    refused(lab.security().still_good(&session), Code::Revoked, &["ops-1"]);
    let refusal = lab.security().renew(&ops, key().csr(), "test");
    refused(refusal, Code::Denied, &["not one that this explorer renews"]);
}
