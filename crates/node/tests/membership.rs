//! A node's certificate while the node lives: got once for all lines, renewed over a session, shown at the next dial.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "../../client/tests/support/secure.rs"]
mod secure;
#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::{path::Path, sync::Arc};

use reachback_client::{Access, Membership, Random};
use reachback_link::{RealNet, tls::PeerCertificate};
use reachback_node::{ControlSocket, Node, NodeConfig};
use reachback_testkit::certificates::HOUR;
use reachback_wire::{Code, ControlMessage, Hex, Refusal, Renew, Renewed, Role};
use secure::{SafeHub, good, joins_with, leaf};
use serde_json::{Value, json};
use support::{Peer, node_id, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

fn node(hubs: &[&SafeHub], state: &Path) -> Node {
    let join = Some(hubs[0].join("once"));
    let membership = Membership::open(Role::Node, node_id("edge-7"), Some(state), join).unwrap();
    let addresses = hubs.iter().map(|hub| hub.address()).collect();
    let mut config = NodeConfig::new(node_id("edge-7"), addresses).unwrap();
    config.random = Random::seeded(5);
    config.access = Access::member(membership);
    Node::start(config, Arc::new(RealNet)).unwrap()
}

/// The next request for a new certificate.
async fn asked(peer: &mut Peer) -> Hex {
    loop {
        if let ControlMessage::Renew(Renew { csr }) = peer.control().await {
            return csr;
        }
    }
}

async fn until_unix_ms(socket: &Path) -> Option<u64> {
    let mut asker = BufReader::new(UnixStream::connect(socket).await.unwrap());
    asker.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"node.status\"}\n").await.unwrap();
    let mut answer = String::new();
    within("an answer", asker.read_line(&mut answer)).await.unwrap();
    let status: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(status["id"], json!(1), "{status}");
    status["result"]["certificate_until_unix_ms"].as_u64()
}

#[tokio::test]
async fn a_certificate_is_renewed_over_the_session_and_shown_at_the_next_dial() {
    let mut hub = SafeHub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let mut node = node(&[&hub], &directory.path().join("state"));
    let socket = directory.path().join("node.sock");
    node.serve_control(ControlSocket::bind(&socket).await.unwrap());
    let admission = hub.greeted().await;
    assert_eq!(until_unix_ms(&socket).await, None);
    // It lives for 32 seconds. When an explorer whose clock is 15 seconds on lets it in, a second is left of half of that.
    hub.enrol(admission, &leaf(-HOUR..32)).await;
    hub.hub.welcome.time_unix_ms += 15_000;
    let mut peer = hub.admit().await;
    let first = until_unix_ms(&socket).await.unwrap();
    let request = asked(&mut peer).await;
    // A refusal is no end: it asks again, with the same key.
    let refusal = Refusal::new(Code::Saturated, "the disk is full");
    peer.session.send_control(ControlMessage::NotRenewed(refusal)).await.unwrap();
    assert_eq!(asked(&mut peer).await, request);

    let chain = hub.authority.sign(&request.0, &good());
    let enrolled = hub.enrolled(chain);
    let renewed = Renewed { chain: enrolled.chain, ca: enrolled.ca };
    peer.session.send_control(ControlMessage::Renewed(renewed)).await.unwrap();
    within("the new certificate", async {
        while until_unix_ms(&socket).await == Some(first) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(peer.session.end().is_none(), "the session goes on");
    drop(peer);

    let admission = hub.greeted().await;
    let PeerCertificate::Valid(names) = hub.certificate(&admission) else { panic!("no certificate") };
    assert_eq!(Some(names.not_after_unix_ms), until_unix_ms(&socket).await);
    assert_eq!(admission.hello.credential, None);
}

#[tokio::test]
async fn several_lines_use_one_token() {
    let (mut first, mut second) = (SafeHub::bind().await, SafeHub::bind().await);
    second.share_authority_of(&first);
    let directory = tempfile::tempdir().unwrap();
    let _node = node(&[&first, &second], directory.path());
    let admission = tokio::select! {
        admission = first.greeted() => admission,
        admission = second.greeted() => admission,
    };
    assert!(joins_with(&admission).is_some());
    first.enrol(admission, &good()).await;
    // Nobody joins a second time, neither while the first was under way nor after it.
    for hub in [&mut first, &mut second] {
        let admission = hub.greeted().await;
        assert_eq!(joins_with(&admission), None);
        assert!(matches!(hub.certificate(&admission), PeerCertificate::Valid(_)));
    }
}
