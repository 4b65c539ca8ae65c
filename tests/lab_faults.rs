//! The line breaks, the programs die, the peers misbehave: both ends notice in time, say why, and come back alone; and
//! what a client sees is never better than what happened.

mod support;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use reachback_testkit::{
    eventually,
    lab::{Direction, Lab, LabConfig},
    process::{self, Process, Signal},
    tools,
};
use serde_json::Value;
use tokio::time::Instant;

use self::support::{BACK_AGAIN, NODE, Pattern, SOON, Service, Way, World, exchange, succeed, thorough};

/// Promised: a dead peer is noticed within 2.5 heartbeats, and a heartbeat is 10 s.
const NOTICED: Duration = Duration::from_secs(25);

#[test]
fn a_silent_line_is_noticed_by_both_ends_and_recovers_untouched() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let echo = Service::echo(lab.edge());
    let world = World::start(lab, &[("echo", echo.port())], None);

    // One direction dead is dead too: from the explorer to the node only, then both.
    for direction in [Direction::ToEdge, Direction::Both] {
        let mut open = opened(&world, world.published("echo"));
        let mark = world.node.mark();
        let began = Instant::now();
        world.lab.black_hole(direction, true);
        let said = world.node.wait_for_line_after(mark, "offline at", NOTICED).unwrap();
        assert!(said.contains("heartbeat") || said.contains("no byte"), "the node says why: {said}");
        let view = world.wait_for_state("offline", NOTICED.saturating_sub(began.elapsed()));
        says_why_and_since_when(&view);

        assert_broken(&mut open, "a connection that was open when the line died");
        let (_, published) = world.published("echo");
        eventually(SOON, "the published port is closed", || match world.visit(published) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(other.map(drop)),
        });
        let connect =
            process::run("connect", &mut world.client(&["connect", &format!("{NODE}/echo")]), SOON).unwrap();
        assert_eq!(connect.status.code(), Some(69), "offline is unreachable: {}", connect.stderr);
        assert!(connect.stderr.contains("offline"), "{}", connect.stderr);

        world.lab.black_hole(direction, false);
        for way in world.ways("echo") {
            world.wait_until_reachable(way, BACK_AGAIN);
        }
        world.wait_for_state("online", SOON);
    }
}

#[test]
fn an_explorer_that_is_killed_and_started_again_has_its_node_back() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let echo = Service::echo(lab.edge());
    let mut world = World::start(lab, &[("echo", echo.port())], None);
    let mut open = opened(&world, world.forwarded("echo"));

    let mark = world.node.mark();
    world.explorer.kill().unwrap();
    world.node.wait_for_line_after(mark, "offline at", SOON).unwrap();
    assert_broken(&mut open, "a connection that was open when the explorer died");
    world.restart_explorer();
    for way in world.ways("echo") {
        world.wait_until_reachable(way, BACK_AGAIN);
    }
    world.wait_for_state("online", SOON);
}

#[test]
fn a_frozen_node_is_offline_and_back_when_it_thaws() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    // Six heartbeats long; the promise is in heartbeats too.
    let (heartbeat, noticed, frozen) =
        if thorough() { ("10s", NOTICED, 60) } else { ("2s", Duration::from_secs(5), 12) };
    let frozen = Duration::from_secs(frozen);
    let lab = Lab::new(LabConfig::default()).unwrap();
    let echo = Service::echo(lab.edge());
    let mut world = World::start(lab, &[("echo", echo.port())], Some(heartbeat));
    let mut open = opened(&world, world.published("echo"));

    let began = Instant::now();
    world.node.signal(Signal::Stop).unwrap();
    let view = world.wait_for_state("offline", noticed);
    says_why_and_since_when(&view);
    assert_broken(&mut open, "a connection that was open when the node froze");
    eventually(frozen * 2, "the end of the frost", || (began.elapsed() >= frozen).then_some(()));

    let mark = world.node.mark();
    world.node.signal(Signal::Continue).unwrap();
    world.node.wait_for_line_after(mark, "online at", BACK_AGAIN).unwrap();
    for way in world.ways("echo") {
        world.wait_until_reachable(way, BACK_AGAIN);
    }
    world.wait_for_state("online", SOON);
}

#[test]
fn a_client_that_half_closes_and_waits_gets_its_answer() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let slow = Service::start(lab.edge(), |mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question)?;
        // Nothing moves in either direction meanwhile.
        let (_never, nothing) = mpsc::channel::<()>();
        assert!(nothing.recv_timeout(Duration::from_secs(10)).is_err());
        write!(stream, "the answer to {question}")?;
        stream.shutdown(Shutdown::Write)
    });
    let world = World::start(lab, &[("slow", slow.port())], None);

    thread::scope(|scope| {
        for (way, address) in world.ways("slow") {
            let world = &world;
            scope.spawn(move || {
                let mut stream = world.visit(address).unwrap();
                let answer =
                    exchange(&mut stream, b"a question").unwrap_or_else(|error| panic!("{way}: {error}"));
                assert_eq!(String::from_utf8_lossy(&answer), "the answer to a question", "through the {way}");
            });
        }
        let line = format!("printf 'a question' | {}", world.connect_line(&format!("{NODE}/slow")));
        let mut shell = world.lab.hub().command("sh");
        let answer = succeed("connect", shell.args(["-c", &line]), SOON).unwrap();
        assert_eq!(answer.stdout, "the answer to a question\n");
    });
}

#[test]
fn a_reset_by_the_service_arrives_as_a_reset() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let rude = Service::start(lab.edge(), |mut stream| {
        stream.write_all(b"half an ans\n")?;
        let mut question = [0; 1];
        stream.read_exact(&mut question)?;
        // Closing with unread bytes is what makes the kernel send RST instead of FIN.
        eventually(SOON, "more of the question", || matches!(stream.peek(&mut [0; 1]), Ok(1)).then_some(()));
        Ok(())
    });
    let world = World::start(lab, &[("rude", rude.port())], None);

    for (way, address) in world.ways("rude") {
        let mut stream = world.visit(address).unwrap();
        stream.write_all(&[b'?'; 1_000]).unwrap();
        let error = read_to_the_end(&mut stream).expect_err(way);
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "through the {way}: {error}");
    }

    let (connect, mut stdin) =
        Process::spawn_with_stdin("connect", &mut world.client(&["connect", &format!("{NODE}/rude")]))
            .unwrap();
    let mut connect = connect;
    stdin.write_all(&[b'?'; 1_000]).unwrap();
    let status = connect.wait(SOON).unwrap();
    assert!(!status.success(), "a short success: {status}\n{}", connect.tail());
    assert!(connect.tail().contains("reset"), "{}", connect.tail());
}

#[test]
fn a_reset_by_the_client_arrives_at_the_service() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let (ended, ends) = mpsc::channel();
    let service = Service::start(lab.edge(), move |mut stream| {
        stream.write_all(b"hello, and more\n")?;
        // The receiver outlives every visit of this test.
        ended.send(read_to_the_end(&mut stream)).map_err(io::Error::other)
    });
    let world = World::start(lab, &[("service", service.port())], None);

    for (way, address) in world.ways("service") {
        let mut stream = world.visit(address).unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        eventually(SOON, "more of the greeting", || matches!(stream.peek(&mut [0; 1]), Ok(1)).then_some(()));
        drop(stream);
        let error = loop {
            match ends.recv_timeout(SOON).expect(way) {
                // The node looks whether the service is there.
                Ok(0) => {}
                Ok(more) => panic!("{way}: {more} bytes"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "through the {way}: {error}");
    }
}

#[test]
fn a_service_that_is_killed_in_its_answer_is_an_error() {
    let Some(tools) = tools::need_lab(&["socat"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    const PORT: u16 = 7_000;
    let start = |lab: &Lab| {
        // Endless, and it never reads: the kernel resets what it leaves unread.
        let mut socat = tools.command_on(lab.edge(), "socat");
        let listen = format!("TCP-LISTEN:{PORT},bind=127.0.0.1,reuseaddr,fork");
        Process::spawn("socat", socat.args(["-d", "-d", "-U", &listen, "OPEN:/dev/zero"])).unwrap()
    };
    let mut service = start(&lab);
    service.wait_for_line("listening on", SOON).unwrap();
    let world = World::start(lab, &[("zeros", PORT)], None);

    for (way, address) in world.ways("zeros") {
        let mut stream = world.visit(address).unwrap();
        stream.write_all(b"a question nobody reads").unwrap();
        stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
        service.kill().unwrap();
        let error = read_to_the_end(&mut stream).expect_err(way);
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "through the {way}: {error}");
        service = start(&world.lab);
        service.wait_for_line("listening on", SOON).unwrap();
    }
}

#[test]
fn a_node_that_is_killed_in_an_answer_is_an_error_at_once() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let service = Service::start(lab.edge(), |mut stream| {
        stream.write_all(b"half an answer\n")?;
        read_to_the_end(&mut stream).map(drop)
    });
    let mut world = World::start(lab, &[("half", service.port())], None);

    let mut open: Vec<(&str, TcpStream)> =
        world.ways("half").map(|(way, address)| (way, world.visit(address).unwrap())).into();
    for (_, stream) in &mut open {
        stream.read_exact(&mut [0; b"half an answer\n".len()]).unwrap();
    }
    let (mut connect, _stdin) =
        Process::spawn_with_stdin("connect", &mut world.client(&["connect", &format!("{NODE}/half")]))
            .unwrap();
    connect.wait_for_line("half an answer", SOON).unwrap();

    world.node.kill().unwrap();
    for (way, stream) in &mut open {
        assert_broken(stream, way);
    }
    let status = connect.wait(SOON).unwrap();
    assert!(!status.success(), "a short success: {status}\n{}", connect.tail());
    assert!(connect.tail().contains("lost"), "the end has its name: {}", connect.tail());
    let view = world.wait_for_state("offline", SOON);
    says_why_and_since_when(&view);
}

#[test]
fn nc_tells_the_truth_about_a_published_port() {
    let Some(tools) = tools::need_lab(&["nc"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let echo = Service::echo(lab.edge());
    let mut world = World::start(lab, &[("echo", echo.port())], None);
    let port = world.published("echo").1.port().to_string();
    let nc = |world: &World| {
        let mut nc = tools.command_on(world.lab.hub(), "nc");
        process::run("nc", nc.args(["-zv", "-w", "5", "127.0.0.1", &port]), SOON).unwrap()
    };
    let open = |world: &World| {
        eventually(SOON, "nc finds the port open", || {
            let nc = nc(world);
            if nc.status.success() && nc.stderr.contains("succeeded") { Ok(()) } else { Err(nc.stderr) }
        });
    };

    open(&world);
    world.node.kill().unwrap();
    eventually(SOON, "nc is refused while the node is offline", || {
        let nc = nc(&world);
        if nc.status.code() == Some(1) && nc.stderr.contains("refused") { Ok(()) } else { Err(nc.stderr) }
    });
    world.restart_node();
    open(&world);
}

#[test]
fn bulk_both_ways_leaves_memory_flat_and_an_echo_answered() {
    /// 1 GiB each way, at once, on one stream; several times on one session.
    const SIZE: u64 = 1 << 30;
    const ROUNDS: u32 = 3;
    /// Resident memory of a program that carries one saturated stream; its unread bytes alone may be 66 MiB.
    const BUDGET: u64 = 100 << 20;
    /// Resident memory when the bytes have passed: the program, and what its allocator keeps. It does not grow with
    /// what was moved, which is sixty times as much in each direction.
    const AFTERWARDS: u64 = 48 << 20;
    const EVERY: Duration = Duration::from_millis(100);

    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let echo = Service::echo(lab.edge());
    let bulk = Service::start(lab.edge(), |stream| both_ways(&stream, SIZE));
    let world = World::start(lab, &[("echo", echo.port()), ("bulk", bulk.port())], None);

    let mut beside = world.visit(world.published("echo").1).unwrap();
    let (mut echoes, mut slowest) = (0, Duration::ZERO);
    let mut most = [0, 0];
    for _ in 0..ROUNDS {
        let through = world.visit(world.published("bulk").1).unwrap();
        let (done, bulk_done) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| done.send(both_ways(&through, SIZE)));
            loop {
                match bulk_done.recv_timeout(EVERY) {
                    Ok(result) => return result.unwrap(),
                    Err(_) => {
                        echoes += 1;
                        slowest = slowest.max(echo_once(&mut beside, echoes));
                        for (most, program) in most.iter_mut().zip([&world.explorer, &world.node]) {
                            *most = program.resident().unwrap().max(*most);
                        }
                    }
                }
            }
        });
    }
    println!("{echoes} echoes, the slowest {slowest:?}; resident at most, per round: {most:?}");
    assert!(echoes >= 10, "only {echoes} echoes beside {ROUNDS} x {SIZE} bytes: nothing is shown");
    for (name, program, most) in [("explorer", &world.explorer, most[0]), ("node", &world.node, most[1])] {
        assert!(most < BUDGET, "{name}: {most} bytes resident while bytes move");
        eventually(SOON, &format!("{name} gives its memory back"), || match program.resident().unwrap() {
            resident if resident < AFTERWARDS => Ok(()),
            resident => Err(resident),
        });
    }
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    /// Visitors that don't read, and as many whose service doesn't.
    const STUCK: usize = 8;
    const SIZE: u64 = 256 << 20;
    /// The bulk beside them may have 66 MiB unread, as above; each stuck one a first window of 256 KiB at every hop.
    const BUDGET: u64 = 110 << 20;

    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let (until_the_end, end) = io::pipe().unwrap();
    let echo = Service::echo(lab.edge());
    let bulk = Service::start(lab.edge(), |stream| both_ways(&stream, SIZE));
    let flood = Service::start(lab.edge(), |mut stream| Pattern::new().write(&mut stream, 1 << 40));
    let deaf = Service::start(lab.edge(), move |stream| {
        // Nothing is written to the pipe: this waits until it is closed, with the visitor's bytes unread.
        (&until_the_end).read_exact(&mut [0]).map(|()| drop(stream))
    });
    let services = [("echo", &echo), ("bulk", &bulk), ("flood", &flood), ("deaf", &deaf)];
    let world = World::start(lab, &services.map(|(name, service)| (name, service.port())), None);

    let unread: Vec<TcpStream> =
        (0..STUCK).map(|_| opened_to_read(&world, world.published("flood"))).collect();
    let unheard: Vec<TcpStream> =
        (0..STUCK).map(|_| world.visit(world.published("deaf").1).unwrap()).collect();
    let mut beside = opened(&world, world.forwarded("echo"));
    thread::scope(|scope| {
        for visitor in &unheard {
            // Ends with an error when the test shuts the socket down.
            scope.spawn(move || Pattern::new().write(&mut &*visitor, 1 << 40).unwrap_err());
        }
        let most = thread::scope(|scope| {
            let through = world.visit(world.published("bulk").1).unwrap();
            let moving = scope.spawn(move || both_ways(&through, SIZE));
            let mut most = 0;
            let mut number = 0;
            while !moving.is_finished() {
                number += 1;
                echo_once(&mut beside, number);
                let resident =
                    [&world.explorer, &world.node, &world.forward].map(|one| one.resident().unwrap());
                most = resident.into_iter().fold(most, u64::max);
            }
            moving.join().expect("no panic").map(|()| (number, most))
        });
        for visitor in unread.iter().chain(&unheard) {
            visitor.shutdown(Shutdown::Both).unwrap();
        }
        let (echoes, most) = most.unwrap();
        println!("{echoes} echoes beside {STUCK} + {STUCK} stuck visitors; {most} bytes resident at most");
        assert!(echoes > 0, "the bulk was over before an echo came back");
        assert!(most < BUDGET, "{most} bytes resident");
    });
    drop(end);
}

/// Sends `size` bytes and gets `size` bytes, at once; the ends are ends.
fn both_ways(stream: &TcpStream, size: u64) -> io::Result<()> {
    let pattern = Pattern::new();
    thread::scope(|scope| {
        let up = scope.spawn(|| {
            pattern.write(&mut &*stream, size)?;
            stream.shutdown(Shutdown::Write)
        });
        pattern.check(&mut &*stream, size)?;
        up.join().expect("no panic")
    })
}

/// A connection on which an echo has come back already, so that it stands from end to end.
fn opened(world: &World, (way, address): Way) -> TcpStream {
    let mut stream = world.visit(address).expect(way);
    stream.write_all(b"x").expect(way);
    stream.read_exact(&mut [0]).expect(way);
    stream
}

/// A connection whose first byte has come and whose others nobody will read.
fn opened_to_read(world: &World, (way, address): Way) -> TcpStream {
    let mut stream = world.visit(address).expect(way);
    stream.read_exact(&mut [0]).expect(way);
    stream
}

/// Asks and waits for the answer; how long it took.
fn echo_once(stream: &mut TcpStream, number: u32) -> Duration {
    let (asked, question) = (Instant::now(), format!("echo {number:>10}"));
    let mut answer = vec![0; question.len()];
    let answered = stream.write_all(question.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
    answered.unwrap_or_else(|error| panic!("{question}: {error}"));
    assert_eq!(answer, question.as_bytes());
    asked.elapsed()
}

fn read_to_the_end(stream: &mut TcpStream) -> io::Result<u64> {
    io::copy(stream, &mut io::sink())
}

/// What was open has to end with an error in time: a clean end would be a lie, silence a hang.
#[track_caller]
fn assert_broken(stream: &mut TcpStream, what: &str) {
    let ended = read_to_the_end(stream);
    let error = ended.expect_err(&format!("{what} ended as if all was well"));
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}: {error}");
}

#[track_caller]
fn says_why_and_since_when(view: &Value) {
    for text in [&view["reason"], &view["last_end"]["message"], &view["last_end"]["code"]] {
        assert!(text.as_str().is_some_and(|text| !text.is_empty()), "no reason: {view}");
    }
    let since = view["since_unix_ms"].as_u64().or_else(|| view["since_unix_ms"].as_str()?.parse().ok());
    assert!(since.is_some_and(|since| since > 0) && !view["since_s"].is_null(), "not since when: {view}");
}
