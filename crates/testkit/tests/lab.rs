//! The laboratory does what the system tests rely on: a fast line, an edge that cannot be dialled, silence on demand,
//! and nothing left afterwards.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use reachback_testkit::{
    eventually,
    lab::{Direction, Lab, LabConfig, Side},
    process::{self, Process},
    tools,
};

const SOON: Duration = Duration::from_secs(20);
/// How long a dial that must fail is given: a SYN and its first repetition (after 1 s).
const UNANSWERED: Duration = Duration::from_millis(1_500);

#[test]
fn the_line_is_fast_and_the_edge_cannot_be_dialled() {
    let Some(tools) = tools::need_lab(&["iperf3"]) else { return };
    let lab = Lab::new(LabConfig::default()).unwrap();

    let on_edge = listen(lab.edge());
    assert_eq!(dial(lab.hub(), on_edge.1).unwrap_err().kind(), ErrorKind::TimedOut, "the NAT rule");
    assert!(lab.stats().to_edge.dials_refused >= 1, "{:?}", lab.stats());
    let on_hub = listen(lab.hub());
    dial(lab.edge(), on_hub.1).unwrap();

    let mut server = tools.command_on(lab.hub(), "iperf3");
    let server = Process::spawn("iperf3 -s", server.args(["-s", "--one-off", "--forceflush"])).unwrap();
    server.wait_for_line("Server listening", SOON).unwrap();
    let mut client = tools.command_on(lab.edge(), "iperf3");
    let hub = lab.hub().address().to_string();
    let client = process::run("iperf3 -c", client.args(["-c", &hub, "-t", "2", "-f", "m"]), SOON).unwrap();
    let received = client.stdout.lines().find(|line| line.contains("receiver")).expect("a result");
    let words: Vec<_> = received.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Mbits/sec").expect("the rate in Mbit/s");
    let rate: f64 = words[unit - 1].parse().unwrap();
    assert!(rate > 1_000.0, "the emulator would be the bottleneck of every test: {received}");
}

#[test]
fn a_black_hole_is_silent_and_its_end_repairs_the_connection() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig { delay: Duration::from_millis(5), ..LabConfig::default() }).unwrap();
    let (listener, address) = listen(lab.hub());
    let mut edge = dial(lab.edge(), address).unwrap();
    let mut hub = listener.accept().unwrap().0;
    let mut byte = [0];

    for direction in [Direction::Both, Direction::ToHub] {
        lab.black_hole(direction, true);
        let swallowed = lab.stats().to_hub.swallowed;
        edge.write_all(b"x").unwrap();
        eventually(SOON, "a swallowed packet", || (lab.stats().to_hub.swallowed > swallowed).then_some(()));
        hub.set_nonblocking(true).unwrap();
        assert_eq!(
            hub.read(&mut byte).unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "no byte, no end, no reset"
        );
        lab.black_hole(direction, false);
        hub.set_nonblocking(false).unwrap();
        hub.set_read_timeout(Some(SOON)).unwrap();
        hub.read_exact(&mut byte).unwrap();
    }

    lab.black_hole(Direction::ToHub, true);
    hub.write_all(b"y").unwrap();
    edge.set_read_timeout(Some(SOON)).unwrap();
    edge.read_exact(&mut byte).expect("the other direction still passes");
}

#[test]
fn commands_are_on_their_machine_and_nothing_stays() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    lab.edge().replace_etc("motd", "hello edge\n").unwrap();
    let mut command = lab.edge().command("sh");
    // A daemon that left its process group is found by its namespace.
    let script = "cat /etc/motd; ip -o address show rbk0; setsid sleep 1000 & echo daemon $!; wait";
    let process = Process::spawn("sh", command.args(["-c", script])).unwrap();
    let daemon = process.wait_for_line("daemon", SOON).unwrap();
    process.wait_for_line("hello edge", SOON).unwrap();
    process.wait_for_line(&lab.edge().address().to_string(), SOON).unwrap();
    let daemon = daemon.strip_prefix("daemon ").unwrap();
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/comm", process.pid())).unwrap(),
        "sh\n",
        "no wrapper in between"
    );

    let mine = format!("rbk-lab-{}-", std::process::id());
    assert!(namespaces().contains(&mine));
    drop(lab);
    // Other tests of this file may have a lab by now, but not this daemon.
    let stat = format!("/proc/{daemon}/stat");
    eventually(SOON, "the end of the daemon", || match fs::read_to_string(&stat) {
        Ok(stat) if !stat.contains(") Z ") => Err(stat),
        Ok(_) | Err(_) => Ok(()),
    });
}

#[test]
fn a_panic_leaves_nothing() {
    if tools::need_lab(&[]).is_none() {
        return;
    }
    let lab = Lab::new(LabConfig::default()).unwrap();
    let names = namespaces_of(&lab);
    assert!(names.iter().all(|name| namespaces().contains(name)), "{names:?}");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _lab = lab;
        std::panic::resume_unwind(Box::new("a failing test"));
    }));
    assert!(panicked.is_err());
    let left = namespaces();
    assert!(names.iter().all(|name| !left.contains(name)), "{names:?} among {left}");
}

fn listen(side: &Side) -> (TcpListener, SocketAddr) {
    let listener =
        side.within(|| TcpListener::bind((side.address(), 0))).expect("on this side").expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn dial(side: &Side, to: SocketAddr) -> io::Result<TcpStream> {
    side.within(|| TcpStream::connect_timeout(&to, UNANSWERED)).expect("on this side")
}

fn namespaces() -> String {
    let list = Command::new("ip").args(["netns", "list"]).output().expect("ip");
    String::from_utf8(list.stdout).expect("text")
}

fn namespaces_of(lab: &Lab) -> [String; 2] {
    [lab.hub().namespace().to_owned(), lab.edge().namespace().to_owned()]
}
