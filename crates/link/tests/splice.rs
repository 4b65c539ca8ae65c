//! What a TCP client sees through a substream: half-close, reset, loss, each as itself.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{io::ErrorKind, time::Duration};

use common::{End, open, pair, pair_with, soon};
use reachback_link::{SpliceError, Spliced, StreamEnd, Substream, relay, relay_until, splice};
use reachback_wire::{Code, EndStatus, Record, RecordKind, Refusal, limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A TCP client whose socket is spliced to `far` through a link.
struct Line {
    client: TcpStream,
    far: Substream,
    copy: JoinHandle<Spliced>,
    ends: (End, End),
}

#[allow(clippy::disallowed_methods, reason = "each test awaits or aborts the task")]
async fn line() -> Line {
    let (dialer, mut acceptor) = pair();
    let (near, far) = open(&dialer.session, &mut acceptor.incoming).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let visitor = listener.accept().await.unwrap().0;
    let copy = tokio::spawn(splice(near, visitor.into()));
    Line { client, far, copy, ends: (dialer, acceptor) }
}

async fn data(substream: &mut Substream, wanted: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < wanted {
        match substream.next().await.unwrap() {
            Record::Data(bytes) => all.extend_from_slice(&bytes),
            other => panic!("{other:?} instead of data"),
        }
    }
    all
}

#[tokio::test]
async fn a_half_close_goes_through_and_the_answer_comes_back() {
    let mut line = line().await;
    line.client.write_all(b"question").await.unwrap();
    line.client.shutdown().await.unwrap();
    assert_eq!(data(&mut line.far, 8).await, b"question");
    assert_eq!(line.far.next().await, Ok(Record::End(None)));
    let answer = vec![7; 300_000];
    line.far.send(RecordKind::Data, &answer[..150_000]).await.unwrap();
    let rest = async {
        line.far.send(RecordKind::Data, &answer[150_000..]).await.unwrap();
        line.far.finish(None).await.unwrap();
    };
    let mut received = Vec::new();
    let ((), read) = tokio::join!(rest, line.client.read_to_end(&mut received));
    read.unwrap();
    assert_eq!(received, answer);
    let copied = line.copy.await.unwrap();
    assert!(copied.end.is_ok());
    assert_eq!((copied.to_peer, copied.from_peer), (8, 300_000));
}

#[tokio::test]
async fn a_reset_by_the_peer_is_a_reset_at_the_socket_after_what_came_before() {
    let mut line = line().await;
    line.far.send(RecordKind::Data, b"part of an answer").await.unwrap();
    let mut part = [0; 17];
    line.client.read_exact(&mut part).await.unwrap();
    line.far.reset(Code::ServiceUnreachable, "it died");
    let error = line.client.read(&mut part).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let end = line.copy.await.unwrap().end.unwrap_err();
    let SpliceError::Peer(StreamEnd::Reset { code, text }) = end else { panic!("{end}") };
    assert_eq!((code, text.as_str()), (Code::ServiceUnreachable, "it died"));
}

#[tokio::test]
async fn a_lost_connection_is_a_reset_at_the_socket_even_after_half_an_answer() {
    let mut line = line().await;
    line.client.write_all(b"q").await.unwrap();
    line.client.shutdown().await.unwrap();
    data(&mut line.far, 1).await;
    line.far.send(RecordKind::Data, b"half an").await.unwrap();
    let mut part = [0; 7];
    line.client.read_exact(&mut part).await.unwrap();
    line.ends.1.driver.abort();
    let error = line.client.read(&mut part).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(matches!(line.copy.await.unwrap().end, Err(SpliceError::Peer(StreamEnd::Lost(_)))));
}

#[tokio::test]
async fn a_copy_that_is_dropped_resets_both_sides() {
    let mut line = line().await;
    line.copy.abort();
    let mut byte = [0];
    assert_eq!(line.client.read(&mut byte).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(line.far.next().await, Err(StreamEnd::Dropped));
}

#[tokio::test]
async fn a_socket_that_resets_resets_the_substream_with_a_reason() {
    let mut line = line().await;
    line.client.write_all(b"x").await.unwrap();
    data(&mut line.far, 1).await;
    line.client.set_zero_linger().unwrap();
    drop(line.client);
    let end = line.far.next().await.unwrap_err();
    let StreamEnd::Reset { code, text } = end else { panic!("{end}") };
    assert_eq!(code, Code::Reset);
    assert!(text.contains("reset by the peer"), "{text}");
    assert!(matches!(line.copy.await.unwrap().end, Err(SpliceError::Local(_))));
}

#[tokio::test]
async fn a_peer_that_finished_and_then_lets_go_ends_the_copy() {
    let mut line = line().await;
    line.far.finish(None).await.unwrap();
    let mut byte = [0];
    assert_eq!(line.client.read(&mut byte).await.unwrap(), 0, "its half-close arrives");
    drop(line.far);
    assert!(matches!(line.copy.await.unwrap().end, Err(SpliceError::Peer(StreamEnd::Dropped))));
    // The socket has had its end already, so the reset shows itself to the next write.
    line.client.writable().await.unwrap();
    assert!(line.client.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_back_the_peer_and_nobody_else() {
    let (dialer, mut acceptor) = pair();
    let (near, mut far) = open(&dialer.session, &mut acceptor.incoming).await;
    let (mut beside, mut echo) = open(&dialer.session, &mut acceptor.incoming).await;
    let (stalled, _held) = tokio::io::duplex(1024);
    let copy = std::pin::pin!(splice(near, reachback_link::Transport::boxed(stalled)));
    let sending = async {
        let piece = vec![0; 65_532];
        let mut sent = 0usize;
        while tokio::time::timeout(std::time::Duration::from_millis(300), far.send(RecordKind::Data, &piece))
            .await
            .is_ok()
        {
            sent += piece.len();
        }
        for _ in 0..50 {
            beside.send(RecordKind::Data, b"ping").await.unwrap();
            assert_eq!(data(&mut echo, 4).await, b"ping");
        }
        sent
    };
    tokio::select! {
        copied = copy => panic!("{copied:?}"),
        sent = sending => assert!(sent < 2 * 1024 * 1024, "{sent} bytes went to a reader that does not read"),
    }
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the test awaits the task")]
async fn a_relay_passes_records_and_every_kind_of_end_on() {
    for end in ["finish", "status", "reset", "drop", "lost"] {
        let (client, mut hub_client) = pair();
        let (hub_node, mut node) =
            pair_with(64 * 1024, &common::Settings::default(), &common::Settings::default());
        let (mut caller, at_hub) = open(&client.session, &mut hub_client.incoming).await;
        let (to_node, mut service) = open(&hub_node.session, &mut node.incoming).await;
        let copy = tokio::spawn(relay(at_hub, to_node));
        caller.send(RecordKind::Head, b"{}").await.unwrap();
        caller.send(RecordKind::Data, b"request").await.unwrap();
        caller.finish(None).await.unwrap();
        assert_eq!(service.next().await, Ok(Record::Head("{}".into())));
        assert_eq!(data(&mut service, 7).await, b"request");
        assert_eq!(service.next().await, Ok(Record::End(None)));
        service.send(RecordKind::Item, b"[1]").await.unwrap();
        assert_eq!(caller.next().await, Ok(Record::Item("[1]".into())));
        let status = EndStatus { code: Code::Timeout, message: "slow".into() };
        match end {
            "finish" => service.finish(None).await.unwrap(),
            "status" => service.finish(Some(status.clone())).await.unwrap(),
            "reset" => service.reset(Code::Saturated, "full"),
            "drop" => drop(service),
            _ => node.driver.abort(),
        }
        let seen = caller.next().await;
        match end {
            "finish" => assert_eq!(seen, Ok(Record::End(None))),
            "status" => assert_eq!(seen, Ok(Record::End(Some(status)))),
            "reset" => assert_eq!(seen, Err(StreamEnd::Reset { code: Code::Saturated, text: "full".into() })),
            "drop" => assert_eq!(seen, Err(StreamEnd::Dropped)),
            _ => assert!(matches!(seen, Err(StreamEnd::Reset { code: Code::Lost, .. })), "{seen:?}"),
        }
        assert_eq!(copy.await.unwrap().end.is_ok(), matches!(end, "finish" | "status"));
    }
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the test awaits the task")]
async fn a_relay_that_is_stopped_tells_both_sides_why() {
    let (client, mut hub_client) = pair();
    let (hub_node, mut node) = pair();
    let (mut caller, at_hub) = open(&client.session, &mut hub_client.incoming).await;
    let (to_node, mut service) = open(&hub_node.session, &mut node.incoming).await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let copy = tokio::spawn(relay_until(at_hub, to_node, async { stopped.await.unwrap() }));
    caller.send(RecordKind::Data, b"request").await.unwrap();
    assert_eq!(data(&mut service, 7).await, b"request");
    stop.send(Refusal::new(Code::Timeout, "too slow")).unwrap();
    let told = Err(StreamEnd::Reset { code: Code::Timeout, text: "too slow".into() });
    assert_eq!((caller.next().await, service.next().await), (told.clone(), told));
    assert!(matches!(copy.await.unwrap().end, Err(SpliceError::Stopped(_))));
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_peer_is_gone_does_not_wait_for_ever_for_a_service_that_takes_nothing() {
    for busy in [true, false] {
        let (dialer, mut acceptor) = pair();
        let (near, mut far) = open(&dialer.session, &mut acceptor.incoming).await;
        let (local, mut service) = tokio::io::duplex(1024);
        let mut copy = std::pin::pin!(splice(near, reachback_link::Transport::boxed(local)));
        // The service reads nothing; if it is busy it writes until nobody takes that either, as an echo would.
        let stuck = async {
            let much = vec![0; 1 << 20];
            far.send(RecordKind::Data, &much[..200_000]).await.unwrap();
            if busy {
                service.write_all(&much).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            copied = &mut copy => panic!("{copied:?}"),
            () = stuck => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        drop(far);
        let copied = soon("the end of the copy", &mut copy).await;
        assert!(matches!(copied.end, Err(SpliceError::Peer(StreamEnd::Dropped))), "busy {busy}: {copied:?}");
        soon("the books", common::empty(&dialer)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_reset_is_delivered_however_slowly_it_is_taken() {
    let (dialer, mut acceptor) = pair();
    let (near, mut far) = open(&dialer.session, &mut acceptor.incoming).await;
    let (local, mut service) = tokio::io::duplex(1024);
    let reading = async {
        let (mut taken, mut some) = (0, [0; 10_000]);
        loop {
            tokio::time::sleep(Duration::from_secs(20)).await;
            match service.read(&mut some).await.unwrap() {
                0 => return taken,
                n => taken += n,
            }
        }
    };
    let sending = async {
        far.send(RecordKind::Data, &[7; 100_000]).await.unwrap();
        far.reset(Code::Cancelled, "enough");
    };
    let copying = splice(near, reachback_link::Transport::boxed(local));
    let (copied, taken, ()) = tokio::join!(copying, reading, sending);
    assert_eq!((copied.from_peer, taken), (100_000, 100_000));
    assert!(matches!(copied.end, Err(SpliceError::Peer(StreamEnd::Reset { .. }))), "{copied:?}");
}

/// Waits until exactly so much is in the books, and goes on being: nothing of it is only on its way.
async fn stays(end: &End, held: usize) {
    let mut times = 0;
    let mut look = || {
        times = if end.budget.used() == held { times + 1 } else { 0 };
        (times, end.budget.used())
    };
    common::until("what stays in the books", &mut look, |(times, _)| *times == 50).await;
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the test ends the task")]
async fn what_waits_in_the_hands_of_a_copy_is_in_the_books() {
    const LARGE: usize = limits::MAX_RECORD_PAYLOAD;
    // A relay with a record for somebody who has no window left.
    let (client, mut hub_client) = pair();
    let (hub_node, mut node) = pair();
    let (mut caller, at_hub) = open(&client.session, &mut hub_client.incoming).await;
    let (to_node, service) = open(&hub_node.session, &mut node.incoming).await;
    let copy = tokio::spawn(relay(at_hub, to_node));
    // The frame of the open took a little of it, and was read.
    let window = 256 * 1024 - 256;
    // Four would fill the window of who does not read, if its open had not taken a little of it: the fourth is with the
    // relay, the fifth is unread.
    for _ in 0..5 {
        soon("sending", caller.send(RecordKind::Data, &[7; LARGE])).await.unwrap();
    }
    common::until("a full window", || node.budget.used(), |unread| *unread >= window).await;
    stays(&hub_client, 2 * limits::RECORD_MAX).await;
    copy.abort();
    drop((caller, service));
    soon("the books of the relay", common::empty(&hub_client)).await;

    // A copy that has read from its service what nobody takes.
    let (dialer, mut acceptor) = pair();
    let (near, far) = open(&dialer.session, &mut acceptor.incoming).await;
    let (local, mut service) = tokio::io::duplex(1024 * 1024);
    service.write_all(&vec![7; 512 * 1024]).await.unwrap();
    let copy = tokio::spawn(splice(near, reachback_link::Transport::boxed(local)));
    let full = common::until("a full window", || acceptor.budget.used(), |unread| *unread >= window);
    soon("the copy", full).await;
    stays(&dialer, LARGE).await;
    copy.abort();
    drop(far);
    soon("the books of the copy", common::empty(&dialer)).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_caller_is_gone_does_not_wait_for_ever_for_a_service_that_takes_nothing() {
    let (client, mut hub_client) = pair();
    let (hub_node, mut node) = pair();
    let (mut caller, at_hub) = open(&client.session, &mut hub_client.incoming).await;
    let (to_node, service) = open(&hub_node.session, &mut node.incoming).await;
    let mut copy = std::pin::pin!(relay(at_hub, to_node));
    // More than the window towards the service, so that the relay itself waits; less than that and what the relay has
    // given back of the window towards itself by then, or the caller would wait for ever.
    let sending = async {
        caller.send(RecordKind::Data, &[7; 350_000]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        copied = &mut copy => panic!("{copied:?}"),
        () = sending => {}
    }
    drop(caller);
    let copied = soon("the end of the relay", &mut copy).await;
    assert!(matches!(copied.end, Err(SpliceError::Peer(StreamEnd::Dropped))), "{copied:?}");
    soon("the books", common::empty(&hub_client)).await;
    drop(service);
}
