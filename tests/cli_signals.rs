//! What the real binary does at SIGTERM, SIGINT and SIGHUP: in order, in time, and without leaving files.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{
    fs,
    process::{Child, Stdio},
};

use cli_support::{Home, SOON, finished, services};
use reachback_testkit::{
    eventually,
    process::{Process, Signal, Stream},
};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

#[test]
fn sigterm_ends_each_program_in_order() {
    let home = Home::new();
    let (mut explorer, address) = home.explorer(&[]);
    let service = format!("echo={}", services::echo());
    let mut node = home.node(&address, "edge-7", &["--service", &service]);
    let mut forward = home.start(&["forward", "edge-7/echo", "--explorer", &address]);
    forward.wait_for_line("-> edge-7/echo", SOON).unwrap();
    assert!(home.socket().exists());

    for process in [&mut forward, &mut node, &mut explorer] {
        process.signal(Signal::Terminate).unwrap();
        let status = process.wait(SOON).unwrap();
        assert_eq!(status.code(), Some(0), "{}", process.tail());
    }
    assert!(!home.socket().exists(), "the socket file goes with its explorer");
}

#[test]
fn a_second_signal_ends_at_once() {
    let home = Home::new();
    let (mut explorer, address) = home.explorer(&[]);
    let service = format!("echo={}", services::echo());
    let mut node = home.node(&address, "edge-7", &["--service", &service]);
    // A node that does not answer the goodbye keeps the orderly end waiting. Both signals wait for the process to go
    // on, so it finds them together.
    node.signal(Signal::Stop).unwrap();
    explorer.signal(Signal::Stop).unwrap();
    explorer.signal(Signal::Interrupt).unwrap();
    explorer.signal(Signal::Terminate).unwrap();
    explorer.signal(Signal::Continue).unwrap();
    let finished = finished(&mut explorer);
    assert!(matches!(finished.status.code(), Some(130 | 143)), "{:?} {}", finished.status, finished.stderr);
    assert!(finished.stderr.contains("ended at once by a second signal"), "{}", finished.stderr);
}

#[test]
fn at_sighup_a_node_dials_at_once_what_it_waits_for() {
    let home = Home::new();
    let (_explorer, address) = home.explorer(&[]);
    // Two with one name: soon one of them has to wait for longer than this test does.
    let arguments = ["node", "--explorer", &address, "--id", "edge-7", "--service", "ssh=22"];
    let mut nodes = [home.start(&arguments), home.start(&arguments)];
    let sent_away = |node: &Process| {
        let lines = node.lines(Stream::Out);
        lines.iter().any(|line| line.contains("two running processes use this node id"))
    };
    let loser = eventually(SOON, "one that waits", || nodes.iter().position(sent_away));
    nodes[1 - loser].signal(Signal::Terminate).unwrap();
    nodes[1 - loser].wait(SOON).unwrap();

    let mark = nodes[loser].mark();
    nodes[loser].signal(Signal::HangUp).unwrap();
    nodes[loser].wait_for_line_after(mark, "SIGHUP: what is down is dialled now", SOON).unwrap();
    nodes[loser].wait_for_line_after(mark, "edge-7 online", SOON).unwrap();
}

#[test]
fn at_sighup_a_node_reads_again_what_it_shows() {
    let home = Home::new();
    // Both know the secret, and then both are given another one.
    let secret = home.path("secret");
    fs::write(&secret, "the first shared secret of this lab").unwrap();
    let file = secret.to_str().unwrap();
    let (mut explorer, address) = home.explorer(&["--secret-file", file]);
    let port = address.rsplit(':').next().unwrap();
    let arguments =
        ["node", "--explorer", &address, "--id", "edge-7", "--service", "ssh=22", "--secret-file", file];
    let mut node = home.start(&arguments);
    node.wait_for_line("edge-7 online", SOON).unwrap();
    explorer.signal(Signal::Terminate).unwrap();
    explorer.wait(SOON).unwrap();

    fs::remove_file(&secret).unwrap();
    node.signal(Signal::HangUp).unwrap();
    node.wait_for_line("what this node showed before stays in use", SOON).unwrap();
    fs::write(&secret, "another shared secret of this lab").unwrap();
    let listen = format!("127.0.0.1:{port}");
    let again = home.start(&["explorer", "--listen", &listen, "--secret-file", file]);
    again.wait_for_line("listening", SOON).unwrap();
    node.wait_for_line("does not know the shared secret", SOON).unwrap();
    let mark = node.mark();
    node.signal(Signal::HangUp).unwrap();
    node.wait_for_line_after(mark, "what this node shows was read again", SOON).unwrap();
    node.wait_for_line_after(mark, "edge-7 online", SOON).unwrap();
}

#[test]
fn at_sighup_what_serves_others_stays() {
    let home = Home::new();
    let (mut explorer, address) = home.explorer(&[]);
    let mut forward = home.start(&["forward", "edge-7/echo", "--explorer", &address]);
    forward.wait_for_line("edge-7/echo is offline", SOON).unwrap();
    let mut socks = home.start(&["socks", "0", "--explorer", &address]);
    socks.wait_for_line("socks5h://", SOON).unwrap();
    for (process, said) in [
        (&mut socks, "SIGHUP: what is down is dialled now"),
        (&mut explorer, "SIGHUP: nothing to do; a changed configuration needs a restart"),
        (&mut forward, "SIGHUP: what is down is dialled now"),
    ] {
        process.signal(Signal::HangUp).unwrap();
        process.wait_for_line(said, SOON).unwrap();
    }
    assert!(home.run(&["nodes"]).status.success(), "the explorer still answers");
    for mut process in [explorer, forward, socks] {
        process.signal(Signal::Terminate).unwrap();
        let end = process.wait(SOON).unwrap();
        assert_eq!(end.code(), Some(0), "it stayed until it was told to end: {}", process.tail());
    }
}

#[test]
fn at_sighup_the_demo_leaves_nothing() {
    let home = Home::new();
    fs::create_dir(home.path("tmp")).unwrap();
    let left = || fs::read_dir(home.path("tmp")).unwrap().count();
    let mut demo = Process::spawn("demo", home.command(&["demo"]).env("TMPDIR", home.path("tmp"))).unwrap();
    demo.wait_for_line("Three nodes dial out", SOON).unwrap();
    assert_eq!(left(), 1);
    demo.signal(Signal::HangUp).unwrap();
    assert_eq!(demo.wait(SOON).unwrap().code(), Some(0), "{}", demo.tail());
    assert_eq!(left(), 0);
}

#[test]
fn a_closed_window_ends_what_was_started_in_it() {
    let home = Home::new();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut command = home.command(&["explorer", "--id", "hub-1"]);
    let mut explorer =
        Running(command.stdin(terminal).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    // The command holds the terminal too.
    drop(command);
    eventually(SOON, "its socket", || home.socket().exists().then_some(()));
    drop(master);
    let pid = Pid::from_raw(explorer.0.id().try_into().unwrap()).unwrap();
    // A child that another test is starting may hold the other end for a moment; a window that closes insists too.
    let status = eventually(SOON, "its end", || {
        kill_process(pid, rustix::process::Signal::HUP).unwrap();
        explorer.0.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(0));
    assert!(!home.socket().exists(), "the socket file goes with its explorer");
}

/// A child without pipes; gone when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
