//! A peer may send anything at all. It can lose its own session or its own substream by it, is told why where there is
//! a way to tell, and nobody else in the process notices. Known attacks on the mux crate are among the bytes below.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    End, Settings, across, echo, empty, end, end_within, open,
    raw::{ACK, DATA, FIN, GO_AWAY, PING, RST, RawPeer, SYN, WINDOW, data, header},
    read_all, soon, to,
};
use reachback_link::{
    Inbound, InboundError, MemoryBudget, OpenError, SessionEnd, Side, StreamEnd, Substream, Transport,
};
use reachback_wire::{
    Code, ControlMessage, FrameType, HeartbeatAck, Open, Opened, Record, RecordKind, Refusal, Replaced,
    frame::{self, MAGIC},
    limits,
    record::{encode_end, encode_reset, record_header},
};
use tokio::time::Instant;

const SIDES: [Side; 2] = [Side::Dialer, Side::Acceptor];

/// A hostile peer with a session of ours and one live substream, and beside them an honest pair in the same process.
struct Scene {
    peer: RawPeer,
    ours: End,
    id: u32,
    substream: Substream,
    honest: (End, End),
    calm: (Substream, Substream),
}

impl Scene {
    async fn new(side: Side) -> Self {
        Self::on_a_pipe(side, 64 * 1024).await
    }

    async fn on_a_pipe(side: Side, capacity: usize) -> Self {
        let budget = Arc::new(MemoryBudget::new(64 << 20));
        let (far, near) = Transport::memory_pair(capacity);
        let mut ours = end_within(near, across(side), &Settings::default(), &budget);
        let mut peer = RawPeer::new(far, side);
        peer.control().await;
        let (id, substream) = peer.substream(&mut ours).await;
        let (near, far) = Transport::memory_pair(64 * 1024);
        let near = end_within(near, Side::Dialer, &Settings::default(), &budget);
        let mut far = end_within(far, Side::Acceptor, &Settings::default(), &budget);
        let calm = open(&near.session, &mut far.incoming).await;
        Self { peer, ours, id, substream, honest: (near, far), calm }
    }

    /// The attack has cost its session, and only that. Returns why it says it ended.
    async fn loses_it(mut self, what: &str) -> SessionEnd {
        let driver = soon(what, &mut self.ours.driver).await;
        let end = driver.unwrap_or_else(|panic| panic!("{what}: {panic}"));
        assert_eq!(self.ours.session.end(), Some(end.clone()), "{what}");
        assert!(!end.message.is_empty() && !end.message.contains(char::is_control), "{what}: {end:?}");
        let told = read_all(&mut self.substream).await.1;
        assert!(matches!(told, Err(StreamEnd::Lost(_))), "{what}: {told:?}");
        while let Some(mut inbound) = soon(what, self.ours.incoming.next()).await {
            assert!(matches!(inbound.open().await, Err(InboundError::Gone(StreamEnd::Lost(_)))), "{what}");
        }
        drop((self.substream, self.peer));
        Self::nobody_noticed(self.honest, self.calm).await;
        empty(&self.ours).await;
        end
    }

    /// The attack was worth nothing: its session, the substream in it and everyone else go on.
    async fn goes_on(mut self, what: &str) {
        self.peer.send(&data(0, self.id, &record(RecordKind::Data, b"still here"))).await;
        let got = soon(what, self.substream.next()).await;
        assert_eq!(got, Ok(Record::Data("still here".into())), "{what}");
        drop(self.peer.substream(&mut self.ours).await);
        assert_eq!(self.ours.session.end(), None, "{what}");
        drop(self.substream);
        Self::nobody_noticed(self.honest, self.calm).await;
    }

    async fn nobody_noticed(honest: (End, End), mut calm: (Substream, Substream)) {
        echo(&mut calm.0, &mut calm.1, b"nothing happened here").await;
        assert_eq!((honest.0.session.end(), honest.1.session.end()), (None, None));
    }
}

fn record(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    [&record_header(kind, payload.len())[..], payload].concat()
}

/// A frame header that announces this many bytes.
fn announces(kind: u8, len: u32) -> Vec<u8> {
    [&MAGIC[..], &[kind], &len.to_be_bytes()].concat()
}

/// A frame of this type with this payload, whatever it is.
fn odd_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&announces(kind, payload.len() as u32)[..], payload].concat()
}

#[tokio::test]
async fn frames_that_break_the_mux_cost_their_session_and_nothing_else() {
    for side in SIDES {
        let foreign = if side == Side::Dialer { 100 } else { 101 };
        type Attack = fn(u32, u32, u32) -> Vec<u8>;
        // Arguments: a live substream of the peer, its next id, an id that only we may use.
        let attacks: [(&str, Attack); 17] = [
            ("window overflow, CVE-2026-31814", |id, _, _| header(WINDOW, 0, id, u32::MAX)),
            ("window overflow on a new stream", |_, new, _| header(WINDOW, SYN, new, u32::MAX)),
            ("window overflow in two steps", |id, _, _| {
                [header(WINDOW, 0, id, 0x8000_0000), header(WINDOW, 0, id, 0x8000_0000)].concat()
            }),
            ("a first frame beyond the window, CVE-2026-32314", |_, new, _| {
                data(SYN, new, &vec![0; 256 * 1024 + 1])
            }),
            ("a first frame of almost a megabyte", |_, new, _| data(SYN, new, &vec![0; 1_000_000])),
            ("a later frame beyond the window", |id, _, _| data(0, id, &vec![0; 256 * 1024 + 1])),
            ("a frame of a gigabyte, announced", |id, _, _| header(DATA, 0, id, 1 << 30)),
            ("a frame of 4 GiB, announced", |_, new, _| header(DATA, SYN, new, u32::MAX)),
            ("another version", |id, _, _| [&[1][..], &header(DATA, 0, id, 0)[1..]].concat()),
            ("an unknown type", |id, _, _| header(9, 0, id, 0)),
            ("data for stream 0", |_, _, _| data(0, 0, b"x")),
            ("a new stream 0", |_, _, _| data(SYN, 0, b"x")),
            ("an id of the other side", |_, _, foreign| data(SYN, foreign, b"x")),
            ("an id of the other side, by window update", |_, _, foreign| header(WINDOW, SYN, foreign, 0)),
            ("the id of a live stream", |id, _, _| data(SYN, id, b"x")),
            ("the id of a live stream, by window update", |id, _, _| header(WINDOW, SYN, id, 0)),
            ("data after FIN", |id, _, _| {
                [data(FIN, id, b""), data(0, id, &record(RecordKind::Data, b"from beyond"))].concat()
            }),
        ];
        for (name, attack) in attacks {
            let what = format!("{name}, {side:?}");
            let mut scene = Scene::new(side).await;
            let next = scene.peer.next_id();
            let bytes = attack(scene.id, next, foreign);
            scene.peer.send(&bytes).await;
            let end = scene.loses_it(&what).await;
            assert_eq!(end.code, Code::BadFrame, "{what}: {end}");
        }
    }
}

#[tokio::test]
async fn garbage_on_control_costs_the_session() {
    for side in SIDES {
        for (name, bytes, code) in [
            ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Code::BadFrame),
            ("4 GiB, announced", announces(32, u32::MAX), Code::TooLarge),
            ("4 GiB of an unknown type", announces(200, u32::MAX), Code::TooLarge),
            ("a heartbeat that is no JSON", odd_frame(32, b"{\"seq\":"), Code::BadFrame),
            ("a heartbeat that is no UTF-8", odd_frame(32, b"{\"seq\":\"\xff\"}"), Code::BadFrame),
            ("a goodbye without a reason", odd_frame(39, b"{}"), Code::BadFrame),
            ("an open", frame::encode(FrameType::Open, &Open::control()), Code::BadFrame),
            ("a denial", frame::encode(FrameType::Denied, &Refusal::new(Code::Denied, "no")), Code::BadFrame),
        ] {
            let what = format!("{name}, {side:?}");
            let mut scene = Scene::new(side).await;
            scene.peer.send(&data(0, 1, &bytes)).await;
            let end = scene.loses_it(&what).await;
            assert_eq!(end.code, code, "{what}: {end}");
        }
        for (name, bytes) in [("its end", header(DATA, FIN, 1, 0)), ("its reset", header(DATA, RST, 1, 0))] {
            let mut scene = Scene::new(side).await;
            scene.peer.send(&bytes).await;
            scene.loses_it(&format!("{name}, {side:?}")).await;
        }
    }
}

#[tokio::test]
async fn what_a_later_version_says_on_control_is_passed_over() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        let replaced = ControlMessage::Replaced(Replaced { message: "after it".into() });
        for bytes in [
            odd_frame(200, &vec![0xff; 200_000]),
            odd_frame(33, b"{\"seq\":\"999999\",\"new\":[1]}"),
            ControlMessage::HeartbeatAck(HeartbeatAck { seq: u64::MAX }).encode(),
            replaced.encode(),
        ] {
            scene.peer.send(&data(0, 1, &bytes)).await;
        }
        assert_eq!(soon("the message behind it", scene.ours.control.next()).await, Some(replaced));
        scene.goes_on("an unknown control message").await;
    }
}

#[tokio::test]
async fn a_go_away_ends_the_session_as_lost() {
    for side in SIDES {
        for code in [0, 1, 2, 99] {
            let mut scene = Scene::new(side).await;
            scene.peer.send(&header(GO_AWAY, 0, 0, code)).await;
            scene.loses_it(&format!("go away {code}, {side:?}")).await;
        }
    }
}

#[tokio::test]
async fn frames_about_streams_nobody_knows_are_worth_nothing() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        let (gone, unused) = (scene.peer.next_id(), 2_000_000_000 + scene.id);
        scene.peer.send(&data(SYN | RST, gone, b"")).await;
        for flags in [RST, FIN, ACK, 0] {
            let mut flood = Vec::new();
            for n in 0..25_000 {
                let id = if n % 2 == 0 { gone } else { unused + 2 * n };
                flood.extend(header(WINDOW, flags, id, 0));
                flood.extend(header(DATA, flags, id, 0));
            }
            assert!(scene.peer.send(&flood).await);
        }
        while let Ok(Some(mut inbound)) =
            tokio::time::timeout(Duration::ZERO, scene.ours.incoming.next()).await
        {
            assert!(matches!(inbound.open().await, Err(InboundError::Gone(_))));
        }
        scene.goes_on(&format!("100,000 resets, {side:?}")).await;
    }
}

#[tokio::test]
async fn pings_are_answered_and_answers_nobody_asked_for_are_ignored() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        for value in [0, 7, u32::MAX] {
            scene.peer.send(&header(PING, ACK, 0, value)).await;
            scene.peer.send(&header(PING, SYN, 0, value)).await;
            let pong = scene.peer.recv_until(|frame| frame.kind == PING && frame.flags == ACK).await;
            assert_eq!((pong.stream, pong.value), (0, value));
        }
        scene.goes_on("pings").await;
    }
}

#[tokio::test]
async fn pings_whose_answers_are_never_read_cost_the_session() {
    for side in SIDES {
        let mut scene = Scene::on_a_pipe(side, 4096).await;
        let flood = header(PING, SYN, 0, 1).repeat(100);
        let mut sent = 0;
        while scene.peer.send(&flood).await {
            sent += 100;
            assert!(sent < 100 * limits::PONGS_OWED_MAX, "{sent} pings and the session lives");
            assert!(scene.ours.budget.used() < 1 << 20);
        }
        assert!(sent >= 1000, "{sent} pings are no flood");
        scene.loses_it("a ping flood").await;
    }
}

#[tokio::test]
async fn pings_whose_answers_are_read_are_fine() {
    let mut scene = Scene::new(Side::Dialer).await;
    for _ in 0..200 {
        scene.peer.send(&header(PING, SYN, 0, 1).repeat(100)).await;
        for _ in 0..100 {
            scene.peer.recv_until(|frame| frame.kind == PING && frame.flags == ACK).await;
        }
    }
    scene.goes_on("20,000 pings").await;
}

#[tokio::test]
async fn more_streams_than_agreed_cost_the_session() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        let mut opened = 0;
        while opened < limits::MUX_STREAMS_MAX + 64 {
            let ids: Vec<u8> = (0..64).flat_map(|_| header(WINDOW, SYN, scene.peer.next_id(), 0)).collect();
            opened += 64;
            if !scene.peer.send(&ids).await {
                break;
            }
        }
        // Not a heartbeat: the mux itself says so.
        let end = scene.loses_it(&format!("{opened} streams, {side:?}")).await;
        assert_eq!(end.code, Code::BadFrame, "{end}");
    }
}

#[tokio::test]
async fn the_highest_stream_id_is_an_id_like_any_other() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        let highest = if side == Side::Dialer { u32::MAX } else { u32::MAX - 1 };
        scene.peer.send(&data(SYN, highest, &frame::encode(FrameType::Open, &to("s")))).await;
        let mut inbound = soon("the open", scene.ours.incoming.next()).await.unwrap();
        inbound.open().await.unwrap();
        let (substream, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
        assert_eq!(scene.peer.reply(highest).await.kind, FrameType::Opened);
        drop(substream);
        scene.goes_on("the highest id").await;
    }
}

#[tokio::test]
async fn the_first_substream_of_a_dialer_is_control_or_there_is_no_session() {
    let (far, near) = Transport::memory_pair(64 * 1024);
    let mut ours = end(near, Side::Acceptor, &Settings::default());
    let mut peer = RawPeer::new(far, Side::Dialer);
    peer.open(&to("s")).await;
    let ended = soon("the end", &mut ours.driver).await.unwrap();
    assert_eq!(ended.code, Code::BadFrame, "{ended}");
    assert!(ours.incoming.next().await.is_none());
}

#[tokio::test]
async fn an_acceptor_may_open_before_its_answer_to_control_has_arrived() {
    let (far, near) = Transport::memory_pair(64 * 1024);
    let mut ours = end(near, Side::Dialer, &Settings::default());
    let mut peer = RawPeer::new(far, Side::Acceptor);
    peer.recv_until(|frame| frame.stream == 1).await;
    let (id, mut substream) = peer.substream(&mut ours).await;
    peer.send(&data(ACK, 1, &frame::encode(FrameType::Opened, &Opened::default()))).await;
    peer.send(&data(0, id, &record(RecordKind::Data, b"early"))).await;
    assert_eq!(substream.next().await, Ok(Record::Data("early".into())));
}

#[tokio::test]
async fn a_second_control_is_refused() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        let id = scene.peer.open(&Open::control()).await;
        let told = soon("the open", scene.ours.incoming.next()).await.unwrap().open().await;
        assert!(matches!(told, Err(InboundError::Protocol(_))), "{told:?}");
        refused(&mut scene.peer, id, Code::BadFrame, "a second control").await;
        scene.goes_on("a second control").await;
    }
}

async fn refused(peer: &mut RawPeer, id: u32, code: Code, what: &str) {
    let reply = peer.reply(id).await;
    assert_eq!(reply.kind, FrameType::Refused, "{what}");
    let refusal: Refusal = reply.parse().unwrap();
    assert_eq!(refusal.code, code, "{what}: {refusal}");
    assert!(refusal.message.len() > 10, "{what}: {refusal}");
}

#[tokio::test]
async fn an_open_header_that_is_none_is_refused_with_its_code() {
    let target =
        |target: &str| format!("{{\"kind\":\"stream\",\"hop\":0,\"target\":\"{target}\"}}").into_bytes();
    for side in SIDES {
        for (name, bytes, code) in [
            ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), Code::BadFrame),
            ("one wrong byte", b"RBK\x02".to_vec(), Code::BadFrame),
            ("4 GiB, announced", announces(16, u32::MAX), Code::TooLarge),
            ("a byte more than allowed", announces(16, limits::OPEN_MAX as u32 + 1), Code::TooLarge),
            ("an unknown type", odd_frame(200, b"{}"), Code::BadFrame),
            ("an answer", frame::encode(FrameType::Opened, &Opened::default()), Code::BadFrame),
            ("a hello", odd_frame(1, b"{}"), Code::BadFrame),
            ("no JSON", odd_frame(16, b"{\"kind\":"), Code::BadFrame),
            ("no object", odd_frame(16, b"[]"), Code::BadFrame),
            ("no UTF-8", odd_frame(16, b"{\"kind\":\"\xc3\x28\"}"), Code::BadFrame),
            ("no target", odd_frame(16, b"{\"kind\":\"stream\",\"hop\":0}"), Code::BadFrame),
            (
                "an unknown kind",
                odd_frame(16, b"{\"kind\":\"teapot\",\"hop\":0,\"target\":\"n/s\"}"),
                Code::BadFrame,
            ),
            ("2 KiB of letters", odd_frame(16, &target(&format!("{}/s", "a".repeat(2048)))), Code::BadFrame),
            ("a path", odd_frame(16, &target("../etc/passwd")), Code::BadFrame),
            ("NUL", odd_frame(16, &target("n\\u0000/s")), Code::BadFrame),
            ("CR and LF", odd_frame(16, &target("n/s\\r\\nX: y")), Code::BadFrame),
            ("an escape", odd_frame(16, &target("n/\\u001b[2J")), Code::BadFrame),
            ("a pattern", odd_frame(16, &target("*/s")), Code::BadFrame),
        ] {
            let what = format!("{name}, {side:?}");
            let mut scene = Scene::new(side).await;
            let id = scene.peer.next_id();
            scene.peer.send(&data(SYN, id, &bytes)).await;
            let mut inbound: Inbound = soon(&what, scene.ours.incoming.next()).await.unwrap();
            let told = soon(&what, inbound.open()).await;
            let Err(InboundError::Protocol(text)) = told else { panic!("{what}: {told:?}") };
            assert!(text.len() < 600 && !text.contains(char::is_control), "{what}: {text:?}");
            refused(&mut scene.peer, id, code, &what).await;
            drop(inbound);
            scene.goes_on(&what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_header_that_never_ends_is_refused_in_time() {
    for side in SIDES {
        let header = frame::encode(FrameType::Open, &to("s"));
        for shown in [0, 3, header.len() - 1] {
            let mut scene = Scene::new(side).await;
            let begun = Instant::now();
            let id = scene.peer.next_id();
            scene.peer.send(&data(SYN, id, &header[..shown])).await;
            let mut inbound = scene.ours.incoming.next().await.unwrap();
            assert_eq!(inbound.open().await.unwrap_err(), InboundError::Timeout);
            assert_eq!(begun.elapsed().as_secs(), limits::OPEN_HEADER_TIMEOUT.as_secs());
            refused(&mut scene.peer, id, Code::Timeout, "half a header").await;
            drop(inbound);
            scene.goes_on("half a header").await;
        }
    }
}

#[tokio::test]
async fn a_header_cut_off_by_its_opener_is_nobodys_loss() {
    for side in SIDES {
        for flags in [FIN, RST] {
            let mut scene = Scene::new(side).await;
            let id = scene.peer.next_id();
            scene.peer.send(&data(SYN, id, b"RBK\x01")).await;
            let mut inbound = soon("half an open", scene.ours.incoming.next()).await.unwrap();
            scene.peer.send(&header(DATA, flags, id, 0)).await;
            let told = soon("the cut", inbound.open()).await.unwrap_err();
            assert_eq!(told, InboundError::Gone(StreamEnd::Dropped), "flags {flags}");
            drop(inbound);
            scene.goes_on("half a header").await;
        }
    }
}

#[tokio::test]
async fn more_early_bytes_than_allowed_are_refused() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        let id = scene.peer.open(&to("s")).await;
        let mut inbound = soon("the open", scene.ours.incoming.next()).await.unwrap();
        inbound.open().await.unwrap();
        for _ in 0..3 {
            scene.peer.send(&data(0, id, &record(RecordKind::Data, &[0; 30_000]))).await;
        }
        let told = soon("too much", inbound.answer(std::future::pending::<Result<(), _>>())).await;
        assert!(matches!(told.map(|_| ()), Err(InboundError::Protocol(_))));
        refused(&mut scene.peer, id, Code::BadFrame, "early bytes").await;
        scene.goes_on("early bytes").await;
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_the_openers_error_only() {
    for side in SIDES {
        for (name, flags, bytes) in [
            ("another protocol", ACK, b"HTTP/1.1 200 OK\r\n".to_vec()),
            ("4 GiB, announced", ACK, announces(18, u32::MAX)),
            ("no JSON", ACK, odd_frame(19, b"nope")),
            ("an open", ACK, frame::encode(FrameType::Open, &to("s"))),
            ("an unknown type", ACK, odd_frame(77, b"{}")),
            ("an end", ACK | FIN, vec![]),
            ("a reset", RST, vec![]),
        ] {
            let what = format!("{name}, {side:?}");
            let mut scene = Scene::new(side).await;
            let session = scene.ours.session.clone();
            let (opened, ()) = tokio::join!(soon(&what, session.open(to("s"))), async {
                // Ours have the other side's ids.
                let ours = |id: u32| id > 1 && id % 2 != scene.id % 2;
                let asked = scene.peer.recv_until(|frame| frame.kind == DATA && ours(frame.stream)).await;
                scene.peer.send(&data(flags, asked.stream, &bytes)).await;
            });
            let error = opened.unwrap_err();
            assert!(
                matches!(&error, OpenError::Protocol(text) if !text.contains(char::is_control)),
                "{what}: {error:?}"
            );
            scene.goes_on(&what).await;
        }
    }
}

#[tokio::test]
async fn records_that_are_none_cost_their_substream() {
    let two_ends = [encode_end(None), encode_end(None)].concat();
    let after_the_end = [encode_end(None), record(RecordKind::Data, b"more")].concat();
    for side in SIDES {
        for (name, expected, bytes) in [
            ("an unknown type", Code::BadFrame, vec![9, 0, 0, 1, 0]),
            ("compression that was not announced", Code::Compression, vec![0x80, 0, 0, 4, 1, 2, 3, 4]),
            ("a byte more than a record holds", Code::TooLarge, vec![0, 0, 0xff, 0xfd]),
            ("16 MiB, announced", Code::TooLarge, vec![0, 0xff, 0xff, 0xff]),
            ("an end of 64 KiB", Code::TooLarge, vec![1, 0, 0xff, 0xff]),
            ("an end that is no JSON", Code::BadFrame, vec![1, 0, 0, 2, b'{', b'{']),
            ("a reset without a code", Code::BadFrame, vec![2, 0, 0, 2, 0, 0]),
            ("data after the end", Code::BadFrame, after_the_end.clone()),
            ("a second end", Code::BadFrame, two_ends.clone()),
        ] {
            let what = format!("{name}, {side:?}");
            let mut scene = Scene::new(side).await;
            let (id, mut substream) = scene.peer.substream(&mut scene.ours).await;
            scene.peer.send(&data(0, id, &record(RecordKind::Data, b"good"))).await;
            scene.peer.send(&data(0, id, &bytes)).await;
            assert_eq!(soon(&what, substream.next()).await, Ok(Record::Data("good".into())), "{what}");
            let mut told = soon(&what, substream.next()).await;
            if told == Ok(Record::End(None)) {
                let gone = soon(&what, futures::future::poll_fn(|cx| substream.poll_gone(cx))).await;
                told = Err(gone);
            }
            let Err(StreamEnd::Protocol(code, text)) = told else { panic!("{what}: {told:?}") };
            assert_eq!(code, expected, "{what}");
            assert!(!text.is_empty() && !text.contains(char::is_control), "{what}: {text:?}");
            drop(substream);
            let last = scene.peer.recv_until(|frame| frame.stream == id && !frame.body.is_empty()).await;
            assert_eq!(last.body, encode_reset(code, &text), "{what}: the sender is told");
            scene.peer.recv_until(|frame| frame.stream == id && frame.flags & RST != 0).await;
            scene.goes_on(&what).await;
        }
    }
}

#[tokio::test]
async fn a_resets_text_and_code_are_the_peers_and_shown_safely() {
    for side in SIDES {
        let mut scene = Scene::new(side).await;
        let (id, mut substream) = scene.peer.substream(&mut scene.ours).await;
        let text = b"\x1b[2Jfine\r\nfake log line\0";
        let payload = [&4_000_000_000u32.to_be_bytes()[..], text].concat();
        scene.peer.send(&data(0, id, &record(RecordKind::Reset, &payload))).await;
        let told = soon("the reset", substream.next()).await;
        let Err(StreamEnd::Reset { code, text }) = told else { panic!("{told:?}") };
        assert_eq!(code, Code::Internal, "a code of a later version");
        assert!(!text.contains(char::is_control) && text.contains("fine"), "{text:?}");
        scene.goes_on("a reset").await;
    }
}
