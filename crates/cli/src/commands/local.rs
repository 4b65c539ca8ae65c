//! The node of this machine, asked through its control socket: one JSON-RPC text per line, both ways.

use std::{io, path::PathBuf};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::{
    args::ControlArguments,
    environment::Environment,
    exit::{Exit, Failure},
    limits, paths,
};

/// Where the node of this machine can be asked.
pub(crate) struct Local {
    path: PathBuf,
}

impl Local {
    /// The socket that the flag names, or the one that a node of this user has.
    pub(crate) fn find(arguments: ControlArguments, environment: &Environment) -> Result<Self, Failure> {
        let path = match arguments.control_socket {
            Some(path) => path,
            None => paths::node_socket(environment, paths::is_root())?,
        };
        Ok(Self { path })
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
