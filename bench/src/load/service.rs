//! The service behind every tunnel that is measured, as a process of its own. The first byte of a connection chooses what
//! it does: `E` echoes, `S` reads and throws away, `O` writes for ever, `P` is the first letter of an HTTP POST with a
//! JSON-RPC request.
//!
//! Two threads: bulk on one, everything small on the other, so that a small answer waits for the tunnel and never for a
//! bulk copy of the generator. How much a sink has read is asked over standard input, from the side that received it:
//! what a sender has written may still be in some buffer.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, BufRead, Write},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    task::LocalSet,
};

use super::{BACKLOG, CHUNK, ECHO, READY, SINK, SNAPSHOT, SOURCE, ZEROS, http, runtime};

/// Bytes that each sink has read, by the number its visitor gave it.
type Sinks = Arc<Mutex<BTreeMap<u32, Arc<AtomicU64>>>>;

/// Bulk connections on their way from the small thread to the bulk thread.
type Bulk = mpsc::UnboundedSender<(std::net::TcpStream, Job)>;

enum Job {
    Sink(Arc<AtomicU64>),
    Source,
}

/// Serves on `listen` until standard input ends. Says `READY` and its address on standard output, and answers each line
/// `SNAPSHOT` with one line of JSON: bytes read by sink.
///
/// # Errors
/// When the address can't be had.
pub fn serve(listen: SocketAddr) -> io::Result<()> {
    let sinks = Sinks::default();
    let (bulk, jobs) = mpsc::unbounded_channel();
    let small = runtime()?;
    let listener = small.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(BACKLOG)
    })?;
    let address = listener.local_addr()?;
    let counters = sinks.clone();
    thread::Builder::new()
        .name("small".into())
        .spawn(move || small.block_on(LocalSet::new().run_until(accept(listener, counters, bulk))))?;
    let heavy = runtime()?;
    thread::Builder::new()
        .name("bulk".into())
        .spawn(move || heavy.block_on(LocalSet::new().run_until(carry(jobs))))?;

    let mut out = io::stdout();
    writeln!(out, "{READY} {address}")?;
    for line in io::stdin().lock().lines() {
        if line? == SNAPSHOT {
            let read: BTreeMap<u32, u64> =
                sinks.lock().iter().map(|(id, bytes)| (*id, bytes.load(Relaxed))).collect();
            writeln!(out, "{}", serde_json::to_string(&read)?)?;
        }
    }
    Ok(())
}

async fn accept(listener: TcpListener, sinks: Sinks, bulk: Bulk) {
    loop {
        // An error concerns one connection, or passes; the visitor counts what it did not get.
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let (sinks, bulk) = (sinks.clone(), bulk.clone());
        // Owned by the local set; a visitor that goes away ends its own task.
        tokio::task::spawn_local(async move {
            let _visitor_gone = attend(socket, &sinks, &bulk).await;
        });
    }
}

async fn attend(mut socket: TcpStream, sinks: &Sinks, bulk: &Bulk) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let job = match socket.read_u8().await? {
        ECHO => return echo(socket).await,
        b'P' => return http::answer(socket).await,
        SOURCE => Job::Source,
        SINK => {
            let id = socket.read_u32().await?;
            Job::Sink(sinks.lock().entry(id).or_default().clone())
        }
        other => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a visitor began with {other}")));
        }
    };
    bulk.send((socket.into_std()?, job)).map_err(|_| io::ErrorKind::BrokenPipe.into())
}

async fn echo(mut socket: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let len = socket.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..len]).await?;
    }
}

async fn carry(mut jobs: mpsc::UnboundedReceiver<(std::net::TcpStream, Job)>) {
    // One buffer for all sinks: it stays in the cache, and nobody looks at what is in it.
    let buffer = Rc::new(RefCell::new(vec![0; CHUNK]));
    while let Some((socket, job)) = jobs.recv().await {
        let buffer = buffer.clone();
        tokio::task::spawn_local(async move {
            let _visitor_gone = match TcpStream::from_std(socket) {
                Ok(socket) => match job {
                    Job::Sink(count) => drain(&socket, &buffer, &count).await,
                    Job::Source => pour(&socket).await,
                },
                Err(error) => Err(error),
            };
        });
    }
}

/// Reads until the end, counting.
pub(super) async fn drain(
    socket: &TcpStream,
    buffer: &RefCell<Vec<u8>>,
    count: &AtomicU64,
) -> io::Result<()> {
    loop {
        socket.readable().await?;
        let read = socket.try_read(&mut buffer.borrow_mut());
        match read {
            Ok(0) => return Ok(()),
            Ok(len) => {
                count.fetch_add(len as u64, Relaxed);
                in_turn().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes until nobody takes it any more.
pub(super) async fn pour(socket: &TcpStream) -> io::Result<()> {
    loop {
        socket.writable().await?;
        match socket.try_write(&ZEROS) {
            Ok(_) => in_turn().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The generator's own streams take turns after each piece: one that empties a full socket buffer at a go would show up as
/// unfairness of the tunnel.
async fn in_turn() {
    tokio::task::yield_now().await;
}
