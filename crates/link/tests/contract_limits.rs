//! What runs out must run out for whoever asks for more, and for nobody else: permits, the mux's backlog of unanswered
//! opens, a peer's patience.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{future::pending, time::Duration};

use bytes::Bytes;
use common::{
    Settings, across, echo, empty, end, open, pair, pair_with,
    raw::{ACK, DATA, MuxFrame, PING, RawPeer, SYN, data, header},
    soon, tcp_pair, to, until,
};
use reachback_link::{
    Inbound, InboundError, Incoming, OpenError, Pulse, SessionEnd, Side, StreamEnd, Substream, Transport,
};
use reachback_wire::{
    Code, ControlMessage, FrameDecoder, FrameType, HeartbeatAck, Opened, Record, RecordKind, Stage,
};
use tokio::{task::JoinSet, time::Instant};

/// Longer than any test: what waits this long waits for something else.
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn permits_run_out_for_the_next_open_only() {
    for dialer_opens in [true, false] {
        let settings = Settings { max_open: 4, ..Settings::default() };
        let (mut dialer, mut acceptor) = pair_with(64 * 1024, &settings, &settings);
        let (near, far) =
            if dialer_opens { (&mut dialer, &mut acceptor) } else { (&mut acceptor, &mut dialer) };
        let mut live = Vec::new();
        for _ in 0..4 {
            live.push(open(&near.session, &mut far.incoming).await);
        }
        let begun = Instant::now();
        let error = near.session.open(to("s").within(Duration::from_secs(3))).await.unwrap_err();
        assert_eq!((&error, error.code()), (&OpenError::Saturated(4), Code::Saturated));
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        for (ours, theirs) in &mut live {
            echo(ours, theirs, b"still here").await;
        }

        // The other direction has permits of its own.
        drop(open(&far.session, &mut near.incoming).await);

        // One that waits gets the permit of one that ends.
        let (ours, theirs) = live.pop().unwrap();
        let (opened, served) =
            tokio::join!(soon("a permit", near.session.open(to("s").within(LONG))), async {
                drop((ours, theirs));
                serve(far.incoming.next().await.unwrap()).await
            });
        echo(&mut opened.unwrap(), &mut served.unwrap(), b"and one more").await;
        drop(live);
        empty(near).await;
        empty(far).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_that_waited_for_its_permit_says_what_is_left_of_its_deadline() {
    let settings = Settings { max_open: 1, ..Settings::default() };
    let (dialer, mut acceptor) = pair_with(64 * 1024, &settings, &settings);
    for waited in [0, 20] {
        let first = open(&dialer.session, &mut acceptor.incoming).await;
        let serving = async {
            tokio::time::sleep(Duration::from_secs(waited)).await;
            drop(first);
            let mut inbound = acceptor.incoming.next().await.unwrap();
            let said = inbound.open().await.unwrap();
            drop(inbound.answer(async { Ok(()) }).await.unwrap());
            said.deadline().unwrap()
        };
        let opening = dialer.session.open(to("s").within(Duration::from_secs(60)));
        let (opened, left) = tokio::join!(soon("the permit", opening), soon("the open", serving));
        drop(opened.unwrap());
        let expected = Duration::from_secs(60 - waited);
        // Waking takes a millisecond or two of the clock's.
        assert!(left <= expected && left + Duration::from_millis(20) >= expected, "{left:?}");
        empty(&dialer).await;
    }
}

#[tokio::test]
async fn twenty_thousand_substreams_one_after_the_other_leave_nothing_behind() {
    let (dialer, mut acceptor) = tcp_pair().await;
    let opening = async {
        for n in 0..20_000 {
            let opened = soon("the next of many", dialer.session.open(to("s"))).await;
            let mut ours = opened.unwrap_or_else(|error| panic!("open {n}: {error}"));
            ours.finish(None).await.unwrap();
            assert_eq!(soon("its end", ours.next()).await, Ok(Record::End(None)));
        }
        empty(&dialer).await;
    };
    let serving = serve_all(&mut acceptor.incoming, |mut theirs| async move {
        assert_eq!(theirs.next().await, Ok(Record::End(None)));
        theirs.finish(None).await.unwrap();
    });
    beside(serving, opening).await;
    empty(&acceptor).await;
}

#[tokio::test]
async fn five_thousand_resets_leave_nothing_behind() {
    let (dialer, mut acceptor) = tcp_pair().await;
    let opening = async {
        for n in 0..5_000 {
            let opened = soon("the next of many", dialer.session.open(to("s"))).await;
            opened.unwrap_or_else(|error| panic!("open {n}: {error}")).reset(Code::Cancelled, "never mind");
        }
        empty(&dialer).await;
    };
    let serving = serve_all(&mut acceptor.incoming, |mut theirs| async move {
        let told = StreamEnd::Reset { code: Code::Cancelled, text: "never mind".into() };
        assert_eq!(theirs.next().await, Err(told));
    });
    beside(serving, opening).await;
    empty(&acceptor).await;
}

#[tokio::test]
async fn an_opener_that_goes_away_stops_the_work_and_leaves_nothing_behind() {
    let (dialer, mut acceptor) = tcp_pair().await;
    for n in 0..600 {
        let mut opening = Box::pin(dialer.session.open(to("s")));
        if n % 3 == 0 {
            // Perhaps before anything has left.
            tokio::select! {
                biased;
                _ = &mut opening => panic!("nobody has answered"),
                () = std::future::ready(()) => continue,
            }
        }
        let inbound = tokio::select! {
            _ = &mut opening => panic!("nobody has answered"),
            inbound = soon("the open", next_with_header(&mut acceptor.incoming)) => inbound,
        };
        let answer = async { soon("the work stopped", inbound.answer(pending::<Result<(), _>>())).await };
        let answered = if n % 3 == 1 {
            drop(opening);
            answer.await
        } else {
            tokio::join!(answer, async { drop(opening) }).0
        };
        assert!(matches!(answered.map(|_| ()), Err(InboundError::Gone(_))));
    }
    beside(serve_all(&mut acceptor.incoming, |_| async {}), empty(&dialer)).await;
    empty(&acceptor).await;
}

/// More opens than the mux lets wait without any answer (256).
const MANY: usize = 300;

#[tokio::test]
async fn a_service_that_never_answers_holds_up_no_other_service() {
    for dialer_opens in [true, false] {
        let (mut dialer, mut acceptor) = tcp_pair().await;
        let (near, far) =
            if dialer_opens { (&mut dialer, &mut acceptor) } else { (&mut acceptor, &mut dialer) };
        let mut slow = JoinSet::new();
        for _ in 0..MANY {
            let session = near.session.clone();
            slow.spawn(async move { session.open(to("slow").within(LONG)).await.map(drop) });
        }
        let held = std::sync::atomic::AtomicUsize::new(0);
        let serving = async {
            let mut working = JoinSet::new();
            while let Some(mut inbound) = far.incoming.next().await {
                let open = inbound.open().await.unwrap();
                if open.target.unwrap().to_string() == "n/slow" {
                    held.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    working.spawn(async move { drop(inbound.answer(pending::<Result<(), _>>()).await) });
                } else {
                    drop(inbound.answer(async { Ok(()) }).await);
                }
            }
        };
        let look = || held.load(std::sync::atomic::Ordering::Relaxed);
        let opening = async {
            until("opens that arrived", look, |held| *held == MANY).await;
            for _ in 0..20 {
                soon("the other service", near.session.open(to("fast"))).await.unwrap();
            }
            assert!(slow.try_join_next().is_none(), "nobody answered these");
            slow.shutdown().await;
            empty(near).await;
        };
        beside(serving, opening).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_that_reads_no_header_costs_those_opens_their_deadline_and_nothing_else() {
    // With 256 streams unanswered the mux shows no further one. Who waits for that is told in time, like the others.
    for taken in [true, false] {
        let (dialer, mut acceptor) = pair();
        let (mut ours, mut theirs) = open(&dialer.session, &mut acceptor.incoming).await;
        let begun = Instant::now();
        let mut opening = JoinSet::new();
        for _ in 0..MANY {
            let session = dialer.session.clone();
            opening
                .spawn(async move { session.open(to("s").within(Duration::from_secs(60))).await.map(drop) });
        }
        let mut unread = Vec::new();
        let all_told = async {
            while let Some(told) = opening.join_next().await {
                assert_eq!(told.unwrap(), Err(OpenError::Timeout));
                assert_eq!(begun.elapsed(), Duration::from_secs(60));
            }
        };
        let taking = async {
            if taken {
                loop {
                    unread.push(acceptor.incoming.next().await.unwrap());
                }
            }
            pending::<()>().await;
        };
        // Meanwhile the session lives: three times as long as it takes to find a dead peer.
        let echoing = async {
            loop {
                echo(&mut ours, &mut theirs, b"busy, not dead").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = all_told => {}
            () = taking => {}
            () = echoing => {}
        }
        assert_eq!((dialer.session.end(), acceptor.session.end()), (None, None));
        assert_eq!(*dialer.session.pulse().borrow(), Pulse::Live);
        // Those it holds are given up, so there is room for new ones even while it holds them.
        let serving = serve_all(&mut acceptor.incoming, |mut theirs| async move {
            drop(theirs.next().await);
        });
        beside(serving, async {
            for _ in 0..MANY {
                soon("an open among the living", dialer.session.open(to("s"))).await.unwrap();
            }
        })
        .await;
        assert_eq!(unread.len() >= 256, taken);
        drop((ours, theirs, unread));
        beside(serve_all(&mut acceptor.incoming, |_| async {}), empty(&dialer)).await;
        empty(&acceptor).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_and_never_writes_is_dead_after_two_heartbeats() {
    for side in [Side::Dialer, Side::Acceptor] {
        let (mut peer, mut ours) = RawPeer::with_session(side).await;
        let (_, mut substream) = peer.substream(&mut ours).await;
        let begun = Instant::now();
        let (end, ()) = tokio::join!(ours.session.ended(), async { while peer.recv().await.is_some() {} });
        dead_after(Duration::from_secs(20), begun, &end);
        assert!(matches!(substream.next().await, Err(StreamEnd::Lost(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_neither_reads_nor_writes_is_dead_after_two_heartbeats_and_frees_its_writers() {
    for side in [Side::Dialer, Side::Acceptor] {
        let (mut peer, mut ours) = RawPeer::with_session(side).await;
        let (_, mut substream) = peer.substream(&mut ours).await;
        let begun = Instant::now();
        let much = vec![0; 1024 * 1024];
        let (end, wrote) = tokio::join!(ours.session.ended(), substream.send(RecordKind::Data, &much));
        dead_after(Duration::from_secs(20), begun, &end);
        assert_eq!(wrote, Err(StreamEnd::Lost(end)));
        let driver = soon("a driver that is done", &mut ours.driver).await;
        driver.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_says_a_word_is_dead_before_anything_is_opened() {
    for side in [Side::Dialer, Side::Acceptor] {
        let (near, far) = Transport::memory_pair(64 * 1024);
        let ours = end(far, across(side), &Settings::default());
        let begun = Instant::now();
        let (end, opened) = tokio::join!(ours.session.ended(), ours.session.open(to("s").within(LONG)));
        dead_after(Duration::from_secs(20), begun, &end);
        assert_eq!(opened.unwrap_err(), OpenError::Ended(end));
        assert_eq!(*ours.session.pulse().borrow(), Pulse::Opening);
        drop(near);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dialer_opens_nothing_before_its_control_is_answered() {
    // Order between streams is not kept by the mux, so a peer may see the open first and has every right to end the
    // session over it.
    let (near, far) = Transport::memory_pair(64 * 1024);
    let ours = end(far, Side::Dialer, &Settings::default());
    let mut peer = RawPeer::new(near, Side::Acceptor);
    let opening = ours.session.open(to("s").within(Duration::from_secs(5)));
    let before_control = tokio::select! {
        opened = opening => opened.map(drop).unwrap_err(),
        _ = peer.recv_until(|frame| frame.stream > 1) => panic!("a substream before control stands"),
    };
    assert_eq!(before_control, OpenError::Timeout);
    peer.send(&data(ACK, 1, &reachback_wire::frame::encode(FrameType::Opened, &Opened::default()))).await;
    tokio::select! {
        opened = ours.session.open(to("s")) => panic!("nobody has answered: {opened:?}"),
        frame = peer.recv_until(|frame| frame.stream > 1) => assert_eq!(frame.flags & SYN, SYN),
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_and_never_answers_is_late_and_then_dead() {
    for side in [Side::Dialer, Side::Acceptor] {
        let (mut peer, ours) = RawPeer::with_session(side).await;
        let begun = Instant::now();
        let mut pulse = ours.session.pulse();
        let watching = async {
            pulse.wait_for(|pulse| *pulse == Pulse::Late).await.unwrap();
            let late = begun.elapsed().as_secs_f64();
            assert!((20.0..21.0).contains(&late), "late after {late} s");
            assert_eq!(ours.session.end(), None);
            ours.session.ended().await
        };
        let (end, ()) = tokio::join!(watching, sending_pings(&mut peer, |_| vec![]));
        dead_after(Duration::from_secs(60), begun, &end);
        assert_eq!(ours.stats.sessions_late.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_peer_that_answers_at_last_is_live_again() {
    for side in [Side::Dialer, Side::Acceptor] {
        let (mut peer, ours) = RawPeer::with_session(side).await;
        let begun = Instant::now();
        let mut heartbeats = FrameDecoder::new(Stage::Control);
        // Answers only what it is asked after 50 s: by then it has been late for half a minute.
        let answering = |frame: MuxFrame| {
            let mut answers = Vec::new();
            if (frame.kind, frame.stream) == (DATA, 1) {
                heartbeats.push(Bytes::from(frame.body));
            }
            while let Some(frame) = heartbeats.next().unwrap() {
                if let ControlMessage::Heartbeat(heartbeat) = ControlMessage::from_frame(&frame).unwrap()
                    && begun.elapsed() >= Duration::from_secs(50)
                {
                    let ack = ControlMessage::HeartbeatAck(HeartbeatAck { seq: heartbeat.seq });
                    answers.extend(data(0, 1, &ack.encode()));
                }
            }
            answers
        };
        let mut pulse = ours.session.pulse();
        let watching = async {
            pulse.wait_for(|pulse| *pulse == Pulse::Late).await.unwrap();
            pulse.wait_for(|pulse| *pulse == Pulse::Live).await.unwrap();
            assert!((50..60).contains(&begun.elapsed().as_secs()));
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert_eq!((ours.session.end(), *pulse.borrow()), (None, Pulse::Live));
        };
        tokio::select! {
            () = watching => {}
            () = sending_pings(&mut peer, answering) => panic!("the session ended"),
        }
    }
}

/// A peer whose every sign of life is a ping, and what `answer` makes of the frames it reads. Until the session ends.
async fn sending_pings(peer: &mut RawPeer, mut answer: impl FnMut(MuxFrame) -> Vec<u8>) {
    let mut pings = tokio::time::interval(Duration::from_secs(3));
    loop {
        tokio::select! {
            _ = pings.tick() => drop(peer.send(&header(PING, SYN, 0, 7)).await),
            frame = peer.recv() => match frame {
                Some(frame) => drop(peer.send(&answer(frame)).await),
                None => return,
            },
        }
    }
}

#[track_caller]
fn dead_after(time: Duration, begun: Instant, end: &SessionEnd) {
    let (took, wanted) = (begun.elapsed().as_secs_f64(), time.as_secs_f64());
    // The courtesy of a last flush may come on top.
    assert!((wanted - 0.1..wanted + 2.0).contains(&took), "dead after {took} s: {end}");
    assert_eq!(end.code, Code::Lost, "{end}");
    assert!(end.message.contains(&format!("{} s", time.as_secs())), "{end}");
}

/// Does one thing while another goes on for ever.
async fn beside<T>(forever: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
    tokio::select! {
        () = forever => panic!("the session ended"),
        done = work => done,
    }
}

/// Reads the open and says yes.
async fn serve(mut inbound: Inbound) -> Result<Substream, InboundError> {
    inbound.open().await?;
    Ok(inbound.answer(async { Ok(()) }).await?.0)
}

/// Serves every open of this session, each in a task of its own. Openers may go away.
async fn serve_all<F>(incoming: &mut Incoming, with: fn(Substream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut serving = JoinSet::new();
    while let Some(inbound) = incoming.next().await {
        serving.spawn(async move {
            if let Ok(substream) = serve(inbound).await {
                with(substream).await;
            }
        });
        while let Some(served) = serving.try_join_next() {
            served.unwrap();
        }
    }
}

/// The next inbound whose opener is still there, its header read.
async fn next_with_header(incoming: &mut Incoming) -> Inbound {
    loop {
        let mut inbound = incoming.next().await.unwrap();
        if inbound.open().await.is_ok() {
            return inbound;
        }
    }
}
