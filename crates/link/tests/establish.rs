//! Handshakes over real pipes: welcome, denial, and everything that is no handshake.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{io, time::Duration};

use common::tls::{OnePipe, hello, welcome};
use futures::future::BoxFuture;
use reachback_link::{
    Address, DialError, DialSecurity, GreetError, ListenAddress, Listener, Net, Side, Transport, dial, greet,
};
use reachback_wire::{Code, ProtocolRange, Refusal, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn pipe() -> (OnePipe, Transport) {
    OnePipe::new()
}

const PLAIN: DialSecurity = DialSecurity::Plain;

const VERSIONS: ProtocolRange = ProtocolRange { min: 1, max: 1 };

fn address() -> Address {
    "hub:9002".parse().unwrap()
}

#[tokio::test]
async fn both_ends_know_each_other_and_the_next_byte_is_the_muxes() {
    let (net, far) = pipe();
    let to = address();
    let said = hello();
    let (dialled, greeted) = tokio::join!(dial(&net, &to, &said, &PLAIN), async {
        let admission = greet(far, VERSIONS).await.unwrap();
        assert_eq!((&admission.hello, admission.version), (&hello(), 1));
        admission.welcome(&welcome()).await.unwrap()
    });
    let (mut dialled, mut greeted) = (dialled.unwrap(), greeted);
    assert_eq!((dialled.side, greeted.side), (Side::Dialer, Side::Acceptor));
    assert_eq!(dialled.welcome, welcome());
    dialled.transport.write_all(b"mux").await.unwrap();
    let mut next = [0; 3];
    greeted.transport.read_exact(&mut next).await.unwrap();
    assert_eq!(&next, b"mux");
}

#[tokio::test]
async fn a_denial_arrives_with_its_wait() {
    let (net, far) = pipe();
    let refusal =
        Refusal::new(Code::Replaced, "another one has the name").retry_after(Duration::from_secs(60));
    let (to, said) = (address(), hello());
    let (dialled, ()) = tokio::join!(dial(&net, &to, &said, &PLAIN), async {
        greet(far, VERSIONS).await.unwrap().deny(&refusal).await;
    });
    let DialError::Denied(denied) = dialled.unwrap_err() else { panic!() };
    assert_eq!((denied.clone(), denied.retry_after_ms), (refusal, Some(60_000)));
}

#[tokio::test]
async fn a_version_from_the_future_is_denied_naming_both() {
    let (net, far) = pipe();
    let mut said = hello();
    said.protocol = ProtocolRange { min: 7, max: 9 };
    let to = address();
    let (dialled, greeted) = tokio::join!(dial(&net, &to, &said, &PLAIN), greet(far, VERSIONS));
    let GreetError::Denied(refusal) = greeted.unwrap_err() else { panic!() };
    let DialError::Denied(denied) = dialled.unwrap_err() else { panic!() };
    assert_eq!((refusal.code, denied.code), (Code::VersionMismatch, Code::VersionMismatch));
    assert!(denied.message.contains('7') && denied.message.contains('1'), "{}", denied.message);
}

#[tokio::test]
async fn what_is_no_hello_is_denied_in_our_frame_and_closed() {
    let four_gib = [&b"RBK\x01\x01\xff\xff\xff\xff"[..], b"{"].concat();
    let bad_utf8 = [&b"RBK\x01\x01\0\0\0\x02"[..], &[0xff, 0xfe]].concat();
    let bad_json = b"RBK\x01\x01\0\0\0\x02{{".to_vec();
    for (name, bytes) in [
        ("a 4 GiB length", four_gib),
        ("wrong magic", b"GARBAGE\0\0".to_vec()),
        ("invalid UTF-8", bad_utf8),
        ("invalid JSON", bad_json),
        ("another frame", b"RBK\x01\x20\0\0\0\x02{}".to_vec()),
    ] {
        let (mut near, far) = Transport::memory_pair(64 * 1024);
        let (answer, greeted) = tokio::join!(
            async {
                near.write_all(&bytes).await.unwrap();
                near.shutdown().await.unwrap();
                let mut answer = Vec::new();
                near.read_to_end(&mut answer).await.unwrap();
                answer
            },
            greet(far, VERSIONS)
        );
        let GreetError::Denied(refusal) = greeted.unwrap_err() else { panic!("{name}") };
        assert!(
            matches!(refusal.code, Code::BadFrame | Code::TooLarge | Code::HandshakeFailed),
            "{name}: {:?}",
            refusal.code
        );
        assert!(answer.starts_with(b"RBK\x01\x05"), "{name}: {answer:?}");
        assert!(String::from_utf8_lossy(&answer).contains(refusal.code.name()), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_one_deadline_however_it_drips() {
    let (mut near, far) = Transport::memory_pair(64 * 1024);
    let begun = tokio::time::Instant::now();
    let drip = async {
        for byte in b"RBK\x01\x01\0\0\x10\0".iter().chain(std::iter::repeat(&b' ')) {
            if near.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = drip => panic!("the pipe closed first"),
        greeted = greet(far, VERSIONS) => assert!(matches!(greeted, Err(GreetError::Timeout))),
    }
    assert_eq!(begun.elapsed(), limits::HANDSHAKE_TIMEOUT);
}

#[tokio::test]
async fn a_socket_of_another_user_is_denied_and_not_taken_for_absent() {
    struct Locked;
    impl Net for Locked {
        fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Transport>> {
            Box::pin(async { Err(io::ErrorKind::PermissionDenied.into()) })
        }

        fn listen<'a>(&'a self, _: &'a ListenAddress) -> BoxFuture<'a, io::Result<Listener>> {
            Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
        }
    }
    let error = dial(&Locked, &"unix:///run/x.sock".parse().unwrap(), &hello(), &PLAIN).await.unwrap_err();
    assert_eq!(error.code(), Code::Denied);
    assert!(error.to_string().contains("run it as the explorer's user"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn dialing_something_silent_or_foreign_says_so() {
    let to = address();
    let (net, _silent) = pipe();
    let begun = tokio::time::Instant::now();
    assert!(matches!(dial(&net, &to, &hello(), &PLAIN).await, Err(DialError::Timeout { .. })));
    assert_eq!(begun.elapsed(), limits::HANDSHAKE_TIMEOUT);

    let (net, mut far) = pipe();
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = dial(&net, &to, &hello(), &PLAIN).await.unwrap_err();
    assert!(matches!(error, DialError::NotReachback { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "hub:9002 does not speak the Reachback protocol (the first bytes it sent are \"HTTP\"); check the address and \
         the port"
    );

    let (net, far) = pipe();
    drop(far);
    let error = dial(&net, &to, &hello(), &PLAIN).await.unwrap_err();
    assert!(matches!(error, DialError::Broken { .. }), "{error}");
    assert!(!error.to_string().contains("end of file"), "{error}");

    let nobody = OnePipe::nobody();
    let error = dial(&nobody, &to, &hello(), &PLAIN).await.unwrap_err();
    assert_eq!(error.code(), Code::PeerUnreachable);
}
