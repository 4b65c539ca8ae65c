//! What the explorer shows, whom it believes, and how both change while everybody stays.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use reachback_explorer::{
    TlsFiles,
    security::{Principal, Security, SecurityConfig, WallClock},
};
use reachback_link::{
    Address, DialError, DialSecurity, ListenAddress, Listener, Net, Transport, dial, greet,
    tls::{
        AcceptIdentity, AcceptTls, CertificateDer, CertificateNames, DialTls, Identity, KeyAndCsr,
        PeerCertificate, ServerTrust, TrustClock, Untrusted,
    },
};
use reachback_testkit::certificates::{Authority, HOUR as SECONDS, Leaf};
use reachback_wire::{
    Code, Enrolled, Generation, Hello, Instance, Nonce, ProtocolRange, Refusal, Role, limits,
};
use tokio::{sync::Semaphore, time::Instant};

use crate::support::{DAY, Lab, admin, certificate, id, key, refused, register, user};

/// A network of one pipe.
struct OnePipe(Mutex<Option<Transport>>);

impl Net for OnePipe {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async { self.0.lock().take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into()) })
    }

    fn listen<'a>(&'a self, _: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// A node dials with this certificate and this trust: what it makes of the explorer, and the explorer of it.
async fn meet(
    security: &Security,
    trust: &ServerTrust,
    identity: Option<&Identity>,
) -> (Result<(), Untrusted>, Option<PeerCertificate>) {
    let (near, far) = Transport::memory_pair(64 * 1024);
    let net = OnePipe(Mutex::new(Some(near)));
    let accept =
        AcceptTls::new(AcceptIdentity { tunnel: security.material().identity, web: Vec::new() }).unwrap();
    let hello = Hello {
        role: Role::Node,
        id: id("edge-7"),
        generation: Generation { instance: Instance([1; 16]), slot: 0, seq: 1 },
        protocol: ProtocolRange::SUPPORTED,
        agent: "test".into(),
        nonce: Nonce([2; 32]),
        features: Vec::new(),
        credential: None,
        resume: None,
    };
    let tls = DialTls::new(trust, identity, TrustClock::system()).unwrap();
    let (to, tls, places) =
        ("hub:9002".parse().unwrap(), DialSecurity::Tls(Arc::new(tls)), Semaphore::new(1));
    let (dialled, judged) = tokio::join!(dial(&net, &to, &hello, &tls), async {
        let transport = accept.accept(far, &places, Instant::now() + limits::HANDSHAKE_TIMEOUT).await.ok()?;
        let judged = security.judge(transport.tls().unwrap());
        let admission = greet(transport, ProtocolRange::SUPPORTED).await.ok()?;
        admission.deny(&Refusal::new(Code::Denied, "enough")).await;
        Some(judged)
    });
    match dialled.unwrap_err() {
        DialError::Denied { .. } => (Ok(()), judged),
        DialError::Untrusted { why, .. } => (Err(why), judged),
        other => panic!("{other:?}"),
    }
}

async fn believes(security: &Security, trust: &ServerTrust) -> bool {
    meet(security, trust, None).await.0.is_ok()
}

fn now(config: &mut SecurityConfig) {
    config.clock = WallClock::system();
}

/// A lab in the present: TLS looks at the real date.
fn lab() -> Lab {
    Lab::with(now)
}

fn node(lab: &Lab) -> (Enrolled, KeyAndCsr) {
    let key = key();
    (lab.security().enrol(&lab.one_node(), key.csr(), Role::Node, &id("edge-7"), "test").unwrap(), key)
}

fn ders(hex: &[reachback_wire::Hex]) -> Vec<CertificateDer<'static>> {
    hex.iter().map(|der| CertificateDer::from(der.0.clone())).collect()
}

fn identity(made: &Enrolled, key: &KeyAndCsr) -> Identity {
    Identity::new(ders(&made.chain), key.key()).unwrap()
}

/// By what it was told when it joined.
fn joined(made: &Enrolled) -> ServerTrust {
    ServerTrust { pins: Vec::new(), roots: ders(&made.ca) }
}

/// By a join string.
fn pinned(security: &Security) -> ServerTrust {
    ServerTrust { pins: vec![security.material().pin], roots: Vec::new() }
}

fn valid(judged: Option<PeerCertificate>) -> CertificateNames {
    match judged {
        Some(PeerCertificate::Valid(names)) => names,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_ends_believe_what_was_made_here_and_nothing_else() {
    let (ours, other) = (lab(), lab());
    let (made, key) = node(&ours);
    for trust in [joined(&made), pinned(ours.security())] {
        let (believed, judged) = meet(ours.security(), &trust, Some(&identity(&made, &key))).await;
        believed.unwrap();
        let edge = ours.as_node(&valid(judged), "edge-7").unwrap();
        assert_eq!(edge.name, "edge-7");
        assert_eq!(meet(other.security(), &trust, None).await.0, Err(Untrusted::Authority));
    }
    let shown = meet(other.security(), &pinned(other.security()), Some(&identity(&made, &key))).await.1;
    assert!(matches!(shown, Some(PeerCertificate::Refused(_))), "{shown:?}");
    // Certificates of nodes are none of explorers.
    let (_, judged) = meet(ours.security(), &joined(&made), None).await;
    assert_eq!(judged, Some(PeerCertificate::None));
    let own = CertificateNames::of(&ours.security().material().identity.chain()[0]).unwrap();
    assert_eq!(own.dns, ["explorer.reachback", "hub-1"]);
    assert_eq!(own.uris, ["reachback:explorer/hub-1"]);
    let names = CertificateNames::of(&certificate(&made)).unwrap();
    assert!(!names.dns.contains(&"explorer.reachback".to_owned()));
}

#[tokio::test]
async fn a_rotation_leaves_nobody_behind_until_it_is_finished() {
    let mut lab = lab();
    let (made, key) = node(&lab);
    let (old_root, old_pin, me) = (joined(&made), pinned(lab.security()), identity(&made, &key));
    let old_token = lab.token(&user("ann", &["a/b"]));
    refused(lab.security().finish_rotation(false, &admin()), Code::Denied, &["no rotation is under way"]);
    let mut material = lab.security().subscribe_material();
    material.mark_unchanged();
    lab.security().begin_rotation(&admin()).unwrap();
    assert!(material.has_changed().unwrap());
    refused(lab.security().begin_rotation(&admin()), Code::Denied, &["under way already"]);
    let new_pin = pinned(lab.security());
    assert!(new_pin.pins != old_pin.pins);
    for restarted in [false, true] {
        if restarted {
            lab.restart();
        }
        assert!(lab.security().is_rotating());
        for trust in [&old_root, &old_pin, &new_pin] {
            let (believed, judged) = meet(lab.security(), trust, Some(&me)).await;
            believed.unwrap();
            lab.as_node(&valid(judged), "edge-7").unwrap();
        }
        lab.bearer(&old_token).unwrap();
        lab.bearer(&lab.token(&user("bob", &["a/b"]))).unwrap();
    }
    // Who still has a certificate of the old authority is named.
    refused(
        lab.security().finish_rotation(false, &admin()),
        Code::Denied,
        &["edge-7", "join again", "--force"],
    );
    let renewed = lab
        .security()
        .enrol(&lab.token(&register("*")), key.csr(), Role::Node, &id("edge-7"), "test")
        .unwrap();
    assert_eq!(renewed.ca.len(), 2, "it is to believe both");
    lab.security().finish_rotation(false, &admin()).unwrap();
    for restarted in [false, true] {
        if restarted {
            lab.restart();
        }
        assert!(!lab.security().is_rotating());
        assert!(!believes(lab.security(), &old_root).await && !believes(lab.security(), &old_pin).await);
        for trust in [&joined(&renewed), &new_pin] {
            let (believed, judged) = meet(lab.security(), trust, Some(&identity(&renewed, &key))).await;
            believed.unwrap();
            lab.as_node(&valid(judged), "edge-7").unwrap();
            let old = meet(lab.security(), trust, Some(&me)).await.1;
            assert!(matches!(old, Some(PeerCertificate::Refused(_))), "{old:?}");
        }
        refused(lab.bearer(&old_token), Code::Unauthenticated, &["does not have"]);
    }
}

#[tokio::test]
async fn a_rotation_that_was_interrupted_has_not_begun() {
    let mut lab = lab();
    let (made, _) = node(&lab);
    let (authority, tokens) = ("keys/ca.pem", "keys/token.pem");
    let before = [authority, tokens].map(|name| fs::read(lab.file(name)).unwrap());
    lab.security().begin_rotation(&admin()).unwrap();
    // The crash came after the list of old ones, and before the new ones.
    lab.stop();
    [authority, tokens]
        .iter()
        .zip(&before)
        .for_each(|(name, content)| fs::write(lab.file(name), content).unwrap());
    lab.restart();
    assert!(!lab.security().is_rotating() && believes(lab.security(), &joined(&made)).await);
    lab.security().begin_rotation(&admin()).unwrap();
    assert!(believes(lab.security(), &joined(&made)).await);
    lab.security().finish_rotation(true, &admin()).unwrap();
    assert!(!believes(lab.security(), &joined(&made)).await, "that was accepted");
}

#[test]
fn the_explorers_own_certificate_is_made_anew_before_it_ends() {
    let lab = Lab::new();
    let shown = || lab.security().material().identity.chain()[0].clone();
    let first = shown();
    lab.pass(44 * DAY);
    assert!(lab.security().keep_up().unwrap() >= Duration::from_secs(60));
    assert_eq!(shown(), first);
    let mut material = lab.security().subscribe_material();
    material.mark_unchanged();
    lab.pass(2 * DAY);
    lab.security().keep_up().unwrap();
    assert!(shown() != first && material.has_changed().unwrap());
}

/// An explorer with files that somebody else made.
fn brought(lab: &Lab, files: TlsFiles) -> Result<Security, String> {
    let mut config = SecurityConfig::new(id("hub-1"));
    config.files = files;
    Security::open(&lab.file("../brought"), config).map_err(|error| error.to_string())
}

fn write(path: &Path, content: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn an_operator_brings_certificates_and_everybody_believes_each_other() {
    let (lab, ca) = (Lab::new(), Authority::new("acme"));
    let hub = ca.issue(&Leaf::explorer());
    let [cert, key_path, bundle] = ["cert.pem", "key.pem", "ca.pem"].map(|name| lab.file(name));
    // The certificate alone: what leads to its authority is in the bundle.
    write(&cert, &reachback_link::tls::certificates_to_pem(&hub.chain[..1]), 0o644);
    write(&key_path, &hub.key.to_pem(), 0o600);
    write(&bundle, &format!("{}{}", Authority::new("another").pem(), ca.pem()), 0o644);
    let files = || TlsFiles {
        cert_path: Some(cert.clone()),
        key_path: Some(key_path.clone()),
        ca_cert_path: Some(bundle.clone()),
        ..TlsFiles::default()
    };
    let security = brought(&lab, files()).unwrap();
    assert_eq!(security.material().pin, ca.pinned().pins[0]);
    let edge = ca.issue(&Leaf { cn: vec!["edge-7".into()], dns: vec!["edge-7".into()], ..Leaf::default() });
    for trust in [ca.trusted(), ca.pinned()] {
        let (believed, judged) = meet(&security, &trust, Some(&edge.identity())).await;
        believed.unwrap();
        let admitted: Principal =
            security.admit_certificate(&valid(judged), Role::Node, &id("edge-7")).unwrap();
        assert_eq!(admitted.name, "edge-7");
    }
    // Their authority can write our names, and gains nothing by it: only what is on record here has one.
    let pretender = ca.issue(&Leaf::node("edge-9"));
    let judged = valid(meet(&security, &ca.trusted(), Some(&pretender.identity())).await.1);
    let admitted = security.admit_certificate(&judged, Role::Node, &id("edge-9"));
    refused(admitted, Code::Unauthenticated, &["no record of edge-9"]);
    refused(security.renew(&judged, key().csr(), "test"), Code::IdTaken, &[]);
    // Tokens work beside it: whoever joins gets a certificate of ours and believes theirs.
    let token = security.create_token(&register("*"), &admin()).unwrap().token;
    let key = key();
    let made = security.enrol(&token, key.csr(), Role::Node, &id("edge-8"), "test").unwrap();
    let (believed, judged) = meet(&security, &joined(&made), Some(&identity(&made, &key))).await;
    believed.unwrap();
    security.admit_certificate(&valid(judged), Role::Node, &id("edge-8")).unwrap();

    // New files are read while it serves; files that can't be used leave those from before.
    let next = ca.issue(&Leaf { cn: vec!["hub-2".into()], ..Leaf::explorer() });
    write(&cert, "no certificate", 0o644);
    assert!(security.reload().unwrap_err().to_string().contains("cert.pem"));
    assert_eq!(security.material().identity.chain()[0], hub.chain[0]);
    write(&cert, &reachback_link::tls::certificates_to_pem(&next.chain), 0o644);
    assert!(security.reload().unwrap_err().to_string().contains("another key"));
    write(&key_path, &next.key.to_pem(), 0o600);
    security.reload().unwrap();
    assert_eq!(security.material().identity.chain()[0], next.chain[0]);
    security.keep_up().unwrap();
    assert_eq!(security.material().identity.chain()[0], next.chain[0], "theirs is not ours to renew");
}

#[test]
fn certificates_that_could_not_work_are_refused_at_the_start() {
    let (lab, ca) = (Lab::new(), Authority::new("acme"));
    let [cert, key_path] = ["cert.pem", "key.pem"].map(|name| lab.file(name));
    let files = || TlsFiles {
        cert_path: Some(cert.clone()),
        key_path: Some(key_path.clone()),
        ..TlsFiles::default()
    };
    let try_with = |leaf: &Leaf| {
        let made = ca.issue(leaf);
        write(&cert, &reachback_link::tls::certificates_to_pem(&made.chain), 0o644);
        write(&key_path, &made.key.to_pem(), 0o600);
        brought(&lab, files())
    };
    let named = |name: &str| Leaf { dns: vec![name.into()], ..Leaf::explorer() };
    assert!(
        try_with(&named("hub.example.com")).unwrap_err().contains("subjectAltName = DNS:explorer.reachback")
    );
    assert!(try_with(&Leaf::explorer().valid(-2 * SECONDS..-SECONDS)).unwrap_err().contains("it ended at"));
    try_with(&Leaf::explorer()).unwrap();
    write(&key_path, &fs::read_to_string(&key_path).unwrap(), 0o644);
    assert!(brought(&lab, files()).unwrap_err().contains("other users can read this key"));
    fs::remove_file(&key_path).unwrap();
    assert!(brought(&lab, files()).unwrap_err().contains("key.pem: can't be read"));
    let missing = TlsFiles { ca_cert_path: Some(lab.file("nowhere.pem")), ..TlsFiles::default() };
    assert!(brought(&lab, missing).unwrap_err().contains("nowhere.pem: can't be read"));
    let keyless = TlsFiles { cert_path: Some(cert), ..TlsFiles::default() };
    assert!(brought(&lab, keyless).unwrap_err().contains("key_path"));
}
