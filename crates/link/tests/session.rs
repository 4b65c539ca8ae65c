//! A session from both sides: opens, records, refusals, control, goodbye.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    io, pin::Pin, sync::Arc, sync::atomic::Ordering, task::Context, task::Poll, task::Waker, time::Duration,
};

use bytes::Bytes;
use common::{
    Settings, empty, end, open, pair, pair_with, raw::DATA, raw::PING, raw::RawPeer, raw::SYN, raw::header,
    soon, tcp_pair, to, until,
};
use futures::FutureExt;
use parking_lot::Mutex;
use reachback_link::{InboundError, OpenError, Pulse, Side, StreamEnd, Transport};
use reachback_wire::{
    Code, ControlMessage, FrameDecoder, Record, RecordKind, Refusal, Replaced, Stage, limits,
};
use tokio::{
    io::AsyncRead, io::AsyncReadExt, io::AsyncWrite, io::AsyncWriteExt, io::DuplexStream, io::ReadBuf,
    task::JoinSet, time::Instant,
};

#[tokio::test]
async fn a_substream_carries_bytes_both_ways_and_ends_in_order() {
    for opener_is_dialer in [true, false] {
        let (mut dialer, mut acceptor) = tcp_pair().await;
        let (near, far) =
            if opener_is_dialer { (&mut dialer, &mut acceptor) } else { (&mut acceptor, &mut dialer) };
        let (mut a, mut b) = open(&near.session, &mut far.incoming).await;
        a.send(RecordKind::Data, b"hello").await.unwrap();
        assert_eq!(b.next().await, Ok(Record::Data("hello".into())));
        a.finish(None).await.unwrap();
        assert_eq!(b.next().await, Ok(Record::End(None)));
        b.send(RecordKind::Data, b"late answer").await.unwrap();
        b.finish(None).await.unwrap();
        assert_eq!(a.next().await, Ok(Record::Data("late answer".into())));
        assert_eq!(a.next().await, Ok(Record::End(None)));
        assert_eq!(a.next().await, Err(StreamEnd::Finished));
        drop((a, b));
        for (end, opened, accepted) in [(&*near, 1, 0), (&*far, 0, 1)] {
            let counted: Vec<_> = end.stats.snapshot();
            let of = |name| counted.iter().find(|(counter, _)| *counter == name).unwrap().1;
            assert_eq!((of("substreams_opened"), of("substreams_accepted")), (opened, accepted));
            assert_eq!((of("substreams_reset"), of("substreams_lost")), (0, 0));
        }
    }
}

#[tokio::test]
async fn ten_megabytes_each_way_arrive_unchanged() {
    let (dialer, mut acceptor) = pair();
    let (a, b) = open(&dialer.session, &mut acceptor.incoming).await;
    let sent: Vec<u8> = (0..10_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let copy = |io| {
        let sent = &sent;
        async move {
            let (mut reader, mut writer) = tokio::io::split(io);
            let mut received = Vec::new();
            let (wrote, read) = tokio::join!(
                async {
                    writer.write_all(sent).await.unwrap();
                    writer.shutdown().await
                },
                reader.read_to_end(&mut received)
            );
            wrote.unwrap();
            read.unwrap();
            assert!(received == *sent);
        }
    };
    tokio::join!(copy(a.into_io()), copy(b.into_io()));
}

#[tokio::test]
async fn a_refusal_reaches_the_opener_with_code_and_sentence() {
    let (dialer, mut acceptor) = pair();
    let refusal = Refusal::new(Code::ServiceUnreachable, "nobody listens on 127.0.0.1:22");
    let (opened, answered) = tokio::join!(dialer.session.open(to("ssh")), async {
        let mut inbound = acceptor.incoming.next().await.unwrap();
        let open = inbound.open().await.unwrap();
        assert_eq!(open.target.unwrap().to_string(), "n/ssh");
        inbound.answer(async { Err::<(), _>(refusal.clone()) }).await
    });
    assert_eq!(opened.unwrap_err(), OpenError::Refused(refusal.clone()));
    assert_eq!(answered.unwrap_err(), InboundError::Refused(refusal));
}

#[tokio::test(start_paused = true)]
async fn an_open_that_nobody_answers_times_out() {
    let (dialer, acceptor) = pair();
    let begun = tokio::time::Instant::now();
    let open = to("s").within(Duration::from_secs(3));
    assert_eq!(dialer.session.open(open).await.unwrap_err(), OpenError::Timeout);
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
    drop(acceptor);
}

#[tokio::test]
async fn early_bytes_come_first_and_too_many_are_refused() {
    let (dialer, mut acceptor) = pair();
    let (mut a, mut b) = open(&dialer.session, &mut acceptor.incoming).await;
    a.send(RecordKind::Data, b"x").await.unwrap();
    assert_eq!(b.next().await, Ok(Record::Data("x".into())));
}

#[tokio::test]
async fn control_messages_arrive_in_order_and_a_goodbye_says_why() {
    let (dialer, mut acceptor) = pair();
    for n in 0..100 {
        let message = ControlMessage::Replaced(Replaced { message: n.to_string() });
        let (sent, received) =
            tokio::join!(dialer.session.send_control(message.clone()), acceptor.control.next());
        sent.unwrap();
        assert_eq!(received, Some(message));
    }
    dialer.session.close(Code::Cancelled, "going home");
    let end = acceptor.session.ended().await;
    assert_eq!((end.code, end.message.as_str()), (Code::Lost, "closed by the peer: going home"));
    assert_eq!(dialer.session.ended().await.message, "going home");
    assert_eq!(acceptor.control.next().await, None);
    assert!(acceptor.incoming.next().await.is_none());
    assert!(matches!(dialer.session.open(to("s")).await, Err(OpenError::Ended(_))));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_answered_without_the_owner() {
    let (dialer, acceptor) = pair();
    for end in [&dialer, &acceptor] {
        let mut pulse = end.session.pulse();
        pulse.wait_for(|pulse| *pulse == Pulse::Live).await.unwrap();
        assert!(end.session.rtt().is_some());
        assert!(end.session.answers(Duration::from_secs(1)).await);
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((dialer.session.end(), acceptor.session.end()), (None, None));
    assert_eq!(*dialer.session.pulse().borrow(), Pulse::Live);
}

#[tokio::test]
async fn what_was_under_way_when_the_session_ends_is_lost() {
    let (dialer, mut acceptor) = pair();
    let (mut a, b) = open(&dialer.session, &mut acceptor.incoming).await;
    acceptor.driver.abort();
    assert!(matches!(a.next().await, Err(StreamEnd::Lost(_))));
    assert!(matches!(a.send(RecordKind::Data, b"x").await, Err(StreamEnd::Lost(_))));
    drop(b);
}

#[tokio::test]
async fn last_words_are_sent_by_whoever_reads_next() {
    let (dialer, mut acceptor) = pair();
    let (a, mut b) = open(&dialer.session, &mut acceptor.incoming).await;
    let mut io = a.into_io();
    // More than the window takes: the last record stays half sent.
    let words = vec![7; 300_000];
    let write = async {
        let mut left = &words[..];
        while !left.is_empty() {
            let n = io.write(left).await.unwrap();
            left = &left[n..];
            if words.len() - left.len() >= 262_144 {
                break;
            }
        }
        let sent = words.len() - left.len();
        let mut answer = [0; 2];
        io.read_exact(&mut answer).await.unwrap();
        (sent, answer)
    };
    let read = async {
        let mut received = 0;
        while received < 262_144 {
            match b.next().await.unwrap() {
                Record::Data(bytes) => received += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
        b.send(RecordKind::Data, b"ok").await.unwrap();
    };
    let ((sent, answer), ()) = tokio::join!(write, read);
    assert!(sent >= 262_144);
    assert_eq!(&answer, b"ok");
}

#[tokio::test(start_paused = true)]
async fn a_substream_that_ends_in_a_burst_gives_its_permit_back() {
    let one = Settings { max_open: 1, ..Settings::default() };
    let (mut dialer, mut acceptor) = pair_with(64 * 1024, &one, &one);
    for dialer_opens in [true, false] {
        let (near, far) =
            if dialer_opens { (&mut dialer, &mut acceptor) } else { (&mut acceptor, &mut dialer) };
        for _ in 0..2 {
            let opening = open(&near.session, &mut far.incoming);
            let (mut ours, mut theirs) = soon("a permit", opening).await;
            theirs.finish(None).await.unwrap();
            assert_eq!(ours.next().await, Ok(Record::End(None)));
            // As much as the mux queues for one stream, so that its own end finds no room behind it.
            for _ in 0..10 {
                ours.send(RecordKind::Data, b"x").now_or_never().unwrap().unwrap();
            }
            ours.finish(None).now_or_never().unwrap().unwrap();
            drop(ours);
            let (read, end) = common::read_all(&mut theirs).await;
            assert_eq!((read.len(), end), (10, Ok(())));
        }
        empty(near).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_waits_behind_a_frame_that_is_half_written() {
    for side in [Side::Dialer, Side::Acceptor] {
        let (near, far) = Transport::memory_pair(4096);
        let mut ours = end(far, common::across(side), &Settings::default());
        let mut peer = RawPeer::new(near, side);
        peer.control().await;
        let (_, mut substream) = peer.substream(&mut ours).await;
        substream.send(RecordKind::Data, &[7; 100_000]).await.unwrap();
        // Nobody reads: the pipe is full in the middle of a frame.
        tokio::time::sleep(Duration::from_millis(1)).await;
        ours.session.close(Code::Draining, "going home");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(goodbye(&mut peer).await, "going home");
        assert_eq!(ours.session.ended().await.code, Code::Draining);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_is_not_held_up_by_what_control_can_not_take() {
    let (near, far) = Transport::memory_pair(4096);
    let ours = end(far, Side::Acceptor, &Settings::default());
    let begun = Instant::now();
    // The peer never opens control, so this is never sent.
    let notice = ControlMessage::Replaced(Replaced { message: "for nobody".into() });
    ours.session.send_control(notice).await.unwrap();
    ours.session.close(Code::Replaced, "a newer one serves");
    assert_eq!(ours.session.ended().await.code, Code::Replaced);
    assert!(begun.elapsed() <= limits::CLOSE_FLUSH, "{:?}", begun.elapsed());
    drop(near);
}

#[tokio::test(start_paused = true)]
async fn opens_given_up_make_room_for_the_next_at_once() {
    let (mut peer, ours) = RawPeer::with_session(Side::Acceptor).await;
    let mut opening = JoinSet::new();
    for _ in 0..limits::MUX_ACK_BACKLOG {
        let session = ours.session.clone();
        opening.spawn(async move { session.open(to("s").within(Duration::from_secs(1))).await.map(drop) });
    }
    let next = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ours.session.open(to("s").within(Duration::from_secs(5))).await
    };
    let (control, last) = (1, 3 + 2 * limits::MUX_ACK_BACKLOG as u32);
    let shown = tokio::select! {
        told = next => panic!("never shown to the peer: {told:?}"),
        frame = peer.recv_until(|frame| frame.stream >= last) => frame,
    };
    assert_eq!((shown.kind, shown.flags & SYN, shown.stream > control), (DATA, SYN, true));
}

#[tokio::test(start_paused = true)]
async fn what_never_was_a_substream_is_counted_as_none() {
    let (dialer, mut acceptor) = pair();
    drop(open(&dialer.session, &mut acceptor.incoming).await);
    until("resets", || acceptor.stats.substreams_reset.load(Ordering::Relaxed), |n| *n == 1).await;
    // Given up when the stream was made and not yet taken; and announced, but never accepted.
    let mut given_up = Box::pin(dialer.session.open(to("s")));
    assert!((&mut given_up).now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(given_up);
    let never_accepted = dialer.session.open(to("s").within(Duration::from_millis(1))).await;
    assert_eq!(never_accepted.unwrap_err(), OpenError::Timeout);
    acceptor.driver.abort();
    soon("the end", dialer.session.ended()).await;
    let stats = (dialer.stats.clone(), acceptor.stats.clone());
    drop((dialer, acceptor));
    for stats in [stats.0, stats.1] {
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((of(&stats.substreams_reset), of(&stats.substreams_lost)), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_looks_at_its_socket_before_it_calls_its_peer_dead() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let doze = Arc::new(Mutex::new(Doze::default()));
    let io = Transport::boxed(Dozing { pipe: far, doze: Arc::clone(&doze) });
    let ours = end(io, Side::Acceptor, &Settings::default());
    let mut peer = RawPeer::new(near.into(), Side::Dialer);
    peer.control().await;
    tokio::time::sleep(Duration::from_millis(1)).await;

    // Stopped for longer than a peer may be silent. The bytes are there, and the runtime does not know yet.
    doze.lock().asleep = true;
    peer.send(&header(PING, SYN, 0, 7)).await;
    tokio::time::advance(Duration::from_secs(25)).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ours.session.end(), None);
    Doze::wake(&doze);
    peer.recv_until(|frame| (frame.kind, frame.value) == (PING, 7)).await;

    // Stopped again, and this time there is nothing.
    doze.lock().asleep = true;
    tokio::time::advance(Duration::from_secs(25)).await;
    let begun = Instant::now();
    Doze::wake(&doze);
    let end = ours.session.ended().await;
    assert!(end.message.starts_with("no heartbeat for 2"), "{end}");
    assert!(begun.elapsed() <= Duration::from_secs(5), "two heartbeats and a half: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_from_another_thread_than_the_mux_writes_on_is_counted_once() {
    let (dialer, mut acceptor) = pair();
    let mut talks = JoinSet::new();
    for _ in 0..8 {
        let (mut ours, mut theirs) = open(&dialer.session, &mut acceptor.incoming).await;
        talks.spawn(async move {
            for _ in 0..2_000 {
                common::echo(&mut ours, &mut theirs, b"x").await;
            }
        });
    }
    while let Some(talk) = talks.join_next().await {
        talk.unwrap();
    }
    // Nothing is under way any more, so nothing is held.
    empty(&dialer).await;
    empty(&acceptor).await;
}

/// The reason the peer was told at the end.
async fn goodbye(peer: &mut RawPeer) -> String {
    let mut frames = FrameDecoder::new(Stage::Control);
    loop {
        while let Some(frame) = frames.next().unwrap() {
            if let ControlMessage::Bye(bye) = ControlMessage::from_frame(&frame).unwrap() {
                return bye.reason;
            }
        }
        let frame = peer.recv_until(|frame| (frame.kind, frame.stream) == (DATA, 1)).await;
        frames.push(Bytes::from(frame.body));
    }
}

/// A pipe whose readiness is not known while the process sleeps.
struct Dozing {
    pipe: DuplexStream,
    doze: Arc<Mutex<Doze>>,
}

#[derive(Default)]
struct Doze {
    asleep: bool,
    waiting: Option<Waker>,
}

impl Doze {
    fn wake(doze: &Mutex<Self>) {
        let mut doze = doze.lock();
        doze.asleep = false;
        if let Some(waiting) = doze.waiting.take() {
            waiting.wake();
        }
    }
}

impl AsyncRead for Dozing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut doze = self.doze.lock();
            if doze.asleep {
                doze.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dozing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
