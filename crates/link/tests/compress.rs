//! Compressed records: fewer bytes on the wire and the same bytes at the end, only where both ends said so; and what a
//! peer can do with them to anyone but itself: nothing.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod common;

use std::{future::poll_fn, sync::atomic::Ordering, task::Poll};

use common::{
    End, Settings, across, empty, end, open, pair_with, pattern,
    raw::{DATA, MuxFrame, RST, RawPeer, data},
    read_all, soon, to, until,
};
use reachback_link::{
    Compression, Early, Inbound, Session, Side, StreamEnd, Substream, Transport, relay, splice,
};
use reachback_wire::{
    Code, Delivery, Open, Record, RecordDecoder, RecordKind,
    limits::{LZ4_MIN_SIZE, MAX_RECORD_PAYLOAD, RECORD_MAX},
    record::{RECORD_HEADER_LEN, encode_compressed, encode_reset, record_header},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
};

const ON: Compression = Compression { enabled: true, min_size: LZ4_MIN_SIZE, every_open: false };
const MIB: usize = 1024 * 1024;

fn settings(compression: Compression) -> Settings {
    Settings { compression, ..Settings::default() }
}

/// Two ends that shook hands with these wishes.
fn pair_of(dialer: Compression, acceptor: Compression) -> (End, End) {
    pair_in(256 * 1024, dialer, acceptor)
}

fn pair_in(capacity: usize, dialer: Compression, acceptor: Compression) -> (End, End) {
    let (ours, theirs) = (dialer.with_peer(&acceptor.features()), acceptor.with_peer(&dialer.features()));
    pair_with(capacity, &settings(ours), &settings(theirs))
}

/// A substream opened by this, and what the acceptor was told of its compression.
async fn opened(near: &Session, far: &mut End, open: Open) -> (Substream, Substream, Option<String>) {
    let (near, (far, told)) = join!(near.open(open), async {
        let mut inbound: Inbound = far.incoming.next().await.unwrap();
        let told = inbound.open().await.unwrap().compression;
        (inbound.answer(async { Ok(()) }).await.unwrap().0, told)
    });
    (near.unwrap(), far, told)
}

/// Sends it all with an end behind it, reads it all at the other end.
async fn carry(from: &mut Substream, to: &mut Substream, payload: &[u8]) {
    let sending = async {
        soon("sending", from.send(RecordKind::Data, payload)).await.unwrap();
        from.finish(None).await.unwrap();
    };
    let ((), (got, end)) = join!(sending, read_all(to));
    assert_eq!(end, Ok(()));
    assert!(got == payload, "{} bytes became {} others", payload.len(), got.len());
}

/// Text as logs have it.
fn text(len: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n: u32| {
        format!("2026-11-20T10:15:{:02}Z edge-{} INFO request {n} served in 12 ms\n", n % 60, n % 7)
            .into_bytes()
    });
    lines.take(len).collect()
}

/// Bytes that no compressor makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..len).map(|_| random.u8(..)).collect()
}

fn sent(end: &End) -> usize {
    usize::try_from(end.stats.bytes_out.load(Ordering::Relaxed)).unwrap()
}

#[tokio::test]
async fn text_is_smaller_on_the_wire_in_both_directions_and_noise_is_not_larger() {
    for (name, payload, most) in [("text", text(MIB), MIB / 3), ("noise", noise(MIB), MIB + MIB / 50)] {
        let (near, mut far) = pair_of(ON, ON);
        let (mut here, mut there, _) = opened(&near.session, &mut far, to("s").compressed()).await;
        let before = (sent(&near), sent(&far));
        carry(&mut here, &mut there, &payload).await;
        carry(&mut there, &mut here, &payload).await;
        for (direction, bytes) in [("there", sent(&near) - before.0), ("back", sent(&far) - before.1)] {
            assert!(bytes <= most, "{name}, {direction}: {bytes} bytes");
        }
        drop((here, there));
        empty(&near).await;
        empty(&far).await;
    }
}

#[tokio::test]
async fn nothing_is_compressed_unless_both_ends_want_it_and_it_is_asked_for() {
    let off = Compression::OFF;
    let every = Compression { every_open: true, ..ON };
    let asked = || to("s").compressed();
    for (what, dialer, acceptor, open, announced) in [
        ("asked for", ON, ON, asked(), true),
        ("for every open", every, ON, to("s"), true),
        ("not asked for", ON, every, to("s"), false),
        ("the opener is off", off, ON, asked(), false),
        ("the acceptor is off", ON, off, asked(), false),
        ("every open, the acceptor is off", every, off, to("s"), false),
        ("something else is asked for", ON, ON, Open { compression: Some("zstd".into()), ..to("s") }, false),
    ] {
        let (near, mut far) = pair_of(dialer, acceptor);
        let (mut here, mut there, told) = opened(&near.session, &mut far, open).await;
        assert_eq!(told.as_deref(), announced.then_some("lz4"), "{what}");
        let before = (sent(&near), sent(&far));
        let payload = text(MIB);
        carry(&mut here, &mut there, &payload).await;
        carry(&mut there, &mut here, &payload).await;
        for bytes in [sent(&near) - before.0, sent(&far) - before.1] {
            assert_eq!(bytes < MIB, announced, "{what}: {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn the_acceptor_opens_compressed_substreams_as_well() {
    let (mut near, far) = pair_of(ON, ON);
    let (mut there, mut here, told) = opened(&far.session, &mut near, to("s").compressed()).await;
    assert_eq!(told.as_deref(), Some("lz4"));
    let before = sent(&far);
    carry(&mut there, &mut here, &text(MIB)).await;
    assert!(sent(&far) - before < MIB / 3);
}

#[tokio::test]
async fn every_size_arrives_as_it_was_sent() {
    let full = MAX_RECORD_PAYLOAD;
    let (min, step) = (LZ4_MIN_SIZE, 17);
    let sizes = [0, 1, min - 1, min, min + 1, full - 1, full, full + 1, 2 * full, 200_000]
        .into_iter()
        .chain((0..2 * min).step_by(step));
    // A narrow pipe: records are written in many pieces.
    let (near, mut far) = pair_in(999, ON, ON);
    for size in sizes {
        for payload in [text(size), noise(size), vec![0; size], pattern(size)] {
            let (mut here, mut there, _) = opened(&near.session, &mut far, to("s").compressed()).await;
            carry(&mut here, &mut there, &payload).await;
            carry(&mut there, &mut here, &payload).await;
        }
    }
    empty(&near).await;
    empty(&far).await;
}

/// A peer that speaks by hand, and a substream of it that is announced as compressed.
async fn announced(side: Side, ours: Compression) -> (RawPeer, End, u32, Substream) {
    let (far, near) = Transport::memory_pair(256 * 1024);
    let mut ours = end(near, across(side), &settings(ours));
    let mut peer = RawPeer::new(far, side);
    peer.control().await;
    let (id, substream) = substream_of(&mut peer, &mut ours, &to("s").compressed()).await;
    (peer, ours, id, substream)
}

async fn substream_of(peer: &mut RawPeer, ours: &mut End, open: &Open) -> (u32, Substream) {
    let id = peer.open(open).await;
    let mut inbound: Inbound = soon("the raw open", ours.incoming.next()).await.unwrap();
    inbound.open().await.unwrap();
    let (substream, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
    peer.reply(id).await;
    (id, substream)
}

async fn next_data(peer: &mut RawPeer, id: u32) -> MuxFrame {
    peer.recv_until(|frame| frame.kind == DATA && frame.stream == id && !frame.body.is_empty()).await
}

#[tokio::test]
async fn records_are_compressed_from_a_size_on_and_only_if_that_makes_them_smaller() {
    for (what, kind, payload, compressed) in [
        ("too short", RecordKind::Data, vec![0; LZ4_MIN_SIZE - 1], false),
        ("long enough", RecordKind::Data, vec![0; LZ4_MIN_SIZE], true),
        ("an item", RecordKind::Item, text(4000), true),
        ("a head", RecordKind::Head, vec![b' '; 4000], false),
        ("noise", RecordKind::Data, noise(4000), false),
    ] {
        for side in [Side::Dialer, Side::Acceptor] {
            let (mut peer, _ours, id, mut substream) = announced(side, ON).await;
            substream.send(kind, &payload).await.unwrap();
            let frame = next_data(&mut peer, id).await;
            if compressed {
                assert_eq!(frame.body[0], 0x80 | kind.number(), "{what}");
                assert!(frame.body.len() < RECORD_HEADER_LEN + payload.len(), "{what}");
                let size = u32::from_le_bytes(frame.body[4..8].try_into().unwrap());
                assert_eq!(size as usize, payload.len(), "{what}: the size is in front of the block");
            } else {
                let plain = [&record_header(kind, payload.len())[..], &payload].concat();
                assert_eq!(frame.body, plain, "{what}");
            }
            let mut decoder = RecordDecoder::new(Delivery::Whole).with_lz4();
            decoder.push(frame.body.into());
            let Ok(Some(Record::Data(got) | Record::Item(got) | Record::Head(got))) = decoder.next() else {
                panic!("{what}");
            };
            assert!(got == payload, "{what}");
        }
    }
}

#[tokio::test]
async fn the_size_from_which_on_is_the_senders_own() {
    let (mut peer, _ours, id, mut substream) =
        announced(Side::Dialer, Compression { min_size: 5000, ..ON }).await;
    for (len, compressed) in [(4999, false), (5000, true)] {
        substream.send(RecordKind::Data, &vec![0; len]).await.unwrap();
        assert_eq!(next_data(&mut peer, id).await.body[0] == 0x80, compressed, "{len}");
    }
    // And the peer's smaller ones are taken.
    let small = encode_compressed(RecordKind::Data, &[b'x'; 50]).unwrap();
    peer.send(&data(0, id, &small)).await;
    assert_eq!(soon("a small one", substream.next()).await, Ok(Record::Data(vec![b'x'; 50].into())));
}

#[tokio::test]
async fn a_record_that_can_not_be_decompressed_costs_its_substream_and_nothing_else() {
    let good = encode_compressed(RecordKind::Data, &text(4000)).unwrap().to_vec();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    let short = |len: usize| {
        let mut bad = good[..RECORD_HEADER_LEN + len].to_vec();
        bad[1..RECORD_HEADER_LEN].copy_from_slice(&record_header(RecordKind::Data, len)[1..]);
        bad
    };
    let claims = |size: u32| {
        let mut bad = good.clone();
        bad[4..8].copy_from_slice(&size.to_le_bytes());
        bad
    };
    for (name, bytes) in [
        ("it claims 4 GiB", claims(u32::MAX)),
        ("it claims a byte more than a record holds", claims(65_533)),
        ("it claims more than it holds", claims(4001)),
        ("it claims less than it holds", claims(3999)),
        ("it claims nothing", claims(0)),
        ("more than any block of its length can hold", {
            let mut bad = vec![0x80, 0, 0, 8];
            bad.extend_from_slice(&65_000_u32.to_le_bytes());
            bad.extend_from_slice(b"\x1fx\x01\0");
            bad
        }),
        ("no block at all", short(4)),
        ("no size at all", short(3)),
        ("half of its block", short((good.len() - RECORD_HEADER_LEN) / 2)),
        (
            "a copy of what is before its begin",
            b"\x80\0\0\x10\x2c\x01\0\0\x1fx\xff\x7f\xff\x13\x50xxxxx".to_vec(),
        ),
        ("a copy of nothing", b"\x80\0\0\x10\x2c\x01\0\0\x1fx\0\0\xff\x13\x50xxxxx".to_vec()),
        ("a compressed head", with(0, 0x83)),
        ("a compressed end", vec![0x81, 0, 0, 9]),
        ("a compressed reset", vec![0x82, 0, 0, 9]),
    ] {
        for side in [Side::Dialer, Side::Acceptor] {
            let what = format!("{name}, {side:?}");
            let (mut peer, mut ours, id, mut substream) = announced(side, ON).await;
            let (calm_id, mut calm) = substream_of(&mut peer, &mut ours, &to("s").compressed()).await;
            peer.send(&data(0, id, &good)).await;
            peer.send(&data(0, id, &bytes)).await;
            assert_eq!(soon(&what, substream.next()).await, Ok(Record::Data(text(4000).into())), "{what}");
            let told = soon(&what, substream.next()).await;
            let Err(StreamEnd::Protocol(code, why)) = told else { panic!("{what}: {told:?}") };
            assert_eq!(code, Code::Compression, "{what}: {why}");
            assert!(!why.contains(char::is_control), "{what}: {why:?}");
            drop(substream);
            assert_eq!(next_data(&mut peer, id).await.body, encode_reset(code, &why), "{what}");
            peer.recv_until(|frame| frame.stream == id && frame.flags & RST != 0).await;

            peer.send(&data(0, calm_id, &good)).await;
            assert_eq!(soon(&what, calm.next()).await, Ok(Record::Data(text(4000).into())), "{what}");
            assert_eq!(ours.session.end(), None, "{what}");
            drop(calm);
            empty(&ours).await;
        }
    }
}

#[tokio::test]
async fn bit_flips_end_a_substream_or_change_bytes_and_never_a_session() {
    let (mut peer, mut ours, ..) = announced(Side::Dialer, ON).await;
    let good = encode_compressed(RecordKind::Data, &text(700)).unwrap().to_vec();
    for bit in 0..8 * (good.len() - RECORD_HEADER_LEN) {
        let mut bad = good.clone();
        bad[RECORD_HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
        let (id, mut substream) = substream_of(&mut peer, &mut ours, &to("s").compressed()).await;
        peer.send(&data(0, id, &bad)).await;
        match soon("a damaged record", substream.next()).await {
            Ok(Record::Data(bytes)) => assert_eq!(bytes.len(), 700, "bit {bit}"),
            Err(StreamEnd::Protocol(Code::Compression, _)) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    assert_eq!(ours.session.end(), None);
}

#[tokio::test]
async fn an_announcement_that_was_not_agreed_on_announces_nothing() {
    for ours in [Compression::OFF, ON.with_peer(&[])] {
        let (mut peer, mut end, id, mut substream) = announced(Side::Dialer, ours).await;
        substream.send(RecordKind::Data, &text(4000)).await.unwrap();
        assert_eq!(next_data(&mut peer, id).await.body[0], RecordKind::Data.number());
        let compressed = encode_compressed(RecordKind::Data, &text(4000)).unwrap();
        peer.send(&data(0, id, &compressed)).await;
        let told = soon("the refusal", substream.next()).await.unwrap_err();
        assert_eq!(told.code(), Code::Compression, "{told}");
        assert!(told.to_string().contains("not announced"), "{told}");
        drop(substream);
        let (id, mut next) = substream_of(&mut peer, &mut end, &to("s")).await;
        peer.send(&data(0, id, &[0, 0, 0, 1, b'x'])).await;
        assert_eq!(soon("the session goes on", next.next()).await, Ok(Record::Data("x".into())));
    }
}

#[tokio::test]
async fn what_waits_for_its_last_byte_stays_in_the_books() {
    let (mut peer, mut ours, id, mut substream) = announced(Side::Dialer, ON).await;
    let payload = [text(30_000), noise(30_000)].concat();
    let record = encode_compressed(RecordKind::Data, &payload).unwrap();
    let (most, last) = record.split_at(record.len() - 1);
    for piece in most.chunks(5000) {
        peer.send(&data(0, id, piece)).await;
    }
    let mut next = Box::pin(substream.next());
    let budget = ours.budget.clone();
    let kept = until("the books", move || budget.used(), |used| *used >= most.len() - RECORD_HEADER_LEN);
    tokio::select! {
        biased;
        early = &mut next => panic!("handed out before its end: {early:?}"),
        () = kept => {}
    }
    // The memory is held although it was read; read on, so that it would not be for lack of reading.
    let pending = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    assert!(ours.budget.used() >= most.len() - RECORD_HEADER_LEN, "{}", ours.budget.used());
    peer.send(&data(0, id, last)).await;
    assert_eq!(soon("the whole", next.as_mut()).await, Ok(Record::Data(payload.into())));
    drop(next);
    assert!(ours.budget.used() > 0, "who read it may still wait with it");
    comes_back_for_more(&mut substream).await;
    assert_eq!(ours.budget.used(), 0);

    // Plain data is handed out as it comes and leaves the books when its reader comes back.
    let (id, mut plain) = substream_of(&mut peer, &mut ours, &to("s")).await;
    let header = record_header(RecordKind::Data, 60_000);
    peer.send(&data(0, id, &[&header[..], &noise(30_000)].concat())).await;
    assert!(matches!(soon("half", plain.next()).await, Ok(Record::Data(half)) if half.len() == 30_000));
    assert_eq!(ours.budget.used(), RECORD_HEADER_LEN + 30_000);
    comes_back_for_more(&mut plain).await;
    assert_eq!(ours.budget.used(), 0);
}

/// Asks for the next record, of which there is none.
async fn comes_back_for_more(reader: &mut Substream) {
    let nothing = poll_fn(|cx| Poll::Ready(reader.poll_next(cx).is_pending())).await;
    assert!(nothing);
}

#[tokio::test]
async fn a_relay_gives_each_hop_what_it_announced() {
    let payload = text(MIB);
    for (first, second) in [(true, false), (false, true), (true, true), (false, false)] {
        let what = format!("{first} {second}");
        let open_as = |compressed: bool| if compressed { to("s").compressed() } else { to("s") };
        let (client, mut door) = pair_of(ON, ON);
        let (mut node, hub) = pair_of(ON, ON);
        let (mut here, from, _) = opened(&client.session, &mut door, open_as(first)).await;
        let (onward, mut there, _) = opened(&hub.session, &mut node, open_as(second)).await;
        let relaying = relay(from, onward);
        let before = [sent(&client), sent(&hub), sent(&node), sent(&door)];
        let talking = async {
            carry(&mut here, &mut there, &payload).await;
            carry(&mut there, &mut here, &payload).await;
        };
        let (relayed, ()) = join!(relaying, talking);
        assert!(relayed.end.is_ok(), "{what}: {:?}", relayed.end);
        assert_eq!(
            (relayed.to_peer, relayed.from_peer),
            (MIB as u64, MIB as u64),
            "{what}: counted as they are"
        );
        let now = [sent(&client), sent(&hub), sent(&node), sent(&door)];
        for ((hop, compressed), bytes) in ["client to hub", "hub to node", "node to hub", "hub to client"]
            .into_iter()
            .zip([first, second, second, first])
            .zip(now.iter().zip(before).map(|(now, before)| now - before))
        {
            assert_eq!(bytes < MIB / 3, compressed, "{what}, {hop}: {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn a_relay_passes_on_as_it_came_what_may_be() {
    // Our own compressor ends with six letters that are no copy, this one's with five.
    let odd = b"\x84\0\0\x10\x2c\x01\0\0\x1fx\x01\0\xff\x14\x50xxxxx";
    let plain = [&record_header(RecordKind::Item, 300)[..], &[b'x'; 300]].concat();
    for (what, onwards, expected) in [
        ("alike", ON, &odd[..]),
        ("from another size on", Compression { min_size: 301, ..ON }, &plain),
        ("not compressed", Compression::OFF, &plain),
    ] {
        let (mut here, _ours, id, from) = announced(Side::Dialer, ON).await;
        let (mut there, _theirs, onward, to) = announced(Side::Dialer, onwards).await;
        here.send(&data(0, id, odd)).await;
        tokio::select! {
            relayed = relay(from, to) => panic!("{what}: {relayed:?}"),
            frame = next_data(&mut there, onward) => assert_eq!(frame.body, expected, "{what}"),
        }
    }
}

#[tokio::test]
async fn a_relay_cuts_nothing_and_leaves_items_where_they_were() {
    let (client, mut door) = pair_of(ON, ON);
    let (mut node, hub) = pair_of(ON, ON);
    let (mut here, from, _) = opened(&client.session, &mut door, to("s").compressed()).await;
    let (onward, mut there, _) = opened(&hub.session, &mut node, to("s").compressed()).await;
    let talking = async {
        for size in [0, 10, 300, 40_000, MAX_RECORD_PAYLOAD] {
            here.send(RecordKind::Item, &text(size)).await.unwrap();
            let mut got = Vec::new();
            loop {
                match soon("an item", there.next()).await.unwrap() {
                    Record::Data(piece) => got.extend_from_slice(&piece),
                    Record::Item(last) => {
                        got.extend_from_slice(&last);
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(got == text(size), "an item of {size} bytes");
        }
    };
    tokio::select! {
        relayed = relay(from, onward) => panic!("{relayed:?}"),
        () = talking => {}
    }
}

#[tokio::test]
async fn a_broken_block_ends_both_sides_of_a_relay_with_its_code() {
    let (mut peer, mut door, id, from) = announced(Side::Dialer, ON).await;
    let (mut node, hub) = pair_of(ON, ON);
    let (onward, mut there, _) = opened(&hub.session, &mut node, to("s").compressed()).await;
    peer.send(&data(0, id, b"\x80\0\0\x08\xff\xff\xff\xff\x1fx\x01\0")).await;
    let (relayed, told) = join!(relay(from, onward), soon("the other side", there.next()));
    assert!(relayed.end.is_err());
    assert!(matches!(&told, Err(StreamEnd::Reset { code: Code::Compression, .. })), "{told:?}");
    assert_eq!((hub.session.end(), door.session.end()), (None, None));
    drop(open(&hub.session, &mut node.incoming).await);
    drop(substream_of(&mut peer, &mut door, &to("s")).await);
}

#[tokio::test]
async fn what_a_visitor_says_early_is_compressed_too() {
    let (near, mut far) = pair_of(ON, ON);
    let payload = text(16_000);
    let (mut local, mut visitor) = Transport::memory_pair(RECORD_MAX);
    visitor.write_all(&payload).await.unwrap();
    let before = sent(&near);
    let mut early = Early::of(&mut local);
    let (here, there) = join!(near.session.open_early(to("s").compressed(), &mut early), async {
        let mut inbound = soon("an open", far.incoming.next()).await.unwrap();
        inbound.open().await.unwrap();
        let budget = far.budget.clone();
        let held = until("early bytes", move || budget.used(), |used| *used > 1000);
        let work = async {
            held.await;
            Ok(())
        };
        inbound.answer(work).await.unwrap().0
    });
    assert_eq!(early.len(), payload.len());
    assert!(sent(&near) - before < payload.len() / 2, "{}", sent(&near) - before);
    let mut there = there;
    let copying = splice(here.unwrap(), local);
    let talking = async {
        let mut got = Vec::new();
        while got.len() < payload.len() {
            let Record::Data(bytes) = soon("early data", there.next()).await.unwrap() else { panic!() };
            got.extend_from_slice(&bytes);
        }
        assert!(got == payload);
        // And a socket's data behind it, both ways.
        visitor.write_all(&payload).await.unwrap();
        visitor.shutdown().await.unwrap();
        let (more, end) = read_all(&mut there).await;
        assert!(more == payload && end.is_ok());
        there.send(RecordKind::Data, &payload).await.unwrap();
        there.finish(None).await.unwrap();
        let mut back = Vec::new();
        visitor.read_to_end(&mut back).await.unwrap();
        assert!(back == payload);
    };
    let (copied, ()) = join!(copying, talking);
    assert_eq!((copied.to_peer, copied.from_peer), (16_000, 16_000), "counted as they are at the socket");
    assert!(sent(&near) - before < payload.len(), "{}", sent(&near) - before);
}

#[tokio::test]
async fn a_plain_byte_pipe_is_compressed_like_records() {
    let (near, mut far) = pair_of(ON, ON);
    let (here, there, _) = opened(&near.session, &mut far, to("s").compressed()).await;
    let (mut here, mut there) = (here.into_io(), there.into_io());
    let before = sent(&near);
    let payload = text(MIB);
    let sending = async {
        here.write_all(&payload).await.unwrap();
        here.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = join!(sending, there.read_to_end(&mut got));
    read.unwrap();
    assert!(got == payload);
    assert!(sent(&near) - before < MIB / 3);
}
