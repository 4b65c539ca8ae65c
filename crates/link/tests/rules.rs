//! What an operator may change about a session, and what no peer may: each value moves something that can be seen.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{
    Settings, end,
    raw::{DATA, RawPeer, data},
    soon,
};
use reachback_link::{Pulse, SessionRules, Side, Transport};
use reachback_wire::{
    Code, ControlMessage, FrameDecoder, Stage,
    control::{Health, Heartbeat},
    limits,
};
use tokio::{net::TcpStream, time::Instant};

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_kept_as_long_as_the_rules_say() {
    for (io_timeout, expected) in [(None, 20), (Some(30), 30), (Some(120), 120), (Some(5), 20)] {
        let rules =
            SessionRules { io_timeout: io_timeout.map(Duration::from_secs), ..SessionRules::default() };
        let (near, far) = Transport::memory_pair(64 * 1024);
        let ours = end(far, Side::Acceptor, &Settings { rules, ..Settings::default() });
        let mut peer = RawPeer::new(near, Side::Dialer);
        peer.control().await;
        let begun = Instant::now();
        let ended = ours.session.ended().await;
        assert_eq!(begun.elapsed().as_secs(), expected, "{io_timeout:?}: {ended}");
        assert_eq!(ended.message, format!("no heartbeat for {expected} s"));
        assert_eq!(ended.code, Code::Lost);
        drop(peer);
    }
}

/// Options belong to the socket, whichever descriptor asks.
async fn options_of(rules: SessionRules) -> (bool, u64, u64, u64) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let twin = near.try_clone().unwrap();
    near.set_nonblocking(true).unwrap();
    let transport = Transport::from(TcpStream::from_std(near).unwrap());
    transport.tune_for_tunnel();
    let ours = end(transport, Side::Dialer, &Settings { rules, ..Settings::default() });
    let socket = socket2::SockRef::from(&twin);
    let options = (
        socket.keepalive().unwrap(),
        socket.tcp_keepalive_time().unwrap().as_secs(),
        socket.tcp_keepalive_interval().unwrap().as_secs(),
        socket.tcp_user_timeout().unwrap().unwrap_or_default().as_secs(),
    );
    drop(ours);
    options
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_watches_over_the_connection_as_the_rules_say() {
    let rules = |keepalive: Option<u64>, io_timeout: Option<u64>| SessionRules {
        keepalive: keepalive.map(Duration::from_secs),
        io_timeout: io_timeout.map(Duration::from_secs),
    };
    assert_eq!(options_of(SessionRules::default()).await, (true, 15, 5, 30));
    assert_eq!(options_of(rules(Some(30), None)).await, (true, 30, 10, 30));
    assert_eq!(options_of(rules(Some(1), None)).await, (true, 1, 1, 30));
    assert!(!options_of(rules(None, None)).await.0);
    // The kernel never gives up before we do.
    assert_eq!(options_of(rules(Some(15), Some(120))).await, (true, 15, 5, 180));
}

/// Says this on control, again and again; whether the session lived through it.
async fn say(message: &ControlMessage, times: u32, every: Duration) -> Option<Code> {
    let (near, far) = Transport::memory_pair(64 * 1024);
    let mut ours = end(far, Side::Acceptor, &Settings::default());
    let mut peer = RawPeer::new(near, Side::Dialer);
    peer.control().await;
    let frame = data(0, 1, &message.encode());
    let saying = async {
        let mut answers = FrameDecoder::new(Stage::Control);
        for _ in 0..times {
            if !peer.send(&frame).await {
                break;
            }
            tokio::time::sleep(every).await;
            // What it is answered is read, or its window would hold it back.
            while let Ok(Some(frame)) = tokio::time::timeout(Duration::ZERO, peer.recv()).await {
                if frame.kind == DATA && frame.stream == 1 {
                    answers.push(frame.body.into());
                    while let Some(answer) = answers.next().unwrap() {
                        // Our own heartbeats are answered, as by any healthy peer.
                        if let Ok(ControlMessage::Heartbeat(beat)) = ControlMessage::from_frame(&answer) {
                            let ack =
                                ControlMessage::HeartbeatAck(reachback_wire::HeartbeatAck { seq: beat.seq });
                            peer.send(&data(0, 1, &ack.encode())).await;
                        }
                    }
                }
            }
        }
        // On this clock everything that can be done is done first.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let listening = async { while ours.control.next().await.is_some() {} };
    tokio::select! {
        () = saying => {}
        () = listening => {}
    }
    ours.session.end().map(|end| end.code)
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_floods_control_loses_its_session_and_a_busy_one_does_not() {
    let heartbeat = ControlMessage::Heartbeat(Heartbeat { seq: 1, sent_ms: 0 });
    let health = ControlMessage::Health(Health { services: Default::default() });
    for message in [heartbeat, health] {
        let over = limits::CONTROL_FRAMES_BURST + 20;
        assert_eq!(
            soon("a flood", say(&message, over, Duration::ZERO)).await,
            Some(Code::RateLimited),
            "{message:?}"
        );
        // Twice as many, at the rate that is allowed.
        let busy = say(&message, 2 * over, limits::CONTROL_FRAMES_EVERY);
        assert_eq!(busy.await, None, "{message:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_longer_for_a_silent_peer_says_that_it_is_late() {
    let rules = SessionRules { io_timeout: Some(Duration::from_secs(120)), ..SessionRules::default() };
    let (near, far) = Transport::memory_pair(64 * 1024);
    let ours = end(far, Side::Acceptor, &Settings { rules, ..Settings::default() });
    let mut peer = RawPeer::new(near, Side::Dialer);
    peer.control().await;
    let mut pulse = ours.session.pulse();
    pulse.wait_for(|pulse| *pulse == Pulse::Late).await.unwrap();
    assert_eq!(ours.session.end(), None);
    drop(peer);
}
