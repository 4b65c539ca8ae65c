//! The hero stack with the real binary and the real socat: what its nodes and callers did through socat bridges must
//! work as it did, and without them.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod cli_support;
mod hero_support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use cli_support::{Home, SOON, refused, services::closed_port};
use hero_support::{ask_value as ask, close_and_ask, explorer as start_explorer, port, server, socket};
use reachback_testkit::{eventually, process::Process, tools};
use serde_json::{Value, json};

/// A node's RPC server as the old ones are: raw JSON, one connection per call, answers while the caller may have closed
/// its half already, after `thinking`.
fn rpc_server(path: &Path, thinking: Duration) {
    server(path, "raw", move |seen| {
        let request: Value = serde_json::from_str(&seen.body).ok()?;
        thread::park_timeout(thinking);
        Some(json!({"jsonrpc": "2.0", "id": request["id"], "result": request["params"]}).to_string())
    });
}

fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": "caller-7", "method": method, "params": params})
}

fn explorer(home: &Home, port: Option<&str>) -> Process {
    start_explorer(home, "raw", port)
}

fn until_ready(path: &PathBuf) {
    eventually(SOON, "socat listens", || UnixStream::connect(path));
}

/// TCP sockets in state LISTEN of one process.
fn listens_on_tcp(process: &Process) -> bool {
    let pid = process.pid();
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    ["tcp", "tcp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        table.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9])
        })
    })
}

#[test]
fn without_the_variable_there_is_no_tcp_socket_at_all_and_the_unix_socket_works() {
    let home = Home::new();
    let without = explorer(&home, None);
    assert!(!listens_on_tcp(&without));
    rpc_server(&home.path("rpc.sock"), Duration::ZERO);
    let address = home.path("rpc.sock").display().to_string();
    let beat = request("heartbeat", json!({"node_id": "compute-1", "socket_path": address, "cpu": 4}));
    assert_eq!(ask(socket(&home), &beat)["result"]["ok"], true);
    let call = request("vm.list", json!({"node_id": "compute-1", "all": true}));
    let answer = ask(socket(&home), &call);
    assert_eq!((&answer["id"], &answer["result"]["all"]), (&json!("caller-7"), &json!(true)));
    drop(without);

    let home = Home::new();
    let with = explorer(&home, Some("127.0.0.1:0"));
    assert!(listens_on_tcp(&with), "the look at /proc sees listeners");
}

#[test]
fn a_wrong_address_is_an_error_that_names_the_variable() {
    let home = Home::new();
    let run = |name: &str, value: &str, arguments: &[&str]| {
        let mut command = home.command(arguments);
        reachback_testkit::process::run("refused", command.env(name, value), SOON).unwrap()
    };
    let finished = run("EXPLORER_TCP_ADDR", "0.0.0.0:port", &["explorer", "--id", "hub-1"]);
    assert!(refused(&finished, 64).contains("EXPLORER_TCP_ADDR"), "{}", finished.stderr);
    let finished = run("EXPLORER_ADDRESSES", "unix:///ok.sock, http://hub:9002", &["node", "--id", "a"]);
    let stderr = refused(&finished, 64);
    assert!(stderr.contains("EXPLORER_ADDRESSES") && stderr.contains("http://hub:9002"), "{stderr}");
}

#[test]
fn each_explorer_of_the_list_is_served_by_itself() {
    let homes = [Home::new(), Home::new()];
    let explorers = homes.each_ref().map(|home| explorer(home, Some("127.0.0.1:0")));
    let (over_port, dead) = (port(&explorers[0]), closed_port());
    let path = homes[1].path("explorer.sock");
    let addresses = format!(" tcp://{dead}, tcp://{over_port} ,{} ", path.display());
    let home = Home::new();
    let mut command = home.command(&["node", "--id", "compute-1", "--service", "rpc=1"]);
    let node = Process::spawn("node", command.env("EXPLORER_ADDRESSES", addresses)).unwrap();
    node.wait_for_line(&format!("online at hub-1 ({over_port})"), SOON).unwrap();
    node.wait_for_line(&format!("online at hub-1 (unix://{})", path.display()), SOON).unwrap();
    node.wait_for_line(&format!("offline at {dead}"), SOON).unwrap();
    assert!(!listens_on_tcp(&node), "a node listens nowhere on a network");
}

#[test]
fn the_three_socat_commands_of_old_still_work() {
    let Some(tools) = tools::need(&["socat"]) else { return };
    let home = Home::new();
    let explorer = explorer(&home, Some("127.0.0.1:0"));
    let hub = port(&explorer);
    let path = |name: &str| home.path(name).display().to_string();
    let socat =
        |from: String, to: String| Process::spawn("socat", tools.command("socat").args([from, to])).unwrap();
    // 1: an explorer of old had no port of its own; ours may still stand behind socat.
    let bridge = closed_port().port();
    let _first = socat(
        format!("TCP-LISTEN:{bridge},bind=127.0.0.1,reuseaddr,fork"),
        format!("UNIX-CONNECT:{}", path("explorer.sock")),
    );
    eventually(SOON, "socat listens", || TcpStream::connect(("127.0.0.1", bridge)));
    // 2: a node that only knows Unix sockets reaches the explorer's port.
    let _second =
        socat(format!("UNIX-LISTEN:{},fork,unlink-early", path("remote.sock")), format!("TCP:{hub}"));
    until_ready(&home.path("remote.sock"));
    // 3: and its own socket is reached through a port.
    rpc_server(&home.path("rpc.sock"), Duration::from_millis(300));
    let inward = closed_port().port();
    let _third = socat(
        format!("TCP-LISTEN:{inward},bind=127.0.0.1,reuseaddr,fork"),
        format!("UNIX-CONNECT:{}", path("rpc.sock")),
    );
    eventually(SOON, "socat listens", || TcpStream::connect(("127.0.0.1", inward)));

    let beat = request(
        "heartbeat",
        json!({"node_id": "compute-1", "socket_path": format!("tcp://127.0.0.1:{inward}")}),
    );
    let remote = || UnixStream::connect(home.path("remote.sock")).unwrap();
    assert_eq!(ask(remote(), &beat)["result"]["ok"], true);
    for (size, what) in [(1, "a byte"), (300_000, "many segments")] {
        let call = request("vm.create", json!({"node_id": "compute-1", "image": "x".repeat(size)}));
        for answer in [
            ask(remote(), &call),
            ask(TcpStream::connect(("127.0.0.1", bridge)).unwrap(), &call),
            ask(TcpStream::connect(&hub).unwrap(), &call),
        ] {
            assert_eq!(answer["result"], call["params"], "{what}");
        }
    }
    // A caller that closes its half, as socat does after its input, still gets the answer of a server that thinks.
    let call = request("vm.list", json!({"node_id": "compute-1"}));
    let caller = TcpStream::connect(("127.0.0.1", bridge)).unwrap();
    let answer = close_and_ask(caller, &call.to_string()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["result"]["node_id"], "compute-1");
}

#[test]
fn a_node_that_listens_nowhere_gets_the_calls_and_the_headers() {
    let home = Home::new();
    let explorer = explorer(&home, Some("127.0.0.1:0"));
    let hub = port(&explorer);
    // An HTTP server that answers with the headers it was sent.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        for stream in server.incoming().flatten() {
            thread::spawn(move || answer_http(&stream));
        }
    });
    let service = format!("rpc={address},framing=http");
    let node = home.node(&hub, "compute-1", &["--service", &service, "--service", "down=1"]);
    let call = |target: &str, more: &[&str]| {
        home.run(&[&["call", target, "vm.list", "--explorer", &hub], more].concat())
    };
    let finished = call("compute-1/rpc", &["-H", "X-Hero-Context: 7", "-H", "X-Reachback-Caller: me"]);
    let seen: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(seen["x-hero-context"], "7", "{seen}");
    assert_ne!(seen["x-reachback-caller"], "me", "{seen}");

    // Four ways to fail that are told apart.
    let node_not_found = refused(&call("compute-2/rpc", &[]), 69).to_owned();
    let unreachable = refused(&call("compute-1/down", &[]), 69).to_owned();
    let late = refused(&call("compute-1/rpc", &["-H", "X-Sleep: 1", "--timeout", "300ms"]), 124).to_owned();
    drop(node);
    let offline = eventually(SOON, "compute-1 is offline", || {
        let finished = call("compute-1/rpc", &[]);
        finished.stderr.starts_with("node_offline: ").then_some(finished.stderr)
    });
    assert!(node_not_found.starts_with("node_not_found: "), "{node_not_found}");
    assert!(unreachable.starts_with("service_unreachable: "), "{unreachable}");
    assert!(late.starts_with("timeout: "), "{late}");
    assert!(offline.contains("compute-1"), "{offline}");
}

/// One request: headers in, the same as the result.
fn answer_http(stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut seen = serde_json::Map::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ") {
            seen.insert(name.to_ascii_lowercase(), value.into());
        }
    }
    let length = seen.get("content-length").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    if seen.contains_key("x-sleep") {
        // Longer than the caller waits: it is the node that ends this connection.
        drop(reader.read(&mut [0]));
        return;
    }
    let id = serde_json::from_slice::<Value>(&body).map(|request| request["id"].clone()).unwrap_or_default();
    let answer = json!({"jsonrpc": "2.0", "id": id, "result": seen}).to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
    drop(reader.into_inner().write_all(format!("{head} {}\r\n\r\n{answer}", answer.len()).as_bytes()));
}
