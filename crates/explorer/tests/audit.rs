//! The audit of a whole explorer: whom the door turned away, and what the rights did not allow.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use reachback_explorer::Mode;
use reachback_wire::{Code, Credential, Role, Secret};
use support::{generation, hello, post, secure::Secure};

#[tokio::test]
async fn who_was_turned_away_stands_in_the_audit_with_the_reason_and_the_place() {
    let secure = Secure::start(Mode::Strict).await;
    let edge = secure.node("edge-7", &[]).await;
    let _line = secure.online(&edge, &["rpc"]).await;
    let ann = secure.user("ann", &["mac/rpc", "edge-7/rpc:vm.*"]).await;
    let session = secure.session(&ann, 2).await.unwrap();
    session.stream("edge-7/rpc").await.unwrap_err();
    session.stream("edge-8/rpc").await.unwrap_err();
    let stranger = hello(Role::Node, "edge-8", generation(3, 0, 1));
    assert!(secure.dial(&stranger, &secure.dialling(None)).await.is_err());
    let mut forger = hello(Role::Client, "laptop", generation(4, 0, 1));
    forger.credential = Some(Credential::Token { token: Secret::new("hunter2") });
    assert!(secure.dial(&forger, &secure.dialling(None)).await.is_err());
    let token = secure.token(reachback_explorer::security::TokenRole::User, "bob", &["edge-7/rpc:vm.*"]);
    let bearer = format!("Authorization: Bearer {}\r\n", token.expose());
    let request = post("/n/edge-7/rpc", &bearer, r#"{"jsonrpc":"2.0","id":1,"method":"rm"}"#);
    assert_eq!(secure.https(&request).await.status, 403);

    let kick = post(
        "/rpc",
        &bearer,
        r#"{"jsonrpc":"2.0","id":1,"method":"explorer.kick","params":{"id":"edge-7"}}"#,
    );
    assert_eq!(secure.https(&kick).await.status, 403);

    let lines = secure.security().audit().last(100).unwrap();
    let refused: Vec<_> = lines.iter().filter(|line| line.outcome != "ok").collect();
    let found: Vec<_> =
        refused.iter().map(|line| (&*line.action, &*line.subject, &*line.by, &*line.outcome)).collect();
    let denied = Code::Denied.name();
    assert_eq!(
        found[..2],
        [("open", "edge-7/rpc", "user \"ann\"", denied), ("open", "edge-8/rpc", "user \"ann\"", denied),]
    );
    assert_eq!(found[2], ("connect", "node edge-8", "", Code::MtlsRequired.name()));
    assert_eq!(found[3], ("connect", "client laptop", "", Code::Unauthenticated.name()));
    assert_eq!((found[4].0, found[4].1, found[4].3), ("call", "edge-7/rpc", denied));
    assert_eq!((found[5], found.len()), (("ask", "explorer.kick", "token \"bob\"", denied), 6));
    for line in refused {
        assert!(
            line.detail.len() > 20 && !line.from.is_empty() && !line.detail.contains("hunter2"),
            "{line:?}"
        );
    }
}
