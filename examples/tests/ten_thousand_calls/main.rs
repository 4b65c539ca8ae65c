//! Ten thousand calls of sixty-four callers to a service that answers out of order, late, in pieces, wrongly or not at
//! all: each has exactly one outcome, the right one, in time, and is carried out at most once.
//!
//! Everything between caller and service is the real thing: sessions, an explorer, a node, sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

mod history;
mod service;
mod treatment;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use reachback_client::{Answer, Call, CallError, Client, ClientOptions, Random};
use reachback_explorer::{Explorer, ExplorerConfig, NodeState};
use reachback_link::{Address, RealNet};
use reachback_node::{Node, NodeConfig};
use reachback_wire::Code;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use history::{Record, Sightings, Summary, check};
use treatment::{Framing, How, Outcome, params};

const CALLS: usize = 10_000;
const CALLERS: usize = 64;
/// Sessions that the callers share among them.
const CLIENTS: usize = 8;

#[test]
fn ten_thousand_calls_in_each_framing_have_one_right_outcome_each() {
    thread::scope(|scope| {
        let runs = Framing::ALL.map(|framing| {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(run(framing))
            })
        });
        for (framing, run) in Framing::ALL.into_iter().zip(runs) {
            let Summary { outcomes, overtaken, taken_along, took } =
                run.join().unwrap_or_else(|_| panic!("{framing:?}"));
            println!(
                "{framing:?} in {took:?}: {outcomes:?}, {overtaken} overtaken, {taken_along} taken along"
            );
            // The mix was what it claims to be.
            assert!(overtaken > CALLS / 20, "{framing:?}: answers overtook {overtaken}");
            assert!(taken_along < CALLS / 5, "{framing:?}: {taken_along} taken along");
            let count = |outcome: &str| outcomes.get(outcome).copied().unwrap_or_default();
            assert!(
                count("result") > CALLS * 3 / 4 && count("error") > CALLS / 30,
                "{framing:?}: {outcomes:?}"
            );
            let closed = if framing == Framing::Lines { Code::Lost } else { Code::Reset };
            assert!(count(&closed.to_string()) >= CALLS / 1000, "{framing:?}: {outcomes:?}");
            assert!(count(&Code::Timeout.to_string()) >= CALLS / 500, "{framing:?}: {outcomes:?}");
        }
    });
}

async fn run(framing: Framing) -> Summary {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let sightings = Sightings::default();
    let _service = service::serve(framing, &path, sightings.clone());
    let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let address: Address = explorer.addresses().listen[0].to_string().parse().unwrap();
    let entry = format!("rpc={},framing={}", path.display(), framing.key());
    let config = NodeConfig::new("edge-7".parse().unwrap(), vec![address.clone()]).unwrap();
    let node = Node::start(config.with_service(entry.parse().unwrap()).unwrap(), Arc::new(RealNet)).unwrap();
    online(&explorer).await;

    let begun = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for name in 0..CLIENTS {
        let options =
            ClientOptions::new(format!("client-{name}").parse().unwrap(), Random::system()).unwrap();
        clients.push(Arc::new(Client::connect(Arc::new(RealNet), &address, options).await.unwrap()));
    }
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(make_calls(clients[caller % CLIENTS].clone(), next.clone()));
    }
    let mut records = Vec::new();
    let mut pulse = Pulse::default();
    while let Some(made) = pulse.during(callers.join_next()).await {
        records.extend(made.unwrap());
    }
    let mut summary = check(framing, CALLS, &records, &sightings, pulse.worst * 3);
    summary.took = begun.elapsed();
    node.shutdown().await;
    explorer.shutdown().await;
    summary
}

async fn online(explorer: &Explorer) {
    timeout(treatment::LONG, async {
        while !explorer.nodes().iter().any(|node| node.state == NodeState::Online) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the node comes online");
}

/// Makes one call after the other until there are none left to make.
async fn make_calls(client: Arc<Client>, next: Arc<AtomicUsize>) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let call = next.fetch_add(1, Ordering::Relaxed);
        if call >= CALLS {
            return records;
        }
        let how = How::of(call);
        let request = Call::new("edge-7/rpc".parse().unwrap(), how.method(), params(call), how.limit());
        let begun = Instant::now();
        let outcomes = outcomes(&client, &request).await;
        records.push(Record { call, begun, ended: Instant::now(), outcomes });
    }
}

/// Everything that comes of a call.
async fn outcomes(client: &Client, request: &Call) -> Vec<Outcome> {
    let mut answers = match client.send(request).await {
        Ok(answers) => answers,
        Err(error) => return vec![failed(error)],
    };
    let mut outcomes = Vec::new();
    while let Some(answer) = answers.next().await {
        outcomes.push(match answer {
            Ok(Answer::Result(result) | Answer::Item(result)) => Outcome::Result(result),
            Err(error) => failed(error),
        });
    }
    outcomes
}

fn failed(error: CallError) -> Outcome {
    match error {
        CallError::Service { code, message, data } => Outcome::Error(code, message, data),
        other => Outcome::Failed(other.code().unwrap_or_else(|| panic!("{other}"))),
    }
}

/// How long this thread lets timers wait.
#[derive(Default)]
struct Pulse {
    worst: Duration,
}

impl Pulse {
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        const BEAT: Duration = Duration::from_millis(5);
        let mut work = std::pin::pin!(work);
        loop {
            let begun = Instant::now();
            tokio::select! {
                done = &mut work => return done,
                () = sleep(BEAT) => self.worst = self.worst.max(begun.elapsed().saturating_sub(BEAT)),
            }
        }
    }
}
