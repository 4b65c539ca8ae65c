//! The acceptor's end of the handshake: a peer at the door, and what it is answered.
//!
//! Who may come in is for the caller to decide; here it is asked, heard, made to prove what it claims, and answered. A
//! peer that is turned away is told why, in a frame that it can read whatever else it did not understand.

use std::io;

use reachback_wire::{
    Acceptor, Challenge, Code, Enrolled, HandshakeAdmission, HandshakeError, Hello, Nonce, ProtocolRange,
    Refusal, Secret, Stage, Welcome, limits,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::{
    Established, Side, Transport,
    establish::{ReadError, read_frame},
    tls::{
        TlsPeer,
        secret::{Binding, Prover, prove, verify},
    },
};

/// A peer that has said who it is and waits for an answer. Dropping it closes the connection without one.
#[derive(Debug)]
pub struct Admission {
    /// What it said.
    pub hello: Hello,
    /// The protocol version both speak.
    pub version: u32,
    admission: HandshakeAdmission,
    transport: Transport,
    deadline: Instant,
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
                return Ok(Admission { hello, version, admission, transport, deadline });
            }
            Err(error) => error,
        },
        Ok(Err(ReadError::Frame(error))) => HandshakeError::from(error),
        Ok(Err(ReadError::Io(error))) => return Err(GreetError::Broken(error)),
        Err(_) => return Err(GreetError::Timeout),
    };
    let refusal = denied.refusal();
    send_last(transport, &reachback_wire::frame::encode(reachback_wire::FrameType::Denied, &refusal)).await;
    Err(GreetError::Denied(refusal))
}

impl Admission {
    /// What TLS says of the peer, if it came over TLS.
    pub fn tls(&self) -> Option<&TlsPeer> {
        self.transport.tls().map(|peer| &**peer)
    }

    /// Proves the shared secret and has the peer prove it. A peer that can't has been denied and is gone.
    ///
    /// # Errors
    /// It can't, or its time is over.
    pub async fn challenge(mut self, secret: &Secret) -> Result<Self, GreetError> {
        let mut nonce = Nonce([0; 32]);
        getrandom::fill(&mut nonce.0)
            .map_err(|error| GreetError::Broken(io::Error::other(error.to_string())))?;
        let exporter = self.transport.exporter();
        let binding = Binding::of(&self.hello, &nonce, &exporter);
        let proof = prove(secret, Prover::Acceptor, &binding);
        let asked = self.admission.challenge(&Challenge { nonce, proof });
        let exchange = async {
            self.transport.write_all(&asked).await?;
            self.transport.flush().await?;
            read_frame(&mut self.transport, Stage::ProofExpected).await
        };
        let refusal = match tokio::time::timeout_at(self.deadline, exchange).await {
            Ok(Ok(frame)) => match self.admission.on_proof(&frame) {
                Ok(theirs) if verify(secret, Prover::Dialer, &binding, &theirs.proof) => return Ok(self),
                Ok(_) => Refusal::new(
                    Code::Unauthenticated,
                    "the proof of the shared secret is wrong: compare the secret files of this machine and the explorer",
                ),
                Err(error) => error.refusal(),
            },
            Ok(Err(ReadError::Frame(error))) => HandshakeError::from(error).refusal(),
            Ok(Err(ReadError::Io(error))) => return Err(GreetError::Broken(error)),
            Err(_) => return Err(GreetError::Timeout),
        };
        self.deny(&refusal).await;
        Err(GreetError::Denied(refusal))
    }

    /// Gives the peer a certificate and closes: it comes back with it.
    pub async fn enrolled(self, enrolled: &Enrolled) {
        let bytes = self.admission.enrolled(enrolled);
        send_last(self.transport, &bytes).await;
    }

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
        send_last(self.transport, &bytes).await;
    }
}

/// Tells a peer the last thing and closes. It may be gone or never read: that is its loss, and bounded.
async fn send_last(mut transport: Transport, bytes: &[u8]) {
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
        tracing::debug!(%error, "the last words did not reach their peer");
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
