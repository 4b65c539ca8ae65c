//! The demo keeps its promises: every step works, every command it prints works, and nothing is left after it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;

use std::{fs, process::Command, time::Duration};

use cli_support::{Home, SOON, finished};
use reachback_testkit::{
    process::{Process, Signal, Stream},
    tools,
};

/// The whole story on a machine that builds at the same time.
const STORY: Duration = Duration::from_secs(90);

#[test]
fn once_goes_through_all_steps_and_leaves_nothing() {
    let home = Home::new();
    let mut command = home.command(&["demo", "--once"]);
    let mut demo = Process::spawn("demo", command.env("TMPDIR", home.path(""))).unwrap();
    let status = demo.wait(STORY).unwrap();
    let told = demo.lines(Stream::Out).join("\n");
    assert!(status.success(), "{}", demo.tail());
    assert!(told.ends_with("All steps worked."), "{told}");
    assert_eq!(told.matches('\u{2713}').count(), 11, "{told}");
    for part in [
        "attic is online and offers echo, hello",
        "1 MiB to attic/echo and back, every byte the same",
        "NODE    STATE   SINCE",
        "service_unreachable: ",
        "node_offline: ",
        "cellar is online again after ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.lines().skip(1).all(|line| line.chars().count() <= 80), "{told}");
    assert_eq!(left_in(&home), Vec::<String>::new());
}

#[test]
fn what_it_prints_to_try_works_until_ctrl_c() {
    let Some(tools) = tools::need(&["nc"]) else { return };
    let home = Home::new();
    let mut command = home.command(&["demo"]);
    let mut demo = Process::spawn("demo", command.env("TMPDIR", home.path(""))).unwrap();
    demo.wait_for_line("stays up until Ctrl-C", STORY).unwrap();
    demo.wait_for_line("nodes --explorer /", SOON).unwrap();
    let told = demo.lines(Stream::Out);
    let to_try: Vec<&str> = {
        let at = told.iter().position(|line| line.contains("stays up")).unwrap();
        told[at..].iter().filter_map(|line| line.strip_prefix("    ")).collect()
    };
    let binary = env!("CARGO_BIN_EXE_reachback");
    for (part, input, exit, expected) in [
        ("nodes --explorer 127", "", 0, "attic"),
        ("connect attic/echo", "", 0, "hello"),
        ("connect attic/hello", "", 0, "hello from attic"),
        ("connect barn/broken", "", 69, "service_unreachable"),
        ("nodes --explorer /", "", 0, "cellar"),
        ("nc 127.0.0.1", "typed\n", 0, "typed"),
    ] {
        let line =
            to_try.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {to_try:?}"));
        assert!(line.starts_with("nc ") || line.contains(binary), "the full path is printed: {line}");
        let line = line.strip_prefix("nc ").map_or((*line).to_owned(), |rest| format!("\"$NC\" -N {rest}"));
        let mut shell = tools.command("nc");
        let netcat = shell.get_program().to_owned();
        let libraries =
            shell.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect::<Vec<_>>();
        shell = Command::new("sh");
        shell.args(["-c", &line]).env("NC", netcat);
        shell.envs(libraries.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let (mut process, mut stdin) = Process::spawn_with_stdin(&line, &mut shell).unwrap();
        std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
        drop(stdin);
        let finished = finished(&mut process);
        let output = format!("{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.status.code(), Some(exit), "{line}: {output}");
        assert!(output.contains(expected), "{line}: {output}");
    }
    let forward = to_try.iter().find(|line| line.contains("forward barn/web")).unwrap();
    let forward =
        Process::spawn("forward", Command::new("sh").args(["-c", &format!("exec {forward}")])).unwrap();
    let line = forward.wait_for_line("-> barn/web", SOON).unwrap();
    let address = line.split_whitespace().next().unwrap().to_owned();
    assert!(get(&address).contains("It works"), "{address}");

    demo.signal(Signal::Interrupt).unwrap();
    assert_eq!(demo.wait(SOON).unwrap().code(), Some(0), "{}", demo.tail());
    assert_eq!(left_in(&home), Vec::<String>::new());
}

#[test]
fn ctrl_c_in_the_middle_of_the_story_leaves_nothing() {
    let home = Home::new();
    let mut command = home.command(&["demo"]);
    let mut demo = Process::spawn("demo", command.env("TMPDIR", home.path(""))).unwrap();
    demo.wait_for_line("Three nodes dial out", STORY).unwrap();
    demo.signal(Signal::Interrupt).unwrap();
    assert_eq!(demo.wait(SOON).unwrap().code(), Some(0), "{}", demo.tail());
    assert_eq!(left_in(&home), Vec::<String>::new());
}

fn left_in(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.path("")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn get(address: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
