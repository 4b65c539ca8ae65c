//! What programs of the hero stack do with an explorer, over real sockets: heartbeats of un-upgraded nodes, raw JSON
//! as their old clients send it, forwarded requests, calls to each kind of address, and the real socat in between.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod support;

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use reachback_explorer::{
    DirectNode, Explorer, ExplorerConfig, Framing, HeroCompat, NodeState, Publication, SocketConfig,
};
use reachback_link::RealNet;
use reachback_testkit::tools;
use serde_json::{Value, json};
use support::{Http, Hub, generation, post};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};

fn hero(framing: Framing) -> HeroCompat {
    HeroCompat {
        heartbeat_methods: vec!["compute.heartbeat".to_owned()],
        node_fields: vec!["node_id".to_owned()],
        forward: true,
        framing,
        ..HeroCompat::default()
    }
}

/// An explorer with a port and a socket.
async fn explorer(directory: &Path, change: impl FnOnce(&mut ExplorerConfig)) -> Explorer {
    let mut config = support::config();
    config.socket = Some(SocketConfig::new(directory.join("explorer.sock")));
    change(&mut config);
    Explorer::start(config, Arc::new(RealNet)).await.unwrap()
}

/// Sends these bytes, closes nothing, and reads once, as old clients do.
async fn ask(mut to: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Value {
    to.write_all(bytes).await.unwrap();
    let mut answer = vec![0; 4096];
    let n = tokio::time::timeout(Duration::from_secs(30), to.read(&mut answer)).await.unwrap().unwrap();
    serde_json::from_slice(&answer[..n])
        .unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&answer[..n])))
}

fn heartbeat(method: &str, node: &str, field: &str, address: &str) -> Vec<u8> {
    let params = json!({ "node_id": node, field: address, "cpu": 4 });
    json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 }).to_string().into_bytes()
}

const ANSWER: &[u8] = br#"{"jsonrpc":"2.0" , "id":9,"result":["vm-1"]}"#;
const REQUEST: &[u8] = br#"{"jsonrpc":"2.0",  "method":"vm.list","params":{"node_id":"edge-7"},"id":9}"#;

/// An old server: one read, one answer without newline or length. Gives back what it was sent.
async fn old_server(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
    let mut request = vec![0; 4096];
    let n = socket.read(&mut request).await.unwrap();
    socket.write_all(ANSWER).await.unwrap();
    request.truncate(n);
    request
}

#[tokio::test]
async fn un_upgraded_nodes_heartbeat_over_socket_and_port_and_are_called_where_they_say() {
    let root = tempfile::tempdir().unwrap();
    let explorer = explorer(root.path(), |config| {
        config.hero =
            Some(HeroCompat { heartbeat_sockets: vec![root.path().to_owned()], ..hero(Framing::Raw) });
    })
    .await;
    let port = explorer.addresses().listen[0].socket_addr().unwrap();
    let socket = root.path().join("explorer.sock");
    let server = UnixListener::bind(root.path().join("rpc.sock")).unwrap();
    let at = root.path().join("rpc.sock").display().to_string();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();

    for (method, field, address, over_socket) in [
        ("explorer.heartbeat", "socket_path", at.clone(), true),
        ("explorer.heartbeat", "address", format!("unix://{at}"), false),
        ("compute.heartbeat", "socket_path", format!("tcp://{}", tcp.local_addr().unwrap()), true),
    ] {
        let said = heartbeat(method, "edge-7", field, &address);
        let answer = if over_socket {
            ask(UnixStream::connect(&socket).await.unwrap(), &said).await
        } else {
            ask(TcpStream::connect(port).await.unwrap(), &said).await
        };
        assert_eq!(answer["result"]["ok"], true, "{answer}");
        let view = &explorer.nodes()[0];
        assert_eq!((view.node.as_ref(), view.state), ("edge-7", NodeState::Online));
        let serving = async {
            if address.starts_with("tcp") {
                old_server(tcp.accept().await.unwrap().0).await
            } else {
                old_server(server.accept().await.unwrap().0).await
            }
        };
        let mut caller = UnixStream::connect(&socket).await.unwrap();
        caller.write_all(REQUEST).await.unwrap();
        let mut answer = vec![0; 4096];
        let (seen, n) = tokio::join!(serving, caller.read(&mut answer));
        assert_eq!(String::from_utf8(seen).unwrap().as_bytes(), REQUEST, "bytes unchanged");
        let _ = n.unwrap();
        answer.truncate(ANSWER.len());
        assert_eq!(answer, ANSWER, "answer unchanged");
    }
    let answer = ask(
        UnixStream::connect(&socket).await.unwrap(),
        &heartbeat("explorer.heartbeat", "edge-8", "address", "ftp://x"),
    )
    .await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("ftp://x"), "{answer}");
    explorer.shutdown().await;
}

/// Ended with the test, however that ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

#[tokio::test]
async fn the_old_socat_commands_still_work() {
    let Some(tools) = tools::need(&["socat"]) else { return };
    let root = tempfile::tempdir().unwrap();
    let explorer = explorer(root.path(), |config| config.hero = Some(hero(Framing::Raw))).await;
    let port = explorer.addresses().listen[0].socket_addr().unwrap();
    let server = UnixListener::bind(root.path().join("rpc.sock")).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let socat = |arguments: [String; 2]| {
        let mut command = tools.command("socat");
        Running(command.args(arguments).stdin(Stdio::null()).spawn().unwrap())
    };
    let remote = root.path().join("explorer-remote.sock");
    let _to_explorer =
        socat([format!("UNIX-LISTEN:{},fork,unlink-early", remote.display()), format!("TCP:{port}")]);
    let _to_node = socat([
        format!("TCP-LISTEN:{free},reuseaddr,fork,bind=127.0.0.1"),
        format!("UNIX-CONNECT:{}", root.path().join("rpc.sock").display()),
    ]);
    let connect = async || {
        loop {
            if let Ok(stream) = UnixStream::connect(&remote).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    while TcpStream::connect(("127.0.0.1", free)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The connection that found out whether socat listens.
    drop(server.accept().await.unwrap());
    let said = heartbeat("explorer.heartbeat", "edge-7", "socket_path", &format!("tcp://127.0.0.1:{free}"));
    assert_eq!(ask(connect().await, &said).await["result"]["ok"], true);
    let mut caller = connect().await;
    caller.write_all(REQUEST).await.unwrap();
    // The sender closes its half, as socat does for a shell that has written its line.
    caller.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let serving = async { old_server(server.accept().await.unwrap().0).await };
    let (seen, _) = tokio::join!(serving, caller.read_to_end(&mut answer));
    assert_eq!((seen.as_slice(), answer.as_slice()), (REQUEST, ANSWER));
    explorer.shutdown().await;
}

#[tokio::test]
async fn direct_nodes_of_each_framing_are_called_like_any_other() {
    let root = tempfile::tempdir().unwrap();
    let bind = |name: &str| UnixListener::bind(root.path().join(name)).unwrap();
    let (http, lines) = (bind("http.sock"), bind("lines.sock"));
    let direct = |name: &str, framing| DirectNode {
        node: name.parse().unwrap(),
        address: root.path().join(format!("{name}.sock")).display().to_string().parse().unwrap(),
        framing,
    };
    let explorer = explorer(root.path(), |config| {
        config.direct = vec![
            direct("http", Framing::Http),
            direct("lines", Framing::Lines),
            direct("gone", Framing::Http),
        ];
    })
    .await;
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let (mut socket, _) = http.accept().await.unwrap();
        let request = Http::read(&mut socket).await.unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nX-Seen: {}\r\nContent-Length: 2\r\n\r\n{{}}",
            request.head.contains("x-hero-claims: a")
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
        assert!(request.head.starts_with("post /rpc http/1.1"), "{}", request.head);
        // Says more than it does, and dies.
        let (mut socket, _) = http.accept().await.unwrap();
        Http::read(&mut socket).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\"").await.unwrap();
        socket.flush().await.unwrap();
        drop(socket);
        // No length: one answer that is cut off, one that is whole.
        for body in ["{\"a\"", "{\"a\":1}\n"] {
            let (mut socket, _) = http.accept().await.unwrap();
            Http::read(&mut socket).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    servers.spawn(async move {
        let (socket, _) = lines.accept().await.unwrap();
        let mut socket = tokio::io::BufReader::new(socket);
        let mut line = String::new();
        tokio::io::AsyncBufReadExt::read_line(&mut socket, &mut line).await.unwrap();
        socket.get_mut().write_all(line.replace("ping", "pong").as_bytes()).await.unwrap();
    });
    let socket = root.path().join("explorer.sock");
    let request = async |path: &str, body: &str| {
        let mut socket = UnixStream::connect(&socket).await.unwrap();
        // Over the Unix socket a client may call the host what it likes.
        let request = String::from_utf8(post(path, "X-Hero-Claims: a\r\n", body)).unwrap();
        socket.write_all(request.replace("localhost", "explorer.sock").as_bytes()).await.unwrap();
        Http::read(&mut socket).await
    };
    let answer = request("/n/http/rpc", "{}").await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
    assert!(answer.head.contains("x-seen: true"), "{}", answer.head);
    let broken = request("/n/http/rpc", "{}").await;
    assert!(broken.is_none_or(|answer| answer.status == 502), "half an answer is none");
    let cut = request("/n/http/rpc", "{}").await;
    assert!(cut.is_none_or(|answer| answer.status == 502), "half an answer without length is none");
    let answer = request("/n/http/rpc", "{}").await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"a\":1}\n"[..]));
    let answer = request("/n/lines/rpc", "{\"ping\":1}").await.unwrap();
    assert_eq!(answer.body, b"{\"pong\":1}");
    let answer = request("/n/gone/rpc", "{}").await.unwrap();
    assert_eq!(
        (answer.status, &answer.json()["error"]["data"]["code"]),
        (502, &json!("service_unreachable"))
    );
    let answer = request("/n/lines/db", "{}").await.unwrap();
    assert_eq!(answer.json()["error"]["data"]["code"], "service_not_found");
    while servers.join_next().await.transpose().unwrap().is_some() {}
    explorer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn requests_go_to_the_node_they_name_only_where_that_is_wanted() {
    let request = br#"{"jsonrpc":"2.0","method":"vm.list","params":{"node_id":"edge-7","n":1},"id":"x"}"#;
    let hub = Hub::start_with(|config| config.hero = Some(hero(Framing::Http))).await;
    let _node = hub.callable("edge-7", generation(1, 0, 1)).await;
    let text = r#"{"jsonrpc":"2.0" ,  "id":"x", "result":{"n":1,"node_id":"edge-7"}}"#;
    assert_eq!(String::from_utf8(hub.raw(request).await).unwrap(), text);
    assert_eq!(
        String::from_utf8(hub.raw(&[&request[..], b"\n"].concat()).await).unwrap(),
        format!("{text}\n")
    );
    let over_http = hub.http(&post("/rpc", "", std::str::from_utf8(request).unwrap())).await;
    assert_eq!(String::from_utf8(over_http.body).unwrap(), text);
    let elsewhere = String::from_utf8(request.to_vec()).unwrap().replace("edge-7", "edge-8");
    let answer: Value = serde_json::from_slice(&hub.raw(elsewhere.as_bytes()).await).unwrap();
    assert_eq!((&answer["error"]["data"]["code"], &answer["id"]), (&json!("node_not_found"), &json!("x")));
    let own = hub.raw(br#"{"jsonrpc":"2.0","method":"explorer.nodes","params":{},"id":1}"#).await;
    assert_eq!(serde_json::from_slice::<Value>(&own).unwrap()["result"]["explorer"], "hub-1");

    let hub = Hub::start().await;
    let _node = hub.callable("edge-7", generation(1, 0, 1)).await;
    let answer: Value = serde_json::from_slice(&hub.raw(request).await).unwrap();
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_its_heartbeats_is_offline_and_comes_back() {
    let hub = Hub::start().await;
    let said = heartbeat("explorer.heartbeat", "edge-7", "address", "/run/hero/rpc.sock");
    hub.raw(&said).await;
    let begun = tokio::time::Instant::now();
    hub.until_state("edge-7", NodeState::Offline).await;
    assert!((99..=103).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let answer = hub.http(&post("/n/edge-7/rpc", "", "{}")).await;
    assert_eq!(answer.json()["error"]["data"]["code"], "node_offline");
    hub.raw(&said).await;
    hub.until_state("edge-7", NodeState::Online).await;
    // A session of that name goes before.
    let _node = hub.callable("edge-7", generation(1, 0, 1)).await;
    let answer = hub.http(&post("/n/edge-7/mirror", "", "{}")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
}

/// What the explorer says of a heartbeat that comes over this connection.
async fn verdict(to: impl AsyncRead + AsyncWrite + Unpin, address: &str) -> Result<(), String> {
    let answer = ask(to, &heartbeat("explorer.heartbeat", "edge-9", "address", address)).await;
    if answer["result"]["ok"] == true {
        return Ok(());
    }
    assert_eq!(answer["error"]["data"]["code"], "denied", "{answer}");
    Err(answer["error"]["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn strangers_make_no_explorer_dial_what_is_not_theirs() {
    for hero in [None, Some(hero(Framing::Raw))] {
        let expected = hero.is_some();
        let root = tempfile::tempdir().unwrap();
        let explorer = explorer(root.path(), |config| {
            config.listen = vec!["0.0.0.0:0".parse().unwrap()];
            config.insecure_plaintext = true;
            config.hero = hero
                .map(|hero| HeroCompat { heartbeat_networks: vec!["127.0.0.7".parse().unwrap()], ..hero });
        })
        .await;
        let port = explorer.addresses().listen[0].socket_addr().unwrap().port();
        let stranger = async || TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let friend = async || UnixStream::connect(root.path().join("explorer.sock")).await.unwrap();
        let rpc = root.path().join("rpc.sock").display().to_string();
        let _rpc = UnixListener::bind(&rpc).unwrap();
        for address in ["tcp://169.254.169.254:80", "tcp://127.0.0.1:6379", "tcp://192.0.2.7:22", &rpc] {
            verdict(stranger().await, address).await.unwrap_err();
        }
        assert_eq!(verdict(stranger().await, "tcp://127.0.0.7:9003").await.is_ok(), expected);
        // A user of this machine may name what it could reach itself.
        for address in ["tcp://127.0.0.1:6379", rpc.as_str()] {
            verdict(friend().await, address).await.unwrap();
        }
        verdict(friend().await, "tcp://169.254.169.254:80").await.unwrap_err();
        explorer.shutdown().await;
    }
}

#[tokio::test]
async fn an_explorer_never_calls_itself() {
    let root = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let own = root.path().join("explorer.sock");
    let explorer = explorer(root.path(), |config| {
        config.hero =
            Some(HeroCompat { heartbeat_sockets: vec![root.path().to_owned()], ..hero(Framing::Raw) });
        config.publish.push(Publication {
            listen: free.to_string().parse().unwrap(),
            target: "edge-7/db".parse().unwrap(),
        });
        config.direct.push(DirectNode {
            node: "loop".parse().unwrap(),
            address: own.display().to_string().parse().unwrap(),
            framing: Framing::Raw,
        });
    })
    .await;
    let port = explorer.addresses().listen[0].socket_addr().unwrap();
    let connect = async || UnixStream::connect(&own).await.unwrap();
    for address in [own.display().to_string(), format!("tcp://{port}"), format!("tcp://{free}")] {
        for refusal in [
            verdict(connect().await, &address).await.unwrap_err(),
            verdict(TcpStream::connect(port).await.unwrap(), &address).await.unwrap_err(),
        ] {
            assert!(refusal.contains("this explorer itself"), "{address}: {refusal}");
        }
    }
    // What a heartbeat named was a node's then, and leads here by the time it is called.
    let (node, moved) = (root.path().join("rpc.sock"), root.path().join("old.sock"));
    let server = UnixListener::bind(&node).unwrap();
    verdict(connect().await, node.to_str().unwrap()).await.unwrap();
    std::fs::rename(&node, moved).unwrap();
    std::os::unix::fs::symlink(&own, &node).unwrap();
    for name in ["edge-9", "loop"] {
        let request = String::from_utf8(REQUEST.to_vec()).unwrap().replace("edge-7", name);
        let answer = ask(connect().await, request.as_bytes()).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("this explorer itself"), "{name}: {answer}");
    }
    drop(server);
    explorer.shutdown().await;
}
