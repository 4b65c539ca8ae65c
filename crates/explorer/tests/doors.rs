//! Who gets through which door: languages and TLS, what each mode asks for, and how a refusal is worded at the other end.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{fs, sync::Arc, time::Duration};

use reachback_explorer::{
    Explorer, ListenerConfig, Mode, SocketConfig, WebFiles,
    security::{Actor, TokenRequest, TokenRole},
};
use reachback_link::{
    DialError, DialSecurity, RealNet, dial,
    tls::{DialTls, Identity, KeyAndCsr, ServerTrust, TrustClock},
};
use reachback_testkit::certificates::{Authority, HOUR, Leaf};
use reachback_wire::{
    Code, ControlMessage, Credential, Frame, FrameDecoder, FrameType, Hello, Hex, Refusal, Role, Secret,
    Stage, frame,
};
use support::{Http, Hub, Peer, Pipes, config, count, generation, hello, post, secure::Secure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const NODES: &str = r#"{"jsonrpc":"2.0","method":"explorer.nodes","id":1}"#;

fn hello_of(role: Role, id: &str) -> Hello {
    hello(role, id, generation(1, 0, 1))
}

fn hello_bytes() -> Vec<u8> {
    frame::encode(FrameType::Hello, &hello_of(Role::Client, "laptop"))
}

fn denial(bytes: Vec<u8>) -> Refusal {
    let mut frames = FrameDecoder::new(Stage::HelloReply);
    frames.push(bytes.into());
    let Frame { kind, payload } = frames.next().unwrap().expect("a whole frame");
    assert_eq!(kind, FrameType::Denied);
    serde_json::from_slice(&payload).unwrap()
}

fn json_code(text: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(text).unwrap();
    answer["error"]["data"]["code"].as_str().unwrap().to_owned()
}

/// What became of a dialer: let in, or the code it was denied with.
fn outcome(dialled: Result<Peer, DialError>) -> Result<(), Code> {
    match dialled {
        Ok(_) => Ok(()),
        Err(DialError::Denied(refusal)) => {
            assert!(refusal.message.len() > 20, "a sentence: {refusal}");
            Err(refusal.code)
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn plaintext_on_a_listener_with_tls_is_refused_in_its_own_language() {
    for mode in [Mode::Strict, Mode::Permissive] {
        let secure = Secure::start(mode).await;
        let hub = &secure.hub;
        let refused = hub.dial(Role::Node, "edge-7", generation(1, 0, 1)).await;
        let Err(DialError::Denied(refusal)) = refused else { panic!("{mode}: not denied") };
        assert_eq!(refusal.code, Code::PlaintextRejected);
        assert!(refusal.message.contains(mode.name()) && refusal.message.contains("TLS only"), "{refusal}");
        let answer = hub.http(&post("/rpc", "", NODES)).await;
        assert_eq!((answer.status, json_code(&answer.body).as_str()), (426, "plaintext_rejected"));
        assert!(answer.head.contains("upgrade: tls"), "{}", answer.head);
        assert_eq!(json_code(&hub.raw(NODES.as_bytes()).await), "plaintext_rejected");
        assert_eq!(hub.count("plaintext_refused"), 3);
        assert!(hub.explorer.nodes().is_empty());
    }
}

#[tokio::test]
async fn what_is_spoken_inside_tls_is_what_was_agreed_on() {
    let secure = Secure::start(Mode::Permissive).await;
    let refusal = denial(secure.over_tls(&hello_bytes()).await);
    assert_eq!(refusal.code, Code::HandshakeFailed);
    assert!(refusal.message.contains("reachback/1"), "{refusal}");
    assert_eq!(
        json_code(&secure.over_tls(NODES.as_bytes()).await),
        "unauthenticated",
        "raw JSON shows nothing"
    );

    let (mut tunnel, _) = secure.tls("hub.example.com", &["reachback/1"]).await;
    tunnel.write_all(&post("/rpc", "Connection: close\r\n", NODES)).await.unwrap();
    let answer = Http::read(&mut tunnel).await.unwrap();
    assert_eq!((answer.status, json_code(&answer.body).as_str()), (400, "handshake_failed"));
    assert_eq!(secure.over_tls(b"SSH-2.0-OpenSSH_9\r\n").await, b"");
    let hub = &secure.hub;
    assert_eq!((hub.count("tls_handshakes"), hub.count("plain_refused")), (4, 3));
}

#[tokio::test]
async fn tls_where_there_is_none_ends_with_an_alert_and_tls_that_is_none_ends() {
    let hub = Hub::start().await;
    let mut pipe = hub.net.pipe().await;
    pipe.write_all(&[0x16, 0x03, 0x01, 0x00, 0x05, 1, 0, 0, 1, 0]).await.unwrap();
    let mut answer = Vec::new();
    pipe.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 40]);
    assert_eq!(hub.count("tls_refused"), 1);

    let secure = Secure::start(Mode::Strict).await;
    let mut pipe = secure.hub.net.pipe().await;
    pipe.write_all(&[0x16, 0x03, 0x01, 0x00, 0x05, 9, 9, 9, 9, 9]).await.unwrap();
    // Whatever it is answered, it ends.
    let mut answer = Vec::new();
    pipe.read_to_end(&mut answer).await.unwrap();
    secure.hub.until_count("tls_refused", 1).await;
}

/// What is shown, as which role, under which name, with which certificate and credential; and what comes of it.
type Case<'a> = (&'a str, Role, &'a str, &'a DialSecurity, Option<Credential>, Result<(), Code>);

/// Everything a dialer can show, to every mode with TLS, as every role: nothing gets in that is not named here.
#[tokio::test]
async fn what_each_mode_lets_in() {
    let foreign = Authority::new("somebody else's");
    for mode in [Mode::Strict, Mode::Permissive] {
        let secure = Secure::start(mode).await;
        let node = secure.node("edge-7", &[]).await;
        let user = secure.user("ann", &["edge-7/rpc"]).await;
        let register = secure.token(TokenRole::Register, "edge-*", &[]);
        let unbound = secure.token(TokenRole::User, "bob", &["edge-7/rpc"]);
        let admin = secure.token(TokenRole::Admin, "root", &[]);
        let other = foreign.issue(&Leaf::node("edge-7")).identity();
        let bare = secure.dialling(None);
        let strange = secure.dialling(Some(&other));
        let token = |token: &Secret| Some(Credential::Token { token: token.clone() });
        let knows = Some(Credential::Secret { key: Some(Secret::new("hunter2")) });
        let strict = mode == Mode::Strict;
        let permitted =
            |in_permissive: Result<(), Code>| if strict { Err(Code::MtlsRequired) } else { in_permissive };
        let cases: Vec<Case<'_>> = vec![
            ("nothing", Role::Node, "edge-7", &bare, None, Err(Code::MtlsRequired)),
            ("nothing", Role::Client, "ann", &bare, None, Err(Code::Unauthenticated)),
            ("its certificate", Role::Node, "edge-7", &node.security, None, Ok(())),
            (
                "its certificate, as another",
                Role::Node,
                "edge-8",
                &node.security,
                None,
                Err(Code::NodeIdMismatch),
            ),
            (
                "a node's certificate, as a user",
                Role::Client,
                "edge-7",
                &node.security,
                None,
                Err(Code::Denied),
            ),
            ("a user's certificate", Role::Client, "laptop", &user.security, None, Ok(())),
            ("a user's certificate, as a node", Role::Node, "ann", &user.security, None, Err(Code::Denied)),
            ("a stranger's certificate", Role::Node, "edge-7", &strange, None, Err(Code::Unauthenticated)),
            ("a stranger's certificate", Role::Client, "edge-7", &strange, None, Err(Code::Unauthenticated)),
            ("a user's token", Role::Client, "laptop", &bare, token(&unbound), Ok(())),
            ("a user's token", Role::Node, "edge-9", &bare, token(&unbound), permitted(Err(Code::Denied))),
            ("an admin's token", Role::Client, "laptop", &bare, token(&admin), Ok(())),
            ("a register token", Role::Node, "edge-9", &bare, token(&register), permitted(Ok(()))),
            (
                "a register token, other name",
                Role::Node,
                "mac",
                &bare,
                token(&register),
                permitted(Err(Code::NodeIdMismatch)),
            ),
            (
                "a register token, a held name",
                Role::Node,
                "edge-7",
                &bare,
                token(&register),
                permitted(Err(Code::IdTaken)),
            ),
            ("a register token", Role::Client, "laptop", &bare, token(&register), Err(Code::Denied)),
            (
                "no token at all",
                Role::Client,
                "laptop",
                &bare,
                token(&Secret::new("x.y.z")),
                Err(Code::Unauthenticated),
            ),
            ("a secret that nobody has", Role::Client, "laptop", &bare, knows, Err(Code::Unauthenticated)),
            (
                "something of tomorrow",
                Role::Client,
                "laptop",
                &bare,
                Some(Credential::Unknown),
                Err(Code::Unauthenticated),
            ),
            (
                "a certificate, as an explorer",
                Role::Explorer,
                "edge-7",
                &node.security,
                None,
                Err(Code::Denied),
            ),
        ];
        for (shows, role, id, security, credential, expected) in cases {
            let mut hello = hello_of(role, id);
            hello.credential = credential;
            assert_eq!(
                outcome(secure.dial(&hello, security).await),
                expected,
                "{mode}: {role} {id} shows {shows}"
            );
        }
    }
}

#[tokio::test]
async fn a_lab_shares_one_secret_that_every_role_proves() {
    let secret = || Secret::new("correct horse");
    let hub = Hub::start_with(|config| config.secret = Some(Arc::new(secret()))).await;
    let secure =
        Secure::start_with(Mode::Permissive, |config| config.secret = Some(Arc::new(secret()))).await;
    for role in [Role::Node, Role::Client] {
        for (shown, code) in [
            (None, Some(Code::Unauthenticated)),
            (Some(secret()), None),
            (Some(Secret::new("wrong horse")), Some(Code::Unauthenticated)),
        ] {
            let mut hello = hello_of(role, "edge-7");
            hello.credential = shown.clone().map(|key| Credential::Secret { key: Some(key) });
            let plain = Peer::dial(hub.line().await, &hello).await;
            let tls = secure.dial(&hello, &secure.dialling(None)).await;
            for (way, dialled) in [("plain", plain), ("tls", tls)] {
                match (dialled, code) {
                    (Ok(_), None) => {}
                    (Err(DialError::Denied(refusal)), Some(_)) => {
                        assert!(!refusal.message.contains("horse"), "{refusal}");
                    }
                    // The acceptor proves first: who knows another secret sees that and goes.
                    (Err(DialError::Untrusted { .. }), Some(_)) if shown.is_some() => {}
                    (Ok(_), Some(_)) => panic!("{way}: {role} is let in"),
                    (Err(other), _) => panic!("{way}: {role}: {other}"),
                }
            }
        }
    }
    let answer = hub.http(&post("/rpc", "", NODES)).await;
    assert_eq!((answer.status, json_code(&answer.body).as_str()), (401, "unauthenticated"));
    assert_eq!(json_code(&hub.raw(NODES.as_bytes()).await), "unauthenticated");
    // An explorer without one says so, instead of letting in whoever expects to be asked.
    let open = Hub::start().await;
    let mut hello = hello_of(Role::Client, "laptop");
    hello.credential = Some(Credential::Secret { key: Some(secret()) });
    assert_eq!(outcome(Peer::dial(open.line().await, &hello).await), Err(Code::Unauthenticated));
}

#[tokio::test]
async fn http_says_who_asks_with_every_request_and_no_service_learns_how() {
    let secure = Secure::start(Mode::Strict).await;
    let node = secure.node("edge-7", &[]).await;
    let _node = secure.online(&node, &["rpc"]).await;
    let token = secure.token(TokenRole::User, "bob", &["edge-7/rpc"]);
    let bearer = format!("Authorization: Bearer {}\r\n", token.expose());
    let call = |headers: &str| post("/n/edge-7/rpc", headers, r#"{"jsonrpc":"2.0","id":1,"method":"head"}"#);
    for (headers, status) in [
        (String::new(), 401),
        ("Authorization: Basic Ym9iOmJvYg==\r\n".to_owned(), 401),
        ("Authorization: Bearer x.y.z\r\n".to_owned(), 401),
        (format!("{bearer}{bearer}"), 400),
        (format!("{bearer}Authorization: Basic Ym9iOmJvYg==\r\n"), 400),
        (bearer.clone(), 200),
        (bearer.replace("Bearer", "bearer"), 200),
    ] {
        let answer = secure.https(&call(&headers)).await;
        assert_eq!(answer.status, status, "{headers:?}: {:?}", String::from_utf8_lossy(&answer.body));
        assert!(status != 401 || answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        if status == 200 {
            // What the service was told of the headers.
            let told = answer.head.lines().find(|line| line.starts_with("x-seen")).unwrap();
            assert!(told.contains("content-type") && !told.contains("authorization"), "{told}");
        }
    }
    // One connection, two who ask: the second request is nobody's.
    let mut stream = secure.web().await;
    for (headers, status) in [(bearer.as_str(), 200), ("", 401)] {
        stream.write_all(&call(headers)).await.unwrap();
        assert_eq!(Http::read(&mut stream).await.unwrap().status, status);
    }
    let healthy = b"GET /healthz HTTP/1.1\r\nHost: anything\r\n\r\n";
    assert_eq!(secure.https(healthy).await.status, 200);
    let unknown = secure.https(b"GET /secret HTTP/1.1\r\nHost: hub\r\n\r\n").await;
    assert_eq!(unknown.status, 401, "who it is comes before what there is");
}

#[tokio::test]
async fn addresses_that_are_not_listed_are_told_so_in_their_own_language() {
    let mut config = config();
    let listener = |allow: &str| ListenerConfig {
        allow: vec![allow.parse().unwrap()],
        ..ListenerConfig::new("127.0.0.1:0".parse().unwrap())
    };
    config.listeners = vec![listener("10.0.0.0/8"), listener("127.0.0.0/8")];
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let listen = explorer.addresses().listen.clone();
    let hello = hello_of(Role::Client, "laptop");
    let to = |index: usize| listen[index].to_string().parse().unwrap();
    for (index, open) in [(0, true), (1, false), (2, true)] {
        match dial(&RealNet, &to(index), &hello, &DialSecurity::Plain).await {
            Ok(_) => assert!(open, "listener {index}"),
            Err(DialError::Denied(refusal)) => {
                assert!(
                    !open && refusal.message.contains("127.0.0.1") && refusal.message.contains("allow"),
                    "{refusal}"
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
    let mut stream = TcpStream::connect(listen[1].socket_addr().unwrap()).await.unwrap();
    stream.write_all(&post("/rpc", "", NODES)).await.unwrap();
    assert_eq!(Http::read(&mut stream).await.unwrap().status, 403);
    assert_eq!(count(&explorer, "outside_refused"), 2);
    explorer.shutdown().await;
}

#[tokio::test]
async fn browsers_see_their_own_certificate_and_a_bad_file_changes_nothing() {
    let web = Authority::new("a public authority");
    let files = tempfile::tempdir().unwrap();
    let (cert_path, key_path) = (files.path().join("web.pem"), files.path().join("web.key"));
    let write = |name: &str| {
        let leaf = Leaf { cn: vec![name.to_owned()], dns: vec![name.to_owned()], ..Leaf::default() };
        let issued = web.issue(&leaf);
        fs::write(&cert_path, reachback_link::tls::certificates_to_pem(&issued.chain)).unwrap();
        fs::write(&key_path, issued.key.to_pem().as_bytes()).unwrap();
        issued.chain[0].clone()
    };
    let first = write("hub.example.com");
    let paths = WebFiles { cert_path: cert_path.clone(), key_path: key_path.clone() };
    let secure = Secure::start_with(Mode::Strict, |config| config.web = Some(paths)).await;
    let own = secure.security().material().identity.chain()[0].clone();
    assert_eq!(secure.tls("hub.example.com", &["http/1.1"]).await.1, first);
    assert_eq!(
        secure.tls("hub.example.com", &["reachback/1"]).await.1,
        own,
        "a tunnel has the explorer's own"
    );

    let second = write("hub.example.com");
    assert_eq!(secure.tls("hub.example.com", &[]).await.1, first, "files are read when somebody says so");
    secure.hub.explorer.reload().await.unwrap();
    assert_eq!(secure.tls("hub.example.com", &[]).await.1, second);

    fs::write(&cert_path, "nothing of use").unwrap();
    let error = secure.hub.explorer.reload().await.unwrap_err().to_string();
    assert!(error.contains("web.pem"), "{error}");
    assert_eq!(secure.tls("hub.example.com", &[]).await.1, second);
    fs::remove_file(&key_path).unwrap();
    secure.hub.explorer.reload().await.unwrap_err();
    assert_eq!(secure.tls("hub.example.com", &[]).await.1, second);
}

#[tokio::test]
async fn an_id_is_its_first_keys_until_it_is_released() {
    let secure = Secure::start(Mode::Strict).await;
    let token = secure.token(TokenRole::Register, "edge-*", &[]);
    let first = secure.join(Role::Node, "edge-7", &token).await.unwrap();
    assert_eq!(secure.hub.count("enrolled"), 1);
    let refused = secure.join(Role::Node, "edge-7", &token).await;
    let Err(DialError::Denied(refusal)) = refused else { panic!("the id is taken twice") };
    assert_eq!(refusal.code, Code::IdTaken);
    assert!(refusal.message.contains("reachback release edge-7"), "{refusal}");
    let Err(DialError::Denied(refusal)) = secure.join(Role::Node, "mac", &token).await else {
        panic!("let in")
    };
    assert_eq!(refusal.code, Code::NodeIdMismatch);

    let live = secure.online(&first, &["rpc"]).await;
    let admin = reachback_explorer::security::Actor::new("root", "here");
    assert!(secure.security().release(&"edge-7".parse().unwrap(), &admin).unwrap());
    let end = tokio::time::timeout(Duration::from_secs(5), live.session.ended()).await.expect("within 5 s");
    assert!(end.message.contains("join"), "the end says how to come back: {end}");
    let second = secure.join(Role::Node, "edge-7", &token).await.unwrap();
    secure.session(&second, 2).await.unwrap();
    assert_ne!(outcome(secure.session(&first, 1).await), Ok(()), "the old key is nobody");
}

/// A listener that believes everybody must not make the key of a node worth nothing.
#[tokio::test]
async fn what_a_key_has_is_not_given_to_those_who_are_only_believed() {
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("run/x.sock");
    let mut config = config();
    config.mode = Some(Mode::Strict);
    config.state_dir = Some(state.path().join("explorer"));
    config.secret = Some(Arc::new(Secret::new("hunter2")));
    let listener =
        |mode| ListenerConfig { mode: Some(mode), ..ListenerConfig::new("127.0.0.1:0".parse().unwrap()) };
    config.listeners = vec![listener(Mode::Permissive), listener(Mode::Development)];
    config.socket = Some(SocketConfig::new(&socket));
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let security = explorer.security().unwrap();
    let register = TokenRequest {
        role: TokenRole::Register,
        name: None,
        node: Some("edge-*".parse().unwrap()),
        allow: Default::default(),
        ttl: Duration::from_secs(900),
        uses: None,
        ephemeral: false,
    };
    let token = security.create_token(&register, &Actor::new("a test", "here")).unwrap().token;
    let key = KeyAndCsr::generate("edge-7").unwrap();
    security.enrol(&token, key.csr(), Role::Node, &"edge-7".parse().unwrap(), "here").unwrap();

    let trust = ServerTrust { pins: vec![security.material().pin], roots: Vec::new() };
    let tls = DialTls::new(&trust, None, TrustClock::system()).unwrap();
    let tls = DialSecurity::Tls(Arc::new(tls));
    let listen = &explorer.addresses().listen;
    let ways = [
        (listen[1].to_string(), &tls),
        (listen[2].to_string(), &DialSecurity::Plain),
        (socket.display().to_string(), &DialSecurity::Plain),
    ];
    for (to, way) in ways {
        for (id, expected) in [("edge-7", Some(Code::IdTaken)), ("edge-8", None)] {
            let mut hello = hello_of(Role::Node, id);
            hello.credential = Some(Credential::Secret { key: Some(Secret::new("hunter2")) });
            if to.starts_with('/') {
                hello.credential = None;
            }
            match (dial(&RealNet, &to.parse().unwrap(), &hello, way).await, expected) {
                (Ok(_), None) => {}
                (Err(DialError::Denied(refusal)), Some(code)) => assert_eq!(refusal.code, code, "{to}"),
                (Ok(_), Some(_)) => panic!("{to}: {id} is let in"),
                (Err(other), _) => panic!("{to}: {id}: {other}"),
            }
        }
    }
    explorer.shutdown().await;
}

/// What the explorer says to a renewal.
async fn answer(peer: &mut Peer) -> Result<Vec<Hex>, Refusal> {
    let answering = async {
        loop {
            match peer.control.next().await.expect("the session lives") {
                ControlMessage::Renewed(renewed) => break Ok(renewed.chain),
                ControlMessage::NotRenewed(refusal) => break Err(refusal),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answering).await.expect("an answer")
}

#[tokio::test]
async fn a_certificate_is_renewed_over_the_session_that_it_opened() {
    let mut secure = Secure::start(Mode::Strict).await;
    let members = [secure.node("edge-7", &[]).await, secure.user("ann", &["edge-7/rpc"]).await];
    secure.a_while_later().await;
    let renewed_by = |peer: &Peer, csr: &[u8]| {
        let session = peer.session.clone();
        let renew = ControlMessage::Renew(reachback_wire::Renew { csr: Hex(csr.to_vec()) });
        async move { session.send_control(renew).await.unwrap() }
    };
    for member in members {
        let mut peer = secure.session(&member, 1).await.unwrap();
        renewed_by(&peer, member.key.csr()).await;
        let chain = answer(&mut peer).await.unwrap();
        let chain = chain.into_iter().map(|one| one.0.into()).collect();
        let identity = Identity::new(chain, member.key.key()).unwrap();
        drop(peer);
        let hello = hello(member.role, &member.id, generation(1, 0, 2));
        secure.dial(&hello, &secure.dialling(Some(&identity))).await.unwrap();
    }
    // Another key is no renewal.
    let member = secure.node("edge-8", &[]).await;
    let mut peer = secure.session(&member, 1).await.unwrap();
    let other = reachback_link::tls::KeyAndCsr::generate("edge-8").unwrap();
    renewed_by(&peer, other.csr()).await;
    let refusal = answer(&mut peer).await.unwrap_err();
    assert_eq!(refusal.code, Code::IdTaken, "{refusal}");
    // Who came without a certificate has nothing to renew.
    let plain = Hub::start().await;
    let mut peer = plain.client().await;
    renewed_by(&peer, other.csr()).await;
    let refused = answer(&mut peer).await.unwrap_err();
    assert_eq!(refused.code, Code::Unauthenticated);
}

#[tokio::test]
async fn certificates_that_others_made_count_by_what_the_configuration_says() {
    let (company, stranger) = (Authority::new("a company's"), Authority::new("a stranger's"));
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let own = company.issue(&Leaf::explorer());
    fs::write(path("hub.pem"), reachback_link::tls::certificates_to_pem(&own.chain)).unwrap();
    fs::write(path("hub.key"), own.key.to_pem().as_bytes()).unwrap();
    fs::set_permissions(path("hub.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path("ca.pem"), company.pem()).unwrap();
    for (verification, name) in [("SubjectAltName", "dns"), ("CommonName", "cn")] {
        let secure = Secure::start_with(Mode::Strict, |config| {
            config.tls = Some(reachback_explorer::TlsFiles {
                cert_path: Some(path("hub.pem")),
                key_path: Some(path("hub.key")),
                ca_cert_path: Some(path("ca.pem")),
                require_client_auth: Some(true),
                node_id_verification: Some(verification.parse().unwrap()),
            });
            config.callers = vec![("ann".parse().unwrap(), vec!["edge-7/rpc".parse().unwrap()])];
        })
        .await;
        let leaf = |cn: &str, dns: &[&str]| Leaf {
            cn: vec![cn.to_owned()],
            dns: dns.iter().map(|dns| (*dns).to_owned()).collect(),
            ..Leaf::default()
        };
        let by_dns = name == "dns";
        let expected = |dns: Result<(), Code>, cn: Result<(), Code>| if by_dns { dns } else { cn };
        let wrong = Err(Code::NodeIdMismatch);
        let cases = [
            ("both say so", company.issue(&leaf("edge-7", &["edge-7"])), Ok(())),
            (
                "any DNS name",
                company.issue(&leaf("x", &["first.example", "edge-7"])),
                expected(Ok(()), wrong),
            ),
            (
                "CN right, SAN other",
                company.issue(&leaf("edge-7", &["other.example"])),
                expected(wrong, Ok(())),
            ),
            ("another node's", company.issue(&leaf("edge-8", &["edge-8"])), wrong),
            ("another authority's", stranger.issue(&leaf("edge-7", &["edge-7"])), Err(Code::Unauthenticated)),
            ("over", company.issue(&leaf("edge-7", &["edge-7"]).valid(-2 * HOUR..-HOUR)), Err(Code::Expired)),
        ];
        for (which, issued, expected) in cases {
            let dialled = secure
                .dial(&hello_of(Role::Node, "edge-7"), &secure.dialling(Some(&issued.identity())))
                .await;
            assert_eq!(outcome(dialled), expected, "{verification}: {which}");
        }
        for (who, expected) in [("ann", Ok(())), ("bob", Err(Code::Unauthenticated))] {
            let issued = company.issue(&leaf(who, &[who]));
            let dialled = secure
                .dial(&hello_of(Role::Client, "laptop"), &secure.dialling(Some(&issued.identity())))
                .await;
            assert_eq!(outcome(dialled), expected, "{verification}: user {who}");
        }
    }
}

#[tokio::test]
async fn authentication_that_can_not_be_used_ends_the_start() {
    let state = tempfile::tempdir().unwrap();
    let mut config = config();
    config.mode = Some(Mode::Strict);
    config.state_dir = Some(state.path().join("explorer"));
    config.web = Some(WebFiles { cert_path: "/nowhere/web.pem".into(), key_path: "/nowhere/web.key".into() });
    let error = Explorer::start(config.clone(), Arc::new(Pipes::default())).await.err().unwrap().to_string();
    assert!(error.contains("/nowhere/web.pem"), "{error}");
    config.web = None;
    let running = Explorer::start(config.clone(), Arc::new(Pipes::default())).await.unwrap();
    assert!(running.security().unwrap().made_now());
    let error = Explorer::start(config.clone(), Arc::new(Pipes::default())).await.err().unwrap().to_string();
    assert!(error.contains("another explorer uses this state directory"), "{error}");
    running.shutdown().await;
    let again = Explorer::start(config, Arc::new(Pipes::default())).await.unwrap();
    assert!(!again.security().unwrap().made_now());
}
