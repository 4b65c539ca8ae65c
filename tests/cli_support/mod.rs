//! The real binary in a temporary home of its own: no variable of the developer's shell reaches it, every port is 0,
//! every socket is in a directory that goes away.

#![allow(dead_code, reason = "each test target uses a part of it")]

pub(crate) mod services;

use std::{path::PathBuf, process::Command, time::Duration};

use reachback_testkit::process::{Finished, Process, run};
use tempfile::TempDir;

/// Longer than anything here takes on a machine that also builds.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A directory to live in.
pub(crate) struct Home {
    directory: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::Builder::new().prefix("reachback-test-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The local socket of an explorer that is told nothing else.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/explorer.sock")
    }

    /// `reachback ARGUMENTS`, in this home.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reachback"));
        command.args(arguments).current_dir(self.directory.path());
        command.env_clear().env("HOME", self.directory.path()).env("RUNTIME_DIRECTORY", self.path("run"));
        // What a program keeps is its own: two roles in one home don't share a key.
        let role = arguments.iter().find(|argument| ["explorer", "node"].contains(*argument));
        command.env("STATE_DIRECTORY", self.path("state").join(role.unwrap_or(&"nobody")));
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        run(&arguments.join(" "), &mut self.command(arguments), SOON).unwrap()
    }

    /// Runs it to its end with input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Finished {
        let (mut process, mut stdin) =
            Process::spawn_with_stdin(&arguments.join(" "), &mut self.command(arguments)).unwrap();
        std::io::Write::write_all(&mut stdin, input).unwrap();
        drop(stdin);
        finished(&mut process)
    }

    /// Starts it.
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        Process::spawn(&arguments.join(" "), &mut self.command(arguments)).unwrap()
    }

    /// An explorer with a loopback port and a fast heartbeat; its address comes with it.
    pub(crate) fn explorer(&self, more: &[&str]) -> (Process, String) {
        let mut arguments = vec!["explorer", "--id", "hub-1", "--listen", "127.0.0.1:0"];
        arguments.extend(more);
        if !more.contains(&"--heartbeat") {
            arguments.extend(["--heartbeat", "500ms"]);
        }
        let process = self.start(&arguments);
        let line = process.wait_for_line("listening", SOON).unwrap();
        let address = line.split_whitespace().nth(1).unwrap().to_owned();
        (process, address)
    }

    /// A node that is online, as it says itself, when this returns.
    pub(crate) fn node(&self, explorer: &str, id: &str, more: &[&str]) -> Process {
        let mut arguments = vec!["node", "--explorer", explorer, "--id", id];
        arguments.extend(more);
        let process = self.start(&arguments);
        process.wait_for_line(&format!("{id} online at hub-1 ({explorer})"), SOON).unwrap();
        process
    }
}

/// Waits for the end and collects the output.
pub(crate) fn finished(process: &mut Process) -> Finished {
    use reachback_testkit::process::Stream;
    let status = process.wait(SOON).unwrap();
    let text = |stream| process.lines(stream).iter().map(|line| format!("{line}\n")).collect();
    Finished { status, stdout: text(Stream::Out), stderr: text(Stream::Err) }
}

/// Asserts an exit code and returns what was written to stderr.
#[track_caller]
pub(crate) fn refused(finished: &Finished, exit: i32) -> &str {
    assert_eq!(
        finished.status.code(),
        Some(exit),
        "stdout: {}\nstderr: {}",
        finished.stdout,
        finished.stderr
    );
    &finished.stderr
}
