//! TLS in the place of the transport: who is believed, who is let through, and in which words the others are told.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use common::tls::{OnePipe, hello};
use parking_lot::Mutex;
use reachback_link::{
    Address, DialError, DialSecurity, Established, Transport, dial, enrol, greet,
    tls::{
        AcceptIdentity, AcceptTls, AcceptTlsError, Alpn, CertificateNames, DialTls, Identity, KeyAndCsr,
        PeerCertificate, PrivateKey, Roots, ServerTrust, TlsPeer, TrustClock, Untrusted,
        certificates_from_pem, certificates_to_pem, utc,
    },
};
use reachback_testkit::certificates::{Authority, HOUR, Leaf};
use reachback_wire::{
    Code, Credential, Enrolled, Hello, Hex, ProtocolRange, Refusal, Secret, Welcome, join::Pin, limits,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    time::Instant,
};

fn pipe() -> (OnePipe, Transport) {
    OnePipe::new()
}

fn welcome() -> Welcome {
    Welcome { time_unix_ms: now() + 1_800_000, ..common::tls::welcome() }
}

fn now() -> u64 {
    TrustClock::system().now_unix_ms()
}

fn soon() -> Instant {
    Instant::now() + limits::HANDSHAKE_TIMEOUT
}

fn accepting(tunnel: Identity) -> AcceptTls {
    AcceptTls::new(AcceptIdentity { tunnel, web: Vec::new() }).unwrap()
}

fn security(trust: &ServerTrust, identity: Option<&Identity>) -> DialSecurity {
    dialing(trust, identity, TrustClock::system())
}

fn dialing(trust: &ServerTrust, identity: Option<&Identity>, clock: TrustClock) -> DialSecurity {
    DialSecurity::Tls(Arc::new(DialTls::new(trust, identity, clock).unwrap()))
}

/// Dials an acceptor that lets everybody in.
async fn meet(
    accept: &AcceptTls,
    security: &DialSecurity,
) -> (Result<Established, DialError>, Result<Established, String>) {
    let (net, far) = pipe();
    let (to, said, places) = ("hub:9002".parse().unwrap(), hello(), Semaphore::new(1));
    tokio::join!(dial(&net, &to, &said, security), async {
        let transport = accept.accept(far, &places, soon()).await.map_err(|error| error.to_string())?;
        let admission =
            greet(transport, ProtocolRange::SUPPORTED).await.map_err(|error| error.to_string())?;
        admission.welcome(&welcome()).await.map_err(|error| error.to_string())
    })
}

/// What the dialer makes of an explorer with this certificate, and the acceptor of that.
async fn unbelieved(accept: &AcceptTls, security: &DialSecurity) -> (Untrusted, String, String) {
    let (dialled, accepted) = meet(accept, security).await;
    let error = dialled.unwrap_err();
    let (words, code) = (error.to_string(), error.code());
    let DialError::Untrusted { why, .. } = error else { panic!("{error:?}") };
    assert_eq!(code, Code::HandshakeFailed);
    assert!(words.starts_with("hub:9002 is not believed: "), "{words}");
    (why, words, accepted.unwrap_err())
}

fn peer(established: &Established) -> &TlsPeer {
    established.transport.tls().unwrap()
}

async fn round_trip(one: &mut Transport, other: &mut Transport) {
    one.write_all(b"mux").await.unwrap();
    one.flush().await.unwrap();
    let mut bytes = [0; 3];
    other.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"mux");
}

#[tokio::test]
async fn both_ends_know_each_other_and_share_a_number_that_nobody_else_has() {
    let ca = Authority::new("ca");
    let (hub, node) = (ca.issue(&Leaf::explorer()), ca.issue(&Leaf::node("edge-7")));
    let accept = accepting(hub.identity());
    let mut exporters = Vec::new();
    for trust in [ca.trusted(), ca.pinned()] {
        let (dialled, accepted) = meet(&accept, &security(&trust, Some(&node.identity()))).await;
        let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(peer(&dialled).shown(), Some(&hub.chain[0]));
        assert_eq!((peer(&accepted).alpn, peer(&dialled).alpn), (Alpn::Tunnel, Alpn::Tunnel));
        assert_eq!(peer(&dialled).exporter, peer(&accepted).exporter);
        exporters.push(dialled.transport.exporter());

        let roots = Roots::new(&[ca.certificate()]).unwrap();
        let PeerCertificate::Valid(names) = peer(&accepted).certificate(&roots, now()) else { panic!() };
        assert_eq!(names, CertificateNames::of(&node.chain[0]).unwrap());
        assert_eq!((names.cn.as_deref(), &names.dns[..]), (Some("edge-7"), &["edge-7".to_owned()][..]));
        assert_eq!(names.uris, ["reachback:node/edge-7"]);
        assert!(
            names.not_before_unix_ms < now() && now() < names.not_after_unix_ms && !names.serial.is_empty()
        );

        round_trip(&mut dialled.transport, &mut accepted.transport).await;
        round_trip(&mut accepted.transport, &mut dialled.transport).await;
    }
    assert!(exporters[0] != exporters[1] && exporters[0] != [0; 32]);
    let (mut plain, _) = Transport::memory_pair(1);
    assert_eq!(plain.exporter(), [0; 32]);
    assert!(plain.tls().is_none());
    plain.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_explorer_of_another_authority_is_not_believed() {
    let (ca, other) = (Authority::new("ca"), Authority::new("ca"));
    let accept = accepting(other.issue(&Leaf::explorer()).identity());
    let unknown = ServerTrust { pins: vec![Pin([7; 32])], roots: Vec::new() };
    for trust in [ca.trusted(), ca.pinned(), unknown] {
        let (why, words, told) = unbelieved(&accept, &security(&trust, None)).await;
        assert_eq!(why, Untrusted::Authority);
        assert!(words.contains("join it again") && words.contains("in between"), "{words}");
        assert!(told.contains("does not know the authority"), "{told}");
    }
    // A pin is not a name: the authority's certificate without its signature is worth nothing.
    let mut impostor = other.issue(&Leaf::explorer());
    impostor.chain[1] = ca.certificate();
    let (why, ..) = unbelieved(&accepting(impostor.identity()), &security(&ca.pinned(), None)).await;
    assert_eq!(why, Untrusted::Authority);
    // Nor is a pin the leaf's own.
    let leaf = other.issue(&Leaf::explorer());
    let own =
        ServerTrust { pins: vec![reachback_link::tls::pin(&leaf.chain[0]).unwrap()], roots: Vec::new() };
    let (why, ..) = unbelieved(&accepting(leaf.identity()), &security(&own, None)).await;
    assert_eq!(why, Untrusted::Authority);
    assert!(DialTls::new(&ServerTrust::default(), None, TrustClock::system()).is_err());
}

#[tokio::test]
async fn a_certificate_that_is_not_an_explorers_is_not_believed_even_from_the_right_authority() {
    let ca = Authority::new("ca");
    let intercepted = Leaf { dns: vec!["www.example.com".into(), "x\u{7}y".into()], ..Leaf::default() };
    for (leaf, shown) in [
        (Leaf::node("edge-7"), "edge-7, reachback:node/edge-7"),
        (Leaf { cn: vec!["explorer.reachback".into()], ..Leaf::default() }, "explorer.reachback"),
        (Leaf { dns: vec!["*.reachback".into()], ..Leaf::default() }, "*.reachback"),
        (Leaf { dns: vec!["explorer.reachback.evil.example".into()], ..Leaf::default() }, "evil.example"),
        (intercepted, "www.example.com, x\\u{7}y"),
        (Leaf::default(), "nobody"),
    ] {
        let accept = accepting(ca.issue(&leaf).identity());
        let (why, words, _) = unbelieved(&accept, &security(&ca.trusted(), None)).await;
        assert!(matches!(why, Untrusted::Name { .. }), "{why:?}");
        assert!(words.contains(shown) && words.contains("not for an explorer"), "{words}");
    }
}

#[tokio::test]
async fn an_explorers_certificate_has_its_time() {
    let ca = Authority::new("ca");
    let over = ca.issue(&Leaf::explorer().valid(-3 * HOUR..-HOUR));
    let (why, words, told) = unbelieved(&accepting(over.identity()), &security(&ca.trusted(), None)).await;
    let until = CertificateNames::of(&over.chain[0]).unwrap().not_after_unix_ms;
    assert!(matches!(why, Untrusted::Expired { until_unix_ms, .. } if until_unix_ms == until), "{why:?}");
    assert!(words.contains(&utc(until)) && words.contains("here it is 20"), "{words}");
    assert!(told.contains("expired"), "{told}");

    let early = ca.issue(&Leaf::explorer().valid(HOUR..2 * HOUR));
    let accept = accepting(early.identity());
    let (why, words, _) = unbelieved(&accept, &security(&ca.trusted(), None)).await;
    assert!(matches!(why, Untrusted::NotYetValid { .. }) && words.contains("set the clock"), "{words}");

    // What an explorer said last counts as much as the system's clock.
    let clock = TrustClock::starting_from(now() + 90 * 60 * 1000);
    meet(&accept, &dialing(&ca.trusted(), None, clock)).await.0.unwrap();
}

#[tokio::test]
async fn a_machine_that_wakes_up_in_1970_believes_its_explorer_and_takes_its_time() {
    let ca = Authority::new("ca");
    let hub = ca.issue(&Leaf::explorer().valid(-1000 * 24 * HOUR..HOUR));
    let accept = accepting(hub.identity());
    let clock = TrustClock::with(|| 0);
    assert!(clock.now_unix_ms() < now());
    let told = welcome();
    let dialled = meet(&accept, &dialing(&ca.trusted(), None, clock.clone())).await.0.unwrap();
    assert!(dialled.welcome.time_unix_ms >= told.time_unix_ms);
    assert_eq!(clock.now_unix_ms(), dialled.welcome.time_unix_ms);

    // But not a time at which the explorer itself could not be believed.
    let hub = ca.issue(&Leaf::explorer().valid(-1000 * 24 * HOUR..60));
    let clock = TrustClock::with(|| 0);
    meet(&accepting(hub.identity()), &dialing(&ca.trusted(), None, clock.clone())).await.0.unwrap();
    assert_eq!(clock.now_unix_ms(), CertificateNames::of(&hub.chain[0]).unwrap().not_after_unix_ms);
}

#[tokio::test]
async fn two_authorities_are_believed_while_one_takes_over_from_the_other() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let both = ServerTrust { pins: Vec::new(), roots: vec![old.certificate(), new.certificate()] };
    let mixed = ServerTrust { pins: new.pinned().pins, roots: vec![old.certificate()] };
    let roots = Roots::new(&[old.certificate(), new.certificate()]).unwrap();
    for hub in [&old, &new] {
        for node in [&old, &new] {
            for trust in [&both, &mixed] {
                let accept = accepting(hub.issue(&Leaf::explorer()).identity());
                let node = node.issue(&Leaf::node("edge-7")).identity();
                let (dialled, accepted) = meet(&accept, &security(trust, Some(&node))).await;
                dialled.unwrap();
                let judged = peer(&accepted.unwrap()).certificate(&roots, now());
                assert!(matches!(judged, PeerCertificate::Valid(_)), "{judged:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_next_handshake_shows_the_new_certificate_and_live_ones_go_on() {
    let ca = Authority::new("ca");
    let (first, second) = (ca.issue(&Leaf::explorer()), ca.issue(&Leaf::explorer()));
    let accept = accepting(first.identity());
    let (before, far) = meet(&accept, &security(&ca.trusted(), None)).await;
    accept.replace(AcceptIdentity { tunnel: second.identity(), web: Vec::new() }).unwrap();
    let (after, _far) = meet(&accept, &security(&ca.trusted(), None)).await;
    let (mut before, after) = (before.unwrap(), after.unwrap());
    assert_eq!(peer(&before).shown(), Some(&first.chain[0]));
    assert_eq!(peer(&after).shown(), Some(&second.chain[0]));
    round_trip(&mut before.transport, &mut far.unwrap().transport).await;
}

#[tokio::test]
async fn every_certificate_is_let_through_and_judged_afterwards() {
    let (ca, other) = (Authority::new("ca"), Authority::new("ca"));
    let accept = accepting(ca.issue(&Leaf::explorer()).identity());
    let roots = Roots::new(&[ca.certificate()]).unwrap();
    let judged = async |identity: Option<Identity>, roots: &Roots| {
        let (_dialled, accepted) = meet(&accept, &security(&ca.trusted(), identity.as_ref())).await;
        peer(&accepted.unwrap()).certificate(roots, now())
    };
    assert_eq!(judged(None, &roots).await, PeerCertificate::None);

    let over = ca.issue(&Leaf::node("edge-7").valid(-3 * HOUR..-HOUR));
    let names = CertificateNames::of(&over.chain[0]).unwrap();
    assert_eq!(judged(Some(over.identity()), &roots).await, PeerCertificate::Expired(names));

    for (identity, roots, words) in [
        (other.issue(&Leaf::node("edge-7")), &roots, "authority that this explorer does not know"),
        // A forged one does not become real by being old.
        (other.issue(&Leaf::node("edge-7").valid(-3 * HOUR..-HOUR)), &roots, "does not know"),
        (ca.issue(&Leaf::node("edge-7").valid(HOUR..2 * HOUR)), &roots, "is valid from"),
        (ca.issue(&Leaf::node("edge-7")), &Roots::new(&[]).unwrap(), "does not know"),
    ] {
        let PeerCertificate::Refused(why) = judged(Some(identity.identity()), roots).await else { panic!() };
        assert!(why.contains(words), "{why}");
    }
}

/// Does the one while the other goes on, for as long as that wants to.
async fn beside<T>(other: impl Future<Output = io::Result<()>>, one: impl Future<Output = T>) -> T {
    let other = async {
        // How it ends is not what is looked at.
        let _ = other.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = one => outcome,
        () = other => unreachable!("it never ends"),
    }
}

/// Certificates are public: whoever shows one has to hold its key.
#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing_on_either_end() {
    let ca = Authority::new("ca");
    let (hub, node, thief) =
        (ca.issue(&Leaf::explorer()), ca.issue(&Leaf::node("edge-7")), ca.issue(&Leaf::default()));
    let (to, places) = ("hub:9002".parse().unwrap(), Semaphore::new(1));
    let accept = accepting(hub.identity());
    let (near, far) = Transport::memory_pair(64 * 1024);
    let accepted =
        beside(stranger::dials(near, node.chain.clone(), &thief.key), accept.accept(far, &places, soon()));
    let error = accepted.await.unwrap_err().to_string();
    assert!(error.contains("does not prove that it holds the key"), "{error}");

    let (net, far) = pipe();
    let (said, tls) = (hello(), security(&ca.trusted(), None));
    let answering = stranger::answers(far, hub.chain.clone(), &thief.key, &["reachback/1"]);
    let error = beside(answering, dial(&net, &to, &said, &tls)).await.unwrap_err().to_string();
    assert!(error.contains("does not prove that it holds the key"), "{error}");
}

/// As a balancer would that ends TLS with the explorer's certificate.
#[tokio::test]
async fn who_has_the_certificate_and_does_not_speak_the_protocol_is_told_from_an_explorer() {
    let ca = Authority::new("ca");
    let hub = ca.issue(&Leaf::explorer());
    let to = "hub:9002".parse().unwrap();
    let (said, tls) = (hello(), security(&ca.trusted(), None));
    for (protocols, words) in [(&[][..], "a proxy that ends TLS"), (&["h2"], "but not reachback/1")] {
        let (net, far) = pipe();
        let answering = stranger::answers(far, hub.chain.clone(), &hub.key, protocols);
        let error = beside(answering, dial(&net, &to, &said, &tls)).await.unwrap_err();
        assert_eq!(error.code(), Code::HandshakeFailed);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn two_common_names_name_nobody() {
    let ca = Authority::new("ca");
    let leaf = Leaf { cn: vec!["admin".into(), "edge-7".into()], ..Leaf::default() };
    assert_eq!(CertificateNames::of(&ca.issue(&leaf).chain[0]).unwrap().cn, None);
    assert_eq!(CertificateNames::of(&ca.issue(&Leaf::default()).chain[0]).unwrap().cn, None);
}

/// Speaks plain words to TLS, and TLS to a place without it.
#[tokio::test]
async fn plaintext_and_tls_do_not_meet_and_are_told_so() {
    let ca = Authority::new("ca");
    let accept = accepting(ca.issue(&Leaf::explorer()).identity());
    let to: Address = "hub:9002".parse().unwrap();
    let places = Semaphore::new(1);

    let (net, far) = pipe();
    let (said, plain) = (hello(), DialSecurity::Plain);
    let (dialled, accepted) =
        tokio::join!(dial(&net, &to, &said, &plain), accept.accept(far, &places, soon()));
    let error = dialled.unwrap_err();
    assert_eq!(error.code(), Code::TlsRequired, "{error}");
    assert!(error.to_string().contains("speaks TLS only") && error.to_string().contains("login"), "{error}");
    assert!(matches!(accepted.unwrap_err(), AcceptTlsError::Refused(why) if why.contains("no TLS")));

    let tls = security(&ca.trusted(), None);
    for (answer, code, words) in [
        (&b"RBK\x01\x05"[..], Code::PlaintextRejected, "RBK\\x01\\x05"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Code::PlaintextRejected, "HTTP/1.1"),
        (&[21, 3, 3, 0, 2, 2, 40], Code::PlaintextRejected, "a listener without TLS?"),
        (&[21, 3, 3, 0, 2, 2, 70], Code::HandshakeFailed, "speaks no TLS 1.3"),
        (&[21, 3, 3, 0, 2, 2, 120], Code::HandshakeFailed, "but not reachback/1"),
        (&[22, 3, 3, 0, 4, 20, 0, 0, 0], Code::HandshakeFailed, "no TLS at this place"),
    ] {
        let (net, mut far) = pipe();
        far.write_all(answer).await.unwrap();
        let error = dial(&net, &to, &said, &tls).await.unwrap_err();
        assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let (net, far) = pipe();
    drop(far);
    assert!(matches!(dial(&net, &to, &said, &tls).await, Err(DialError::Broken { .. })));
}

/// A ClientHello as TLS 1.2 has it: no `supported_versions`.
fn client_hello_of_tls_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0xc0, 0x2f, 1, 0]);
    // Groups and signature schemes: P-256, ECDSA with it.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn an_older_tls_is_refused_in_words_and_with_its_alert() {
    let accept = accepting(Authority::new("ca").issue(&Leaf::explorer()).identity());
    let (mut near, far) = Transport::memory_pair(64 * 1024);
    near.write_all(&client_hello_of_tls_1_2()).await.unwrap();
    let error = accept.accept(far, &Semaphore::new(1), soon()).await.unwrap_err();
    assert!(error.to_string().contains("TLS 1.2 at most; TLS 1.3 is needed"), "{error}");
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    // Alert, fatal, protocol_version.
    assert!(alert.first() == Some(&21) && alert.ends_with(&[2, 70]), "{alert:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_drips_is_closed_at_its_deadline() {
    let accept = accepting(Authority::new("ca").issue(&Leaf::explorer()).identity());
    let (mut near, far) = Transport::memory_pair(64 * 1024);
    let begun = Instant::now();
    let drip = async {
        for byte in client_hello_of_tls_1_2() {
            near.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let places = Semaphore::new(1);
    tokio::select! {
        () = drip => panic!("the whole message was waited for"),
        accepted = accept.accept(far, &places, soon()) => {
            assert!(matches!(accepted, Err(AcceptTlsError::Timeout)));
        }
    }
    assert_eq!(begun.elapsed(), limits::HANDSHAKE_TIMEOUT);
    assert_eq!(places.available_permits(), 1);
}

#[tokio::test]
async fn a_stranger_sends_no_more_than_a_handshake_needs() {
    let accept = accepting(Authority::new("ca").issue(&Leaf::explorer()).identity());
    let (mut near, far) = Transport::memory_pair(256 * 1024);
    // One handshake message that claims to be as long as TLS permits, in records that are all right.
    let mut message = vec![1, 0, 0xff, 0xff];
    message.resize(0xff00, 0);
    for part in message.chunks(4096) {
        near.write_all(&[&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat()).await.unwrap();
    }
    let error = accept.accept(far, &Semaphore::new(1), soon()).await.unwrap_err();
    assert!(error.to_string().contains("more than 8192 bytes"), "{error}");
    assert!(matches!(error, AcceptTlsError::Refused(_)));
}

/// Those who stop in the middle of a handshake don't keep others from theirs.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_stops_gives_its_place_away() {
    let ca = Authority::new("ca");
    let accept = accepting(ca.issue(&Leaf::explorer()).identity());
    let places = Semaphore::new(1);
    let to: Address = "hub:9002".parse().unwrap();
    let (net, far) = pipe();
    // Its first message arrives, and what it is answered never does.
    let (deaf, hears) = Transport::memory_pair(64 * 1024);
    let stopped = async {
        let (said, tls) = (hello(), security(&ca.trusted(), None));
        let silent = OnePipe::of(deaf);
        let _ = tokio::time::timeout(Duration::from_millis(1), dial(&silent, &to, &said, &tls)).await;
        std::future::pending::<()>().await;
    };
    let one = async {
        let (mut first, mut stranger) = Transport::memory_pair(64 * 1024);
        let mut hears = hears;
        let mut hello = vec![0; 2048];
        let n = hears.read(&mut hello).await.unwrap();
        first.write_all(&hello[..n]).await.unwrap();
        stranger.flush().await.unwrap();
        let outcome = accept.accept(stranger, &places, soon()).await;
        drop(first);
        outcome
    };
    let begun = Instant::now();
    let other = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(places.available_permits(), 0, "the one that stopped has it");
        let (said, tls) = (hello(), security(&ca.trusted(), None));
        let (dialled, accepted) = tokio::join!(dial(&net, &to, &said, &tls), async {
            let transport = accept.accept(far, &places, soon()).await.unwrap();
            greet(transport, ProtocolRange::SUPPORTED).await.unwrap().welcome(&welcome()).await.unwrap()
        });
        dialled.unwrap();
        drop(accepted);
        begun.elapsed()
    };
    tokio::select! {
        () = stopped => panic!(),
        outcome = one => panic!("{outcome:?}"),
        waited = other => assert_eq!(waited, limits::TLS_PLACE),
    }
}

#[tokio::test]
async fn browsers_are_asked_for_nothing_and_see_the_certificate_of_the_name_they_ask_for() {
    let (ca, public) = (Authority::new("ca"), Authority::new("public"));
    let site = |name: &str| public.issue(&Leaf { dns: vec![name.into()], ..Leaf::default() });
    let (own, one, two) = (ca.issue(&Leaf::explorer()), site("one.example"), site("*.two.example"));
    let web = vec![one.identity(), two.identity()];
    let accept = AcceptTls::new(AcceptIdentity { tunnel: own.identity(), web }).unwrap();
    let bare = accepting(own.identity());
    for (accept, name, shown) in [
        (&accept, "one.example", &one),
        (&accept, "a.two.example", &two),
        (&accept, "elsewhere.example", &one),
        (&bare, "one.example", &own),
    ] {
        for protocols in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
            let (near, far) = Transport::memory_pair(64 * 1024);
            let places = Semaphore::new(1);
            let (browser, accepted) =
                tokio::join!(browser::visit(near, name, protocols), accept.accept(far, &places, soon()));
            let (browser, accepted) = (browser.unwrap(), accepted.unwrap());
            assert_eq!(browser.chain[0], shown.chain[0], "{name}");
            assert!(!browser.was_asked, "a browser would show a dialog");
            assert_eq!(accepted.tls().unwrap().alpn, Alpn::Web);
            assert_eq!(accepted.tls().unwrap().shown(), None);
        }
    }
    let (near, far) = Transport::memory_pair(64 * 1024);
    let places = Semaphore::new(1);
    let (browser, accepted) =
        tokio::join!(browser::visit(near, "one.example", &["h2"]), accept.accept(far, &places, soon()));
    assert!(browser.is_err());
    assert!(accepted.unwrap_err().to_string().contains("no application protocol in common"));
}

#[tokio::test]
async fn an_end_that_was_not_announced_is_a_broken_connection() {
    let ca = Authority::new("ca");
    let accept = accepting(ca.issue(&Leaf::explorer()).identity());
    let established = async || {
        let (dialled, accepted) = meet(&accept, &security(&ca.trusted(), None)).await;
        (dialled.unwrap().transport, accepted.unwrap().transport)
    };
    let mut rest = Vec::new();

    let (mut near, mut far) = established().await;
    near.write_all(b"bye").await.unwrap();
    near.shutdown().await.unwrap();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"bye");
    // The other direction is still open.
    round_trip(&mut far, &mut near).await;

    // Whoever drops an idle connection announces its end too.
    let (near, mut far) = established().await;
    drop(near);
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);

    // Somebody in between cuts the bytes off.
    let Tapped { mut near, mut far, near_cable, far_cable } = Tapped::new().await;
    drop((near_cable, far_cable));
    for transport in [&mut near, &mut far] {
        for _ in 0..2 {
            let error = transport.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test]
async fn a_changed_byte_is_noticed() {
    let mut line = Tapped::new().await;
    let mut sealed = line.sealed(b"a mux frame").await;
    *sealed.last_mut().unwrap() ^= 1;
    line.far_cable.write_all(&sealed).await.unwrap();
    let error = line.far.read(&mut [0; 64]).await.unwrap_err();
    assert!(error.to_string().contains("changed on the way"), "{error}");
    // More than once, if asked. And it says so to the other end.
    line.far.read(&mut [0; 64]).await.unwrap_err();
    let n = common::soon("the alert", line.far_cable.read(&mut sealed)).await.unwrap();
    line.near_cable.write_all(&sealed[..n]).await.unwrap();
    let error = line.near.read(&mut [0; 64]).await.unwrap_err();
    assert!(error.to_string().contains("changed on the way"), "{error}");
}

/// Two ends over TLS, and the bytes between them in our hands.
struct Tapped {
    near: Transport,
    far: Transport,
    near_cable: Transport,
    far_cable: Transport,
}

impl Tapped {
    async fn new() -> Self {
        let (near, mut near_cable) = Transport::memory_pair(64 * 1024);
        let (far, mut far_cable) = Transport::memory_pair(64 * 1024);
        let (near, far) = tokio::select! {
            secured = common::tls::secured(near, far) => secured,
            _ = tokio::io::copy_bidirectional(&mut near_cable, &mut far_cable) => panic!("nobody has left"),
        };
        Self { near, far, near_cable, far_cable }
    }

    /// What the near end says, as it is seen on the way.
    async fn sealed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.near.write_all(bytes).await.unwrap();
        self.near.flush().await.unwrap();
        let mut sealed = vec![0; 128 * 1024];
        let n = self.near_cable.read(&mut sealed).await.unwrap();
        sealed.truncate(n);
        assert!(n > bytes.len() && !sealed.windows(bytes.len()).any(|part| part == bytes), "it was sealed");
        sealed
    }
}

#[tokio::test]
async fn what_came_before_a_broken_record_is_read() {
    let mut line = Tapped::new().await;
    let (good, mut bad) = (line.sealed(b"good ").await, line.sealed(b"and bad").await);
    bad[8] ^= 1;
    line.far_cable.write_all(&[good, bad].concat()).await.unwrap();
    let mut bytes = [0; 64];
    assert_eq!(line.far.read(&mut bytes).await.unwrap(), 5);
    assert_eq!(&bytes[..5], b"good ");
    line.far.read(&mut bytes).await.unwrap_err();
}

#[tokio::test]
async fn a_part_of_a_record_is_nothing_to_read() {
    let mut line = Tapped::new().await;
    let sealed = line.sealed(b"a mux frame").await;
    let mut readable = async || {
        // The bytes are there as soon as they are written.
        poll_fn(|cx| Poll::Ready(line.far.poll_readable(cx).is_ready())).await
    };
    for (at, byte) in sealed.iter().enumerate() {
        assert!(!readable().await, "after {at} of {} bytes", sealed.len());
        line.far_cable.write_all(&[*byte]).await.unwrap();
    }
    assert!(readable().await);
    assert!(readable().await, "asking takes nothing away");
    let (mut first, mut second) = ([0; 5], [0; 64]);
    let n = poll_fn(|cx| {
        let mut buffers =
            [io::IoSliceMut::new(&mut first), io::IoSliceMut::new(&mut []), io::IoSliceMut::new(&mut second)];
        line.far.poll_read_vectored(cx, &mut buffers)
    })
    .await
    .unwrap();
    assert_eq!((n, &first, &second[..6]), (11, b"a mux", b" frame".as_slice()));
}

/// What has been sealed can't be overtaken, so no more is taken over than one write may hand over.
#[tokio::test]
async fn what_the_other_end_does_not_take_is_not_taken_over() {
    let (near, far) = Transport::memory_pair(1024);
    let (mut near, mut far) = common::tls::secured(near, far).await;
    let much = vec![7; 1 << 20];
    let mut taken = 0;
    let mut offer = async |slices: &[io::IoSlice<'_>]| {
        poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut near).poll_write_vectored(cx, slices))).await
    };
    while let Poll::Ready(n) = offer(&[io::IoSlice::new(&much), io::IoSlice::new(&much)]).await {
        let n = n.unwrap();
        assert!(n > 0, "ready for nothing after {taken} bytes");
        taken += n;
    }
    assert!((limits::RECORD_MAX..=limits::TLS_SEALED_MAX).contains(&taken), "{taken}");
    let mut got = vec![0; taken];
    let (flushed, read) = tokio::join!(near.flush(), far.read_exact(&mut got));
    flushed.unwrap();
    assert_eq!((read.unwrap(), &got[..]), (taken, &much[..taken]));
}

#[tokio::test]
async fn bytes_of_any_size_arrive_as_they_were_sent_through_a_pipe_of_any_size() {
    // Less than a small message of the handshake, and both ends would wait for the other to read.
    for capacity in [8, 700, 4096, 300_000] {
        let (near, far) = Transport::memory_pair(capacity);
        let (mut near, mut far) = common::tls::secured(near, far).await;
        let sizes = [1, 2, 16_383, 16_384, 16_385, 65_548, 200_000].map(|size| size.min(capacity * 200 + 2));
        let sent: Vec<Vec<u8>> = sizes.iter().map(|size| common::pattern(*size)).collect();
        let whole = sent.concat();
        let (mut there, mut back) = (vec![0; whole.len()], vec![0; whole.len()]);
        tokio::join!(
            async {
                for bytes in &sent {
                    near.write_all(bytes).await.unwrap();
                }
                near.flush().await.unwrap();
                near.read_exact(&mut back).await.unwrap();
            },
            async {
                far.read_exact(&mut there).await.unwrap();
                far.write_all(&there).await.unwrap();
                far.flush().await.unwrap();
            }
        );
        assert!(there == whole && back == whole, "capacity {capacity}");
    }
}

mod secrets {
    use super::*;

    fn with(secret: &str) -> Hello {
        Hello { credential: Some(Credential::Secret { key: Some(Secret::new(secret)) }), ..hello() }
    }

    #[tokio::test]
    async fn both_ends_prove_the_secret_and_neither_says_it() {
        let ca = Authority::new("ca");
        let accept = accepting(ca.issue(&Leaf::explorer()).identity());
        let places = Semaphore::new(1);
        let to = "hub:9002".parse().unwrap();
        for security in [DialSecurity::Plain, security(&ca.trusted(), None)] {
            let (net, far) = pipe();
            let said = with("correct horse battery staple");
            let (dialled, accepted) = tokio::join!(dial(&net, &to, &said, &security), async {
                let transport = match security {
                    DialSecurity::Plain => far,
                    DialSecurity::Tls(_) => accept.accept(far, &places, soon()).await.unwrap(),
                };
                let admission = greet(transport, ProtocolRange::SUPPORTED).await.unwrap();
                assert_eq!(admission.hello.credential, Some(Credential::Secret { key: None }));
                let secret = Secret::new("correct horse battery staple");
                admission.challenge(&secret).await.unwrap().welcome(&welcome()).await.unwrap()
            });
            round_trip(&mut dialled.unwrap().transport, &mut { accepted }.transport).await;
        }
    }

    #[tokio::test]
    async fn who_knows_another_secret_is_believed_by_neither_end() {
        let to = "hub:9002".parse().unwrap();
        // The acceptor proves first, so a dialer with another secret leaves without having said anything.
        let (net, far) = pipe();
        let said = with("mine");
        let (dialled, accepted) = tokio::join!(dial(&net, &to, &said, &DialSecurity::Plain), async {
            let admission = greet(far, ProtocolRange::SUPPORTED).await.unwrap();
            admission.challenge(&Secret::new("yours")).await
        });
        let error = dialled.unwrap_err();
        assert!(matches!(error, DialError::Untrusted { why: Untrusted::Secret, .. }), "{error}");
        assert!(error.to_string().contains("Compare the secret files"), "{error}");
        accepted.unwrap_err();

        // A dialer that does not care for the acceptor's proof, and makes its own up.
        let (mut near, far) = Transport::memory_pair(64 * 1024);
        let (words, greeted) = tokio::join!(
            async {
                let (_, said) = reachback_wire::Dialer::new(&with("x"));
                near.write_all(&said).await.unwrap();
                let mut challenge = [0; 1024];
                let n = near.read(&mut challenge).await.unwrap();
                assert_eq!(challenge[4], 2, "{:?}", &challenge[..n]);
                // Reflected: the acceptor's own proof.
                let sent: serde_json::Value = serde_json::from_slice(&challenge[9..n]).unwrap();
                let proof = serde_json::json!({ "proof": sent["proof"] });
                let frame = reachback_wire::frame::encode(reachback_wire::FrameType::Proof, &proof);
                near.write_all(&frame).await.unwrap();
                near.shutdown().await.unwrap();
                let mut words = Vec::new();
                near.read_to_end(&mut words).await.unwrap();
                String::from_utf8_lossy(&words).into_owned()
            },
            async {
                let admission = greet(far, ProtocolRange::SUPPORTED).await.unwrap();
                admission.challenge(&Secret::new("yours")).await
            }
        );
        assert!(words.contains("unauthenticated") && words.contains("compare the secret files"), "{words}");
        greeted.unwrap_err();
    }

    /// What was said on one connection is no use on the next.
    #[tokio::test]
    async fn a_proof_that_was_overheard_is_worth_nothing() {
        let to = "hub:9002".parse().unwrap();
        let secret = Secret::new("correct horse battery staple");
        // Somebody listens to a whole handshake without TLS.
        let (near, mut tap) = Transport::memory_pair(64 * 1024);
        let (mut tapped, far) = Transport::memory_pair(64 * 1024);
        let heard = Mutex::new(Vec::new());
        let net = OnePipe::of(near);
        let said = with("correct horse battery staple");
        let listening = async {
            let (mut up, mut down) = ([0; 4096], [0; 4096]);
            loop {
                tokio::select! {
                    n = tap.read(&mut up) => {
                        let n = n.unwrap();
                        heard.lock().extend_from_slice(&up[..n]);
                        tapped.write_all(&up[..n]).await.unwrap();
                    }
                    n = tapped.read(&mut down) => {
                        let n = n.unwrap();
                        tap.write_all(&down[..n]).await.unwrap();
                    }
                }
            }
        };
        tokio::select! {
            (dialled, ()) = async { tokio::join!(dial(&net, &to, &said, &DialSecurity::Plain), async {
                let admission = greet(far, ProtocolRange::SUPPORTED).await.unwrap();
                drop(admission.challenge(&secret).await.unwrap().welcome(&welcome()).await.unwrap());
            }) } => drop(dialled.unwrap()),
            () = listening => {}
        }
        let heard = heard.into_inner();
        assert!(!String::from_utf8_lossy(&heard).contains("horse"));

        // And says the same again.
        let (mut near, far) = Transport::memory_pair(64 * 1024);
        near.write_all(&heard).await.unwrap();
        near.shutdown().await.unwrap();
        let admission = greet(far, ProtocolRange::SUPPORTED).await.unwrap();
        let error = admission.challenge(&secret).await.unwrap_err();
        assert!(error.to_string().contains("proof of the shared secret is wrong"), "{error}");
    }

    #[tokio::test]
    async fn an_explorer_that_proves_nothing_is_not_talked_to() {
        let to = "hub:9002".parse().unwrap();
        let (net, far) = pipe();
        let said = with("mine");
        let (dialled, _accepted) = tokio::join!(dial(&net, &to, &said, &DialSecurity::Plain), async {
            greet(far, ProtocolRange::SUPPORTED).await.unwrap().welcome(&welcome()).await
        });
        let error = dialled.unwrap_err().to_string();
        assert!(error.contains("without proving that it knows the shared secret"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dialer_that_never_proves_has_the_time_of_one_handshake() {
        let (mut near, far) = Transport::memory_pair(64 * 1024);
        near.write_all(&reachback_wire::Dialer::new(&with("x")).1).await.unwrap();
        let begun = Instant::now();
        let admission = greet(far, ProtocolRange::SUPPORTED).await.unwrap();
        admission.challenge(&Secret::new("x")).await.unwrap_err();
        assert_eq!(begun.elapsed(), limits::HANDSHAKE_TIMEOUT);
    }
}

#[tokio::test]
async fn a_certificate_is_asked_for_and_comes_whole() {
    let ca = Authority::new("ca");
    let accept = accepting(ca.issue(&Leaf::explorer()).identity());
    let asked = KeyAndCsr::generate("edge-7").unwrap();
    let request = Credential::Join { token: Secret::new("token"), csr: Hex(asked.csr().to_vec()) };
    let to = "hub:9002".parse().unwrap();
    let tls = security(&ca.pinned(), None);
    let places = Semaphore::new(1);
    // As long as RSA makes them.
    let certificates = vec![Hex(vec![0x30; 2500]); 4];
    let given = Enrolled { chain: certificates.clone(), ca: certificates, name: "edge-7".into() };

    let (net, far) = pipe();
    let said = Hello { credential: Some(request), ..hello() };
    let (got, ()) = tokio::join!(enrol(&net, &to, &said, &tls), async {
        let transport = accept.accept(far, &places, soon()).await.unwrap();
        let admission = greet(transport, ProtocolRange::SUPPORTED).await.unwrap();
        let Some(Credential::Join { token, csr }) = &admission.hello.credential else { panic!() };
        assert_eq!((token.expose(), &csr.0[..]), ("token", asked.csr()));
        admission.enrolled(&given).await;
    });
    assert_eq!(got.unwrap(), given);

    let (net, far) = pipe();
    let refusal = Refusal::new(Code::Expired, "the join token ended an hour ago; make a new one");
    let (got, ()) = tokio::join!(enrol(&net, &to, &said, &tls), async {
        let transport = accept.accept(far, &places, soon()).await.unwrap();
        greet(transport, ProtocolRange::SUPPORTED).await.unwrap().deny(&refusal).await;
    });
    assert!(matches!(got.unwrap_err(), DialError::Denied(denied) if denied == refusal));
}

#[test]
fn keys_and_certificates_go_to_files_and_come_back() {
    let made = KeyAndCsr::generate("edge-7").unwrap();
    let again =
        KeyAndCsr::with_key("edge-7", PrivateKey::from_pem(made.key().to_pem().as_bytes()).unwrap()).unwrap();
    assert_eq!(made.csr(), again.csr(), "Ed25519 signs the same request the same way");
    assert!(!format!("{made:?}").contains("48, 46"), "{made:?}");

    let ca = Authority::new("ca");
    let (hub, other) = (ca.issue(&Leaf::explorer()), ca.issue(&Leaf::explorer()));
    let pem = certificates_to_pem(&hub.chain);
    assert_eq!(certificates_from_pem(pem.as_bytes()).unwrap(), hub.chain);
    Identity::from_pem(pem.as_bytes(), hub.key.to_pem().as_bytes()).unwrap();
    for (chain, key, words) in [
        (pem.as_str(), other.key.to_pem().as_str(), "the certificate is for another key"),
        (hub.key.to_pem().as_str(), hub.key.to_pem().as_str(), "there is no certificate in it"),
        (pem.as_str(), pem.as_str(), "there is no private key in it"),
        (
            pem.as_str(),
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "passphrase",
        ),
        ("-----BEGIN CERTIFICATE-----\n????\n", hub.key.to_pem().as_str(), "no PEM file"),
    ] {
        let error = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(CertificateNames::of(&vec![0x30, 0x03, 1, 2, 3].into()).is_err());
}

/// Ends that show certificates of others, or speak other protocols.
mod stranger {
    use std::{io, sync::Arc};

    use reachback_link::{
        Transport,
        tls::{CertificateDer, PrivateKey},
    };
    use rustls::{
        ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
        client::ResolvesClientCert,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    };
    use tokio::io::AsyncReadExt;

    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl Shows {
        fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Arc<Self> {
            let der: PrivateKeyDer<'_> = PrivatePkcs8KeyDer::from(key.expose_der()).into();
            let key = rustls::crypto::ring::sign::any_supported_type(&der).unwrap();
            Arc::new(Self(Arc::new(CertifiedKey::new(chain, key))))
        }
    }

    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    impl ResolvesServerCert for Shows {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    pub(super) async fn dials(
        transport: Transport,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKey,
    ) -> io::Result<()> {
        let mut roots = RootCertStore::empty();
        roots.add(chain[1].clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Shows::new(chain, key));
        config.alpn_protocols = vec![b"reachback/1".to_vec()];
        let name = "explorer.reachback".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, transport).await?.read_u8().await.map(drop)
    }

    pub(super) async fn answers(
        transport: Transport,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKey,
        protocols: &[&str],
    ) -> io::Result<()> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Shows::new(chain, key));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        acceptor.accept(transport).await?.read_u8().await.map(drop)
    }
}

/// The dialer of another implementation, which can offer what ours does not.
mod browser {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use reachback_link::{Transport, tls::CertificateDer};
    use rustls::{
        ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::{
            ResolvesClientCert,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        pki_types::{ServerName, UnixTime},
        sign::CertifiedKey,
    };
    use tokio::io::AsyncWriteExt;

    pub(super) struct Visit {
        pub(super) chain: Vec<CertificateDer<'static>>,
        pub(super) was_asked: bool,
    }

    pub(super) async fn visit(
        transport: Transport,
        name: &str,
        protocols: &[&str],
    ) -> std::io::Result<Visit> {
        let asked = Arc::new(Asked::default());
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Believing))
                .with_client_cert_resolver(asked.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, transport).await?;
        stream.flush().await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        Ok(Visit { chain, was_asked: asked.0.load(Ordering::Relaxed) })
    }

    #[derive(Debug, Default)]
    struct Asked(AtomicBool);

    impl ResolvesClientCert for Asked {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            self.0.store(true, Ordering::Relaxed);
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    #[derive(Debug)]
    struct Believing;

    impl ServerCertVerifier for Believing {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
        }
    }
}
