//! `framing=http`: one POST per call.
//!
//! Each call has a connection of its own. A kept-alive one can be closed by the service at the very moment a request is
//! written on it; then nobody knows whether the call happened, and sending it again is what we promise not to do.
//! Beside the service a connection costs next to nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use reachback_link::Transport;
use reachback_wire::{
    Code, ServiceName,
    headers::{is_hop_by_hop, is_of_the_hop, named_by_connection},
    text::sanitize,
};
use tokio::task::JoinSet;

use super::{Trouble, answer::Answer, items::Items, request::Request, scan::Scanner};
use crate::service::Service;

/// One POST and its answer.
pub(super) async fn call(
    transport: Transport,
    service: &Service,
    request: Request,
    answer: &mut Answer<'_>,
) -> Result<(), Trouble> {
    let name = service.name();
    let Request { head, body, room, .. } = request;
    let mut post = hyper::Request::new(Full::new(Bytes::from(body)));
    *post.method_mut() = Method::POST;
    *post.uri_mut() = service.path().parse().map_err(|error| {
        Trouble::Failed(Code::Internal, format!("the path of service {name} is no URI: {error}"))
    })?;
    *post.headers_mut() = request_headers(&head.headers, name)?;

    // Until the answer is complete every end is an abort.
    transport.close_with_reset(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(transport))
        .await
        .map_err(|error| Trouble::Failed(Code::ServiceUnreachable, format!("service {name}: {error}")))?;
    // Dropped with the call, which closes the connection.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = answer.unless_gone(sender.send_request(post)).await?;
    let response = response.map_err(|error| broken(name, "instead of answering", &error))?;
    drop(room);
    answer.head(response.status().as_u16(), &answer_headers(response.headers())).await?;
    pass_on(response, name, answer).await?;
    answer.end().await
}

/// The body of the answer, as it comes.
async fn pass_on(
    response: Response<Incoming>,
    service: &ServiceName,
    answer: &mut Answer<'_>,
) -> Result<(), Trouble> {
    let content_type = header_text(response.headers(), &header::CONTENT_TYPE);
    let mut items =
        Some(response.status()).filter(StatusCode::is_success).and_then(|_| Items::of(&content_type));
    // Without length or pieces a body ends when the connection does, and so does one that is cut off.
    let unframed = response.body().size_hint().exact().is_none()
        && !response.headers().contains_key(header::TRANSFER_ENCODING);
    let mut scanner = (unframed && content_type.contains("json")).then(Scanner::default);
    let mut body = response.into_body();
    while let Some(frame) = answer.unless_gone(body.frame()).await? {
        let frame = frame.map_err(|error| broken(service, "in the middle of its answer", &error))?;
        let Ok(piece) = frame.into_data() else { continue };
        match &mut items {
            Some(items) => {
                for item in items.push(&piece).map_err(|_| answer.too_large())? {
                    answer.item(&item).await?;
                }
            }
            None => {
                if let Some(scanner) = &mut scanner {
                    scanner.feed(&piece);
                }
                answer.data(&piece).await?;
            }
        }
    }
    if scanner.is_some_and(|scanner| !scanner.may_end()) {
        let text = format!("service {service} closed its connection in the middle of its answer");
        return Err(Trouble::Failed(Code::Reset, text));
    }
    if let Some(last) = items.and_then(Items::finish) {
        answer.item(&last).await?;
    }
    Ok(())
}

/// What the service is sent: the caller's headers but those that are not the caller's to say.
fn request_headers(given: &BTreeMap<String, String>, service: &ServiceName) -> Result<HeaderMap, Trouble> {
    let named: BTreeSet<String> = given
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| named_by_connection(value))
        .collect();
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        if is_of_the_hop(&lower) || named.contains(&lower) {
            continue;
        }
        let refuse = |what: &str| {
            let text = format!("header \"{}\" has {what} HTTP does not allow", sanitize(name, 64));
            Trouble::Failed(Code::BadFrame, text)
        };
        let name: HeaderName = lower.parse().map_err(|_| refuse("a name"))?;
        let value = HeaderValue::from_str(value).map_err(|_| refuse("a value"))?;
        headers.append(name, value);
    }
    let host = HeaderValue::from_str(service.as_ref())
        .map_err(|_| Trouble::Failed(Code::Internal, format!("{service} is no host name")))?;
    headers.insert(header::HOST, host);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(headers)
}

/// What the caller learns of the service's headers. Several of one name become one, as HTTP allows.
fn answer_headers(given: &HeaderMap) -> BTreeMap<String, String> {
    let connection = header_text(given, &header::CONNECTION);
    let named: BTreeSet<String> = named_by_connection(&connection).collect();
    given
        .keys()
        .filter(|name| !is_hop_by_hop(name.as_str()) && !named.contains(name.as_str()))
        .filter(|name| **name != header::CONTENT_LENGTH)
        .map(|name| (name.as_str().to_owned(), header_text(given, name)))
        .collect()
}

fn header_text(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(", ")
}

fn broken(service: &ServiceName, when: &str, error: &hyper::Error) -> Trouble {
    if error.is_parse() {
        let text = format!("what service {service} answers is no HTTP ({error}); see its framing");
        return Trouble::Failed(Code::BadFrame, text);
    }
    Trouble::Failed(Code::Reset, format!("service {service} closed its connection {when} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_the_callers_own_headers_reach_the_service() {
        let service: ServiceName = "rpc".parse().unwrap();
        let given = map(&[
            ("Connection", "close, X-Secret-Hop"),
            ("X-Secret-Hop", "1"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "7"),
            ("Host", "evil"),
            ("Expect", "100-continue"),
            ("X-Reachback-Caller", "root"),
            ("X-Hero-Context", "c1"),
            ("Authorization", "Bearer t"),
        ]);
        let Ok(headers) = request_headers(&given, &service) else { panic!() };
        let told: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let told: BTreeMap<_, _> = told.into_iter().collect();
        let expected = [
            ("authorization", "Bearer t"),
            ("connection", "close"),
            ("content-type", "application/json"),
            ("host", "rpc"),
            ("x-hero-context", "c1"),
        ];
        assert_eq!(told, BTreeMap::from(expected));
    }

    #[test]
    fn a_header_that_would_break_the_request_is_refused_by_name() {
        let service: ServiceName = "rpc".parse().unwrap();
        for (name, value) in [("X A", "1"), ("X-A", "1\r\nX-B: 2"), ("", "1"), ("X\n", "1")] {
            let Err(Trouble::Failed(code, text)) = request_headers(&map(&[(name, value)]), &service) else {
                panic!("{name:?}")
            };
            assert!(code == Code::BadFrame && !text.contains("X-B") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn the_caller_learns_the_services_headers_without_those_of_the_hop() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("content-length", "2"),
            ("transfer-encoding", "chunked"),
            ("content-type", "application/json"),
            ("x-many", "a"),
            ("x-many", "b"),
        ] {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        assert_eq!(
            answer_headers(&headers),
            map(&[("content-type", "application/json"), ("x-many", "a, b")])
        );
    }
}
