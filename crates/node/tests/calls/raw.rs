//! `framing=raw`.

use super::*;

#[tokio::test]
async fn the_answer_is_whole_when_its_text_is_and_the_request_is_not_half_closed() {
    let world = World::new("framing=raw").await;
    let body = b" {\"jsonrpc\":\"2.0\",\n \"id\":7,\"method\":\"think\"}";
    let mut substream = begin(&world.session(), PATIENCE, &json!({}), body).await;
    let mut socket = world.accept().await;
    assert_eq!(read_until(&mut socket, b"}").await, body);
    // It thinks. A half-close now would look like a caller who went away.
    assert!(!closes_its_half(&mut socket, Duration::from_millis(300)).await);
    for piece in ["\n{\"id\":7,", "\"result\":\"}\\\"", "\"}", "\nand more"] {
        write(&mut socket, piece).await;
    }
    let answer = read(&mut substream).await.unwrap();
    assert_eq!(answer.body, b"\n{\"id\":7,\"result\":\"}\\\"\"}");
    assert_eq!(answer.head["status"], 200);
    closed(&mut socket).await;
    assert!(world.nobody_dialled().await);
}

#[tokio::test]
async fn bodies_of_any_size_arrive_byte_for_byte() {
    let world = World::new("framing=raw").await;
    let session = world.session();
    for size in SIZES {
        let (request, reply) = (request_of(size), answer_of(size));
        let serving = async {
            let mut socket = world.accept().await;
            let seen = read_until(&mut socket, b"\"}").await;
            write(&mut socket, &reply).await;
            seen
        };
        let (answer, seen) = tokio::join!(call(&session, PATIENCE, &request), serving);
        assert!(seen == request && answer.unwrap().body == reply, "{size}");
    }
    let serving = async {
        let mut socket = world.accept().await;
        read_until(&mut socket, b"\"}").await;
        drop(socket.write_all(&answer_of(CALL_BODY_MAX + 1)).await);
    };
    let request = request_of(40);
    let (answer, ()) = tokio::join!(call(&session, PATIENCE, &request), serving);
    assert_eq!(answer.unwrap_err().code(), Code::TooLarge);
}

#[tokio::test]
async fn a_service_that_answers_while_it_still_reads_is_no_deadlock() {
    let world = World::new("framing=raw").await;
    let session = world.session();
    let serving = async {
        let mut socket = world.accept().await;
        let (mut from, mut to) = socket.split();
        write_slowly(&mut to, &answer_of(CALL_BODY_MAX)).await;
        // Only now it reads, whatever there is.
        let mut unread = vec![0; 1 << 20];
        while from.read(&mut unread).await.is_ok_and(|n| n > 0) {}
    };
    let request = request_of(CALL_BODY_MAX);
    let (answer, ()) = tokio::join!(call(&session, PATIENCE, &request), serving);
    assert_eq!(answer.unwrap().body.len(), CALL_BODY_MAX);
}

async fn write_slowly(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    for piece in bytes.chunks(1 << 20) {
        within("the service's write", to.write_all(piece)).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_ends_with_the_connection_is_an_answer_only_if_it_can_be_whole() {
    let world = World::new("framing=raw").await;
    let session = world.session();
    for (written, outcome) in [
        ("pong", Ok("pong")),
        ("42", Ok("42")),
        ("{\"id\":1,\"resu", Err("in the middle")),
        ("", Err("without an answer")),
        ("\n", Err("without an answer")),
    ] {
        let serving = async {
            let mut socket = world.accept().await;
            read_until(&mut socket, b"}").await;
            write(&mut socket, written).await;
        };
        let (answer, ()) = tokio::join!(call(&session, PATIENCE, br#"{"id":1,"method":"m"}"#), serving);
        match (answer, outcome) {
            (Ok(answer), Ok(body)) => assert_eq!(answer.body, body.as_bytes()),
            (Err(end), Err(part)) => {
                assert_eq!(end.code(), Code::Reset, "{written:?}: {end}");
                assert!(end.to_string().contains(part), "{written:?}: {end}");
            }
            (answer, _) => panic!("{written:?}: {answer:?}"),
        }
    }
    assert!(world.nobody_dialled().await, "nothing was sent twice");
}

#[tokio::test]
async fn a_notification_is_answered_once_it_is_written() {
    let world = World::new("framing=raw").await;
    let session = world.session();
    let answer = call(&session, PATIENCE, br#"{"jsonrpc":"2.0","method":"note"}"#).await.unwrap();
    assert!(answer.body.is_empty() && answer.head["status"] == 200, "{answer:?}");
    let mut socket = world.accept().await;
    assert_eq!(read_until(&mut socket, b"}").await, br#"{"jsonrpc":"2.0","method":"note"}"#);
}
