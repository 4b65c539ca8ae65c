//! The real binary at work: what it prints, where it listens, how it ends.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
};

use cli_support::{Home, SOON, finished, services};
use reachback_testkit::{
    eventually,
    process::{Process, Signal, Stream},
};
use serde_json::Value;

#[test]
fn streams_reach_back_by_connect_forward_and_a_published_port() {
    let home = Home::new();
    let (explorer, address) = home.explorer(&["--publish", "0=edge-7/echo"]);
    let published = port_of(&explorer.wait_for_line("published", SOON).unwrap());
    assert!(
        TcpStream::connect(("127.0.0.1", published)).is_err(),
        "nobody listens while the node is offline"
    );

    let service = format!("echo={}", services::echo());
    let _node = home.node(&address, "edge-7", &["--service", &service, "--label", "region=eu"]);

    let finished = home.run_with_input(&["connect", "edge-7/echo", "--explorer", &address], b"through stdin");
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("through stdin\n", ""));

    let forward = home.start(&["forward", "edge-7/echo", "--explorer", &address]);
    let forwarded = port_of(&forward.wait_for_line("-> edge-7/echo", SOON).unwrap());
    assert_eq!(echoed(forwarded, b"through a forwarded port"), b"through a forwarded port");

    let answer = eventually(SOON, "the published port", || {
        TcpStream::connect(("127.0.0.1", published))
            .ok()
            .map(|_| echoed(published, b"through a published port"))
    });
    assert_eq!(answer, b"through a published port");
}

#[test]
fn a_node_with_another_control_socket_is_found_where_it_says() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let socket = home.path("other.sock").display().to_string();
    let file = format!("id = \"edge-7\"\nexplorers = [\"{address}\"]\ncontrol_socket = \"{socket}\"\n");
    fs::write(home.path("node.toml"), file).unwrap();
    let node = home.start(&["node", "--config", "node.toml"]);
    node.wait_for_line("edge-7 online", SOON).unwrap();

    let said = home.run(&["status"]).stdout;
    assert!(!said.contains("node edge-7"), "there is none in the usual place: {said}");
    for named in [["--control-socket", socket.as_str()], ["--config", "node.toml"]] {
        let said = home.run(&[&["status"][..], &named].concat()).stdout;
        assert!(said.contains(&format!("node edge-7 at {address}  online")), "{named:?}: {said}");
    }
    for variable in [("REACHBACK_CONTROL_SOCKET", socket.as_str()), ("REACHBACK_CONFIG", "node.toml")] {
        let mut command = home.command(&["expose", "web=80"]);
        command.env(variable.0, variable.1);
        let finished = reachback_testkit::process::run("expose", &mut command, SOON).unwrap();
        assert!(finished.status.success(), "{variable:?}: {}", finished.stderr);
        assert!(home.run(&["unexpose", "web", "--config", "node.toml"]).status.success());
    }

    drop(node);
    let finished = home.run(&["status", "--config", "node.toml"]);
    // The exit code is about the explorer, which answers; what was named and is not there is said.
    assert!(finished.status.success() && finished.stdout.contains(&socket), "{}", finished.stdout);
    fs::write(home.path("off.toml"), "control_socket = \"off\"\n").unwrap();
    let finished = home.run(&["expose", "web=80", "--config", "off.toml"]);
    assert!(cli_support::refused(&finished, 78).contains("off.toml: a node without a control socket"));
}

#[test]
fn kicks_and_ages_are_told_as_they_are() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let node = home.node(&address, "edge-7", &[]);
    let kick =
        |more: &[&str]| home.run(&[&["kick", "edge-7", "--explorer", &address][..], more].concat()).stdout;
    assert_eq!(kick(&["--for", "10m"]), "edge-7's session is ended; it is turned away for 10 min\n");
    drop(node);
    assert_eq!(kick(&[]), "edge-7 has no session to end; it may dial again at once\n");
    let page = home.run(&["show", "edge-7", "--explorer", &address]).stdout;
    assert!(page.contains("denied: an operator has kicked this node") && !page.contains(" ms ago"), "{page}");
}

#[test]
fn an_explorer_has_the_threads_it_was_given_and_serves_on_each() {
    let home = Home::new();
    let (mut explorer, address) = home.explorer(&["--threads", "3"]);
    // A new thread is given its name a moment after it has begun.
    eventually(SOON, "its threads", || {
        let names = fs::read_dir(format!("/proc/{}/task", explorer.pid()))
            .unwrap()
            .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap().trim().to_owned());
        let threads: BTreeSet<String> = names.filter(|name| name.starts_with("connections-")).collect();
        let seen: Vec<String> = threads.into_iter().collect();
        if seen == ["connections-2", "connections-3"] { Ok(()) } else { Err(seen) }
    });
    // One after the other they land on all of them.
    let service = format!("echo={}", services::echo());
    let nodes: Vec<_> = (0..3)
        .map(|number| home.node(&address, &format!("edge-{number}"), &["--service", &service]))
        .collect();
    for number in 0..nodes.len() {
        let target = format!("edge-{number}/echo");
        let finished = home.run_with_input(&["connect", &target, "--explorer", &address], b"hello");
        assert_eq!(finished.stdout, "hello\n", "{}", finished.stderr);
    }
    explorer.signal(Signal::Terminate).unwrap();
    assert!(explorer.wait(SOON).unwrap().success());
}

#[test]
fn nodes_are_listed_for_people_and_for_programs() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let empty = home.run(&["nodes", "--explorer", &address]);
    assert!(empty.stdout.contains("no node has dialled this explorer yet"), "{}", empty.stdout);

    let service = format!("echo={}", services::echo());
    let _edge_7 = home.node(&address, "edge-7", &["--service", &service, "--label", "region=eu"]);
    let edge_9 = home.node(&address, "edge-9", &["--service", &service]);
    drop(edge_9);

    let table = eventually(SOON, "edge-9 is offline", || {
        let table = home.run(&["nodes"]).stdout;
        let settled = table.contains("edge-7  online") && table.contains("edge-9  offline");
        if settled { Ok(table) } else { Err(table) }
    });
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NODE    STATE"), "{table}");
    assert!(
        lines[1].starts_with("edge-7  online") && lines[1].contains("echo") && lines[1].ends_with("hub-1"),
        "{table}"
    );
    assert!(lines[2].starts_with("edge-9  offline"), "{table}");
    assert!(lines[3].trim_start().starts_with("last end: "), "{table}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{table}");

    let answer: Value = eventually(SOON, "a round trip to edge-7", || {
        let json = home.run(&["nodes", "--json", "-q"]).stdout;
        let answer: Value = serde_json::from_str(&json).unwrap();
        if answer["nodes"][0]["rtt_ms"].is_number() { Ok(answer) } else { Err(json) }
    });
    assert_eq!(answer["explorer"], "hub-1");
    let (edge_7, edge_9) = (&answer["nodes"][0], &answer["nodes"][1]);
    assert_eq!((&edge_7["node"], &edge_7["state"]), (&"edge-7".into(), &"online".into()));
    assert_eq!(edge_7["services"][0]["name"], "echo");
    assert_eq!(edge_7["labels"]["region"], "eu");
    assert!(edge_7["since_unix_ms"].is_number(), "{answer}");
    assert_eq!(edge_9["state"], "offline");
    for part in ["code", "message", "at_unix_ms"] {
        assert!(!edge_9["last_end"][part].is_null(), "{part}: {answer}");
    }
}

#[test]
fn variables_of_other_tools_are_understood() {
    let home = Home::new();
    let mut command = home.command(&["explorer", "--id", "hub-1", "--heartbeat", "500ms"]);
    let explorer = Process::spawn("explorer", command.env("EXPLORER_TCP_ADDR", "127.0.0.1:0")).unwrap();
    let address = format!("127.0.0.1:{}", port_of(&explorer.wait_for_line("listening", SOON).unwrap()));

    let closed = services::closed_port();
    let mut command = home.command(&["node", "--id", "edge-7"]);
    command.env("EXPLORER_ADDRESSES", format!("{closed},{address}"));
    command.env("REACHBACK_SERVICE", format!("echo={} ssh=22,framing=raw", services::echo()));
    command.env("REACHBACK_SERVISE", "x=1").env("REACHBACK_LOG", "");
    let node = Process::spawn("node", &mut command).unwrap();
    node.wait_for_line(&format!("edge-7 online at hub-1 ({address})"), SOON).unwrap();
    node.wait_for_line("services echo, ssh", SOON).unwrap();
    node.wait_for_line("knows no variable REACHBACK_SERVISE; did you mean REACHBACK_SERVICE?", SOON).unwrap();
    // One explorer that is down is said, and delays no other.
    node.wait_for_line(&format!("edge-7 offline at {closed}: "), SOON).unwrap();

    let mut command = home.command(&["nodes"]);
    let mut nodes = Process::spawn("nodes", command.env("REACHBACK_EXPLORER", &address)).unwrap();
    assert!(finished(&mut nodes).stdout.contains("edge-7"));
}

#[test]
fn without_listen_nothing_listens_on_a_network() {
    let home = Home::new();
    let explorer = home.start(&["explorer", "--id", "hub-1"]);
    explorer.wait_for_line("listening  nowhere; open a port with --listen", SOON).unwrap();
    explorer.wait_for_line(&home.socket().display().to_string(), SOON).unwrap();
    assert_eq!(listening_ports(&explorer), BTreeSet::new());
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.socket()), 0o600);
    assert_eq!(mode(home.socket().parent().unwrap()), 0o700);

    // A node finds the local explorer by itself, and listens nowhere either.
    let node = home.start(&["node", "--id", "edge-7", "--service", "ssh=22"]);
    node.wait_for_line("edge-7 online at hub-1", SOON).unwrap();
    assert_eq!(listening_ports(&node), BTreeSet::new());

    // The measurement itself can see a listener.
    let elsewhere = Home::new();
    let (other, address) = elsewhere.explorer(&[]);
    let port = address.rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(listening_ports(&other), BTreeSet::from([port]));
}

#[test]
fn the_goodbye_of_a_node_is_heard() {
    let home = Home::new();
    // A heartbeat too slow to be what is noticed.
    let (_explorer, address) = home.explorer(&["--heartbeat", "60s"]);
    let service = format!("echo={}", services::echo());
    let mut node = home.node(&address, "edge-7", &["--service", &service]);
    node.signal(Signal::Interrupt).unwrap();
    assert_eq!(node.wait(SOON).unwrap().code(), Some(0));
    eventually(SOON, "edge-7 is offline", || {
        let table = home.run(&["nodes"]).stdout;
        if table.contains("offline") { Ok(()) } else { Err(table) }
    });
}

#[test]
fn a_node_says_when_its_line_goes_and_comes_back() {
    let home = Home::new();
    let (mut explorer, address) = home.explorer(&[]);
    let service = format!("echo={}", services::echo());
    let node = home.node(&address, "edge-7", &["--service", &service]);
    let mark = node.mark();
    explorer.kill().unwrap();
    let line = node.wait_for_line_after(mark, &format!("edge-7 offline at {address}: "), SOON).unwrap();
    assert!(line.contains("next attempt in "), "{line}");

    let again = home.start(&["explorer", "--id", "hub-1", "--listen", &address]);
    again.wait_for_line("listening", SOON).unwrap();
    node.wait_for_line_after(mark, &format!("edge-7 online at hub-1 ({address})"), SOON).unwrap();
}

#[test]
fn a_broken_stream_is_an_error_and_never_a_short_success() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    // Half an answer, then a reset.
    let torn = services::serve(|mut stream| {
        let mut request = [0; 4];
        drop(stream.read_exact(&mut request));
        drop(stream.write_all(b"half"));
        let mut rest = [0; 4];
        drop(stream.read_exact(&mut rest));
        services::reset(stream);
    });
    let _node = home.node(&address, "edge-7", &["--service", &format!("torn={torn}")]);
    let arguments = ["connect", "edge-7/torn", "--explorer", address.as_str()];
    let (mut process, mut stdin) =
        Process::spawn_with_stdin("connect", &mut home.command(&arguments)).unwrap();
    stdin.write_all(b"give").unwrap();
    // The first half has to be there before the reset, which may overtake it otherwise.
    eventually(SOON, "the first half", || process.lines(Stream::Out).is_empty().then_some(()));
    stdin.write_all(b"more").unwrap();
    let finished = finished(&mut process);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(
        finished.stderr.starts_with("reset: the other end reset the stream to edge-7/torn: "),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_stream_that_is_cut_off_says_so_once() {
    let home = Home::new();
    let (mut explorer, address) = home.explorer(&[]);
    let _node = home.node(&address, "edge-7", &["--service", &format!("echo={}", services::echo())]);
    let arguments = ["connect", "edge-7/echo", "--explorer", address.as_str()];
    let (mut connect, mut stdin) =
        Process::spawn_with_stdin("connect", &mut home.command(&arguments)).unwrap();
    stdin.write_all(b"there and back\n").unwrap();
    connect.wait_for_line("there and back", SOON).unwrap();
    explorer.signal(Signal::Terminate).unwrap();
    let finished = finished(&mut connect);
    assert_eq!(finished.status.code(), Some(69));
    // Its own line may end first, or the node's.
    let told = [
        "was cut off with its line: closed by the peer",
        "reset the stream to edge-7/echo: the connection was lost",
    ];
    let sentence = finished.stderr.as_str();
    assert!(told.iter().any(|told| sentence.contains(told)), "{sentence}");
    assert!(sentence.starts_with("lost: the "), "{sentence}");
    assert!(sentence.ends_with(": the explorer is stopping (sent 15 bytes, got 15)\n"), "{sentence}");
    assert_eq!(sentence.lines().count(), 1, "once: {sentence}");
}

#[test]
fn quiet_says_nothing_and_verbose_says_more() {
    let home = Home::new();
    let quiet = home.start(&["-q", "explorer", "--id", "hub-1"]);
    eventually(SOON, "its socket", || home.socket().exists().then_some(()));
    assert!(home.run(&["nodes", "-q"]).stdout.contains("no node"), "results are printed whatever -q says");
    assert_eq!((quiet.lines(Stream::Out), quiet.lines(Stream::Err)), (vec![], vec![]));
    drop(quiet);

    let verbose = home.run(&["-v", "nodes", "--explorer", &home.socket().display().to_string()]);
    assert_eq!(verbose.status.code(), Some(69));
    let loud = home.start(&["-v", "explorer", "--id", "hub-1"]);
    loud.wait_for_line("local", SOON).unwrap();
    let nodes = home.run(&["-v", "nodes"]);
    assert!(nodes.stderr.contains("DEBUG"), "{}", nodes.stderr);
    let plain = home.run(&["nodes"]);
    assert_eq!(plain.stderr, "");
}

#[test]
fn logs_that_cannot_be_written_end_nothing() {
    let home = Home::new();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = home.command(&["-v", "explorer", "--id", "hub-1"]);
    let mut explorer = Running(command.stdout(full()).stderr(full()).spawn().unwrap());
    eventually(SOON, "its socket", || home.socket().exists().then_some(()));
    let nodes = home.run(&["nodes"]);
    assert!(nodes.stdout.contains("no node"), "{}", nodes.stderr);
    assert!(explorer.0.try_wait().unwrap().is_none(), "it went on");
}

#[test]
fn json_logs_hold_nothing_else() {
    let home = Home::new();
    let mut explorer = home.start(&["explorer", "--id", "hub-1", "--log", "json"]);
    explorer.wait_for_line("listening", SOON).unwrap();
    explorer.signal(Signal::Terminate).unwrap();
    let finished = finished(&mut explorer);
    assert_eq!(finished.stdout, "");
    let records: Vec<Value> =
        finished.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        records
            .iter()
            .any(|record| record["message"].as_str().is_some_and(|text| text.contains("listening")))
    );

    let failed = home.run(&["nodes", "--log", "json"]);
    let record: Value = serde_json::from_str(failed.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((failed.status.code(), &record["exit"]), (Some(69), &69.into()), "{}", failed.stderr);
}

#[test]
fn whoever_reads_sees_the_end_of_the_service_while_stdin_is_open() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let greeting = services::serve(|mut stream| {
        drop(stream.write_all(b"goodbye"));
        drop(stream.shutdown(Shutdown::Write));
        // Whatever the visitor says until it has ended too.
        drop(stream.read_to_end(&mut Vec::new()));
    });
    let _node = home.node(&address, "edge-7", &["--service", &format!("greeting={greeting}")]);

    let mut command = home.command(&["connect", "edge-7/greeting", "--explorer", &address]);
    let mut connect = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    // As ssh does with its ProxyCommand: stdin stays open until stdout has ended.
    let mut stdout = connect.0.stdout.take().unwrap();
    let answer = in_time(move || {
        let mut answer = String::new();
        stdout.read_to_string(&mut answer).map(|_| answer)
    });
    assert_eq!(answer.unwrap(), "goodbye");
    assert!(connect.0.try_wait().unwrap().is_none(), "the other direction is still open");
    drop(connect.0.stdin.take());
    assert_eq!(connect.ended(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    let endless = services::serve(|mut stream| while stream.write_all(&[b'y'; 4096]).is_ok() {});
    let _node = home.node(&address, "edge-7", &["--service", &format!("yes={endless}")]);
    let mut command = home.command(&["connect", "edge-7/yes", "--explorer", &address]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut connect = Running(command.spawn().unwrap());
    let mut stdout = connect.0.stdout.take().unwrap();
    // Reads a little and goes away, as `head` does; stdin stays open.
    in_time(move || stdout.read_exact(&mut [0; 4096])).unwrap();
    let exit = connect.ended();
    let mut stderr = String::new();
    connect.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
}

/// A child whose output the test reads itself; gone when the test is over.
struct Running(Child);

impl Running {
    fn ended(&mut self) -> Option<i32> {
        eventually(SOON, "its end", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs what could block for ever on a thread of its own.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, result) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    result.recv_timeout(SOON).expect("in time")
}

/// The port at the end of the address in a line such as `listening  127.0.0.1:4711`.
fn port_of(line: &str) -> u16 {
    let word = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap();
    word.rsplit(':').next().unwrap().parse().unwrap()
}

fn echoed(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// The TCP ports that a process listens on, as the kernel says.
fn listening_ports(process: &Process) -> BTreeSet<u16> {
    const LISTEN: &str = "0A";
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap();
    let inodes: BTreeSet<String> = descriptors
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{}/net/{table}", process.pid())).unwrap();
        for row in text.lines().skip(1) {
            let columns: Vec<&str> = row.split_whitespace().collect();
            if columns[3] == LISTEN && inodes.contains(columns[9]) {
                let port = columns[1].rsplit(':').next().unwrap();
                ports.insert(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}
