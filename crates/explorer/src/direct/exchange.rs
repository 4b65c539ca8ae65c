//! One request and its answer on a connection to a node with an address, in each framing.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::{
    future::BoxFuture,
    stream::{self, StreamExt},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Body as _, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use reachback_link::Transport;
use reachback_wire::{Code, Refusal, Target, text::sanitize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, split},
    task::JoinSet,
};

use super::SERVICE;
use crate::{
    call::{Answer, AnswerHead, Piece, RequestHead},
    headers::{callers_own, headers},
    json_text::Scanner,
    limits,
};

/// One POST, one answer, closed.
pub(super) async fn over_http(
    transport: Transport,
    target: &Target,
    head: RequestHead,
    body: Bytes,
) -> Result<Answer, Refusal> {
    let lost = {
        let target = target.clone();
        move |error: &dyn std::fmt::Display| lost(&target, error)
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(transport)).await.map_err(|error| lost(&error))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a node with an address ended");
        }
    });
    let mut request = hyper::Request::post("/rpc").header(header::HOST, SERVICE);
    let told = callers_own(&head.headers);
    for (name, value) in &told {
        request = request.header(name, *value);
    }
    if !told.iter().any(|(name, _)| name == "content-type") {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.header(header::CONNECTION, "close").body(Full::new(body)).map_err(|error| {
        Refusal::new(Code::BadFrame, format!("the headers of the call can't be sent: {error}"))
    })?;
    let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
    let head = AnswerHead { status: response.status().as_u16(), headers: headers(response.headers()) };
    // Without length or pieces a body ends when the connection does, and so does one that is cut off.
    let unframed = response.body().size_hint().exact().is_none()
        && !response.headers().contains_key(header::TRANSFER_ENCODING)
        && head.headers.get("content-type").is_some_and(|kind| kind.contains("json"));
    let cut = unframed.then(Scanner::default);
    let pieces = stream::unfold(Some((response.into_body(), driver, lost, cut)), |state| async move {
        let (mut body, driver, lost, mut cut) = state?;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => {
                        if let Some(scanner) = &mut cut {
                            scanner.follow(&bytes);
                        }
                        return Some((Ok(Piece::Data(bytes)), Some((body, driver, lost, cut))));
                    }
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Some((Err(lost(&error)), None)),
                None if cut.is_some_and(|scanner| scanner.is_inside()) => {
                    return Some((Err(lost(&"it closed in the middle of its answer")), None));
                }
                None => return None,
            }
        }
    });
    Ok(Answer { head, pieces: pieces.boxed() })
}

/// The body and an end; the answer is one JSON text, or what the server wrote until it closed.
///
/// # Errors
/// The connection ended before the first byte of an answer.
pub(super) async fn over_bytes(
    transport: Transport,
    target: &Target,
    body: Bytes,
    end: &'static [u8],
) -> Result<Answer, Refusal> {
    let (from, mut to) = split(transport);
    let body = if end.is_empty() { body } else { on_one_line(body) };
    let writing = async move {
        to.write_all(&body).await?;
        to.write_all(end).await?;
        to.flush().await
    };
    let exchange = Exchange {
        from,
        writing: Some(Box::pin(writing)),
        write_error: None,
        scanner: Scanner::default(),
        any: false,
        target: target.clone(),
    };
    let pieces = stream::unfold(Some(exchange), |exchange| async move { exchange?.next().await });
    let mut pieces = pieces.boxed();
    let first = pieces.next().await.transpose()?;
    let pieces = stream::iter(first.map(Ok)).chain(pieces);
    Ok(Answer { head: AnswerHead::json(200), pieces: pieces.boxed() })
}

/// A request on its way to a server, and the answer, which may begin before the server has read all of it.
struct Exchange {
    from: ReadHalf<Transport>,
    writing: Option<BoxFuture<'static, io::Result<()>>>,
    /// The server may have answered without reading on; if not, this is why.
    write_error: Option<io::Error>,
    scanner: Scanner,
    /// Something but blanks has come.
    any: bool,
    target: Target,
}

impl Exchange {
    /// The next bytes of the answer, and whether there can be more; `None`: it was whole before.
    async fn next(mut self) -> Option<(Result<Piece, Refusal>, Option<Self>)> {
        let mut bytes = BytesMut::with_capacity(READ);
        let read = loop {
            let Some(writing) = &mut self.writing else { break self.from.read_buf(&mut bytes).await };
            tokio::select! {
                written = writing => {
                    self.writing = None;
                    self.write_error = written.err();
                }
                read = self.from.read_buf(&mut bytes) => break read,
            }
        };
        match read {
            Ok(0) if self.any && !self.scanner.is_inside() => None,
            Ok(0) => {
                let closed = "it closed before its answer was whole";
                let refusal = match &self.write_error {
                    Some(error) => lost(&self.target, &format_args!("{closed} ({error})")),
                    None => lost(&self.target, &closed),
                };
                Some((Err(refusal), None))
            }
            Ok(_) => {
                self.any |= !bytes.trim_ascii().is_empty();
                match self.scanner.end_in(&bytes) {
                    // What follows the text is a line's end, if anything.
                    Some(end) => Some((Ok(Piece::Data(bytes.freeze().slice(..end))), None)),
                    None => Some((Ok(Piece::Data(bytes.freeze())), Some(self))),
                }
            }
            Err(error) => Some((Err(lost(&self.target, &error)), None)),
        }
    }
}

/// JSON has line breaks only where blanks may stand.
fn on_one_line(body: Bytes) -> Bytes {
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !body.iter().any(is_break) {
        return body;
    }
    body.iter().map(|byte| if is_break(byte) { b' ' } else { *byte }).collect()
}

/// One read: what most answers fit in.
const READ: usize = 16 * 1024;

fn lost(target: &Target, error: &dyn std::fmt::Display) -> Refusal {
    let what = sanitize(&error.to_string(), limits::TEXT);
    Refusal::new(
        Code::Lost,
        format!("the connection to {target} ended: {what}; whether the call was carried out is unknown"),
    )
}
