//! What the demo's nodes offer: an echo on a TCP port, a web page on a Unix socket, a greeting in this process.

use std::{io, net::SocketAddr, path::Path};

use reachback_link::{Listener, Transport};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

/// The services that have sockets. Dropping it ends them.
pub(super) struct Services {
    tasks: JoinSet<io::Result<()>>,
}

impl Services {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { tasks: JoinSet::new() }
    }

    /// Sends back what it gets, on a free loopback port.
    pub(super) async fn echo(&mut self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        self.serve(listener.into(), echo);
        Ok(address)
    }

    /// Answers every HTTP request with one page, on a Unix socket.
    pub(super) fn web(&mut self, socket: &Path) -> io::Result<()> {
        self.serve(Listener::unix(UnixListener::bind(socket)?, socket.to_owned()), web);
        Ok(())
    }

    /// A task per visitor; what a visitor's task comes to is the visitor's affair.
    fn serve<F>(&mut self, mut listener: Listener, service: fn(Transport) -> F)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(async move {
            let mut visitors = JoinSet::new();
            loop {
                tokio::select! {
                    visitor = listener.accept() => { visitors.spawn(service(visitor?.socket.into_transport()?)); }
                    Some(_) = visitors.join_next() => {}
                }
            }
        });
    }

    /// Resolves only when one of them failed by itself.
    pub(super) async fn failed(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => format!("a service of the demo failed: {error}"),
            Some(_) => "a service of the demo ended".to_owned(),
            None => std::future::pending().await,
        }
    }
}

/// A port of this machine where nobody listens: bound, so that nobody else takes it, but never listening.
pub(super) struct NobodyListens {
    address: SocketAddr,
    _held: tokio::net::TcpSocket,
}

impl NobodyListens {
    /// Takes such a port.
    pub(super) fn hold() -> io::Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { address: socket.local_addr()?, _held: socket })
    }

    /// Where nobody listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Sends back what it gets until there is no more.
pub(super) async fn echo(stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

const PAGE: &str = "<!doctype html><title>Reachback demo</title><h1>It works</h1>\
    <p>This page comes from a Unix socket beside a node that listens nowhere.</p>\n";

async fn web(stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    // The head of a GET ends with an empty line; what it says makes no difference here.
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        PAGE.len()
    );
    write.write_all(head.as_bytes()).await?;
    write.write_all(PAGE.as_bytes()).await?;
    write.shutdown().await
}
