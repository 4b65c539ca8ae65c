//! The examples against a real explorer: what they show must stay true.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

use std::{process::Stdio, sync::Arc, time::Duration};

use reachback_client::{
    Answer, Call, CallError, Client, ClientOptions, NoStream, Random, Reconnecting, call,
};
use reachback_explorer::{Explorer, ExplorerConfig, NodeState};
use reachback_link::{OpenError, RealNet};
use reachback_node::{Node, NodeConfig, Service, Visit};
use reachback_wire::Code;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}

/// An explorer on loopback, and where it listens.
async fn explorer() -> (Explorer, String) {
    let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    let explorer = Explorer::start(config, Arc::new(RealNet)).await.unwrap();
    let address = explorer.addresses().listen[0].to_string();
    (explorer, address)
}

async fn node_is(explorer: &Explorer, node: &str, state: NodeState) {
    within(node, async {
        while !explorer.nodes().iter().any(|view| view.node.as_ref() == node && view.state == state) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_embedded_service_is_reached_by_the_program_that_opens_a_stream() {
    let (explorer, address) = explorer().await;
    let mut embed =
        Command::new(env!("CARGO_BIN_EXE_embed")).arg(&address).kill_on_drop(true).spawn().unwrap();
    node_is(&explorer, "embedded", NodeState::Online).await;

    let mut open = Command::new(env!("CARGO_BIN_EXE_open"))
        .args([&address, "embedded/shout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (open.stdin.take().unwrap(), open.stdout.take().unwrap());
    // The answer to a line comes while the stream stays open.
    keyboard.write_all(b"hello\n").await.unwrap();
    let mut line = [0; 6];
    within("the answer", screen.read_exact(&mut line)).await.unwrap();
    assert_eq!(&line, b"HELLO\n");
    keyboard.write_all(b"good").await.unwrap();
    keyboard.write_all(b"bye\n").await.unwrap();
    drop(keyboard);
    let mut rest = String::new();
    within("the rest", screen.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "GOODBYE\n");
    assert!(within("the end", open.wait()).await.unwrap().success());

    let refused = Command::new(env!("CARGO_BIN_EXE_open"))
        .args([&address, "embedded/whisper"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let refused = within("the refusal", refused).await.unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("shout"), "a refusal says what there is: {said}");

    embed.kill().await.unwrap();
    node_is(&explorer, "embedded", NodeState::Offline).await;
    within("the explorer's end", explorer.shutdown()).await;
}

#[tokio::test]
async fn a_function_of_a_program_answers_calls_and_streams_what_it_finds() {
    let (explorer, address) = explorer().await;
    let mut program =
        Command::new(env!("CARGO_BIN_EXE_answer")).arg(&address).kill_on_drop(true).spawn().unwrap();
    node_is(&explorer, "embedded", NodeState::Online).await;
    let options = ClientOptions::new("ann".parse().unwrap(), Random::system()).unwrap();
    let client = Client::connect(Arc::new(RealNet), &address.parse().unwrap(), options).await.unwrap();
    let call = |method: &str, params| Call::new("embedded/math".parse().unwrap(), method, params, PATIENCE);

    assert_eq!(client.result(&call("add", json!([1, 2, 39]))).await.unwrap(), json!(42));
    for (method, params, number) in
        [("add", json!(["x"]), -32602), ("add", json!([i64::MAX, 1]), 1), ("subtract", json!([]), -32601)]
    {
        let error = client.result(&call(method, params)).await.unwrap_err();
        assert!(matches!(error, CallError::Service { code, .. } if code == number), "{method}: {error}");
    }
    let notification = call("add", json!([1])).notification();
    assert_eq!(client.result(&notification).await.unwrap(), json!(null));

    let below = |n: u32| call("primes", json!({ "below": n }));
    let mut answers = client.send(&below(20).streaming()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(answer) = within("an answer", answers.next()).await {
        seen.push(answer.unwrap());
    }
    let mut expected: Vec<_> = [2, 3, 5, 7, 11, 13, 17, 19].map(|n| Answer::Item(json!(n))).into();
    expected.push(Answer::Result(json!({"found": 8})));
    assert_eq!(seen, expected);
    assert_eq!(client.result(&below(20)).await.unwrap(), json!({"found": 8}), "items only if asked for");

    // One that would take for ever is searched no further than somebody listens.
    let mut endless = client.send(&below(u32::MAX).streaming()).await.unwrap();
    assert_eq!(within("the first", endless.next()).await.unwrap().unwrap(), Answer::Item(json!(2)));
    drop(endless);
    assert_eq!(client.result(&call("add", json!([1]))).await.unwrap(), json!(1));

    program.kill().await.unwrap();
    client.close().await;
    within("the explorer's end", explorer.shutdown()).await;
}

#[tokio::test]
async fn node_explorer_and_client_of_one_program() {
    let (explorer, address) = explorer().await;
    let hello = Service::handler("hello", |mut visit: Visit| async move {
        let who = visit.caller().map_or("nobody".to_owned(), |caller| caller.id.clone());
        visit.write_all(format!("hello {who}").as_bytes()).await
    });
    let config = NodeConfig::new("edge-7".parse().unwrap(), vec![address.parse().unwrap()]).unwrap();
    let config = config.with_service(hello.unwrap()).unwrap().with_label("region", "eu").unwrap();
    let node = Node::start(config, Arc::new(RealNet)).unwrap();
    node_is(&explorer, "edge-7", NodeState::Online).await;

    let options = ClientOptions::new("ann".parse().unwrap(), Random::system()).unwrap();
    let client = Reconnecting::start(Arc::new(RealNet), address.parse().unwrap(), options.clone());
    let target = "edge-7/hello".parse::<reachback_wire::Target>().unwrap();
    let stream = within("a stream", async {
        loop {
            match client.open(target.clone()).await {
                Ok(stream) => break stream,
                Err(NoStream::NotConnected(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    let mut greeting = String::new();
    let mut io = stream.into_io();
    within("the greeting", io.read_to_string(&mut greeting)).await.unwrap();
    assert_eq!(greeting, "hello ann", "the explorer says who visits");
    io.shutdown().await.unwrap();

    let session = client.session().unwrap();
    let api = "@explorer/api".parse::<reachback_wire::Target>().unwrap();
    let nodes = call::call(&session, api.clone(), "explorer.nodes", &json!({}), PATIENCE).await.unwrap();
    let edge = &nodes["nodes"][0];
    assert_eq!(
        (&edge["node"], &edge["state"], &edge["labels"]["region"]),
        (&json!("edge-7"), &json!("online"), &json!("eu"))
    );
    let error = call::call(&session, api, "explorer.dance", &json!({}), PATIENCE).await.unwrap_err();
    assert!(matches!(error, CallError::Service { code: -32601, .. }), "{error}");

    within("the node's end", node.shutdown()).await;
    node_is(&explorer, "edge-7", NodeState::Offline).await;
    let outcome = client.open(target.clone()).await;
    let Err(NoStream::Open(OpenError::Refused(refusal))) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.code, Code::NodeOffline);
    assert!(refusal.message.contains("shutting down"), "it says why: {refusal}");

    let once = Client::connect(Arc::new(RealNet), &address.parse().unwrap(), options).await.unwrap();
    assert_eq!(once.explorer().as_ref(), "hub-1");
    within("goodbyes", async { tokio::join!(once.close(), client.shutdown()) }).await;
    within("the explorer's end", explorer.shutdown()).await;
}
