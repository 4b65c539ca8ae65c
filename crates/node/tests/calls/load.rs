//! Many calls at once to services that misbehave: one outcome each, the right one, in time.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::*;

/// How often the service had each call.
type Seen = Arc<Mutex<BTreeMap<String, usize>>>;

const CALLERS: usize = 64;
/// Of a call that is never answered: long enough for a busy machine to bring it to the service.
const SHORT: Duration = Duration::from_secs(2);

/// How a service treats a call; part of the call's name, so that outcome and treatment can be compared.
fn treatment(n: usize) -> &'static str {
    match n % 100 {
        0 => "never",
        1..=19 => "late",
        20..=39 => "pieces",
        40..=49 => "error",
        _ => "now",
    }
}

async fn treat(how: &str, answer: String, out: &mpsc::Sender<Vec<String>>) {
    let pieces = match how {
        "never" => return,
        "late" => {
            sleep(Duration::from_millis(50)).await;
            vec![answer]
        }
        "pieces" => {
            let (front, back) = answer.split_at(answer.len() / 2);
            vec![front.to_owned(), back.to_owned()]
        }
        _ => vec![answer],
    };
    drop(out.send(pieces).await);
}

/// Serves one connection of lines: each request is treated in a task of its own, so answers overtake each other.
async fn serve_lines(socket: TcpStream, seen: Seen) {
    let (from, mut to) = socket.into_split();
    let (out, mut answers) = mpsc::channel::<Vec<String>>(1024);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(pieces) = answers.recv().await {
            for piece in pieces {
                if to.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: Value = serde_json::from_str(&line).unwrap();
        let name = request["method"].as_str().unwrap().to_owned();
        *seen.lock().entry(name.clone()).or_default() += 1;
        let answer = answer_to(&request) + "\n";
        let out = out.clone();
        tasks.spawn(async move { treat(name.split('-').next().unwrap(), answer, &out).await });
    }
}

/// Serves one raw connection.
async fn serve_raw(mut socket: TcpStream, seen: Seen) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}") {
        if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request: Value = serde_json::from_slice(&bytes).unwrap();
    let name = request["method"].as_str().unwrap().to_owned();
    *seen.lock().entry(name.clone()).or_default() += 1;
    let (out, mut answers) = mpsc::channel(1);
    let treatment = treat(name.split('-').next().unwrap(), answer_to(&request), &out);
    treatment.await;
    drop(out);
    while let Some(pieces) = answers.recv().await {
        for piece in pieces {
            drop(socket.write_all(piece.as_bytes()).await);
            tokio::task::yield_now().await;
        }
    }
    closed(&mut socket).await;
}

fn answer_to(request: &Value) -> String {
    let name = request["method"].as_str().unwrap();
    let id = &request["id"];
    if name.starts_with("error") {
        return format!(
            "{{\"jsonrpc\":\"2.0\",\"error\":{{\"code\":-1,\"message\":\"{name}\"}},\"id\":{id}}}"
        );
    }
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"{name}\"}}")
}

async fn run<F: Future<Output = ()> + Send + 'static>(
    framing: &str,
    calls: usize,
    serve: fn(TcpStream, Seen) -> F,
) {
    let world = World::new(&format!("framing={framing}")).await;
    let session = world.session();
    let World { service, peer: _peer, _node, _hub, .. } = world;
    let seen: Seen = Arc::default();
    let mut serving = JoinSet::new();
    let counted = seen.clone();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = service.accept().await {
            connections.spawn(serve(socket, counted.clone()));
        }
    });

    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (session, next) = (session.clone(), next.clone());
        callers.spawn(async move {
            let mut outcomes = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= calls {
                    return outcomes;
                }
                let how = treatment(n);
                let name = format!("{how}-{n}");
                // Every caller counts for itself, so ids collide all the time.
                let request = json!({"jsonrpc": "2.0", "id": outcomes, "method": name});
                let limit = if how == "never" { SHORT } else { PATIENCE };
                let begun = Instant::now();
                let outcome = call(&session, limit, request.to_string().as_bytes()).await;
                match outcome {
                    Ok(answer) => {
                        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
                        let expected: Value = serde_json::from_str(&answer_to(&request)).unwrap();
                        assert_eq!(answer, expected, "caller {caller}");
                        assert_ne!(how, "never");
                    }
                    Err(end) => {
                        assert_eq!((how, end.code()), ("never", Code::Timeout), "{name}: {end}");
                        assert!(begun.elapsed() >= SHORT, "not before its time");
                    }
                }
                outcomes += 1;
            }
        });
    }
    let mut outcomes = 0;
    while let Some(done) = callers.join_next().await {
        outcomes += done.unwrap();
    }
    assert_eq!(outcomes, calls);
    let seen = seen.lock();
    assert_eq!(seen.len(), calls, "the service had every call");
    assert!(seen.values().all(|times| *times == 1), "and none of them twice");
}

#[tokio::test]
async fn ten_thousand_calls_over_one_connection_have_one_right_outcome_each() {
    run("lines", 10_000, serve_lines).await;
}

#[tokio::test]
async fn two_thousand_calls_on_connections_of_their_own_do_too() {
    run("raw", 2_000, serve_raw).await;
}
