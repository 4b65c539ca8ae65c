//! One request and its answer on a connection to a node with an address, in each framing.

use std::pin::pin;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{body::Body as _, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use reachback_link::Transport;
use reachback_wire::{Code, Refusal, Target, text::sanitize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
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

/// The body as it is and an end; the answer is one JSON text.
pub(super) async fn over_bytes(
    mut transport: Transport,
    target: &Target,
    body: Bytes,
    end: &[u8],
) -> Result<Answer, Refusal> {
    let outgoing = async {
        transport.write_all(&body).await?;
        if !end.is_empty() && !body.ends_with(end) {
            transport.write_all(end).await?;
        }
        transport.flush().await
    };
    pin!(outgoing).await.map_err(|error| lost(target, &error))?;
    let state = Some((transport, Scanner::default(), target.clone()));
    let pieces = stream::unfold(state, |state| async move {
        let (mut transport, mut scanner, target) = state?;
        let mut bytes = bytes::BytesMut::with_capacity(READ);
        match transport.read_buf(&mut bytes).await {
            Ok(0) => {
                let refusal = lost(&target, &"it closed before its answer was a whole JSON text");
                Some((Err(refusal), None))
            }
            Ok(_) => match scanner.end_in(&bytes) {
                // What follows the text is a line's end, if anything.
                Some(end) => Some((Ok(Piece::Data(bytes.freeze().slice(..end))), None)),
                None => Some((Ok(Piece::Data(bytes.freeze())), Some((transport, scanner, target)))),
            },
            Err(error) => Some((Err(lost(&target, &error)), None)),
        }
    });
    Ok(Answer { head: AnswerHead::json(200), pieces: pieces.boxed() })
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
