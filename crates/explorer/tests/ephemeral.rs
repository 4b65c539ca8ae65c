//! Nodes that come and go: their ids go on to the next, and nobody remembers them for long.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::time::Duration;

use reachback_explorer::{
    Mode, NodeState,
    security::{Actor, TokenRequest, TokenRole, Uses},
};
use reachback_link::DialError;
use reachback_wire::{Code, Role, Secret, rights::Rights};
use support::secure::Secure;

fn replicas(secure: &Secure) -> Secret {
    let request = TokenRequest {
        role: TokenRole::Register,
        name: None,
        node: Some("web-*".parse().unwrap()),
        allow: Rights::default(),
        ttl: Duration::from_secs(24 * 3600),
        uses: Some(Uses::Unlimited),
        ephemeral: true,
    };
    secure.security().create_token(&request, &Actor::new("a test", "here")).unwrap().token
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_container_goes_to_the_next_and_the_last_one_leaves_no_ghost() {
    let secure = Secure::start(Mode::Strict).await;
    let token = replicas(&secure);
    let first = secure.join(Role::Node, "web-1", &token).await.unwrap();
    let line = secure.online(&first, &["http"]).await;
    // While it runs nobody else is it.
    let taken = secure.join(Role::Node, "web-1", &token).await.err().unwrap();
    let DialError::Denied(refusal) = taken else { panic!("{taken}") };
    assert!(refusal.code == Code::IdTaken && refusal.wait().is_some(), "{refusal}");
    drop(line);
    secure.hub.until_state("web-1", NodeState::Offline).await;
    let second = secure.join(Role::Node, "web-1", &token).await.unwrap();
    let line = secure.online(&second, &["http"]).await;
    drop(line);
    secure.hub.until_state("web-1", NodeState::Offline).await;
    let lasting = secure.node("edge-7", &[]).await;
    drop(secure.online(&lasting, &["rpc"]).await);
    secure.hub.until_state("edge-7", NodeState::Offline).await;
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert!(secure.hub.view("web-1").is_some(), "somebody may still ask what became of it");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(secure.hub.view("web-1").is_none());
    assert!(secure.hub.view("edge-7").is_some(), "it is expected to come back");
}
