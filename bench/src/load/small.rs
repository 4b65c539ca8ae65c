//! Small round trips over one stream, new connections, idle connections, and readers that never read.

use std::{
    cell::{Cell, RefCell},
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::LocalSet,
    time::timeout,
};

use super::{
    ECHO, SMALL, SOURCE,
    figures::{micros_since, now},
    runtime,
};

/// The longest a single round trip may take: a tunnel with a second of bulk queued is slow, not broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Idle connections that are being opened at a time.
const OPENING: usize = 50;

/// One stream that gets everything back.
#[derive(Debug)]
pub struct Echo(TcpStream);

impl Echo {
    /// Connects, and makes the first round trip.
    ///
    /// # Errors
    /// When the tunnel is not up.
    pub fn connect(target: SocketAddr) -> io::Result<Self> {
        let mut echo = Self(TcpStream::connect_timeout(&target, PATIENCE)?);
        echo.0.set_nodelay(true)?;
        echo.0.set_read_timeout(Some(PATIENCE))?;
        echo.0.write_all(&[ECHO])?;
        echo.round_trip()?;
        Ok(echo)
    }

    /// Round trips one after the other for `window`; what each took, in microseconds. At least one is made.
    ///
    /// # Errors
    /// When one gets no answer.
    pub fn round_trips(&mut self, window: Duration) -> io::Result<Vec<f64>> {
        let begun = now();
        let mut samples = Vec::new();
        loop {
            let sent = now();
            self.round_trip()?;
            samples.push(micros_since(sent));
            if begun.elapsed() >= window {
                return Ok(samples);
            }
        }
    }

    fn round_trip(&mut self) -> io::Result<()> {
        let mut message = [b'x'; SMALL];
        self.0.write_all(&message)?;
        self.0.read_exact(&mut message)
    }
}

/// What visitors met that come one after the other, or many at a time.
#[derive(Debug, Default)]
pub struct Visits {
    /// From connect to the answer, in microseconds.
    pub samples: Vec<f64>,
    /// Visits without an answer.
    pub failed: usize,
    /// How long it went on, in seconds.
    pub seconds: f64,
}

/// Visits (connect, one round trip, close) one after the other for `window`.
pub fn visits_in_turn(target: SocketAddr, window: Duration) -> Visits {
    let begun = now();
    let mut visits = Visits::default();
    while begun.elapsed() < window {
        let sent = now();
        match Echo::connect(target) {
            Ok(_) => visits.samples.push(micros_since(sent)),
            Err(_) => visits.failed += 1,
        }
    }
    visits.seconds = begun.elapsed().as_secs_f64();
    visits
}

/// The same with `at_once` visitors at any time.
///
/// # Errors
/// When no runtime can be made.
pub fn visits_at_once(target: SocketAddr, window: Duration, at_once: usize) -> io::Result<Visits> {
    let begun = now();
    let samples = Rc::new(RefCell::new(Vec::new()));
    let failed = Rc::new(Cell::new(0));
    runtime()?.block_on(LocalSet::new().run_until(async {
        let mut visitors = Vec::new();
        for _ in 0..at_once {
            let (samples, failed) = (samples.clone(), failed.clone());
            visitors.push(tokio::task::spawn_local(async move {
                while begun.elapsed() < window {
                    let sent = now();
                    match timeout(PATIENCE, first_round_trip(target)).await {
                        Ok(Ok(_)) => samples.borrow_mut().push(micros_since(sent)),
                        Ok(Err(_)) | Err(_) => failed.set(failed.get() + 1),
                    }
                }
            }));
        }
        for visitor in visitors {
            visitor.await?;
        }
        Ok::<_, io::Error>(())
    }))?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Visits { samples: samples.take(), failed: failed.get(), seconds })
}

/// Connections that have made one round trip and then say nothing. They live as long as this.
#[derive(Debug, Default)]
pub struct Idle {
    streams: Vec<TcpStream>,
    /// Connections that were tried and did not come about.
    pub failed: usize,
}

impl Idle {
    /// Opens more until there are `total`, tried once each.
    ///
    /// # Errors
    /// When no runtime can be made, or a socket can't leave it.
    pub fn grow_to(&mut self, target: SocketAddr, total: usize) -> io::Result<()> {
        let missing = Rc::new(Cell::new(total.saturating_sub(self.streams.len() + self.failed)));
        let opened = Rc::new(RefCell::new(Vec::new()));
        let failed = Rc::new(Cell::new(0));
        runtime()?.block_on(LocalSet::new().run_until(async {
            let mut openers = Vec::new();
            for _ in 0..OPENING {
                let (missing, opened, failed) = (missing.clone(), opened.clone(), failed.clone());
                openers.push(tokio::task::spawn_local(async move {
                    while missing.get() > 0 {
                        missing.set(missing.get() - 1);
                        match timeout(PATIENCE, first_round_trip(target)).await {
                            Ok(Ok(stream)) => opened.borrow_mut().push(stream.into_std()?),
                            Ok(Err(_)) | Err(_) => failed.set(failed.get() + 1),
                        }
                    }
                    Ok::<_, io::Error>(())
                }));
            }
            for opener in openers {
                opener.await??;
            }
            Ok::<_, io::Error>(())
        }))?;
        self.streams.append(&mut opened.borrow_mut());
        self.failed += failed.get();
        Ok(())
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.streams.len()
    }
}

/// Visitors that ask for bytes without end and never read one. They stay as long as the result lives.
///
/// # Errors
/// When one can't connect.
pub fn stalled_readers(target: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let stalled = |_| {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.write_all(&[SOURCE])?;
        Ok(stream)
    };
    (0..count).map(stalled).collect()
}

async fn first_round_trip(target: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let mut stream = tokio::net::TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut message = [b'x'; SMALL + 1];
    message[0] = ECHO;
    stream.write_all(&message).await?;
    stream.read_exact(&mut message[1..]).await?;
    Ok(stream)
}
