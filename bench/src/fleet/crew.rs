//! The processes of a fleet, as their starter sees them.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::nodes::{Crew, DIAL, PER_PROCESS, REPORT, Report};
use crate::{load::READY, sys};

/// All processes of a fleet. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Fleet(Vec<Process>);

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Fleet {
    /// Starts as many processes of this very program as `nodes` nodes need, in equal shares. None dials yet.
    pub(super) fn start(nodes: usize, explorer: SocketAddr, service: SocketAddr) -> io::Result<Self> {
        let processes = nodes.div_ceil(PER_PROCESS).max(1);
        let mut fleet = Self(Vec::new());
        let mut first = 0;
        for left in (1..=processes).rev() {
            let count = (nodes - first).div_ceil(left);
            fleet.0.push(Process::start(&Crew { first, count, explorer, service })?);
            first += count;
        }
        Ok(fleet)
    }

    /// How many processes there are.
    pub(super) fn processes(&self) -> usize {
        self.0.len()
    }

    /// Lets all nodes dial.
    pub(super) fn dial(&mut self) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|process| writeln!(process.input, "{DIAL}"))
    }

    /// How all nodes together are.
    pub(super) fn report(&mut self) -> io::Result<Report> {
        let mut sum = Report::default();
        for process in &mut self.0 {
            writeln!(process.input, "{REPORT}")?;
        }
        for process in &mut self.0 {
            sum += serde_json::from_str(&process.line()?)?;
        }
        Ok(sum)
    }
}

impl Process {
    fn start(crew: &Crew) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("nodes");
        command.args(["--first", &crew.first.to_string(), "--count", &crew.count.to_string()]);
        command.args(["--explorer", &crew.explorer.to_string(), "--service", &crew.service.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sys::tie_to_this_thread(&mut command).spawn()?;
        let gone = || io::Error::other("a process of the fleet closed its pipes");
        let input = child.stdin.take().ok_or_else(gone)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let mut process = Self { child, input, output };
        let line = process.line()?;
        if line != READY {
            return Err(io::Error::other(format!("a process of the fleet said {line:?}")));
        }
        Ok(process)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::Error::other(format!(
                "a process of the fleet ended: {:?}",
                self.child.try_wait()?
            )));
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to end.
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}
