//! A service on a Unix socket, in each of the framings, that treats every call as the call says.

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use crate::{
    history::Sightings,
    treatment::{Framing, How, LATE, answer},
};

/// Calls that are answered in the opposite order, as many at a time.
const TURNED: usize = 4;
/// How long an incomplete lot of them waits for the rest.
const TURNED_WAIT: Duration = Duration::from_millis(30);

/// What all connections of a service share.
#[derive(Clone, Default)]
struct Shared {
    sightings: Sightings,
    waiting: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
}

/// One request, read.
struct Request {
    call: usize,
    how: How,
    id: Value,
    params: Value,
}

/// Runs the service as long as the returned tasks are kept.
pub(crate) fn serve(framing: Framing, path: &Path, sightings: Sightings) -> JoinSet<()> {
    let listener = UnixListener::bind(path).unwrap();
    let shared = Shared { sightings, ..Shared::default() };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let shared = shared.clone();
            connections.spawn(async move {
                match framing {
                    Framing::Lines => serve_lines(socket, shared).await,
                    Framing::Http | Framing::Raw => serve_one(framing, socket, shared).await,
                }
            });
            while connections.try_join_next().is_some_and(|done| done.map(|()| true).unwrap()) {}
        }
    });
    tasks
}

impl Shared {
    fn read(&self, text: &[u8]) -> Request {
        let mut request: Value = serde_json::from_slice(text).unwrap();
        let how = How::from_method(request["method"].as_str().unwrap());
        let call = usize::try_from(request["params"]["call"].as_u64().unwrap()).unwrap();
        assert_eq!(how, How::of(call));
        self.sightings.saw(call);
        Request { call, how, id: request["id"].take(), params: request["params"].take() }
    }

    /// Returns when this call is to be answered.
    async fn turn(&self, how: How) {
        match how {
            How::Late => sleep(LATE).await,
            How::Never => std::future::pending().await,
            How::Turned => {
                let (go, mine) = oneshot::channel();
                let lot = {
                    let mut waiting = self.waiting.lock();
                    waiting.push(go);
                    if waiting.len() < TURNED { Vec::new() } else { std::mem::take(&mut *waiting) }
                };
                // Whoever waited long enough alone has gone ahead by itself.
                lot.into_iter().rev().for_each(|go| go.send(()).unwrap_or_default());
                drop(timeout(TURNED_WAIT, mine).await);
            }
            _ => {}
        }
    }
}

/// A connection that calls share: each is treated in a task of its own, so answers overtake each other.
async fn serve_lines(socket: UnixStream, shared: Shared) {
    let (from, to) = socket.into_split();
    let (out, lines) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(write_lines(to, lines, shared.clone()));
    let mut from = BufReader::new(from).lines();
    while let Ok(Some(line)) = from.next_line().await {
        let (request, shared, out) = (shared.read(line.as_bytes()), shared.clone(), out.clone());
        tasks.spawn(async move {
            shared.turn(request.how).await;
            // Its connection may be closed by now.
            drop(out.send(request));
        });
    }
}

/// Writes answers until one says that the connection is to be closed. What was not written by then never is; the other
/// half goes on being read, so that nothing written before gets lost.
async fn write_lines(mut to: OwnedWriteHalf, mut lines: mpsc::UnboundedReceiver<Request>, shared: Shared) {
    while let Some(Request { call, how, id, params }) = lines.recv().await {
        let line = match how {
            How::Closed => String::new(),
            How::Cut => answer(how, &id, &params)[..30].to_owned(),
            How::WrongId => answer(how, &json!("nobody's"), &params) + "\n",
            How::Garbage => format!("Listening on {{\"port\": 5}}\n[1\n\n{}\n", answer(how, &id, &params)),
            _ => answer(how, &id, &params) + "\n",
        };
        if write(&mut to, line.as_bytes(), how).await.is_err() || matches!(how, How::Closed | How::Cut) {
            return;
        }
        if how != How::WrongId {
            shared.sightings.answered(call);
        }
    }
}

/// A connection of one call.
async fn serve_one(framing: Framing, socket: UnixStream, shared: Shared) {
    let (mut from, mut to) = socket.into_split();
    let body = if framing == Framing::Http { read_post(&mut from).await } else { read_text(&mut from).await };
    // A caller may be gone before it has said everything.
    let Some(body) = body else { return };
    let Request { call, how, id, params } = shared.read(&body);
    shared.turn(how).await;
    let whole = match how {
        How::Closed => return,
        How::WrongId => answer(how, &json!("nobody's"), &params),
        How::Garbage => "Listening on {\"port\": 5}\n".to_owned(),
        _ => answer(how, &id, &params),
    };
    let whole = match (framing, how) {
        (Framing::Http, How::Garbage) if call.is_multiple_of(2) => whole,
        (Framing::Http, _) => response(call, &whole),
        _ => whole,
    };
    let written = if how == How::Cut { &whole.as_bytes()[..whole.len() - 20] } else { whole.as_bytes() };
    if write(&mut to, written, how).await.is_err() || how == How::Cut {
        return;
    }
    shared.sightings.answered(call);
    if framing == Framing::Raw && how == How::Garbage {
        // What never completes a text ends with the connection.
        return;
    }
    // The node closes first.
    let mut rest = [0; 64];
    while from.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

/// The answer as HTTP, in the three ways in which a body can end: counted, in chunks, and with the connection.
fn response(call: usize, body: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    if call.is_multiple_of(2) {
        return format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    }
    let middle = (1..body.len()).find(|at| *at > body.len() / 2 && body.is_char_boundary(*at)).unwrap();
    let (front, back) = body.split_at(middle);
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    format!("{head}Transfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunk(front), chunk(back))
}

async fn write(to: &mut OwnedWriteHalf, bytes: &[u8], how: How) -> std::io::Result<()> {
    let step = match how {
        How::Pieces => bytes.len() / 4 + 1,
        How::Dribble => 1,
        _ => bytes.len().max(1),
    };
    for piece in bytes.chunks(step) {
        to.write_all(piece).await?;
        yield_now().await;
    }
    Ok(())
}

async fn read_post(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if from.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&bytes[..at]).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let length: usize = length.trim().parse().unwrap();
        if bytes.len() >= at + 4 + length {
            return Some(bytes.split_off(at + 4));
        }
    }
}

async fn read_text(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while serde_json::from_slice::<Value>(&bytes).is_err() {
        if from.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(bytes)
}
