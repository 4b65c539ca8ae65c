//! Frames of one byte cost their receiver sixty times what they cost their sender, and frames about nothing may cost it
//! a note for ever. Memory has to be bounded by what we allow, not by what a peer sends. One test at a time and in a
//! process of their own, because they look at the memory of the whole process.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{sync::Arc, sync::atomic::Ordering};

use common::{
    Settings, across, echo, empty, end_within, open,
    raw::{DATA, FIN, RST, RawPeer, SYN, WINDOW, data, header},
    read_all,
};
use reachback_link::{MemoryBudget, Side, StreamEnd, Transport};
use reachback_wire::{RecordKind, record::record_header};
use tokio::sync::Mutex;

const MIB: usize = 1 << 20;
const BUDGET: usize = 16 * MIB;
/// Unread streams of the flooder. Their windows hold 8 x 256 Ki frames of one byte: 130 MiB where nobody counts.
const STREAMS: usize = 8;
const FRAMES_PER_STREAM: usize = 256 * 1024 - 100;
/// One write of the flooder.
const BATCH: usize = 4096;

static ALONE: Mutex<()> = Mutex::const_new(());

/// What this process has in memory, in bytes.
fn resident() -> usize {
    let figures = std::fs::read_to_string("/proc/self/statm").unwrap();
    figures.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flood_of_tiny_frames_stays_within_the_budget_and_loses_its_streams() {
    let _alone = ALONE.lock().await;
    for side in [Side::Dialer, Side::Acceptor] {
        let budget = Arc::new(MemoryBudget::new(BUDGET));
        let (far, near) = Transport::memory_pair(64 * 1024);
        let mut ours = end_within(near, across(side), &Settings::default(), &budget);
        let mut peer = RawPeer::new(far, side);
        peer.control().await;
        let (near, far) = Transport::memory_pair(64 * 1024);
        let near = end_within(near, Side::Dialer, &Settings::default(), &budget);
        let mut far = end_within(far, Side::Acceptor, &Settings::default(), &budget);
        let mut calm = open(&near.session, &mut far.incoming).await;
        let mut unread = Vec::new();
        for _ in 0..STREAMS {
            unread.push(peer.substream(&mut ours).await);
        }

        let before = resident();
        let mut most = 0;
        // One record of 65,532 bytes after the other, a byte at a time.
        let whole: Vec<u8> = record_header(RecordKind::Data, 65_532)
            .into_iter()
            .chain(std::iter::repeat_n(7, 65_532))
            .collect();
        let mut record = whole.iter().cycle();
        for _ in 0..FRAMES_PER_STREAM / BATCH {
            let bytes: Vec<u8> = record.by_ref().take(BATCH).copied().collect();
            for (id, _) in &unread {
                let frames: Vec<u8> = bytes.iter().flat_map(|byte| data(0, *id, &[*byte])).collect();
                assert!(peer.send(&frames).await, "the session lives: {:?}", ours.session.end());
                assert!(budget.used() <= BUDGET + MIB, "{} bytes held", budget.used());
                most = most.max(resident().saturating_sub(before));
            }
        }
        assert!(most < 4 * BUDGET, "{} MiB more than before", most / MIB);

        // Whoever flooded has lost streams by it and is told so; whoever held them too, and nobody else.
        peer.recv_until(|frame| frame.kind == DATA && frame.flags & RST != 0).await;
        let cut = ours.stats.substreams_over_budget.load(Ordering::Relaxed);
        assert!((1..=STREAMS as u64).contains(&cut), "{cut} cut off");
        echo(&mut calm.0, &mut calm.1, b"no part of this").await;
        assert_eq!(near.stats.substreams_over_budget.load(Ordering::Relaxed), 0);
        assert_eq!(far.stats.substreams_over_budget.load(Ordering::Relaxed), 0);
        assert_eq!(ours.session.end(), None);
        drop((calm, peer));
        let mut told = 0;
        for (_, mut substream) in unread {
            match read_all(&mut substream).await.1 {
                Err(StreamEnd::OverBudget) => told += 1,
                end => assert!(matches!(end, Err(StreamEnd::Lost(_))), "{end:?}"),
            }
        }
        assert_eq!(told, cut);
        empty(&ours).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn streams_that_are_over_before_they_begin_leave_nothing_behind() {
    const FRAMES: usize = 400_000;
    let _alone = ALONE.lock().await;
    for side in [Side::Dialer, Side::Acceptor] {
        for (kind, flags) in [(DATA, SYN | RST), (WINDOW, SYN | RST), (DATA, RST), (DATA, FIN)] {
            let (mut peer, mut ours) = RawPeer::with_session(side).await;
            let (_, substream) = peer.substream(&mut ours).await;
            let before = resident();
            for _ in 0..FRAMES / BATCH {
                let frames: Vec<u8> =
                    (0..BATCH).flat_map(|_| header(kind, flags, peer.next_id(), 0)).collect();
                if !peer.send(&frames).await {
                    // It may lose its session by it.
                    break;
                }
            }
            let more = resident().saturating_sub(before);
            assert!(more < 8 * MIB, "{side:?}, {kind} {flags}: {} KiB more than before", more / 1024);
            drop(substream);
        }
    }
}
