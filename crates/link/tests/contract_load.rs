//! Bulk both ways at once through buffers that are always full. On the mux crate alone this comes to a stop for ever at
//! one of its own pings (10 s or 20 s in): its slot for the answer is full, so it stops reading, on both ends at once.
//! Hence half a minute. And what a reader that does not read may cost.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    End, Settings, echo, empty, end, end_within, open, pair, pass, pattern,
    raw::{PING, RawPeer, SYN, data, header},
    received, soon, to, until,
};
use reachback_link::{MemoryBudget, OpenError, Side, StreamEnd, Substream, Transport};
use reachback_wire::{Code, Record, RecordKind, record::record_header};
use tokio::{
    net::TcpSocket,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Streams each way.
const STREAMS: usize = 16;
const BULK_TIME: Duration = Duration::from_secs(30);
/// When the last look begins: everything must still move after it.
const LAST_LOOK: Duration = Duration::from_secs(28);
const SMALL_BUFFER: u32 = 32 * 1024;
const MIB: usize = 1 << 20;

#[tokio::test]
async fn bulk_both_ways_through_small_buffers_never_stops_and_an_echo_beside_it_is_answered() {
    // Several, since it takes two pings that cross at the wrong moment; on one thread, where they are most likely to.
    let in_memory = futures::future::join_all((0..3).map(|_| {
        let (near, far) = Transport::memory_pair(4096);
        let dialer = end(near, Side::Dialer, &Settings::default());
        bulk("in memory", (dialer, end(far, Side::Acceptor, &Settings::default())))
    }));
    let (near, far) = small_tcp().await;
    let over_tcp = ends(near, far);
    let (near, far) = small_tcp().await;
    let (near, far) = common::tls::secured(near, far).await;
    tokio::join!(in_memory, bulk("over tcp", over_tcp), bulk("over tls", ends(near, far)));
}

async fn bulk(name: &str, (mut dialer, mut acceptor): (End, End)) {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    let mut moved = BTreeMap::new();
    for n in 0..STREAMS {
        // Both sides open, both sides send.
        let (up, at_acceptor) = open(&dialer.session, &mut acceptor.incoming).await;
        let (down, at_dialer) = open(&acceptor.session, &mut dialer.incoming).await;
        for (way, from, into) in [("up", up, at_acceptor), ("down", down, at_dialer)] {
            let counter = Arc::new(AtomicU64::new(0));
            moved.insert((way, n), Arc::clone(&counter));
            tasks.spawn(send_for_ever(from));
            tasks.spawn(read_for_ever(into, counter));
        }
    }
    let (mut asks, mut answers) = open(&dialer.session, &mut acceptor.incoming).await;
    let echoing = async {
        let mut count = 0;
        while begun.elapsed() < BULK_TIME {
            echo(&mut asks, &mut answers, &pattern(64)).await;
            count += 1;
        }
        count
    };
    let look = || moved.values().map(|counter| counter.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let watching = async {
        sleep_until(begun + LAST_LOOK).await;
        let before = look();
        sleep_until(begun + BULK_TIME).await;
        (before, look())
    };
    let (echoes, (before, after)) = tokio::join!(echoing, watching);
    while let Some(failed) = tasks.try_join_next() {
        failed.unwrap();
    }
    assert_eq!((dialer.session.end(), acceptor.session.end()), (None, None), "{name}");
    for (way, before, after) in
        moved.keys().zip(before).zip(after).map(|((way, before), after)| (way, before, after))
    {
        assert!(after > before, "{name}: {way:?} has stopped after {before} bytes");
    }
    assert!(echoes >= 10, "{name}: {echoes} echoes in half a minute");
    tasks.shutdown().await;
    drop((asks, answers));
    empty(&dialer).await;
    empty(&acceptor).await;
}

async fn send_for_ever(mut substream: Substream) {
    let piece = pattern(60_000);
    loop {
        substream.send(RecordKind::Data, &piece).await.unwrap();
    }
}

async fn read_for_ever(mut substream: Substream, moved: Arc<AtomicU64>) {
    loop {
        match substream.next().await.unwrap() {
            Record::Data(bytes) => moved.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            other => panic!("{other:?} among data"),
        };
    }
}

#[tokio::test]
async fn a_ping_that_can_not_be_answered_yet_is_no_reason_to_stop_reading() {
    // What stops the mux crate in the test above, without waiting for chance: both directions full, and a ping.
    for side in [Side::Dialer, Side::Acceptor] {
        let (mut peer, mut ours) = RawPeer::with_session(side).await;
        let (_, mut bulk) = peer.substream(&mut ours).await;
        let (id, mut other) = peer.substream(&mut ours).await;
        let before = ours.stats.bytes_out.load(Ordering::Relaxed);
        let much = pattern(MIB);
        let sending = async {
            bulk.send(RecordKind::Data, &much).await.unwrap();
            panic!("the peer took a megabyte and reads nothing");
        };
        let reading = async {
            // The pipe of 64 KiB is full: the peer does not read.
            let out = || ours.stats.bytes_out.load(Ordering::Relaxed);
            until("bytes written", out, |out| *out >= before + 60_000).await;
            let piece = [&record_header(RecordKind::Data, 1000)[..], &pattern(1000)].concat();
            for _ in 0..100 {
                peer.send(&header(PING, SYN, 0, 1)).await;
                peer.send(&data(0, id, &piece)).await;
                let mut left = 1000;
                while left > 0 {
                    match soon("what came behind the ping", other.next()).await.unwrap() {
                        Record::Data(bytes) => left -= bytes.len(),
                        other => panic!("{other:?} among data"),
                    }
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = reading => {}
        }
    }
}

/// A TCP connection whose kernel buffers are small from the first packet on.
async fn small_tcp() -> (Transport, Transport) {
    let small = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(SMALL_BUFFER).unwrap();
        socket.set_recv_buffer_size(SMALL_BUFFER).unwrap();
        socket
    };
    let listening = small();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listening.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(small().connect(address), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    for socket in [&near, &far] {
        socket.set_nodelay(true).unwrap();
        // The kernel doubles what is asked for.
        assert!(socket2::SockRef::from(socket).send_buffer_size().unwrap() <= 2 * SMALL_BUFFER as usize);
    }
    (near.into(), far.into())
}

fn ends(near: Transport, far: Transport) -> (End, End) {
    (end(near, Side::Dialer, &Settings::default()), end(far, Side::Acceptor, &Settings::default()))
}

#[tokio::test]
async fn readers_that_do_not_read_hold_a_window_each_and_give_it_back() {
    const UNREAD: usize = 64;
    let (near, mut far) = pair();
    let mut writers = JoinSet::new();
    let mut readers = Vec::new();
    for _ in 0..UNREAD {
        let (mut ours, theirs) = open(&near.session, &mut far.incoming).await;
        readers.push(theirs);
        writers.spawn(async move { ours.send(RecordKind::Data, &vec![7; MIB]).await });
    }
    soon("all windows full", received(&far, (UNREAD * 250_000) as u64)).await;
    let window = 256 * 1024;
    let held = far.budget.used();
    assert!((UNREAD * 250_000..UNREAD * (window + 16 * 1024)).contains(&held), "{held} bytes held");
    // Other streams of the session don't notice.
    let (mut ours, mut theirs) = open(&near.session, &mut far.incoming).await;
    echo(&mut ours, &mut theirs, &pattern(100_000)).await;
    assert!(writers.try_join_next().is_none(), "a writer got past a window nobody reads");
    drop((readers, ours, theirs));
    while let Some(told) = soon("writers that are freed", writers.join_next()).await {
        assert_eq!(told.unwrap(), Err(StreamEnd::Dropped));
    }
    empty(&near).await;
    empty(&far).await;
}

#[tokio::test]
async fn a_process_over_its_budget_takes_from_whoever_holds_most() {
    const BUDGET: usize = 12 * MIB;
    let budget = Arc::new(MemoryBudget::new(BUDGET));
    let (greedy, mut held) = pair_within(&budget);
    let (modest, mut other) = pair_within(&budget);
    // One that holds its share for good reasons.
    let (mut ours, mut theirs) = open(&modest.session, &mut other.incoming).await;
    soon("a share", ours.send(RecordKind::Data, &pattern(200_000))).await.unwrap();
    let mut writers = JoinSet::new();
    let mut readers = Vec::new();
    let mut openers = Vec::new();
    for _ in 0..100 {
        let (opener, reader) = open(&greedy.session, &mut held.incoming).await;
        openers.push(opener);
        readers.push(reader);
    }
    for mut opener in openers {
        writers.spawn(async move { opener.send(RecordKind::Data, &vec![7; MIB]).await });
    }
    // A hundred windows in a budget of 48.
    let cut = || held.stats.substreams_over_budget.load(Ordering::Relaxed);
    let look = || (cut(), writers.len(), budget.used());
    until("streams cut off", look, |(cut, _, used)| {
        assert!(*used <= BUDGET + MIB, "{used} bytes held");
        *cut >= 40
    })
    .await;
    until("bytes held", || budget.used(), |used| *used <= BUDGET).await;
    assert_eq!(other.stats.substreams_over_budget.load(Ordering::Relaxed), 0);
    let mut got = 0;
    while got < 200_000 {
        match soon("the modest one's bytes", theirs.next()).await.unwrap() {
            Record::Data(bytes) => got += bytes.len(),
            other => panic!("{other:?} among data"),
        }
    }
    drop(readers);
    writers.shutdown().await;
    pass(&mut theirs, &mut ours, b"thank you").await;
    drop((ours, theirs));
    until("bytes held", || budget.used(), |used| *used == 0).await;
    empty(&greedy).await;
}

#[tokio::test]
async fn a_quiet_session_that_holds_most_pays_for_the_one_that_fills_the_rest() {
    const BUDGET: usize = 4 * MIB;
    let budget = Arc::new(MemoryBudget::new(BUDGET));
    let (greedy, mut held) = pair_within(&budget);
    let (modest, mut other) = pair_within(&budget);
    let mut quiet = Vec::new();
    for _ in 0..12 {
        quiet.push(open(&greedy.session, &mut held.incoming).await);
    }
    let mut live = Vec::new();
    for _ in 0..7 {
        live.push(open(&modest.session, &mut other.incoming).await);
    }
    for (ours, _) in &mut quiet {
        soon("a window", ours.send(RecordKind::Data, &pattern(240_000))).await.unwrap();
    }
    until("bytes held", || budget.used(), |used| *used >= 12 * 240_000).await;
    // From here on nothing moves on the greedy session.
    for (ours, _) in &mut live {
        soon("a window", ours.send(RecordKind::Data, &pattern(240_000))).await.unwrap();
    }
    let cut = || held.stats.substreams_over_budget.load(Ordering::Relaxed);
    until(
        "everything sent, here or given up",
        || (cut(), budget.used()),
        |(cut, used)| used + *cut as usize * 240_000 >= 19 * 240_000 && *used <= BUDGET,
    )
    .await;
    // Once over the limit, down to nine tenths of it: two of 240,000 bytes, not one and not all.
    assert!((2..=3).contains(&cut()), "{} of its streams were cut off", cut());
    assert_eq!(other.stats.substreams_over_budget.load(Ordering::Relaxed), 0);
    for (_, theirs) in &mut live {
        let mut left = 240_000;
        while left > 0 {
            match soon("the modest one's bytes", theirs.next()).await.unwrap() {
                Record::Data(bytes) => left -= bytes.len(),
                other => panic!("{other:?} among data"),
            }
        }
    }
}

#[tokio::test]
async fn above_three_quarters_of_the_budget_new_opens_are_refused_and_live_streams_go_on() {
    let budget = Arc::new(MemoryBudget::new(MIB));
    let (near, mut far) = pair_within(&budget);
    let mut live = Vec::new();
    for _ in 0..4 {
        live.push(open(&near.session, &mut far.incoming).await);
    }
    for (ours, _) in &mut live {
        soon("a share", ours.send(RecordKind::Data, &pattern(210_000))).await.unwrap();
    }
    until("bytes held", || budget.used(), |used| (MIB * 3 / 4..MIB).contains(used)).await;
    let told = tokio::select! {
        opened = soon("an answer", near.session.open(to("s"))) => opened.map(drop).unwrap_err(),
        () = serve_all(&mut far) => panic!("the session ended"),
    };
    assert!(matches!(told, OpenError::Refused(_)) && told.code() == Code::Saturated, "{told}");

    for (ours, theirs) in &mut live {
        let mut left = 210_000;
        while left > 0 {
            match soon("a share", theirs.next()).await.unwrap() {
                Record::Data(bytes) => left -= bytes.len(),
                other => panic!("{other:?} among data"),
            }
        }
        echo(ours, theirs, b"as ever").await;
    }
    drop(open(&near.session, &mut far.incoming).await);
}

/// A dialer of another process, and an acceptor with this budget.
fn pair_within(budget: &Arc<MemoryBudget>) -> (End, End) {
    let (near, far) = Transport::memory_pair(64 * 1024);
    let near = end(near, Side::Dialer, &Settings::default());
    (near, end_within(far, Side::Acceptor, &Settings::default(), budget))
}

/// Says yes to every open that gets as far as its owner.
async fn serve_all(end: &mut End) {
    let mut served = Vec::new();
    while let Some(mut inbound) = end.incoming.next().await {
        if inbound.open().await.is_ok() {
            served.push(inbound.answer(async { Ok(()) }).await);
        }
    }
}
