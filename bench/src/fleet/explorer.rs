//! The explorer's process, and what it is asked over a session, as an operator's program would.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use reachback_client::{Client, ClientOptions, Random};
use reachback_link::RealNet;
use serde_json::{Value, json};

use crate::{
    load::{
        figures::{micros_since, now, pass},
        runtime,
        small::Visits,
    },
    procs::Family,
    sys,
};

/// How long the explorer may take to listen, and to end when it is asked to.
const PROMPT: Duration = Duration::from_secs(20);

/// The longest a question may take: ten thousand nodes are a long answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running explorer. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Explorer {
    child: Child,
    listen: SocketAddr,
}

impl Explorer {
    /// Starts the released binary and waits until it lets a client in. `directory` holds its socket and its log.
    pub(super) fn start(reachback: &Path, listen: SocketAddr, directory: &Path) -> io::Result<Self> {
        let log = fs::File::create(directory.join("explorer.log"))?;
        let mut command = Command::new(reachback);
        command.args(["-q", "explorer", "--id", "hub", "--listen", &listen.to_string()]);
        command.arg("--socket").arg(directory.join("explorer.sock"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = sys::tie_to_this_thread(&mut command).spawn()?;
        let mut explorer = Self { child, listen };
        let begun = now();
        loop {
            let Err(error) = explorer.ask("explorer.status") else { return Ok(explorer) };
            if begun.elapsed() > PROMPT || explorer.child.try_wait()?.is_some() {
                let said = fs::read_to_string(directory.join("explorer.log"))?;
                return Err(io::Error::other(format!("the explorer does not come up: {error}\n{said}")));
            }
            pass(Duration::from_millis(10));
        }
    }

    /// Its process.
    pub(super) fn family(&self) -> Family {
        Family::new(vec![self.child.id()])
    }

    /// Ends it as an operator does, and waits until it is gone.
    pub(super) fn stop(mut self) -> io::Result<()> {
        sys::signal_group(self.child.id(), sys::Signal::Terminate)?;
        let begun = now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > PROMPT {
                return Err(io::Error::other("the explorer does not end when it is asked to"));
            }
            pass(Duration::from_millis(10));
        }
        Ok(())
    }

    /// How many nodes it calls online.
    pub(super) fn online(&self) -> io::Result<usize> {
        let status = self.ask("explorer.status")?;
        status["nodes"]["online"]
            .as_u64()
            .and_then(|online| online.try_into().ok())
            .ok_or_else(|| io::Error::other(format!("explorer.status without nodes.online: {status}")))
    }

    /// Round trips of the last heartbeats of all nodes, in milliseconds, in order.
    pub(super) fn heartbeats_ms(&self) -> io::Result<Vec<f64>> {
        let nodes = self.ask("explorer.nodes")?;
        let nodes =
            nodes["nodes"].as_array().ok_or_else(|| io::Error::other("explorer.nodes without nodes"))?;
        let mut times: Vec<f64> = nodes.iter().filter_map(|node| node["rtt_ms"].as_f64()).collect();
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    /// Calls the service of every target once, `at_once` at a time.
    pub(super) fn call_each(&self, targets: Vec<String>, at_once: usize) -> io::Result<Visits> {
        runtime()?.block_on(async {
            let client = self.connect().await?;
            let visits = call_each(&client, targets, at_once).await;
            client.close().await;
            Ok(visits)
        })
    }

    fn ask(&self, method: &str) -> io::Result<Value> {
        runtime()?.block_on(async {
            let client = self.connect().await?;
            let target = "@explorer/api".parse().map_err(io::Error::other)?;
            let answer = client.call(target, method, &Value::Null, PATIENCE).await.map_err(io::Error::other);
            client.close().await;
            answer
        })
    }

    async fn connect(&self) -> io::Result<Client> {
        let id = "bench-operator".parse().map_err(io::Error::other)?;
        let options = ClientOptions::new(id, Random::system()).map_err(io::Error::other)?;
        let to = self.listen.to_string().parse().map_err(io::Error::other)?;
        Client::connect(Arc::new(RealNet), &to, options).await.map_err(io::Error::other)
    }
}

impl Drop for Explorer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to end.
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}

async fn call_each(client: &Client, targets: Vec<String>, at_once: usize) -> Visits {
    let call = |target: String| async move {
        let sent = now();
        let target = target.parse().map_err(io::Error::other)?;
        let answer = client.call(target, "any", &json!({}), PATIENCE).await;
        answer.map(|_| micros_since(sent)).map_err(io::Error::other)
    };
    let begun = now();
    let mut visits = Visits::default();
    let mut left = targets.into_iter();
    let mut calling: FuturesUnordered<_> = left.by_ref().take(at_once).map(call).collect();
    while let Some(outcome) = calling.next().await {
        match outcome {
            Ok(took) => visits.samples.push(took),
            Err(_) => visits.failed += 1,
        }
        calling.extend(left.next().map(call));
    }
    visits.seconds = begun.elapsed().as_secs_f64();
    visits
}
