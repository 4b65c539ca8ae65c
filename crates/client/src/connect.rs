//! Standard input and output as one end of a stream: what `ProxyCommand` wants.

use reachback_link::{OpenError, SpliceError, Transport, splice};
use reachback_wire::{Code, Target};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{client::Client, stats::add};

/// A stream that has ended, however it ended.
#[derive(Debug)]
pub struct Piped {
    /// Bytes of the input that were sent.
    pub to_service: u64,
    /// Bytes that came back.
    pub from_service: u64,
    /// Whether both directions ended in order.
    pub end: Result<(), SpliceError>,
}

impl Piped {
    /// `None` if both directions ended in order; `reset` if this end or the service broke it off, `lost` if the line
    /// did, or the code that the other end gave.
    pub fn code(&self) -> Option<Code> {
        match &self.end {
            Ok(()) => None,
            Err(SpliceError::Local(_)) => Some(Code::Reset),
            Err(SpliceError::Peer(end)) => Some(end.code()),
            Err(SpliceError::Stopped(why)) => Some(why.code),
        }
    }
}

/// Opens a stream to `target` and copies until both directions have ended: `input` to the service, the service's bytes
/// to `output`. The end of either is passed on while the other direction goes on.
///
/// # Errors
/// The stream did not come about; nothing of `input` was read.
pub async fn pipe<R, W>(client: &Client, target: Target, input: R, output: W) -> Result<Piped, OpenError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let substream = client.open(target).await?;
    let spliced = splice(substream, Transport::boxed(tokio::io::join(input, output))).await;
    add(&client.stats().bytes_to_services, spliced.to_peer);
    add(&client.stats().bytes_from_services, spliced.from_peer);
    Ok(Piped { to_service: spliced.to_peer, from_service: spliced.from_peer, end: spliced.end })
}
