//! HTTP that can be read in one way only.
//!
//! A proxy in front of this port and the parser behind it must agree where a request ends, or somebody's next request
//! becomes part of ours. The parser forgives what the specification lets it forgive: lines that end without CR, a
//! length beside chunks, lengths said twice. Here such a request is spoilt on its way in and cut off there, so that the
//! parser refuses it, answers 400 and closes; nothing is buffered or changed otherwise. A head that ends before it is
//! whole is spoilt too, because the parser would close without a word, and so is one that takes longer than a handshake
//! may: its sender only keeps a place.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use reachback_link::Transport;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::limits;

/// What the parser reads in place of the byte that made a request ambiguous, and of all that follows. No parser takes a
/// NUL in a line or for the end of one; the empty line makes it look, because it passes over heads that have no end.
const SPOILT: &[u8] = b"\0\r\n\r\n";

/// A connection whose requests are looked at while they are read.
pub(crate) struct Strict {
    transport: Transport,
    reader: Reader,
    /// What is left of [`SPOILT`] to be read.
    spoilt: &'static [u8],
    lingering: Option<Lingering>,
    /// Runs while the head of a request comes in.
    head: Option<Pin<Box<Sleep>>>,
    /// Runs while the peer takes nothing of what waits for it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Strict {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, reader: Reader::default(), spoilt: &[], lingering: None, head: None, stalled: None }
    }

    /// Whether the head that is coming in has had its time.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.reader.is_in_head() {
            self.head = None;
            return false;
        }
        let head = self.head.get_or_insert_with(|| Box::pin(sleep(limits::HTTP_HEAD_TIME)));
        head.as_mut().poll(cx).is_ready()
    }

    /// The outcome of a write, or an error when the peer has taken nothing for too long.
    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limits::WRITE_STALL)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is not being read")))
    }
}

/// A connection is closed for writing first, and read a little longer: closing over unread bytes would reset it, and the
/// reset can overtake the answer, which may be a refusal of what is still being sent.
struct Lingering {
    left: usize,
    until: Pin<Box<Sleep>>,
}

/// Follows where requests end.
#[derive(Debug, Default)]
struct Reader {
    place: Place,
    /// The line so far, without its end.
    line: Vec<u8>,
    /// Bytes of lines since the last body.
    head: usize,
    lengths: Vec<u64>,
    chunked: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before or in the request line.
    #[default]
    Request,
    Headers,
    /// This many bytes of body are left.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// It is longer than the parser takes: the parser says so.
    TooLong,
    /// It has been spoilt; nothing behind that is read.
    Spoilt,
}

/// What can be read in two ways.
struct Ambiguous;

impl Reader {
    /// Looks at what was read. Gives back how much of it has one meaning, if that is not all: the byte behind it made a
    /// request ambiguous.
    fn look(&mut self, all: &[u8]) -> Option<usize> {
        let mut bytes = all;
        while !bytes.is_empty() {
            let skipped = match &mut self.place {
                Place::Body(left) | Place::Chunk(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    taken
                }
                Place::TooLong => return None,
                Place::Spoilt => return Some(all.len() - bytes.len()),
                _ => 0,
            };
            match self.place {
                Place::Body(0) => self.place = Place::Request,
                Place::Chunk(0) => self.place = Place::ChunkEnd,
                _ => {}
            }
            if skipped > 0 {
                bytes = &bytes[skipped..];
                continue;
            }
            let byte = bytes[0];
            self.head += 1;
            let fine = match byte {
                _ if self.head > limits::HTTP_HEAD_MAX => {
                    self.place = Place::TooLong;
                    return None;
                }
                b'\n' if self.line.pop() == Some(b'\r') => self.end_of_line(),
                b'\n' => Err(Ambiguous),
                _ if self.line.last() == Some(&b'\r') => Err(Ambiguous),
                _ => {
                    self.line.push(byte);
                    Ok(())
                }
            };
            if fine.is_err() {
                self.place = Place::Spoilt;
                return Some(all.len() - bytes.len());
            }
            bytes = &bytes[1..];
        }
        None
    }

    /// The sender has no more to say. Whether it stopped in the middle of a head.
    fn end(&mut self) -> bool {
        let begun = self.is_in_head();
        if begun {
            self.place = Place::Spoilt;
        }
        begun
    }

    fn is_in_head(&self) -> bool {
        self.place == Place::Headers || self.place == Place::Request && !self.line.is_empty()
    }

    fn end_of_line(&mut self) -> Result<(), Ambiguous> {
        let line = std::mem::take(&mut self.line);
        match self.place {
            // Blank lines in front of a request are passed over, as the parser does.
            Place::Request if line.is_empty() => {}
            Place::Request => self.place = Place::Headers,
            Place::Headers if line.is_empty() => {
                self.place = self.body()?;
                self.lengths.clear();
                (self.chunked, self.head) = (false, 0);
            }
            Place::Headers => self.header(&line)?,
            Place::ChunkSize => {
                let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(size).map_err(|_| Ambiguous)?.trim_end_matches([' ', '\t']);
                let plain = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
                let size = u64::from_str_radix(size, 16).ok().filter(|_| plain).ok_or(Ambiguous)?;
                self.place = if size == 0 { Place::Trailers } else { Place::Chunk(size) };
                self.head = 0;
            }
            Place::ChunkEnd if line.is_empty() => self.place = Place::ChunkSize,
            Place::Trailers if line.is_empty() => (self.place, self.head) = (Place::Request, 0),
            Place::Trailers => {}
            Place::ChunkEnd | Place::Body(_) | Place::Chunk(_) | Place::TooLong | Place::Spoilt => {
                return Err(Ambiguous);
            }
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        // A line that goes on with the one before it has been forbidden since 2014.
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Ambiguous);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Ambiguous)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let value =
                std::str::from_utf8(value).ok().filter(|_| plain).and_then(|value| value.parse().ok());
            self.lengths.push(value.ok_or(Ambiguous)?);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguous);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn body(&self) -> Result<Place, Ambiguous> {
        match (self.chunked, self.lengths.as_slice()) {
            (true, []) => Ok(Place::ChunkSize),
            (false, [] | [0]) => Ok(Place::Request),
            (false, [length]) => Ok(Place::Body(*length)),
            (true, [_, ..]) | (false, [_, _, ..]) => Err(Ambiguous),
        }
    }
}

impl Lingering {
    /// Ready when the sender has closed, or has had its time or its bytes.
    fn poll(&mut self, cx: &mut Context<'_>, transport: &mut Transport) -> Poll<()> {
        let mut scrap = [0; 1024];
        while self.left > 0 && self.until.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut *transport).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    self.left = self.left.saturating_sub(read.filled().len());
                }
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Strict {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_overdue(cx) {
            this.reader.place = Place::Spoilt;
            this.spoilt = SPOILT;
        }
        if this.reader.place != Place::Spoilt {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.transport).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            let kept = if read.is_empty() && buf.remaining() > 0 {
                this.reader.end().then_some(0)
            } else {
                this.reader.look(read)
            };
            match kept {
                None => {
                    // The clock of a head that has just begun runs from now on, whenever this is asked again.
                    this.is_overdue(cx);
                    return Poll::Ready(Ok(()));
                }
                Some(kept) => buf.set_filled(before + kept),
            }
            this.spoilt = SPOILT;
        }
        let (now, later) = this.spoilt.split_at(this.spoilt.len().min(buf.remaining()));
        buf.put_slice(now);
        this.spoilt = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Strict {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.transport).poll_write(cx, bytes);
        this.unless_stalled(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.transport).poll_write_vectored(cx, bytes);
        this.unless_stalled(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.transport).poll_shutdown(cx))?;
        }
        let lingering = this.lingering.get_or_insert_with(|| Lingering {
            left: limits::LINGER_BYTES,
            until: Box::pin(sleep(limits::LINGER)),
        });
        lingering.poll(cx, &mut this.transport).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it comes through unchanged, read in pieces of every size.
    fn passes(text: &str) -> bool {
        let outcomes: Vec<_> = [1, 2, 3, 7, text.len()]
            .into_iter()
            .map(|size| {
                let mut reader = Reader::default();
                text.as_bytes().chunks(size).all(|piece| reader.look(piece).is_none())
            })
            .collect();
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{text:?}: {outcomes:?}");
        outcomes[0]
    }

    #[test]
    fn what_has_one_meaning_passes_and_its_body_is_nobodys_business() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\n\r\nxGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n\n\n\n\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(passes(text), "{text:?}");
        }
    }

    #[test]
    fn what_has_two_is_spoilt() {
        for text in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nContent-Length: +4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\nX: y\r\n\r\n",
        ] {
            assert!(!passes(text), "{text:?}");
        }
    }
}
