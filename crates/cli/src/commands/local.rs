//! The node of this machine, asked through its control socket: one JSON-RPC text per line, both ways.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::{
    args::ControlArguments,
    config,
    environment::Environment,
    exit::{Exit, Failure},
    limits, paths,
};

/// Where the node of this machine can be asked.
pub(crate) struct Local {
    path: PathBuf,
    /// Somebody says that it is there; the usual place is only a guess.
    named: bool,
}

impl Local {
    /// The socket that the flag or the node's own configuration names, or the one that a node of this user has.
    pub(crate) fn find(arguments: ControlArguments, environment: &Environment) -> Result<Self, Failure> {
        let (file, place) = match (arguments.control_socket, arguments.config) {
            (Some(path), _) => (Some(path), "--control-socket off".to_owned()),
            (None, Some(file)) => (config::node::control_socket_in(&file)?, file.display().to_string()),
            (None, None) => (None, String::new()),
        };
        match file {
            Some(off) if off == Path::new("off") => Err(Failure::config(format_args!(
                "{place}: a node without a control socket can't be asked; give it one, or name another node's: \
                 --control-socket PATH"
            ))),
            Some(path) => Ok(Self { path, named: true }),
            None => {
                let path = paths::local_node(environment, paths::is_root(), Path::exists)?;
                Ok(Self { path, named: false })
            }
        }
    }

    /// Whether somebody says that a node is there, so that its absence is news.
    pub(crate) fn is_named(&self) -> bool {
        self.named
    }

    /// Calls one method.
    pub(crate) async fn ask(&self, method: &str, params: &Value) -> Result<Value, Failure> {
        let answer = tokio::time::timeout(limits::ANSWER, self.exchange(method, params)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let answer = answer.map_err(|error| self.not_reached(&error))?;
        match (&answer["error"], &answer["result"]) {
            (Value::Null, result) => Ok(result.clone()),
            (error, _) => {
                let message = error["message"].as_str().unwrap_or("it gave no reason");
                Err(Failure::new(Exit::Failed, format_args!("the node refused: {message}")))
            }
        }
    }

    async fn exchange(&self, method: &str, params: &Value) -> io::Result<Value> {
        let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": method});
        if !params.is_null() {
            request["params"] = params.clone();
        }
        let mut socket = UnixStream::connect(&self.path).await?;
        socket.write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(socket.take(limits::CONTROL_ANSWER)).read_line(&mut line).await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::from)
    }

    fn not_reached(&self, error: &io::Error) -> Failure {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Denied,
            io::ErrorKind::TimedOut => Exit::Coded(reachback_wire::Code::Timeout),
            _ => Exit::Coded(reachback_wire::Code::PeerUnreachable),
        };
        let remedy = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "; no node runs here for this user: start one, or name its socket: --control-socket PATH"
            }
            io::ErrorKind::PermissionDenied => "; it belongs to another user: use sudo",
            _ => "",
        };
        Failure::new(exit, format_args!("no node at {}: {error}{remedy}", self.path.display()))
    }
}
