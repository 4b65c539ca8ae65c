//! Calls all the way: a caller, an explorer, a node, and a service on a Unix socket that knows of none of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test by panicking")]

use std::{path::Path, sync::Arc, time::Duration};

use futures::StreamExt;
use reachback_client::{Call, CallError, Client, ClientOptions, Random, Selector, fan_out, resolve};
use reachback_explorer::{Explorer, ExplorerConfig, NodeState};
use reachback_link::RealNet;
use reachback_node::{Node, NodeConfig};
use reachback_wire::Code;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}

async fn explorer() -> Explorer {
    let mut config = ExplorerConfig::new("hub-1".parse().unwrap());
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    Explorer::start(config, Arc::new(RealNet)).await.unwrap()
}

fn node(explorer: &Explorer, id: &str, services: &[String]) -> Node {
    let address = explorer.addresses().listen[0].to_string();
    let mut config = NodeConfig::new(id.parse().unwrap(), vec![address.parse().unwrap()]).unwrap();
    for service in services {
        config = config.with_service(service.parse().unwrap()).unwrap();
    }
    Node::start(config, Arc::new(RealNet)).unwrap()
}

async fn client(explorer: &Explorer) -> Client {
    let options = ClientOptions::new("ann".parse().unwrap(), Random::system()).unwrap();
    let address = explorer.addresses().listen[0].to_string().parse().unwrap();
    within("a session", Client::connect(Arc::new(RealNet), &address, options)).await.unwrap()
}

async fn node_is(explorer: &Explorer, node: &str, state: NodeState) {
    within(node, async {
        while !explorer.nodes().iter().any(|view| view.node.as_ref() == node && view.state == state) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// An HTTP service on a Unix socket that answers with what it was asked and the context it was asked in. `hang` is
/// never answered.
fn http_service(path: &Path) -> JoinSet<()> {
    let listener = UnixListener::bind(path).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(serve_http(socket));
        }
    });
    tasks
}

async fn serve_http(mut socket: UnixStream) {
    let mut bytes = Vec::new();
    let (head, mut body) = loop {
        socket.read_buf(&mut bytes).await.unwrap();
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let body = bytes.split_off(at + 4);
            break (String::from_utf8(bytes).unwrap().to_ascii_lowercase(), body);
        }
    };
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = header("content-length:").unwrap().parse().unwrap();
    while body.len() < length {
        socket.read_buf(&mut body).await.unwrap();
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    if request["method"] == "hang" {
        std::future::pending::<()>().await;
    }
    let result = json!({"params": request["params"], "context": header("x-hero-context:")});
    let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
    socket.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_call_and_everything_that_can_become_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let _service = http_service(&path);
    let explorer = explorer().await;
    let services = [format!("rpc={},framing=http", path.display()), "down=/nowhere/at.sock".to_owned()];
    let first = node(&explorer, "edge-7", &services);
    node_is(&explorer, "edge-7", NodeState::Online).await;
    let client = client(&explorer).await;
    let call =
        |target: &str, method: &str, limit| Call::new(target.parse().unwrap(), method, json!([1]), limit);

    let listing = call("edge-7/rpc", "vm.list", PATIENCE);
    let result = client.result(&listing.clone().header("X-Hero-Context", "c1")).await.unwrap();
    assert_eq!(result, json!({"params": [1], "context": "c1"}));
    let large = Value::String("x".repeat(8_000_000));
    let big = Call::new("edge-7/rpc".parse().unwrap(), "m", large.clone(), PATIENCE);
    assert!(client.result(&big).await.unwrap()["params"] == large);

    // Four ends, each as itself.
    for (target, method, limit, code) in [
        ("edge-7/down", "m", PATIENCE, Code::ServiceUnreachable),
        ("edge-7/rcp", "m", PATIENCE, Code::ServiceNotFound),
        ("edge-8/rpc", "m", PATIENCE, Code::NodeNotFound),
        ("edge-7/rpc", "hang", Duration::from_millis(300), Code::Timeout),
    ] {
        let error = client.result(&call(target, method, limit)).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{target} {method}: {error}");
    }

    // The node goes away: what was under way is lost, what comes then is refused, and patience finds it again.
    let hanging = call("edge-7/rpc", "hang", PATIENCE);
    let mut answers = client.send(&hanging).await.unwrap();
    first.shutdown().await;
    let lost = within("the loss", answers.next()).await.unwrap().unwrap_err();
    assert_eq!(lost.code(), Some(Code::Lost), "{lost}");
    node_is(&explorer, "edge-7", NodeState::Offline).await;
    let refused = client.result(&listing).await.unwrap_err();
    assert!(
        matches!(&refused, CallError::Refused(refusal) if refusal.code == Code::NodeOffline),
        "{refused}"
    );
    let waiting = listing.clone().waiting(PATIENCE);
    let coming_back = async {
        // It has been refused at least once by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        node(&explorer, "edge-7", &services)
    };
    let (result, second) = tokio::join!(client.result(&waiting), coming_back);
    assert_eq!(result.unwrap()["params"], json!([1]));

    second.shutdown().await;
    client.close().await;
    explorer.shutdown().await;
}

#[tokio::test]
async fn one_call_to_every_node_that_is_meant() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let _service = http_service(&path);
    let explorer = explorer().await;
    let services = [format!("rpc={}", path.display())];
    let nodes: Vec<Node> = ["edge-1", "edge-2", "edge-3"].map(|id| node(&explorer, id, &services)).into();
    for id in ["edge-1", "edge-2", "edge-3"] {
        node_is(&explorer, id, NodeState::Online).await;
    }
    let client = client(&explorer).await;
    let selector: Selector = "any/rpc".parse().unwrap();
    let meant = within("the nodes", resolve(client.session(), &selector, PATIENCE)).await.unwrap();
    assert_eq!(
        meant.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["edge-1/rpc", "edge-2/rpc", "edge-3/rpc"]
    );
    let call = Call::new(meant[0].clone(), "vm.list", json!([7]), PATIENCE);
    let outcomes: Vec<_> = within("answers", fan_out(client.session(), meant, &call).collect()).await;
    assert_eq!(outcomes.len(), 3);
    for (target, outcome) in outcomes {
        assert_eq!(outcome.unwrap()["params"], json!([7]), "{target}");
    }
    client.close().await;
    for node in nodes {
        node.shutdown().await;
    }
    explorer.shutdown().await;
}
