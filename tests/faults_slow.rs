//! Whoever does not read costs a window at each hop and nothing more, however much is on its way to him, and holds up
//! nobody: the memory of every program stays flat while a stream beside him carries all it can.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;
mod faults_support;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use cli_support::{SOON, services};
use faults_support::{Connect, World, ask};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;
/// What is on its way to each of those who do not read.
const GIB: u64 = 1 << 30;
/// What is carried beside them meanwhile, there and back.
const BESIDE: u64 = 512 * MIB;
/// The stream beside them may have 66 MiB unread in a program (its window), the others a first window of 256 KiB each.
const RESIDENT: u64 = 110 * MIB;
/// What may be on its way to one who does not read: first windows, and the buffers of the kernel at each of the sockets
/// between (10 MiB a connection where it is let grow). A sixteenth of what there is to send.
const UNDER_WAY: u64 = GIB / 16;
const EVERY: Duration = Duration::from_millis(20);

#[test]
fn clients_that_do_not_read_a_gibibyte_cost_a_window_each() {
    let sent: Arc<[AtomicU64; 3]> = Arc::default();
    // The visitor says with its first byte which counter is its.
    let answer = {
        let sent = Arc::clone(&sent);
        services::serve(move |mut stream| {
            let mut which = [0];
            stream.read_exact(&mut which).unwrap();
            // An error is how this ends for those that never read.
            drop(write_counting(&mut stream, &sent[usize::from(which[0])]));
            drop(stream.shutdown(Shutdown::Write));
        })
    };
    let mut world = world(("answer", answer));
    let mut visitors: Vec<TcpStream> = Vec::new();
    for (number, way) in (0..).zip(world.ways("answer")) {
        let mut visitor = world.visit(way);
        visitor.write_all(&[number]).unwrap();
        visitor.read_exact(&mut [0]).unwrap();
        visitors.push(visitor);
    }
    let mut connect = Connect::start(&world, "answer");
    connect.0.stdin.as_mut().unwrap().write_all(&[2]).unwrap();
    connect.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();

    println!("{}", memory_stays_flat_beside(&world, &connect));
    for (way, count) in ["published port", "forwarded port", "connect"].iter().zip(sent.iter()) {
        let count = count.load(Ordering::Relaxed);
        println!("{way}: {} KiB of the answer are under way", count >> 10);
        assert!(count < UNDER_WAY, "{way}: {count} bytes were taken for someone who does not read");
    }
    // It was held back, not lost: the first of them reads on, and gets all of it.
    let rest = io::copy(&mut visitors[0], &mut io::sink()).unwrap();
    assert_eq!(rest + 1, GIB);
    world.assert_sound();
}

#[test]
fn a_service_that_does_not_read_a_gibibyte_costs_a_window_for_each_of_its_visitors() {
    let (until_the_end, end) = io::pipe().unwrap();
    let until_the_end = Arc::new(until_the_end);
    let deaf = services::serve(move |stream| {
        // Nothing is written to the pipe: this waits until the test is over, with the visitor's bytes unread.
        drop((&*until_the_end).read(&mut [0]));
        drop(stream);
    });
    let mut world = world(("deaf", deaf));
    let sent: [AtomicU64; 3] = Default::default();
    let visitors = world.ways("deaf").map(|way| world.visit(way));
    let mut connect = Connect::start(&world, "deaf");
    let mut stdin = connect.0.stdin.take().unwrap();
    thread::scope(|scope| {
        for (visitor, sent) in visitors.iter().zip(&sent) {
            visitor.set_write_timeout(None).unwrap();
            scope.spawn(move || write_counting(&mut &*visitor, sent));
        }
        let connected = &sent[2];
        scope.spawn(move || write_counting(&mut stdin, connected));
        for (way, sent) in ["published port", "forwarded port", "connect"].iter().zip(&sent) {
            reachback_testkit::eventually(SOON, &format!("bytes through the {way}"), || {
                (sent.load(Ordering::Relaxed) > 512 << 10).then_some(())
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let figures = memory_stays_flat_beside(&world, &connect);
            (figures, sent.each_ref().map(|count| count.load(Ordering::Relaxed)))
        }));
        // Whoever still writes is freed by this, also when something failed.
        for visitor in &visitors {
            drop(visitor.shutdown(Shutdown::Both));
        }
        drop(connect);
        let (figures, under_way) = outcome.unwrap_or_else(|failed| std::panic::resume_unwind(failed));
        println!("{figures}; KiB under way: {:?}", under_way.map(|count| count >> 10));
        assert!(under_way.iter().all(|count| *count < UNDER_WAY), "{under_way:?} bytes for a deaf service");
    });
    world.assert_sound();
    drop(end);
}

fn world(service: (&str, SocketAddr)) -> World {
    // There and back by one stream, so that both directions of every session are in use.
    World::start("2s", &[service, ("echo", services::echo()), ("bulk", services::echo())])
}

/// Carries [`BESIDE`] there and back on another stream, an echo in between on a third, and looks at every program's
/// memory meanwhile. Returns the figures.
fn memory_stays_flat_beside(world: &World, connect: &Connect) -> String {
    let mut echo = world.visit(world.ways("echo")[1]);
    let bulk = world.visit(world.ways("bulk")[0]);
    let programs = [("explorer", &world.explorer), ("node", &world.node), ("forward", &world.forward)];
    let (mut most, mut echoes) = ([0; 4], 0);
    let begun = Instant::now();
    thread::scope(|scope| {
        let (done, carried) = mpsc::channel();
        let mut up = &bulk;
        scope.spawn(move || {
            let piece = vec![7; 64 << 10];
            for _ in 0..BESIDE / piece.len() as u64 {
                up.write_all(&piece)?;
            }
            up.shutdown(Shutdown::Write)
        });
        let mut down = &bulk;
        scope.spawn(move || done.send(io::copy(&mut down, &mut io::sink())));
        let carried = loop {
            if let Ok(carried) = carried.recv_timeout(EVERY) {
                break carried;
            }
            echo.write_all(b"are you there?").unwrap();
            echo.read_exact(&mut [0; 14]).unwrap();
            echoes += 1;
            for (most, (_, program)) in most.iter_mut().zip(programs) {
                *most = program.resident().unwrap().max(*most);
            }
            most[3] = resident(connect.0.id()).max(most[3]);
            if most.iter().any(|most| *most > RESIDENT) {
                // Nobody waits for what has failed already.
                bulk.shutdown(Shutdown::Both).unwrap();
                break Ok(0);
            }
        };
        for (name, most) in ["explorer", "node", "forward", "connect"].iter().zip(most) {
            assert!(most < RESIDENT, "{name}: {} MiB resident", most >> 20);
        }
        assert_eq!(carried.unwrap(), BESIDE);
    });
    assert!(echoes > 0, "all was over before an echo came back");
    assert_eq!(ask(world.visit(world.ways("echo")[0]), b"a new one").unwrap(), b"a new one");
    format!(
        "{} MiB there and back in {:?}, {echoes} echoes beside; resident at most {:?} MiB (explorer, node, forward, connect)",
        BESIDE >> 20,
        begun.elapsed(),
        most.map(|most| most >> 20)
    )
}

/// Writes a gibibyte and counts what was taken of it.
fn write_counting(to: &mut impl Write, count: &AtomicU64) -> io::Result<()> {
    let piece = vec![7; 64 << 10];
    while count.load(Ordering::Relaxed) < GIB {
        count.fetch_add(to.write(&piece)? as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Resident memory of a process in bytes, as the kernel says.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
