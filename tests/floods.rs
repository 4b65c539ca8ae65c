//! Strangers without number, and peers who read nothing: what they cost is bounded by what the operator allows, and
//! whoever was there before them notices nothing. docs/faults.md says which fault each test is about.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]
#![allow(clippy::disallowed_methods, reason = "what a program uses of the processor is about real time")]

mod cli_support;
mod faults_support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cli_support::{Home, SOON, services};
use faults_support::ask;
use reachback_bench::sys;
use reachback_client::{Client, ClientOptions, Random};
use reachback_link::{MemoryBudget, RealNet, StreamEnd, Substream};
use reachback_testkit::{eventually, process::Process};
use reachback_wire::{Record, RecordKind};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// An explorer and a node with services, each of whom may be held to something.
struct World {
    explorer: Process,
    _node: Process,
    address: String,
    home: Home,
}

impl World {
    /// `files`: how many descriptors the explorer may have.
    fn start(files: Option<u32>, more: &[&str], services: &[&str]) -> Self {
        let home = Home::new();
        let mut arguments = vec!["explorer", "--id", "hub-1", "--listen", "127.0.0.1:0", "--heartbeat", "2s"];
        arguments.extend(more);
        let mut command = home.command(&arguments);
        if let Some(files) = files {
            command = held_to(files, &command);
        }
        let explorer = Process::spawn("explorer", &mut command).unwrap();
        let line = explorer.wait_for_line("listening", SOON).unwrap();
        let address = line.split_whitespace().nth(1).unwrap().to_owned();
        let node = home.node(&address, "edge-7", services);
        Self { explorer, _node: node, address, home }
    }

    /// `explorer.status`, or why there is none.
    fn status(&self) -> Result<Value, String> {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"explorer.status"}"#;
        let request = format!(
            "POST /rpc HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = ask(TcpStream::connect(&*self.address).unwrap(), request.as_bytes()).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        if body["result"].is_object() { Ok(body["result"].clone()) } else { Err(body.to_string()) }
    }

    /// A counter of the explorer, or (`sessions`) of its sessions.
    fn counter(&self, of: &str, name: &str) -> u64 {
        self.status().unwrap()[of][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// A connection to the explorer's port that says nothing.
    fn stranger(&self) -> TcpStream {
        let stream = TcpStream::connect(&*self.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }
}

/// The same command with so many descriptors and no way to get more.
fn held_to(files: u32, command: &Command) -> Command {
    let mut held = Command::new("sh");
    held.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]);
    held.arg(command.get_program()).args(command.get_args());
    held.current_dir(command.get_current_dir().unwrap()).env_clear();
    held.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    held
}

/// Whether the other end has closed it.
fn is_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => panic!("an answer to nothing"),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Processor time that a process has used, user and system.
fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name, which may hold blanks: the 14th and 15th fields (proc_pid_stat(5)), in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn an_explorer_that_runs_out_of_descriptors_keeps_its_own_and_does_not_spin() {
    const FILES: u32 = 256;
    let echo = services::echo();
    let world =
        World::start(Some(FILES), &["--publish", "0=edge-7/echo"], &[&format!("--service=echo={echo}")]);
    let line = world.explorer.wait_for_line("-> edge-7/echo", SOON).unwrap();
    let published: SocketAddr =
        line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap().parse().unwrap();
    let mut inside = eventually(SOON, "the published port", || TcpStream::connect(published));
    inside.set_read_timeout(Some(SOON)).unwrap();
    let mut echoed = || {
        inside.write_all(b"still there?").unwrap();
        inside.read_exact(&mut [0; 12]).unwrap();
    };
    echoed();

    // More strangers than there are descriptors; for each that is turned away another one comes.
    let mut strangers: Vec<TcpStream> = (0..FILES + 100).map(|_| world.stranger()).collect();
    eventually(SOON, "an explorer that is full", || {
        let open = world.explorer.open_files().unwrap();
        if open > FILES as usize / 2 { Ok(()) } else { Err(format!("{open} files")) }
    });
    let (begun, before) = (Instant::now(), processor_time(world.explorer.pid()));
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        for stranger in &mut strangers {
            if is_closed(stranger) {
                *stranger = world.stranger();
            }
        }
        echoed();
        most = most.max(world.explorer.open_files().unwrap());
        thread::sleep(Duration::from_millis(50));
    }
    let (took, used) = (begun.elapsed(), processor_time(world.explorer.pid()) - before);
    println!("at most {most} of {FILES} descriptors, {used:?} of processor time in {took:?}");
    assert!(used < took / 20, "{used:?} of processor time in {took:?}");
    // A quarter is not for strangers.
    assert!(most <= FILES as usize * 3 / 4 + 8, "{most} descriptors of {FILES}");
    assert!(world.explorer.tail().contains("accepting pauses"), "{}", world.explorer.tail());

    drop(strangers);
    eventually(SOON, "a newcomer to be let in", || {
        let nodes = world.home.run(&["nodes", "--explorer", &world.address]);
        if nodes.status.success() { Ok(()) } else { Err(nodes.stderr) }
    });
    echoed();
}

#[test]
fn more_strangers_than_places_keep_nobody_out() {
    sys::raise_open_files().unwrap();
    let world = World::start(None, &[], &[]);
    let strangers: Vec<TcpStream> = (0..1_500).map(|_| world.stranger()).collect();
    eventually(SOON, "those who were silent longest to go", || {
        let closed = strangers.iter().filter(|stranger| is_closed(stranger)).count();
        if closed >= 400 { Ok(()) } else { Err(format!("{closed} closed")) }
    });
    assert!(world.counter("counters", "connections_shed") >= 400);
    drop(strangers);
}

/// What the explorer is allowed to hold for its peers.
const BUDGET: u64 = 64 * MIB;
const SLOW: usize = 2_000;
/// What each of them is given: the windows at both of its hops, and what is under way between them.
const ANSWER: usize = 640 << 10;

/// A program that does nothing yet, of a build that is not optimised.
const BASE: u64 = 32 * MIB;
/// A stream between a client and a node that carries nothing.
const STREAM: u64 = 16 << 10;

/// The formula of docs/operations.md, for an explorer with one node, one client and so many streams between them.
fn bound(streams: usize) -> u64 {
    BASE + streams as u64 * STREAM + 2 * BUDGET
}

#[test]
fn thousands_of_slow_streams_of_one_session_hold_no_more_than_the_budget() {
    sys::raise_open_files().unwrap();
    // Says that it is there, and gives more than anyone takes once it is asked.
    let generous = services::serve(|mut stream| {
        let answer = vec![7; ANSWER];
        let given = stream.write_all(b"!").and_then(|()| stream.read_exact(&mut [0])).and_then(|()| {
            stream.write_all(&answer)?;
            // Stays until the visitor is gone.
            stream.read_exact(&mut [0])
        });
        // However it ends: who asked is what this is about.
        drop(given);
    });
    let echo = services::echo();
    let mut world = World::start(
        None,
        &["--memory-budget", "64MiB"],
        &[&format!("--service=generous={generous}"), &format!("--service=echo={echo}")],
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let calm = client(&world, "calm").await;
        let mut calm_stream = calm.open("edge-7/echo".parse().unwrap()).await.unwrap();
        let calm = &mut calm_stream;
        // All of them are on one session of the node. Theirs are several, so that none loses streams by its own bound.
        let (mut slow, mut streams) = (Vec::new(), Vec::new());
        for number in 0..SLOW {
            if number % 250 == 0 {
                slow.push(client(&world, "slow").await);
            }
            let opened = slow[number / 250].open("edge-7/generous".parse().unwrap());
            let mut stream = opened.await.unwrap();
            assert_eq!(stream.next().await, Ok(Record::Data("!".into())));
            streams.push(stream);
        }
        let idle = world.explorer.resident().unwrap();
        println!("{} MiB with {SLOW} idle streams", idle / MIB);
        assert!(idle <= BASE + SLOW as u64 * STREAM, "{} MiB", idle / MIB);

        for stream in &mut streams {
            stream.send(RecordKind::Data, b"?").await.unwrap();
        }
        // They are given what there is room for. Three quarters of it are where nothing new begins.
        let begun = Instant::now();
        while world.status().is_ok() {
            echoed(calm).await;
            assert!(begun.elapsed() < SOON, "{} MiB", world.explorer.resident().unwrap() / MIB);
        }
        // Nobody new, as long as so much is held.
        let refused = world.home.run(&["connect", "edge-7/echo", "--explorer", &world.address]);
        assert_eq!(refused.status.code(), Some(75), "{}", refused.stderr);
        assert!(refused.stderr.contains("saturated"), "{}", refused.stderr);

        // It stays so while whoever gave too much is cut off, and whoever is calm notices nothing of it.
        for _ in 0..200 {
            echoed(calm).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let peak = world.explorer.resident_peak().unwrap();
        println!("at most {} MiB with a budget of {} MiB", peak / MIB, BUDGET / MIB);
        assert!(peak <= bound(SLOW), "{} MiB", peak / MIB);

        // Now they read: some have lost their streams, the others get all of it.
        let (mut whole, mut cut) = (0, 0);
        for mut stream in streams {
            let mut bytes = 0;
            loop {
                match stream.next().await {
                    Ok(Record::Data(more)) => bytes += more.len(),
                    Ok(other) => panic!("{other:?}"),
                    Err(end) => {
                        // The reason reaches it where its window has room for one.
                        assert!(matches!(end, StreamEnd::Reset { .. } | StreamEnd::Dropped), "{end:?}");
                        cut += 1;
                        break;
                    }
                }
                if bytes == ANSWER {
                    whole += 1;
                    break;
                }
            }
        }
        println!("{cut} were cut off, {whole} got all of it");
        assert!(cut > 0 && whole > 0 && cut + whole == SLOW, "{cut} and {whole}");
        assert!(world.counter("sessions", "substreams_over_budget") >= cut as u64);
        let ended =
            world.home.run_with_input(&["connect", "edge-7/echo", "--explorer", &world.address], b"room");
        assert!(ended.status.success(), "{}", ended.stderr);
        echoed(calm).await;
    });
    assert!(world.explorer.is_running().unwrap());
}

/// A session with the explorer whose own end may hold whatever comes.
async fn client(world: &World, name: &str) -> Client {
    let mut options = ClientOptions::new(name.parse().unwrap(), Random::system()).unwrap();
    options.budget = Arc::new(MemoryBudget::new(4 << 30));
    Client::connect(Arc::new(RealNet), &world.address.parse().unwrap(), options).await.unwrap()
}

/// Something there and back, on a stream beside all that.
async fn echoed(stream: &mut Substream) {
    stream.send(RecordKind::Data, b"still there?").await.unwrap();
    let mut back = 0;
    while back < 12 {
        match stream.next().await.unwrap() {
            Record::Data(bytes) => back += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
}
