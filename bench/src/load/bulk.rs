//! Visitors that send or receive for as long as they are let, all on one thread of their own.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::oneshot, task::LocalSet, time::timeout};

use super::{
    CHUNK, SINK, SOURCE,
    backend::Backend,
    runtime,
    service::{drain, pour},
};

/// How long all visitors together may take to connect: `ssh` needs 44 ms for each, and a long link its round trips.
const CONNECTING: Duration = Duration::from_secs(30);

/// Numbers of sinks, new for each stream of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From visitors to the service.
    Up,
    /// From the service to visitors.
    Down,
}

impl Direction {
    /// Both, in the order of the tables.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// As it stands in the names of figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Bulk streams that run until this is dropped.
#[derive(Debug)]
pub struct Bulk {
    direction: Direction,
    /// The sinks' numbers at the service.
    numbers: Vec<u32>,
    /// What the visitors have received.
    received: Vec<Arc<AtomicU64>>,
    broken: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bulk {
    /// Connects `streams` visitors to `target` and returns once all of them move bytes, or could.
    ///
    /// # Errors
    /// When one can't connect, or all together take longer than half a minute.
    pub fn start(target: SocketAddr, direction: Direction, streams: usize) -> io::Result<Self> {
        let numbers: Vec<u32> = (0..streams).map(|_| NEXT.fetch_add(1, Relaxed)).collect();
        let received: Vec<Arc<AtomicU64>> = (0..streams).map(|_| Arc::default()).collect();
        let broken = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (tell, started) = mpsc::channel();
        let runtime = runtime()?;
        let visitors = Visitors {
            target,
            direction,
            each: numbers.iter().copied().zip(received.iter().cloned()).collect(),
            broken: broken.clone(),
        };
        let thread = thread::Builder::new().name("visitors".into()).spawn(move || {
            runtime.block_on(LocalSet::new().run_until(async move {
                tokio::select! {
                    () = visitors.run(tell) => {}
                    _asked_or_forgotten = stopped => {}
                }
            }));
        })?;
        let bulk = Self { direction, numbers, received, broken, stop: Some(stop), thread: Some(thread) };
        started.recv().map_err(|_| io::Error::other("the visitors ended before they began"))??;
        Ok(bulk)
    }

    /// Bytes that each stream has delivered so far, counted where they arrive.
    ///
    /// # Errors
    /// When the service is gone.
    pub fn delivered(&self, backend: &mut Backend) -> io::Result<Vec<u64>> {
        match self.direction {
            Direction::Down => Ok(self.received.iter().map(|bytes| bytes.load(Relaxed)).collect()),
            Direction::Up => {
                let sinks = backend.sinks()?;
                Ok(self.numbers.iter().map(|number| sinks.get(number).copied().unwrap_or(0)).collect())
            }
        }
    }

    /// How many streams have ended though nobody asked them to.
    pub fn broken(&self) -> usize {
        self.broken.load(Relaxed)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; its streams count as broken in what was measured.
            let _panicked = thread.join();
        }
    }
}

struct Visitors {
    target: SocketAddr,
    direction: Direction,
    each: Vec<(u32, Arc<AtomicU64>)>,
    broken: Arc<AtomicUsize>,
}

impl Visitors {
    async fn run(self, tell: mpsc::Sender<io::Result<()>>) {
        let connecting = async {
            let mut sockets = Vec::new();
            for (number, received) in self.each {
                let mut socket = TcpStream::connect(self.target).await?;
                socket.set_nodelay(true)?;
                match self.direction {
                    Direction::Up => {
                        socket.write_all(&[&[SINK][..], &number.to_be_bytes()].concat()).await?;
                    }
                    Direction::Down => socket.write_all(&[SOURCE]).await?,
                }
                sockets.push((socket, received));
            }
            Ok(sockets)
        };
        let sockets = match timeout(CONNECTING, connecting).await {
            Ok(Ok(sockets)) => sockets,
            Ok(Err(error)) => return drop(tell.send(Err(error))),
            Err(_) => return drop(tell.send(Err(io::ErrorKind::TimedOut.into()))),
        };
        let buffer = Rc::new(RefCell::new(vec![0; CHUNK]));
        for (socket, received) in sockets {
            let (buffer, broken, direction) = (buffer.clone(), self.broken.clone(), self.direction);
            tokio::task::spawn_local(async move {
                // Neither end of an endless stream is expected to end.
                let _why = match direction {
                    Direction::Up => pour(&socket).await,
                    Direction::Down => drain(&socket, &buffer, &received).await,
                };
                broken.fetch_add(1, Relaxed);
            });
        }
        // Whoever started us may have given up; then its stop is dropped too.
        drop(tell.send(Ok(())));
        std::future::pending().await
    }
}
