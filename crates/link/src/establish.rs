//! From a byte pipe to an admitted peer: the handshake, under one deadline.
//!
//! The messages and their order are a machine in `wire`; here they meet a transport. A frame is read to its last
//! byte and not one further, so what follows belongs to the mux. Before it succeeds a handshake has ten seconds and
//! [`limits::HANDSHAKE_BYTES_MAX`] bytes, whatever the peer does.

use std::io;

use bytes::{Bytes, BytesMut};
use reachback_wire::{
    Challenge, Challenged, Code, Credential, Dialer, DialerStep, Enrolled, Frame, FrameDecoder, FrameError,
    Hello, Refusal, Stage, Welcome, frame::HEADER_LEN, limits, text,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Address, DialSecurity, Net, Transport,
    tls::{
        CertificateNames, Untrusted,
        dialing::ConnectError,
        secret::{Binding, Prover, prove, verify},
    },
};

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
    /// Something answers there, and it is not to be believed. Nothing was said to it.
    #[error("{to} is not believed: {why}")]
    Untrusted {
        /// Where to.
        to: Address,
        /// Why not.
        why: Untrusted,
    },
    /// The two ends don't agree about TLS.
    #[error("no TLS with {to}: {what}")]
    Tls {
        /// Where to.
        to: Address,
        /// What kind of disagreement it is.
        code: Code,
        /// What there is to say about it.
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
            Self::NotReachback { .. } | Self::Untrusted { .. } => Code::HandshakeFailed,
            Self::Tls { code, .. } => *code,
        }
    }
}

/// Connects and shakes hands to be let in, all within [`limits::HANDSHAKE_TIMEOUT`].
///
/// A `hello` that shows a shared secret ([`Credential::Secret`] with its key) sees it proved before it proves it.
///
/// # Errors
/// [`DialError`] says which step failed.
pub async fn dial(
    net: &dyn Net,
    to: &Address,
    hello: &Hello,
    security: &DialSecurity,
) -> Result<Established, DialError> {
    match in_time(to, converse(net, to, hello, security)).await? {
        Outcome::Welcome(established) => Ok(*established),
        Outcome::Enrolled(_) => {
            Err(unasked(to, "it answers with a certificate where a session was asked for"))
        }
    }
}

/// Connects and asks for a certificate (`hello` shows [`Credential::Join`] or [`Credential::Renew`]), all within
/// [`limits::HANDSHAKE_TIMEOUT`].
///
/// # Errors
/// [`DialError`] says which step failed.
pub async fn enrol(
    net: &dyn Net,
    to: &Address,
    hello: &Hello,
    security: &DialSecurity,
) -> Result<Enrolled, DialError> {
    match in_time(to, converse(net, to, hello, security)).await? {
        Outcome::Enrolled(enrolled) => Ok(enrolled),
        Outcome::Welcome(_) => {
            Err(unasked(to, "it answers with a session where a certificate was asked for"))
        }
    }
}

enum Outcome {
    Welcome(Box<Established>),
    Enrolled(Enrolled),
}

async fn in_time(
    to: &Address,
    dialing: impl Future<Output = Result<Outcome, DialError>>,
) -> Result<Outcome, DialError> {
    match tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, dialing).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialError::Timeout { to: to.clone() }),
    }
}

async fn converse(
    net: &dyn Net,
    to: &Address,
    hello: &Hello,
    security: &DialSecurity,
) -> Result<Outcome, DialError> {
    let connected = net.connect(to).await;
    let transport = connected.map_err(|source| DialError::Connect { to: to.clone(), source })?;
    transport.tune_for_tunnel();
    let tls = match security {
        DialSecurity::Plain => return shake_hands(transport, to, hello).await,
        DialSecurity::Tls(tls) => tls,
    };
    let transport = tls.connect(transport, to).await.map_err(|error| match error {
        ConnectError::Untrusted(why) => DialError::Untrusted { to: to.clone(), why },
        ConnectError::Tls(code, what) => DialError::Tls { to: to.clone(), code, what },
        ConnectError::Broken(source) => DialError::Broken { to: to.clone(), source },
    })?;
    let believed_until = transport.tls().and_then(|peer| CertificateNames::of(peer.shown()?).ok());
    let outcome = shake_hands(transport, to, hello).await?;
    if let (Outcome::Welcome(established), Some(names)) = (&outcome, believed_until) {
        // Past the end of its own certificate nobody is believed, not even about the time.
        tls.clock().note(established.welcome.time_unix_ms.min(names.not_after_unix_ms));
    }
    Ok(outcome)
}

async fn shake_hands(mut transport: Transport, to: &Address, hello: &Hello) -> Result<Outcome, DialError> {
    let (mut dialer, mut words) = Dialer::new(hello);
    loop {
        let answer = ask(&mut transport, to, &words, dialer.stage()).await?;
        match dialer.on_frame(answer).map_err(|error| unasked(to, &error.to_string()))? {
            DialerStep::Welcome(welcome) => {
                let hello = hello.clone();
                let established = Established { transport, side: Side::Dialer, hello, welcome };
                return Ok(Outcome::Welcome(Box::new(established)));
            }
            DialerStep::Denied(refusal) => {
                let message = text::sanitize(&refusal.message, limits::END_TEXT_MAX);
                return Err(DialError::Denied(Refusal { message, ..refusal }));
            }
            DialerStep::Challenge(challenge, challenged) => {
                (dialer, words) = answer_challenge(&transport, to, hello, &challenge, challenged)?;
            }
            DialerStep::Enrolled(enrolled) => return Ok(Outcome::Enrolled(enrolled)),
        }
    }
}

/// Says something and reads the answer.
async fn ask(
    transport: &mut Transport,
    to: &Address,
    words: &[u8],
    stage: Stage,
) -> Result<Frame, DialError> {
    let broken = |source| DialError::Broken { to: to.clone(), source };
    transport.write_all(words).await.map_err(broken)?;
    transport.flush().await.map_err(broken)?;
    match read_frame(transport, stage).await {
        Ok(answer) => Ok(answer),
        Err(ReadError::Frame(FrameError::Magic { got, seen })) if is_alert(&got[..seen]) => Err(DialError::Tls {
            to: to.clone(),
            code: Code::TlsRequired,
            what: "it speaks TLS only, and this end was not told to. It needs something to know the explorer by: a join \
                   string, a profile (reachback login), or the certificate of its authority (--ca-file)"
                .into(),
        }),
        Err(ReadError::Frame(FrameError::Magic { got, seen })) => {
            let first = got[..seen].escape_ascii();
            Err(unasked(to, &format!("the first bytes it sent are \"{first}\"")))
        }
        Err(ReadError::Frame(error)) => Err(unasked(to, &error.to_string())),
        Err(ReadError::Io(error)) => Err(broken(error)),
    }
}

/// The other end of a shared secret: believed only if its own proof is right.
fn answer_challenge(
    transport: &Transport,
    to: &Address,
    hello: &Hello,
    challenge: &Challenge,
    challenged: Challenged,
) -> Result<(Dialer, Vec<u8>), DialError> {
    let Some(Credential::Secret { key: Some(secret) }) = &hello.credential else {
        let what = "this end was to prove a shared secret and has none; is its file empty?";
        return Err(DialError::Denied(Refusal::new(Code::Unauthenticated, what)));
    };
    let exporter = transport.exporter();
    let binding = Binding::of(hello, &challenge.nonce, &exporter);
    if !verify(secret, Prover::Acceptor, &binding, &challenge.proof) {
        return Err(DialError::Untrusted { to: to.clone(), why: Untrusted::Secret });
    }
    Ok(challenged.prove(prove(secret, Prover::Dialer, &binding)))
}

/// An answer that was not asked for.
fn unasked(to: &Address, what: &str) -> DialError {
    DialError::NotReachback { to: to.clone(), what: text::sanitize(what, ANSWER_SHOWN) }
}

/// Whether these are the first bytes of a TLS alert.
fn is_alert(first: &[u8]) -> bool {
    first.starts_with(&[21, 3])
}

/// How much of an answer that nobody asked for is repeated.
const ANSWER_SHOWN: usize = 160;

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

pub(crate) enum ReadError {
    Frame(FrameError),
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads one frame, to its last byte and no further.
pub(crate) async fn read_frame(transport: &mut Transport, stage: Stage) -> Result<Frame, ReadError> {
    let mut frames = FrameDecoder::new(stage);
    let most = match stage {
        Stage::EnrolmentReply => limits::CERTIFICATES_MAX + HEADER_LEN,
        _ => limits::HANDSHAKE_BYTES_MAX,
    };
    let mut taken = 0;
    loop {
        match frames.next() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(error) => return Err(ReadError::Frame(error)),
        }
        let room = frames.needed().min(most - taken);
        let mut bytes = BytesMut::with_capacity(room);
        let read = (&mut *transport).take(room as u64).read_buf(&mut bytes).await.map_err(ReadError::Io)?;
        if read == 0 {
            return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        taken += read;
        frames.push(Bytes::from(bytes));
    }
}
