//! A stretch of cable that can be cut: a TCP proxy on loopback between a node and the explorer.
//!
//! The demo breaks a real connection, not a flag somewhere: both sockets are reset, and as long as the cable is cut
//! nobody listens, so that dialing again fails as it does on a dead line.

use std::{io, net::SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// The proxy. Dropping it ends it and resets what runs through it.
pub(super) struct Cutter {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    tasks: JoinSet<io::Result<()>>,
}

impl Cutter {
    /// Listens on a free loopback port and passes every connection on to `to`.
    pub(super) async fn start(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (cut, state) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(run(listener, address, to, state));
        Ok(Self { address, cut, tasks })
    }

    /// Where to dial instead of the far end.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The switch: true resets all connections and refuses new ones, false lets them through again.
    pub(super) fn cable(&self) -> watch::Sender<bool> {
        self.cut.clone()
    }

    /// Resolves only when the proxy failed by itself.
    pub(super) async fn failed(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => format!("the cutting proxy failed: {error}"),
            _ => "the cutting proxy ended".to_owned(),
        }
    }
}

async fn run(
    first: TcpListener,
    address: SocketAddr,
    to: SocketAddr,
    mut cut: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = cut.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                if *cut.borrow_and_update() {
                    listener = None;
                    connections.abort_all();
                } else {
                    listener = Some(TcpListener::bind(address).await?);
                }
            }
            accepted = accepted => {
                connections.spawn(pass_on(accepted?.0, to));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends with a reset of both sockets if it is dropped in the middle.
async fn pass_on(mut near: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut far = TcpStream::connect(to).await?;
    for socket in [&near, &far] {
        socket.set_nodelay(true)?;
        socket.set_zero_linger()?;
    }
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_resets_and_refuses_until_it_is_mended() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cutter = Cutter::start(far.local_addr().unwrap()).await.unwrap();
        let mut near = TcpStream::connect(cutter.address()).await.unwrap();
        let (mut end, _) = far.accept().await.unwrap();
        near.write_all(b"through").await.unwrap();
        let mut bytes = [0; 7];
        end.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"through");

        let cable = cutter.cable();
        cable.send_replace(true);
        for socket in [&mut near, &mut end] {
            let error = socket.read(&mut bytes).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        let refused = TcpStream::connect(cutter.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        cable.send_replace(false);
        let mut near = loop {
            match TcpStream::connect(cutter.address()).await {
                Ok(near) => break near,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let (mut end, _) = far.accept().await.unwrap();
        near.write_all(b"through").await.unwrap();
        end.read_exact(&mut bytes).await.unwrap();
    }
}
