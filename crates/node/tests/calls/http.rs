//! `framing=http`.

use super::*;

/// One request as the service got it.
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| &**value)
    }
}

async fn receive(socket: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    let head_end = loop {
        let read = within("the request", socket.read_buf(&mut bytes)).await.unwrap();
        assert!(read > 0, "closed in the head");
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let mut body = bytes.split_off(head_end);
    let head = String::from_utf8(bytes).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<_> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen { line, headers, body: Vec::new() };
    let length: usize = seen.header("content-length").expect("small servers need a length").parse().unwrap();
    while body.len() < length {
        assert!(within("the body", socket.read_buf(&mut body)).await.unwrap() > 0, "closed in the body");
    }
    seen.body = body;
    seen
}

fn response(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn a_call_is_one_post_with_the_callers_headers_and_its_answer_unchanged() {
    let world = World::new("framing=http,path=/v1/rpc").await;
    let body = br#"{"jsonrpc": "2.0", "id":1,"method":"vm.list"}"#;
    let head = json!({"headers": {
        "X-Hero-Context": "c1", "X-Hero-Claims": "a,b", "X-Reachback-Caller": "root", "Connection": "X-Hop",
        "X-Hop": "1", "Host": "evil", "Content-Length": "1", "Transfer-Encoding": "chunked",
    }});
    let session = world.session();
    let mut substream = begin(&session, PATIENCE, &head, body).await;
    let mut socket = world.accept().await;
    let seen = receive(&mut socket).await;
    assert_eq!(seen.line, "POST /v1/rpc HTTP/1.1");
    assert_eq!(seen.body, body);
    for (name, value) in [
        ("x-hero-context", Some("c1")),
        ("x-hero-claims", Some("a,b")),
        ("content-type", Some("application/json")),
        ("host", Some("rpc")),
        ("x-reachback-caller", None),
        ("x-hop", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    assert_eq!(seen.headers.iter().filter(|(name, _)| name == "host").count(), 1);

    // An error of the service's own, oddly written and in pieces.
    write(&mut socket, "HTTP/1.1 500 Sad\r\nContent-Type: application/json\r\nX-Hero-Trace: t\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in ["{\"error\" :{\"code\"", ": -7,\"message\":\"", "\\u00e9\"", "}}\n", ""] {
        write(&mut socket, format!("{:x}\r\n{piece}\r\n", piece.len())).await;
    }
    let answer = read(&mut substream).await.unwrap();
    assert_eq!(answer.body, b"{\"error\" :{\"code\": -7,\"message\":\"\\u00e9\"}}\n");
    assert_eq!(
        answer.head,
        json!({"status": 500, "headers": {"content-type": "application/json", "x-hero-trace": "t"}})
    );
    closed(&mut socket).await;
    assert!(world.nobody_dialled().await, "one call, one connection");
}

#[tokio::test]
async fn a_service_without_a_declared_framing_is_called_over_http() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut hub = Hub::bind().await;
    let config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
    let entry = format!("rpc={}", service.local_addr().unwrap());
    let _node = Node::start(config.with_service(entry.parse().unwrap()).unwrap(), Arc::new(RealNet)).unwrap();
    let peer = hub.admit().await;
    let serving = async {
        let mut socket = within("the dial", service.accept()).await.unwrap().0;
        assert_eq!(receive(&mut socket).await.line, "POST /rpc HTTP/1.1");
        write(&mut socket, response(b"{}")).await;
    };
    let (answer, ()) = tokio::join!(call(&peer.session, PATIENCE, b"{}"), serving);
    assert_eq!(answer.unwrap().body, b"{}");
}

#[tokio::test]
async fn bodies_of_any_size_arrive_byte_for_byte() {
    let world = World::new("framing=http").await;
    let session = world.session();
    for size in [1].into_iter().chain(SIZES) {
        let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let serving = async {
            let mut socket = world.accept().await;
            let seen = receive(&mut socket).await;
            write(&mut socket, response(&seen.body)).await;
            seen.body
        };
        let (answer, seen) = tokio::join!(call(&session, PATIENCE, &body), serving);
        assert!(seen == body && answer.unwrap().body == body, "{size}");
    }
    let serving = async {
        let mut socket = world.accept().await;
        receive(&mut socket).await;
        // The node does not wait for the end of what it can't take.
        drop(socket.write_all(&response(&vec![b'x'; CALL_BODY_MAX + 1])).await);
    };
    let (answer, ()) = tokio::join!(call(&session, PATIENCE, b"{}"), serving);
    assert_eq!(answer.unwrap_err().code(), Code::TooLarge);
}

#[tokio::test]
async fn a_caller_that_reads_slowly_learns_why_its_answer_broke_off() {
    let world = World::new("framing=http").await;
    let session = world.session();
    let limit = std::time::Duration::from_secs(60);
    for pause in [1, 2, 3, 5, 8, 13] {
        let mut substream = begin(&session, limit, &json!({}), b"{}").await;
        let serving = async {
            let mut socket = world.accept().await;
            receive(&mut socket).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * CALL_BODY_MAX);
            write(&mut socket, head).await;
            drop(socket.write_all(&vec![b'x'; 2 * CALL_BODY_MAX]).await);
        };
        let reading = async {
            let mut records = 0;
            loop {
                match within("a record", substream.next()).await {
                    Ok(Record::Head(_) | Record::Data(_)) => records += 1,
                    end => return end,
                }
                if records % (8 * pause) == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                }
            }
        };
        let (end, ()) = tokio::join!(reading, serving);
        let Ok(Record::End(Some(status))) = end else { panic!("{pause}: {end:?}") };
        assert_eq!(status.code, Code::TooLarge);
        assert!(status.message.contains("bulk"), "{}", status.message);
    }
}

#[tokio::test]
async fn a_service_that_dies_is_never_a_short_success() {
    let world = World::new("framing=http").await;
    let session = world.session();
    for (answer, part) in [
        ("", "instead of answering"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "instead of answering"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\":", "in the middle"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", "in the middle"),
        ("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":", "in the middle"),
    ] {
        let serving = async {
            let mut socket = world.accept().await;
            receive(&mut socket).await;
            write(&mut socket, answer).await;
        };
        let (outcome, ()) = tokio::join!(call(&session, PATIENCE, b"{}"), serving);
        let end = outcome.unwrap_err();
        assert_eq!(end.code(), Code::Reset, "{answer:?}: {end}");
        assert!(end.to_string().contains(part), "{answer:?}: {end}");
    }
    let serving = async {
        let mut socket = world.accept().await;
        receive(&mut socket).await;
        write(&mut socket, "{\"result\":1}\n").await;
    };
    let (outcome, ()) = tokio::join!(call(&session, PATIENCE, b"{}"), serving);
    let end = outcome.unwrap_err();
    assert!(end.code() == Code::BadFrame && end.to_string().contains("framing"), "{end}");
    assert!(world.nobody_dialled().await, "nothing was sent twice");
}

#[tokio::test]
async fn an_old_server_may_end_its_answer_by_closing() {
    let world = World::new("framing=http").await;
    let session = world.session();
    let serving = async {
        let mut socket = world.accept().await;
        receive(&mut socket).await;
        write(&mut socket, "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1}\n").await;
    };
    let (answer, ()) = tokio::join!(call(&session, PATIENCE, b"{}"), serving);
    assert_eq!(answer.unwrap().body, b"{\"a\":1}\n");
}

#[tokio::test]
async fn streamed_answers_come_as_items_while_they_are_made() {
    let world = World::new("framing=http").await;
    for (content_type, first, second) in [
        ("text/event-stream", "data: {\"n\":1}\r\n\r\n", "event: x\r\ndata: {\"n\":2}\r\n\r\n"),
        ("application/x-ndjson", "{\"n\":1}\n", "{\"n\":2}"),
    ] {
        let mut substream = begin(&world.session(), PATIENCE, &json!({"stream": true}), b"{}").await;
        let mut socket = world.accept().await;
        receive(&mut socket).await;
        write(&mut socket, format!("HTTP/1.0 200 OK\r\ncontent-type: {content_type}\r\n\r\n{first}")).await;
        assert!(matches!(within("the head", substream.next()).await, Ok(Record::Head(_))));
        // The first item is here before the second exists.
        let item = within("an item", substream.next()).await.unwrap();
        assert_eq!(item, Record::Item(r#"{"n":1}"#.into()), "{content_type}");
        write(&mut socket, second).await;
        drop(socket);
        let rest = read(&mut substream).await.unwrap();
        assert_eq!(rest.items, [br#"{"n":2}"#], "{content_type}");
    }
}

#[tokio::test]
async fn an_item_longer_than_a_record_is_still_one_item() {
    let world = World::new("framing=http").await;
    let text = answer_of(200_000);
    let mut substream = begin(&world.session(), PATIENCE, &json!({}), b"{}").await;
    let mut socket = world.accept().await;
    receive(&mut socket).await;
    write(&mut socket, "HTTP/1.0 200 OK\r\ncontent-type: application/jsonl\r\n\r\n").await;
    write(&mut socket, [&text[..], b"\n"].concat()).await;
    drop(socket);
    let answer = read(&mut substream).await.unwrap();
    assert!(answer.items == [text]);
}
