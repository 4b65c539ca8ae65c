//! From a byte pipe to an admitted peer: the handshake, under one deadline.
//!
//! The messages and their order are a machine in `wire`; here they meet a transport. A frame is read to its last
//! byte and not one further, so what follows belongs to the mux. Before it succeeds a handshake has ten seconds and
//! [`limits::HANDSHAKE_BYTES_MAX`] bytes, whatever the peer does.

use std::io;

use bytes::{Bytes, BytesMut};
use reachback_wire::{
    Acceptor, Code, Dialer, DialerStep, Frame, FrameDecoder, FrameError, HandshakeAdmission, HandshakeError,
    Hello, ProtocolRange, Refusal, Stage, Welcome, limits, text,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::{Address, Net, Transport};

/// Which end of a connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We connected.
    Dialer,
    /// We were connected to.
    Acceptor,
}

/// A connection whose peer is known and admitted, on both ends.
#[derive(Debug)]
pub struct Established {
    /// Positioned at the first byte of the mux.
    pub transport: Transport,
    /// Our end.
    pub side: Side,
    /// What the dialer said.
    pub hello: Hello,
    /// What the acceptor answered.
    pub welcome: Welcome,
}

/// A peer that has said who it is and waits for an answer. Dropping it closes the connection without one.
#[derive(Debug)]
pub struct Admission {
    /// What it said.
    pub hello: Hello,
    /// The protocol version both speak.
    pub version: u32,
    admission: HandshakeAdmission,
    transport: Transport,
}

/// Why dialing gave no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection to the address.
    #[error("can't connect to {to}: {source}{}", remedy(to, source))]
    Connect {
        /// Where to.
        to: Address,
        /// What the system says.
        source: io::Error,
    },
    /// The deadline over name lookup, connection and handshake passed.
    #[error(
        "{to} did not complete the handshake within {} s; is it an explorer, and is a firewall dropping packets?",
        limits::HANDSHAKE_TIMEOUT.as_secs()
    )]
    Timeout {
        /// Where to.
        to: Address,
    },
    /// The peer said no, and why.
    #[error("{}", said(.0))]
    Denied(Refusal),
    /// Something answers there, but it is no explorer.
    #[error("{to} does not speak the Reachback protocol ({what}); check the address and the port")]
    NotReachback {
        /// Where to.
        to: Address,
        /// What it sent instead.
        what: String,
    },
    /// The connection broke during the handshake.
    #[error("{to} closed the connection during the handshake{}", detail(source))]
    Broken {
        /// Where to.
        to: Address,
        /// What the system says.
        source: io::Error,
    },
}

impl DialError {
    /// The code for whoever is told next; the sentence does not repeat it.
    pub fn code(&self) -> Code {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Code::Denied,
            Self::Connect { .. } | Self::Broken { .. } => Code::PeerUnreachable,
            Self::Timeout { .. } => Code::Timeout,
            Self::Denied(refusal) => refusal.code,
            Self::NotReachback { .. } => Code::HandshakeFailed,
        }
    }
}

/// Why an accepted connection gave no peer. Whoever could be told has been.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// No complete `Hello` within the deadline.
    #[error("no complete handshake within {} s", limits::HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// The connection broke.
    #[error("connection broke during the handshake: {0}")]
    Broken(#[source] io::Error),
    /// What came is no handshake we know; the peer was denied.
    #[error("denied: {0}")]
    Denied(Refusal),
}

/// Connects and shakes hands, all within [`limits::HANDSHAKE_TIMEOUT`].
///
/// # Errors
/// [`DialError`] says which step failed.
pub async fn dial(net: &dyn Net, to: &Address, hello: &Hello) -> Result<Established, DialError> {
    let dialing = async {
        let connected = net.connect(to).await;
        let transport = connected.map_err(|source| DialError::Connect { to: to.clone(), source })?;
        transport.tune_for_tunnel();
        shake_hands(transport, to, hello).await
    };
    match tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, dialing).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialError::Timeout { to: to.clone() }),
    }
}

/// Reads a dialer's `Hello`. The caller decides and answers with [`Admission::welcome`] or [`Admission::deny`].
///
/// # Errors
/// When no valid `Hello` of a version in `versions` comes within [`limits::HANDSHAKE_TIMEOUT`].
pub async fn greet(transport: Transport, versions: ProtocolRange) -> Result<Admission, GreetError> {
    greet_by(transport, versions, Instant::now() + limits::HANDSHAKE_TIMEOUT).await
}

/// As [`greet`], for a connection whose time began to run earlier.
///
/// # Errors
/// When no valid `Hello` of a version in `versions` comes by `deadline`.
pub async fn greet_by(
    mut transport: Transport,
    versions: ProtocolRange,
    deadline: Instant,
) -> Result<Admission, GreetError> {
    transport.tune_for_tunnel();
    let reading = read_frame(&mut transport, Stage::HelloExpected);
    let denied = match tokio::time::timeout_at(deadline, reading).await {
        Ok(Ok(frame)) => match Acceptor::new(versions).on_frame(frame) {
            Ok(admission) => {
                let (hello, version) = (admission.hello.clone(), admission.version);
                return Ok(Admission { hello, version, admission, transport });
            }
            Err(error) => error,
        },
        Ok(Err(ReadError::Frame(error))) => HandshakeError::from(error),
        Ok(Err(ReadError::Io(error))) => return Err(GreetError::Broken(error)),
        Err(_) => return Err(GreetError::Timeout),
    };
    let refusal = denied.refusal();
    send_denied(transport, &reachback_wire::frame::encode(reachback_wire::FrameType::Denied, &refusal)).await;
    Err(GreetError::Denied(refusal))
}

impl Admission {
    /// Admits the peer.
    ///
    /// # Errors
    /// When the answer can't be written within the deadline.
    pub async fn welcome(mut self, welcome: &Welcome) -> io::Result<Established> {
        let bytes = self.admission.welcome(welcome);
        write_in_time(&mut self.transport, &bytes).await?;
        Ok(Established {
            transport: self.transport,
            side: Side::Acceptor,
            hello: self.hello,
            welcome: welcome.clone(),
        })
    }

    /// Turns the peer away and closes.
    pub async fn deny(self, refusal: &Refusal) {
        let bytes = self.admission.deny(refusal);
        send_denied(self.transport, &bytes).await;
    }
}

async fn shake_hands(
    mut transport: Transport,
    to: &Address,
    hello: &Hello,
) -> Result<Established, DialError> {
    let broken = |source| DialError::Broken { to: to.clone(), source };
    let not_reachback =
        |what: String| DialError::NotReachback { to: to.clone(), what: text::sanitize(&what, 160) };
    let (dialer, first) = Dialer::new(hello);
    transport.write_all(&first).await.map_err(broken)?;
    transport.flush().await.map_err(broken)?;
    let answer = match read_frame(&mut transport, Stage::HelloReply).await {
        Ok(answer) => answer,
        Err(ReadError::Frame(FrameError::Magic { got, seen })) => {
            let first = got[..seen].escape_ascii();
            return Err(not_reachback(format!("the first bytes it sent are \"{first}\"")));
        }
        Err(ReadError::Frame(error)) => return Err(not_reachback(error.to_string())),
        Err(ReadError::Io(error)) => return Err(broken(error)),
    };
    match dialer.on_frame(answer) {
        Ok(DialerStep::Welcome(welcome)) => {
            Ok(Established { transport, side: Side::Dialer, hello: hello.clone(), welcome })
        }
        Ok(DialerStep::Denied(refusal)) => {
            let message = text::sanitize(&refusal.message, limits::END_TEXT_MAX);
            Err(DialError::Denied(Refusal { message, ..refusal }))
        }
        Err(error) => Err(not_reachback(error.to_string())),
    }
}

/// What can be done about a refused connection where only one thing helps.
fn remedy(to: &Address, source: &io::Error) -> &'static str {
    match (to, source.kind()) {
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            "; this user may not use that socket: run it as the explorer's user, or dial the explorer's port"
        }
        _ => "",
    }
}

/// An end without an error says no more than that it is one.
fn detail(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => String::new(),
        _ => format!(": {source}"),
    }
}

fn said(refusal: &Refusal) -> &str {
    match refusal.message.is_empty() {
        true => "the explorer gave no reason",
        false => &refusal.message,
    }
}

enum ReadError {
    Frame(FrameError),
    Io(io::Error),
}

/// Reads one frame, to its last byte and no further.
async fn read_frame(transport: &mut Transport, stage: Stage) -> Result<Frame, ReadError> {
    let mut frames = FrameDecoder::new(stage);
    let mut taken = 0;
    loop {
        match frames.next() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(error) => return Err(ReadError::Frame(error)),
        }
        let room = frames.needed().min(limits::HANDSHAKE_BYTES_MAX - taken);
        let mut bytes = BytesMut::with_capacity(room);
        let read = (&mut *transport).take(room as u64).read_buf(&mut bytes).await.map_err(ReadError::Io)?;
        if read == 0 {
            return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        taken += read;
        frames.push(Bytes::from(bytes));
    }
}

/// Tells a peer no. It may be gone or never read: that is its loss, and bounded.
async fn send_denied(mut transport: Transport, bytes: &[u8]) {
    let outcome = async {
        write_in_time(&mut transport, bytes).await?;
        transport.shutdown().await?;
        // Closing while its bytes are unread would reset the connection and take the refusal with it.
        let mut rest = [0; 512];
        let draining = async { while transport.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
        let _ = tokio::time::timeout(limits::CLOSE_FLUSH, draining).await;
        io::Result::Ok(())
    };
    if let Err(error) = outcome.await {
        tracing::debug!(%error, "a refusal did not reach its peer");
    }
}

async fn write_in_time(transport: &mut Transport, bytes: &[u8]) -> io::Result<()> {
    let writing = async {
        transport.write_all(bytes).await?;
        transport.flush().await
    };
    match tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, writing).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
