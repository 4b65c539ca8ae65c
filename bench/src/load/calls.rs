//! JSON-RPC calls as programs make them: `POST` on a connection that stays, and calls over a session of the client
//! library; and such sessions themselves, set up again and again.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use reachback_client::{Access, Client, ClientOptions, Profiles, Random, login};
use reachback_link::{Address, RealNet};
use reachback_wire::Target;
use serde_json::json;
use tokio::{
    net::TcpStream,
    task::{JoinHandle, LocalSet},
};

use super::{
    figures::{micros_since, now},
    http::{self, Reader},
    runtime,
    small::Visits,
};

/// The longest a call may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Posts calls of `method` to `path` of the explorer at `explorer` for `window`, on `at_once` connections that stay.
///
/// # Errors
/// When a connection can't be made or a call fails.
pub fn posts(
    explorer: SocketAddr,
    path: &str,
    method: &str,
    at_once: usize,
    window: Duration,
) -> io::Result<Visits> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": {} }).to_string();
    let (path, body): (Rc<str>, Rc<str>) = (path.into(), body.into());
    runtime()?.block_on(LocalSet::new().run_until(async {
        let mut sockets = Vec::new();
        for _ in 0..at_once {
            let socket = TcpStream::connect(explorer).await?;
            socket.set_nodelay(true)?;
            sockets.push(socket);
        }
        at_work(sockets, window, |mut socket, tally| {
            let (path, body) = (path.clone(), body.clone());
            async move {
                let mut reader = Reader::default();
                while tally.goes_on() {
                    let sent = now();
                    http::post(&mut socket, &mut reader, &path, &body).await?;
                    tally.note(sent);
                }
                Ok(())
            }
        })
        .await
    }))
}

/// Makes calls of `method` to `target` over one session for `window`, `at_once` at a time.
///
/// # Errors
/// When there is no session or a call fails.
pub fn session_calls(
    explorer: SocketAddr,
    target: &str,
    method: &str,
    at_once: usize,
    window: Duration,
) -> io::Result<Visits> {
    let target: Target = target.parse().map_err(io::Error::other)?;
    let method: Rc<str> = method.into();
    runtime()?.block_on(LocalSet::new().run_until(async {
        let id = "bench-caller".parse().map_err(io::Error::other)?;
        let options = ClientOptions::new(id, Random::system()).map_err(io::Error::other)?;
        let to = explorer.to_string().parse().map_err(io::Error::other)?;
        let client = Client::connect(Arc::new(RealNet), &to, options).await.map_err(io::Error::other)?;
        let client = Rc::new(client);
        let visits = at_work(vec![(); at_once], window, |(), tally| {
            let (client, target, method) = (client.clone(), target.clone(), method.clone());
            async move {
                while tally.goes_on() {
                    let sent = now();
                    let answer = client.call(target.clone(), &method, &json!({}), PATIENCE).await;
                    answer.map_err(io::Error::other)?;
                    tally.note(sent);
                }
                Ok(())
            }
        })
        .await;
        if let Ok(client) = Rc::try_unwrap(client) {
            client.close().await;
        }
        visits
    }))
}

/// Sets sessions up and closes them again for `window`, `at_once` at a time: the connection, its encryption if `access` has
/// any, and the handshake.
///
/// # Errors
/// When an explorer does not let us in.
pub fn sessions(
    explorer: SocketAddr,
    access: &Access,
    at_once: usize,
    window: Duration,
) -> io::Result<Visits> {
    let access = access.clone();
    runtime()?.block_on(LocalSet::new().run_until(async {
        let to: Rc<Address> = Rc::new(explorer.to_string().parse().map_err(io::Error::other)?);
        at_work(vec![(); at_once], window, |(), tally| {
            let (access, to) = (access.clone(), to.clone());
            async move {
                while tally.goes_on() {
                    let id = "bench-caller".parse().map_err(io::Error::other)?;
                    let mut options = ClientOptions::new(id, Random::system()).map_err(io::Error::other)?;
                    options.access = access.clone();
                    let sent = now();
                    let client = Client::connect(Arc::new(RealNet), &to, options).await;
                    let client = client.map_err(io::Error::other)?;
                    tally.note(sent);
                    client.close().await;
                }
                Ok(())
            }
        })
        .await
    }))
}

/// Exchanges a join string for an identity, which is kept in `directory`.
///
/// # Errors
/// When the explorer does not let us in.
pub fn log_in(join: &str, directory: &Path) -> io::Result<Access> {
    runtime()?.block_on(async {
        let join = join.parse().map_err(io::Error::other)?;
        let machine = "bench-caller".parse().map_err(io::Error::other)?;
        let profiles = Profiles::at(directory);
        let profile = login(Arc::new(RealNet), join, machine, Random::system(), &profiles, None).await;
        Ok(profile.map_err(io::Error::other)?.access())
    })
}

/// What callers that work side by side write down.
#[derive(Clone)]
struct Tally {
    until: Instant,
    samples: Rc<RefCell<Vec<f64>>>,
}

impl Tally {
    fn goes_on(&self) -> bool {
        now() < self.until
    }

    fn note(&self, sent: Instant) {
        self.samples.borrow_mut().push(micros_since(sent));
    }
}

async fn at_work<T, F>(callers: Vec<T>, window: Duration, work: impl Fn(T, Tally) -> F) -> io::Result<Visits>
where
    F: Future<Output = io::Result<()>> + 'static,
{
    let begun = now();
    let tally = Tally { until: begun + window, samples: Rc::default() };
    let working: Vec<JoinHandle<_>> =
        callers.into_iter().map(|caller| tokio::task::spawn_local(work(caller, tally.clone()))).collect();
    for worker in working {
        worker.await??;
    }
    Ok(Visits { samples: tally.samples.take(), failed: 0, seconds: begun.elapsed().as_secs_f64() })
}
