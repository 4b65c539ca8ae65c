//! Programs that are killed, stopped, torn apart or lied to: whoever spoke through them learns the truth, nothing is
//! left behind, and what comes after finds everything in order. docs/faults.md says which fault each test is about.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;
mod faults_support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use cli_support::{SOON, finished, services};
use faults_support::{Cable, NODE, World, ask, assert_reset};
use reachback_testkit::{
    eventually,
    process::{Process, Signal, Stream},
};
use reachback_wire::{
    Code, FrameDecoder, FrameType, Generation, Hello, Instance, Nonce, Open, ProtocolRange, Refusal, Role,
    Stage, Welcome, frame,
};
use serde_json::{Value, json};

/// So slow that nothing a test waits for can be noticed by it.
const SLOW: &str = "60s";

#[test]
fn a_node_killed_in_a_call_is_lost_at_once_and_leaves_nothing() {
    const HALF: &[u8] = b"half an answer\n";
    let half = services::serve(|mut stream| {
        drop(stream.write_all(HALF));
        drop(stream.read_to_end(&mut Vec::new()));
    });
    let mut world = World::start(SLOW, &[("half", half)]);
    let target = format!("{NODE}/half");
    world.until("online");
    let files = world.explorer.open_files().unwrap();
    for _ in 0..3 {
        let mut visitors = world.ways("half").map(|way| (way.0, world.visit(way)));
        for (_, stream) in &mut visitors {
            stream.read_exact(&mut [0; HALF.len()]).unwrap();
        }
        let mut connect = world.home.command(&["connect", &target, "--explorer", &world.address]);
        let (mut connect, stdin) = Process::spawn_with_stdin("connect", &mut connect).unwrap();
        connect.wait_for_line("half an answer", SOON).unwrap();
        assert_eq!(world.view()["streams"], 3);

        world.node.kill().unwrap();
        for (way, stream) in &mut visitors {
            assert_reset(stream, way);
        }
        let ended = finished(&mut connect);
        assert_eq!(ended.status.code(), Some(69), "{}", ended.stderr);
        assert!(ended.stderr.contains("lost"), "{}", ended.stderr);
        drop(stdin);
        let view = world.until("offline");
        assert_eq!((&view["streams"], &view["last_end"]["code"]), (&0.into(), &"lost".into()), "{view}");

        world.restart_node();
        world.until("online");
        drop(world.visit(world.ways("half")[0]));
        eventually(SOON, "what its streams held", || {
            let now = world.explorer.open_files().unwrap();
            if now <= files { Ok(()) } else { Err(format!("{now} files are open, {files} before")) }
        });
    }
    world.assert_sound();
}

#[test]
fn a_node_that_is_stopped_is_given_up_and_comes_back_with_a_new_session() {
    let mut world = World::start("500ms", &[("echo", services::echo())]);
    let before = world.until("online");
    let mut visitors = world.ways("echo").map(|way| (way.0, world.visit(way)));
    for (_, stream) in &mut visitors {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }

    world.node.signal(Signal::Stop).unwrap();
    let view = world.until("offline");
    let reason = view["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("no heartbeat for "),
        "its connection stands, only heartbeats can tell: {view}"
    );
    assert_eq!(view["last_end"]["session"], before["session"], "{view}");
    for (way, stream) in &mut visitors {
        assert_reset(stream, way);
    }
    let refused = world.home.run(&["connect", "edge-7/echo", "--explorer", &world.address]);
    assert_eq!(refused.status.code(), Some(69), "{}", refused.stderr);
    assert!(refused.stderr.starts_with("node_offline: "), "{}", refused.stderr);

    let mark = world.node.mark();
    world.node.signal(Signal::Continue).unwrap();
    world.node.wait_for_line_after(mark, "edge-7 offline at", SOON).unwrap();
    world.node.wait_for_line_after(mark, "edge-7 online at", SOON).unwrap();
    let after = world.until("online");
    let number = |view: &Value| view["session"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&after) > number(&before), "{after}");
    for way in world.ways("echo") {
        assert_eq!(ask(world.visit(way), b"are you there?").unwrap(), b"are you there?", "{}", way.0);
    }
    world.assert_sound();
}

#[test]
fn a_reset_in_the_middle_of_a_frame_is_a_reset_for_the_streams_and_the_node_comes_back() {
    let flood = services::serve(|mut stream| while stream.write_all(&[b'y'; 64 * 1024]).is_ok() {});
    let sunk = Arc::new(AtomicU64::new(0));
    let sink = {
        let sunk = Arc::clone(&sunk);
        services::serve(move |mut stream| {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                sunk.fetch_add(count as u64, Ordering::Relaxed);
            }
        })
    };
    let mut cable = None;
    let mut world = World::start_through(
        SLOW,
        &[("echo", services::echo()), ("flood", flood), ("sink", sink)],
        |explorer| cable.insert(Cable::to(explorer)).address(),
    );
    let cable = cable.unwrap();
    let service = format!("--service=echo={}", services::echo());
    let _neighbour = world.home.node(&world.address, "edge-8", &[&service]);
    let neighbouring = world.home.start(&["forward", "edge-8/echo", "--explorer", &world.address]);
    let line = neighbouring.wait_for_line("-> edge-8/echo", SOON).unwrap();
    let mut neighbour = TcpStream::connect(line.split_whitespace().next().unwrap()).unwrap();
    neighbour.set_read_timeout(Some(SOON)).unwrap();

    for direction in ["down", "up"] {
        for (way, port) in world.ways(if direction == "down" { "flood" } else { "sink" }) {
            let what = format!("{direction} through the {way}");
            let mut visitor = world.visit((way, port));
            let mark = world.node.mark();
            if direction == "down" {
                visitor.read_exact(&mut vec![0; 1 << 20]).unwrap();
                cable.tear();
                assert_reset(&mut visitor, &what);
            } else {
                let before = sunk.load(Ordering::Relaxed);
                visitor.write_all(&vec![7; 8 << 20]).unwrap();
                eventually(SOON, "bytes on their way", || {
                    (sunk.load(Ordering::Relaxed) > before + (1 << 20)).then_some(())
                });
                cable.tear();
                let told = loop {
                    if let Err(error) = visitor.write_all(&[7; 64 * 1024]) {
                        break error;
                    }
                };
                // Writing into a connection that was ended in order is a broken pipe.
                assert_eq!(told.kind(), ErrorKind::ConnectionReset, "{what}: {told}");
            }
            world.node.wait_for_line_after(mark, "edge-7 offline at", SOON).unwrap();
            world.node.wait_for_line_after(mark, "edge-7 online at", SOON).unwrap();
            let view = world.until("online");
            assert_eq!(view["last_end"]["code"], "lost", "{what}: {view}");
            for way in world.ways("echo") {
                assert_eq!(ask(world.visit(way), b"and now?").unwrap(), b"and now?", "{what}, {}", way.0);
            }
            neighbour.write_all(b"still here").unwrap();
            let mut answer = [0; 10];
            neighbour.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"still here", "the stream of another node, {what}");
        }
    }
    world.assert_sound();
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    let slow = services::serve(|mut stream| {
        let mut question = Vec::new();
        drop(stream.read_to_end(&mut question));
        // Nothing moves in either direction meanwhile: the half-close has long arrived everywhere.
        let (_never, nothing) = mpsc::channel::<()>();
        assert!(nothing.recv_timeout(Duration::from_secs(1)).is_err());
        drop(stream.write_all(&[b"the answer to ", &question[..]].concat()));
        drop(stream.shutdown(Shutdown::Write));
    });
    let mut world = World::start("500ms", &[("slow", slow)]);
    for way in world.ways("slow") {
        let answer =
            ask(world.visit(way), b"a question").unwrap_or_else(|error| panic!("{}: {error}", way.0));
        assert_eq!(answer, b"the answer to a question", "{}", way.0);
    }
    let arguments = ["connect", "edge-7/slow", "--explorer", &world.address];
    let ended = world.home.run_with_input(&arguments, b"a question");
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(ended.stdout, "the answer to a question\n");
    world.assert_sound();
}

#[test]
fn broken_hellos_are_denied_closed_and_logged_on_one_clean_line() {
    let mut world = World::start(SLOW, &[("echo", services::echo())]);
    let mut standing = world.visit(world.ways("echo")[0]);
    let good = serde_json::to_value(hello()).unwrap();
    let with = |field: &str, value: Value| {
        let mut json = good.clone();
        json[field] = value;
        frame::encode(FrameType::Hello, &json)
    };
    let mut no_utf8 = with("id", "edge-9".into());
    let id = no_utf8.windows(6).position(|bytes| bytes == b"edge-9").unwrap();
    no_utf8[id] = 0xff;
    let announced = |length: u32| [&frame::MAGIC[..], &[1], &length.to_be_bytes()].concat();
    let mut cases: Vec<(&str, Vec<u8>, Option<Code>)> = vec![
        ("wrong magic", b"RBK\x02\x01\0\0\0\x02{}".to_vec(), None),
        ("another protocol", b"SSH-2.0-\x1b[31mOpenSSH\r\nFAKE LINE\r\n".to_vec(), None),
        ("a future version", with("protocol", json!({ "min": 7, "max": 9 })), Some(Code::VersionMismatch)),
        ("4 GiB, announced", announced(u32::MAX), Some(Code::TooLarge)),
        ("a byte more than a stranger may send", announced(8 * 1024 + 1), Some(Code::TooLarge)),
        ("no UTF-8", no_utf8, Some(Code::BadFrame)),
        ("no JSON", [&announced(4)[..], b"{\"id"].concat(), Some(Code::BadFrame)),
    ];
    let long = "x".repeat(2048);
    for id in ["", &long, "../etc", "a\0b", "x\r\nFAKE LINE", "*", ">", "\u{1b}[31mred", "a\u{202e}b"] {
        cases.push(("an id that is none", with("id", id.into()), Some(Code::BadFrame)));
    }
    for (what, bytes, code) in cases {
        let what = format!("{what}: {:?}", String::from_utf8_lossy(&bytes));
        let mut stranger = stranger(&world);
        let from = stranger.local_addr().unwrap();
        stranger.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        stranger.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{what}: {error}"));
        let told = denial(answer);
        assert_eq!(told.as_ref().map(|refusal| refusal.code), code, "{what}");
        if let Some(Refusal { message, .. }) = told {
            assert!((20..1024).contains(&message.len()), "{what}: {message}");
            assert!(!message.contains(printed_badly), "{what}: {message:?}");
        }
        let line = only_line_about(&world.explorer, &format!("peer={from}"), &what);
        assert!(line.len() < 1500, "{what}: {line}");
    }
    let lines = world.explorer.lines(Stream::Err);
    assert!(!lines.iter().any(|line| line.starts_with("FAKE")), "{lines:?}");
    standing.write_all(b"x").unwrap();
    standing.read_exact(&mut [0]).unwrap();
    world.assert_sound();
}

#[test]
fn frames_that_break_the_mux_cost_the_explorer_one_session_and_one_line() {
    let mut world = World::start(SLOW, &[("echo", services::echo())]);
    let mut standing = world.visit(world.ways("echo")[1]);
    type Frame = Vec<u8>;
    let header = |kind: u8, flags: u16, stream: u32, value: u32| -> Frame {
        [&[0, kind][..], &flags.to_be_bytes(), &stream.to_be_bytes(), &value.to_be_bytes()].concat()
    };
    let data = |flags: u16, stream: u32, body: &[u8]| -> Frame {
        [&header(0, flags, stream, body.len() as u32), body].concat()
    };
    let opening = data(1, 1, &frame::encode(FrameType::Open, &Open::control()));
    for (what, attack) in [
        ("window overflow, CVE-2026-31814", header(1, 0, 1, u32::MAX)),
        ("a first frame beyond the window, CVE-2026-32314", data(1, 3, &vec![0; 256 * 1024 + 1])),
        ("another version", [&[9][..], &header(0, 0, 1, 0)[1..]].concat()),
        ("an unknown type", header(77, 0, 1, 0)),
        ("stream 0", data(0, 0, b"x")),
        ("an id of the other side", data(1, 2, b"x")),
        ("the id of a live stream", data(1, 1, b"x")),
        ("data after FIN", [data(5, 3, b"x"), data(0, 3, b"x")].concat()),
        ("4 GiB, announced", header(0, 1, 3, u32::MAX)),
    ] {
        let mut peer = stranger(&world);
        peer.write_all(&frame::encode(FrameType::Hello, &hello())).unwrap();
        let welcome = welcome(&mut peer);
        peer.write_all(&opening).unwrap();
        // The explorer may be done with it before all of it is there.
        drop(peer.write_all(&attack));
        eventually(SOON, what, || match peer.read(&mut [0; 4096]) {
            Ok(0) | Err(_) => Some(()),
            Ok(_) => None,
        });
        let ended = format!("session={} ", welcome.session);
        let line = eventually(SOON, what, || {
            let lines = world.explorer.lines(Stream::Err);
            let about: Vec<String> = lines.into_iter().filter(|line| line.contains(&ended)).collect();
            match &about[..] {
                [_, last] if last.contains("disconnected") => Ok(last.clone()),
                _ => Err(about),
            }
        });
        assert!(line.contains("bad_frame"), "{what}: {line}");
        assert!(!line.contains(printed_badly), "{what}: {line:?}");
        standing.write_all(b"x").unwrap();
        standing.read_exact(&mut [0]).unwrap();
    }
    world.assert_sound();
}

fn hello() -> Hello {
    Hello {
        role: Role::Client,
        id: "stranger".parse().unwrap(),
        generation: Generation { instance: Instance([9; 16]), slot: 0, seq: 1 },
        protocol: ProtocolRange::SUPPORTED,
        agent: "test/1".to_owned(),
        nonce: Nonce([7; 32]),
        features: Vec::new(),
        credential: None,
        resume: None,
    }
}

fn stranger(world: &World) -> TcpStream {
    let address: SocketAddr = world.address.parse().unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream
}

/// The refusal in an answer, if there is an answer.
fn denial(answer: Vec<u8>) -> Option<Refusal> {
    if answer.is_empty() {
        return None;
    }
    let mut frames = FrameDecoder::new(Stage::HelloReply);
    frames.push(answer.into());
    let frame = frames.next().unwrap().unwrap();
    assert_eq!(frame.kind, FrameType::Denied);
    Some(frame.parse().unwrap())
}

fn welcome(peer: &mut TcpStream) -> Welcome {
    let mut frames = FrameDecoder::new(Stage::HelloReply);
    loop {
        if let Some(frame) = frames.next().unwrap() {
            assert_eq!(frame.kind, FrameType::Welcome);
            return frame.parse().unwrap();
        }
        let mut bytes = [0; 4096];
        let count = peer.read(&mut bytes).unwrap();
        assert!(count > 0, "closed instead of welcomed");
        frames.push(bytes[..count].to_vec().into());
    }
}

/// Waits for a log line with this in it and asserts that it is the only one, and clean.
#[track_caller]
fn only_line_about(process: &Process, part: &str, what: &str) -> String {
    process.wait_for_line(part, SOON).unwrap();
    let about = |line: &String| line.split_whitespace().any(|word| word == part);
    let lines: Vec<String> = process.lines(Stream::Err).into_iter().filter(about).collect();
    let [line] = &lines[..] else { panic!("{what}: {lines:#?}") };
    assert!(!line.contains(printed_badly), "{what}: {line:?}");
    line.clone()
}

/// What a terminal would obey, or would show in another place than where it stands.
fn printed_badly(character: char) -> bool {
    character.is_control() || ('\u{202a}'..='\u{202e}').contains(&character)
}
