//! One pasted line, and what becomes of it: enrolling, coming back, renewing, and every way of being refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

#[path = "support/secure.rs"]
mod secure;
#[path = "support/mod.rs"]
mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use reachback_client::{
    Access, Client, ClientOptions, Identity, LineState, Membership, MembershipError, Profiles, Random,
    Reconnecting, login,
};
use reachback_link::{RealNet, tls::PeerCertificate};
use reachback_testkit::certificates::{HOUR, Leaf};
use reachback_wire::{Code, Credential, Refusal, Role, Secret, join::JoinString};
use secure::{SafeHub, csr, good, joins_with, leaf, renews};
use support::{Hub, Peer, node_id, within};
use tokio::sync::watch;

/// A line of `edge-7` that comes in by a membership.
struct Dialer {
    line: Reconnecting,
    states: watch::Receiver<LineState>,
    membership: Membership,
}

fn open(state: Option<&Path>, join: Option<JoinString>) -> Membership {
    Membership::open(Role::Node, node_id("edge-7"), state, join).unwrap_or_else(|error| panic!("{error}"))
}

impl Dialer {
    fn start(hub: &SafeHub, membership: Membership) -> Self {
        let mut options = ClientOptions::new(node_id("edge-7"), Random::seeded(5)).unwrap();
        options.identity = Arc::new(Identity::new(Role::Node, node_id("edge-7"), Random::seeded(5)).unwrap());
        options.access = Access::member(membership.clone());
        let line = Reconnecting::start(Arc::new(RealNet), hub.address(), options);
        let states = line.states();
        Self { line, states, membership }
    }

    /// Why it waits, once it does; and it waits no longer.
    async fn waits(&mut self) -> (Code, String) {
        let waiting = self.states.wait_for(|state| matches!(state, LineState::BackingOff { .. }));
        let state = within("a wait", waiting).await.unwrap().clone();
        self.states.mark_unchanged();
        self.line.dial_now();
        match state {
            LineState::BackingOff { code, reason, .. } => (code, reason),
            other => panic!("{other:?}"),
        }
    }
}

/// A node that has joined and left; its state is in the directory.
async fn joined(hub: &mut SafeHub, leaf: &Leaf) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let dialer = Dialer::start(hub, open(Some(directory.path()), Some(hub.join("once"))));
    let admission = hub.greeted().await;
    hub.enrol(admission, leaf).await;
    // It comes back with it at once, and so it is kept.
    let admission = hub.greeted().await;
    dialer.line.shutdown().await;
    drop(admission);
    directory
}

fn refusal(code: Code, message: &str) -> Refusal {
    Refusal::new(code, message)
}

#[tokio::test]
async fn one_line_is_exchanged_once_and_then_the_certificate_is_shown() {
    let mut hub = SafeHub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("node");
    let dialer = Dialer::start(&hub, open(Some(&state), Some(hub.join("once"))));
    let first = hub.greeted().await;
    assert_eq!(joins_with(&first).as_deref(), Some("once"));
    assert_eq!(hub.certificate(&first), PeerCertificate::None);
    hub.enrol(first, &good()).await;

    let second = hub.greeted().await;
    assert_eq!(second.hello.credential, None, "the token is shown once");
    let PeerCertificate::Valid(names) = hub.certificate(&second) else { panic!("no certificate") };
    assert_eq!(names.uris, ["reachback:node/edge-7"]);
    assert_eq!(dialer.membership.not_after_unix_ms(), Some(names.not_after_unix_ms));
    assert_eq!(dialer.membership.warning(), None);
    dialer.line.shutdown().await;
    drop(second);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&state), 0o700);
    for file in fs::read_dir(&state).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    // Kept, it wins over the join string, which may stay where it is; and it needs none.
    for join in [Some(hub.join("once")), None] {
        let membership = open(Some(&state), join);
        assert_eq!(membership.explorers().unwrap(), [hub.address()]);
        let dialer = Dialer::start(&hub, membership);
        let again = hub.greeted().await;
        let PeerCertificate::Valid(shown) = hub.certificate(&again) else { panic!("no certificate") };
        assert_eq!((again.hello.credential.as_ref(), shown), (None, names.clone()));
        dialer.line.shutdown().await;
        drop(again);
    }
}

#[tokio::test]
async fn an_explorer_with_another_authority_is_told_nothing() {
    let mut hub = SafeHub::bind().await;
    let join = hub.join("secret-token");
    hub.set_up_anew();
    let mut dialer = Dialer::start(&hub, open(None, Some(join)));
    let outcome = hub.handshake().await;
    assert!(outcome.is_err(), "it came to a hello: {outcome:?}");
    let (_, reason) = dialer.waits().await;
    assert!(reason.contains("another authority") && reason.contains("join"), "{reason}");
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &good()).await;
    let file = directory.path().join("identity.pem");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused =
        Membership::open(Role::Node, node_id("edge-7"), Some(directory.path()), Some(hub.join("new")));
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("identity.pem") && error.contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn what_is_kept_is_somebody_s_and_something_is_needed() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &good()).await;
    let open = |role, id, join| Membership::open(role, node_id(id), Some(directory.path()), join);
    for (role, id) in [(Role::Node, "edge-8"), (Role::Client, "edge-7")] {
        let error = open(role, id, Some(hub.join("new"))).unwrap_err();
        assert!(matches!(error, MembershipError::Other { .. }), "{error}");
    }
    let nothing = Membership::open(Role::Node, node_id("edge-7"), None, None).unwrap_err().to_string();
    assert!(nothing.contains("join string") && nothing.contains("--node edge-7"), "{nothing}");
    for file in ["ca.pem", "enrolment.json", "identity.pem"] {
        let path = directory.path().join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, b"garbage").unwrap();
        let error = open(Role::Node, "edge-7", None).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("enrol again"), "{error}");
        fs::write(&path, whole).unwrap();
    }
    open(Role::Node, "edge-7", None).unwrap();
}

#[tokio::test]
async fn a_certificate_that_has_expired_does_one_thing_it_renews() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &leaf(-2 * HOUR..-HOUR)).await;
    let _dialer = Dialer::start(&hub, open(Some(directory.path()), None));
    let admission = hub.greeted().await;
    assert!(matches!(hub.certificate(&admission), PeerCertificate::Expired(_)));
    assert!(renews(&admission));
    hub.enrol(admission, &good()).await;
    let admission = hub.greeted().await;
    assert_eq!(admission.hello.credential, None);
    assert!(matches!(hub.certificate(&admission), PeerCertificate::Valid(_)));
}

#[tokio::test]
async fn the_explorers_word_that_it_has_expired_counts_too() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &good()).await;
    let mut dialer = Dialer::start(&hub, open(Some(directory.path()), Some(hub.join("again"))));
    hub.deny(refusal(Code::Expired, "your certificate ended yesterday")).await;
    assert_eq!(dialer.waits().await.0, Code::Expired);
    let admission = hub.greeted().await;
    assert!(renews(&admission), "{:?}", admission.hello.credential);
    let renewed = csr(&admission);
    // It is too old even for that: then the join string, which is still there, has to do.
    admission.deny(&refusal(Code::Expired, "it ended more than a year ago")).await;
    dialer.waits().await;
    let admission = hub.greeted().await;
    assert_eq!(joins_with(&admission).as_deref(), Some("again"));
    assert_eq!(csr(&admission), renewed, "an id belongs to one key");
}

#[tokio::test]
async fn whoever_is_refused_waits_says_what_to_do_and_comes_in_when_it_is_done() {
    for (code, message, remedy) in [
        (Code::Revoked, "edge-7 was revoked by ann", "reachback release edge-7"),
        (Code::IdTaken, "the id edge-7 belongs to another key", "reachback release edge-7"),
        (
            Code::Unauthenticated,
            "this certificate is unknown here",
            "reachback token create --role register --node edge-7",
        ),
        (Code::Revoked, "revoked; run: reachback unrevoke", "reachback unrevoke"),
    ] {
        let mut hub = SafeHub::bind().await;
        let directory = joined(&mut hub, &good()).await;
        let mut dialer = Dialer::start(&hub, open(Some(directory.path()), None));
        for _ in 0..2 {
            hub.deny(refusal(code, message)).await;
            let (told, reason) = dialer.waits().await;
            assert_eq!(told, code);
            assert!(reason.starts_with(message) && reason.contains(remedy), "{reason}");
            assert!(!message.contains("reachback ") || reason == message, "{reason}");
        }
        hub.admit().await;
    }
}

#[tokio::test]
async fn who_was_revoked_never_joins_again_by_itself() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &good()).await;
    let mut dialer = Dialer::start(&hub, open(Some(directory.path()), Some(hub.join("once"))));
    for _ in 0..4 {
        let admission = hub.greeted().await;
        assert_eq!(admission.hello.credential, None);
        admission.deny(&refusal(Code::Revoked, "revoked")).await;
        dialer.waits().await;
    }
}

#[tokio::test]
async fn who_was_revoked_and_is_given_a_new_join_string_uses_it() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &good()).await;
    // It came from this one, also after a renewal.
    let mut dialer = Dialer::start(&hub, open(Some(directory.path()), Some(hub.join("once"))));
    hub.deny(refusal(Code::Expired, "ended")).await;
    dialer.waits().await;
    let admission = hub.greeted().await;
    assert!(renews(&admission));
    hub.enrol(admission, &good()).await;
    hub.admit().await;
    dialer.waits().await;
    hub.deny(refusal(Code::Revoked, "revoked")).await;
    dialer.waits().await;
    let admission = hub.greeted().await;
    assert_eq!(admission.hello.credential, None);
    dialer.line.shutdown().await;
    drop(admission);

    let mut dialer = Dialer::start(&hub, open(Some(directory.path()), Some(hub.join("another"))));
    hub.deny(refusal(Code::Revoked, "revoked")).await;
    dialer.waits().await;
    let admission = hub.greeted().await;
    assert_eq!(joins_with(&admission).as_deref(), Some("another"));
    hub.enrol(admission, &good()).await;
    assert_eq!(hub.greeted().await.hello.credential, None);
}

#[tokio::test]
async fn a_forgotten_name_is_joined_again_once() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &good()).await;
    let mut dialer = Dialer::start(&hub, open(Some(directory.path()), Some(hub.join("ephemeral"))));
    hub.deny(refusal(Code::Unauthenticated, "nobody knows edge-7 any more")).await;
    dialer.waits().await;
    let admission = hub.greeted().await;
    assert_eq!(joins_with(&admission).as_deref(), Some("ephemeral"));
    hub.enrol(admission, &good()).await;
    // If the new one is not known either, a third won't be: a token is not used up by trying.
    for _ in 0..3 {
        let admission = hub.greeted().await;
        assert_eq!(admission.hello.credential, None);
        admission.deny(&refusal(Code::Unauthenticated, "still not")).await;
        dialer.waits().await;
    }
}

#[tokio::test]
async fn a_new_join_string_leads_to_an_explorer_that_was_set_up_anew() {
    let mut hub = SafeHub::bind().await;
    let old = hub.join("old");
    let directory = joined(&mut hub, &good()).await;
    hub.set_up_anew();
    // The old one leads nowhere, and nothing is said to whoever answers there.
    let mut dialer = Dialer::start(&hub, open(Some(directory.path()), Some(old)));
    for _ in 0..3 {
        assert!(hub.handshake().await.is_err());
        dialer.waits().await;
    }
    dialer.line.shutdown().await;

    let mut dialer = Dialer::start(&hub, open(Some(directory.path()), Some(hub.join("new"))));
    assert!(hub.handshake().await.is_err());
    dialer.waits().await;
    let admission = hub.greeted().await;
    assert_eq!(joins_with(&admission).as_deref(), Some("new"));
    hub.enrol(admission, &good()).await;
    let admission = hub.greeted().await;
    assert!(matches!(hub.certificate(&admission), PeerCertificate::Valid(_)));
}

#[tokio::test]
async fn without_a_disk_memory_has_to_do() {
    let mut hub = SafeHub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let nowhere = file.join("state");
    for state in [None, Some(nowhere.as_path())] {
        let membership = open(state, Some(hub.join("ephemeral")));
        // Said before the token is used up.
        let warning = membership.warning();
        assert_eq!(warning.is_some(), state.is_some());
        assert!(
            warning.is_none_or(
                |warning| warning.contains("held in memory") && warning.contains("--uses unlimited")
            )
        );
        let dialer = Dialer::start(&hub, membership);
        let admission = hub.greeted().await;
        hub.enrol(admission, &good()).await;
        let admission = hub.greeted().await;
        assert!(matches!(hub.certificate(&admission), PeerCertificate::Valid(_)));
        dialer.line.shutdown().await;
    }
}

#[tokio::test]
async fn a_client_renews_early_and_comes_in_all_the_same_if_that_fails() {
    let mut hub = SafeHub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(directory.path());
    let leaf = Leaf { uris: vec!["reachback:user/ann".into()], ..leaf(-HOUR..HOUR) };
    let join = hub.join("for-ann");
    let logging_in = login(Arc::new(RealNet), join, node_id("laptop"), Random::seeded(1), &profiles, None);
    let answering = async {
        let admission = hub.greeted().await;
        assert_eq!((admission.hello.role, admission.hello.id.as_str()), (Role::Client, "laptop"));
        hub.enrol(admission, &leaf).await;
    };
    let (profile, ()) = tokio::join!(logging_in, answering);
    let profile = profile.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((profile.name(), profile.user()), ("127.0.0.1", "ann"));
    assert_eq!(profile.explorers(), [hub.address()]);
    assert_eq!(profiles.current().unwrap().unwrap().name(), "127.0.0.1");
    assert!(profile.not_after_unix_ms() > hub.hub.welcome.time_unix_ms);

    // Half of its life is over.
    let about = directory.path().join("127.0.0.1").join("enrolment.json");
    let text = fs::read_to_string(&about).unwrap();
    let (begin, end) = text.split_once("\"obtained_unix_ms\": ").unwrap();
    let rest = &end[end.find(|c: char| !c.is_ascii_digit()).unwrap()..];
    fs::write(&about, format!("{begin}\"obtained_unix_ms\": 1{rest}")).unwrap();
    let mut options = ClientOptions::new(node_id("laptop"), Random::seeded(5)).unwrap();
    options.access = profiles.get("127.0.0.1").unwrap().access();
    let address = hub.address();
    let connecting = Client::connect(Arc::new(RealNet), &address, options);
    let answering = async {
        let admission = hub.greeted().await;
        assert!(renews(&admission));
        admission.deny(&refusal(Code::Saturated, "not now")).await;
        let admission = hub.greeted().await;
        assert_eq!(admission.hello.credential, None, "at once, with what it has");
        assert!(matches!(hub.certificate(&admission), PeerCertificate::Valid(_)));
        Peer::new(admission, &hub.hub.welcome).await
    };
    let (client, _peer) = tokio::join!(connecting, answering);
    client.unwrap();
}

#[tokio::test]
async fn logging_in_again_asks_for_the_same_key_and_who_is_refused_leaves_nothing() {
    let mut hub = SafeHub::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let profiles = Profiles::at(directory.path());
    let mut keys = Vec::new();
    for answer in [Some(refusal(Code::Expired, "this token ended")), None, None] {
        let join = hub.join("for-ann");
        let random = Random::seeded(1);
        let logging_in = login(Arc::new(RealNet), join, node_id("laptop"), random, &profiles, Some("work"));
        let answering = async {
            let admission = hub.greeted().await;
            let csr = csr(&admission);
            match &answer {
                Some(refusal) => admission.deny(refusal).await,
                None => drop(hub.enrol(admission, &good()).await),
            }
            csr
        };
        let (profile, csr) = tokio::join!(logging_in, answering);
        match &answer {
            Some(_) => {
                let error = profile.unwrap_err().to_string();
                assert!(error.contains("this token ended") && error.contains("--role user"), "{error}");
                assert!(profiles.current().unwrap().is_none());
            }
            None => {
                profile.unwrap();
                keys.push(csr);
            }
        }
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(profiles.list().unwrap(), ["work"]);
    assert_eq!(profiles.current().unwrap().unwrap().name(), "work");
    // Logged out.
    fs::remove_dir_all(directory.path().join("work")).unwrap();
    assert!(profiles.current().unwrap().is_none());
}

#[tokio::test]
async fn the_time_that_explorers_tell_is_kept_unless_it_makes_no_sense() {
    let mut hub = SafeHub::bind().await;
    let directory = joined(&mut hub, &good()).await;
    let now = hub.hub.welcome.time_unix_ms;
    let (later, nonsense) = (now + 1_800_000, now + 365 * 24 * 3_600_000);
    for (told, known) in [(later, later), (nonsense, later), (later - 1, later)] {
        hub.hub.welcome.time_unix_ms = told;
        let membership = open(Some(directory.path()), None);
        let dialer = Dialer::start(&hub, membership.clone());
        let _peer = hub.admit().await;
        let mut states = dialer.line.states();
        let stands = states.wait_for(|state| matches!(state, LineState::Serving { .. }));
        within("a session", stands).await.unwrap();
        assert!(membership.clock().now_unix_ms() >= known, "told {told}");
        dialer.line.shutdown().await;
        // After a restart.
        assert_eq!(open(Some(directory.path()), None).clock().now_unix_ms(), known, "told {told}");
    }
}

#[tokio::test]
async fn a_token_is_shown_to_whom_it_may_be_and_a_secret_to_nobody() {
    let mut options = ClientOptions::new(node_id("ci"), Random::seeded(5)).unwrap();
    options.access = Access::token(Secret::new("t0ken"), None).unwrap();
    let far = "hub.example.com:9002".parse().unwrap();
    let refused = Client::connect(Arc::new(RealNet), &far, options.clone()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Code::TlsRequired);
    assert!(error.to_string().contains("--ca-file"), "{error}");

    // On this machine it is shown in plaintext, to others over TLS alone.
    let mut plain = Hub::bind().await;
    let near = plain.address();
    let line = Reconnecting::start(Arc::new(RealNet), near, options.clone());
    let shown = |credential: &Option<Credential>| match credential {
        Some(Credential::Token { token }) => token.expose() == "t0ken",
        other => panic!("{other:?}"),
    };
    assert!(shown(&plain.greeted().await.hello.credential));
    line.shutdown().await;

    let mut hub = SafeHub::bind().await;
    options.access = Access::token(Secret::new("t0ken"), Some(&hub.authority.trusted())).unwrap();
    let line = Reconnecting::start(Arc::new(RealNet), hub.address(), options.clone());
    assert!(shown(&hub.greeted().await.hello.credential));
    line.shutdown().await;

    options.access = Access::plain();
    // Its file has been read again: the next dial shows the new one.
    let line = Reconnecting::start(Arc::new(RealNet), plain.address(), options.clone());
    let old = plain.greeted().await;
    assert!(old.hello.credential.is_none());
    options.access.replace(&Access::secret(Secret::new("hunter2"), None).unwrap());
    drop(old);
    let admission = plain.greeted().await;
    assert_eq!(admission.hello.credential, Some(Credential::Secret { key: None }));
    within("the proof", admission.challenge(&Secret::new("hunter2"))).await.unwrap();
    line.shutdown().await;
}
