//! What those who are in may do: role by operation by listener, with nothing allowed that is not named; and how soon what
//! was withdrawn or is over ends what is under way.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use reachback_explorer::{
    Mode,
    security::{Actor, TokenRole},
};
use reachback_link::{OpenError, StreamEnd, Substream};
use reachback_wire::{
    Code, ControlMessage, Open, Record, RecordKind, Refusal, Role, Secret, ServiceInfo, Services,
    control::GrantInfo,
};
use serde_json::{Value, json};
use support::{Http, Peer, generation, hello, post, read, secure::Secure, seen_open, target};
use tokio::io::AsyncWriteExt;

/// What is promised for a revocation.
const SOON: Duration = Duration::from_secs(5);

/// The answer to a call over a session: HTTP status and JSON.
async fn call(peer: &Peer, to: &str, body: &Value) -> Result<Value, Code> {
    let open = Open::call(target(to), Duration::from_secs(5));
    let mut substream = match peer.session.open(open).await {
        Ok(substream) => substream,
        Err(OpenError::Refused(refusal)) => return Err(said(&refusal)),
        Err(other) => panic!("{other}"),
    };
    substream.send(RecordKind::Head, b"{}").await.unwrap();
    substream.send(RecordKind::Data, &serde_json::to_vec(body).unwrap()).await.unwrap();
    substream.finish(None).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        match substream.next().await {
            Ok(Record::Data(piece) | Record::Item(piece)) => bytes.extend_from_slice(&piece),
            Ok(Record::End(_)) => break,
            Ok(Record::Head(_)) => {}
            Ok(Record::Reset { code, .. }) => return Err(Code::from_number(code).unwrap()),
            Err(end) => return Err(end.code()),
        }
    }
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    match answer["error"]["data"]["code"].as_str() {
        Some(code) => Err(Code::from_name(code).unwrap()),
        None => Ok(answer["result"].clone()),
    }
}

fn said(refusal: &Refusal) -> Code {
    assert!(refusal.message.len() > 20, "a sentence: {refusal}");
    refusal.code
}

async fn ask(peer: &Peer, method: &str, params: Value) -> Result<Value, Code> {
    call(peer, "@explorer/api", &json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }))
        .await
}

async fn open(peer: &Peer, to: &str) -> Result<Substream, Code> {
    match peer.stream(to).await {
        Ok(substream) => Ok(substream),
        Err(OpenError::Refused(refusal)) => Err(said(&refusal)),
        Err(other) => panic!("{other}"),
    }
}

fn names(view: &Value) -> BTreeSet<String> {
    view["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap().to_owned()).collect()
}

/// Who asks for what, over which kind of listener. What is not in the last column is denied.
#[tokio::test]
async fn role_by_operation_by_listener() {
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    for mode in [Mode::Strict, Mode::Permissive] {
        let secure = Secure::start(mode).await;
        let (edge, mac) = (secure.node("edge-7", &[]).await, secure.node("mac", &["edge-7/rpc"]).await);
        let services = ["rpc", "mirror", "echo"];
        let edge = secure.online(&edge, &services).await;
        let mac = secure.online(&mac, &services).await;
        let user = secure.user("ann", &["edge-*/rpc", "edge-*/echo"]).await;
        let user = secure.session(&user, 3).await.unwrap();
        let watcher = secure.user("eve", &["@explorer/api:explorer.nodes"]).await;
        let watcher = secure.session(&watcher, 4).await.unwrap();
        let admin = secure.admin().await;
        let admin = secure.session(&admin, 5).await.unwrap();
        let who: [(&str, &Peer); 5] = [
            ("node without rights", &edge),
            ("node", &mac),
            ("user", &user),
            ("watcher", &watcher),
            ("admin", &admin),
        ];
        let may = |who: &str, what: &str| match who {
            "admin" => true,
            "user" => matches!(
                what,
                "stream edge-7/echo" | "stream edge-7/rpc" | "call edge-7/rpc" | "explorer.call"
            ),
            "node" => matches!(what, "stream edge-7/rpc" | "call edge-7/rpc"),
            _ => false,
        };
        let checked = |who: &str, what: &str, outcome: Result<(), Code>| {
            let expected = if may(who, what) { Ok(()) } else { Err(Code::Denied) };
            assert_eq!(outcome, expected, "{mode}: {who}: {what}");
        };
        for (who, peer) in who {
            for to in ["edge-7/echo", "edge-7/rpc", "edge-7/mirror", "mac/rpc", "mac/echo"] {
                let opened = open(peer, to).await;
                checked(who, &format!("stream {to}"), opened.map(drop));
            }
            for to in ["edge-7/rpc", "edge-7/mirror", "mac/rpc"] {
                let called = call(peer, to, &ping).await;
                checked(who, &format!("call {to}"), called.map(drop));
            }
            let through =
                ask(peer, "explorer.call", json!({ "target": "edge-7/rpc", "method": "ping" })).await;
            checked(who, "explorer.call", through.map(drop));
            let beat = json!({ "node_id": "spy", "address": "tcp://127.0.0.1:1" });
            for (method, params) in [
                ("explorer.heartbeat", beat),
                ("explorer.kick", json!({ "id": "nobody" })),
                ("explorer.forget", json!({ "id": "nobody" })),
                ("explorer.release", json!({ "id": "nobody" })),
                (
                    "explorer.token_create",
                    json!({ "role": "user", "name": "x", "allow": ["*/*"], "ttl_ms": 60_000 }),
                ),
                ("explorer.token_list", json!({})),
                ("explorer.revoke", json!({ "what": "nobody" })),
                ("explorer.audit", json!({})),
                ("explorer.backup", json!({ "path": "relative" })),
                ("explorer.ca_rotate", json!({ "step": "finish" })),
            ] {
                // What an admin asks for here makes no sense, and is told so.
                let outcome = match ask(peer, method, params).await {
                    Err(Code::Denied) if who != "admin" => Err(Code::Denied),
                    _ => Ok(()),
                };
                checked(who, method, outcome);
            }
            let everything = ["explorer.status", "explorer.events", "rpc.discover"];
            for method in everything {
                ask(peer, method, json!({})).await.unwrap_or_else(|code| panic!("{who}: {method}: {code}"));
            }
            let status = ask(peer, "explorer.status", json!({})).await.unwrap();
            assert_eq!(status["listeners"][0]["mode"], mode.name(), "{status}");
            let seen = names(&ask(peer, "explorer.nodes", json!({})).await.unwrap());
            let expected: &[&str] = match who {
                // Its heartbeat was taken.
                "admin" => &["edge-7", "mac", "spy"],
                "watcher" => &["edge-7", "mac"],
                "user" | "node" => &["edge-7"],
                _ => &[],
            };
            assert!(seen.iter().map(String::as_str).eq(expected.iter().copied()), "{who} sees {seen:?}");
            let one = ask(peer, "explorer.node", json!({ "id": "mac" })).await.map(drop);
            assert_eq!(one, if who == "admin" { Ok(()) } else { Err(Code::NodeNotFound) }, "{who}");
        }
    }
}

#[tokio::test]
async fn over_http_the_same_rights_hold() {
    let secure = Secure::start(Mode::Strict).await;
    let node = secure.node("edge-7", &[]).await;
    let _node = secure.online(&node, &["rpc", "mirror"]).await;
    let user = secure.token(TokenRole::User, "bob", &["edge-7/rpc:vm.*"]);
    let request = |token: &Secret, path: &str, body: &str| {
        post(path, &format!("Authorization: Bearer {}\r\n", token.expose()), body)
    };
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"vm.list"}"#;
    let remove = r#"{"jsonrpc":"2.0","id":1,"method":"rm"}"#;
    let both = format!("[{list},{remove}]");
    let through = |method: &str| {
        json!({ "jsonrpc": "2.0", "id": 1, "method": "explorer.call", "params": { "target": "edge-7/rpc", "method": method } })
            .to_string()
    };
    for (path, body, status) in [
        ("/n/edge-7/rpc", list, 200),
        ("/n/edge-7/rpc", remove, 403),
        ("/n/edge-7/rpc", &both, 403),
        ("/n/edge-7/rpc", r#"{"method":"vm.list","method":"rm"}"#, 403),
        ("/n/edge-7/mirror", list, 403),
        ("/n/mac/rpc", list, 403),
        ("/rpc", &through("vm.list"), 200),
        ("/rpc", &through("rm"), 403),
        ("/rpc", r#"{"jsonrpc":"2.0","id":1,"method":"explorer.token_list"}"#, 403),
        ("/rpc", r#"[{"jsonrpc":"2.0","id":1,"method":"explorer.token_list"}]"#, 200),
    ] {
        let answer = secure.https(&request(&user, path, body)).await;
        assert_eq!(answer.status, status, "{path} {body}: {:?}", String::from_utf8_lossy(&answer.body));
        if body.starts_with('[') && status == 200 {
            assert_eq!(answer.json()[0]["error"]["data"]["code"], "denied");
        }
    }
    let denied = secure.https(&request(&user, "/n/edge-7/mirror", list)).await.json();
    let words = denied["error"]["message"].as_str().unwrap();
    assert_eq!(
        words,
        "token \"bob\" may call edge-7/rpc:vm.*, not edge-7/mirror. Ask an admin for: reachback token create --role user --name \
         bob --allow 'edge-7/mirror'"
    );
}

#[tokio::test]
async fn a_right_to_methods_lets_these_calls_through_and_no_streams() {
    let secure = Secure::start(Mode::Strict).await;
    let node = secure.node("edge-7", &[]).await;
    let _node = secure.online(&node, &["rpc"]).await;
    let user = secure.user("ann", &["edge-7/rpc:vm.*"]).await;
    let user = secure.session(&user, 2).await.unwrap();
    assert_eq!(open(&user, "edge-7/rpc").await.err(), Some(Code::Denied));
    let request = |method: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [1] });
    assert_eq!(call(&user, "edge-7/rpc", &request("vm.list")).await, Ok(json!([1])));
    assert_eq!(call(&user, "edge-7/rpc", &request("vm")).await, Err(Code::Denied));
    assert_eq!(
        call(&user, "edge-7/rpc", &json!([request("vm.list"), request("rm")])).await,
        Err(Code::Denied)
    );
}

#[tokio::test]
async fn a_follower_sees_what_concerns_it_and_nothing_else() {
    let secure = Secure::start(Mode::Strict).await;
    let (edge, mac) = (secure.node("edge-7", &[]).await, secure.node("mac", &[]).await);
    let _mac = secure.online(&mac, &["rpc"]).await;
    let user = secure.user("ann", &["edge-*/rpc"]).await;
    let user = secure.session(&user, 2).await.unwrap();
    let mut substream =
        user.session.open(Open::call(target("@explorer/api"), Duration::from_secs(30))).await.unwrap();
    substream.send(RecordKind::Data, br#"{"jsonrpc":"2.0","id":1,"method":"explorer.watch"}"#).await.unwrap();
    substream.finish(None).await.unwrap();
    let mut item = async || loop {
        if let Record::Item(bytes) = substream.next().await.unwrap() {
            break serde_json::from_slice::<Value>(&bytes).unwrap();
        }
    };
    assert_eq!(names(&item().await), BTreeSet::new(), "it knows of no node that it has no right on");
    let _edge = secure.online(&edge, &["rpc"]).await;
    drop(_mac);
    secure.hub.until_state("mac", reachback_explorer::NodeState::Offline).await;
    let _late = secure.online(&edge_again(&secure).await, &["rpc"]).await;
    // The end of mac's session came in between and was not shown.
    loop {
        let seen = item().await;
        assert_ne!(seen["node"], "mac");
        if seen["node"] == "edge-8" {
            break;
        }
    }
}

async fn edge_again(secure: &Secure) -> support::secure::Member {
    secure.node("edge-8", &[]).await
}

/// What a node says it has, with a grant.
async fn grant(node: &Peer, to: &str, left: Duration) {
    let info = |name: &str| {
        serde_json::from_value::<ServiceInfo>(json!({ "name": name, "health": { "state": "ok" } })).unwrap()
    };
    let services = Services {
        services: vec![info("echo"), info("rpc")],
        grants: vec![GrantInfo {
            service: "echo".parse().unwrap(),
            to: to.parse().unwrap(),
            left_ms: u64::try_from(left.as_millis()).unwrap(),
        }],
        ..Services::default()
    };
    node.session.send_control(ControlMessage::Services(services)).await.unwrap();
}

#[tokio::test]
async fn a_grant_of_the_node_lets_through_what_no_right_does_until_it_is_over() {
    let secure = Secure::start(Mode::Strict).await;
    let node = secure.node("edge-7", &[]).await;
    let node = secure.online(&node, &["echo", "rpc"]).await;
    let ann = secure.user("ann", &["mac/rpc"]).await;
    let ann = secure.session(&ann, 2).await.unwrap();
    let bob = secure.user("bob", &["mac/rpc"]).await;
    let bob = secure.session(&bob, 3).await.unwrap();
    assert_eq!(open(&ann, "edge-7/echo").await.err(), Some(Code::Denied));

    grant(&node, "ann", Duration::from_secs(2)).await;
    let mut stream = loop {
        match open(&ann, "edge-7/echo").await {
            Ok(stream) => break stream,
            Err(code) => assert_eq!(code, Code::Denied),
        }
    };
    let told = seen_open(&mut stream).await.caller.unwrap();
    assert_eq!((told.role, told.name.as_deref(), told.granted), (Role::Client, Some("ann"), true));
    assert_eq!(open(&ann, "edge-7/rpc").await.err(), Some(Code::Denied), "another service");
    assert_eq!(open(&bob, "edge-7/echo").await.err(), Some(Code::Denied), "another user");
    let end = tokio::time::timeout(SOON, end_of(&mut stream)).await.expect("it ends when the grant does");
    assert_eq!(end.code(), Code::Expired, "{end}");
    assert_eq!(open(&ann, "edge-7/echo").await.err(), Some(Code::Denied));
    assert!(ann.session.end().is_none(), "the session goes on");
}

/// A stream to the echo service, with something under way.
async fn echoing(peer: &Peer) -> Substream {
    let mut stream = open(peer, "edge-7/echo").await.unwrap();
    seen_open(&mut stream).await;
    stream.send(RecordKind::Data, b"hello").await.unwrap();
    assert_eq!(read(&mut stream, 5).await, b"hello");
    stream
}

async fn end_of(stream: &mut Substream) -> StreamEnd {
    loop {
        match stream.next().await {
            Ok(Record::Data(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(end) => return end,
        }
    }
}

#[tokio::test]
async fn revoking_a_user_cuts_streams_session_and_answers_and_touches_nobody_else() {
    let secure = Secure::start(Mode::Strict).await;
    let node = secure.node("edge-7", &[]).await;
    let _node = secure.online(&node, &["echo"]).await;
    let ann = secure.user("ann", &["edge-7/echo"]).await;
    let bob = secure.user("bob", &["edge-7/echo"]).await;
    let (ann_here, bob_here) =
        (secure.session(&ann, 2).await.unwrap(), secure.session(&bob, 3).await.unwrap());
    let (mut of_ann, mut of_bob) = (echoing(&ann_here).await, echoing(&bob_here).await);
    let bearer = secure.token(TokenRole::User, "ann", &["edge-7/echo"]);
    let watch = post(
        "/rpc",
        &format!("Accept: application/x-ndjson\r\nAuthorization: Bearer {}\r\n", bearer.expose()),
        r#"{"jsonrpc":"2.0","id":1,"method":"explorer.watch"}"#,
    );
    let mut following = secure.web().await;
    following.write_all(&watch).await.unwrap();

    let admin = secure.admin().await;
    let admin = secure.session(&admin, 4).await.unwrap();
    let done = ask(&admin, "explorer.revoke", json!({ "what": "ann" })).await.unwrap();
    assert_eq!((&done["kind"], &done["name"], &done["sessions"]), (&"user".into(), &"ann".into(), &1.into()));

    let cut = tokio::time::timeout(SOON, end_of(&mut of_ann)).await.expect("a stream is cut in time");
    assert_eq!(cut.code(), Code::Revoked, "{cut}");
    let end = tokio::time::timeout(SOON, ann_here.session.ended()).await.expect("a session is cut in time");
    assert!(end.message.contains("revoked"), "{end}");
    let answer =
        tokio::time::timeout(SOON, Http::read(&mut following)).await.expect("an answer is cut in time");
    assert!(answer.is_none(), "it never looks complete");
    assert_eq!(secure.hub.count("cut"), 1);

    let Err(reachback_link::DialError::Denied(refusal)) = secure.session(&ann, 2).await else {
        panic!("let in")
    };
    assert_eq!(refusal.code, Code::Revoked);
    let again = secure.https(&watch).await;
    assert_eq!((again.status, again.json()["error"]["data"]["code"].as_str()), (403, Some("revoked")));

    of_bob.send(RecordKind::Data, b"still").await.unwrap();
    assert_eq!(read(&mut of_bob, 5).await, b"still");
    assert!(bob_here.session.end().is_none());
}

#[tokio::test]
async fn revoking_a_node_ends_its_session_and_release_lets_it_join_again() {
    let secure = Secure::start(Mode::Strict).await;
    let node = secure.node("edge-7", &[]).await;
    let here = secure.online(&node, &["echo"]).await;
    let admin = secure.admin().await;
    let admin = secure.session(&admin, 4).await.unwrap();
    let done = ask(&admin, "explorer.revoke", json!({ "what": "node:edge-7" })).await.unwrap();
    assert_eq!((&done["kind"], &done["sessions"]), (&"node".into(), &1.into()));
    let end = tokio::time::timeout(SOON, here.session.ended()).await.expect("in time");
    assert!(end.message.contains("revoked") && end.message.contains("release"), "{end}");
    secure
        .hub
        .until("edge-7", |view| view.last_end.as_ref().is_some_and(|end| end.code == Code::Revoked))
        .await;
    let Err(reachback_link::DialError::Denied(refusal)) = secure.session(&node, 1).await else {
        panic!("let in")
    };
    assert_eq!(refusal.code, Code::Revoked);

    let released = ask(&admin, "explorer.release", json!({ "id": "edge-7" })).await.unwrap();
    assert_eq!(released["released"], true);
    let again = secure.node("edge-7", &[]).await;
    secure.online(&again, &["echo"]).await;
}

/// A token that is over ends the session that it opened; the clock is the system's.
#[tokio::test]
async fn what_an_admin_makes_lets_in_and_is_listed_and_written_down() {
    let secure = Secure::start(Mode::Strict).await;
    let admin = secure.admin().await;
    let admin = secure.session(&admin, 1).await.unwrap();
    let made = ask(
        &admin,
        "explorer.token_create",
        json!({ "role": "register", "node": "edge-*", "ttl_ms": 900_000, "uses": 2, "allow": ["mac/rpc"] }),
    )
    .await
    .unwrap();
    assert_eq!(
        (&made["addresses"], &made["address_is_guess"]),
        (&json!(["hub.example.com:9002"]), &json!(false))
    );
    let line: reachback_wire::join::JoinString = made["join"].as_str().unwrap().parse().unwrap();
    assert_eq!(line.pin(), secure.security().material().pin);
    for id in ["edge-7", "edge-8"] {
        secure.join(Role::Node, id, line.token()).await.unwrap();
    }
    assert!(secure.join(Role::Node, "edge-9", line.token()).await.is_err(), "it was for two");
    let tokens = ask(&admin, "explorer.token_list", json!({})).await.unwrap();
    let listed = tokens["tokens"].as_array().unwrap().iter().find(|one| one["id"] == made["id"]).unwrap();
    assert_eq!(
        (&listed["uses_left"], &listed["state"], &listed["allow"]),
        (&json!(0), &json!("used"), &json!(["mac/rpc"]))
    );
    assert!(!tokens.to_string().contains(line.token().expose()), "a list holds no token");

    let unlimited = json!({ "role": "register", "node": "x-*", "ttl_ms": 1_000, "uses": null });
    let unlimited = ask(&admin, "explorer.token_create", unlimited).await.unwrap();
    let tokens = ask(&admin, "explorer.token_list", json!({})).await.unwrap();
    let listed =
        tokens["tokens"].as_array().unwrap().iter().find(|one| one["id"] == unlimited["id"]).unwrap();
    assert_eq!(listed["uses_left"], Value::Null);

    let to = secure.state.path().join("explorer.backup");
    let backup = ask(&admin, "explorer.backup", json!({ "path": to })).await.unwrap();
    assert_eq!(backup["bytes"], std::fs::metadata(&to).unwrap().len());
    let begun = ask(&admin, "explorer.ca_rotate", json!({ "step": "begin" })).await.unwrap();
    assert_eq!(begun["cas"], 2);
    assert_eq!(
        ask(&admin, "explorer.ca_rotate", json!({ "step": "finish" })).await,
        Err(Code::Denied),
        "some are behind"
    );
    let over = ask(&admin, "explorer.ca_rotate", json!({ "step": "finish", "force": true })).await.unwrap();
    assert_eq!(over["cas"], 1);

    let records = ask(&admin, "explorer.audit", json!({ "last": 100 })).await.unwrap()["records"].clone();
    let done: BTreeSet<_> =
        records.as_array().unwrap().iter().map(|one| one["action"].as_str().unwrap()).collect();
    for action in ["token create", "join", "backup", "rotation begun", "rotation finished"] {
        assert!(done.contains(action), "{action}: {done:?}");
    }
    let by_admin = |one: &Value| one["action"] == "backup" && one["by"] == "user \"root\"";
    assert!(records.as_array().unwrap().iter().any(by_admin), "{records}");
    assert!(!records.to_string().contains(line.token().expose()));
    let last = ask(&admin, "explorer.audit", json!({ "last": 1 })).await.unwrap();
    assert_eq!(last["records"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_explorer_without_tls_has_no_tokens_and_says_so() {
    let hub = support::Hub::start().await;
    let client = hub.client().await;
    for (method, params) in [
        ("explorer.token_create", json!({ "role": "user", "name": "x", "allow": ["*/*"], "ttl_ms": 60_000 })),
        ("explorer.token_list", json!({})),
        ("explorer.revoke", json!({ "what": "x" })),
        ("explorer.release", json!({ "id": "x" })),
        ("explorer.audit", json!({})),
        ("explorer.backup", json!({ "path": "/x" })),
        ("explorer.ca_rotate", json!({ "step": "begin" })),
    ] {
        assert_eq!(ask(&client, method, params).await, Err(Code::Denied), "{method}");
    }
    assert!(hub.explorer.first_join(Duration::from_secs(900)).await.unwrap().is_none());
    hub.explorer.reload().await.unwrap();
}

#[tokio::test]
async fn the_first_line_lets_in_one_node_and_says_where() {
    let secure = Secure::start(Mode::Strict).await;
    let line = secure.hub.explorer.first_join(Duration::from_secs(900)).await.unwrap().unwrap();
    assert_eq!((line.addresses.as_slice(), line.guessed), (&["hub.example.com:9002".to_owned()][..], false));
    let string: reachback_wire::join::JoinString = line.string.expose().parse().unwrap();
    secure.join(Role::Node, "edge-7", string.token()).await.unwrap();
    assert!(secure.join(Role::Node, "edge-8", string.token()).await.is_err());
    let mut of_user = hello(Role::Client, "laptop", generation(1, 0, 1));
    of_user.credential = Some(reachback_wire::Credential::Token { token: string.token().clone() });
    assert!(
        secure.dial(&of_user, &secure.dialling(None)).await.is_err(),
        "it lets nodes in and calls nothing"
    );
    let by = Actor::new("root", "here");
    secure.security().release(&"edge-7".parse().unwrap(), &by).unwrap();
}
