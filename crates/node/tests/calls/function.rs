//! Functions of the embedding program as services.

use std::sync::atomic::{AtomicUsize, Ordering};

use reachback_node::{Invocation, RpcError};
use reachback_wire::{Caller, Role};
use tokio::{sync::oneshot, time::Instant};

use super::*;

/// A node whose service rpc is a function.
struct Program {
    peer: Peer,
    stats: Arc<Stats>,
    _node: Node,
    _hub: Hub,
}

impl Program {
    async fn new(service: Service) -> Self {
        let mut hub = Hub::bind().await;
        let config = NodeConfig::new(node_id("edge-7"), vec![hub.address()]).unwrap();
        let config = config.with_service(service).unwrap();
        let stats = config.stats.clone();
        let node = Node::start(config, Arc::new(RealNet)).unwrap();
        let peer = hub.admit().await;
        Self { peer, stats, _node: node, _hub: hub }
    }

    async fn ask(&self, body: &str) -> String {
        let answer = call(&self.peer.session, PATIENCE, body.as_bytes()).await.unwrap();
        assert_eq!(answer.head["status"], 200, "{answer:?}");
        String::from_utf8(answer.body).unwrap()
    }
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell.send(()).ok();
        }
    }
}

async fn calculator(invocation: Invocation) -> Result<Value, RpcError> {
    match invocation.method() {
        "add" => {
            let numbers: Vec<i64> = invocation.params()?;
            Ok(json!(numbers.iter().sum::<i64>()))
        }
        "divide" => Err(RpcError::new(-7, "not by zero").with_data(invocation.params::<Value>()?)),
        "nothing" => Ok(Value::Null),
        _ => Err(RpcError::method_not_found(&invocation, &["add", "divide", "nothing"])),
    }
}

#[tokio::test]
async fn a_function_answers_and_ids_come_back_as_they_were_written() {
    let program = Program::new(Service::calls("rpc", calculator).unwrap()).await;
    for (request, answer) in [
        (
            r#"{"id":"a\"\u00fc","method":"add","params":[1,2]}"#,
            r#"{"jsonrpc":"2.0","id":"a\"\u00fc","result":3}"#,
        ),
        (
            r#"{"params":[1.5e0],"id" : 1.50,"method":"nothing"}"#,
            r#"{"jsonrpc":"2.0","id":1.50,"result":null}"#,
        ),
        (r#"{"id":null,"method":"add","params":[]}"#, r#"{"jsonrpc":"2.0","id":null,"result":0}"#),
        (
            r#"{"id":1,"method":"divide","params":{"by":0}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-7,"message":"not by zero","data":{"by":0}}}"#,
        ),
        (
            r#"{"id":1,"method":"multi\u001bply"}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"service rpc has no method \"multi\\u{1b}ply\"; it has: add, divide, nothing"}}"#,
        ),
        (
            r#"[{"id":1,"method":"add","params":[4]},{"method":"add"},{"id":2},{"id":3,"method":"nothing"}]"#,
            r#"[{"jsonrpc":"2.0","id":1,"result":4},{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"the call is no request: missing field `method` at line 1 column 8"}},{"jsonrpc":"2.0","id":3,"result":null}]"#,
        ),
        (
            "[]",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a batch has 1 to 10000 requests"}}"#,
        ),
        (r#"{"method":"add","params":[1]}"#, ""),
        (r#"[{"method":"add","params":[1]}]"#, ""),
    ] {
        assert_eq!(program.ask(request).await, answer, "{request}");
    }
    for (request, number) in [
        ("{", -32700),
        ("[1", -32700),
        ("", -32700),
        ("7", -32600),
        (r#"{"id":1}"#, -32600),
        (r#"{"id":1,"id":2,"method":"add"}"#, -32600),
        (r#"{"id":1,"method":"add","params":["x"]}"#, -32602),
        (r#"{"id":1,"method":"add"}"#, -32602),
    ] {
        let answer: Value = serde_json::from_str(&program.ask(request).await).unwrap();
        assert_eq!(answer["error"]["code"], number, "{request}: {answer}");
    }
    let calls = program.stats.calls_served.load(Ordering::Relaxed);
    assert_eq!((calls, program.stats.calls_answered.load(Ordering::Relaxed)), (17, 17));
}

#[tokio::test]
async fn a_function_learns_who_calls_with_what_and_for_how_long() {
    let limit = Duration::from_secs(5);
    let service = Service::calls("rpc", move |invocation: Invocation| async move {
        let left = invocation.deadline() - Instant::now();
        assert!(left <= limit && left > Duration::ZERO, "{left:?}");
        Ok(json!({
            "service": invocation.service(),
            "caller": invocation.caller().map(|caller| caller.id.clone()),
            "header": invocation.header("x-hero-context"),
            "headers": invocation.headers().len(),
            "notification": invocation.is_notification(),
            "items": invocation.wants_items(),
        }))
    });
    let program = Program::new(service.unwrap()).await;
    let mut open = open(limit);
    open.caller = Some(Caller {
        role: Role::Client,
        id: "ann".into(),
        name: None,
        granted: false,
        session: None,
        address: None,
    });
    let mut substream = within("the open", program.peer.session.open(open)).await.unwrap();
    let head = json!({"headers": {"X-Hero-Context": "c1", "x-b": "2"}});
    substream.send(RecordKind::Head, head.to_string().as_bytes()).await.unwrap();
    substream.send(RecordKind::Data, br#"{"id":1,"method":"m"}"#).await.unwrap();
    substream.finish(None).await.unwrap();
    let answer: Value = serde_json::from_slice(&read(&mut substream).await.unwrap().body).unwrap();
    let expected = json!({
        "service": "rpc", "caller": "ann", "header": "c1", "headers": 2, "notification": false, "items": false,
    });
    assert_eq!(answer["result"], expected);
}

#[tokio::test]
async fn items_come_while_the_function_works_and_only_to_whoever_asked_for_them() {
    let (go, gate) = oneshot::channel::<()>();
    let gate = Arc::new(parking_lot::Mutex::new(Some(gate)));
    let service = Service::calls("rpc", move |invocation: Invocation| {
        let gate = gate.lock().take();
        async move {
            let large = "i".repeat(100_000);
            invocation.item("first").await?;
            if let Some(gate) = gate {
                gate.await.unwrap();
            }
            invocation.item(&json!({"n": 2, "large": large})).await?;
            Ok("done")
        }
    });
    let program = Program::new(service.unwrap()).await;
    let asked = br#"{"id":1,"method":"watch"}"#;
    let mut substream = begin(&program.peer.session, PATIENCE, &json!({"stream": true}), asked).await;
    let Record::Head(head) = within("the head", substream.next()).await.unwrap() else { panic!() };
    let head: Value = serde_json::from_slice(&head).unwrap();
    assert_eq!(head["headers"]["content-type"], "application/x-ndjson");
    assert!(
        matches!(within("an item", substream.next()).await.unwrap(), Record::Item(item) if item == "\"first\"")
    );
    go.send(()).unwrap();
    let rest = read(&mut substream).await.unwrap().items;
    let texts: Vec<Value> = rest.iter().map(|item| serde_json::from_slice(item).unwrap()).collect();
    assert_eq!(texts[0]["large"].as_str().unwrap().len(), 100_000);
    assert_eq!(texts[1..], [json!({"jsonrpc": "2.0", "id": 1, "result": "done"})]);

    let plain = call(&program.peer.session, PATIENCE, asked).await.unwrap();
    assert!(plain.items.is_empty() && plain.head["headers"]["content-type"] == "application/json");
    assert_eq!(plain.body, br#"{"jsonrpc":"2.0","id":1,"result":"done"}"#);
}

#[tokio::test]
async fn whoever_gives_up_or_runs_out_of_time_ends_the_function() {
    let (tell, mut dropped) = tokio::sync::mpsc::unbounded_channel();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let service = Service::calls("rpc", move |invocation: Invocation| {
        let (ended, end) = oneshot::channel();
        tell.send(end).unwrap();
        begun.send(()).unwrap();
        async move {
            let _dropped = Dropped(Some(ended));
            let _kept = invocation;
            std::future::pending::<Result<(), RpcError>>().await
        }
    });
    let program = Program::new(service.unwrap()).await;
    let session = &program.peer.session;
    // A notification is given up like everything else.
    for asked in [&br#"{"id":1,"method":"m"}"#[..], br#"{"method":"m"}"#] {
        let substream = begin(session, PATIENCE, &json!({}), asked).await;
        within("the function", begins.recv()).await.unwrap();
        substream.reset(Code::Cancelled, "changed my mind");
        within("its end", dropped.recv().await.unwrap()).await.unwrap();
    }
    let end = call(session, Duration::from_millis(300), br#"{"id":1,"method":"m"}"#).await.unwrap_err();
    assert_eq!(end.code(), Code::Timeout, "{end}");
    assert!(end.to_string().contains("service rpc did not answer within"), "{end}");
    within("its end", dropped.recv().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_function_that_fails_costs_its_own_caller_only() {
    let fine = Arc::new(AtomicUsize::new(0));
    let counted = fine.clone();
    let service = Service::calls("rpc", move |invocation: Invocation| {
        let counted = counted.clone();
        async move {
            match invocation.method() {
                "panic" => panic!("as the test wants it"),
                "large" => return Ok("r".repeat(CALL_BODY_MAX)),
                _ => counted.fetch_add(1, Ordering::Relaxed),
            };
            Ok("fine".to_owned())
        }
    });
    let program = Program::new(service.unwrap()).await;
    let session = &program.peer.session;
    for (asked, code) in [
        (&br#"{"id":1,"method":"panic"}"#[..], Code::Reset),
        (br#"{"id":1,"method":"large"}"#, Code::TooLarge),
        (br#"[{"id":1,"method":"large"},{"id":2,"method":"fine"}]"#, Code::TooLarge),
    ] {
        assert_eq!(call(session, PATIENCE, asked).await.unwrap_err().code(), code);
    }
    assert_eq!(fine.load(Ordering::Relaxed), 0, "a batch that is too large already goes no further");
    assert!(program.ask(r#"{"id":1,"method":"m"}"#).await.contains("fine"));
}

#[tokio::test]
async fn a_request_taken_back_calls_nothing() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = Service::calls("rpc", move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    });
    let program = Program::new(service.unwrap()).await;
    let session = &program.peer.session;
    let end = call(session, PATIENCE, &request_of(CALL_BODY_MAX + 1)).await.unwrap_err();
    assert_eq!(end.code(), Code::TooLarge, "{end}");
    let mut substream = within("the open", session.open(open(PATIENCE))).await.unwrap();
    substream.send(RecordKind::Data, br#"{"id":1,"method":"m"}"#).await.unwrap();
    substream.reset(Code::Cancelled, "changed my mind");
    within("both ends", async {
        while program.stats.visits_broken.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_takes_calls_takes_no_streams_and_the_other_way_round() {
    let program = Program::new(Service::calls("rpc", calculator).unwrap()).await;
    let refused = within("the refusal", program.peer.session.open(support::stream("edge-7/rpc"))).await;
    let Err(OpenError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.code, Code::ServiceNotFound);
    assert!(refusal.message.contains("reachback call edge-7/rpc"), "{refusal}");

    let program = Program::new(Service::handler("rpc", |_| async { Ok(()) }).unwrap()).await;
    let refused = within("the refusal", program.peer.session.open(open(PATIENCE))).await;
    let Err(OpenError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert!(refusal.message.contains("takes streams, not calls"), "{refusal}");
}
