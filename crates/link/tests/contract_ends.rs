//! A truncated file that looks complete is the worst thing a tunnel can do. The mux can't tell a finish from a drop
//! from a dead line once one side has ended its own direction, so every kind of end is tried here in both situations.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{future::Future, pin::pin, sync::atomic::Ordering};

use common::{
    End, Over, Settings, across, echo, empty, end, open, pair_over, pattern,
    raw::{RawPeer, data, header},
    read_all, received, soon,
};
use futures::future::poll_fn;
use reachback_link::{Side, StreamEnd, Substream};
use reachback_wire::{Code, Record, RecordKind, record::record_header};
use tokio::io::AsyncWriteExt;

/// More than any first window.
const MORE_THAN_A_WINDOW: usize = 1024 * 1024;
/// So much of it has arrived when its writer waits for the window (256 KiB, headers aside).
const NEARLY_A_WINDOW: u64 = 250_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Finish,
    Reset,
    Drop,
    Lost,
}

const ENDINGS: [Ending; 4] = [Ending::Finish, Ending::Reset, Ending::Drop, Ending::Lost];

/// A substream of this pair: ours at `near`, theirs at `far`, whoever opened it.
async fn substream(near: &mut End, far: &mut End, we_open: bool) -> (Substream, Substream) {
    if we_open {
        open(&near.session, &mut far.incoming).await
    } else {
        let (theirs, ours) = open(&far.session, &mut near.incoming).await;
        (ours, theirs)
    }
}

fn broke_off() -> StreamEnd {
    StreamEnd::Reset { code: Code::ServiceUnreachable, text: "the service broke off".into() }
}

/// What the other side learns of an ending; `None` stands for the order in which everything is well.
fn is_told(ending: Ending, told: Option<&StreamEnd>) -> bool {
    match ending {
        Ending::Finish => told.is_none(),
        Ending::Reset => told == Some(&broke_off()),
        Ending::Drop => told == Some(&StreamEnd::Dropped),
        Ending::Lost => matches!(told, Some(StreamEnd::Lost(end)) if !end.message.is_empty()),
    }
}

#[tokio::test]
async fn four_ends_are_four_answers_whether_or_not_we_have_ended_and_what_came_before_is_delivered() {
    for (over, we_open) in everywhere([true, false]) {
        for we_have_ended in [false, true] {
            for ending in ENDINGS {
                for size in [0, 10, 100_000, 250_000] {
                    let case = format!("{over:?} {ending:?} {we_have_ended} {we_open} {size}");
                    let (mut near, mut far) = pair_over(over).await;
                    let (mut ours, mut theirs) = substream(&mut near, &mut far, we_open).await;
                    let (mut other, mut others) = substream(&mut near, &mut far, we_open).await;
                    if we_have_ended {
                        ours.finish(None).await.unwrap();
                        assert_eq!(soon("our end", theirs.next()).await, Ok(Record::End(None)));
                    }
                    let before = near.stats.bytes_in.load(Ordering::Relaxed);
                    let sent = pattern(size);
                    soon("a window's worth", theirs.send(RecordKind::Data, &sent)).await.unwrap();
                    let mut kept = None;
                    match ending {
                        Ending::Finish => {
                            theirs.finish(None).await.unwrap();
                            kept = Some(theirs);
                        }
                        Ending::Reset => theirs.reset(Code::ServiceUnreachable, "the service broke off"),
                        Ending::Drop => drop(theirs),
                        Ending::Lost => {
                            // What had not left the peer's machine may be lost with it.
                            received(&near, before + size as u64).await;
                            far.driver.abort();
                        }
                    }
                    let (got, told) = read_all(&mut ours).await;
                    assert!(got == sent, "{case}: {} bytes", got.len());
                    assert!(is_told(ending, told.as_ref().err()), "{case}: {told:?}");
                    let code = told.err().map(|end| end.code());
                    let expected = match ending {
                        Ending::Finish => None,
                        Ending::Reset => Some(Code::ServiceUnreachable),
                        Ending::Drop => Some(Code::Reset),
                        Ending::Lost => Some(Code::Lost),
                    };
                    assert_eq!(code, expected, "{case}");
                    if ending == Ending::Lost {
                        continue;
                    }
                    echo(&mut other, &mut others, b"the session lives").await;
                    drop((ours, kept, other, others));
                    empty(&near).await;
                    empty(&far).await;
                }
            }
        }
    }
}

/// Sends more than a window to an end that does not read, until that is stuck; then does something and returns what
/// the writer was told.
async fn stuck_until<F: Future<Output = ()>>(
    writer: &mut Substream,
    reader: &End,
    then: impl FnOnce() -> F,
) -> Result<(), StreamEnd> {
    let before = reader.stats.bytes_in.load(Ordering::Relaxed);
    let sent = pattern(MORE_THAN_A_WINDOW);
    let mut sending = pin!(writer.send(RecordKind::Data, &sent));
    tokio::select! {
        biased;
        outcome = &mut sending => panic!("more than a window was taken: {outcome:?}"),
        () = received(reader, before + NEARLY_A_WINDOW) => {}
    }
    let (outcome, ()) = tokio::join!(soon("a writer that is freed", sending), then());
    outcome
}

#[tokio::test]
async fn a_writer_blocked_on_the_window_is_freed_by_every_end_of_its_peer() {
    for (over, we_open) in everywhere([true, false]) {
        for ending in ENDINGS {
            let case = format!("{over:?} {ending:?} {we_open}");
            let (mut near, mut far) = pair_over(over).await;
            let (mut ours, mut theirs) = substream(&mut near, &mut far, we_open).await;
            let stop = far.driver.abort_handle();
            let freed = stuck_until(&mut ours, &far, || async {
                match ending {
                    Ending::Finish => {
                        theirs.finish(None).await.unwrap();
                        // It is complete and still nobody reads what we send any more.
                        drop(theirs);
                    }
                    Ending::Reset => theirs.reset(Code::ServiceUnreachable, "the service broke off"),
                    Ending::Drop => drop(theirs),
                    Ending::Lost => stop.abort(),
                }
            })
            .await;
            let told = freed.clone().unwrap_err();
            let (got, read) = read_all(&mut ours).await;
            assert_eq!(got, b"", "{case}");
            match ending {
                Ending::Finish => assert_eq!((told, read), (StreamEnd::Dropped, Ok(())), "{case}"),
                _ => assert!(is_told(ending, read.as_ref().err()), "{case}: {freed:?} {read:?}"),
            }
            if ending == Ending::Lost {
                assert!(is_told(ending, freed.as_ref().err()), "{case}: {freed:?}");
                continue;
            }
            drop(ours);
            empty(&near).await;
            empty(&far).await;
        }
    }
}

#[tokio::test]
async fn a_writer_whose_peer_has_ended_is_freed_when_that_peer_goes_away() {
    for (over, we_open) in everywhere([true, false]) {
        for ending in [Ending::Reset, Ending::Drop, Ending::Lost] {
            let case = format!("{over:?} {ending:?} {we_open}");
            let (mut near, mut far) = pair_over(over).await;
            let (mut ours, mut theirs) = substream(&mut near, &mut far, we_open).await;
            theirs.finish(None).await.unwrap();
            assert_eq!(soon("their end", ours.next()).await, Ok(Record::End(None)));
            let stop = far.driver.abort_handle();
            stuck_until(&mut ours, &far, || async {
                match ending {
                    Ending::Finish => unreachable!("it has"),
                    Ending::Reset => theirs.reset(Code::ServiceUnreachable, "the service broke off"),
                    Ending::Drop => drop(theirs),
                    Ending::Lost => stop.abort(),
                }
            })
            .await
            .unwrap_err();
            assert_eq!(
                ours.next().await,
                Err(StreamEnd::Finished),
                "{case}: the direction we read was complete"
            );
            let gone = soon("the reason", poll_fn(|cx| ours.poll_gone(cx))).await;
            assert!(is_told(ending, Some(&gone)), "{case}: {gone:?}");
            if ending == Ending::Lost {
                continue;
            }
            drop(ours);
            empty(&near).await;
            empty(&far).await;
        }
    }
}

#[tokio::test]
async fn a_writer_whose_peer_has_ended_and_reads_on_sends_everything() {
    for over in Over::ALL {
        let (mut near, mut far) = pair_over(over).await;
        let (mut ours, mut theirs) = substream(&mut near, &mut far, true).await;
        theirs.finish(None).await.unwrap();
        let mut got = Vec::new();
        stuck_until(&mut ours, &far, || async {
            while got.len() < MORE_THAN_A_WINDOW {
                match soon("data", theirs.next()).await.unwrap() {
                    Record::Data(bytes) => got.extend_from_slice(&bytes),
                    other => panic!("{other:?} among data"),
                }
            }
        })
        .await
        .unwrap();
        assert!(got == pattern(MORE_THAN_A_WINDOW));
        ours.finish(None).await.unwrap();
        assert_eq!(soon("the end", theirs.next()).await, Ok(Record::End(None)));
        assert_eq!(read_all(&mut ours).await, (vec![], Ok(())));
        drop((ours, theirs));
        empty(&near).await;
        empty(&far).await;
    }
}

#[tokio::test]
async fn a_reset_that_the_window_does_not_take_is_still_no_finish() {
    for over in Over::ALL {
        let (mut near, mut far) = pair_over(over).await;
        let (mut ours, mut theirs) = substream(&mut near, &mut far, true).await;
        let sent = pattern(MORE_THAN_A_WINDOW);
        tokio::select! {
            biased;
            outcome = ours.send(RecordKind::Data, &sent) => panic!("more than a window was taken: {outcome:?}"),
            () = received(&far, NEARLY_A_WINDOW) => {}
        }
        ours.reset(Code::ServiceUnreachable, "nobody hears this");
        let (got, told) = read_all(&mut theirs).await;
        assert!(got.len() > 200_000 && sent.starts_with(&got), "{} bytes", got.len());
        assert_eq!(told, Err(StreamEnd::Dropped));
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Death {
    BetweenFrames,
    InAFrame,
    InAHeader,
    InARecord,
    OnlyFin,
    Rst,
}

#[tokio::test]
async fn a_dead_connection_never_looks_like_a_finished_stream() {
    use Death::{BetweenFrames, InAFrame, InAHeader, InARecord, OnlyFin, Rst};
    for (over, side) in everywhere([Side::Dialer, Side::Acceptor]) {
        for we_have_ended in [false, true] {
            for death in [BetweenFrames, InAFrame, InAHeader, InARecord, OnlyFin, Rst] {
                let case = format!("{over:?} {death:?} {we_have_ended} {side:?}");
                let (mut peer, mut ours, id, mut substream) = raw(over, side).await;
                if we_have_ended {
                    substream.finish(None).await.unwrap();
                    peer.recv_until(|frame| frame.stream == id && frame.body == [1, 0, 0, 0]).await;
                }
                let before = ours.stats.bytes_in.load(Ordering::Relaxed);
                let whole = pattern(2000);
                let mut bytes = data(0, id, &record(&whole[..1000], 1000));
                match death {
                    InAFrame => {
                        bytes.extend(header(0, 0, id, 1004));
                        bytes.extend(record(&whole[1000..1400], 1000));
                    }
                    InAHeader => bytes.extend(&header(0, 0, id, 1004)[..5]),
                    InARecord => bytes.extend(data(0, id, &record(&whole[1000..1400], 1000))),
                    BetweenFrames | OnlyFin | Rst => {}
                }
                peer.send(&bytes).await;
                let mut kept = None;
                match death {
                    OnlyFin => {
                        peer.io.shutdown().await.unwrap();
                        kept = Some(peer);
                    }
                    Rst => {
                        // A reset destroys what is still in the kernel, on purpose.
                        received(&ours, before + bytes.len() as u64).await;
                        peer.io.close_with_reset(true);
                        drop(peer);
                    }
                    _ => {
                        received(&ours, before + bytes.len() as u64).await;
                        drop(peer);
                    }
                }
                let (got, told) = read_all(&mut substream).await;
                assert!(got.len() >= 1000 && whole.starts_with(&got), "{case}: {} bytes", got.len());
                assert!(is_told(Ending::Lost, told.as_ref().err()), "{case}: {told:?}");
                let end = soon("the session's end", &mut ours.driver).await.unwrap();
                assert_eq!(end.code, Code::Lost, "{case}: {end}");
                drop(kept);
            }
        }
    }
}

/// A data record of this announced length; it may hold less.
fn record(payload: &[u8], announced: usize) -> Vec<u8> {
    [&record_header(RecordKind::Data, announced)[..], payload].concat()
}

/// A hand-written peer of this side, with a substream that it opened.
async fn raw(over: Over, side: Side) -> (RawPeer, End, u32, Substream) {
    let (near, far) = over.join().await;
    let mut ours = end(near, across(side), &Settings::default());
    let mut peer = RawPeer::new(far, side);
    peer.control().await;
    let (id, substream) = peer.substream(&mut ours).await;
    (peer, ours, id, substream)
}

/// Each of these, over everything that joins two ends.
fn everywhere<T: Copy>(cases: [T; 2]) -> impl Iterator<Item = (Over, T)> {
    Over::ALL.into_iter().flat_map(move |over| cases.map(|case| (over, case)))
}
