//! The service's process, as the one who measures sees it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{READY, SNAPSHOT};
use crate::{peers::Side, sys};

/// A running service. Dropping it ends it.
#[derive(Debug)]
pub struct Backend {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Backend {
    /// Starts `program` (`bench` or `fleet`) as `serve` on one side of the link, and waits until it listens.
    ///
    /// # Errors
    /// When it can't be started or can't have its address.
    pub fn start(program: &Path, side: &Side, listen: SocketAddr) -> io::Result<Self> {
        let mut command: Command = side.command(program);
        command.args(["serve", "--listen", &listen.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sys::tie_to_this_thread(&mut command).spawn()?;
        let gone = || io::Error::other("the service closed its pipes");
        let input = child.stdin.take().ok_or_else(gone)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let mut backend = Self { child, input, output, address: listen };
        let line = backend.line()?;
        let address = line.strip_prefix(READY).and_then(|address| address.trim().parse().ok());
        backend.address =
            address.ok_or_else(|| io::Error::other(format!("the service on {listen} said {line:?}")))?;
        Ok(backend)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that each sink has read so far, by its number.
    ///
    /// # Errors
    /// When the service is gone.
    pub fn sinks(&mut self) -> io::Result<BTreeMap<u32, u64>> {
        writeln!(self.input, "{SNAPSHOT}")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::Error::other(format!("the service ended: {:?}", self.child.try_wait()?)));
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to end.
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}
