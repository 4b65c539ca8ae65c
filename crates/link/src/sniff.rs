//! Which language does the peer speak? One port answers them all, told apart by exact prefixes of the first bytes.
//!
//! Nothing is consumed: the bytes are put back, so whoever serves the connection reads it from its first byte. A
//! peer that says nothing has five seconds.

use std::io;

use bytes::Bytes;
use reachback_wire::{frame, limits};
use tokio::io::AsyncReadExt;

use crate::Transport;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// A TLS record with a handshake in it (`16 03`).
    Tls,
    /// Our own frames (`52 42 4B 01`).
    Tunnel,
    /// `{` or `[`: a JSON-RPC request without any framing, as old socket bridges send it.
    JsonRpc,
    /// An HTTP method and a blank.
    Http,
    /// None of these.
    Unknown,
}

/// Why the first bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SniffError {
    /// Too few bytes within the time allowed.
    #[error("nothing recognisable within {} s", limits::SNIFF_TIMEOUT.as_secs())]
    Timeout,
    /// The peer left, or the socket failed.
    #[error("closed before its first bytes: {0}")]
    Closed(#[source] io::Error),
}

/// Reads just enough to know, and puts it back.
///
/// # Errors
/// When the peer is silent for [`limits::SNIFF_TIMEOUT`] or leaves.
pub async fn sniff(mut transport: Transport) -> Result<(Greeting, Transport), SniffError> {
    let mut seen = Vec::with_capacity(LONGEST);
    let reading = async {
        loop {
            if let Some(greeting) = recognise(&seen) {
                return Ok(greeting);
            }
            let mut chunk = [0; LONGEST];
            let room = LONGEST - seen.len();
            match transport.read(&mut chunk[..room]).await {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => seen.extend_from_slice(&chunk[..n]),
                Err(error) => return Err(error),
            }
        }
    };
    match tokio::time::timeout(limits::SNIFF_TIMEOUT, reading).await {
        Ok(Ok(greeting)) => {
            transport.put_back(Bytes::from(seen));
            Ok((greeting, transport))
        }
        Ok(Err(error)) => Err(SniffError::Closed(error)),
        Err(_) => Err(SniffError::Timeout),
    }
}

/// RFC 9110 section 9, and PATCH (RFC 5789).
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH "];

const LONGEST: usize = 8;

/// `None` while more bytes could still decide.
fn recognise(seen: &[u8]) -> Option<Greeting> {
    if matches!(seen.first(), Some(b'{' | b'[')) {
        return Some(Greeting::JsonRpc);
    }
    let candidates = [(&[0x16, 0x03][..], Greeting::Tls), (&frame::MAGIC[..], Greeting::Tunnel)]
        .into_iter()
        .chain(METHODS.into_iter().map(|method| (method, Greeting::Http)));
    let mut undecided = false;
    for (prefix, greeting) in candidates {
        if seen.starts_with(prefix) {
            return Some(greeting);
        }
        undecided |= prefix.starts_with(seen);
    }
    if undecided { None } else { Some(Greeting::Unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn prefixes_are_exact() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01"[..], Some(Greeting::Tls)),
            (b"\x16", None),
            (b"\x16\x02", Some(Greeting::Unknown)),
            (b"RBK\x01", Some(Greeting::Tunnel)),
            (b"RBK\x02", Some(Greeting::Unknown)),
            (b"{", Some(Greeting::JsonRpc)),
            (b"[", Some(Greeting::JsonRpc)),
            (b"GET ", Some(Greeting::Http)),
            (b"GETS", Some(Greeting::Unknown)),
            (b"P", None),
            (b"get ", Some(Greeting::Unknown)),
            (b"OPTIONS ", Some(Greeting::Http)),
            (b"", None),
            (b"SSH-2.0-", Some(Greeting::Unknown)),
        ] {
            assert_eq!(recognise(bytes), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn slow_first_bytes_are_joined_and_put_back() {
        let (near, mut far) = Transport::memory_pair(64);
        let sniffing = tokio::join!(sniff(near), async {
            for byte in b"POST /rpc" {
                far.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
        .0;
        let (greeting, mut transport) = sniffing.unwrap();
        assert_eq!(greeting, Greeting::Http);
        let mut all = [0; 9];
        transport.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"POST /rpc");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_has_five_seconds() {
        let (near, far) = Transport::memory_pair(64);
        let begun = tokio::time::Instant::now();
        assert!(matches!(sniff(near).await, Err(SniffError::Timeout)));
        assert_eq!(begun.elapsed(), limits::SNIFF_TIMEOUT);
        drop(far);
    }
}
