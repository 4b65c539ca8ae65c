//! As much HTTP/1.1 as a JSON-RPC service and its caller need, on both ends of what is measured. A library would be
//! measured with it: this is a few microseconds a call.

use std::io;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Heads and bodies of the bench's own calls are a few hundred bytes.
const MESSAGE_MAX: usize = 64 << 10;

/// Answers the calls of one connection whose first byte has been read: every method returns its parameters.
pub(super) async fn answer(mut socket: TcpStream) -> io::Result<()> {
    let mut reader = Reader { buffer: b"P".to_vec() };
    while let Some((_, body)) = reader.message(&mut socket).await? {
        let request: Request<'_> = serde_json::from_slice(&body)?;
        let params = request.params.map_or("null", RawValue::get);
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{params}}}"#, request.id.get());
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all((head + &body).as_bytes()).await?;
    }
    Ok(())
}

/// Posts one call to `path` on a connection that stays, and reads its answer.
pub(super) async fn post(
    socket: &mut TcpStream,
    reader: &mut Reader,
    path: &str,
    body: &str,
) -> io::Result<()> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await?;
    let Some((head, body)) = reader.message(socket).await? else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the explorer closed instead of answering"));
    };
    let answer: Answer<'_> = serde_json::from_slice(&body)?;
    if head.starts_with("HTTP/1.1 200 ") && answer.result.is_some() {
        return Ok(());
    }
    Err(io::Error::other(format!("{path}: {}", String::from_utf8_lossy(&body))))
}

/// What was read of a connection and not yet used.
#[derive(Debug, Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// The next head and body; nothing at the end of the connection.
    async fn message(
        &mut self,
        socket: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<(String, Vec<u8>)>> {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more(socket).await? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        self.buffer.drain(..head_end);
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Ok(Some((head, self.chunks(socket).await?.ok_or_else(cut)?)));
        }
        let len: usize = field("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        while self.buffer.len() < len {
            if !self.more(socket).await? {
                return Err(cut());
            }
        }
        Ok(Some((head, self.buffer.drain(..len).collect())))
    }

    async fn chunks(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        loop {
            let (line_end, len) = match find(&self.buffer, b"\r\n") {
                Some(at) => {
                    let line = String::from_utf8_lossy(&self.buffer[..at]);
                    let len = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
                    (at + 2, len)
                }
                None if self.more(socket).await? => continue,
                None => return Ok(None),
            };
            while self.buffer.len() < line_end + len + 2 {
                if !self.more(socket).await? {
                    return Ok(None);
                }
            }
            body.extend_from_slice(&self.buffer[line_end..line_end + len]);
            self.buffer.drain(..line_end + len + 2);
            if len == 0 {
                return Ok(Some(body));
            }
        }
    }

    async fn more(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        if self.buffer.len() > MESSAGE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message of the bench is never this long",
            ));
        }
        let mut piece = [0; 4096];
        let len = socket.read(&mut piece).await?;
        self.buffer.extend_from_slice(&piece[..len]);
        Ok(len > 0)
    }
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(wire: &str) -> io::Result<Option<(String, Vec<u8>)>> {
        Reader::default().message(&mut wire.as_bytes()).await
    }

    #[tokio::test]
    async fn lengths_and_chunks_are_both_understood() {
        let (_, body) = read("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd").await.unwrap().unwrap();
        assert_eq!(body, b"abc");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(read(chunked).await.unwrap().unwrap().1, b"abcde");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_answer() {
        assert!(read("").await.unwrap().is_none());
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await.is_err());
        assert!(read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc").await.is_err());
    }
}
