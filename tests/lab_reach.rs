//! An edge that nobody can dial is reached through the line it dialled itself: by `connect`, by `forward` and by a
//! published port, with the real binary and real services.

mod support;

use std::{
    io::ErrorKind,
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use reachback_testkit::{
    lab::{Lab, LabConfig},
    process::{self, Process},
    tools,
};
use serde_json::Value;

use self::support::{NODE, Pattern, SOON, Service, World, exchange, succeed, thorough};

/// For transfers and benchmarks on two busy cores.
const A_WHILE: Duration = Duration::from_secs(180);

#[test]
fn bytes_come_back_by_every_way() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let echo = Service::echo(lab.edge());
    let world = World::start(lab, &[("echo", echo.port())], None);

    let edge = SocketAddr::from((world.lab.edge().address(), echo.port()));
    let dialled =
        world.lab.hub().within(|| TcpStream::connect_timeout(&edge, Duration::from_millis(1_500))).unwrap();
    assert_eq!(
        dialled.unwrap_err().kind(),
        ErrorKind::TimedOut,
        "the edge could be dialled, so nothing is shown here"
    );

    let sent: Vec<u8> = (0..1 << 20).map(|at: u32| (at ^ (at >> 7)) as u8).collect();
    for (way, address) in world.ways("echo") {
        // Some at once, so that streams share the line.
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut stream = world.visit(address).unwrap();
                    assert!(exchange(&mut stream, &sent).unwrap() == sent, "other bytes through the {way}");
                });
            }
        });
    }

    let numbers: String = (1..=10_000).map(|number| format!("{number}\n")).collect();
    let mut shell = world.lab.hub().command("sh");
    let line = format!("seq 10000 | {}", world.connect_line(&format!("{NODE}/echo")));
    let through = succeed("connect", shell.args(["-c", &line]), SOON).unwrap();
    assert!(through.stdout == numbers, "connect changed bytes; it said: {}", through.stderr);
}

#[test]
fn a_long_lossy_line_changes_no_byte() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let line = LabConfig {
        mtu: 1_500,
        delay: Duration::from_millis(40),
        rate: Some(100_000_000),
        loss: 0.002,
        ..LabConfig::default()
    };
    let lab = Lab::new(line).unwrap();
    let size: u64 = 4 << 20;
    let both_ways = Service::start(lab.edge(), move |stream| {
        let pattern = Pattern::new();
        thread::scope(|scope| {
            let up = scope.spawn(|| pattern.check(&mut &stream, size));
            pattern.write(&mut &stream, size)?;
            stream.shutdown(Shutdown::Write)?;
            up.join().expect("no panic")
        })
    });
    let world = World::start(lab, &[("bulk", both_ways.port())], None);
    let pattern = Pattern::new();
    for (way, address) in world.ways("bulk") {
        let stream = world.visit(address).unwrap();
        thread::scope(|scope| {
            let up = scope.spawn(|| {
                pattern.write(&mut &stream, size)?;
                stream.shutdown(Shutdown::Write)
            });
            pattern
                .check(&mut &stream, size)
                .unwrap_or_else(|error| panic!("down through the {way}: {error}"));
            up.join().expect("no panic").unwrap_or_else(|error| panic!("up through the {way}: {error}"));
        });
    }
    assert!(world.lab.stats().to_hub.lost > 0, "the line lost nothing: {:?}", world.lab.stats());
}

#[test]
fn redis_and_its_benchmark() {
    let Some(tools) = tools::need_lab(&["redis-server", "redis-cli", "redis-benchmark"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let mut server = tools.command_on(lab.edge(), "redis-server");
    server.args(["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let server = Process::spawn("redis-server", &mut server).unwrap();
    server.wait_for_line("Ready to accept connections", SOON).unwrap();
    let world = World::start(lab, &[("db", 6379)], None);

    for (way, address) in world.ways("db") {
        let port = address.port().to_string();
        let mut benchmark = tools.command_on(world.lab.hub(), "redis-benchmark");
        benchmark.args([
            "-p",
            &port,
            "-n",
            "3000",
            "-c",
            "20",
            "-P",
            "4",
            "-d",
            "2000",
            "-t",
            "set,get,lrange_100",
            "-q",
        ]);
        let result = succeed(&format!("redis-benchmark through the {way}"), &mut benchmark, A_WHILE).unwrap();
        for test in ["SET:", "GET:", "LRANGE_100"] {
            let measured = result
                .stdout
                .split(['\n', '\r'])
                .any(|line| line.contains(test) && line.contains("per second"));
            assert!(measured, "no result of {test} through the {way}: {}", result.stdout);
        }
        let cli = |arguments: &[&str]| {
            let mut cli = tools.command_on(world.lab.hub(), "redis-cli");
            succeed("redis-cli", cli.args(["-p", &port]).args(arguments), SOON).unwrap().stdout
        };
        assert_eq!(cli(&["SET", "way", way]), "OK\n");
        assert_eq!(cli(&["GET", "way"]), format!("{way}\n"));
    }
}

#[test]
fn iperf3_each_way() {
    let Some(tools) = tools::need_lab(&["iperf3"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();
    let mut server = tools.command_on(lab.edge(), "iperf3");
    let server = Process::spawn("iperf3 -s", server.args(["-s", "-B", "127.0.0.1", "--forceflush"])).unwrap();
    server.wait_for_line("Server listening", SOON).unwrap();
    let world = World::start(lab, &[("iperf", 5201)], None);

    let seconds = if thorough() { "10" } else { "3" };
    for (way, address) in world.ways("iperf") {
        for direction in [&[][..], &["-R"]] {
            let mut client = tools.command_on(world.lab.hub(), "iperf3");
            client
                .args(["-c", "127.0.0.1", "-p", &address.port().to_string(), "-t", seconds, "-J"])
                .args(direction);
            let report = process::run("iperf3 -c", &mut client, A_WHILE).unwrap();
            let report: Value = serde_json::from_str(&report.stdout).unwrap();
            assert!(report["error"].is_null(), "through the {way} {direction:?}: {}", report["error"]);
            let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
            // Far below what a debug build does: a line that stalls is caught, a slow machine is not.
            assert!(rate > 20e6, "{rate} bit/s through the {way} {direction:?}");
            println!("iperf3 through the {way} {direction:?}: {:.0} Mbit/s", rate / 1e6);
        }
    }
}
