//! A connection that is reset in the middle of a frame: every byte of a frame is a place where that can happen, and in
//! none of them may it look like an end, cost more than its session, or leave anything behind. And a peer that opens
//! more streams than the mux allows. Heartbeats are too slow here to notice anything in place of what is tested.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{
    End, Settings, across, echo, empty, end_within, open,
    raw::{RawPeer, SYN, WINDOW, data, header},
    read_all, received, soon, until,
};
use reachback_link::{Compression, MemoryBudget, SessionRules, Side, StreamEnd, Transport};
use reachback_wire::{Code, RecordKind, limits, record::record_header};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

const SLOW: Settings = Settings {
    heartbeat: Duration::from_secs(3600),
    max_open: 8,
    compression: Compression::OFF,
    rules: SessionRules::USUAL,
};

#[tokio::test]
async fn a_reset_at_any_byte_of_a_frame_loses_its_session_and_frees_all_it_held() {
    let record = |payload: &[u8]| [&record_header(RecordKind::Data, payload.len())[..], payload].concat();
    for side in [Side::Dialer, Side::Acceptor] {
        // In the header of the frame, at its end, in the record's, in the payload, one byte before its end.
        for cut in [1, 7, 11, 12, 13, 15, 16, 17, 500, 1015] {
            let what = format!("cut at {cut}, {side:?}");
            let budget = Arc::new(MemoryBudget::new(64 << 20));
            let (far, near) = tcp().await;
            let mut ours: End = end_within(near, across(side), &SLOW, &budget);
            let mut peer = RawPeer::new(far, side);
            peer.control().await;
            let (id, mut substream) = peer.substream(&mut ours).await;
            let (near, far) = Transport::memory_pair(64 * 1024);
            let near = end_within(near, Side::Dialer, &SLOW, &budget);
            let mut far = end_within(far, Side::Acceptor, &SLOW, &budget);
            let mut calm = open(&near.session, &mut far.incoming).await;

            let before = ours.stats.bytes_in.load(std::sync::atomic::Ordering::Relaxed);
            let whole = data(0, id, &record(b"whole"));
            let torn = data(0, id, &record(&[7; 1000]));
            assert_eq!(torn.len(), 1016);
            peer.send(&[&whole, &torn[..cut]].concat()).await;
            received(&ours, before + (whole.len() + cut) as u64).await;
            assert!(budget.used() > 0, "{what}: nothing is unread");
            peer.io.close_with_reset(true);
            drop(peer);

            let ended = soon(&what, &mut ours.driver).await.unwrap_or_else(|panic| panic!("{what}: {panic}"));
            assert_eq!(ended.code, Code::Lost, "{what}: {ended}");
            assert!(ended.message.contains("reset"), "{what}: {ended}");
            let (_, told) = read_all(&mut substream).await;
            assert!(matches!(told, Err(StreamEnd::Lost(_))), "{what}: {told:?}");
            drop(substream);
            empty(&ours).await;
            echo(&mut calm.0, &mut calm.1, b"nothing happened here").await;
        }
    }
}

#[tokio::test]
async fn one_stream_more_than_the_mux_allows_costs_the_session_at_once() {
    for side in [Side::Dialer, Side::Acceptor] {
        let (far, near) = tcp().await;
        let mut ours = end_within(near, across(side), &SLOW, &Arc::new(MemoryBudget::new(64 << 20)));
        let mut peer = RawPeer::new(far, side);
        peer.control().await;
        // Control is one of them.
        for _ in 1..limits::MUX_STREAMS_MAX {
            let id = peer.next_id();
            assert!(peer.send(&header(WINDOW, SYN, id, 0)).await, "{:?}", ours.session.end());
        }
        let streams = ours.session.clone();
        until("all streams", move || streams.substreams(), |n| *n + 1 == limits::MUX_STREAMS_MAX).await;
        assert_eq!(ours.session.end(), None, "{side:?}: as many as allowed are fine");
        let id = peer.next_id();
        peer.send(&header(WINDOW, SYN, id, 0)).await;
        let ended = soon("the end", &mut ours.driver).await.unwrap();
        assert_eq!(ended.code, Code::BadFrame, "{side:?}: {ended}");
    }
}

/// Both ends of a connection over loopback.
async fn tcp() -> (Transport, Transport) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (far, near) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (far.unwrap().into(), near.unwrap().0.into())
}
